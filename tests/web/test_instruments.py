"""Instruments over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scidaq.block import shown
from scidaq.errors import InstrumentDisconnected
from scidaq.web import Control
from tests.web.live import Live, until


@pytest.fixture(autouse=True)
def left_as_found(live: Live) -> Iterator[None]:
    yield
    live.fake.stuck = None
    Control(live.web.control).call("DELETE", "/api/v1/instruments/fake/lease", query={"force": "true"})
    live.ask("instruments/fake/start", "POST")
    until(lambda: live.door.instrument("fake").stats.state == "acquiring")


def test_they_are_listed_as_they_are(live: Live) -> None:
    items = {one["id"]: one for one in live.ask("instruments", key="read").json["items"]}
    assert set(items) == {"fake", "wave"}
    assert items["fake"]["state"] == "acquiring"
    assert items["fake"] | {"rows": 0, "last_row_ns": 0} == live.ask("instruments/fake", key="read").json | {
        "rows": 0,
        "last_row_ns": 0,
    }
    assert items["wave"]["streams"] == ["wave/wave"]
    unknown = live.ask("instruments/fak", key="read")
    assert (unknown.status, unknown.kind) == (404, "unknown-instrument")
    assert "did you mean 'fake'" in unknown.json["detail"]


def test_last_values_have_units(live: Live) -> None:
    (row,) = live.ask("instruments/wave/last", key="read").json["items"]
    assert row["stream"] == "wave/wave"
    assert row["values"]["adc"]["unit"] == "V"
    assert len(row["values"]["adc"]["value"]) == 4


def test_parameters_are_read_set_and_read_back(live: Live) -> None:
    (one,) = live.ask("instruments/fake/parameters", key="read").json["items"]
    assert (one["name"], one["unit"], one["limits"]) == ("level", "V", [0.0, 10.0])
    done = live.ask("instruments/fake/parameters/level", "PUT", {"value": 2.5, "unit": "V"}, key="operate")
    assert (done.status, done.json["value"]) == (200, 2.5)
    assert live.ask("instruments/fake/parameters/level", key="read").json["value"] == 2.5
    snapshot = live.ask("settings", key="read").json
    assert snapshot["instruments"]["fake"]["settings"]["level"]["value"] == "2.5"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"value": 11}, "outside 0.0 to 10.0 V"),
        ({"value": "much"}, "is float64"),
        ({"value": True}, "is float64"),
        ({"value": 1, "unit": "mV"}, "is in V, not in mV"),
    ],
)
def test_what_is_not_allowed_is_refused_in_words(live: Live, setting: Any, words: str) -> None:
    before = live.fake.values["level"]
    refused = live.ask("instruments/fake/parameters/level", "PUT", setting)
    assert (refused.status, refused.kind) == (422, "parameter-refused")
    assert words in refused.json["detail"]
    assert live.fake.values["level"] == before


def test_a_value_that_reads_back_otherwise_is_told(live: Live) -> None:
    live.fake.stuck = 9.0
    refused = live.ask("instruments/fake/parameters/level", "PUT", {"value": 1.0})
    assert refused.status == 422
    assert "reads back 9.0" in refused.json["detail"]


def test_unknown_parameters(live: Live) -> None:
    for method, content in (("GET", None), ("PUT", {"value": 1})):
        unknown = live.ask("instruments/fake/parameters/lvel", method, content)
        assert (unknown.status, unknown.kind) == (404, "unknown-parameter")
        assert "there are level" in unknown.json["detail"]
    assert live.ask("instruments/wave/parameters", key="read").json["items"] == []


def test_stop_start_connect_disconnect_safe(live: Live) -> None:
    assert live.ask("instruments/fake/safe", "POST", key="operate").json["state"] == "acquiring"
    assert live.ask("instruments/fake/stop", "POST", key="operate").json["state"] == "ready"
    assert live.ask("instruments/fake/disconnect", "POST", key="operate").json["state"] == "stopped"
    refused = live.ask("instruments/fake/parameters/level")
    assert (refused.status, refused.kind) == (409, "instrument-not-connected")
    assert live.ask("instruments/fake/connect", "POST", key="operate").json["state"] == "ready"
    assert live.ask("instruments/fake/start", "POST", key="operate").json["state"] == "acquiring"
    assert live.ask("instruments/wave/safe", "POST").status == 422
    until(lambda: ("stopped", "stopped by operate key") in gaps(live))


def gaps(live: Live) -> list[tuple[str, str]]:
    items = live.ask("streams/fake/fake/data?last=1000").json["items"]
    return [(i["reason"], i["detail"]) for i in items if i["kind"] == "gap"]


def test_failures_come_with_advice(live: Live) -> None:
    live.fake.fail["read"] = [InstrumentDisconnected("the cable is out")]
    until(lambda: live.ask("instruments/fake/failures", key="read").json["items"])
    newest = live.ask("instruments/fake/failures", key="read").json["items"][0]
    assert newest["message"] == "the cable is out"
    assert "switched on" in newest["advice"]


def test_a_lease_keeps_others_out(live: Live) -> None:
    assert live.ask("instruments/fake/lease", key="read").kind == "no-lease"
    taken = live.ask("instruments/fake/lease", "POST", {"ttl_s": 60}, key="operate")
    assert taken.status == 201
    token = taken.json["token"]
    shown = live.ask("instruments/fake", key="read")
    assert shown.json["lease"]["holder"] == "operate key"
    assert token.encode() not in shown.body
    others = [
        ("parameters/level", "PUT", {"value": 1.0}),
        ("stop", "POST", None),
        ("safe", "POST", None),
        ("lease", "POST", {"ttl_s": 5}),
        ("lease", "DELETE", None),
    ]
    for path, method, content in others:
        refused = live.ask(f"instruments/fake/{path}", method, content, key="admin")
        assert (refused.status, refused.kind) == (423, "leased")
        assert "operate key" in refused.json["detail"]
    assert live.ask("instruments/fake/parameters/level", key="read").status == 200
    assert live.ask("instruments/fake/parameters/level", "PUT", {"value": 1.0}, Lease=token).status == 200
    longer = live.ask("instruments/fake/lease", "POST", {"ttl_s": 600}, key="operate", Lease=token)
    assert longer.json["token"] == token
    assert longer.json["seconds_left"] > 500
    assert live.ask("instruments/fake/lease?force=true", "DELETE").kind == "console-only"
    assert live.ask("instruments/fake/lease", "DELETE", key="operate", Lease=token).status == 204
    assert live.ask("instruments/fake/parameters/level", "PUT", {"value": 1.0}, Lease=token).kind == "lease-over"
    assert live.ask("instruments/fake/parameters/level", "PUT", {"value": 1.0}).status == 200


def test_a_lease_ends_by_itself_and_the_console_can_break_it(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("scidaq.web.leases.time.monotonic", lambda: now[0])
    from scidaq.web.leases import Leases
    from scidaq.web.problem import Problem

    leases = Leases()
    first = leases.take("x", "kim", 10.0)
    with pytest.raises(Problem, match="leased by 'kim' for 10 s"):
        leases.check("x", "")
    now[0] += 10.1
    leases.check("x", "")
    with pytest.raises(Problem, match="it has ended"):
        leases.take("x", "kim", 10.0, first.token)
    second = leases.take("x", "lee", 10.0)
    leases.end("x", "", force=True)
    with pytest.raises(Problem, match="it has ended"):
        leases.check("x", second.token)


def test_parameters_are_told_of_a_time_in_the_past(live: Live) -> None:
    live.ask("instruments/fake/parameters/level", "PUT", {"value": 2.5})
    between = live.door.now_ns()
    live.ask("instruments/fake/parameters/level", "PUT", {"value": 1.0})

    def level(at: str) -> tuple[Any, Any]:
        (one,) = live.ask(f"instruments/fake/parameters?at={at}", key="read").json["items"]
        assert (one["name"], one["unit"], one["dtype"], one["settable"]) == ("level", "V", None, None)
        return one["value"], one["read_ns"]

    until(lambda: level(str(between))[0] == "2.5")
    until(lambda: level("now")[0] == "1.0")
    then = level(str(between))
    assert then[0] == "2.5"
    assert then[1] <= between
    assert level(shown(between)) == then
    assert level(shown(between).replace("Z", "%2B00:00")) == then
    assert live.ask("instruments/fake/parameters?at=1970-01-01", key="read").json["items"] == []
    assert live.ask("instruments/nobody/parameters?at=now", key="read").status == 404
    refused = live.ask("instruments/fake/parameters?at=yesterday", key="read")
    assert (refused.status, refused.json["detail"][:23]) == (422, "at: 'yesterday' is no t")


@pytest.mark.parametrize(
    "path",
    [
        "streams/wave/wave/data?{}",
        "streams/wave/wave/view?{}",
        "runs?{}",
        "notes?{}",
    ],
)
def test_times_are_written_in_one_way_everywhere(live: Live, path: str) -> None:
    now_ns = live.door.now_ns()
    for name in ("start", "stop"):
        for text in ("now", "-10m", "-1.5h", str(now_ns), shown(now_ns), "2026-01-31", "2026-01-31T12:00:00%2B02:00"):
            answer = live.ask(path.format(f"{name}={text}"), key="read")
            assert answer.status == 200, (name, text, answer.body)
        refused = live.ask(path.format(f"{name}=10m"), key="read")
        assert (refused.status, refused.json["detail"].partition(":")[0]) == (422, name)
