"""What the statistics of the rings mean: a buffer that fills is recording that falls behind."""

from __future__ import annotations

from collections.abc import Sequence

from scidaq.pipeline.ring import RingStats
from scidaq.stats import Status, Verdict

FILLING, FULL = 0.5, 0.95
"""Shares of a ring from which it is degraded, and from which rows are about to be refused or are."""


def judge(rings: Sequence[RingStats]) -> Verdict:
    """By the fullest ring."""
    if not rings:
        return Verdict(Status.HEALTHY, "", {"streams": 0})
    fullest = max(rings, key=share)
    filled = share(fullest)
    details: dict[str, str | int | float | None] = {
        "streams": len(rings),
        "fullest_stream": fullest.stream,
        "fullest_percent": round(100 * filled, 1),
        "refused_rows": sum(ring.refused_rows for ring in rings),
    }
    if filled < FILLING:
        return Verdict(Status.HEALTHY, "", details)
    what = f"the buffer of {fullest.stream} is {filled:.0%} full"
    if filled < FULL:
        return Verdict(Status.DEGRADED, f"{what}: recording falls behind", details)
    return Verdict(Status.UNHEALTHY, f"{what}: new rows become gaps", details)


def share(ring: RingStats) -> float:
    """How full a ring is, from 0 to 1 (a single block may be larger than the ring)."""
    return min(1.0, ring.held_bytes / ring.capacity_bytes) if ring.capacity_bytes else 0.0
