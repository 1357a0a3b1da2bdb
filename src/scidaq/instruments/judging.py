"""What the statistics of an instrument mean: connected is not enough, it has to deliver."""

from __future__ import annotations

from scidaq.instruments.state import InstrumentStats, Level, State
from scidaq.stats import Status, Verdict


def judge(stats: InstrumentStats) -> Verdict:
    """Healthy while it delivers in time, degraded while rows are overdue or it connects again, else unhealthy.

    Before anything has gone wrong the first connection is no trouble; how long it may take is bounded by supervision.
    """
    status, reason = _judged(stats)
    details = {
        "state": stats.state,
        "identity": stats.identity or None,
        "row_age_s": None if stats.row_age_s is None else round(stats.row_age_s, 3),
        "overdue_after_s": None if stats.overdue_after_s is None else round(stats.overdue_after_s, 3),
        "reconnects": stats.reconnects,
        "abandoned_threads": stats.abandoned_threads,
    }
    return Verdict(status, reason, details)


def _judged(stats: InstrumentStats) -> tuple[Status, str]:
    if stats.state == State.FAILED:
        return Status.UNHEALTHY, stats.reason or "it does not work"
    if stats.wanted == Level.DISCONNECTED and stats.state == State.STOPPED:
        return Status.DEGRADED, "it was disconnected on purpose, so nothing of it is recorded"
    if stats.wanted == Level.READY and stats.state == State.READY:
        return Status.DEGRADED, "it was stopped on purpose, so nothing of it is recorded"
    if stats.state == State.STOPPED:
        return Status.UNHEALTHY, "it is stopped"
    first = not (stats.errors or stats.reconnects or stats.rows)
    if stats.state == State.CONNECTING:
        return Status.HEALTHY if first else Status.DEGRADED, "it is being connected"
    if stats.state == State.READY:
        return Status.HEALTHY if first else Status.DEGRADED, "it is connected and does not deliver yet"
    # The age is looked at here too: a read that hangs says nothing until it is given up.
    age_s, limit_s = stats.row_age_s, stats.overdue_after_s
    if age_s is not None and limit_s is not None and age_s > limit_s:
        return Status.DEGRADED, f"no rows for {age_s:.1f} s; they are overdue after {limit_s:.1f} s"
    if stats.state == State.DEGRADED:
        return Status.DEGRADED, stats.reason or "its rows are overdue"
    return Status.HEALTHY, ""
