"""The disk refuses, slows down and comes back: nothing that was delivered may be missing afterwards."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from scidaq.block import StreamSpec
from scidaq.store import Policy, recorder
from tests.balance.rig import OTHER, Rig

FAST = 8192
"""Rows of one send that go straight to the segment."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)


class Trouble:
    """Holds a sync of a kind until it is let go, then lets it (or the one behind it) fail."""

    def __init__(self, rig: Rig, verb: str, kind: str) -> None:
        self.verb, self.kind = verb, kind
        self.reached, self.go = threading.Event(), threading.Event()
        self.hold_next = False
        self.fail_next = 0
        self.seen = 0
        rig.before = self.before

    def before(self, verb: str, kind: str, n: int, path: Path) -> None:
        if (verb, kind) != (self.verb, self.kind):
            return
        self.seen += 1
        if self.hold_next:
            self.hold_next = False
            self.reached.set()
            assert self.go.wait(10)
        elif self.fail_next and self.reached.is_set():
            self.fail_next -= 1
            raise OSError(errno.EIO, "made up")


@pytest.mark.parametrize("rows", [10, FAST], ids=["journal", "segment"])
def test_a_commit_that_fails_while_the_one_before_it_is_slow_is_written_again(tmp_path: Path, rows: int) -> None:
    kind = "journal" if rows == 10 else "segment"
    with Rig(tmp_path / "d", journal_move_s=60, segment_bytes=1 << 20) as rig:
        rig.send(0, rows)
        rig.settle()
        trouble = Trouble(rig, "sync", kind)
        trouble.hold_next, trouble.fail_next = True, 1
        rig.send(rows, rows)
        rig.wait_for(trouble.reached.is_set)  # its sync is under way ...
        before = rig.recorder.stats().commits
        rig.send(2 * rows, rows)
        rig.wait_for(lambda: rig.recorder.stats().commits > before)  # ... and the next commit waits behind it
        trouble.go.set()
        rig.wait_for(lambda: trouble.fail_next == 0)
        rig.send(3 * rows, rows)
        rig.settle()
    found = rig.read()
    assert found.source_rows == list(range(4 * rows))
    assert found.total("gaps") == 0


def test_a_failed_seal_takes_the_commits_behind_it_back_too(tmp_path: Path) -> None:
    # The segment is full with each commit, so that the next commit goes to another file.
    with Rig(tmp_path / "d", segment_bytes=1) as rig:
        rig.send(0, FAST)
        rig.settle()
        trouble = Trouble(rig, "append", "segment")
        failures = [True]

        def before(verb: str, kind: str, n: int, path: Path) -> None:
            if (verb, kind) == ("sync", "segment") and not path.name.startswith(".") and failures:
                trouble.reached.set()
                assert trouble.go.wait(10)
                failures.pop()
                raise OSError(errno.EIO, "made up")

        rig.before = before
        rig.send(FAST, FAST)
        rig.wait_for(trouble.reached.is_set)
        before_ = rig.recorder.stats().commits
        rig.send(2 * FAST, FAST)
        rig.wait_for(lambda: rig.recorder.stats().commits > before_)
        trouble.go.set()
        rig.send(3 * FAST, FAST)
        rig.settle()
    found = rig.read()
    assert found.source_rows == list(range(4 * FAST))


def test_a_failure_at_a_change_of_epoch_loses_nothing_of_either(tmp_path: Path) -> None:
    for verb in ("create", "append", "sync", "rename", "sync_dir"):
        for kind in ("segment", "journal"):
            for n in range(1, 4):
                _change_of_epoch(tmp_path / f"{verb}-{kind}-{n}", verb, kind, n)


def _change_of_epoch(data_dir: Path, verb: str, kind: str, nth: int) -> None:
    with Rig(data_dir, journal_move_s=60) as rig:
        rig.send(0, 10)
        rig.settle()
        left = [nth]

        def before(v: str, k: str, n: int, path: Path) -> None:
            if (v, k) == (verb, kind) and left[0]:
                left[0] -= 1
                if not left[0]:
                    raise OSError(errno.ENOSPC, "made up")

        rig.before = before
        rig.send(10, 10)
        rig.spec = StreamSpec("wave", OTHER, "counter-0", True)
        rig.intake.begin(rig.spec)
        rig.send(20, 10)
        rig.send(30, 10)
        rig.settle()
        rig.send(40, 10)
    found = rig.read()
    assert found.source_rows == list(range(50)), (verb, kind, nth)
    assert sorted(found.epochs) == [0, 1]


