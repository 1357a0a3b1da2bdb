"""Recovery: what a station does with its data directory before it records again.

It looks only at what the catalog does not know to be sealed. Of each such segment the intact prefix is kept and sealed;
what lies behind it goes to `quarantine/` with a report. Journal files are cut likewise, and their rows that are in no
segment yet are handed to the recorder to be moved. Nothing is ever deleted here.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import orjson
import structlog

from scidaq.block import Block, Epoch, Gap, Ledger, RangeSet, Reason
from scidaq.clock import Clock
from scidaq.errors import Corrupt
from scidaq.store import wire
from scidaq.store.batch import previous_of
from scidaq.store.directory import CATALOG, STATION
from scidaq.store.durable import NAME as DURABLE_MAP
from scidaq.store.files import PAGE, Files, make_directory, publish
from scidaq.store.journal import Record, journal_files, journal_keep, read_journal, written
from scidaq.store.reading import segment_files, stream_directories
from scidaq.store.segment import Buffers, Damage, Segment, SegmentName, SegmentWriter
from scidaq.store.space import BALLAST
from scidaq.store.track import Book, Stand

MADE = frozenset({STATION, CATALOG, DURABLE_MAP, BALLAST})
"""Files of the data directory itself that the store makes under a temporary name."""
ROOMS = ("facts", "journal", "streams", "quarantine")
"""Directories that are the store's alone."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Known:
    """What the catalog says of a sealed segment, so that recovery need not open it."""

    epoch: int
    ranges: tuple[tuple[int, int], ...]
    ledger: Ledger
    first_ns: int | None
    last_ns: int | None


@dataclass(slots=True)
class Found:
    """A segment that the catalog did not know, or knew otherwise."""

    segment: Segment
    path: Path
    size: int
    name: SegmentName
    ledger: Ledger
    ranges: RangeSet
    first_ns: int | None
    last_ns: int | None
    sealed_ns: int


@dataclass(slots=True)
class Recovered:
    """What recovery found and did."""

    stands: dict[str, Stand] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)
    """Segments that the catalog has to be told of."""
    next_epochs: dict[str, int] = field(default_factory=dict)
    """Per stream one past the highest number that an epoch has had, be its files damaged: no number comes twice."""
    journals: list[tuple[int, Path]] = field(default_factory=list)
    quarantined: list[Path] = field(default_factory=list)
    sealed: int = 0
    """Segments that were found open and sealed."""


def quarantine(
    files: Files, data_dir: Path, path: Path, at: int, content: memoryview, reason: str, now_ns: int
) -> Path:
    """Put aside what cannot be trusted, with a report beside it; returns the path of the copy. Durable on return."""
    directory = data_dir / "quarantine"
    make_directory(files, directory)
    relative = path.relative_to(data_dir).as_posix().replace("/", ".")
    n = 0
    # A copy of the same bytes was made by a recovery that was interrupted before it could cut them off.
    while (copy := directory / f"{relative}.{at}.{n}").exists() and files.map(copy) != content:
        n += 1
    if copy.with_name(copy.name + ".json").exists():
        return copy
    if not copy.exists():
        publish(files, copy, content)
    report = {"file": path.relative_to(data_dir).as_posix(), "offset": at, "bytes": len(content), "reason": reason}
    publish(files, copy.with_name(copy.name + ".json"), orjson.dumps(report | {"t_ns": now_ns}))
    return copy


def recover(data_dir: Path, files: Files, clock: Clock, station: str, known: dict[str, dict[str, Known]]) -> Recovered:
    """Bring a data directory in order. `known`: per stream the sealed segments of the catalog, by file name.

    May be interrupted at any moment and done again. Raises `OSError` when the disk refuses.
    """
    out = Recovered()
    _remove_temporary(files, data_dir)
    journalled = _journalled_gaps(data_dir, files)
    for stream, directory in stream_directories(data_dir):
        sealed = known.get(stream, {})
        segments: list[tuple[SegmentName, Known | Found]] = []
        names = segment_files(directory)
        following = [name for name, _ in names[1:]]
        for (name, path), behind in zip_longest(names, following):
            if (row := sealed.get(path.name)) is not None:
                segments.append((name, row))
                continue
            before = [s for n, s in segments if n.epoch == name.epoch]
            explained = journalled.get((stream, name.epoch), ())
            found = _recover_segment(data_dir, files, clock, station, path, before, explained, behind, out)
            if found is not None:
                out.found.append(found)
                segments.append((name, found))
        stand = _stand(files, directory, segments)
        if stand is not None:
            out.stands[stream] = stand
        out.next_epochs[stream] = _next_epoch(data_dir, files, stream, segments)
    _recover_journals(data_dir, files, clock, out)
    return out


