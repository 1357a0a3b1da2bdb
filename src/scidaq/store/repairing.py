"""Repair: a damaged data directory brought into order, by a plan that is made first and can be read.

Nothing is deleted: whatever is removed from its place goes to `quarantine/` with a report. What stays readable is kept,
in a new generation of its segment; rows that damage has taken become gaps of the reason *corruption*, and the book of
their epoch says so. Each step can be interrupted at any moment: what is left to do is found by planning again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import singledispatchmethod
from itertools import pairwise
from pathlib import Path

import orjson

from scidaq.block import Block, Epoch, Gap, Ledger, RangeSet, Reason
from scidaq.catalog import FactsLog, read_facts
from scidaq.clock import Clock
from scidaq.errors import Corrupt, ForeignDirectory, StationError
from scidaq.store import wire
from scidaq.store.directory import CATALOG, DAMAGED, FORMAT, LOCK, REPAIRED, STARTED, STATION, StationFile, read_station
from scidaq.store.durable import NAME as DURABLE_MAP
from scidaq.store.durable import read_marks
from scidaq.store.files import PAGE, File, Files, make_directory, publish
from scidaq.store.inspection import Account, Inspection, JournalLook, Look, accounts_of, by_epoch, covered
from scidaq.store.quarantine import put_whole
from scidaq.store.reading import (
    SUMMARY,
    rows_on_disk,
    segment_files,
    stream_directories,
    summary_fault,
    summary_files,
)
from scidaq.store.recovery import final_book, quarantine, recover, temporary_files
from scidaq.store.segment import Buffers, Segment, SegmentName, SegmentWriter
from scidaq.store.verifying import damaged_place, lost_epochs, told_place

_ROUNDS = 5
_BUFFER = 1 << 20
_JOURNAL = re.compile(r"\d{8}\.log")
_FACTS = re.compile(r"\d{8}\.jsonl")
_NAME = re.compile(r"[a-z0-9_-]{1,64}")


# ---- the plan -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RestoreStation:
    """Write `station.json` again, as the segments and the facts say."""

    station: StationFile
    why: str

    def __str__(self) -> str:
        return f"write {STATION} again ({self.why}): {self.station.name}, {self.station.uuid}"


@dataclass(frozen=True, slots=True)
class PutAside:
    """Move a file to the quarantine."""

    path: Path
    why: str
    rows: int = 0
    """Rows in it that stand nowhere else."""

    def __str__(self) -> str:
        return f"put {self.path} aside: {self.why}"


@dataclass(frozen=True, slots=True)
class Relocate:
    """Move a segment to where it says that it belongs."""

    path: Path
    target: Path

    def __str__(self) -> str:
        return f"move {self.path} to {self.target}, where it says that it belongs"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Write what is intact in a damaged segment to a new one, and put the damaged one aside."""

    path: Path
    target: Path
    epoch: Epoch
    rows: int
    """Rows that are kept."""
    why: str

    def __str__(self) -> str:
        return f"write the {self.rows} rows that are intact in {self.path} to {self.target.name}: {self.why}"


