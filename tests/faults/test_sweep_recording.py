"""One fault at every operation between the rings and the disk: what was delivered is recorded all the same.

An intake, a ring and a recorder are fed by hand. The ring is large, so that whatever the disk refuses for a while must
be written in the end: not one row may be missing, nor be there twice. Only at a stop on a full disk rows become a gap.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest

from scidaq.block import Reason, StreamSpec
from scidaq.errors import StationError
from scidaq.store import recorder
from scidaq.testing.faults import DiskFault, FaultyFiles
from tests.balance.rig import OTHER, Recording, Rig
from tests.faults.lives import Tally, nothing_left, sweep

MUCH = 5000
"""Rows of one send that go straight to the segment."""
FEW = 12


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.005)


class Life:
    """Start, journal, move, segment, seal, a change of epoch, stop, start again, stop: with a disk that may fail."""

    def __init__(self, data_dir: Path, files: FaultyFiles) -> None:
        self.rig = Rig(data_dir, journal_move_s=0.02, segment_bytes=1 << 16)
        self.rig.disk = self.files = files
        self.sent = 0
        self.refused = 0

    def start(self) -> None:
        """Start; where that is refused the lock is free, and the next start may succeed."""
        for _ in range(40):
            try:
                self.rig.open()
                return
            except (OSError, StationError):
                self.refused += 1
                with suppress(AttributeError):  # it may not have come to it
                    self.rig._lock.close()
            if self.refused > 30:
                self.files.release()
        raise AssertionError("it does not start on a sound disk")

    def send(self, rows: int) -> None:
        self.rig.send(self.sent, rows)
        self.sent += rows

    def stop(self) -> None:
        """By the stop the disk is sound again."""
        if any(not f.lasting for f in self.files.faults):
            self.files.release()
        self.rig.close()

    def moved(self) -> bool:
        """Whether rows have gone from the journal to a segment."""
        return any((self.rig.dir / "streams").rglob("*.arrows"))

    def live(self) -> None:
        self.start()
        for rows in (FEW, FEW):
            self.send(rows)
            self._settle()
        with suppress(AssertionError):
            self.rig.wait_for(self.moved, 0.2)
        for rows in (MUCH, MUCH, FEW):
            self.send(rows)
            self._settle()
        self.rig.spec = StreamSpec("wave", OTHER, "counter-0", backfill=True)
        self.rig.intake.begin(self.rig.spec)
        self.send(FEW)
        self.send(MUCH)
        self.stop()
        self.start()
        self.send(FEW)
        self._settle()
        self.send(MUCH)
        self.stop()

    def _settle(self) -> None:
        """Until all is durable; a disk that refuses for long is left alone."""
        with suppress(AssertionError):
            self.rig.settle(0.25 if any(not f.lasting for f in self.files.faults) else 5.0)


def lead(data_dir: Path, fault: DiskFault | None, seed: int, tally: Tally) -> FaultyFiles:
    """One life of a stream, from its ring to the disk; then a look at what is left of it."""
    files = FaultyFiles(*([fault] if fault else []), seed=seed)
    started = time.monotonic()
    with nothing_left(str(fault)):
        life = Life(data_dir, files)
        life.live()
        sent, refused = life.sent, life.refused
        del life  # which has files mapped
    tally.count(files, time.monotonic() - started)
    tally.refused += refused
    found = Recording(data_dir)
    tally.rows_compared += len(found.source_rows)
    assert found.total("delivered") == sent
    if fault is not None and fault.kind == "enospc" and fault.lasting > recorder.REFUSALS and found.total("gaps"):
        # A disk that says at the stop, again and again, that it is full: the rest is in a gap that says so.
        assert found.total("gaps") + len(found.source_rows) == sent
        assert {gap.reason for gap in found.gaps if gap.rows} == {Reason.DISK}
        tally.to_gaps += found.total("gaps")
    else:
        assert found.source_rows == list(range(sent))
    return files


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_fault_at_any_operation_of_a_recording_loses_nothing(
    tmp_path: Path, lives: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(lead, tmp_path, lives, capsys)
