from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from scidaq.block import Block, RangeSet
from scidaq.clock import SystemClock
from scidaq.errors import InstrumentDisconnected
from scidaq.instruments import Fault, WaveformDriver, expected
from scidaq.testing import DriverContract, FakeClock

Options = WaveformDriver.Options


def armed(clock, **options):
    driver = WaveformDriver("wave", Options(**options), clock)
    driver.identity()
    return driver, driver.arm()


def fetch(driver, clock, seconds: float, turn_s: float = 0.05) -> list[Block]:
    blocks: list[Block] = []
    for _ in range(round(seconds / turn_s)):
        clock.advance(turn_s)
        blocks += driver.read(0.0)
    return blocks


def balanced(truth):
    new = truth.sent - truth.duplicated - truth.conflicting
    return truth.produced == new + truth.dropped + truth.missed + truth.withheld


class TestPaced(DriverContract):
    @pytest.fixture
    def driver(self):
        clock = SystemClock()
        return lambda: WaveformDriver("wave", Options(rate_hz=10_000, block_s=0.01), clock)


class TestUnpaced(DriverContract):
    @pytest.fixture
    def driver(self):
        clock = SystemClock()
        return lambda: WaveformDriver("wave", Options(unpaced=True, dtype="float64", channels=8), clock)


class TestManyIrregularColumns(DriverContract):
    @pytest.fixture
    def driver(self):
        clock = SystemClock()
        options = Options(rate_hz=1000, block_rows=5, layout="columns", status=True, irregular=True, streams=3)
        return lambda: WaveformDriver("wave", options, clock)


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
@pytest.mark.parametrize("layout", ["interleaved", "columns"])
def test_values_are_what_was_expected(dtype, layout):
    clock = FakeClock()
    driver, (spec,) = armed(clock, dtype=dtype, layout=layout, channels=3, rate_hz=12_345)
    for block in fetch(driver, clock, 1.0):
        assert block.schema == spec.schema
        want = expected(Options(dtype=dtype, layout=layout, channels=3, rate_hz=12_345), block.first, block.rows)
        got = block.columns[0] if layout == "interleaved" else np.stack(block.columns, axis=1)
        np.testing.assert_array_equal(got, want)


def test_values_differ_by_seed_and_channel():
    one, other = expected(Options(seed=1), 0, 100), expected(Options(seed=2), 0, 100)
    assert (one != other).any()
    assert (one[:, 0] != one[:, 1]).any()
    assert one.dtype == np.int16


def test_a_block_shares_the_table():
    clock = FakeClock()
    driver, _ = armed(clock, unpaced=True, dtype="float64")
    a, b, *_ = driver.read(0.0)
    assert not a.columns[0].flags.owndata
    assert not b.columns[0].flags.writeable
    assert a.end == b.first


@pytest.mark.parametrize("rate_hz", [0.5, 1, 3, 7.5, 1000, 44_100, 1e6])
def test_the_number_of_a_row_is_its_time(rate_hz):
    clock = FakeClock()
    driver, (spec,) = armed(clock, rate_hz=rate_hz, channels=1)
    blocks = fetch(driver, clock, max(2.0, 4 / rate_hz) if rate_hz < 1e5 else 0.2)
    assert blocks
    for before, after in itertools.pairwise(blocks):
        assert after.follows(before)
    steady_ns = clock.anchor.steady_ns + clock.now_ns() - clock.anchor.wall_ns
    assert blocks[-1].end <= steady_ns * rate_hz / 1e9 + 1
    assert abs(blocks[0].t0_ns - clock.anchor.wall(round(blocks[0].first / rate_hz * 1e9))) <= 1
    assert spec.counter == f"fake:0:{spec.schema.rate}"


