"""A journal file of one stream's own, for those who wait for each reading: rows are durable when `put` returns.

It holds what the ring still has, and no more: the recorder takes the same rows in its own time, and the file is removed
when it has them. After a kill or a power cut it is a journal file like any other, replayed by row index.

A commit that appends has to wait for the file system too, which notes the new size of the file and where its blocks
are: about as long again as for the disk. So the file is prepared: its pages are written with zeros and synced, and
commits go over them one after the other, by O_DIRECT where that is to be had. Zeros where a message could begin end an
Arrow stream.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from scidaq.clock import Clock
from scidaq.store.files import PAGE, File, Files
from scidaq.store.journal import JournalWriter, Record, journal_name

log = structlog.get_logger(__name__)

FILE_BYTES = 4 << 20
MOST_BYTES = 256 << 10
"""The most that one commit takes; more is quicker through the recorder."""
FILES = 16
"""How many files there are at most: the recorder is behind when all are full."""
KEPT_S = 1.0
"""How long a file stays after the recorder has its rows: a reader may have looked there before, and come here now."""
RETRY_S = 5.0


@dataclass(slots=True, eq=False)
class _Prepared:
    """One file and how far it has been written."""

    writer: JournalWriter
    path: Path
    file: File | None
    end: int = 0
    """One past the last row in it, as `put` was told."""
    idle_s: float = 0.0
    """Since when the recorder has its rows; 0 before."""


class Express:
    """Keeps rows until the recorder has them. Used by one thread at a time."""

    def __init__(self, data_dir: Path, files: Files, clock: Clock, station: str, number: Callable[[], int]) -> None:
        """`number` gives the number of a new journal file."""
        self._dir, self._files, self._clock, self._station, self._number = (
            data_dir / "journal",
            files,
            clock,
            station,
            number,
        )
        self._present: _Prepared | None = None
        self._old: list[_Prepared] = []
        self._not_before_s = 0.0
        self._page = mmap.mmap(-1, MOST_BYTES + (64 << 10))

    def put(self, record: Record, end: int) -> bool:
        """Make a record durable before returning; `end` grows with every record, and is what `release` goes by.

        False when that cannot be now: too much at once, or the disk refuses, or the recorder is too far behind.
        """
        block = record.block
        if block is None or block.nbytes > MOST_BYTES or self._clock.monotonic_s() < self._not_before_s:
            return False
        try:
            present = self._present
            if present is None or present.writer.at + 2 * PAGE + block.nbytes > FILE_BYTES:
                present = self._begin()
            if present is None or present.file is None:
                return False
            writer = present.writer
            at, present.end = writer.at, end
            data = writer.encode([record])
            if writer.at > FILE_BYTES:
                self._give_up()
                return False
            self._page[: len(data)] = data
            present.file.size = at
            self._files.append(present.file, [memoryview(self._page)[: len(data)]])
            self._files.sync(present.file)
            writer.synced = writer.at
        except OSError as error:
            log.warning("the disk refused to take rows at once; they take the longer way", error=str(error))
            self._not_before_s = self._clock.monotonic_s() + RETRY_S
            self._give_up()
            return False
        except BaseException:  # interrupted, perhaps in the middle: never go on behind what may be half written
            self._give_up()
            raise
        return True

    def _begin(self) -> _Prepared | None:
        """Another file; None when there are too many."""
        self._give_up()
        if len(self._old) >= FILES:
            self._remove([one for one in self._old if one.idle_s])
        if len(self._old) >= FILES:
            return None
        number = self._number()
        writer = JournalWriter(number, self._station, self._clock.now_ns())
        path = self._dir / journal_name(number)
        temporary = path.with_name(f".{path.name}.tmp")
        self._files.remove(temporary)
        file = self._files.create(temporary, direct=True)
        prepared = _Prepared(writer, path, file)
        try:
            content = mmap.mmap(-1, FILE_BYTES)
            content[: len(writer.head)] = writer.head
            self._files.append(file, [memoryview(content)])
            self._files.sync(file)
            self._files.rename(temporary, path)
            self._old.append(prepared)  # from here on there is something to be removed
            file.path = path
            self._files.sync_dir(path.parent)
            self._present = self._old.pop()
        except BaseException:
            file.close()
            prepared.file = None
            with suppress(OSError):  # on a full disk it would be in the way of what is tried next
                self._files.remove(temporary)
            raise
        return prepared

    def _give_up(self) -> None:
        """Write no more to the present file; what is in it stays until the recorder has it."""
        present, self._present = self._present, None
        if present is not None:
            self._old.append(present)
            if present.file is not None:
                present.file.close()
                present.file = None

    def release(self, end: int) -> None:
        """The recorder has made everything before `end` durable: files that hold nothing else go after a moment."""
        now = self._clock.monotonic_s()
        for one in self._old:
            if one.end <= end and not one.idle_s:
                one.idle_s = now
        self._remove([one for one in self._old if one.idle_s and now - one.idle_s >= KEPT_S])

    def _remove(self, files: list[_Prepared]) -> None:
        if not files:
            return
        self._old = [one for one in self._old if one not in files]
        with suppress(OSError):  # the next start removes what stays behind
            for one in files:
                self._files.remove(one.path)
            self._files.sync_dir(self._dir)

    def close(self, end: int) -> None:
        """No more is put; what the recorder does not have by `end` stays for the next start."""
        self._give_up()
        self._remove([one for one in self._old if one.end <= end])
