"""The ring: the newest blocks of one stream, with a cursor for each reader and three policies for being slow.

| reader | when it is slow |
|---|---|
| `Hold` (the recorder) | every entry is kept until it is released; a block that finds no room is refused: a gap |
| `Budget` (a stage) | may lag behind by a fixed number of bytes; beyond that it is told the range that it missed |
| `Latest` (a viewer) | gets the newest block and how many it skipped |

Memory is bounded by `capacity_bytes` (not yet released) plus `history_bytes` (released, kept for the budgets of stages
and for pre-triggers). Blocks are kept by reference, nothing is copied. The driver's thread offers, each reader belongs
to one thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

from scidaq.block import Block, Entry, Epoch, Gap, Reason
from scidaq.errors import RequestError
from scidaq.stats import field_of


@dataclass(frozen=True, slots=True)
class RingStats:
    """What a ring has seen since it was made."""

    stream: str = field_of("1", "Stream id.")
    blocks: int = field_of("{block}", "Blocks taken in.")
    rows: int = field_of("{row}", "Rows taken in.")
    refused_rows: int = field_of("{row}", "Rows refused because the recorder had not released enough.")
    held_bytes: int = field_of("By", "Bytes that the recorder has not released yet.")
    history_bytes: int = field_of("By", "Bytes kept behind the recorder for stages and pre-triggers.")
    capacity_bytes: int = field_of("By", "The most that may be held.")
    peak_bytes: int = field_of("By", "The most that has been held.")
    missed_rows: int = field_of("{row}", "Rows that stages with a budget were too late for.")


class Ring:
    """The newest entries of one stream. `offer` never blocks."""

    LOUD = 1 << 40
    """What the bell is told when the ring is half full: more than anybody waits for."""

    def __init__(
        self,
        stream: str,
        capacity_bytes: int,
        history_bytes: int = 0,
        bell: Callable[[str, int], None] | None = None,
        told: Callable[[Gap], None] | None = None,
    ) -> None:
        """`bell(stream, bytes)` is called in the offering thread after an entry has come in, and `told` with each gap;
        both must be quick."""
        self.stream, self.capacity_bytes = stream, capacity_bytes
        self._history_limit = self._own_history = history_bytes
        self._bell, self._told = bell, told
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._entries: deque[tuple[Entry, int]] = deque()
        self._next = 0
        self._hold: Hold | None = None
        self._budgets: WeakSet[Budget] = WeakSet()
        self._newest: Block | None = None
        self._held = self._history = self._peak = 0
        self._blocks = self._rows = self._refused = self._missed = 0
        self._closed = False

    def fits(self, block: Block) -> bool:
        """Whether a block would be taken now; it stays true for the offering thread, since others only make room."""
        return self._hold is None or not self._held or self._held + block.nbytes <= self.capacity_bytes

    @property
    def why_full(self) -> Reason:
        """What a block that finds no room is to be explained with."""
        return self._hold._why_full if self._hold is not None else Reason.OVERFLOW

    def wait_for_room(self, block: Block, timeout_s: float) -> bool:
        """Give the recorder a moment to make room; whether the block fits now. For the offering thread."""
        if self._bell is not None:
            self._bell(self.stream, self.LOUD)
        with self._lock:
            return self._changed.wait_for(lambda: self._closed or self.fits(block), timeout_s) and self.fits(block)

    def offer(self, item: Block | Gap | Epoch, delivered: int = 0, duplicates: int = 0, arrived_s: float = 0.0) -> bool:
        """Take an item in; False when a block does not fit. Gaps and epochs always fit."""
        size = item.nbytes if isinstance(item, Block) else 0
        with self._lock:
            if isinstance(item, Block):
                if not self.fits(item):
                    self._refused += item.rows
                    return False
                self._blocks += 1
                self._newest = item
                self._rows += item.rows
            self._entries.append((Entry(self._next, item, delivered, duplicates, arrived_s), size))
            self._next += 1
            if self._hold is not None:
                self._held += size
                self._peak = max(self._peak, self._held)
            else:
                self._history += size
                self._trim()
            self._changed.notify_all()
        if self._bell is not None:
            self._bell(self.stream, self.LOUD if 2 * self._held >= self.capacity_bytes else size)
        if self._told is not None and isinstance(item, Gap):
            self._told(item)
        return True

    def _trim(self) -> None:
        """Drop released entries beyond the history (with the lock held)."""
        entries, limit = self._entries, self._history_limit
        released = self._hold.released if self._hold is not None else self._next
        while entries and entries[0][0].seq < released and (self._history > limit or not (entries[0][1] or limit)):
            entry, size = entries.popleft()
            self._history -= size
            for stage in self._budgets:
                stage._passed(entry)

    def _from(self, seq: int) -> list[tuple[Entry, int]]:
        """The entries from `seq` on that are still here (with the lock held)."""
        entries = self._entries
        if not entries or seq >= self._next:
            return []
        skip = max(0, seq - entries[0][0].seq)
        if skip * 2 <= len(entries):
            return [entries[i] for i in range(skip, len(entries))] if skip < 64 else list(entries)[skip:]
        tail = [entries[-i] for i in range(1, len(entries) - skip + 1)]
        tail.reverse()
        return tail

    def hold(self) -> Hold:
        """The one reader that holds the ring back. Raises `RequestError` when there is one."""
        with self._lock:
            if self._hold is not None:
                raise RequestError(f"the ring of {self.stream} is held back by a recorder already")
            self._hold = Hold(self, self._entries[0][0].seq if self._entries else self._next)
            self._held, self._history = self._history, 0
            return self._hold

    def budget(self, budget_bytes: int, *, whole: bool = False) -> Budget:
        """A reader that may lag by at most `budget_bytes`; the ring keeps as much history from now on.

        It begins with what comes next, or with `whole` with what the ring has still.
        """
        with self._lock:
            self._history_limit = max(self._history_limit, budget_bytes)
            begin = self._entries[0][0].seq if whole and self._entries else self._next
            stage = Budget(self, begin, budget_bytes)
            self._budgets.add(stage)
            return stage

    def _part(self, stage: Budget) -> None:
        """Keep no more for a stage."""
        with self._lock:
            self._budgets.discard(stage)
            self._history_limit = max([self._own_history, *(one.budget_bytes for one in self._budgets)])
            self._trim()

    def latest(self) -> Latest:
        """A reader that wants only the newest block."""
        with self._lock:
            return Latest(self, self._blocks)

    def widen(self, capacity_bytes: int) -> None:
        """Hold at least as much from now on."""
        self.capacity_bytes = max(self.capacity_bytes, capacity_bytes)

    def newest_block(self) -> Block | None:
        """The newest block that was offered, be it durable or not; None before the first."""
        return self._newest

    def recent(self) -> list[Block | Gap | Epoch]:
        """What it has still, oldest first: everything that is not durable, and perhaps some of what is."""
        with self._lock:
            return [entry.item for entry, _ in self._entries]

    def close(self) -> None:
        """No more will be offered; readers that wait return."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def stats(self) -> RingStats:
        """A snapshot."""
        with self._lock:
            return RingStats(
                self.stream,
                self._blocks,
                self._rows,
                self._refused,
                self._held,
                self._history,
                self.capacity_bytes,
                self._peak,
                self._missed,
            )


