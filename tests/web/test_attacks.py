"""What somebody would send who wants in, or wants others out."""

from __future__ import annotations

import base64
import json
import logging
import threading
from typing import Any
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from scidaq.testing import FakeClock
from scidaq.web import KeyStore, SecurityOptions, WebServer
from scidaq.web.front import Sessions
from scidaq.web.limits import neighbourhood
from tests.web.conftest import OpenDoors
from tests.web.live import Live, until
from tests.web.talk import Answer, ask, connected, until_closed

STATUS = "/api/v1/status"
WRONG = "scidaq_00000000_" + "A" * 43
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n\r\n"


def said(web: WebServer, sent: bytes) -> bytes:
    with connected(web.address) as one:
        one.sendall(sent)
        return until_closed(one)


def statuses(answers: bytes) -> list[int]:
    return [int(line.split()[1]) for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


# ---- what is no single, clear request --------------------------------------------------------------------------------

POST = b"POST /api/v1/session HTTP/1.1\r\n" + HOST


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Transfer-Encoding: chunked, identity\r\n" + CLOSE + b"0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n" + CLOSE + b"0\r\n\r\n",
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"0\r\n\r\n",
        POST + b"Transfer-Encoding: xchunked\r\n" + CLOSE + b"0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n" + CLOSE + b"0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + CLOSE + b"0\r\n\r\n",
        POST + b"Content-Length: 0\r\nContent-Length: 5\r\n" + CLOSE + b"hello",
        POST + b"Content-Length: +5\r\n" + CLOSE + b"hello",
        POST + b"Content-Length: 99999999999999999999\r\n" + CLOSE + b"hello",
        POST + b"Transfer-Encoding: chunked\r\n" + CLOSE + b"zz\r\n\r\n",
        b"GET /health/live HTTP/1.1\nHost: localhost\nConnection: close\n\n",
        b"GET /health/live HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n" + CLOSE,
        b"GET /health/live HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n" + CLOSE,
        b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + CLOSE,
        "GET /é HTTP/1.1\r\n".encode() + HOST + CLOSE,
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_not_answered(doors: OpenDoors, sent: bytes) -> None:
    web = doors(SecurityOptions())
    smuggled = b"GET /health/live HTTP/1.1\r\n" + HOST + CLOSE
    got = statuses(said(web, sent + smuggled))
    assert got in ([], [400])
    assert ask(web.address, "/health/live").status == 200


@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization", "X-API-Key", "Sec-Fetch-Site", "Content-Length"])
def test_a_header_that_decides_stands_there_once(doors: OpenDoors, name: str) -> None:
    web = doors(SecurityOptions())
    twice = f"{name}: 1\r\n{name}: 2\r\n".encode()
    answer = said(web, b"GET /api/v1/status HTTP/1.1\r\n" + (b"" if name == "Host" else HOST) + twice + CLOSE)
    assert statuses(answer) == [400]
    assert b"application/problem+json" in answer
    assert b"nosniff" in answer


def test_what_comes_behind_a_body_is_no_header(live: Live) -> None:
    key = f"Authorization: Bearer {live.keys['metrics']}\r\n".encode()
    admin = f"Authorization: Bearer {live.keys['admin']}\r\n".encode()
    chunked = (
        b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n"
    )
    start = b"POST /api/v1/instruments/fake/lease HTTP/1.1\r\n" + HOST + key + chunked
    assert statuses(said(live.web, start + admin + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n")) == [403]


def test_the_host_that_counts_is_the_one_of_the_header(doors: OpenDoors) -> None:
    web = doors(SecurityOptions(keys=False))
    absolute = b"GET http://localhost/api/v1/status HTTP/1.1\r\nHost: evil.example\r\n" + CLOSE
    assert statuses(said(web, absolute)) == [421]
    assert b"421" in said(web, b"GET /api/v1/status HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "tls"])
def test_who_asks_for_another_protocol_stays_a_connection_like_others(
    doors: OpenDoors, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    web = doors()
    upgrade = f"Connection: Upgrade\r\nUpgrade: {protocol}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    with caplog.at_level(logging.WARNING), connected(web.address) as one:
        one.sendall(b"GET /health/live HTTP/1.1\r\n" + HOST + upgrade)
        assert one.recv(65536).startswith(b"HTTP/1.1 200")
    until(lambda: web.gate.stats().connections == 0)
    assert caplog.records == []


@pytest.mark.parametrize(
    "path",
    [
        "/%00",
        "//api/v1/status",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/docs/..%2f..%2fkeys.json",
        "/api/v1/streams/..%2f../x",
        "/%ff%fe",
        "/%0d%0aSet-Cookie:x=y",
        "/api/v1/instruments/%0d%0ax",
        "/api/v1/runs/%00",
        "/api/v1/status/",
        "/api/v1/runs/%F0%9F%92%A9",
        "/API/v1/status",
        "/api/v1/streams/wave/wave%00/data",
        "/api/v1/streams/a%22b/c",
    ],
)
def test_paths_lead_nowhere_but_to_routes(live: Live, path: str) -> None:
    answer = ask(live.web.address, path, headers={"Authorization": f"Bearer {live.keys['admin']}"})
    assert answer.status == 404
    assert "set-cookie" not in answer.headers
    assert answer.kind


def test_the_method_is_the_one_of_the_request(live: Live) -> None:
    assert live.ask("keys", X_HTTP_Method_Override="DELETE", X_Method_Override="POST").status == 200
    assert {live.ask("keys", method).status for method in ("TRACE", "PUT", "PROPFIND")} == {405}


def test_ranges_of_bytes_are_not_served(live: Live) -> None:
    answer = live.ask("streams/wave/wave/data?limit=5", Range="bytes=0-5,0-5,1-")
    assert answer.status == 200
    assert answer.json["items"]


# ---- numbers, cursors, bodies ----------------------------------------------------------------------------------------


def forged(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


PLACES: list[Any] = [
    [0, 0, -(2**63)], [0, 0, 2**64 - 1], [True, True, True], [2**62, 2**62, 0], {"a": 1}, [[]], "x", 1e308, None,
    [0, 2**63 - 1, None], -1, 2**63 - 1, True, [1, "\0"], [None, None], [[1], [2]],
]  # fmt: skip


@pytest.mark.parametrize("path", ["streams", "streams/wave/wave/data", "runs", "holds", "notes", "audit"])
def test_forged_cursors_are_refused_or_lead_to_what_may_be_seen_anyway(live: Live, path: str) -> None:
    for cursor in [*map(forged, PLACES), "é", "=", "A", "\0", "\xff"]:
        assert live.ask(f"{path}?cursor={quote(cursor)}").status in (200, 422), cursor


@pytest.mark.parametrize("path", ["streams/wave/wave/data?", "streams/wave/wave/data?max_points=5&", "runs?", "notes?"])
def test_numbers_without_bounds_are_told(live: Live, path: str) -> None:
    numbers = ("9" * 64, "1e300", "nan", "-inf", "9" * 20 + "s", "9223372036854775808", "-9223372036854775808", "٣")
    for number in (*numbers, "0001-01-01T00:00:00Z", "2026-01-01T00:00:00+99:99"):
        for name in ("start", "stop", "limit", "last", "max_points"):
            assert live.ask(f"{path}{name}={quote(number)}").status in (200, 400, 422), (name, number)


BODIES = [
    b"[" * 100_000,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b'{"value":' + b"9" * 4000 + b"}",
    b'{"value":' + b"9" * 30 + b"}",
    b'{"value":1e999}',
    b'{"value":"\\ud800"}',
    b'{"value":"\\u0000"}',
    b'{"value":"' + b"x" * 900_000 + b'"}',
    b"\xef\xbb\xbf{}",
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_bodies_that_are_bombs_do_nothing(live: Live, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {live.keys['admin']}", "Content-Type": "application/json"}
    for method, path in (("PUT", "instruments/fake/parameters/level"), ("POST", "runs"), ("POST", "keys")):
        assert ask(live.web.address, f"/api/v1/{path}", method, body, headers).status in (400, 422)


# ---- who it is -------------------------------------------------------------------------------------------------------


def wrong(web: WebServer, **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(web.address, STATUS, headers={"Authorization": f"Bearer {WRONG}", **given})


def test_nobody_says_themselves_where_they_come_from(doors: OpenDoors) -> None:
    web = doors(SecurityOptions())
    kinds = [wrong(web, X_Forwarded_For=f"10.0.0.{i}", Forwarded=f"for=10.0.0.{i}").kind for i in range(7)]
    assert kinds[-1] == "too-many-failures"


def test_a_proxy_that_is_trusted_says_who_it_was(doors: OpenDoors) -> None:
    web = doors(SecurityOptions(trusted_proxies=("127.0.0.1",)))
    kinds = [wrong(web, X_Forwarded_For="10.0.0.1").kind for _ in range(7)]
    assert kinds[-1] == "too-many-failures"
    assert wrong(web, X_Forwarded_For="10.0.0.2").kind == "wrong-key"
    secure = ask(web.address, "/health/live", headers={"X-Forwarded-For": "10.0.0.3", "X-Forwarded-Proto": "https"})
    assert "strict-transport-security" in secure.headers


def test_what_a_trusted_proxy_can_be() -> None:
    SecurityOptions(trusted_proxies=("10.0.0.0/24", "::1"))
    with pytest.raises(ValueError, match=r"trusted_proxies: '10\.0\.0\.1/24' is neither"):
        SecurityOptions(trusted_proxies=("10.0.0.1/24",))


def test_wrong_keys_do_not_make_a_station_seem_dead(doors: OpenDoors) -> None:
    web = doors(SecurityOptions(), requests_per_second=1000)
    for _ in range(7):
        wrong(web)
    assert wrong(web).kind == "too-many-failures"
    assert ask(web.address, "/health/live").status == 200
    assert ask(web.address, "/health/ready").status == 200


def test_wrong_keys_are_told_in_the_log_without_what_was_given(doors: OpenDoors, keys: KeyStore) -> None:
    web = doors(SecurityOptions())
    _, reader = keys.create("reader", ["read"])
    with capture_logs() as told:
        wrong(web)
        body = json.dumps({"key": WRONG}).encode()
        ask(web.address, "/api/v1/session", "POST", body, {"Content-Type": "application/json"})
        ask(web.address, "/api/v1/keys/x", "DELETE", headers={"Authorization": f"Bearer {reader}"})
    events = [(one["event"], one["peer"]) for one in told]
    assert events == [("a wrong key was refused", "127.0.0.1")] * 2 + [
        ("a key without the scope was refused", "127.0.0.1")
    ]
    assert told[2]["act"] == "DELETE /api/v1/keys/x"
    assert WRONG not in str(told)
    assert reader not in str(told)


@pytest.mark.parametrize("link", [False, True])
def test_logging_in_by_guessing_is_slowed_down(doors: OpenDoors, link: bool) -> None:
    web = doors(SecurityOptions())
    body = json.dumps({"link": "A" * 43} if link else {"key": WRONG}).encode()
    given = [ask(web.address, "/api/v1/session", "POST", body, {"Content-Type": "application/json"}) for _ in range(8)]
    assert [one.status for one in given] == [401] * 5 + [429] * 3


def test_addresses_of_one_network_count_as_one() -> None:
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1") != neighbourhood("2001:db8:0:1::1")
    assert neighbourhood("::ffff:10.0.0.1") == neighbourhood("10.0.0.1") == "10.0.0.1"
    assert neighbourhood("fe80::1%eth0") == "fe80::/64"
    assert neighbourhood("") == ""


# ---- browsers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dest", ["image", "iframe", "script", "empty"])
def test_nothing_is_a_part_of_another_sites_page(doors: OpenDoors, dest: str) -> None:
    web = doors()
    mode = "navigate" if dest == "iframe" else "no-cors"
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    refused = ask(web.address, "/api/v1/instruments", headers=headers)
    assert (refused.status, refused.kind) == (403, "strange-origin")
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert ask(web.address, "/", headers=followed).status == 200


def log_in(web: WebServer, content: dict[str, str], **headers: str) -> Answer:
    given = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return ask(web.address, "/api/v1/session", "POST", json.dumps(content).encode(), given)


def test_a_session_is_new_at_each_login_and_the_one_before_ends(doors: OpenDoors, keys: KeyStore) -> None:
    web = doors(SecurityOptions())
    _, key = keys.create("one", ["read"])
    planted = "scidaq_session=" + "x" * 43
    first = log_in(web, {"key": key}, Cookie=planted).headers["set-cookie"].partition(";")[0]
    assert first != planted
    second = log_in(web, {"key": key}, Cookie=first).headers["set-cookie"].partition(";")[0]
    assert ask(web.address, STATUS, headers={"Cookie": planted}).status == 401
    assert ask(web.address, STATUS, headers={"Cookie": first}).status == 401
    assert ask(web.address, STATUS, headers={"Cookie": second}).status == 200


def test_over_https_the_cookie_is_of_this_host_only(doors: OpenDoors, keys: KeyStore) -> None:
    web = doors(SecurityOptions(trusted_proxies=("127.0.0.1",)))
    _, key = keys.create("one", ["read"])
    secure = {"X_Forwarded_Proto": "https", "X_Forwarded_For": "10.0.0.1"}
    given = log_in(web, {"key": key}, **secure).headers["set-cookie"]
    assert given.startswith("__Host-scidaq_session=")
    for word in ("Secure", "HttpOnly", "SameSite=strict", "Path=/"):
        assert word in given
    pair = given.partition(";")[0]
    headers = {"Cookie": pair, **{k.replace("_", "-"): v for k, v in secure.items()}}
    assert ask(web.address, STATUS, headers=headers).status == 200
    plain = {"Cookie": pair.removeprefix("__Host-"), **{k.replace("_", "-"): v for k, v in secure.items()}}
    assert ask(web.address, STATUS, headers=plain).status == 401


def test_a_link_that_many_use_at_once_opens_one_session() -> None:
    sessions = Sessions(hours=1)
    for _ in range(50):
        token, start = sessions.link(0.0), threading.Barrier(5)
        opened: list[bool] = []

        def use(token: str = token, opened: list[bool] = opened, start: threading.Barrier = start) -> None:
            start.wait()
            sessions.link(0.0)
            opened.append(sessions.use_link(token, 1.0))

        threads = [threading.Thread(target=use) for _ in range(5)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert opened.count(True) == 1


def test_a_huge_cookie_is_no_session(doors: OpenDoors) -> None:
    web = doors(SecurityOptions())
    many = "; ".join(f"a{i}=b" for i in range(2000))
    assert ask(web.address, STATUS, headers={"Cookie": many}).status == 401
    assert ask(web.address, STATUS, headers={"Cookie": "a=" + "b" * 40_000}).status == 431


# ---- once only -------------------------------------------------------------------------------------------------------


def test_an_idempotency_key_is_of_the_key_and_not_of_its_name(live: Live) -> None:
    held, given = live.store.create("passing on", ["operate"])
    note = {"text": "for my eyes"}

    def add(key: str) -> Answer:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Idempotency-Key": "same"}
        return ask(live.web.address, "/api/v1/notes", "POST", json.dumps(note).encode(), headers)

    first = add(given)
    assert first.status == 201
    assert add(given).headers["idempotency-replayed"] == "true"
    live.store.revoke(held.id)
    _, heir = live.store.create("passing on", ["read"])
    assert add(heir).status == 403
    live.ask(f"notes/{first.json['id']}", "DELETE")


def test_one_that_comes_many_times_at_once_is_done_once(live: Live) -> None:
    answers: list[Answer] = []

    def add() -> None:
        answers.append(live.ask("notes", "POST", {"text": "at once"}, Idempotency_Key="at once"))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.status for one in answers} <= {201, 409}
    assert len({one.json["id"] for one in answers if one.status == 201}) == 1
    found = [one for one in live.ask("notes").json["items"] if one["text"] == "at once"]
    assert len(found) == 1
    live.ask(f"notes/{found[0]['id']}", "DELETE")


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_markup_in_what_people_write_stays_text(live: Live) -> None:
    text = '<script>alert("1")</script>'
    made = live.ask("notes", "POST", {"text": text, "by": text})
    assert made.headers["content-type"] == "application/json"
    assert made.json["text"] == text
    for path in ("notes", f"runs?search={quote(text)}"):
        answer = live.ask(path)
        assert (answer.headers["content-type"], answer.headers["x-content-type-options"]) == (
            "application/json",
            "nosniff",
        )
    live.ask(f"notes/{made.json['id']}", "DELETE")
    refused = live.ask("runs", "POST", {"name": "\r\nSet-Cookie: a=b"})
    assert refused.status == 422
    assert "set-cookie" not in refused.headers


def test_a_key_is_in_no_answer_but_its_own(live: Live) -> None:
    made = live.ask("keys", "POST", {"name": "canary", "scopes": ["admin"]}).json
    secret = made["key"].rpartition("_")[2].encode()
    seen = [live.ask(path).body for path in ("keys", "audit", "config", "stats", "status", "/metrics", "/health")]
    given = {"Authorization": f"Bearer {made['key']}"}
    seen += [ask(live.web.address, path, headers=given).body for path in ("/", "/api/v1/session", "/nothing")]
    assert not [body for body in seen if secret in body]
    assert live.ask(f"keys/{made['id']}", "DELETE").status == 200
    refused = ask(live.web.address, STATUS, headers=given)
    assert refused.status == 401
    assert secret not in refused.body


def test_a_clock_that_jumps_revives_no_key(doors: OpenDoors, keys: KeyStore, clock: FakeClock) -> None:
    web = doors(SecurityOptions())
    _, given = keys.create("one", ["read"], days=1)
    keys.revoke("one")
    clock.advance(-86_400 * 365)
    assert ask(web.address, STATUS, headers={"Authorization": f"Bearer {given}"}).status == 401