@pytest.mark.parametrize("rows", [10, FAST], ids=["journal", "segment"])
@pytest.mark.parametrize("verb", ["create", "append", "sync", "rename", "sync_dir"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_any_one_failure_loses_nothing(tmp_path: Path, verb: str, nth: int, rows: int) -> None:
    left = [nth]

    def before(v: str, kind: str, n: int, path: Path) -> None:
        if v == verb and kind in ("segment", "journal"):
            left[0] -= 1
            if not left[0]:
                raise OSError(errno.EIO, "made up")

    rig = Rig(tmp_path / "d")
    with rig:
        rig.before = before
        for i in range(12):
            rig.send(i * rows, rows)
            if i % 3 == 2:
                rig.settle()
    found = rig.read()
    assert found.source_rows == list(range(12 * rows))
    assert found.total("delivered") == 12 * rows


def test_a_disk_that_refuses_for_a_while_delays_and_loses_nothing(tmp_path: Path) -> None:
    refused = [0]

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if verb in ("append", "sync", "create") and kind in ("segment", "journal") and refused[0] < 12:
            refused[0] += 1
            raise OSError(errno.ENOSPC, "made up")

    with Rig(tmp_path / "d") as rig:
        rig.send(0, 100)
        rig.settle()
        rig.before = before
        for i in range(1, 8):
            rig.send(i * 100, 100)
        rig.wait_for(lambda: refused[0] >= 12)
        rig.send(800, FAST)
        rig.settle()
    assert rig.read().source_rows == list(range(800 + FAST))


def test_rows_of_a_run_that_the_disk_refused_belong_to_the_run_when_they_are_written_again(tmp_path: Path) -> None:
    with Rig(tmp_path / "d", policy=Policy.RUNS, pre_trigger_s=0.02) as rig:
        for i in range(10):
            rig.send(i * 10, 10)  # 100 rows of 1 ms, the last 20 ms of which belong to the run
        rig.wait_for(lambda: rig.book.left_out >= 70)
        trouble = Trouble(rig, "sync", "journal")
        trouble.hold_next = True
        failures = [True]
        inner = rig.before
        assert inner is not None

        def before(verb: str, kind: str, n: int, path: Path) -> None:
            inner(verb, kind, n, path)
            if (verb, kind) == ("sync", "journal") and failures:
                failures.pop()
                raise OSError(errno.EIO, "made up")

        rig.before = before
        rig.recorder.set_recording(True)
        rig.send(100, 50)
        rig.wait_for(trouble.reached.is_set)
        rig.recorder.set_recording(False)
        rig.send(150, 50)  # after the run
        rig.wait_for(lambda: not rig.track.recording)
        trouble.go.set()
        rig.wait_for(lambda: rig.recorder.stats().writing.failures > 0)
        rig.wait_for(lambda: rig.book.durable_rows >= 50)
    found = rig.read()
    assert set(range(100, 150)) <= set(found.source_rows), "the run is whole"
    assert not set(range(150, 200)) & set(found.source_rows), "what came after it is not part of it"
    assert not set(range(70)) & set(found.source_rows), "nor what came long before"
    assert set(range(80, 100)) <= set(found.source_rows), "its pre-trigger is"
    assert found.total("left_out") + found.total("recorded") == 200


def test_a_run_that_ended_behind_the_last_durable_row_has_ended_when_rows_are_looked_at_again(tmp_path: Path) -> None:
    with Rig(tmp_path / "d", policy=Policy.RUNS, pre_trigger_s=0.05) as rig:
        rig.recorder.set_recording(True)
        rig.send(0, 50)
        rig.settle()
        rig.recorder.set_recording(False)
        rig.wait_for(lambda: not rig.track.recording)
        rig.send(50, 10)  # held, because a run may still want it
        rig.wait_for(lambda: bool(rig.track.held))
        failures = [True]

        def before(verb: str, kind: str, n: int, path: Path) -> None:
            if (verb, kind) == ("sync", "segment") and failures:
                failures.pop()
                raise OSError(errno.EIO, "made up")

        rig.before = before  # the end of the segment, which says what was left out
    found = rig.read()
    assert found.source_rows == list(range(50))
    assert found.total("left_out") == 10
