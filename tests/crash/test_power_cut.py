"""The power is cut at any moment: whatever part of the unsynced bytes survives, nothing durable is lost."""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scidaq.catalog import NewRun
from scidaq.station import Station, StationPlan
from scidaq.testing.powercut import PowerCutFiles, copy_others
from tests import figures
from tests.crash.recording import plan_of
from tests.crash.test_kill import Durable, Tally, look, take_marks

CUTS_PER_RUN = 15
RUN_S = 1.2


@dataclass
class Cuts:
    """Cuts the power at random moments of one recording, and keeps what is left each time."""

    root: Path
    rng: random.Random
    wanted: int
    taken: list[tuple[Path, Durable]] = field(default_factory=list)
    durable: Durable = field(default_factory=dict)
    files: PowerCutFiles | None = None
    source: Path | None = None
    chance: float = 0.0

    def moment(self, n: int) -> None:
        """Called before each verb."""
        if self.files is None or self.source is None or len(self.taken) >= self.wanted:
            return
        if self.rng.random() < self.chance:
            take_marks(self.source, self.durable)
            target = self.root / f"left-{len(self.taken)}"
            target.mkdir(parents=True)
            self.files.image(target, self.rng)
            if self.rng.random() < 0.5:  # the catalog syncs by itself, and may be lost as well
                copy_others(self.source, target, ("catalog.sqlite",))
            self.taken.append((target, {key: dict(said) for key, said in self.durable.items()}))


def record(root: Path, rng: random.Random, wanted: int) -> Cuts:
    """Record for a moment, and cut the power again and again meanwhile."""
    data_dir = root / "recorded"
    cuts = Cuts(root, rng, wanted, source=data_dir)
    files = cuts.files = PowerCutFiles(data_dir, cuts.moment)
    with Station(plan_of(data_dir), files=files) as station:
        cuts.chance = 0.02
        run = station.runs.start(NewRun("one"))
        time.sleep(RUN_S / 2)  # real time: the simulated instruments make rows meanwhile
        station.runs.stop(run.id)
        cuts.chance = 0.05
        time.sleep(RUN_S / 2)
        cuts.chance = 0.2  # the stop seals everything
    return cuts


def recover(left: Path, durable: Durable, rng: random.Random, tally: Tally, again: bool) -> None:
    """Open what is left, perhaps with the power cut once more while that goes on, and look at it."""
    if again:
        target = left.with_name(left.name + "-again")
        target.mkdir()
        at = rng.randrange(1, 60)
        files = PowerCutFiles(left)
        files.moment = lambda n: files.image(target, rng) if n == at else None
        with Station(StationPlan(left), files=files):
            pass
        if any(target.iterdir()):
            left = target
            shutil.rmtree(left / "config", ignore_errors=True)
    with Station(StationPlan(left)):
        pass
    tally.kills += 1
    look(left, durable, tally, stopped=True)


@pytest.mark.crash
@pytest.mark.timeout(3600)
def test_power_cuts(tmp_path: Path, kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("SCIDAQ_CRASH_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    faulthandler.cancel_dump_traceback_later()  # each cut has a time of its own
    tally = Tally()
    tally.by_how = {"power cuts": 0, "of these once more in recovery": 0}
    run = 0
    while tally.kills < kills:
        cuts = record(tmp_path / str(run), rng, min(CUTS_PER_RUN, kills - tally.kills))
        for left, durable in cuts.taken:
            again = rng.random() < 0.3
            recover(left, durable, rng, tally, again)
            tally.by_how["power cuts"] += 1
            tally.by_how["of these once more in recovery"] += again
        shutil.rmtree(tmp_path / str(run))
        run += 1
    with capsys.disabled():
        sys.stdout.write(f"\n{tally}\n")
    assert not tally.problems, f"SCIDAQ_CRASH_SEED={seed}\n" + "\n".join(tally.problems[:20])
    assert (tally.rows_lost, tally.wrong_values) == (0, 0)
    twice = tally.by_how["of these once more in recovery"]
    figures.write(tally.figures("`make powercut`: the power is cut while recording", f"{twice} of the last run twice"))
