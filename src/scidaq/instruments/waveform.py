"""A simulated digitizer: numbered rows of seeded noise on sines, from 1 Hz to as fast as memory, and faults on request.

The value of row i of channel c is a pure function of the options, and `expected` says it, so a recording can be proved
right. The numbering of a *free-running* one is the machine's steady clock times its rate: it survives a restart of the
station, and how many rows passed while nobody listened is known exactly. `Truth` counts what the simulated hardware
did, for a book-keeping that is independent of everybody else's.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le

from scidaq.block import NS, Block, Calibration, Channel, Schema, StreamSpec, schema
from scidaq.clock import Clock
from scidaq.errors import InstrumentDisconnected
from scidaq.instruments.driver import Identity

VOLTS = 10.0
"""Full scale of the simulated inputs."""
CODES = 32767
"""The int16 code of full scale."""
MAX_BLOCK_ROWS = 8192
MAX_BLOCKS = 64
"""Most block times handed over by one read, so that catching up does not hold everything else."""
UNPACED_BLOCKS = 4
"""How many block times an unpaced read hands over."""
MIN_PAUSE_S = 0.010
"""A paced device is looked at this often at most: each look costs the interpreter a switch of threads."""
_TABLE_BYTES, _SLOW_TABLE_BYTES = 8 << 20, 1 << 20
_FAST_BYTES_S = 1e6
"""From this rate on the prepared values are many, so that no cache holds them; below, memory counts for more."""
_PRIMES = (65537, 32749, 16381, 8191, 4093, 2039, 1021, 509, 251)
_CLOSED = "the simulated digitizer is closed"

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong every now and then, by the steady clock."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["drop", "duplicate", "conflict", "late", "lag", "disconnect", "hang"]
    every_s: Annotated[float, Gt(0)]
    """Period."""
    rows: Annotated[int, Ge(1)] = 100
    """How many rows (drop, late)."""
    seconds: Annotated[float, Gt(0)] = 1.0
    """For how long (lag, disconnect, hang)."""


@dataclass(frozen=True, slots=True)
class WaveformOptions:
    """A simulated digitizer."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    channels: Annotated[int, Ge(1), Le(4096)] = 4
    """How many inputs."""
    dtype: Literal["int16", "float32", "float64"] = "int16"
    """int16 codes with a calibration (32767 is 10 V), or volts."""
    rate_hz: Annotated[float, Gt(0), Le(1e9)] = 1000.0
    """Rows per second."""
    block_s: Annotated[float, Gt(0)] = 0.05
    """Seconds of data in a block, rounded to 1 to 8192 rows."""
    block_rows: Annotated[int, Ge(1)] | None = None
    """Rows in a block, instead of `block_s`."""
    layout: Literal["interleaved", "columns"] = "interleaved"
    """One array channel `adc` with an element per input, as digitizers send it, or a channel per input."""
    streams: Annotated[int, Ge(1), Le(10_000)] = 1
    """How many identical streams: `wave`, or `wave0` and so on."""
    seed: Annotated[int, Ge(0)] = 0
    """What the noise is made from."""
    noise: Annotated[float, Ge(0)] = 0.01
    """Its standard deviation in volts."""
    unpaced: bool = False
    """As fast as the rows are taken; their times are those of `rate_hz` all the same."""
    free_running: bool | None = None
    """Rows are numbered since the machine started, else from 0 at each arm; by default when paced."""
    irregular: bool = False
    """Rows come with a time each, a little off the grid."""
    status: bool = False
    """Adds a boolean and a text channel (layout `columns`)."""
    buffer_s: Annotated[float, Gt(0)] = 10.0
    """How long the device keeps rows that nobody fetches; older ones are skipped."""
    backfill: bool = False
    """Whether rows may come late and out of order, which the fault `late` needs."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong on schedule."""

    def problems(self) -> list[str]:
        """What contradicts what, by name of field."""
        out = []
        if self.channels < 1 or self.rate_hz <= 0 or self.streams < 1 or (self.block_rows or 1) < 1:
            out.append("channels, rate_hz, streams and block_rows are above 0")
        if self.unpaced and self.free_running:
            out.append("free_running: an unpaced source has no clock to run by; leave out one of unpaced, free_running")
        if self.status and self.layout != "columns":
            out.append("status: needs layout = 'columns'")
        if not self.backfill and any(fault.kind == "late" for fault in self.faults):
            out.append("faults: late needs backfill = true")
        return out

    @property
    def rows_per_block(self) -> int:
        """Rows in a full block."""
        if self.block_rows is not None:
            return self.block_rows
        return MAX_BLOCK_ROWS if self.unpaced else max(1, min(MAX_BLOCK_ROWS, round(self.rate_hz * self.block_s)))


