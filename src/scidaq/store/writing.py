"""The commit thread: everything the recorder asks of the disk, in order, off the acquisition's way.

Encoding hands over jobs and never waits for one. A job that fails marks its file as failed, the jobs behind it for the
same file are dropped, and the failure goes back to the recorder, which writes the rows again elsewhere: a failed sync
is never repeated on the same file.
"""

from __future__ import annotations

import mmap
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from scidaq.clock import Clock
from scidaq.errors import WriteFailed
from scidaq.stats import field_of
from scidaq.store.files import Buffer, File, Files
from scidaq.store.segment import Buffers, Chunk

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WritingStats:
    """What the commit thread has done."""

    written_bytes: int = field_of("By", "Bytes written to segments and journal.")
    syncs: int = field_of("1", "Syncs that succeeded.")
    sync_s: float = field_of("s", "Time spent in syncs, in total.")
    last_sync_s: float = field_of("s", "Duration of the newest sync.")
    worst_sync_s: float = field_of("s", "The longest sync so far.")
    failures: int = field_of("1", "Writes or syncs that the system refused.")
    queue: int = field_of("{job}", "Jobs waiting now.")
    busy_s: float = field_of("s", "How long the job under way has taken so far, 0 when there is none.")


class Target:
    """A file that is being appended to. Made by the recorder, opened, written and closed by the commit thread."""

    __slots__ = ("after", "closed", "direct", "error", "failed", "file", "kept", "path")

    def __init__(self, path: Path, direct: bool, after: Target | None = None) -> None:
        """`after` is another file whose jobs have all been given: its failure is the failure of this one too."""
        self.path, self.direct, self.after = path, direct, after
        self.file: File | None = None
        self.failed = False
        self.error: OSError | None = None
        """What the system said when it failed."""
        self.closed = False
        self.kept = 0
        """Where the newest commit ends that counts; of the commit thread."""


class Job(Protocol):
    """One thing to do; `target` is the file that it is about."""

    target: Target

    def run(self, thread: CommitThread) -> None:
        """Do it; raises `OSError`."""

    def drop(self, thread: CommitThread) -> None:
        """Give back what it holds; it will not be done."""


@dataclass(slots=True)
class Create:
    """Make a file with its first bytes: temporary name, write, sync, rename, sync of the directory."""

    target: Target
    head: bytes

    def run(self, thread: CommitThread) -> None:
        files, path = thread.files, self.target.path
        temporary = path.with_name(f".{path.name}.tmp")
        files.remove(temporary)
        file = files.create(temporary, direct=self.target.direct)
        self.target.file = file
        aligned = mmap.mmap(-1, len(self.head))  # not closed by hand: a write that fails still refers to it
        aligned[:] = self.head
        files.append(file, [memoryview(aligned)])
        files.sync(file)
        files.rename(temporary, path)
        file.path = path
        files.sync_dir(path.parent)
        thread.written += len(self.head)

    def drop(self, thread: CommitThread) -> None:
        pass


@dataclass(slots=True)
class Write:
    """Append chunks and give their buffers back."""

    target: Target
    chunks: Sequence[Chunk]
    buffers: Buffers

    def run(self, thread: CommitThread) -> None:
        pieces = [memoryview(c.buffer)[: c.size] for c in self.chunks]
        try:
            thread.append(self.target, pieces)
        finally:
            for piece in pieces:
                piece.release()
            self.drop(thread)

    def drop(self, thread: CommitThread) -> None:
        for chunk in self.chunks:
            self.buffers.give_back(chunk.buffer)
            thread.taken_bytes += chunk.size
        self.chunks = ()
        thread.freed()


@dataclass(slots=True)
class Append:
    """Append bytes."""

    target: Target
    data: Buffer

    def run(self, thread: CommitThread) -> None:
        thread.append(self.target, [self.data])

    def drop(self, thread: CommitThread) -> None:
        pass


@dataclass(slots=True)
class Sync:
    """Make a file durable, then tell; `close` gives the handle back afterwards."""

    target: Target
    done: Callable[[], None]
    close: bool = False

    def run(self, thread: CommitThread) -> None:
        file = thread.open(self.target)
        started = thread.clock.monotonic_s()
        thread.files.sync(file)
        took = thread.clock.monotonic_s() - started
        thread.syncs += 1
        thread.sync_s += took
        thread.last_sync_s, thread.worst_sync_s = took, max(took, thread.worst_sync_s)
        if self.close:
            self.drop(thread)
        self.done()

    def drop(self, thread: CommitThread) -> None:
        if self.close and self.target.file is not None:
            self.target.file.close()
            self.target.file = None


