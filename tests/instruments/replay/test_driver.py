"""The driver `replay`: files played as instruments."""

from __future__ import annotations

import threading
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from scidaq.block import NS
from scidaq.clock import SystemClock
from scidaq.errors import InstrumentDisconnected, InstrumentError
from scidaq.instruments import HasEnd, ReplayDriver, ReplayOptions, State, Supervision, SupervisionOptions
from scidaq.testing import DriverContract, FakeClock, ListSink

EPOCH_S = 1_700_000_000


def csv(path, rows, step_s=0.01):
    lines = [f"{EPOCH_S + i * step_s:.3f},{i},{i / 2}" for i in range(rows)]
    path.write_text("time,count,half (V)\n" + "\n".join(lines) + "\n")
    return path


def played(driver, clock, seconds, step_s=0.05):
    blocks = []
    for _ in range(round(seconds / step_s)):
        clock.advance(step_s)
        blocks += driver.read(0.0)
    return blocks


def armed(clock, path, name="film", **options):
    driver = ReplayDriver(name, ReplayOptions(path, **options), clock)
    driver.identity()
    return driver, driver.arm()


class TestReplay(DriverContract):
    @pytest.fixture
    def driver(self, tmp_path):
        path, clock = csv(tmp_path / "film.csv", 50), SystemClock()
        return lambda: ReplayDriver("film", ReplayOptions(path, loop=True), clock)


def test_rows_come_when_they_are_due_with_the_times_of_now(tmp_path):
    clock = FakeClock()
    begun = clock.now_ns()
    driver, (spec,) = armed(clock, csv(tmp_path / "a.csv", 500))
    blocks = played(driver, clock, 1.0)
    rows = sum(b.rows for b in blocks)
    assert rows == 101
    assert blocks[0].t0_ns == begun
    assert [b.first for b in blocks][1:] == [b.end for b in blocks][:-1]
    assert np.concatenate([b.column("half") for b in blocks]).tolist() == [i / 2 for i in range(101)]
    assert np.diff(np.concatenate([b.times for b in blocks])).max() == 10_000_000
    assert spec.schema.channels[1].unit == "V"


@pytest.mark.parametrize("speed", [0.5, 10.0, 2.5])
def test_another_speed_changes_when_rows_come(tmp_path, speed):
    clock = FakeClock()
    driver, _ = armed(clock, csv(tmp_path / "a.csv", 5000), speed=speed)
    blocks = played(driver, clock, 1.0)
    assert sum(b.rows for b in blocks) == round(100 * speed) + 1
    steps = np.diff(np.concatenate([b.times for b in blocks]))
    assert set(steps.tolist()) <= {round(NS / 100 / speed) + d for d in (-1, 0, 1)}


def test_the_rate_of_a_uniform_file_is_that_of_its_playing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("v\n" + "\n".join(map(str, range(1000))))
    clock = FakeClock()
    driver, (spec,) = armed(clock, path, rate_hz=100, speed=4)
    assert spec.schema.rate == Fraction(400)
    blocks = played(driver, clock, 1.0)
    assert sum(b.rows for b in blocks) == 401
    for before, after in pairwise(blocks):
        assert after.follows(before)


def test_as_fast_as_it_is_taken(tmp_path):
    clock = FakeClock()
    driver, _ = armed(clock, csv(tmp_path / "a.csv", 20_000), speed="max")
    assert sum(b.rows for b in driver.read(0.0)) == 20_000


def test_at_the_end_it_is_silent_and_says_why(tmp_path):
    clock = FakeClock()
    driver, _ = armed(clock, csv(tmp_path / "a.csv", 10))
    end: HasEnd = driver
    assert isinstance(end, HasEnd)
    assert not driver.ended()
    assert sum(b.rows for b in played(driver, clock, 1.0)) == 10
    assert driver.ended()
    assert not driver.read(0.0)
    assert driver.identity()


def test_in_a_loop_it_is_numbered_on_and_on(tmp_path):
    clock = FakeClock()
    driver, _ = armed(clock, csv(tmp_path / "a.csv", 10), loop=True)
    blocks = played(driver, clock, 1.0)
    assert [b.first for b in blocks][1:] == [b.end for b in blocks][:-1]
    values = np.concatenate([b.column("count") for b in blocks])
    assert (values == np.arange(len(values)) % 10).all()
    assert len(values) >= 100
    times = np.concatenate([b.times for b in blocks])
    assert set(np.diff(times).tolist()) == {10_000_000}
    assert driver.counted()["loops"] >= 9


