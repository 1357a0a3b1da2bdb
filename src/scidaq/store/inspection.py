"""What a data directory holds, damage and all, as repair needs to know it: every file looked at, nothing touched.

`Inspection` reads each file once; what is sound is remembered by size and time, so that looking again is cheap.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scidaq.block import Epoch, Gap, Ledger, RangeSet
from scidaq.errors import CatalogError, Corrupt
from scidaq.store import wire
from scidaq.store.directory import CATALOG
from scidaq.store.files import Files
from scidaq.store.journal import Record, journal_files, journal_keep, read_journal
from scidaq.store.reading import segment_files, stream_directories
from scidaq.store.recovery import Known, final_book, found_segment
from scidaq.store.segment import Damage, Segment, SegmentName

if TYPE_CHECKING:
    from scidaq.store.tables import SegmentRow


@dataclass(slots=True)
class Look:
    """One segment file, as it is."""

    path: Path
    stream: str
    """As its directory says; as `name` it may be wrong."""
    name: SegmentName
    size: int
    id: str = ""
    station: str = ""
    created_ns: int = 0
    said: tuple[str, SegmentName] | None = None
    """Stream and name as its own schema message has them, where that is intact."""
    epoch: Epoch | None = None
    lent: bool = False
    """Whether the schema comes from elsewhere, because its own is damaged."""
    damage: tuple[Damage, ...] = ()
    ended: bool = False
    torn_only: bool = False
    """Whether a torn write explains all the damage."""
    keep: int = 0
    """Bytes that recovery would keep."""
    ranges: RangeSet = field(default_factory=RangeSet)
    """Rows that are intact in it."""
    left_out: RangeSet = field(default_factory=RangeSet)
    gaps: tuple[Gap, ...] = ()
    book: Ledger = field(default_factory=Ledger)
    """The book at its end, rows behind the last commit counted in."""
    first_ns: int | None = None
    last_ns: int | None = None

    @property
    def sound(self) -> bool:
        """Whether there is nothing to do about it."""
        return self.ended and not self.damage and not self.lent and self.in_place

    @property
    def in_place(self) -> bool:
        """Whether it lies where it says it belongs."""
        return self.said is None or self.said == (self.stream, self.name)

    def known(self) -> Known:
        """What recovery has to know of it, so as not to look at it."""
        return Known(self.name.epoch, tuple(self.ranges), self.book, self.first_ns, self.last_ns)


@dataclass(slots=True)
class JournalLook:
    """One journal file, as it is."""

    path: Path
    number: int
    size: int
    keep: int
    """Bytes that recovery would keep."""
    damage: tuple[Damage, ...]
    """What is damaged in those."""
    records: tuple[Record, ...]


@dataclass(slots=True)
class CatalogView:
    """What the catalog says, sound or not; it is evidence, never the truth."""

    exists: bool = False
    problem: str = ""
    segments: Sequence[SegmentRow] = ()
    epochs: dict[tuple[str, int], Epoch] = field(default_factory=dict)
    gaps: dict[tuple[str, int], list[Gap]] = field(default_factory=dict)

    @classmethod
    def of(cls, data_dir: Path) -> CatalogView:
        """Looked at in a copy: SQLite writes beside a database even to read it."""
        if not (data_dir / CATALOG).exists():
            return cls()
        from scidaq.catalog import Catalog
        from scidaq.store.tables import epochs, gaps, segments

        view = cls(exists=True)
        with tempfile.TemporaryDirectory(prefix="scidaq-") as place:
            for suffix in ("", "-wal"):
                if (source := data_dir / (CATALOG + suffix)).exists():
                    shutil.copyfile(source, Path(place) / source.name)
            try:
                with Catalog.open(Path(place)) as catalog, catalog.read() as conn:
                    found = conn.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                    if found != "ok":
                        return cls(True, "its pages are unsound")
                    view.segments = segments(conn)
                    view.epochs = {(e.epoch.stream, e.epoch.number): e.epoch for e in epochs(conn)}
                    for gap in gaps(conn):
                        view.gaps.setdefault((gap.stream, gap.epoch), []).append(gap)
            except CatalogError:
                return cls(True, "it is no database that this scidaq can use")
            except (ValueError, TypeError, LookupError):
                return cls(True, "it says what no segment can be")
        return view


class Inspection:
    """Looks at the files of a data directory, as often as asked."""

    def __init__(self, data_dir: Path, files: Files) -> None:
        self.data_dir, self._files = data_dir, files
        self._sound: dict[tuple[Path, int, int], Look] = {}
        self.looks: dict[str, list[Look]] = {}
        """Per stream its segments, by name."""
        self.journals: list[JournalLook] = []
        self.catalog = CatalogView()

    def look(self) -> None:
        """Look at all of it."""
        self.catalog = CatalogView.of(self.data_dir)
        self.journals = [self._journal(n, path) for n, path in journal_files(self.data_dir / "journal")]
        self.looks = {stream: list(self._stream(stream, where)) for stream, where in stream_directories(self.data_dir)}

    def stations(self) -> Counter[str]:
        """The stations that the segments and journals say they are of, by how many say so."""
        said = Counter(look.station for looks in self.looks.values() for look in looks if look.station)
        for journal in self.journals:
            head = _head(self._files.map(journal.path), journal.path)
            if head is not None and head.facts.get("station"):
                said[str(head.facts["station"])] += 1
        return said

    def open(self, look: Look) -> Segment:
        """The segment of a look, every byte checked, with the schema that it has or was lent."""
        segment = Segment(self._files.map(look.path), look.path)
        segment.epoch = segment.epoch or look.epoch
        return segment

    # ---- segments ----

    def _stream(self, stream: str, directory: Path) -> Iterator[Look]:
        looks: list[Look] = []
        waiting: list[tuple[Look, Segment]] = []
        for name, path in segment_files(directory):
            stat = path.stat()
            key = path, stat.st_size, stat.st_mtime_ns
            if (look := self._sound.get(key)) is None:
                segment = Segment(self._files.map(path), path)
                look = _first_look(stream, name, segment)
                waiting.append((look, segment))
            looks.append(look)
        for look, segment in waiting:
            if look.epoch is None:
                segment.epoch = look.epoch = self._lent(look, looks)
                look.lent = True
            if look.epoch is not None:
                before = [o.known() for o in looks if o.name < look.name and o.name.epoch == look.name.epoch]
                self._fill(look, segment, before)
            else:
                look.ranges = _ranges(segment.batches)
            if look.sound:
                stat = look.path.stat()
                self._sound[look.path, stat.st_size, stat.st_mtime_ns] = look
        yield from looks

    def _lent(self, look: Look, others: Iterable[Look]) -> Epoch | None:
        """The epoch of a segment whose own schema is damaged, from wherever else it stands."""
        key = look.stream, look.name.epoch
        same = (o.epoch for o in others if o.name.epoch == look.name.epoch and o.in_place)
        journalled = (r.epoch for j in self.journals for r in j.records if (r.epoch.stream, r.epoch.number) == key)
        return next((e for e in (*same, *journalled, self.catalog.epochs.get(key)) if e is not None), None)

    def _fill(self, look: Look, segment: Segment, before: Sequence[Known]) -> None:
        """What is in a segment whose schema is known."""
        if not look.ended and look.torn_only:  # as recovery will leave it
            segment = Segment(segment.data[: look.keep], look.path, check=False)
        found = found_segment(segment, look.size)
        look.ranges, look.first_ns, look.last_ns = found.ranges, found.first_ns, found.last_ns
        look.gaps = tuple(segment.gaps())
        for batch in segment.batches:
            for first, end in batch.facts.get("left_out", ()):
                look.left_out.add(first, end)
        look.book = found.ledger
        if not look.ended or look.damage:
            key = look.stream, look.name.epoch
            told = [
                g for j in self.journals for r in j.records if (r.epoch.stream, r.epoch.number) == key for g in r.gaps
            ]
            look.book, _, added = final_book(segment, before, told)
            if not look.damage or look.torn_only:
                look.gaps += tuple(added)

    # ---- the journal ----

    def _journal(self, number: int, path: Path) -> JournalLook:
        data = self._files.map(path)
        keep, _ = journal_keep(data, path)
        items = list(read_journal(data[:keep], path)) if keep else []
        damage = tuple(i for i in items if isinstance(i, Damage))
        return JournalLook(path, number, len(data), keep, damage, tuple(i for i in items if not isinstance(i, Damage)))


def _first_look(stream: str, name: SegmentName, segment: Segment) -> Look:
    look = Look(segment.path, stream, name, len(segment.data), segment.id)
    if segment.facts and segment.epoch is not None:
        facts = segment.facts
        look.epoch = segment.epoch
        look.station, look.created_ns = str(facts.get("station", "")), int(facts.get("created_ns", 0))
        own = SegmentName(segment.epoch.number, int(facts["first"]), int(facts["generation"]))
        look.said = segment.epoch.stream, own
    look.damage, look.ended, look.keep = tuple(segment.damage), segment.ended, segment.keep
    if segment.seal is not None and not segment.ended and segment.batches and look.keep == segment.batches[-1].end:
        look.keep = segment.batches[-1].at  # totals whose end is torn are written again
    look.torn_only = not segment.ended and all(d.at >= max(segment.durable, 1) for d in segment.damage)
    return look


def _ranges(batches: Iterable[wire.Message]) -> RangeSet:
    return RangeSet((int(b.facts["first"]), int(b.facts["first"]) + b.rows) for b in batches if b.rows)


def _head(data: memoryview, path: Path) -> wire.Message | None:
    try:
        head = wire.parse(data, 0, path)
        return head if head.crc == wire.checksum(data, head, 0) else None
    except (Corrupt, wire.EndOfStream):
        return None


# ---- books ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Account:
    """What all the files say of one epoch, and what the newest book says."""

    epoch: Epoch
    rows: RangeSet = field(default_factory=RangeSet)
    left_out: RangeSet = field(default_factory=RangeSet)
    gaps: list[Gap] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    reached: int = 0
    """Rows below it had been accounted for durably, as `durable.map` says."""

    def told(self, ledger: Ledger) -> None:
        """A book was found; the newest counts."""
        if ledger.age > self.ledger.age:
            self.ledger = ledger

    @property
    def high(self) -> int:
        """One past the highest row that anything knows of."""
        said = self.ledger
        return max(
            said.recorded + said.gaps + said.left_out + said.expired, self.rows.end, self.left_out.end, self.reached
        )

    def unexplained(self) -> list[tuple[int, int]]:
        """The holes that no gap record explains."""
        holes = RangeSet([(0, self.high)])
        for first, end in (*self.rows, *self.left_out, *((g.first, g.end) for g in self.gaps)):
            holes.remove(first, end)
        return list(holes)

    def corrected(self) -> Ledger:
        """The book as it has to be for what is there. Newer than the one that was found, unless it is the same."""
        said, rows, left = self.ledger, self.rows.total, self.left_out.total
        lost = said.lost + max(0, said.recorded - rows) + max(0, said.left_out - left)
        gaps = self.high - rows - left - said.expired
        return Ledger(self.high + said.duplicates, rows, gaps, said.duplicates, left, said.expired, lost)


def accounts_of(looks: Iterable[Look], journals: Iterable[JournalLook]) -> dict[tuple[str, int], Account]:
    """The accounts of all epochs, from what is intact."""
    out: dict[tuple[str, int], Account] = {}
    for look in looks:
        if look.epoch is not None:
            account = out.setdefault((look.epoch.stream, look.epoch.number), Account(look.epoch))
            for first, end in look.ranges:
                account.rows.add(first, end)
            for first, end in look.left_out:
                account.left_out.add(first, end)
            account.gaps += look.gaps
            account.told(look.book)
    for record in (r for journal in journals for r in journal.records):
        account = out.setdefault((record.epoch.stream, record.epoch.number), Account(record.epoch))
        if record.block is not None:
            account.rows.add(record.block.first, record.block.end)
        for first, end in record.left_out:
            account.left_out.add(first, end)
        account.gaps += record.gaps
        account.told(record.ledger)
    return out


def covered(look: Look, others: Iterable[Look]) -> bool:
    """Whether all that is intact in a damaged segment stands in other, sound ones."""
    rows, left_out, gaps = look.ranges.copy(), look.left_out.copy(), set(look.gaps)
    for other in others:
        if other is not look and other.sound and other.name.epoch == look.name.epoch:
            for first, end in other.ranges:
                rows.remove(first, end)
            for first, end in other.left_out:
                left_out.remove(first, end)
            gaps -= set(other.gaps)
    return not (rows or left_out or gaps)


def by_epoch(names: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """Per stream the numbers of its epochs, ascending."""
    out: dict[str, list[int]] = defaultdict(list)
    for stream, number in sorted(names):
        out[stream].append(number)
    return out
