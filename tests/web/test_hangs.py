"""An instrument that hangs: who asks is told in time, others are answered, and what was begun is noted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.web.live import Live, live_station, until
from tests.web.talk import Answer


def repeated(live: Live) -> Answer:
    """The change once more, as a client would that was told nothing."""
    return live.ask("instruments/fake/parameters/level", "PUT", {"value": 1.0}, Idempotency_Key="k")


def acts(live: Live) -> list[str]:
    """What the audit has, or nothing while it does not answer in time."""
    answer = live.ask("audit")
    return [noted["act"] for noted in answer.json["items"]] if answer.status == 200 else []


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_request_that_waits_for_a_hanging_instrument_ends_in_time(tmp_path: Path, method: str) -> None:
    with live_station(tmp_path / "data", request_timeout_seconds=0.3, worker_threads=3) as live:
        until(lambda: live.door.instrument("fake").stats.state == "acquiring")
        live.fake.hang["get" if method == "GET" else "set"] = 1
        content = {"value": 1.0} if method == "PUT" else None
        began = time.monotonic()
        answer = live.ask("instruments/fake/parameters/level", method, content, Idempotency_Key="k")
        assert (answer.status, answer.kind) == (503, "timeout")
        assert time.monotonic() - began < 10.0
        # The limit of 0.3 s is one for others too: on a busy machine one of them may be told to come again.
        until(lambda: live.ask("/health/live", key=None).status == 200)
        until(lambda: live.ask("status").status == 200)
        if method == "PUT":
            until(lambda: repeated(live).kind == "idempotency-under-way")
        live.fake.release.set()
        if method == "PUT":
            until(lambda: "idempotency-replayed" in repeated(live).headers)
            assert repeated(live).status == 200
            until(lambda: "PUT /api/v1/instruments/fake/parameters/level" in acts(live))