@dataclass(frozen=True, slots=True)
class Truth:
    """What the simulated device did since it was first armed, in rows of one stream (all its streams are alike).

    `produced = (sent - duplicated - conflicting) + dropped + missed + withheld`, always.
    """

    produced: int = 0
    """Rows that its numbering says there were."""
    sent: int = 0
    """Rows handed over, those sent again included."""
    duplicated: int = 0
    """Rows sent again as they were."""
    conflicting: int = 0
    """Rows sent again with other values."""
    dropped: int = 0
    """Rows skipped on request."""
    missed: int = 0
    """Rows that passed while nobody fetched them."""
    withheld: int = 0
    """Rows held back now, to be sent later."""


# ---- values ---------------------------------------------------------------------------------------------------------


class _Table:
    """A prime number of rows, over and over, then the beginning again: any block is a slice of it, without a copy."""

    def __init__(self, o: WaveformOptions) -> None:
        scalar = np.dtype(o.dtype)
        row_bytes = o.channels * scalar.itemsize
        most = _TABLE_BYTES if o.unpaced or o.rate_hz * row_bytes >= _FAST_BYTES_S else _SLOW_TABLE_BYTES
        self.length = next((p for p in _PRIMES if p * row_bytes <= most), _PRIMES[-1])
        index = np.arange(self.length + o.rows_per_block) % self.length
        phase = 2 * np.pi * np.arange(self.length) / self.length
        values = np.empty((o.channels, self.length), scalar)
        for c in range(o.channels):
            cycles = max(1, round(self.length / (100 * (1 + c % 16))))
            volts = 0.5 * VOLTS * np.sin(cycles * phase + c)
            if o.noise:
                volts += o.noise * np.random.default_rng([o.seed, c]).standard_normal(self.length)
            volts = volts.clip(-VOLTS, VOLTS)
            values[c] = np.rint(volts * (CODES / VOLTS)) if scalar.kind == "i" else volts
        self.values = np.ascontiguousarray(values.T)
        if o.layout == "interleaved":
            self.columns: tuple[Array, ...] = (self.values[index],)
        else:
            self.columns = tuple(values[:, index])
        if o.status:
            high = self.columns[0] > np.median(self.columns[0])
            self.columns += (high, np.where(high, b"high", b"low").astype("S8"))
        # Where between two grid points an irregular row lies, as a fraction of the period: never past the middle.
        self.jitter = np.random.default_rng([o.seed, 1 << 20]).uniform(0.0, 0.5, self.length)[index]
        for array in (self.values, *self.columns):
            array.flags.writeable = False


@lru_cache(maxsize=4)
def _table(options: WaveformOptions) -> _Table:
    return _Table(options)


def expected(options: WaveformOptions, first: int, rows: int) -> Array:
    """Raw values of rows `[first, first + rows)` of the inputs: shape `(rows, channels)`, of the options' dtype."""
    table = _table(options)
    return table.values[np.arange(first, first + rows) % table.length]


def _schema(o: WaveformOptions, rate: Fraction) -> Schema:
    codes = Calibration(VOLTS / CODES, 0.0, "V") if o.dtype == "int16" else None
    unit = "1" if codes else "V"
    names = tuple(f"ch{c}" for c in range(o.channels))
    if o.layout == "interleaved":
        channels = [Channel("adc", o.dtype, unit, (o.channels,), names, codes)]
    else:
        channels = [Channel(name, o.dtype, unit, calibration=codes) for name in names]
    if o.status:
        channels += [Channel("high", "bool"), Channel("level", "text", max_bytes=8)]
    return schema(channels, None if o.irregular else rate)