@dataclass(frozen=True, slots=True)
class MoveJournal:
    """Write what is intact in a damaged journal file and in no segment to segments, and put the file aside."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"move what is intact in {self.path} to segments: {self.why}"


@dataclass(frozen=True, slots=True)
class Recover:
    """What each start does: unfinished segments are sealed, torn ends cut off."""

    paths: tuple[Path, ...]

    def __str__(self) -> str:
        return f"seal, and cut a torn end off: {', '.join(map(str, self.paths))}"


@dataclass(frozen=True, slots=True)
class NoteFacts:
    """Note in the facts log which of its places are damaged, and put a copy of those aside."""

    damage: tuple[Corrupt, ...]

    def __str__(self) -> str:
        places = ", ".join(f"{d.path.name} at byte {d.offset}: {d.reason}" for d in self.damage)
        return f"note that the facts log is damaged ({places})"


@dataclass(frozen=True, slots=True)
class Correct:
    """Write a segment without rows that corrects the book of an epoch and explains its holes."""

    epoch: Epoch
    target: Path
    high: int
    ledger: Ledger
    gaps: tuple[Gap, ...]

    @property
    def lost(self) -> int:
        """Rows that are said to be lost to damage."""
        return sum(g.rows or 0 for g in self.gaps if g.reason is Reason.CORRUPTION)

    @property
    def unknown(self) -> bool:
        """Whether more was lost, and nobody can know how much."""
        return any(g.unknown for g in self.gaps)

    def __str__(self) -> str:
        where = f"{self.epoch.stream} epoch {self.epoch.number}"
        more = "; ".join(g.detail for g in self.gaps if g.unknown and g.detail)
        if self.lost:
            what = f"note that {self.lost} rows of {where} are lost to damage"
        else:
            what = f"note in {where}" if more else f"put the book of {where} right"
        return what + (f": {more}" if more else "")


@dataclass(frozen=True, slots=True)
class RebuildCatalog:
    """Make the catalog anew from segments and facts; the old one is put aside."""

    why: str

    def __str__(self) -> str:
        return f"make the catalog anew: {self.why}"


@dataclass(frozen=True, slots=True)
class ForgetSummaries:
    """Remove the summaries of a stream, which are derived from its rows: a station makes them again."""

    directory: Path
    why: str

    def __str__(self) -> str:
        return f"forget the summaries in {self.directory}: {self.why}"


RepairStep = (
    RestoreStation
    | PutAside
    | Relocate
    | Rewrite
    | MoveJournal
    | Recover
    | NoteFacts
    | Correct
    | RebuildCatalog
    | ForgetSummaries
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order; empty when the directory is in order."""

    steps: tuple[RepairStep, ...] = ()
    notes: tuple[str, ...] = ()
    """What is strange, and left as it is."""


@dataclass(slots=True)
class Repaired:
    """What was done."""

    steps: list[RepairStep] = field(default_factory=list)
    quarantined: list[Path] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def lost_rows(self) -> int:
        """Rows that are said to be lost, as far as anybody can count them."""
        return sum(s.lost for s in self.steps if isinstance(s, Correct))

    @property
    def loss(self) -> bool:
        """Whether anything is gone: rows, facts, or what nobody could understand."""
        return any(
            (isinstance(s, Correct) and bool(s.lost or s.unknown))
            or isinstance(s, NoteFacts)
            or (isinstance(s, PutAside) and s.rows > 0)
            for s in self.steps
        )


# ---- the verbs ------------------------------------------------------------------------------------------------------


def plan_repair(data_dir: Path, files: Files, rebuild_catalog: bool = False) -> Plan:
    """What a repair would do. Touches nothing.

    Raises `StationBusy` while a station records there, and `ForeignDirectory` where there is nothing of scidaq's.
    """
    _must_be_directory(data_dir)
    if not (data_dir / LOCK).exists():  # to take it would make it
        return _Planner(data_dir, files, Inspection(data_dir, files)).plan(rebuild_catalog)
    with files.lock(data_dir / LOCK):
        return _Planner(data_dir, files, Inspection(data_dir, files)).plan(rebuild_catalog)


def repair(
    data_dir: Path,
    files: Files,
    clock: Clock,
    rebuild_catalog: bool = False,
    say: Callable[[RepairStep], None] = lambda _: None,
) -> Repaired:
    """Bring a data directory into order; `say` is called before each step.

    May be interrupted at any moment and done again. Raises as `plan_repair`, `OSError` when the disk refuses, and
    `StationError` when it cannot be brought into order.
    """
    _must_be_directory(data_dir)
    if not (data_dir / LOCK).exists():
        plan_repair(data_dir, files)  # whether it is ours at all, before anything is made in it
    with files.lock(data_dir / LOCK):
        inspection, out, plan = Inspection(data_dir, files), Repaired(), Plan()
        for _ in range(_ROUNDS):
            plan = _Planner(data_dir, files, inspection).plan(rebuild_catalog)
            out.notes, rebuild_catalog = plan.notes, False
            if not plan.steps:
                return out
            act = _Act(data_dir, files, clock, inspection, out)
            for step in plan.steps:
                say(step)
                act.do(step)
                out.steps.append(step)
    raise StationError(f"{data_dir} cannot be brought into order: {plan.steps[0]} was done, and is to be done again")


