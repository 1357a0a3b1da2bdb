"""What is put wrong with a station shows in its health, in the right component, and goes away by itself."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scidaq.instruments import SupervisionOptions, WaveformDriver
from scidaq.observe import MonitoringOptions, Report
from scidaq.station import InstrumentPlan, Station, StationPlan, station, watching
from scidaq.stats import Status
from scidaq.store import Options, PosixFiles
from scidaq.testing.faults import FaultyFiles
from tests.clock.shifted import ShiftedClock
from tests.faults.test_catalog import trouble
from tests.station.plans import IMPATIENT, QUICK, plan, wait_for, waveform

HANGS_SOON = replace(IMPATIENT, hang_after_s=0.3, late_floor_s=0.1, late_factor=2.0, first_row_s=0.1)
DEADLINE_S = 6.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "CLOCK_WATCH_S", 0.02)
    monkeypatch.setattr("scidaq.store.Projector.RETRY_S", 0.02)
    monkeypatch.setattr("scidaq.catalog.database.BUSY_MS", 20)


def watched(data_dir: Path, *instruments: InstrumentPlan, storage: Options = QUICK) -> StationPlan:
    monitoring = MonitoringOptions(health_check_interval_seconds=0.1)
    return replace(plan(data_dir, *instruments, storage=storage), monitoring=monitoring)


def ask(one: Station) -> Report:
    """The report, which comes within the deadline; that it is live depends on nothing."""
    began = time.monotonic()
    report = one.health.current(fresh=True)
    assert time.monotonic() - began < DEADLINE_S
    assert one.health.live()
    return report


def status(one: Station, component: str) -> Status:
    return ask(one).components[component].verdict.status


def healthy(one: Station) -> bool:
    return ask(one).status is Status.HEALTHY


def reason(one: Station, component: str, others: tuple[str, ...] = ()) -> str:
    """Why the component is not healthy; all but the `others` are."""
    report = ask(one)
    for name, c in report.components.items():
        assert name == component or name in others or c.verdict.status is Status.HEALTHY, (name, c.verdict)
    return report.components[component].verdict.reason


def adc(one: Station) -> WaveformDriver:
    driver = one._supervision.instruments["adc"].driver
    assert isinstance(driver, WaveformDriver)
    return driver


def test_a_station_that_records_is_healthy_in_all_components(tmp_path: Path) -> None:
    clock = ShiftedClock()
    with Station(watched(tmp_path / "d", waveform("adc", clock)), clock) as one:
        wait_for(lambda: healthy(one))
        components = ask(one).components
        assert set(components) >= {"instrument:adc", "storage", "buffers", "catalog", "clock"}
        assert components["storage"].verdict.details["free_bytes"]
        assert one.health.ready() == ""


def test_a_station_without_instruments_says_so(tmp_path: Path) -> None:
    with Station(watched(tmp_path / "d")) as one:
        assert reason(one, "instruments") == "no instrument is configured, so nothing is recorded"
        assert ask(one).status is Status.DEGRADED


def test_an_instrument_that_hangs(tmp_path: Path) -> None:
    clock = ShiftedClock()
    instrument = waveform("adc", clock, supervision=HANGS_SOON)
    with Station(watched(tmp_path / "d", instrument, waveform("other", clock)), clock) as one:
        wait_for(lambda: healthy(one))
        adc(one).hang(1.5, stubborn=True)
        wait_for(lambda: status(one, "instrument:adc") is Status.DEGRADED)  # before the watchdog has given it up
        assert "overdue after" in reason(one, "instrument:adc")
        wait_for(lambda: status(one, "instrument:adc") is Status.UNHEALTHY)
        wait_for(lambda: healthy(one))
        assert ask(one).components["instrument:adc"].verdict.details["reconnects"] == 1


def test_an_instrument_that_is_not_critical_makes_the_station_degraded(tmp_path: Path) -> None:
    clock = ShiftedClock()
    supervision = SupervisionOptions(read_timeout_s=0.05, reconnect_initial_s=0.02, reconnect_max_s=0.05)
    instrument = replace(waveform("adc", clock, supervision=supervision), critical=False)
    with Station(watched(tmp_path / "d", instrument, waveform("other", clock)), clock) as one:
        wait_for(lambda: healthy(one))
        adc(one).disconnect(1.0)
        wait_for(lambda: status(one, "instrument:adc") is Status.UNHEALTHY)
        assert ask(one).status is Status.DEGRADED
        wait_for(lambda: healthy(one))


@pytest.mark.parametrize("kind", ["locked", "read only", "I/O error"])
def test_a_catalog_that_cannot_be_used(tmp_path: Path, kind: str) -> None:
    clock = ShiftedClock()
    with Station(watched(tmp_path / "d", waveform("adc", clock)), clock) as one:
        wait_for(lambda: healthy(one))
        with trouble(kind, tmp_path / "d" / "catalog.sqlite"):
            wait_for(lambda: status(one, "catalog") is not Status.HEALTHY)
            assert "recording goes on" in reason(one, "catalog")
            assert ask(one).status is Status.DEGRADED
        wait_for(lambda: healthy(one))


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    clock, files = ShiftedClock(), FaultyFiles()
    with Station(watched(tmp_path / "d", waveform("adc", clock)), clock, files) as one:
        wait_for(lambda: healthy(one))
        files.also("enospc@1+")
        wait_for(lambda: status(one, "storage") is Status.UNHEALTHY)
        assert "the disk refuses rows of adc/wave" in reason(one, "storage", ("buffers", "catalog"))
        assert one.health.ready() == ""  # they wait in memory, and are accepted
        files.release()
        wait_for(lambda: healthy(one))


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10 << 30]
    monkeypatch.setattr(PosixFiles, "free_space", lambda *_: free[0])
    clock = ShiftedClock()
    with Station(watched(tmp_path / "d", waveform("adc", clock)), clock) as one:
        wait_for(lambda: healthy(one))
        free[0] = QUICK.low_space_bytes + 1
        assert "nearly full" in reason(one, "storage")
        free[0] = 1 << 20
        wait_for(lambda: status(one, "storage") is Status.UNHEALTHY)
        assert "too little room on the disk" in reason(one, "storage")
        assert one.health.ready() == "there is too little room on the disk"
        free[0] = 10 << 30
        wait_for(lambda: healthy(one))
        assert one.health.ready() == ""


@pytest.mark.parametrize("by_s", [3600, -3600])
def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_s: int) -> None:
    monkeypatch.setattr(watching, "STEP_TOLD_S", 0.5)
    clock = ShiftedClock()
    with Station(watched(tmp_path / "d", waveform("adc", clock)), clock) as one:
        wait_for(lambda: healthy(one))
        clock.wrong_ns = by_s * 1_000_000_000
        wait_for(lambda: status(one, "clock") is Status.DEGRADED)
        wait_for(lambda: one.stats().clock_steps == 1)
        assert f"the wall clock was stepped by {by_s:+d}.0" in reason(one, "clock")
        wait_for(lambda: healthy(one))


@pytest.mark.slow
def test_a_disk_that_does_not_answer_takes_no_other_component_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake = threading.Event()

    def free_space(*_: Any) -> int:
        if threading.current_thread().name == "health-storage":
            awake.wait(10)
        return 10 << 30

    clock = ShiftedClock()
    with Station(watched(tmp_path / "d", waveform("adc", clock)), clock) as one:
        wait_for(lambda: healthy(one))
        monkeypatch.setattr(PosixFiles, "free_space", free_space)
        assert "the check has not answered for" in reason(one, "storage")
        awake.set()
        wait_for(lambda: healthy(one))