def _next_epoch(
    data_dir: Path, files: Files, stream: str, segments: Sequence[tuple[SegmentName, Known | Found]]
) -> int:
    """One past the highest epoch that has had rows, those that were put aside included."""
    highest = max((name.epoch for name, _ in segments), default=-1)
    prefix, length = f"streams.{stream.replace('/', '.')}.", len(str(SegmentName(0, 0, 0)))
    for path in sorted((data_dir / "quarantine").glob(f"{prefix}*")):
        name = SegmentName.parse(path.name[len(prefix) :][:length])
        if name is not None and name.epoch > highest and path.suffix != ".json":
            segment = Segment(files.map(path), path, check=False)
            highest = name.epoch if any(b.rows for b in segment.batches) else highest
    return highest + 1


def _remove_temporary(files: Files, data_dir: Path) -> None:
    """Files whose creation was interrupted were never part of the store."""
    for path in temporary_files(data_dir):
        files.remove(path)


def temporary_files(data_dir: Path) -> Iterator[Path]:
    """What the store has begun to make and never named, in the places where it makes files and nowhere else."""
    yield from (path for path in data_dir.glob(".*.tmp") if path.name[1:-4] in MADE)
    for room in ROOMS:
        for directory, _, names in os.walk(data_dir / room):
            yield from (Path(directory, name) for name in names if name.startswith(".") and name.endswith(".tmp"))


# ---- segments -------------------------------------------------------------------------------------------------------


def _journalled_gaps(data_dir: Path, files: Files) -> dict[tuple[str, int], list[Gap]]:
    """The gap records of the journal, by stream and epoch."""
    out: dict[tuple[str, int], list[Gap]] = defaultdict(list)
    for _, path in journal_files(data_dir / "journal"):
        for item in read_journal(files.map(path), path):
            if not isinstance(item, Damage):
                out[item.epoch.stream, item.epoch.number] += item.gaps
    return out


def _recover_segment(
    data_dir: Path,
    files: Files,
    clock: Clock,
    station: str,
    path: Path,
    before: Sequence[Known | Found],
    explained: Sequence[Gap],
    behind: SegmentName | None,
    out: Recovered,
) -> Found | None:
    data = files.map(path)
    segment = _load(data, path, behind)
    if segment.epoch is None or not segment.facts:
        log.error("a segment without a schema is put aside", path=str(path))
        _set_aside(data_dir, files, clock, path, data, "the schema is damaged", out)
        return None
    if not segment.ended or (segment.torn and not _proven(segment, behind)):
        segment, data = _seal(data_dir, files, clock, station, segment, before, explained, out)
    return found_segment(segment, len(data))


def found_segment(segment: Segment, size: int) -> Found:
    """What the catalog is to know of a segment, from the file alone."""
    ranges, first_ns, last_ns = RangeSet(), None, None
    for b in segment.batches:
        if b.rows:
            t0 = int(b.facts["t0"])
            ranges.add(b.facts["first"], b.facts["first"] + b.rows)
            first_ns = t0 if first_ns is None else min(first_ns, t0)
            last_ns = max(last_ns or t0, _last_ns(segment, b))
    commits = segment.commits()
    ledger = Ledger(*commits[-1].facts["ledger"]) if commits else Ledger()
    name = SegmentName.parse(segment.path.name)
    if name is None:
        raise Corrupt(segment.path, 0, "this is not the name of a segment")
    sealed_ns = int(segment.seal.get("t_ns", 0)) if segment.seal else 0
    return Found(segment, segment.path, size, name, ledger, ranges, first_ns, last_ns, sealed_ns)


