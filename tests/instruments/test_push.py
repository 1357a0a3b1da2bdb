"""The driver whose rows others hand over."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from scidaq.block import Block
from scidaq.clock import SystemClock
from scidaq.errors import InstrumentDisconnected, RequestError, TooMany
from scidaq.instruments import LEASE_S, PushChannel, PushDriver, PushOptions, PushStream, Rearm
from scidaq.instruments.push import _Handed
from scidaq.testing import DriverContract, FakeClock

OPTIONS = PushOptions(
    (
        PushStream("temps", (PushChannel("a", "V"),)),
        PushStream("wave", (PushChannel("x", dtype="int16", scale=0.5, unit="1", physical_unit="V"),), 100.0),
    )
)


class Fed(PushDriver):
    """One whose producers are there already, and hand over a row at each read."""

    _rows = 0

    def arm(self) -> Any:
        for name in ("temps", "wave"):
            if name not in self._counters:
                self.producer(name, "c", "test")
        return super().arm()

    def read(self, timeout_s: float) -> Any:
        with self._lock:
            self._waiting += [_Handed(block(one.spec, self._rows)) for one in self._producers.values()]
        self._rows += 1
        return super().read(timeout_s)


def block(spec: Any, first: int, rows: int = 1) -> Block:
    t0 = 10**18 + first * 10_000_000
    times = [t0 + i * 10_000_000 for i in range(rows)] if spec.schema.rate is None else None
    return Block.of(spec.schema, [[1] * rows], stream=spec.name, first=first, t0_ns=t0, times=times)


def given(driver: PushDriver, producer: Any, one: Block) -> threading.Thread:
    """Hand a block over in another thread, as a door does."""
    thread = threading.Thread(target=lambda: producer.hand_over(one, lambda: None))
    thread.start()
    while not driver._waiting:
        pass
    return thread


@pytest.fixture
def driver() -> PushDriver:
    one = PushDriver("rig", OPTIONS, SystemClock())
    one.identity()
    one.arm()
    return one


class TestContract(DriverContract):
    # What is described is announced once a producer has come, so its producers come before.
    @pytest.fixture
    def driver(self) -> Any:
        def make() -> Fed:
            return Fed("rig", OPTIONS, SystemClock())

        return make


def test_streams_are_announced_when_their_producer_comes(driver: PushDriver) -> None:
    assert [spec.name for spec in driver.describe()] == ["temps", "wave"]
    assert driver.arm() == ()
    assert driver.ended()
    driver.producer("wave", "c1", "somebody")
    with pytest.raises(Rearm):
        driver.read(0.0)
    (spec,) = driver.arm()
    assert (spec.name, spec.counter) == ("wave", "c1")
    assert driver.read(0.0) == ()
    assert not driver.ended()


def test_a_block_is_taken_when_the_next_read_begins(driver: PushDriver) -> None:
    producer = driver.producer("temps", "c", "somebody")
    driver.arm()
    waits = given(driver, producer, block(producer.spec, 0))
    (one,) = driver.read(1.0)
    assert one.first == 0
    assert waits.is_alive()
    driver.read(0.0)
    waits.join(10)
    assert not waits.is_alive()


def test_whoever_waits_may_give_up(driver: PushDriver) -> None:
    producer = driver.producer("temps", "c", "somebody")

    def enough() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        producer.hand_over(block(producer.spec, 0), enough)


def test_close_ends_whoever_waits(driver: PushDriver) -> None:
    producer = driver.producer("temps", "c", "somebody")
    threading.Timer(0.05, driver.close).start()
    with pytest.raises(InstrumentDisconnected):
        producer.hand_over(block(producer.spec, 0), lambda: None)
    with pytest.raises(InstrumentDisconnected):
        driver.producer("temps", "c", "somebody")


def test_one_producer_at_a_time() -> None:
    clock = FakeClock()
    driver = PushDriver("rig", OPTIONS, clock)
    first = driver.producer("temps", "c1", "the first")
    with pytest.raises(TooMany, match="the first"):
        driver.producer("temps", "c2", "another")
    again = driver.producer("temps", "c1", "the first, again")
    with pytest.raises(InstrumentDisconnected, match="took the place"):
        first.hand_over(block(first.spec, 0), lambda: None)
    clock.advance(LEASE_S / 2)
    again.heard()
    clock.advance(LEASE_S / 2)
    with pytest.raises(TooMany):
        driver.producer("temps", "c2", "another")
    clock.advance(LEASE_S)
    driver.producer("temps", "c2", "another")
    assert driver.counted() == {"producers": 3, "producers_lost": 0, "producers_replaced": 2}


def test_a_producer_that_goes_without_a_word_is_missed(driver: PushDriver) -> None:
    for clean, ended in ((True, True), (False, False)):
        producer = driver.producer("temps", "c", "somebody")
        producer.close(clean=clean)
        assert driver.ended() is ended
    driver.producer("temps", "c", "somebody").close(clean=True)
    assert driver.ended()


def test_rows_of_another_schema_are_refused(driver: PushDriver) -> None:
    temps, wave = (driver.producer(name, "c", "somebody") for name in ("temps", "wave"))
    with pytest.raises(RequestError, match="another"):
        temps.hand_over(block(wave.spec, 0), lambda: None)
    with pytest.raises(RequestError, match="takes no stream 'x'; it takes temps, wave"):
        driver.takes("x")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (PushOptions(()), "at least one stream"),
        (PushOptions((OPTIONS.streams[0], OPTIONS.streams[0])), "same name"),
        (PushOptions((PushStream("s", ()),)), "at least one channel"),
        (PushOptions((PushStream("s", (PushChannel("a", dtype="float7"),)),)), "float7"),
        (PushOptions((PushStream("s", (PushChannel("a", offset=1.0),)),)), "need scale"),
        (PushOptions((PushStream("S!", (PushChannel("a"),)),)), "stream name"),
    ],
)
def test_options_that_cannot_be_are_told(options: PushOptions, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PushDriver("rig", options, SystemClock())
