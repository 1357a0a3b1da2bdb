"""What is asked again and what is not, and how a refusal sounds: without a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from scidaq import errors
from scidaq.client.asking import KINDS, Answer, Asking, Broken, Pause, Request, Talk, problem
from scidaq.errors import (
    Leased,
    NotAllowed,
    OutcomeUnknown,
    ScidaqError,
    StationError,
    StationUnreachable,
    TooMany,
    UnknownStream,
)
from scidaq.web.problem import STATUSES, body

AT = "http://lab:8080"


def said(content: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, orjson.dumps(content))


def refused(status: int, kind: str, **headers: str) -> Answer:
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, body(status, kind, "in words", "r1"))


def told(talk: Talk[Any], reply: Callable[[Request, int], Answer]) -> tuple[Any, list[Request], list[float]]:
    """Drive a talk; what it returned, what it asked, how long it paused."""
    asked: list[Request] = []
    paused: list[float] = []
    try:
        step = next(talk)
        while True:
            if isinstance(step, Pause):
                paused.append(step.seconds)
                step = talk.send(None)
                continue
            asked.append(step)
            try:
                answer = reply(step, len(asked))
            except Broken as broken:
                step = talk.throw(broken)
            else:
                step = talk.send(answer)
    except StopIteration as end:
        return end.value, asked, paused


class Station:
    """Answers as the list says, a change each; is asked for its status between."""

    def __init__(self, *replies: Answer | Broken, started: tuple[int, ...] = (1,)) -> None:
        self.replies, self.started = list(replies), list(started)

    def __call__(self, request: Request, _: int) -> Answer:
        if request.path.endswith("/status"):
            now = self.started.pop(0) if len(self.started) > 1 else self.started[0]
            return said({"started_ns": now})
        reply = self.replies.pop(0)
        if isinstance(reply, Broken):
            raise reply
        return reply


def test_every_kind_of_problem_is_the_error_that_it_was() -> None:
    assert {kind: error for error, _, kind in STATUSES} == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_what_the_station_says(kind: str) -> None:
    error = problem(refused(422, kind), AT)
    assert type(error) is KINDS[kind]
    assert str(error) == "in words"
    assert error.__notes__ == ["the station's log has it as request r1"]


def test_errors_have_the_attributes_of_their_kind() -> None:
    error = problem(refused(404, "unknown-stream"), AT)
    assert isinstance(error, UnknownStream)
    assert (error.stream, error.known) == ("", ())


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (401, "no-key", NotAllowed),
        (403, "scope-missing", NotAllowed),
        (423, "leased", Leased),
        (429, "too-fast", TooMany),
        (404, "no-lease", errors.Unknown),
        (413, "body-too-long", errors.RequestError),
        (500, "fault", StationError),
    ],
)
def test_other_problems_go_by_their_status(status: int, kind: str, error: type[ScidaqError]) -> None:
    assert type(problem(refused(status, kind), AT)) is error


def test_somebody_else_who_answers_is_told_from_a_station() -> None:
    error = problem(Answer(502, {}, b"<html>Bad gateway"), AT)
    assert str(error) == "http://lab:8080 answered 502, and not as a station does: '<html>Bad gateway'"


def test_a_question_is_asked_again() -> None:
    station = Station(Broken("reset", sent=True), refused(503, "busy", retry_after="2"), said({"a": 1}))
    found, asked, paused = told(Asking(AT).json("streams"), station)
    assert found == {"a": 1}
    assert len(asked) == 3
    assert paused == [0.2, 2.0]


def test_a_refusal_is_not_asked_again() -> None:
    with pytest.raises(errors.UnknownStream):
        told(Asking(AT).json("streams/a/b"), Station(refused(404, "unknown-stream")))


def test_a_station_that_never_answers_is_unreachable() -> None:
    with pytest.raises(StationUnreachable, match="no station answers at http://lab:8080 \\(refused\\)"):
        told(Asking(AT).json("streams"), Station(*[Broken("refused", sent=False)] * 6))


def test_a_change_keeps_its_key_when_it_is_sent_again() -> None:
    station = Station(Broken("reset", sent=True), refused(409, "idempotency-under-way"), said({"id": "x"}, 201))
    found, asked, _ = told(Asking(AT).change("POST", "runs", {"name": "a"}), station)
    changes = [one for one in asked if one.method == "POST"]
    assert found == {"id": "x"}
    assert len(changes) == 3
    assert len({one.headers["Idempotency-Key"] for one in changes}) == 1


def test_two_changes_have_two_keys() -> None:
    asking = Asking(AT)
    keys = set()
    for _ in range(2):
        _, asked, _ = told(asking.change("POST", "runs", {}), Station(said({})))
        keys |= {one.headers["Idempotency-Key"] for one in asked if one.method == "POST"}
    assert len(keys) == 2


def test_a_change_is_not_sent_again_to_a_station_that_was_restarted() -> None:
    station = Station(Broken("reset", sent=True), started=(1, 2))
    with pytest.raises(OutcomeUnknown, match="was restarted while it was asked"):
        told(Asking(AT).change("POST", "runs", {}), station)


def test_a_change_that_was_never_heard_is_sent_to_whoever_is_there() -> None:
    station = Station(Broken("refused", sent=False), said({}), started=(1, 2))
    _, asked, _ = told(Asking(AT).change("POST", "runs", {}), station)
    assert len([one for one in asked if one.method == "POST"]) == 2


def test_a_change_of_which_nothing_more_is_heard_is_uncertain() -> None:
    with pytest.raises(OutcomeUnknown, match="nobody knows whether this was done"):
        told(Asking(AT).change("POST", "runs", {}), Station(*[Broken("reset", sent=True)] * 6))
