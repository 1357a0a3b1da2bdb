"""Any range of any stream comes back in order, each row once, with its holes; with the catalog or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import NS, Block, Channel, Gap, Ledger, RangeSet, Reason, Schema
from scidaq.catalog import Catalog
from scidaq.errors import ForeignDirectory, RequestError, UnknownStream
from scidaq.query import Reader
from scidaq.store import (
    DURABLE_MAP,
    Mark,
    Segment,
    SegmentName,
    batch,
    catch_up,
    open_station,
    recover,
    system_files,
    wire,
)
from scidaq.store.durable import DurableMap
from scidaq.testing import FakeClock
from tests.store.makers import (
    MIXED,
    PLAIN,
    STATION,
    T0,
    block_of,
    cut,
    epoch_of,
    journal_bytes,
    record_of,
    segment_bytes,
)

FILES = system_files()
STREAM = "fake/stream"
MS = 1_000_000


class Made:
    """A data directory to be filled by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        open_station(path, FILES, "test", 1, True)[1].close()

    def put(self, name: SegmentName, data: bytes, stream: str = STREAM) -> Path:
        path = self.path / "streams" / stream / str(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def journal(self, data: bytes, number: int = 0) -> None:
        (self.path / "journal" / f"{number:08d}.log").write_bytes(data)

    def catalogue(self) -> None:
        """Tell the catalog of every segment."""
        with Catalog.open(self.path) as catalog:
            catch_up(catalog, recover(self.path, FILES, FakeClock(), STATION, {}).found, self.path)

    def reader(self) -> Reader:
        return Reader(self.path)


@pytest.fixture(autouse=True)
def with_outlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short segments have one too; it is used where the catalog knows of them."""
    monkeypatch.setattr("scidaq.store.segment.LEAST", 1)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "data")


@pytest.fixture(params=["files", "catalog"])
def known(request: pytest.FixtureRequest, made: Made) -> Iterator[Made]:
    """The same with and without a catalog: `known.ready()` once it is filled."""
    made.ready = made.catalogue if request.param == "catalog" else lambda: None  # type: ignore[attr-defined]
    return made  # type: ignore[return-value]


def spans(items: Sequence[Block | Gap]) -> list[tuple[int, int, str]]:
    """What came, blocks that follow one another as one."""
    out: list[tuple[int, int, str]] = []
    for item in items:
        kind = "rows" if isinstance(item, Block) else ("unknown" if item.unknown else str(item.reason))
        if out and kind == "rows" and out[-1][2] == "rows" and out[-1][1] == item.first:
            out[-1] = (out[-1][0], item.end, kind)
        else:
            out.append((item.first, item.end, kind))
    return out


def values(items: Sequence[Block | Gap], name: str = "v") -> np.ndarray:
    return np.concatenate([b.column(name) for b in items if isinstance(b, Block)])


def ms(n: float) -> int:
    """When row `n` of PLAIN is (one per millisecond)."""
    return T0 + int(n * MS)


def simple(made: Made) -> Block:
    """Rows 0 to 300 in two segments and the journal."""
    made.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(PLAIN), cut(PLAIN, [60, 40])))
    made.put(SegmentName(0, 100, 0), segment_bytes(epoch_of(PLAIN), cut(PLAIN, [50, 50], 100), base=Ledger(100, 100)))
    epoch = epoch_of(PLAIN)
    made.journal(journal_bytes([[record_of(epoch, block_of(PLAIN, 200 + 50 * n, 50), 250 + 50 * n)] for n in (0, 1)]))
    return block_of(PLAIN, 0, 300)


# ---- ranges ----------------------------------------------------------------------------------------------------------


def test_everything_in_order(known) -> None:
    truth = simple(known)
    known.ready()
    items = list(known.reader().blocks(STREAM))
    assert spans(items) == [(0, 300, "rows")]
    assert (values(items) == truth.column("v")).all()
    assert known.reader().names() == [STREAM]
    (summary,) = known.reader().streams()
    assert (summary.rows, summary.durable_rows, summary.gap_rows) == (300, 300, 0)
    assert (summary.first_ns, summary.last_ns) == (T0, ms(299))


@pytest.mark.parametrize(
    ("start", "stop", "first", "end"),
    [
        *[(0, 300, 0, 300), (10, 20, 10, 20), (10.5, 20.5, 11, 21), (59, 61, 59, 61), (99, 101, 99, 101)],
        *[(199, 201, 199, 201), (250, 9999, 250, 300), (-50, 1, 0, 1), (299, 300, 299, 300), (120, 121, 120, 121)],
    ],
)
def test_a_range_holds_its_start_and_not_its_stop(known, start: float, stop: float, first: int, end: int) -> None:
    simple(known)
    known.ready()
    items = list(known.reader().blocks(STREAM, ms(start), ms(stop)))
    assert spans(items) == [(first, end, "rows")]


@pytest.mark.parametrize(("start", "stop"), [(300, 400), (-9, 0), (50, 50), (50.2, 50.8)])
def test_a_range_without_rows_is_empty(known, start: float, stop: float) -> None:
    simple(known)
    known.ready()
    assert list(known.reader().blocks(STREAM, ms(start), ms(stop))) == []


def test_what_cannot_be_asked(made: Made, tmp_path: Path) -> None:
    simple(made)
    reader = made.reader()
    with pytest.raises(RequestError, match="before it starts"):
        list(reader.blocks(STREAM, 5, 4))
    with pytest.raises(UnknownStream, match="did you mean 'fake/stream'"):
        list(reader.blocks("fake/steam"))
    with pytest.raises(RequestError, match="no channel w; it has v"):
        list(reader.blocks(STREAM, channels=["v", "w"]))
    with pytest.raises(RequestError, match="either"):
        reader.last(STREAM)
    with pytest.raises(RequestError, match="either"):
        reader.last(STREAM, rows=1, seconds=1)
    with pytest.raises(UnknownStream):
        reader.last("no/such", rows=1)
    with pytest.raises(ForeignDirectory):
        Reader(tmp_path)


@pytest.mark.parametrize("count", [1, 49, 50, 51, 100, 101, 250, 300, 301, 5000])
def test_the_last_rows(known, count: int) -> None:
    truth = simple(known)
    known.ready()
    items = known.reader().last(STREAM, rows=count)
    assert sum(b.rows for b in items if isinstance(b, Block)) == min(count, 300)
    assert (values(items) == truth.column("v")[-count:]).all()
    assert spans(list(known.reader().newest(STREAM, rows=count))) == spans(items)


def test_no_rows_and_no_seconds(made: Made) -> None:
    simple(made)
    assert made.reader().last(STREAM, rows=0) == []
    assert list(made.reader().newest(STREAM, rows=0)) == []


@pytest.mark.parametrize(("seconds", "first"), [(0.0, 299), (0.01, 289), (0.15, 149), (10.0, 0)])
def test_the_last_seconds(known, seconds: float, first: int) -> None:
    simple(known)
    known.ready()
    assert spans(known.reader().last(STREAM, seconds=seconds)) == [(first, 300, "rows")]
    assert spans(list(known.reader().newest(STREAM, seconds=seconds))) == [(first, 300, "rows")]


# ---- channels and epochs ---------------------------------------------------------------------------------------------


def test_channels_in_the_order_asked_for(known) -> None:
    known.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(MIXED), cut(MIXED, [30, 30])))
    known.ready()
    for block in known.reader().blocks(STREAM, channels=["n", "t"]):
        assert isinstance(block, Block)
        assert block.schema.names == ("n", "t")
        truth = block_of(MIXED, block.first, block.rows)
        assert (block.column("n") == truth.column("n")).all()
        assert block.valid is not None
    assert [b.schema.names for b in known.reader().last(STREAM, rows=1, channels=["on"]) if isinstance(b, Block)] == [
        ("on",)
    ]


def test_queries_cross_epochs_by_name(known) -> None:
    later = Schema((*PLAIN.channels, Channel("w", "int32", "A")), PLAIN.rate)
    known.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10])))
    blocks = [block_of(later, 0, 10, epoch=1)]
    gap = Gap(STREAM, 1, 0, 0, Reason.SCHEMA, ms(9), ms(20))
    known.put(SegmentName(1, 0, 0), segment_bytes(epoch_of(later, number=1), blocks, gaps={0: [gap]}))
    known.ready()
    reader = known.reader()
    assert [e.number for e in reader.epochs(STREAM)] == [0, 1]
    assert [(i.epoch, i.first, i.end) for i in reader.blocks(STREAM)] == [(0, 0, 10), (1, 0, 0), (1, 0, 10)]
    assert [b.epoch for b in reader.blocks(STREAM, channels=["v"]) if isinstance(b, Block)] == [0, 1]
    assert [b.epoch for b in reader.blocks(STREAM, channels=["w"]) if isinstance(b, Block)] == [1]
    for last in (reader.last(STREAM, rows=12), list(reader.newest(STREAM, rows=12))):
        assert [(b.epoch, b.first) for b in last if isinstance(b, Block)] == [(0, 8), (1, 0)]
    assert [b.epoch for b in reader.newest(STREAM, rows=12, channels=["w"]) if isinstance(b, Block)] == [1]


# ---- holes -----------------------------------------------------------------------------------------------------------


def holes(known) -> None:
    """Every kind of hole: known, unknown, by policy, and one that nothing explains."""
    blocks = [block_of(PLAIN, a, b - a) for a, b in ((5, 10), (20, 30), (30, 40), (50, 60), (70, 80))]
    gaps = {
        0: [Gap(STREAM, 0, 0, 5, Reason.RESTART)],
        1: [Gap(STREAM, 0, 10, 20, Reason.SOURCE, ms(9), ms(20), detail="7 frames")],
        2: [Gap(STREAM, 0, 30, 30, Reason.DISCONNECT, ms(29), ms(30), unknown=True)],
    }
    data = segment_bytes(epoch_of(PLAIN), blocks, gaps=gaps, left_out={2: [(40, 50)], 4: [(80, 85)]})
    known.put(SegmentName(0, 5, 0), data)
    known.ready()


def test_every_kind_of_hole_is_told(known) -> None:
    holes(known)
    items = list(known.reader().blocks(STREAM))
    assert spans(items) == [
        *[(0, 5, "restart"), (5, 10, "rows"), (10, 20, "source"), (20, 30, "rows"), (30, 30, "unknown")],
        *[(30, 40, "rows"), (40, 50, "policy"), (50, 60, "rows"), (60, 70, "unexplained"), (70, 80, "rows")],
        (80, 85, "policy"),
    ]
    told = next(i for i in items if isinstance(i, Gap) and i.reason is Reason.SOURCE)
    assert (told.start_ns, told.end_ns, told.detail) == (ms(9), ms(20), "7 frames")
    policy = next(i for i in items if isinstance(i, Gap) and i.reason is Reason.POLICY)
    assert (policy.start_ns, policy.end_ns) == (ms(39), ms(50))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (5, [(75, 80, "rows"), (80, 85, "policy")]),
        (15, [(55, 60, "rows"), (60, 70, "unexplained"), (70, 80, "rows"), (80, 85, "policy")]),
        (20, [(50, 60, "rows"), (60, 70, "unexplained"), (70, 80, "rows"), (80, 85, "policy")]),
    ],
)
def test_the_last_rows_come_with_the_holes_between_them(known, rows: int, expected: list) -> None:
    holes(known)
    assert spans(known.reader().last(STREAM, rows=rows)) == expected
    assert spans(list(known.reader().newest(STREAM, rows=rows))) == expected


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (8, 25, [(8, 10, "rows"), (10, 20, "source"), (20, 25, "rows")]),
        (12, 25, [(10, 20, "source"), (20, 25, "rows")]),
        (8, 15, [(8, 10, "rows"), (10, 20, "source")]),
        (12, 15, [(10, 20, "source")]),
        (20, 25, [(20, 25, "rows")]),
        (5, 10, [(5, 10, "rows")]),
        (25, 35, [(25, 30, "rows"), (30, 30, "unknown"), (30, 35, "rows")]),
        (65, 75, [(60, 70, "unexplained"), (70, 75, "rows")]),
        (42, 44, [(40, 50, "policy")]),
    ],
)
def test_holes_at_the_edges_of_a_range_are_told(known, start: int, stop: int, expected: list) -> None:
    """Who looks at a time in which nothing was recorded is told why."""
    holes(known)
    assert spans(list(known.reader().blocks(STREAM, ms(start), ms(stop)))) == expected


def test_a_damaged_batch_is_an_unexplained_hole(known) -> None:
    data = bytearray(segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10, 10, 10])))
    message = [m for m in Segment(memoryview(bytes(data)), Path("x")).batches if m.rows][1]
    known.put(SegmentName(0, 0, 0), bytes(data))
    known.ready()
    data[message.at + message.header + 3] ^= 1
    known.put(SegmentName(0, 0, 0), bytes(data))
    assert spans(list(known.reader().blocks(STREAM))) == [(0, 10, "rows"), (10, 20, "unexplained"), (20, 30, "rows")]
    assert sum(b.rows for b in known.reader().last(STREAM, rows=15) if isinstance(b, Block)) == 15
    assert spans(list(known.reader().newest(STREAM, rows=15))) == [(15, 20, "unexplained"), (20, 30, "rows")]


def test_a_number_in_a_header_that_was_damaged_misleads_nobody(made: Made) -> None:
    """The row index and the time of a damaged batch are not believed, also not to find the newest rows."""
    for old, new in ((b'"first":10,', b'"first":90,'), (b'"t0":17500000', b'"t0":97500000')):
        data = segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10, 10, 10]))
        at = [i for i in range(len(data)) if data.startswith(old, i)][1 if b"t0" in old else 0]
        made.put(SegmentName(0, 0, 0), data[:at] + new + data[at + len(new) :])
        reader = made.reader()
        assert spans(list(reader.blocks(STREAM))) == [(0, 10, "rows"), (10, 20, "unexplained"), (20, 30, "rows")]
        assert values(reader.last(STREAM, rows=3)).tolist() == block_of(PLAIN, 27, 3).column("v").tolist()
        assert sum(b.rows for b in reader.last(STREAM, rows=15) if isinstance(b, Block)) == 15
        assert spans(reader.last(STREAM, seconds=0.002)) == [(27, 30, "rows")]


def test_of_a_range_only_its_own_batches_are_looked_at(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    data = segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10] * 100))
    made.put(SegmentName(0, 0, 0), data)
    made.catalogue()
    parse = Mock(wraps=wire.parse)
    monkeypatch.setattr(wire, "parse", parse)
    assert spans(list(made.reader().blocks(STREAM, ms(505), ms(515)))) == [(505, 515, "rows")]
    assert parse.call_count < 10


def test_batches_that_are_not_where_the_outline_says_are_found(made: Made) -> None:
    """Whoever mixed them up: each is intact, and says itself which rows it has."""
    data = bytearray(segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10] * 20), commits=[20]))
    made.put(SegmentName(0, 0, 0), bytes(data))
    made.catalogue()
    a, b, c = (
        m for m in Segment(memoryview(bytes(data)), Path("x")).batches if m.rows and m.facts["first"] in (40, 50, 90)
    )
    assert a.end - a.at == b.end - b.at
    data[a.at : a.end], data[b.at : b.end] = data[b.at : b.end], data[a.at : a.end]
    data[c.at + 12] ^= 1  # and the header of a third is damaged
    made.put(SegmentName(0, 0, 0), bytes(data))
    expected = [(0, 90, "rows"), (90, 100, "unexplained"), (100, 200, "rows")]
    for threads in (1, 2):
        found = list(Reader(made.path, threads=threads).blocks(STREAM))
        assert spans(found) == expected
        assert np.array_equal(values(found), np.delete(block_of(PLAIN, 0, 200).column("v"), slice(90, 100)))
    assert spans(list(made.reader().blocks(STREAM, ms(45), ms(95)))) == [(45, 90, "rows"), (90, 100, "unexplained")]


# ---- overlaps, late rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ([(0, 100)], [(50, 150)], [0, 50, 150]),
        ([(50, 150)], [(0, 100)], [0, 100, 150]),
        ([(0, 100)], [(20, 40)], [0, 20, 40, 100]),
        ([(0, 100)], [(0, 100)], [0, 100]),
        ([(20, 40)], [(0, 100)], [0, 100]),
        ([(0, 50), (50, 100)], [(20, 30), (40, 60)], [0, 20, 30, 40, 60, 100]),
    ],
)
def test_where_segments_overlap_the_higher_generation_wins(known, low: list, high: list, expected: list) -> None:
    known.put(
        SegmentName(0, low[0][0], 0), segment_bytes(epoch_of(PLAIN), [block_of(PLAIN, a, b - a, 1) for a, b in low])
    )
    name = SegmentName(0, high[0][0], 1)
    known.put(name, segment_bytes(epoch_of(PLAIN), [block_of(PLAIN, a, b - a, 2) for a, b in high], name=name))
    known.ready()
    items = [i for i in known.reader().blocks(STREAM) if isinstance(i, Block)]
    assert spans(items) == [(expected[0], expected[-1], "rows")], "each row once, and in order"
    wins = RangeSet(high)
    for block in items:
        for n in range(block.first, block.end):
            seed = 2 if n in wins else 1
            assert block.slice(n, n + 1).same_rows(block_of(PLAIN, n, 1, seed)), f"row {n} is of generation {2 - seed}"


def test_where_the_higher_generation_is_damaged_the_lower_serves(made: Made) -> None:
    made.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(PLAIN), [block_of(PLAIN, 0, 100)]))
    name = SegmentName(0, 50, 1)
    data = bytearray(segment_bytes(epoch_of(PLAIN), [block_of(PLAIN, 50, 10), block_of(PLAIN, 60, 60)], name=name))
    message = Segment(memoryview(bytes(data)), Path("x")).batches[0]
    data[message.at + message.header] ^= 1
    made.put(name, bytes(data))
    items = list(made.reader().blocks(STREAM))
    assert spans(items) == [(0, 120, "rows")]
    assert (values(items) == block_of(PLAIN, 0, 120).column("v")).all()


def test_late_rows_come_in_their_place(known) -> None:
    """Backfill: later in the file, or in a later file, and before in the epoch."""
    epoch = epoch_of(PLAIN)
    gap = Gap(STREAM, 0, 10, 40, Reason.DISCONNECT, open=True)
    early = [block_of(PLAIN, 0, 10), block_of(PLAIN, 40, 10), block_of(PLAIN, 20, 5)]
    known.put(SegmentName(0, 0, 0), segment_bytes(epoch, early, gaps={1: [gap]}))
    late = [block_of(PLAIN, 50, 10), block_of(PLAIN, 12, 3), block_of(PLAIN, 30, 10)]
    known.put(SegmentName(0, 50, 0), segment_bytes(epoch, late))
    known.ready()
    items = list(known.reader().blocks(STREAM))
    assert spans(items) == [
        *[(0, 10, "rows"), (10, 12, "disconnect"), (12, 15, "rows"), (15, 20, "disconnect"), (20, 25, "rows")],
        *[(25, 30, "disconnect"), (30, 60, "rows")],
    ]
    assert (
        values(items)
        == np.concatenate([block_of(PLAIN, a, b - a).column("v") for a, b in ((0, 10), (12, 15), (20, 25), (30, 60))])
    ).all()
    assert spans(list(known.reader().blocks(STREAM, ms(13), ms(45)))) == [
        *[(13, 15, "rows"), (15, 20, "disconnect"), (20, 25, "rows"), (25, 30, "disconnect"), (30, 45, "rows")]
    ]


def test_rows_that_are_in_the_journal_and_in_a_segment_come_once(made: Made) -> None:
    simple(made)
    epoch = epoch_of(PLAIN)
    made.journal(journal_bytes([[record_of(epoch, block_of(PLAIN, 150, 100), 250)]]), 1)
    assert spans(list(made.reader().blocks(STREAM))) == [(0, 300, "rows")]


def test_a_segment_whose_schema_is_damaged_is_read_by_that_of_its_epoch(made: Made) -> None:
    simple(made)
    path = made.path / "streams" / STREAM / str(SegmentName(0, 100, 0))
    data = bytearray(path.read_bytes())
    data[900] ^= 1
    path.write_bytes(data)
    assert spans(list(made.reader().blocks(STREAM))) == [(0, 300, "rows")]


def test_an_epoch_whose_schema_is_lost_is_an_unexplained_hole_and_the_others_are_read(known) -> None:
    for number in (0, 1):
        blocks = [block_of(PLAIN, 0, 10, epoch=number)]
        known.put(SegmentName(number, 0, 0), segment_bytes(epoch_of(PLAIN, number=number), blocks))
    known.ready()
    path = known.path / "streams" / STREAM / str(SegmentName(0, 0, 0))
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    items = list(known.reader().blocks(STREAM, channels=[PLAIN.names[0]]))
    assert [i.epoch for i in items] == [0, 1]
    assert spans(items) == [(0, 10, "unexplained"), (0, 10, "rows")]
    assert [e.number for e in known.reader().epochs(STREAM)] == [1]
    assert [b.rows for b in known.reader().last(STREAM, rows=15) if isinstance(b, Block)] == [10]


@given(st.data())
def test_any_layout_gives_each_row_once(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Rows scattered over segments of any generation, in any order, and any range asked for."""
    made = Made(tmp_path_factory.mktemp("any") / "data")
    truth = RangeSet()
    for n in range(data.draw(st.integers(1, 4))):
        firsts = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=4, unique=True))
        blocks, mine = [], RangeSet()
        for first in firsts:
            rows = data.draw(st.integers(1, 25))
            if not mine.within(first, first + rows):
                mine.add(first, first + rows)
                blocks.append(block_of(PLAIN, first, rows))
        for first, end in mine:
            truth.add(first, end)
        name = SegmentName(0, blocks[0].first, n)
        made.put(name, segment_bytes(epoch_of(PLAIN), blocks, name=name))
    start, stop = sorted((data.draw(st.integers(0, 100)), data.draw(st.integers(0, 100))))
    items = list(made.reader().blocks(STREAM))
    assert RangeSet((b.first, b.end) for b in items if isinstance(b, Block)) == truth
    joined = spans(items)
    assert all(a[1] <= b[0] for a, b in pairwise(joined)), "in order, none twice"
    for block in items:
        if isinstance(block, Block):
            assert block.same_rows(block_of(PLAIN, block.first, block.rows))
    part = [b for b in made.reader().blocks(STREAM, ms(start), ms(stop)) if isinstance(b, Block)]
    assert RangeSet((b.first, b.end) for b in part) == RangeSet(truth.within(start, stop))
    wanted = data.draw(st.integers(1, 40))
    last = [b for b in made.reader().last(STREAM, rows=wanted) if isinstance(b, Block)]
    got = [n for b in last for n in range(b.first, b.end)]
    assert got == [n for a, b in truth for n in range(a, b)][-wanted:]


