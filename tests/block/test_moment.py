"""Moments as programs say them; as text they are tested with the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import NS, moment_ns
from scidaq.errors import RequestError

NOON = 1_767_268_800 * NS  # 2026-01-01T12:00:00Z


@pytest.mark.parametrize(
    "moment",
    [
        NOON,
        np.int64(NOON),
        NOON / NS,
        np.float64(NOON / NS),
        datetime(2026, 1, 1, 12, tzinfo=UTC),
        datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),
        np.datetime64("2026-01-01T12:00:00"),
        np.datetime64("2026-01-01T12", "h"),
        np.datetime64(NOON, "ns"),
        pd.Timestamp("2026-01-01T12:00:00Z"),
        "2026-01-01T12:00:00Z",
        "now",
    ],
)
def test_a_moment(moment: object) -> None:
    assert moment_ns(moment, NOON) == NOON  # type: ignore[arg-type]


def test_the_nanoseconds_of_pandas_are_kept() -> None:
    assert moment_ns(pd.Timestamp(NOON + 123_456_789, tz="UTC"), 0) == NOON + 123_456_789


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (datetime(2026, 1, 1), "does not say of which time zone"),  # noqa: DTZ001
        (float("nan"), "is no time"),
        (float("inf"), "is no time"),
        (np.datetime64("NaT", "ns"), "is no time"),
        (np.datetime64("2500-01-01"), "is no time"),
        (True, "is no time"),
        (None, "is no time"),
        ([1], "is no time"),
        (1 << 63, "is no time"),
        (1e300, "is no time"),
        ("soon", "is no time: give ISO 8601"),
    ],
)
def test_what_is_no_moment(moment: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        moment_ns(moment, NOON)  # type: ignore[arg-type]


@given(st.integers(0, 4 * 10**18))
def test_whole_nanoseconds_stay(ns: int) -> None:
    assert moment_ns(ns, 0) == moment_ns(np.datetime64(ns, "ns"), 0) == ns
