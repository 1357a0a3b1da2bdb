"""A running station for those outside of it: what the doors may ask and do, from any thread.

Everything goes in and out as blocks and frozen dataclasses. Rows are read from the files, beside the recorder; nothing
here knows of HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from scidaq.block import Block, Epoch, Gap, Schema
from scidaq.catalog import Fact, RunBook, RunKeeper, Setting, Snapshot, register_kind
from scidaq.errors import CatalogError, ParameterError, RequestError, UnknownInstrument, UnknownParameter, UnknownStream
from scidaq.instruments import Failure, InstrumentStats, Level, Parameter, State, Value
from scidaq.query import (
    Buckets,
    Drawn,
    Grid,
    Lane,
    Overview,
    Place,
    Position,
    Reader,
    StreamSummary,
    arrays_of,
    chosen,
    decimated,
    drawn,
    lanes_of,
    overview,
    settings_at,
    shown,
    snapshot_at,
)
from scidaq.station.live import Happening, ViewWanted, Watch
from scidaq.station.pushing import Follower, Pushing, follow, push, takes
from scidaq.store import gaps

if TYPE_CHECKING:
    from scidaq.instruments import Supervisor
    from scidaq.station.exporting import Exports
    from scidaq.station.querying import SqlJob
    from scidaq.station.station import Station, StationStats

AUDIT = register_kind("audit", "Somebody changed something over the network or the control socket: who, what, result.")

PAGE_BYTES = 32 << 20
"""Of rows as they are stored, in one page."""
PAGE_BLOCKS = 10_000
SCAN_BYTES = 256 << 20
"""Of rows that one page of a reduced stream is made of."""
SCAN_ROWS = 20_000_000
SINCE_BUCKETS = 4000
"""Of what a viewer gets that goes on where it was."""
_SMALL_ROWS = 1000
_READERS = 4
"""Readers that are kept for the next question: they remember what they have seen of segments."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """An instrument as it is."""

    stats: InstrumentStats
    streams: tuple[str, ...]
    """Ids of the streams that it announced last."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What there is of a stream."""

    id: str
    live: bool
    """Whether this station records it now, or has since its start."""
    epochs: tuple[StreamSummary, ...]
    """Ascending."""
    schemas: tuple[Epoch, ...] = ()
    """The epochs whose schema is known."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows of a stream, and how many of them at once."""

    stream: str
    start_ns: int | None = None
    stop_ns: int | None = None
    channels: tuple[str, ...] | None = None
    after: Place | None = None
    """Go on behind this."""
    rows: int = 10_000
    """At most so many in a page."""
    raw: bool = False
    one_schema: bool = False
    """End the page where the channels change."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what was wanted."""

    items: tuple[Block | Gap, ...]
    next: Place | None
    """From where to go on; None at the end."""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(item.rows for item in self.items if isinstance(item, Block))


@dataclass(frozen=True, slots=True)
class Audited:
    """A change of state, or the attempt at one."""

    who: str
    via: str
    """`key`, `session`, `control` or `open`."""
    peer: str
    act: str
    """Method and path."""
    status: int
    """Of the answer."""
    problem: str = ""
    """Kind of the problem, where it was refused."""
    request: str = ""
    """Id of the request, as the log has it."""


