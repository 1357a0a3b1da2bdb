"""`replay`: a file played as a live instrument, at its own speed or another, once or over and over.

Rows come when they are due, with the times of now: row i of the file is played at the moment of the first `arm` plus
its distance from the first row, divided by the speed. They are numbered as in the file, on and on where it is played
again, so that a hole in the file is a hole in the recording, exact to the row. A file is patient: what could not be
fetched in time, during a reconnect say, comes afterwards. At its end the instrument stays connected and delivers
nothing, which is no fault (`HasEnd`).
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from annotated_types import Ge, Gt, Le

from scidaq.block import NS, Block, Schema, StreamSpec, Times
from scidaq.clock import Clock
from scidaq.errors import InstrumentDisconnected, InstrumentError, UnreadableFile
from scidaq.instruments.driver import Identity
from scidaq.instruments.replay.foreign import Reading, Table
from scidaq.instruments.replay.opening import tables

T = TypeVar("T")
MIN_PAUSE_S = 0.02
"""Rows are handed over this often at most, many at a time."""
MAX_BLOCKS = 8
"""Blocks of each stream that one read hands over at most."""
_EDGE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """A file that is played as an instrument."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: Path
    """A file: CSV, WAV, Parquet, Arrow, HDF5, TDMS; a segment of scidaq's own, or a directory of those of a stream."""
    format: Literal["csv", "wav", "parquet", "arrow", "hdf5", "tdms", "segment"] | None = None
    """What it is, where its first bytes do not tell."""
    speed: Annotated[float, Gt(0), Le(1e9)] | Literal["max"] = 1.0
    """How many times as fast as it was recorded; `max`: as fast as the rows are taken, at the times of speed 1. What
    recording cannot keep up with becomes a gap."""
    loop: bool = False
    """Play it over and over; else once."""
    stream: str | None = None
    """Name of the stream; of a file with several tables, which of them is played, all if it is not said."""
    time_column: str | None = None
    """Name of the column, channel or dataset with the times, where it is not called `time` or alike."""
    rate_hz: Annotated[float, Gt(0)] | None = None
    """Rows per second of a file that has no times."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Units in UCUM by column, where the file does not say them."""
    missing: tuple[str, ...] = ()
    """Texts that stand for a missing value, besides the usual ones as `NA`."""
    skip_lines: Annotated[int, Ge(0)] = 0
    """Lines of a text file before its header."""

    @property
    def reading(self) -> Reading:
        """The same as readers of files want it."""
        return Reading(
            self.format or "",
            self.time_column or "",
            self.rate_hz,
            None,
            self.units,
            self.missing,
            self.skip_lines,
            thorough=False,
        )


@dataclass(slots=True)
class _Reel:
    """How far a file has been played: it outlives the drivers that play it."""

    digest: str
    counter: str
    origin_ns: int
    """Steady time of the first row of all."""
    loop: int = 0
    loop_ns: int = 0
    """How far into the playing the present loop began."""
    base: dict[str, int] = field(default_factory=dict)
    """Per stream: the number of the first row of the present loop."""
    played: dict[str, int] = field(default_factory=dict)
    """Per stream: rows of the present loop that were delivered."""
    failure: str = ""
    """Why it cannot be read any further."""


_REELS: WeakKeyDictionary[Clock, dict[str, _Reel]] = WeakKeyDictionary()
"""By the clock of their station and the instrument."""


