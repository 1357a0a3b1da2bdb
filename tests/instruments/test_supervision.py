from __future__ import annotations

import itertools
import random
import time
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from scidaq.block import Reason
from scidaq.clock import SystemClock
from scidaq.errors import (
    ConfigError,
    InstrumentDisconnected,
    InstrumentTimeout,
    ParameterError,
)
from scidaq.instruments import (
    Identity,
    State,
    Supervision,
    SupervisionOptions,
    Supervisor,
    WaveformDriver,
)
from scidaq.testing import DriverContract, FakeClock, FakeInstrument, ListSink

QUICK = SupervisionOptions(
    read_timeout_s=0.002,
    hang_after_s=0.05,
    reconnect_initial_s=0.002,
    reconnect_max_s=0.01,
    stable_s=0.0,
    stop_timeout_s=0.4,
)


class TestFakeDriver(DriverContract):
    @pytest.fixture
    def driver(self):
        instrument, clock = FakeInstrument(), SystemClock()
        return lambda: instrument.driver(clock)


@contextmanager
def supervised(instrument, options=QUICK, **more):
    clock, sink = SystemClock(), ListSink()
    with Supervision(clock, options) as all_of_them:
        one = all_of_them.add("fake", lambda: instrument.driver(clock), sink, rng=random.Random(0), **more)
        try:
            yield one, sink
        finally:
            instrument.release.set()


def until(what, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.001)


def test_rows_flow_and_it_ends_safely():
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: len(s.blocks) > 3)
        assert one.state is State.ACQUIRING
    assert instrument.calls[:3] == ["identity", "describe", "arm"]
    assert instrument.calls[-3:] == ["safe", "disarm", "close"]
    assert [b.first for b in sink.blocks if b.stream == "fake"][:3] == [0, 1, 2]
    assert [s.name for s in sink.specs[0]] == ["fake", "settings"]
    assert sink.interruptions == []
    stats = one.stats()
    assert stats.state == "stopped"
    assert stats.blocks == stats.rows == sum(b.stream == "fake" for b in sink.blocks)
    assert stats.identity == "Fake, Model 1, 0001, 1.0"
    assert stats.row_age_s is None


def test_it_reconnects_after_each_failure():
    instrument = FakeInstrument(fail={"read": [InstrumentDisconnected("cable"), InstrumentTimeout("slow")]})
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: len(s.specs) == 3 and bool(s.blocks))
        until(lambda: one.state is State.ACQUIRING)
        stats = one.stats()
    assert [r for r, _, _ in sink.interruptions] == [Reason.DISCONNECT, Reason.DISCONNECT]
    assert [d for _, _, d in sink.interruptions] == ["cable", "slow"]
    assert (stats.errors, stats.timeouts, stats.reconnects, stats.hangs) == (2, 1, 2, 0)
    assert instrument.calls.count("close") == 3


def test_failures_before_arming_interrupt_nothing_and_are_logged_once():
    instrument = FakeInstrument(fail={"identity": [InstrumentDisconnected("off")] * 20})
    with capture_logs() as logs, supervised(instrument) as (_, sink):
        sink.wait_for(lambda s: bool(s.specs))
    assert sink.interruptions == []
    assert sum(e["event"] == "instrument failed" for e in logs) == 1
    assert [e["event"] for e in logs][-2:] == ["instrument acquiring", "instrument stopped"]


def test_a_bug_in_a_driver_kills_nobody():
    instrument = FakeInstrument(fail={"read": [ZeroDivisionError("oops")], "arm": [KeyError("x")]})
    with capture_logs() as logs, supervised(instrument) as (_, sink):
        sink.wait_for(lambda s: len(s.specs) == 2)
    bugs = [e for e in logs if e["event"] == "driver raised something unexpected"]
    assert [type(e["exc_info"]) for e in bugs] == [KeyError, ZeroDivisionError]


def test_a_log_that_fails_ends_no_instrument(monkeypatch):
    instrument = FakeInstrument(fail={"read": [ZeroDivisionError("oops")]})
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))

        class Broken:
            def __getattr__(self, _):
                raise OSError("console gone")

        until(lambda: one.stats().errors == 1)
        until(lambda: one.state is State.ACQUIRING)
        monkeypatch.setattr(one, "_log", Broken())
        instrument.fail["read"] = [ZeroDivisionError("again")]
        until(lambda: one.stats().reason == "OSError: console gone")
        sessions = len(sink.specs)
        monkeypatch.undo()
        sink.wait_for(lambda s: len(s.specs) > sessions)
        until(lambda: one.state is State.ACQUIRING)
        monkeypatch.setattr(one, "_log", Broken())
        one.request_stop()
        assert one._done.wait(2.0)
        monkeypatch.undo()


