"""A real station through the client: the same rows as from its files, and every verb."""

from __future__ import annotations

import socket
from itertools import pairwise

import numpy as np
import pytest

import scidaq
from scidaq.block import Gap
from scidaq.client import RemoteStation
from scidaq.errors import (
    Leased,
    NotAllowed,
    ParameterError,
    QueryLimit,
    QueryRefused,
    RequestError,
    StationUnreachable,
    Unknown,
    UnknownInstrument,
    UnknownParameter,
    UnknownRun,
    UnknownStream,
)
from tests.web.live import Live, until


def files(live: Live) -> scidaq.query.Store:
    return scidaq.open(live.station.plan.data_dir)


# ---- connecting ------------------------------------------------------------------------------------------------------


def test_connecting_asks_who_is_there(live: Live, station: RemoteStation) -> None:
    assert (station.name, station.uuid) == ("lab", live.station.stats().uuid)
    assert station.status().ready
    assert station.health()["components"]


def test_the_key_may_come_from_the_environment(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIDAQ_KEY", live.keys["read"])
    with scidaq.connect(live.web.address) as station:
        assert station.name == "lab"


def test_without_a_key_it_says_what_to_do(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCIDAQ_KEY", raising=False)
    with pytest.raises(NotAllowed, match="or set SCIDAQ_KEY"):
        scidaq.connect(live.web.address)


def test_a_key_that_may_only_read_changes_nothing(live: Live) -> None:
    with (
        scidaq.connect(live.web.address, live.keys["read"]) as station,
        pytest.raises(NotAllowed, match="has not the scope 'operate'"),
    ):
        station.note("no")


def test_nobody_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scidaq.client.asking._TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(StationUnreachable, match=f"no station answers at http://127.0.0.1:{port}"):
        scidaq.connect(f"127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://a:b@host", "http://host?key=1", "http://host:99999"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(RequestError):
        scidaq.connect(url)


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_files(live: Live, station: RemoteStation) -> None:
    stream, here = station["wave/wave"], files(live)["wave/wave"]
    a, b = here.range_ns or (0, 0)
    ours, theirs = stream.read(a, b), here.read(a, b)
    assert len(ours) == len(theirs) > 400
    assert ours.units == theirs.units
    assert ours.channels == theirs.channels
    assert ours.to_arrow().equals(theirs.to_arrow().combine_chunks()) or ours.to_pandas().equals(theirs.to_pandas())
    for name, values in theirs.to_numpy().items():
        np.testing.assert_array_equal(ours.to_numpy()[name], values)


def test_raw_codes_stay_codes(live: Live, station: RemoteStation) -> None:
    rows = station["fake/fake"].read(last=3, raw=True)
    assert len(rows) == 3
    assert rows.to_arrow()["value"].type == "int64"


def test_the_last_rows_by_number_and_by_time(station: RemoteStation) -> None:
    stream = station["wave/wave"]
    assert len(stream.read(last=10)) == 10
    rows = stream.read(last="100ms")
    assert rows.blocks[-1].last_ns - rows.blocks[0].t0_ns <= 2_000_000_000
    assert len(stream.read("-1h", "now")) > 100


def test_a_reading_of_many_pages_is_whole(live: Live, station: RemoteStation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scidaq.web.routes.streams._DEFAULT_ROWS", dict.fromkeys(_kinds(), 64))
    a, b = files(live)["wave/wave"].range_ns or (0, 0)
    rows = station["wave/wave"].read(a, b)
    indices = [(block.first, block.end) for block in rows.blocks]
    assert len(indices) > 3
    assert all(end == first for (_, end), (first, _) in pairwise(indices))
    assert len(rows) == len(files(live)["wave/wave"].read(a, b))
    assert len(station["wave/wave"].read()) >= len(rows)
    assert sum(batch.num_rows for batch in station["wave/wave"].batches(a, b)) == len(rows)


def _kinds() -> list[str]:
    from scidaq.web.rows import FORMATS

    return list(FORMATS.values())


def test_reduced_rows_have_least_and_greatest(station: RemoteStation) -> None:
    name = station["wave/wave"].channels[0].name
    rows = station["wave/wave"].read(max_points=10)
    table = rows.to_arrow()
    assert 0 < len(rows) <= 11
    assert all(a <= b for a, b in zip(table[f"{name}.min"].to_pylist(), table[f"{name}.max"].to_pylist(), strict=True))


def test_gaps_come_along(live: Live, station: RemoteStation) -> None:
    fake = station.instruments["fake"]
    fake.stop()
    epochs = len(station["fake/fake"].facts().epochs)
    fake.start()
    until(
        lambda: len(station["fake/fake"].facts().epochs) > epochs and station["fake/fake"].facts().epochs[-1].rows > 1
    )
    until(lambda: "stopped" in [str(gap.reason) for gap in station["fake/fake"].read().gaps])
    a, b = files(live)["fake/fake"].range_ns or (0, 0)
    gaps = [item for item in station["fake/fake"].blocks(a, b) if isinstance(item, Gap)]
    assert gaps == list(files(live)["fake/fake"].read(a, b).gaps)


def test_streams_say_what_they_are(station: RemoteStation) -> None:
    assert {"wave/wave", "fake/fake"} <= set(station)
    assert "wave/wave" in station
    assert "no/such" not in station
    stream = station["wave/wave"]
    assert stream.rows > 0
    assert stream.range_ns is not None
    assert set(stream.units) == {channel.name for channel in stream.channels}
    assert repr(stream).startswith("<stream wave/wave: ")
    assert "<svg" in stream._repr_html_()
    assert "<svg" in stream.read(last=5)._repr_html_()
    assert "wave/wave" in repr(station)
    assert "<table>" in station._repr_html_()


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ({"last": 3, "start": "-1s"}, "last= goes with channels= only"),
        ({"last": "soon"}, "give a number of rows"),
        ({"channels": []}, "names no channel"),
        ({"channels": ["nope"]}, "nope"),
        ({"start": "soon"}, "is no time"),
        ({"start": 5, "stop": 3}, "before it starts"),
    ],
)
def test_what_cannot_be_read_is_said(station: RemoteStation, which: dict, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        station["wave/wave"].read(**which)


def test_what_is_not_there_is_said(station: RemoteStation) -> None:
    with pytest.raises(UnknownStream, match="no stream 'wave/waves'"):
        station["wave/waves"].read()
    with pytest.raises(RequestError, match="is no id of a stream"):
        station["wave"].read()
    with pytest.raises(UnknownInstrument, match="did you mean"):
        station.instruments["wav"].facts()
    with pytest.raises(UnknownRun):
        station.runs["nobody ran this"]


# ---- SQL -------------------------------------------------------------------------------------------------------------


def test_sql_gives_a_table(station: RemoteStation) -> None:
    table = station.sql('SELECT row, value FROM "fake/fake" WHERE epoch = 0 ORDER BY row LIMIT 3')
    assert table.to_pydict() == {"row": [0, 1, 2], "value": [0, 1, 2]}
    with pytest.raises(QueryRefused, match="COPY is not allowed"):
        station.sql("COPY (SELECT 1) TO 'x'")
    with pytest.raises(QueryLimit, match="more than 1000000 rows"):
        station.sql("SELECT * FROM range(1000001)")


# ---- instruments -----------------------------------------------------------------------------------------------------


def test_parameters_are_got_and_set(station: RemoteStation) -> None:
    parameters = station.instruments["fake"].parameters
    assert "level" in parameters
    parameters["level"] = 0.25
    assert parameters["level"].value == 0.25
    assert parameters.set("level", np.float64(0.5)).value == 0.5
    assert parameters["level"].limits is not None
    assert "level = 0.5" in repr(parameters)


def test_a_parameter_is_refused_in_words(station: RemoteStation) -> None:
    parameters = station.instruments["fake"].parameters
    with pytest.raises(ParameterError, match="is outside"):
        parameters["level"] = 1e9
    with pytest.raises(ParameterError, match="not in kg"):
        parameters.set("level", 0.1, unit="kg")
    with pytest.raises(UnknownParameter):
        parameters["nope"]


def test_an_instrument_is_started_and_stopped(station: RemoteStation) -> None:
    fake = station.instruments["fake"]
    assert fake.stop().wanted == "ready"
    assert fake.start().wanted == "acquiring"
    assert list(station.instruments) == ["fake", "wave"]
    assert "fake" in repr(fake)
    assert station.instruments["wave"].newest()["wave/wave"]
    assert isinstance(fake.failures(), list)


def test_a_lease_keeps_others_out(live: Live, station: RemoteStation) -> None:
    with scidaq.connect(live.web.address, live.keys["operate"]) as other:
        with station.instruments["fake"].lease(30) as fake:
            fake.parameters["level"] = 0.75
            with pytest.raises(Leased):
                other.instruments["fake"].parameters["level"] = 0.1
        other.instruments["fake"].parameters["level"] = 0.1


# ---- runs, notes, holds ----------------------------------------------------------------------------------------------


def test_a_run_is_a_context(live: Live, station: RemoteStation) -> None:
    with station.run("warm-up", sample="A7", load_ohm=50) as run:
        assert run.under_way
        until(lambda: len(run.read("wave/wave")) > 5)
        run.note("the fan was on")
    assert not run.under_way
    assert (run.facts.sample, run.facts.metadata) == ("A7", {"load_ohm": 50})
    assert len(run.read("wave/wave", max_points=3)) in (1, 2, 3)
    assert station.runs["warm-up"].id == run.id
    assert run.id in [one.id for one in station.runs.search("A7")]
    assert "the fan was on" in [note.text for note in station.notes() if note.run == run.id]
    assert run.edit(operator="kim", metadata={"load_ohm": None}).facts.operator == "kim"
    assert run.facts.metadata == {}
    run.delete()


def test_a_run_ends_with_an_exception_that_is_noted(station: RemoteStation) -> None:
    with pytest.raises(ZeroDivisionError), station.run("doomed") as run:
        _ = 1 / 0
    assert not station.runs[run.id].under_way
    assert [note.text for note in station.notes() if note.run == run.id] == [
        "ended by ZeroDivisionError: division by zero"
    ]


def test_runs_are_declared_and_held(station: RemoteStation) -> None:
    run = station.runs.declare("past", "-10s", "-5s", ["wave/wave"])
    hold = run.hold(station.status().now_ns + 10**12, why="to be looked at")
    assert hold.id in [one.id for one in station.holds()]
    station.release(hold.id)
    assert hold.id not in [one.id for one in station.holds()]
    with pytest.raises(RequestError, match="does not belong to run"):
        run.read("fake/fake")


def test_notes_come_and_go(station: RemoteStation) -> None:
    note = station.note("look here", "-5s", "-4s", streams=["wave/wave"])
    assert note.id in [one.id for one in station.notes("-1m", streams=["wave/wave"])]
    station.remove_note(note.id)
    assert note.id not in [one.id for one in station.notes("-1m")]
    with pytest.raises(Unknown):
        station.remove_note("0" * 32)


def test_settings_are_told(station: RemoteStation) -> None:
    station.instruments["fake"].parameters["level"] = 0.125
    assert station.settings()["fake"].settings["level"].value == "0.125"
    then_ns = station.status().now_ns
    station.instruments["fake"].parameters["level"] = 0.5
    until(lambda: station.settings("now")["fake"].settings["level"].value == "0.5")
    assert station.settings(then_ns)["fake"].settings["level"].value == "0.125"
