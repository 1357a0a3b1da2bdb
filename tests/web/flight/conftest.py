"""A station with its Flight door open on a free port, for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pyarrow import flight

from scidaq.web import FlightDoor, FlightOptions, SecurityOptions
from tests.web.live import Live, live_station


@dataclass
class Bulk:
    """The station, its door, and a client."""

    live: Live
    door: FlightDoor
    client: Any

    def key(self, scope: str = "read") -> Any:
        """Options of a call with the key of a scope."""
        return with_key(self.live.keys[scope])

    def rows(self, ticket: bytes, scope: str = "read") -> Any:
        """All rows of a ticket, as a table."""
        return self.client.do_get(flight.Ticket(ticket), self.key(scope)).read_all()


def with_key(key: str) -> Any:
    return flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {key}".encode())])


@pytest.fixture(scope="module")
def bulk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bulk]:
    data_dir = tmp_path_factory.mktemp("bulk") / "data"
    with live_station(data_dir) as live:
        live.until_rows("wave/wave", 500)
        live.until_rows("fake/fake", 5)
        options = FlightOptions(port=0, calls_per_second=0)
        with (
            FlightDoor(live.station, data_dir, options, SecurityOptions()) as door,
            flight.connect(door.address) as client,
        ):
            yield Bulk(live, door, client)
