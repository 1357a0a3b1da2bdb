"""Time through an anchor: it never goes back, it is bent gently towards the wall clock, and a step is told."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.clock import SLEW_FROM_NS, SLEW_PPM, STEP_NS, AnchoredClock, Clock, Slew, SystemClock
from scidaq.testing import FakeClock
from tests.clock.shifted import ShiftedClock

NS = 1_000_000_000
T0 = 1_750_000_000 * NS


@pytest.mark.parametrize("make", [SystemClock, FakeClock])
def test_both_clocks_keep_the_promises_of_the_protocol(make: type[AnchoredClock]) -> None:
    clock = make()
    assert isinstance(clock, Clock)
    anchor = clock.anchor
    assert clock.anchor is anchor
    assert clock.follow() == 0
    assert clock.anchor is anchor, "to slew takes no new anchor"
    assert abs(clock.drift_ns()) < NS
    assert clock.reanchor() is clock.anchor is not anchor
    assert abs(clock.bent_anchor().wall_ns - clock.now_ns()) < NS


@pytest.mark.parametrize("error_s", [0.3, -0.3, 0.999, -0.999])
def test_a_small_error_is_made_up_for_at_five_hundred_ppm(error_s: float) -> None:
    clock = FakeClock(T0)
    clock.step(error_s)
    for second in range(1, 2100):
        assert clock.follow() == 0
        left = abs(clock.drift_ns())
        assert left == max(0, round(abs(error_s) * NS) - (second - 1) * SLEW_PPM * 1000)
        clock.advance(1)
    assert clock.drift_ns() == 0


def test_a_ramp_ends_where_it_was_to_lead_though_nobody_looks_any_more() -> None:
    clock = FakeClock(T0)
    clock.step(0.3)
    clock.follow()
    clock.advance(3600)
    assert clock.drift_ns() == 0


@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(0, 5), st.sampled_from([0.0, 1e-9, 600.0])),
            st.floats(-2000, 2000),
            st.one_of(st.just(0.0), st.floats(-0.4, 0.4)),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_time_never_goes_back_nor_runs_beyond_the_rate_and_comes_near_in_the_end(
    turns: list[tuple[float, float, float, bool]],
) -> None:
    clock = FakeClock(T0)
    steady, before = clock.anchor.steady_ns, clock.now_ns()
    anchor = clock.anchor
    for seconds, ppm, jump_s, look in turns:
        clock.advance(seconds, wall_ppm=ppm)
        clock.step(jump_s)
        if look and abs(clock.drift_ns()) <= STEP_NS:
            assert clock.follow() == 0
        passed, now = clock.steady_ns() - steady, clock.now_ns()
        assert now >= before
        assert abs((now - before) - passed) <= passed * SLEW_PPM // 1_000_000 + 1
        steady, before = clock.steady_ns(), now
    if abs(clock.drift_ns()) <= STEP_NS:
        clock.follow()
        clock.advance(STEP_NS / NS * 1_000_000 / SLEW_PPM)
        assert abs(clock.drift_ns()) <= SLEW_FROM_NS
    assert clock.anchor is anchor


@given(st.integers(-STEP_NS, STEP_NS), st.integers(-NS, NS), st.integers(0, 10**13), st.integers(0, 10**13))
def test_a_ramp_goes_on_where_the_one_before_had_come_to(error: int, next_error: int, after: int, later: int) -> None:
    first = Slew(0, 7, error)
    second = first.towards(after, next_error)
    assert second.at(after) == first.at(after)
    assert abs(second.at(after + later) - second.at(after)) <= min(abs(next_error), later * SLEW_PPM // 1_000_000)


@pytest.mark.parametrize("seconds", [1.3, -1.3, 3600, -3600])
def test_a_step_is_told_and_time_is_that_of_the_wall_clock_from_then_on(seconds: float) -> None:
    clock = FakeClock(T0)
    clock.step(0.2)
    clock.follow()
    clock.advance(10)
    clock.step(seconds)
    told = clock.follow()
    assert told == pytest.approx((seconds + 0.195) * NS)
    assert clock.now_ns() == T0 + round((10.2 + seconds) * NS)
    assert clock.drift_ns() == clock.follow() == 0


def test_a_leap_second_is_slewed() -> None:
    clock = FakeClock(T0)
    anchor = clock.anchor
    clock.advance(1.0)
    clock.step(-1.0)  # as Linux does it: 23:59:59 comes twice
    clock.advance(1e-4, wall_ppm=-30_000)  # and there was a small error before
    for _ in range(2100):
        assert clock.follow() == 0
        clock.advance(1)
    assert clock.anchor is anchor
    assert abs(clock.drift_ns()) <= SLEW_FROM_NS


def test_a_leap_second_that_is_smeared_over_a_day_is_followed_closely() -> None:
    clock = FakeClock(T0)
    for _ in range(0, 86_400, 10):
        clock.advance(10, wall_ppm=-1_000_000 / 86_400)
        assert clock.follow() == 0
        assert abs(clock.drift_ns()) < 200_000
    assert clock.drift_ns() < 200_000


def test_in_suspend_time_goes_on_and_deadlines_do_not() -> None:
    clock = FakeClock(T0)
    deadlines = clock.monotonic_s()
    clock.suspend(3600)
    assert clock.now_ns() == T0 + 3600 * NS
    assert clock.monotonic_s() == deadlines
    assert clock.follow() == 0


def test_an_anchor_that_is_noted_while_time_is_being_bent_says_what_is_left() -> None:
    clock = FakeClock(T0)
    clock.step(0.3)
    clock.follow()
    clock.advance(100)
    noted = clock.bent_anchor()
    assert noted.wall(clock.steady_ns()) == clock.now_ns() == T0 + 100 * NS + 50_000_000
    assert noted.uncertainty_ns == 1 + 250_000_000
    assert clock.anchor.uncertainty_ns == 1


def test_time_does_not_go_back_for_those_who_read_it_while_another_thread_bends_it() -> None:
    clock = ShiftedClock()
    stop = threading.Event()

    def bend() -> None:
        while not stop.is_set():
            clock.wrong_ns = -clock.wrong_ns or 900_000_000
            clock.follow()

    thread = threading.Thread(target=bend)
    thread.start()
    try:
        before = clock.now_ns()
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            now = clock.now_ns()
            assert now >= before
            before = now
    finally:
        stop.set()
        thread.join()
