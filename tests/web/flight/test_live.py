"""Rows as they come: without a hole behind those of before, at nobody's cost, ended when the client goes."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import flight

import scidaq
from tests.web.flight.conftest import Bulk
from tests.web.flight.pushes import T0, rig
from tests.web.flight.test_reading import problem
from tests.web.live import until


def follow(bulk: Bulk, rows: int, **more: Any) -> tuple[list[dict[str, Any]], int]:
    """What is said of batches until there are so many rows, and how many there were."""
    ticket = json.dumps({"stream": "wave/wave", "live": True} | more).encode()
    said, got = [], 0
    for chunk in bulk.client.do_get(flight.Ticket(ticket), bulk.key()):
        said.append(json.loads(chunk.app_metadata.to_pybytes()) | {"rows": chunk.data.num_rows})
        got += chunk.data.num_rows
        if got >= rows:
            break
    return said, got


class TestLive:
    def test_rows_come_one_behind_the_other(self, bulk: Bulk) -> None:
        before = bulk.rows(b"wave/wave").num_rows
        said, _ = follow(bulk, 300)
        assert said[0]["first"] >= before
        for one, other in pairwise(said):
            assert other["first"] == one["first"] + one["rows"]
            assert "gaps" not in other

    def test_history_and_live_meet_without_a_hole(self, bulk: Bulk) -> None:
        total = bulk.rows(b"wave/wave").num_rows
        said, got = follow(bulk, total + 500, start=0)
        assert said[0]["first"] == 0
        for one, other in pairwise(said):
            assert other["first"] == one["first"] + one["rows"]
        assert got >= total + 500

    def test_some_channels_calibrated_or_raw(self, bulk: Bulk) -> None:
        for raw, kind in ((False, "double"), (True, "int16")):
            ticket = json.dumps({"stream": "wave/wave", "live": True, "raw": raw, "channels": ["adc"]}).encode()
            reader = bulk.client.do_get(flight.Ticket(ticket), bulk.key())
            assert str(reader.schema.field("adc").type) == f"fixed_size_list<item: {kind}>[4]"
            assert reader.read_chunk().data.num_rows
            reader.cancel()

    @pytest.mark.parametrize(
        ("ticket", "kind"),
        [
            ({"stream": "nope/nope"}, "unknown-stream"),
            ({"stream": "wave/wave", "channels": ["nope"]}, "request-refused"),
            ({"stream": "wave/wave", "last": 3}, "request-refused"),
        ],
    )
    def test_what_cannot_be_followed_is_refused(self, bulk: Bulk, ticket: dict[str, Any], kind: str) -> None:
        with pytest.raises(flight.FlightError) as caught:
            bulk.rows(json.dumps(ticket | {"live": True}).encode())
        assert problem(caught.value) == kind

    def test_who_goes_leaves_nothing_behind(self, bulk: Bulk) -> None:
        ring = bulk.live.station._rings["fake/settings"]  # of which nothing comes any more
        readers = [
            bulk.client.do_get(flight.Ticket(b'{"stream": "fake/settings", "live": true}'), bulk.key())
            for _ in range(3)
        ]
        until(lambda: len(ring._budgets) == 3)
        for reader in readers:
            reader.cancel()
        until(lambda: not ring._budgets)


def test_who_is_slow_is_told_what_it_missed_and_costs_nobody_anything(tmp_path: Path) -> None:
    adc = np.zeros((50_000, 4), np.int16)  # 400 kB
    with rig(tmp_path / "data", live_buffer_bytes=1 << 20) as one, scidaq.push(one.door.address, "rig/wave") as out:
        out.add({"adc": adc[:1]}, T0)
        out.flush()
        reader = flight.connect(one.door.address).do_get(flight.Ticket(b'{"stream": "rig/wave", "live": true}'))
        until(lambda: one.station._rings["rig/wave"]._budgets)
        for _ in range(100):  # far more than all buffers between
            out.add({"adc": adc})
        rows = out.flush()
        assert one.ledger("rig/wave").gap_rows == 0
        seen, missed, end = 0, 0, 1
        while end < rows:
            chunk = reader.read_chunk()
            said = json.loads(chunk.app_metadata.to_pybytes())
            for gap in said.get("gaps", ()):
                assert (gap["reason"], gap["first"]) == ("late", end)
                missed, end = missed + gap["rows"], gap["end"]
            if chunk.data.num_rows:
                assert said["first"] == end
                seen, end = seen + chunk.data.num_rows, end + chunk.data.num_rows
        reader.cancel()
        assert missed
        assert seen + missed == rows - 1
        until(lambda: one.door.stats().skipped_rows == missed)


def test_a_part_with_other_channels_is_an_endpoint_of_its_own(tmp_path: Path) -> None:
    from scidaq.clock import SystemClock
    from scidaq.instruments import PushChannel, PushDriver, PushOptions, PushStream
    from scidaq.station import InstrumentPlan, Station, StationPlan
    from scidaq.web import FlightDoor, FlightOptions, SecurityOptions

    clock = SystemClock()
    for names in (("a",), ("a", "b")):
        options = PushOptions((PushStream("temps", tuple(map(PushChannel, names)), float(Fraction(10))),))
        plan = StationPlan(
            tmp_path / "data",
            instruments=(InstrumentPlan("rig", lambda o=options: PushDriver("rig", o, clock), "push"),),  # type: ignore[misc]
        )
        given = FlightOptions(port=0)
        with (
            Station(plan, clock) as station,
            FlightDoor(station, tmp_path / "data", given, SecurityOptions(keys=False)) as door,
        ):
            with scidaq.push(door.address, "rig/temps", counter="same") as out:
                out.add({name: [1.0, 2.0] for name in names}, T0 + out.next_row * 100_000_000)
            client = flight.connect(door.address)
            info = client.get_flight_info(flight.FlightDescriptor.for_path("rig", "temps"))
            if len(names) == 2:
                tables = [client.do_get(one.ticket).read_all() for one in info.endpoints]
                assert [t.column_names for t in tables] == [["time", "a"], ["time", "a", "b"]]
                with pytest.raises(flight.FlightError) as caught:
                    client.do_get(flight.Ticket(b"rig/temps")).read_all()
                assert "get_flight_info" in str(caught.value)
                assert client.do_get(flight.Ticket(b'{"stream": "rig/temps", "last": 3}')).read_all().num_rows == 2
                chosen = flight.Ticket(b'{"stream": "rig/temps", "channels": ["a"]}')
                assert client.do_get(chosen).read_all().num_rows == 4
