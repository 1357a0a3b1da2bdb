"""A clock that only a test moves."""

from __future__ import annotations

import threading
import time

from scidaq.clock import Anchor, AnchoredClock

_LOOK_S = 0.0005
NS = 1_000_000_000


class FakeClock(AnchoredClock):
    """A `scidaq.clock.Clock` that stands still until the test says `advance` (or `step`, for the wall clock alone).

    Threads that `wait` on it go on when fake time reaches their deadline. `sleepers` tells a test how many of them wait
    now, so that it need not guess when to advance.
    """

    def __init__(self, wall_ns: int = 1_750_000_000 * NS, steady_ns: int = 1_000 * NS, boot_id: str = "fake") -> None:
        self._lock = threading.Lock()
        self._steady_ns = steady_ns
        self._wall_ns = wall_ns
        self._boot_id = boot_id
        self._asleep_ns = 0
        super().__init__()
        self.sleepers = 0
        """How many threads wait."""

    def steady_ns(self) -> int:
        return self._steady_ns

    def _take(self) -> Anchor:
        with self._lock:
            return Anchor(self._wall_ns, self._steady_ns, 1, self._boot_id)

    def advance(self, seconds: float, wall_ppm: float = 0.0) -> None:
        """Let time pass for everybody; `wall_ppm`: how much faster for the wall clock."""
        with self._lock:
            self._steady_ns += round(seconds * NS)
            self._wall_ns += round(seconds * NS) + round(seconds * NS * wall_ppm / 1_000_000)

    def step(self, seconds: float) -> None:
        """Set the wall clock on or back; nothing else passes."""
        with self._lock:
            self._wall_ns += round(seconds * NS)

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: all clocks go on but the one for deadlines."""
        self.advance(seconds)
        with self._lock:
            self._asleep_ns += round(seconds * NS)

    def boot(self, boot_id: str, off_s: float = 0.0) -> None:
        """The machine has been started anew after being off for a while: its steady clock begins again."""
        with self._lock:
            self._steady_ns, self._asleep_ns, self._boot_id = 5 * NS, 0, boot_id
            self._wall_ns += round(off_s * NS)
        self.reanchor()

    def monotonic_s(self) -> float:
        return (self._steady_ns - self._asleep_ns) / NS

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        deadline = self.monotonic_s() + timeout_s
        with self._lock:
            self.sleepers += 1
        try:
            # The event belongs to somebody who does not know of this clock, so both are looked at in short turns.
            while not event.wait(_LOOK_S):
                if self.monotonic_s() >= deadline:
                    return event.is_set()
            return True
        finally:
            with self._lock:
                self.sleepers -= 1

    def run(self, seconds: float, turn_s: float = 0.05, pause_s: float = 0.001) -> None:
        """Let time pass in short turns, giving other threads a moment of real time to act after each."""
        for _ in range(max(1, round(seconds / turn_s))):
            self.advance(turn_s)
            time.sleep(pause_s)
