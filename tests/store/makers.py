"""Segments and journals made in memory, of a few schemas with known content."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import count
from pathlib import Path
from random import Random
from unittest.mock import patch
from uuid import UUID

import numpy as np

from scidaq.block import NS, Block, Calibration, Channel, Epoch, Gap, Ledger, RangeSet, Schema
from scidaq.clock import Anchor
from scidaq.store import Buffers, Record, SegmentName, SegmentWriter
from scidaq.store.journal import JournalWriter

T0 = 1_750_000_000 * NS
STATION = "11111111-2222-4333-8444-555555555555"
ANCHOR = Anchor(T0, 1_000 * NS, 1, "boot")
PATH = Path("000000-00000000000000-0000.arrows")

PLAIN = Schema((Channel("v", "float64", "V"),), Fraction(1000))
CODES = Schema(
    (Channel("adc", "int16", "1", (4,), ("a", "b", "c", "d"), Calibration(2.5e-4, -1.0, "V")),), Fraction(1_000_000, 3)
)
MIXED = Schema(
    (
        Channel("t", "float32", "Cel"),
        Channel("on", "bool"),
        Channel("note", "text", max_bytes=12),
        Channel("n", "uint8", "{count}"),
    )
)
IMAGE = Schema((Channel("frame", "uint16", "{count}", (6, 5)), Channel("ok", "bool", shape=(3,))), Fraction(30))
UUIDS = (UUID(int=Random(n).getrandbits(128), version=4) for n in count())
SCHEMAS = {"plain": PLAIN, "codes": CODES, "mixed": MIXED, "image": IMAGE}


def epoch_of(schema: Schema, stream: str = "fake/stream", number: int = 0, counter: str | None = "c") -> Epoch:
    return Epoch(stream, number, schema, ANCHOR, counter)


def block_of(
    schema: Schema, first: int, rows: int, seed: int = 0, stream: str = "fake/stream", epoch: int = 0
) -> Block:
    """Rows whose content depends on seed and row only, so that two blocks of the same rows agree."""
    index = np.arange(first, first + rows)
    columns = []
    for k, channel in enumerate(schema.channels):
        cells = (index[:, None] * 7919 + np.arange(channel.elements) * 31 + seed * 104729 + k) % 65521
        cells = cells.reshape(rows, *channel.shape)
        if channel.dtype == "text":
            columns.append(np.array([f"n{c}Ω".encode()[: channel.max_bytes] for c in cells], channel.numpy_dtype))
        elif channel.dtype == "bool":
            columns.append(cells % 3 == 0)
        else:
            columns.append((cells % 251 if channel.numpy_dtype.itemsize == 1 else cells).astype(channel.numpy_dtype))
    times = T0 + index * 1_000_003 if schema.rate is None else None
    t0 = T0 + (schema.span_ns(first) if schema.rate is not None else first * 1_000_003)
    valid = None
    if schema.rate is None:
        valid = tuple(index % 5 != k for k in range(len(schema.channels)))
    return Block(stream, epoch, first, schema, tuple(columns), t0, times, valid)


def cut(
    schema: Schema, sizes: Sequence[int], first: int = 0, seed: int = 0, stream: str = "fake/stream"
) -> list[Block]:
    """Consecutive blocks of these sizes."""
    out = []
    for size in sizes:
        out.append(block_of(schema, first, size, seed, stream))
        first += size
    return out


def segment_bytes(
    epoch: Epoch,
    blocks: Sequence[Block],
    commits: Sequence[int] | None = None,
    sealed: bool = True,
    gaps: dict[int, list[Gap]] | None = None,
    name: SegmentName | None = None,
    base: Ledger | None = None,
    left_out: dict[int, list[tuple[int, int]]] | None = None,
    uuid: str | None = None,
    buffers: Buffers | None = None,
) -> bytes:
    """A segment: `commits` are the numbers of blocks after which one ends (after each, unless said otherwise).

    `gaps` stand with block i, `left_out` in the commit after block i; `base` is the book of before.
    """
    blocks, gaps, left_out = list(blocks), gaps or {}, left_out or {}
    first = blocks[0].first if blocks else 0
    name = name or SegmentName(epoch.number, first, 0)
    buffers = buffers or Buffers(len(blocks) + 8, 1 << 18)
    with patch("scidaq.store.segment.uuid4", lambda: uuid or next(UUIDS)):
        writer = SegmentWriter(epoch, name, STATION, T0, buffers)
    base = base or Ledger()
    rows, out_of_it = RangeSet(), RangeSet()
    high = base.delivered - base.duplicates
    commits = range(1, len(blocks) + 1) if commits is None else commits

    def book() -> tuple[int, Ledger]:
        recorded, left = base.recorded + rows.total, base.left_out + out_of_it.total
        delivered = high + base.duplicates
        return high, Ledger(delivered, recorded, high - recorded - left, base.duplicates, left)

    for i, block in enumerate(blocks, 1):
        if not writer.append(block, gaps.get(i - 1, ())):
            raise AssertionError("the buffers of this test are too few")
        rows.add(block.first, block.end)
        high = max(high, block.end)
        if i in commits:
            for a, b in left_out.get(i - 1, ()):
                out_of_it.add(a, b)
                high = max(high, b)
            writer.commit(*book(), left_out.get(i - 1, ()))
            writer.synced = writer.at
    if sealed:
        writer.seal(*book(), (), t_ns=T0 + NS)
    else:
        writer._emit()
    return b"".join([writer.head, *(c.buffer[: c.size] for c in writer.chunks)])


def journal_bytes(commits: Sequence[Sequence[Record]], number: int = 0) -> bytes:
    writer = JournalWriter(number, STATION, T0)
    return b"".join([writer.head, *(writer.encode(records) for records in commits)])


def record_of(
    epoch: Epoch, block: Block | None, recorded: int, gaps: Sequence[Gap] = (), high: int | None = None
) -> Record:
    """A record of a stream that has lost only what `gaps` and the holes say."""
    high = (block.end if block is not None else 0) if high is None else high
    return Record(epoch, block, high, Ledger(high, recorded, high - recorded), tuple(gaps))


def journal_of(
    streams: int = 3, commits: int = 6, rows: int = 5, schema: Schema = MIXED
) -> tuple[bytes, list[list[Record]]]:
    """A journal with some streams, each with `rows` rows per commit."""
    epochs = [epoch_of(schema, f"slow/s{k}") for k in range(streams)]
    all_of_them = [
        [
            record_of(e, block_of(schema, n * rows, rows, seed=k, stream=e.stream), (n + 1) * rows)
            for k, e in enumerate(epochs)
        ]
        for n in range(commits)
    ]
    return journal_bytes(all_of_them), all_of_them
