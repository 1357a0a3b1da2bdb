"""The interface as a whole: who may what, what is documented, and how it says no."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from scidaq.web.app import make_interface
from scidaq.web.openapi import document
from tests.web.live import SCOPES, Live

DOCUMENT = document(make_interface())
OPERATIONS = [(path, method, op) for path, methods in DOCUMENT["paths"].items() for method, op in methods.items()]
IMPLIED = {
    "admin": {"admin", "operate", "read", "metrics"},
    "operate": {"operate", "read", "metrics"},
    "read": {"read", "metrics"},
    "metrics": {"metrics"},
}


def filled(path: str) -> str:
    """A path of which nothing is there: to be refused for the scope before that is noticed."""
    for name in ("instrument", "stream", "parameter", "run", "hold", "note", "key", "export", "file"):
        path = path.replace(f"{{{name}}}", "nothing")
    return path


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_route_asks_for_its_scope(live: Live, path: str, method: str, operation: dict[str, Any]) -> None:
    scope = operation["x-scope"]
    without = live.ask(filled(path), method.upper(), key=None)
    if path.startswith("/health/") or path == "/api/v1/session":
        assert without.status != 403
        return
    assert (without.status, without.kind) == (401, "no-key")
    assert without.headers["www-authenticate"] == "Bearer"
    for held in SCOPES:
        if scope and scope not in IMPLIED[held]:
            refused = live.ask(filled(path), method.upper(), key=held)
            assert (refused.status, refused.kind) == (403, "scope-missing"), (path, held)
            assert scope in refused.json["detail"]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_route_is_documented(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"].endswith(("`.", "."))
    assert operation["tags"]
    for status, answer in operation["responses"].items():
        if int(status) >= 400 and not path.startswith("/health"):
            example = answer["content"]["application/problem+json"]["example"]
            jsonschema.validate(example, DOCUMENT["components"]["schemas"]["Problem"])
    if method != "get" and not path.endswith("/session"):
        assert "Idempotency-Key" in [p["name"] for p in operation["parameters"]]
    assert operation["operationId"].isidentifier()


def test_the_document_is_served_and_is_openapi(live: Live) -> None:
    served = live.ask("openapi.json", key="metrics")
    assert served.json == DOCUMENT
    assert DOCUMENT["openapi"] == "3.1.0"
    again = live.ask("openapi.json", If_None_Match=served.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    ids = [op["operationId"] for _, _, op in OPERATIONS]
    assert len(set(ids)) == len(ids)


def test_people_can_read_it_without_scripts(live: Live) -> None:
    page = live.ask("/docs")
    text = page.body.decode()
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in text
    assert " style=" not in text
    for _, _, operation in OPERATIONS:
        assert f"id={operation['operationId']}" in text
    assert live.ask("/docs/style.css").headers["content-type"].startswith("text/css")


def test_what_is_not_there_and_what_may_not_be(live: Live) -> None:
    nowhere = live.ask("nowhere")
    assert (nowhere.status, nowhere.kind) == (404, "not-found")
    wrong = live.ask("status", "DELETE")
    assert (wrong.status, wrong.kind, wrong.headers["allow"]) == (405, "method-not-allowed", "GET, HEAD")
    assert live.ask("status/").status == 404  # not a redirect


@pytest.mark.parametrize(
    ("body", "kind", "status", "problem"),
    [
        (b"{", "application/json", 400, "malformed-json"),
        (b'{"name": "\\ud800"}', "application/json", 400, "malformed-json"),
        (b'{"name": NaN}', "application/json", 400, "malformed-json"),
        (b"\xff\xfe", "application/json", 400, "malformed-json"),
        (b"[" * 5000, "application/json", 400, "malformed-json"),
        (b"name=x", "application/x-www-form-urlencoded", 415, "no-json"),
        (b'{"name": "x"}', "text/plain", 415, "no-json"),
        (b'{"name": "x"}', "", 415, "no-json"),
        (b"[]", "application/json", 422, "invalid-request"),
        (b'{"nam": "x"}', "application/json", 422, "invalid-request"),
        (b'{"name": ""}', "application/json", 422, "invalid-request"),
        (b'{"name": "a/b"}', "application/json", 422, "request-refused"),
        (b'{"name": "x", "metadata": {"n": 1' + b"0" * 400 + b"}}", "application/json", 400, "malformed-json"),
    ],
)
def test_bodies_that_are_not_as_they_should_be(live: Live, body: bytes, kind: str, status: int, problem: str) -> None:
    from tests.web.talk import ask

    headers = {"Authorization": f"Bearer {live.keys['operate']}"} | ({"Content-Type": kind} if kind else {})
    answer = ask(live.web.address, "/api/v1/runs", "POST", body, headers)
    assert (answer.status, answer.kind) == (status, problem)
    assert answer.json["request_id"] == answer.headers["x-request-id"]


def test_a_body_that_is_refused_is_not_repeated(live: Live) -> None:
    answer = live.ask("keys", "POST", {"name": "x", "scopes": ["SECRET-OF-SOMEBODY"]})
    assert answer.status == 422
    assert b"SECRET" not in answer.body


# ---- the station ----------------------------------------------------------------------------------------------------


def test_status_and_statistics(live: Live) -> None:
    status = live.ask("status", key="read").json
    assert (status["name"], status["ready"], status["instruments"]["wave"]) == ("lab", True, "acquiring")
    assert status["durable_rows"] > 500
    stats = live.ask("stats", key="read").json
    assert {one["instrument"] for one in stats["instruments"]} == {"fake", "wave"}
    described = DOCUMENT["components"]["schemas"]["InstrumentStats"]["properties"]["row_age_s"]["description"]
    assert described.startswith("Time since rows last arrived")


def test_health_and_metrics(live: Live) -> None:
    assert live.ask("/health/live", key=None).json == {"status": "alive"}
    assert live.ask("/health/ready", key=None).json == {"status": "ready", "reason": ""}
    health = live.ask("/health", key="metrics")
    assert health.status == 200
    assert "instrument:wave" in health.json["components"]
    assert live.ask("/health", key=None).status == 401
    metrics = live.ask("/metrics", key="metrics")
    assert b"scidaq_data_points_total" in metrics.body
    assert metrics.headers["content-type"].startswith("text/plain")
    openmetrics = live.ask("/metrics", key="metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"# EOF\n")


# ---- configuration, keys, audit, session ----------------------------------------------------------------------------


def test_configuration(live: Live) -> None:
    assert live.ask("config").json["origins"] == {"station.name": "lab.toml:2"}
    assert live.ask("config/schema", key="read").json == {"type": "object"}
    assert live.ask("config/reload", "POST").json["live"] == ["logging.level"]
    assert live.config.reloads == 1


def test_the_life_of_a_key(live: Live) -> None:
    made = live.ask("keys", "POST", {"name": "guest", "scopes": ["read"], "days": 1})
    assert (made.status, made.headers["cache-control"]) == (201, "no-store")
    given = made.json["key"]
    assert live.ask("status", key=None, Authorization=f"Bearer {given}").status == 200
    assert live.ask("keys", "POST", {"name": "guest", "scopes": ["read"]}).status == 422
    listed = live.ask("keys")
    assert given.encode() not in listed.body
    assert "hash" not in listed.json["items"][0]
    rotated = live.ask("keys/guest/rotate", "POST", {"grace_hours": 0})
    assert rotated.status == 201
    assert live.ask("status", key=None, X_API_Key=given).status == 401
    assert live.ask("status", key=None, X_API_Key=rotated.json["key"]).status == 200
    assert live.ask(f"keys/{rotated.json['id']}", "DELETE").json["state"] == "revoked"
    assert live.ask("status", key=None, X_API_Key=rotated.json["key"]).status == 401
    assert live.ask("keys/guest", "DELETE").kind == "unknown"


def test_a_browser_logs_in_with_a_key_or_once_with_a_link(live: Live) -> None:
    assert live.ask("session", key=None).status == 401
    login = live.ask("session", "POST", {"key": live.keys["read"]}, key=None)
    assert (login.status, login.json["name"], login.json["scopes"]) == (201, "read key", ["read", "metrics"])
    cookie = login.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    mine = cookie.partition(";")[0]
    assert live.ask("session", key=None, Cookie=mine).json["via"] == "session"
    assert live.ask("runs", "POST", {"name": "x"}, key=None, Cookie=mine).kind == "scope-missing"
    assert live.ask("session", "DELETE", key=None, Cookie=mine).status == 204
    assert live.ask("session", key=None, Cookie=mine).status == 401
    import time

    link = live.web.front.sessions.link(time.monotonic())
    assert live.ask("session", "POST", {"link": link}, key=None).json["scopes"][0] == "read"
    assert live.ask("session", "POST", {"link": link}, key=None).kind == "wrong-key"
    assert live.ask("session", "POST", {"key": "a", "link": "b"}, key=None).status == 422
    live.web.front.bans.succeeded("127.0.0.1")


def test_the_audit_says_who_did_what(live: Live) -> None:
    live.ask("notes", "POST", {"text": "CANARY of a text"}, key="operate")
    live.ask("instruments/wave/lease", "DELETE", key="operate", Lease="x")
    live.ask("notes", "POST", {"text": "x"}, key="read")  # who may not is not in it
    answer = live.ask("audit?limit=2")
    refused, noted = answer.json["items"]
    assert (noted["who"], noted["via"], noted["peer"], noted["act"], noted["status"], noted["problem"]) == (
        "operate key",
        "key",
        "127.0.0.1",
        "POST /api/v1/notes",
        201,
        "",
    )
    assert (refused["act"], refused["status"]) == ("DELETE /api/v1/instruments/wave/lease", 423)
    assert refused["problem"] == "lease-over"
    assert b"CANARY" not in answer.body
    further = live.ask(f"audit?limit=2&cursor={answer.json['next']}").json["items"]
    assert further[0]["seq"] < noted["seq"]
    assert 'rel="next"' in answer.headers["link"]
    assert live.ask("audit?cursor=x").status == 422


HEADED = ("/health/live", "/health", "/metrics", "status", "instruments/wave", "streams/wave/wave/data?last=3", "keys")


@pytest.mark.parametrize("path", [*HEADED, "instruments/nobody", "/docs", "/api/v1/openapi.json"])
def test_head_is_get_without_the_body(live: Live, path: str) -> None:
    whole, head = live.ask(path), live.ask(path, "HEAD")
    assert (head.status, head.body) == (whole.status, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert live.ask("status", "HEAD", key=None).status == 401
    assert live.ask("keys", "HEAD", key="read").status == 403
    assert live.ask("stats", "PUT").headers["allow"] == "GET, HEAD"


def test_head_of_a_large_answer_makes_no_more_of_it_than_the_header(live: Live) -> None:
    live.until_rows("wave/wave", 1000)
    head = live.ask("streams/wave/wave/data?limit=1000&format=csv", "HEAD", key="read")
    assert (head.status, head.body) == (200, b"")
    assert "etag" in head.headers
    again = live.ask("streams/wave/wave/data?limit=1000&format=csv", "HEAD", key="read", Connection="keep-alive")
    assert again.status == 200
