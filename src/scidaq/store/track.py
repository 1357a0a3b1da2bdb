"""What the recorder knows of one stream: its book, what waits, what has been encoded, what is durable.

A track is a plain data structure with the arithmetic of accounting; the recorder moves it, and only the recorder's
encoding thread touches it, but for `confirm`, which is the commit thread's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from scidaq.block import NS, Block, Entry, Epoch, Gap, Ledger, RangeSet, Reason, Resume
from scidaq.stats import Durations
from scidaq.store.journal import Record
from scidaq.store.segment import SegmentWriter
from scidaq.store.writing import Target


class Policy(StrEnum):
    """When a stream is recorded."""

    ALWAYS = "always"
    RUNS = "runs"
    """Only during runs, and for the pre-trigger before one."""
    NEVER = "never"


class Reader(Protocol):
    """The recorder's side of a ring."""

    def take(self) -> list[Entry]:
        """Everything new, in order; does not wait."""

    def release(self, seq: int) -> None:
        """Entries up to and including `seq` need not be kept; from any thread."""

    def rewind(self) -> None:
        """Take again from the first entry that is not released."""

    def blame(self, reason: Reason) -> None:
        """Why rows will be refused if the ring runs full."""

    @property
    def newest(self) -> int:
        """Number of the entry that came in last, -1 before the first; from any thread."""

    @property
    def capacity_bytes(self) -> int:
        """The most that may wait to be released."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have not been released."""


class Snapshot(NamedTuple):
    """The scalars of a book at one moment, to publish when durable and to go back to when a write fails."""

    book: Book
    high: int
    delivered: int
    duplicates: int
    at_door: int
    recorded: int
    left_out: int
    first_ns: int
    last_ns: int
    last_row: int
    seq: int
    """The newest entry that is part of it."""
    commit: int = 0
    """Number of the commit that it went into."""
    after: int = 0
    """The commit that has to be durable before this one counts."""

    def ledger(self) -> Ledger:
        """The book as it goes to disk."""
        gaps = self.high - self.recorded - self.left_out - self.book.expired
        duplicates = self.duplicates + self.at_door
        b = self.book
        return Ledger(self.delivered, self.recorded, gaps, duplicates, self.left_out, b.expired, b.lost)


@dataclass(slots=True, eq=False)
class Book:
    """The rows of one epoch, by what became of them."""

    epoch: Epoch
    recorded: RangeSet = field(default_factory=RangeSet)
    left_out: RangeSet = field(default_factory=RangeSet)
    expired: int = 0
    lost: int = 0
    """Of the rows in gaps: those that damage has taken."""
    conflicting: RangeSet = field(default_factory=RangeSet)
    """Rows that came again with other content and were set aside."""
    set_aside: int = 0
    """Files that they went to."""
    high: int = 0
    delivered: int = 0
    duplicates: int = 0
    """Repeated rows that the recorder dropped, and those of before the start."""
    at_door: int = 0
    """Repeated rows that the intake dropped since the start."""
    first_ns: int = -1
    last_ns: int = -1
    last_row: int = -1

    def fresh(self, block: Block) -> list[tuple[int, int]]:
        """The rows of a block that have no place in the book yet."""
        pieces = self.recorded.missing(block.first, block.end)
        if self.left_out and pieces:
            pieces = [piece for a, b in pieces for piece in self.left_out.missing(a, b)]
        return pieces

    def snapshot(self, seq: int) -> Snapshot:
        """The present scalars."""
        return Snapshot(
            self,
            self.high,
            self.delivered,
            self.duplicates,
            self.at_door,
            self.recorded.total,
            self.left_out.total,
            self.first_ns,
            self.last_ns,
            self.last_row,
            seq,
        )

    def restore(self, s: Snapshot) -> None:
        """Go back to a snapshot of this book (the ranges are undone by the track)."""
        self.high, self.delivered, self.duplicates, self.at_door = s.high, s.delivered, s.duplicates, s.at_door
        self.first_ns, self.last_ns, self.last_row = s.first_ns, s.last_ns, s.last_row


