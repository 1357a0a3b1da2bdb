"""Runs, holds, notes and settings as a user types them, beside a station and without one."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scidaq import record
from scidaq.catalog import NewNote, NewRun, NoteChanges, RunChanges, read_run_book
from scidaq.cli import control
from scidaq.cli.app import run
from scidaq.cli.runs import metadata_of, run_acts
from scidaq.query import Reader
from scidaq.store import verify
from tests.cli.conftest import CONFIGURATION, started
from tests.station.plans import wait_for

Captured = pytest.CaptureFixture[str]
RUNS = CONFIGURATION.replace("rate_hz = 1000", 'rate_hz = 1000\nrecord = "runs"\npre_trigger_s = 0.0')


@pytest.fixture
def data(recorded: Path, tmp_path: Path) -> Path:
    """A copy of a data directory with a second of two streams."""
    import shutil

    return Path(shutil.copytree(recorded, tmp_path / "data"))


class Typed:
    """The command line on one data directory."""

    def __init__(self, data: Path, capsys: Captured) -> None:
        self.data, self._capsys = data, capsys

    def __call__(self, *arguments: str) -> str:
        code = run([*arguments, "--data-dir", str(self.data)])
        said = self._capsys.readouterr()
        assert code == 0, said.err
        return said.out

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def refused(self, *arguments: str, code: int = 1) -> str:
        assert run([*arguments, "--data-dir", str(self.data)]) == code
        return " ".join(re.sub("[│╭╰─╮╯]", " ", self._capsys.readouterr().err).split())


@pytest.fixture
def typed(data: Path, capsys: Captured) -> Typed:
    return Typed(data, capsys)


def test_a_run_over_what_was_recorded(typed: Typed) -> None:
    first, last = (getattr(Reader(typed.data).streams()[0], name) for name in ("first_ns", "last_ns"))
    said = typed(
        *("run", "add", "night", "--from", str(first), "--to", str(last + 1), "--streams", "adc/*"),
        *("--operator", "Ada", "--sample", "S1", "--notes", "cold", "--meta", "t_k=4.2", "--meta", "id=007"),
    )
    assert said.startswith("run night: ")
    (listed,) = typed.json("run", "list")
    assert (listed["name"], listed["metadata"]) == ("night", {"t_k": 4.2, "id": "007"})
    shown = typed.json("run", "show", "night")
    rows = Reader(typed.data).streams()[0].rows
    assert shown["rows"] == {"adc/wave": {"rows": rows, "gap_rows": 0, "gaps": 0, "unknown": 0}}
    assert shown["ended"]["instruments"]["adc"]["driver"] == "waveform"
    text = typed("run", "show", "night")
    assert f"adc/wave: {rows:,} rows" in text
    assert "Ada" in text
    typed("run", "edit", "night", "--name", "day", "--streams", "all", "--unmeta", "id", "--meta", "x=true")
    changed = typed.json("run", "show", "day")
    assert (changed["streams"], changed["metadata"], changed["operator"]) == ([], {"t_k": 4.2, "x": True}, "Ada")
    found = [len(typed.json("run", "list", "--search", text)) for text in ("X=TRUE", "s1", "night", "ADA")]
    assert found == [1, 1, 0, 1]
    assert verify(typed.data).ok


@pytest.mark.parametrize(
    "verb",
    [
        ["run", "add", "x", "--from", "-1h", "--to", "now", "--streams"],
        ["run", "edit", "night", "--streams"],
        ["run", "hold", "--until", "3d", "--stream"],
    ],
)
def test_streams_that_there_are_not_are_noted(typed: Typed, capsys: Captured, verb: list[str], tmp_path: Path) -> None:
    typed("run", "add", "night", "--from", "-1h", "--to", "now")

    def noted(stream: str, *more: str) -> str:
        assert run([*verb, stream, *more, "--data-dir", str(typed.data)]) == 0
        return capsys.readouterr().err

    assert noted("adk/*") == "note: no stream fits 'adk/*' (did you mean 'adc/*'?)\n"
    if verb[1] == "edit":
        assert noted("adc/wav,zzz/*,adc/wave").splitlines() == [
            "note: no stream fits 'adc/wav' (did you mean 'adc/wave'?)",
            "note: no stream fits 'zzz/*'",
        ]
        assert noted("all") == ""
    (tmp_path / "lab.toml").write_text(CONFIGURATION.replace("[instruments.adc]", "[instruments.cam]"))
    if verb[1] != "add":
        assert noted("cam/*", "--config", str(tmp_path / "lab.toml")) == ""


def test_a_name_that_two_runs_have_at_the_same_time_is_noted(typed: Typed, capsys: Captured) -> None:
    first = typed("run", "add", "night", "--from", "-1h", "--to", "now").split()[-1]
    assert run(["run", "add", "night", "--from", "-30m", "--to", "now", "--data-dir", str(typed.data)]) == 0
    assert f"note: another run of that name is {first}, " in capsys.readouterr().err
    assert run(["run", "add", "night", "--from", "-3h", "--to", "-2h", "--data-dir", str(typed.data)]) == 0
    assert capsys.readouterr().err == ""


def test_holds(typed: Typed) -> None:
    typed("run", "add", "night", "--from", "-1h", "--to", "now")
    said = typed("run", "hold", "night", "--until", "30d", "--why", "paper", "--by", "Ada")
    assert re.fullmatch(r"held until .* UTC \(\w{8}\): run night, paper, by Ada\n", said)
    typed("run", "hold", "--stream", "adc/*", "--from", "-1h", "--until", "2100-01-01")
    assert len(typed.json("run", "holds")) == len(typed("run", "holds").splitlines()) == 2
    assert "held until" in typed("run", "show", "night")
    assert "release it first" in typed.refused("run", "delete", "night", "--yes")
    assert "is released" in typed("run", "release", "night")
    assert "is not held" in typed.refused("run", "release", "night")
    typed("run", "release", typed.json("run", "holds")[0]["id"][:8])
    assert typed("run", "holds") == "nothing is held\n"


def test_a_run_is_deleted_when_that_was_confirmed_twice(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    typed("run", "add", "night", "--from", "-1h", "--to", "now")
    asked: list[str] = []

    def confirm(text: str, abort: bool) -> bool:
        asked.append(text)
        return True

    monkeypatch.setattr("typer.confirm", confirm)
    rows = [s.rows for s in Reader(typed.data).streams()]
    assert "its rows stay" in typed("run", "delete", "night")
    assert len(asked) == 2
    assert typed.json("run", "list") == []
    assert typed.json("run", "list", "--deleted")[0]["deleted"]
    assert [s.rows for s in Reader(typed.data).streams()] == rows


def test_notes(typed: Typed) -> None:
    typed("run", "add", "night", "--from", "-1h", "--to", "now")
    typed("note", "helium refilled", "--run", "night", "--by", "Ada")
    typed("note", "door open", "--at", "-30m", "--until", "-20m", "--streams", "adc/*")
    notes = typed.json("notes")
    assert [n["text"] for n in notes] == ["door open", "helium refilled"]
    assert "door open" in typed("notes", "--from", "-25m", "--to", "-10m", "--streams", "adc/wave")
    assert typed("notes", "--streams", "slow/wave", "--to", "-10m") == ""
    assert [n["text"] for n in typed.json("notes", "--run", "night")] == ["helium refilled"]
    assert "helium refilled" in typed("run", "show", "night")
    typed("note", "door closed", "--edit", notes[0]["id"][:8])
    typed("note", "--remove", notes[1]["id"])
    assert [n["text"] for n in typed.json("notes")] == ["door closed"]


def test_settings(typed: Typed) -> None:
    assert sorted(typed.json("settings")["instruments"]) == ["adc", "slow"]
    assert typed("settings").startswith("adc (waveform): scidaq, simulated digitizer")
    assert typed("settings", "--at", "-10d") == "no instrument had delivered by then\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "add", "x", "--from", "yesterday", "--to", "now"], "is no time"),
        (["run", "add", "x", "--from", "-1h"], "Missing option"),
        (["run", "add", "a/b", "--from", "-1h", "--to", "now"], "no '/'"),
        (["run", "add", "x", "--from", "now", "--to", "-1h"], "has to come after"),
        (["run", "add", "x", "--from", "-1h", "--to", "now", "--streams", "adc"], "give the id of a stream"),
        (["run", "add", "x", "--from", "-1h", "--to", "now", "--meta", "k"], "key=value"),
        (["run", "hold", "x", "--until", "soon"], "is no time"),
        (["run", "hold", "--until", "3d"], "keeps something"),
        (["run", "hold", "x", "--stream", "a/b", "--until", "3d"], "a run alone"),
        (["note"], "give a text"),
        (["note", "x", "--remove", "y"], "give a text"),
        (["note", "x", "--at", "-5m", "--until", "-6m"], "has to come after"),
        (["serve", "--operator", "Ada"], "give --run NAME"),
        (["serve", "--run", "a/b"], "no '/'"),
        (["run", "sturt", "x"], "No such command"),
    ],
)
def test_what_is_typed_wrong_is_2_and_says_what_is_right(typed: Typed, arguments: list[str], said: str) -> None:
    assert said in typed.refused(*arguments, code=2)
    assert read_run_book(typed.data / "facts").runs() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "show", "x"], "no run 'x'"),
        (["run", "edit", "x", "--notes", "y"], "no run 'x'"),
        (["run", "add", "x", "--from", "-1h", "--to", "2100-01-01"], "lies in the past"),
        (["run", "start", "x"], "no station records here"),
        (["run", "stop", "x"], "no run 'x'"),
        (["run", "hold", "x", "--until", "3d"], "no run 'x'"),
        (["run", "release", "x"], "no run 'x'"),
        (["note", "--remove", "x"], "no note 'x'"),
    ],
)
def test_what_cannot_be_done_is_1_and_says_why(typed: Typed, arguments: list[str], said: str) -> None:
    assert said in typed.refused(*arguments)


@pytest.mark.parametrize("verb", [["run", "list"], ["run", "add", "x", "--from", "-1h", "--to", "now"], ["settings"]])
def test_what_is_no_data_directory_is_told_and_not_made(tmp_path: Path, capsys: Captured, verb: list[str]) -> None:
    assert "is no data directory" in Typed(tmp_path / "no", capsys).refused(*verb)
    assert not (tmp_path / "no").exists()


def test_metadata() -> None:
    typed = ["a=1", "b=1.5", "c=true", "d=x=y", "e=NaN", "f=[1]", "g=", "h=99999999999999999999", "i=null"]
    assert metadata_of(typed) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": "x=y",
        "e": "NaN",
        "f": "[1]",
        "g": "",
        "h": "99999999999999999999",
        "i": "null",
    }


# ---- beside a station ----


class Serving:
    """`scidaq serve` in a process of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        home.mkdir(exist_ok=True)
        (home / "lab.toml").write_text(RUNS)
        self.data, self.said = home / "data", ""
        self.process = started("serve", "--config", "lab.toml", "--data-dir", "data", *arguments, cwd=home)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    def recorded(self, stream: str) -> int:
        return sum(s.rows for s in Reader(self.data).streams() if s.stream == stream)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("serving") / "home", "--run", "now") as one:
        wait_for(lambda: one.recorded("slow/wave") > 5, 30)
        yield one


