"""The seam to the operating system: every byte that must survive goes through these verbs and nothing else.

`Files` is the Protocol, `PosixFiles` the real one (O_DIRECT and fdatasync where the system has them), `PortableFiles`
the plain one for other systems. Both pass `scidaq.testing.FilesContract`, and so must any that injects faults. Names
are absolute paths; nothing here knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from scidaq.errors import StationBusy, WriteFailed

PAGE = 4096
"""The unit of an O_DIRECT write: commits end on a multiple of it."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a system says that has no room left."""

Buffer = bytes | bytearray | memoryview


class File:
    """A file open for appending. `size` is what has been written by this handle or was there before."""

    __slots__ = ("direct", "fd", "path", "size")

    def __init__(self, path: Path, fd: int, size: int, direct: bool) -> None:
        self.path, self.fd, self.size, self.direct = path, fd, size, direct

    def close(self) -> None:
        """Give the handle back; what was not synced may be lost, so that nobody need hear why. May be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # the handle is gone all the same
                os.close(fd)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Files(Protocol):
    """What the store asks of an operating system. All raise `OSError`; after one, the file's tail is not trusted."""

    def create(self, path: Path, *, direct: bool = False) -> File:
        """A new, empty file; `FileExistsError` when there is one: creation never overwrites.

        With `direct`, writes bypass the page cache where the file system takes that (`File.direct` tells); the caller
        then appends page-aligned buffers of whole pages only.
        """

    def reopen(self, path: Path) -> File:
        """An existing file, to append to its end."""

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        """Write all pieces behind one another at the end; on return they are in the operating system, not durable."""

    def reserve(self, file: File, size: int) -> None:
        """Make a file `size` bytes long that really occupies them; what stands in them is anything."""

    def sync(self, file: File) -> None:
        """Make what was appended durable. When it raises, nothing appended since the last sync may be trusted."""

    def cut(self, path: Path, size: int) -> None:
        """Shorten a file to `size` bytes, durably."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name; `FileExistsError` when the name is taken. Durable after `sync_dir`."""

    def remove(self, path: Path) -> None:
        """Remove a file; one that is gone already is no error. Readers that have it open keep it."""

    def sync_dir(self, path: Path) -> None:
        """Make creations, renames and removals in a directory durable."""

    def lock(self, path: Path) -> File:
        """Hold a file exclusively until the handle is closed or the process ends; raises `StationBusy`."""

    def free_space(self, path: Path) -> int:
        """Bytes that this process may still write on the file system of `path`."""

    def map(self, path: Path) -> memoryview:
        """The present content, read-only. Empty for an empty file."""


class PortableFiles:
    """The seam by means that every system has. Sync is the system's strongest plain call."""

    def create(self, path: Path, *, direct: bool = False) -> File:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return File(path, os.open(path, flags, 0o644), 0, direct=False)

    def reopen(self, path: Path) -> File:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        return File(path, fd, os.lseek(fd, 0, os.SEEK_END), direct=False)

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        os.lseek(file.fd, file.size, os.SEEK_SET)
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while view:
                written = _wrote(os.write(file.fd, view), file)
                view = view[written:]

    def reserve(self, file: File, size: int) -> None:
        while file.size < size:
            self.append(file, [bytes(min(size - file.size, 1 << 20))])

    def sync(self, file: File) -> None:
        os.fsync(file.fd)

    def cut(self, path: Path, size: int) -> None:
        with self.reopen(path) as file:
            os.truncate(file.fd if os.truncate in os.supports_fd else path, size)
            file.size = size
            self.sync(file)

    def rename(self, source: Path, target: Path) -> None:
        if target.exists():
            raise FileExistsError(errno.EEXIST, "a file of this name is there already", str(target))
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)

    def sync_dir(self, path: Path) -> None:
        """Windows has no such call: its directory entries are journalled by NTFS."""
        if os.name != "nt":
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def lock(self, path: Path) -> File:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            _lock(fd)
        except OSError as e:
            os.close(fd)
            if e.errno not in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK):
                raise
            raise StationBusy(
                f"{path.parent} is in use by another station (its LOCK is held); stop that one first"
            ) from e
        return File(path, fd, 0, direct=False)

    def free_space(self, path: Path) -> int:
        import shutil

        return shutil.disk_usage(path).free

    def map(self, path: Path) -> memoryview:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))


