"""Instruments come, go and change while all others are recorded: books balance, and nobody loses a row."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scidaq.block import Block, Gap, Reason
from scidaq.catalog import Fact, NewRun, read_facts
from scidaq.clock import SystemClock
from scidaq.errors import RequestError
from scidaq.query import Reader
from scidaq.station import InstrumentPlan, PlanChanges, Station
from scidaq.store import Policy, Segment, segment_files, verify
from scidaq.testing import FakeInstrument
from tests.station.plans import IMPATIENT, plan, wait_for, waveform

CLOCK = SystemClock()


@contextmanager
def recording(data_dir: Path, *instruments: InstrumentPlan) -> Iterator[Station]:
    """A station that records; afterwards every book is right."""
    with Station(plan(data_dir, *instruments), CLOCK) as station:
        yield station
    report = verify(data_dir)
    assert report.ok, report.problems
    assert all(b.balanced for b in report.balances)


def rows(station: Station, stream: str) -> int:
    return sum(s.durable_rows for s in station.stats().recorder.streams if s.stream == stream)


def wait_for_rows(station: Station, stream: str, more: int = 50) -> None:
    wanted = rows(station, stream) + more
    wait_for(lambda: rows(station, stream) >= wanted)


def gaps(data_dir: Path, stream: str) -> list[Gap]:
    return [item for item in Reader(data_dir).blocks(stream) if isinstance(item, Gap)]


def test_others_lose_no_row_while_instruments_come_and_go(tmp_path: Path) -> None:
    steady = waveform("steady", CLOCK, rate_hz=20_000)
    with recording(tmp_path, steady, waveform("a", CLOCK)) as station:
        for _ in range(3):
            wait_for_rows(station, "a/wave")
            assert station.apply(PlanChanges(remove=("a",), add=(waveform("b", CLOCK),))) == {}
            wait_for_rows(station, "b/wave")
            assert station.apply(PlanChanges(remove=("b",), add=(waveform("a", CLOCK),))) == {}
        wait_for_rows(station, "a/wave")
        stats = station.stats()
        assert {i.instrument for i in stats.instruments} == {"steady", "a"}
        assert {r.stream for r in stats.rings} == {i.stream for i in stats.intakes} == {"steady/wave", "a/wave"}
    assert gaps(tmp_path, "steady/wave") == []
    (steady_book,) = [b for b in verify(tmp_path).balances if b.stream == "steady/wave"]
    assert steady_book.ledger.delivered == steady_book.ledger.recorded


def test_a_source_that_numbers_its_rows_goes_on_in_its_epoch(tmp_path: Path) -> None:
    one = waveform("a", CLOCK, free_running=True)
    with recording(tmp_path, one) as station:
        for _ in range(2):
            wait_for_rows(station, "a/wave")
            station.apply(PlanChanges(remove=("a",)))
            assert station.stats().instruments == ()
            station.apply(PlanChanges(add=(one,)))
        wait_for_rows(station, "a/wave")
    assert {b.epoch for b in verify(tmp_path).balances} == {0}
    found = gaps(tmp_path, "a/wave")
    assert len(found) == 2
    assert {g.reason for g in found} == {Reason.DISCONNECT}
    assert {g.detail for g in found} == {"the instrument was taken out or configured anew"}
    assert all(g.end > g.first for g in found)


def test_one_that_changes_begins_a_new_epoch(tmp_path: Path) -> None:
    with recording(tmp_path, waveform("a", CLOCK, channels=2)) as station:
        wait_for_rows(station, "a/wave")
        station.apply(PlanChanges(remove=("a",), add=(waveform("a", CLOCK, channels=3, rate_hz=4000),)))
        wait_for(lambda: any(s.epoch == 1 and s.durable_rows > 50 for s in station.stats().recorder.streams))
    shapes = {
        item.epoch: item.columns[0].shape[1] for item in Reader(tmp_path).blocks("a/wave") if isinstance(item, Block)
    }
    assert shapes == {0: 2, 1: 3}


def test_what_is_taken_out_is_sealed_soon(tmp_path: Path) -> None:
    with recording(
        tmp_path, waveform("steady", CLOCK), waveform("a", CLOCK), waveform("slow", CLOCK, rate_hz=50)
    ) as station:
        wait_for_rows(station, "a/wave")
        wait_for_rows(station, "slow/wave", 3)
        station.apply(PlanChanges(remove=("a", "slow")))
        for name in ("a", "slow"):
            directory = tmp_path / "streams" / name / "wave"

            def sealed(directory: Path = directory) -> bool:
                found = [path for _, path in segment_files(directory)]
                return bool(found) and all(Segment(memoryview(path.read_bytes()), path).sealed for path in found)

            wait_for(sealed)
        assert rows(station, "steady/wave") > 0


def test_the_policy_may_change(tmp_path: Path) -> None:
    with recording(tmp_path, waveform("a", CLOCK, free_running=True)) as station:
        wait_for_rows(station, "a/wave")
        never = waveform("a", CLOCK, record=Policy.NEVER, free_running=True)
        station.apply(PlanChanges(remove=("a",), add=(never,)))
        wait_for(lambda: all(s.rows == s.durable_rows for s in station.stats().recorder.streams))
        before = rows(station, "a/wave")
        seen = station.stats().intakes[0].delivered
        wait_for(lambda: station.stats().intakes[0].delivered > seen + 200)
        assert rows(station, "a/wave") == before
        runs = waveform("a", CLOCK, record=Policy.RUNS, pre_trigger_s=0.05, free_running=True)
        station.apply(PlanChanges(remove=("a",), add=(runs,)))
        seen = station.stats().intakes[0].delivered
        wait_for(lambda: station.stats().intakes[0].delivered > seen + 200)
        always = waveform("a", CLOCK, free_running=True)
        station.apply(PlanChanges(remove=("a",), add=(always,)))
        wait_for_rows(station, "a/wave")
    (book,) = verify(tmp_path).balances
    assert book.ledger.left_out > 0


def test_one_that_hangs_is_left_behind_and_delays_nobody(tmp_path: Path) -> None:
    fake = FakeInstrument(hang={"safe": 1})
    stuck = InstrumentPlan("stuck", lambda: fake.driver(CLOCK), supervision=IMPATIENT)
    try:
        with recording(tmp_path, waveform("steady", CLOCK), stuck) as station:
            wait_for_rows(station, "stuck/fake", 1)
            station.apply(PlanChanges(remove=("stuck",), add=(stuck,)))
            wait_for_rows(station, "stuck/fake", 1)
    finally:
        fake.release.set()
    assert gaps(tmp_path, "steady/wave") == []


def test_one_that_cannot_be_put_in_is_told_and_the_others_are(tmp_path: Path) -> None:
    class Taken:
        resource = "tcp://somewhere:1"

        def __init__(self) -> None:
            raise ValueError("address: it is taken")

    with recording(tmp_path, waveform("a", CLOCK)) as station:
        bad = InstrumentPlan("bad", Taken, supervision=IMPATIENT)  # type: ignore[arg-type]
        problems = station.apply(PlanChanges(add=(bad, waveform("b", CLOCK))))
        assert list(problems) == ["bad"]
        assert "it is taken" in problems["bad"]
        wait_for_rows(station, "b/wave")
        assert [one.id for one in station.plan.instruments] == ["a", "b"]
        assert station.apply(PlanChanges(add=(waveform("bad", CLOCK),))) == {}
        wait_for_rows(station, "bad/wave")


def test_changes_are_facts(tmp_path: Path) -> None:
    with recording(tmp_path, waveform("a", CLOCK)) as station:
        station.apply(PlanChanges(remove=("a",), add=(waveform("b", CLOCK),), config_hash="12ab"))
        run = station.runs.start(NewRun("afterwards"))
        assert run.config_hash == "12ab"
    facts = [f for f in read_facts(tmp_path / "facts") if isinstance(f, Fact)]
    (changed,) = [f.data for f in facts if f.kind == "station.changed"]
    assert changed == {"removed": ["a"], "added": ["b"], "config_hash": "12ab"}


def test_nothing_changes_before_and_after(tmp_path: Path) -> None:
    station = Station(plan(tmp_path, waveform("a", CLOCK)), CLOCK)
    with pytest.raises(RequestError, match="starting or stopping"):
        station.apply(PlanChanges())
    with station:
        pass
    with pytest.raises(RequestError, match="starting or stopping"):
        station.apply(PlanChanges(remove=("a",)))


@pytest.mark.slow
def test_changes_from_many_threads_while_the_station_closes(tmp_path: Path) -> None:
    with recording(tmp_path, waveform("steady", CLOCK)) as station:

        def change(name: str) -> None:
            try:
                while True:
                    station.apply(PlanChanges(add=(waveform(name, CLOCK),)))
                    station.apply(PlanChanges(remove=(name,)))
            except RequestError:
                pass

        threads = [threading.Thread(target=change, args=(f"a{n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        wait_for_rows(station, "steady/wave", 1000)
    for thread in threads:
        thread.join()