def test_reading_goes_on_beside_a_station(serving: Serving, capsys: Captured) -> None:
    typed = Typed(serving.data, capsys)
    assert ", as run now" in serving.said
    assert typed("run", "list").splitlines()[1].split()[-4:-2] == ["under", "way"]
    shown = typed.json("run", "show", "now")
    assert shown["stop_ns"] is None
    assert shown["rows"]["slow/wave"]["rows"] > 5
    assert sorted(typed.json("settings")["instruments"]) == ["adc", "slow"]
    assert typed.json("notes") == []


@pytest.mark.parametrize("verb", [["run", "stop", "now"], ["note", "x"], ["run", "start", "x"]])
def test_what_changes_something_says_that_a_station_runs(
    serving: Serving, capsys: Captured, monkeypatch: pytest.MonkeyPatch, verb: list[str]
) -> None:
    monkeypatch.setattr(control, "acts", lambda data_dir: None)
    said = Typed(serving.data, capsys).refused(*verb)
    assert "cannot be reached" in said
    assert "a script records there, or a station without a control socket. Do it again when that has ended" in said


def test_a_running_station_tells_which_instruments_may_yet_have_streams(serving: Serving, capsys: Captured) -> None:
    assert run(["run", "start", "b", "--streams", "slow/later,slaw/*", "--data-dir", str(serving.data)]) == 0
    assert capsys.readouterr().err == "note: no stream fits 'slaw/*' (did you mean 'slow/*'?)\n"


