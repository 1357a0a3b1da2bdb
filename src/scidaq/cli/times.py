"""How times and sizes are shown on the command line; how times are typed is the business of `scidaq.block`."""

from __future__ import annotations

from datetime import UTC, datetime

from scidaq.block import NS, length_ns, moment_ns, shown

__all__ = ["NS", "clock_time", "length_ns", "moment_ns", "shown", "size", "to_the_second"]


def to_the_second(ns: int | None) -> str:
    """A time for a table that has little room, `-` for none."""
    return "-" if ns is None else f"{datetime.fromtimestamp(ns // NS, UTC):%Y-%m-%d %H:%M:%S}"


def clock_time(ns: int) -> str:
    """A time of day."""
    return f"{datetime.fromtimestamp(ns // NS, UTC):%H:%M:%S}"


def size(count: int | float) -> str:
    """Bytes for people: `1.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