def test_numbering_survives_the_driver():
    clock = FakeClock()
    driver, (spec,) = armed(clock)
    last = fetch(driver, clock, 0.2)[-1]
    driver.close()
    clock.advance(5.0)
    driver, (again,) = armed(clock)
    first = fetch(driver, clock, 0.2)[0]
    assert again.counter == spec.counter
    assert 4_900 <= first.first - last.end <= 5_100
    truth = driver.truth()
    assert truth.missed == first.first - last.end
    assert balanced(truth)


def test_without_free_running_each_arm_counts_anew():
    clock = FakeClock()
    driver, (spec,) = armed(clock, free_running=False)
    assert fetch(driver, clock, 0.2)[0].first == 0
    (again,) = driver.arm()
    assert fetch(driver, clock, 0.2)[0].first == 0
    assert again.counter != spec.counter


def test_rows_dropped_are_skipped_numbers():
    clock = FakeClock()
    driver, _ = armed(clock)
    fetch(driver, clock, 0.1)
    driver.drop(123)
    rows = RangeSet()
    for block in fetch(driver, clock, 0.5):
        rows.add(block.first, block.end)
    assert driver.truth().dropped == 123
    assert balanced(driver.truth())


def test_a_duplicate_is_the_same_rows_and_a_conflict_is_not():
    clock = FakeClock()
    driver, _ = armed(clock)
    original = fetch(driver, clock, 0.1)[-1]
    driver.duplicate()
    driver.conflict()
    same, other = driver.read(0.0)
    assert same.same_rows(original)
    assert (other.first, other.end) == (original.first, original.end)
    assert not other.same_rows(original)
    truth = driver.truth()
    assert (truth.duplicated, truth.conflicting) == (50, 50)
    assert balanced(truth)


def test_lag_delays_and_loses_nothing():
    clock = FakeClock()
    driver, _ = armed(clock, buffer_s=1.0)
    before = fetch(driver, clock, 0.1)
    driver.lag(5.0)
    assert fetch(driver, clock, 4.9) == []
    after = fetch(driver, clock, 1.0)
    assert after[0].first == before[-1].end
    assert sum(b.rows for b in after) >= 5_900
    assert driver.truth().missed == 0


def test_what_nobody_fetches_is_missed():
    clock = FakeClock()
    driver, _ = armed(clock, buffer_s=1.0)
    end = fetch(driver, clock, 0.1)[-1].end
    clock.advance(4.0)
    (first, *_) = driver.read(0.0)
    assert first.first - end == driver.truth().missed > 2_900
    assert balanced(driver.truth())


def test_late_rows_come_out_of_order_and_complete():
    clock = FakeClock()
    driver, (spec,) = armed(clock, backfill=True)
    assert spec.backfill
    driver.late(70)
    blocks = fetch(driver, clock, 1.0)
    firsts = [b.first for b in blocks]
    assert firsts != sorted(firsts)
    rows = RangeSet((b.first, b.end) for b in blocks)
    assert len(rows) == 1
    assert rows.total == sum(b.rows for b in blocks) == driver.truth().sent
    assert driver.truth().withheld == 0


def test_late_needs_backfill():
    with pytest.raises(ValueError, match="backfill"):
        armed(FakeClock())[0].late(1)


def test_out_of_reach_for_new_connections_too():
    clock = FakeClock()
    driver, _ = armed(clock)
    end = fetch(driver, clock, 0.1)[-1].end
    driver.disconnect(3.0)
    with pytest.raises(InstrumentDisconnected, match="reach"):
        driver.read(0.0)
    with pytest.raises(InstrumentDisconnected):
        armed(clock)
    clock.advance(3.0)
    driver, _ = armed(clock)
    assert fetch(driver, clock, 0.1)[0].first - end == driver.truth().missed > 2_900


