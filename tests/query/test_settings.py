"""The settings of every instrument at any moment, out of what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidaq.block import Block
from scidaq.catalog import FactsLog, InstrumentState, NewRun, Setting
from scidaq.clock import SystemClock
from scidaq.instruments import Supervisor
from scidaq.query import Reader, settings_at, snapshot_at
from scidaq.station import InstrumentPlan, Station
from scidaq.testing import FakeInstrument
from tests.station.plans import IMPATIENT, plan, wait_for, waveform


def fake(name: str, instrument: FakeInstrument, clock: SystemClock) -> InstrumentPlan:
    return InstrumentPlan(name, lambda: instrument.driver(clock), "fake", supervision=IMPATIENT)


def supervisor(station: Station, name: str) -> Supervisor:
    one = station._supervision.instruments[name]
    wait_for(lambda: one.state == "acquiring")
    return one


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """Two recordings with sets and reads in between, and moments between those."""
    data_dir, clock, moments = tmp_path_factory.mktemp("settings") / "d", SystemClock(), []
    for level in (2.5, 7.0):
        a, b = FakeInstrument(), FakeInstrument(values={"level": level})
        instruments = (fake("a", a, clock), fake("b", b, clock), waveform("w", clock))
        with Station(plan(data_dir, *instruments), clock) as station:
            one = supervisor(station, "a")
            supervisor(station, "b")
            supervisor(station, "w")
            moments.append(clock.now_ns())
            one.set("level", level)
            moments.append(clock.now_ns())
            a.values["level"] = level + 1
            one.get("level")
            moments.append(clock.now_ns())
    return data_dir, moments


def levels(settings: dict[str, dict[str, Setting]]) -> dict[str, str]:
    return {name: one["level"].value for name, one in settings.items()}


def test_at_any_moment_what_was_read_last(recorded: tuple[Path, list[int]]) -> None:
    data_dir, moments = recorded
    reader = Reader(data_dir)
    said = [levels(settings_at(reader, ns)) for ns in moments]
    assert said == [
        {"a": "1.0", "b": "2.5"},
        {"a": "2.5", "b": "2.5"},
        {"a": "3.5", "b": "2.5"},
        {"a": "1.0", "b": "7.0"},
        {"a": "7.0", "b": "7.0"},
        {"a": "8.0", "b": "7.0"},
    ]
    one = settings_at(reader, moments[1])["a"]["level"]
    assert one.unit == "V"
    assert moments[0] <= one.since_ns <= moments[1]
    assert settings_at(reader, moments[0] - 60_000_000_000) == {}


def test_the_very_moment_counts(recorded: tuple[Path, list[int]]) -> None:
    data_dir, moments = recorded
    reader = Reader(data_dir)
    since = settings_at(reader, moments[1])["a"]["level"].since_ns
    assert levels(settings_at(reader, since))["a"] == "2.5"
    assert levels(settings_at(reader, since - 1))["a"] == "1.0"


def test_a_snapshot_says_who_they_were(recorded: tuple[Path, list[int]]) -> None:
    data_dir, moments = recorded
    seen = snapshot_at(Reader(data_dir), moments[0])
    assert sorted(seen.instruments) == ["a", "b", "w"]
    assert seen.instruments["a"].identity == "Fake, Model 1, 0001, 1.0"
    assert seen.instruments["w"] == InstrumentState("waveform", seen.instruments["w"].identity, "", {}), (
        "it has no settings"
    )
    assert snapshot_at(Reader(data_dir), 0).instruments == {}


def test_a_stream_that_is_called_so_and_is_another_is_passed_over(tmp_path: Path) -> None:
    from scidaq.station import record

    with record(tmp_path, channels=["x"], stream="mine/settings") as rec:
        rec.add(x=1.0)
    reader = Reader(tmp_path)
    assert any(isinstance(item, Block) for item in reader.blocks("mine/settings"))
    assert settings_at(reader, 1 << 62) == {}


def test_a_value_that_had_no_room_is_not_what_it_was_before(tmp_path: Path) -> None:
    clock, instrument = SystemClock(), FakeInstrument()
    with Station(plan(tmp_path, fake("a", instrument, clock)), clock) as station:
        one = supervisor(station, "a")
        before = clock.now_ns()
        instrument.values["level"] = "x" * 1000
        one.get("level")
    assert levels(settings_at(Reader(tmp_path), before)) == {"a": "1.0"}
    assert settings_at(Reader(tmp_path), clock.now_ns()) == {}


# ---- in runs ----


def test_a_run_has_the_settings_of_its_start_and_its_end(tmp_path: Path) -> None:
    clock = SystemClock()
    with Station(plan(tmp_path, fake("a", FakeInstrument(), clock)), clock) as station:
        one = supervisor(station, "a")
        run = station.runs.start(NewRun("r"))
        one.set("level", 4)
        run = station.runs.stop(run.id)
        assert run.started is not None
        assert run.ended is not None
        assert run.started.instruments["a"].settings["level"].value == "1.0"
        assert run.ended.instruments["a"].settings["level"].value == "4.0"
        assert run.stop_ns is not None
        past = station.runs.add(NewRun("same", run.start_ns, run.stop_ns))
    assert past.started is not None
    # What is not on the disk yet is not read: the rest is.
    assert past.started.instruments["a"].identity == "Fake, Model 1, 0001, 1.0"
    with FactsLog.open(tmp_path / "facts") as log:
        from scidaq.catalog import RunKeeper

        keeper = RunKeeper(log, clock, snapshot_at=lambda ns: snapshot_at(Reader(tmp_path), ns))
        again = keeper.add(NewRun("again", run.start_ns, run.stop_ns))
    assert again.started is not None
    assert again.ended is not None
    assert again.started.instruments["a"].settings["level"].value == "1.0"
    assert again.ended.instruments["a"].settings["level"].value == "4.0"