def _last_ns(segment: Segment, message: wire.Message) -> int:
    if "t1" in message.facts:
        return int(message.facts["t1"])
    schema = segment.epoch.schema if segment.epoch else None
    return int(message.facts["t0"]) + (schema.span_ns(message.rows - 1) if schema and schema.rate else 0)


def _load(data: memoryview, path: Path, behind: SegmentName | None) -> Segment:
    """A segment with its headers walked, and every byte checked from where it was not known to be durable.

    `behind` is the next segment of the stream. Of one whose seal proves nothing any part of the last commit may have
    survived a power cut or a failed sync, the seal and not what it seals.
    """
    segment = Segment(data, path, check=False)
    if segment.sealed and _proven(segment, behind):
        return segment
    for message in segment.batches:
        if message.at >= segment.durable and message.crc != wire.checksum(data, message, previous_of(message)):
            return Segment(data, path, check=True)
    return Segment(data, path, check=True) if segment.damage else segment


def _proven(segment: Segment, behind: SegmentName | None) -> bool:
    """Whether a seal proves the rest: another segment has been begun since, which waits for the seal to be durable.

    Unless that one has rows of this again, of a higher generation: then the sync of the seal failed.
    """
    mine = SegmentName.parse(segment.path.name)
    if behind is None or mine is None or segment.seal is None:
        return False
    if behind.epoch > mine.epoch or behind.generation <= mine.generation:
        return True
    return behind.first >= max((end for _, end in segment.seal["ranges"]), default=mine.first)


def _seal(
    data_dir: Path,
    files: Files,
    clock: Clock,
    station: str,
    segment: Segment,
    before: Sequence[Known | Found],
    explained: Sequence[Gap],
    out: Recovered,
) -> tuple[Segment, memoryview]:
    """Keep what a segment holds up to a torn write, put the rest aside, and seal it.

    `before` are the segments of the same epoch that come before it, `explained` the gap records that the journal has.

    Damage among rows that were durable is no torn write: it stays where it is, and what is behind it stays too.
    """
    path, data, keep = segment.path, segment.data, segment.keep
    if segment.seal is not None and keep == segment.batches[-1].end:
        # The totals are there but the end of the stream behind them is torn: both are written again.
        keep = segment.batches[-1].at
    if keep < len(data):
        reason = next((d.reason for d in segment.damage if d.at >= keep), "the end of the segment was not written")
        out.quarantined.append(quarantine(files, data_dir, path, keep, data[keep:], reason, clock.now_ns()))
        files.cut(path, keep)
        data = files.map(path)
        segment = Segment(data, path, check=bool(segment.damage))
    if segment.damage:
        log.error("durable rows are damaged", path=str(path), what=[str(d) for d in segment.damage])
    writer = _continued(segment, station, clock)
    ledger, high, gaps = final_book(segment, before, explained)
    writer.seal(high, ledger, (), gaps, by="recovery", t_ns=clock.now_ns())
    with files.reopen(path) as file:
        files.append(file, [c.buffer[: c.size] for c in writer.chunks])
        files.sync(file)
    out.sealed += 1
    data = files.map(path)
    return Segment(data, path, check=False), data


def final_book(
    segment: Segment, before: Sequence[Known | Found], explained: Sequence[Gap]
) -> tuple[Ledger, int, list[Gap]]:
    """The book at the end of a segment: that of the last commit in it, or else before it, and the rows behind that.

    Holes among those rows that no record explains are returned as gaps: what was left out by policy, for one, is
    said by a commit, and that is lost.
    """
    present = RangeSet(r for s in before for r in s.ranges)
    ledger = max((s.ledger for s in before), key=lambda one: one.age, default=Ledger())
    commits = segment.commits()
    committed = commits[-1].at if commits else -1
    if commits and (own := Ledger(*commits[-1].facts["ledger"])).age >= ledger.age:
        ledger = own
    high = begun = ledger.recorded + ledger.gaps + ledger.left_out + ledger.expired
    delivered, recorded, gaps = ledger.delivered, ledger.recorded, ledger.gaps
    times: list[tuple[int, int, int, int]] = []
    for b in segment.batches:
        if not b.rows:
            continue
        first, end = int(b.facts["first"]), int(b.facts["first"]) + b.rows
        times.append((first, end, int(b.facts["t0"]), _last_ns(segment, b)))
        for low, top in present.missing(first, end) if b.at > committed else ():
            reached = max(high, top)
            recorded += top - low
            gaps += (reached - high) - (top - low)  # a hole before the rows, or less of one that they fill
            delivered += reached - high
            high = reached
        present.add(first, end)
    holes = RangeSet([(begun, high)])
    for first, end in (*present, *((g.first, g.end) for g in (*segment.gaps(), *explained))):
        holes.remove(first, end)
    return (
        replace(ledger, delivered=delivered, recorded=recorded, gaps=gaps),
        high,
        [_lost_record(segment, first, end, times) for first, end in holes],
    )


