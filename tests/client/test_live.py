"""What comes as it comes: frames, what was left out, events; again after a lost connection, without a hole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scidaq
from scidaq.client import Frame, RemoteStation, Skipped
from scidaq.client.live import Watching, decoded, frame_of
from scidaq.errors import NotAllowed, RequestError, StationError, StationUnreachable, UnknownStream
from scidaq.web import SecurityOptions, ServerOptions, WebServer, open_doors
from scidaq.web.frames import encode
from tests.web.live import Live

DTYPES = st.sampled_from(["f4", "f8", "i4", "u1", "u4"])


@given(st.dictionaries(st.text(min_size=1), st.tuples(DTYPES, st.lists(st.integers(0, 4), max_size=3))))
def test_frames_are_those_of_the_station(kinds: dict[str, tuple[str, list[int]]]) -> None:
    arrays = {name: np.ones(shape, f"<{kind}") for name, (kind, shape) in kinds.items()}
    header, found = decoded(encode({"kind": "view", "µ": "Ω"}, arrays))
    assert header == {"kind": "view", "µ": "Ω"}
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


@pytest.mark.parametrize("message", [b"", b"\x05\0\0\0{}", b"\xff" * 40, b"\x02\0\0\0{}\0\0"])
def test_rubbish_is_refused(message: bytes) -> None:
    with pytest.raises(StationError, match="cannot be understood"):
        decoded(message)


def test_frames_come_as_rows_do(station: RemoteStation) -> None:
    frames = station["wave/wave"].live(step="10ms", fps=30)
    seen = frames_of(frames, 10)
    frames.close()
    assert all((one.least[name] <= one.greatest[name]).all() for one in seen for name in one.units)
    assert all(set(one.units.values()) == set(station["wave/wave"].units.values()) for one in seen)
    first = next(iter(seen[0].units))
    assert seen[0].to_arrow().column_names[:3] == ["time", "rows", f"{first}.min"]


def test_since_a_time_there_is_first_what_was(station: RemoteStation) -> None:
    start_ns = station["wave/wave"].range_ns[0]  # type: ignore[index]
    for frame in station.live("wave/wave", since=start_ns):
        assert isinstance(frame, Frame)
        assert frame.history
        assert frame.time_ns[0] == start_ns
        break


def test_events_come_as_they_happen(station: RemoteStation) -> None:
    run = station.runs.declare("seen", "-5s", "-4s")
    events = station.events(["run"], recent=50)
    assert any(run.id in str(event.facts) for event, _ in zip(events, range(50), strict=False))


def test_what_is_not_there_is_said(live: Live, station: RemoteStation) -> None:
    with pytest.raises(UnknownStream):
        next(station["wave/none"].live())
    with pytest.raises(RequestError, match="give a length"):
        next(station["wave/wave"].live(step="soon"))
    with (
        scidaq.connect(live.web.address, live.keys["read"]) as other,
        pytest.raises(RequestError, match="scope"),
    ):
        next(other.events(["log"]))


def test_a_refused_key_is_said_and_an_absent_station_too(live: Live) -> None:
    with scidaq.connect(live.web.address, live.keys["read"]) as station:
        station._key = "wrong"
        with pytest.raises(NotAllowed):
            next(station["wave/wave"].live())
        station.address = "http://127.0.0.1:1"
        with pytest.raises(StationUnreachable, match="not to be had"):
            next(station["wave/wave"].live(patience_s=0))


def test_what_was_left_out_is_told() -> None:
    watching = Watching({"stream": "a/b"}, "http://x")
    said = b'{"op":"skipped","id":1,"frames":12,"from_ns":"5","to_ns":"9"}'
    assert list(watching.take(said.decode())) == [Skipped("a/b", 12, 5, 9)]


def test_a_new_connection_asks_from_the_last_bucket_on() -> None:
    watching = Watching({"stream": "a/b"}, "http://x")
    assert "since_ns" not in watching.hello()
    header: dict[str, Any] = {"stream": "a/b", "channels": [], "base_ns": "1000", "step_ns": "10", "gaps": []}
    times = {"t0": np.array([0.0, 7.0]), "t1": np.array([3.0, 8.0]), "n": np.array([1, 2], "u4")}
    (frame,) = watching.take(encode(header, times))
    assert isinstance(frame, Frame)
    assert frame.time_ns.tolist() == [1000, 1007]
    assert '"since_ns":"1007"' in watching.hello()


def test_buckets_of_one_row_have_its_values() -> None:
    header = {"stream": "a/b", "channels": [{"name": "x", "unit": "V"}], "base_ns": "5", "step_ns": None, "raw": True}
    frame = frame_of(header, {"t0": np.array([0.0, 1.0]), "last:0": np.array([2.0, 3.0])})
    assert (frame.rows.tolist(), frame.last_ns.tolist()) == ([1, 1], [5, 6])
    assert frame.least["x"].tolist() == frame.greatest["x"].tolist() == [2.0, 3.0]


@pytest.mark.slow
def test_a_station_that_comes_back_leaves_no_hole(live: Live) -> None:
    def doors(port: int) -> WebServer:
        options = ServerOptions(port=port, requests_per_second=0)
        return open_doors(live.station, live.station.stats().uuid, live.store, options, SecurityOptions())

    with doors(0) as web:
        station = scidaq.connect(web.address, live.keys["read"])
        frames = station["wave/wave"].live(step="10ms")
        before = frames_of(frames, 1)
    with doors(int(web.address.rpartition(":")[2])):
        while not (one := frames_of(frames, 1)[0]).history:
            before.append(one)  # which had come already
        after = [one, *frames_of(frames, 3)]
        frames.close()
        station.close()
    assert after[0].time_ns[0] <= before[-1].time_ns[-1]
    times = np.unique(np.concatenate([one.time_ns for one in (*before, *after)]))
    rows = {t: n for one in (*before, *after) for t, n in zip(one.time_ns.tolist(), one.rows.tolist(), strict=True)}
    assert sum(rows[t] for t in times.tolist()[1:-1]) > 0
    assert not any(gap["rows"] for one in after for gap in one.gaps)


def frames_of(frames: Iterator[Frame | Skipped], count: int) -> list[Frame]:
    return list(islice((one for one in frames if isinstance(one, Frame)), count))


def test_an_event_loop_sees_the_same(live: Live) -> None:
    async def look() -> None:
        async with scidaq.connect_async(live.web.address, live.keys["operate"]) as station:
            async with aclosing(station["wave/wave"].live()) as frames:
                async for frame in frames:
                    assert isinstance(frame, Frame)
                    break
            rows = await station["wave/wave"].read(last=10)
            assert len(rows) == 10
            total = 0
            async for item in station["fake/fake"].blocks(last=5):
                total += item.rows or 0
            assert total >= 5
            async with station.run("looped", sample="B2") as run:
                await run.note("from a loop")
            assert run.facts.stop_ns is not None
            assert (await station.find_run(run.id)).name == "looped"
            with pytest.raises(ZeroDivisionError):
                async with station.run("broken") as broken:
                    _ = 1 / 0
            assert (await station.find_run(broken.id)).facts.stop_ns is not None
            fake = station.instrument("fake")
            assert (await fake.set("level", 0.5)).value == (await fake.get("level")).value == 0.5
            with pytest.raises(ValueError, match="is outside"):
                await fake.set("level", 1e9)
            async with fake.lease(30) as mine:
                await mine.set("level", 0.25)
            assert "wave/wave" in await station.streams()
            assert "fake" in await station.instruments()
            assert (await station.sql("SELECT 1 AS a")).to_pydict() == {"a": [1]}
            with pytest.raises(UnknownStream):
                await station["no/such"].read()

    asyncio.run(look())


def test_an_awaited_station_is_there(live: Live) -> None:
    async def look() -> str:
        station = await scidaq.connect_async(live.web.address, live.keys["read"])
        name = (await station.status()).name
        await station.close()
        return name

    assert asyncio.run(look()) == "lab"
