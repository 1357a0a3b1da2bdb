"""The journal: the small commits of all slow streams, in a file that is written, rolled and removed.

Encoding thread and commit thread as in `segment_lane`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import structlog

from scidaq.block import Block
from scidaq.clock import Clock
from scidaq.store.files import Files
from scidaq.store.journal import JournalWriter, Record, journal_name
from scidaq.store.reports import Projection
from scidaq.store.track import Snapshot, Track
from scidaq.store.writing import Append, Call, Create, Job, Sync, Target

log = structlog.get_logger(__name__)

MAX_BYTES = 64 << 20

Commit = tuple[Track, list[Record], Snapshot]
"""What one stream puts into a commit of the journal, and what is then durable of it."""


class JournalLane:
    """The present journal file and the older ones whose rows have not all moved. Used by the encoding thread."""

    def __init__(
        self,
        data_dir: Path,
        files: Files,
        clock: Clock,
        station: str,
        roll_s: float,
        number: int,
        projection: Projection,
        put: Callable[[Job], None],
        settle: Callable[[Callable[[], None]], None],
        publish: Callable[[Track, Snapshot], None],
    ) -> None:
        """Begins with file `number`; the last three as in `SegmentLane`."""
        self._dir, self._files, self._clock, self._station = data_dir / "journal", files, clock, station
        self._roll_s, self._number = roll_s, number
        self._numbering = threading.Lock()
        self._projection, self._put, self._settle, self._publish = projection, put, settle, publish
        self._gathered: list[Commit] = []
        self._waiting: dict[Target, list[Track]] = {}
        """Whose commits to a file are not settled, once for each."""
        self._present: tuple[JournalWriter, Target] | None = None
        self._closed: Target | None = None
        """The file before, until the next is begun."""
        self._opened_s = 0.0
        self._old: list[tuple[int, Path]] = []
        self._under_way: dict[int, int] = {}
        """Commits of each file that are not settled: their rows are nowhere else yet."""

    @property
    def size(self) -> int:
        """Bytes of the present file."""
        present = self._present
        return present[0].at if present is not None else 0

    def adopt(self, files: Iterable[tuple[int, Path]]) -> None:
        """Take charge of files of before: each is removed once its rows have moved."""
        self._old = list(files)

    def take_number(self) -> int:
        """The number of a new file; from any thread."""
        with self._numbering:
            number, self._number = self._number, self._number + 1
        return number

    def _open(self) -> tuple[JournalWriter, Target]:
        """The present file, made when there is none."""
        if self._present is None:
            number = self.take_number()
            writer = JournalWriter(number, self._station, self._clock.now_ns())
            # The books in it count the rows of the file before, whose last commit may not be synced yet.
            before, self._closed = self._closed, None
            target = Target(self._dir / journal_name(number), direct=False, after=before)
            self._opened_s = self._clock.monotonic_s()
            self._present = writer, target
            self._put(Create(target, writer.head))
        return self._present

    def close(self) -> None:
        """The next commit begins a new file."""
        if self._present is not None:
            writer, target = self._present
            self._old.append((writer.number, target.path))
            self._put(Sync(target, _nothing, close=True))
            self._present, self._closed = None, target

    def abandon(self, target: Target) -> list[Track]:
        """A file could not be written: another one is begun, this one stays until its rows have moved.

        Returns the streams that had something in it that is not settled.
        """
        if self._present is not None and self._present[1] is target:
            self._old.append((self._present[0].number, target.path))
            self._present = None
        if self._closed is target:
            self._closed = None
        for number, path in self._old:
            if path == target.path:
                self._under_way.pop(number, None)  # their rows are taken from the rings again
        tracks = self._waiting.pop(target, [])
        for track in dict.fromkeys(tracks):
            track.left.append(target)
        return tracks

    def roll(self, now_s: float, tracks: Iterable[Track]) -> None:
        """Begin a new file in time, and remove old ones whose rows have all moved."""
        if self._present is not None:
            writer = self._present[0]
            old = now_s - self._opened_s >= self._roll_s and writer.at > len(writer.head)
            if old or writer.at >= MAX_BYTES:
                self.close()
        if not self._old:
            return
        needed = [n for n in (t.journal_needed() for t in tracks) if n is not None] + list(self._under_way)
        limit = min(needed, default=self._number)
        for number, path in self._old:
            if number < limit:
                self._put(Call(Target(path, direct=False), partial(self._retire, path)))
        self._old = [(n, p) for n, p in self._old if n >= limit]

    def _retire(self, path: Path) -> None:
        self._files.remove(path)
        self._files.sync_dir(path.parent)

    # ---- commits ----

    def gather(self, track: Track) -> None:
        """Put what waits of a stream into the next commit: its blocks joined, its gaps, its book."""
        snapshot = track.begin_commit()
        epoch, high, ledger = snapshot.book.epoch, snapshot.high, snapshot.ledger()
        blocks: list[Block | None] = []
        while track.pending:
            parts = [track.pending.popleft()]
            while track.pending and track.continues(parts[0], parts[-1], track.pending[0]):
                parts.append(track.pending.popleft())
            blocks.append(Block.join(parts))
        track.pending_bytes = 0
        gaps, track.gaps = tuple(track.gaps), []
        left_out, track.new_left_out = tuple(track.new_left_out), []
        track.left_out_s = self._clock.monotonic_s()
        track.lane = "journal"
        track.in_flight += 1
        first, *others = blocks or [None]
        records = [
            Record(epoch, first, high, ledger, gaps, left_out),
            *(Record(epoch, b, high, ledger) for b in others),
        ]
        self._gathered.append((track, records, snapshot))

    def commit(self) -> list[Track]:
        """One batch, one write, one sync for all that was gathered. Returns whom it failed for, by a fault of ours."""
        if not self._gathered:
            return []
        commits, self._gathered = self._gathered, []
        try:
            self._commit(commits)
        except Exception:
            log.exception("the journal failed unexpectedly; its streams are begun again")
            return [track for track, _, _ in commits]
        return []

    def _commit(self, commits: list[Commit]) -> None:
        writer, target = self._open()
        self._waiting.setdefault(target, []).extend(track for track, _, _ in commits)
        self._under_way[writer.number] = self._under_way.get(writer.number, 0) + 1
        self._put(Append(target, writer.encode([r for _, records, _ in commits for r in records])))
        self._put(Sync(target, partial(self._synced, target, writer, writer.at, commits)))

    def _synced(self, target: Target, writer: JournalWriter, end: int, commits: list[Commit]) -> None:
        """A commit of the journal is durable (called in the commit thread)."""
        counted: list[Commit] = []
        void: list[Track] = []
        for commit in commits:
            if commit[0].confirm(commit[2]):
                counted.append(commit)
            else:
                void.append(commit[0])
        if counted:
            target.kept = end
        for track, records, snapshot in counted:
            self._publish(track, snapshot)
            track.reader.release(snapshot.seq)
            gaps = [g for r in records for g in r.gaps]
            if gaps:
                self._projection.gaps(gaps)
        self._settle(partial(self._settled, target, writer, end, counted, void, self._clock.monotonic_s()))

    def _settled(
        self,
        target: Target,
        writer: JournalWriter,
        end: int,
        commits: list[Commit],
        void: list[Track],
        durable_s: float,
    ) -> None:
        writer.synced = end
        self._done(writer.number)
        now = self._clock.monotonic_s()
        waiting = self._waiting.get(target, [])
        for track, records, snapshot in commits:
            track.works()
            track.in_flight -= 1
            track.settle(snapshot, durable_s)
            if not track.on_journal:
                track.journalled_s = now
            for record in records:
                track.take_over(record.block, record.gaps, record.left_out)
            if track.oldest_journal is None:
                track.oldest_journal = writer.number
            if not track.in_flight:
                track.lane = ""
        for track in (*(c[0] for c in commits), *void):
            if track in waiting:
                waiting.remove(track)  # once: a commit behind this one may hold it too
        if not waiting:
            self._waiting.pop(target, None)

    def _done(self, number: int) -> None:
        """A commit to a file is settled: the tracks know what they have in it."""
        self._under_way[number] = self._under_way.get(number, 1) - 1
        if self._under_way[number] <= 0:
            del self._under_way[number]


def _nothing() -> None:
    pass
