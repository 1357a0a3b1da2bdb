"""One fault at every operation of a whole station's life: what it had said to be durable is there afterwards.

A life is: start, record by journal and by segment, move, seal, a run, stop, start again, record, stop. Wherever the
disk fails in it, either the start is refused in words and the directory can be started later, or recording goes on when
the fault has passed; the book balances, nothing hangs, no thread and no open file is left over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from scidaq.catalog import NewRun
from scidaq.clock import SystemClock
from scidaq.errors import ScidaqError, StationError, WriteFailed
from scidaq.instruments.waveform import WaveformDriver
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.store import Options, Policy, recorder
from scidaq.testing.faults import DiskFault, FaultyFiles
from tests.crash.recording import INSTRUMENTS
from tests.crash.test_kill import Durable, look, take_marks
from tests.crash.test_kill import Tally as Looks
from tests.faults.lives import Tally, clear, nothing_left, sweep
from tests.station.plans import IMPATIENT

T = TypeVar("T")

CHOSEN = ("fast", "slow", "small", "uneven", "restless", "runs")
"""Of what the crash tests record: straight to segments, by the journal, with a change of epoch, in runs only."""
PATIENCE_S = 10.0
"""How soon recording goes on after a fault."""


def plan_of(data_dir: Path, clock: SystemClock) -> StationPlan:
    """The station that lives."""

    def instrument(name: str) -> InstrumentPlan:
        return InstrumentPlan(
            name,
            lambda: WaveformDriver(name, INSTRUMENTS[name], clock),
            "waveform",
            Policy.RUNS if name == "runs" else Policy.ALWAYS,
            pre_trigger_s=0.02 if name == "runs" else 0.0,
            supervision=IMPATIENT,
        )

    options = Options(
        sync_interval_ms=20,
        segment_bytes=1 << 17,
        journal_move_s=0.05,
        low_space_bytes=256 << 10,
        ballast_bytes=256 << 10,
    )
    return StationPlan(data_dir, "faults", tuple(instrument(n) for n in CHOSEN), options)


class Life:
    """Start, record, stop, start again, record, stop, on a disk that may fail."""

    def __init__(self, data_dir: Path, files: FaultyFiles, durable: Durable) -> None:
        self.dir, self.files, self.durable, self.clock = data_dir, files, durable, SystemClock()
        self.refused: list[StationError] = []
        self.until_released = any(not f.lasting for f in files.faults)

    def live(self) -> None:
        for _ in range(2):
            station = self.start()
            try:
                self.record(station)
            finally:
                self.stop(station)

    def start(self) -> Station:
        """Start; a refusal is in words, and says what to do."""
        while True:
            station = Station(plan_of(self.dir, self.clock), self.clock, self.files)
            try:
                return station.__enter__()
            except StationError as error:
                clear(error, str(self.dir))
                self.refused.append(error)
            if len(self.refused) > 3:
                self.files.release()
            assert len(self.refused) < 20, self.refused[-1]

    def record(self, station: Station) -> None:
        try:
            self._wait(lambda: self._went_on(station, {}), 0.5 if self.until_released else PATIENCE_S)
            self._run(station)
        finally:
            if self.until_released:
                self.files.release()
        before = {s.stream: s.durable_rows for s in station.stats().recorder.streams}
        went_on = self._wait(lambda: self._went_on(station, before), PATIENCE_S)
        assert went_on, f"recording did not go on: {station.stats().recorder} {station.stats().instruments}"
        take_marks(self.dir, self.durable)

    def _run(self, station: Station) -> None:
        """A run, tried until the disk takes the facts of its beginning and its end."""
        run = self._until_taken(lambda: station.runs.start(NewRun("one")))
        self._wait(lambda: False, 0.03)
        self._until_taken(lambda: station.runs.stop(run.id))

    def _until_taken(self, act: Callable[[], T]) -> T:
        for _ in range(50):
            try:
                return act()
            except WriteFailed as error:
                clear(error)
                self._wait(lambda: False, 0.02)
                if self.until_released:
                    self.files.release()
        raise AssertionError("the disk takes no facts")

    def _went_on(self, station: Station, before: dict[str, int]) -> bool:
        streams = {s.stream: s.durable_rows for s in station.stats().recorder.streams}
        always = {n for n in streams if not n.startswith("runs/")}
        return len(always) == 8 and all(streams[n] > before.get(n, 0) for n in always)

    def _wait(self, what: Callable[[], bool], seconds: float) -> bool:
        """Until something is so, noting what is published as durable."""
        deadline = time.monotonic() + seconds
        while not (so := what()) and time.monotonic() < deadline:
            take_marks(self.dir, self.durable)
            time.sleep(0.004)
        return so

    def stop(self, station: Station) -> None:
        try:
            station.__exit__(None, None, None)
        except ScidaqError as error:
            clear(error)
        take_marks(self.dir, self.durable)


def lead(data_dir: Path, fault: DiskFault | None, seed: int, tally: Tally) -> FaultyFiles:
    """One life of a whole station; then a start and a stop on a sound disk, and looks at what is there after each."""
    files = FaultyFiles(*([fault] if fault else []), seed=seed)
    durable: Durable = {}
    looks = Looks()
    started = time.monotonic()
    with nothing_left(str(fault)):
        life = Life(data_dir, files, durable)
        life.live()
        tally.refused += bool(life.refused)
        del life
    tally.count(files, time.monotonic() - started)
    look(data_dir, durable, looks)
    clock = SystemClock()
    with Station(plan_of(data_dir, clock), clock) as station:
        assert station.stats().projector.failures == 0
    look(data_dir, durable, looks, stopped=True)
    tally.rows_compared += looks.rows_checked
    tally.rows_lost += looks.rows_lost
    tally.wrong_values += looks.wrong_values
    tally.problems += looks.problems
    assert not looks.problems, looks.problems[:5]
    return files


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_fault_at_any_operation_of_a_station_loses_nothing_durable(
    tmp_path: Path, lives: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.02)
    sweep(lead, tmp_path, lives and max(1, lives // 3), capsys)  # each takes about a second
