"""Metrics: one catalogue of names, filled on each scrape from the station's snapshot, as Prometheus or OpenMetrics.

Nothing is counted here: a scrape reads plain integers that the rooms have counted anyway. A value that is not known is
absent, never 0. Whoever serves HTTP adds what only it knows (`Metrics.add`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import structlog

from scidaq.stats import BOUNDS_S, DurationStats

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

log = structlog.get_logger(__name__)

MAX_LABELLED = 200
"""Streams, and instruments, that have series of their own."""
OTHER = "other"
"""The label of all that have none."""

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What one metric is called and means."""

    name: str
    """As it is in the text of Prometheus."""
    kind: Kind
    unit: str
    """In words, `1` where it has none."""
    help: str
    labels: tuple[str, ...] = ()
    whole: Literal["sum", "max"] = "sum"
    """What the series `other` is of those that it stands for."""


class Sample(NamedTuple):
    """One value."""

    metric: str
    labels: tuple[str, ...]
    value: float | DurationStats | dict[str, str]


def _s(name: str, kind: Kind, unit: str, help_: str, *labels: str, whole: Literal["sum", "max"] = "sum") -> Metric:
    return Metric(f"scidaq_{name}", kind, unit, help_, labels, whole)


CATALOGUE: tuple[Metric, ...] = (
    # the station
    _s("build_info", "info", "1", "Version of scidaq and of Python.", "version", "python"),
    _s("start_time_seconds", "gauge", "seconds", "UTC time at which the station began to record, since 1970."),
    _s(
        "component_health",
        "gauge",
        "1",
        "How well each component was when it was last asked: 0 healthy, 1 degraded, 2 unhealthy.",
        "component",
        whole="max",
    ),
    _s(
        "errors_total",
        "counter",
        "errors",
        "Failures by component: of instruments, refused writes (storage), of the catalog, of the log.",
        "component",
    ),
    # instruments
    _s("active_instruments", "gauge", "instruments", "Instruments that are connected and deliver."),
    _s("configured_instruments", "gauge", "instruments", "Instruments that the station has."),
    _s("instrument_up", "gauge", "1", "1 while the instrument delivers, else 0.", "instrument", whole="max"),
    _s("instrument_errors_total", "counter", "errors", "Times that the instrument failed.", "instrument"),
    _s(
        "reconnects_total", "counter", "reconnects", "Times that acquisition began again after a failure.", "instrument"
    ),
    _s("hangs_total", "counter", "hangs", "Calls into the driver that never returned.", "instrument"),
    # streams: six series each
    _s("data_points_total", "counter", "points", "Rows that came in, each a reading of all channels.", "stream"),
    _s("durable_rows_total", "counter", "rows", "Rows that were made durable: they survive a power cut.", "stream"),
    _s("duplicate_rows_total", "counter", "rows", "Rows that came more than once, and were dropped.", "stream"),
    _s("stream_lost_rows_total", "counter", "rows", "Rows that went missing, whatever the reason.", "stream"),
    _s("last_row_age_seconds", "gauge", "seconds", "Time since the newest row of the stream.", "stream", whole="max"),
    _s(
        "buffer_usage_percent",
        "gauge",
        "percent",
        "How full the buffer between the instrument and the disk is.",
        "stream",
        whole="max",
    ),
    # losses
    _s("gaps_total", "counter", "gaps", "Gaps in the rows of all streams, by reason.", "reason"),
    _s("lost_rows_total", "counter", "rows", "Rows in those gaps, as far as their number is known.", "reason"),
    _s("unbalanced_rows", "gauge", "rows", "Rows that nothing accounts for: anything but 0 is a fault of scidaq."),
    # recording
    _s(
        "processing_duration_seconds",
        "histogram",
        "seconds",
        "Time that blocks took, by stage; record: from the door of the station until they are durable.",
        "stage",
    ),
    _s("written_bytes_total", "counter", "bytes", "Bytes written to segments and journal."),
    _s("syncs_total", "counter", "syncs", "Syncs of the disk that succeeded."),
    _s("sync_seconds_total", "counter", "seconds", "Time spent in them; divided by their number, the mean latency."),
    _s("last_sync_seconds", "gauge", "seconds", "How long the newest sync took."),
    _s("disk_busy_seconds", "gauge", "seconds", "How long the disk has been at its present job, 0 when it has none."),
    _s(
        "queue_depth",
        "gauge",
        "1",
        "What waits: jobs for the disk, facts for the catalog, events for the log.",
        "queue",
    ),
    # the machine
    _s("disk_usage_bytes", "gauge", "bytes", "What lies in the data directory, by kind.", "tier"),
    _s("disk_free_bytes", "gauge", "bytes", "Free space where the data lies."),
    _s("disk_low_bytes", "gauge", "bytes", "Below this much free space rows are not written."),
    _s(
        "disk_left_days",
        "gauge",
        "days",
        "When that is reached at the pace of the last hour; absent while nothing is written.",
    ),
    _s("memory_usage_bytes", "gauge", "bytes", "Memory that the process of the station occupies."),
    _s("cpu_usage_percent", "gauge", "percent", "Processor time of the station's process, 100 for one core."),
    _s("clock_drift_seconds", "gauge", "seconds", "Wall clock minus recorded time, which is bent towards it."),
    _s("clock_steps_total", "counter", "steps", "Steps of the wall clock; each began a new epoch in every stream."),
    # the log
    _s("log_events_total", "counter", "events", "Events that were logged, by level.", "level"),
    _s("log_dropped_events_total", "counter", "events", "Events that found no room to wait and were dropped."),
    _s(
        "notifications_total",
        "counter",
        "notifications",
        "Messages to those who are to be told, by what became of each try: sent, failed, dropped.",
        "destination",
        "result",
    ),
    # exports
    _s("export_jobs", "gauge", "exports", "Exports that wait (queued) or are made (running).", "state"),
    _s("exports_total", "counter", "exports", "Exports that have ended: done or failed.", "result"),
    _s("export_seconds_total", "counter", "seconds", "Time that making them took, from the beginning of each."),
    # what the web door knows
    _s("event_loop_lag_seconds", "gauge", "seconds", "How late the event loop of the HTTP server last was."),
    _s("http_requests_total", "counter", "requests", "Requests over HTTP.", "method", "status"),
    _s("http_connections", "gauge", "connections", "Connections over HTTP that are open."),
    _s("flight_up", "gauge", "1", "Whether the process of the Flight door runs and listens."),
    _s("flight_restarts_total", "counter", "restarts", "Times that it ended by itself and was begun again."),
    _s("flight_calls_under_way", "gauge", "calls", "Calls of Arrow Flight under way."),
    _s(
        "flight_calls_total",
        "counter",
        "calls",
        "Calls of Arrow Flight that have ended, by what became of them: ok, or the kind of problem.",
        "method",
        "result",
    ),
    _s("flight_sent_bytes_total", "counter", "bytes", "Bytes of rows that were sent over Arrow Flight."),
    _s("flight_pushed_rows_total", "counter", "rows", "Rows that producers pushed over Arrow Flight."),
    _s("flight_skipped_rows_total", "counter", "rows", "Rows that live readers were too slow for."),
    _s("live_viewers", "gauge", "viewers", "Live connections that are open."),
    _s("live_views", "gauge", "views", "Views that somebody looks at, equal ones counted once."),
    _s("live_frames_total", "counter", "frames", "Frames of live views that were sent."),
    _s("live_skipped_frames_total", "counter", "frames", "Frames left out because a viewer did not take them."),
    _s("live_bytes_total", "counter", "bytes", "Frames of live views that were sent, in bytes."),
    _s("live_late_rows_total", "counter", "rows", "Rows that live views were too late for; they are recorded."),
)
"""Every metric there is. Those of backup and retention come with them."""

