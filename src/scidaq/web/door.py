"""What the doors need of a station: the one Protocol through which HTTP reaches it.

Its arguments and results are blocks, buffers and frozen dataclasses, so that the doors may live in a process of their
own. Nothing here knows files or hardware.
"""

from __future__ import annotations

from typing import Protocol

from scidaq.station import StationStats


class StationDoor(Protocol):
    """A station that is open. Every method may be called from any thread, and raises errors of `scidaq.errors`."""

    def stats(self) -> StationStats:
        """A snapshot of everything that is counted."""
