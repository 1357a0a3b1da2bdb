"""The driver contract: what code that talks to one kind of instrument offers, and nothing about how it does it.

Six verbs, called in this order by supervision, from one thread: `identity` (connects), `describe`, `arm`, `read` again
and again, `disarm`, `close`. An instance is one connection: after `close` it is thrown away, a reconnect makes a new
one. Only `close` may come from another thread, at any time. What an instrument can do beyond that is said by its type:
`HasParameters`, `HasSafeState`, `HasCounts`, `HasEnd`. How to write one: `docs/instruments.md`;
`scidaq.testing.DriverContract` checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from scidaq.block import Block, StreamSpec
from scidaq.clock import Clock
from scidaq.errors import ParameterError, UnknownParameter

Value = float | int | bool | str
"""What a parameter can be set to."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers at the other end: the four fields of `*IDN?` (IEEE 488.2, 10.14), or what stands for them."""

    manufacturer: str
    model: str
    serial: str = ""
    firmware: str = ""

    def same_device(self, other: Identity) -> bool:
        """Whether both are the same piece of hardware; its firmware may have been updated."""
        return (self.manufacturer, self.model, self.serial) == (other.manufacturer, other.model, other.serial)

    def __str__(self) -> str:
        return ", ".join(part for part in (self.manufacturer, self.model, self.serial, self.firmware) if part)


class Rearm(Exception):
    """Raised by `read` when the source goes on under another `counter`: it is armed again, and nothing is wrong."""


@runtime_checkable
class Driver(Protocol):
    """What supervision needs of an instrument.

    The constructor `(instrument_id, options, clock)` does no I/O; it raises `ValueError` with the names of the fields
    for options that contradict one another. Every verb but `close` raises a leaf of `InstrumentError` when the
    instrument does not do as it should; anything else counts as a bug of the driver.
    """

    @property
    def resource(self) -> str | None:
        """What two instruments cannot share, as `tcp://host:port` or a serial port; None when they can."""

    def identity(self) -> Identity:
        """Connect, unless connected, and ask the instrument who it is."""

    def describe(self) -> Sequence[StreamSpec]:
        """The streams it would deliver; may ask the instrument."""

    def arm(self) -> Sequence[StreamSpec]:
        """Start acquisition; the streams as they are now in force, with the `counter` of numbered sources."""

    def read(self, timeout_s: float) -> Sequence[Block]:
        """What has arrived: blocks in the source's numbering, `Block(stream=<StreamSpec.name>, epoch=0, ...)`.

        Waits up to `timeout_s` (plus at most the driver's own I/O timeout) and returns nothing when nothing came.
        Sources without numbers are counted from 0 at `arm`. `t0_ns` is the best estimate of the time of the first
        row. Rows come in ascending order, save those of a stream with `backfill`. Raises `Rearm` to be armed again.
        """

    def disarm(self) -> None:
        """Stop acquisition; the instrument stays connected."""

    def close(self) -> None:
        """Let go of the instrument. Idempotent, never raises, and ends a verb that waits in another thread."""


DriverFactory = Callable[[str, Any, Clock], Driver]
"""A driver class, as it is found by name: called with the instrument's id, its options and the clock."""


# ---- capabilities ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting of an instrument: its name, what it may be, and whether it can be changed."""

    name: str
    unit: str = "1"
    """UCUM unit of a number."""
    dtype: Literal["float64", "int64", "bool", "text"] = "float64"
    limits: tuple[float, float] | None = None
    """Lowest and highest value of a number, both allowed."""
    choices: tuple[Value, ...] = ()
    """The values there are, when they can be listed."""
    settable: bool = True
    resolution: float = 0.0
    """How far, in its unit, the value that is read back may be from the one that was set."""
    description: str = ""

    def check(self, value: Value) -> Value:
        """`value` in the parameter's type. Raises `ParameterError` that says what would be allowed."""
        if not self.settable:
            raise ParameterError(f"parameter {self.name!r} can only be read")
        value = self._typed(value)
        if self.choices and value not in self.choices:
            raise ParameterError(
                f"parameter {self.name!r}: {value!r} is not one of {', '.join(map(str, self.choices))}"
            )
        if self.limits is not None and not isinstance(value, str):
            low, high = self.limits
            if not low <= value <= high:
                raise ParameterError(f"parameter {self.name!r}: {value} is outside {low} to {high} {self.unit}")
        return value

    def _typed(self, value: Value) -> Value:
        problem = ParameterError(f"parameter {self.name!r} is {self.dtype}, which {value!r} is not")
        if self.dtype == "text":
            if not isinstance(value, str):
                raise problem
            return value
        if self.dtype == "bool":
            if value not in (False, True):
                raise problem
            return bool(value)
        if isinstance(value, bool | str) or not math.isfinite(value):
            raise problem
        if self.dtype == "int64":
            if value != int(value):
                raise problem
            return int(value)
        return float(value)

    def agrees(self, wanted: Value, got: Value) -> bool:
        """Whether what was read back is what was set, within `resolution` and the rounding of decimal replies."""
        if isinstance(wanted, str) or isinstance(got, str):
            return wanted == got
        return abs(got - wanted) <= max(self.resolution, 1e-6 * abs(wanted))


@runtime_checkable
class HasParameters(Protocol):
    """An instrument with settings. Its verbs are called from the same thread as those of `Driver`, while connected."""

    def parameters(self) -> Sequence[Parameter]:
        """All there are; may be empty."""

    def get(self, name: str) -> Value:
        """Ask the instrument. Raises `ParameterError` for an unknown name."""

    def set(self, name: str, value: Value) -> Value:
        """Set, then ask the instrument what it made of it. Raises `ParameterError` when it refuses."""


@runtime_checkable
class HasSafeState(Protocol):
    """An instrument that can do harm when it is left alone (an output that is on, a heater)."""

    def safe(self) -> None:
        """Bring it to a state that it may stay in; called before acquisition ends."""


@runtime_checkable
class HasCounts(Protocol):
    """An instrument whose driver counts what happens, for the statistics."""

    def counted(self) -> Mapping[str, int]:
        """Counts of this connection by name, which only grow. Called from any thread; returns at once."""


@runtime_checkable
class HasEnd(Protocol):
    """A source that comes to an end: a recording that is played, a measurement of so many rows."""

    def ended(self) -> bool:
        """Whether everything has been delivered: that nothing comes is no fault from then on."""


def parameter_named(driver: HasParameters, name: str) -> Parameter:
    """The parameter of this name. Raises `UnknownParameter` with the names there are."""
    known = driver.parameters()
    for parameter in known:
        if parameter.name == name:
            return parameter
    raise UnknownParameter(f"no parameter {name!r}; there are {', '.join(p.name for p in known) or 'none'}")


def set_parameter(
    driver: HasParameters,
    name: str,
    value: Value,
    heard: Callable[[Parameter, Value, Value], None] = lambda parameter, wanted, got: None,
) -> Value:
    """Check a value against its limits, set it, and compare what is read back; returns that.

    `heard` is told what was asked and what was read back, be it the same or not. Raises `ParameterError` when the
    parameter is unknown, the value not allowed (then nothing was sent), or the instrument holds another value
    afterwards.
    """
    parameter = parameter_named(driver, name)
    wanted = parameter.check(value)
    got = driver.set(name, wanted)
    heard(parameter, wanted, got)
    if not parameter.agrees(wanted, got):
        raise ParameterError(f"parameter {name!r} was set to {wanted!r} and reads back {got!r}")
    return got
