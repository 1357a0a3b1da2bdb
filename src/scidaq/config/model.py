"""What the configuration comes to: each room's own options, the instruments, and where each value was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from scidaq import __version__, pipeline, store
from scidaq.block import INSTRUMENT_ID
from scidaq.config.effective import digest, effective, secrets_in
from scidaq.config.layers import DEFAULT, Origin
from scidaq.instruments import DriverFactory, SupervisionOptions
from scidaq.observe import LoggingOptions, MonitoringOptions, NotifyOptions
from scidaq.options import Secret
from scidaq.store import Policy
from scidaq.web import FlightOptions, SecurityOptions, ServerOptions

if TYPE_CHECKING:
    from scidaq.clock import Clock
    from scidaq.station import StationPlan


@dataclass(frozen=True, slots=True)
class StationOptions:
    """The station itself."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = "station"
    """Short name of the station, the first part of full stream ids: 1 to 64 characters of a-z 0-9 _ -."""
    data_dir: Path = Path("scidaq-data")
    """Data directory; a relative path counts from the working directory."""

    def __post_init__(self) -> None:
        if not INSTRUMENT_ID.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} is not 1 to 64 characters of a-z 0-9 _ -")


@dataclass(frozen=True, slots=True)
class InstrumentOptions:
    """What every instrument has, whatever its driver."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    driver: str
    """Name of its driver."""
    record: Policy | dict[str, Policy] = Policy.ALWAYS
    """When its streams are recorded; a table says so for single streams by name, the others are recorded always."""
    pre_trigger_s: Annotated[float, Ge(0)] = 0.0
    """Seconds before a run that a stream recorded in runs keeps as well, as far as its ring reaches."""
    supervision: SupervisionOptions = field(default_factory=SupervisionOptions)
    """How patient the station is with it."""
    critical: bool = True
    """Whether the station counts as unhealthy when this instrument is; otherwise it is degraded at most."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """An instrument as it is configured."""

    id: str
    general: InstrumentOptions
    options: Any
    """The driver's own options, of its class `Options`."""
    factory: DriverFactory
    """The driver's class."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, valid."""

    station: StationOptions = field(default_factory=StationOptions)
    storage: store.Options = field(default_factory=store.Options)
    pipeline: pipeline.Options = field(default_factory=pipeline.Options)
    server: ServerOptions = field(default_factory=ServerOptions)
    flight: FlightOptions = field(default_factory=FlightOptions)
    security: SecurityOptions = field(default_factory=SecurityOptions)
    logging: LoggingOptions = field(default_factory=LoggingOptions)
    monitoring: MonitoringOptions = field(default_factory=MonitoringOptions)
    notify: NotifyOptions = field(default_factory=NotifyOptions)
    instruments: Mapping[str, Instrument] = field(default_factory=dict)
    """By id, in the order in which they were first named."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """By dotted key; what is not there is a default."""
    sources: tuple[str, ...] = ()
    """The files that were read, in the order in which they count."""
    warnings: tuple[str, ...] = ()
    """What is right and should not be so, such as a secret that everybody may read; each with its place."""

    @property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of all values that are in force, without secrets."""
        return digest(self)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Every secret there is, for those who have to keep them out of what they write."""
        return tuple(secrets_in(effective(self)))

    def origin(self, key: str) -> Origin:
        """Where the value of a dotted key was given."""
        return self.origins.get(key, DEFAULT)

    def plan(self, clock: Clock) -> StationPlan:
        """What the station needs to know; its drivers will tell the time by `clock`."""
        from scidaq.station import InstrumentPlan, StationPlan  # takes half a second to import; a check needs it not

        instruments = (
            InstrumentPlan(
                one.id,
                partial(one.factory, one.id, one.options, clock),
                one.general.driver,
                one.general.record,
                one.general.pre_trigger_s,
                one.general.supervision,
                one.general.critical,
            )
            for one in self.instruments.values()
        )
        return StationPlan(
            self.station.data_dir,
            self.station.name,
            tuple(instruments),
            self.storage,
            self.pipeline,
            self.monitoring,
            version=__version__,
            config_hash=self.hash,
        )
