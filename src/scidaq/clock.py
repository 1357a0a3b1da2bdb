"""The only place that asks what time it is, so that tests can own it.

Wall-clock time is integer UTC nanoseconds. An `Anchor` ties the wall clock to a source that neither steps nor stops in
suspend (CLOCK_BOOTTIME on Linux); `Clock.now_ns` reads that source through the anchor, so it never goes back while the
anchor stands. A wall clock that has been stepped shows as `Clock.drift_ns`; the station then takes a new anchor, and
every stream begins a new epoch. Differences and deadlines use `monotonic_s`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

STEP_NS = 1_000_000_000
"""A difference between wall clock and anchor above this (1 s) is a step, below it is slewed."""
SLEW_PPM = 500
"""The fastest that recorded time is bent towards the wall clock, in parts per million."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the steady clock and the wall clock were seen together."""

    wall_ns: int
    """UTC nanoseconds of the wall clock."""
    steady_ns: int
    """Nanoseconds of the steady clock (CLOCK_BOOTTIME) at the same moment."""
    uncertainty_ns: int
    """Half the time that reading both took: the pairing is not known better."""
    boot_id: str
    """Identity of the boot that the steady clock counts from."""

    def wall(self, steady_ns: int) -> int:
        """UTC nanoseconds that belong to a reading of the steady clock."""
        return self.wall_ns + (steady_ns - self.steady_ns)


@runtime_checkable
class Clock(Protocol):
    """Time as the rooms see it. Every method may be called from any thread."""

    @property
    def anchor(self) -> Anchor:
        """The anchor in force."""

    def now_ns(self) -> int:
        """UTC nanoseconds by the anchor in force: never goes back until `reanchor`."""

    def monotonic_s(self) -> float:
        """Seconds of a steady clock, for differences and deadlines."""

    def drift_ns(self) -> int:
        """Wall clock minus `now_ns`: a slow error, or a step when above `STEP_NS`."""

    def reanchor(self) -> Anchor:
        """Take a new anchor from the present wall clock, and return it."""

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until the event is set or the time has passed; True when it is set."""


def _steady_ns() -> int:
    return time.clock_gettime_ns(_STEADY)


_STEADY: int = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 1))


def boot_id() -> str:
    """Identity of this boot of the machine: the kernel's where it says one, else derived from the boot time (10 s)."""
    source = Path("/proc/sys/kernel/random/boot_id")
    if source.exists():
        return source.read_text().strip()
    return f"boot-{(time.time_ns() - _steady_ns()) // 10_000_000_000}"


class SystemClock:
    """The machine's clock."""

    def __init__(self) -> None:
        self._boot_id = boot_id()
        self._anchor = self._take()

    def _take(self) -> Anchor:
        # The narrowest of a few readings: a preempted one would pair moments that are milliseconds apart.
        readings = [(_steady_ns(), time.time_ns(), _steady_ns()) for _ in range(5)]
        before, wall, after = min(readings, key=lambda r: r[2] - r[0])
        return Anchor(wall, (before + after) // 2, (after - before) // 2 + 1, self._boot_id)

    @property
    def anchor(self) -> Anchor:
        return self._anchor

    def now_ns(self) -> int:
        return self._anchor.wall(_steady_ns())

    def monotonic_s(self) -> float:
        return time.monotonic()

    def drift_ns(self) -> int:
        return time.time_ns() - self.now_ns()

    def reanchor(self) -> Anchor:
        self._anchor = self._take()
        return self._anchor

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(timeout_s)