@pytest.mark.parametrize("verb", ["identity", "describe", "arm", "read", "get"])
def test_a_verb_that_hangs_is_abandoned(verb):
    instrument = FakeInstrument(hang={verb: 1})
    with supervised(instrument) as (one, sink):
        until(lambda: one.stats().hangs == 1)
        sink.wait_for(lambda s: bool(s.blocks))
        until(lambda: one.state is State.ACQUIRING)
        assert one.stats().abandoned_threads == 1
        blocks = len(sink.blocks)
        instrument.release.set()
        until(lambda: one.stats().abandoned_threads == 0)
        sink.wait_for(lambda s: len(s.blocks) > blocks + 3)
    assert [r for r, _, _ in sink.interruptions] == ([Reason.HANG] if verb == "read" else [])
    rows = [b.first for b in sink.blocks if b.stream == "fake"]
    assert rows == list(range(len(rows))), "what the abandoned thread returned was not thrown away"


def test_close_ends_a_hang_and_the_thread():
    instrument = FakeInstrument(hang={"read": 1}, deaf_to_close=False)
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.interruptions))
        until(lambda: one.stats().abandoned_threads == 0)
        sink.wait_for(lambda s: any(b.stream == "fake" for b in s.blocks))


def test_abandoned_threads_are_bounded():
    instrument = FakeInstrument(hang={"identity": 99})
    with supervised(instrument) as (one, sink):
        until(lambda: one.stats().abandoned_threads == QUICK.max_abandoned)
        until(lambda: "waiting" in one.stats().reason)
        assert one.state is State.FAILED
        assert instrument.calls.count("identity") == QUICK.max_abandoned
        instrument.hang.clear()
        instrument.release.set()
        sink.wait_for(lambda s: bool(s.blocks))


def test_another_instrument_at_the_same_address_is_refused_until_it_is_the_right_one():
    instrument = FakeInstrument()
    right = instrument.identity
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        instrument.identity = Identity("Fake", "Model 1", "0002", "1.0")
        instrument.fail["read"] = [InstrumentDisconnected("swapped")]
        until(lambda: "answers where" in one.stats().reason)
        assert one.state is State.FAILED
        assert len(sink.specs) == 1
        instrument.identity = Identity(right.manufacturer, right.model, right.serial, "2.0: updated")
        sink.wait_for(lambda s: len(s.specs) == 2)


def test_one_that_hangs_delays_no_other():
    clock, stuck, well = SystemClock(), FakeInstrument(hang={"read": 99, "close": 99}), FakeInstrument()
    sinks = ListSink(), ListSink()
    with Supervision(clock, QUICK) as both:
        both.add("stuck", lambda: stuck.driver(clock), sinks[0])
        both.add("well", lambda: well.driver(clock), sinks[1])
        until(lambda: both.instruments["stuck"].stats().hangs >= 2)
        times = [b.t0_ns for b in sinks[1].blocks if b.stream == "fake"]
        start = time.monotonic()
    assert time.monotonic() - start < QUICK.stop_timeout_s + 0.5
    stuck.release.set()
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.2e9
    assert well.calls[-3:] == ["safe", "disarm", "close"]
    assert sinks[1].interruptions == []


def test_many_that_hang_are_stopped_at_once():
    clock, instrument = SystemClock(), FakeInstrument(hang={"read": 99})
    options = SupervisionOptions(read_timeout_s=0.01, hang_after_s=60, stop_timeout_s=0.2)
    with Supervision(clock, options) as many:
        for i in range(10):
            many.add(f"i{i}", lambda: instrument.driver(clock), ListSink())
        until(lambda: instrument.calls.count("read") == 10)
        start = time.monotonic()
        assert not many.stop()
        assert time.monotonic() - start < 1.0
        assert {s.state for s in many.stats()} == {"stopped"}
        instrument.release.set()


