"""The station as it is watched: which checks there are, what each looks at, and whence metrics get their values.

Each check reads the statistics of one room and lets that room judge them, so that one that hangs (a disk that does not
answer, say) takes no other with it. Metrics are read from one snapshot of all rooms.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from scidaq import __version__, instruments, pipeline, store
from scidaq.block import Reason
from scidaq.errors import CatalogError
from scidaq.observe import Check, Health, Pace, Process, Sample, usage
from scidaq.stats import Status, Verdict

if TYPE_CHECKING:
    from scidaq.catalog import Catalog
    from scidaq.clock import Clock
    from scidaq.instruments import Supervision
    from scidaq.pipeline import RingStats
    from scidaq.station.station import StationStats
    from scidaq.store import Projector, Recorder

log = structlog.get_logger(__name__)

CATALOG_S = 4.0
"""How long the catalog may take to answer: longer than a statement waits for another process's transaction."""
DRIFT_NS = 250_000_000
"""A difference between the wall clock and recorded time that is worth telling."""
STEP_TOLD_S = 300.0
"""For how long a step of the wall clock is told."""


def checks(
    supervision: Supervision,
    critical: Callable[[str], bool],
    rings: Callable[[], tuple[RingStats, ...]],
    recorder: Recorder,
    free_bytes: Callable[[], int],
    catalog: Catalog,
    projector: Projector,
    clock: Callable[[], Verdict],
) -> tuple[Check, ...]:
    """All that is asked for `/health`."""

    def ask_catalog() -> Verdict:
        error = ""
        try:
            with catalog.begin():
                pass  # that a transaction may begin is what is asked: somebody may have the database locked
        except CatalogError as e:
            error = str(e)
        return store.judge_catalog(projector.stats(), error)

    return (
        Check("instruments", lambda: judge_instruments(supervision.stats(), critical)),
        Check("storage", lambda: store.judge(recorder.stats(), free_bytes())),
        Check("buffers", lambda: pipeline.judge(rings())),
        Check("catalog", ask_catalog, CATALOG_S, critical=False),
        Check("clock", clock),
    )


def judge_instruments(
    stats: tuple[instruments.InstrumentStats, ...], critical: Callable[[str], bool]
) -> Mapping[str, Verdict]:
    """A component `instrument:<id>` each; one of the name `instruments` says so when there is none."""
    if not stats:
        reason = "no instrument is configured, so nothing is recorded"
        return {"instruments": Verdict(Status.DEGRADED, reason, {"configured": 0})}
    return {
        f"instrument:{one.instrument}": replace(instruments.judge(one), critical=critical(one.instrument))
        for one in stats
    }


def judge_clock(clock: Clock, steps: int, step_ns: int | None, by_ns: int) -> Verdict:
    """Degraded while the wall clock is far from recorded time, and for a while after it was stepped."""
    drift_ns = clock.drift_ns()
    details: dict[str, str | int | float | None] = {
        "drift_s": round(drift_ns / 1e9, 6),
        "steps": steps,
        "last_step_s": round(by_ns / 1e9, 6) if steps else None,
    }
    if step_ns is not None and (ago_s := (clock.steady_ns() - step_ns) / 1e9) < STEP_TOLD_S:
        return Verdict(
            Status.DEGRADED,
            f"the wall clock was stepped by {by_ns / 1e9:+.3f} s, {ago_s:.0f} s ago; each stream began a new epoch",
            details,
        )
    if abs(drift_ns) > DRIFT_NS:
        off = f"the wall clock is {drift_ns / 1e9:+.3f} s away from recorded time, which is bent towards it"
        return Verdict(Status.DEGRADED, off, details)
    return Verdict(Status.HEALTHY, "", details)


# ---- metrics ---------------------------------------------------------------------------------------------------------

SAMPLE_S, USAGE_S = 2.0, 60.0
"""How often processor time and the pace of writing are looked at, and the size of the data directory."""
TIERS = {
    "raw": "streams",
    "journal": "journal",
    "facts": "facts",
    "catalog": "catalog.sqlite",
    "quarantine": "quarantine",
    "log": "logs",
}
"""Kinds of data by where in the data directory they lie."""


