"""`scidaq import`: files of somebody else's, or exported ones, become past data of a stream, at their own times.

A station without instruments whose rings are fed from a file. The intake would bend times towards those of now, so rows
go past it: epochs, gaps and blocks as the file has them, with the count at the door that they make. An epoch's counter
is the identity of the file's content, so that an import that was killed goes on where it was, and one that is done
again changes nothing.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scidaq.block import IMPORTED, NS, Block, Epoch, Gap, Reason, Resume, check_stream_id
from scidaq.catalog import Fact, NewRun, read_facts, register_kind
from scidaq.clock import Anchor, Clock, SystemClock
from scidaq.errors import DiskStalled, RequestError, StationBusy, UnknownStream, UnreadableFile, WriteFailed
from scidaq.instruments import Reading, Table
from scidaq.query import Reader
from scidaq.station.plan import StationPlan
from scidaq.station.script import RING_BYTES, _Hand, _Tail
from scidaq.store import Files, Options, Policy

ENDED = register_kind("import.ended", "A file was taken in: its name, size and content, and the rows of which stream.")

STALLED_S = 60.0
"""For how long the disk may take nothing."""
_POLL_S = 0.2
_READ_BYTES = 1 << 20
_OTHER = {
    Reason.POLICY: (Reason.SOURCE, "left out by the policy of the recording"),
    Reason.UNEXPLAINED: (Reason.CORRUPTION, "nothing explained it in the file"),
}
"""Reasons that are told when reading and never recorded, and what is recorded for them."""

_ANOTHER = "choose another one with --stream"

_SUM = re.compile(r"(?P<digest>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
"""A line of what `sha256sum` writes."""

Progress = Callable[[int, int | None], object]
"""Is told how many of how many rows, or bytes, are done; None where nobody knows how many there are."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and who it is."""

    path: Path
    sha256: str
    """Of its content; of a directory that of the names and contents of its files."""
    size: int
    """In bytes."""
    key: str
    """Of what was taken for granted when it was read: with something else its rows are others."""

    @classmethod
    def of(cls, path: Path, reading: Reading, progress: Progress | None = None) -> Self:
        """Reads the whole file. Raises `UnreadableFile`, also where a checksum beside it says that it was changed."""
        content, size = hashlib.sha256(), 0
        try:
            paths = sorted(p for p in path.iterdir() if stat.S_ISREG(p.stat().st_mode)) if path.is_dir() else [path]
            total = sum(p.stat().st_size for p in paths)
            for one in paths:
                if path.is_dir():
                    content.update(f"{one.name}\0{one.stat().st_size}\0".encode())
                with one.open("rb") as file:
                    while data := file.read(_READ_BYTES):
                        content.update(data)
                        size += len(data)
                        if progress is not None:
                            progress(size, total)
        except OSError as error:
            raise UnreadableFile(path, "", f"it cannot be read: {error.strerror or error}") from error
        if not path.is_dir():
            _check_sum(path, content.hexdigest())
        said = (reading.rate, reading.start_ns, sorted(reading.units.items()), reading.time_column,
                sorted(reading.missing), reading.skip_lines)  # fmt: skip
        return cls(path, content.hexdigest(), size, hashlib.sha256(repr(said).encode()).hexdigest()[:8])

    @property
    def counter(self) -> str:
        """What the counters of its epochs begin with."""
        return f"import-{self.sha256}-{self.key}-"


def _check_sum(path: Path, sha256: str) -> None:
    """That the checksum that lies beside a file, as an export leaves it, is its own."""
    for sums in (path.with_name(f"{path.name}.sha256"), path.with_name("SHA256SUMS")):
        try:
            lines = sums.read_text("utf-8", "replace").splitlines() if sums.is_file() else []
        except OSError:
            continue
        for line in lines:
            found = _SUM.fullmatch(line)
            if found and found["name"] == path.name and found["digest"].lower() != sha256:
                raise UnreadableFile(
                    path, "", f"it has been changed since its checksum was written: {sums.name} says otherwise; "
                    "take the original, or move that file away to import it as it is now"
                )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Imported:
    """What has become of a file, or a part of it."""

    stream: str
    rows: int
    """That it has."""
    new_rows: int
    """That were not there before."""
    gap_rows: int
    """That are missing in it, as far as they are counted."""
    first_ns: int | None
    last_ns: int | None

    @property
    def changed(self) -> bool:
        """Whether anything was not there before."""
        return self.new_rows > 0