@pytest.mark.parametrize("verb", ["safe", "disarm", "close"])
def test_stopping_is_bounded_whatever_hangs(verb):
    instrument = FakeInstrument(hang={verb: 1})
    clock, sink = SystemClock(), ListSink()
    options = SupervisionOptions(read_timeout_s=0.01, stop_timeout_s=0.1)
    one = Supervisor("fake", lambda: instrument.driver(clock), sink, clock, options)
    one.start()
    sink.wait_for(lambda s: bool(s.blocks))
    start = time.monotonic()
    assert not one.stop()
    assert time.monotonic() - start < 0.5
    assert one.state is State.STOPPED
    blocks = len(sink.blocks)
    instrument.release.set()
    until(lambda: one.stats().abandoned_threads == 0)
    assert len(sink.blocks) == blocks


def test_a_stop_must_have_time_for_a_read():
    with pytest.raises(ValueError, match="stop_timeout_s"):
        SupervisionOptions(read_timeout_s=1.0, stop_timeout_s=1.0)


def test_flapping_waits_longer_and_longer():
    clock, instrument = FakeClock(), FakeInstrument()
    instrument.fail["read"] = [InstrumentDisconnected("flap")] * 1000
    options = SupervisionOptions(reconnect_initial_s=1.0, reconnect_max_s=16.0)
    with Supervisor("fake", lambda: instrument.driver(clock), ListSink(), clock, options) as one:
        attempts = []
        for _ in range(60):
            clock.run(1.0, turn_s=0.25)
            attempts.append(instrument.calls.count("identity"))
        until(lambda: clock.sleepers == 1)
        one.request_stop()
    assert attempts[9] >= 3
    assert 5 <= attempts[-1] <= 12
    assert attempts[-1] - attempts[29] <= 5


def test_a_stable_connection_begins_with_short_pauses_again():
    clock, instrument, sink = FakeClock(), FakeInstrument(), ListSink()
    instrument.fail["identity"] = [InstrumentDisconnected("off")] * 6
    options = SupervisionOptions(reconnect_initial_s=1.0, reconnect_max_s=100.0, stable_s=5.0)
    with Supervisor("fake", lambda: instrument.driver(clock), sink, clock, options) as one:
        while not sink.specs:
            clock.run(1.0, turn_s=0.5)
        clock.run(10.0, turn_s=0.25)
        instrument.fail["read"] = [InstrumentDisconnected("cable")]
        start = clock.monotonic_s()
        while len(sink.specs) < 2:
            clock.run(0.5, turn_s=0.25)
        assert clock.monotonic_s() - start < 5.0
        one.request_stop()
        clock.run(1.0)


def test_overdue_rows_degrade_it_until_they_come():
    clock, instrument, sink = FakeClock(), FakeInstrument(), ListSink()
    options = SupervisionOptions(read_timeout_s=0.25, late_floor_s=1.0, late_factor=5.0)
    with capture_logs() as logs, Supervisor("f", lambda: instrument.driver(clock), sink, clock, options) as one:
        while len(sink.blocks) < 5:
            clock.run(0.25)
        instrument.quiet = True
        clock.run(1.0)
        assert one.stats().state == "acquiring"
        while one.stats().state != "degraded":
            clock.run(0.25)
        stats = one.stats()
        assert (stats.row_age_s or 0) > (stats.overdue_after_s or 0) > 0
        instrument.quiet = False
        while one.stats().state != "acquiring":
            clock.run(0.25)
        one.request_stop()
        clock.run(1.0)
    assert [e["event"] for e in logs if "degraded" in e["event"]] == ["instrument degraded"]
    assert sink.interruptions == []


def test_parameters_are_set_between_reads_and_recorded():
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        assert [p.name for p in one.parameters()] == ["level"]
        assert one.set("level", 2.5) == 2.5
        assert one.get("level") == 2.5
        with pytest.raises(ParameterError, match="outside"):
            one.set("level", 11)
        with pytest.raises(ParameterError, match="no parameter"):
            one.set("volume", 1)
        assert instrument.values["level"] == 2.5
        assert one.stats().refused_parameters == 2
        assert one.state is State.ACQUIRING
        assert {name: (s.value, s.unit) for name, s in one.settings().items()} == {"level": ("2.5", "V")}
    armed, was_set, was_read = (b for b in sink.blocks if b.stream == "settings")
    assert [b.first for b in (armed, was_set, was_read)] == [0, 1, 2]
    assert armed.column("value")[0] == b"1.0"
    assert not armed.valid[1][0]
    assert not was_read.valid[1][0]
    assert (was_set.column("asked")[0], was_set.column("value")[0], was_read.column("value")[0]) == (b"2.5",) * 3


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1 + 0.2, b"0.30000000000000004"), (1e300, b"1e+300"), (True, b"true"), (7, b"7"), ("AUTO", b"AUTO")],
)
def test_settings_are_noted_exactly(value, text):
    instrument = FakeInstrument(values={"level": value})
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: any(b.stream == "settings" for b in s.blocks))
        assert one.settings()["level"].value == text.decode()
    assert next(b for b in sink.blocks if b.stream == "settings").column("value")[0] == text


