"""Who reads with `scidaq.open` beside a station that records sees what is there at that moment, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import scidaq
from scidaq.block import Block, Channel, Gap, Reason, Schema, StreamSpec
from scidaq.clock import Clock, SystemClock
from scidaq.query import Store, Stream
from scidaq.station import InstrumentPlan, Station
from scidaq.testing import FakeDriver, FakeInstrument
from tests.station.plans import IMPATIENT, plan, wait_for

COUNT = StreamSpec("count", Schema((Channel("row", "int64"), Channel("half", "float64"))), counter="c")
"""Irregular; its values say which row they are of."""
TURNS = 8


class Counting(FakeDriver):
    """Delivers its rows' numbers, so many at once."""

    def __init__(self, rows: int, pause_s: float, clock: Clock) -> None:
        super().__init__(FakeInstrument(), clock)
        self._rows, self._pause_s, self._at, self._when = rows, pause_s, 0, clock

    def describe(self) -> Sequence[StreamSpec]:
        return (COUNT,)

    def arm(self) -> Sequence[StreamSpec]:
        super().arm()
        self._at = 0
        return (COUNT,)

    def read(self, timeout_s: float) -> Sequence[Block]:
        super().read(self._pause_s)
        n = np.arange(self._at, self._at + self._rows)
        times = np.full(self._rows, self._when.now_ns())
        self._at += self._rows
        return (Block.of(COUNT.schema, [n, n / 2], stream="count", first=int(n[0]), times=times),)


def check(stream: Stream, before: int) -> int:
    """Every row is there, once and with its own values, or a gap says why it is not; how many are accounted for."""
    at = 0
    for item in stream.read().items:
        if isinstance(item, Gap) and not item.rows:
            continue
        assert item.first == at
        at = item.end
        if isinstance(item, Gap):
            assert item.reason is not Reason.UNEXPLAINED
        else:
            n = np.arange(item.first, item.end)
            assert np.array_equal(item.column("row"), n)
            assert np.array_equal(item.column("half"), n / 2)
            assert (np.diff(item.time_ns()) >= 0).all()
    assert at >= before, "what was there once is there still"
    arrays = stream.read().to_numpy()
    assert (np.diff(arrays["row"]) > 0).all()
    assert np.array_equal(arrays["half"] * 2, arrays["row"])
    newest = stream.read(last=10).to_numpy()
    assert len(newest["row"]) == 10 or len(arrays["row"]) < 10
    assert np.array_equal(np.diff(newest["row"]), np.ones(len(newest["row"]) - 1))
    return at


def files(store: Store, stream: str) -> int:
    return len(list((store.path / "streams" / stream).glob("*.arrows")))


@pytest.mark.slow
def test_whatever_is_read_while_it_is_recorded_is_whole(tmp_path: Path) -> None:
    clock, data_dir = SystemClock(), tmp_path / "d"
    fast = InstrumentPlan("fast", lambda: Counting(1000, 0.005, clock), "fake", supervision=IMPATIENT)
    slow = InstrumentPlan("slow", lambda: Counting(3, 0.01, clock), "fake", supervision=IMPATIENT)
    streams = ("fast/count", "slow/count")
    journals: set[str] = set()
    with Station(plan(data_dir, fast, slow), clock):
        kept = scidaq.open(data_dir)
        wait_for(lambda: all(name in kept and kept[name].rows for name in streams))
        seen = dict.fromkeys(streams, 0)
        turns = 0
        while turns < TURNS or files(kept, "fast/count") < 8 or files(kept, "slow/count") < 1 or len(journals) < 3:
            turns += 1
            assert turns < 100 * TURNS
            for store in (kept, scidaq.open(data_dir)):
                for name in streams:
                    seen[name] = check(store[name], seen[name])
            journals |= {path.name for path in (data_dir / "journal").iterdir()}
    for name in streams:
        assert check(kept[name], seen[name]) == check(scidaq.open(data_dir)[name], seen[name])