def test_a_loop_begins_one_usual_spacing_after_the_one_before(tmp_path):
    clock, path = FakeClock(), tmp_path / "slow.csv"
    path.write_text("time,v\n" + "".join(f"{1_700_000_000 + s},{s}\n" for s in (0, 1, 2, 7, 8)))
    driver, _ = armed(clock, path, loop=True)
    blocks = played(driver, clock, 20.0)  # most rows come alone
    times = np.concatenate([b.times for b in blocks])
    assert (np.diff(times) // NS).tolist()[:9] == [1, 1, 5, 1, 1, 1, 1, 5, 1]


def test_a_file_of_one_row_is_looped_once_a_second(tmp_path):
    clock, path = FakeClock(), tmp_path / "one.csv"
    path.write_text("time,v\n1700000000,1\n")
    driver, _ = armed(clock, path, loop=True)
    times = np.concatenate([b.times for b in played(driver, clock, 3.5)])
    assert np.diff(times).tolist() == [NS] * 3


def test_a_new_connection_goes_on_where_the_old_one_was(tmp_path):
    clock, path = FakeClock(), csv(tmp_path / "a.csv", 100)
    driver, (spec,) = armed(clock, path)
    before = played(driver, clock, 0.2)
    driver.close()
    with pytest.raises(InstrumentDisconnected):
        driver.read(0.0)
    clock.advance(0.3)
    again, (same,) = armed(clock, path)
    assert same.counter == spec.counter
    after = again.read(0.0)
    assert after[0].first == before[-1].end
    assert after[-1].end == 51


def test_another_file_is_another_numbering(tmp_path):
    clock, path = FakeClock(), csv(tmp_path / "a.csv", 10)
    _, (one,) = armed(clock, path)
    _, (other,) = armed(clock, csv(path, 11))
    assert one.counter != other.counter


def until_refused(driver):
    try:
        return driver.read(0.0)
    except InstrumentError:
        return ()


def test_a_file_that_is_wrong_farther_on_is_played_up_to_there_once(tmp_path):
    path = csv(tmp_path / "a.csv", 300_000, 1e-3)
    with path.open("a") as file:
        file.write(f"{EPOCH_S + 1000},oops,1\n")
    clock = FakeClock()
    driver, _ = armed(clock, path, speed="max")
    rows = 0
    while blocks := until_refused(driver):
        rows += sum(b.rows for b in blocks)
    assert rows > 100_000
    with pytest.raises(InstrumentError, match=r"line 300002, column 'count': 'oops' is no number"):
        driver.read(0.0)
    again = ReplayDriver("film", ReplayOptions(path, speed="max"), clock)
    with pytest.raises(InstrumentError, match="line 300002"):
        again.arm()


def test_a_file_that_is_not_there(tmp_path):
    driver = ReplayDriver("film", ReplayOptions(tmp_path / "no.csv"), FakeClock())
    with pytest.raises(InstrumentError, match=r"no\.csv cannot be read: No such file"):
        driver.identity()


def test_which_stream(tmp_path):
    _, (spec,) = armed(FakeClock(), csv(tmp_path / "Some File.csv", 3))
    assert spec.name == "some-file"
    _, (spec,) = armed(FakeClock(), csv(tmp_path / "Some File.csv", 3), stream="readings")
    assert spec.name == "readings"


def test_silence_after_the_end_is_no_fault(tmp_path):
    clock, sink, path = SystemClock(), ListSink(), csv(tmp_path / "a.csv", 20)
    options = SupervisionOptions(late_floor_s=0.05, first_row_s=0.05, read_timeout_s=0.01)
    with Supervision(clock) as supervision:
        one = supervision.add("film", lambda: ReplayDriver("film", ReplayOptions(path), clock), sink, options=options)
        wait_for(clock, lambda: sum(b.rows for b in sink.blocks) == 20)
        wait_for(clock, lambda: (one.stats().row_age_s or 0) > 2 * (one.stats().overdue_after_s or 1))
        assert one.state is State.ACQUIRING


def wait_for(clock, condition):
    deadline = clock.monotonic_s() + 10
    while not condition():
        assert clock.monotonic_s() < deadline
        clock.wait(threading.Event(), 0.005)