class Hold:
    """The recorder's cursor: what it takes stays in the ring until it is released, and can be taken again."""

    def __init__(self, ring: Ring, start: int) -> None:
        self._ring = ring
        self._next = start
        self.released = start
        """Entries before this one may be dropped."""
        self._why_full = Reason.OVERFLOW

    def take(self) -> list[Entry]:
        """Everything that has come in since the last call, in order; does not wait."""
        ring = self._ring
        with ring._lock:
            out = [entry for entry, _ in ring._from(self._next)]
            self._next = ring._next
            return out

    def release(self, seq: int) -> None:
        """Entries up to and including `seq` are durable (or need not be); callable from any thread."""
        ring = self._ring
        with ring._lock:
            if seq < self.released:
                return
            for entry, size in ring._from(self.released):
                if entry.seq > seq:
                    break
                ring._held -= size
                ring._history += size
            self.released = seq + 1
            ring._trim()
            ring._changed.notify_all()

    def blame(self, reason: Reason) -> None:
        """Why the ring will be full if it is: the disk, or that recording is too slow; from any thread."""
        self._why_full = reason

    @property
    def capacity_bytes(self) -> int:
        """The most that may wait."""
        return self._ring.capacity_bytes

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have not been released; a glance, without the lock."""
        return self._ring._held

    @property
    def newest(self) -> int:
        """Number of the entry that came in last; a glance, without the lock."""
        return self._ring._next - 1

    def rewind(self) -> None:
        """Take again from the first entry that is not released."""
        with self._ring._lock:
            self._next = self.released


class Budget:
    """A stage's cursor: bounded in how far it may lag."""

    def __init__(self, ring: Ring, start: int, budget_bytes: int) -> None:
        self._ring, self._next, self.budget_bytes = ring, start, budget_bytes
        self.before = ring._newest
        """The newest block that it was too late for when it was made; None where there was none."""
        self._missed: list[Entry] = []
        """What the ring has let go of before it was taken: epochs and gaps as they were, blocks as gaps."""

    def take(self, timeout_s: float = 0.0) -> list[Entry]:
        """What has come in, waiting up to `timeout_s` for something; oldest first.

        When it lags by more than its budget the oldest blocks are left out and their rows come as a `Gap` of reason
        *late*, whether or not the ring still had them: being late is decided by the budget alone.
        """
        ring = self._ring
        with ring._lock:
            if self._next >= ring._next and timeout_s > 0 and not ring._closed:
                ring._changed.wait(timeout_s)
            found = ring._from(self._next)
            self._next = ring._next
            lag = sum(size for _, size in found)
            for n, (entry, size) in enumerate(found):
                if lag <= self.budget_bytes:
                    self._missed += (entry for entry, _ in found[n:])
                    break
                lag -= size
                self._miss(entry)
            out, self._missed = self._missed, []
            return out

    @property
    def waiting(self) -> bool:
        """Whether there is something to take; a glance, without the lock."""
        return self._ring._next > self._next or bool(self._missed)

    def close(self) -> None:
        """It takes no more, and the ring keeps nothing for it."""
        self._ring._part(self)

    def _passed(self, entry: Entry) -> None:
        """The ring lets go of an entry (with its lock held)."""
        if entry.seq >= self._next:
            self._next = entry.seq + 1
            self._miss(entry)

    def _miss(self, entry: Entry) -> None:
        """Note an entry that comes too late; neighbours become one gap."""
        block = entry.item
        if not isinstance(block, Block):
            self._missed.append(entry)
            return
        self._ring._missed += block.rows
        first, start_ns = block.first, block.t0_ns
        last = self._missed[-1].item if self._missed else None
        if isinstance(last, Gap) and last.reason is Reason.LATE and (last.epoch, last.end) == (block.epoch, first):
            first, start_ns = last.first, last.start_ns or start_ns
            self._missed.pop()
        lost = Gap(block.stream, block.epoch, first, block.end, Reason.LATE, start_ns, block.last_ns)
        self._missed.append(Entry(entry.seq, lost, entry.delivered, entry.duplicates))


class Latest:
    """A viewer's cursor: the newest block, whatever was before, also when the ring has let go of it."""

    def __init__(self, ring: Ring, seen: int) -> None:
        self._ring, self._seen = ring, seen

    def take(self, timeout_s: float = 0.0) -> tuple[Block | None, int]:
        """The newest block since the last call (None when there is none) and how many blocks were skipped for it."""
        ring = self._ring
        with ring._lock:
            if self._seen >= ring._blocks and timeout_s > 0 and not ring._closed:
                ring._changed.wait(timeout_s)
            fresh, self._seen = ring._blocks - self._seen, ring._blocks
            return (ring._newest, fresh - 1) if fresh else (None, 0)