@dataclass(slots=True)
class Moving:
    """What is on its way from the journal to the segment."""

    oldest_journal: int | None
    blocks: list[Block] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    left_out: list[tuple[int, int]] = field(default_factory=list)
    committed: bool = False
    """Whether all of it has been encoded and its commit is under way."""


class Change(NamedTuple):
    """Rows that were put into a set of a book by the entry `seq`, to be taken out when that is not to be."""

    seq: int
    ranges: RangeSet
    first: int
    end: int


@dataclass(slots=True)
class Stand:
    """Where one stream stands after recovery."""

    book: Book
    generation: int = 0
    journalled: list[Record] = field(default_factory=list)
    oldest_journal: int | None = None

    def resume(self) -> Resume:
        """What the intake needs to go on."""
        b = self.book
        seen = b.recorded.copy()
        for first, end in b.left_out:
            seen.add(first, end)
        last = b.last_ns if b.last_row >= 0 else None
        return Resume(b.epoch, b.high, seen, b.snapshot(-1).ledger(), last, b.last_row)


class Track:
    """One stream in the recorder."""

    def __init__(self, stream: str, reader: Reader, policy: Policy, pre_trigger_ns: int = 0) -> None:
        self.stream, self.reader, self.policy, self.pre_trigger_ns = stream, reader, policy, pre_trigger_ns
        self.recording = policy is Policy.ALWAYS
        self.switches: deque[tuple[int, bool]] = deque()
        """The newest entry when a run began or ended, for as long as entries before it are not durable."""
        self.due_switches: deque[tuple[int, bool]] = deque()
        """Those that come up again, because the entries before them are being looked at again."""
        self.recorded_before = self.recording
        """Whether it was being recorded before the first of the switches."""
        self.book: Book | None = None
        self.backlog: deque[Entry] = deque()
        """Entries taken from the ring and not looked at yet."""
        self.held: deque[Entry] = deque()
        """Blocks that a run may still want (pre-trigger)."""
        self.pending: deque[Block] = deque()
        """Rows looked at and not encoded yet."""
        self.pending_bytes = 0
        self.gaps: list[Gap] = []
        """Gap records that no commit holds yet."""
        self.untold_gaps: list[Gap] = []
        """Those that went into a batch of the commit that is being made."""
        self.new_left_out: list[tuple[int, int]] = []
        self.unsynced: deque[tuple[int, Block]] = deque()
        """Blocks that are not durable, to compare repeated rows with."""
        self.arrived: deque[tuple[int, float]] = deque()
        """When the entries came to the door whose rows are to be recorded and are not durable."""
        self.changes: deque[Change] = deque()
        self.seq = -1
        """The newest entry that was looked at."""
        self.looked = -1
        """The newest that ever was: those up to it are looked at again after a failure."""
        self.committed_seq = -1
        self.durable: Snapshot | None = None
        """What has been published."""
        # segment
        self.writer: SegmentWriter | None = None
        self.target: Target | None = None
        self.sealed: Target | None = None
        """The segment that was sealed last, until the next is begun."""
        self.generation = 0
        self.opened_s = 0.0
        self.segment_bytes = 0
        """Bytes of the sealed segments of this epoch."""
        # journal
        self.journalled: list[Block] = []
        """Durable in the journal, on their way to the segment."""
        self.journal_gaps: list[Gap] = []
        self.journal_left_out: list[tuple[int, int]] = []
        self.journal_rows = self.journal_bytes = 0
        self.journalled_s = 0.0
        self.oldest_journal: int | None = None
        """The oldest journal file that this track still needs."""
        self.moving: Moving | None = None
        # commits under way
        self.in_flight = 0
        self.lane: str = ""
        """Where the commits under way go: `segment` or `journal`."""
        self.blocked_until_s = 0.0
        self.failures = 0
        self.refused = ""
        """What the system said when it last refused something of it."""
        self.short = False
        """Whether it has to wait for room on the disk."""
        self.blamed = self.full_disk = False
        """Whether the disk is why the ring may be full, and whether it said that it is full."""
        self.left: deque[Target] = deque(maxlen=64)
        """Files that were given up while rows of it were on their way to them."""
        self.gives_up = self.gave_up = False
        """At the end, on a full disk: rows that are not durable are to become a gap, and are becoming one."""
        self.told_s = 0.0
        """When the catalog was last told of the segment."""
        self.conflicts = 0
        self.all_durable_rows = 0
        """Rows that were made durable since the start, of all epochs."""
        self.delays = Durations()
        """How long blocks took from the door until they were durable."""
        self.commits = 0
        self.said = Ledger()
        """The book as it was last given to the disk."""
        self.newest_commit = 0
        """The commit that the next one builds on."""
        self.confirmed = 0
        """The newest commit that is durable with all before it; written by the commit thread alone."""
        self.settled = 0
        """The newest commit that the encoding thread knows to be durable."""
        self._void = 0
        """Commits up to this number that are not durable yet never will count."""
        self._counting = threading.Lock()
        self.left_out_s = 0.0

    def deliver(self, reader: Reader, policy: Policy, pre_trigger_ns: int) -> None:
        """Something delivers to a stream that recovery had found."""
        self.reader, self.policy, self.pre_trigger_ns = reader, policy, pre_trigger_ns
        self.recording = self.recorded_before = policy is Policy.ALWAYS

    def take_over(self, block: Block | None, gaps: Sequence[Gap], left_out: Sequence[tuple[int, int]]) -> None:
        """Something is durable in the journal and waits to be moved."""
        if block is not None:
            self.journalled.append(block)
            self.journal_rows += block.rows
            self.journal_bytes += block.nbytes
        self.journal_gaps += gaps
        self.journal_left_out += left_out

    @property
    def on_journal(self) -> bool:
        """Whether something durable waits in the journal to be moved."""
        return bool(self.journalled or self.journal_gaps or self.journal_left_out)

    def continues(self, head: Block, last: Block, block: Block) -> bool:
        """Whether a block may be put into one batch with those from `head` to `last`.

        Times within a batch follow from its first; of rows that were measured here, to one nanosecond; of those that
        were imported, exactly.
        """
        if not block.follows(last):
            return False
        rate = block.schema.rate
        if rate is None or self.book is None or not self.book.epoch.imported:
            return True
        rows = block.first - head.first
        whole = block.rows == 1 or rows * NS * rate.denominator % rate.numerator == 0
        return whole and block.t0_ns == head.t0_ns + block.schema.span_ns(rows)

    def mark(self, seq: int, ranges: RangeSet, first: int, end: int) -> None:
        """Put rows of the entry `seq` into a set of the book, undoably."""
        ranges.add(first, end)
        self.changes.append(Change(seq, ranges, first, end))

    def begin_commit(self) -> Snapshot:
        """The book as it goes into the next commit, with everything looked at that no run may still want."""
        if self.book is None:
            raise RuntimeError(f"{self.stream} has no epoch")
        seq = min(self.seq, self.held[0].seq - 1) if self.held else self.seq
        self.committed_seq = seq
        self.commits += 1
        after, self.newest_commit = self.newest_commit, self.commits
        snapshot = self.book.snapshot(seq)._replace(commit=self.commits, after=after)
        self.said = snapshot.ledger()
        return snapshot

    @property
    def unsaid(self) -> bool:
        """Whether the book has changed since it was last written, be it only by repeated rows."""
        return self.book is not None and self.book.snapshot(self.seq).ledger() != self.said

    def confirm(self, snapshot: Snapshot) -> bool:
        """A commit has been synced; whether it counts. It does not when one before it failed, in another file perhaps:
        then the rows of both are taken from the ring again, which must not let go of them."""
        with self._counting:
            if snapshot.commit <= self._void or snapshot.after != self.confirmed:
                return False
            self.confirmed = snapshot.commit
            return True

    def void(self) -> None:
        """No commit that is under way will count any more, wherever it goes: its rows are taken from the ring again."""
        with self._counting:
            self._void = self.commits

    @property
    def unsettled(self) -> bool:
        """Whether something is durable of which the encoding thread has not been told yet."""
        return self.confirmed != self.settled

    def works(self) -> None:
        """The disk took something."""
        if self.failures or self.blamed:
            self.failures, self.full_disk, self.refused = 0, False, ""
            if not self.short:  # else that was on its way already
                self.blamed = False
                self.reader.blame(Reason.OVERFLOW)

    def blame_disk(self) -> None:
        """Rows that find no room in the ring are lost to the disk, until it takes something again."""
        self.blamed = True
        self.reader.blame(Reason.DISK)

    @property
    def dirty(self) -> bool:
        """Whether rows have been encoded that no commit holds."""
        return self.writer is not None and self.writer.dirty

    def settle(self, snapshot: Snapshot, durable_s: float | None = None) -> None:
        """What was looked at up to the snapshot is durable, since `durable_s` where a commit made it so."""
        before = self.durable
        self.settled = snapshot.commit or self.settled
        self.all_durable_rows += snapshot.recorded - (
            before.recorded if before is not None and before.book is snapshot.book else 0
        )
        arrived = self.arrived
        while arrived and arrived[0][0] <= snapshot.seq:
            at_s = arrived.popleft()[1]
            if durable_s is not None:
                self.delays.add(durable_s - at_s)
        self.durable = snapshot
        while self.changes and self.changes[0].seq <= snapshot.seq:
            self.changes.popleft()
        while self.unsynced and self.unsynced[0][0] <= snapshot.seq:
            self.unsynced.popleft()
        while self.switches and self.switches[0][0] <= snapshot.seq:
            self.recorded_before = self.switches.popleft()[1]

    def roll_back(self) -> None:
        """Forget everything that is not durable; the ring will give it again."""
        while self.changes:
            change = self.changes.pop()
            change.ranges.remove(change.first, change.end)
        if self.durable is not None:
            self.book = self.durable.book
            self.book.restore(self.durable)
            self.seq = self.durable.seq
        else:
            self.book, self.seq = None, -1
        self.committed_seq = self.seq
        self.newest_commit, self.said = self.confirmed, Ledger()
        # A run begins and ends where it did when the entries come again.
        self.recording = self.recorded_before
        self.due_switches = self.switches.copy()
        while self.due_switches and self.due_switches[0][0] <= self.seq:  # behind all that is durable: for what follows
            self.recording = self.due_switches.popleft()[1]
        self.backlog.clear()
        self.held.clear()
        self.pending.clear()
        self.unsynced.clear()
        self.arrived.clear()
        self.gaps.clear()
        self.untold_gaps.clear()
        self.pending_bytes = 0
        # What was left out is said again as a whole: saying it twice changes nothing.
        self.new_left_out = list(self.book.left_out) if self.book is not None else []
        if self.moving is not None:
            m, self.moving = self.moving, None
            self.journalled = m.blocks + self.journalled
            self.journal_gaps = m.gaps + self.journal_gaps
            self.journal_left_out = m.left_out + self.journal_left_out
            self.journal_rows = sum(b.rows for b in self.journalled)
            self.journal_bytes = sum(b.nbytes for b in self.journalled)
            self.oldest_journal = m.oldest_journal
        self.reader.rewind()

    def journal_needed(self) -> int | None:
        """The oldest journal file with rows of this stream that are in no segment yet."""
        candidates = [
            n for n in (self.oldest_journal, self.moving.oldest_journal if self.moving else None) if n is not None
        ]
        return min(candidates, default=None)
