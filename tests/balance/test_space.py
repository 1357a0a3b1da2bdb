"""Too little room on the disk: rows wait, then become gaps; it goes on by itself, and closes with what is left."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from scidaq.block import Reason
from scidaq.store import BALLAST, Options, Policy, PosixFiles, Space, recorder
from tests.balance.rig import Rig

LOW = 1 << 20
FAST = 8192


class Room:
    """What the file system says is free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 10 * LOW
        monkeypatch.setattr(PosixFiles, "free_space", lambda *_: self.bytes)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setattr(recorder, "RETRY_S", 0.01)
    return Room(monkeypatch)


def rig_in(tmp_path: Path, **how: Any) -> Rig:
    return Rig(tmp_path / "d", low_space_bytes=LOW, **how)


def is_low(rig: Rig) -> bool:
    return bool(rig.recorder.stats().space.low)


def test_rows_wait_for_room_and_are_written_when_there_is_some(tmp_path: Path, room: Room) -> None:
    with rig_in(tmp_path) as rig:
        rig.send(0, 100)
        rig.settle()
        room.bytes = LOW - 1
        rig.wait_for(lambda: is_low(rig))
        rig.send(100, FAST)
        rig.send(100 + FAST, 10)
        for _ in range(5):
            rig.recorder.bell("dev/wave", 1 << 30)
            rig.wait_a_moment()
        assert rig.book.durable_rows == 100
        room.bytes = LOW + 1
        rig.wait_a_moment()
        assert is_low(rig), "not as soon as the mark is reached again"
        room.bytes = 2 * LOW
        rig.settle()
    found = rig.read()
    assert found.source_rows == list(range(110 + FAST))
    assert found.total("gaps") == 0


def test_rows_that_the_ring_does_not_hold_are_lost_to_the_disk(tmp_path: Path, room: Room) -> None:
    with rig_in(tmp_path, ring_bytes=1 << 18) as rig:
        rig.send(0, 100)
        rig.settle()
        room.bytes = 0
        rig.wait_for(lambda: is_low(rig))
        for i in range(4):
            rig.send(100 + i * FAST, FAST)  # 128 KiB each
        room.bytes = 10 * LOW
        rig.wait_for(lambda: rig.ring.stats().held_bytes == 0)
        rig.send(100 + 4 * FAST, 10)
        rig.settle()
    found = rig.read()
    assert found.gap_list() == [(0, 100 + 2 * FAST, 100 + 4 * FAST, Reason.DISK)]
    assert found.total("delivered") == 110 + 4 * FAST


def test_what_was_on_its_way_when_room_ran_out_does_not_change_the_reason(tmp_path: Path, room: Room) -> None:
    held, go = threading.Event(), threading.Event()

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if (verb, kind) == ("sync", "segment") and path.suffix == ".arrows" and not go.is_set():
            held.set()
            assert go.wait(10)

    with rig_in(tmp_path, ring_bytes=1 << 18, segment_bytes=1 << 24) as rig:
        rig.send(0, FAST)
        rig.settle()
        rig.before = before
        rig.send(FAST, FAST)
        rig.wait_for(held.is_set)
        room.bytes = 0
        rig.wait_for(lambda: is_low(rig))
        go.set()
        rig.wait_for(lambda: rig.book.durable_rows == 2 * FAST)
        for i in range(2, 6):
            rig.send(i * FAST, FAST)
        room.bytes = 10 * LOW
        rig.wait_for(lambda: rig.ring.stats().held_bytes == 0)
        rig.send(6 * FAST, 10)
        rig.settle()
    assert rig.read().gap_list() == [(0, 4 * FAST, 6 * FAST, Reason.DISK)]


def test_rows_that_nobody_wants_are_left_out_as_ever(tmp_path: Path, room: Room) -> None:
    with rig_in(tmp_path, policy=Policy.NEVER, ring_bytes=1 << 18) as rig:
        room.bytes = 0
        rig.wait_for(lambda: is_low(rig))
        for i in range(6):
            rig.send(i * FAST, FAST)
            rig.wait_for(lambda: rig.ring.stats().held_bytes == 0)
    found = rig.read()
    assert found.total("left_out") == 6 * FAST
    assert found.total("gaps") == 0


