"""The contract that every implementation of `scidaq.store.Files` keeps, as tests to inherit.

    class TestMyFiles(FilesContract):
        @pytest.fixture
        def files(self):
            return MyFiles()

`tmp_path`, pytest's own fixture, is where they write: put it on the file system that matters.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scidaq.errors import StationBusy
from scidaq.store import Files, make_directory, publish

PAGE = 4096
"""What a direct write is made of."""


class FilesContract:
    """Inherit it in a class named `Test...` and give it a `files` fixture."""

    # ---- create ----

    def test_a_new_file_is_empty(self, files: Files, tmp_path: Path) -> None:
        with files.create(tmp_path / "a") as file:
            assert file.size == 0
            assert file.path == tmp_path / "a"
        assert (tmp_path / "a").read_bytes() == b""

    def test_creation_never_overwrites(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"old")
        for direct in (False, True):
            with raises(FileExistsError):
                files.create(tmp_path / "a", direct=direct)
        assert (tmp_path / "a").read_bytes() == b"old"

    def test_creation_needs_the_directory(self, files: Files, tmp_path: Path) -> None:
        with raises(FileNotFoundError):
            files.create(tmp_path / "no" / "a")

    # ---- append, reopen, sync ----

    def test_pieces_are_written_behind_one_another(self, files: Files, tmp_path: Path) -> None:
        with files.create(tmp_path / "a") as file:
            files.append(file, [b"one", bytearray(b"two"), memoryview(b"three"), b"", memoryview(b"xfourx")[1:-1]])
            assert file.size == 15
            files.append(file, [])
            files.append(file, [b""])
            files.append(file, [b"five"])
            files.sync(file)
            assert file.size == 19
        assert (tmp_path / "a").read_bytes() == b"onetwothreefourfive"

    def test_wider_items_count_as_bytes(self, files: Files, tmp_path: Path) -> None:
        words = memoryview(bytes(range(16))).cast("Q")
        with files.create(tmp_path / "a") as file:
            files.append(file, [words])
            assert file.size == 16
        assert (tmp_path / "a").read_bytes() == bytes(range(16))

    def test_there_may_be_more_pieces_than_the_system_takes_at_once(self, files: Files, tmp_path: Path) -> None:
        pieces = [b"%04d" % n for n in range(3000)]
        with files.create(tmp_path / "a") as file:
            files.append(file, pieces)
            assert file.size == 12_000
        assert (tmp_path / "a").read_bytes() == b"".join(pieces)

    def test_what_is_appended_is_seen_before_the_sync(self, files: Files, tmp_path: Path) -> None:
        with files.create(tmp_path / "a") as file:
            files.append(file, [b"seen"])
            assert (tmp_path / "a").read_bytes() == b"seen"

    def test_a_direct_file_takes_whole_pages(self, files: Files, tmp_path: Path) -> None:
        import mmap

        with files.create(tmp_path / "a", direct=True) as file, mmap.mmap(-1, 4 * PAGE) as buffer:
            buffer[:] = bytes(range(256)) * (4 * PAGE // 256)
            with memoryview(buffer) as view, view[: 3 * PAGE] as three, view[3 * PAGE :] as one:
                files.append(file, [three])
                files.append(file, [one, three])
                files.sync(file)
            assert file.size == 7 * PAGE
            content = bytes(buffer)
        assert (tmp_path / "a").read_bytes() == content + content[: 3 * PAGE]

    def test_space_is_reserved(self, files: Files, tmp_path: Path) -> None:
        with files.create(tmp_path / "a") as file:
            files.reserve(file, 3 << 20)
            files.sync(file)
        stat = (tmp_path / "a").stat()
        assert stat.st_size == 3 << 20
        assert getattr(stat, "st_blocks", 6 << 10) * 512 >= 3 << 20, "it really occupies them"

    def test_a_file_opened_again_goes_on_at_its_end(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"old")
        with files.reopen(tmp_path / "a") as file:
            assert file.size == 3
            files.append(file, [b" and new"])
            files.sync(file)
        assert (tmp_path / "a").read_bytes() == b"old and new"
        with raises(FileNotFoundError):
            files.reopen(tmp_path / "no")
        assert not (tmp_path / "no").exists()

    def test_a_handle_is_given_back_once_or_twice(self, files: Files, tmp_path: Path) -> None:
        file = files.create(tmp_path / "a")
        file.close()
        file.close()
        with raises(OSError, ValueError):
            files.append(file, [b"late"])
        with raises(OSError, ValueError):
            files.sync(file)

    # ---- cut ----

    def test_a_file_is_shortened(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"0123456789")
        files.cut(tmp_path / "a", 4)
        assert (tmp_path / "a").read_bytes() == b"0123"
        files.cut(tmp_path / "a", 4)
        files.cut(tmp_path / "a", 0)
        assert (tmp_path / "a").read_bytes() == b""
        with raises(FileNotFoundError):
            files.cut(tmp_path / "no", 0)

    def test_writing_goes_on_behind_the_cut(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"0123456789")
        files.cut(tmp_path / "a", 4)
        with files.reopen(tmp_path / "a") as file:
            files.append(file, [b"new"])
        assert (tmp_path / "a").read_bytes() == b"0123new"

    # ---- rename, remove, directories ----

    def test_a_file_gets_its_name(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"x")
        files.rename(tmp_path / "a", tmp_path / "b")
        files.sync_dir(tmp_path)
        assert not (tmp_path / "a").exists()
        assert (tmp_path / "b").read_bytes() == b"x"

    def test_a_name_that_is_taken_is_not_given(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"new")
        (tmp_path / "b").write_bytes(b"old")
        with raises(FileExistsError):
            files.rename(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "a").read_bytes() == b"new"
        assert (tmp_path / "b").read_bytes() == b"old"
        with raises(FileNotFoundError):
            files.rename(tmp_path / "no", tmp_path / "c")

    def test_removing_what_is_gone_is_no_error(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"x")
        files.remove(tmp_path / "a")
        files.remove(tmp_path / "a")
        assert not (tmp_path / "a").exists()

    def test_readers_keep_what_is_removed(self, files: Files, tmp_path: Path) -> None:
        if os.name == "nt":
            return  # an open file cannot be removed there
        (tmp_path / "a").write_bytes(b"still here")
        data = files.map(tmp_path / "a")
        files.remove(tmp_path / "a")
        assert bytes(data) == b"still here"

    def test_directories_are_synced(self, files: Files, tmp_path: Path) -> None:
        files.sync_dir(tmp_path)
        make_directory(files, tmp_path / "x" / "y" / "z")
        make_directory(files, tmp_path / "x" / "y" / "z")
        assert (tmp_path / "x" / "y" / "z").is_dir()
        if os.name != "nt":
            with raises(OSError):
                files.sync_dir(tmp_path / "no")

    def test_a_small_file_is_there_whole_or_not_at_all(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / ".a.tmp").write_bytes(b"left behind")
        publish(files, tmp_path / "a", b"content")
        assert [p.name for p in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_bytes() == b"content"

    # ---- lock ----

    def test_a_lock_keeps_out_this_process_too(self, files: Files, tmp_path: Path) -> None:
        with files.lock(tmp_path / "LOCK"), raises(StationBusy):
            files.lock(tmp_path / "LOCK")
        files.lock(tmp_path / "LOCK").close()

    def test_a_lock_keeps_out_another_process(self, files: Files, tmp_path: Path) -> None:
        with files.lock(tmp_path / "LOCK"):
            assert _other(tmp_path / "LOCK") == "busy"
        assert _other(tmp_path / "LOCK") == "free"

    def test_a_lock_ends_with_its_process(self, files: Files, tmp_path: Path) -> None:
        assert _other(tmp_path / "LOCK", "os._exit(0)") == "free"
        files.lock(tmp_path / "LOCK").close()

    # ---- free space, map ----

    def test_free_space(self, files: Files, tmp_path: Path) -> None:
        assert 0 < files.free_space(tmp_path) < 1 << 70
        with raises(FileNotFoundError):
            files.free_space(tmp_path / "no")

    def test_a_map_is_the_present_content(self, files: Files, tmp_path: Path) -> None:
        with files.create(tmp_path / "a") as file:
            assert bytes(files.map(tmp_path / "a")) == b""
            assert files.map(tmp_path / "a").readonly
            files.append(file, [b"one"])
            before = files.map(tmp_path / "a")
            files.append(file, [b"two"])
            assert bytes(before) == b"one"
            assert bytes(files.map(tmp_path / "a")) == b"onetwo"
            assert files.map(tmp_path / "a").readonly
        with raises(FileNotFoundError):
            files.map(tmp_path / "no")


@contextmanager
def raises(*kinds: type[BaseException]) -> Iterator[None]:
    """As pytest's, which need not be there to import this."""
    try:
        yield
    except kinds:
        return
    raise AssertionError(f"no {kinds[0].__name__} was raised")


_PROGRAM = """
import os, sys
from pathlib import Path
from scidaq.errors import StationBusy
from scidaq.store import system_files
try:
    held = system_files().lock(Path(sys.argv[1]))
except StationBusy:
    print("busy", flush=True)
else:
    print("free", flush=True)
"""


def _other(path: Path, ending: str = "") -> str:
    """What another process says of the lock."""
    command = [sys.executable, "-c", _PROGRAM + ending, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
