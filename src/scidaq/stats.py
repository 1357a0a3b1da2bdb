"""One snapshot, many readers: what every room's `stats()` has in common.

A room counts with plain integers and hands out a frozen dataclass; metrics, health, the terminal and the doctor read
only that, so that they cannot disagree. Each field of such a dataclass is made by `field_of`, which gives it its unit
and its sentence; `describe` lists them for the reference pages. What a snapshot means for whoever relies on the station
is a `Verdict`: each room that can be unwell has a function `judge` from its statistics to one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple


class FieldDoc(NamedTuple):
    """What one field of a statistics dataclass means."""

    name: str
    unit: str
    doc: str


def field_of(unit: str, doc: str, default: Any = MISSING) -> Any:
    """A dataclass field with its unit (UCUM; `1` for a count) and one sentence of meaning."""
    metadata = {"unit": unit, "doc": doc}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def describe(kind: type[Any]) -> Iterator[FieldDoc]:
    """The fields of a statistics dataclass, in order."""
    for one in fields(kind):
        yield FieldDoc(one.name, one.metadata.get("unit", ""), one.metadata.get("doc", ""))


class Status(StrEnum):
    """How well something is, from well to ill."""

    HEALTHY = "healthy"
    """It does what it is there for."""
    DEGRADED = "degraded"
    """It does so with a loss, or is about to stop."""
    UNHEALTHY = "unhealthy"
    """It does not do what it is there for."""

    @property
    def rank(self) -> int:
        """0 for healthy; the higher, the worse."""
        return list(Status).index(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a room says of itself: a pure function of its statistics."""

    status: Status
    reason: str = ""
    """Why it is not healthy, in words that an operator can act on; empty when it is."""
    details: Mapping[str, str | int | float | None] = field(default_factory=dict)
    """The figures behind it, with their units in their names; None for what is not known."""
    critical: bool = True
    """Whether the station is unhealthy when this is; otherwise it is degraded at most."""


BOUNDS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
"""The upper ends of what durations are sorted into."""


@dataclass(frozen=True, slots=True)
class DurationStats:
    """How long something took, each time."""

    counts: tuple[int, ...] = field_of("1", "How often it took up to 1 ms, 5, 10, 50, 100, 500 ms, 1 s, 5, 30 s, more.")
    sum_s: float = field_of("s", "How long it took in total.")

    def __add__(self, other: DurationStats) -> DurationStats:
        return DurationStats(
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)), self.sum_s + other.sum_s
        )

    @classmethod
    def none(cls) -> DurationStats:
        """Nothing was counted yet."""
        return cls((0,) * (len(BOUNDS_S) + 1), 0.0)


class Durations:
    """Counts durations with plain integers; `add` is for one thread, `stats` for any."""

    __slots__ = ("_counts", "_sum_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """It took so long once more."""
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds

    def stats(self) -> DurationStats:
        """A snapshot."""
        return DurationStats(tuple(self._counts), self._sum_s)