@dataclass(slots=True)
class Serving:
    """A `Station` that is open, for its doors. Raises errors of `scidaq.errors`."""

    _station: Station
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _readers: list[Reader] = field(default_factory=list)

    # ---- the station ----

    def stats(self) -> StationStats:
        """A snapshot of everything that is counted."""
        return self._station.stats()

    def now_ns(self) -> int:
        """UTC time of the station."""
        return self._station._clock.now_ns()

    def health(self) -> dict[str, Any]:
        """How each component is."""
        return self._station.health.report()

    def not_ready(self) -> str:
        """Why no data is accepted; empty while it is."""
        return self._station.health.ready()

    def metrics(self, accept: str) -> tuple[bytes, str] | None:
        """The metrics and their content type; None where they are off."""
        enabled = self._station.plan.monitoring.metrics_enabled
        return self._station.metrics.render(accept) if enabled else None

    # ---- instruments ----

    def instruments(self) -> list[Instrument]:
        """All of them, by id."""
        found = self._station._supervision.instruments
        return [_instrument(one) for _, one in sorted(found.items())]

    def instrument(self, instrument: str) -> Instrument:
        """One of them. Raises `UnknownInstrument`."""
        return _instrument(self._supervisor(instrument))

    def failures(self, instrument: str) -> tuple[Failure, ...]:
        """What went wrong with it of late, newest first."""
        return self._supervisor(instrument).failures()

    def settings(self, instrument: str) -> Mapping[str, Setting]:
        """Its parameters as they were read last, without asking it."""
        return self._supervisor(instrument).settings()

    def settings_at(self, instrument: str, t_ns: int) -> Mapping[str, Setting]:
        """Its parameters as they had been read last at a time in the past, also of one that is no longer there.

        Raises `UnknownInstrument` for one that has left no settings and is not there.
        """
        with self._reader() as reader:
            found = settings_at(reader, t_ns, instrument)
        if instrument not in found:
            self._supervisor(instrument)
        return found.get(instrument, {})

    def snapshot(self, at_ns: int | None = None) -> Snapshot:
        """Every instrument with the settings that were read of it last, now or by a time in the past."""
        if at_ns is None:
            return self._station.snapshot()
        with self._reader() as reader:
            return snapshot_at(reader, at_ns)

    def parameters(self, instrument: str) -> Sequence[Parameter]:
        """Its parameters, with limits; it is asked."""
        return self._supervisor(instrument).parameters()

    def get(self, instrument: str, parameter: str) -> tuple[Parameter, Value]:
        """A parameter, and what the instrument says that it is now. Raises `UnknownParameter`."""
        supervisor = self._supervisor(instrument)
        one = _parameter(supervisor, parameter)
        return one, supervisor.get(parameter)

    def set(self, instrument: str, parameter: str, value: Value, unit: str | None = None) -> tuple[Parameter, Value]:
        """Set a parameter; what the instrument says that it is then. Raises `ParameterError` that says what may be."""
        supervisor = self._supervisor(instrument)
        one = _parameter(supervisor, parameter)
        if unit is not None and unit != one.unit:
            raise ParameterError(f"parameter {parameter!r} is in {one.unit}, not in {unit}: nothing was set")
        return one, supervisor.set(parameter, value)

    def want(self, instrument: str, level: Level, why: str, timeout_s: float = 5.0) -> Instrument:
        """Let it go so far and no farther from now on; waits for it, but not for long."""
        supervisor = self._supervisor(instrument)
        supervisor.want(level, why)
        reached = {
            Level.DISCONNECTED: (State.STOPPED,),
            Level.READY: (State.READY, State.FAILED),
            Level.ACQUIRING: (State.ACQUIRING, State.DEGRADED, State.FAILED),
        }[level]
        clock, never = self._station._clock, threading.Event()
        deadline_s = clock.monotonic_s() + timeout_s
        while supervisor.state not in reached and clock.monotonic_s() < deadline_s:
            clock.wait(never, 0.01)
        return _instrument(supervisor)

    def safe(self, instrument: str) -> None:
        """Bring it to its safe state. Raises `RequestError` when it has none."""
        self._supervisor(instrument).safe()

    def newest(self, instrument: str) -> list[Block]:
        """The newest row of each of its streams, as a block of one row; it need not be durable yet."""
        self._supervisor(instrument)
        rings = self._station._rings
        out = {name: block for name, ring in rings.items() if (block := ring.newest_block()) is not None}
        mine = {name: one.slice(one.end - 1, one.end) for name, one in out.items() if _of(name) == instrument}
        with self._reader() as reader:
            for name in reader.names():
                if _of(name) == instrument and name not in mine:
                    mine.update((name, one) for one in reader.last(name, 1) if isinstance(one, Block))
        return [mine[name] for name in sorted(mine)]

    def _supervisor(self, instrument: str) -> Supervisor:
        known = self._station._supervision.instruments
        found = known.get(instrument)
        if found is None:
            raise UnknownInstrument(instrument, sorted(known), get_close_matches(instrument, known, 2))
        return found

    # ---- streams ----

    def streams(self) -> list[Stream]:
        """What is recorded, by stream; without schemas."""
        with self._reader() as reader:
            found: dict[str, list[StreamSummary]] = {}
            for one in reader.streams():
                found.setdefault(one.stream, []).append(one)
        live = self._station._rings
        return [Stream(name, name in live, tuple(found.get(name, ()))) for name in sorted({*found, *live})]

    def stream(self, stream: str) -> Stream:
        """One of them. Raises `UnknownStream`."""
        live = stream in self._station._rings
        with self._reader() as reader:
            try:
                return Stream(stream, live, tuple(reader.summary(stream)), tuple(reader.epochs(stream)))
            except UnknownStream:
                if live:  # announced, and nothing has come yet
                    return Stream(stream, live, ())
                raise

    def page(self, wanted: Wanted) -> Page:
        """Rows and the gaps between them, in order; what the page shows is read when this returns."""
        with self._reader() as reader:
            items = reader.blocks(wanted.stream, wanted.start_ns, wanted.stop_ns, wanted.channels, after=wanted.after)
            return self._known(wanted.stream, lambda: _page(items, wanted))

    def last(self, wanted: Wanted) -> Page:
        """The newest `rows` rows, and the gaps between them."""
        with self._reader() as reader:
            return self._known(
                wanted.stream,
                lambda: Page(_joined(reader.last(wanted.stream, wanted.rows, None, wanted.channels)), None),
            )

    def reduced(self, wanted: Wanted, grid: Grid) -> Page:
        """The rows as buckets of a grid; `wanted.rows` is of no account."""
        with self._reader() as reader:
            items = reader.blocks(wanted.stream, wanted.start_ns, wanted.stop_ns, wanted.channels, after=wanted.after)
            scan = _Scan(items, grid)
            return self._known(
                wanted.stream, lambda: Page(tuple(decimated(scan, grid, raw=wanted.raw)), scan.stopped_at)
            )

    # ---- live ----

    def watch(
        self, wanted: ViewWanted, deliver: Callable[[Sequence[Buckets], int], None]
    ) -> tuple[Watch, tuple[Lane, ...]]:
        """Look at a view from now on; what it consists of, as far as that is known.

        `deliver` is called in a thread of the station with what changed and the number of that delivery, and then not
        before `Watch.taken`. Raises `UnknownStream`, and `RequestError` for channels that the stream has not.
        """
        ring = self._station._rings.get(wanted.stream)
        block = ring.newest_block() if ring is not None else None
        schema = block.schema if block is not None else None
        if schema is None:
            schemas = self.stream(wanted.stream).schemas
            schema = schemas[-1].schema if schemas else None
        lanes: tuple[Lane, ...] = ()
        if schema is not None:
            lanes = (lanes_of if wanted.kind == "lines" else arrays_of)(schema, wanted.channels)
        return self._station.live.watch(wanted, deliver), lanes

    def since(self, wanted: ViewWanted, start_ns: int, stop_ns: int) -> Drawn:
        """What a view would have shown of `start_ns <= time < stop_ns`, rows that are not durable yet included; in
        longer buckets where these would be more than `SINCE_BUCKETS`."""
        first_ns = start_ns
        with self._reader() as reader, suppress(UnknownStream):
            known = [one.first_ns for one in reader.summary(wanted.stream) if one.first_ns is not None]
            first_ns = min(known, default=start_ns)
        start_ns = min(max(start_ns, first_ns), stop_ns - 1)
        width = max(1, min(SINCE_BUCKETS // 2, (stop_ns - start_ns) // wanted.step_ns))
        return self.view(wanted.stream, wanted.channels, start_ns, stop_ns, width)

    def view(
        self,
        stream: str,
        channels: Sequence[str] | None,
        start_ns: int | None,
        stop_ns: int | None,
        width: int,
    ) -> Drawn:
        """A range of a stream (all of it without bounds) in `width` to twice as many buckets where there are so many
        rows, those included that are not durable yet. Raises `UnknownStream`, and `RequestError` for what cannot be.
        """
        ring = self._station._rings.get(stream)
        recent = ring.recent() if ring is not None else []  # first: what it lets go of meanwhile can be read
        blocks = [item for item in recent if isinstance(item, Block)]
        with self._reader() as reader:
            try:
                known = reader.summary(stream)
            except UnknownStream:
                if ring is None:
                    raise
                known = []
            span, estimate = _span(known, blocks, start_ns, stop_ns)
            pyramid, pending = self._station.summaries.of(stream)
            summary = overview(pyramid, pending, *span, width, estimate)
            if summary is not None and summary.damaged is not None:
                self._station.summaries.doubt(stream, summary.damaged)
            place = None if summary is None else Place(*summary.end)
            rest: Iterable[Block | Gap] = ()
            if summary is None or not _is_whole(summary, span, known, blocks):
                rest = self._rest(reader, stream, span, place, blocks) if known else _recent(blocks, span, None)
            gaps = [] if summary is None else self._gaps(stream, span)
            one = drawn(stream, channels, span, width, summary, rest, gaps)
        if channels is not None and not one.buckets.lanes:
            self._check(stream, channels, blocks, lanes_of)
        return one

    def arrays(
        self,
        stream: str,
        channels: Sequence[str] | None,
        start_ns: int | None,
        stop_ns: int | None,
        rows: int,
    ) -> Drawn:
        """Some rows of spectra or images in a range (all of it without bounds), whole: at most `rows`, evenly chosen,
        the newest among them. Raises `UnknownStream`, and `RequestError` for channels that are no arrays."""
        ring = self._station._rings.get(stream)
        recent = ring.recent() if ring is not None else []
        blocks = [item for item in recent if isinstance(item, Block)]
        with self._reader() as reader:
            known = reader.summary(stream) if ring is None or stream in reader.names() else []
            span, estimate = _span(known, blocks, start_ns, stop_ns)

            def read(start: int, stop: int) -> Iterator[Block | Gap]:
                part = (start, stop)
                return self._rest(reader, stream, part, None, blocks) if known else _recent(blocks, part, None)

            found = chosen(read, channels, span, rows, estimate + sum(b.rows for b in blocks))
            buckets = shown(stream, channels, found, self._gaps(stream, span))
        if not found and channels is not None:
            self._check(stream, channels, blocks, arrays_of)
        return Drawn(buckets, *span, Position(0, 0), len(found))

    def _rest(
        self, reader: Reader, stream: str, span: tuple[int, int], place: Place | None, blocks: Sequence[Block]
    ) -> Iterator[Block | Gap]:
        """The rows behind what summaries have, from the files and then from memory."""
        behind = (-1, -1)
        for item in reader.blocks(stream, *span, after=place):
            if isinstance(item, Block):
                behind = item.epoch, item.end
            yield item
        if behind == (-1, -1) and place is not None:
            behind = place.epoch, place.row
        yield from _recent(blocks, span, behind)

    def _gaps(self, stream: str, span: tuple[int, int]) -> list[Gap]:
        """What the catalog knows to be missing in a range."""
        try:
            with self._station._catalog.read() as conn:
                known = gaps(conn, stream)
        except CatalogError:
            return []
        return [g for g in known if (g.end_ns is None or g.end_ns > span[0]) and (g.start_ns or span[0]) < span[1]]

    def _check(
        self,
        stream: str,
        channels: Sequence[str],
        blocks: Sequence[Block],
        asked: Callable[[Schema, Sequence[str]], object],
    ) -> None:
        """Raise `RequestError` when no epoch has any of the channels: nothing else is wrong with an empty range."""
        schemas = [one.schema for one in self.stream(stream).schemas] or [b.schema for b in blocks[-1:]]
        problem: RequestError | None = None
        for schema in reversed(schemas):
            try:
                asked(schema, channels)
            except RequestError as error:
                problem = problem or error
            else:
                return
        if problem is not None:
            raise problem

    def listen(self, tell: Callable[[Happening], None]) -> Callable[[], None]:
        """Be told of what happens, in whatever thread it happens: `tell` must be quick. Call the result to end it."""
        return self._station.live.listen(tell)

    def happened(self) -> list[Happening]:
        """What happened last, oldest first."""
        return self._station.live.happened()

    def _known(self, stream: str, act: Any) -> Page:
        """What `act` gives; nothing for a stream that was announced and of which nothing is recorded yet."""
        try:
            page: Page = act()
        except UnknownStream:
            if stream not in self._station._rings:
                raise
            return Page((), None)
        return page

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        with self._lock:
            known = self._readers.pop() if self._readers else None
        reader = known or Reader(self._station.plan.data_dir, self._station._files)
        yield reader
        with self._lock:  # not after an error: nobody knows what it has seen
            if len(self._readers) < _READERS:
                self._readers.append(reader)

    # ---- bulk data ----

    def follow(self, stream: str, buffer_bytes: int) -> Follower:
        """Look at what a stream gets from now on. Raises `UnknownStream` for one that is not recorded now."""
        return follow(self._station, stream, buffer_bytes)

    def takes(self, stream: str) -> Schema:
        """What the rows have to be that are pushed to a stream. Raises as `push`."""
        return takes(self._station, stream)

    def push(self, stream: str, counter: str, holder: str) -> Pushing:
        """Let a producer push rows of a stream; `counter` names its numbering, `holder` is told to others."""
        return push(self._station, stream, counter, holder)

    # ---- runs ----

    @property
    def runs(self) -> RunKeeper:
        """The verbs on runs, holds and notes."""
        return self._station.runs

    @property
    def book(self) -> RunBook:
        """The runs, holds and notes that there are."""
        return self._station.runs.book

    # ---- exports ----

    @property
    def exports(self) -> Exports:
        """The exports that are made beside the recording."""
        return self._station.exports

    # ---- SQL ----

    def sql(self, query: str, form: str) -> SqlJob:
        """A query over everything that is recorded; nothing is begun before its result is asked for."""
        return self._station.queries.ask(query, form)

    # ---- audit ----

    def audit(self, entry: Audited) -> None:
        """Note who did what. Durable on return; raises `WriteFailed`."""
        said = {name: value for name in entry.__slots__ if (value := getattr(entry, name)) != ""}
        self._station._facts.append(AUDIT, said)

    def audited(self, before: int | None, limit: int) -> list[Fact]:
        """The newest entries, newest first; with `before`, those older than the fact of this number."""
        self._station._catalog.project_facts(self._station._facts)
        return self._station._catalog.facts(AUDIT, before, limit)


def _of(stream: str) -> str:
    return stream.partition("/")[0]


def _span(
    known: Sequence[StreamSummary], blocks: Sequence[Block], start_ns: int | None, stop_ns: int | None
) -> tuple[tuple[int, int], int]:
    """The range that is meant, and about how many rows it has."""
    firsts = [s.first_ns for s in known if s.first_ns is not None] + [b.t0_ns for b in blocks[:1]]
    lasts = [s.last_ns for s in known if s.last_ns is not None] + [b.last_ns for b in blocks[-1:]]
    start = min(firsts, default=0) if start_ns is None else start_ns
    stop = max(lasts, default=start) + 1 if stop_ns is None else stop_ns
    if start_ns is not None and stop_ns is not None and stop <= start:
        raise RequestError("stop has to come after start")
    stop = max(stop, start + 1)
    if not -(1 << 62) < start < stop < 1 << 62:
        raise RequestError("start, stop: the range is too long to be drawn")
    rows = 0.0
    for one in known:
        if one.first_ns is None or one.last_ns is None:
            continue
        within = min(stop, one.last_ns + 1) - max(start, one.first_ns)
        if within > 0:
            rows += one.rows * within / (one.last_ns + 1 - one.first_ns)
    return (start, stop), int(rows)


def _is_whole(
    summary: Overview, span: tuple[int, int], known: Sequence[StreamSummary], blocks: Sequence[Block]
) -> bool:
    """Whether no row of the range lies behind what summaries have. Time does not go back in an epoch."""
    later = [one.first_ns for one in known if one.epoch > summary.end.epoch]
    later += [block.t0_ns for block in blocks if block.epoch > summary.end.epoch]
    return summary.last_ns >= span[1] and all(t is None or t >= span[1] for t in later)


def _recent(blocks: Sequence[Block], span: tuple[int, int], behind: tuple[int, int] | None) -> Iterator[Block]:
    """The parts of blocks that lie in a range and behind a row."""
    for block in blocks:
        if behind is not None and (block.epoch, block.end) <= behind:
            continue
        if behind is not None and block.epoch == behind[0] and block.first < behind[1]:
            block = block.slice(behind[1], block.end)
        if block.t0_ns >= span[1] or block.last_ns < span[0]:
            continue
        times = block.time_ns()
        first, end = (int(times.searchsorted(t, "left")) for t in span)
        if first < end:
            yield block.slice(block.first + first, block.first + end)


def _instrument(supervisor: Supervisor) -> Instrument:
    names = tuple(f"{supervisor.instrument_id}/{spec.name}" for spec in supervisor.streams)
    return Instrument(supervisor.stats(), names)


def _parameter(supervisor: Supervisor, name: str) -> Parameter:
    known = supervisor.parameters()
    for parameter in known:
        if parameter.name == name:
            return parameter
    raise UnknownParameter(f"no parameter {name!r}; there are {', '.join(p.name for p in known) or 'none'}")


def _page(items: Iterator[Block | Gap], wanted: Wanted) -> Page:
    out: list[Block | Gap] = []
    rows = size = blocks = 0
    last: Block | None = None
    for item in items:
        if isinstance(item, Gap):
            out.append(item)
            continue
        over = last is not None and (rows >= wanted.rows or size >= PAGE_BYTES or blocks >= PAGE_BLOCKS)
        changed = wanted.one_schema and last is not None and item.schema.channels != last.schema.channels
        if over or changed:
            while out and isinstance(out[-1], Gap):  # what lies behind the last row comes with the next page
                out.pop()
            return Page(_joined(out), _behind(last))
        room = max(1, min(wanted.rows - rows, (PAGE_BYTES - size) // max(1, item.nbytes // item.rows)))
        last = item if item.rows <= room else item.slice(item.first, item.first + room)
        out.append(last)
        if last is not item:
            return Page(_joined(out), _behind(last))
        rows, size, blocks = rows + item.rows, size + item.nbytes, blocks + 1
    return Page(_joined(out), None)


def _joined(items: Iterable[Block | Gap]) -> tuple[Block | Gap, ...]:
    """The same with small blocks that follow one another as one: a slow stream comes row by row."""
    out: list[Block | Gap] = []
    run: list[Block] = []
    for item in items:
        if run and not (isinstance(item, Block) and len(run) < _SMALL_ROWS and _small(item) and item.follows(run[-1])):
            out.append(Block.join(run))
            run = []
        if isinstance(item, Block) and _small(item):
            run.append(item)
        else:
            out.append(item)
    return tuple([*out, Block.join(run)] if run else out)


def _small(block: Block) -> bool:
    return block.rows < _SMALL_ROWS and block.nbytes < 1 << 16


def _behind(block: Block | None) -> Place | None:
    return None if block is None else Place(block.epoch, block.end, block.last_ns)


class _Scan:
    """Blocks up to a bound, ending at the edge of a bucket, so that the next page goes on with a whole one."""

    def __init__(self, items: Iterator[Block | Gap], grid: Grid) -> None:
        self._items, self._edges = items, grid.edges()
        self.stopped_at: Place | None = None

    def __iter__(self) -> Iterator[Block | Gap]:
        rows = size = 0
        until_ns: int | None = None
        last: Block | None = None
        gaps: list[Gap] = []
        """Met behind the bound: they belong to this page if rows of it follow."""
        for item in self._items:
            if isinstance(item, Gap):
                if until_ns is None:
                    yield item
                else:
                    gaps.append(item)
                continue
            if until_ns is not None and last is not None:
                here = item.epoch == last.epoch
                cut = int(item.time_ns().searchsorted(until_ns, "left")) if here else 0
                if cut:
                    yield from gaps
                    gaps.clear()
                    last = item.slice(item.first, item.first + cut)
                    yield last
                if cut < item.rows:
                    self.stopped_at = _behind(last)
                    return
                continue
            last = item
            yield item
            rows, size = rows + item.rows, size + item.nbytes
            if rows >= SCAN_ROWS or size >= SCAN_BYTES:
                after = int(self._edges.searchsorted(item.last_ns, "right"))
                until_ns = int(self._edges[min(after, len(self._edges) - 1)])
        yield from gaps
