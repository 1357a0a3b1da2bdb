"""How a station ends: everything durable, every segment sealed, no journal left, and only then does it say so."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from scidaq.catalog import Fact, read_facts
from scidaq.errors import StationBusy
from scidaq.instruments import SupervisionOptions
from scidaq.station import InstrumentPlan, Station
from scidaq.store import verify
from scidaq.testing import FakeDriver, FakeInstrument
from scidaq.testing.crashing import WatchedFiles
from tests.station.plans import SystemClock, plan, wait_for, waveform


def facts(data_dir: Path) -> list[str]:
    return [f.kind for f in read_facts(data_dir / "facts") if isinstance(f, Fact)]


def test_a_stop_seals_everything_and_leaves_no_journal(tmp_path: Path) -> None:
    clock = SystemClock()
    data_dir = tmp_path / "d"
    instruments = waveform("fast", clock, rate_hz=200_000, channels=8), waveform("slow", clock, streams=3)
    with Station(plan(data_dir, *instruments), clock) as station:
        wait_for(lambda: sum(s.durable_rows > 100 for s in station.stats().recorder.streams) == 4)
        assert list((data_dir / "journal").iterdir())
    assert list((data_dir / "journal").iterdir()) == []
    report = verify(data_dir)
    assert report.ok, report.problems
    assert report.segments == report.sealed > 0
    assert report.notes == []
    assert facts(data_dir)[-1] == "station.stopped"
    with Station(plan(data_dir, *instruments), clock) as station:
        assert (station.recovered.sealed, station.recovered.quarantined) == (0, [])


def test_it_says_that_it_has_stopped_only_when_everything_is_durable(tmp_path: Path) -> None:
    clock = SystemClock()
    data_dir = tmp_path / "d"
    said: list[list[str]] = []
    closing = threading.Event()

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if closing.is_set() and kind in ("segment", "journal"):
            said.append(facts(data_dir))

    with Station(plan(data_dir, waveform("w", clock)), clock, WatchedFiles(before)) as station:
        wait_for(lambda: any(s.durable_rows > 100 for s in station.stats().recorder.streams))
        closing.set()
    assert said
    assert not any("station.stopped" in kinds for kinds in said)
    assert facts(data_dir)[-1] == "station.stopped"


def test_a_recording_that_could_not_be_ended_is_not_called_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scidaq.station import station as module

    monkeypatch.setattr(module, "CLOSE_S", 0.3)
    clock = SystemClock()
    data_dir = tmp_path / "d"
    hang, go = threading.Event(), threading.Event()

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if hang.is_set() and kind in ("segment", "journal"):
            go.wait(20)

    with Station(plan(data_dir, waveform("w", clock)), clock, WatchedFiles(before)) as station:
        wait_for(lambda: any(s.durable_rows > 100 for s in station.stats().recorder.streams))
        hang.set()
    assert facts(data_dir)[-1] != "station.stopped"
    with pytest.raises(StationBusy):  # what hangs may write yet
        Station(plan(data_dir), clock).__enter__()
    go.set()
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "recorder-encode"])
    report = verify(data_dir)
    assert report.ok, report.problems


def test_a_hanging_instrument_delays_no_other_and_all_go_to_their_safe_state(tmp_path: Path) -> None:
    clock = SystemClock()
    data_dir = tmp_path / "d"
    good, bad = FakeInstrument(), FakeInstrument(hang={"read": 1})
    patience = SupervisionOptions(read_timeout_s=0.05, hang_after_s=30, stop_timeout_s=0.5)
    instruments = (
        InstrumentPlan("bad", lambda: FakeDriver(bad, clock), supervision=patience),
        InstrumentPlan("good", lambda: FakeDriver(good, clock), supervision=patience),
        waveform("w", clock),
    )
    try:
        with Station(plan(data_dir, *instruments), clock) as station:
            wait_for(lambda: "read" in bad.calls)

            def rows(stream: str) -> int:
                return sum(s.durable_rows for s in station.stats().recorder.streams if s.stream == stream)

            wait_for(lambda: rows("w/wave") > 200 and rows("good/fake") > 2)
            assert rows("bad/fake") == 0
        assert "safe" in good.calls
        assert good.calls.index("safe") < good.calls.index("disarm")
    finally:
        bad.release.set()
    report = verify(data_dir)
    assert report.ok, report.problems