def _wrote(written: int, file: File) -> int:
    """Take into account what the system wrote, which may be less than it was given.

    Less is no failure by itself: the rest is written behind it, and then the system tells if there is no room. A direct
    file cannot go on from inside a page.
    """
    if written <= 0:
        raise WriteFailed(errno.EIO, "the system wrote nothing; the file is given up", str(file.path))
    file.size += written
    if file.direct and file.size % PAGE:
        raise _inside_a_page(file)
    return written


def _inside_a_page(file: File) -> WriteFailed:
    return WriteFailed(errno.EIO, "the system wrote part of a page; the file is given up", str(file.path))


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class PosixFiles(PortableFiles):
    """The seam on Linux and its kin: positioned vector writes, O_DIRECT, fdatasync, hard-link-free rename."""

    IOV_MAX = 512

    def create(self, path: Path, *, direct: bool = False) -> File:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        if direct and hasattr(os, "O_DIRECT"):
            try:
                return File(path, os.open(path, flags | os.O_DIRECT, 0o644), 0, direct=True)
            except OSError as e:
                if e.errno != errno.EINVAL:
                    raise
            # The file system takes no O_DIRECT; some say so only after making the entry, which is ours then.
            flags &= ~os.O_EXCL
        return File(path, os.open(path, flags, 0o644), 0, direct=False)

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        views = [memoryview(p).cast("B") for p in pieces if len(p)]
        if file.direct and file.size % PAGE and views:
            raise _inside_a_page(file)  # some devices would take it
        while views:
            written = _wrote(os.pwritev(file.fd, views[: self.IOV_MAX], file.size), file)
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if views and written:
                views[0] = views[0][written:]

    def reserve(self, file: File, size: int) -> None:
        os.posix_fallocate(file.fd, 0, size)
        file.size = max(file.size, size)

    def sync(self, file: File) -> None:
        os.fdatasync(file.fd)

    def free_space(self, path: Path) -> int:
        s = os.statvfs(path)
        return s.f_bavail * s.f_frsize


def system_files() -> Files:
    """The implementation for this system."""
    return PosixFiles() if hasattr(os, "pwritev") and hasattr(os, "fdatasync") else PortableFiles()


def make_directory(files: Files, path: Path) -> None:
    """Make a directory and its missing parents, durably.

    One that is there and empty may be the work of somebody who did not come to the sync, so it is done again.
    """
    there = path.is_dir()
    if path == path.parent or (there and not _empty(path)):  # `.` is its own parent, as the root is
        return
    make_directory(files, path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    try:
        files.sync_dir(path.parent)
    except PermissionError:
        if not there:  # else it is the operator's, in a directory that we may not look into
            raise


def _empty(path: Path) -> bool:
    with os.scandir(path) as entries:
        return next(entries, None) is None


def publish(files: Files, path: Path, content: Buffer, *, direct: bool = False) -> None:
    """A whole small file under its name, all or nothing: temporary name, write, sync, rename, sync of the directory."""
    temporary = path.with_name(f".{path.name}.tmp")
    files.remove(temporary)
    try:
        with files.create(temporary, direct=direct) as file:
            files.append(file, [content])
            files.sync(file)
        files.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):  # on a full disk it would be in the way of what is tried next
            files.remove(temporary)
        raise
    files.sync_dir(path.parent)


def overwrite(path: Path, content: bytes, mode: int = 0o600) -> None:
    """A whole small file in the place of the one that is there, all or nothing, for whom `mode` says. Raises `OSError`.

    For what people change, such as keys: nothing that was recorded is ever replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            if hasattr(os, "fchmod"):
                os.fchmod(fd, mode)
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
