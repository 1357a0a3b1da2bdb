"""An instrument that hangs: who asks is told in time, others are answered, and what was begun is noted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.web.live import live_station, until


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_request_that_waits_for_a_hanging_instrument_ends_in_time(tmp_path: Path, method: str) -> None:
    with live_station(tmp_path / "data", request_timeout_seconds=0.3, worker_threads=3) as live:
        until(lambda: live.door.instrument("fake").stats.state == "acquiring")
        live.fake.hang["get" if method == "GET" else "set"] = 1
        content = {"value": 1.0} if method == "PUT" else None
        began = time.monotonic()
        answer = live.ask("instruments/fake/parameters/level", method, content, Idempotency_Key="k")
        assert (answer.status, answer.kind) == (503, "timeout")
        assert time.monotonic() - began < 2.0
        assert live.ask("/health/live", key=None).status == 200
        assert live.ask("status").status == 200
        if method == "PUT":
            again = live.ask("instruments/fake/parameters/level", method, content, Idempotency_Key="k")
            assert again.kind == "idempotency-under-way"
        live.fake.release.set()
        if method == "PUT":
            until(lambda: live.ask("audit").json["items"])
            noted = live.ask("audit").json["items"][0]
            assert noted["act"] == "PUT /api/v1/instruments/fake/parameters/level"
            done = live.ask("instruments/fake/parameters/level", method, content, Idempotency_Key="k")
            assert (done.status, done.headers["idempotency-replayed"]) == (200, "true")
