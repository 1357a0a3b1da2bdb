"""What supervision says and hears: the sink that it feeds, the states of an instrument, its statistics, its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Protocol

from annotated_types import Ge, Gt

from scidaq.block import Block, Channel, Reason, StreamSpec, schema
from scidaq.errors import (
    GarbledReply,
    InstrumentDisconnected,
    InstrumentError,
    InstrumentTimeout,
    ParameterError,
    WrongIdentity,
)
from scidaq.stats import field_of

SETTINGS = StreamSpec(
    "settings",
    schema(
        (
            Channel("parameter", "text", max_bytes=64, description="which parameter"),
            Channel("asked", "text", max_bytes=256, description="what was to be set; missing when it was only read"),
            Channel("value", "text", max_bytes=256, description="what the instrument read back"),
            Channel("unit", "text", max_bytes=64, description="UCUM unit of both"),
        )
    ),
)
"""The irregular stream in which each setting and read-back of a parameter is a row."""


class Sink(Protocol):
    """Where the rows of one instrument go. Called from one thread at a time, never after the instrument is stopped."""

    def begin(self, specs: Sequence[StreamSpec]) -> None:
        """Acquisition starts, or starts again, with these streams."""

    def accept(self, block: Block) -> None:
        """Take a block; must not block for long."""

    def interrupted(self, reason: Reason, since_ns: int, detail: str) -> None:
        """Acquisition broke off: nothing after `since_ns` (UTC) is certain to have arrived, of any stream."""


class State(StrEnum):
    """How an instrument is."""

    CONNECTING = "connecting"
    """A connection is being made."""
    READY = "ready"
    """It answers as the instrument that it should be."""
    ACQUIRING = "acquiring"
    """It is armed and delivers."""
    DEGRADED = "degraded"
    """It is armed, and its rows are overdue."""
    FAILED = "failed"
    """It does not work; another attempt follows."""
    STOPPED = "stopped"
    """It was not started, or it was stopped on purpose."""


class Level(StrEnum):
    """How far an instrument is to go: what an operator wants of it, and not how it is."""

    DISCONNECTED = "disconnected"
    """Nobody talks to it."""
    READY = "ready"
    """It is connected: its parameters can be read and set, and nothing is acquired."""
    ACQUIRING = "acquiring"
    """It is armed, and what it delivers is recorded. So it is from the start on."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong with an instrument, once or again and again."""

    kind: str
    """Name of the error."""
    message: str
    advice: str
    """What to look at."""
    first_ns: int
    """UTC time at which it was met first."""
    last_ns: int
    """And last."""
    count: int
    """How many times in a row."""


_ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (
        WrongIdentity,
        "another device answers at this address: put the right one back, or change `identity` in the configuration",
    ),
    (
        InstrumentTimeout,
        "it did not answer in time: is it busy with a long measurement, waiting at a trigger, or set to local?",
    ),
    (
        InstrumentDisconnected,
        "there is no connection: is it switched on, is its address right, and does another program hold it?",
    ),
    (
        GarbledReply,
        "its answer was not understood: does the configured query fit the model, and does nobody else talk to it?",
    ),
    (ParameterError, "a setting was refused: see the limits and choices of its parameters"),
    (InstrumentError, "see what its front panel or its error queue says; supervision goes on trying"),
)


def advice_for(error: Exception) -> str:
    """What somebody can do about a failure of an instrument."""
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return advice
    return "its driver has a fault: the log has the traceback; tell whoever looks after the driver"


@dataclass(frozen=True, slots=True)
class SupervisionOptions:
    """How patient supervision is."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    read_timeout_s: Annotated[float, Gt(0)] = 0.25
    """How long one read waits for rows; also how long a parameter or a stop may wait for its turn."""
    hang_after_s: Annotated[float, Gt(0)] = 10.0
    """A verb that has not returned after this (a read: after this and its timeout) hangs."""
    reconnect_initial_s: Annotated[float, Gt(0)] = 0.5
    """The first pause before a new attempt; it doubles with each."""
    reconnect_max_s: Annotated[float, Gt(0)] = 30.0
    """The longest pause."""
    stable_s: Annotated[float, Ge(0)] = 10.0
    """After acquiring for this long, pauses begin at the first again."""
    late_factor: Annotated[float, Gt(1)] = 5.0
    """Rows are overdue after this many times the usual time between deliveries."""
    late_floor_s: Annotated[float, Gt(0)] = 1.0
    """Rows are never overdue before this."""
    first_row_s: Annotated[float, Gt(0)] = 10.0
    """The first rows after a connection are never overdue before this: nobody knows yet how often they come."""
    max_abandoned: Annotated[int, Ge(1)] = 3
    """How many hanging threads may be left behind before attempts wait for one of them to end."""
    stop_timeout_s: Annotated[float, Gt(0)] = 5.0
    """How long a stop may take, safe state included."""

    def __post_init__(self) -> None:
        if self.stop_timeout_s < 2 * self.read_timeout_s:
            raise ValueError("stop_timeout_s: a stop waits for the read under way, so it takes 2 * read_timeout_s")


@dataclass(frozen=True, slots=True)
class InstrumentStats:
    """One instrument at one moment."""

    instrument: str = field_of("1", "Id of the instrument.")
    driver: str = field_of("1", "Name of its driver.")
    identity: str = field_of("1", "Manufacturer, model, serial number and firmware, once it has said so.")
    state: str = field_of("1", "connecting, ready, acquiring, degraded, failed or stopped.")
    since_ns: int = field_of("ns", "UTC time since which it is in this state.")
    reason: str = field_of("1", "Why it is degraded or failed; empty otherwise.")
    blocks: int = field_of("1", "Blocks that it delivered.")
    rows: int = field_of("1", "Rows in those blocks.")
    reads: int = field_of("1", "Reads that returned, with rows or without.")
    timeouts: int = field_of("1", "Times that it did not answer before a deadline.")
    errors: int = field_of("1", "Times that it failed, for whatever reason.")
    reconnects: int = field_of("1", "Times that acquisition began again after a failure.")
    hangs: int = field_of("1", "Verbs that never returned and were abandoned.")
    abandoned_threads: int = field_of("1", "Threads left behind in such verbs that still hang.")
    refused_parameters: int = field_of("1", "Settings that were refused or read back otherwise.")
    last_row_ns: int = field_of("ns", "UTC time at which rows last arrived; 0 before the first.")
    row_age_s: float | None = field_of("s", "Time since rows last arrived, while it is armed.")
    overdue_after_s: float | None = field_of("s", "Age of rows from which it counts as degraded, while it is armed.")
    counts: Mapping[str, int] = field_of(
        "1", "What its driver counts, by name, over all connections; empty if nothing."
    )
    wanted: str = field_of("1", "disconnected, ready or acquiring: how far it is to go.", "acquiring")
