"""What a station says of itself, its streams and its instruments: frozen, and forgiving towards a newer station."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from scidaq.block import Channel
from scidaq.catalog import Hold, Note, Run

T = TypeVar("T")
Value = float | int | bool | str


@dataclass(frozen=True, slots=True)
class Status:
    """How a station is, in short."""

    name: str
    uuid: str
    version: str
    started_ns: int
    """UTC nanoseconds since 1970, as are all that end so."""
    now_ns: int
    ready: bool
    """Whether it accepts data."""
    why_not: str
    """Why it does not; empty while it does."""
    instruments: Mapping[str, str]
    """State of each, by id."""
    streams: int
    """How many are being recorded."""
    rows: int
    durable_rows: int
    """Of these, those that survive a power cut."""
    free_bytes: int


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """What is recorded of an epoch."""

    epoch: int
    rows: int
    durable_rows: int
    gap_rows: int
    first_ns: int | None
    last_ns: int | None
    bytes: int
    rate_hz: float | None
    """None where rows come irregularly."""
    channels: tuple[Channel, ...]
    """As their calibrated values are."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What is recorded of a stream."""

    id: str
    live: bool
    """Whether the station has recorded it since its start."""
    rows: int
    durable_rows: int
    gap_rows: int
    first_ns: int | None
    last_ns: int | None
    bytes: int
    epochs: tuple[EpochFacts, ...] = ()
    """Empty in a list of streams."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels of the newest epoch."""
        return self.epochs[-1].channels if self.epochs else ()


@dataclass(frozen=True, slots=True)
class InstrumentFacts:
    """An instrument as it is."""

    id: str
    driver: str
    identity: str
    """Manufacturer, model, serial number and firmware, once it has said so."""
    state: str
    """connecting, ready, acquiring, degraded, failed or stopped."""
    wanted: str
    """How far it is to go: disconnected, ready or acquiring."""
    since_ns: int
    reason: str
    """Why it is degraded or failed."""
    streams: tuple[str, ...]
    rows: int
    errors: int
    reconnects: int
    last_row_ns: int
    leased_by: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that went wrong with an instrument, once or again and again."""

    kind: str
    message: str
    advice: str
    first_ns: int
    last_ns: int
    count: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """A setting of an instrument, as it is now."""

    name: str
    value: Value | None
    """What the instrument said that it is; None where it was not asked."""
    unit: str
    """UCUM unit of a number."""
    dtype: str
    limits: tuple[float, float] | None
    """Lowest and highest value of a number, both allowed."""
    choices: tuple[Value, ...]
    """The values there are, when they can be listed."""
    settable: bool
    resolution: float
    description: str
    read_ns: int | None

    def __str__(self) -> str:
        allowed = f", {self.limits[0]:g} to {self.limits[1]:g}" if self.limits else ""
        allowed += f", one of {', '.join(map(str, self.choices))}" if self.choices else ""
        unit = "" if self.unit == "1" else f" {self.unit}"
        return f"{self.name} = {self.value}{unit}{allowed}{'' if self.settable else ', read only'}"


def taken(kind: type[T], said: Mapping[str, Any], **other: Any) -> T:
    """The fact that `said` tells; what is not known here is passed over. Raises `TypeError` for what is missing."""
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: v for k, v in {**said, **other}.items() if k in known})


def stream_of(said: Mapping[str, Any]) -> StreamFacts:
    """A stream, with its epochs where they are told."""
    epochs = (taken(EpochFacts, e, channels=tuple(map(_channel, e["channels"]))) for e in said.get("epochs", ()))
    return taken(StreamFacts, said, epochs=tuple(epochs))


def _channel(said: Mapping[str, Any]) -> Channel:
    text = said["dtype"] == "text"
    return Channel.from_json({**said, "max_bytes": said.get("max_bytes") or (65_536 if text else 0)})


def instrument_of(said: Mapping[str, Any]) -> InstrumentFacts:
    """An instrument."""
    lease = said.get("lease")
    leased_by = lease["holder"] if lease else None
    return taken(InstrumentFacts, said, streams=tuple(said["streams"]), leased_by=leased_by)


def parameter_of(said: Mapping[str, Any]) -> Parameter:
    """A parameter."""
    limits = said["limits"]
    pair = None if limits is None else (limits[0], limits[1])
    return taken(Parameter, said, limits=pair, choices=tuple(said["choices"]))


def run_of(said: Mapping[str, Any]) -> Run:
    """A run."""
    return Run.from_json(_known(Run, said))


def note_of(said: Mapping[str, Any]) -> Note:
    """A note."""
    return Note.from_json(_known(Note, said))


def hold_of(said: Mapping[str, Any]) -> Hold:
    """A hold."""
    return Hold.from_json(_known(Hold, said))


def _known(kind: type[Any], said: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {k: v for k, v in said.items() if k in names}