_BY_NAME = {metric.name: metric for metric in CATALOGUE}


class Labels:
    """Which of many have a series of their own: the first `MAX_LABELLED` that fit a pattern, for as long as we run."""

    def __init__(self, patterns: Sequence[str] = ("*",), limit: int = MAX_LABELLED) -> None:
        self._patterns, self._limit = tuple(patterns), limit
        self._known: dict[str, str] = {}
        self._own = 0

    def of(self, name: str) -> str:
        """The label of a stream or an instrument: its id, or `other`."""
        label = self._known.get(name)
        if label is None:
            own = self._own < self._limit and any(fnmatchcase(name, p) for p in self._patterns)
            self._own += own
            label = self._known[name] = name if own else OTHER
        return label


class Metrics:
    """What is served at `/metrics`. May be used from any thread."""

    def __init__(self, collect: Callable[[], Iterable[Sample]], labelled_streams: Sequence[str] = ("*",)) -> None:
        """`collect` reads one snapshot of the station, called once per scrape."""
        self._sources: list[Callable[[], Iterable[Sample]]] = [collect]
        self._limits = {"stream": Labels(labelled_streams), "instrument": Labels(), "component": Labels(limit=250)}
        self._lock = threading.Lock()

    def add(self, source: Callable[[], Iterable[Sample]]) -> None:
        """Something else that knows values, of metrics of the catalogue; called at each scrape."""
        self._sources.append(source)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics as text in the format that the header `Accept` asks for, and its content type.

        Gives way between families, so that it never holds the interpreter for long. One scrape at a time.
        """
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        with self._lock:
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_Scrape(self._families))
            encoder, content_type = choose_encoder(accept)
            return encoder(registry), content_type

    def samples(self) -> dict[str, dict[tuple[str, ...], Any]]:
        """The values by metric and labels, with those of too many streams put together."""
        found: dict[str, dict[tuple[str, ...], Any]] = {}
        for source in list(self._sources):
            try:
                for sample in source():
                    self._put(found, sample)
            except Exception:  # one source must not take the others with it
                log.exception("metrics cannot be collected")
            time.sleep(0)
        return found

    def _put(self, found: dict[str, dict[tuple[str, ...], Any]], sample: Sample) -> None:
        metric, labels, value = _BY_NAME[sample.metric], sample.labels, sample.value
        if metric.labels and (limit := self._limits.get(metric.labels[0])) is not None:
            labels = (limit.of(labels[0]), *labels[1:])
        values = found.setdefault(metric.name, {})
        before = values.get(labels)
        if before is None or isinstance(value, dict):
            values[labels] = value
        elif metric.whole == "max":
            values[labels] = max(before, value)
        else:
            values[labels] = before + value

    def _families(self) -> Iterator[Family]:
        found = self.samples()
        for metric in CATALOGUE:
            values = found.get(metric.name)
            if values:
                yield _family(metric, values)
                time.sleep(0)  # whoever waits for the interpreter gets it now


class _Scrape:
    """What prometheus_client wants a collector to be."""

    def __init__(self, families: Callable[[], Iterator[Family]]) -> None:
        self.collect = families


def _family(metric: Metric, values: dict[tuple[str, ...], Any]) -> Family:
    from prometheus_client import core

    name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
    unit = metric.unit if name.endswith(f"_{metric.unit}") else ""
    if metric.kind == "info":
        info = core.InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
        for value in values.values():
            info.add_metric([], value)
        return info
    if metric.kind == "histogram":
        histogram = core.HistogramMetricFamily(name, metric.help, labels=metric.labels, unit=unit)
        for labels, stats in values.items():
            histogram.add_metric(labels, _buckets(stats), stats.sum_s)
        return histogram
    of = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    family = of(name, metric.help, labels=metric.labels, unit=unit)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _buckets(stats: DurationStats) -> list[tuple[str, float]]:
    total, out = 0, []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), stats.counts, strict=True):
        total += count
        out.append((bound, total))
    return out  # type: ignore[return-value]
