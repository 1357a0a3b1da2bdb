"""A sync that failed has lost pages, and will not say so again: nothing that it covered is trusted, a seal neither."""

from __future__ import annotations

import errno
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


def test_rows_that_a_full_disk_refuses_again_and_again_at_the_stop_are_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    left = [0]

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if (verb, kind) == ("sync", "segment") and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "made up")

    rig = Rig(tmp_path / "d", segment_bytes=1 << 20)
    with rig:
        rig.send(0, FAST)
        rig.settle()
        rig.before, left[0] = before, 20
        rig.send(FAST, FAST)
        rig.wait_for(lambda: left[0] < 19)  # it is in the file, and its sync was refused
        left[0] = 14  # until it is given up, at the stop
    rig.before = None
    with rig:
        pass
    found = rig.read()
    assert found.total("recorded") + found.total("gaps") == 2 * FAST
