"""What the operator may choose about logs, metrics and health."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from scidaq.options import LIVE

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LoggingOptions:
    """The section `logging`: what is logged, and where it goes."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    level: Annotated[Level, LIVE] = "info"
    """The least level that is logged."""
    levels: Annotated[dict[str, Level], LIVE] = field(default_factory=dict)
    """Other levels for single loggers and those below them, by their dotted name, such as `scidaq.store`."""
    directory: Path | None = None
    """Where `scientific-daq.log` is written; `logs` in the data directory when it is not set."""
    file: bool = True
    """Whether that file is written at all."""
    retention_days: Annotated[int, Ge(1)] = 30
    """How many days of log files are kept."""
    console: Literal["auto", "always", "never"] = "auto"
    """Whether events are shown on standard error too: `auto` colours them on a terminal, `always` everywhere, `never`
    shows none."""
    queue_events: Annotated[int, Ge(100), Le(1_000_000)] = 10_000
    """Events that may wait to be written; more are dropped and counted, so that logging holds nothing up."""


@dataclass(frozen=True, slots=True)
class MonitoringOptions:
    """The section `monitoring`: metrics and health."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    metrics_enabled: bool = True
    """Whether metrics are served."""
    prometheus_endpoint: str = "/metrics"
    """The path at which they are."""
    health_check_interval_seconds: Annotated[float, Ge(0.1), Le(3600)] = 10.0
    """For how long the answers of a health check are kept."""
    labelled_streams: tuple[str, ...] = ("*",)
    """Which streams have series of their own in the metrics: ids, or patterns such as `dmm/*`, the first 200 that fit.
    All others are one series, `other`."""

    def __post_init__(self) -> None:
        path = self.prometheus_endpoint
        if not path.startswith("/") or path != path.strip() or any(c in path for c in "?# ") or len(path) < 2:
            raise ValueError(f"prometheus_endpoint: {path!r} is no path of an address, such as /metrics")
