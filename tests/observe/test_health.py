"""Checks that answer, hang, raise and come back."""

from __future__ import annotations

import threading
import time

import pytest

from scidaq.clock import SystemClock
from scidaq.observe import Check, Health
from scidaq.stats import Status, Verdict
from scidaq.testing.clock import FakeClock

FINE = Verdict(Status.HEALTHY)
ILL = Verdict(Status.UNHEALTHY, "it is broken", {"left": 3})


def health(*checks: Check, clock: FakeClock | SystemClock | None = None, interval_s: float = 10.0) -> Health:
    return Health(checks, clock or SystemClock(), interval_s)


def statuses(one: Health) -> dict[str, str]:
    return {name: c.verdict.status.value for name, c in one.current(fresh=True).components.items()}


def test_the_report_says_status_since_reason_and_details():
    clock = FakeClock()
    report = health(Check("a", lambda: FINE), Check("b", lambda: ILL), clock=clock).report()
    assert report["status"] == "unhealthy"
    assert report["components"]["a"]["status"] == "healthy"
    assert report["components"]["b"] == {
        "status": "unhealthy",
        "since": "2025-06-15T15:06:40.000Z",
        "reason": "it is broken",
        "critical": True,
        "details": {"left": 3},
    }
    assert report["time"] == "2025-06-15T15:06:40.000Z"


@pytest.mark.parametrize(
    ("status", "critical", "whole"),
    [
        (Status.HEALTHY, True, "healthy"),
        (Status.DEGRADED, True, "degraded"),
        (Status.UNHEALTHY, True, "unhealthy"),
        (Status.HEALTHY, False, "healthy"),
        (Status.DEGRADED, False, "degraded"),
        (Status.UNHEALTHY, False, "degraded"),
    ],
)
def test_what_is_not_critical_makes_the_whole_degraded_at_most(status: Status, critical: bool, whole: str):
    one = health(Check("a", lambda: FINE), Check("b", lambda: Verdict(status, "why", critical=critical)))
    assert one.report()["status"] == whole


def test_a_check_that_hangs_is_unhealthy_and_the_others_still_answer():
    goes_on = threading.Event()

    def hang() -> Verdict:
        goes_on.wait(30)
        return FINE

    threads = threading.active_count()
    one = health(Check("a", lambda: FINE), Check("hangs", hang, deadline_s=0.05), Check("c", lambda: FINE))
    for _ in range(3):  # one thread is left behind, not one for each time
        began = time.monotonic()
        report = one.current(fresh=True)
        assert time.monotonic() - began < 1.0
        assert {n: c.verdict.status for n, c in report.components.items()} == {
            "a": Status.HEALTHY,
            "hangs": Status.UNHEALTHY,
            "c": Status.HEALTHY,
        }
        assert report.components["hangs"].verdict.reason.startswith("the check has not answered for ")
    assert threading.active_count() <= threads + 1
    goes_on.set()
    deadline = time.monotonic() + 5
    while statuses(one)["hangs"] != "healthy":
        assert time.monotonic() < deadline


def test_a_check_that_raises_is_unhealthy_with_what_it_said():
    def fail() -> Verdict:
        raise ValueError("no such thing at postgresql://me:hunter22@db/scidaq")

    components = health(Check("a", lambda: FINE), Check("fails", fail)).current().components
    assert components["a"].verdict.status is Status.HEALTHY
    reason = components["fails"].verdict.reason
    assert reason == "the check failed: ValueError: no such thing at postgresql://(hidden)@db/scidaq"


def test_a_group_that_fails_takes_the_components_that_it_spoke_for():
    fails: list[int] = []

    def group() -> dict[str, Verdict]:
        if fails:
            raise OSError("gone")
        return {"x": FINE, "y": Verdict(Status.HEALTHY, critical=False)}

    one = health(Check("group", group))
    assert statuses(one) == {"x": "healthy", "y": "healthy"}
    fails.append(1)
    report = one.current(fresh=True)
    assert {n: (c.verdict.status, c.verdict.critical) for n, c in report.components.items()} == {
        "x": (Status.UNHEALTHY, True),
        "y": (Status.UNHEALTHY, False),
    }


def test_answers_are_kept_for_the_interval():
    clock, asked = FakeClock(), []

    def ask() -> Verdict:
        asked.append(1)
        return FINE

    one = health(Check("a", ask), clock=clock, interval_s=10.0)
    one.current()
    clock.advance(9.9)
    one.current()
    assert len(asked) == 1
    clock.advance(0.2)
    one.current()
    assert len(asked) == 2


def test_many_callers_are_answered_by_one_computation():
    asked, together = [], threading.Barrier(8)

    def slow() -> Verdict:
        asked.append(1)
        time.sleep(0.05)
        return FINE

    one = health(Check("a", slow))

    def ask() -> None:
        together.wait()
        one.current()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1


def test_since_is_kept_as_long_as_the_status_is():
    clock, now = FakeClock(), [FINE]
    one = health(Check("a", lambda: now[0]), clock=clock, interval_s=1.0)

    def since() -> str:
        clock.advance(10)
        return str(one.report()["components"]["a"]["since"])

    first = since()
    assert since() == first
    now[0] = ILL
    second = since()
    assert second > first
    now[0] = Verdict(Status.UNHEALTHY, "another reason")
    assert since() == second
    now[0] = FINE
    assert since() > second


def test_no_secret_is_in_the_report():
    said = Verdict(Status.UNHEALTHY, "login of bob with canary-12345 refused", {"password": "x", "url": "a://b:c@d"})
    one = Health([Check("a", lambda: said)], SystemClock())
    one.hide(["canary-12345"])
    text = str(one.report())
    assert "canary" not in text
    assert "b:c" not in text
    assert "'password': '(hidden)'" in text


def test_a_check_that_is_added_while_others_are_asked_comes_next_time():
    def ask() -> Verdict:
        one.add(Check("late", lambda: FINE))
        return FINE

    one = health(Check("first", ask))
    assert statuses(one) == {"first": "healthy"}
    assert statuses(one)["late"] == "healthy"


def test_live_and_ready_ask_no_check():
    def hang() -> Verdict:
        raise AssertionError("asked")

    why = [""]
    one = Health([Check("a", hang)], SystemClock(), ready=lambda: why[0])
    assert one.live() is True
    assert one.ready() == ""
    why[0] = "there is too little room on the disk"
    assert one.ready() == "there is too little room on the disk"


def test_what_cannot_be_told_is_not_ready():
    def fail() -> str:
        raise RuntimeError("no")

    assert Health([], SystemClock(), ready=fail).ready().startswith("it cannot be told whether data is accepted")


@pytest.mark.parametrize("_", range(10))  # the moment between asking and hearing is short
def test_a_check_may_be_added_while_the_others_are_asked(_: int):
    def adds() -> Verdict:
        one.add(Check("b", lambda: FINE))
        return FINE

    one = health(Check("a", adds), Check("c", lambda: FINE))
    assert set(statuses(one)) <= {"a", "b", "c"}
    assert set(statuses(one)) == {"a", "b", "c"}


def test_a_check_that_is_added_does_not_wait_for_the_last_answers_to_be_old():
    one = health(Check("a", lambda: FINE), interval_s=3600)
    assert set(statuses(one)) == {"a"}
    one.add(Check("b", lambda: FINE))
    assert set(statuses(one)) == {"a", "b"}