def test_beside_a_script_it_is_said_that_one_may_record(tmp_path: Path, capsys: Captured) -> None:
    with record(tmp_path / "data", {"v": "V"}, stream="lab/v"):
        said = Typed(tmp_path / "data", capsys).refused("run", "add", "x", "--from", "-1h", "--to", "now")
    assert "is in use" in said
    assert "a script records there" in said


def test_a_station_that_can_be_reached_is_asked(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    class Far:
        def note(self, new: NewNote) -> str:
            return new.text

    monkeypatch.setattr(control, "acts", lambda data_dir: Far())
    with run_acts(serving.data) as acts:
        assert acts.note(NewNote("x")) == "x"  # type: ignore[comparison-overlap]


@pytest.mark.slow
def test_serve_a_run_from_its_beginning_to_sigterm(tmp_path: Path, capsys: Captured) -> None:
    with Serving(tmp_path / "home", "--run", "night", "--operator", "Ada", "--meta", "t_k=4.2") as serving:
        wait_for(lambda: serving.recorded("adc/wave") > 100, 30)
        assert serving.end(signal.SIGTERM) == 0
    typed = Typed(serving.data, capsys)
    shown = typed.json("run", "show", "night")
    assert (shown["operator"], shown["metadata"], shown["reason"]) == ("Ada", {"t_k": 4.2}, "station stopped")
    assert len(shown["config_hash"]) == 64
    assert shown["rows"]["adc/wave"]["rows"] == serving.recorded("adc/wave")
    # Without a run, a stream of policy `runs` is left out.
    with Serving(tmp_path / "home") as again:
        wait_for(lambda: again.recorded("slow/wave") > shown["rows"]["slow/wave"]["rows"] + 10, 30)
        again.end(signal.SIGTERM)
    assert again.recorded("adc/wave") == shown["rows"]["adc/wave"]["rows"]
    assert verify(again.data).ok


@pytest.mark.slow
def test_serve_a_run_through_kill_9(tmp_path: Path, capsys: Captured) -> None:
    home = tmp_path / "home"
    typed = Typed(home / "data", capsys)
    with Serving(home, "--run", "night") as serving:
        wait_for(lambda: serving.recorded("adc/wave") > 100, 30)
        assert serving.end(signal.SIGKILL) == -signal.SIGKILL
    assert typed("run", "list").splitlines()[1].split()[-3] == "interrupted"
    before = serving.recorded("adc/wave")
    with Serving(home, "--run", "night") as serving:
        assert "as run night, which goes on" in serving.said
        wait_for(lambda: serving.recorded("adc/wave") > before + 100, 30)
        serving.end(signal.SIGKILL)
    rows = serving.recorded("adc/wave")
    # Nobody asks for it again: the next start ends it where the kill did.
    with Serving(home) as serving:
        wait_for(lambda: serving.recorded("slow/wave") > 0, 30)
        serving.end(signal.SIGTERM)
    (night,) = typed.json("run", "list")
    assert (night["reason"], len(night["resumed_ns"])) == ("interrupted", 1)
    shown = typed.json("run", "show", "night")
    assert shown["rows"]["adc/wave"]["rows"] == rows == serving.recorded("adc/wave")
    assert verify(serving.data).ok


def test_what_a_kill_interrupted_can_be_ended_without_a_station(data: Path, capsys: Captured) -> None:
    from scidaq.catalog import FactsLog, RunKeeper
    from scidaq.clock import SystemClock

    newest = max(s.last_ns or 0 for s in Reader(data).streams())
    with FactsLog.open(data / "facts") as facts:
        clock = SystemClock()
        RunKeeper(facts, clock, live=True).start(NewRun("night"))
    typed = Typed(data, capsys)
    assert "interrupted" in typed("run", "list")
    assert "(interrupted)" in typed("run", "end", "night")
    run_ = read_run_book(data / "facts").run("night")
    assert run_.stop_ns == max(run_.start_ns, newest + 1)


@pytest.mark.crash
@pytest.mark.slow
def test_killed_in_a_verb_the_act_is_done_whole_or_not_at_all(data: Path, tmp_path: Path) -> None:
    """The program dies at each of its first syncs of facts."""
    program = (
        "import os, sys; from scidaq.cli.app import run; real, left = os.fsync, [int(sys.argv[1])]\n"
        "def sync(fd):\n left[0] -= 1\n os._exit(9) if left[0] == 0 else real(fd)\n"
        "os.fsync = sync\nsys.exit(run(sys.argv[2:]))"
    )
    import sys

    for at in range(1, 6):
        name = f"r{at}"
        verb = ["run", "add", name, "--from", "-1h", "--to", "now", "--data-dir", str(data)]
        done = subprocess.run([sys.executable, "-c", program, str(at), *verb], capture_output=True, check=False)
        book = read_run_book(data / "facts")
        assert (book.ignored, book.damage) == (0, ())
        runs = [r for r in book.runs() if r.name == name]
        assert done.returncode in (0, 9)
        assert len(runs) == 1 or done.returncode == 9
    with run_acts(data) as acts:
        last = acts.add(NewRun("after", 1, 2))
        acts.edit(last.id, RunChanges(notes="x"))
        note = acts.note(NewNote("x"))
        acts.edit_note(note.id, NoteChanges(text="y"))
    assert verify(data).ok
