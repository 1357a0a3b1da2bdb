"""Checking the batches of a segment on other threads before their turn comes: to fetch and verify takes longest.

For those who wait for nothing else, as a script or a notebook does; in the process of a recorder one thread is enough.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from scidaq.block import Block
from scidaq.errors import Corrupt
from scidaq.store import Outline, Segment

SMALL = 64 << 10
"""Batches below are checked when their turn comes: to tell another thread of them takes as long."""
STRETCH = 2 << 20
"""Bytes that a thread checks at once."""
FAR = 32 << 20
"""Bytes that are checked ahead at most."""


def cores() -> int:
    """How many cores this process may use, four at most: then memory is the limit."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(known, 4)


class Checkers:
    """Threads that check batches, none of them before there is something to do. Joined at the end of `with`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def ahead_of(self, segment: Segment | Outline) -> Ahead | None:
        """What gives the blocks of a segment; None where nothing would be gained."""
        return Ahead(segment, self) if self._threads > 1 and len(segment.data) >= 2 * STRETCH else None

    def check(self, segment: Segment | Outline, batches: list[int]) -> Future[dict[int, Block | Corrupt]]:
        """Begin to check; the rows of each batch, or why there are none."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "scidaq-check")
        return self._pool.submit(_checked, segment, batches)


def _checked(segment: Segment | Outline, batches: list[int]) -> dict[int, Block | Corrupt]:
    out: dict[int, Block | Corrupt] = {}
    for i in batches:
        try:
            out[i] = segment.block_at(i)
        except Corrupt as error:
            out[i] = error
    return out


class Ahead:
    """The blocks of one segment. While they are asked for in order, those that follow are checked meanwhile.

    Half of what has been asked for, so that who wants little is not kept waiting for more.
    """

    def __init__(self, segment: Segment | Outline, checkers: Checkers) -> None:
        self._segment, self._checkers = segment, checkers
        self._sizes = [entry.size for entry in segment.entries]
        self._checked: dict[int, Future[dict[int, Block | Corrupt]]] = {}
        self._next = 0
        """The first batch that nobody has been told to check."""
        self._asked = self._ahead = 0
        """Bytes of the batches that were asked for, and of those among the others that are checked."""

    def block(self, i: int) -> Block:
        """The rows of the batch of entry `i`, checked. Raises `Corrupt`."""
        size = self._sizes[i]
        if size < SMALL:
            return self._segment.block_at(i)
        checked = self._checked.pop(i, None)
        self._asked += size
        if checked is None:
            self._next = max(self._next, i + 1)
        else:
            self._ahead -= size
        self._go_on()
        if checked is None:
            return self._segment.block_at(i)
        found = checked.result().pop(i)
        if isinstance(found, Corrupt):
            raise found
        return found

    def _go_on(self) -> None:
        sizes = self._sizes
        while self._next < len(sizes) and self._ahead + STRETCH <= min(self._asked // 2, FAR):
            stretch: list[int] = []
            size = 0
            while self._next < len(sizes) and size < STRETCH:
                if (n := sizes[self._next]) >= SMALL:
                    stretch.append(self._next)
                    size += n
                self._next += 1
            if stretch:
                self._checked |= dict.fromkeys(stretch, self._checkers.check(self._segment, stretch))
                self._ahead += size
