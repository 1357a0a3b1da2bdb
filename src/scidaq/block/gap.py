"""Losses are data: a `Gap` explains a hole in the rows of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from scidaq.errors import InvalidBlock


class Reason(StrEnum):
    """Why rows are missing."""

    SOURCE = "source"
    """The instrument's own numbering skipped them."""
    OVERFLOW = "overflow"
    """The ring was full: recording was slower than the instrument for too long."""
    DISCONNECT = "disconnect"
    """The connection to the instrument broke."""
    HANG = "hang"
    """The driver did not return from a read."""
    RESTART = "restart"
    """The station was not running, or was killed before they were durable."""
    RESET = "reset"
    """The instrument's counter began again."""
    CLOCK_STEP = "clock_step"
    """The wall clock was stepped; nothing need be missing."""
    SCHEMA = "schema"
    """The channels or their calibration changed; nothing need be missing."""
    DISK = "disk"
    """The disk refused to take them."""
    STOPPED = "stopped"
    """Acquisition was stopped on purpose, while the station went on."""
    LATE = "late"
    """A stage was too late to see them."""
    RETENTION = "retention"
    """They were removed by the rules of retention."""
    CORRUPTION = "corruption"
    """They were recorded, and damage to the disk or its files has taken them."""
    POLICY = "policy"
    """They were left out by the recording policy: said when reading, never recorded as a gap."""
    UNEXPLAINED = "unexplained"
    """No record explains the hole, so data was damaged: said when reading and verifying, never recorded."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A hole `[first, end)` in the rows of one epoch, or, with `unknown`, a loss of unknown size before row `first`.

    A gap with `first == end` that is not `unknown` says that the numbering was interrupted there and nothing lost.
    """

    stream: str
    epoch: int
    first: int
    end: int
    reason: Reason
    start_ns: int | None = None
    """UTC nanoseconds of the last row before the hole, where there is one."""
    end_ns: int | None = None
    """UTC nanoseconds of the first row after it, where there is one yet."""
    unknown: bool = False
    """The source has no numbers (or they did not survive), so only the time is bounded, not the count."""
    open: bool = False
    """The rows may still come (a source that backfills); else the loss is final."""
    detail: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.end:
            raise InvalidBlock(f"gap of {self.stream}: rows [{self.first}, {self.end}) are no range")
        if self.unknown and self.first != self.end:
            raise InvalidBlock(
                f"gap of {self.stream}: a count that is unknown has no rows, not {self.end - self.first}"
            )

    @property
    def rows(self) -> int | None:
        """How many rows are missing; None when nobody can know."""
        return None if self.unknown else self.end - self.first

    def as_json(self) -> dict[str, Any]:
        """What goes into files (stream and epoch are the file's own)."""
        out: dict[str, Any] = {"first": self.first, "end": self.end, "reason": str(self.reason)}
        for key in ("start_ns", "end_ns"):
            if (value := getattr(self, key)) is not None:
                out[key] = value
        for key in ("unknown", "open", "detail"):
            if value := getattr(self, key):
                out[key] = value
        return out

    @classmethod
    def from_json(cls, stream: str, epoch: int, d: dict[str, Any]) -> Gap:
        """The inverse of `as_json`."""
        return cls(
            stream,
            epoch,
            d["first"],
            d["end"],
            Reason(d["reason"]),
            d.get("start_ns"),
            d.get("end_ns"),
            d.get("unknown", False),
            d.get("open", False),
            d.get("detail", ""),
        )
