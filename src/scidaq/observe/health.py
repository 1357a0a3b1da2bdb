"""Health: every component asked by itself, within a deadline, and how long it has been as it is.

A check is a function that returns a `Verdict`, or one for each of several components. Each runs in a thread of its own:
one that hangs or raises is unhealthy with that as the reason, and the others still answer. What they said is kept for a
while and computed once for all who ask at the same time. The checks know what they look at, this module does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from scidaq.clock import Clock
from scidaq.observe.redaction import Redactor
from scidaq.stats import Status, Verdict

log = structlog.get_logger(__name__)

DEADLINE_S = 2.0
"""How long a check may take unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to be asked."""

    name: str
    """The component; also of the check as a whole where it answers for several."""
    ask: Callable[[], Verdict | Mapping[str, Verdict]]
    """Called in a thread of its own. Where it returns several verdicts, each is that of the component of its key."""
    deadline_s: float = DEADLINE_S
    critical: bool = True
    """Whether it makes the whole unhealthy when it cannot be asked."""


@dataclass(frozen=True, slots=True)
class Component:
    """How one component is."""

    verdict: Verdict
    since_ns: int
    """UTC time since which it has this status."""


@dataclass(frozen=True, slots=True)
class Report:
    """How all components were at one moment."""

    status: Status
    """The worst of the critical ones; degraded at least where another one is not healthy."""
    components: Mapping[str, Component]
    at_ns: int
    """UTC time at which they were asked."""

    def as_json(self) -> dict[str, Any]:
        """What `/health` answers."""
        components = {
            name: {
                "status": str(one.verdict.status),
                "since": utc(one.since_ns),
                "reason": one.verdict.reason,
                "critical": one.verdict.critical,
                "details": dict(one.verdict.details),
            }
            for name, one in self.components.items()
        }
        return {"status": str(self.status), "time": utc(self.at_ns), "components": components}


class Health:
    """What `/health`, `/health/live` and `/health/ready` say. Every method may be called from any thread."""

    def __init__(
        self,
        checks: Iterable[Check],
        clock: Clock,
        interval_s: float = 10.0,
        ready: Callable[[], str] = lambda: "",
        redactor: Redactor | None = None,
    ) -> None:
        """`ready` says why no data is accepted, at once and without a lock; empty while it is."""
        self._checks, self._clock, self._interval_s = tuple(checks), clock, interval_s
        self._ready, self._redactor = ready, redactor or Redactor()
        self._lock = threading.Lock()
        self._asked: dict[str, _Asking] = {}
        self._asked_of: tuple[Check, ...] = ()
        """Whom the last report is of."""
        self._spoke: dict[str, tuple[str, ...]] = {}
        """The components that each check answered for."""
        self._report: Report | None = None
        self._asked_s = self._until_s = float("-inf")

    def current(self, *, fresh: bool = False) -> Report:
        """How all components are; asked anew when the last answers are older than the interval, or `fresh` is wanted.

        Answers within the longest deadline of the checks and a little. Who asks while others do gets the same answer.
        """
        begun_s = self._clock.monotonic_s()
        with self._lock:
            report = self._report
            others = self._asked_of is not self._checks
            if (
                report is None
                or others
                or self._clock.monotonic_s() >= self._until_s
                or (fresh and self._asked_s < begun_s)
            ):
                self._asked_s, self._asked_of = self._clock.monotonic_s(), self._checks
                report = self._report = self._ask_all()
                self._until_s = self._clock.monotonic_s() + self._interval_s
            return report

    @property
    def last(self) -> Report | None:
        """What was found last, however old; None when nobody has asked yet. Never waits."""
        return self._report

    def add(self, check: Check) -> None:
        """Ask for something else, too, from the next question on."""
        self._checks = (*self._checks, check)  # without the lock, which is held while others are asked

    def hide(self, secrets: Iterable[str]) -> None:
        """What else must never be in an answer, whatever a check says."""
        self._redactor.hide(secrets)

    def report(self) -> dict[str, Any]:
        """The answer to `/health`: `status`, `time` and `components`, to be sent as JSON."""
        return self.current().as_json()

    @staticmethod
    def live() -> bool:
        """The answer to `/health/live`: that somebody answers is all that it says. Depends on no check."""
        return True

    def ready(self) -> str:
        """The answer to `/health/ready`: why no data is accepted, empty while it is."""
        try:
            return self._redactor.text(self._ready())
        except Exception as error:
            return self._redactor.text(f"it cannot be told whether data is accepted: {error!r}")

    # ---- asking ----

    def _ask_all(self) -> Report:
        begun_s, checks = self._clock.monotonic_s(), self._checks  # another may be added meanwhile
        for check in checks:
            before = self._asked.get(check.name)
            if before is None or before.done.is_set():  # else it hangs still, and one thread of it is enough
                self._asked[check.name] = _Asking(check, begun_s)
        found: dict[str, Verdict] = {}
        for check in checks:
            found |= self._answer(check, self._asked[check.name], begun_s)
        return self._noted(found)

    def _answer(self, check: Check, asking: _Asking, begun_s: float) -> dict[str, Verdict]:
        left_s = begun_s + check.deadline_s - self._clock.monotonic_s()
        if asking.begun_s < begun_s or not asking.done.wait(max(0.0, left_s)):  # one asked before hangs already
            waited_s = max(check.deadline_s, self._clock.monotonic_s() - asking.begun_s)
            return self._cannot(check, f"the check has not answered for {waited_s:.1f} s")
        if asking.error is not None:
            return self._cannot(check, f"the check failed: {type(asking.error).__name__}: {asking.error}")
        answer = asking.answer
        if isinstance(answer, Verdict):
            answer = {check.name: answer}
        self._spoke[check.name] = tuple(answer)
        return {name: self._clean(verdict) for name, verdict in answer.items()}

    def _cannot(self, check: Check, reason: str) -> dict[str, Verdict]:
        """What the components of a check are that does not answer: as bad as what is not known has to be taken for."""
        before = self._report.components if self._report is not None else {}
        names = self._spoke.get(check.name) or (check.name,)
        return {
            name: self._clean(
                Verdict(
                    Status.UNHEALTHY,
                    reason,
                    critical=before[name].verdict.critical if name in before else check.critical,
                )
            )
            for name in names
        }

    def _clean(self, verdict: Verdict) -> Verdict:
        return replace(
            verdict, reason=self._redactor.text(verdict.reason), details=self._redactor.values(verdict.details)
        )

    def _noted(self, found: Mapping[str, Verdict]) -> Report:
        now_ns = self._clock.now_ns()
        before = self._report.components if self._report is not None else {}
        components = {}
        for name, verdict in found.items():
            known = before.get(name)
            same = known is not None and known.verdict.status is verdict.status
            components[name] = Component(verdict, known.since_ns if known is not None and same else now_ns)
            if not same and (known is not None or verdict.status is not Status.HEALTHY):
                _tell(name, verdict)
        return Report(_overall(found.values()), components, now_ns)


class _Asking:
    """A check under way, in a thread that is left alone when it hangs."""

    def __init__(self, check: Check, begun_s: float) -> None:
        self._check, self.begun_s = check, begun_s
        self.done = threading.Event()
        self.answer: Verdict | Mapping[str, Verdict] = {}
        self.error: Exception | None = None
        threading.Thread(target=self._run, name=f"health-{check.name}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.answer = self._check.ask()
        except Exception as error:  # a check that cannot be asked is an answer too
            self.error = error
        finally:
            self.done.set()


def _overall(verdicts: Iterable[Verdict]) -> Status:
    worst = Status.HEALTHY
    for verdict in verdicts:
        status = verdict.status if verdict.critical or verdict.status is Status.HEALTHY else Status.DEGRADED
        worst = max(worst, status, key=lambda one: one.rank)
    return worst


def _tell(name: str, verdict: Verdict) -> None:
    """Once for each change."""
    if verdict.status is Status.HEALTHY:
        log.info("component is healthy again", component=name)
    elif verdict.status is Status.DEGRADED:
        log.warning("component is degraded", component=name, reason=verdict.reason)
    else:
        log.error("component is unhealthy", component=name, reason=verdict.reason)


def utc(t_ns: int) -> str:
    """A UTC time as ISO 8601 to the millisecond: `2026-11-25T15:54:03.120Z`."""
    at = datetime.fromtimestamp(t_ns // 1_000_000_000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{t_ns // 1_000_000 % 1000:03d}Z"