def _lost_record(segment: Segment, first: int, end: int, times: Sequence[tuple[int, int, int, int]]) -> Gap:
    """A gap for a hole whose own record was not durable, between the rows around it."""
    if segment.epoch is None:
        raise Corrupt(segment.path, 0, "the schema is lost")
    start_ns = max((t1 for _, e, _, t1 in times if e <= first), default=None)
    end_ns = min((t0 for f, _, t0, _ in times if f >= end), default=None)
    return Gap(segment.epoch.stream, segment.epoch.number, first, end, Reason.RESTART, start_ns, end_ns)


def _continued(segment: Segment, station: str, clock: Clock) -> SegmentWriter:
    """A writer that goes on where a segment ends."""
    if segment.epoch is None:
        raise Corrupt(segment.path, 0, "the schema is lost")
    name = SegmentName.parse(segment.path.name) or SegmentName(segment.epoch.number, 0, 0)
    writer = SegmentWriter(segment.epoch, name, station, clock.now_ns(), Buffers(1, 64 * PAGE))
    head = wire.parse(segment.data, 0, segment.path)
    last = segment.batches[-1] if segment.batches else head
    last_seq = int(last.facts.get("seq", -1))
    writer.go_on(segment.id, segment.keep, last.crc, last_seq + 1, segment.batches)
    found = found_segment(segment, 0)
    writer.totals.rows, writer.totals.gap_rows = found.ranges.total, sum(g.rows or 0 for g in segment.gaps())
    writer.totals.batches = len(segment.batches)
    writer.totals.first_ns, writer.totals.last_ns = found.first_ns, found.last_ns
    writer.totals.ranges = found.ranges
    return writer


def _set_aside(
    data_dir: Path, files: Files, clock: Clock, path: Path, data: memoryview, reason: str, out: Recovered
) -> None:
    """Move a whole file to the quarantine."""
    out.quarantined.append(quarantine(files, data_dir, path, 0, data, reason, clock.now_ns()))
    files.remove(path)
    files.sync_dir(path.parent)


def _stand(files: Files, directory: Path, segments: list[tuple[SegmentName, Known | Found]]) -> Stand | None:
    """The book of a stream's newest epoch, from its segments."""
    if not segments:
        return None
    number = max(name.epoch for name, _ in segments)
    newest = [(name, s) for name, s in segments if name.epoch == number]
    last_name, _ = newest[-1]
    path = directory / str(last_name)
    opened = next((s.segment for n, s in newest if n == last_name and isinstance(s, Found)), None)
    opened = opened or Segment(files.map(path), path, check=False)
    if opened.epoch is None:
        return None
    book = Book(opened.epoch)
    ledger = Ledger()
    for _, s in newest:
        for first, end in s.ranges:
            book.recorded.add(first, end)
        if s.ledger.age >= ledger.age:
            ledger = s.ledger
        if s.ledger.left_out and not book.left_out:
            _left_out(files, directory, number, book)
        if s.first_ns is not None and (book.first_ns < 0 or s.first_ns < book.first_ns):
            book.first_ns = s.first_ns
        if s.last_ns is not None:
            book.last_ns = max(book.last_ns, s.last_ns)
    book.last_row = book.recorded.end - 1
    _take_over(book, ledger)
    return Stand(book, last_name.generation + 1)


def _take_over(book: Book, ledger: Ledger) -> None:
    high = ledger.recorded + ledger.gaps + ledger.left_out + ledger.expired
    book.high = max(high, book.recorded.end, book.left_out.end, book.high)
    book.duplicates, book.expired, book.lost = ledger.duplicates, ledger.expired, ledger.lost
    book.delivered = book.high + ledger.duplicates


