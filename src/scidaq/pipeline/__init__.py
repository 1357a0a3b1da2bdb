"""Moving blocks: the intake that places them, and the ring that hands them to readers of different speeds.

Knows neither hardware nor disks; it meets the rooms beside it over `Block`, `Gap`, `Epoch` and `Entry`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from scidaq.pipeline.intake import Door, Intake, IntakeStats, Timeline
from scidaq.pipeline.judging import judge, share
from scidaq.pipeline.ring import Budget, Hold, Latest, Ring, RingStats

__all__ = [
    "Budget",
    "Door",
    "Hold",
    "Intake",
    "IntakeStats",
    "Latest",
    "Options",
    "Ring",
    "RingStats",
    "Timeline",
    "judge",
    "share",
]


@dataclass(frozen=True)
class Options:
    """What the operator may choose about the way of blocks."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    ring_bytes: Annotated[int, Ge(1 << 16)] = 256 << 20
    """Bytes per stream that may wait for the recorder; more become a gap of reason *overflow*."""
    ring_seconds: Annotated[float, Ge(1.0)] = 10.0
    """Seconds of a uniform stream that its ring should at least hold, up to `ring_bytes`."""
