"""`scidaq.record`: what a script or a notebook measures, kept as a station keeps it, without a station.

A `Recording` opens a data directory as a station does and records one stream that is fed by hand. Rows are put into a
chunk of memory by whoever adds them, from any thread; a thread of its own hands full chunks, and those that have waited
long enough, to the intake, from where they go the way of all blocks. So an interruption (Ctrl-C comes in the script's
thread) never finds the way of a block half done.

A script is no instrument: it can wait. Nothing is dropped when the disk is slow; `add` waits, and in the end says so.
"""

from __future__ import annotations

import atexit
import os
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import structlog

from scidaq.block import (
    NS,
    Array,
    Block,
    Channel,
    Epoch,
    Gap,
    Ledger,
    Mask,
    Resume,
    Schema,
    StreamSpec,
    Times,
    check_stream_id,
)
from scidaq.catalog import Fact, register_kind
from scidaq.clock import STEP_NS, Clock, SystemClock
from scidaq.errors import DiskStalled, RequestError, StationBusy, StoreError, WriteFailed
from scidaq.pipeline import Intake, Ring
from scidaq.station.plan import StationPlan
from scidaq.station.rows import (
    MISSING,
    Channels,
    cell,
    column,
    declared,
    inferred,
    layout_of,
    promoted,
    stamp,
    stamps,
    unknown,
)
from scidaq.station.station import Station
from scidaq.store import Express, Files, Options, Policy, Record

log = structlog.get_logger(__name__)

STREAM = "script/readings"
STARTED = register_kind("script.started", "A script began to record a stream, under a numbering of its own.")
ENDED = register_kind("script.ended", "A script ended: every row that it added is durable.")

CHUNK_BYTES, CHUNK_ROWS = 1 << 20, 65_536
BLOCK_BYTES = 4 << 20
"""Arrays are handed on in blocks of about this size."""
WAITING_BYTES = 16 << 20
"""From this many bytes that wait to be handed on, those who add more wait."""
RING_BYTES = 64 << 20
EXPRESS_BYTES = 64 << 10
"""Up to so much is made durable at once; more goes the way of all blocks, which is quicker for it."""
EXPRESS_S = 1.0
"""For how long after a `sync` another is expected."""
PROGRESS_S = 1.0
_POLL_S = 0.2

_steady: Callable[[int], int] = getattr(time, "clock_gettime_ns", lambda _: time.perf_counter_ns())
_STEADY: int = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 1))

Progress = Callable[[int, int], object]
"""Is told how many rows have been added and how many of them are durable."""


def record(
    path: str | os.PathLike[str],
    channels: Channels | None = None,
    *,
    stream: str = STREAM,
    station: str = "station",
    sync_interval_ms: int = 200,
    timeout_s: float = 30.0,
    progress: Progress | None = None,
) -> Recording:
    """Record rows into the data directory `path`, made where there is none; close it, or use it in a `with`.

    `channels` says per name what it is: a unit in UCUM (`"V"`, then it is a float64), a dtype (`"int32"`, `int`,
    `str`), or a whole `scidaq.block.Channel`. Without it, the first row tells. `stream` is the id of the stream,
    `instrument/stream`; `station` names the directory where it is made. What was added is durable `sync_interval_ms`
    later, or when `sync` returns. `add` waits up to `timeout_s` for a slow disk. `progress(rows, durable)` is called
    about every second, from another thread.

    Raises `StationBusy` when a station or another script records there, and `StationError` and its kin when the
    directory cannot be used.
    """
    return Recording(path, channels, stream, station, sync_interval_ms, timeout_s, progress)


# ---- a station that is fed by hand -----------------------------------------------------------------------------------