def _must_be_directory(data_dir: Path) -> None:
    if not data_dir.is_dir():
        raise ForeignDirectory(f"{data_dir} is no data directory of scidaq: it does not exist; check --data-dir")


# ---- planning -------------------------------------------------------------------------------------------------------


class _Planner:
    """Makes a plan of what an inspection finds."""

    def __init__(self, data_dir: Path, files: Files, inspection: Inspection) -> None:
        self._dir, self._files, self._seen = data_dir, files, inspection
        self._taken: dict[tuple[str, int], int] = {}
        self._targets: set[Path] = set()
        self._notes: list[str] = []

    def plan(self, rebuild_catalog: bool) -> Plan:
        """In the order in which it is to be done: losses are told before what proves them is put aside."""
        self._seen.look()
        facts, name, made_ns = self._facts()
        station = list(self._station(name, made_ns))
        segments = [s for looks in self._seen.looks.values() for s in self._segments(looks)]
        journals = list(self._journals())
        aside = [s for s in segments if isinstance(s, PutAside)]
        corrections = list(self._corrections({s.path for s in aside}))
        steps: list[RepairStep] = [*station, *self._strangers(), *facts]
        moved = [s for s in segments if isinstance(s, Relocate | Rewrite | PutAside)]
        steps += self._summaries({s.path.parent for s in moved} | self._journalled(journals), corrections)
        steps += [s for s in segments if isinstance(s, Relocate | Rewrite)]
        steps += [s for s in journals if isinstance(s, MoveJournal)]
        unfinished = [s for s in (*segments, *journals) if isinstance(s, Recover)]
        if unfinished:
            steps.append(Recover(tuple(p for s in unfinished for p in s.paths)))
        steps += [*corrections, *aside, *self._marks()]
        changed = any(isinstance(s, Relocate | Rewrite | MoveJournal | Correct) for s in steps) or bool(aside)
        steps += self._catalog(rebuild_catalog, changed)
        return Plan(tuple(steps), tuple(self._notes))

    def _journalled(self, journals: Iterable[RepairStep]) -> set[Path]:
        """The directories of the streams that damaged journal files have rows of."""
        damaged = {s.path for s in journals if isinstance(s, MoveJournal | PutAside)}
        names = {r.epoch.stream for j in self._seen.journals if j.path in damaged for r in j.records}
        return {self._dir / "streams" / name for name in names}

    def _summaries(self, changed: set[Path], corrections: Iterable[RepairStep]) -> Iterator[RepairStep]:
        """Those that are damaged, and those of rows that will be others: before these are touched."""
        changed |= {s.target.parent for s in corrections if isinstance(s, Correct)}
        for _, directory in stream_directories(self._dir):
            paths = summary_files(directory)
            if paths and directory in changed:
                yield ForgetSummaries(directory / SUMMARY, "the rows of the stream change")
            elif any(summary_fault(self._files, path) for path in paths):
                yield ForgetSummaries(directory / SUMMARY, "they are damaged")

    # ---- the directory ----

    def _station(self, name: str, made_ns: int) -> Iterator[RepairStep]:
        path = self._dir / STATION
        said = self._seen.stations()
        try:
            there = read_station(self._dir)
        except ForeignDirectory:
            if path.exists() and _format(path) > FORMAT:
                raise
            if not said:
                raise
        else:
            if others := sum(n for uuid, n in said.items() if uuid != there.uuid):
                self._notes.append(f"{others} files were made by another station; they are read like the others")
            return
        (uuid, _), *_ = said.most_common(1)
        made = [look.created_ns for looks in self._seen.looks.values() for look in looks if look.created_ns]
        if path.exists():
            yield PutAside(path, "it cannot be understood")
        why = "it cannot be understood" if path.exists() else "it is missing"
        yield RestoreStation(StationFile(uuid, name or "restored", FORMAT, min([made_ns, *made])), why)

    def _strangers(self) -> Iterator[RepairStep]:
        """What was never finished, and what is no file of scidaq's in rooms that are its alone."""
        for path in temporary_files(self._dir):
            yield PutAside(path, "it was never finished")
        for room, pattern in (("journal", _JOURNAL), ("facts", _FACTS)):
            for path in _plain_files(self._dir / room):
                if not pattern.fullmatch(path.name):
                    yield PutAside(path, "it is no file of scidaq")
        streams = self._dir / "streams"
        for directory in (streams, *streams.glob("*"), *streams.glob("*/*")):
            at_home = len(directory.relative_to(streams).parts) == 2
            for path in _plain_files(directory):
                if not (at_home and (SegmentName.parse(path.name) or path.suffix == ".parquet")):
                    yield PutAside(path, "it is no file of scidaq")

    def _facts(self) -> tuple[list[RepairStep], str, int]:
        """What is to be noted, the station's name, and when the first fact was."""
        damage, told, name, first_ns = [], set(), "", 1 << 62
        for item in read_facts(self._dir / "facts"):
            if isinstance(item, Corrupt):
                damage.append(item)
                continue
            first_ns = min(first_ns, item.t_ns)
            if item.kind == STARTED and _NAME.fullmatch(said := str(item.data.get("name", ""))):
                name = said
            if item.kind == DAMAGED:
                told.add(told_place(item.data))
        untold = tuple(d for d in damage if damaged_place(d) not in told)
        steps: list[RepairStep] = [NoteFacts(untold)] if untold else []
        return steps, name, first_ns

    # ---- segments ----

    def _segments(self, looks: list[Look]) -> Iterator[RepairStep]:
        sealed = {row.path for row in self._seen.catalog.segments if row.state == "sealed"}
        for look in looks:
            if look.sound:
                continue
            why = "; ".join(dict.fromkeys(d.reason for d in look.damage)) or "it is not where it says that it belongs"
            if look.epoch is None:
                rows = look.ranges.total
                yield PutAside(look.path, f"its schema is damaged and stands nowhere else ({why})", max(rows, 1))
            elif covered(look, looks) and look.damage and not look.torn_only:
                what = "all that is intact in it stands in other segments" if look.ranges else "no row in it is intact"
                yield PutAside(look.path, f"{what} ({why})")
            elif not look.in_place:
                yield from self._misplaced(look, why)
            elif look.lent or (look.damage and not look.torn_only):
                yield self._rewrite(look, why)
            else:
                if look.path.relative_to(self._dir).as_posix() in sealed:
                    self._notes.append(f"{look.path} was sealed, and its end is gone")
                yield Recover((look.path,))

    def _misplaced(self, look: Look, why: str) -> Iterator[RepairStep]:
        stream, name = look.said or (look.stream, look.name)
        target = self._dir / "streams" / stream / str(name)
        others = self._seen.looks.get(stream, [])
        there = next((o for o in others if o.path == target), None)
        if there is not None and there.id == look.id and there.sound:
            yield PutAside(look.path, f"it is a copy of {target.name}")
        elif there is None and target not in self._targets:
            self._targets.add(target)
            yield Relocate(look.path, target)
        elif covered(look, others):
            yield PutAside(look.path, "it is not in its place, and all that is in it stands in other segments")
        else:
            yield self._rewrite(look, why)

    def _rewrite(self, look: Look, why: str) -> Rewrite:
        if look.epoch is None:
            raise Corrupt(look.path, 0, "the schema is lost")
        target = self._target(look.epoch, (look.said or (look.stream, look.name))[1].first)
        return Rewrite(look.path, target, look.epoch, look.ranges.total, why)

    def _target(self, epoch: Epoch, first: int) -> Path:
        """A name of a generation above all there are."""
        return new_segment(self._dir, epoch, first, self._taken)

    # ---- the journal ----

    def _journals(self) -> Iterator[RepairStep]:
        for journal in self._seen.journals:
            if journal.damage:
                yield MoveJournal(journal.path, "; ".join(dict.fromkeys(d.reason for d in journal.damage)))
            elif journal.keep < journal.size or not journal.keep:
                yield Recover((journal.path,))

    # ---- books ----

    def _accounts(self) -> dict[tuple[str, int], Account]:
        out = accounts_of((look for looks in self._seen.looks.values() for look in looks), self._seen.journals)
        view = self._seen.catalog
        for row in view.segments:
            key = row.stream, row.epoch
            if key not in out and key in view.epochs and row.rows:
                out[key] = Account(view.epochs[key])
            if key in out and row.state == "sealed":
                out[key].told(row.ledger)
        for mark in read_marks(self._dir / DURABLE_MAP).values():
            if (account := out.get((mark.stream, mark.epoch))) is not None:
                account.reached = mark.durable_index
        return out

    def _corrections(self, aside: set[Path]) -> Iterator[Correct]:
        accounts = self._accounts()
        told = self._lost_epochs(accounts)
        for key, account in sorted(accounts.items()):
            explained = self._explained(key, account)
            said = [g for g in told.get(key, ()) if g not in account.gaps]
            ledger = account.corrected()
            if not (explained or said) and ledger == account.ledger:
                continue
            gaps = (*explained, *said)
            first = gaps[0].first if gaps else account.high
            yield Correct(account.epoch, self._target(account.epoch, first), account.high, ledger, gaps)

    def _explained(self, key: tuple[str, int], account: Account) -> list[Gap]:
        """Gap records for the holes that have none: as the catalog has them, else damage took the rows."""
        holes = RangeSet(account.unexplained())
        out = []
        for gap in self._seen.catalog.gaps.get(key, ()):
            missing = [(gap.first, gap.end)] if gap.rows else []
            if gap not in account.gaps and (gap.unknown or (missing and holes.within(gap.first, gap.end) == missing)):
                out.append(gap)
                holes.remove(gap.first, gap.end)
        out += [self._damaged(account, first, end) for first, end in holes]
        return sorted(out, key=lambda g: (g.first, g.end))

    def _damaged(self, account: Account, first: int, end: int) -> Gap:
        epoch = account.epoch
        before = self._time(epoch, first - 1) if first and first - 1 in account.rows else None
        after = self._time(epoch, end) if end in account.rows else None
        return Gap(epoch.stream, epoch.number, first, end, Reason.CORRUPTION, before, after)

    def _time(self, epoch: Epoch, row: int) -> int | None:
        """When a row was taken, as the first segment says in which it is intact."""
        blocks = rows_on_disk(self._files, self._dir / "streams" / epoch.stream, epoch.number, row, row + 1)
        while True:
            try:
                block = next(blocks, None)
            except Corrupt:
                return None
            if block is None or block.first <= row < block.end:
                return None if block is None else block.slice(row, row + 1).t0_ns

    def _lost_epochs(self, accounts: dict[tuple[str, int], Account]) -> dict[tuple[str, int], list[Gap]]:
        """Losses of unknown size where whole epochs are gone: before the one behind, else at the end of the last."""
        out: dict[tuple[str, int], list[Gap]] = {}
        for stream, numbers in by_epoch(accounts).items():
            for before, after in pairwise(numbers):
                if after > before + 1 and not lost_epochs(accounts[stream, before].gaps, True):
                    gap = _epochs_gone(accounts[stream, after].epoch, 0, before + 1, after - 1)
                    out.setdefault((stream, after), []).append(gap)
            gone = [k.name.epoch for k in self._seen.looks.get(stream, ()) if k.epoch is None]
            if gone and max(gone) > numbers[-1]:
                last = accounts[stream, numbers[-1]]
                gap = _epochs_gone(last.epoch, last.high, numbers[-1] + 1, max(gone))
                out.setdefault((stream, numbers[-1]), []).append(gap)
        return out

    def _marks(self) -> Iterator[RepairStep]:
        """`durable.map` is made again at each start; one that promises what is lost would be believed by `verify`."""
        accounts = self._accounts()
        for mark in read_marks(self._dir / DURABLE_MAP).values():
            account = accounts.get((mark.stream, mark.epoch))
            if mark.durable_rows > (account.rows.total if account is not None else 0):
                yield PutAside(self._dir / DURABLE_MAP, "it says of rows that are lost that they are durable")
                return

    # ---- the catalog ----

    def _catalog(self, asked: bool, changed: bool) -> Iterator[RepairStep]:
        view = self._seen.catalog
        wrong = [
            row.path
            for row in view.segments
            if not (path := self._dir / row.path).exists()
            or (row.state == "sealed" and path.stat().st_size != row.bytes)
        ]
        if view.problem:
            yield RebuildCatalog(view.problem)
        elif not view.exists:
            yield RebuildCatalog("there is none")
        elif asked:
            yield RebuildCatalog("that was asked for")
        elif changed or wrong:
            yield RebuildCatalog("segments have changed")


