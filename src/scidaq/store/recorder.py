"""The recorder: takes blocks out of the rings and makes them durable.

It is split in two so that a slow sync never delays it: this thread looks at each row's place in the book, encodes, and
decides every `sync_interval_ms` what a commit is; the commit thread writes, syncs and publishes. The ring keeps every
row until it is durable, so that whatever the disk refuses can be written again elsewhere.

Per interval, a stream with at least 64 KiB goes straight to its segment; what all the others have goes together into
one commit of the journal, and from there to their segments later, in larger pieces.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from scidaq.block import Block, Entry, Epoch, Ledger, Reason
from scidaq.clock import Clock
from scidaq.errors import ConflictingRows, Corrupt
from scidaq.stats import DurationStats
from scidaq.store.accounting import Accounting
from scidaq.store.durable import NAME as DURABLE_MAP
from scidaq.store.durable import DurableMap, Mark
from scidaq.store.files import FULL, Files, publish
from scidaq.store.journal_lane import JournalLane
from scidaq.store.options import Options
from scidaq.store.reading import rows_on_disk
from scidaq.store.reports import Projection, RecorderStats, StreamStats
from scidaq.store.segment import whole_segment
from scidaq.store.segment_lane import BATCH_BYTES, DIRECT_BYTES, EARLY_BYTES, SegmentLane
from scidaq.store.space import BALLAST, Space
from scidaq.store.track import Book, Policy, Reader, Snapshot, Stand, Track
from scidaq.store.writing import Call, CommitThread, CutBack, Target

log = structlog.get_logger(__name__)

RETRY_S = 0.5
SET_ASIDE = 100
"""Files of conflicting rows that one epoch may put into the quarantine."""
_LEFT_OUT_S = 10.0
REFUSALS, DRAIN_ATTEMPTS = 5, 200
"""At the end: how often a stream may be refused, and how long it is tried all the same."""
CLOSING_BYTES = 64 << 10
"""Room that ending one stream takes at most: a new segment with its commit and its seal."""


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
        space: Space | None = None,
    ) -> None:
        self._dir, self._files, self._clock, self._station, self._options = data_dir, files, clock, station, options
        self._projection = projection
        self._tracks: dict[str, Track] = {}
        self._wake = threading.Event()
        self._commit = CommitThread(files, clock, self._on_failure, self._wake.set)
        self._inbox: deque[Callable[[], None]] = deque()
        self._ready: deque[str] = deque()
        self._waiting_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder-encode", daemon=True)
        self._active: set[str] = set()
        self._moves_left = 0
        self._undrained: set[str] = set()
        self._stalled: set[str] = set()
        """Streams that wait for a free buffer."""
        self._resting: set[str] = set()
        """Streams that come to rest: to be sealed as soon as that can be."""
        lane = (projection, self._commit.put, self._settle, self._publish)
        self._segments = SegmentLane(data_dir, files, clock, station, options, *lane)
        self._journal = JournalLane(data_dir, files, clock, station, options.journal_move_s, journal_number, *lane)
        self._space = space or Space(data_dir, files, options)
        self._map = DurableMap(data_dir / DURABLE_MAP)
        self._accounting = Accounting(self._began, self._on_disk, self._set_aside)
        self._interval_s = options.sync_interval_ms / 1000
        self._started = self._drained = False
        self._turned_s = clock.monotonic_s()
        """When the loop last came round."""
        self.ended = True
        """Whether neither of its threads runs, so that nothing more is written."""
        self._wanted: Callable[[str], bool] = lambda stream: False
        """Whether a run that is under way wants a stream."""

    # ---- the door ----

    def add(self, stream: str, reader: Reader, policy: Policy, pre_trigger_ns: int = 0) -> None:
        """Record a stream; from any thread, at any time."""

        def act() -> None:
            track = self._tracks.get(stream)
            if track is None:
                self._tracks = {**self._tracks, stream: Track(stream, reader, policy, pre_trigger_ns)}
            else:  # recovery knew it already, or it had come to rest
                self._resting.discard(stream)
                if not self._short():
                    self._guarded(track, self._pull)  # what has come in is recorded as it was to be then
                self._accounting.let_all_go(track)
                track.deliver(reader, policy, pre_trigger_ns)
            track = self._tracks[stream]
            if self._space.low:
                track.short = True
                track.blame_disk()
            if policy is Policy.RUNS and self._wanted(stream):
                self._accounting.switch(track, True)  # it joins a run that is under way
            self._active.add(stream)

        if self._started:
            self._inbox.append(act)
            self._wake.set()
        else:
            act()

    def wait_until_heard(self, timeout_s: float) -> bool:
        """Wait until everything that was asked of the recorder before has been taken notice of; whether it has."""
        heard = threading.Event()
        self._inbox.append(heard.set)
        self._wake.set()
        return self._clock.wait(heard, timeout_s)

    def rest(self, stream: str) -> None:
        """Nothing more will come, for a while at least: what has come in is made durable and its segment sealed.

        From any thread, at once; it takes a few commits. `add` lets it go on.
        """

        def act() -> None:
            if stream in self._tracks:
                self._resting.add(stream)

        self._inbox.append(act)
        self._wake.set()

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

    def take_journal_number(self) -> int:
        """The number of a journal file that somebody else writes (see `Express`); from any thread."""
        return self._journal.take_number()

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

    def set_recording(self, wanted: bool | Callable[[str], bool]) -> None:
        """Runs have begun or ended: the streams of policy `runs` that are `wanted` are recorded, the others no longer.

        One that begins is recorded from its pre-trigger on; one that ends, with exactly what has come in by now.
        """
        wants = wanted if callable(wanted) else lambda stream: wanted
        newest = {track.stream: track.reader.newest for track in self._tracks.values()}

        def act() -> None:
            self._wanted = wants
            for track in [t for t in self._tracks.values() if t.policy is Policy.RUNS]:
                if wants(track.stream):
                    self._accounting.switch(track, True)
                else:
                    self._accounting.switch(track, False, newest.get(track.stream, -1))
                self._active.add(track.stream)

        self._inbox.append(act)
        self._wake.set()

    @property
    def abandoned(self) -> int:
        """Segments that were given up after a refused write; recovery seals what is intact in them."""
        return self._segments.abandoned

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

    def written_bytes(self) -> int:
        """Bytes written since the start; a glance."""
        return self._commit.written

    def stats(self) -> RecorderStats:
        """A snapshot, from any thread."""
        tracks = list(self._tracks.values())
        return RecorderStats(
            tuple(self._stats(t) for t in tracks),
            self._commit.stats(),
            self._journal.size,
            sum(t.commits for t in tracks),
            self._space.stats(),
            sum((t.delays.stats() for t in tracks), DurationStats.none()),
            max(0.0, self._clock.monotonic_s() - self._turned_s),
            int(self._thread.is_alive() and self._commit.alive),
            self._interval_s,
        )

    def durable(self, stream: str) -> tuple[Epoch, int] | None:
        """Up to which row (not included) of which epoch everything is durable, or accounted for durably; None when
        nothing is. From any thread."""
        track = self._tracks.get(stream)
        snapshot = track.durable if track is not None else None
        return None if snapshot is None else (snapshot.book.epoch, snapshot.high)

    def _stats(self, track: Track) -> StreamStats:
        book, durable, writer = track.book, track.durable, track.writer
        if book is None:
            nothing = (0,) * 8
            return StreamStats(
                track.stream,
                -1,
                *nothing,
                track.conflicts,
                track.failures,
                -1,
                0,
                track.all_durable_rows,
                track.refused,
            )
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
            track.all_durable_rows,
            track.refused,
        )

    # ---- the loop ----

    def _run(self) -> None:
        next_tick = self._clock.monotonic_s() + self._interval_s
        while True:
            self._turned_s = self._clock.monotonic_s()
            try:
                left = next_tick - self._turned_s
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
        short = self._short()
        for stream in seen:
            track = self._tracks.get(stream)
            if track is None:
                continue
            self._active.add(stream)
            if short and track.recording:
                self._stalled.add(stream)  # the ring keeps it
            else:
                self._guarded(track, self._pull)
        if all_of_them and not short:
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
            track.void()
            if track.writer is not None and track.writer.at != track.writer.synced:
                self._segments.abandon(track)
            self._start_over(track)

    def _pull(self, track: Track) -> None:
        if track.blocked_until_s and self._clock.monotonic_s() < track.blocked_until_s:
            return
        track.blocked_until_s = 0.0
        if track.pending_bytes >= BATCH_BYTES and not self._encode(track):
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
                return
        writer = track.writer
        if writer is not None and writer.at - writer.committed >= min(EARLY_BYTES, track.reader.capacity_bytes // 4):
            self._segments.commit(track)  # sooner than its time: the ring would be full by then

    def _encode(self, track: Track) -> bool:
        """Encode what has been looked at; False when that has to wait, for room on the disk or for a buffer."""
        if not self._short() and self._segments.encode(track):
            return True
        self._stalled.add(track.stream)
        return False

    def _short(self) -> bool:
        """Whether there is too little room on the disk to write rows. At the end everything is written that can be."""
        space = self._space
        if self._stop.is_set():
            return False
        before = space.low
        if space.look(self._commit.waiting_bytes) == before:
            return before
        for track in self._tracks.values():
            track.short = space.low
        if space.low:
            log.error("too little room on the disk: rows wait, then become gaps", free_bytes=space.free)
            for track in self._tracks.values():
                track.blame_disk()
        else:
            log.warning("there is room on the disk again: recording goes on", free_bytes=space.free)
            self._commit.put(Call(Target(self._dir / BALLAST, direct=False), space.fill))
        return space.low

    # ---- looking at rows ----

    def _begin_epoch(self, track: Track, epoch: Epoch) -> bool:
        """Finish the epoch before; False while that has to wait."""
        book = track.book
        if book is None or book.epoch.number == epoch.number:
            return True
        self._accounting.let_all_go(track)
        # Nothing of the next epoch may reach the disk before the end of this one is durable: recovery relies on it.
        return self._segments.finish(track) and not track.in_flight

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
        self._commit.put(Call(Target(path, False), partial(publish, self._files, path, content)))

    def _settle(self, act: Callable[[], None]) -> None:
        """Have something done by the encoding thread, in order."""
        self._inbox.append(act)

    # ---- commits ----

    def _tick(self) -> None:
        """Begin a commit of everything that waits."""
        self._moves_left = max(4, int(2 * len(self._tracks) * self._interval_s / self._options.journal_move_s) + 1)
        short = self._short()
        for stream in sorted(self._active):
            track = self._tracks[stream]
            if not track.blocked_until_s and (not short or track.dirty or not track.recording):
                self._guarded(track, self._tick_stream)
        for track in self._journal.commit():
            self._start_over(track)
        for stream in sorted(self._resting) if not short else ():
            self._guarded(self._tracks[stream], self._bring_to_rest)
        self._journal.roll(self._clock.monotonic_s(), self._tracks.values())

    def _tick_stream(self, track: Track) -> None:
        """Begin what is due for one stream: a commit to its segment, a move, a part of the journal's commit."""
        now = self._clock.monotonic_s()
        if track.dirty or track.pending_bytes >= DIRECT_BYTES:
            self._segments.commit(track)
        elif track.lane == "segment":
            return  # until that is durable
        elif self._segments.may_move(track, now, self._moves_left > 0):
            self._moves_left -= self._segments.move(track)
        elif self._wants_journal(track, now):
            self._journal.gather(track)
        elif self._is_idle(track):
            self._active.discard(track.stream)
        self._release_settled(track)

    def _bring_to_rest(self, track: Track) -> None:
        """Bring a stream nearer to where it may stay as it is; it no longer comes to rest when it is there."""
        if track.blocked_until_s:
            return
        self._pull(track)
        if track.backlog:
            return
        self._accounting.let_all_go(track)
        if self._segments.finish(track) and not track.in_flight:
            self._release_settled(track)
            self._resting.discard(track.stream)

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

    def _publish(self, track: Track, snapshot: Snapshot) -> None:
        """Say how far a stream is durable; only the commit thread does so once recording has started."""
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

    # ---- the end of an epoch, and of recording ----

    def _drain(self) -> None:
        """Bring everything to an end, in the encoding thread, until nothing is left or the disk refuses for good."""
        self._ready.clear()
        self._active.update(self._tracks)
        for track in self._tracks.values():
            track.failures = 0  # what was refused before says nothing of now
        if self._space.look(self._commit.waiting_bytes):
            self._give_up_what_does_not_fit()
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
        if track.full_disk and track.failures > REFUSALS and not track.gives_up:
            self._space.release()
            track.gives_up = True
        if track.gives_up and not track.gave_up:
            if track.in_flight:
                return
            self._give_up(track)
        self._pull(track)
        if not track.backlog:
            self._accounting.let_all_go(track)
        if not track.backlog and self._segments.finish(track) and not track.in_flight:
            self._release_settled(track)
            self._undrained.discard(track.stream)

    def _give_up_what_does_not_fit(self) -> None:
        """There is little room to end in: the streams with the fewest rows in their rings are written, small first."""
        self._space.release()
        room = self._space.free // 2
        for track in sorted(self._tracks.values(), key=lambda t: t.reader.waiting_bytes):
            room -= track.reader.waiting_bytes + track.journal_bytes + CLOSING_BYTES
            if room < 0 and track.reader.waiting_bytes:
                log.error("there is no room for the newest rows", stream=track.stream, bytes=track.reader.waiting_bytes)
                track.gives_up = True

    def _give_up(self, track: Track) -> None:
        """What is not durable of a stream becomes a gap, whose record needs little room."""
        if track.dirty:
            self._segments.abandon(track)
        for target in track.left:
            self._commit.put(CutBack(target))
        track.roll_back()
        track.gave_up = True

    # ---- failures ----

    def _on_failure(self, target: Target, error: OSError) -> None:
        """The disk refused something (called in the commit thread)."""
        self._inbox.append(partial(self._recover, target, error))
        self._wake.set()

    def _recover(self, target: Target, error: OSError) -> None:
        """Go back to what is durable and write the rest elsewhere: a new segment, a new journal file."""
        tracks = list(dict.fromkeys(self._journal.abandon(target) + self._segments.failed(target)))
        if not tracks:
            log.error("the disk refused", path=str(target.path), error=str(error))
        for track in tracks:
            track.void()
        self._go_back(target, error, tracks)

    def _go_back(self, target: Target, error: OSError, tracks: list[Track]) -> None:
        """Let streams go back to what is durable. What has become durable elsewhere meanwhile is heard of first."""
        if any(track.unsettled for track in tracks):
            self._inbox.append(partial(self._go_back, target, error, tracks))
            time.sleep(0)  # the commit thread is about to tell
            return
        for track in tracks:
            if not track.failures:
                log.error("write refused", stream=track.stream, path=str(target.path), error=str(error))
            if track.writer is not None and (target is track.target or track.writer.at != track.writer.synced):
                self._segments.abandon(track)
            track.full_disk = error.errno in FULL
            track.refused = str(error)
            self._start_over(track)

    def _start_over(self, track: Track) -> None:
        """Forget what is not durable of a stream and take it from the ring again, after a moment."""
        track.void()
        track.failures += 1
        track.blame_disk()
        track.in_flight, track.lane = 0, ""
        track.roll_back()
        track.blocked_until_s = self._clock.monotonic_s() + min(RETRY_S * track.failures, 5.0)
        self._active.add(track.stream)


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

    @property
    def newest(self) -> int:
        return -1

    @property
    def capacity_bytes(self) -> int:
        return 4 * EARLY_BYTES

    @property
    def waiting_bytes(self) -> int:
        return 0
