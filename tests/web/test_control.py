"""The verbs on runs, from the command line to a station that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scidaq.catalog import NewHold, NewNote, NewRun, NoteChanges, RunActs, RunChanges
from scidaq.cli import keys
from scidaq.cli.control import acts
from scidaq.cli.runs import run_acts
from scidaq.errors import RequestError, StationBusy
from scidaq.station import Serving, Station, StationPlan
from scidaq.testing import FakeClock
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors

FAR_NS = 1 << 62


@pytest.fixture
def near(tmp_path: Path, runtime: Path) -> Iterator[Station]:
    data_dir = tmp_path / "data"
    with Station(StationPlan(data_dir)) as station:
        store = KeyStore(data_dir, FakeClock())
        with open_doors(station, station.stats().uuid, store, ServerOptions(enabled=False), SecurityOptions()):
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


def test_keys_are_made_by_the_station_which_notes_it(near: Station, capsys: pytest.CaptureFixture[str]) -> None:
    data_dir = near.plan.data_dir
    keys.create("plots / room 12", ["read"], days=2.0, as_json=True, data_dir=data_dir)

    def printed() -> Any:
        out = capsys.readouterr().out  # behind what the log says
        return json.loads(out[max(out.rfind("\n{\n"), out.rfind("\n[\n"), 0) :])

    made = printed()
    store = KeyStore(data_dir, FakeClock())
    assert [key.name for key in store.all()] == ["plots / room 12"]
    keys.rotate("plots / room 12", grace_hours=1.0, as_json=True, data_dir=data_dir)
    assert printed()["key"] != made["key"]
    keys.revoke(made["id"], data_dir=data_dir)
    keys.list_keys(as_json=True, data_dir=data_dir)
    assert [key["state"] for key in printed()] == ["revoked", "valid"]
    with pytest.raises(RequestError, match="there is no valid key 'x'"):
        keys.revoke("x", data_dir=data_dir)
    with pytest.raises(RequestError, match="days"):
        keys.create("y", ["read"], days=-1.0, data_dir=data_dir)
    acts = [fact.data["act"] for fact in Serving(near).audited(None, 10)]
    assert "POST /api/v1/keys" in acts
    assert f"DELETE /api/v1/keys/{made['id']}" in acts