def streams_of(tables: Sequence[Table], stream: str | None = None) -> dict[str, list[Table]]:
    """Into which stream each table of a file goes, in order; into `stream`, or with its own name into an instrument.

    Tables that scidaq exported go where they came from unless something else is said, others into `import/<name>`.
    Raises `RequestError`.
    """
    out: dict[str, list[Table]] = {}
    origins = list(dict.fromkeys(t.stream or f"import/{t.name}" for t in tables))
    if stream is not None and "/" in stream and len(origins) > 1:
        raise RequestError(
            f"the file has {len(origins)} streams ({', '.join(sorted(origins))}), and {stream!r} is one: give an "
            "instrument without a slash, below which all of them go"
        )
    targets = {origin: _target(origin, origins, stream) for origin in origins}
    if len(set(targets.values())) < len(targets):
        raise RequestError(f"two streams of the file would become one below {stream!r}: import it without --stream")
    for table in tables:
        out.setdefault(check_stream_id(targets[table.stream or f"import/{table.name}"]), []).append(table)
    return out


def _target(origin: str, origins: Sequence[str], stream: str | None) -> str:
    """Where rows of a stream go; with its instrument in the name where another has the same name."""
    if stream is None or "/" in stream:
        return stream or origin
    instrument, _, name = origin.partition("/")
    alike = sum(other.partition("/")[2] == name for other in origins)
    return f"{stream}/{name if alike == 1 else f'{instrument}-{name}'[:64]}"


@dataclass(slots=True)
class _Place:
    """Where a stream stands, from one file to the next."""

    ring: _Tail
    resume: Resume | None
    """As it was recorded before; None once something has come."""
    next_epoch: int
    last_ns: int | None
    """Time of the newest row."""
    same: bool = False
    """Whether the newest epoch is of the file that is being taken."""


class _Directory(_Hand):
    """A station that takes files."""

    def feed_past(self, stream: str) -> _Place:
        """The ring of a stream, and where that stands."""
        ring = _Tail(stream, RING_BYTES, self._recorder.bell)
        self._rings = {**self._rings, stream: ring}
        resume = self.stand(stream)
        number = max(self.recovered.next_epochs.get(stream, 0), resume.epoch.number + 1 if resume is not None else 0)
        self._recorder.add(stream, ring.held, Policy.ALWAYS)
        return _Place(ring, resume, number, resume.last_ns if resume is not None else None)

    def ended_before(self, source: Source, stream: str) -> Mapping[str, Any] | None:
        """What was noted when the same file had been taken into the stream."""
        for fact in self._facts:
            if isinstance(fact, Fact) and fact.kind == ENDED:
                said = fact.data
                if (said.get("sha256"), said.get("key"), said.get("stream")) == (source.sha256, source.key, stream):
                    return said
        return None

    def note_end(self, source: Source, done: Imported) -> None:
        """Note that a file has been taken. Raises `WriteFailed`."""
        self._facts.append(
            ENDED,
            {
                "file": source.path.name,
                "bytes": source.size,
                "sha256": source.sha256,
                "key": source.key,
                "stream": done.stream,
                "rows": done.rows,
                "gap_rows": done.gap_rows,
                "first_ns": done.first_ns,
                "last_ns": done.last_ns,
            },
        )


