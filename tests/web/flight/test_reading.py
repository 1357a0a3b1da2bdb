"""Ranges over Arrow Flight are what the store gives, cell by cell."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pyarrow import flight

from scidaq.query import Reader
from tests.web.flight.conftest import Bulk, with_key


def problem(error: Any) -> str:
    """Which problem a Flight error is."""
    return str(json.loads(error.extra_info)["type"]).removeprefix("urn:scidaq:")


def refused(bulk: Bulk, ticket: bytes) -> str:
    with pytest.raises(flight.FlightError) as caught:
        bulk.rows(ticket)
    return problem(caught.value)


class TestWhatThereIs:
    def test_every_stream_is_a_flight(self, bulk: Bulk) -> None:
        found = {json.loads(one.descriptor.command)["stream"]: one for one in bulk.client.list_flights(b"", bulk.key())}
        assert set(found) == {"fake/fake", "fake/settings", "wave/wave"}
        said = json.loads(found["wave/wave"].app_metadata)
        assert said["rows"] == found["wave/wave"].total_records >= 500

    def test_the_criteria_choose_by_id(self, bulk: Bulk) -> None:
        (one,) = bulk.client.list_flights(b"wave", bulk.key())
        assert one.schema.metadata[b"stream"] == b"wave/wave"
        assert one.schema.metadata[b"rate"] == b"1000"

    def test_the_schema_says_units_and_labels(self, bulk: Bulk) -> None:
        schema = bulk.client.get_schema(flight.FlightDescriptor.for_path("wave", "wave"), bulk.key()).schema
        assert schema.field("adc").metadata[b"unit"] == b"V"
        assert json.loads(schema.field("adc").metadata[b"labels"]) == ["ch0", "ch1", "ch2", "ch3"]

    def test_actions_answer_in_json(self, bulk: Bulk) -> None:
        assert {one.type for one in bulk.client.list_actions(bulk.key())} == {"version", "streams", "takes"}
        (answer,) = bulk.client.do_action(flight.Action("streams", b""), bulk.key())
        assert "wave/wave" in {one["id"] for one in json.loads(answer.body.to_pybytes())}
        with pytest.raises(flight.FlightError) as caught:
            list(bulk.client.do_action(flight.Action("shutdown", b""), bulk.key()))
        assert problem(caught.value) == "request-refused"


class TestRows:
    def test_a_range_is_what_the_store_gives(self, bulk: Bulk) -> None:
        info = bulk.client.get_flight_info(flight.FlightDescriptor.for_path("wave", "wave"), bulk.key())
        (endpoint,) = info.endpoints
        table = bulk.client.do_get(endpoint.ticket, bulk.key()).read_all()
        blocks: Any = list(Reader(bulk.live.station.plan.data_dir).blocks("wave/wave"))
        want = np.concatenate([b.physical("adc") for b in blocks])[: table.num_rows]
        got = table["adc"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
        assert np.array_equal(got, want)
        times = np.concatenate([b.time_ns() for b in blocks])[: table.num_rows]
        assert np.array_equal(table["time"].cast("int64").to_numpy(), times)

    def test_each_batch_says_where_it_belongs(self, bulk: Bulk) -> None:
        rows = 0
        for chunk in bulk.client.do_get(flight.Ticket(b"wave/wave"), bulk.key()):
            assert json.loads(chunk.app_metadata.to_pybytes()) == {"epoch": 0, "first": rows}
            rows += chunk.data.num_rows
        assert rows >= 500

    def test_rows_by_number(self, bulk: Bulk) -> None:
        table = bulk.rows(b'{"stream": "wave/wave", "epoch": 0, "first": 10, "end": 15, "raw": true}')
        assert table.num_rows == 5
        assert str(table.schema.field("adc").type) == "fixed_size_list<item: int16>[4]"

    def test_rows_by_time(self, bulk: Bulk) -> None:
        times = bulk.rows(b"wave/wave")["time"].cast("int64").to_numpy()
        ticket = json.dumps({"stream": "wave/wave", "start": str(times[100]), "stop": int(times[200])})
        assert np.array_equal(bulk.rows(ticket.encode())["time"].cast("int64").to_numpy(), times[100:200])

    def test_the_newest(self, bulk: Bulk) -> None:
        assert bulk.rows(b'{"stream": "fake/fake", "last": 3, "channels": ["value"]}').num_rows == 3


@pytest.mark.parametrize(
    ("ticket", "kind"),
    [
        (b"", "request-refused"),
        (b"{", "request-refused"),
        (b"[1]", "request-refused"),
        (b"\xff\xfe", "unknown-stream"),
        (b"nope/nope", "unknown-stream"),
        (b"../etc", "unknown-stream"),
        (b'{"stream": 3}', "request-refused"),
        (b'{"stream": "wave/wave", "secret": 1}', "request-refused"),
        (b'{"stream": "wave/wave", "channels": ["x"]}', "request-refused"),
        (b'{"stream": "wave/wave", "channels": []}', "request-refused"),
        (b'{"stream": "wave/wave", "start": "yesterday"}', "request-refused"),
        (b'{"stream": "wave/wave", "start": true}', "request-refused"),
        (b'{"stream": "wave/wave", "start": 20, "stop": 10}', "request-refused"),
        (b'{"stream": "wave/wave", "first": 3}', "request-refused"),
        (b'{"stream": "wave/wave", "epoch": -1}', "request-refused"),
        (b'{"stream": "wave/wave", "epochs": [3, 1]}', "request-refused"),
        (b'{"stream": "wave/wave", "last": 0}', "request-refused"),
        (b'{"stream": "wave/wave", "last": 1e9}', "request-refused"),
        (b'{"stream": "wave/wave", "live": true, "stop": 3}', "request-refused"),
        (b'{"stream": "' + b"a" * 100_000 + b'"}', "request-refused"),
    ],
)
def test_a_ticket_that_cannot_be_is_refused_in_words(bulk: Bulk, ticket: bytes, kind: str) -> None:
    assert refused(bulk, ticket) == kind


class TestKeys:
    def test_without_a_key_nothing_is_told(self, bulk: Bulk) -> None:
        with pytest.raises(flight.FlightUnauthenticatedError) as caught:
            list(bulk.client.list_flights())
        assert problem(caught.value) == "no-key"

    def test_a_key_without_the_scope_is_refused(self, bulk: Bulk) -> None:
        with pytest.raises(flight.FlightUnauthorizedError) as caught:
            bulk.rows(b"wave/wave", "metrics")
        assert problem(caught.value) == "scope-missing"

    def test_a_revoked_key_is_refused(self, bulk: Bulk) -> None:
        _, given = bulk.live.store.create("for a while", ["read"])
        assert list(bulk.client.list_flights(b"", with_key(given)))
        bulk.live.store.revoke("for a while")
        with pytest.raises(flight.FlightUnauthenticatedError) as caught:
            list(bulk.client.list_flights(b"", with_key(given)))
        assert problem(caught.value) == "wrong-key"
