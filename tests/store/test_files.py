"""Every way to the operating system keeps one contract."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from scidaq.errors import WriteFailed
from scidaq.store import Files, PortableFiles, PosixFiles, make_directory, publish, system_files
from scidaq.testing import FilesContract
from scidaq.testing.crashing import WatchedFiles
from scidaq.testing.faults import FaultyFiles

PAGE = 4096
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


@pytest.mark.parametrize("pages", [1, 3, 7])
@posix
def test_a_short_direct_write_that_ends_inside_a_page_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pages: int
) -> None:
    files, whole = PosixFiles(), os.pwritev

    def short(fd: int, pieces: Sequence[memoryview], at: int) -> int:
        with open(tmp_path / "a", "r+b") as plain:  # the end of a device, say: the rest of the page was not taken
            plain.seek(at)
            plain.write(b"".join(pieces)[: pages * PAGE - 512])
        return pages * PAGE - 512

    aligned = mmap.mmap(-1, 8 * PAGE)
    with files.create(tmp_path / "a", direct=True) as file:
        if not file.direct:
            pytest.skip("the file system takes no O_DIRECT")
        monkeypatch.setattr(os, "pwritev", short)
        with pytest.raises(WriteFailed, match="part of a page; the file is given up"):
            files.append(file, [memoryview(aligned)])
        assert file.size == pages * PAGE - 512
        monkeypatch.setattr(os, "pwritev", whole)
        with pytest.raises(WriteFailed, match="part of a page"):  # nor may anybody go on from there
            files.append(file, [memoryview(aligned)])


@posix
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("make", [PosixFiles, PortableFiles])
def test_a_limit_in_the_middle_of_a_write_is_an_error_and_what_fits_is_there(
    tmp_path: Path, direct: bool, make: type[PortableFiles]
) -> None:
    import resource

    files, limits = make(), resource.getrlimit(resource.RLIMIT_FSIZE)
    aligned = mmap.mmap(-1, 8 * PAGE)
    aligned[:] = b"x" * len(aligned)
    with files.create(tmp_path / "a", direct=direct) as file:
        files.append(file, [memoryview(aligned)[:PAGE]])
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * PAGE + 100, limits[1]))
        try:
            with pytest.raises(OSError, match=r"File too large|part of a page|Invalid argument"):
                files.append(file, [memoryview(aligned)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        content = (tmp_path / "a").read_bytes()
        assert content == b"x" * file.size, "the size is what was written"
        assert PAGE <= file.size <= 3 * PAGE + 100


def test_a_plain_write_of_nothing_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = PortableFiles()
    with files.create(tmp_path / "a") as file:
        monkeypatch.setattr(os, "write", lambda *_: 0)
        with pytest.raises(WriteFailed, match="wrote nothing"):
            files.append(file, [b"x"])


def test_a_handle_that_cannot_be_closed_is_given_back_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, close = system_files().create(tmp_path / "a"), os.close

    def fails(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "late news of an earlier write")

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", fails)
        file.close()
    assert file.fd == -1


def test_a_directory_whose_sync_failed_is_synced_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    synced: list[Path] = []
    fail = [True]

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if verb == "sync_dir":
            if fail[0] and path == tmp_path / "a":
                raise OSError(errno.EIO, "made up")
            synced.append(path)

    files = WatchedFiles(before)
    with pytest.raises(OSError, match="made up"):
        make_directory(files, tmp_path / "a" / "b")
    fail[0] = False
    make_directory(files, tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    (tmp_path / "a" / "b" / "file").touch()
    make_directory(files, tmp_path / "a" / "b")
    assert len(synced) == 2, "nothing is in a directory that was not synced"


def test_a_small_file_that_cannot_be_written_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    for fault in ("short@1", "lost@1", "enospc@3", "eio@5"):
        files = FaultyFiles(fault)
        with pytest.raises(OSError, match="made by"):
            publish(files, tmp_path / "a", bytes(10_000))
        assert list(tmp_path.iterdir()) == [], fault


def test_a_directory_is_made_in_an_empty_one_that_one_works_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    make_directory(system_files(), Path("a/b"))
    assert (tmp_path / "a" / "b").is_dir()
