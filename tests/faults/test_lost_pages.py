"""A sync that failed has lost pages, and will not say so again: nothing that it covered is trusted, a seal neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidaq.station import Station
from scidaq.store import Segment, recorder
from scidaq.testing.faults import FaultyFiles
from tests.balance.rig import Rig
from tests.faults.lives import descriptors
from tests.station.plans import plan, wait_for

FAST = 8192
"""Rows of one send that go straight to the segment."""


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("segment_bytes", [1, 1 << 20], ids=["each commit seals", "commits behind one another"])
@pytest.mark.parametrize("later", [1, 2, 3])
def test_rows_are_written_elsewhere_and_the_next_start_puts_aside_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, segment_bytes: int, later: int
) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    rig = Rig(tmp_path / "d", segment_bytes=segment_bytes)
    rig.disk = files = FaultyFiles(seed=seed)
    with rig:
        rig.send(0, FAST)
        rig.settle()
        files.also(f"lost@{files.operations('lost') + later}")
        for n in range(1, 5):
            rig.send(n * FAST, FAST)
            rig.settle()
        assert files.struck
    with rig:
        pass
    assert rig.read().source_rows == list(range(5 * FAST))
    for path in (rig.dir / "streams").rglob("*.arrows"):
        assert Segment(memoryview(path.read_bytes()), path).sealed, path


def test_nothing_that_recovery_looked_at_stays_mapped(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "d", journal_move_s=60, segment_bytes=1 << 20).open()
    for n in range(3):
        rig.send(n * FAST, FAST)
        rig.settle()
    rig.send(3 * FAST, 10)
    rig.settle()
    rig.kill()
    del rig
    before = descriptors()  # whose the dead threads' are
    with Station(plan(tmp_path / "d")) as station:
        assert station.recovered.sealed > 0
        wait_for(lambda: station.stats().projector.waiting == 0)
        wait_for(lambda: not {n for n in descriptors() - before if ".arrows" in n or ".log" in n})
