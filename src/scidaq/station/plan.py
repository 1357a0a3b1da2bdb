"""What a station is to be: the result of reading the configuration, free of files and formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scidaq import pipeline, store
from scidaq.catalog import NewRun
from scidaq.instruments import Driver, SupervisionOptions
from scidaq.observe import MonitoringOptions
from scidaq.store import Policy


@dataclass(frozen=True)
class InstrumentPlan:
    """One instrument."""

    id: str
    make: Callable[[], Driver]
    """Makes a driver that has not connected yet; called again for each attempt."""
    driver: str = ""
    """Name of the driver, for people."""
    record: Policy | Mapping[str, Policy] = Policy.ALWAYS
    """When its streams are recorded: one policy for all, or one per stream name (`always` for those not named)."""
    pre_trigger_s: float = 0.0
    """With policy `runs`: how much of what came before a run belongs to it."""
    supervision: SupervisionOptions = field(default_factory=SupervisionOptions)
    critical: bool = True
    """Whether the station is unhealthy when this instrument is; otherwise it is degraded."""

    def policy(self, stream: str) -> Policy:
        """The policy of one of its streams."""
        return self.record if isinstance(self.record, Policy) else self.record.get(stream, Policy.ALWAYS)


@dataclass(frozen=True)
class StationPlan:
    """A whole station."""

    data_dir: Path
    name: str = "station"
    instruments: tuple[InstrumentPlan, ...] = ()
    storage: store.Options = field(default_factory=store.Options)
    pipeline: pipeline.Options = field(default_factory=pipeline.Options)
    monitoring: MonitoringOptions = field(default_factory=MonitoringOptions)
    run: NewRun | None = None
    """A run for the length of the recording; one of this name that a kill has interrupted goes on."""
    version: str = ""
    """Of scidaq, as the facts are to say it."""
    config_hash: str = ""
    """Of the configuration that the plan was made from; empty where it came from none."""


@dataclass(frozen=True)
class PlanChanges:
    """What is to become different of a station while it records; an instrument that changes is taken out and put in."""

    remove: tuple[str, ...] = ()
    """Ids of instruments."""
    add: tuple[InstrumentPlan, ...] = ()
    config_hash: str = ""
    """Of the configuration that is in force afterwards; empty where it came from none."""
