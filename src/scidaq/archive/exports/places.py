"""Where an export comes about: beside its target, under a name of its own, until it is whole and on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from scidaq.errors import RequestError, StationBusy, WriteFailed
from scidaq.store import File, system_files

SUFFIX = ".scidaq-export"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
_PIECE = 1 << 20
"""What is read at once for a checksum."""
_SYNC_BYTES = 32 << 20
"""After how much the disk is told to take what is there."""
_LOCK = "LOCK"
_REPLACED = "replaced"


class Workplace:
    """A directory beside the target, held by a lock that ends with the process.

    On entry what dead processes left there is removed, whatever they wanted to make. `publish` gives the result its
    name; on exit nothing else is left. Raises `RequestError` when the target is there and not to be replaced, or its
    directory is not, and `WriteFailed` when the directory cannot be written.
    """

    def __init__(self, target: Path, force: bool) -> None:
        self._target, self._force, self._files = target, force, system_files()
        self._lock: File | None = None
        self.path = target

    def __enter__(self) -> Self:
        parent = self._target.parent
        if not parent.is_dir():
            raise RequestError(f"{parent} is no directory: make it, or choose another --out")
        try:
            self._sweep(parent)
            self._check()
            self.path, self._lock = self._make(parent)
        except OSError as error:
            raise refused(self._target, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _check(self) -> None:
        target = self._target
        if not os.path.lexists(target):
            return
        if not self._force:
            raise RequestError(f"{target} is there already: choose another --out, or replace it with --force")
        if target.is_dir() and not target.is_symlink():
            if not ((target / MANIFEST).exists() or (target / "zarr.json").exists()) and any(target.iterdir()):
                raise RequestError(f"{target} is a directory that no export made: remove it, or choose another --out")
        elif not target.is_file():
            raise RequestError(f"{target} is no file: choose another --out")

    def _make(self, parent: Path) -> tuple[Path, File]:
        while True:
            path = Path(tempfile.mkdtemp(prefix=f".{self._target.name[:100]}.", suffix=SUFFIX, dir=parent))
            try:
                lock = self._files.lock(path / _LOCK)
            except (FileNotFoundError, StationBusy):
                continue  # another process takes it for one that was left, and sweeps it away
            if not (path / _LOCK).exists():
                lock.close()
                continue
            os.chmod(path, 0o755)
            return path, lock

    def _sweep(self, parent: Path) -> None:
        """Remove the workplaces of processes that are gone; what one had moved out of the way goes back."""
        for path in parent.glob(f".*{SUFFIX}"):
            try:
                lock = self._files.lock(path / _LOCK)
            except (StationBusy, OSError):
                continue
            with lock, contextlib.suppress(OSError):
                for old in (path / _REPLACED).iterdir() if (path / _REPLACED).is_dir() else ():
                    if not os.path.lexists(parent / old.name):
                        os.rename(old, parent / old.name)
                shutil.rmtree(path, ignore_errors=True)

    def publish(self, payload: Path, beside: Sequence[Path] = ()) -> None:
        """Give what is at `payload`, a file or a directory, the name of the target, durably.

        The files `beside` it go first, under their own names: the target's appearance says that all is there. Raises
        `OSError`, or `RequestError` when somebody else made the target meanwhile.
        """
        target, parent = self._target, self._target.parent
        for path in (*beside, *_below(payload)):
            _sync(path)
        for path in beside:
            os.replace(path, parent / path.name)
        if self._force:
            if target.is_dir() and not target.is_symlink():  # a directory replaces no other: the old one steps aside
                (self.path / _REPLACED).mkdir()
                os.rename(target, self.path / _REPLACED / target.name)
            elif payload.is_dir() and os.path.lexists(target):
                os.unlink(target)
            os.rename(payload, target)
        else:
            _rename_if_free(payload, target)
        self._files.sync_dir(parent)


def _rename_if_free(payload: Path, target: Path) -> None:
    taken = RequestError(
        f"{target} was made by somebody else meanwhile: choose another --out, or replace it with --force"
    )
    if payload.is_file():
        try:
            os.link(payload, target)  # unlike a rename it replaces nothing
        except FileExistsError:
            raise taken from None
        except OSError:  # a file system without hard links
            pass
        else:
            os.unlink(payload)
            return
    if os.path.lexists(target):
        raise taken
    os.rename(payload, target)


def _below(path: Path) -> Iterator[Path]:
    """Every file and directory of a tree, the deepest first."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            yield from _below(child)
    yield path


def _sync(path: Path) -> None:
    if path.is_dir():
        system_files().sync_dir(path)
        return
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def refused(target: Path, error: OSError) -> WriteFailed:
    """What the system said, with what it means here."""
    what = error.strerror or str(error)
    return WriteFailed(f"cannot export to {target}: {what}; nothing is left behind: make room, or choose another --out")


# ---- checksums ------------------------------------------------------------------------------------------------------


class Following:
    """Goes behind the writer of a file that is written from front to back: takes its SHA-256, brings it to the disk.

    Two threads, because one works and the other waits: what is left to be done when the writer ends is little.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `stop`
        self._digest, self._done = hashlib.sha256(), False
        self._error: OSError | None = None
        self._more, self._threads = [threading.Event(), threading.Event()], []
        for more, act in zip(self._more, (self._checksum, self._sync), strict=True):
            name = f"export {act.__name__.strip('_')}"
            thread = threading.Thread(target=self._run, args=(act, more), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def grew(self) -> None:
        """There is more in the file."""
        for more in self._more:
            more.set()

    def end(self) -> str:
        """The file is whole: its digest in hexadecimal. Raises `OSError`."""
        self.stop()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def stop(self) -> None:
        """The threads have ended on return."""
        self._done = True
        self.grew()
        for thread in self._threads:
            thread.join()
        self._file.close()

    def _run(self, act: Callable[[threading.Event], None], more: threading.Event) -> None:
        try:
            act(more)
        except OSError as error:
            self._error = error

    def _checksum(self, more: threading.Event) -> None:
        buffer = bytearray(_PIECE)
        view = memoryview(buffer)
        while True:
            last = self._done  # asked before reading: what comes after it is read the next time
            more.clear()
            while count := self._file.readinto(buffer):
                self._digest.update(view[:count])
            if last:
                return
            if not self._done:
                more.wait()

    def _sync(self, more: threading.Event) -> None:
        synced = 0
        while not self._done:  # then comes `publish`, which syncs all that is left
            more.wait()
            more.clear()
            size = os.fstat(self._file.fileno()).st_size
            if size - synced >= _SYNC_BYTES and not self._done:
                getattr(os, "fdatasync", os.fsync)(self._file.fileno())
                synced = size


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums(named: Sequence[tuple[str, str]]) -> str:
    """Digests and names as `sha256sum -c` reads them."""
    lines = []
    for hexadecimal, name in named:
        shown = name.replace("\\", "\\\\").replace("\n", "\\n")
        mark = "\\" if shown != name else ""
        lines.append(f"{mark}{hexadecimal}  {shown}\n")
    return "".join(lines)
