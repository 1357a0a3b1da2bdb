"""An instrument that is a program elsewhere: it pushes rows with numbers and times of its own.

The driver talks to nobody. The station's doors hand it blocks (`TakesRows.producer`), which the next `read` gives to
supervision. A block counts as taken when supervision has come back for the next one; until then whoever pushes waits,
so nothing is lost to a full ring. The numbering is the producer's: its `counter` names it, so rows that come again
after a broken connection are known, and a producer that begins at 0 again says so by another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, runtime_checkable

from annotated_types import Ge, Gt, Le

from scidaq.block import Block, Calibration, Channel, Schema, StreamSpec, schema
from scidaq.clock import Clock
from scidaq.errors import InstrumentDisconnected, RequestError, TooMany
from scidaq.instruments.driver import Identity, Rearm

LEASE_S = 30.0
"""How long a producer may be silent before another one may take its place."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class PushChannel:
    """One quantity that the producer measures."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    unit: str = "1"
    """UCUM unit of what is pushed."""
    dtype: str = "float64"
    """A number type, `bool` or `text`."""
    shape: tuple[int, ...] = ()
    """`[n]` for several numbers a row, `[height, width]` for an image."""
    labels: tuple[str, ...] = ()
    """For shape `[n]`: a name per number."""
    max_bytes: Annotated[int, Ge(0), Le(65_536)] = 0
    """For text: the longest one in bytes."""
    scale: float | None = None
    """With `offset`: physical value = pushed value * scale + offset."""
    offset: float = 0.0
    physical_unit: str | None = None
    """UCUM unit of the physical value; that of what is pushed when left out."""
    description: str = ""

    def channel(self) -> Channel:
        """As it appears in the schema. Raises `InvalidBlock` or `ValueError`."""
        calibration = None
        if self.scale is not None:
            calibration = Calibration(self.scale, self.offset, self.physical_unit or self.unit)
        elif self.offset or self.physical_unit:
            raise ValueError("offset and physical_unit need scale")
        return Channel(
            self.name, self.dtype, self.unit, self.shape, self.labels, calibration, self.max_bytes, self.description
        )


@dataclass(frozen=True, slots=True)
class PushStream:
    """Channels that are measured together."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    channels: tuple[PushChannel, ...]
    rate_hz: Annotated[float, Gt(0)] | None = None
    """Rows per second, by the producer's clock; without it each row comes with its own time."""

    def spec(self, counter: str | None = None) -> StreamSpec:
        """As it is announced. Raises `InvalidBlock` or `ValueError`."""
        made = schema((one.channel() for one in self.channels), self.rate_hz)
        return StreamSpec(self.name, made, counter, own_times=True)


@dataclass(frozen=True, slots=True)
class PushOptions:
    """A program elsewhere that pushes rows over Arrow Flight."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    streams: tuple[PushStream, ...]
    """What it may push."""


class Producer(Protocol):
    """A program that pushes rows of one stream. Used by one thread."""

    @property
    def spec(self) -> StreamSpec:
        """The stream, under the producer's counter."""

    def heard(self) -> None:
        """It has given a sign of life."""

    def hand_over(self, block: Block, waited: Callable[[], None]) -> None:
        """Give a block in the producer's numbering, and wait until it has been taken.

        `waited` is called now and then meanwhile, and may raise to give up. Raises `InstrumentDisconnected` when the
        instrument was closed, or another connection of this producer took the place of this one.
        """

    def close(self, *, clean: bool) -> None:
        """It has gone; `clean` when it said so."""


@runtime_checkable
class TakesRows(Protocol):
    """An instrument whose rows are handed to it. Its verbs may be called from any thread."""

    def takes(self, stream: str) -> Schema:
        """What the rows of a stream have to be. Raises `RequestError` for one that is not configured."""

    def producer(self, stream: str, counter: str, holder: str) -> Producer:
        """Let a producer in, who numbers its rows by `counter`; `holder` is told to others who want to.

        Raises `RequestError` for a stream that is not configured, `TooMany` while another producer has it, and
        `InstrumentDisconnected` after `close`.
        """


class _Handed:
    """A block on its way through `read`."""

    __slots__ = ("block", "taken")

    def __init__(self, block: Block) -> None:
        self.block, self.taken = block, threading.Event()


