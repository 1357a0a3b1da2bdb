"""Verification: read everything, check every chain and every balance, change nothing.

What is found wrong is a `Problem`; what only looks unfinished (the tail that a kill left behind, or that a running
station is writing) is a note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scidaq.block import Epoch, Gap, Ledger, RangeSet, Reason
from scidaq.catalog import read_facts
from scidaq.errors import CatalogDamaged, CatalogError, Corrupt
from scidaq.store.directory import CATALOG, DAMAGED, REPAIRED, STOPPED, read_station
from scidaq.store.durable import NAME as DURABLE_MAP
from scidaq.store.durable import read_marks
from scidaq.store.files import Files, system_files
from scidaq.store.journal import journal_files, journal_keep, read_journal
from scidaq.store.quarantine import Quarantined, quarantined
from scidaq.store.reading import segment_files, stream_directories, summary_fault, summary_files
from scidaq.store.segment import Damage, Segment


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    where: str
    """A file relative to the data directory, or a stream and its epoch."""
    what: str
    offset: int | None = None
    """Byte in the file, where there is one."""

    def __str__(self) -> str:
        at = f" at byte {self.offset}" if self.offset is not None else ""
        return f"{self.where}{at}: {self.what}"


@dataclass(frozen=True, slots=True)
class Balance:
    """The book of one epoch, with what was found in the files."""

    stream: str
    epoch: int
    ledger: Ledger
    found_rows: int
    holes: int
    bounded: bool
    """A loss of unknown size stands before or in it: the book can only say within which time."""

    @property
    def balanced(self) -> bool:
        """Whether everything delivered is accounted for by what is really there."""
        same = (self.found_rows, self.holes) == (self.ledger.recorded, self.ledger.gaps)
        return self.ledger.imbalance == 0 and same


@dataclass(slots=True)
class Report:
    """What verification found."""

    segments: int = 0
    sealed: int = 0
    journals: int = 0
    facts: int = 0
    bytes: int = 0
    rows: int = 0
    balances: list[Balance] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    quarantine: list[Quarantined] = field(default_factory=list)
    """What lies in quarantine; that is no problem."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(slots=True)
class _Account:
    """What the files say of one epoch, gathered on the way."""

    epoch: Epoch
    rows: RangeSet = field(default_factory=RangeSet)
    left_out: RangeSet = field(default_factory=RangeSet)
    gaps: list[Gap] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    high: int = 0

    def commit(self, ledger: Ledger, high: int) -> None:
        """A book was written; the newest counts."""
        if ledger.age >= self.ledger.age:
            self.ledger, self.high = ledger, max(high, self.high)


def verify(data_dir: Path, files: Files | None = None) -> Report:
    """Read the whole data directory. Works beside a running station. Raises `ForeignDirectory`."""
    files = files or system_files()
    read_station(data_dir)
    report = Report()
    finished = _facts(data_dir, report)
    sealed = _catalog(data_dir, report)
    marks = read_marks(data_dir / DURABLE_MAP)  # first: what is published now must be found below
    accounts: dict[tuple[str, int], _Account] = {}
    _journals(data_dir, files, report, accounts)
    for stream, directory in stream_directories(data_dir):
        _segments(data_dir, files, stream, directory, report, accounts, finished, sealed)
        for path in summary_files(directory):
            if fault := summary_fault(files, path):
                where = path.relative_to(data_dir).as_posix()
                report.notes.append(f"{where}: a summary for plots is damaged ({fault}); a station makes it again")
    for (stream, number), account in sorted(accounts.items()):
        _balance(stream, number, account, report)
    _check_epochs(accounts, report)
    for mark in marks.values():
        found = accounts.get((mark.stream, mark.epoch))
        rows = found.rows.total if found else 0
        if rows < mark.durable_rows:
            where = f"{mark.stream} epoch {mark.epoch}"
            report.problems.append(Problem(where, f"{mark.durable_rows} rows were durable, {rows} are there"))
    report.rows = sum(a.rows.total for a in accounts.values())
    report.quarantine = quarantined(data_dir)
    return report


