"""What the doors need of a station: the Protocols through which HTTP reaches it.

Arguments and results are blocks, buffers and frozen dataclasses, so that the doors may live in a process of their own.
Nothing here knows files or hardware. `scidaq.station.Serving` is the one implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from scidaq.block import Block, Schema
from scidaq.catalog import Fact, RunActs, RunBook, Setting, Snapshot
from scidaq.instruments import Failure, Level, Parameter, Value
from scidaq.query import Buckets, Drawn, Grid, Lane
from scidaq.station import (
    Audited,
    Export,
    ExportFile,
    ExportWanted,
    Follower,
    Happening,
    Instrument,
    Page,
    Pushing,
    SqlAnswer,
    StationStats,
    Stream,
    ViewWanted,
    Wanted,
    Watch,
)


class StationDoor(Protocol):
    """A station that is open. Every method may be called from any thread, and raises errors of `scidaq.errors`."""

    def stats(self) -> StationStats:
        """A snapshot of everything that is counted."""

    def now_ns(self) -> int:
        """UTC time of the station."""

    def health(self) -> dict[str, Any]:
        """How each component is: `status`, `time`, `components`."""

    def not_ready(self) -> str:
        """Why no data is accepted; empty while it is."""

    def metrics(self, accept: str) -> tuple[bytes, str] | None:
        """The metrics and their content type; None where they are off."""

    def instruments(self) -> list[Instrument]:
        """All of them, by id."""

    def instrument(self, instrument: str) -> Instrument:
        """One of them. Raises `UnknownInstrument`, as do all that name one."""

    def failures(self, instrument: str) -> tuple[Failure, ...]:
        """What went wrong with it of late, newest first."""

    def settings(self, instrument: str) -> Mapping[str, Setting]:
        """Its parameters as they were read last, without asking it."""

    def settings_at(self, instrument: str, t_ns: int) -> Mapping[str, Setting]:
        """Its parameters as they had been read last at a time in the past, also of one that is no longer there."""

    def snapshot(self, at_ns: int | None = None) -> Snapshot:
        """Every instrument with the settings that were read of it last, now or by a time in the past."""

    def parameters(self, instrument: str) -> Sequence[Parameter]:
        """Its parameters; it is asked."""

    def get(self, instrument: str, parameter: str) -> tuple[Parameter, Value]:
        """A parameter, and what the instrument says that it is now."""

    def set(self, instrument: str, parameter: str, value: Value, unit: str | None = None) -> tuple[Parameter, Value]:
        """Set a parameter; what the instrument says that it is then. Raises `ParameterError`."""

    def want(self, instrument: str, level: Level, why: str, timeout_s: float = 5.0) -> Instrument:
        """Let it go so far and no farther from now on; waits for it, but not for long."""

    def safe(self, instrument: str) -> None:
        """Bring it to its safe state."""

    def newest(self, instrument: str) -> list[Block]:
        """The newest row of each of its streams, as a block of one row."""

    def streams(self) -> list[Stream]:
        """What is recorded, by stream; without schemas."""

    def stream(self, stream: str) -> Stream:
        """One of them. Raises `UnknownStream`, as do all that name one."""

    def page(self, wanted: Wanted) -> Page:
        """Rows and the gaps between them, in order."""

    def last(self, wanted: Wanted) -> Page:
        """The newest rows, and the gaps between them."""

    def reduced(self, wanted: Wanted, grid: Grid) -> Page:
        """The rows as buckets of a grid."""

    def watch(
        self, wanted: ViewWanted, deliver: Callable[[Sequence[Buckets], int], None]
    ) -> tuple[Watch, tuple[Lane, ...]]:
        """Look at a view from now on; `deliver` gets what changed, and then nothing before `Watch.taken`."""

    def since(self, wanted: ViewWanted, start_ns: int, stop_ns: int) -> Drawn:
        """What a view would have shown of a time in the past, rows that are not durable yet included."""

    def view(
        self,
        stream: str,
        channels: Sequence[str] | None,
        start_ns: int | None,
        stop_ns: int | None,
        width: int,
    ) -> Drawn:
        """A range of a stream in about as many buckets as there are pixels, with their exact extremes."""

    def arrays(
        self,
        stream: str,
        channels: Sequence[str] | None,
        start_ns: int | None,
        stop_ns: int | None,
        rows: int,
    ) -> Drawn:
        """Some rows of spectra or images in a range, whole, evenly chosen, the newest among them."""

    def listen(self, tell: Callable[[Happening], None]) -> Callable[[], None]:
        """Be told of what happens, in whatever thread it happens; call the result to end it."""

    def happened(self) -> list[Happening]:
        """What happened last, oldest first."""

    def follow(self, stream: str, buffer_bytes: int) -> Follower:
        """Look at what a stream gets from now on. Raises `UnknownStream` for one that is not recorded now."""

    def takes(self, stream: str) -> Schema:
        """What the rows have to be that are pushed to a stream."""

    def push(self, stream: str, counter: str, holder: str) -> Pushing:
        """Let a producer push rows of a stream; `counter` names its numbering, `holder` is told to others."""

    @property
    def runs(self) -> RunActs:
        """The verbs on runs, holds and notes."""

    @property
    def book(self) -> RunBook:
        """The runs, holds and notes that there are."""

    @property
    def exports(self) -> ExportActs:
        """The exports that are made beside the recording."""

    def sql(self, query: str, form: str) -> SqlActs:
        """A query over everything that is recorded, whose answer comes in one of `scidaq.query.FORMS`."""

    def audit(self, entry: Audited) -> None:
        """Note who did what. Durable on return."""

    def audited(self, before: int | None, limit: int) -> list[Fact]:
        """The newest entries, newest first; with `before`, those older than the fact of this number."""


class SqlActs(Protocol):
    """A query that waits for its answer."""

    def result(self) -> SqlAnswer:
        """Wait for the answer. Raises `QueryRefused`, `QueryLimit`, and `TooMany` when too many wait."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class ExportActs(Protocol):
    """Exports, each made when its turn comes."""

    def begin(self, wanted: ExportWanted, by: str) -> Export:
        """Ask for one. Raises `RequestError` for what cannot be, `TooMany`, and `WriteFailed` without room for it."""

    def all(self) -> list[Export]:
        """Those that there are, oldest first."""

    def get(self, export: str) -> Export:
        """One of them. Raises `Unknown`, as do all that name one."""

    def remove(self, export: str) -> Export:
        """Remove one and its files; one that is under way is ended."""

    def file(self, export: str, name: str) -> tuple[Path, ExportFile]:
        """One file of an export that is done: where it is, and what it is."""