class Watch:
    """A thread that looks at what changes slowly, and asks for the health when nobody else does. A context manager."""

    def __init__(
        self, data_dir: Path, clock: Clock, health: Health, written_bytes: Callable[[], int], interval_s: float
    ) -> None:
        self._places = {tier: data_dir / name for tier, name in TIERS.items()}
        self._clock, self._health, self._written, self._interval_s = clock, health, written_bytes, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.process, self.pace = Process(), Pace()
        self.usage: Mapping[str, int] = {}
        """Bytes of the data directory by tier; empty before they were looked at."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10.0)  # a directory that does not answer keeps nobody from closing

    def _run(self) -> None:
        usage_s = asked_s = float("-inf")
        while True:
            now_s = self._clock.monotonic_s()
            try:
                self.process.sample(now_s)
                self.pace.sample(now_s, self._written())
                if now_s - usage_s >= USAGE_S:
                    self.usage, usage_s = usage(self._places), now_s
                if now_s - asked_s >= self._interval_s:
                    asked_s = now_s
                    self._health.current()
            except Exception:  # what is not known is absent; the next look may succeed
                log.exception("watching failed")
            if self._clock.wait(self._stop, min(SAMPLE_S, self._interval_s)):
                return


def samples(stats: StationStats, watch: Watch, health: Health) -> Iterator[Sample]:
    """The values of all metrics that the station itself knows."""
    yield Sample("scidaq_build_info", (), {"version": __version__, "python": platform.python_version()})
    yield Sample("scidaq_start_time_seconds", (), stats.started_ns / 1e9)
    if (report := health.last) is not None:
        for name, component in report.components.items():
            yield Sample("scidaq_component_health", (name,), component.verdict.status.rank)
    yield from _of_instruments(stats)
    yield from _of_streams(stats)
    yield from _of_losses(stats)
    yield from _of_recording(stats)
    yield from _of_machine(stats, watch)


def _of_instruments(stats: StationStats) -> Iterator[Sample]:
    up = {one.instrument: instruments.judge(one).status is Status.HEALTHY for one in stats.instruments}
    yield Sample("scidaq_active_instruments", (), sum(up.values()))
    yield Sample("scidaq_configured_instruments", (), len(stats.instruments))
    yield Sample("scidaq_errors_total", ("instruments",), sum(one.errors for one in stats.instruments))
    for one in stats.instruments:
        name = (one.instrument,)
        yield Sample("scidaq_instrument_up", name, float(up[one.instrument]))
        yield Sample("scidaq_instrument_errors_total", name, one.errors)
        yield Sample("scidaq_reconnects_total", name, one.reconnects)
        yield Sample("scidaq_hangs_total", name, one.hangs)


def _of_streams(stats: StationStats) -> Iterator[Sample]:
    """Six series of each stream."""
    for ring in stats.rings:
        name = (ring.stream,)
        yield Sample("scidaq_data_points_total", name, ring.rows)
        yield Sample("scidaq_buffer_usage_percent", name, 100 * pipeline.share(ring))
    for intake in stats.intakes:
        name = (intake.stream,)
        yield Sample("scidaq_duplicate_rows_total", name, intake.all_duplicates)
        yield Sample("scidaq_stream_lost_rows_total", name, sum(intake.lost_rows.values()))
        if intake.last_ns:
            yield Sample("scidaq_last_row_age_seconds", name, max(0.0, (stats.now_ns - intake.last_ns) / 1e9))
    for stream in stats.recorder.streams:
        yield Sample("scidaq_durable_rows_total", (stream.stream,), stream.all_durable_rows)


def losses(intakes: tuple[pipeline.IntakeStats, ...]) -> dict[tuple[str, str], tuple[int, int]]:
    """Gaps and lost rows since the start, by stream and reason."""
    return {
        (one.stream, str(reason)): (count, one.lost_rows.get(reason, 0))
        for one in intakes
        for reason, count in one.gaps.items()
    }


def _of_losses(stats: StationStats) -> Iterator[Sample]:
    for reason in Reason:
        if reason in (Reason.POLICY, Reason.UNEXPLAINED, Reason.LATE, Reason.RETENTION):
            continue  # none of these begins at the door
        yield Sample("scidaq_gaps_total", (reason.value,), sum(i.gaps.get(reason, 0) for i in stats.intakes))
        yield Sample("scidaq_lost_rows_total", (reason.value,), sum(i.lost_rows.get(reason, 0) for i in stats.intakes))
    yield Sample("scidaq_unbalanced_rows", (), sum(abs(s.imbalance) for s in stats.recorder.streams))


def _of_recording(stats: StationStats) -> Iterator[Sample]:
    recorder, writing = stats.recorder, stats.recorder.writing
    yield Sample("scidaq_processing_duration_seconds", ("record",), recorder.delays)
    yield Sample("scidaq_written_bytes_total", (), writing.written_bytes)
    yield Sample("scidaq_syncs_total", (), writing.syncs)
    yield Sample("scidaq_sync_seconds_total", (), writing.sync_s)
    if writing.syncs:
        yield Sample("scidaq_last_sync_seconds", (), writing.last_sync_s)
    yield Sample("scidaq_disk_busy_seconds", (), writing.busy_s)
    yield Sample("scidaq_queue_depth", ("disk",), writing.queue)
    yield Sample("scidaq_queue_depth", ("catalog",), stats.projector.waiting)
    yield Sample("scidaq_errors_total", ("storage",), writing.failures)
    yield Sample("scidaq_errors_total", ("catalog",), stats.projector.failures)


def _of_machine(stats: StationStats, watch: Watch) -> Iterator[Sample]:
    low_bytes = stats.recorder.space.low_bytes
    for tier, size in watch.usage.items():
        yield Sample("scidaq_disk_usage_bytes", (tier,), size)
    yield Sample("scidaq_disk_free_bytes", (), stats.free_bytes)
    yield Sample("scidaq_disk_low_bytes", (), low_bytes)
    if pace := watch.pace.per_s():
        yield Sample("scidaq_disk_left_days", (), max(0, stats.free_bytes - low_bytes) / pace / 86_400)
    if (memory := watch.process.memory_bytes()) is not None:
        yield Sample("scidaq_memory_usage_bytes", (), memory)
    if watch.process.cpu_percent is not None:
        yield Sample("scidaq_cpu_usage_percent", (), watch.process.cpu_percent)
    yield Sample("scidaq_clock_drift_seconds", (), stats.clock_drift_ns / 1e9)
    yield Sample("scidaq_clock_steps_total", (), stats.clock_steps)


# ---- accepting data --------------------------------------------------------------------------------------------------


def not_ready(recorder: Recorder) -> str:
    """Why no data is accepted; empty while it is."""
    stats = recorder.stats()
    if stats.space.low:
        return "there is too little room on the disk"
    return store.moves(stats)