def test_a_stream_that_has_no_file_yet_has_no_rows(made: Made) -> None:
    (made.path / "streams" / STREAM).mkdir(parents=True)
    assert list(made.reader().blocks(STREAM, channels=["v"])) == made.reader().last(STREAM, rows=3) == []


def test_the_last_seconds_hold_nothing_later_of_an_epoch_before(made: Made) -> None:
    later = [block_of(PLAIN, 0, 100)]
    earlier = [b.placed(STREAM, 1, b.first, b.t0_ns - 1000 * NS) for b in later]
    made.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(PLAIN), later))
    made.put(SegmentName(1, 0, 0), segment_bytes(epoch_of(PLAIN, number=1), earlier))
    items = made.reader().last(STREAM, seconds=0.01)
    assert [(i.epoch, i.first, i.end) for i in items] == [(1, 89, 100)]


def test_seconds_before_the_newest_row(made: Made) -> None:
    made.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10])))
    assert sum(b.rows for b in made.reader().last(STREAM, seconds=NS) if isinstance(b, Block)) == 10


def test_reading_leaves_nothing_behind(made: Made) -> None:
    """A copy of a data directory, which has no lock file, stays as it is."""
    simple(made)
    (made.path / "LOCK").unlink()
    sidecar = DurableMap(made.path / DURABLE_MAP)
    sidecar.put(Mark(STREAM, 0, 300, 300, 250, 0, T0, ms(299), 0))
    sidecar.close()
    before = sorted(made.path.rglob("*"))
    assert made.reader().streams()
    assert made.reader().last(STREAM, seconds=1)
    assert sorted(made.path.rglob("*")) == before