class Importer:
    """A data directory that files are taken into. A context manager; what was taken is durable when `take` returns.

    Raises on entry `StationBusy` when a station or a script records there, and `StationError` and its kin.
    """

    def __init__(
        self,
        data_dir: Path,
        station: str = "station",
        storage: Options | None = None,
        clock: Clock | None = None,
        files: Files | None = None,
    ) -> None:
        self._dir, self._clock = data_dir, clock or SystemClock()
        self._station = _Directory(StationPlan(data_dir, station, storage=storage or Options()), self._clock, files)
        self._places: dict[str, _Place] = {}

    def __enter__(self) -> Self:
        try:
            self._station.__enter__()
        except StationBusy as error:
            raise StationBusy(
                f"{self._dir} is in use: a station or a script records there. Stop it for the import, or import into a "
                "directory of its own"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._station.__exit__(kind, error, traceback)
        if kind is None and not self._station.ended_well:
            raise WriteFailed(f"not everything could be made durable in {self._dir}: the disk refused")

    def declare(self, name: str, done: Sequence[Imported]) -> None:
        """Declare a run over what was taken."""
        begins = [one.first_ns for one in done if one.first_ns is not None]
        ends = [one.last_ns for one in done if one.last_ns is not None]
        if not begins:
            raise RequestError(f"no rows were imported, so there is nothing that run {name!r} could be")
        streams = tuple(sorted({one.stream for one in done}))
        self._station.runs.add(NewRun(name, min(begins), max(ends) + 1, streams))

    def check(self, files: Sequence[tuple[Source, Mapping[str, Sequence[Table]]]]) -> None:
        """Compare all tables with what is recorded, before any is taken. Raises `RequestError`, with each in the way.

        A table that was taken before is not in the way, whatever has come since; nor is one that was interrupted.
        """

        def stands(stream: str) -> tuple[int | None, str]:
            resume = self._station.stand(stream)
            return (None, "") if resume is None else (resume.last_ns, resume.epoch.counter or "")

        _check(files, stands, lambda source, stream: self._station.ended_before(source, stream) is not None)

    def take(self, source: Source, stream: str, tables: Sequence[Table], progress: Progress | None = None) -> Imported:
        """Take some tables of a file into a stream, one behind the other.

        Rows of this file that are there already are left as they are. Raises `RequestError` when the file begins before
        the newest row of the stream, `UnreadableFile` where something is wrong in it: what came before that is kept.
        """
        before = self._station.ended_before(source, stream)
        if before is not None:
            times = (before.get("first_ns"), before.get("last_ns"))
            return Imported(stream, int(before.get("rows", 0)), 0, int(before.get("gap_rows", 0)), *times)
        if stream not in self._places:
            self._places[stream] = self._station.feed_past(stream)
        total = sum(t.rows or 0 for t in tables) or None
        feeding = _Feeding(self._station, self._places[stream], source, stream, self._clock, total, progress)
        for number, table in enumerate(tables):
            with closing(_closable(table.read())) as items:
                for item in items:
                    feeding.take(number, table, item)
        done = feeding.finish()
        self._station.note_end(source, done)
        return done


def _first_ns(tables: Sequence[Table]) -> int | None:
    """Time of the first row; None when there is none."""
    for table in tables:
        with closing(_closable(table.read())) as items:
            for item in items:
                if isinstance(item, Block):
                    return item.t0_ns
    return None


def compare(data_dir: Path, files: Sequence[tuple[Source, Mapping[str, Sequence[Table]]]]) -> list[str]:
    """Which of some tables are recorded already, in words; touches nothing, so a station may run there.

    Raises `RequestError` as `Importer.check` would.
    """
    if not (data_dir / "station.json").exists():
        return []
    reader = Reader(data_dir)
    taken = {
        (fact.data.get("sha256"), fact.data.get("key"), fact.data.get("stream")): fact.data
        for fact in read_facts(data_dir / "facts")
        if isinstance(fact, Fact) and fact.kind == ENDED
    }

    def stands(stream: str) -> tuple[int | None, str]:
        try:
            lasts = [one.last_ns for one in reader.summary(stream) if one.last_ns is not None]
            epochs = reader.epochs(stream)
        except UnknownStream:
            return None, ""
        return max(lasts, default=None), (epochs[-1].counter or "") if epochs else ""

    _check(files, stands, lambda source, stream: (source.sha256, source.key, stream) in taken)
    return [
        f"{source.path.name}: nothing to do, its {said.get('rows', 0)} rows are in {stream} already"
        for source, streams in files
        for stream in streams
        if (said := taken.get((source.sha256, source.key, stream))) is not None
    ]


def _check(
    files: Sequence[tuple[Source, Mapping[str, Sequence[Table]]]],
    stands: Callable[[str], tuple[int | None, str]],
    taken: Callable[[Source, str], bool],
) -> None:
    """`stands` says of a stream the time of its newest row and the counter of its newest epoch."""
    behind: list[str] = []
    for source, streams in files:
        for stream, parts in streams.items():
            newest, counter = stands(stream)
            if newest is None or counter.startswith(source.counter) or taken(source, stream):
                continue
            first = _first_ns(parts)
            if first is not None and first < newest:
                behind.append(_behind(source, stream, newest - first))
    if behind:
        what = "; ".join(behind)
        below = any(len(streams) > 1 for _, streams in files)
        how = "choose others with --stream and an instrument without a slash" if below else _ANOTHER
        also = ", or import into a directory of its own. Nothing was imported"
        raise RequestError(f"{what}; rows of a stream come in the order of time: {how}{also}")


def _behind(source: Source, stream: str, by_ns: int) -> str:
    return f"{source.path.name} begins {by_ns / NS:.9f} s before the newest row of {stream}"


def _closable(items: Iterator[Block | Gap]) -> Any:
    return items if hasattr(items, "close") else _Plain(items)


class _Plain:
    """An iterator that has nothing to let go of."""

    def __init__(self, items: Iterator[Block | Gap]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Block | Gap]:
        return self._items

    def close(self) -> None:
        pass


class _Feeding:
    """One stream as it is being fed: which epoch it has come to, and how far its numbering reaches."""

    def __init__(
        self,
        station: _Directory,
        place: _Place,
        source: Source,
        stream: str,
        clock: Clock,
        total: int | None,
        progress: Progress | None,
    ) -> None:
        self._station, self._source, self._stream, self._clock = station, source, stream, clock
        self._total, self._progress = total, progress
        self._place, self._ring, resume = place, place.ring, place.resume
        place.same = False
        goes_on = resume is not None and (resume.epoch.counter or "").startswith(source.counter)
        self._resume = resume if goes_on else None
        self._newest_ns = None if goes_on else place.last_ns
        """The time before which no row may lie."""
        self._key = ""
        self._epoch: Epoch | None = None
        self._high = 0
        self._waiting: list[Gap] = []
        """Gaps in front of the first row of an epoch."""
        self._last_in_epoch_ns: int | None = None
        self._done = Imported(stream, 0, 0, 0, None, None)

    # ---- items ----

    def take(self, number: int, table: Table, item: Block | Gap) -> None:
        """The next item of a table."""
        # An exported stream has its epochs through all its tables; a gap may stand in the one behind.
        key = f"{self._source.counter}{item.epoch}" if table.stream else f"{self._source.counter}{number}.{item.epoch}"
        if key != self._key:
            self._end_epoch()
            self._key, self._epoch, self._high, self._last_in_epoch_ns = key, None, 0, None
        self._count(item)
        if self._resume is not None and self._resume.epoch.counter != key:
            return  # that epoch is there
        if isinstance(item, Gap):
            if self._epoch is None:
                self._waiting.append(item)
            else:
                self._gap(item)
            return
        if self._epoch is None:
            self._begin(table, item)
        self._rows(item)

    def _count(self, item: Block | Gap) -> None:
        done = self._done
        if isinstance(item, Gap):
            self._done = replace(done, gap_rows=done.gap_rows + (item.rows or 0))
            return
        first = item.t0_ns if done.first_ns is None else min(done.first_ns, item.t0_ns)
        last = item.last_ns if done.last_ns is None else max(done.last_ns, item.last_ns)
        self._done = replace(done, rows=done.rows + item.rows, first_ns=first, last_ns=last)
        if self._progress is not None:
            self._progress(self._done.rows, self._total)

    def _begin(self, table: Table, block: Block) -> None:
        """The epoch of a first row, and the gaps in front of that."""
        waiting, self._waiting = self._waiting, []
        place = self._place
        if self._resume is not None:
            resume, self._resume = self._resume, None
            self._epoch, self._high, self._last_in_epoch_ns = resume.epoch, resume.high, resume.last_ns
            if resume.epoch.schema != table.schema:
                raise RequestError(f"{self._stream} has other channels than {self._source.path.name} in the same epoch")
            self._ring.offer(resume.epoch, self._high)
        else:
            self._check_age(block)
            origin = min([block.first, *(gap.first for gap in waiting)])
            anchor = Anchor(block.t0_ns, 0, 0, IMPORTED)
            self._epoch = Epoch(self._stream, place.next_epoch, table.schema, anchor, self._key, origin)
            self._ring.offer(self._epoch)
            explained = waiting if place.same else [gap for gap in waiting if gap.first == gap.end == origin]
            if place.next_epoch and not explained:
                detail = f"another recording begins: {self._source.path.name}"
                self._offer_gap(
                    Gap(
                        self._stream,
                        place.next_epoch,
                        0,
                        0,
                        Reason.RESET,
                        place.last_ns,
                        block.t0_ns,
                        True,
                        detail=detail,
                    )
                )
        place.next_epoch, place.resume, place.same = self._epoch.number + 1, None, True
        for gap in waiting:
            self._gap(gap)

    def _check_age(self, block: Block) -> None:
        newest, self._newest_ns = self._newest_ns, None
        if newest is not None and block.t0_ns < newest:
            behind = _behind(self._source, self._stream, newest - block.t0_ns)
            raise RequestError(f"{behind}; rows of a stream come in the order of time: {_ANOTHER}")

    def _gap(self, gap: Gap) -> None:
        """A gap of the file as one of the stream."""
        epoch = self._epoch
        if epoch is None:
            return
        first, end = gap.first - epoch.origin, gap.end - epoch.origin
        if end < self._high or (end == self._high and first < end):
            return  # it is there
        reason, said = _OTHER.get(gap.reason, (gap.reason, ""))
        detail = f"{gap.detail}; {said}" if gap.detail and said else gap.detail or said
        self._offer_gap(
            replace(gap, stream=self._stream, epoch=epoch.number, first=max(first, 0), end=max(end, 0),
                    reason=reason, detail=detail, open=False)
        )  # fmt: skip

    def _offer_gap(self, gap: Gap) -> None:
        self._high = max(self._high, gap.end)
        self._ring.offer(gap, self._high)

    def _rows(self, block: Block) -> None:
        """Rows of the file that are not there yet, as those of the stream."""
        epoch = self._epoch
        if epoch is None:
            return
        first = block.first - epoch.origin
        if first + block.rows <= self._high:
            return
        if first < self._high:
            block = block.slice(block.first + self._high - first, block.end)
            first = self._high
        before = self._last_in_epoch_ns
        if before is not None and block.t0_ns < before:
            raise UnreadableFile(
                self._source.path,
                f"row {block.first} of epoch {block.epoch}",
                "its time lies before that of the row before",
            )
        if first > self._high:
            detail = "the file does not have them"
            span = (before, block.t0_ns)
            self._offer_gap(Gap(self._stream, epoch.number, self._high, first, Reason.SOURCE, *span, detail=detail))
        placed = block.placed(self._stream, epoch.number, first, block.t0_ns)
        self._wait_for_room(placed)
        self._high = placed.end
        self._ring.offer(placed, self._high)
        self._place.last_ns = self._last_in_epoch_ns = placed.last_ns
        self._done = replace(self._done, new_rows=self._done.new_rows + placed.rows)

    def _end_epoch(self) -> None:
        """Gaps of an epoch of which the file has no row belong to the next one that has any."""
        self._waiting = [gap for gap in self._waiting if gap.unknown]

    # ---- the disk ----

    def _wait_for_room(self, block: Block) -> None:
        ring, since_s, released = self._ring, self._clock.monotonic_s(), self._ring.held.released
        while not ring.fits(block) and not ring.wait_for_room(block, _POLL_S):
            if ring.held.released != released:
                since_s, released = self._clock.monotonic_s(), ring.held.released
            if self._clock.monotonic_s() - since_s > STALLED_S:
                raise self._stalled()

    def finish(self) -> Imported:
        """Wait until everything is durable. Raises `DiskStalled` when the disk takes nothing any more."""
        ring, since_s, released = self._ring, self._clock.monotonic_s(), -1
        while not ring.wait_until_durable(ring.newest, _POLL_S):
            if ring.held.released != released:
                since_s, released = self._clock.monotonic_s(), ring.held.released
            if self._clock.monotonic_s() - since_s > STALLED_S:
                raise self._stalled()
        return self._done

    def _stalled(self) -> DiskStalled:
        why = "there is too little room on it" if self._station.short_of_space else "it is too slow, or hangs"
        return DiskStalled(
            f"the disk takes no rows of {self._stream} any more ({why}); what is durable stays, and the same import "
            "goes on from there"
        )
