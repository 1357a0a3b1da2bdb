"""Fakes for those who work with instruments: a driver that does what the test says, a sink that keeps everything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scidaq.block import Block, Channel, Reason, StreamSpec, schema
from scidaq.clock import Clock
from scidaq.errors import InstrumentDisconnected, ParameterError
from scidaq.instruments import Identity, Parameter, Value

FAKE_STREAM = StreamSpec("fake", schema([Channel("value", "int64")], rate=100))


@dataclass(slots=True)
class ListSink:
    """A `Sink` that keeps what it is given, in order. `told` is notified of each, so that a test can wait for it."""

    specs: list[Sequence[StreamSpec]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    interruptions: list[tuple[Reason, int, str]] = field(default_factory=list)
    told: threading.Condition = field(default_factory=threading.Condition)

    def begin(self, specs: Sequence[StreamSpec]) -> None:
        with self.told:
            self.specs.append(specs)
            self.told.notify_all()

    def accept(self, block: Block) -> None:
        with self.told:
            self.blocks.append(block)
            self.told.notify_all()

    def interrupted(self, reason: Reason, since_ns: int, detail: str) -> None:
        with self.told:
            self.interruptions.append((reason, since_ns, detail))
            self.told.notify_all()

    def wait_for(self, what: Callable[[ListSink], bool], timeout_s: float = 5.0) -> None:
        """Wait until `what(self)` is true. Raises `AssertionError` when it does not become so."""
        with self.told:
            assert self.told.wait_for(lambda: what(self), timeout_s), f"not within {timeout_s} s: {self}"


@dataclass(slots=True)
class FakeInstrument:
    """What `FakeDriver`s talk to. A test changes it while they do; it counts the verbs."""

    identity: Identity = field(default_factory=lambda: Identity("Fake", "Model 1", "0001", "1.0"))
    fail: dict[str, list[BaseException]] = field(default_factory=dict)
    """Per verb what its next calls raise, first come first."""
    hang: dict[str, int] = field(default_factory=dict)
    """How many more calls of a verb do not return until `release` is set."""
    release: threading.Event = field(default_factory=threading.Event)
    quiet: bool = False
    """Whether there are no rows."""
    deaf_to_close: bool = True
    """Whether `close` fails to end a verb that hangs."""
    values: dict[str, Value] = field(default_factory=lambda: {"level": 1.0})
    stuck: Value | None = None
    """What it holds instead of what is set, if anything."""
    calls: list[str] = field(default_factory=list)
    """The verbs in the order in which they were called, over all connections."""

    def driver(self, clock: Clock) -> FakeDriver:
        """A new connection."""
        return FakeDriver(self, clock)


class FakeDriver:
    """A driver with numbered rows (a new counter per arm), one parameter `level`, and a safe state."""

    resource: str | None = None

    def __init__(self, instrument: FakeInstrument, clock: Clock) -> None:
        self._instrument, self._clock = instrument, clock
        self._closed = threading.Event()
        self._row = 0

    def _verb(self, name: str) -> None:
        instrument = self._instrument
        instrument.calls.append(name)
        self._hang(name, instrument.release if instrument.deaf_to_close else self._closed)
        if failures := instrument.fail.get(name):
            raise failures.pop(0)

    def _hang(self, verb: str, end: threading.Event) -> None:
        left = self._instrument.hang.get(verb, 0)
        if left:
            self._instrument.hang[verb] = left - 1
            end.wait()

    def identity(self) -> Identity:
        self._verb("identity")
        return self._instrument.identity

    def describe(self) -> Sequence[StreamSpec]:
        self._verb("describe")
        return (FAKE_STREAM,)

    def arm(self) -> Sequence[StreamSpec]:
        self._verb("arm")
        self._row = 0
        return (FAKE_STREAM,)

    def read(self, timeout_s: float) -> Sequence[Block]:
        self._verb("read")
        if self._closed.is_set() or self._clock.wait(self._closed, timeout_s):
            raise InstrumentDisconnected("closed")
        if self._instrument.quiet:
            return ()
        self._row += 1
        now = self._clock.now_ns()
        return (Block.of(FAKE_STREAM.schema, [[self._row - 1]], stream="fake", first=self._row - 1, t0_ns=now),)

    def disarm(self) -> None:
        self._verb("disarm")

    def close(self) -> None:
        self._instrument.calls.append("close")
        self._closed.set()
        self._hang("close", self._instrument.release)

    def safe(self) -> None:
        self._verb("safe")

    def parameters(self) -> Sequence[Parameter]:
        return (Parameter("level", "V", limits=(0.0, 10.0)),)

    def get(self, name: str) -> Value:
        self._verb("get")
        if name not in self._instrument.values:
            raise ParameterError(f"no parameter {name!r}")
        return self._instrument.values[name]

    def set(self, name: str, value: Value) -> Value:
        self._verb("set")
        self._instrument.values[name] = value if self._instrument.stuck is None else self._instrument.stuck
        return self.get(name)
