"""The machine's clock, with a wall clock that a test puts wrong."""

from __future__ import annotations

from dataclasses import replace

from scidaq.clock import Anchor, SystemClock


class ShiftedClock(SystemClock):
    """Real time, and a wall clock that is off by `wrong_ns`."""

    def __init__(self, wrong_ns: int = 0) -> None:
        self.wrong_ns = wrong_ns
        super().__init__()

    def _take(self) -> Anchor:
        seen = super()._take()
        return replace(seen, wall_ns=seen.wall_ns + self.wrong_ns)