def _journals(data_dir: Path, files: Files, report: Report, accounts: dict[tuple[str, int], _Account]) -> None:
    for _, path in journal_files(data_dir / "journal"):
        try:
            data = files.map(path)
        except FileNotFoundError:
            continue  # its rows have moved meanwhile
        report.journals += 1
        report.bytes += len(data)
        keep, _ = journal_keep(data, path)
        for item in read_journal(data, path):
            if isinstance(item, Damage):
                _damage(data_dir, item, len(data), keep, report)
                continue
            account = accounts.setdefault((item.epoch.stream, item.epoch.number), _Account(item.epoch))
            if item.block is not None:
                account.rows.add(item.block.first, item.block.end)
            for first, end in item.left_out:
                account.left_out.add(first, end)
            account.gaps += item.gaps
            account.commit(item.ledger, item.high)


def _segments(
    data_dir: Path,
    files: Files,
    stream: str,
    directory: Path,
    report: Report,
    accounts: dict[tuple[str, int], _Account],
    finished: bool,
    sealed: frozenset[str],
) -> None:
    """Check the segments of a stream. One may be unfinished unless the station was stopped or the catalog knows it."""
    for name, path in segment_files(directory):
        try:
            data = files.map(path)
        except FileNotFoundError:
            continue
        segment = Segment(data, path)
        report.segments += 1
        report.sealed += segment.sealed
        report.bytes += len(data)
        relative = path.relative_to(data_dir).as_posix()
        may_grow = not segment.ended and not finished and relative not in sealed
        for damage in segment.damage:
            _damage(data_dir, damage, len(data), segment.durable if may_grow else len(data), report)
        if not may_grow and not segment.ended:
            report.problems.append(Problem(relative, "it should have been sealed, and is not", len(data)))
        if segment.epoch is None:
            continue
        if (segment.epoch.stream, segment.epoch.number) != (stream, name.epoch):
            report.problems.append(Problem(relative, f"it belongs to {segment.epoch.stream} {segment.epoch.number}"))
            continue
        account = accounts.setdefault((stream, name.epoch), _Account(segment.epoch))
        if account.epoch.as_json() != segment.epoch.as_json():
            report.problems.append(Problem(relative, "its schema or anchor is not that of its epoch"))
        _segment(segment, relative, account, report)


def _segment(segment: Segment, relative: str, account: _Account, report: Report) -> None:
    commits = segment.commits()
    last = commits[-1].at if commits else -1
    rows = RangeSet()
    for message in segment.batches:
        facts = message.facts
        if message.rows:
            try:
                block = segment.block(message)
            except Corrupt as e:
                report.problems.append(Problem(relative, e.reason, message.at))
                continue
            rows.add(block.first, block.end)
            if message.at < last:
                account.rows.add(block.first, block.end)
        if message.at <= last:
            account.gaps += [
                Gap.from_json(account.epoch.stream, account.epoch.number, g) for g in facts.get("gaps", ())
            ]
        for first, end in facts.get("left_out", ()):
            account.left_out.add(first, end)
        if "ledger" in facts:
            account.commit(Ledger(*facts["ledger"]), int(facts["high"]))
    if segment.seal is not None and int(segment.seal["rows"]) != rows.total:
        report.problems.append(Problem(relative, f"its seal says {segment.seal['rows']} rows, {rows.total} are there"))


def _damage(data_dir: Path, damage: Damage, size: int, durable: int, report: Report) -> None:
    relative = damage.path.relative_to(data_dir).as_posix()
    if damage.end >= size and damage.at >= durable and damage.at > 0:
        report.notes.append(f"{relative}: {size - damage.at} bytes at the end are unfinished ({damage.reason})")
    else:
        report.problems.append(Problem(relative, f"{damage.reason} ({damage.end - damage.at} bytes)", damage.at))


