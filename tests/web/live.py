"""A station that records two instruments, with its doors open, for tests of the interface."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from scidaq.clock import SystemClock
from scidaq.config import Changes, Config, Edit, Override, Reloader, load
from scidaq.instruments import SupervisionOptions, WaveformDriver, WaveformOptions
from scidaq.station import InstrumentPlan, Serving, Station, StationPlan
from scidaq.testing import FakeInstrument
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, WebServer, open_doors
from tests.web.talk import Answer, ask

QUICK = SupervisionOptions(read_timeout_s=0.01, reconnect_initial_s=0.02, reconnect_max_s=0.1)
SCOPES = ("read", "operate", "admin", "metrics")


@dataclass
class FakeConfig:
    """A configuration that can be read again. Instruments are judged and written; the station hears nothing of it."""

    data_dir: Path
    reloads: int = 0

    def load(self, edit: Edit | None = None) -> Config:
        return load([], [Override("--data-dir", ("station", "data_dir"), str(self.data_dir))], {}, edit=edit)

    def apply(self, changes: Any) -> Mapping[str, str]:
        return {}

    @cached_property
    def real(self) -> Reloader:
        return Reloader(self.load(), self.load, self, SystemClock())

    def effective(self) -> dict[str, Any]:
        return {"values": {"station": {"name": "lab"}}, "origins": {"station.name": "lab.toml:2"}}

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}

    def reload(self) -> FakeConfig:
        self.reloads += 1
        return self

    def put_instrument(self, instrument: str, values: Mapping[str, Any]) -> Changes:
        return self.real.put_instrument(instrument, values)

    def remove_instrument(self, instrument: str) -> Changes:
        return self.real.remove_instrument(instrument)

    def as_json(self) -> dict[str, Any]:
        return {"added": [], "removed": [], "changed": [], "live": ["logging.level"], "restart": [], "failed": {}}


@dataclass
class Live:
    """It, and the ways to it."""

    station: Station
    web: WebServer
    keys: Mapping[str, str]
    """A key for each scope."""
    store: KeyStore
    fake: Any
    config: Any = None

    def ask(
        self, path: str, method: str = "GET", content: Any = None, key: str | None = "admin", **headers: str
    ) -> Answer:
        """With the key of a scope, or None without."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            given["Authorization"] = f"Bearer {self.keys[key]}"
        body = None if content is None else json.dumps(content).encode()
        if body is not None:
            given.setdefault("Content-Type", "application/json")
        path = path if path.startswith(("/health", "/metrics", "/docs", "/api")) else f"/api/v1/{path}"
        return ask(self.web.address, path, method, body, given)

    @property
    def door(self) -> Serving:
        return Serving(self.station)

    def until_rows(self, stream: str, rows: int) -> None:
        """Wait until so many are durable."""
        until(lambda: any(s.stream == stream and s.durable_rows >= rows for s in self.station.stats().recorder.streams))


def until(what: Any, timeout_s: float = 15.0) -> None:
    clock, never = SystemClock(), threading.Event()
    deadline_s = clock.monotonic_s() + timeout_s
    while not what():
        assert clock.monotonic_s() < deadline_s, "not in time"
        never.wait(0.01)


@contextmanager
def live_station(data_dir: Path, **server: Any) -> Iterator[Live]:
    clock, fake = SystemClock(), FakeInstrument()
    plan = StationPlan(
        data_dir,
        name="lab",
        instruments=(
            InstrumentPlan("fake", lambda: fake.driver(clock), "fake", supervision=QUICK),
            InstrumentPlan(
                "wave", lambda: WaveformDriver("wave", WaveformOptions(), clock), "waveform", supervision=QUICK
            ),
        ),
    )
    with tempfile.TemporaryDirectory(prefix="scidaq-") as runtime, pytest.MonkeyPatch.context() as patch:
        patch.delenv("RUNTIME_DIRECTORY", raising=False)
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        with Station(plan, clock) as station:
            store = KeyStore(data_dir, clock)
            keys = {scope: store.create(f"{scope} key", [scope])[1] for scope in SCOPES}
            options = ServerOptions(port=0, requests_per_second=0, **server)
            config = FakeConfig(data_dir)
            with open_doors(station, station.stats().uuid, store, options, SecurityOptions(), config=config) as web:
                yield Live(station, web, keys, store, fake, config)
