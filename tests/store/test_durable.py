"""`durable.map`: it grows with the streams, and a disk without room costs a mark and nobody's life."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from scidaq.store import durable
from scidaq.store.durable import DurableMap, Mark, read_marks


def mark(n: int, durable_index: int = 7) -> Mark:
    return Mark(f"dev/s{n:03}", 1, durable_index, 9, 7, 0, 10, 20, 4096)


def test_it_grows_beyond_the_first_streams_and_keeps_every_mark(tmp_path: Path) -> None:
    path = tmp_path / "durable.map"
    marks = DurableMap(path)
    for n in range(200):
        marks.put(mark(n))
    marks.put(mark(3, 8))
    marks.close()
    expected = {f"dev/s{n:03}": mark(n) for n in range(200)} | {"dev/s003": mark(3, 8)}
    assert read_marks(path) == expected


class FullDisk:
    """A file on a disk without room: it opens, and takes nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None: ...

    def seek(self, to: int) -> None: ...

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_without_room_to_grow_a_mark_is_left_out_until_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "durable.map"
    marks = DurableMap(path)
    with monkeypatch.context() as full:
        full.setattr(durable, "open", FullDisk, raising=False)
        for n in range(66):
            marks.put(mark(n))
        marks.put(mark(5, 8))  # those that have their place go on
    assert sorted(read_marks(path)) == [f"dev/s{n:03}" for n in range(64)]
    assert read_marks(path)["dev/s005"].durable_index == 8
    marks.put(mark(65))
    marks.put(mark(64))
    marks.close()
    assert len(read_marks(path)) == 66


def test_without_room_for_the_file_nothing_is_published_until_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "durable.map"
    old = DurableMap(path)
    old.put(mark(0))
    old.close()

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.replace", refuse)
        marks = DurableMap(path)
        marks.put(mark(1))
        assert list(read_marks(path)) == ["dev/s000"], "the old marks are hints still"
    for _ in range(durable._AGAIN):
        marks.put(mark(1))
    assert list(read_marks(path)) == ["dev/s001"]
    marks.close()
    marks.close()


def test_a_map_that_cannot_grow_keeps_those_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = DurableMap(tmp_path / "durable.map", capacity=1)
    marks.put(mark(0))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as short:
        short.setattr("mmap.mmap", refuse)
        marks.put(mark(1))
        marks.put(mark(0, 8))
    assert {m.stream: m.durable_index for m in read_marks(tmp_path / "durable.map").values()} == {"dev/s000": 8}
    marks.put(mark(1))
    marks.close()
    assert len(read_marks(tmp_path / "durable.map")) == 2
