"""The limits below the framework: each one tripped, and others served all the while."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from scidaq.web import WebServer
from scidaq.web.front import Front
from tests.web.conftest import OpenDoors
from tests.web.talk import ask, connected, place, until_closed

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def answering(act: Callable[[Any, Any], Any] | None = None) -> Callable[[WebServer], Any]:
    """A bare application that reads the body and says `ok`, or does what it is told."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if act is not None:
            await act(scope, send)
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return lambda web: app


def test_idle_connections_make_room_for_new_ones(doors: OpenDoors) -> None:
    web = doors(max_connections=10)
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(web.address)) for _ in range(30)]
        assert ask(web.address, "/health/live").status == 200
        assert until_closed(idle[0]) == b""
        assert web.gate.stats().evicted >= 20
        assert web.gate.stats().connections <= 10


def test_the_connection_that_idles_the_longest_goes_first(doors: OpenDoors) -> None:
    web = doors(max_connections=3)
    with connected(web.address) as first, connected(web.address) as second, connected(web.address) as third:
        first.sendall(GET)
        assert first.recv(15).startswith(b"HTTP/1.1 200")  # from now on it has idled for the shortest
        with connected(web.address):
            assert until_closed(second) == b""
            third.sendall(GET)
            assert third.recv(15).startswith(b"HTTP/1.1 200")


def test_one_address_cannot_have_all_connections(doors: OpenDoors) -> None:
    web = doors(max_connections=100, max_connections_per_peer=4)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(web.address))
        assert ask(web.address, "/health/live").status == 200
        assert web.gate.stats().connections <= 4


def test_when_all_are_at_work_a_reserve_answers_how_the_station_is(doors: OpenDoors) -> None:
    gone_on = asyncio.Event()

    async def slow(scope: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await asyncio.wait_for(gone_on.wait(), 10)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    web = doors(app=answering(slow), max_connections=3)
    with ExitStack() as stack:
        for _ in range(3):
            one = stack.enter_context(connected(web.address))
            one.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: web.gate.stats().busy == 3)
        for path in ("/health", "/health/live", "/metrics"):
            assert ask(web.address, path).status == 200
        refused = ask(web.address, "/api/v1/streams")
        assert (refused.status, refused.kind, refused.headers["retry-after"]) == (503, "busy", "1")
        assert web._loop is not None
        web._loop.call_soon_threadsafe(gone_on.set)


def wait_for(what: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_header_has_to_come_in_its_time(doors: OpenDoors) -> None:
    web = doors(header_timeout_seconds=0.3)
    with connected(web.address) as silent, connected(web.address) as slow:
        slow.sendall(b"GET /health/live HTTP/1.1\r\nHos")
        assert until_closed(slow).startswith(b"HTTP/1.1 408 ")
        assert until_closed(silent).startswith(b"HTTP/1.1 408 ")
    assert web.gate.stats().late == 2


def test_a_byte_now_and_then_does_not_hold_a_header_open(doors: OpenDoors) -> None:
    web = doors(header_timeout_seconds=0.4)
    with connected(web.address) as drip:
        drip.settimeout(0.05)
        got = b""
        with contextlib.suppress(ConnectionError):
            for byte in GET.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 500):
                drip.sendall(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    got += drip.recv(4096)
                if got:
                    break
        assert got.startswith(b"HTTP/1.1 408 ")
        assert ask(web.address, "/health/live").status == 200


def test_the_deadline_of_a_header_begins_anew_with_each_request(doors: OpenDoors) -> None:
    web = doors(header_timeout_seconds=0.4)
    with connected(web.address) as one:
        for _ in range(2):
            one.sendall(GET)
            got = b""
            while b"alive" not in got:
                got += one.recv(65536)
        one.sendall(GET[:20])
        assert b"did not come in time" in until_closed(one)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS where there is none
        (b"HELLO\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (
            b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
    ],
)
def test_what_is_no_request_is_refused_in_words(doors: OpenDoors, sent: bytes, status: int) -> None:
    web = doors()
    with connected(web.address) as one:
        one.sendall(sent)
        answer = until_closed(one)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in answer
    assert web.gate.stats().malformed == 1


def test_who_takes_nothing_of_an_answer_is_cut_off(doors: OpenDoors) -> None:
    async def endless(scope: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
                if scope["stop"]():
                    return

    def app(web: WebServer) -> Any:
        async def behind(scope: Any, receive: Any, send: Any) -> None:
            await endless({**scope, "stop": lambda: web.gate.stats().late > 0}, send)

        return behind

    web = doors(app=app, request_timeout_seconds=0.3)
    with socket.create_connection(place(web.address), timeout=10) as one:
        one.sendall(GET)
        wait_for(lambda: web.gate.stats().late == 1)
        wait_for(lambda: web.gate.stats().connections == 0)


def test_idle_connections_are_closed_in_time(doors: OpenDoors) -> None:
    web = doors(idle_timeout_seconds=1)
    with connected(web.address) as one:
        one.sendall(GET)
        assert until_closed(one).startswith(b"HTTP/1.1 200")
    wait_for(lambda: web.gate.stats().connections == 0)


def test_requests_behind_one_another_are_answered_in_order(doors: OpenDoors) -> None:
    web = doors()
    with connected(web.address) as one:
        one.sendall(GET * 3 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert until_closed(one).count(b"HTTP/1.1 200") == 4
    assert isinstance(web.front, Front)
