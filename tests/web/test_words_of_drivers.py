"""What drivers and instruments say is shown to whoever may read, without the secrets that the configuration has."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from scidaq.clock import SystemClock
from scidaq.errors import InstrumentDisconnected, InstrumentTimeout, ParameterError, RequestError
from scidaq.instruments import Identity
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.testing import FakeInstrument
from scidaq.web import Control, KeyStore, SecurityOptions, ServerOptions, open_doors
from tests.web.live import QUICK, until

CANARY = "canary-7f3a-Zq"
ASKED = ("instruments", "instruments/fake", "instruments/fake/failures", "stats", "status", "runs")


def test_no_secret_in_what_drivers_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, clock = FakeInstrument(identity=Identity("Fake", f"for {CANARY}", CANARY, "1")), SystemClock()
    fake.fail["identity"] = [InstrumentDisconnected(f"login of bob with {CANARY} was refused")]
    plan = InstrumentPlan("fake", lambda: fake.driver(clock), "fake", supervision=QUICK)
    station = Station(StationPlan(tmp_path / "data", instruments=(plan,)), clock)
    station.hide([CANARY])
    with tempfile.TemporaryDirectory(prefix="scidaq-") as runtime, station:
        monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        keys = KeyStore(tmp_path / "data", clock)
        with open_doors(station, station.stats().uuid, keys, ServerOptions(port=0), SecurityOptions()) as web:
            control = Control(web.control)

            def seen() -> str:
                return json.dumps([control.call("GET", f"/api/v1/{path}") for path in ASKED])

            until(lambda: control.call("GET", "/api/v1/instruments/fake")["state"] == "acquiring")
            until(lambda: station.stats().recorder.streams and station.stats().recorder.streams[0].durable_rows > 3)
            fake.fail["get"] = [ParameterError(f"ask with {CANARY}")]
            with pytest.raises(RequestError, match="ask with") as refused:
                control.call("GET", "/api/v1/instruments/fake/parameters/level")
            fake.fail["read"] = [InstrumentTimeout(f"no answer to AUTH {CANARY}")]
            until(lambda: "no answer to AUTH" in seen())
            until(lambda: control.call("GET", "/api/v1/instruments/fake")["state"] == "acquiring")
            until(lambda: "no answer" in json.dumps(control.call("GET", "/api/v1/streams/fake/fake/data")))
            told = [seen(), str(refused.value), json.dumps(control.call("GET", "/api/v1/streams/fake/fake/data"))]
    assert "login of bob with (hidden) was refused" in told[0]
    assert not [text for text in told if CANARY in text]
    written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if CANARY.encode() in path.read_bytes()], "on the disk neither"
