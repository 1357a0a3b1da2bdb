"""When to poll: several periods, each on its own grid, without drift and without a burst after a delay."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace


class Schedule:
    """Numbered tasks, task i due every `periods_s[i]` from `start` on. Times are those of `Clock.monotonic_s`."""

    def __init__(self, periods_s: Sequence[float]) -> None:
        self._periods = periods_s
        self._heap: list[tuple[float, int]] = []
        self.missed = 0
        """Times that passed while something else took its time, and were left out."""

    def start(self, now_s: float) -> None:
        """Everything is due now, and from now on at its period."""
        self._heap = [(now_s, task) for task in range(len(self._periods))]

    def due(self, now_s: float) -> int | None:
        """The task that has been due the longest, which is thereby done; None when nothing is due."""
        when, task = self._heap[0]
        if when > now_s:
            return None
        period = self._periods[task]
        when += period
        if when <= now_s:
            # Late by whole periods: they are gone. The grid stays, so that times do not drift.
            gone = int((now_s - when) / period) + 1
            self.missed += gone
            when += gone * period
        heapreplace(self._heap, (when, task))
        return task

    def next_s(self) -> float:
        """When the next task is due."""
        return self._heap[0][0]