def _format(path: Path) -> int:
    try:
        return int(orjson.loads(path.read_bytes())["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _plain_files(directory: Path) -> list[Path]:
    """Files that lie in a directory, but for links and those of the system, whose names begin with a dot."""
    if not directory.is_dir():
        return []
    found = (p for p in directory.iterdir() if not p.name.startswith("."))
    return sorted(p for p in found if p.is_file() and not p.is_symlink())


def _epochs_gone(epoch: Epoch, row: int, first: int, last: int) -> Gap:
    what = f"epoch {first} is lost" if first == last else f"epochs {first} to {last} are lost"
    return Gap(epoch.stream, epoch.number, row, row, Reason.CORRUPTION, unknown=True, detail=what)


def new_segment(data_dir: Path, epoch: Epoch, first: int, taken: dict[tuple[str, int], int]) -> Path:
    """The path of a segment that counts above all others of its epoch, those in `taken` included."""
    directory, key = data_dir / "streams" / epoch.stream, (epoch.stream, epoch.number)
    there = [name.generation for name, _ in segment_files(directory) if name.epoch == epoch.number]
    taken[key] = max([*there, taken.get(key, -1)]) + 1
    return directory / str(SegmentName(epoch.number, first, taken[key]))


# ---- doing it -------------------------------------------------------------------------------------------------------


class _Act:
    """Does the steps of a plan, one after the other. The lock is held."""

    def __init__(self, data_dir: Path, files: Files, clock: Clock, inspection: Inspection, out: Repaired) -> None:
        self._dir, self._files, self._clock, self._seen, self._out = data_dir, files, clock, inspection, out
        self._noted = False

    def do(self, step: RepairStep) -> None:
        """Do one step; durable on return."""
        self._step(step)

    @singledispatchmethod
    def _step(self, step: RepairStep) -> None:
        raise TypeError(f"no step of a repair: {step!r}")

    def _aside(self, path: Path, why: str, **more: object) -> None:
        if path.exists():
            said = {"by": "repair", **more}
            self._out.quarantined.append(put_whole(self._files, self._dir, path, why, self._clock.now_ns(), said))

    @property
    def _uuid(self) -> str:
        return read_station(self._dir).uuid

    @_step.register
    def _(self, step: RestoreStation) -> None:
        s = step.station
        content = {"uuid": s.uuid, "name": s.name, "format": s.format, "created_ns": s.created_ns}
        publish(self._files, self._dir / STATION, orjson.dumps(content, option=orjson.OPT_INDENT_2))

    @_step.register
    def _(self, step: PutAside) -> None:
        self._aside(step.path, step.why, rows=step.rows)

    @_step.register
    def _(self, step: ForgetSummaries) -> None:
        for path in summary_files(step.directory.parent):
            self._files.remove(path)
        self._files.sync_dir(step.directory)

    @_step.register
    def _(self, step: Relocate) -> None:
        make_directory(self._files, step.target.parent)
        self._files.rename(step.path, step.target)
        self._files.sync_dir(step.target.parent)
        self._files.sync_dir(step.path.parent)

    @_step.register
    def _(self, step: Rewrite) -> None:
        look = next(k for looks in self._seen.looks.values() for k in looks if k.path == step.path)
        segment = self._seen.open(look)
        with _Fresh(self._files, step.target, step.epoch, self._uuid, self._clock.now_ns()) as fresh:
            fresh.copy(segment)
            fresh.end(*self._book_of(look, segment))
        damage = [[d.at, d.end, d.reason] for d in look.damage]
        kept = step.target.relative_to(self._dir).as_posix()
        self._aside(step.path, step.why, rows=self._missing(step.epoch, segment), kept=kept, damage=damage)

    def _book_of(self, look: Look, segment: Segment) -> tuple[int, Ledger]:
        """The book at the end of what was copied; what is wrong with it in sum is corrected once for the epoch."""
        others = self._seen.looks.get(look.stream, [])
        before = [o.known() for o in others if o.name < look.name and o.name.epoch == look.name.epoch and o.epoch]
        ledger, high, _ = final_book(segment, before, ())
        return high, ledger

    def _missing(self, epoch: Epoch, segment: Segment) -> int | None:
        """How many rows a damaged segment has lost, as its seal says; None where that is damaged too."""
        if segment.seal is None:
            return None
        rows = RangeSet((int(a), int(b)) for a, b in segment.seal["ranges"])
        for block, _ in intact(segment):
            rows.remove(block.first, block.end)
        return rows.total

    @_step.register
    def _(self, step: MoveJournal) -> None:
        journal = next(j for j in self._seen.journals if j.path == step.path)
        for key in sorted({(r.epoch.stream, r.epoch.number) for r in journal.records}):
            self._move(journal, *key)
        self._aside(step.path, step.why, damage=[[d.at, d.end, d.reason] for d in journal.damage])

    def _move(self, journal: JournalLook, stream: str, number: int) -> None:
        """Write the records of one epoch that no segment has to a segment of its own."""
        records = [r for r in journal.records if (r.epoch.stream, r.epoch.number) == (stream, number)]
        rows, left, told = RangeSet(), RangeSet(), set[Gap]()
        for _, path in segment_files(self._dir / "streams" / stream):
            segment = Segment(self._files.map(path), path)
            if segment.epoch is not None and segment.epoch.number == number:
                told |= set(segment.gaps())
                for block, _ in intact(segment):
                    rows.add(block.first, block.end)
                for a, b in (r for m in segment.batches for r in m.facts.get("left_out", ())):
                    left.add(a, b)
        blocks = [r.block.slice(a, b) for r in records if r.block for a, b in rows.missing(r.block.first, r.block.end)]
        gaps = tuple(dict.fromkeys(g for r in records for g in r.gaps if g not in told))
        fresh_left = [piece for r in records for a, b in r.left_out for piece in left.missing(a, b)]
        if not (blocks or gaps or fresh_left):
            return
        book = max((r for r in records), key=lambda r: r.ledger.age)
        epoch = records[0].epoch
        target = new_segment(self._dir, epoch, blocks[0].first if blocks else book.high, {})
        with _Fresh(self._files, target, epoch, self._uuid, self._clock.now_ns()) as fresh:
            for block in blocks:
                fresh.add(block)
            fresh.commit(book.high, book.ledger, fresh_left, gaps)
            fresh.end(book.high, book.ledger)

    @_step.register
    def _(self, step: Recover) -> None:
        known = {  # what is to be put aside afterwards too
            stream: {look.path.name: look.known() for look in looks if look.path not in step.paths}
            for stream, looks in self._seen.looks.items()
        }
        done = recover(self._dir, self._files, self._clock, self._uuid, known)
        self._out.quarantined += done.quarantined

    @_step.register
    def _(self, step: NoteFacts) -> None:
        with FactsLog.open(self._dir / "facts", self._clock, self._files) as log:
            for damage in step.damage:
                content = damage.path.read_bytes()
                end = content.find(b"\n", damage.offset)
                line = memoryview(content)[damage.offset : end + 1 if end >= 0 else len(content)]
                kept = quarantine(
                    self._files, self._dir, damage.path, damage.offset, line, damage.reason, self._clock.now_ns()
                )
                self._out.quarantined.append(kept)
                file, offset, reason = damaged_place(damage)
                log.append(DAMAGED, {"file": file, "offset": offset, "reason": reason})

    @_step.register
    def _(self, step: Correct) -> None:
        with _Fresh(self._files, step.target, step.epoch, self._uuid, self._clock.now_ns()) as fresh:
            fresh.end(step.high, step.ledger, step.gaps)

    @_step.register
    def _(self, step: RebuildCatalog) -> None:
        from scidaq.catalog import Catalog
        from scidaq.store.projector import catch_up
        from scidaq.store.recovery import found_segment

        # The log of the old file must never be replayed into a new one, so it goes first.
        for suffix in ("-wal", "-shm", ""):
            self._aside(self._dir / (CATALOG + suffix), step.why)
        with FactsLog.open(self._dir / "facts", self._clock, self._files) as log:
            log.append(REPAIRED, {"steps": len(self._out.steps) + 1, "lost_rows": self._out.lost_rows})
            with Catalog.open(self._dir) as catalog:
                catalog.project_facts(log)
                for _, directory in stream_directories(self._dir):
                    opened = [Segment(self._files.map(p), p, check=False) for _, p in segment_files(directory)]
                    whole = (s for s in opened if s.epoch is not None and s.facts)
                    catch_up(catalog, [found_segment(s, len(s.data)) for s in whole], self._dir)


def intact(segment: Segment) -> Iterator[tuple[Block, tuple[Gap, ...]]]:
    """The blocks of a segment that can be decoded, each with the gap records of its batch."""
    epoch = segment.epoch
    for message in segment.batches:
        if message.rows and epoch is not None:
            try:
                block = segment.block(message)
            except Corrupt:
                continue
            gaps = message.facts.get("gaps", ())
            yield block, tuple(Gap.from_json(epoch.stream, epoch.number, g) for g in gaps)


class _Fresh:
    """A segment that is written under a temporary name, and gets its own when it is whole and durable."""

    def __init__(self, files: Files, path: Path, epoch: Epoch, station: str, now_ns: int) -> None:
        name = SegmentName.parse(path.name)
        if name is None:
            raise Corrupt(path, 0, "this is not the name of a segment")
        self._files, self._path, self._now_ns = files, path, now_ns
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._writer = SegmentWriter(epoch, name, station, now_ns, Buffers(2, _BUFFER))
        self._rows = RangeSet()
        self._file: File | None = None

    def __enter__(self) -> _Fresh:
        make_directory(self._files, self._path.parent)
        self._files.remove(self._temporary)
        self._file = self._files.create(self._temporary)
        self._files.append(self._file, [self._writer.head])
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None:
            return
        self._file.close()
        if kind is None:
            self._files.rename(self._temporary, self._path)
            self._files.sync_dir(self._path.parent)

    def copy(self, segment: Segment) -> None:
        """Everything that is intact in another segment of the epoch, in the order in which it stands there."""
        epoch = self._writer.epoch
        for message in segment.batches:
            gaps = [Gap.from_json(epoch.stream, epoch.number, g) for g in message.facts.get("gaps", ())]
            if message.rows:
                self._copy_rows(segment, message, gaps)
            elif "ledger" in message.facts:
                left_out = [(a, b) for a, b in message.facts.get("left_out", ())]
                self.commit(int(message.facts["high"]), Ledger(*message.facts["ledger"]), left_out, gaps)

    def _copy_rows(self, segment: Segment, message: wire.Message, gaps: list[Gap]) -> None:
        try:
            block = segment.block(message)
        except Corrupt:
            return
        for first, end in self._rows.missing(block.first, block.end):  # a batch may stand there twice
            self.add(block.slice(first, end), gaps)
            gaps = []

    def add(self, block: Block, gaps: Iterable[Gap] = ()) -> None:
        """Rows that are not in it yet."""
        gaps = tuple(gaps)
        while not self._writer.append(block, gaps):
            self._write()
        self._rows.add(block.first, block.end)
        self._write()

    def commit(self, high: int, ledger: Ledger, left_out: Iterable[tuple[int, int]], gaps: Iterable[Gap] = ()) -> None:
        """End a commit."""
        self._writer.commit(high, ledger, tuple(left_out), tuple(gaps))
        self._write()

    def end(self, high: int, ledger: Ledger, gaps: Iterable[Gap] = ()) -> None:
        """Seal it. What stands before the seal is durable first, so that a torn seal costs nothing else."""
        if self._file is None:
            raise StationError("the segment is not open")
        self._write()
        self._files.sync(self._file)
        self._writer.synced = self._file.size // PAGE * PAGE
        self._writer.seal(high, ledger, (), tuple(gaps), by="repair", t_ns=self._now_ns)
        self._write()
        self._files.sync(self._file)

    def _write(self) -> None:
        while self._writer.chunks and self._file is not None:
            chunk = self._writer.chunks.popleft()
            with memoryview(chunk.buffer) as view, view[: chunk.size] as piece:
                self._files.append(self._file, [piece])
            self._writer.buffers.give_back(chunk.buffer)
