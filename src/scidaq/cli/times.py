"""How times and lengths are typed and shown on the command line. All times are UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from scidaq.errors import RequestError

NS = 1_000_000_000
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": NS, "m": 60 * NS, "h": 3600 * NS, "d": 86_400 * NS}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)")
_FRACTION = re.compile(r"(.*\d\d:?\d\d:?\d\d)[.,](\d{1,9})\d*(.*)")
_LIMIT = 1 << 63


def length_ns(text: str) -> int | None:
    """`10s`, `1.5h`, `200ms` in nanoseconds; None for anything else, also for more than 292 years."""
    found = _LENGTH.fullmatch(text)
    if found is None or (ns := float(found[1]) * _UNITS[found[2]]) >= _LIMIT:
        return None
    return round(ns)


def moment_ns(text: str, now_ns: int) -> int:
    """ISO 8601 (UTC unless it says otherwise), integer nanoseconds, or a length before now such as `-10s`.

    Raises `RequestError` for anything else.
    """
    if text.startswith("-") and (before := length_ns(text[1:])) is not None:
        return now_ns - before
    if text == "now":
        return now_ns
    try:
        ns = int(text) if re.fullmatch(r"-?\d+", text) and len(text) != len("20260131") else _iso_ns(text)
    except ValueError:
        ns = _LIMIT
    if not -_LIMIT <= ns < _LIMIT:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise RequestError(
            f"{shown!r} is no time: give ISO 8601 such as 2026-01-31T12:00:00Z, nanoseconds since 1970, or -10s"
        )
    return ns


def _iso_ns(text: str) -> int:
    fraction = 0
    if found := _FRACTION.fullmatch(text):
        text, fraction = found[1] + found[3], int(found[2].ljust(9, "0"))
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000 + fraction


def shown(ns: int | None) -> str:
    """A time in ISO 8601 with nanoseconds, `-` for none."""
    if ns is None:
        return "-"
    seconds, rest = divmod(ns, NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


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
