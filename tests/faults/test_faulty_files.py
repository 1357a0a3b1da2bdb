"""The disk that fails on demand: sound without a fault, and with one it fails as it was told."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from scidaq.store import Buffer, Files, publish
from scidaq.testing import FilesContract
from scidaq.testing.crashing import VERBS
from scidaq.testing.faults import STRIKES, DiskFault, FaultyFiles, faults_of

PAGE = 4096


class TestWithoutFault(FilesContract):
    @pytest.fixture
    def files(self) -> Files:
        return FaultyFiles()


class TestOnceReleased(FilesContract):
    @pytest.fixture
    def files(self) -> Files:
        files = FaultyFiles(*(f"{kind}@1+" for kind in STRIKES))
        files.release()
        return files


def write(files: Files, path: Path, *contents: Buffer) -> int:
    """Write, and sync each; how many were refused. Behind a refusal it goes on, as one must not."""
    refused = 0
    with files.create(path) as file:
        for content in contents:
            try:
                files.append(file, [content])
                files.sync(file)
            except OSError:
                refused += 1
    return refused


@pytest.mark.parametrize("kind", [k for k in STRIKES if k not in ("full", "slow")])
def test_each_operation_can_be_struck_and_no_other_is(kind: str, tmp_path: Path) -> None:
    sound = FaultyFiles()
    assert write(sound, tmp_path / "0", *[b"x" * 5000] * 3) == 0
    n = sound.operations(kind)
    assert n == 1 + 3 + 3 if STRIKES[kind] == VERBS else n >= 3
    for k in range(1, n + 1):
        files = FaultyFiles(f"{kind}@{k}")
        with suppress(OSError):  # its creation
            write(files, tmp_path / str(k), *[b"x" * 5000] * 3)
        assert len(files.struck) == 1, files.struck


def test_a_fault_lasts_as_long_as_is_said(tmp_path: Path) -> None:
    assert write(FaultyFiles("eio@2+4"), tmp_path / "a", *[b"x"] * 9) == 4
    files = FaultyFiles("eio@2+")
    assert write(files, tmp_path / "b", *[b"x"] * 9) == 9
    files.release()
    assert write(files, tmp_path / "c", *[b"x"] * 9) == 0


def test_what_is_wrong_is_what_was_asked_for(tmp_path: Path) -> None:
    for kind, number in {"eio": errno.EIO, "enospc": errno.ENOSPC, "interrupted": errno.EINTR}.items():
        with pytest.raises(OSError, match=f"made by {kind}@1") as caught:
            FaultyFiles(f"{kind}@1").create(tmp_path / kind)
        assert caught.value.errno == number
        assert not (tmp_path / kind).exists()


def test_a_short_write_leaves_whole_pages_and_a_torn_one_any_part(tmp_path: Path) -> None:
    content = os.urandom(20 * PAGE)
    for kind in ("short", "torn", "interrupted"):
        sizes = set()
        for seed in range(20):
            files = FaultyFiles(f"{kind}@1" if kind != "interrupted" else "interrupted@2", seed=seed)
            path = tmp_path / f"{kind}{seed}"
            with files.create(path) as file:
                with pytest.raises(OSError, match=kind):
                    files.append(file, [content[:1000], content[1000:]])
                assert path.read_bytes() == content[: file.size]
                sizes.add(file.size)
        assert max(sizes) < len(content)
        assert len(sizes) > 5
        assert all(size % PAGE == 0 for size in sizes) is (kind == "short")


def test_what_a_failed_sync_lost_is_gone_and_only_that(tmp_path: Path) -> None:
    for seed in range(20):
        path = tmp_path / str(seed)
        files = FaultyFiles("lost@2", seed=seed)
        with files.create(path) as file:
            files.append(file, [b"d" * 5000])
            files.sync(file)
            files.append(file, [b"n" * 30_000])
            with pytest.raises(OSError, match="lost"):
                files.sync(file)
            files.sync(file)  # and now it says that all is well
        content = path.read_bytes()
        assert len(content) == 35_000
        assert content[:5000] == b"d" * 5000
        assert b"\0" in content[5000:]
        assert set(content[5000:]) <= set(b"n\0")


def test_the_same_seed_fails_the_same_way(tmp_path: Path) -> None:
    def lost(name: str, seed: int) -> bytes:
        files = FaultyFiles("lost@1", "torn@2", seed=seed)
        write(files, tmp_path / name, b"n" * 50_000, b"m" * 50_000)
        return (tmp_path / name).read_bytes()

    assert lost("a", 1) == lost("b", 1)
    assert lost("a2", 1) != lost("c", 2)


def test_a_full_disk_has_room_again_when_something_is_removed(tmp_path: Path) -> None:
    files = FaultyFiles(DiskFault("full", 10 * PAGE))
    assert files.free_space(tmp_path) == 10 * PAGE
    with files.create(tmp_path / "a") as file:
        files.append(file, [bytes(8 * PAGE)])
        with pytest.raises(OSError, match="No space") as caught:
            files.append(file, [bytes(5 * PAGE)])
        assert caught.value.errno == errno.ENOSPC
        assert file.size == 10 * PAGE, "what there was room for was written"
    assert files.free_space(tmp_path) == 0
    with pytest.raises(OSError, match="No space"):
        publish(files, tmp_path / "b", b"x")
    files.cut(tmp_path / "a", PAGE)
    assert files.free_space(tmp_path) == 9 * PAGE
    publish(files, tmp_path / "b", b"x")
    files.remove(tmp_path / "a")
    files.remove(tmp_path / "b")
    assert files.free_space(tmp_path) == 10 * PAGE
    with files.create(tmp_path / "c") as file:
        with pytest.raises(OSError, match="No space"):
            files.reserve(file, 11 * PAGE)
        files.reserve(file, 4 * PAGE)
    assert files.free_space(tmp_path) == 6 * PAGE


def test_a_slow_disk_takes_its_time_and_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("scidaq.testing.faults.time.sleep", waited.append)
    files = FaultyFiles("slow@1+")
    assert write(files, tmp_path / "a", b"x", b"y") == 0
    assert (tmp_path / "a").read_bytes() == b"xy"
    assert len(waited) == 5
    assert all(0.05 <= s <= 0.5 for s in waited)


def test_a_fault_is_written_as_it_is_read() -> None:
    for text in ("eio@1", "enospc@17+5", "lost@3+", "full@0", "full@65536"):
        assert str(DiskFault.parse(text)) == text
    assert [str(f) for f in faults_of("eio@3, slow@9+2")] == ["eio@3", "slow@9+2"]
    for text in ("", "eio", "eio@", "eio@0", "rust@3", "eio@-1", "eio@1+x"):
        with pytest.raises(ValueError, match="not kind@k"):
            DiskFault.parse(text)
