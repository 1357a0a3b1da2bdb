"""When to poll: several periods on one grid each, without drift, and without a burst after a delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class _Beat:
    period_s: float
    next_s: float


class Schedule:
    """Numbered tasks, each due every `period_s` from `start` on. Times are those of `Clock.monotonic_s`."""

    def __init__(self, periods_s: Sequence[float]) -> None:
        self._periods = periods_s
        self._beats: list[_Beat] = []
        self.missed = 0
        """Times that came while something else took its time, and were left out."""

    def start(self, now_s: float) -> None:
        """Everything is due now, and then on its grid."""
        self._beats = [_Beat(period, now_s) for period in self._periods]

    def due(self, now_s: float) -> int | None:
        """The task that has been due the longest, and takes it off; None when nothing is due."""
        index = min(range(len(self._beats)), key=lambda i: self._beats[i].next_s)
        beat = self._beats[index]
        if beat.next_s > now_s:
            return None
        beat.next_s += beat.period_s
        if beat.next_s <= now_s:
            # Late by whole periods: they are gone. The grid stays, so that times do not drift.
            gone = int((now_s - beat.next_s) / beat.period_s) + 1
            self.missed += gone
            beat.next_s += gone * beat.period_s
        return index

    def next_s(self) -> float:
        """When the next task is due."""
        return min(beat.next_s for beat in self._beats)