@pytest.mark.parametrize("damaged", [False, True])
def test_a_reader_that_stays_sees_a_file_grow_as_a_new_one_does(made: Made, damaged: bool) -> None:
    blocks = cut(PLAIN, [50, 1, 30, 40, 20])
    data = bytearray(segment_bytes(epoch_of(PLAIN), blocks, uuid="9b1b7bd8-6dd4-4f0c-8a6e-6d7b4b7f2a10"))
    if damaged:
        data[len(data) // 2] ^= 1
    path = made.put(SegmentName(0, 0, 0), b"")
    kept = made.reader()
    for size in (*range(1500, len(data), 777), len(data)):
        path.write_bytes(data[:size])
        fresh = made.reader()
        for _ in range(2):
            kept.last(STREAM, rows=1)  # what is damaged and what is still being written looks the same at first
        for rows in (1, 60, 1000):
            assert spans(kept.last(STREAM, rows=rows)) == spans(fresh.last(STREAM, rows=rows))
        assert spans(list(kept.blocks(STREAM))) == spans(list(fresh.blocks(STREAM)))
        assert kept.streams() == fresh.streams()
    made.catalogue()
    assert spans(list(kept.blocks(STREAM))) == spans(list(made.reader().blocks(STREAM)))


def test_only_what_is_new_of_a_growing_file_is_looked_at(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    data = segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10] * 40), sealed=False)
    path = made.put(SegmentName(0, 0, 0), data[: len(data) * 3 // 4])
    kept = made.reader()
    kept.last(STREAM, rows=10)
    parse, decode = Mock(wraps=wire.parse), Mock(wraps=batch.decoded)
    monkeypatch.setattr(wire, "parse", parse)
    monkeypatch.setattr(batch, "decoded", decode)
    path.write_bytes(data)
    assert spans(kept.last(STREAM, rows=10)) == [(390, 400, "rows")]
    assert min(call.args[1] for call in parse.call_args_list) > len(data) // 2
    assert decode.call_count == 1


def test_while_a_station_runs_only_what_it_calls_durable_is(made: Made) -> None:
    simple(made)
    sidecar = DurableMap(made.path / DURABLE_MAP)
    sidecar.put(Mark(STREAM, 0, 300, 300, 250, 0, T0, ms(299), 0))
    sidecar.close()
    with FILES.lock(made.path / "LOCK"):
        assert [s.durable_rows for s in made.reader().streams()] == [250]
    assert [s.durable_rows for s in made.reader().streams()] == [300], "what a station that has ended left is old"


@pytest.mark.parametrize("key", [b'"first":', b'"t0":', b'"seq":'])
def test_a_batch_whose_header_lost_a_name_is_a_gap(tmp_path: Path, key: bytes) -> None:
    """A flipped bit in a name leaves JSON that is valid and says nothing of where its rows belong."""
    from scidaq.clock import SystemClock
    from scidaq.instruments import WaveformDriver, WaveformOptions
    from scidaq.station import InstrumentPlan, Station, StationPlan

    clock = SystemClock()
    options = WaveformOptions(channels=1, rate_hz=20_000)
    plan = InstrumentPlan("adc", lambda: WaveformDriver("adc", options, clock), "waveform")
    with Station(StationPlan(tmp_path, instruments=(plan,)), clock) as station:
        deadline = clock.monotonic_s() + 20
        while sum(s.durable_rows for s in station.stats().recorder.streams) < 10_000:
            assert clock.monotonic_s() < deadline
    (path,) = tmp_path.glob("streams/adc/wave/*.arrows")
    data = bytearray(path.read_bytes())
    places = [at for at in range(len(data)) if data.startswith(key, at)]
    data[places[len(places) // 2] + 2] ^= 1
    path.write_bytes(data)
    items = list(Reader(tmp_path).blocks("adc/wave"))
    assert any(isinstance(item, Block) for item in items)
    newest = max(item.end for item in items)
    assert sum(item.end - item.first for item in items) == newest
    assert list(Reader(tmp_path).blocks("adc/wave", start_ns=1)) != []
    assert Reader(tmp_path).last("adc/wave", rows=5)