class _Tail(Ring):
    """A ring that knows what was put into it last, and whose offering side can wait until that is durable."""

    def __init__(self, stream: str, capacity_bytes: int, bell: Callable[[str, int], None]) -> None:
        super().__init__(stream, capacity_bytes, bell=bell)
        self.newest = -1
        """Number of the newest entry."""
        self.epoch: Epoch | None = None
        self.began = -1
        """Number of the first block of the epoch, -1 before it."""
        self.held = self.hold()

    def offer(self, item: Block | Gap | Epoch, delivered: int = 0, duplicates: int = 0, arrived_s: float = 0.0) -> bool:
        taken = super().offer(item, delivered, duplicates, arrived_s)
        self.newest += taken
        if isinstance(item, Epoch):
            self.epoch, self.began = item, -1
        elif taken and isinstance(item, Block) and self.began < 0:
            self.began = self.newest
        return taken

    @property
    def settled(self) -> Epoch | None:
        """The present epoch, once rows of it are durable: then everything that explains its beginning is, too."""
        return self.epoch if 0 <= self.began < self.held.released else None

    def wait_until_durable(self, number: int, timeout_s: float) -> bool:
        """Wait for an entry and all before it; whether they are durable."""
        with self._lock:
            return self._changed.wait_for(lambda: self.held.released > number, timeout_s)


class _Hand(Station):
    """A station without instruments, in somebody else's process."""

    def _prepare_process(self) -> None:
        """It is the script's, and stays as it is."""

    def _open_instruments(self, stack: ExitStack) -> None:
        stack.enter_context(self._supervision)

    def _open_watch(self, stack: ExitStack) -> None:
        """Nobody asks a script how it is."""

    def feed(self, stream: str) -> tuple[_Tail, Intake]:
        """The ring and the intake of a stream."""
        ring = _Tail(stream, RING_BYTES, self._recorder.bell)
        self._rings = {**self._rings, stream: ring}
        stand = self._stands.get(stream)
        intake = Intake(stream, ring, self._clock, stand.resume() if stand is not None else None)
        self._recorder.add(stream, ring.held, Policy.ALWAYS)
        return ring, intake

    def stand(self, stream: str) -> Resume | None:
        """Where the stream stood when the directory was opened."""
        stand = self._stands.get(stream)
        return stand.resume() if stand is not None else None

    def express(self) -> Express:
        """A journal file for rows that are to be durable at once."""
        number = self._recorder.take_journal_number
        return Express(self.plan.data_dir, self._files, self._clock, self._station.uuid, number)

    def numbering(self, stream: str) -> tuple[str, int]:
        """The counter that numbers the stream's rows from now on, and its next number.

        It goes on where the script before ended well. Else nobody knows how many rows that had added which never
        became durable: another numbering begins, behind a gap of unknown size.
        """
        stand = self._stands.get(stream)
        last: Fact | None = None
        for fact in self._facts:
            if isinstance(fact, Fact) and fact.kind in (STARTED, ENDED) and fact.data.get("stream") == stream:
                last = fact
        if stand is not None and last is not None and last.kind == ENDED:
            epoch = stand.book.epoch
            row = epoch.origin + stand.book.high
            if epoch.counter == last.data.get("counter") and row == last.data.get("row"):
                return str(epoch.counter), row
        return f"script-{uuid.uuid4()}", 0

    def note(self, kind: str, stream: str, counter: str, row: int) -> None:
        """Note where a script begins and ends. Raises `WriteFailed`."""
        self._facts.append(kind, {"stream": stream, "counter": counter, "row": row})

    @property
    def short_of_space(self) -> bool:
        """Whether there is too little room on the disk to write rows."""
        return self._space.low

    @property
    def ended_well(self) -> bool:
        """Whether everything that came in is on the disk."""
        return self._ended

    def gap_rows(self, stream: str) -> int:
        """Rows in gaps of the stream's present epoch."""
        return sum(s.gap_rows for s in self._recorder.stats().streams if s.stream == stream)


# ---- what waits to be handed on --------------------------------------------------------------------------------------


