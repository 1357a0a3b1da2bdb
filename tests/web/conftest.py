"""A web server on a free port of the loopback, with whatever options a test wants."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scidaq.station import Station, StationPlan
from scidaq.testing import FakeClock
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, WebServer, open_doors
from tests.web.live import Live, live_station

OpenDoors = Callable[..., WebServer]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where control sockets are put; their paths must be short."""
    with tempfile.TemporaryDirectory(prefix="scidaq-") as name:
        monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name) / "scidaq"


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """A station without instruments."""
    with Station(StationPlan(tmp_path_factory.mktemp("station") / "data")) as one:
        yield one


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys(tmp_path: Path, clock: FakeClock) -> KeyStore:
    return KeyStore(tmp_path, clock)


@pytest.fixture
def doors(runtime: Path, station: Station, keys: KeyStore) -> Iterator[OpenDoors]:
    """Opens a server; closed at the end of the test. Without keys unless `security` says otherwise."""
    opened: list[WebServer] = []

    def make(security: SecurityOptions | None = None, app: Any = None, **server: Any) -> WebServer:
        options = replace(ServerOptions(port=0), **server)
        safety = security or SecurityOptions(keys=False)
        if app is not None:
            web = WebServer(app, str(uuid.uuid4()), options, safety)
        else:
            web = open_doors(station, str(uuid.uuid4()), keys, options, safety)
        opened.append(web.__enter__())
        return web

    yield make
    for web in opened:
        web.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A station with two instruments, and a key for each scope; its tests leave it as they found it."""
    with live_station(tmp_path_factory.mktemp("live") / "data") as one:
        one.until_rows("wave/wave", 500)
        one.until_rows("fake/fake", 5)
        yield one
