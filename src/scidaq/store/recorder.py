"""The recorder: takes blocks out of the rings and makes them durable.

It is split in two so that a slow sync never delays it: this thread looks at each row's place in the book, encodes, and
decides every `sync_interval_ms` what a commit is; the commit thread writes, syncs and publishes. The ring keeps every
row until it is durable, so that whatever the disk refuses can be written again elsewhere.

Per interval, a stream with at least 64 KiB goes straight to its segment; what all the others have goes together into
one commit of the journal, and from there to their segments later, in larger pieces.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from scidaq.block import Block, Entry, Epoch, Gap, Ledger, Reason
from scidaq.clock import Clock
from scidaq.errors import ConflictingRows, Corrupt
from scidaq.store.accounting import Accounting
from scidaq.store.durable import NAME as DURABLE_MAP
from scidaq.store.durable import DurableMap, Mark
from scidaq.store.files import Files, make_directory, publish
from scidaq.store.journal import JournalWriter, Record
from scidaq.store.journal_lane import JournalLane
from scidaq.store.options import Options
from scidaq.store.reading import rows_on_disk
from scidaq.store.reports import Projection, RecorderStats, SegmentFacts, StreamStats
from scidaq.store.segment import Buffers, SegmentName, SegmentWriter, whole_segment
from scidaq.store.track import Book, Moving, Policy, Reader, Snapshot, Stand, Track
from scidaq.store.writing import Append, Call, CommitThread, Create, Job, Sync, Target, Write

log = structlog.get_logger(__name__)

DIRECT_BYTES = 64 << 10
"""From this many bytes a commit goes straight to the segment."""
MOVE_ROWS = 4096
BATCH_BYTES = 1 << 20
"""The most that is put into one batch."""
RETRY_S = 0.5
SET_ASIDE = 100
"""Files of conflicting rows that one epoch may put into the quarantine."""
TELL_S = 10.0
"""How often the catalog is told that a segment has grown."""
EARLY_BYTES = 64 << 20
"""From this many bytes behind the last commit of a stream the next does not wait for its time."""
_SLACK = 2 << 20
_LEFT_OUT_S = 10.0
REFUSALS, DRAIN_ATTEMPTS = 5, 200
"""At the end: how often a stream may be refused, and how long it is tried all the same."""


JournalCommit = tuple[Track, list[Record], Snapshot]
"""What one stream puts into a commit of the journal, and what is then durable of it."""


class Recorder:
    """Makes the blocks of any number of streams durable. Open it, `add` streams, `start`; `close` drains and seals."""

    def __init__(
        self,
        data_dir: Path,
        files: Files,
        clock: Clock,
        station: str,
        options: Options,
        projection: Projection,
        journal_number: int = 0,
    ) -> None:
        self._dir, self._files, self._clock, self._station, self._options = data_dir, files, clock, station, options
        self._projection = projection
        self._tracks: dict[str, Track] = {}
        self._buffers = Buffers(options.write_buffers, options.write_buffer_bytes + _SLACK)
        self._wake = threading.Event()
        self._commit = CommitThread(files, clock, self._on_failure, self._wake.set)
        self._inbox: deque[Callable[[], None]] = deque()
        self._ready: deque[str] = deque()
        self._waiting_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder-encode", daemon=True)
        self._active: set[str] = set()
        self._for_journal: list[JournalCommit] = []
        self._moves_left = 0
        self._undrained: set[str] = set()
        self._stalled: set[str] = set()
        """Streams that wait for a free buffer."""
        self._journal = JournalLane(data_dir, files, clock, station, options.journal_move_s, self._put, journal_number)
        self._targets: dict[Target, list[Track]] = {}
        self._map = DurableMap(data_dir / DURABLE_MAP)
        self._accounting = Accounting(self._began, self._on_disk, self._set_aside)
        self._interval_s = options.sync_interval_ms / 1000
        self._commits = 0
        self.abandoned = 0
        """Segments that were given up after a refused write; recovery seals what is intact in them."""
        self._started = self._drained = False
        self.ended = True
        """Whether neither of its threads runs, so that nothing more is written."""
        self._running: dict[str | None, bool] = {None: False}
        """Whether a run is under way: for all streams, and for those that it differs for."""

    # ---- the door ----

    def add(self, stream: str, reader: Reader, policy: Policy, pre_trigger_ns: int = 0) -> None:
        """Record a stream; from any thread, at any time."""

        def act() -> None:
            track = self._tracks.get(stream)
            if track is None:
                self._tracks = {**self._tracks, stream: Track(stream, reader, policy, pre_trigger_ns)}
            else:  # recovery knew it already
                track.deliver(reader, policy, pre_trigger_ns)
            track = self._tracks[stream]
            if policy is Policy.RUNS and self._running.get(stream, self._running[None]):
                self._accounting.switch(track, True)  # it joins a run that is under way
            self._active.add(stream)

        if self._started:
            self._inbox.append(act)
            self._wake.set()
        else:
            act()

    def resume(self, stream: str, stand: Stand) -> None:
        """Go on with what recovery found of a stream (also one that nothing delivers to any more); before `start`."""
        track = self._tracks[stream] = Track(stream, _Nothing(), Policy.NEVER)
        track.book, track.generation = stand.book, stand.generation
        track.durable = stand.book.snapshot(-1)
        track.said = track.durable.ledger()
        for record in stand.journalled:
            track.take_over(record.block, record.gaps, record.left_out)
        if stand.journalled:
            track.oldest_journal, track.journalled_s = stand.oldest_journal, self._clock.monotonic_s()
            self._active.add(stream)
        self._began(stand.book.epoch)  # a kill may have come before the catalog heard of it
        self._publish(track, track.durable)

    def adopt_journals(self, files: Iterable[tuple[int, Path]]) -> None:
        """Take charge of journal files of before: they are removed once their rows have moved."""
        self._journal.adopt(files)

    def start(self) -> None:
        """Begin; `bell` may be called from now on."""
        self._started, self.ended = True, False
        self._commit.start()
        self._thread.start()

    def bell(self, stream: str, size: int) -> None:
        """Something came into the ring of a stream; from any thread, at once."""
        self._ready.append(stream)
        self._waiting_bytes += size  # racy on purpose: it only decides how early to look
        if self._waiting_bytes >= 8 * BATCH_BYTES:
            self._wake.set()

    def set_recording(self, active: bool, streams: Iterable[str] | None = None) -> None:
        """A run has begun or ended: streams of policy `runs` are recorded from their pre-trigger on, or no longer."""
        chosen = None if streams is None else set(streams)

        def act() -> None:
            self._running = {None: active} if chosen is None else self._running | dict.fromkeys(chosen, active)
            for track in self._tracks.values():
                if track.policy is Policy.RUNS and (chosen is None or track.stream in chosen):
                    self._accounting.switch(track, active)
                    self._active.add(track.stream)

        self._inbox.append(act)
        self._wake.set()

    def close(self, timeout_s: float | None = None) -> bool:
        """Take everything out of the rings, make it durable, move the journal, seal all segments, stop.

        The caller has stopped whoever offers. False when the disk refused or did not end within `timeout_s`; what was
        not durable by then is in a gap of reason *restart* at the next start. `ended` says whether anything still runs.
        """
        if not self._started:
            self._map.close()
            return True
        deadline = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        left = None if deadline is None else max(0.0, deadline - self._clock.monotonic_s())
        self.ended = not self._thread.is_alive() and self._commit.close(left)
        if self.ended:
            self._map.close()
        return self.ended and self._drained

    def stats(self) -> RecorderStats:
        """A snapshot, from any thread."""
        return RecorderStats(
            tuple(self._stats(t) for t in list(self._tracks.values())),
            self._commit.stats(),
            self._journal.size,
            self._commits,
        )

    def _stats(self, track: Track) -> StreamStats:
        book, durable, writer = track.book, track.durable, track.writer
        if book is None:
            return StreamStats(track.stream, -1, 0, 0, 0, 0, 0, 0, 0, 0, track.conflicts, track.failures, -1, 0)
        durable_ledger = durable.ledger() if durable is not None and durable.book is book else Ledger()
        now = book.snapshot(track.seq).ledger()
        return StreamStats(
            track.stream,
            book.epoch.number,
            now.recorded,
            durable_ledger.recorded,
            durable_ledger.gaps,
            durable_ledger.duplicates,
            durable_ledger.left_out,
            durable_ledger.delivered,
            durable_ledger.imbalance,
            durable.high if durable is not None and durable.book is book else 0,
            track.conflicts,
            track.failures,
            book.last_ns,
            track.segment_bytes + (writer.at if writer is not None else 0),
        )

    # ---- the loop ----

    def _run(self) -> None:
        next_tick = self._clock.monotonic_s() + self._interval_s
        while True:
            try:
                left = next_tick - self._clock.monotonic_s()
                if left > 0 and not self._stop.is_set():
                    self._wake.wait(left)
                self._wake.clear()
                self._waiting_bytes = 0
                while self._inbox:
                    self._inbox.popleft()()
                if self._stop.is_set():
                    self._drain()
                    return
                due = self._clock.monotonic_s() >= next_tick
                self._pull_ready(all_of_them=due)
                if due:
                    next_tick += self._interval_s
                    now = self._clock.monotonic_s()
                    if next_tick < now:  # late: do not run after the ticks that were missed
                        next_tick = now + self._interval_s
                    self._tick()
            except Exception:  # one stream's fault must not end the recording of all
                log.exception("recorder failed unexpectedly; it goes on")
                self._stop.wait(0.1)

    def _pull_ready(self, all_of_them: bool) -> None:
        """Look at what has come in; between ticks only at streams with much to encode."""
        seen, self._stalled = self._stalled, set()
        for _ in range(len(self._ready)):
            seen.add(self._ready.popleft())
        for stream in seen:
            track = self._tracks.get(stream)
            if track is not None:
                self._active.add(stream)
                self._guarded(track, self._pull)
        if all_of_them:
            for stream in self._active - seen:  # what could not be finished; the bell tells of what is new
                track = self._tracks[stream]
                if track.backlog or track.blocked_until_s:
                    self._guarded(track, self._pull)

    def _guarded(self, track: Track, act: Callable[[Track], None]) -> None:
        """Do something for one stream; a fault in it must not end the recording of the others."""
        try:
            act(track)
        except Exception:  # whatever it is
            log.exception("recording a stream failed unexpectedly; it is begun again", stream=track.stream)
            if track.writer is not None and track.writer.at != track.writer.synced:
                self._abandon_segment(track)
            self._start_over(track)

    def _pull(self, track: Track) -> None:
        if track.blocked_until_s and self._clock.monotonic_s() < track.blocked_until_s:
            return
        track.blocked_until_s = 0.0
        if track.pending_bytes >= BATCH_BYTES and not self._encode(track):
            self._stalled.add(track.stream)
            return
        track.backlog.extend(track.reader.take())
        backlog = track.backlog
        while backlog:
            entry = backlog[0]
            if isinstance(entry.item, Epoch) and not self._begin_epoch(track, entry.item):
                return  # the old epoch cannot be finished yet
            backlog.popleft()
            self._accounting.take(track, entry)
            if track.pending_bytes >= BATCH_BYTES and not self._encode(track):
                self._stalled.add(track.stream)
                return
        writer = track.writer
        if writer is not None and writer.at - writer.committed >= EARLY_BYTES:
            self._commit_segment(track)

    # ---- looking at rows ----

    def _begin_epoch(self, track: Track, epoch: Epoch) -> bool:
        """Finish the epoch before; False while that has to wait."""
        book = track.book
        if book is None or book.epoch.number == epoch.number:
            return True
        self._accounting.let_all_go(track)
        # Nothing of the next epoch may reach the disk before the end of this one is durable: recovery relies on it.
        return self._finish(track) and not track.in_flight

    # ---- what accounting asks for ----

    def _on_disk(self, stream: str, epoch: int, first: int, end: int) -> Iterator[Block]:
        """Rows that are in segments already; what cannot be read is not compared."""
        with suppress(Corrupt, OSError):
            yield from rows_on_disk(self._files, self._dir / "streams" / stream, epoch, first, end)

    def _began(self, epoch: Epoch) -> None:
        self._projection.epoch(epoch, self._clock.now_ns())

    def _set_aside(self, track: Track, book: Book, block: Block) -> None:
        """Keep repeated rows that differ, each row once; beyond a number of files they are only counted."""
        if not book.conflicting.add(block.first, block.end):
            return
        track.conflicts += block.rows
        book.set_aside += 1
        if book.set_aside > SET_ASIDE:
            return
        if track.conflicts == block.rows:
            error = ConflictingRows(f"{track.stream} epoch {block.epoch}: rows [{block.first}, {block.end}) came again")
            log.error("rows came again with other content", stream=track.stream, error=str(error))
        content, uuid = whole_segment(book.epoch, [block], self._station, self._clock.now_ns())
        path = self._dir / "quarantine" / f"{track.stream.replace('/', '.')}-conflict-{uuid}.arrows"
        self._put(Call(Target(path, False), partial(publish, self._files, path, content)))

    # ---- encoding ----

    def _encode(self, track: Track) -> bool:
        """Put what waits into the segment's buffers; False while that has to wait for the disk."""
        if track.lane == "journal" and track.in_flight:
            return False
        writer = self._writer(track, direct=True)
        if writer is None:
            return False
        if track.on_journal and not self._encode_moved(track, writer):
            return False
        pending = track.pending
        while pending:
            parts = self._next_batch(track)
            gaps = self._gaps_before(track, parts[-1].end)
            if not writer.append(parts, gaps):
                self._hand_over(track)
                pending.extendleft(reversed(parts))
                track.gaps = gaps + track.gaps
                return False
            track.lane = "segment"
            track.untold_gaps += gaps
            track.pending_bytes -= sum(p.nbytes for p in parts)
            self._hand_over(track)
        track.pending_bytes = 0
        return True

    def _next_batch(self, track: Track) -> list[Block]:
        """What makes up the next batch: blocks that follow one another, one that is too large cut."""
        pending = track.pending
        head = pending.popleft()
        limit = min(BATCH_BYTES, self._buffers.size // 2)
        size = head.nbytes
        if size > limit and head.rows > 1:
            rows = max(1, int(head.rows * limit / size))
            if rows < head.rows:
                head, rest = head.split(head.first + rows)
                pending.appendleft(rest)
            return [head]
        parts = [head]
        while pending and pending[0].follows(parts[-1]):
            size += pending[0].nbytes
            if size > limit:
                break
            parts.append(pending.popleft())
        return parts

    @staticmethod
    def _gaps_before(track: Track, end: int) -> list[Gap]:
        """The gap records to be written with a batch that ends at row `end`."""
        if not track.gaps:
            return []
        now = [g for g in track.gaps if g.first <= end]
        track.gaps = [g for g in track.gaps if g.first > end]
        return now

    def _writer(self, track: Track, direct: bool) -> SegmentWriter | None:
        """The segment that a track writes to, made when there is none."""
        if track.writer is not None:
            return track.writer
        book = track.book
        if book is None:
            return None
        oldest = track.journalled[0] if track.journalled else track.pending[0] if track.pending else None
        name = SegmentName(book.epoch.number, oldest.first if oldest is not None else book.high, track.generation)
        directory = self._dir / "streams" / track.stream
        while (directory / str(name)).exists():
            name = name._replace(generation=name.generation + 1)
        created_ns = self._clock.now_ns()
        writer = SegmentWriter(book.epoch, name, self._station, created_ns, self._buffers)
        target = Target(directory / str(name), direct and self._options.direct_io != "never")
        make = partial(make_directory, self._files, directory)
        self._targets[target] = [track]
        track.writer, track.target, track.opened_s = writer, target, self._clock.monotonic_s()
        self._put(Call(target, make))
        self._put(Create(target, writer.head))
        return writer

    def _hand_over(self, track: Track) -> None:
        """Give full buffers to the commit thread."""
        writer, target = track.writer, track.target
        if writer is not None and target is not None and writer.chunks:
            chunks = list(writer.chunks)
            writer.chunks.clear()
            self._put(Write(target, chunks, self._buffers))

    def _put(self, job: Job) -> None:
        self._commit.put(job)

    # ---- commits ----

    def _tick(self) -> None:
        """Begin a commit of everything that waits."""
        self._moves_left = max(4, int(2 * len(self._tracks) * self._interval_s / self._options.journal_move_s) + 1)
        for stream in sorted(self._active):
            track = self._tracks[stream]
            if not track.blocked_until_s:
                self._guarded(track, self._tick_stream)
        if self._for_journal:
            commits, self._for_journal = self._for_journal, []
            try:
                self._commit_journal(commits)
            except Exception:  # a fault of ours
                log.exception("the journal failed unexpectedly; its streams are begun again")
                for track, _, _ in commits:
                    self._start_over(track)
        self._journal.roll(self._clock.monotonic_s(), self._tracks.values())

    def _tick_stream(self, track: Track) -> None:
        """Begin what is due for one stream: a commit to its segment, a move, a part of the journal's commit."""
        now = self._clock.monotonic_s()
        if (track.writer is not None and track.writer.dirty) or track.pending_bytes >= DIRECT_BYTES:
            self._commit_segment(track)
        elif track.lane == "segment":
            return  # until that is durable
        elif self._may_move(track, now):
            self._moves_left -= self._move(track)
        elif self._wants_journal(track, now):
            self._for_journal.append(self._journal_records(track))
        elif self._is_idle(track):
            self._active.discard(track.stream)
        self._release_settled(track)

    @staticmethod
    def _is_idle(track: Track) -> bool:
        return not (
            track.pending
            or track.backlog
            or track.gaps
            or track.new_left_out
            or track.on_journal
            or track.moving
            or track.in_flight
            or track.held
        )

    def _release_settled(self, track: Track) -> None:
        """Rows that policy leaves out need not wait for a sync."""
        if track.in_flight or track.pending or track.gaps or track.lane or track.book is None or track.unsynced:
            return
        seq = track.held[0].seq - 1 if track.held else track.seq
        if seq > track.committed_seq:
            snapshot = track.book.snapshot(seq)
            track.committed_seq = seq
            track.settle(snapshot)  # not published: no commit says so yet
            track.reader.release(seq)

    def _wants_journal(self, track: Track, now: float) -> bool:
        if track.pending or track.gaps:
            return True
        return bool(track.new_left_out) and now - track.left_out_s >= _LEFT_OUT_S

    def _snapshot(self, track: Track) -> Snapshot:
        self._commits += 1
        return track.begin_commit(min(track.seq, track.held[0].seq - 1) if track.held else track.seq)

    def _commit_segment(self, track: Track, seal: bool = False) -> bool:
        """End a commit in the segment: the book, the padding, the sync. Seals the segment when it is full."""
        if track.pending and not self._encode(track):
            return False
        writer, target = track.writer, track.target
        if writer is None or target is None:
            return False
        if track.on_journal and not self._encode_moved(track, writer):
            return False
        snapshot = self._snapshot(track)
        gaps, track.gaps = track.gaps, []
        left_out, track.new_left_out = track.new_left_out, []
        track.left_out_s = self._clock.monotonic_s()
        seal = seal or self._full(track, writer)
        book, now_ns = (snapshot.high, snapshot.ledger(), left_out), self._clock.now_ns()
        done = writer.seal(*book, gaps, "writer", now_ns) if seal else writer.commit(*book, gaps)
        if not done:
            raise RuntimeError("a commit found no room")
        self._hand_over(track)
        track.lane = "segment"
        track.in_flight += 1
        if track.moving is not None:
            track.moving.committed = True
        facts = self._facts(track, writer, target, snapshot, now_ns if seal else None)
        gaps, track.untold_gaps = track.untold_gaps + gaps, []
        end = writer.at
        self._put(
            Sync(
                target,
                partial(self._synced, track, target, writer, snapshot, facts, gaps, end),
                close=seal or not target.direct,
            )
        )
        if seal:
            track.segment_bytes += writer.at
            track.writer, track.target = None, None
        return True

    def _full(self, track: Track, writer: SegmentWriter) -> bool:
        o, age = self._options, self._clock.monotonic_s() - track.opened_s
        return writer.at >= o.segment_bytes or age >= 86_400 or (age >= o.segment_age_s and writer.at >= 1 << 20)

    def _facts(
        self, track: Track, writer: SegmentWriter, target: Target, snapshot: Snapshot, sealed_ns: int | None
    ) -> SegmentFacts | None:
        """What the catalog is told; None when it is not worth it this time."""
        now = self._clock.monotonic_s()
        if sealed_ns is None and writer.synced and track.moving is None and now - track.told_s < TELL_S:
            return None
        track.told_s = now
        t = writer.totals
        return SegmentFacts(
            writer.id,
            writer.epoch,
            writer.name,
            target.path,
            sealed_ns is not None,
            t.rows,
            t.gap_rows,
            t.first_ns,
            t.last_ns,
            writer.at,
            tuple(t.ranges),
            snapshot.ledger(),
            writer.created_ns,
            sealed_ns,
        )

    def _synced(
        self,
        track: Track,
        target: Target,
        writer: SegmentWriter,
        snapshot: Snapshot,
        facts: SegmentFacts | None,
        gaps: list[Gap],
        end: int,
    ) -> None:
        """A commit to a segment is durable (called in the commit thread)."""
        if not track.confirm(snapshot):
            return
        self._publish(track, snapshot)
        track.reader.release(snapshot.seq)
        if gaps:  # first: a segment that the catalog knows to be sealed is not looked at again
            self._projection.gaps(gaps)
        if facts is not None:
            self._projection.segment(facts)
        self._inbox.append(partial(self._settled, track, snapshot, target, writer, end))

    def _settled(self, track: Track, snapshot: Snapshot, target: Target, writer: SegmentWriter, end: int) -> None:
        # Also when the file has failed since: what was confirmed counts, and the failure is looked at after this.
        writer.synced = end
        self._works(track)
        track.in_flight -= 1
        track.settle(snapshot)
        track.moving = None
        if not track.in_flight and (track.writer is None or not track.writer.dirty):
            track.lane = ""
        if track.writer is not writer and end == writer.at:  # that was the seal
            self._targets.pop(target, None)

    def _publish(self, track: Track, snapshot: Snapshot | None) -> None:
        """Say how far a stream is durable; only the commit thread does so once recording has started."""
        if snapshot is None:
            return
        book, ledger, writer = snapshot.book, snapshot.ledger(), track.writer
        self._map.put(
            Mark(
                track.stream,
                book.epoch.number,
                snapshot.high,
                book.recorded.total,
                ledger.recorded,
                ledger.gaps,
                snapshot.first_ns,
                snapshot.last_ns,
                track.segment_bytes + (writer.at if writer is not None else 0),
            )
        )

    # ---- the journal ----

    def _journal_records(self, track: Track) -> JournalCommit:
        """What a stream puts into the next commit of the journal: its blocks joined, its gaps, its book."""
        snapshot = self._snapshot(track)
        epoch, high, ledger = snapshot.book.epoch, snapshot.high, snapshot.ledger()
        blocks: list[Block | None] = []
        while track.pending:
            parts = [track.pending.popleft()]
            while track.pending and track.pending[0].follows(parts[-1]):
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
        return track, records, snapshot

    def _commit_journal(self, commits: list[JournalCommit]) -> None:
        """One batch, one write, one sync for all slow streams."""
        writer, target = self._journal.open()
        self._targets.setdefault(target, []).extend(track for track, _, _ in commits)
        self._journal.begun(writer.number)
        self._put(Append(target, writer.encode([r for _, records, _ in commits for r in records])))
        self._put(Sync(target, partial(self._journalled, target, writer, writer.at, commits)))

    def _journalled(self, target: Target, writer: JournalWriter, end: int, commits: list[JournalCommit]) -> None:
        """A commit of the journal is durable (called in the commit thread)."""
        commits = [c for c in commits if c[0].confirm(c[2])]
        for track, records, snapshot in commits:
            self._publish(track, snapshot)
            track.reader.release(snapshot.seq)
            gaps = [g for r in records for g in r.gaps]
            if gaps:
                self._projection.gaps(gaps)
        self._inbox.append(partial(self._journal_settled, target, writer, end, commits))

    def _journal_settled(self, target: Target, writer: JournalWriter, end: int, commits: list[JournalCommit]) -> None:
        writer.synced = end
        self._journal.settled(writer.number)
        now = self._clock.monotonic_s()
        waiting = self._targets.get(target, [])
        for track, records, snapshot in commits:
            self._works(track)
            track.in_flight -= 1
            track.settle(snapshot)
            if not track.on_journal:
                track.journalled_s = now
            for record in records:
                track.take_over(record.block, record.gaps, record.left_out)
            if track.oldest_journal is None:
                track.oldest_journal = writer.number
            if not track.in_flight:
                track.lane = ""
            if track in waiting:
                waiting.remove(track)  # once: a commit behind this one may hold it too
        if not waiting:
            self._targets.pop(target, None)

    def _may_move(self, track: Track, now: float) -> bool:
        """Whether the journal's rows of a stream should move now; those that are only old take turns."""
        if track.in_flight or track.moving is not None or not track.on_journal:
            return False
        large = track.journal_bytes >= 4 * DIRECT_BYTES
        enough = track.journal_rows >= MOVE_ROWS and track.journal_bytes >= DIRECT_BYTES
        old = now - track.journalled_s >= self._options.journal_move_s
        return large or enough or (old and self._moves_left > 0)

    def _move(self, track: Track) -> bool:
        """Move what is in the journal to the segment, in a commit of its own."""
        if self._writer(track, direct=False) is None:
            return False
        return self._commit_segment(track)

    def _encode_moved(self, track: Track, writer: SegmentWriter) -> bool:
        """Encode what is durable in the journal; False while that has to wait (it goes on where it was)."""
        moving = track.moving
        if moving is not None and moving.committed:
            return False
        if moving is None:
            moving = track.moving = Moving(track.oldest_journal)
            track.oldest_journal = None
        blocks = track.journalled
        while blocks:
            count, size = 1, blocks[0].nbytes
            while count < len(blocks) and size < BATCH_BYTES // 2 and blocks[count].follows(blocks[count - 1]):
                size += blocks[count].nbytes
                count += 1
            if not writer.append(Block.join(blocks[:count])):
                return False
            track.lane = "segment"
            moving.blocks += blocks[:count]
            del blocks[:count]
        moving.gaps, moving.left_out = track.journal_gaps, track.journal_left_out
        track.gaps = moving.gaps + track.gaps
        track.new_left_out = moving.left_out + track.new_left_out
        track.journal_gaps, track.journal_left_out, track.journal_rows, track.journal_bytes = [], [], 0, 0
        return True

    # ---- the end of an epoch, and of recording ----

    def _finish(self, track: Track) -> bool:
        """Write everything of the present epoch to its segment and seal it; False while that has to wait."""
        if track.in_flight and track.lane == "journal":
            return False
        if track.moving is not None and track.moving.committed:
            return False
        something = track.pending or track.on_journal or track.gaps or track.new_left_out or track.unsaid
        if track.writer is None and not something:
            return True
        if self._writer(track, direct=track.pending_bytes >= DIRECT_BYTES) is None:
            return False
        return self._commit_segment(track, seal=True)

    def _drain(self) -> None:
        """Bring everything to an end, in the encoding thread, until nothing is left or the disk refuses for good."""
        self._ready.clear()
        for track in self._tracks.values():
            self._active.add(track.stream)
        attempts = 0
        while True:
            while self._inbox:
                self._inbox.popleft()()
            self._undrained = set(self._tracks)
            for track in self._tracks.values():
                track.blocked_until_s = 0.0
                self._guarded(track, self._drain_stream)
            if not self._undrained:
                break
            attempts += any(t.failures > REFUSALS for t in self._tracks.values())
            if attempts > DRAIN_ATTEMPTS:
                log.error("the disk refuses; what is not durable is left to the next start")
                return
            self._wake.wait(0.005)
            self._wake.clear()
        self._journal.close()
        self._journal.roll(self._clock.monotonic_s(), self._tracks.values())
        self._drained = True

    def _drain_stream(self, track: Track) -> None:
        """Bring one stream nearer to its end; it is no longer undrained when nothing of it is left."""
        self._pull(track)
        if not track.backlog:
            self._accounting.let_all_go(track)
        if not track.backlog and self._finish(track) and not track.in_flight:
            self._release_settled(track)
            self._undrained.discard(track.stream)

    # ---- failures ----

    def _on_failure(self, target: Target, error: OSError) -> None:
        """The disk refused something (called in the commit thread)."""
        self._inbox.append(partial(self._recover, target, error))
        self._wake.set()

    def _recover(self, target: Target, error: OSError) -> None:
        """Go back to what is durable and write the rest elsewhere: a new segment, a new journal file."""
        self._journal.abandon(target)
        tracks = self._targets.pop(target, [])
        if not tracks:
            log.error("the disk refused", path=str(target.path), error=str(error))
        for track in dict.fromkeys(tracks):
            if not track.failures:
                log.error("write refused", stream=track.stream, path=str(target.path), error=str(error))
            if track.writer is not None and (target is track.target or track.writer.at != track.writer.synced):
                self._abandon_segment(track)
            self._start_over(track)

    @staticmethod
    def _works(track: Track) -> None:
        """The disk took something of a stream."""
        if track.failures:
            track.failures = 0
            track.reader.blame(Reason.OVERFLOW)

    def _start_over(self, track: Track) -> None:
        """Forget what is not durable of a stream and take it from the ring again, after a moment."""
        track.failures += 1
        track.reader.blame(Reason.DISK)
        track.in_flight, track.lane = 0, ""
        track.roll_back()
        track.blocked_until_s = self._clock.monotonic_s() + min(RETRY_S * track.failures, 5.0)
        self._active.add(track.stream)

    def _abandon_segment(self, track: Track) -> None:
        """Write to another file from now on; the present one keeps what is intact in it."""
        if track.writer is not None and track.target is not None:
            track.writer.abandon()
            track.target.failed = True
            self.abandoned += 1
            self._targets.pop(track.target, None)
            track.writer, track.target = None, None
            track.generation += 1


class _Nothing:
    """The ring of a stream that nothing delivers to any more."""

    def take(self) -> list[Entry]:
        return []

    def release(self, seq: int) -> None:
        pass

    def rewind(self) -> None:
        pass

    def blame(self, reason: Reason) -> None:
        pass
