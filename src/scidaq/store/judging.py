"""What the statistics of recording mean: are rows made durable, is there room, and how long does the disk take?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scidaq.stats import Status, Verdict
from scidaq.store.reports import RecorderStats

if TYPE_CHECKING:  # SQLAlchemy takes half a second to import
    from scidaq.store.projector import ProjectorStats

SLOW_SYNC_S, HANGING_S = 1.0, 10.0
"""A job of the disk from which recording is degraded, and from which it stands still."""
STILL_S = 10.0
"""How long the encoding thread may stay away, beyond some intervals."""


def judge(stats: RecorderStats, free_bytes: int) -> Verdict:
    """Whether rows are made durable: the threads run, the disk takes what is written, in time, and has room."""
    status, reason = _judged(stats, free_bytes)
    writing, space = stats.writing, stats.space
    details: dict[str, str | int | float | None] = {
        "free_bytes": free_bytes,
        "low_bytes": space.low_bytes,
        "last_sync_s": round(writing.last_sync_s, 4),
        "busy_s": round(writing.busy_s, 3),
        "refused_writes": writing.failures,
        "queue": writing.queue,
        "imbalance_rows": sum(abs(s.imbalance) for s in stats.streams),
    }
    return Verdict(status, reason, details)


def moves(stats: RecorderStats) -> str:
    """Why recording stands still, in words; empty while it moves. What a watchdog may act on."""
    if not stats.running:
        return "a thread of the recorder has ended"
    if stats.turn_age_s > max(STILL_S, 5 * stats.interval_s):
        return f"the recorder has not come round for {stats.turn_age_s:.0f} s"
    return ""


def _judged(stats: RecorderStats, free_bytes: int) -> tuple[Status, str]:
    writing, space = stats.writing, stats.space
    if still := moves(stats):
        return Status.UNHEALTHY, still
    if space.low:
        needed = f"{_mega(free_bytes)} are free, {_mega(space.low_bytes)} are kept for closing cleanly"
        return Status.UNHEALTHY, f"too little room on the disk, so new rows wait and become gaps: {needed}"
    refused = [s for s in stats.streams if s.failures]
    if refused:
        said = next((f": {s.refused}" for s in refused if s.refused), "")
        return Status.UNHEALTHY, f"the disk refuses rows of {_streams([s.stream for s in refused])}{said}"
    if writing.busy_s > HANGING_S:
        return Status.UNHEALTHY, f"the disk has not answered for {writing.busy_s:.0f} s"
    unbalanced = [s.stream for s in stats.streams if s.imbalance]
    if unbalanced:
        return Status.UNHEALTHY, f"the books of {_streams(unbalanced)} do not balance, which is a fault of this program"
    if (took_s := max(writing.busy_s, writing.last_sync_s)) > SLOW_SYNC_S:
        return Status.DEGRADED, f"the disk is slow: the newest sync takes {took_s:.1f} s"
    if free_bytes < 2 * space.low_bytes:
        return Status.DEGRADED, f"the disk is nearly full: {_mega(free_bytes)} are free"
    return Status.HEALTHY, ""


def judge_catalog(stats: ProjectorStats, error: str) -> Verdict:
    """Whether things can be found; `error` is what the catalog said when asked just now, empty when it answered."""
    details: dict[str, str | int | float | None] = {"waiting": stats.waiting, "failures": stats.failures}
    goes_on = "recording goes on, and it is caught up later"
    if error:
        return Verdict(Status.UNHEALTHY, f"{error}; {goes_on}", details, critical=False)
    if stats.refused:
        return Verdict(Status.DEGRADED, f"{stats.refused}; {goes_on}", details, critical=False)
    return Verdict(Status.HEALTHY, "", details, critical=False)


def _streams(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} streams ({names[0]} and others)"


def _mega(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
