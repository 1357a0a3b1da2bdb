"""Files of every format version that was released still read exactly, and are still written so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scidaq.block import Block, Gap, RangeSet, Reason
from scidaq.catalog import Fact, read_facts
from scidaq.query import Pyramid, Reader
from scidaq.store import (
    Damage,
    Segment,
    read_journal,
    read_station,
    recover,
    segment_files,
    stream_directories,
    system_files,
    verify,
)
from scidaq.testing import FakeClock
from tests.golden import make

V1 = Path(__file__).parent / "v1"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A copy: reading changes nothing, and git keeps no empty directories."""
    return Path(shutil.copytree(V1, tmp_path / "v1"))


def alike(a: Block, b: Block) -> bool:
    return a.same_rows(b) and bool((a.time_ns() == b.time_ns()).all()) and a.schema == b.schema


def test_they_are_small() -> None:
    assert sum(p.stat().st_size for p in V1.rglob("*") if p.is_file()) <= 200 << 10


def test_whose_they_are(data_dir: Path) -> None:
    station = read_station(data_dir)
    assert (station.uuid, station.name, station.format, station.created_ns) == (make.STATION, "golden", 1, make.T0)


@pytest.mark.parametrize("stream", make.EPOCHS)
def test_every_row_reads_exactly(data_dir: Path, stream: str) -> None:
    epochs = make.EPOCHS[stream]
    assert Reader(data_dir).epochs(stream) == epochs
    found: dict[int, RangeSet] = {e.number: RangeSet() for e in epochs}
    for item in Reader(data_dir).blocks(stream):
        if isinstance(item, Block):
            assert alike(item, make.block(epochs[item.epoch], item.first, item.rows))
            found[item.epoch].add(item.first, item.end)
    for (name, number), (pieces, _, _) in make.SEGMENTS.items():
        if name == stream:
            assert found[number] == RangeSet((first, first + rows) for first, rows in pieces)
    if stream == "cryo/readings":
        assert found[1] == RangeSet([(0, 6), (9, 12)])


def test_every_hole_is_told(data_dir: Path) -> None:
    def told(stream: str) -> list[tuple[int, int, int, str, bool]]:
        items = Reader(data_dir).blocks(stream)
        return [(g.epoch, g.first, g.end, str(g.reason), g.unknown) for g in items if isinstance(g, Gap)]

    assert told("scope/adc") == [
        (0, 500, 600, "overflow", False),
        (0, 650, 700, "overflow", False),
        (0, 721, 800, "policy", False),
    ]
    assert told("cryo/readings") == [
        (1, 0, 0, "schema", True),
        (1, 6, 9, "disconnect", False),
        (1, 12, 15, "policy", False),
    ]
    gap = next(i for i in Reader(data_dir).blocks("scope/adc") if isinstance(i, Gap))
    assert (gap.reason, gap.open, gap.detail) == (Reason.OVERFLOW, True, "ring full")


def test_the_segments_are_whole_and_arrow_opens_them(data_dir: Path) -> None:
    count = 0
    for stream, directory in stream_directories(data_dir):
        for name, path in segment_files(directory):
            segment = Segment(system_files().map(path), path)
            assert segment.sealed
            assert segment.seal is not None
            with pa.ipc.open_stream(path) as reader:
                table = reader.read_all()
            table.validate(full=True)
            assert table.num_rows == segment.seal["rows"] == sum(n for _, n in make.SEGMENTS[stream, name.epoch][0])
            count += 1
    assert count == len(make.SEGMENTS)


def test_the_summary_reads_exactly(data_dir: Path) -> None:
    pyramid = Pyramid(data_dir / "streams" / make.SUMMARIZED, make.SUMMARIZED, system_files())
    (part,) = pyramid.parts()[0]
    (chunk,) = pyramid.read(part)
    assert (chunk.first.tolist(), chunk.n.tolist()) == ([0, 600], [500, 50])
    for i, (first, n) in enumerate(zip(chunk.first.tolist(), chunk.n.tolist(), strict=True)):
        rows = make.block(make.EPOCHS[make.SUMMARIZED][0], first, n)
        codes = rows.column("adc")
        assert (chunk.t0[i], chunk.t1[i]) == (rows.t0_ns, rows.last_ns)
        assert chunk.schema.channels[0].calibration == make.DIGITIZER.channels[0].calibration
        assert (chunk.least[0][i] == codes.min(axis=0)).all()
        assert (chunk.most[0][i] == codes.max(axis=0)).all()
        assert (chunk.last[0][i] == codes[-1]).all()
        assert (chunk.total[0][i] == codes.sum(axis=0, dtype=np.float64)).all()
        assert (chunk.valid[0][i] == n).all()


def test_the_journal_reads_exactly(data_dir: Path) -> None:
    path = data_dir / "journal" / "00000004.log"
    found = list(read_journal(system_files().map(path), path))
    expected = [r for commit in make.records() for r in commit]
    assert len(found) == len(expected)
    for mine, truth in zip(found, expected, strict=True):
        assert not isinstance(mine, Damage)
        assert (mine.epoch, mine.high, mine.ledger, mine.gaps) == (truth.epoch, truth.high, truth.ledger, truth.gaps)
        assert mine.left_out == truth.left_out
        if truth.block is None:
            assert mine.block is None
        else:
            assert mine.block is not None
            assert alike(mine.block, truth.block)


def test_the_facts_read_exactly(data_dir: Path) -> None:
    facts = list(read_facts(data_dir / "facts"))
    assert all(isinstance(f, Fact) for f in facts)
    assert [f.kind for f in facts if isinstance(f, Fact)] == ["station.started", "run.started"]


def test_they_verify_and_recover(data_dir: Path) -> None:
    assert verify(data_dir).problems == []
    before = {p: p.read_bytes() for p in data_dir.rglob("*") if p.is_file()}
    out = recover(data_dir, system_files(), FakeClock(), make.STATION, {})
    assert not out.quarantined
    assert {p: p.read_bytes() for p in data_dir.rglob("*") if p.is_file()} == before


def test_the_present_version_is_written_byte_for_byte_the_same(tmp_path: Path) -> None:
    """A change of the bytes is a change of the format: it wants a new version, or to be undone."""
    make.make(tmp_path / "new")
    new = {
        p.relative_to(tmp_path / "new").as_posix(): p.read_bytes() for p in (tmp_path / "new").rglob("*") if p.is_file()
    }
    old = {p.relative_to(V1).as_posix(): p.read_bytes() for p in V1.rglob("*") if p.is_file()}
    assert sorted(new) == sorted(old)
    # The schema message of a segment is written by Arrow, whose later releases may lay it out otherwise.
    for name, content in new.items():
        if content != old[name] and name.endswith((".arrows", ".log")):
            a, b = (Segment(memoryview(c), Path(name)) for c in (content, old[name]))
            assert a.facts == b.facts
            assert [m.facts.keys() for m in a.batches] == [m.facts.keys() for m in b.batches]
        else:
            assert content == old[name], name


def test_the_numbers_in_a_file_are_little_endian(data_dir: Path) -> None:
    ((_, path),) = segment_files(data_dir / "streams" / "scope" / "adc")
    rows = np.ascontiguousarray(make.block(make.EPOCHS["scope/adc"][0], 0, 500).column("adc"), "<i2").tobytes()
    assert rows in path.read_bytes()
    assert json.loads((data_dir / "station.json").read_bytes())["format"] == 1