@pytest.mark.parametrize("value", ["x" * 300, "ends in \0", "\ud800"])
def test_a_setting_that_no_row_has_room_for_is_missing_and_not_cut(value):
    instrument = FakeInstrument(values={"level": value})
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: any(b.stream == "settings" for b in s.blocks))
        assert one.settings()["level"].value == value
    (block,) = (b for b in sink.blocks if b.stream == "settings")
    assert not block.valid[2][0]


def test_what_reads_back_otherwise_is_noted_as_well():
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        instrument.stuck = 1.5
        with pytest.raises(ParameterError, match="reads back"):
            one.set("level", 2.5)
        assert one.settings()["level"].value == "1.5"
    last = [b for b in sink.blocks if b.stream == "settings"][-1]
    assert (last.column("asked")[0], last.column("value")[0]) == (b"2.5", b"1.5")


def test_a_parameter_that_hangs_is_a_hang():
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        instrument.hang["set"] = 1
        with pytest.raises(InstrumentTimeout, match="call has not returned"):
            one.set("level", 2)
        assert one.stats().hangs == 1
        sink.wait_for(lambda s: len(s.specs) == 2)


def test_no_connection_no_parameters():
    instrument = FakeInstrument(fail={"identity": [InstrumentDisconnected("off")] * 1000})
    with supervised(instrument) as (one, _), pytest.raises(InstrumentDisconnected):
        one.set("level", 1)


def test_two_instruments_at_one_address_are_refused():
    clock, instrument = SystemClock(), FakeInstrument()

    def make():
        driver = instrument.driver(clock)
        driver.resource = "tcp://192.0.2.1:5025"
        return driver

    with Supervision(clock, QUICK) as both:
        both.add("a", make, ListSink())
        with pytest.raises(ConfigError, match=r"tcp://192\.0\.2\.1:5025 belongs to instrument 'a'"):
            both.add("b", make, ListSink())
        both.remove("a")
        both.add("b", make, ListSink())
        with pytest.raises(ConfigError, match="there already"):
            both.add("b", lambda: instrument.driver(clock), ListSink())


def test_options_that_contradict_are_a_mistake_of_the_configuration():
    clock = SystemClock()
    with Supervision(clock) as none, pytest.raises(ConfigError, match="'w': status"):
        none.add("w", lambda: WaveformDriver("w", WaveformDriver.Options(status=True), clock), ListSink())


def test_a_hang_of_the_waveform_is_a_gap_and_nothing_more():
    clock, sink = SystemClock(), ListSink()
    options = WaveformDriver.Options(rate_hz=10_000, block_s=0.005)
    with Supervision(clock, QUICK) as one_of_it:
        one = one_of_it.add("w", lambda: WaveformDriver("w", options, clock), sink)
        sink.wait_for(lambda s: len(s.blocks) > 5)
        driver = one.driver
        assert isinstance(driver, WaveformDriver)
        driver.hang(60.0)
        sink.wait_for(lambda s: len(s.specs) == 2 and s.blocks[-1].t0_ns > s.interruptions[0][1])
    assert sink.interruptions[0][0] is Reason.HANG
    assert sink.specs[0] == sink.specs[1]
    truth = driver.truth()
    assert truth.sent == sum(b.rows for b in sink.blocks)
    assert truth.produced == truth.sent + truth.missed == sink.blocks[-1].end - sink.blocks[0].first


def test_counts_of_a_driver_outlive_its_connection_and_its_bugs():
    instrument = FakeInstrument(fail={"read": [InstrumentDisconnected("cable")]})
    clock, sink = SystemClock(), ListSink()
    bugs: list[Exception] = []

    def counted():
        if bugs:
            raise bugs[0]
        return {"polls": 3}

    def make():
        driver = instrument.driver(clock)
        driver.counted = counted  # type: ignore[attr-defined]
        return driver

    one = Supervisor("fake", make, sink, clock, QUICK, random.Random(0))
    with one:
        sink.wait_for(lambda s: len(s.specs) == 2)
        assert one.stats().counts == {"polls": 6}
        bugs.append(ZeroDivisionError("oops"))
        assert one.stats().counts == {"polls": 3}
    assert one.stats().counts == {"polls": 3}