class ConfigDoor(Protocol):
    """The configuration that a station runs with."""

    def effective(self) -> dict[str, Any]:
        """Values in force with the origin of each, and secrets hidden: `values`, `origins`, `sources`, `hash`."""

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a configuration file."""

    def reload(self) -> Told:
        """Read it again, and let count what can. Raises `ConfigError` with every mistake, and then changes nothing."""

    def put_instrument(self, instrument: str, values: Mapping[str, Any]) -> Told:
        """Add an instrument, or give it these options instead. Raises `ConfigError`, `NotAllowed`, `DefinedElsewhere`,
        `RequestError` and `WriteFailed`, and then changes nothing."""

    def remove_instrument(self, instrument: str) -> Told:
        """Take an instrument out. Raises `UnknownInstrument` besides."""


class LogTail(Protocol):
    """The newest lines of the log, without secrets. Any thread."""

    def newest(self) -> int:
        """Number of the newest line; 0 before the first."""

    def lines(self, level: int, limit: int, after: int | None) -> list[dict[str, Any]]:
        """The newest lines of at least this level, oldest first; with `after`, the first ones behind that number.

        Each has `seq`, `at_ns`, `level`, `event`, `logger` and `values`.
        """


class Told(Protocol):
    """What came of something."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""


__all__ = [
    "Audited",
    "ConfigDoor",
    "Export",
    "ExportActs",
    "ExportFile",
    "ExportWanted",
    "Instrument",
    "LogTail",
    "Page",
    "StationDoor",
    "Stream",
    "Wanted",
]