class _Player:
    """One table on its way through one loop."""

    def __init__(self, name: str, table: Table, skip: int) -> None:
        self.name, self._table = name, table
        self._items = table.read()
        self._block: Block | None = None
        self._epoch = -1
        self._number = 0
        """Number in the loop of row 0 of the present epoch, which the file may not have."""
        self._shift_ns = 0
        """What makes times of the file those since its first row."""
        self.next = 0
        """One past the number of the last row."""
        self.end_ns = 0
        """When the row after the last would be due."""
        self._period_ns = NS
        """The usual spacing of the rows; of a file of one row nobody knows it, and a second is patient."""
        self.rows = 0
        self.exhausted = False
        self._skip = skip

    def begin(self) -> int | None:
        """UTC of the first row in the file; None when there is none. Its offset is 0 unless `shift` says otherwise."""
        block = self._peek()
        return None if block is None else block.t0_ns - self._shift_ns

    def shift(self, by_ns: int) -> None:
        """Let everything come later by so much: another table begins first."""
        self._shift_ns += by_ns
        if self._block is not None:
            self._block = _moved(self._block, by_ns)

    def _peek(self) -> Block | None:
        """What is to be played next, at its offset from the beginning of the file, numbered within the loop."""
        while self._block is None and not self.exhausted:
            item = next(self._items, None)
            if item is None:
                self.exhausted = True
            elif isinstance(item, Block):
                self._block = self._place(item)
        return self._block

    def _place(self, block: Block) -> Block:
        if block.epoch != self._epoch:
            first_of_all = self._epoch < 0
            self._epoch = block.epoch
            self._number = self.next - block.first
            if first_of_all:
                self._shift_ns -= block.t0_ns
            elif (behind := self.end_ns - (block.t0_ns + self._shift_ns)) > 0:
                self._shift_ns += behind  # a clock was set back in the file: there is no playing back
        self._period_ns = _period_ns(block) or self._period_ns
        return replace(_moved(block, self._shift_ns), epoch=0, first=block.first + self._number)

    def take(self, until_ns: int | None) -> Block | None:
        """The next rows, those that are due by an offset; None when there are none."""
        while True:
            block = self._peek()
            if block is None:
                return None
            if self._skip:
                count = min(self._skip, block.rows)
                self._skip -= count
                self._pass(block, count)
                continue
            count = block.rows if until_ns is None else _due(block, until_ns)
            if not count:
                return None
            return self._pass(block, count)

    def _pass(self, block: Block, count: int) -> Block:
        """Let some rows of the present block go."""
        head = block.slice(block.first, block.first + count)
        self._block = block.slice(head.end, block.end) if count < block.rows else None
        self.next, self.rows = head.end, self.rows + count
        self.end_ns = max(self.end_ns, head.last_ns + self._period_ns)
        return head

    def due_ns(self) -> int | None:
        """The offset of the next row."""
        return self._block.t0_ns if self._block is not None else None

    def close(self) -> None:
        """Let go of the file."""
        closing = getattr(self._items, "close", None)
        if closing is not None:
            closing()


def _moved(block: Block, by_ns: int) -> Block:
    times = None if block.times is None else block.times + by_ns
    return replace(block, t0_ns=block.t0_ns + by_ns, times=times)


def _period_ns(block: Block) -> int:
    """How long a row lasts: as long as its rate says, or as most of the block; 0 when it does not tell."""
    if block.schema.rate is not None:
        return max(1, block.schema.span_ns(1))
    return int(np.median(np.diff(block.times))) if block.times is not None and block.rows > 1 else 0