@dataclass(slots=True)
class Call:
    """Do something else that touches the disk, such as removing a file."""

    target: Target
    act: Callable[[], None]

    def run(self, thread: CommitThread) -> None:
        self.act()

    def drop(self, thread: CommitThread) -> None:
        pass


@dataclass(slots=True)
class Discard:
    """Give back the handle of a file that will not be continued, and remove it when nothing in it is worth keeping."""

    target: Target
    remove: bool

    def run(self, thread: CommitThread) -> None:
        self.drop(thread)

    def drop(self, thread: CommitThread) -> None:
        path = self.target.path
        if self.target.file is not None:
            self.target.file.close()
            self.target.file = None
        if self.remove:
            try:
                thread.files.remove(path.with_name(f".{path.name}.tmp"))
                thread.files.remove(path)
            except OSError as e:
                log.warning("an empty segment stays behind", path=str(path), error=str(e))


@dataclass(slots=True)
class CutBack:
    """Take what does not count from a file that was given up: rows that are to be a gap must not turn up in it."""

    target: Target

    def run(self, thread: CommitThread) -> None:
        self.drop(thread)

    def drop(self, thread: CommitThread) -> None:
        path, kept = self.target.path, self.target.kept
        try:
            if not kept:
                thread.files.remove(path)
                thread.files.sync_dir(path.parent)  # it has been removed before, perhaps, and may come back
            elif path.exists() and path.stat().st_size > kept:
                thread.files.cut(path, kept)
        except OSError as e:
            log.warning("a file that was given up keeps its end", path=str(path), error=str(e))


class CommitThread:
    """Runs jobs in the order in which they were given."""

    def __init__(
        self, files: Files, clock: Clock, failed: Callable[[Target, OSError], None], freed: Callable[[], None]
    ) -> None:
        """Both are called in this thread: `failed` when the system refused, `freed` when buffers have come back."""
        self.files, self.clock, self._failed, self.freed = files, clock, failed, freed
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="recorder-commit", daemon=True)
        self.written = self.syncs = self.failures = 0
        self._given_bytes = self.taken_bytes = 0
        self.sync_s = self.last_sync_s = self.worst_sync_s = 0.0
        self._began_s: float | None = None
        """When the job under way was begun."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, timeout_s: float | None = None) -> bool:
        """Do what has been given, then stop; False when that took longer than `timeout_s`."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def put(self, job: Job) -> None:
        """Give a job; returns at once."""
        if isinstance(job, Write):
            self._given_bytes += sum(c.size for c in job.chunks)
        self._jobs.put(job)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of rows that have been given and are not in the file yet; for the thread that gives."""
        return self._given_bytes - self.taken_bytes

    def open(self, target: Target) -> File:
        """The handle of a target, opened again where it had been closed."""
        if target.file is None:
            target.file = self.files.reopen(target.path)
        return target.file

    def append(self, target: Target, pieces: Sequence[Buffer]) -> None:
        """Write behind what is there."""
        self.files.append(self.open(target), pieces)
        self.written += sum(len(p) for p in pieces)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            target = job.target
            if target.after is not None:
                before, target.after = target.after, None
                if before.error is not None and not target.failed:
                    target.failed, target.error = True, before.error
                    self._failed(target, before.error)
            if target.failed:
                job.drop(self)
                continue
            self._began_s = self.clock.monotonic_s()
            try:
                job.run(self)
            except OSError as e:
                self._fail(target, e)
            except Exception as e:  # a fault of ours must not end recording: it is handled like one of the disk
                log.exception("commit failed unexpectedly", path=str(target.path))
                self._fail(target, WriteFailed(f"{target.path}: {e!r}"))
            self._began_s = None

    def _fail(self, target: Target, error: OSError) -> None:
        target.failed, target.error = True, error
        self.failures += 1
        if target.file is not None:
            target.file.close()
            target.file = None
        self._failed(target, error)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def stats(self) -> WritingStats:
        """A snapshot."""
        began_s = self._began_s
        return WritingStats(
            self.written,
            self.syncs,
            self.sync_s,
            self.last_sync_s,
            self.worst_sync_s,
            self.failures,
            self._jobs.qsize(),
            0.0 if began_s is None else max(0.0, self.clock.monotonic_s() - began_s),
        )
