"""The disk fails, and then the power: whatever part of what was not synced survives, nothing durable is lost."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from scidaq.catalog import NewRun
from scidaq.errors import StationError, WriteFailed
from scidaq.station import Station
from scidaq.store import recorder
from scidaq.testing.faults import DiskFault, FaultyFiles
from scidaq.testing.powercut import PowerCutFiles
from tests.crash.recording import plan_of
from tests.crash.test_kill import Tally
from tests.crash.test_power_cut import Cuts, recover
from tests.faults.lives import KINDS, say

CUTS_PER_RUN = 15
RUN_S = 0.8
FIRST, LAST = 40, 700
"""Between which operations the faults come; before is the start."""


def record(root: Path, dice: random.Random, wanted: int) -> Cuts:
    """Record on a disk with faults, and cut the power again and again meanwhile."""
    data_dir = root / "recorded"
    cuts = Cuts(root, dice, wanted, source=data_dir)
    faults = [DiskFault(dice.choice(KINDS), dice.randrange(FIRST, LAST), dice.choice((1, 1, 2, 5))) for _ in range(8)]
    faults += [DiskFault("lost", dice.randrange(5, 80)) for _ in range(3)]
    files = cuts.files = PowerCutFiles(data_dir, cuts.moment, FaultyFiles(*faults, seed=dice.randrange(1 << 30)))
    station = Station(plan_of(data_dir), files=files)
    with contextlib.suppress(StationError), station:
        cuts.chance = 0.03
        with contextlib.suppress(WriteFailed):
            station.runs.start(NewRun("one"))
        time.sleep(RUN_S)  # real time: the simulated instruments make rows meanwhile
        cuts.chance = 0.2  # the stop seals everything
    return cuts


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_power_cut_after_faults_of_the_disk(
    tmp_path: Path, lives: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faulthandler.cancel_dump_traceback_later()
    monkeypatch.setattr(recorder, "RETRY_S", 0.02)
    seed = int(os.environ.get("SCIDAQ_FAULT_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    dice, tally, run = random.Random(seed), Tally(), 0
    wanted = lives // 3 or 300
    while tally.kills < wanted:
        cuts = record(tmp_path / str(run), dice, min(CUTS_PER_RUN, wanted - tally.kills))
        for left, durable in cuts.taken:
            recover(left, durable, dice, tally, again=False)
        assert not tally.problems, f"SCIDAQ_FAULT_SEED={seed}\n" + "\n".join(tally.problems[:20])
        shutil.rmtree(tmp_path / str(run))
        run += 1
    say(capsys, f"power cuts behind faults of the disk: {tally}")
    assert (tally.rows_lost, tally.wrong_values) == (0, 0)
