"""Every way to the operating system keeps one contract."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from scidaq.errors import WriteFailed
from scidaq.store import Files, PortableFiles, PosixFiles, system_files
from scidaq.testing import FilesContract

posix = pytest.mark.skipif(not hasattr(os, "pwritev"), reason="PosixFiles needs pwritev")


@posix
class TestPosixFiles(FilesContract):
    @pytest.fixture
    def files(self) -> Files:
        return PosixFiles()


class TestPortableFiles(FilesContract):
    @pytest.fixture
    def files(self) -> Files:
        return PortableFiles()


@posix
class TestShortWrites(FilesContract):
    """The system may write less than it was given, and cut in the middle of a piece."""

    @pytest.fixture
    def files(self, monkeypatch: pytest.MonkeyPatch) -> Files:
        whole = os.pwritev

        def short(fd: int, pieces: Sequence[memoryview], at: int) -> int:
            total = sum(len(p) for p in pieces)
            take = total if total % 4096 == 0 else max(1, total // 3)
            return whole(fd, [b"".join(pieces)[:take]], at) if take < total else whole(fd, pieces, at)

        monkeypatch.setattr(os, "pwritev", short)
        return PosixFiles()


class TestShortPlainWrites(FilesContract):
    @pytest.fixture
    def files(self, monkeypatch: pytest.MonkeyPatch) -> Files:
        whole = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[: max(1, len(data) // 3)]))
        return PortableFiles()


@posix
class TestWithoutDirect(FilesContract):
    """A file system that refuses O_DIRECT, some of them after they have made the entry."""

    @pytest.fixture(params=[False, True])
    def files(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Files:
        plain = os.open

        def refuse(path: Path, flags: int, mode: int = 0o777, **more: int) -> int:
            if flags & getattr(os, "O_DIRECT", 0):
                if request.param:
                    os.close(plain(path, flags & ~os.O_DIRECT, mode))
                elif flags & os.O_EXCL and Path(path).exists():
                    raise OSError(errno.EEXIST, "exists")
                raise OSError(errno.EINVAL, "not here")
            return plain(path, flags, mode, **more)

        monkeypatch.setattr(os, "open", refuse)
        return PosixFiles()

    def test_it_says_so(self, files: Files, tmp_path: Path) -> None:
        with files.create(tmp_path / "a", direct=True) as file:
            assert not file.direct


@posix
def test_a_write_of_nothing_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = PosixFiles()
    with files.create(tmp_path / "a") as file:
        monkeypatch.setattr(os, "pwritev", lambda *_: 0)
        with pytest.raises(WriteFailed):
            files.append(file, [b"x"])


@posix
def test_after_a_failure_in_the_middle_the_size_is_what_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files, whole, calls = PosixFiles(), os.pwritev, iter(range(9))

    def full(fd: int, pieces: Sequence[memoryview], at: int) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "full")
        return whole(fd, [pieces[0]], at)

    with files.create(tmp_path / "a") as file:
        monkeypatch.setattr(os, "pwritev", full)
        with pytest.raises(OSError, match="full"):
            files.append(file, [b"one", b"two"])
        assert file.size == 3


def test_the_system_chooses() -> None:
    assert isinstance(system_files(), PosixFiles if hasattr(os, "pwritev") else PortableFiles)
