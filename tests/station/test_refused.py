"""A disk that refuses something of a station: what is told in words, what goes on, and what may be tried again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from scidaq.catalog import Fact, NewRun, read_facts
from scidaq.errors import RequestError, StationError, WriteFailed
from scidaq.station import Station
from scidaq.store import verify
from scidaq.testing.crashing import WatchedFiles
from scidaq.testing.faults import FaultyFiles
from tests.station.plans import SystemClock, plan, wait_for, waveform


class Refusing(WatchedFiles):
    """Refuses what it is told to."""

    def __init__(self) -> None:
        self.what: Callable[[str, str], bool] = lambda verb, kind: False
        super().__init__(self._look)

    def _look(self, verb: str, kind: str, n: int, path: Path) -> None:
        if self.what(verb, kind):
            raise OSError(errno.EIO, "made up", str(path))

    def facts(self, verb: str = "sync") -> None:
        """Refuse facts from now on."""
        self.what = lambda v, kind: (v, kind) == (verb, "facts")

    def nothing(self) -> None:
        self.what = lambda verb, kind: False


def kinds(data_dir: Path) -> list[str]:
    found = list(read_facts(data_dir / "facts"))
    assert all(isinstance(f, Fact) for f in found), found
    return [f.kind for f in found if isinstance(f, Fact)]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 9, 13])
def test_a_start_that_is_refused_says_where_and_what_to_do_and_may_be_tried_again(tmp_path: Path, k: int) -> None:
    data_dir = tmp_path / "d"
    with (
        pytest.raises(StationError, match=r"/d cannot be used .*Input/output error.*; .* start again"),
        Station(plan(data_dir), files=FaultyFiles(f"eio@{k}")),
    ):
        pass
    with Station(plan(data_dir)) as station:
        assert station.recovered.quarantined == []


@pytest.mark.parametrize("verb", ["append", "sync"])
def test_what_an_instrument_said_of_itself_cannot_be_noted_and_it_is_recorded_all_the_same(
    tmp_path: Path, verb: str
) -> None:
    clock, files, data_dir = SystemClock(), Refusing(), tmp_path / "d"
    with Station(plan(data_dir, waveform("w", clock)), clock, files):
        pass
    before = kinds(data_dir)
    station = Station(plan(data_dir, waveform("w", clock)), clock, files)
    began: list[str] = []

    def what(v: str, kind: str) -> bool:
        if (v, kind) == ("append", "facts"):
            began.append(v)
        return (v, kind) == (verb, "facts") and len(began) >= 2

    files.what = what  # the first is that the station began
    with station:
        wait_for(lambda: any(s.durable_rows > 100 for s in station.stats().recorder.streams))
        assert station.stats().instruments[0].errors == 0
        files.nothing()
    assert kinds(data_dir)[len(before) :] == ["station.started", "station.stopped"]
    assert verify(data_dir).ok


@pytest.mark.parametrize("verb", ["append", "sync"])
def test_a_run_whose_beginning_or_end_cannot_be_noted_may_be_tried_again(tmp_path: Path, verb: str) -> None:
    files, data_dir = Refusing(), tmp_path / "d"
    with Station(plan(data_dir), files=files) as station:
        files.facts(verb)
        with pytest.raises(WriteFailed, match="not confirmed"):
            station.runs.start(NewRun("one"))
        files.nothing()
        run = station.runs.start(NewRun("one"))
        files.facts(verb)
        for _ in range(2):
            with pytest.raises(WriteFailed, match="not confirmed"):
                station.runs.stop(run.id)
        files.nothing()
        station.runs.stop(run.id)
        with pytest.raises(RequestError, match="no run"):
            station.runs.stop(run.id)
    assert kinds(data_dir) == ["station.started", "run.started", "run.stopped", "station.stopped"]


def test_a_station_whose_end_cannot_be_noted_ends_all_the_same(tmp_path: Path) -> None:
    files, data_dir = Refusing(), tmp_path / "d"
    with Station(plan(data_dir), files=files):
        files.facts()
    with Station(plan(data_dir)) as station:
        assert station.recovered.quarantined == []


def test_a_snapshot_does_not_need_the_disk(tmp_path: Path) -> None:
    files = Refusing()
    with Station(plan(tmp_path / "d"), files=files) as station:
        files.what = lambda verb, kind: verb == "free_space"
        assert station.stats().free_bytes > 0
