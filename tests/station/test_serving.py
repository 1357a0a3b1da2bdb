"""What the doors ask of a station: pages that add up, buckets over pages, and books that balance over a stop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scidaq.block import Block, Gap, Reason
from scidaq.clock import SystemClock
from scidaq.errors import UnknownInstrument, UnknownStream
from scidaq.instruments import Fault, Level, SupervisionOptions, WaveformDriver, WaveformOptions
from scidaq.query import Grid, Reader
from scidaq.station import Audited, InstrumentPlan, Page, Serving, Station, StationPlan, Wanted, serving
from scidaq.store import verify
from scidaq.testing import FakeInstrument


def wave_plan(data_dir: Path, **options: Any) -> StationPlan:
    clock = SystemClock()

    def make() -> WaveformDriver:
        return WaveformDriver("wave", WaveformOptions(**options), clock)

    quick = SupervisionOptions(read_timeout_s=0.02, reconnect_initial_s=0.02)
    return StationPlan(data_dir, instruments=(InstrumentPlan("wave", make, "waveform", supervision=quick),))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A station with two epochs and gaps, whose instrument has been disconnected."""
    data_dir = tmp_path_factory.mktemp("serving") / "data"
    plan = wave_plan(data_dir, free_running=False, faults=(Fault("drop", 0.2, 10),))
    with Station(plan) as station:
        door = Serving(station)
        wait_rows(door, 500)
        door.want("wave", Level.READY, "a break")
        door.want("wave", Level.ACQUIRING, "")
        wait_rows(door, 1500)
        door.want("wave", Level.DISCONNECTED, "enough")
        wait_durable(station)
        yield door


def wait_rows(door: Serving, rows: int) -> None:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + 20
    while sum(s.rows for s in door.stats().rings if s.stream == "wave/wave") < rows:
        assert clock.monotonic_s() < deadline_s
        pause()


def wait_durable(station: Station) -> None:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + 20
    while any(s.held_bytes for s in station.stats().rings):
        assert clock.monotonic_s() < deadline_s
        pause()


def pause() -> None:
    import threading

    threading.Event().wait(0.01)


def told(items: Any) -> list[Any]:
    """Rows and gaps, whatever blocks they come in."""
    out: list[Any] = []
    for item in items:
        if isinstance(item, Gap):
            out.append((item.epoch, item.first, item.end, item.reason, item.start_ns, item.end_ns, item.unknown))
        else:
            times = item.time_ns().tolist()
            out += [
                (item.epoch, item.first + i, times[i], *(c[i].tobytes() for c in item.columns))
                for i in range(item.rows)
            ]
    return out


def all_pages(door: Serving, wanted: Wanted) -> list[Page]:
    out = [door.page(wanted)]
    while out[-1].next is not None:
        assert len(out) < 10_000
        out.append(door.page(Wanted(**{n: getattr(wanted, n) for n in wanted.__slots__} | {"after": out[-1].next})))
    return out


def test_there_are_epochs_and_gaps_to_speak_of(recorded: Serving) -> None:
    items = recorded.page(Wanted("wave/wave", rows=100_000)).items
    reasons = {i.reason for i in items if isinstance(i, Gap)}
    assert Reason.STOPPED in reasons
    assert Reason.SOURCE in reasons
    assert len({i.epoch for i in items}) > 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(rows=st.integers(1, 700), share=st.tuples(st.floats(0, 1), st.floats(0, 1)), ranged=st.booleans())
def test_pages_are_the_whole(recorded: Serving, rows: int, share: tuple[float, float], ranged: bool) -> None:
    (lo, hi), start, stop = sorted(share), None, None
    if ranged:
        epochs = recorded.stream("wave/wave").epochs
        first = min(e.first_ns or 0 for e in epochs)
        length = max(e.last_ns or 0 for e in epochs) - first
        start, stop = first + int(lo * length), first + int(hi * length) + 1
    reader = Reader(recorded._station.plan.data_dir)
    whole = told(reader.blocks("wave/wave", start, stop))
    pages = all_pages(recorded, Wanted("wave/wave", start, stop, rows=max(rows, 20)))
    assert [row for page in pages for row in told(page.items)] == whole
    assert all(page.rows <= max(rows, 20) for page in pages)


