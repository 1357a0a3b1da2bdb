"""The segments of all streams as files that are encoded, committed, sealed and given up.

The encoding thread asks, the commit thread answers. A stream has at most one segment open; what waits in the journal
moves into it in a commit of its own, so that a failure can be undone as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from scidaq.block import Block, Gap
from scidaq.clock import Clock
from scidaq.store.files import Files, make_directory
from scidaq.store.options import Options
from scidaq.store.reports import Projection, SegmentFacts
from scidaq.store.segment import Buffers, SegmentName, SegmentWriter
from scidaq.store.track import Moving, Snapshot, Track
from scidaq.store.writing import Call, Create, Discard, Job, Sync, Target, Write

DIRECT_BYTES = 64 << 10
"""From this many bytes a commit goes straight to the segment."""
MOVE_ROWS = 4096
BATCH_BYTES = 1 << 20
"""The most that is put into one batch."""
EARLY_BYTES = 64 << 20
"""From this many bytes behind the last commit of a stream the next does not wait for its time."""
TELL_S = 10.0
"""How often the catalog is told that a segment has grown."""
_SLACK = 2 << 20


class SegmentLane:
    """What goes straight to segments, and what moves there from the journal. Used by the encoding thread."""

    def __init__(
        self,
        data_dir: Path,
        files: Files,
        clock: Clock,
        station: str,
        options: Options,
        projection: Projection,
        put: Callable[[Job], None],
        settle: Callable[[Callable[[], None]], None],
        publish: Callable[[Track, Snapshot], None],
    ) -> None:
        """`put` gives a job to the commit thread, `settle` something to do to the encoding thread; `publish` says that
        a snapshot is durable."""
        self._dir, self._files, self._clock, self._station = data_dir / "streams", files, clock, station
        self._options, self._projection = options, projection
        self._put, self._settle, self._publish = put, settle, publish
        self._buffers = Buffers(options.write_buffers, options.write_buffer_bytes + _SLACK)
        self._open: dict[Target, Track] = {}
        """Segments with a commit that is not durable, sealed ones too."""
        self.abandoned = 0
        """Segments that were given up after a refused write; recovery seals what is intact in them."""

    # ---- encoding ----

    def encode(self, track: Track) -> bool:
        """Put what waits into the segment's buffers; False while that has to wait for the disk."""
        if track.lane == "journal" and track.in_flight:
            return False
        writer = self.open(track, direct=True)
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
        while pending and track.continues(head, parts[-1], pending[0]):
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

    def open(self, track: Track, direct: bool) -> SegmentWriter | None:
        """The segment that a track writes to, made when there is none."""
        if track.writer is not None:
            return track.writer
        book = track.book
        if book is None:
            return None
        oldest = track.journalled[0] if track.journalled else track.pending[0] if track.pending else None
        name = SegmentName(book.epoch.number, oldest.first if oldest is not None else book.high, track.generation)
        directory = self._dir / track.stream
        while (directory / str(name)).exists():
            name = name._replace(generation=name.generation + 1)
        created_ns = self._clock.now_ns()
        writer = SegmentWriter(book.epoch, name, self._station, created_ns, self._buffers)
        # Its book counts the rows of the segment before: were that lost, this would tell of rows that nobody has.
        before, track.sealed = track.sealed, None
        target = Target(directory / str(name), direct and self._options.direct_io != "never", before)
        make = partial(make_directory, self._files, directory)
        self._open[target] = track
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

    # ---- commits ----

    def commit(self, track: Track, seal: bool = False) -> bool:
        """End a commit in the segment: the book, the padding, the sync. Seals the segment when it is full."""
        if track.pending and not self.encode(track):
            return False
        writer, target = track.writer, track.target
        if writer is None or target is None:
            return False
        if track.on_journal and not self._encode_moved(track, writer):
            return False
        snapshot = track.begin_commit()
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
            track.writer, track.target, track.sealed = None, None, target
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
        target.kept = end
        self._publish(track, snapshot)
        track.reader.release(snapshot.seq)
        if gaps:  # first: a segment that the catalog knows to be sealed is not looked at again
            self._projection.gaps(gaps)
        if facts is not None:
            self._projection.segment(facts)
        self._settle(partial(self._settled, track, snapshot, target, writer, end, self._clock.monotonic_s()))

    def _settled(
        self, track: Track, snapshot: Snapshot, target: Target, writer: SegmentWriter, end: int, durable_s: float
    ) -> None:
        # Also when the file has failed since: what was confirmed counts, and the failure is looked at after this.
        writer.synced = end
        track.works()
        track.in_flight -= 1
        track.settle(snapshot, durable_s)
        track.moving = None
        if not track.in_flight and (track.writer is None or not track.writer.dirty):
            track.lane = ""
        if track.writer is not writer and end == writer.at:  # that was the seal
            self._open.pop(target, None)

    # ---- what moves from the journal ----

    def may_move(self, track: Track, now: float, turn: bool) -> bool:
        """Whether the journal's rows of a stream should move now; those that are only old wait for their `turn`."""
        if track.in_flight or track.moving is not None or not track.on_journal:
            return False
        large = track.journal_bytes >= 4 * DIRECT_BYTES
        enough = track.journal_rows >= MOVE_ROWS and track.journal_bytes >= DIRECT_BYTES
        old = now - track.journalled_s >= self._options.journal_move_s
        return large or enough or (old and turn)

    def move(self, track: Track) -> bool:
        """Move what is in the journal to the segment, in a commit of its own."""
        if self.open(track, direct=False) is None:
            return False
        return self.commit(track)

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
            while count < len(blocks) and size < BATCH_BYTES // 2:
                if not track.continues(blocks[0], blocks[count - 1], blocks[count]):
                    break
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

    # ---- ends ----

    def finish(self, track: Track) -> bool:
        """Write everything of the present epoch to its segment and seal it; False while that has to wait."""
        if track.in_flight and track.lane == "journal":
            return False
        if track.moving is not None and track.moving.committed:
            return False
        something = track.pending or track.on_journal or track.gaps or track.new_left_out or track.unsaid
        if track.writer is None and not something:
            return True
        if self.open(track, direct=track.pending_bytes >= DIRECT_BYTES) is None:
            return False
        return self.commit(track, seal=True)

    def failed(self, target: Target) -> list[Track]:
        """A segment could not be written; whose it was, unless everything in it is durable."""
        track = self._open.pop(target, None)
        if track is None:
            return []
        if target is not track.target:  # its seal failed, and another one has been begun, perhaps
            self.abandoned += 1
            track.sealed = None
            track.left.append(target)
            track.generation += 1  # by which recovery knows that the seal proves nothing
        return [track]

    def abandon(self, track: Track) -> None:
        """Write to another file from now on; the present one keeps what is intact in it, or goes if that is nothing."""
        writer, target = track.writer, track.target
        if writer is None or target is None:
            return
        writer.abandon()
        target.failed = True
        self._open.pop(target, None)
        track.left.append(target)
        # Something may have become durable in it of which we have not been told yet.
        kept = writer.synced > 0 or track.unsettled
        self._put(Discard(target, remove=not kept))
        self.abandoned += kept
        track.writer, track.target = None, None
        track.generation += 1