# ---- the simulated hardware -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Device:
    """What stands on the bench: it outlives the driver objects that speak to it. Guarded by its lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    wake: threading.Event = field(default_factory=threading.Event)
    """Set when something happened that a waiting read should look at."""
    counter: str = ""
    next: int = 0
    """The first row that has not been taken out of the device."""
    origin_ns: int = 0
    """Steady time of row 0."""
    offline_until_ns: int = 0
    lag_until_ns: int = 0
    catching_up: bool = False
    hang: tuple[float, bool] | None = None
    """Seconds for which the next verb hangs, and whether it does so even when it is closed."""
    skip: int = 0
    withhold: int = 0
    again: list[bool] = field(default_factory=list)
    """Repeats asked for; True for one with other values."""
    held: list[tuple[int, int, int]] = field(default_factory=list)
    """Rows held back, and the row after which they are sent."""
    last: tuple[int, int] | None = None
    """The rows sent last."""
    ticks: list[int] = field(default_factory=list)
    """Per scheduled fault, its period number when it last came up."""
    produced: int = 0
    sent: int = 0
    duplicated: int = 0
    conflicting: int = 0
    dropped: int = 0
    missed: int = 0
    withheld: int = 0

    def advance(self, to: int) -> None:
        self.produced += to - self.next
        self.next = to


_BENCHES: WeakKeyDictionary[Clock, dict[str, _Device]] = WeakKeyDictionary()
"""The simulated devices by the clock of their station: a reconnect makes a new driver, but finds the old device."""


class WaveformDriver:
    """A simulated digitizer as an instrument. The methods that make faults may be called from any thread."""

    Options = WaveformOptions

    def __init__(self, instrument_id: str, options: WaveformOptions, clock: Clock) -> None:
        if problems := options.problems():
            raise ValueError("; ".join(problems))
        self._id, self._o, self._clock = instrument_id, options, clock
        self._rate = Fraction(options.rate_hz).limit_denominator(1_000_000)
        if not self._rate:
            raise ValueError(f"rate_hz: {options.rate_hz} is too low")
        self._schema = _schema(options, self._rate)
        self._names = ["wave"] if options.streams == 1 else [f"wave{i}" for i in range(options.streams)]
        self._rows = options.rows_per_block
        self._free = not options.unpaced if options.free_running is None else options.free_running
        self._device = _BENCHES.setdefault(clock, {}).setdefault(instrument_id, _Device())
        self._closed = threading.Event()
        self._armed = False

    @property
    def resource(self) -> str | None:
        """None: there are as many as one likes."""
        return None

    # ---- the verbs ----

    def identity(self) -> Identity:
        """Fixed, with the instrument's id as its serial number."""
        self._answer()
        return Identity("scidaq", "simulated digitizer", self._id, "1")

    def describe(self) -> Sequence[StreamSpec]:
        """One spec per stream; the counter is known once it is armed."""
        self._answer()
        return self._specs(None)

    def arm(self) -> Sequence[StreamSpec]:
        """Start: at the next row of a free-running device, else at row 0 of a new counter."""
        self._answer()
        self._table = _table(self._o)
        device = self._device
        with device.lock:
            now = self._clock.steady_ns()
            if self._free:
                counter = f"{self._clock.anchor.boot_id}:{self._o.seed}:{self._rate}"
                start = self._row_at(now, 0) + 1
                if device.counter == counter:
                    device.missed += max(0, start - device.next)
                    device.advance(max(start, device.next))
                else:
                    device.next, device.origin_ns, device.held, device.withheld = start, 0, [], 0
            else:
                counter = uuid.uuid4().hex
                device.next, device.origin_ns, device.last = 0, now, None
                device.missed, device.withheld, device.held = device.missed + device.withheld, 0, []
            device.counter = counter
            device.catching_up = False
            device.ticks = [now // round(f.every_s * NS) for f in self._o.faults]
        self._armed = True
        return self._specs(counter)

    def read(self, timeout_s: float) -> Sequence[Block]:
        """The blocks that are complete; all streams have the same rows."""
        device, deadline = self._device, self._clock.monotonic_s() + timeout_s
        while True:
            device.wake.clear()  # before looking: what happens from here on ends the wait below
            self._answer()
            with device.lock:
                now = self._clock.steady_ns()
                self._apply_schedule(now)
                taken = self._take(now)
                pause = 0.0 if taken else self._pause_s(now)
            if taken:
                return [self._block(name, *rows) for rows in taken for name in self._names]
            left = deadline - self._clock.monotonic_s()
            if left <= 0:
                return ()
            self._clock.wait(device.wake, min(left, pause))

    def disarm(self) -> None:
        """Stop delivering; a free-running device counts on."""
        self._armed = False

    def close(self) -> None:
        """Let go of the device; a read that waits raises `InstrumentDisconnected`."""
        self._closed.set()
        self._device.wake.set()

    # ---- faults and truth ----

    def drop(self, rows: int) -> None:
        """Skip numbers: the next rows are never sent."""
        self._request(skip=rows)

    def duplicate(self) -> None:
        """Send the last rows again."""
        self._request(again=False)

    def conflict(self) -> None:
        """Send the last rows again with other values."""
        self._request(again=True)

    def late(self, rows: int) -> None:
        """Hold the next rows back, and send them after two more blocks. Raises `ValueError` without `backfill`."""
        if not self._o.backfill:
            raise ValueError("late rows need backfill = true")
        self._request(withhold=rows)

    def lag(self, seconds: float) -> None:
        """Deliver nothing for a while, then all of it."""
        self._request(lag_s=seconds)

    def disconnect(self, seconds: float) -> None:
        """Answer nothing for a while, not even to a new connection; a free-running device counts on."""
        self._request(offline_s=seconds)

    def hang(self, seconds: float, *, stubborn: bool = False) -> None:
        """Let the next verb hang until `close`, or for all of the time when `stubborn`."""
        self._request(hang=(seconds, stubborn))

    def truth(self) -> Truth:
        """What the device did so far, over all connections."""
        d = self._device
        with d.lock:
            return Truth(d.produced, d.sent, d.duplicated, d.conflicting, d.dropped, d.missed, d.withheld)

    def _request(
        self,
        *,
        skip: int = 0,
        withhold: int = 0,
        again: bool | None = None,
        lag_s: float = 0.0,
        offline_s: float = 0.0,
        hang: tuple[float, bool] | None = None,
    ) -> None:
        with self._device.lock:
            self._note(skip, withhold, again, lag_s, offline_s, hang)
        self._device.wake.set()

    def _note(
        self,
        skip: int,
        withhold: int,
        again: bool | None,
        lag_s: float,
        offline_s: float,
        hang: tuple[float, bool] | None,
    ) -> None:
        device, now = self._device, self._clock.steady_ns()
        device.skip += skip
        device.withhold += withhold
        if again is not None:
            device.again.append(again)
        if lag_s:
            device.lag_until_ns, device.catching_up = now + round(lag_s * NS), True
        if offline_s:
            device.offline_until_ns = now + round(offline_s * NS)
        if hang:
            device.hang = hang

    def _apply_schedule(self, now: int) -> None:
        for i, fault in enumerate(self._o.faults):
            tick = now // round(fault.every_s * NS)
            if tick == self._device.ticks[i]:
                continue
            self._device.ticks[i] = tick
            kind = fault.kind
            self._note(
                fault.rows if kind == "drop" else 0,
                fault.rows if kind == "late" else 0,
                kind == "conflict" if kind in ("duplicate", "conflict") else None,
                fault.seconds if kind == "lag" else 0.0,
                fault.seconds if kind == "disconnect" else 0.0,
                (fault.seconds, False) if kind == "hang" else None,
            )

    # ---- inside ----

    def _answer(self) -> None:
        """What each verb begins with: the device may hang, be closed, or be out of reach."""
        device = self._device
        with device.lock:
            hang, device.hang = device.hang, None
        if hang is not None:
            seconds, stubborn = hang
            self._clock.wait(threading.Event() if stubborn else self._closed, seconds)
        if self._closed.is_set():
            raise InstrumentDisconnected(_CLOSED)
        if device.offline_until_ns > self._clock.steady_ns():
            raise InstrumentDisconnected("the simulated digitizer is out of reach")

    def _specs(self, counter: str | None) -> tuple[StreamSpec, ...]:
        return tuple(StreamSpec(name, self._schema, counter, self._o.backfill) for name in self._names)

    def _row_at(self, steady_ns: int, origin_ns: int) -> int:
        """The newest row at this time."""
        if self._o.irregular:
            steady_ns -= NS * self._rate.denominator // (2 * self._rate.numerator)
        return (steady_ns - origin_ns) * self._rate.numerator // (NS * self._rate.denominator)

    def _time_of(self, row: int) -> int:
        """Steady time of a row's grid point (rounded up, so that the row exists then)."""
        return self._device.origin_ns - (-row * NS * self._rate.denominator // self._rate.numerator)

    def _pause_s(self, now: int) -> float:
        """Seconds until there can be something to take; the lock is held."""
        device = self._device
        due = self._time_of(device.next + max(self._rows, device.withhold) - 1)
        if self._o.irregular:
            due += NS * self._rate.denominator // (2 * self._rate.numerator) + 1
        return max(MIN_PAUSE_S, (max(due, device.lag_until_ns) - now) / NS)

    def _take(self, now: int) -> list[tuple[int, int, bool]]:
        """Rows `[first, end)` to send, and whether with other values; the lock is held."""
        device, rows = self._device, self._rows
        out: list[tuple[int, int, bool]] = []
        if device.last is not None:
            for other in device.again:
                out.append((*device.last, other))
                size = device.last[1] - device.last[0]
                device.sent += size
                device.conflicting += size if other else 0
                device.duplicated += 0 if other else size
            device.again.clear()
        if now < device.lag_until_ns or not self._armed:
            return out
        if device.skip:
            device.dropped += device.skip
            device.advance(device.next + device.skip)
            device.skip = 0
        available = device.next + UNPACED_BLOCKS * rows if self._o.unpaced else self._row_at(now, device.origin_ns) + 1
        self._overflow(available)
        if device.withhold and (self._o.unpaced or available - device.next >= device.withhold):
            first = device.next
            device.advance(first + device.withhold)
            device.held.append((first, device.next, device.next + 2 * rows))
            device.withheld += device.withhold
            device.withhold = 0
            available = max(available, device.next + rows) if self._o.unpaced else available
        while available - device.next >= rows and len(out) < MAX_BLOCKS and not device.withhold:
            device.last = (device.next, device.next + rows)
            device.advance(device.next + rows)
            device.sent += rows
            out.append((*device.last, False))
        device.catching_up = device.catching_up and available - device.next >= rows
        for held in [h for h in device.held if h[2] <= device.next]:
            device.held.remove(held)
            device.withheld -= held[1] - held[0]
            device.sent += held[1] - held[0]
            out += [(at, min(at + rows, held[1]), False) for at in range(held[0], held[1], rows)]
        return out

    def _overflow(self, available: int) -> None:
        """Forget what the device's own buffer cannot keep."""
        device = self._device
        keep = max(2 * self._rows, round(self._o.buffer_s * self._o.rate_hz))
        if not device.catching_up and available - device.next > keep:
            device.missed += available - keep - device.next
            device.advance(available - keep)

    def _block(self, stream: str, first: int, end: int, other: bool) -> Block:
        table, rows = self._table, end - first
        at = first % table.length
        columns: tuple[Array, ...] = tuple([column[at : at + rows] for column in table.columns])
        if other:
            columns = tuple(_other(column) for column in columns)
        times = None
        t0_ns = self._clock.at_ns(self._time_of(first))
        if self._o.irregular:
            period = NS * self._rate.denominator / self._rate.numerator
            grid = np.arange(rows) * period + table.jitter[at : at + rows] * period
            times = t0_ns + grid.astype(np.int64)
        return Block(stream, 0, first, self._schema, columns, t0_ns, times, None, self._clock.now_ns())


def _other(column: Array) -> Array:
    if column.dtype.kind == "S":
        return np.full_like(column, b"other")
    return ~column if column.dtype.kind == "b" else column + column.dtype.type(1)
