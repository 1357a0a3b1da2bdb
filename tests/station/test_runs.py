"""Runs on a station: what is recorded of them, and what a stop or a kill makes of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from scidaq.block import Block
from scidaq.catalog import Fact, NewRun, Run, RunChanges, read_facts, read_run_book
from scidaq.clock import SystemClock
from scidaq.query import Reader
from scidaq.station import Station, StationPlan
from scidaq.store import Policy, verify
from tests.station.plans import plan, wait_for, waveform


def planned(data_dir: Path, clock: SystemClock, run: NewRun | None = None) -> StationPlan:
    instruments = (waveform("always", clock), waveform("one", clock, Policy.RUNS), waveform("two", clock, Policy.RUNS))
    return replace(plan(data_dir, *instruments), run=run, version="9.9", config_hash="cafe")


def rows(data_dir: Path, stream: str, run: Run) -> int:
    items = Reader(data_dir).blocks(stream, run.start_ns, run.stop_ns)
    return sum(item.rows for item in items if isinstance(item, Block))


def delivered(station: Station, more_than: int = 100) -> None:
    """Wait until each stream has delivered some."""
    wait_for(lambda: sum(s.delivered > more_than for s in station.stats().recorder.streams) == 3)


def recorded(station: Station) -> dict[str, int]:
    return {s.stream.partition("/")[0]: s.rows for s in station.stats().recorder.streams}


def test_a_run_for_the_length_of_the_recording(tmp_path: Path) -> None:
    clock = SystemClock()
    with Station(planned(tmp_path, clock, NewRun("night", operator="Ada")), clock) as station:
        delivered(station)
        assert [r.name for r in station.runs.book.under_way()] == ["night"]
    run = read_run_book(tmp_path / "facts").run("night")
    assert (run.reason, run.operator, run.version, run.config_hash) == ("station stopped", "Ada", "9.9", "cafe")
    assert run.started is not None
    assert run.ended is not None
    assert set(run.started.instruments) == set(run.ended.instruments) == {"always", "one", "two"}
    assert all(one.identity for one in run.started.instruments.values())
    assert {one.state for one in run.ended.instruments.values()} == {"acquiring"}
    found = verify(tmp_path)
    assert found.ok
    assert all(b.ledger.left_out == 0 for b in found.balances), "every row lies in the run"
    for stream in ("always/wave", "one/wave"):
        assert rows(tmp_path, stream, run) == sum(s.rows for s in Reader(tmp_path).streams() if s.stream == stream)
    started = next(f for f in read_facts(tmp_path / "facts") if isinstance(f, Fact))
    assert (started.data["version"], started.data["config_hash"]) == ("9.9", "cafe")


def test_a_run_records_its_own_streams(tmp_path: Path) -> None:
    clock = SystemClock()
    with Station(planned(tmp_path, clock), clock) as station:
        delivered(station)
        assert recorded(station)["one"] == recorded(station)["two"] == 0
        first = station.runs.start(NewRun("first", streams=("one/*",)))
        wait_for(lambda: recorded(station)["one"] > 50)
        assert recorded(station)["two"] == 0
        station.runs.start(NewRun("second", streams=("two/wave", "one/wave")))
        wait_for(lambda: recorded(station)["two"] > 50)
        station.runs.stop("first")
        before = recorded(station)["one"]
        wait_for(lambda: recorded(station)["one"] > before + 50)  # the second wants it as well
        station.runs.edit("second", RunChanges(streams=("two/wave",)))
        wait_for(lambda: any(s.left_out > 300 for s in station.stats().recorder.streams if s.stream == "one/wave"))
        station.runs.stop("second")
    assert verify(tmp_path).ok
    run = read_run_book(tmp_path / "facts").run(first.id)
    assert run.stop_ns is not None
    # Nothing of a run is missing: 2,000 rows a second from its first moment to its last.
    expected = (run.stop_ns - run.start_ns) * 2000 / 1e9
    assert abs(rows(tmp_path, "one/wave", run) - expected) <= 25


@pytest.mark.parametrize("again", [True, False])
def test_after_a_kill_a_run_goes_on_or_is_ended_at_its_newest_row(tmp_path: Path, again: bool) -> None:
    clock = SystemClock()
    killed = Station(planned(tmp_path / "d", clock, NewRun("night")), clock)
    image = tmp_path / "image"
    with killed as station:
        delivered(station)
        wait_for(lambda: all(s.durable_rows > 50 for s in station.stats().recorder.streams))
        copy(tmp_path / "d", image)  # as a kill would leave it
        before = clock.now_ns()
    run = NewRun("night", sample="S") if again else None
    with Station(planned(image, clock, run), clock) as station:
        wait_for(lambda: all(i.rows > 100 for i in station.stats().instruments))
        under_way = station.runs.book.under_way()
    found = read_run_book(image / "facts").run("night")
    report = verify(image)
    assert report.ok
    left_out = {b.stream: b.ledger.left_out for b in report.balances}
    if again:
        assert [r.id for r in under_way] == [found.id]
        assert (len(found.resumed_ns), found.sample, found.reason) == (1, "S", "station stopped")
        assert left_out["one/wave"] == 0
    else:
        assert under_way == []
        assert found.reason == "interrupted"
        assert found.stop_ns is not None
        assert found.start_ns < found.stop_ns <= before
        assert left_out["one/wave"] > 0
        newest = max(b.last_ns for b in Reader(image).blocks("one/wave") if isinstance(b, Block))
        assert newest < found.stop_ns <= newest + 1_000_000_000


def copy(source: Path, target: Path) -> None:
    """What is there, while it is being written: facts first, as a backup would."""
    for part in ("station.json", "facts", "journal", "streams"):
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part)
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(source / part, target / part)