def _balance(stream: str, number: int, account: _Account, report: Report) -> None:
    where = f"{stream} epoch {number}"
    holes = RangeSet([(0, account.high)])
    for first, end in (*account.rows, *account.left_out):
        holes.remove(first, end)
    explained = RangeSet((g.first, g.end) for g in account.gaps)
    unexplained = sum(b - a for first, end in holes for a, b in explained.missing(first, end))
    corrupt = RangeSet((g.first, g.end) for g in account.gaps if g.reason is Reason.CORRUPTION)
    if lost := sum(b - a for first, end in holes for a, b in corrupt.within(first, end)):
        report.notes.append(f"{where}: {lost} rows were lost to damage, and are a gap")
    report.notes += [f"{where}: {g.detail}" for g in account.gaps if g.reason is Reason.CORRUPTION and g.unknown]
    bounded = any(g.unknown for g in account.gaps)
    balance = Balance(stream, number, account.ledger, account.rows.total, holes.total, bounded)
    report.balances.append(balance)
    ledger = account.ledger
    if ledger.imbalance:
        report.problems.append(Problem(where, f"{ledger.imbalance} of {ledger.delivered} rows are unaccounted for"))
    if account.rows.total != ledger.recorded:
        what = f"the book says {ledger.recorded} rows are recorded, {account.rows.total} are there"
        report.problems.append(Problem(where, what))
    if account.left_out.total != ledger.left_out:
        what = f"the book says {ledger.left_out} rows were left out, the files say {account.left_out.total}"
        report.problems.append(Problem(where, what))
    if unexplained:
        report.problems.append(Problem(where, f"{unexplained} rows are missing without a gap record"))


def _check_epochs(accounts: dict[tuple[str, int], _Account], report: Report) -> None:
    """Epochs are numbered without holes."""
    for stream in sorted({s for s, _ in accounts}):
        numbers = sorted(n for s, n in accounts if s == stream)
        for before, after in zip([numbers[0] - 1, *numbers], numbers, strict=False):
            told = after > before + 1 and (
                lost_epochs(accounts[stream, before].gaps, behind=True)
                or lost_epochs(accounts[stream, after].gaps, behind=False)
            )
            if after != before + 1 and not told:
                report.problems.append(Problem(stream, f"epoch {after} follows epoch {before}"))


def lost_epochs(gaps: Iterable[Gap], behind: bool) -> list[Gap]:
    """Of the gap records of an epoch those that say that whole epochs before or behind it are lost to damage."""
    return [g for g in gaps if g.reason is Reason.CORRUPTION and g.unknown and (g.first > 0) == behind]


def _facts(data_dir: Path, report: Report) -> bool:
    """Check the facts; whether the last of them is that every segment is sealed."""
    last = ""
    told: set[tuple[str, int, str]] = set()
    damage: list[Corrupt] = []
    for item in read_facts(data_dir / "facts"):
        if isinstance(item, Corrupt):
            damage.append(item)
            continue
        report.facts, last = report.facts + 1, item.kind
        if item.kind == DAMAGED:
            told.add(told_place(item.data))
    for one in damage:
        where = one.path.relative_to(data_dir).as_posix() if one.path.is_relative_to(data_dir) else str(one.path)
        if damaged_place(one) in told:
            report.notes.append(f"{where} at byte {one.offset}: {one.reason}, as a repair has noted")
        else:
            report.problems.append(Problem(where, one.reason, one.offset))
    return last in (STOPPED, REPAIRED)


def damaged_place(damage: Corrupt) -> tuple[str, int, str]:
    """How a damaged place of the facts log is named in a fact."""
    return damage.path.name, damage.offset, damage.reason


def told_place(said: Mapping[str, Any]) -> tuple[str, int, str]:
    """The place that a fact names."""
    return str(said.get("file")), int(said.get("offset", -1)), str(said.get("reason"))


def _catalog(data_dir: Path, report: Report) -> frozenset[str]:
    """Check the catalog against the files, and return the paths of what it knows to be sealed.

    That it is missing is no problem: it is made again. Asked before the files are read, so that it never knows more.
    """
    if not (data_dir / CATALOG).exists():
        report.notes.append("there is no catalog; the next start makes it again")
        return frozenset()
    from scidaq.catalog import Catalog
    from scidaq.store.tables import segments

    try:
        with Catalog.open(data_dir, read_only=True) as catalog, catalog.read() as conn:
            rows = segments(conn)
    except (CatalogDamaged, ValueError, TypeError, LookupError) as e:
        report.problems.append(Problem(CATALOG, str(e)))
        return frozenset()
    except CatalogError as e:  # half made, of another version, locked: that is no damage
        report.notes.append(str(e))
        return frozenset()
    sealed = []
    for row in rows:
        path = data_dir / row.path
        if not path.exists():
            report.problems.append(Problem(row.path, "the catalog knows this segment, and the file is gone"))
        elif row.state == "sealed":
            sealed.append(row.path)
            if (size := path.stat().st_size) != row.bytes:
                report.problems.append(Problem(row.path, f"the catalog says {row.bytes} bytes, the file has {size}"))
    return frozenset(sealed)
