"""Reading a data directory: what is there, and the rows of a stream in order."""

from __future__ import annotations

import heapq
import mmap
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scidaq.block import NS, Block, Epoch, Gap, Ledger, RangeSet, Reason, Schema, shown
from scidaq.errors import CatalogError, Corrupt, RequestError, UnknownStream
from scidaq.query.ahead import Ahead, Checkers
from scidaq.store import (
    CATALOG,
    DURABLE_MAP,
    Damage,
    Files,
    Mark,
    Outline,
    Record,
    Segment,
    SegmentRow,
    found_segment,
    journal_files,
    read_journal,
    read_marks,
    read_station,
    segment_files,
    stream_directories,
    system_files,
)


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """What is recorded of one epoch of a stream."""

    stream: str
    epoch: int
    rows: int
    durable_rows: int
    """Rows that survive a power cut; all of them unless a station is writing."""
    gap_rows: int
    first_ns: int | None
    """UTC nanoseconds of the first row, None without rows."""
    last_ns: int | None
    bytes: int
    """Of its segments."""


_PAGE = 4096
_MOST_RECORDS = 20_000
"""Of journals that are remembered from one question to the next."""


class Place(NamedTuple):
    """Between two rows of a stream: where reading has come to, and is to go on."""

    epoch: int
    row: int
    """The first row that has not been read."""
    before_ns: int | None = None
    """UTC nanoseconds of the row before it; None when there was none."""


@dataclass(slots=True)
class _Piece:
    """A segment as far as a plan needs it; opened when its rows come up."""

    path: Path
    epoch: int
    first: int
    generation: int
    first_ns: int | None
    last_ns: int | None
    bytes: int
    ranges: Sequence[tuple[int, int]]
    ledger: Ledger
    segment: Segment | Outline | None = None
    ahead: Ahead | None = None
    """What checks its batches before their turn comes, where somebody does."""
    doubted: bool = False
    """Whether a batch was not what the outline says: then all headers are looked at."""
    rivals: Sequence[_Piece] = ()
    """Segments of higher generations that have some of its rows too."""


@dataclass(slots=True)
class _Holding:
    """Everything that is there of one epoch."""

    number: int
    pieces: list[_Piece] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


@contextmanager
def _headers_only(data: memoryview) -> Iterator[None]:
    """Within, only a page here and there is looked at: the system need not read what lies around them.

    Files that went past the page cache must be read back from the disk, which has a recorder to serve.
    """
    mapped = data.obj if isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_RANDOM") else None
    if mapped is not None:
        mapped.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        if mapped is not None:
            mapped.madvise(mmap.MADV_NORMAL)