def _left_out(files: Files, directory: Path, epoch: int, book: Book) -> None:
    """Read again which rows of an epoch were left out by policy."""
    for name, path in segment_files(directory):
        if name.epoch == epoch:
            for message in Segment(files.map(path), path, check=False).batches:
                for first, end in message.facts.get("left_out", ()):
                    book.left_out.add(first, end)


# ---- the journal ----------------------------------------------------------------------------------------------------


def _recover_journals(data_dir: Path, files: Files, clock: Clock, out: Recovered) -> None:
    pending: dict[str, list[tuple[int, Record]]] = defaultdict(list)
    for number, path in journal_files(data_dir / "journal"):
        data = files.map(path)
        keep, reason = journal_keep(data, path)
        if not keep:
            _set_aside(data_dir, files, clock, path, data, reason, out)
            continue
        if keep < len(data):
            if (end := written(data, keep)) > keep:
                torn = data[keep:end]
                out.quarantined.append(quarantine(files, data_dir, path, keep, torn, reason, clock.now_ns()))
            files.cut(path, keep)
            data = files.map(path)
        out.journals.append((number, path))
        for item in read_journal(data, path):
            if isinstance(item, Damage):
                log.error("durable rows of the journal are damaged", what=str(item))
            else:
                pending[item.epoch.stream].append((number, item))
    for stream, records in pending.items():
        _replay(data_dir, files, stream, records, out)


def _replay(data_dir: Path, files: Files, stream: str, records: list[tuple[int, Record]], out: Recovered) -> None:
    """Take the records of one stream that are in no segment yet into its stand; idempotent by row index.

    Records of an older epoch have moved before those of a newer one were written, so only the newest counts.
    """
    stand = out.stands.get(stream)
    newest = max(r.epoch.number for _, r in records)
    if stand is None or newest > stand.book.epoch.number:
        stand = out.stands[stream] = Stand(Book(next(r.epoch for _, r in records if r.epoch.number == newest)))
    book = stand.book
    told: set[Gap] = set()
    if any(record.gaps for _, record in records):
        told = _told(files, data_dir / "streams" / stream, book.epoch.number)
    for number, record in records:
        if record.epoch.number != book.epoch.number:
            continue
        fresh = _missing(book, record.block)
        left_out = tuple(r for a, b in record.left_out for r in book.left_out.missing(a, b))
        ahead = record.ledger.age > book.snapshot(-1).ledger().age
        _count(book, fresh)
        for first, end in left_out:
            book.left_out.add(first, end)
        if ahead:
            _take_over(book, record.ledger)
        gaps = tuple(g for g in record.gaps if g not in told)
        if fresh or left_out or gaps:
            head = replace(record, block=fresh[0] if fresh else None, left_out=left_out, gaps=gaps)
            stand.journalled += [head, *(replace(record, block=b, gaps=(), left_out=()) for b in fresh[1:])]
            stand.oldest_journal = number if stand.oldest_journal is None else stand.oldest_journal


def _told(files: Files, directory: Path, epoch: int) -> set[Gap]:
    """The gap records that the segments of an epoch have: a journal's may have been lost with the commit to move it."""
    segments = (
        Segment(files.map(path), path, check=False) for name, path in segment_files(directory) if name.epoch == epoch
    )
    return {gap for segment in segments for gap in segment.gaps()}


def _missing(book: Book, block: Block | None) -> list[Block]:
    """The rows of a block that no segment has."""
    if block is None:
        return []
    return [block.slice(a, b) for a, b in book.recorded.missing(block.first, block.end)]


def _count(book: Book, fresh: Iterable[Block]) -> None:
    for block in fresh:
        book.recorded.add(block.first, block.end)
        if book.first_ns < 0:
            book.first_ns = block.t0_ns
        if block.end - 1 > book.last_row:
            book.last_row, book.last_ns = block.end - 1, block.last_ns


def gaps_of(found: Found) -> list[Gap]:
    """The gap records of a segment, for the catalog."""
    return found.segment.gaps()


def epoch_of(found: Found) -> Epoch:
    """The epoch of a segment, for the catalog."""
    if found.segment.epoch is None:
        raise Corrupt(found.path, 0, "the schema is lost")
    return found.segment.epoch
