"""The published marks, as another process reads them."""

from __future__ import annotations

import mmap
from pathlib import Path

from scidaq.store import DURABLE_MAP
from tests.balance.rig import Rig


def test_a_restart_does_not_shrink_the_map_under_its_readers(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "d")
    with rig:
        rig.send(0, 10)
        rig.settle()
    path = rig.dir / DURABLE_MAP
    inode = path.stat().st_ino
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        rig.open()
        assert path.stat().st_ino != inode  # else the next line may end this process with SIGBUS
        assert len(mapped[:]) > 256
        rig.close()


def test_marks_never_go_back_and_never_run_ahead_of_the_files(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "d").open()
    newest = -1
    for i in range(30):
        rig.send(i * 10, 10)
        mark = rig.marks()
        if mark is not None:
            assert mark.durable_index >= newest
            newest = mark.durable_index
    rig.wait_for(lambda: (m := rig.marks()) is not None and m.durable_rows >= 100)
    rig.kill()
    mark = rig.marks()
    assert mark is not None
    assert rig.read().source_rows[: mark.durable_rows] == list(range(mark.durable_rows))


def test_a_commit_does_not_wait_for_its_time_when_the_ring_would_be_full_by_then(tmp_path: Path) -> None:
    with Rig(tmp_path / "d", ring_bytes=2 << 20, sync_interval_ms=10_000) as rig:
        for i in range(24):  # 3 MiB
            rig.wait_for(lambda: rig.ring.stats().held_bytes < 1 << 20)
            rig.send(i * 8192, 8192)
        assert rig.ring.stats().refused_rows == 0
        assert rig.book.durable_rows > 0
    assert rig.read().source_rows == list(range(24 * 8192))