def test_pages_end_where_the_bytes_do(recorded: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = told(recorded.page(Wanted("wave/wave", rows=100_000)).items)
    monkeypatch.setattr(serving, "PAGE_BYTES", 4096)
    pages = all_pages(recorded, Wanted("wave/wave", rows=100_000))
    assert [row for page in pages for row in told(page.items)] == whole
    assert len(pages) > 2


def test_buckets_over_many_pages_are_those_of_one(recorded: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = recorded.stream("wave/wave").epochs
    grid = Grid(min(e.first_ns or 0 for e in epochs), max(e.last_ns or 0 for e in epochs) + 1, 37)
    wanted = Wanted("wave/wave", grid.start_ns, grid.stop_ns)
    whole = recorded.reduced(wanted, grid)
    assert whole.next is None
    assert whole.rows <= 37 + len(epochs)
    monkeypatch.setattr(serving, "SCAN_ROWS", 150)
    parts: list[Any] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = recorded.reduced(Wanted("wave/wave", grid.start_ns, grid.stop_ns, after=after), grid)
        parts += told(page.items)
        after, pages = page.next, pages + 1
    assert pages > 2
    assert [p[2:] if len(p) > 7 else p for p in parts] == [p[2:] if len(p) > 7 else p for p in told(whole.items)]


def test_slow_streams_come_in_few_blocks(tmp_path: Path) -> None:
    clock, instrument = SystemClock(), FakeInstrument()
    quick = SupervisionOptions(read_timeout_s=0.01)
    one = InstrumentPlan("fake", lambda: instrument.driver(clock), "fake", supervision=quick)
    with Station(StationPlan(tmp_path / "data", instruments=(one,))) as station:
        door = Serving(station)
        while sum(s.rows for s in door.stats().recorder.streams) < 60:
            pause()
        door.want("fake", Level.READY, "")
        wait_durable(station)
        page = door.last(Wanted("fake/fake", rows=50))
        assert page.rows == 50
        assert len([i for i in page.items if isinstance(i, Block)]) < 10


def test_books_balance_over_stops_and_starts(tmp_path: Path) -> None:
    with Station(wave_plan(tmp_path / "data")) as station:
        door = Serving(station)
        for n in range(1, 5):
            wait_rows(door, 100 * n)
            level = Level.READY if n % 2 else Level.DISCONNECTED
            assert door.want("wave", level, "by a test").stats.wanted == level
            door.want("wave", Level.ACQUIRING, "")
        wait_rows(door, 500)
    found = verify(tmp_path / "data")
    assert found.ok, found.problems
    gaps = [i for i in Reader(tmp_path / "data").blocks("wave/wave") if isinstance(i, Gap)]
    assert {g.reason for g in gaps} == {Reason.STOPPED}
    assert {g.detail for g in gaps} == {"by a test"}


def test_names_that_are_not_there_are_told_with_near_ones(recorded: Serving) -> None:
    with pytest.raises(UnknownInstrument, match="did you mean 'wave'"):
        recorded.instrument("wav")
    with pytest.raises(UnknownStream, match="did you mean"):
        recorded.page(Wanted("wave/wav"))
    with pytest.raises(UnknownStream):
        recorded.stream("../facts")


def test_the_newest_row_is_the_last_that_came(recorded: Serving) -> None:
    (block,) = recorded.newest("wave")
    (last,) = recorded.last(Wanted("wave/wave", rows=1)).items
    assert isinstance(last, Block)
    assert (block.epoch, block.first) == (last.epoch, last.first)
    assert np.array_equal(block.columns[0], last.columns[0])


def test_the_audit_is_read_in_pages_newest_first(recorded: Serving) -> None:
    for n in range(5):
        recorded.audit(Audited("kim", "key", "127.0.0.1", f"POST /{n}", 200))
    first = recorded.audited(None, 3)
    assert [f.data["act"] for f in first] == ["POST /4", "POST /3", "POST /2"]
    rest = recorded.audited(first[-1].seq, 10)
    assert [f.data["act"] for f in rest] == ["POST /1", "POST /0"]
