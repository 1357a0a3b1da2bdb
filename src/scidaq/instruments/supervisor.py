"""Keeping one instrument going: in a thread of its own, with a deadline on every verb, reconnected for ever.

A verb that does not come back cannot be stopped in Python, only left behind: `check` closes the driver from outside,
abandons its thread (what it returns later is thrown away) and lets a new thread try with a new driver. So an instrument
that hangs or breaks delays no other, and the process stays alive whatever a driver does.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from scidaq.block import NS, Block, Reason, StreamSpec
from scidaq.catalog import Setting
from scidaq.clock import Clock
from scidaq.errors import (
    InstrumentDisconnected,
    InstrumentError,
    InstrumentTimeout,
    ParameterError,
    RequestError,
    WrongIdentity,
)
from scidaq.instruments.driver import (
    Driver,
    HasCounts,
    HasEnd,
    HasParameters,
    HasSafeState,
    Identity,
    Parameter,
    Rearm,
    Value,
    set_parameter,
)
from scidaq.instruments.state import (
    SETTINGS,
    Failure,
    InstrumentStats,
    Level,
    Sink,
    State,
    SupervisionOptions,
    advice_for,
)

log = structlog.get_logger(__name__)
T = TypeVar("T")
_FAILURES = 20
"""How many different failures of late are remembered."""
_LOOK_S = 5.0
"""How often an instrument that is ready, and delivers nothing, is asked whether it is still there."""
_Readings = Sequence[tuple[Parameter, Value | None, Value]]
"""Parameters, what was asked for (None: it was only read), and what was read."""
_TEXT_BYTES = SETTINGS.schema.channels[SETTINGS.schema.index("value")].max_bytes


@dataclass(frozen=True, slots=True)
class _Status:
    state: State
    since_ns: int
    reason: str


_CHANGES = {
    State.ACQUIRING: "instrument acquiring",
    State.DEGRADED: "instrument degraded",
    State.FAILED: "instrument failed",
    State.STOPPED: "instrument stopped",
}


class _Abandoned(BaseException):
    """Raised in a thread that was left behind, to end it."""


class _Generation:
    """One thread with its driver: what the watchdog looks at, and the token that makes late results void."""

    __slots__ = ("abandoned", "acquiring", "deadline_s", "driver", "open", "serving", "started_s", "thread", "verb")

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.driver: Driver | None = None
        self.verb = ""
        self.started_s = 0.0
        self.deadline_s: float | None = None
        """When the verb under way is overdue; None between verbs. A plain store, since each read sets it."""
        self.acquiring = False
        self.open = False
        """Whether it is connected, and looks for calls."""
        self.abandoned = False
        self.serving: Future[Any] | None = None
        """The call under way, or the last."""


class Supervisor:
    """One instrument, kept going from `start` until `stop`. Every method may be called from any thread.

    `make` gives a new driver for each attempt. `check` must be called every now and then, which `Supervision` does.
    """

    def __init__(
        self,
        instrument_id: str,
        make: Callable[[], Driver],
        sink: Sink,
        clock: Clock,
        options: SupervisionOptions | None = None,
        rng: random.Random | None = None,
        driver_name: str = "",
        clean: Callable[[str], str] = str,
    ) -> None:
        """`clean` takes out of what the driver says what nobody may read, before anybody hears of it."""
        self._clean = clean
        self.instrument_id = instrument_id
        self.options = options or SupervisionOptions()
        self.driver_name = driver_name
        self._make, self._sink, self._clock = make, sink, clock
        self._rng = rng or random.Random()
        self._log = log.bind(instrument=instrument_id)
        self._lock = threading.Lock()  # orders what the sink sees against abandonment
        self._stopping = threading.Event()
        self._done = threading.Event()
        self._wanted = Level.ACQUIRING
        self._wake = threading.Event()
        """Set when another level is wanted, and when it is to stop: ends a wait."""
        self._why_stopped = ""
        self._failures: deque[Failure] = deque(maxlen=_FAILURES)
        self._generation = _Generation()
        self._left_behind: list[threading.Thread] = []
        self._calls: deque[tuple[Callable[[Driver], Any], Future[Any]]] = deque()
        self._status = _Status(State.STOPPED, clock.now_ns(), "")
        self._identity: Identity | None = None
        self._specs: tuple[StreamSpec, ...] = ()
        self._said = ""
        self._attempt = 0
        self._sessions = 0
        self._armed_s = self._last_rows_s = 0.0
        self._usual_s = 0.0
        self._counting: tuple[Driver | None, dict[str, int]] = (None, {})
        """The driver that counts, and what those before it have counted; replaced as a whole."""
        self._settings_row: int | None = None
        self._settings: Mapping[str, Setting] = {}
        """The newest reading of each parameter; replaced as a whole."""
        self._pending: list[tuple[_Readings, int]] = []
        """Read or set while nothing was acquired, with the time: rows that follow when the stream has begun."""
        self._blocks = self._rows = self._reads = self._last_row_ns = 0
        self._timeouts = self._errors = self._hangs = self._refused = 0

    # ---- what others ask ----

    @property
    def driver(self) -> Driver | None:
        """The driver in use now, for tests and demonstrations; it is replaced at each attempt."""
        return self._generation.driver

    @property
    def state(self) -> State:
        """How the instrument is."""
        return self._status.state

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """The instrument's streams as it last described them; empty before it was reached."""
        return self._specs

    def stats(self) -> InstrumentStats:
        """A snapshot."""
        status, armed = self._status, self._generation.acquiring
        return InstrumentStats(
            instrument=self.instrument_id,
            driver=self.driver_name,
            identity=str(self._identity or ""),
            state=status.state,
            since_ns=status.since_ns,
            reason=status.reason,
            blocks=self._blocks,
            rows=self._rows,
            reads=self._reads,
            timeouts=self._timeouts,
            errors=self._errors,
            reconnects=max(0, self._sessions - 1),
            hangs=self._hangs,
            abandoned_threads=self._hanging(),
            refused_parameters=self._refused,
            last_row_ns=self._last_row_ns,
            row_age_s=self._clock.monotonic_s() - self._last_rows_s if armed else None,
            overdue_after_s=self._overdue_s() if armed else None,
            counts=self._counts(),
            wanted=self._wanted,
        )

    def _counts(self) -> dict[str, int]:
        driver, before = self._counting
        if not isinstance(driver, HasCounts):
            return before
        try:
            counted = driver.counted()
            return before | {name: before.get(name, 0) + count for name, count in counted.items()}
        except Exception:  # a bug of the driver must not take the statistics of all others with it
            return before

    @property
    def wanted(self) -> Level:
        """How far it is to go."""
        return self._wanted

    def failures(self) -> tuple[Failure, ...]:
        """What went wrong of late, newest first, with advice; the same again and again is one."""
        return tuple(reversed(self._failures))

    def want(self, level: Level, why: str = "") -> None:
        """From now on go so far and no farther, until something else is wanted; returns at once.

        An instrument that acquires goes to its safe state first. `why` is told in the gap that follows. One that has
        failed tries again at once.
        """
        with self._lock:
            self._why_stopped = why or self._why_stopped
            self._wanted = level
            self._attempt = 0
            self._wake.set()

    def call(self, act: Callable[[Driver], T], timeout_s: float = 10.0) -> T:
        """Let the instrument's own thread do something with its driver between two reads, and wait for the result.

        Raises what `act` raises, `InstrumentDisconnected` when there is no connection, `InstrumentTimeout` when its
        turn did not come in time.
        """
        future: Future[T] = Future()
        with self._lock:
            if not self._generation.open:
                advice = "connect it" if self._wanted is Level.DISCONNECTED else "wait"
                raise InstrumentDisconnected(f"{self.instrument_id} is {self.state}: {self._status.reason or advice}")
            self._calls.append((act, future))
            if not self._generation.acquiring:
                self._wake.set()
        try:
            return future.result(timeout_s)
        except TimeoutError as error:
            future.cancel()
            if isinstance(error, InstrumentTimeout):
                raise
            raise InstrumentTimeout(f"{self.instrument_id} did not come to it within {timeout_s} s") from None

    def parameters(self) -> Sequence[Parameter]:
        """The instrument's parameters, none where it has none."""
        return self.call(lambda driver: driver.parameters() if isinstance(driver, HasParameters) else ())

    def settings(self) -> Mapping[str, Setting]:
        """What each parameter was when it was last read, by name, without asking the instrument."""
        return self._settings

    def get(self, name: str) -> Value:
        """Read a parameter from the instrument; it becomes a row of the `settings` stream. Raises `ParameterError`."""

        def act(driver: Driver) -> Value:
            target = _configurable(driver)
            got = target.get(name)
            self._note_settings([(p, None, got) for p in target.parameters() if p.name == name])
            return got

        return self.call(act)

    def set(self, name: str, value: Value) -> Value:
        """Check, set and read back a parameter; it becomes a row of the `settings` stream. Raises `ParameterError`."""

        def heard(parameter: Parameter, wanted: Value, got: Value) -> None:
            self._note_settings([(parameter, wanted, got)])

        def act(driver: Driver) -> Value:
            return set_parameter(_configurable(driver), name, value, heard)

        return self.call(act)

    def safe(self) -> None:
        """Bring it to its safe state now; what it acquires goes on. Raises `RequestError` when it has none."""

        def act(driver: Driver) -> None:
            if not isinstance(driver, HasSafeState):
                raise RequestError(
                    f"{self.instrument_id} has no safe state: it can do no harm, or its driver knows none"
                )
            driver.safe()

        self.call(act)

    # ---- start and stop ----

    def start(self) -> None:
        """Begin; returns at once."""
        with self._lock:
            if self._generation.thread is None:
                self._spawn()

    def request_stop(self) -> None:
        """Ask for a stop; `finish` waits for it."""
        self._stopping.set()
        self._wake.set()
        if self._generation.thread is None:
            self._done.set()

    def finish(self, timeout_s: float) -> bool:
        """Wait for the stop; at the end of the time leave behind what hangs. True when it ended of itself."""
        deadline = self._clock.monotonic_s() + timeout_s
        if self._clock.wait(self._done, timeout_s * 0.75):
            self._settle()
            return not self._generation.abandoned
        # Let close() end the verb, so that what comes after it (safe state excepted) still happens in the time left.
        with self._lock:
            generation = self._generation
            verb = generation.verb
        self._close_from_outside(generation)
        if not self._clock.wait(self._done, max(0.0, deadline - self._clock.monotonic_s())):
            self._abandon(generation, f"{verb} did not return when the instrument was stopped")
        self._settle()
        return not generation.abandoned

    def _settle(self) -> None:
        thread = self._generation.thread
        if thread is not None and not self._generation.abandoned:
            thread.join(1.0)  # it has nothing left to do
        self._fail_calls()
        if self.state is not State.STOPPED:
            self._enter(State.STOPPED, "")

    def stop(self) -> bool:
        """Safe state, disarm, close; within `stop_timeout_s` whatever the instrument does. True when it went well."""
        self.request_stop()
        return self.finish(self.options.stop_timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # ---- the watchdog's part ----

    def check(self) -> None:
        """Abandon the verb under way when it is overdue. Never blocks."""
        generation = self._generation
        deadline = generation.deadline_s
        if deadline is None or self._clock.monotonic_s() < deadline:
            return
        seconds = self._clock.monotonic_s() - generation.started_s
        if self._abandon(generation, f"{generation.verb} has not returned for {seconds:.1f} s", deadline):
            self._close_from_outside(generation)

    def _abandon(self, generation: _Generation, why: str, deadline_s: float | None = None) -> bool:
        with self._lock:
            if generation is not self._generation or generation.abandoned:
                return False
            if deadline_s is not None and generation.deadline_s != deadline_s:
                return False  # it returned in this very moment
            generation.abandoned = True
            self._counting = (None, self._counts())
            self._hangs += 1
            self._errors += 1
            self._remember(InstrumentTimeout(why), why)
            if generation.thread is not None:
                self._left_behind.append(generation.thread)
            try:
                self._break_off(generation, Reason.HANG, why)
                self._enter(State.FAILED, why)
            finally:
                if self._stopping.is_set():
                    self._done.set()
                else:
                    self._spawn()
        if generation.serving is not None and not generation.serving.done():
            generation.serving.set_exception(InstrumentTimeout(f"{self.instrument_id}: {why}"))
        self._fail_calls()
        return True

    def _close_from_outside(self, generation: _Generation) -> None:
        driver = generation.driver
        if driver is None:
            return

        def close() -> None:
            try:
                driver.close()
            except Exception:  # it must not raise, and this is the place to see that it did
                self._log.exception("driver failed to close")

        # In a thread of its own: a close() that hangs as well must not hold the watchdog, who serves all.
        threading.Thread(target=close, name=f"scidaq-close-{self.instrument_id}", daemon=True).start()

    def _hanging(self) -> int:
        self._left_behind = alive = [t for t in self._left_behind if t.is_alive()]
        return len(alive)

    # ---- the instrument's own thread ----

    def _spawn(self) -> None:
        """Start the next generation; the lock is held."""
        generation = self._generation = _Generation()
        name = f"scidaq-{self.instrument_id}"
        generation.thread = threading.Thread(target=self._live, args=(generation,), name=name, daemon=True)
        generation.thread.start()

    def _live(self, me: _Generation) -> None:
        try:
            while not self._live_on(me):
                pass
            with suppress(Exception):  # the state is set before anything is logged of it
                self._enter(State.STOPPED, "")
        except _Abandoned:
            pass  # somebody else goes on
        finally:
            if not me.abandoned:
                self._done.set()

    def _live_on(self, me: _Generation) -> bool:
        """One attempt, when its time has come; True at the end. Only abandonment ends the thread before that."""
        try:
            if not self._may_try(me):
                if me.abandoned:
                    raise _Abandoned
                return True
            self._try_once(me)
        except Exception as error:
            # Not even telling of a failure went well. Nothing is logged here: that may be just what does not work.
            self._attempt = max(1, self._attempt)
            reason = self._clean(f"{type(error).__name__}: {error}")
            self._status = _Status(State.FAILED, self._clock.now_ns(), reason)
            self._fail_calls()
        return False

    def _may_try(self, me: _Generation) -> bool:
        """Wait for the time of the next attempt; False when the instrument is to stop."""
        self._wake.clear()
        while self._wanted is Level.DISCONNECTED and not self._stopping.is_set() and not me.abandoned:
            self._enter(State.STOPPED, "")
            self._clock.wait(self._wake, _LOOK_S)
            self._wake.clear()
        if self._attempt:
            o = self.options
            pause = min(o.reconnect_max_s, o.reconnect_initial_s * 2 ** min(self._attempt - 1, 30))
            # Jitter: instruments that fell together (a switch, a power cut) must not knock together.
            if not self._stopping.is_set():  # which may have been asked before the event was cleared
                self._clock.wait(self._wake, pause * self._rng.uniform(0.5, 1.0))
            if self._wanted is Level.DISCONNECTED and not self._stopping.is_set() and not me.abandoned:
                return self._may_try(me)
        while self._hanging() >= self.options.max_abandoned and not self._stopping.is_set():
            self._enter(State.FAILED, f"{self._hanging()} threads hang in the driver; waiting for one of them to end")
            self._clock.wait(self._stopping, self.options.reconnect_initial_s)
        return not self._stopping.is_set() and not me.abandoned

    def _try_once(self, me: _Generation) -> None:
        """One connection from its beginning to its end, whatever ends it."""
        self._attempt += 1
        if self._attempt == 1:
            self._enter(State.CONNECTING, "")
        try:
            self._session(me)
        except InstrumentError as error:
            self._failed(me, error, self._clean(f"{error}"))
        except Exception as error:  # a bug of the driver is no reason to die
            self._failed(me, error, self._clean(f"{type(error).__name__}: {error}"), bug=True)
        finally:
            self._part(me)

    def _session(self, me: _Generation) -> None:
        driver = me.driver = self._make()
        self._counting = (driver, self._counts())
        identity = self._cleaned(self._do(me, "identity", driver.identity))
        if self._identity is not None and not identity.same_device(self._identity):
            raise WrongIdentity(f"{identity} answers where {self._identity} was; put it back, or configure the new one")
        with self._turn(me):
            self._identity = identity
        self._specs = tuple(self._do(me, "describe", driver.describe))
        while self._stay_ready(me, driver):
            self._acquire(me, driver)

    def _stay_ready(self, me: _Generation, driver: Driver) -> bool:
        """Be there for calls until it is to acquire; False when it is to part."""
        self._enter(State.READY, "")
        self._settings_row = None
        me.open = True
        looked_s = self._clock.monotonic_s()
        while self._wanted is Level.READY and not self._stopping.is_set():
            self._clock.wait(self._wake, min(_LOOK_S, self.options.read_timeout_s))
            self._wake.clear()
            self._serve_calls(me, driver)
            if self._clock.monotonic_s() - looked_s >= _LOOK_S:
                self._do(me, "identity", driver.identity)
                looked_s = self._clock.monotonic_s()
                self._attempt = 0
        me.open = False
        return self._wanted is Level.ACQUIRING and not self._stopping.is_set()

    def _acquire(self, me: _Generation, driver: Driver) -> None:
        """Arm, read until something else is wanted, and disarm."""
        o = self.options
        specs = tuple(self._do(me, "arm", driver.arm))
        settings = self._read_settings(me, driver)
        with self._turn(me):
            self._keep_settings(settings or (), self._clock.now_ns())  # whoever hears of the beginning may want them
            self._begin(me, specs, settings is not None)
        self._note_pending()
        if settings:
            self._note_settings(settings)
        self._enter(State.ACQUIRING, "")
        read, monotonic, limit = driver.read, self._clock.monotonic_s, o.read_timeout_s + o.hang_after_s
        me.verb = "read"
        while self._wanted is Level.ACQUIRING and not self._stopping.is_set():
            me.started_s = now = monotonic()
            me.deadline_s = now + limit
            try:
                blocks = read(o.read_timeout_s)
            except Rearm:
                self._arm_again(me, driver)
                continue
            me.deadline_s = None
            self._reads += 1
            if blocks:
                self._hand_over(me, blocks)
            else:
                if me.abandoned:
                    raise _Abandoned
                self._look_at_age(monotonic())
            if self._calls:
                self._serve_calls(me, driver)
                me.verb = "read"
        self._wind_down(me, driver)
        if not self._stopping.is_set():
            with self._turn(me):
                me.started_s = monotonic()  # everything that was read has been handed over
                self._break_off(me, Reason.STOPPED, self._why_stopped)
            self._fail_calls()
            self._attempt = 0

    def _arm_again(self, me: _Generation, driver: Driver) -> None:
        """The source goes on otherwise: its streams begin again, and its connection stays."""
        self._do(me, "disarm", driver.disarm)
        specs = tuple(self._do(me, "arm", driver.arm))
        with self._turn(me):
            self._sink.begin(specs)
            self._specs = specs
        me.verb = "read"

    def _do(self, me: _Generation, verb: str, act: Callable[[], T]) -> T:
        """Run a verb under its deadline."""
        me.verb, me.started_s = verb, self._clock.monotonic_s()
        me.deadline_s = me.started_s + self.options.hang_after_s
        try:
            return act()
        finally:
            me.deadline_s = None
            if me.abandoned:
                raise _Abandoned

    def _turn(self, me: _Generation) -> _Turn:
        return _Turn(self._lock, me)

    def _begin(self, me: _Generation, specs: tuple[StreamSpec, ...], settings: bool) -> None:
        self._settings_row = 0 if settings else None
        self._sink.begin((*specs, SETTINGS) if settings else specs)
        me.acquiring = me.open = True
        self._sessions += 1
        self._armed_s = self._last_rows_s = self._clock.monotonic_s()
        self._usual_s = 0.0
        self._specs = specs

    def _hand_over(self, me: _Generation, blocks: Sequence[Block]) -> None:
        accept, rows = self._sink.accept, 0
        with self._lock:
            if me.abandoned:
                raise _Abandoned
            for block in blocks:
                accept(block)
                rows += block.rows
        now = self._clock.monotonic_s()
        self._blocks += len(blocks)
        self._rows += rows
        self._last_row_ns = self._clock.now_ns()
        pause, self._last_rows_s = now - self._last_rows_s, now
        if self._status.state is State.DEGRADED:
            self._enter(State.ACQUIRING, "")  # and that pause was not a usual one
        else:
            self._usual_s = max(pause, 0.9 * self._usual_s)
        if self._attempt and now - self._armed_s >= self.options.stable_s:
            self._attempt = 0

    def _overdue_s(self) -> float:
        """The age of rows from which they are overdue, learned from how often they came since `arm`."""
        o = self.options
        if self._usual_s:
            return max(o.late_floor_s, o.late_factor * self._usual_s)
        periods = [1 / float(s.schema.rate) for s in self._specs if s.schema.rate is not None]
        return max(o.late_floor_s, o.first_row_s, o.late_factor * min(periods, default=0.0))

    def _look_at_age(self, now: float) -> None:
        age = now - self._last_rows_s
        if self._status.state is State.ACQUIRING and age > self._overdue_s():
            driver = self._generation.driver
            if isinstance(driver, HasEnd) and driver.ended():
                return
            self._enter(State.DEGRADED, f"no rows for {age:.1f} s")

    def _wind_down(self, me: _Generation, driver: Driver) -> None:
        if isinstance(driver, HasSafeState):
            self._do(me, "safe", driver.safe)
        self._do(me, "disarm", driver.disarm)

    def _part(self, me: _Generation) -> None:
        """Close the driver, unless its thread was left behind; then the watchdog has."""
        driver, me.acquiring, me.open = me.driver, False, False
        if self._pending and not me.abandoned:
            self._keep_pending(me)
        if driver is not None and not me.abandoned:
            try:
                self._do(me, "close", driver.close)
            except Exception:
                self._log.exception("driver failed to close")
            self._counting = (None, self._counts())
            me.driver = None
        if not me.abandoned:
            self._fail_calls()

    # ---- failures ----

    def _failed(self, me: _Generation, error: Exception, reason: str, *, bug: bool = False) -> None:
        me.deadline_s = None
        self._remember(error, reason)
        with self._turn(me):
            self._errors += 1
            if isinstance(error, TimeoutError):
                self._timeouts += 1
            self._break_off(me, Reason.DISCONNECT, reason)
        if bug and reason != self._said:
            self._log.error("driver raised something unexpected", error=reason, exc_info=error)
        self._enter(State.FAILED, reason)

    def _cleaned(self, identity: Identity) -> Identity:
        return Identity(*(self._clean(getattr(identity, one.name)) for one in fields(identity)))

    def _remember(self, error: Exception, reason: str) -> None:
        now_ns, before = self._clock.now_ns(), self._failures[-1] if self._failures else None
        if before is not None and before.message == reason:
            self._failures[-1] = replace(before, last_ns=now_ns, count=before.count + 1)
        else:
            kind = type(error).__name__
            self._failures.append(Failure(kind, reason, advice_for(error), now_ns, now_ns, 1))

    def _break_off(self, me: _Generation, reason: Reason, detail: str) -> None:
        """Tell the sink; the lock is held."""
        if not me.acquiring:
            return
        me.acquiring = me.open = False
        # The verb under way is the first that is in doubt: what came before it was handed over.
        in_doubt_ns = round((self._clock.monotonic_s() - me.started_s) * NS)
        try:
            self._sink.interrupted(reason, self._clock.now_ns() - in_doubt_ns, detail)
        except Exception:
            self._log.exception("sink failed to note an interruption")

    def _enter(self, state: State, reason: str) -> None:
        before = self._status
        if (before.state, before.reason) == (state, reason):
            return
        since = before.since_ns if before.state is state else self._clock.now_ns()
        self._status = _Status(state, since, reason)
        # Once per change: a retry that fails as before says nothing new.
        if (phrase := _CHANGES.get(state)) is None:
            return
        if not reason:
            self._said = ""
            self._log.info(phrase, identity=str(self._identity or ""))
        elif reason != self._said:
            self._said = reason
            self._log.warning(phrase, reason=reason)

    # ---- parameters ----

    def _serve_calls(self, me: _Generation, driver: Driver) -> None:
        for _ in range(len(self._calls)):
            act, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            me.serving = future
            try:
                result = self._do(me, "call", lambda act=act: act(driver))  # type: ignore[misc]
            except ParameterError as error:
                self._refused += 1
                future.set_exception(self._told(error))
            except InstrumentError as error:
                future.set_exception(self._told(error))
                raise
            except Exception as error:
                future.set_exception(self._told(error))
            else:
                future.set_result(result)

    def _told(self, error: Exception) -> Exception:
        """The error without what nobody may read."""
        error.args = tuple(self._clean(one) if isinstance(one, str) else one for one in error.args)
        return error

    def _fail_calls(self) -> None:
        while self._calls:
            try:
                _, future = self._calls.popleft()
            except IndexError:
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(InstrumentDisconnected(f"{self.instrument_id}: the connection ended"))

    def _read_settings(self, me: _Generation, driver: Driver) -> list[tuple[Parameter, Value | None, Value]] | None:
        """All parameters as the instrument has them; None when it has no parameters at all."""
        if not isinstance(driver, HasParameters):
            return None
        parameters = self._do(me, "parameters", driver.parameters)
        return [(p, None, self._do(me, "get", lambda p=p: driver.get(p.name))) for p in parameters] or None  # type: ignore[misc]

    def _note_settings(self, rows: _Readings, at_ns: int | None = None) -> None:
        if not rows:
            return
        now = self._clock.now_ns() if at_ns is None else at_ns
        if at_ns is None:
            self._keep_settings(rows, now)
        if self._settings_row is None:
            if self._generation.open:
                self._pending.append((rows, now))
            return
        asked = [None if asked is None else _fitting(_exact(asked)) for _, asked, _ in rows]
        values = [_fitting(_exact(got)) for _, _, got in rows]
        block = Block.of(
            SETTINGS.schema,
            {
                "parameter": [p.name for p, _, _ in rows],
                "asked": [one or "" for one in asked],
                "value": [one or "" for one in values],
                "unit": [p.unit for p, _, _ in rows],
            },
            stream=SETTINGS.name,
            first=self._settings_row,
            times=[now] * len(rows),
            valid={"asked": [one is not None for one in asked], "value": [one is not None for one in values]},
            arrived_ns=now,
        )
        with self._turn(self._generation):
            self._settings_row += len(rows)
            self._sink.accept(block)

    def _note_pending(self) -> None:
        """What was read and set before the stream of settings began becomes its first rows."""
        pending, self._pending = self._pending, []
        for rows, at_ns in pending:
            self._note_settings(rows, at_ns)

    def _keep_pending(self, me: _Generation) -> None:
        """The same where nothing was acquired afterwards: the stream of settings begins for them alone."""
        try:
            with self._turn(me):
                if self._settings_row is None:
                    self._settings_row = 0
                    self._sink.begin((SETTINGS,))
            self._note_pending()
            with self._turn(me):
                self._sink.interrupted(Reason.STOPPED, self._clock.now_ns(), self._why_stopped)
        except Exception:
            self._log.exception("sink failed to take settings")

    def _keep_settings(self, rows: _Readings, now_ns: int) -> None:
        self._settings = {**self._settings, **{p.name: Setting(_exact(got), p.unit, now_ns) for p, _, got in rows}}


class _Turn:
    """The lock, held only as long as the generation is the one that counts."""

    __slots__ = ("_lock", "_me")

    def __init__(self, lock: threading.Lock, me: _Generation) -> None:
        self._lock, self._me = lock, me

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._me.abandoned:
            self._lock.release()
            raise _Abandoned

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _exact(value: Value) -> str:
    """A value as text from which the same value can be made again."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, float) else str(value)


def _fitting(text: str) -> str | None:
    """A text that a row has room for; None, which is missing, for another: a part of it would be another setting."""
    try:
        fits = len(text.encode()) <= _TEXT_BYTES and not text.endswith("\0")
    except UnicodeEncodeError:
        return None
    return text if fits else None


def _configurable(driver: Driver) -> HasParameters:
    if not isinstance(driver, HasParameters):
        raise ParameterError("the instrument has no parameters")
    return driver
