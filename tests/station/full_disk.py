"""What is recorded on a small file system that runs full: `python -m tests.station.full_disk SCENARIO MOUNTED`.

Runs in a process that alone sees the file system. The simulated instruments count in step with the machine's clock, so
what they made is known, and every row of it has to be recorded or in a gap.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scidaq.block import Gap, Reason
from scidaq.clock import SystemClock
from scidaq.errors import StationError
from scidaq.instruments.waveform import WaveformDriver
from scidaq.pipeline import Options as Pipeline
from scidaq.query import Reader
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.store import Options, verify
from tests.crash.recording import INSTRUMENTS
from tests.crash.test_kill import Durable, Tally, look, take_marks

NAMES = ("fast", "slow", "small", "faulty")
MIB = 1 << 20


class Disk:
    """A small file system, and somebody else who fills it."""

    def __init__(self, place: Path) -> None:
        self.data_dir, self.filler = place / "data", place / "filler"

    @property
    def free(self) -> int:
        return os.statvfs(self.filler.parent).f_bavail * os.statvfs(self.filler.parent).f_frsize

    def fill(self, leave: int) -> None:
        """Take space until only so much is left; all of it when that is 0."""
        with open(self.filler, "ab", buffering=0) as file:
            try:
                while self.free > leave:
                    file.write(bytes(max(512, min(MIB, self.free - leave))))
            except OSError:
                return

    def give_back(self) -> None:
        self.filler.unlink()


def plan_of(disk: Disk) -> StationPlan:
    clock = SystemClock()

    def instrument(name: str) -> InstrumentPlan:
        return InstrumentPlan(name, lambda: WaveformDriver(name, INSTRUMENTS[name], clock), "waveform")

    return StationPlan(
        disk.data_dir,
        "full",
        tuple(instrument(n) for n in NAMES),
        Options(sync_interval_ms=20, segment_bytes=MIB, journal_move_s=0.15),
        Pipeline(ring_seconds=1.0),
    )


def until(what: Callable[[], Any], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to it")
        time.sleep(0.01)


def space_of(station: Station) -> Any:
    return station.stats().recorder.space


def refused(station: Station) -> int:
    return sum(r.refused_rows for r in station.stats().rings)


def run_full(station: Station, disk: Disk, durable: Durable) -> None:
    """Record until the disk is full, and rows are lost."""
    until(lambda: station.stats().recorder.writing.written_bytes > MIB)
    disk.fill(leave=20 * MIB)
    until(lambda: space_of(station).low)  # we stop by ourselves ...
    assert disk.free > 0, "before it is full"
    disk.fill(leave=0)  # ... and somebody takes the rest
    before = refused(station)
    until(lambda: refused(station) > before)
    take_marks(disk.data_dir, durable)


def checked(disk: Disk, durable: Durable, stopped: bool) -> None:
    """Every row is right and accounted for, and nothing that was durable is missing."""
    tally = Tally()
    look(disk.data_dir, durable, tally, stopped=stopped)
    assert not tally.problems, tally.problems[:10]
    assert (tally.rows_lost, tally.wrong_values) == (0, 0)
    report = verify(disk.data_dir)
    assert report.ok
    assert all(b.balanced and b.ledger.imbalance == 0 for b in report.balances)


def disk_gaps(disk: Disk) -> list[Gap]:
    found = [item for item in Reader(disk.data_dir).blocks("fast/wave") if isinstance(item, Gap)]
    return [g for g in found if g.reason is Reason.DISK]


def frees(disk: Disk) -> None:
    """It runs full and is freed: recording goes on by itself."""
    durable: Durable = {}
    with Station(plan_of(disk)) as station:
        run_full(station, disk, durable)
        before = station.stats().recorder.streams
        disk.give_back()
        until(lambda: not space_of(station).low)
        until(lambda: all(now.durable_rows > was.durable_rows for was, now in zip(before, fresh(station), strict=True)))
        assert space_of(station).times_low >= 1
        take_marks(disk.data_dir, durable)
    checked(disk, durable, stopped=True)
    assert disk_gaps(disk), "what found no room is told"


def fresh(station: Station) -> Any:
    return station.stats().recorder.streams


def stops(disk: Disk) -> None:
    """It is stopped while the disk is full: the ballast makes room to close cleanly, and to start again."""
    durable: Durable = {}
    with Station(plan_of(disk)) as station:
        run_full(station, disk, durable)
        assert space_of(station).ballast_bytes > 0
    checked(disk, durable, stopped=True)
    assert disk_gaps(disk)
    with Station(plan_of(disk)) as station:  # full from the start
        until(lambda: refused(station) > 0)
        take_marks(disk.data_dir, durable)
        disk.give_back()
        until(lambda: not space_of(station).low)
        until(lambda: space_of(station).ballast_bytes > 0)  # put by again
    checked(disk, durable, stopped=True)


def refuses(disk: Disk) -> None:
    """Not even what a start needs is left: it says so, touches nothing, and starts when there is room."""
    durable: Durable = {}
    with Station(plan_of(disk)) as station:
        until(lambda: station.stats().recorder.writing.written_bytes > MIB)
        take_marks(disk.data_dir, durable)
    (disk.data_dir / "ballast").unlink()
    disk.fill(leave=0)
    with pytest.raises(StationError, match="no space left"), Station(plan_of(disk)):
        pass
    disk.give_back()
    checked(disk, durable, stopped=True)
    with Station(plan_of(disk)) as station:
        until(lambda: station.stats().recorder.writing.written_bytes > MIB)
    checked(disk, durable, stopped=True)


def killed(disk: Disk) -> None:
    """It is killed while the disk is full, and started while it still is."""
    durable: Durable = {}
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_until_killed, args=(disk, theirs))
    process.start()
    assert ours.poll(60)
    assert ours.recv() == "full"
    process.kill()
    process.join()
    take_marks(disk.data_dir, durable)
    checked(disk, durable, stopped=False)
    with Station(plan_of(disk)) as station:
        until(lambda: refused(station) > 0)
        disk.give_back()
        until(lambda: not space_of(station).low)
    checked(disk, durable, stopped=True)


def _until_killed(disk: Disk, tell: Any) -> None:
    with Station(plan_of(disk)) as station:
        run_full(station, disk, {})
        tell.send("full")
        time.sleep(60)


SCENARIOS = {"frees": frees, "stops": stops, "killed": killed, "refuses": refuses}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Disk(Path(sys.argv[2])))
    sys.stdout.write("all is well\n")
