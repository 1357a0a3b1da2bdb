"""Times and lengths as they are typed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.cli.times import NS, clock_time, length_ns, moment_ns, shown, size
from scidaq.errors import RequestError

NOON = 1_767_268_800 * NS  # 2026-01-01T12:00:00Z


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2026-01-01T12:00:00Z", NOON),
        ("2026-01-01T12:00:00", NOON),
        ("2026-01-01 12:00", NOON),
        ("2026-01-01T13:00:00+01:00", NOON),
        ("2026-01-01T12:00:00.000000001Z", NOON + 1),
        ("2026-01-01T13:00:00.5+01:00", NOON + NS // 2),
        ("2026-01-01T12:00:00,25Z", NOON + NS // 4),
        ("20260101T120000.5Z", NOON + NS // 2),
        ("2026-01-01", NOON - 12 * 3600 * NS),
        ("20260101", NOON - 12 * 3600 * NS),
        (str(NOON + 7), NOON + 7),
        ("0", 0),
        ("now", NOON),
        ("-10s", NOON - 10 * NS),
        ("-1.5h", NOON - 5400 * NS),
        ("-200ms", NOON - 200_000_000),
        ("1969-12-31T23:59:59.9Z", -NS // 10),
    ],
)
def test_a_moment(text: str, ns: int) -> None:
    assert moment_ns(text, NOON) == ns


@pytest.mark.parametrize("text", ["", "yesterday", "10s", "-10", "-10x", "2026-13-01", "9" * 30, "12:00", "1e9"])
def test_what_is_no_moment(text: str) -> None:
    if text == "-10":  # an integer before 1970 is one
        assert moment_ns(text, NOON) == -10
        return
    with pytest.raises(RequestError, match="is no time: give ISO 8601"):
        moment_ns(text, NOON)


def test_lengths() -> None:
    assert [length_ns(t) for t in ("10s", "1.5m", "2d", "7ns", "3us", "100", "s", "-1s")] == [
        10 * NS,
        90 * NS,
        172_800 * NS,
        7,
        3000,
        None,
        None,
        None,
    ]


@given(st.integers(-(10**18), 4 * 10**18))
def test_what_is_shown_can_be_typed(ns: int) -> None:
    assert moment_ns(shown(ns), 0) == ns
    assert shown(ns)[:19] == f"{datetime.fromtimestamp(ns // NS, UTC):%Y-%m-%dT%H:%M:%S}"


def test_for_people() -> None:
    assert shown(None) == "-"
    assert clock_time(NOON) == "12:00:00"
    assert [size(n) for n in (0, 999, 1000, 1_440_000, 2.5e9, 7e15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.4 MB",
        "2.5 GB",
        "7000.0 TB",
    ]
