"""A station with two instruments, and the client's way to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import scidaq
from scidaq.client import RemoteStation
from tests.web.live import Live, live_station


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_station(tmp_path_factory.mktemp("live") / "data") as one:
        one.until_rows("wave/wave", 500)
        one.until_rows("fake/fake", 5)
        yield one


@pytest.fixture
def station(live: Live) -> Iterator[RemoteStation]:
    with scidaq.connect(live.web.address, live.keys["operate"]) as one:
        yield one