class _Chunk:
    """Rows in the order in which they were added, one behind the other as C would lay them out."""

    __slots__ = ("capacity", "cells", "data", "first", "missing", "row_bytes", "rows")

    def __init__(self, cells: np.dtype[Any], first: int) -> None:
        self.row_bytes = cells.itemsize
        self.capacity = max(1, min(CHUNK_ROWS, CHUNK_BYTES // cells.itemsize))
        self.data = bytearray(self.capacity * cells.itemsize)
        self.cells: Array = np.frombuffer(self.data, cells)
        self.first = first
        """How many rows were added before."""
        self.rows = 0
        self.missing: list[tuple[int, int]] = []
        """Row and channel of values that are missing."""

    @property
    def full(self) -> bool:
        return self.rows == self.capacity

    @property
    def nbytes(self) -> int:
        return len(self.data)

    @property
    def end(self) -> int:
        return self.first + self.rows

    @property
    def last_ns(self) -> int:
        return int(self.cells[self.rows - 1][0])

    def blocks(self, schema: Schema, name: str, origin: int, first: int = 0, end: int | None = None) -> list[Block]:
        """The rows from `first` up to `end`, in the script's numbering, which begins at `origin`."""
        end = self.rows if end is None else end
        cells = self.cells[first:end]
        times, *columns = (np.ascontiguousarray(cells[key]) for key in cells.dtype.names or ())
        masks: list[Mask | None] = [None] * len(columns)
        for row, channel in self.missing:
            if first <= row < end:
                if (mask := masks[channel]) is None:
                    mask = masks[channel] = np.ones(end - first, np.bool_)
                mask[row - first] = False
        valid = tuple(masks) if any(m is not None for m in masks) else None
        number = origin + self.first + first
        return [Block(name, 0, number, schema, tuple(columns), int(times[0]), times, valid)]


@dataclass(slots=True)
class _Arrays:
    """Rows that were added at once."""

    first: int
    columns: list[Array]
    masks: list[Mask | None]
    times: Times
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.nbytes = self.times.nbytes + sum(c.nbytes for c in self.columns)

    @property
    def rows(self) -> int:
        return len(self.times)

    @property
    def end(self) -> int:
        return self.first + len(self.times)

    @property
    def last_ns(self) -> int:
        return int(self.times[-1])

    def blocks(self, schema: Schema, name: str, origin: int) -> list[Block]:
        """As blocks of a handy size."""
        rows = max(1, BLOCK_BYTES // max(1, self.nbytes // self.rows))
        out = []
        for a in range(0, self.rows, rows):
            columns = tuple(c[a : a + rows] for c in self.columns)
            masks = tuple(None if m is None else m[a : a + rows] for m in self.masks)
            times = self.times[a : a + rows]
            out.append(Block(name, 0, origin + self.first + a, schema, columns, int(times[0]), times, masks))
        return out


@dataclass(slots=True)
class _Change:
    """From here on the rows have other channels."""

    schema: Schema
    nbytes: int = 0
    rows: int = 0


# ---- the door --------------------------------------------------------------------------------------------------------


class Recording:
    """Rows on their way to the disk; see `record`. Every method may be called from any thread.

    A context manager. However it is left, also by Ctrl-C or another exception, what was added is made durable first;
    `close` does the same, and runs at the end of the interpreter where nobody has called it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        channels: Channels | None = None,
        stream: str = STREAM,
        station: str = "station",
        sync_interval_ms: int = 200,
        timeout_s: float = 30.0,
        progress: Progress | None = None,
        *,
        clock: Clock | None = None,
        files: Files | None = None,
    ) -> None:
        """As `record`; `clock` and `files` are for tests."""
        self.path, self.stream = Path(path).absolute(), check_stream_id(stream)
        if not 20 <= sync_interval_ms <= 10_000:
            raise RequestError(f"sync_interval_ms is {sync_interval_ms}: choose from 20 to 10000")
        self._name = stream.partition("/")[2]
        self._timeout_s, self._progress = timeout_s, progress
        # Half of it a row may wait to be handed on, the other half to be committed.
        self._hand_over_s = sync_interval_ms / 2000
        schema = declared(channels) if channels is not None else None
        self._clock = clock or SystemClock()
        storage = Options(sync_interval_ms=sync_interval_ms // 2)
        self._station = _Hand(StationPlan(self.path, station, storage=storage), self._clock, files)
        # What is being added.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._schema: Schema | None = None
        self._inferred: frozenset[str] = frozenset()
        """Channels of whole numbers, because the first row had one: the first other number makes them float64."""
        self._names: tuple[str, ...] = ()
        self._cells = np.dtype([("time", "<i8")])
        self._pack: Callable[..., None] | None = None
        """Puts a row of plain numbers into a chunk, and refuses what is none."""
        self._quick: Callable[..., None] | None = None
        """The same, where no more has to be looked at than the values themselves."""
        self._offset = 0
        """What makes UTC of the steady clock, for the rows of the present chunk."""
        self._chunk = _Chunk(self._cells, 0)
        self._last_ns: int | None = None
        """Of the newest row before the chunk."""
        self._given = False
        """Whether the time of the newest row was given."""
        self._anchor = self._clock.anchor
        self._turned = 0
        """Row from which on another epoch may have begun: the intake says so when it has been handed on."""
        # What is on its way.
        self._queue: deque[_Chunk | _Arrays | _Change] = deque()
        self._waiting = 0
        """Bytes in the queue."""
        self._hurry = self._closing = self._closed = False
        self._handed = 0
        """Rows that have been handed to the intake."""
        self._marks: deque[tuple[int, int]] = deque()
        """Number of an entry of the ring, and the rows that are durable with it."""
        self._recorded = 0
        """Rows that the recorder has made durable."""
        self._failure: BaseException | None = None
        # What is made durable at once.
        self._committing = threading.Lock()
        self._safe = 0
        """Rows that are durable by the express file."""
        self._synced_s = -EXPRESS_S
        self._open(schema)

    def _open(self, schema: Schema | None) -> None:
        try:
            self._station.__enter__()
        except StationBusy as error:
            raise StationBusy(
                f"{self.path} is in use: a station or another script records there; stop that one, or give this "
                "script a directory of its own"
            ) from error
        try:
            self._resume = self._station.stand(self.stream)
            self._counter, self._origin = self._station.numbering(self.stream)
            if self._resume is not None:
                self._last_ns = self._resume.last_ns
            self._ring, self._intake = self._station.feed(self.stream)
            self._express = self._station.express()
            if schema is not None:
                with self._lock:
                    self._use(schema)
            self._station.note(STARTED, self.stream, self._counter, self._origin)
        except BaseException:
            self._station.__exit__(None, None, None)
            raise
        self._thread = threading.Thread(target=self._run, name="script", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- adding ----

    def add(self, row: Mapping[str, Any] | None = None, /, *, t: Any = None, sync: bool = False, **values: Any) -> None:
        """Add one row: `add(v=1.2, i=3e-3)`, or `add({"v": 1.2})` where a name is no word of Python (or `t`, `sync`).

        Its time is now, or `t`: UTC nanoseconds (int), seconds since 1970 (float), an aware datetime, a datetime64;
        never earlier than the row before. What is not given, or None, is missing. With `sync` it is durable on return.

        Waits while the disk is too slow. Raises `RequestError` for what is no such row and `DiskStalled` after
        `timeout_s`: then it has not been added. Of an interrupted `add` the row may be there.
        """
        if row is not None:
            values = {**row, **values}
        with self._lock:
            chunk, quick = self._chunk, self._quick
            rows = chunk.rows
            if quick is None or t is not None or tuple(values) != self._names or rows == chunk.capacity:
                self._add(values, t)
            else:
                try:
                    quick(chunk.data, rows * chunk.row_bytes, _steady(_STEADY) + self._offset, *values.values())
                except (struct.error, TypeError, ValueError, OverflowError):
                    self._add(values, None)
                else:
                    chunk.rows = rows + 1
        if sync:
            self.sync()

    def _add(self, values: Mapping[str, Any], t: Any) -> None:
        """Add a row with a look at everything (with the lock held)."""
        self._check_open()
        if self._schema is None:
            schema, whole = inferred(values)
            for channel in schema.channels:
                cell(channel, values[channel.name])
            if t is not None:
                stamp(t)
            self._inferred = whole
            self._use(schema)
        cells = self._row(values)
        if self._chunk.full:
            self._swap()
        self._quick = None  # an interruption from here on leaves it so, and the next row is looked at
        when = self._now() if t is None else self._at(stamp(t))
        chunk = self._chunk
        row = chunk.rows
        chunk.missing = [m for m in chunk.missing if m[0] < row] if chunk.missing else []
        chunk.missing += [(row, i) for i, v in enumerate(cells) if v is MISSING]
        # What is missing has something in its place that is never read.
        chunk.cells[row] = (when, *(z if v is MISSING else v for v, z in zip(cells, self._zeros, strict=True)))
        chunk.rows = row + 1
        self._given = t is not None
        self._quick = self._pack if t is None else None

    def _row(self, values: Mapping[str, Any]) -> list[Any]:
        """The values of a row in the order of the channels, checked."""
        schema = self._schema_now()
        for name in values:
            if name not in schema.names:
                raise unknown(name, schema)
        fractions = {n for n in self._inferred if isinstance(values.get(n), (float, np.floating))}
        schema = promoted(schema, fractions)
        cells = [cell(c, values.get(c.name)) for c in schema.channels]
        if not values:
            raise RequestError(f"a row names at least one channel; there are {', '.join(schema.names)}")
        if fractions:
            self._inferred -= fractions
            self._use(schema)
        return cells

    def extend(
        self,
        rows: Mapping[str, Any] | None = None,
        /,
        *,
        t: Any = None,
        rate_hz: float | None = None,
        sync: bool = False,
        **arrays: Any,
    ) -> None:
        """Add many rows: `extend(v=array, i=array)`, all of one length; they are copied.

        `t` has a time for each, or is that of the first where `rate_hz` says how they go on; without it the time of all
        is now. Values are as in `add`, or masked arrays. All rows are added or, when it raises, none.
        """
        columns = {**(rows or {}), **arrays}
        with self._changed:
            self._check_open()
            if not columns:
                raise RequestError("no rows were given: extend(name=values, ...)")
            count = self._length(columns)
            if not count:
                return
            if self._schema is None:
                self._use(Schema(tuple(_like_column(n, v) for n, v in columns.items())))
            schema = self._schema_now()
            for name in columns:
                if name not in schema.names:
                    raise unknown(name, schema)
            fractions = {n for n in self._inferred if n in columns and _not_whole(columns[n])}
            schema = promoted(schema, fractions)
            kept = [column(c, columns.get(c.name, [None] * count), count) for c in schema.channels]
            times = self._times(t, rate_hz, count)
            self._wait_for_room()
            if fractions:
                self._inferred -= fractions
                self._use(schema)
            self._swap(wait=False)
            arrays_ = _Arrays(self._chunk.first, [k for k, _ in kept], [m for _, m in kept], times)
            self._enqueue(arrays_)
            self._given, self._quick = t is not None, None
            self._last_ns = arrays_.last_ns
            self._chunk = _Chunk(self._cells, arrays_.end)
        if sync:
            self.sync()

    @staticmethod
    def _length(columns: Mapping[str, Any]) -> int:
        lengths = {name: len(v) if np.ndim(v) or isinstance(v, (list, tuple)) else -1 for name, v in columns.items()}
        if len(set(lengths.values())) > 1 or -1 in lengths.values():
            told = ", ".join(f"{n} {'one value' if k < 0 else k}" for n, k in lengths.items())
            raise RequestError(f"the columns have different lengths: {told}")
        return next(iter(lengths.values()))

    def _times(self, t: Any, rate_hz: float | None, rows: int) -> Times:
        if rate_hz is not None:
            if t is None:
                raise RequestError("rate_hz says how the rows go on; give the time of the first as t")
            if not 0 < rate_hz <= NS:
                raise RequestError(f"rate_hz={rate_hz} is not above 0 and at most 10^9")
            steps: Times = np.rint(np.arange(rows) * (NS / rate_hz)).astype(np.int64)
            return steps + self._at(stamp(t))
        if t is None:
            return np.full(rows, self._now(), np.int64)
        times = stamps(t, rows)
        self._at(int(times[0]))
        return times

    # ---- time ----

    def _newest_ns(self) -> int | None:
        """Time of the newest row."""
        return self._chunk.last_ns if self._chunk.rows else self._last_ns

    def _at(self, ns: int) -> int:
        """A time that was given. Raises `RequestError` when it lies before the newest row."""
        newest = self._newest_ns()
        if newest is not None and ns < newest:
            raise RequestError(
                f"the time lies {(newest - ns) / NS:.9f} s before that of the row before: rows of a stream come in the "
                "order of time; record older ones as another stream"
            )
        return ns

    def _now(self) -> int:
        """The time of a row that comes now, and how the chunk's next rows get theirs."""
        anchor, now, newest = self._clock.anchor, self._clock.now_ns(), self._newest_ns()
        stepped = anchor is not self._anchor
        if newest is not None and now < newest:
            if self._given:
                return self._at(now)
            if newest - now <= STEP_NS:
                now = newest  # time is being slewed
            else:
                stepped = True
        if stepped:  # the intake begins a new epoch, in front of a row and not within a block
            self._anchor = anchor
            self._swap(wait=False)
            self._turned = self._chunk.first
        self._offset = now - _steady(_STEADY)
        return now

    # ---- handing on ----

    def _check_open(self) -> None:
        if self._failure is not None:
            raise StoreError(f"recording {self.stream} has failed: {self._failure!r}") from self._failure
        if self._closing:
            raise RequestError(f"the recording of {self.stream} is closed; scidaq.record({str(self.path)!r}) goes on")

    def _schema_now(self) -> Schema:
        if self._schema is None:
            raise RequestError("no channels are known yet")
        return self._schema

    def _use(self, schema: Schema) -> None:
        """From here on the rows have these channels (with the lock held, or before anybody else is there)."""
        self._swap(wait=False)
        self._turned = self._chunk.first
        self._schema, self._names = schema, schema.names
        self._cells, code = layout_of(schema)
        self._pack = struct.Struct(code).pack_into if code else None
        self._quick = None
        self._zeros = [np.zeros(c.shape, d)[()] for c, d in zip(schema.channels, schema.dtypes, strict=True)]
        self._enqueue(_Change(schema))
        self._chunk = _Chunk(self._cells, self._chunk.first)

    def _swap(self, wait: bool = True) -> None:
        """Put the chunk into the queue and begin another (with the lock held). Raises `DiskStalled`, then nothing is
        changed."""
        chunk = self._chunk
        if not chunk.rows:
            return
        if wait:
            self._wait_for_room()
            chunk = self._chunk  # it may have been taken meanwhile
            if not chunk.rows:
                return
        self._last_ns, self._quick = chunk.last_ns, None
        self._enqueue(chunk)
        self._chunk = _Chunk(self._cells, chunk.end)

    def _enqueue(self, item: _Chunk | _Arrays | _Change) -> None:
        self._queue.append(item)
        self._waiting += item.nbytes
        self._changed.notify_all()

    def _wait_for_room(self) -> None:
        """Wait until less waits to be handed on (with the lock held). Raises `DiskStalled`."""
        if self._waiting < WAITING_BYTES:
            return
        if not self._changed.wait_for(
            lambda: self._waiting < WAITING_BYTES or self._failure is not None or self._closing, self._timeout_s
        ):
            raise self._stalled(self._timeout_s)
        self._check_open()

    def _stalled(self, timeout_s: float) -> DiskStalled:
        why = (
            "there is too little room on it: free some" if self._station.short_of_space else "it is too slow, or hangs"
        )
        return DiskStalled(
            f"the disk with {self.path} took no rows for {timeout_s:g} s ({why}); what was added waits in memory"
        )

    def _run(self) -> None:
        """Hand rows to the intake, in a thread of its own, until the recording is closed."""
        told_s = time.monotonic()
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._hurry or self._closing, self._hand_over_s)
                    closing, self._hurry = self._closing, False
                self._take_chunk()
                while self._queue:
                    self._hand_on(self._queue[0])
                    with self._changed:
                        item = self._queue.popleft()
                        self._waiting -= item.nbytes
                        self._handed += item.rows
                        if item.rows:
                            self._marks.append((self._ring.newest, self._handed))
                        self._changed.notify_all()
                with self._committing:
                    self._express.release(self._count_recorded())
                if closing and not self._chunk.rows:
                    return
                if self._progress is not None and time.monotonic() - told_s >= PROGRESS_S:
                    told_s = time.monotonic()
                    self._progress(self.rows, self.durable)
        except BaseException as error:  # the script's thread has to hear of it
            log.exception("rows can no longer be handed on")
            with self._changed:
                self._failure, self._quick = error, None
                self._changed.notify_all()

    def _take_chunk(self) -> None:
        """Take what has been added so far; where others are waiting for each row, those rows are durable first."""
        with self._committing:
            if self._chunk.rows and time.monotonic() - self._synced_s < EXPRESS_S:
                self._put()
            with self._changed:
                if self._chunk.rows and not self._queue:
                    self._swap(wait=False)

    def _hand_on(self, item: _Chunk | _Arrays | _Change) -> None:
        """Give rows to the intake, which has room for them: it would make a gap of what does not fit."""
        if isinstance(item, _Change):
            self._spec = StreamSpec(self._name, item.schema, self._counter)
            self._intake.begin(self._spec)
            return
        for block in item.blocks(self._spec.schema, self._name, self._origin):
            while not self._ring.fits(block) and not self._ring.wait_for_room(block, _POLL_S):
                if self._closing and time.monotonic() > self._patient_until_s:
                    break  # it becomes a gap, and `close` says so
            self._intake.accept(block)

    # ---- durable ----

    @property
    def rows(self) -> int:
        """Rows that were added since this was opened."""
        return self._chunk.end

    @property
    def durable(self) -> int:
        """How many of these rows survive a power cut."""
        return max(self._count_recorded(), self._safe)

    def _count_recorded(self) -> int:
        """Rows that the recorder has made durable."""
        released, marks = self._ring.held.released, self._marks
        if marks and marks[0][0] < released:
            with self._changed:
                while marks and marks[0][0] < released:
                    self._recorded = marks.popleft()[1]
        return self._recorded

    def sync(self, timeout_s: float | None = None) -> None:
        """Return when everything added so far, by any thread, is durable.

        One sync of the disk serves all threads that wait. Raises `DiskStalled` after `timeout_s` (that of the
        recording, unless given): the rows are still on their way.
        """
        with self._lock:
            self._check_open()
            rows = self._chunk.end
        if self._safe < rows:
            with self._committing:
                self._synced_s = time.monotonic()
                done = self._safe >= rows or (self._put() and self._safe >= rows)
            if not done:
                self._wait(rows, self._timeout_s if timeout_s is None else timeout_s)

    def _put(self) -> bool:
        """Make what is not durable so at once (with `_committing` held); False when it has to go the longer way.

        That is so for the first rows of an epoch: recovery wants its beginning to be durable before.
        """
        epoch = self._ring.settled
        if epoch is None or self._station.short_of_space:
            return False
        safe = max(self._count_recorded(), self._safe)
        with self._changed:
            chunk, schema = self._chunk, self._schema_now()
            first, end = safe - chunk.first, chunk.rows
            if first < 0 or self._queue or self._handed <= self._turned or epoch is not self._ring.epoch:
                return False
            if first >= end:
                return True
            if (end - first) * chunk.row_bytes > EXPRESS_BYTES or self._clock.anchor is not self._anchor:
                return False
            (block,) = chunk.blocks(schema, self._name, self._origin, first, end)
        block = block.placed(self.stream, epoch.number, block.first - epoch.origin, block.t0_ns)
        if not self._express.put(Record(epoch, block, block.end, self._ledger(epoch, block.end)), chunk.first + end):
            return False
        self._safe = chunk.first + end
        return True

    def _ledger(self, epoch: Epoch, high: int) -> Ledger:
        """The book of the epoch when it reaches so far: what is missing in it was missing when it was opened."""
        book = Ledger()
        if self._resume is not None and self._resume.epoch.number == epoch.number:
            book = self._resume.ledger
        recorded = high - book.gaps - book.left_out - book.expired
        return replace(book, delivered=high + book.duplicates, recorded=recorded)

    def _wait(self, rows: int, timeout_s: float) -> None:
        """Wait until the recorder has made so many rows durable. Raises `DiskStalled`."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._handed >= rows or self._failure is not None, timeout_s)
            if self._failure is not None:
                self._check_open()
            number = next((n for n, r in self._marks if r >= rows), -1)
            handed = self._handed >= rows
        if not handed or not self._ring.wait_until_durable(number, max(0.0, deadline_s - time.monotonic())):
            raise self._stalled(timeout_s)

    # ---- the end ----

    def close(self) -> None:
        """Make everything durable, seal it, and give the directory back; done by leaving a `with`. Safe to call twice.

        Raises `WriteFailed` when rows could not be kept, with their number: in the recording they are a gap.
        """
        with self._changed:
            if self._closed:
                return
            if not self._closing:
                self._patient_until_s = time.monotonic() + self._timeout_s
            self._closing, self._quick = True, None
            self._changed.notify_all()
        self._thread.join()
        try:
            self._end()
        finally:
            self._closed = True
            atexit.unregister(self.close)

    def _end(self) -> None:
        number = self._marks[-1][0] if self._marks else -1
        try:
            done = self._ring.wait_until_durable(number, self._timeout_s) and self._count_recorded() == self.rows
            with self._committing:
                self._express.close(self._recorded)
            if done and not self._intake.stats().refused and self._failure is None:
                self._station.note(ENDED, self.stream, self._counter, self._origin + self.rows)
        except WriteFailed as error:
            log.error("that the script has ended could not be noted", stream=self.stream, error=str(error))
        finally:
            self._station.__exit__(None, None, None)
        if self._progress is not None:
            self._progress(self.rows, self.durable)
        epoch = self._ring.epoch
        lost = self._station.gap_rows(self.stream) - (self._ledger(epoch, 0).gaps if epoch is not None else 0)
        if self._failure is not None:
            raise StoreError(f"recording {self.stream} has failed: {self._failure!r}") from self._failure
        if (lost and epoch is not None) or not self._station.ended_well:
            raise WriteFailed(
                f"{lost or self.rows - self.durable} of {self.rows} rows could not be made durable in {self.path}: the "
                "disk refused them; in the recording they are a gap"
            )


def _not_whole(values: Any) -> bool:
    """Whether there is a number among them that an int64 does not hold."""
    return np.asarray(values).dtype.kind == "f" or any(isinstance(v, (float, np.floating)) for v in values)


def _like_column(name: str, values: Any) -> Channel:
    """What a column of the first rows tells of its channel."""
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        first = values[0]
    else:
        first = next((v for v in values if v is not None), None)
        if isinstance(first, int) and not isinstance(first, bool) and _not_whole(values):
            first = float(first)
    return inferred({name: first})[0].channels[0]


__all__ = ["Progress", "Recording", "record"]