def _due(block: Block, until_ns: int) -> int:
    """How many rows are due by an offset."""
    if block.times is not None:
        return int(np.searchsorted(block.times, until_ns, "right"))
    rate = block.schema.rate or Fraction(1)
    if until_ns < block.t0_ns:
        return 0
    return min(block.rows, (until_ns - block.t0_ns) * rate.numerator // (NS * rate.denominator) + 1)


class ReplayDriver:
    """Plays a file. Rows have the numbers of the file; their counter is the file's, and new each time it is begun."""

    Options = ReplayOptions

    def __init__(self, instrument_id: str, options: ReplayOptions, clock: Clock) -> None:
        self._id, self._o, self._clock = instrument_id, options, clock
        self._speed = Fraction(1) if options.speed == "max" else Fraction(options.speed).limit_denominator(1_000_000)
        if not self._speed:
            raise ValueError(f"speed: {options.speed} is too slow")
        if options.rate_hz is not None and options.time_column is not None:
            raise ValueError("rate_hz: rows that have times in time_column need no rate; leave out one of them")
        self._closed = threading.Event()
        self._reading = threading.Lock()
        self._tables: dict[str, Table] = {}
        self._players: list[_Player] = []
        self._schemas: dict[str, Schema] = {}
        self._reel: _Reel | None = None
        self._ended = self._armed = False
        self._loops = 0

    @property
    def resource(self) -> str | None:
        """None: a file may be played by several."""
        return None

    # ---- the verbs ----

    def identity(self) -> Identity:
        """The file's name as serial number, and for firmware a digest of its size, date, beginning and end."""
        self._check_open()
        return Identity("scidaq", "replay", self._o.path.name, self._digest())

    def describe(self) -> Sequence[StreamSpec]:
        """Looks at the beginning of the file: a stream for each table."""
        self._check_open()
        self._tables = self._chosen()
        self._schemas = {name: self._schema(name, table.schema) for name, table in self._tables.items()}
        return self._specs(None)

    def arm(self) -> Sequence[StreamSpec]:
        """Begin to play, or go on where the same file was left in this process."""
        self.describe()
        self._let_go()
        digest = self._digest()
        reels = _REELS.setdefault(self._clock, {})
        reel = reels.get(self._id)
        if reel is None or not reel.counter.startswith(f"replay-{digest}-{self._key()}"):
            counter = f"replay-{digest}-{self._key()}-{uuid.uuid4()}"
            reel = reels[self._id] = _Reel(digest, counter, self._clock.steady_ns())
        if reel.failure:
            raise InstrumentError(reel.failure)
        self._reel, self._ended, self._armed = reel, False, True
        self._thread(reel)
        return self._specs(reel.counter)

    def read(self, timeout_s: float) -> Sequence[Block]:
        """The rows that are due."""
        deadline = self._clock.monotonic_s() + timeout_s
        with self._reading:
            while True:
                self._check_open()
                blocks, pause_s = self._take()
                left = deadline - self._clock.monotonic_s()
                if blocks or left <= 0:
                    return blocks
                self._clock.wait(self._closed, min(left, pause_s))

    def disarm(self) -> None:
        """Stop playing."""
        self._armed = False
        self._let_go()

    def close(self) -> None:
        """Ends a read that waits, and lets the file go; a read under way does so itself."""
        self._closed.set()
        if self._reading.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._reading.release()

    def ended(self) -> bool:
        """Whether the file has been played, and is not played again."""
        return self._ended

    def counted(self) -> Mapping[str, int]:
        """How often it was played to its end."""
        return {"loops": self._loops}

    # ---- inside ----

    def _check_open(self) -> None:
        if self._closed.is_set():
            self._let_go()
            raise InstrumentDisconnected("closed")

    def _let_go(self) -> None:
        players, self._players = self._players, []
        for player in players:
            player.close()

    def _key(self) -> str:
        """What else than the file makes another numbering."""
        said = repr((self._o.speed, self._o.loop, sorted(self._o.units.items()), self._o.time_column, self._o.rate_hz))
        return hashlib.sha256(said.encode()).hexdigest()[:8]

    def _digest(self) -> str:
        """Identity of the file: of what it says of itself and of its two ends, so that a large one costs nothing."""
        path, found = self._o.path, hashlib.sha256()
        try:
            paths = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
            for one in paths:
                seen = one.stat()
                found.update(f"{one.name}\0{seen.st_size}\0{seen.st_mtime_ns}\0".encode())
            if path.is_file():
                with path.open("rb") as file:
                    found.update(file.read(_EDGE_BYTES))
                    file.seek(max(0, path.stat().st_size - _EDGE_BYTES))
                    found.update(file.read(_EDGE_BYTES))
        except OSError as error:
            raise InstrumentError(f"{path} cannot be read: {error.strerror or error}") from error
        return found.hexdigest()[:16]

    def _chosen(self) -> dict[str, Table]:
        """The tables to be played, by the name of their stream."""
        try:
            found = tables(self._o.path, self._o.reading)
        except UnreadableFile as error:
            raise InstrumentError(str(error)) from error
        wanted = self._o.stream
        by_name = {table.name: table for table in found}
        if wanted is None:
            return by_name
        if wanted in by_name:
            return {wanted: by_name[wanted]}
        if len(found) == 1:
            return {wanted: found[0]}
        raise InstrumentError(f"{self._o.path} has no table {wanted!r}; there are {', '.join(sorted(by_name))}")

    def _schema(self, name: str, schema: Schema) -> Schema:
        if schema.rate is None or self._speed == 1:
            return schema
        rate = schema.rate * self._speed
        if rate > 10 * NS:
            raise InstrumentError(f"{name}: {float(rate):g} rows per second are too many; choose a lower speed")
        return Schema(schema.channels, rate)

    def _specs(self, counter: str | None) -> tuple[StreamSpec, ...]:
        return tuple(StreamSpec(name, schema, counter) for name, schema in self._schemas.items())

    def _thread(self, reel: _Reel) -> None:
        """Put the file in, wound to where the present loop has come."""
        self._players = [_Player(name, table, reel.played.get(name, 0)) for name, table in self._tables.items()]
        begins = [self._guarded(player.begin) for player in self._players]
        first = min((b for b in begins if b is not None), default=0)
        for player, begin in zip(self._players, begins, strict=True):
            table = self._tables[player.name]
            if begin is not None and table.timed:
                player.shift(begin - first)

    def _guarded(self, act: Callable[[], T]) -> T:
        """Read from the file; what it refuses is remembered, so that it is not played up to there again and again."""
        try:
            return act()
        except (UnreadableFile, OSError, MemoryError) as error:
            if self._reel is not None:
                self._reel.failure = str(error)
            self._let_go()
            raise InstrumentError(str(error)) from error

    def _take(self) -> tuple[list[Block], float]:
        """The rows that are due, and for how long there will be none."""
        reel = self._reel
        if reel is None or not self._armed or self._ended:
            return [], 3600.0
        if reel.failure:
            raise InstrumentError(reel.failure)
        now = self._clock.steady_ns()
        paced = self._o.speed != "max"
        until = (now - reel.origin_ns) * self._speed.numerator // self._speed.denominator - reel.loop_ns
        out: list[Block] = []
        try:
            for player in self._players:
                for _ in range(MAX_BLOCKS):
                    block = self._guarded(partial(player.take, until if paced else None))
                    if block is None:
                        break
                    out.append(self._played(reel, player, block))
        except InstrumentError:
            if not out:
                raise
            return out, 0.0  # the next read says it
        if not out and all(p.exhausted and p.due_ns() is None for p in self._players):
            self._end_loop(reel)
            return [], 0.0
        dues = [due for p in self._players if (due := p.due_ns()) is not None]
        wait_ns = (min(dues, default=0) + reel.loop_ns) * self._speed.denominator // self._speed.numerator
        return out, max(MIN_PAUSE_S, (reel.origin_ns + wait_ns - now) / NS)

    def _played(self, reel: _Reel, player: _Player, block: Block) -> Block:
        """A block of the file as one of now."""
        name = player.name
        reel.played[name] = reel.played.get(name, 0) + block.rows
        offset = (block.t0_ns + reel.loop_ns) * self._speed.denominator // self._speed.numerator
        t0_ns = self._clock.at_ns(reel.origin_ns + offset)
        times = None if block.times is None else t0_ns + _slower(block.times - block.times[0], self._speed)
        return Block(
            name,
            0,
            block.first + reel.base.get(name, 0),
            self._schemas[name],
            block.columns,
            t0_ns,
            times,
            block.valid,
            self._clock.now_ns(),
        )

    def _end_loop(self, reel: _Reel) -> None:
        """The file is at its end: begin again, or not."""
        self._loops += 1
        rows = sum(player.rows for player in self._players)
        if not self._o.loop or not rows:
            self._ended = True
            self._let_go()
            return
        for player in self._players:
            reel.base[player.name] = reel.base.get(player.name, 0) + player.next
        reel.loop += 1
        reel.loop_ns += max(player.end_ns for player in self._players)
        reel.played = {}
        self._let_go()
        self._thread(reel)


def _slower(spans: Times, speed: Fraction) -> Times:
    """Nanoseconds of the file as nanoseconds of its playing."""
    if speed == 1 or not len(spans):
        return spans
    if int(spans[-1]) < (1 << 62) // speed.denominator:
        return spans * speed.denominator // speed.numerator
    return np.rint(spans / float(speed)).astype(np.int64)