@pytest.mark.parametrize("rows", [10, FAST])
def test_at_the_end_rows_that_do_not_fit_become_a_gap(tmp_path: Path, room: Room, rows: int) -> None:
    with rig_in(tmp_path) as rig:
        rig.send(0, rows)
        rig.settle()
        room.bytes = 0
        rig.wait_for(lambda: is_low(rig))
        rig.send(rows, rows)
        rig.send(2 * rows, rows)
    found = rig.read()
    assert found.source_rows == list(range(rows))
    assert found.gap_list() == [(0, rows, 3 * rows, Reason.DISK)]
    room.bytes = 10 * LOW
    with rig:
        rig.send(3 * rows, rows)
    assert rig.read().source_rows == [*range(rows), *range(3 * rows, 4 * rows)]


def test_at_the_end_what_fits_is_written(tmp_path: Path, room: Room) -> None:
    with rig_in(tmp_path) as rig:
        rig.send(0, FAST)
        rig.settle()
        room.bytes = LOW - 1
        rig.wait_for(lambda: is_low(rig))
        rig.send(FAST, FAST)
    assert rig.read().source_rows == list(range(2 * FAST))


def test_a_disk_that_refuses_rows_at_the_end_still_takes_their_gap(tmp_path: Path, room: Room) -> None:
    """A quota shows in no free space."""

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if verb in ("create", "append") and kind in ("segment", "journal") and rig.recorder._stop.is_set():
            refused.append(verb)
            if len(refused) <= 2 * (recorder.REFUSALS + 1):
                raise OSError(errno.EDQUOT, "made up")

    refused: list[str] = []
    with rig_in(tmp_path) as rig:
        rig.send(0, FAST)
        rig.settle()
        rig.before = before
        room.bytes = LOW - 1  # so that nothing is written before the end ...
        rig.wait_for(lambda: is_low(rig))
        rig.send(FAST, FAST)
        room.bytes = LOW  # ... where there seems to be enough
    found = rig.read()
    assert refused
    assert found.total("delivered") == 2 * FAST
    assert found.gap_list() in ([], [(0, FAST, 2 * FAST, Reason.DISK)])


def test_nothing_is_left_of_segments_that_could_not_be_written(tmp_path: Path, room: Room) -> None:
    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if (verb, kind) == ("append", "segment") and len(tried) < 5:
            tried.append(path)
            raise OSError(errno.ENOSPC, "made up")

    tried: list[Path] = []
    with rig_in(tmp_path, segment_bytes=1 << 24) as rig:
        rig.before = before
        rig.send(0, FAST)
        rig.settle()
        assert len(list((tmp_path / "d" / "streams").rglob("*"))) == 3, "the stream's directories and its segment"
    assert rig.read().source_rows == list(range(FAST))


def test_the_ballast_is_filled_given_up_and_filled_again(tmp_path: Path, room: Room) -> None:
    room.bytes = 1 << 30
    space = Space(tmp_path, PosixFiles(), Options(ballast_bytes=LOW))
    space.prepare()
    assert (tmp_path / BALLAST).stat().st_size == LOW
    assert space.stats().ballast_bytes == LOW
    space.release()
    assert not (tmp_path / BALLAST).exists()
    space.fill()
    (tmp_path / BALLAST).write_bytes(b"")  # as a power cut may leave it
    space = Space(tmp_path, PosixFiles(), Options(ballast_bytes=LOW))
    space.prepare()
    assert (tmp_path / BALLAST).stat().st_size == LOW


def test_there_is_no_ballast_where_there_is_no_room_for_it(tmp_path: Path, room: Room) -> None:
    space = Space(tmp_path, PosixFiles(), Options(ballast_bytes=LOW))
    room.bytes = 0
    space.look(0)
    space.prepare()
    assert not (tmp_path / BALLAST).exists()


def test_rows_that_are_given_up_do_not_turn_up_in_a_file_that_was_begun(tmp_path: Path, room: Room) -> None:
    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if (verb, kind) == ("sync", "segment") and tripped:
            raise OSError(errno.ENOSPC, "made up")

    tripped: list[bool] = []
    with rig_in(tmp_path, segment_bytes=1 << 24) as rig:
        rig.send(0, FAST)
        rig.settle()
        rig.before = before
        tripped.append(True)
        rig.send(FAST, FAST)  # goes to the file, whole, and is not synced
        rig.wait_for(lambda: rig.recorder.stats().writing.failures > 0)
        room.bytes = 0
        rig.wait_for(lambda: is_low(rig))
        tripped.clear()
    found = rig.read()
    assert found.source_rows == list(range(FAST))
    assert found.gap_list() == [(0, FAST, 2 * FAST, Reason.DISK)]
    with rig:  # which recovers
        pass
    assert rig.read().total("recorded") == FAST
