"""How far an instrument is to go: disconnected, ready, acquiring; and what went wrong with it of late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from scidaq.block import Reason
from scidaq.clock import SystemClock
from scidaq.errors import InstrumentDisconnected, InstrumentTimeout, RequestError
from scidaq.instruments import SETTINGS, Level, State, SupervisionOptions, Supervisor
from scidaq.testing import FakeInstrument, ListSink

QUICK = SupervisionOptions(read_timeout_s=0.01, reconnect_initial_s=0.02, reconnect_max_s=0.1, stop_timeout_s=2.0)


@contextmanager
def supervised(
    instrument: FakeInstrument, options: SupervisionOptions = QUICK
) -> Iterator[tuple[Supervisor, ListSink]]:
    clock, sink = SystemClock(), ListSink()
    with Supervisor("fake", lambda: instrument.driver(clock), sink, clock, options) as one:
        yield one, sink


def until(what: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_stopped_it_is_made_safe_and_stays_connected() -> None:
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        one.want(Level.READY, "stopped by hand")
        until(lambda: one.state is State.READY)
        assert instrument.calls[-2:] == ["safe", "disarm"]
        (interruption,) = sink.interruptions
        assert (interruption[0], interruption[2]) == (Reason.STOPPED, "stopped by hand")
        blocks = len(sink.blocks)
        assert one.stats().wanted == "ready"
        assert one.stats().row_age_s is None
        one.want(Level.ACQUIRING)
        sink.wait_for(lambda s: len(s.blocks) > blocks)
        assert instrument.calls.count("identity") == 1
        assert one.stats().errors == 0


def test_disconnected_nobody_talks_to_it() -> None:
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        one.want(Level.DISCONNECTED)
        until(lambda: one.state is State.STOPPED)
        calls = list(instrument.calls)
        assert calls[-3:] == ["safe", "disarm", "close"]
        with pytest.raises(InstrumentDisconnected, match="connect it"):
            one.get("level")
        assert instrument.calls == calls
        one.want(Level.READY)
        until(lambda: one.state is State.READY)
        assert one.get("level") == 1.0
        one.want(Level.ACQUIRING)
        sink.wait_for(lambda s: len(s.specs) == 2)


def test_what_is_set_before_the_start_is_recorded_with_its_time() -> None:
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        one.want(Level.READY)
        until(lambda: one.state is State.READY)
        before = len(sink.blocks)
        one.set("level", 3.5)
        assert one.settings()["level"].value == "3.5"
        assert len(sink.blocks) == before
        one.want(Level.ACQUIRING)
        sink.wait_for(lambda s: len(s.blocks) > before + 2)
        first, second = [b for b in sink.blocks[before:] if b.stream == SETTINGS.name][:2]
        assert (first.first, first.column("asked")[0], first.column("value")[0]) == (0, b"3.5", b"3.5")
        assert (second.first, second.column("value")[0]) == (1, b"3.5")
        assert first.t0_ns <= second.t0_ns


def test_what_is_set_and_never_started_is_recorded_too() -> None:
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        one.want(Level.READY)
        until(lambda: one.state is State.READY)
        one.set("level", 3.5)
        before = len(sink.blocks)
    (block,) = sink.blocks[before:]
    assert block.column("value")[0] == b"3.5"
    assert sink.specs[-1] == (SETTINGS,)


def test_one_that_failed_tries_at_once_when_it_is_wanted() -> None:
    instrument = FakeInstrument()
    instrument.fail["identity"] = [InstrumentDisconnected("off")] * 2
    slow = SupervisionOptions(read_timeout_s=0.01, reconnect_initial_s=60.0, reconnect_max_s=60.0)
    with supervised(instrument, slow) as (one, sink):
        until(lambda: one.state is State.FAILED)
        one.want(Level.ACQUIRING)
        until(lambda: instrument.calls.count("identity") == 2)
        one.want(Level.ACQUIRING)
        sink.wait_for(lambda s: bool(s.blocks))


def test_one_that_is_ready_is_asked_now_and_then_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scidaq.instruments.supervisor._LOOK_S", 0.02)
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        one.want(Level.READY)
        until(lambda: instrument.calls.count("identity") > 3)
        instrument.fail["identity"] = [InstrumentDisconnected("unplugged")]
        until(lambda: bool(one.failures()))
        until(lambda: one.state is State.READY)


def test_failures_are_remembered_with_advice() -> None:
    instrument = FakeInstrument()
    instrument.fail["identity"] = [
        InstrumentDisconnected("off"),
        InstrumentDisconnected("off"),
        InstrumentTimeout("no"),
    ]
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        newest, before = one.failures()
    assert (newest.kind, newest.message, newest.count) == ("InstrumentTimeout", "no", 1)
    assert (before.kind, before.count) == ("InstrumentDisconnected", 2)
    assert "switched on" in before.advice
    assert before.first_ns < before.last_ns <= newest.first_ns


def test_safe_state_on_demand_and_where_there_is_none() -> None:
    instrument = FakeInstrument()
    with supervised(instrument) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        one.safe()
        assert instrument.calls.count("safe") == 1
        blocks = len(sink.blocks)
        sink.wait_for(lambda s: len(s.blocks) > blocks)

    class Tame:
        """A driver without a safe state."""

        def __init__(self, driver: object) -> None:
            for verb in ("identity", "describe", "arm", "read", "disarm", "close", "resource"):
                setattr(self, verb, getattr(driver, verb))

    clock, sink = SystemClock(), ListSink()
    with Supervisor("tame", lambda: Tame(instrument.driver(clock)), sink, clock, QUICK) as one:  # type: ignore[arg-type, return-value]
        sink.wait_for(lambda s: bool(s.blocks))
        with pytest.raises(RequestError, match="no safe state"):
            one.safe()


def test_levels_change_under_a_hang() -> None:
    instrument = FakeInstrument(deaf_to_close=False)
    options = SupervisionOptions(read_timeout_s=0.01, hang_after_s=0.1, reconnect_initial_s=0.01, stop_timeout_s=1.0)
    with supervised(instrument, options) as (one, sink):
        sink.wait_for(lambda s: bool(s.blocks))
        instrument.hang["disarm"] = 1
        one.want(Level.DISCONNECTED)
        deadline = time.monotonic() + 5
        while one.state is not State.STOPPED and time.monotonic() < deadline:
            one.check()
            time.sleep(0.005)
        assert one.state is State.STOPPED
        assert one.stats().hangs == 1
