"""Makes the golden data directory of the present format version: `python -m tests.golden.make <directory>`.

Everything in it is chosen here, so that the same bytes come out each time. The directories of versions that were
released are never made again: they are what readers must be able to read for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from random import Random
from unittest.mock import patch
from uuid import UUID

import numpy as np

import scidaq.station  # noqa: F401  (registers the kinds of facts)
from scidaq.block import DTYPES, NS, Block, Calibration, Channel, Epoch, Gap, Ledger, Reason, Schema
from scidaq.catalog import FactsLog
from scidaq.clock import Anchor
from scidaq.query import Builder, Pyramid
from scidaq.store import Buffers, Record, SegmentName, SegmentWriter, journal_files, open_station, system_files
from scidaq.store.journal import JournalWriter
from scidaq.testing import FakeClock

T0 = 1_767_225_600 * NS
NAME = "golden"
STATION = "0b5c1f7e-6d3a-4f0e-9a39-3f2a8c1d7e55"
ANCHOR = Anchor(T0, 86_400 * NS, 150, "2d1f0a8e-boot")
EVERY = Schema(
    tuple(Channel(f"as_{d}", d, "V" if d.startswith("f") else "1", max_bytes=16 if d == "text" else 0) for d in DTYPES)
)
"""Irregular, a channel of each dtype."""
DIGITIZER = Schema(
    (Channel("adc", "int16", "1", (4,), ("a", "b", "c", "d"), Calibration(10 / 32767, -0.5, "V"), 0, "inputs ±10 V"),),
    Fraction(1_000_000, 3),
)
CAMERA = Schema((Channel("frame", "uint16", "{count}", (8, 6)), Channel("over", "bool", shape=(8, 6))), Fraction(30))
SLOW = Schema((Channel("temperature", "float64", "K"), Channel("state", "text", max_bytes=8)))
LATER = Schema((Channel("temperature", "float64", "mK"), Channel("state", "text", max_bytes=8)))


def block(epoch: Epoch, first: int, rows: int) -> Block:
    """Rows that are a function of their index."""
    index = np.arange(first, first + rows)
    columns = []
    for k, channel in enumerate(epoch.schema.channels):
        cells = (index[:, None] * 131 + np.arange(channel.elements) * 7 + k * 13).reshape(rows, *channel.shape)
        if channel.dtype == "text":
            column = np.array([f"µ{c % 1000}".encode() for c in cells.reshape(-1)], channel.numpy_dtype)
        elif channel.dtype == "bool":
            column = cells % 3 == 1
        elif channel.dtype.startswith("float"):
            column = (cells / 8 - 100).astype(channel.dtype)
        else:
            limits = np.iinfo(channel.dtype)
            edge = limits.min if index[0] % 2 else limits.max - 100
            column = (cells % 100).astype(channel.dtype) + np.array(edge, channel.dtype)
        columns.append(column)
    times, valid = None, None
    t0 = T0 + epoch.number * 3600 * NS
    if epoch.schema.rate is None:
        times = t0 + index * 1_000_000_007
        valid = tuple((index + k) % 4 != 0 if k % 2 else None for k in range(len(columns)))
    else:
        t0 += epoch.schema.span_ns(first)
    return Block(epoch.stream, epoch.number, first, epoch.schema, tuple(columns), t0, times, valid)


def segment(epoch: Epoch, pieces: Pieces, gaps: dict[int, Gap], left_out: Pieces) -> bytes:
    """A sealed segment with a commit per piece."""
    writer = SegmentWriter(epoch, SegmentName(epoch.number, pieces[0][0], 0), STATION, T0, Buffers(8, 1 << 16))
    rows = high = 0
    for n, (first, count) in enumerate(pieces):
        writer.append(block(epoch, first, count), [gaps[n]] if n in gaps else [])
        rows, high = rows + count, max(high, first + count)
        writer.commit(high, Ledger(high, rows, high - rows), ())
        writer.synced = writer.at
    left = sum(b - a for a, b in left_out)
    high = max([high, *(b for _, b in left_out)])
    writer.seal(high, Ledger(high + 3, rows, high - rows - left, 3, left), left_out, t_ns=T0 + 60 * NS)
    return b"".join([writer.head, *(c.buffer[: c.size] for c in writer.chunks)])


Pieces = list[tuple[int, int]]
EPOCHS = {
    "lab/every": [Epoch("lab/every", 0, EVERY, ANCHOR)],
    "scope/adc": [Epoch("scope/adc", 0, DIGITIZER, ANCHOR, "boot-7", 1_000_000, True)],
    "camera/frames": [Epoch("camera/frames", 0, CAMERA, ANCHOR, "serial-9", 5)],
    "cryo/readings": [Epoch("cryo/readings", n, s, ANCHOR) for n, s in enumerate((SLOW, LATER))],
}
REFUSED = Gap("scope/adc", 0, 500, 700, Reason.OVERFLOW, T0 + 1_497_000, T0 + 2_100_000, open=True, detail="ring full")
SEGMENTS: dict[tuple[str, int], tuple[Pieces, dict[int, Gap], Pieces]] = {
    ("lab/every", 0): ([(0, 1), (1, 30)], {}, []),
    ("scope/adc", 0): (
        [(0, 500), (700, 1), (600, 50), (701, 20)],
        {
            1: Gap(
                "scope/adc", 0, 500, 700, Reason.OVERFLOW, T0 + 1_497_000, T0 + 2_100_000, open=True, detail="ring full"
            )
        },
        [(721, 800)],
    ),
    ("camera/frames", 0): ([(0, 3), (3, 5)], {}, []),
    ("cryo/readings", 0): ([(0, 10)], {}, []),
}


SUMMARIZED = "scope/adc"
"""The stream that has summaries."""


def records() -> list[list[Record]]:
    """The commits of the journal."""
    old, new = EPOCHS["cryo/readings"]
    lost = Gap(new.stream, 1, 0, 0, Reason.SCHEMA, T0 + 9 * 1_000_000_007, T0 + 3600 * NS, unknown=True)
    hole = Gap(new.stream, 1, 6, 9, Reason.DISCONNECT, T0 + 3605 * NS, T0 + 3609 * NS)
    return [
        [Record(new, block(new, 0, 4), 4, Ledger(4, 4), (lost,))],
        [Record(new, block(new, 4, 2), 6, Ledger(6, 6)), Record(old, None, 10, Ledger(13, 10, 0, 3), (), ())],
        [Record(new, block(new, 9, 3), 12, Ledger(12, 9, 3), (hole,))],
        [Record(new, None, 15, Ledger(15, 9, 3, 0, 3), (), ((12, 15),))],
    ]


def make(data_dir: Path) -> None:
    """The whole directory; `data_dir` must not be there."""
    source = Random("scidaq golden files")
    ids: Iterator[UUID] = (UUID(int=source.getrandbits(128), version=4) for _ in iter(int, 1))
    files, clock = system_files(), FakeClock(T0)
    with patch("uuid.uuid4", lambda: UUID(STATION)):
        open_station(data_dir, files, NAME, T0, True)[1].close()
    with FactsLog.open(data_dir / "facts", clock) as facts:
        facts.append("station.started", {"name": NAME})
        clock.advance(1)
        facts.append("run.started", {"run": "r1", "name": "cooldown", "metadata": {"note": "ΔT = 4 K"}})
    with patch("scidaq.store.segment.uuid4", lambda: next(ids)), patch("uuid.uuid4", lambda: next(ids)):
        for (stream, number), (pieces, gaps, left_out) in SEGMENTS.items():
            path = data_dir / "streams" / stream / str(SegmentName(number, pieces[0][0], 0))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(segment(EPOCHS[stream][number], pieces, gaps, left_out))
        journal = JournalWriter(4, STATION, T0)
        content = journal.head + b"".join(journal.encode(commit) for commit in records())
        builder = Builder(Pyramid(data_dir / "streams" / SUMMARIZED, SUMMARIZED, files), STATION)
        for first, rows in sorted(SEGMENTS[SUMMARIZED, 0][0]):
            builder.take(block(EPOCHS[SUMMARIZED][0], first, rows))
        builder.flush(builder.at, T0)
    (data_dir / "journal" / "00000004.log").write_bytes(content)
    assert journal_files(data_dir / "journal")
    (data_dir / "LOCK").unlink()
    for part in ("quarantine", "retired"):
        (data_dir / part).rmdir()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