@pytest.mark.parametrize(("stubborn", "within_s"), [(False, 0.5), (True, 5.0)])
def test_a_hang_ends_with_close_unless_it_is_stubborn(stubborn, within_s):
    driver, _ = armed(SystemClock())
    driver.hang(0.2 if stubborn else 60.0, stubborn=stubborn)
    start = time.monotonic()
    threading.Timer(0.01, driver.close).start()
    with pytest.raises(InstrumentDisconnected):
        driver.read(0.0)
    assert (time.monotonic() - start >= 0.2) == stubborn
    assert time.monotonic() - start < within_s


def test_faults_come_on_schedule():
    clock = FakeClock()
    faults = (Fault("drop", every_s=1.0, rows=10), Fault("duplicate", every_s=2.0))
    driver, _ = armed(clock, faults=faults)
    fetch(driver, clock, 10.0)
    truth = driver.truth()
    assert truth.dropped == 100
    assert truth.duplicated == 5 * 50
    assert balanced(truth)


def test_book_keeping_over_everything_at_once():
    clock = FakeClock()
    options = Options(
        rate_hz=997.5,
        backfill=True,
        faults=(
            Fault("drop", 0.7, rows=13),
            Fault("duplicate", 0.9),
            Fault("late", 1.1, rows=77),
            Fault("lag", 5.0, seconds=0.8),
            Fault("disconnect", 3.0, seconds=0.4),
        ),
    )
    seen, sent = RangeSet(), 0
    driver = None
    for _ in range(800):
        clock.advance(0.025)
        try:
            if driver is None:
                driver = WaveformDriver("w", options, clock)
                driver.identity()
                driver.arm()
            for block in driver.read(0.0):
                sent += block.rows
                seen.add(block.first, block.end)
                np.testing.assert_array_equal(block.columns[0], expected(options, block.first, block.rows))
        except InstrumentDisconnected:
            driver = None
    truth = WaveformDriver("w", options, clock).truth()
    assert truth.sent == sent
    assert truth.sent - truth.duplicated == seen.total
    assert balanced(truth)


def test_irregular_times_ascend_and_are_near_the_grid():
    clock = FakeClock()
    driver, _ = armed(clock, irregular=True)
    blocks = fetch(driver, clock, 1.0)
    times = np.concatenate([b.time_ns() for b in blocks])
    assert (np.diff(times) > 0).all()
    assert np.abs(np.diff(times) - 1e6).max() <= 0.5e6 + 1


def test_a_wait_ends_when_something_happens():
    driver, _ = armed(SystemClock(), rate_hz=0.01)
    threading.Timer(0.01, driver.disconnect, (60,)).start()
    start = time.monotonic()
    with pytest.raises(InstrumentDisconnected):
        driver.read(10.0)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"unpaced": True, "free_running": True}, "free_running"),
        ({"status": True}, "layout"),
        ({"faults": (Fault("late", 1.0),)}, "backfill"),
        ({"channels": 0}, "channels"),
        ({"rate_hz": 1e-9}, "rate_hz"),
    ],
)
def test_contradictions_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        WaveformDriver("w", Options(**options), FakeClock())


def test_a_clock_step_moves_the_times_and_not_the_numbers():
    clock = FakeClock()
    driver, _ = armed(clock)
    before = fetch(driver, clock, 0.1)[-1]
    clock.step(100.0)
    clock.reanchor()
    after = fetch(driver, clock, 0.1)[0]
    assert after.first == before.end
    assert after.t0_ns - before.t0_ns == 100_050_000_000


def test_options_can_be_checked_by_pydantic():
    pydantic = pytest.importorskip("pydantic")
    adapter = pydantic.TypeAdapter(Options)
    assert adapter.validate_python({"rate_hz": 10, "faults": [{"kind": "drop", "every_s": 1}]}) == replace(
        Options(), rate_hz=10.0, faults=(Fault("drop", 1.0),)
    )
    with pytest.raises(pydantic.ValidationError, match="nexpected"):
        adapter.validate_python({"rate": 10})
    with pytest.raises(pydantic.ValidationError, match="greater"):
        adapter.validate_python({"rate_hz": 0})
