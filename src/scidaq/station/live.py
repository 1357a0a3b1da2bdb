"""What is seen of a station while it records: views of its newest rows, and what happens in it.

One folding serves all who look at the same view. A view reads its stream's ring with a budget: it holds nothing up, and
what it is too late for is told as a gap of reason *late*. One thread does it all, and there is none while nobody looks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from scidaq.block import Block, Entry, Gap, Reason
from scidaq.catalog import Fact
from scidaq.clock import Clock
from scidaq.instruments import InstrumentStats
from scidaq.observe import Report
from scidaq.pipeline import Budget, Ring
from scidaq.query import Buckets, Fold, Newest, arrays_of, lanes_of
from scidaq.stats import field_of

log = structlog.get_logger(__name__)

KEPT = 1000
"""Events that are kept for whoever begins to listen."""
LOOK_S = 0.1
"""How often the states of instruments and the health are looked at while somebody listens."""
LEAST_STEP_NS = 1 << 16
MOST_STEP_NS = 1 << 56
MOST_VIEWS = 512
BUDGET_S = 1.0
LEAST_BUDGET, MOST_BUDGET, IRREGULAR_BUDGET = 1 << 20, 64 << 20, 8 << 20
TURN = 0.6
"""The share of the time between two frames that is spent folding for one of them."""
IDLE_S = 10.0
"""How long the thread waits for another view before it ends."""


@dataclass(frozen=True, slots=True)
class ViewWanted:
    """What a view shows. Equal ones are folded once."""

    stream: str
    channels: tuple[str, ...] | None = None
    """None is all that can be drawn."""
    step_ns: int = 1 << 24
    """Length of a bucket: a power of two."""
    fps: int = 30
    """Changes that are handed out in a second, at most."""
    kind: Literal["lines", "arrays"] = "lines"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened in the station."""

    event: Literal["instrument", "gap", "run", "note", "health"]
    at_ns: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LiveStats:
    """What is seen of the station while it records."""

    views: int = field_of("1", "Views that somebody looks at, equal ones counted once.")
    listeners: int = field_of("1", "Who is told of events.")
    folded_rows: int = field_of("{row}", "Rows that went into views, once for each view.")
    late_rows: int = field_of("{row}", "Rows that views were too late for.")
    events: int = field_of("1", "Events since the start.")


def grid_step_ns(step_ns: int) -> int:
    """The step of the grid that is at least as long."""
    return min(MOST_STEP_NS, max(LEAST_STEP_NS, 1 << (max(1, step_ns) - 1).bit_length()))


