"""One fault at every operation of a recovery: a start that is refused half-way has done no harm, and the next goes on.

What is recovered was killed with a segment open, rows in the journal and both of their ends torn.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from scidaq.block import Block
from scidaq.clock import SystemClock
from scidaq.errors import StationError
from scidaq.query import Reader
from scidaq.station import Station
from scidaq.store import recorder, verify
from scidaq.testing.faults import DiskFault, FaultyFiles
from tests.balance.rig import STREAM, Rig
from tests.faults.lives import Tally, clear, nothing_left, sweep
from tests.station.plans import plan, wait_for

MUCH, FEW = 5000, 12
ROWS = 2 * (MUCH + FEW)


def torn(data_dir: Path) -> None:
    """A directory whose station was killed: two segments, one open, rows in the journal, torn ends."""
    rig = Rig(data_dir, journal_move_s=60, segment_bytes=100_000).open()
    first = 0
    for rows in (MUCH, MUCH, FEW, FEW):
        rig.send(first, rows)
        rig.settle()
        first += rows
    rig.kill()
    dice = random.Random(1)
    for path in (*(data_dir / "streams").rglob("*.arrows"), *(data_dir / "journal").glob("*.log")):
        with path.open("ab") as file:
            file.write(dice.randbytes(3000))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("killed") / "d"
    torn(data_dir)
    return data_dir


def journals(data_dir: Path) -> list[Path]:
    return list((data_dir / "journal").iterdir())


def recover_on(data_dir: Path, files: FaultyFiles, tally: Tally) -> None:
    """Start until it is not refused, and stop."""
    for _ in range(40):
        clock = SystemClock()
        station = Station(plan(data_dir), clock, files)
        try:
            station.__enter__()
        except StationError as error:
            clear(error, str(data_dir))
            tally.refused += 1
            if tally.refused % 20 == 0:
                files.release()
            continue
        if any(not f.lasting for f in files.faults):
            files.release()
        # A journal file that could not be removed stays until the next start.
        wait_for(lambda: any("remove journal" in one for one in files.struck) or not journals(data_dir))
        station.__exit__(None, None, None)
        return
    raise AssertionError("it does not start on a sound disk")


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_fault_at_any_operation_of_a_recovery_loses_nothing(
    killed: Path,
    tmp_path: Path,
    lives: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.02)

    def lead(data_dir: Path, fault: DiskFault | None, seed: int, tally: Tally) -> FaultyFiles:
        """One recovery after a kill; then a start on a sound disk."""
        shutil.copytree(killed, data_dir)
        files = FaultyFiles(*([fault] if fault else []), seed=seed)
        started = time.monotonic()
        with nothing_left(str(fault)):
            recover_on(data_dir, files, tally)
        tally.count(files, time.monotonic() - started)
        with Station(plan(data_dir)) as station:  # and once more on a sound disk
            assert station.stats().projector.failures == 0
        assert not journals(data_dir)
        report = verify(data_dir)
        assert report.ok, [str(p) for p in report.problems]
        assert report.segments == report.sealed
        rows = 0
        for item in Reader(data_dir).blocks(STREAM):
            assert isinstance(item, Block), item
            tally.wrong_values += int((item.column("n") != np.arange(item.first, item.end)).sum())
            rows += item.rows
        tally.rows_compared += rows
        tally.rows_lost += ROWS - rows
        assert rows == ROWS
        assert len(list((data_dir / "quarantine").glob("*.json"))) >= 2, "the torn ends are kept"
        return files

    sweep(lead, tmp_path, lives and max(1, lives // 3), capsys)  # each takes about a second
