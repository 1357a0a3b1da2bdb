"""What nobody plans for: killed at each single operation, restarted at once, restarted as something else."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from scidaq.block import Reason
from scidaq.station import Station
from tests.balance.rig import OTHER, Killed, Rig
from tests.station.plans import plan


class Fuse:
    """Ends the thread that does the k-th operation on segments, journal and quarantine, and every one after it."""

    def __init__(self, k: int) -> None:
        self.k, self.done = k, 0

    def __call__(self, verb: str, kind: str, n: int, path: Path) -> None:
        if kind in ("segment", "journal", "quarantine"):
            self.done += 1
            if self.done >= self.k:
                raise Killed


def scenario(rig: Rig, fuse: Fuse) -> int:
    """A little of everything; how many rows were durable when it went."""

    def wait() -> None:
        rig.wait_for(lambda: rig.ring.stats().held_bytes == 0 or fuse.done >= fuse.k)

    at = 0
    for rows in (10, 20, 5000, 10, 10):
        rig.send(at, rows)
        at += rows
        wait()
        rig.send(at + 3, 5)
        at += 8
    rig.send(at - 8, 3)  # late
    rig.wait_a_moment()
    rig.spec = replace(rig.spec, schema=OTHER)
    rig.intake.begin(rig.spec)
    rig.send(at, 10)
    wait()
    return at + 10


@pytest.mark.slow
@pytest.mark.parametrize("start", range(4))
def test_killed_at_each_operation(tmp_path: Path, start: int) -> None:
    """And again at each operation of the recovery from that."""
    for k in range(1 + start, 90, 4):
        rig = Rig(tmp_path / str(k), journal_move_s=0.02)
        fuse = Fuse(k)
        rig.before = fuse
        rig.open()
        end = scenario(rig, fuse)
        rig.kill()
        marks = [rig.marks()]
        rig.read()
        for r in (1, 2, 3, 5, 8):
            rig.before = Fuse(r)
            with contextlib.suppress(Killed):
                rig.open()
            if rig.is_open:
                rig.wait_a_moment()
                rig.kill()
                marks.append(rig.marks())
            else:
                rig._lock.close()
            rig.read()
        rig.before = None
        rig.open()
        rig.send(end + 5, 10)
        rig.settle()
        rig.close()
        found = rig.read()
        for mark in marks:
            if mark is not None:
                assert len(found.rows.get(mark.epoch, [])) >= mark.durable_rows, (k, mark)
        assert found.source_rows[-10:] == list(range(end + 5, end + 15))


def test_a_stream_that_is_configured_no_more_keeps_what_was_in_the_journal(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "d", journal_move_s=60).open()
    rig.send(0, 100)
    rig.settle()
    rig.kill()
    assert list((tmp_path / "d" / "journal").iterdir())
    with Station(plan(tmp_path / "d")):
        pass
    assert list((tmp_path / "d" / "journal").iterdir()) == []
    assert rig.read().source_rows == list(range(100))


def test_another_schema_after_a_kill_begins_an_epoch_and_keeps_the_journal(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "d", journal_move_s=60).open()
    rig.send(0, 100)
    rig.settle()
    rig.kill()
    rig.spec = replace(rig.spec, schema=OTHER)
    rig.open()
    rig.send(130, 10)
    rig.settle()
    rig.kill()
    rig.open()
    rig.send(140, 10)
    rig.close()
    found = rig.read()
    assert found.source_rows == [*range(100), *range(130, 150)]
    assert found.gap_list() == [(1, 0, 30, Reason.SCHEMA)]


def test_many_restarts_within_a_second(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "d")
    at = 0
    for i in range(20):
        rig.open()
        rig.send(at, 10)
        at += 10
        if i % 3 == 0:
            rig.kill()
        else:
            rig.close()
        rig.read()
    rig.open()
    rig.send(at, 10)
    rig.close()
    found = rig.read()
    assert found.total("delivered") == at + 10 - (found.epochs[0].origin)
    assert found.total("recorded") + found.total("gaps") == found.total("delivered")


def test_rows_that_are_late_by_a_sealed_segment_and_a_restart(tmp_path: Path) -> None:
    with Rig(tmp_path / "d", segment_bytes=1) as rig:
        rig.send(0, 5000)
        rig.send(6000, 5000)
        rig.settle()
        rig.send(5000, 400)
        rig.settle()
    rig.open()
    rig.send(5400, 300)
    rig.send(11000, 10)
    rig.settle()
    rig.kill()
    rig.open().close()
    found = rig.read()
    assert found.source_rows == [*range(5700), *range(6000, 11010)]
    assert found.gap_list() == [(0, 5700, 6000, Reason.SOURCE)]
    assert found.total("duplicates") == 0


def test_the_same_rows_come_again_after_a_restart(tmp_path: Path) -> None:
    with Rig(tmp_path / "d") as rig:
        rig.send(0, 100)
    rig.open()
    rig.send(50, 100)
    rig.send(20, 10, wrong=1)
    rig.close()
    found = rig.read()
    assert found.source_rows == list(range(150))
    assert found.total("duplicates") == 60
    assert len(list((rig.dir / "quarantine").glob("*conflict*"))) == 1


def test_rows_that_came_again_and_nothing_else_are_in_the_book_of_their_epoch(tmp_path: Path) -> None:
    with Rig(tmp_path / "d") as rig:
        rig.send(0, 10)
    files = sorted((rig.dir / "streams").rglob("*.arrows"))
    rig.open()
    rig.close()
    assert sorted((rig.dir / "streams").rglob("*.arrows")) == files, "a restart without rows writes nothing"
    rig.open()
    rig.send(4, 3)
    rig.close()
    assert rig.read().total("duplicates") == 3
    rig.open()
    rig.send(5, 3)
    rig.spec = replace(rig.spec, schema=OTHER)
    rig.intake.begin(rig.spec)
    rig.send(10, 5)
    rig.close()
    found = rig.read()
    assert (found.total("duplicates"), found.total("delivered")) == (6, 21)