class Watch:
    """A view that somebody looks at. `close` it."""

    def __init__(self, live: Live, wanted: ViewWanted, deliver: Callable[[Sequence[Buckets], int], None]) -> None:
        self.wanted = wanted
        self._live, self._deliver = live, deliver
        self._lock = threading.Lock()
        self._fold: Fold | Newest = (
            Fold(wanted.stream, wanted.channels, wanted.step_ns)
            if wanted.kind == "lines"
            else Newest(wanted.stream, wanted.channels)
        )
        self._ring: Ring | None = None
        self._budget: Budget | None = None
        self._begins_ns: int | None = None
        self._busy = False
        self._number = 0
        self._waited = False
        """Whether there was no ring yet when somebody began to look."""
        self._pending: deque[Entry] = deque()
        self.due_s = 0.0
        self.rows = self.late_rows = 0

    def join(self) -> tuple[int | None, int]:
        """Deliveries from this number on have all rows from this time on; None where no row has come yet.

        Whoever joins reads what lies before: nothing is missing between, and nothing is there twice.
        """
        with self._lock:
            self._attach()
            begins_ns = self._fold.begins_ns
            return self._begins_ns if begins_ns is None else begins_ns, self._number

    def taken(self) -> None:
        """What was delivered is dealt with; from any thread."""
        self._busy = False

    def close(self) -> None:
        """Nobody looks any more."""
        self._live._end(self)
        with self._lock:
            if self._budget is not None:
                self._budget.close()
                self._budget = None

    def _attach(self) -> None:
        """Read from the stream's ring: there may be none yet, or another one after the instrument was put in again."""
        ring = self._live._rings().get(self.wanted.stream)
        if ring is self._ring:
            self._waited = self._waited or ring is None
            return
        if self._budget is not None:
            self._budget.close()
        self._ring, self._budget = ring, None
        if ring is None:
            self._waited = True
            return
        # A ring that is there at last has nothing that anybody who waits for it has seen.
        self._budget = ring.budget(_budget_bytes(ring.newest_block()), whole=self._waited and not self.rows)
        before = self._budget.before
        if before is not None and not self._waited:
            self._begins_ns = before.last_ns + 1

    def turn(self, now_s: float) -> None:
        """Take what came; hand out what changed, unless the last is not dealt with yet."""
        # All views of a rate have their turns together: the thread wakes up once for them.
        self.due_s = (now_s * self.wanted.fps // 1 + 1) / self.wanted.fps
        with self._lock:
            self._attach()
            if self._budget is not None and not self._pending and self._budget.waiting:
                self._pending.extend(self._budget.take())
            until_s = now_s + TURN / self.wanted.fps
            while self._pending:
                item = self._pending.popleft().item
                if isinstance(item, Block):
                    self.rows += item.rows
                    self._fold.take(item)
                elif isinstance(item, Gap):
                    self.late_rows += item.rows or 0 if item.reason is Reason.LATE else 0
                    self._fold.take(item)
                if self._live._clock.monotonic_s() >= until_s:
                    break  # the rest has its turn later: rather frames in time, and what cannot be managed is late
            if self._busy:
                return
            changed = self._fold.changed()
            number, self._number = self._number, self._number + bool(changed)
        if changed:
            self._busy = True
            self._deliver(changed, number)


def _budget_bytes(newest: Block | None) -> int:
    if newest is None:
        return IRREGULAR_BUDGET
    rate = newest.schema.rate
    if rate is None:
        return IRREGULAR_BUDGET
    return min(MOST_BUDGET, max(LEAST_BUDGET, int(float(rate) * newest.schema.row_bytes * BUDGET_S)))


class Live:
    """The views and events of a station. Every method may be called from any thread."""

    def __init__(
        self,
        clock: Clock,
        rings: Callable[[], Mapping[str, Ring]],
        instruments: Callable[[], tuple[InstrumentStats, ...]],
        health: Callable[[], Report | None],
    ) -> None:
        self._clock, self._rings, self._instruments, self._health = clock, rings, instruments, health
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._listeners: list[Callable[[Happening], None]] = []
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._kept: deque[Happening] = deque(maxlen=KEPT)
        self._events = self._folded = self._late = 0
        self._look_s = 0.0
        self._states: dict[str, tuple[str, str]] | None = None
        self._report: Report | None = None

    # ---- views ----

    def watch(self, wanted: ViewWanted, deliver: Callable[[Sequence[Buckets], int], None]) -> Watch:
        """Look at a view. `deliver` is called in a thread of the station with what changed and the number of
        this delivery, and then not before `Watch.taken`. Raises `RequestError` for channels that the stream has not."""
        ring = self._rings().get(wanted.stream)
        block = ring.newest_block() if ring is not None else None
        if block is not None:
            (lanes_of if wanted.kind == "lines" else arrays_of)(block.schema, wanted.channels)
        one = Watch(self, wanted, deliver)
        one.join()  # it reads from here on
        with self._lock:
            self._watches.append(one)
        self._begin()
        return one

    def _end(self, one: Watch) -> None:
        with self._lock:
            if one in self._watches:
                self._watches.remove(one)
                self._folded, self._late = self._folded + one.rows, self._late + one.late_rows

    # ---- events ----

    def listen(self, tell: Callable[[Happening], None]) -> Callable[[], None]:
        """Be told of what happens, in whatever thread it happens: `tell` must be quick. Call the result to end it."""

        def end() -> None:
            with self._lock:
                if tell in self._listeners:
                    self._listeners.remove(tell)

        with self._lock:
            self._listeners.append(tell)
        self._begin()
        return end

    def happened(self) -> list[Happening]:
        """What happened last, oldest first."""
        with self._lock:
            return list(self._kept)

    def gap(self, gap: Gap) -> None:
        """A hole in the rows of a stream was announced."""
        at_ns = gap.end_ns or gap.start_ns or self._clock.now_ns()
        said = {"stream": gap.stream, "epoch": gap.epoch, **gap.as_json(), "rows": gap.rows}
        self._tell(Happening("gap", at_ns, said))

    def fact(self, fact: Fact) -> None:
        """A fact was written."""
        event, _, what = fact.kind.partition(".")
        if event == "run":
            self._tell(Happening("run", fact.t_ns, {"what": what, **_short(fact.data)}))
        elif event == "note":
            self._tell(Happening("note", fact.t_ns, {"what": what, **_short(fact.data)}))

    def _tell(self, one: Happening) -> None:
        with self._lock:
            self._kept.append(one)
            self._events += 1
            listeners = list(self._listeners)
        for tell in listeners:
            try:
                tell(one)
            except Exception:  # who listens is not the business of what happens
                log.exception("an event could not be told")

    # ---- the thread ----

    def _begin(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="live", daemon=True)
                self._thread.start()
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                watches, listening, closed = list(self._watches), bool(self._listeners), self._closed
            if closed:
                return
            now_s = self._clock.monotonic_s()
            for one in watches:
                if one.due_s <= now_s:
                    try:
                        one.turn(now_s)
                    except Exception:  # one view that cannot be folded stops no other
                        log.exception("a view could not be folded", stream=one.wanted.stream)
                        self._end(one)
            if listening and self._look_s <= now_s:
                self._look_s = now_s + LOOK_S
                self._look()
            elif not listening:
                self._states = None
            due = [one.due_s for one in watches] + ([self._look_s] if listening else [])
            if not due:
                if not self._wake.wait(IDLE_S) and self._idle():
                    return
                continue
            self._wake.wait(max(0.001, min(due) - self._clock.monotonic_s()))

    def _idle(self) -> bool:
        """Whether the thread ends, since nobody has looked for long."""
        with self._lock:
            if self._watches or self._listeners:
                return False
            self._thread = None
            return True

    def _look(self) -> None:
        """Tell what has changed of instruments and health."""
        stats = self._instruments()
        states = {one.instrument: (str(one.state), one.reason) for one in stats}
        before, self._states = self._states, states
        if before is not None:
            for one in stats:
                if before.get(one.instrument) != states[one.instrument]:
                    said = {"instrument": one.instrument, "state": str(one.state), "reason": one.reason}
                    self._tell(Happening("instrument", self._clock.now_ns(), said))
            for gone in before.keys() - states.keys():
                said = {"instrument": gone, "state": "removed", "reason": ""}
                self._tell(Happening("instrument", self._clock.now_ns(), said))
        report, old = self._health(), self._report
        self._report = report
        if report is None or old is None or report is old:
            return
        for name, component in report.components.items():
            was = old.components.get(name)
            if was is None or was.verdict.status is not component.verdict.status:
                status, reason = str(component.verdict.status), component.verdict.reason
                told = {"component": name, "status": status, "reason": reason, "whole": str(report.status)}
                self._tell(Happening("health", report.at_ns, told))

    def close(self) -> None:
        """Nothing is seen any more."""
        with self._lock:
            self._closed, thread = True, self._thread
        self._wake.set()
        if thread is not None:
            thread.join(5.0)

    def stats(self) -> LiveStats:
        """A snapshot."""
        with self._lock:
            watches = list(self._watches)
            folded = self._folded + sum(one.rows for one in watches)
            late = self._late + sum(one.late_rows for one in watches)
            return LiveStats(len(watches), len(self._listeners), folded, late, self._events)


def _short(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a fact says, without what is long: settings of all instruments."""
    return {key: value for key, value in data.items() if not isinstance(value, Mapping) or len(str(value)) < 4096}
