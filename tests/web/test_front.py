"""Who may come in, from where, how often, and with how much."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scidaq.testing import FakeClock
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, WebServer
from scidaq.web.front import Front, Sessions
from scidaq.web.keys import spread
from scidaq.web.limits import Bans, Buckets
from tests.web.conftest import OpenDoors
from tests.web.talk import Answer, ask, connected, until_closed

STATUS = "/api/v1/status"


def with_key(web: WebServer, given: str, path: str = STATUS) -> Answer:
    return ask(web.address, path, headers={"Authorization": f"Bearer {given}"})


def test_without_a_key_only_whether_it_lives_is_told(doors: OpenDoors) -> None:
    web = doors(SecurityOptions())
    assert ask(web.address, "/health/live").status == 200
    for path in (STATUS, "/docs", "/api/v1/openapi.json", "/metrics", "/nothing"):
        refused = ask(web.address, path)
        assert (refused.status, refused.kind) == (401, "no-key"), path
        assert refused.headers["www-authenticate"] == "Bearer"


def test_a_key_opens_what_its_scopes_say(doors: OpenDoors, keys: KeyStore) -> None:
    web = doors(SecurityOptions())
    _, reader = keys.create("reader", ["read"])
    _, scraper = keys.create("scraper", ["metrics"])
    assert with_key(web, reader).status == 200
    assert ask(web.address, STATUS, headers={"X-API-Key": reader}).status == 200
    refused = with_key(web, scraper)
    assert (refused.status, refused.kind) == (403, "scope-missing")
    assert "'read'" in refused.json["detail"]


def test_a_key_that_is_no_longer_valid_is_none(doors: OpenDoors, keys: KeyStore, clock: FakeClock) -> None:
    web = doors(SecurityOptions())
    _, one = keys.create("one", ["read"], days=1)
    _, two = keys.create("two", ["read"])
    assert with_key(web, one).status == with_key(web, two).status == 200
    keys.revoke("two")
    clock.advance(86_401)
    for given in (one, two):
        refused = with_key(web, given)
        assert (refused.status, refused.kind) == (401, "wrong-key")


def test_a_key_in_the_address_is_refused_even_when_it_is_right(doors: OpenDoors, keys: KeyStore) -> None:
    web = doors(SecurityOptions())
    _, given = keys.create("one", ["read"])
    for name in ("key", "api_key", "token", "Access_Token"):
        refused = ask(web.address, f"{STATUS}?x=1&{name}={given}")
        assert (refused.status, refused.kind) == (400, "key-in-url")


def test_wrong_keys_make_an_address_wait(doors: OpenDoors, keys: KeyStore) -> None:
    web = doors(SecurityOptions())
    _, given = keys.create("one", ["read"])
    kinds = [with_key(web, "scidaq_00000000_" + "A" * 43).kind for _ in range(7)]
    assert kinds == ["wrong-key"] * 5 + ["too-many-failures"] * 2
    refused = with_key(web, given)
    assert refused.kind == "too-many-failures"
    assert int(refused.headers["retry-after"]) >= 1


def test_pauses_after_wrong_keys_double_and_end_with_a_right_one() -> None:
    bans = Bans()
    pauses = []
    for _ in range(20):
        bans.failed("here", 0.0)
        pauses.append(bans.wait_s("here", 0.0))
    assert pauses[:8] == [0, 0, 0, 0, 1, 2, 4, 8]
    assert max(pauses) == 300
    assert bans.wait_s("there", 0.0) == 0
    bans.succeeded("here")
    assert bans.wait_s("here", 0.0) == 0


def test_who_comes_too_often_has_to_wait(doors: OpenDoors) -> None:
    web = doors(requests_per_second=1)
    answers = [ask(web.address, STATUS) for _ in range(8)]
    assert [a.status for a in answers[:5]] == [200] * 5
    assert answers[-1].status == 429
    assert answers[-1].kind == "too-fast"


def test_a_bucket_fills_again_and_forgets_strangers() -> None:
    buckets = Buckets(2.0, 4.0)
    assert [buckets.wait_s("a", 0.0) for _ in range(4)] == [0.0] * 4
    assert buckets.wait_s("a", 0.0) == pytest.approx(0.5)
    assert buckets.wait_s("a", 0.6) == 0.0
    for i in range(10_000):
        buckets.wait_s(str(i), 1.0)
    assert len(buckets._left) <= 4096
    assert Buckets(0, 0).wait_s("anybody", 0.0) == 0.0


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.2", "localhost.evil.example", "", "[::1", "a b"])
def test_a_request_for_another_host_is_refused(doors: OpenDoors, host: str) -> None:
    web = doors()
    refused = ask(web.address, STATUS, headers={"Host": host})
    assert (refused.status, refused.kind) == (421, "strange-host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "daq.lab.example", "daq.lab.example."])
def test_its_own_names_are_served(doors: OpenDoors, host: str) -> None:
    web = doors(SecurityOptions(keys=False, allowed_hosts=("DAQ.lab.example",)))
    assert ask(web.address, STATUS, headers={"Host": host}).status == 200


def test_a_header_twice_is_refused(doors: OpenDoors) -> None:
    web = doors()
    with connected(web.address) as one:
        one.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert b"header-twice" in until_closed(one)


def test_pages_of_other_sites_may_do_nothing(doors: OpenDoors) -> None:
    web = doors(SecurityOptions(keys=False, cors_origins=("https://lab.example",)))
    own = web.address
    strange = {"Origin": "https://evil.example"}
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        refused = ask(web.address, STATUS, method, headers=strange)
        assert (refused.status, refused.kind) == (403, "strange-origin")
        assert "access-control-allow-origin" not in refused.headers
    assert ask(web.address, STATUS, "POST", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert ask(web.address, STATUS, "POST", headers={"Origin": "null"}).status == 403
    assert ask(web.address, STATUS, headers={"Origin": own.replace("127.0.0.1", "localhost")}).status == 403
    assert ask(web.address, STATUS, headers={"Origin": own}).status == 200


def test_pages_that_are_named_may(doors: OpenDoors) -> None:
    web = doors(SecurityOptions(keys=False, cors_origins=("https://lab.example",)))
    named = {"Origin": "https://lab.example"}
    answer = ask(web.address, STATUS, headers=named)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://lab.example")
    assert "access-control-allow-credentials" not in answer.headers
    before = ask(web.address, STATUS, "OPTIONS", headers=named | {"Access-Control-Request-Method": "POST"})
    assert before.status == 204
    assert "POST" in before.headers["access-control-allow-methods"]


def test_every_answer_carries_the_headers_that_browsers_heed(doors: OpenDoors) -> None:
    web = doors(SecurityOptions())
    for path in ("/health/live", STATUS):
        headers = ask(web.address, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert len(headers["x-request-id"]) == 16
        assert "server" not in headers


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(doors: OpenDoors) -> None:
    web = doors(app=guarded(reading), max_body_bytes=2000)
    assert ask(web.address, "/", "POST", b"x" * 2000).status == 200
    refused = ask(web.address, "/", "POST", b"x" * 2001)
    assert (refused.status, refused.kind) == (413, "body-too-long")
    with connected(web.address) as one:
        one.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        one.sendall(b"7d0\r\n" + b"x" * 2000 + b"\r\n1\r\nx\r\n0\r\n\r\n")
        assert b"HTTP/1.1 413" in until_closed(one)


def test_a_request_that_is_not_answered_in_time_is_told_so(doors: OpenDoors) -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    web = doors(app=guarded(never), request_timeout_seconds=0.2)
    refused = ask(web.address, "/")
    assert (refused.status, refused.kind) == (503, "timeout")
    assert web.front.stats().timeouts == 1


def test_a_body_that_does_not_come_is_not_waited_for(doors: OpenDoors) -> None:
    web = doors(app=guarded(reading), request_timeout_seconds=0.3)
    with connected(web.address) as one:
        one.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx")
        assert b"HTTP/1.1 503" in until_closed(one)


def test_an_answer_may_take_longer_than_a_request(doors: OpenDoors) -> None:
    async def long(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(8):
            await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body"})

    web = doors(app=guarded(long), request_timeout_seconds=0.2)
    assert ask(web.address, "/").body == b"x" * 8


def test_a_fault_of_the_program_tells_strangers_nothing(doors: OpenDoors) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("the secret is swordfish")

    web = doors(app=guarded(broken))
    refused = ask(web.address, "/")
    assert (refused.status, refused.kind) == (500, "fault")
    assert b"swordfish" not in refused.body


def test_requests_are_counted_by_route_and_not_by_what_strangers_ask_for(doors: OpenDoors) -> None:
    web = doors()
    for i in range(20):
        ask(web.address, f"/nothing/{i}")
    ask(web.address, STATUS)
    assert web.front.stats().requests == {("GET", "other", 404): 20, ("GET", STATUS, 200): 1}


async def reading(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def guarded(app: Any) -> Any:
    """An application behind a `Front` that asks for no keys."""

    def make(web: WebServer) -> Front:
        class NoKeys:
            pass

        front = web.front = Front(app, web.options, web.security, NoKeys())  # type: ignore[arg-type]
        return front

    return make


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_ends_with_its_time_and_with_its_key() -> None:
    sessions = Sessions(hours=1)
    valid = {"k"}
    token = sessions.begin("one", spread(["read"]), "k", 0.0)
    assert sessions.find(token, 3599, valid.__contains__) == ("one", spread(["read"]), "k")
    assert sessions.find(token, 3600, valid.__contains__) is None
    token = sessions.begin("one", spread(["read"]), "k", 0.0)
    valid.clear()
    assert sessions.find(token, 1, valid.__contains__) is None
    assert sessions.find("", 1, valid.__contains__) is None


def test_a_link_opens_one_session_within_its_time() -> None:
    sessions = Sessions(hours=1)
    token = sessions.link(0.0)
    assert sessions.use_link(token, 10.0)
    assert not sessions.use_link(token, 10.0)
    assert not sessions.use_link(sessions.link(0.0), 901.0)


def test_options_that_open_the_door_are_refused() -> None:
    away = ServerOptions(bind_address="0.0.0.0")
    tls = {"tls_enabled": True, "cert_path": "c", "key_path": "k"}
    assert SecurityOptions().refusal(ServerOptions()) is None
    assert SecurityOptions(keys=False).refusal(ServerOptions(bind_address="::1")) is None
    refusal = SecurityOptions(keys=False).refusal(away)
    assert refusal is not None
    assert "without keys and without TLS" in refusal
    assert "without TLS" in (SecurityOptions().refusal(away) or "")
    assert SecurityOptions(**tls).refusal(away) is None  # type: ignore[arg-type]
    assert SecurityOptions(open_door="yes").refusal(away) is not None
    assert (
        SecurityOptions(open_door="anybody who reaches this port may read and control this station").refusal(away)
        is None
    )
