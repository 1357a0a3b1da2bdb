"""The verbs on runs, from the command line to a station that runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scidaq.catalog import NewHold, NewNote, NewRun, NoteChanges, RunActs, RunChanges
from scidaq.cli.control import acts
from scidaq.cli.runs import run_acts
from scidaq.errors import RequestError, StationBusy
from scidaq.station import Station, StationPlan
from scidaq.testing import FakeClock
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors

FAR_NS = 1 << 62


@pytest.fixture
def near(tmp_path: Path, runtime: Path) -> Iterator[Station]:
    data_dir = tmp_path / "data"
    with Station(StationPlan(data_dir)) as station:
        keys = KeyStore(data_dir, FakeClock())
        with open_doors(station, station.stats().uuid, keys, ServerOptions(enabled=False), SecurityOptions()):
            yield station


@pytest.fixture
def far(near: Station) -> RunActs:
    found = acts(near.plan.data_dir)
    assert found is not None
    return found


def test_runs_live_and_past(near: Station, far: RunActs) -> None:
    run = far.start(NewRun("night | 2", streams=("dmm/*",), metadata={"t": 4.2, "ok": True}))
    assert run == near.runs.book.run(run.id)
    assert run.under_way
    edited = far.edit(run.name, RunChanges(operator="kim", metadata={"t": None, "n": 3}))
    assert (edited.operator, dict(edited.metadata)) == ("kim", {"ok": True, "n": 3})
    stopped = far.stop(run.id)
    assert not stopped.under_way
    past = far.add(NewRun("last night", run.start_ns, run.start_ns + 1))
    assert past.declared
    assert far.delete(past.id).deleted
    with pytest.raises(RequestError, match="no run 'nigth'"):
        far.stop("nigth")
    with pytest.raises(RequestError, match="start_ns"):
        far.add(NewRun("x"))


def test_holds_and_notes(near: Station, far: RunActs) -> None:
    hold = far.hold(NewHold(FAR_NS, stream="dmm/readings", why="paper"))
    assert (hold.by, hold.why) == ("console", "paper")
    assert far.release(hold.id).released_ns is not None
    note = far.note(NewNote("hum\nhum", by="kim"))
    assert note == near.runs.book.note(note.id)
    assert far.edit_note(note.id, NoteChanges(text="buzz")).text == "buzz"
    assert far.remove_note(note.id).removed
    audited = [f.data for f in near._facts.since(0) if f.kind == "audit"]  # type: ignore[union-attr]
    assert [d["via"] for d in audited] == ["control"] * 5


def test_the_command_line_finds_it_where_the_directory_is_taken(near: Station) -> None:
    with run_acts(near.plan.data_dir) as found:
        assert found.start(NewRun("a")).under_way


def test_a_station_without_a_door_is_told(tmp_path: Path, runtime: Path) -> None:
    with Station(StationPlan(tmp_path / "data")):
        assert acts(tmp_path / "data") is None
        with pytest.raises(StationBusy, match="cannot be reached"), run_acts(tmp_path / "data"):
            pass