class Reader:
    """Reads one data directory. Not thread-safe; cheap to make.

    Raises `ForeignDirectory` when the directory is none of scidaq's.
    """

    def __init__(self, data_dir: Path, files: Files | None = None, threads: int = 1) -> None:
        """`threads` is how many may verify checksums at once; they live no longer than the reading of some rows."""
        self.data_dir, self._files, self._threads = data_dir, files or system_files(), threads
        self.station = read_station(data_dir)
        self._schemas: dict[tuple[str, int], Epoch] = {}
        self._growing: dict[Path, Segment] = {}
        """Segments that nobody has sealed yet, as they were when they were last looked at."""
        self._journalled: dict[Path, tuple[object, list[Record]]] = {}
        """Journal files as they were when they were last read: a commit makes them longer."""
        self._sealed: tuple[object, dict[str, SegmentRow]] = (None, {})
        """What the catalog said of sealed segments, and what its files looked like then."""

    # ---- what is there ----

    def names(self) -> list[str]:
        """The ids of all streams."""
        journalled = {r.epoch.stream for r in self._journal()}
        return sorted({s for s, _ in stream_directories(self.data_dir)} | journalled)

    def streams(self) -> list[StreamSummary]:
        """Every epoch of every stream, by stream and number."""
        marks = read_marks(self.data_dir / DURABLE_MAP)
        journal = self._journal()
        known = self._catalogued()
        names = sorted({s for s, _ in stream_directories(self.data_dir)} | {r.epoch.stream for r in journal})
        return [
            self._summary(name, holding, marks.get(name))
            for name in names
            for holding in self._holdings(name, journal, known)
        ]

    def summary(self, stream: str) -> list[StreamSummary]:
        """Every epoch of one stream. Raises `UnknownStream`."""
        mark = read_marks(self.data_dir / DURABLE_MAP).get(stream)
        return [self._summary(stream, holding, mark) for holding in self._plan(stream)]

    def epochs(self, stream: str) -> list[Epoch]:
        """The epochs of a stream, ascending, but for those whose schema is lost. Raises `UnknownStream`."""
        found = (self._epoch_or_none(stream, h) for h in self._plan(stream))
        return [epoch for epoch in found if epoch is not None]

    def _summary(self, stream: str, holding: _Holding, mark: Mark | None) -> StreamSummary:
        rows, first, last, size = RangeSet(), [], [], 0
        ledger = Ledger()
        for piece in holding.pieces:
            for a, b in piece.ranges:
                rows.add(a, b)
            if piece.first_ns is not None and piece.last_ns is not None:
                first.append(piece.first_ns)
                last.append(piece.last_ns)
            size += piece.bytes
            ledger = max(ledger, piece.ledger, key=lambda one: one.age)
        for record in holding.records:
            if record.block is not None:
                rows.add(record.block.first, record.block.end)
                first.append(record.block.t0_ns)
                last.append(record.block.last_ns)
            ledger = max(ledger, record.ledger, key=lambda one: one.age)
        durable = rows.total
        if mark is not None and mark.epoch == holding.number:
            durable = min(durable, mark.durable_rows) if self._running() else durable
        return StreamSummary(
            stream,
            holding.number,
            rows.total,
            durable,
            ledger.gaps,
            min(first, default=None),
            max(last, default=None),
            size,
        )

    def _running(self) -> bool:
        """Whether a station owns the data directory now."""
        from scidaq.errors import StationBusy

        if not (self.data_dir / "LOCK").exists():
            return False  # to lock it would make it
        try:
            self._files.lock(self.data_dir / "LOCK").close()
        except StationBusy:
            return True
        except OSError:
            return False
        return False

    # ---- rows ----

    def blocks(
        self,
        stream: str,
        start_ns: int | None = None,
        stop_ns: int | None = None,
        channels: Sequence[str] | None = None,
        *,
        epoch: int | None = None,
        first: int | None = None,
        end: int | None = None,
        after: Place | None = None,
        held: bool = False,
    ) -> Iterator[Block | Gap]:
        """The rows with `start_ns <= time < stop_ns`, in order of epoch and row, and the gaps between them.

        With `epoch` only those of this one, and of these only the rows `[first, end)`; with `after` only what comes
        behind a block that was read before. Rows of a later epoch come after those of an earlier one, whatever the
        clock said. Raises `UnknownStream`, or `RequestError` for a channel that no epoch has and for a range that is
        none. Damaged batches are left out and show as gaps. The pages of files that have been read are let go, unless
        the blocks are `held` to be looked at again.
        """
        if start_ns is not None and stop_ns is not None and stop_ns < start_ns:
            raise RequestError(f"the range ends ({shown(stop_ns)}) before it starts ({shown(start_ns)})")
        first, end = _indices(epoch, first, end)
        plan = self._plan(stream)
        if epoch is not None:
            plan = self._of_epoch(stream, plan, epoch)
        if channels is not None:
            self._check_channels(stream, plan, channels)
        known: Known = {}
        for holding in plan:
            if after is not None and holding.number < after.epoch:
                continue
            place: tuple[int, int | None] = (first, None)
            if after is not None and holding.number == after.epoch and after.row >= first:
                place = (after.row, after.before_ns)
            found = self._rows(stream, holding, start_ns, stop_ns, *place, held=held)
            for item in found if not first and end is None else _clipped(found, first, end):
                if isinstance(item, Block) and channels is not None:
                    picked = select(item, channels, known)
                    if picked is not None:
                        yield picked
                else:
                    yield item

    @staticmethod
    def _of_epoch(stream: str, plan: list[_Holding], epoch: int) -> list[_Holding]:
        chosen = [holding for holding in plan if holding.number == epoch]
        if plan and not chosen:
            numbers = ", ".join(str(holding.number) for holding in plan[-20:])
            raise RequestError(f"{stream} has no epoch {epoch}; there {'is' if len(plan) == 1 else 'are'} {numbers}")
        return chosen

    def last(
        self,
        stream: str,
        rows: int | None = None,
        seconds: float | None = None,
        channels: Sequence[str] | None = None,
    ) -> list[Block | Gap]:
        """The newest `rows` rows, or those of the last `seconds` before the newest row, oldest first."""
        if (rows is None) == (seconds is None):
            raise RequestError("give either a number of rows or of seconds")
        if seconds is None:
            return self._last_rows(stream, rows or 0, channels)
        return list(self._last_seconds(stream, seconds, channels))

    def newest(
        self,
        stream: str,
        rows: int | None = None,
        seconds: float | None = None,
        channels: Sequence[str] | None = None,
    ) -> Iterator[Block | Gap]:
        """As `last`, but one by one, for more than memory holds; rows that turn out to be damaged are counted, too."""
        if rows is None:
            yield from self._last_seconds(stream, seconds, channels)
            return
        plan = self._plan(stream)
        if channels is not None:
            self._check_channels(stream, plan, channels)
        start, first, left = len(plan), 0, rows
        while start and left > 0:
            start -= 1
            first, left = _tail_of(plan[start], left)
        known: Known = {}
        for i, holding in enumerate(plan[start:]):
            found = self._rows(stream, holding, None, None, 0 if i else first)
            for item in found if i else _clipped(found, first, None):
                picked = item if channels is None or isinstance(item, Gap) else select(item, channels, known)
                if picked is not None:
                    yield picked

    def _last_seconds(
        self, stream: str, seconds: float | None, channels: Sequence[str] | None
    ) -> Iterator[Block | Gap]:
        newest = [b for b in self._last_rows(stream, 1, None) if isinstance(b, Block)]
        if not newest:
            return
        epoch, newest_ns = newest[0].epoch, newest[0].last_ns
        for item in self.blocks(stream, newest_ns - int((seconds or 0) * 1e9), None, channels):
            # An epoch before may have later times, where the clock was set back.
            within = item if item.epoch >= epoch else _until(item, newest_ns)
            if within is not None:
                yield within

    def _last_rows(self, stream: str, rows: int, channels: Sequence[str] | None) -> list[Block | Gap]:
        out: list[Block | Gap] = []
        plan = self._plan(stream)
        if channels is not None:
            self._check_channels(stream, plan, channels)
        for holding in reversed(plan):
            wanted = rows - sum(b.rows for b in out if isinstance(b, Block))
            if wanted <= 0:
                break
            out = self._tail(stream, holding, wanted) + out
        if channels is None:
            return out
        picked = (select(i, channels) if isinstance(i, Block) else i for i in out)
        return [i for i in picked if i is not None]

    def _tail(self, stream: str, holding: _Holding, rows: int) -> list[Block | Gap]:
        """The last rows of one epoch."""
        wanted = rows
        while True:
            first, left = _tail_of(holding, wanted)
            out = list(self._rows(stream, holding, None, None, first))
            if left > 0 or sum(b.rows for b in out if isinstance(b, Block)) >= rows:
                return _newest(out, rows)
            wanted *= 4  # some of them are damaged: look farther back

    # ---- planning ----

    def _plan(self, stream: str) -> list[_Holding]:
        plan = self._holdings(stream, self._journal(), self._catalogued())
        if not plan and stream not in self.names():
            import difflib

            near = difflib.get_close_matches(stream, self.names(), 1)
            raise UnknownStream(stream, self.names(), f" (did you mean {near[0]!r}?)" if near else "")
        return plan

    def _journal(self) -> list[Record]:
        """Every record of the journal. Read before the segments are listed: rows move from here to there."""
        out: list[Record] = []
        known, self._journalled = self._journalled, {}
        for _, path in journal_files(self.data_dir / "journal"):
            look = _look(path)
            if look is not None and path in known and known[path][0] == look:
                found = known[path][1]
            else:
                try:
                    data = self._files.map(path)
                except FileNotFoundError:
                    continue
                found = [r for r in read_journal(data, path) if not isinstance(r, Damage)]
                if not bytes(data[-_PAGE:]).strip(b"\0"):  # prepared with zeros: a commit does not make it longer
                    look = None
            out += found
            if look is not None and len(out) <= _MOST_RECORDS:
                self._journalled[path] = look, found
        return out

    def _catalogued(self) -> dict[str, SegmentRow]:
        """What the catalog knows of sealed segments, by path; empty without a usable catalog.

        Asked again when its files have changed. Should a change go unseen, files are looked at that need not be.
        """
        if not (self.data_dir / CATALOG).exists():
            return {}
        from scidaq.store import sealed_segments

        looks = [_look(self.data_dir / f"{CATALOG}{suffix}") for suffix in ("", "-wal")]
        if looks != self._sealed[0]:
            try:
                self._sealed = looks, {row.path: row for row in sealed_segments(self.data_dir)}
            except (CatalogError, ValueError, TypeError, LookupError):  # or it says what no segment can be
                return {}
        return self._sealed[1]

    def _holdings(self, stream: str, journal: Sequence[Record], known: dict[str, SegmentRow]) -> list[_Holding]:
        out: dict[int, _Holding] = {}
        lost: list[tuple[int, Path]] = []
        for name, path in segment_files(self.data_dir / "streams" / stream):
            piece = self._piece(path, known.get(path.relative_to(self.data_dir).as_posix()))
            if piece is not None:
                out.setdefault(name.epoch, _Holding(name.epoch)).pieces.append(piece)
            else:
                lost.append((name.epoch, path))
        for record in journal:
            if record.epoch.stream == stream:
                self._schemas[stream, record.epoch.number] = record.epoch
                out.setdefault(record.epoch.number, _Holding(record.epoch.number)).records.append(record)
        for number, path in lost:  # its own schema is damaged; that of its epoch may stand elsewhere too
            holding = out.setdefault(number, _Holding(number))
            if (piece := self._piece(path, None, self._epoch_or_none(stream, holding), whole=False)) is not None:
                holding.pieces.append(piece)
        return [out[n] for n in sorted(out)]

    def _piece(
        self, path: Path, row: SegmentRow | None, epoch: Epoch | None = None, whole: bool = True
    ) -> _Piece | None:
        """A segment as the catalog or its headers say; None where its schema is damaged and it is to be `whole`."""
        try:
            if row is not None and path.stat().st_size == row.bytes:
                self._growing.pop(path, None)
                span = (row.first_ns, row.last_ns)
                return _Piece(path, row.epoch, row.first, row.generation, *span, row.bytes, row.ranges, row.ledger)
            segment = self._grown(path, epoch)
        except FileNotFoundError:
            self._growing.pop(path, None)
            return None
        if segment.epoch is None and whole:
            return None
        found = found_segment(segment, len(segment.data))
        first = min((a for a, _ in found.ranges), default=found.name.first)
        return _Piece(
            path,
            segment.epoch.number if segment.epoch is not None else found.name.epoch,
            first,
            found.name.generation,
            found.first_ns,
            found.last_ns,
            found.size,
            tuple(found.ranges),
            found.ledger,
            segment,
        )

    def _grown(self, path: Path, epoch: Epoch | None) -> Segment:
        """A segment that may still grow; of one that was seen before only what is new is looked at."""
        data = self._files.map(path)
        known = self._growing.get(path) if epoch is None else None
        with _headers_only(data):
            segment = (known.grown(data) if known is not None else None) or Segment(data, path, epoch, check=False)
        if epoch is None:
            self._growing[path] = segment
        return segment

    def _segment(self, piece: _Piece) -> Segment | Outline | None:
        if piece.segment is None:
            try:
                data = self._files.map(piece.path)
            except FileNotFoundError:
                return None
            outline = None if piece.doubted else Outline.of(data, piece.path)
            piece.segment = outline or Segment(data, piece.path, check=False)
        if piece.segment.epoch is None:
            directory = piece.path.parent
            piece.segment.epoch = self._schemas.get((f"{directory.parent.name}/{directory.name}", piece.epoch))
        return piece.segment

    def _doubt(self, piece: _Piece, outline: Outline) -> Segment:
        """The segment by all its headers, since its outline is not borne out."""
        if not isinstance(piece.segment, Segment):
            piece.segment = Segment(outline.data, outline.path, outline.epoch, check=False)
        piece.ahead, piece.doubted = None, True
        return piece.segment

    def _epoch(self, stream: str, holding: _Holding) -> Epoch:
        key = (stream, holding.number)
        if key not in self._schemas:
            for piece in holding.pieces:
                segment = self._segment(piece)
                if segment is not None and segment.epoch is not None:
                    self._schemas[key] = segment.epoch
                    break
            else:
                raise Corrupt(self.data_dir / "streams" / stream, 0, f"the schema of epoch {holding.number} is lost")
        return self._schemas[key]

    def _epoch_or_none(self, stream: str, holding: _Holding) -> Epoch | None:
        """None where the schema of an epoch is damaged in every file: then its rows mean nothing."""
        try:
            return self._epoch(stream, holding)
        except Corrupt:
            return None

    def _check_channels(self, stream: str, plan: Sequence[_Holding], channels: Sequence[str]) -> None:
        epochs = (self._epoch_or_none(stream, h) for h in plan)
        schemas = [epoch.schema for epoch in epochs if epoch is not None]
        known = {n for schema in schemas for n in schema.names}
        if not schemas:
            return  # nobody knows
        if missing := [c for c in channels if c not in known]:
            raise RequestError(f"{stream} has no channel {', '.join(missing)}; it has {', '.join(sorted(known))}")

    # ---- one epoch ----

    def _rows(
        self,
        stream: str,
        holding: _Holding,
        start_ns: int | None,
        stop_ns: int | None,
        first_row: int = 0,
        first_ns: int | None = None,
        held: bool = False,
    ) -> Iterator[Block | Gap]:
        """The blocks of an epoch in row order, each row once, and the holes between them and at the ends."""
        with Checkers(self._threads) as checkers:
            behind = None if held else _Behind()
            yield from self._in_order(stream, holding, (start_ns, stop_ns), (first_row, first_ns), checkers, behind)

    def _in_order(
        self,
        stream: str,
        holding: _Holding,
        span: tuple[int | None, int | None],
        place: tuple[int, int | None],
        checkers: Checkers,
        behind: _Behind | None,
    ) -> Iterator[Block | Gap]:
        (start_ns, stop_ns), (first_row, first_ns) = span, place
        epoch = self._epoch_or_none(stream, holding)
        if epoch is None:
            end = max((b for piece in holding.pieces for _, b in piece.ranges), default=0)
            yield Gap(stream, holding.number, 0, end, Reason.UNEXPLAINED, unknown=not end, detail="the schema is lost")
            return
        pieces, at, before_ns = _pieces_for(holding, start_ns, stop_ns, first_row)
        before_ns = first_ns if before_ns is None else before_ns
        window = _Window(start_ns, stop_ns, epoch.schema)
        notes = _Notes(stream, holding.number)
        queue: list[_Item] = []
        ties = count()
        for record in holding.records:
            notes.take(record.gaps, record.left_out)
            if record.block is not None:
                heapq.heappush(queue, (record.block.first, 1, next(ties), record.block))
        done = RangeSet()
        while pieces or queue:
            while pieces and (not queue or pieces[0].first <= queue[0][0]):
                piece = pieces.pop(0)
                piece.rivals = [p for p in holding.pieces if p.generation > piece.generation and _both(p, piece)]
                at = max(at, self._open(piece, queue, notes, ties, first_row, span))
                piece.ahead = checkers.ahead_of(piece.segment) if piece.segment is not None else None
            if not queue:
                break
            first, order, _, source = heapq.heappop(queue)
            runs = self._fresh(source, done, queue, ties)
            if runs and runs[0].first == first:
                block, *runs = runs
            else:
                block = None
            for rest in runs:  # what lies between comes from elsewhere, and before it
                heapq.heappush(queue, (rest.first, order, next(ties), rest))
            if block is None:
                continue
            done.add(block.first, block.end)
            if block.end <= first_row:
                continue
            if start_ns is not None and block.last_ns < start_ns:
                at, before_ns = max(at, block.end), block.last_ns
                continue
            if at <= block.first:
                if at < block.first:
                    self._explain(at, block.first, holding, notes)
                yield from notes.between(at, block.first, before_ns, block.t0_ns, window)
            cut = _within(block, start_ns, stop_ns, first_row)
            if cut is not None:
                yield cut
                at, before_ns = cut.end, cut.last_ns
                if behind is not None and not isinstance(source, Block):
                    behind.read(*source)
            if cut is None or cut.end < block.end:  # time does not go back in an epoch
                return
        yield from notes.between(at, max(notes.end, at), before_ns, None, window)

    def _explain(self, first: int, end: int, holding: _Holding, notes: _Notes) -> None:
        """Look behind a hole for what explains it: rows that came late into it come up before the segment that does."""
        for piece in sorted(holding.pieces, key=lambda p: p.first):
            if not notes.lacks(first, end):
                return
            if piece.first >= first and (segment := self._segment(piece)) is not None:
                notes.take_from(segment)

    def _open(
        self,
        piece: _Piece,
        queue: list[_Item],
        notes: _Notes,
        ties: Iterator[int],
        first_row: int,
        span: tuple[int | None, int | None],
    ) -> int:
        """Put the batches of a segment that may have rows of the range into the queue.

        The row before which everything is earlier than the range.
        """
        segment = self._segment(piece)
        if segment is None:
            return 0
        if segment.epoch is not None:
            self._schemas.setdefault((segment.epoch.stream, segment.epoch.number), segment.epoch)
        notes.take_from(segment)
        start_ns, stop_ns = span
        earlier = 0 if start_ns is None else _before(segment, start_ns)
        first_row = max(first_row, earlier)
        _put(queue, piece, segment, ties, first_row, stop_ns)
        return earlier

    def _fresh(self, source: _Source, done: RangeSet, queue: list[_Item], ties: Iterator[int]) -> list[Block]:
        """The rows that have not been given and that no higher generation has; a damaged batch gives none."""
        if isinstance(source, Block):
            return [source.slice(a, b) for a, b in done.missing(source.first, source.end)]
        piece, segment, i = source
        if piece.doubted and isinstance(segment, Outline):
            return []  # its rows are in the queue by other means
        try:
            block = piece.ahead.block(i) if piece.ahead is not None else segment.block_at(i)
        except Corrupt:
            if isinstance(segment, Outline):  # what is there in its place, only the headers tell
                _put(queue, piece, self._doubt(piece, segment), ties, segment.entries[i].first)
            return []
        if not piece.rivals and not done.within(block.first, block.end):
            return [block]
        mine = RangeSet(done.missing(block.first, block.end))
        for rival in piece.rivals:
            if _overlap(rival, block.first, block.end):
                for a, b in self._intact(rival, block.first, block.end):
                    mine.remove(a, b)
        return [block.slice(a, b) for a, b in mine]

    def _intact(self, piece: _Piece, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The batches of a segment that hold any of the rows `[first, end)` undamaged."""
        segment = self._segment(piece)
        for i, entry in enumerate(segment.entries if segment is not None else ()):
            if segment is not None and entry.first < end and first < entry.end:
                try:
                    block = segment.block_at(i)
                    yield block.first, block.end
                except Corrupt:
                    if isinstance(segment, Outline):
                        self._doubt(piece, segment)
                        yield from self._intact(piece, first, end)
                        return


def _put(
    queue: list[_Item],
    piece: _Piece,
    segment: Segment | Outline,
    ties: Iterator[int],
    first_row: int,
    stop_ns: int | None = None,
) -> None:
    """Put the batches of a segment that have rows from `first_row` on into the queue. Of those behind the range an
    outline knows the first, which says what lies before it; where that is damaged, all come (`_fresh`)."""
    behind: tuple[int, int] | None = None
    for i, (_, _, first, rows, t0_ns) in enumerate(segment.entries):
        if first + rows <= first_row:
            continue
        if stop_ns is not None and t0_ns >= stop_ns and isinstance(segment, Outline):
            behind = (first, i) if behind is None else min(behind, (first, i))
            continue
        heapq.heappush(queue, (first, -piece.generation, next(ties), (piece, segment, i)))
    if behind is not None:
        heapq.heappush(queue, (behind[0], -piece.generation, next(ties), (piece, segment, behind[1])))


def _before(segment: Segment | Outline, start_ns: int) -> int:
    """A row before which everything in a segment is earlier than a time: the first of the newest batch that begins so.

    Time does not go back in an epoch, so those need not be read. That batch must: its header alone may be wrong.
    """
    entries = segment.entries
    firsts = [entry.first for entry in entries]
    rows: Sequence[int] = range(len(entries))
    if firsts != sorted(firsts):
        rows = sorted(rows, key=firsts.__getitem__)
    at = bisect_left(rows, start_ns, key=lambda i: entries[i].t0_ns)
    for i in reversed(rows[:at]):
        if entries[i].t0_ns < start_ns:
            with suppress(Corrupt):
                block = segment.block_at(i)
                if block.t0_ns < start_ns:
                    return block.first
    return 0


class _Behind:
    """Lets go of the pages of segments that have been read, or in the end all of a store would be in memory.

    They lie in the system's cache: who still holds a block only has them fetched from there once more.
    """

    LAG = 16 << 20

    def __init__(self) -> None:
        self._piece: _Piece | None = None
        self._free = 0
        """Up to which byte of its file."""

    def read(self, piece: _Piece, segment: Segment | Outline, i: int) -> None:
        """Rows of a batch were given to the reader, who has asked for more."""
        if self._piece is not piece:
            if self._piece is not None and not piece.rivals:
                self._piece.segment = self._piece.ahead = None  # opened again, should anybody look for a reason there
            self._piece, self._free = piece, 0
        entry = segment.entries[i]
        end = entry.at + entry.size
        mapped = segment.data.obj
        if end - self._free >= 2 * self.LAG and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            size = (end - self._free - self.LAG) // self.LAG * self.LAG
            mapped.madvise(mmap.MADV_DONTNEED, self._free, size)
            self._free += size


_Source = Block | tuple[_Piece, Segment | Outline, int]
"""Rows that come up: a block, or a batch of a segment that is decoded when its turn comes."""
_Item = tuple[int, int, int, _Source]
"""First row, order among those with the same (higher generations first), a number that breaks ties, rows."""


def _overlap(piece: _Piece, first: int, end: int) -> bool:
    return any(a < end and first < b for a, b in piece.ranges)


def _both(one: _Piece, other: _Piece) -> bool:
    """Whether the rows of two segments lie among one another, as far as their first and last say."""
    a, b = one.ranges, other.ranges
    return bool(a and b) and a[0][0] < b[-1][1] and b[0][0] < a[-1][1]


def _pieces_for(
    holding: _Holding, start_ns: int | None, stop_ns: int | None, first_row: int
) -> tuple[list[_Piece], int, int | None]:
    """The segments to be opened for a range, by first row; the row before which all is earlier, and its time."""
    at, before_ns = first_row, None
    here, later = [], []
    for p in sorted(holding.pieces, key=lambda p: p.first):
        if start_ns is not None and p.last_ns is not None and p.last_ns < start_ns:
            if p.ranges and p.ranges[-1][1] >= at:
                at, before_ns = p.ranges[-1][1], p.last_ns
        elif stop_ns is not None and p.first_ns is not None and p.first_ns >= stop_ns:
            later.append(p)
        elif not p.ranges or p.ranges[-1][1] > first_row:
            here.append(p)
    # The one behind the range says what the hole in front of it is.
    return sorted(here + later[:1], key=lambda p: p.first), at, before_ns


def _indices(epoch: int | None, first: int | None, end: int | None) -> tuple[int, int | None]:
    """A range of rows as it is to be used. Raises `RequestError` where it is none."""
    if first is None and end is None:
        return 0, None
    if epoch is None:
        raise RequestError("rows are numbered within an epoch: say which")
    if (first or 0) < 0 or (end is not None and end < (first or 0)):
        raise RequestError(f"rows [{first or 0}, {'' if end is None else end}) are no range: 0 <= first <= end")
    return first or 0, end


def _clipped(items: Iterable[Block | Gap], first: int, end: int | None) -> Iterator[Block | Gap]:
    """What lies in the rows `[first, end)`."""
    for item in items:
        if end is not None and item.first >= end:
            return
        a, b = max(first, item.first), item.end if end is None else min(end, item.end)
        if isinstance(item, Block):
            if a < b:
                yield item.slice(a, b)
        elif a < b or first <= item.first == item.end:
            yield replace(item, first=a, end=b)


def _tail_of(holding: _Holding, rows: int) -> tuple[int, int]:
    """Where the last rows of an epoch begin, and how many it has too few; from 0 on where it has."""
    present = RangeSet()
    for piece in holding.pieces:
        for a, b in piece.ranges:
            present.add(a, b)
    for record in holding.records:
        if record.block is not None:
            present.add(record.block.first, record.block.end)
    first, left = present.end, rows
    for a, b in reversed(list(present)):
        first, left = max(a, b - left), left - (b - max(a, b - left))
        if left <= 0:
            return first, left
    return 0, left


def _newest(items: list[Block | Gap], rows: int) -> list[Block | Gap]:
    """The last `rows` rows of what is in row order, and the gaps between them."""
    out: list[Block | Gap] = []
    for item in reversed(items):
        if rows <= 0:
            break
        if isinstance(item, Block):
            item = item.slice(max(item.first, item.end - rows), item.end)
            rows -= item.rows
        out.append(item)
    return out[::-1]


def _until(item: Block | Gap, end_ns: int) -> Block | Gap | None:
    """What of it is not later than a time."""
    if isinstance(item, Block):
        return _within(item, None, end_ns + 1, 0)
    return item if item.start_ns is None or item.start_ns <= end_ns else None


class _Window(NamedTuple):
    """The range of time that was asked for."""

    start_ns: int | None
    stop_ns: int | None
    schema: Schema

    def sees(self, before_ns: int | None, after_ns: int | None, counted: bool) -> bool:
        """Whether something missing between two rows may lie in the range; where rows are `counted`, by their times."""
        rate = self.schema.rate
        step = (
            1 if rate is None or not counted else self.schema.span_ns(1) + bool(NS * rate.denominator % rate.numerator)
        )
        if self.stop_ns is not None and before_ns is not None and before_ns + step >= self.stop_ns:
            return False
        return self.start_ns is None or after_ns is None or after_ns - step >= self.start_ns


def _within(block: Block, start_ns: int | None, stop_ns: int | None, first_row: int) -> Block | None:
    a, b = max(block.first, first_row), block.end
    if start_ns is not None and block.t0_ns < start_ns:
        a = max(a, block.first + int(np.searchsorted(block.time_ns(), start_ns, "left")))
    if stop_ns is not None and block.last_ns >= stop_ns:
        b = min(b, block.first + int(np.searchsorted(block.time_ns(), stop_ns, "left")))
    return block.slice(a, b) if a < b else None


class _Notes:
    """What the files say about rows that are not there."""

    def __init__(self, stream: str, epoch: int) -> None:
        self._stream, self._epoch = stream, epoch
        self._gaps: dict[tuple[int, int, Reason, bool], Gap] = {}
        self._left_out = RangeSet()
        self.end = 0

    def take(self, gaps: Sequence[Gap], left_out: Sequence[tuple[int, int]]) -> None:
        """Note gap records and rows left out by policy."""
        for gap in gaps:
            self._gaps[gap.first, gap.end, gap.reason, gap.unknown] = gap
            self.end = max(self.end, gap.end)
        for first, end in left_out:
            self._left_out.add(first, end)
            self.end = max(self.end, end)

    def take_from(self, segment: Segment | Outline) -> None:
        """Note those of a segment."""
        self.take(segment.gaps(), segment.left_out())

    def lacks(self, first: int, end: int) -> bool:
        """Whether nothing has been noted of some of the rows `[first, end)`."""
        rest = RangeSet(self._left_out.missing(first, end))
        for gap in self._gaps.values() if rest else ():
            rest.remove(gap.first, gap.end)
        return bool(rest)

    def between(
        self, first: int, end: int, before_ns: int | None, after_ns: int | None, window: _Window
    ) -> Iterator[Gap]:
        """The gaps in the rows `[first, end)`, and losses of unknown size just before row `end`, ascending."""
        if window.sees(before_ns, after_ns, counted=False):
            for gap in self._gaps.values():
                if gap.first == gap.end and gap.first == end and (gap.unknown or gap.first == 0):
                    yield gap
        if first >= end or not window.sees(before_ns, after_ns, counted=True):
            return
        rest = RangeSet([(first, end)])
        found: list[Gap] = []
        span = (before_ns, after_ns)
        for a, b in self._left_out.within(first, end):
            found.append(Gap(self._stream, self._epoch, a, b, Reason.POLICY, *span))
            rest.remove(a, b)
        for gap in self._gaps.values():
            for a, b in rest.within(gap.first, gap.end):
                found.append(replace(gap, first=a, end=b))
                rest.remove(a, b)
        for a, b in rest:
            found.append(Gap(self._stream, self._epoch, a, b, Reason.UNEXPLAINED, *span))
        yield from sorted(found, key=lambda g: g.first)


Known = dict[int, tuple[Schema, Schema]]
"""Schemas with what they become, by the identity of the first; it is kept, so that no other takes its place."""


def select(block: Block, channels: Sequence[str], known: Known | None = None) -> Block | None:
    """The same rows with some channels only, in the order asked for; None when the block has none of them.

    `known` keeps what schemas become, so that blocks that share one do so afterwards.
    """
    here = [block.schema.index(c) for c in channels if c in block.schema.names]
    if not here:
        return None
    whole, schema = (known or {}).get(id(block.schema), (None, None))
    if whole is not block.schema or schema is None:
        schema = Schema(tuple(block.schema.channels[i] for i in here), block.schema.rate)
        if known is not None:
            known[id(block.schema)] = block.schema, schema
    return replace(
        block,
        schema=schema,
        columns=tuple(block.columns[i] for i in here),
        valid=tuple(block.valid[i] for i in here) if block.valid else None,
    )
