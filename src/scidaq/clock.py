"""The only place that asks what time it is, so that tests can own it.

Wall-clock time is integer UTC nanoseconds. An `Anchor` ties the wall clock to a source that neither steps nor stops in
suspend (CLOCK_BOOTTIME on Linux); `Clock.now_ns` reads that source through the anchor, so it never goes back while the
anchor stands. How far the wall clock is off then shows as `Clock.drift_ns`. `follow`, which the station calls every
second, bends time towards it by at most `SLEW_PPM`; from a step on it takes a new anchor, and every stream begins a new
epoch. Differences and deadlines use `monotonic_s`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

STEP_NS = 1_010_000_000
"""A difference between wall clock and anchor above this is a step, below it is slewed: 1 s, which is what a leap second
makes, and a little for the error that there was before."""
SLEW_PPM = 500
"""The fastest that recorded time is bent towards the wall clock, in parts per million."""
SLEW_FROM_NS = 10_000
"""Errors below this (10 us) are left alone: they are those of reading two clocks one after the other."""


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


@dataclass(frozen=True, slots=True)
class Slew:
    """How far time is bent away from its anchor: a ramp of `SLEW_PPM` towards an error, then level."""

    steady_ns: int
    """Where the ramp begins."""
    bend_ns: int = 0
    """How far time was bent there."""
    error_ns: int = 0
    """What was measured there: wall clock minus bent time."""

    def at(self, steady_ns: int) -> int:
        """Nanoseconds to be added to what the anchor says."""
        most = max(0, steady_ns - self.steady_ns) * SLEW_PPM // 1_000_000
        return self.bend_ns + max(-most, min(most, self.error_ns))

    def towards(self, steady_ns: int, error_ns: int) -> Slew:
        """Another ramp, which goes on where this one is by now."""
        return Slew(steady_ns, self.at(steady_ns), error_ns)


@runtime_checkable
class Clock(Protocol):
    """Time as the rooms see it. Every method may be called from any thread."""

    @property
    def anchor(self) -> Anchor:
        """The anchor in force, as it was taken: the same until there is another."""

    def bent_anchor(self) -> Anchor:
        """The anchor in force as it has been bent by now: what an epoch that begins has to note."""

    def now_ns(self) -> int:
        """UTC nanoseconds by the anchor in force: never goes back until there is another."""

    def steady_ns(self) -> int:
        """Nanoseconds of the steady clock that anchors refer to: for what has to go on over steps and restarts."""

    def at_ns(self, steady_ns: int) -> int:
        """UTC nanoseconds by the anchor in force for a reading of the steady clock of a moment ago."""

    def monotonic_s(self) -> float:
        """Seconds of a steady clock, for differences and deadlines."""

    def drift_ns(self) -> int:
        """Wall clock minus `now_ns`: an error that is being slewed, or a step when above `STEP_NS`."""

    def follow(self) -> int:
        """Go after the wall clock: slew, or take a new anchor when it was stepped; by how much then, else 0.

        To be called about every second, by one thread.
        """

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


class AnchoredClock(ABC):
    """Time through an anchor that is bent towards the wall clock; from which clocks is left to those who inherit."""

    def __init__(self) -> None:
        self._bending = threading.Lock()
        self._anchor = self._take()
        self._slew = Slew(self._anchor.steady_ns)

    @abstractmethod
    def steady_ns(self) -> int:
        """Nanoseconds of the steady clock."""

    @abstractmethod
    def _take(self) -> Anchor:
        """Where both clocks are now."""

    @property
    def anchor(self) -> Anchor:
        return self._anchor

    def bent_anchor(self) -> Anchor:
        seen = self._take()
        with self._bending:
            bent_ns = self._bent(seen.steady_ns)
        # What is not made up for yet is not known any better by those who read the anchor.
        return replace(seen, wall_ns=bent_ns, uncertainty_ns=seen.uncertainty_ns + abs(seen.wall_ns - bent_ns))

    def now_ns(self) -> int:
        # The lock: a ramp that another thread begins between the two would make time go back, by little.
        with self._bending:
            return self._bent(self.steady_ns())

    def at_ns(self, steady_ns: int) -> int:
        with self._bending:
            return self._bent(steady_ns)

    def _bent(self, steady_ns: int) -> int:
        return self._anchor.wall(steady_ns) + self._slew.at(steady_ns)

    def drift_ns(self) -> int:
        seen = self._take()
        with self._bending:
            return seen.wall_ns - self._bent(seen.steady_ns)

    def follow(self) -> int:
        seen = self._take()
        with self._bending:
            error_ns = seen.wall_ns - self._bent(seen.steady_ns)
            if abs(error_ns) <= STEP_NS:
                known_ns = max(seen.uncertainty_ns, SLEW_FROM_NS)
                self._slew = self._slew.towards(self.steady_ns(), error_ns if abs(error_ns) > known_ns else 0)
                return 0
        self.reanchor()
        return error_ns

    def reanchor(self) -> Anchor:
        seen = self._take()
        with self._bending:
            self._anchor, self._slew = seen, Slew(seen.steady_ns)
        return seen


class SystemClock(AnchoredClock):
    """The machine's clock."""

    def __init__(self) -> None:
        self._boot_id = boot_id()
        super().__init__()

    def steady_ns(self) -> int:
        return _steady_ns()

    def _take(self) -> Anchor:
        # The narrowest of a few readings: a preempted one would pair moments that are milliseconds apart.
        readings = [(_steady_ns(), time.time_ns(), _steady_ns()) for _ in range(5)]
        before, wall, after = min(readings, key=lambda r: r[2] - r[0])
        return Anchor(wall, (before + after) // 2, (after - before) // 2 + 1, self._boot_id)

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(timeout_s)
