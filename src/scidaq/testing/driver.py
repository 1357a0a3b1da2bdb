"""The contract that every driver keeps, as tests to inherit.

    class TestMyDriver(DriverContract):
        @pytest.fixture
        def driver(self):
            return lambda: MyDriver("mine", MyDriver.Options(...), SystemClock())

`driver` is a fixture that returns a function; each call of it makes a new driver of the same, reachable instrument.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scidaq.block import Block, StreamSpec
from scidaq.errors import InstrumentError, ParameterError
from scidaq.instruments import Driver, HasCounts, HasParameters, HasSafeState, set_parameter

Make = Callable[[], Driver]


class DriverContract:
    """Inherit it in a class named `Test...`, give it a `driver` fixture; the class attributes say what to expect."""

    patience_s = 5.0
    """By when the instrument has delivered its first rows."""
    grace_s = 1.0
    """By how much a read may overrun its timeout, and how quickly `close` must end one."""

    # ---- identity and streams ----

    def test_it_says_who_it_is_again_and_again(self, driver: Make) -> None:
        with _closing(driver) as one:
            identity = one.identity()
            assert identity.manufacturer, "the manufacturer is empty"
            assert identity.model, "the model is empty"
            assert one.identity() == identity, "asked twice, it is somebody else"
        with _closing(driver) as another:
            assert another.identity().same_device(identity), "after a reconnect it is somebody else"

    def test_making_one_touches_nothing(self, driver: Make) -> None:
        with _nothing_left():
            drivers = [driver() for _ in range(3)]
            assert len({one.resource for one in drivers}) == 1, "the resource changes from one to the next"

    def test_it_is_armed_as_it_described_itself(self, driver: Make) -> None:
        with _closing(driver) as one:
            one.identity()
            described = one.describe()
            armed = one.arm()
            assert described, "it has no streams"
            assert [s.name for s in described] == [s.name for s in armed], "arming changes the streams"
            assert [s.schema for s in described] == [s.schema for s in armed], "arming changes a schema"
            assert len({s.name for s in armed}) == len(armed), "two streams have one name"

    # ---- rows ----

    def test_its_blocks_are_what_it_announced(self, driver: Make) -> None:
        with _armed(driver) as (one, specs):
            known = {spec.name: spec for spec in specs}
            for block in self._some(one, specs):
                assert block.stream in known, f"nobody announced stream {block.stream!r}"
                assert block.schema == known[block.stream].schema, f"{block.stream}: another schema than announced"
                assert block.epoch == 0, "epochs are not the driver's business"
                assert block.t0_ns > 0, "the rows have no time"

    def test_its_rows_ascend(self, driver: Make) -> None:
        with _armed(driver) as (one, specs):
            known, end, last_ns = {s.name: s for s in specs}, dict[str, int](), dict[str, int]()
            for block in self._some(one, specs):
                name = block.stream
                if known[name].counter is None and name not in end:
                    assert block.first == 0, f"{name}: rows without source numbers are counted from 0 at arm"
                if not known[name].backfill:
                    assert block.first >= end.get(name, 0), f"{name}: row {block.first} comes after row {end[name]}"
                    assert block.t0_ns >= last_ns.get(name, 0), f"{name}: time goes back"
                end[name], last_ns[name] = block.end, block.last_ns

    def test_it_can_be_armed_again(self, driver: Make) -> None:
        with _armed(driver) as (one, specs):
            before = {b.stream: b for b in self._some(one, specs, streams=1)}
            one.disarm()
            again = {s.name: s for s in one.arm()}
            for block in self._some(one, specs, streams=1):
                counter = {s.name: s.counter for s in specs}[block.stream]
                old = before.get(block.stream)
                if counter is not None and counter == again[block.stream].counter and old and not specs[0].backfill:
                    assert block.first >= old.end, f"{block.stream}: its counter went back under the same name"

    def test_a_read_returns_in_time(self, driver: Make) -> None:
        with _armed(driver) as (one, _):
            for timeout_s in (0.0, 0.02):
                start = time.monotonic()
                one.read(timeout_s)
                assert time.monotonic() - start < timeout_s + self.grace_s, f"a read of {timeout_s} s overran"

    # ---- close ----

    def test_close_may_be_said_at_any_time_and_twice(self, driver: Make) -> None:
        fresh = driver()
        fresh.close()
        fresh.close()
        with _armed(driver) as (one, _):
            one.close()
            one.close()
            _refuses(lambda: one.read(0.1))

    def test_close_from_another_thread_ends_a_read(self, driver: Make) -> None:
        with _armed(driver) as (one, _):
            failures: list[BaseException] = []

            def reader() -> None:
                try:
                    while True:
                        one.read(60.0)
                except InstrumentError:
                    pass
                except BaseException as error:
                    failures.append(error)

            thread = threading.Thread(target=reader, daemon=True)
            thread.start()
            thread.join(0.02)
            one.close()
            thread.join(self.grace_s)
            assert not thread.is_alive(), "a read goes on after close()"
            assert not failures, f"close() makes read raise {failures[0]!r}, not an InstrumentError"

    def test_it_leaves_no_thread_and_no_socket(self, driver: Make) -> None:
        with _armed(driver) as (one, specs):
            self._some(one, specs, streams=1)
        with _nothing_left(), _armed(driver) as (one, specs):
            self._some(one, specs, streams=1)
            one.disarm()

    # ---- capabilities ----

    def test_its_parameters_keep_their_limits(self, driver: Make) -> None:
        with _closing(driver) as one:
            one.identity()
            if not isinstance(one, HasParameters):
                return
            for parameter in one.parameters():
                value = one.get(parameter.name)
                if not parameter.settable:
                    continue
                assert parameter.agrees(value, set_parameter(one, parameter.name, value)), "set to itself, it changes"
                if parameter.limits is not None:
                    _refuses(lambda p=parameter: set_parameter(one, p.name, 2 * abs(p.limits[1]) + 1), ParameterError)  # type: ignore[misc]
            _refuses(lambda: one.get("no such parameter"), ParameterError)

    def test_its_safe_state_can_be_reached(self, driver: Make) -> None:
        with _armed(driver) as (one, _):
            if isinstance(one, HasSafeState):
                one.safe()
                one.safe()

    def test_its_counts_only_grow(self, driver: Make) -> None:
        with _armed(driver) as (one, specs):
            if not isinstance(one, HasCounts):
                return
            before = dict(one.counted())
            self._some(one, specs, 1)
            after = one.counted()
            assert before.keys() <= after.keys()
            assert all(0 <= count <= after[name] for name, count in before.items())

    # ---- inside ----

    def _some(self, one: Driver, specs: Sequence[StreamSpec], streams: int | None = None) -> list[Block]:
        """Blocks, until so many streams (all) have delivered two, or one when they are slow."""
        wanted = len(specs) if streams is None else streams
        blocks: list[Block] = []
        seen: dict[str, int] = {}
        start = time.monotonic()
        while len(seen) < wanted or (min(seen.values()) < 2 and time.monotonic() - start < 0.2):
            assert time.monotonic() - start < self.patience_s, f"only {sorted(seen)} delivered in {self.patience_s} s"
            for block in one.read(0.1):
                blocks.append(block)
                seen[block.stream] = seen.get(block.stream, 0) + 1
        return blocks


@contextmanager
def _closing(make: Make) -> Iterator[Driver]:
    one = make()
    try:
        yield one
    finally:
        one.close()


@contextmanager
def _armed(make: Make) -> Iterator[tuple[Driver, Sequence[StreamSpec]]]:
    with _closing(make) as one:
        one.identity()
        one.describe()
        yield one, one.arm()


def _refuses(act: Callable[[], object], kind: type[Exception] = InstrumentError) -> None:
    try:
        act()
    except kind:
        return
    raise AssertionError(f"it should have raised {kind.__name__}")


@contextmanager
def _nothing_left(within_s: float = 2.0) -> Iterator[None]:
    """No more threads and, where they can be counted, open files after than before."""
    before = _threads(), _open_files()
    yield
    deadline = time.monotonic() + within_s
    while (_threads(), _open_files()) > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert _threads() <= before[0], f"threads are left: {threading.enumerate()}"
    assert _open_files() <= before[1], "sockets or files are left open"


def _threads() -> int:
    return threading.active_count()


def _open_files() -> int:
    fds = Path("/proc/self/fd")
    return len(os.listdir(fds)) if fds.exists() else 0