class PushDriver:
    """Gives what producers hand over. Rows have the producer's numbers, under its counter."""

    Options = PushOptions

    def __init__(self, instrument_id: str, options: PushOptions, clock: Clock) -> None:
        self._id, self._clock = instrument_id, clock
        if not options.streams:
            raise ValueError("streams: a producer pushes at least one stream")
        self._streams = {one.name: one for one in options.streams}
        if len(self._streams) < len(options.streams):
            raise ValueError("streams: two of them have the same name")
        self._schemas: dict[str, Schema] = {}
        for one in options.streams:
            try:
                self._schemas[one.name] = one.spec().schema
            except ValueError as error:
                raise ValueError(f"streams: {one.name}: {error}") from error
        self._lock = threading.Lock()
        self._news = threading.Event()
        """Something waits for `read`."""
        self._closed = False
        self._producers: dict[str, _Producer] = {}
        self._counters: dict[str, str] = {}
        """The newest counter of each stream that ever had a producer."""
        self._armed: dict[str, str] = {}
        """Those that have been announced."""
        self._waiting: list[_Handed] = []
        self._given: list[_Handed] = []
        """What the last `read` gave, and supervision may not have taken yet."""
        self._lost: set[str] = set()
        """Streams whose producer went without a word."""
        self._counts = {"producers": 0, "producers_lost": 0, "producers_replaced": 0}

    @property
    def resource(self) -> str | None:
        """None: it holds nothing."""
        return None

    # ---- the verbs ----

    def identity(self) -> Identity:
        """What stands for the program, which may not be there yet."""
        self._check_open()
        return Identity("scidaq", "push", self._id)

    def describe(self) -> Sequence[StreamSpec]:
        """All streams that are configured."""
        self._check_open()
        return tuple(one.spec(self._counters.get(one.name)) for one in self._streams.values())

    def arm(self) -> Sequence[StreamSpec]:
        """The streams that have had a producer: of the others nobody knows the numbering yet."""
        self._check_open()
        with self._lock:
            self._armed = dict(self._counters)
        return tuple(self._streams[name].spec(counter) for name, counter in self._armed.items())

    def read(self, timeout_s: float) -> Sequence[Block]:
        """What has been handed over. Raises `Rearm` when a producer with another counter has come."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            self._check_open()
            with self._lock:
                self._settle()
                self._news.clear()
                if self._counters != self._armed:
                    raise Rearm("a producer has come")
                if self._waiting:
                    self._given, self._waiting = self._waiting, []
                    return [one.block for one in self._given]
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                return ()
            self._clock.wait(self._news, left_s)

    def disarm(self) -> None:
        """What was given has been taken; what waits goes on waiting."""
        with self._lock:
            self._settle()

    def close(self) -> None:
        """Ends a read that waits, and everybody who pushes."""
        with self._lock:
            self._closed = True
            self._settle()
            self._news.set()

    def ended(self) -> bool:
        """Whether nobody is expected to push: none has come yet, or all have said that they go."""
        return not self._producers and not self._lost

    def counted(self) -> Mapping[str, int]:
        """Producers that came, that went without a word, and that were replaced by a new connection."""
        return dict(self._counts)

    # ---- producers ----

    def takes(self, stream: str) -> Schema:
        """What the rows of a stream have to be."""
        if stream not in self._schemas:
            raise RequestError(
                f"{self._id} takes no stream {stream!r}; it takes {', '.join(self._streams)} (see its configuration)"
            )
        return self._schemas[stream]

    def producer(self, stream: str, counter: str, holder: str) -> Producer:
        """Let a producer in."""
        self.takes(stream)
        spec = self._streams[stream].spec(counter)
        with self._lock:
            self._check_open()
            now_s, there = self._clock.monotonic_s(), self._producers.get(stream)
            if there is not None:
                silent_s = now_s - there.heard_s
                if there.spec.counter != counter and silent_s < LEASE_S:
                    raise TooMany(
                        f"{self._id}/{stream} has a producer already, {there.holder}, who was heard {silent_s:.0f} s "
                        f"ago: one at a time, and another when it has gone or been silent for {LEASE_S:.0f} s"
                    )
                self._counts["producers_replaced"] += 1
            new = self._producers[stream] = _Producer(self, spec, holder, now_s)
            self._counters[stream] = counter
            self._lost.discard(stream)
            self._counts["producers"] += 1
            self._news.set()
        return new

    def _hand_over(self, who: _Producer, block: Block, waited: Callable[[], None]) -> None:
        if block.stream != who.spec.name or block.schema != who.spec.schema:
            raise RequestError(f"{self._id}/{who.spec.name}: the rows are of another stream or schema")
        handed = _Handed(block)
        with self._lock:
            self._check_current(who)
            self._waiting.append(handed)
            self._news.set()
        while not self._clock.wait(handed.taken, _POLL_S):
            with self._lock:
                self._check_current(who)
            waited()

    def _check_current(self, who: _Producer) -> None:
        self._check_open()
        if self._producers.get(who.spec.name) is not who:
            raise InstrumentDisconnected(f"{self._id}/{who.spec.name}: another connection took the place of this one")

    def _leave(self, who: _Producer, clean: bool) -> None:
        with self._lock:
            if self._producers.get(who.spec.name) is not who:
                return
            del self._producers[who.spec.name]
            if not clean:
                self._lost.add(who.spec.name)
                self._counts["producers_lost"] += 1

    # ---- inside ----

    def _settle(self) -> None:
        for one in self._given:
            one.taken.set()
        self._given = []

    def _check_open(self) -> None:
        if self._closed:
            raise InstrumentDisconnected("closed")


class _Producer:
    """One that is there."""

    def __init__(self, driver: PushDriver, spec: StreamSpec, holder: str, now_s: float) -> None:
        self._driver, self.spec, self.holder, self.heard_s = driver, spec, holder, now_s

    def heard(self) -> None:
        self.heard_s = self._driver._clock.monotonic_s()

    def hand_over(self, block: Block, waited: Callable[[], None]) -> None:
        self.heard()
        self._driver._hand_over(self, block, waited)
        self.heard()

    def close(self, *, clean: bool) -> None:
        self._driver._leave(self, clean)
