"""Moments and lengths of time as people and programs say them. All times are UTC."""

from __future__ import annotations

import operator
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np

from scidaq.block.channel import NS
from scidaq.errors import RequestError

Moment = int | float | str | datetime | np.datetime64
"""A time: nanoseconds since 1970 as an int, seconds as a float, an aware datetime, a datetime64, or text."""

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


def moment_ns(moment: Moment, now_ns: int) -> int:
    """UTC nanoseconds of a moment.

    As text: ISO 8601 (UTC unless it says otherwise), integer nanoseconds, `now`, or a length before now such as `-10s`.
    Raises `RequestError` for anything else, also for a datetime that does not say its time zone.
    """
    if isinstance(moment, str):
        return _of_text(moment, now_ns)
    try:
        ns = _of_number(moment)
    except RequestError:
        raise
    except (ValueError, OverflowError, TypeError):
        ns = _LIMIT
    if not -_LIMIT <= ns < _LIMIT:
        raise RequestError(
            f"{moment!r} is no time: give nanoseconds since 1970 as an int, seconds as a float, an aware datetime, "
            "a datetime64, or text such as 2026-01-31T12:00:00Z or -10s"
        )
    return ns


def _of_number(moment: Any) -> int:
    if isinstance(moment, (bool, np.bool_)):
        raise TypeError
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise RequestError(f"{moment!r} does not say of which time zone it is: use an aware datetime")
        return _since(moment) + int(getattr(moment, "nanosecond", 0))  # those of pandas are finer
    if isinstance(moment, np.datetime64):
        if np.isnat(moment):
            raise ValueError
        exact = moment.astype("datetime64[ns]")
        if exact.astype(moment.dtype) != moment:  # NumPy wraps around without a word
            raise OverflowError
        return int(exact.astype(np.int64))
    if isinstance(moment, (float, np.floating)):
        whole, part = divmod(float(moment), 1.0)
        return int(whole) * NS + round(part * NS)
    return operator.index(moment)


def _of_text(text: str, now_ns: int) -> int:
    if text.startswith("-") and (before := length_ns(text[1:])) is not None:
        return now_ns - before
    if text == "now":
        return now_ns
    try:
        ns = int(text) if re.fullmatch(r"-?\d+", text) and len(text) != len("20260131") else _iso_ns(text)
    except ValueError:
        ns = _LIMIT
    if not -_LIMIT <= ns < _LIMIT:
        told = text if len(text) <= 40 else f"{text[:40]}…"
        raise RequestError(
            f"{told!r} is no time: give ISO 8601 such as 2026-01-31T12:00:00Z, nanoseconds since 1970, or -10s"
        )
    return ns


def _iso_ns(text: str) -> int:
    fraction = 0
    if found := _FRACTION.fullmatch(text):
        text, fraction = found[1] + found[3], int(found[2].ljust(9, "0"))
    moment = datetime.fromisoformat(text)
    return _since(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) + fraction


def _since(moment: datetime) -> int:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000


def shown(ns: int | None) -> str:
    """A time in ISO 8601 with nanoseconds, `-` for none."""
    if ns is None:
        return "-"
    seconds, rest = divmod(ns, NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
