"""The station as it is watched: which checks there are, and what each looks at.

Each check reads the statistics of one room and lets that room judge them, so that one that hangs (a disk that does not
answer, say) takes no other with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from scidaq import instruments, pipeline, store
from scidaq.errors import CatalogError
from scidaq.observe import Check
from scidaq.stats import Status, Verdict

if TYPE_CHECKING:
    from scidaq.catalog import Catalog
    from scidaq.clock import Clock
    from scidaq.instruments import Supervision
    from scidaq.pipeline import RingStats
    from scidaq.store import Projector, Recorder

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


def not_ready(recorder: Recorder) -> str:
    """Why no data is accepted; empty while it is."""
    stats = recorder.stats()
    if stats.space.low:
        return "there is too little room on the disk"
    return store.moves(stats)
