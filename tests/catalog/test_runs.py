"""What the facts say of runs, holds and notes, in whatever state their log is; and the verbs that write them."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from scidaq.catalog import (
    Fact,
    FactsLog,
    Hold,
    InstrumentState,
    NewHold,
    NewNote,
    NewRun,
    Note,
    NoteChanges,
    Run,
    RunBook,
    RunChanges,
    RunKeeper,
    Setting,
    Snapshot,
    covered,
    read_run_book,
)
from scidaq.errors import RequestError, UnknownRun
from scidaq.testing import FakeClock

T0 = 1_750_000_000_000_000_000
S = 1_000_000_000
SEEN = Snapshot(T0, {"dmm": InstrumentState("scpi", "ACME, 1", "acquiring", {"range": Setting("10.0", "V", T0)})})


OPEN: list[Rig] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().log.close()


class Rig:
    """A log with its keeper, on a clock that stands."""

    def __init__(self, directory: Path, **given: Any) -> None:
        self.dir, self.clock = directory, FakeClock(T0)
        self.told: list[list[tuple[str, ...]]] = []
        self.log = FactsLog.open(directory, self.clock)
        OPEN.append(self)
        options: dict[str, Any] = {
            "live": True,
            "snapshot": lambda: SEEN,
            "told": lambda wanted: self.told.append(list(wanted)),
        }
        self.keeper = RunKeeper(self.log, self.clock, **(options | given))

    def on_disk(self) -> RunBook:
        return read_run_book(self.dir)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path / "facts", version="1.2", config_hash="abc")
    yield one
    book = one.on_disk()
    assert (book.runs(deleted=True), book.holds(), book.notes()) == (
        one.keeper.book.runs(deleted=True),
        one.keeper.book.holds(),
        one.keeper.book.notes(),
    )
    assert (book.ignored, book.damage) == (0, ())
    one.log.close()


# ---- runs ----


def test_a_run_is_started_edited_stopped(rig: Rig) -> None:
    run = rig.keeper.start(NewRun("night", operator="Ada", metadata={"t_k": 4.2, "dark": True}))
    assert run.under_way
    assert (run.name, run.start_ns, run.operator, run.version, run.config_hash) == ("night", T0, "Ada", "1.2", "abc")
    assert run.started == SEEN
    assert rig.told == [[()]]
    rig.clock.advance(5)
    changed = rig.keeper.edit("night", RunChanges(name="day", metadata={"dark": None, "n": 3}, sample="S1"))
    assert (changed.name, changed.sample, changed.metadata) == ("day", "S1", {"t_k": 4.2, "n": 3})
    assert (changed.operator, changed.edited_ns) == ("Ada", T0 + 5 * S)
    ended = rig.keeper.stop("day")
    assert (ended.stop_ns, ended.reason, ended.ended) == (T0 + 5 * S, "", SEEN)
    assert rig.told[-1] == []
    with pytest.raises(RequestError, match="no run 'day' is under way"):
        rig.keeper.stop("day")


def test_a_run_is_declared_for_the_past(rig: Rig) -> None:
    rig.clock.advance(100)
    new = NewRun("night", T0, T0 + 50 * S, streams=("dmm/readings", "cam/*"), notes="two\nlines")
    run = rig.keeper.add(new)
    assert run.declared
    assert (run.start_ns, run.stop_ns, run.started) == (T0, T0 + 50 * S, None)
    assert run.covers("cam/frames")
    assert not run.covers("dmm/other")
    moved = rig.keeper.edit(run.id[:8], RunChanges(start_ns=T0 + S))
    assert (moved.start_ns, moved.stop_ns) == (T0 + S, T0 + 50 * S)
    for wrong, said in (
        (NewRun("x"), "a start and an end"),
        (NewRun("x", T0), "a start and an end"),
        (NewRun("x", T0, T0 + 101 * S), "lies in the past"),
    ):
        with pytest.raises(RequestError, match=said):
            rig.keeper.add(wrong)
    with pytest.raises(RequestError, match="has to come after"):
        rig.keeper.edit("night", RunChanges(start_ns=T0 + 60 * S))
    with pytest.raises(RequestError, match="lies in the past"):
        rig.keeper.edit("night", RunChanges(stop_ns=T0 + 200 * S))


def test_the_settings_of_then_are_kept_with_a_run_of_the_past(tmp_path: Path) -> None:
    rig = Rig(tmp_path, snapshot_at=lambda ns: Snapshot(ns) if ns < T0 + 10 else None)
    rig.clock.advance(1)
    run = rig.keeper.add(NewRun("night", T0, T0 + 20))
    assert (run.started, run.ended) == (Snapshot(T0), None)


def test_names(rig: Rig) -> None:
    rig.clock.advance(10)
    one, two = (rig.keeper.add(NewRun("twice", T0 + i, T0 + i + 1)) for i in range(2))
    rig.keeper.add(NewRun("cooldown 1", T0, T0 + 1))
    with pytest.raises(RequestError, match=f"2 runs are called 'twice': .*{one.id}, {two.id}"):
        rig.keeper.book.run("twice")
    with pytest.raises(UnknownRun, match="no run 'cooldwn 1' \\(did you mean 'cooldown 1'\\?\\)"):
        rig.keeper.book.run("cooldwn 1")
    assert rig.keeper.book.run(two.id) == two
    assert rig.keeper.delete(one.id).deleted
    assert rig.keeper.book.run("twice") == two
    assert rig.keeper.book.run(one.id).deleted
    assert one.id not in [r.id for r in rig.keeper.book.runs()]
    with pytest.raises(RequestError, match="was deleted"):
        rig.keeper.edit(one.id, RunChanges(notes="x"))


def test_one_name_is_under_way_once(rig: Rig) -> None:
    first = rig.keeper.start(NewRun("a", streams=("x/y",)))
    with pytest.raises(RequestError, match="is under way"):
        rig.keeper.start(NewRun("a"))
    with pytest.raises(RequestError, match="stop it first"):
        rig.keeper.delete("a")
    with pytest.raises(RequestError, match="when it has ended"):
        rig.keeper.edit("a", RunChanges(start_ns=1))
    rig.keeper.start(NewRun("b"))
    assert sorted(rig.told[-1]) == [(), ("x/y",)]
    rig.keeper.edit("a", RunChanges(streams=("x/*",)))
    assert sorted(rig.told[-1]) == [(), ("x/*",)]
    rig.keeper.stop("a")
    assert rig.told[-1] == [()]
    again = rig.keeper.start(NewRun("a"))
    assert rig.keeper.stop("a").id == again.id != first.id
    with pytest.raises(RequestError, match="begins now"):
        rig.keeper.start(NewRun("c", T0, T0 + 1))


def test_runs_of_one_name_at_the_same_time_are_told(rig: Rig) -> None:
    under_way = rig.keeper.start(NewRun("a"))
    rig.keeper.start(NewRun("b"))
    with pytest.raises(RequestError, match="'a' is under way, too"):
        rig.keeper.edit("b", RunChanges(name="a"))
    rig.clock.advance(10)
    with structlog.testing.capture_logs() as said:
        beside = rig.keeper.add(NewRun("a", T0 + S, T0 + 2 * S))
        before = rig.keeper.add(NewRun("a", T0 - 2 * S, T0))
    assert [one["ids"] for one in said] == [[beside.id, under_way.id]]
    assert rig.keeper.book.namesakes(before) == []
    with structlog.testing.capture_logs() as said:
        rig.keeper.edit(before.id, RunChanges(stop_ns=T0 + S + 1))
    assert said[0]["log_level"] == "warning"


def test_without_a_station_no_run_is_started(tmp_path: Path) -> None:
    rig = Rig(tmp_path, live=False)
    with pytest.raises(RequestError, match="no station records here"):
        rig.keeper.start(NewRun("a"))


def test_what_a_kill_interrupted_ends_with_its_newest_row(tmp_path: Path) -> None:
    before = Rig(tmp_path / "facts")
    for name in ("a", "b"):
        before.keeper.start(NewRun(name))
    before.log.close()
    rig = Rig(tmp_path / "facts", newest_ns=lambda run: T0 + 7 if run.name == "a" else None)
    rig.clock.advance(60)
    assert rig.keeper.take_up(None) is None
    a, b = sorted(rig.keeper.book.runs(), key=lambda r: r.name)
    assert (a.stop_ns, a.reason, b.stop_ns, b.reason) == (T0 + 8, "interrupted", T0, "interrupted")
    assert rig.told[-1] == []


def test_a_run_that_is_asked_for_again_goes_on(tmp_path: Path) -> None:
    before = Rig(tmp_path / "facts")
    first = before.keeper.start(NewRun("a", streams=("x/*",), operator="Ada"))
    before.keeper.start(NewRun("b"))
    before.log.close()
    rig = Rig(tmp_path / "facts")
    rig.clock.advance(60)
    run = rig.keeper.take_up(NewRun("a", sample="S2"))
    assert run is not None
    assert (run.id, run.under_way, run.resumed_ns) == (first.id, True, (T0 + 60 * S,))
    assert (run.operator, run.sample, run.streams) == ("Ada", "S2", ("x/*",))
    assert [r.name for r in rig.keeper.book.under_way()] == ["a"]
    assert rig.told[-1] == [("x/*",)]
    rig.keeper.station_stops()
    assert rig.keeper.book.run("a").reason == "station stopped"
    assert rig.keeper.take_up(NewRun("a")) != run


def test_an_instrument_that_answers_later_completes_the_beginning(rig: Rig) -> None:
    rig.keeper.start(NewRun("a"))
    armed = {"driver": "scpi", "settings": {"gain": {"value": "2", "unit": "1", "since_ns": T0 + 1}}}
    for name, identity in (("dmm", "another"), ("new", "ACME, 2")):
        fact = rig.log.append("instrument.armed", armed | {"instrument": name, "identity": identity, "streams": {}})
        rig.keeper.heard(fact)
    started = rig.keeper.book.run("a").started
    assert started is not None
    assert started.instruments["dmm"].identity == "ACME, 1"
    assert started.instruments["new"] == InstrumentState(
        "scpi", "ACME, 2", "acquiring", {"gain": Setting("2", "1", T0 + 1)}
    )


def test_a_snapshot_that_is_too_large_says_what_it_leaves_out(tmp_path: Path) -> None:
    many = {f"p{i}": Setting("x" * 200, "V", T0) for i in range(1000)}
    large = Snapshot(T0, {n: InstrumentState("scpi", n, "acquiring", many) for n in "abcd"} | dict(SEEN.instruments))
    rig = Rig(tmp_path, snapshot=lambda: large)
    started = rig.keeper.start(NewRun("a")).started
    assert started is not None
    assert started.left_out == 4
    assert started.instruments["dmm"] == SEEN.instruments["dmm"]
    assert started.instruments["a"] == InstrumentState("scpi", "a", "acquiring")


# ---- holds and notes ----


def test_holds(rig: Rig) -> None:
    run = rig.keeper.start(NewRun("a"))
    until = T0 + 100 * S
    of_run = rig.keeper.hold(NewHold(until, run="a", why="paper", by="Ada"))
    of_stream = rig.keeper.hold(NewHold(until + S, stream="dmm/*", start_ns=T0))
    of_all = rig.keeper.hold(NewHold(until, start_ns=T0, stop_ns=T0 + 1))
    assert (of_run.run, of_run.placed_ns, of_run.why) == (run.id, T0, "paper")
    assert rig.keeper.book.holds(T0) == [of_run, of_stream, of_all]
    assert rig.keeper.book.holds(until) == [of_stream]
    rig.keeper.stop("a")
    with pytest.raises(RequestError, match="release it first"):
        rig.keeper.delete("a")
    rig.clock.advance(1)
    assert rig.keeper.release(of_run.id[:8]).released_ns == T0 + S
    assert rig.keeper.book.holds(T0 + S) == [of_stream, of_all]
    with pytest.raises(RequestError, match="has ended already"):
        rig.keeper.release(of_run.id)
    rig.keeper.delete("a")
    for wrong, said in (
        (NewHold(T0 + S, stream="a/b"), "ends in the future"),
        (NewHold(until, run="b"), "no run 'b'"),
        (NewHold(until, run=run.id), "was deleted"),
    ):
        with pytest.raises(RequestError, match=said):
            rig.keeper.hold(wrong)


def test_notes(rig: Rig) -> None:
    rig.keeper.start(NewRun("a"))
    moment = rig.keeper.note(NewNote("helium refilled", by="Ada", run="a"))
    length = rig.keeper.note(NewNote("door open", T0 - 10, T0 - 5, streams=("dmm/*",)))
    book = rig.keeper.book
    assert (moment.t_ns, moment.end_ns) == (T0, None)
    assert book.notes() == [length, moment]
    assert book.notes(T0 - 5) == [moment]
    assert book.notes(T0 - 6, T0) == [length]
    assert book.notes(None, T0 + 1, ["cam/frames"]) == [moment]
    changed = rig.keeper.edit_note(length.id[:8], NoteChanges(text="door closed", end_ns=T0 - 10))
    assert (changed.text, changed.t_ns, changed.end_ns, changed.streams) == ("door closed", T0 - 10, None, ("dmm/*",))
    rig.keeper.remove_note(moment.id)
    assert book.notes() == [changed]
    with pytest.raises(RequestError, match="was removed"):
        rig.keeper.edit_note(moment.id, NoteChanges(text="x"))
    with pytest.raises(RequestError, match="no note 'nothing'"):
        rig.keeper.remove_note("nothing")
    with pytest.raises(RequestError, match="has to come after"):
        rig.keeper.edit_note(length.id, NoteChanges(end_ns=T0 - 11))


# ---- what may be asked ----


@pytest.mark.parametrize(
    ("kind", "given_", "said"),
    [
        (NewRun, {}, "missing.*name"),
        (NewRun, {"name": ""}, "1 to 200"),
        (NewRun, {"name": "x" * 201}, "1 to 200"),
        (NewRun, {"name": "a\nb"}, "printable"),
        (NewRun, {"name": "a/b"}, "no '/'"),
        (NewRun, {"name": "-a"}, "begins with no '-'"),
        (NewRun, {"name": 5}, "1 to 200"),
        (NewRun, {"name": "a", "strems": []}, "unknown: strems"),
        (NewRun, {"name": "a", "streams": ["a"]}, "stream 'a'"),
        (NewRun, {"name": "a", "streams": "a/b"}, "a list"),
        (NewRun, {"name": "a", "streams": [3]}, "stream 3"),
        (NewRun, {"name": "a", "start_ns": 5, "stop_ns": 5}, "has to come after"),
        (NewRun, {"name": "a", "start_ns": "5"}, "nanoseconds"),
        (NewRun, {"name": "a", "start_ns": 1 << 63}, "nanoseconds"),
        (NewRun, {"name": "a", "metadata": {"a": [1]}}, "metadata 'a'"),
        (NewRun, {"name": "a", "metadata": {"a": None}}, "metadata 'a'"),
        (NewRun, {"name": "a", "metadata": {"a": float("nan")}}, "metadata 'a'"),
        (NewRun, {"name": "a", "metadata": {"a": 1 << 70}}, "64 bits"),
        (NewRun, {"name": "a", "metadata": {"": 1}}, "metadata key"),
        (NewRun, {"name": "a", "metadata": {"a": "\ud800"}}, "no Unicode"),
        (NewRun, {"name": "a", "metadata": {"a": "x" * 70_000}}, "at most 65536"),
        (NewRun, {"name": "a", "metadata": []}, "an object"),
        (NewRun, {"name": "a", "notes": "x" * 20_001}, "20000 characters"),
        (NewRun, {"name": "a", "operator": "a\tb"}, "a line"),
        (NewHold, {}, "missing.*until_ns"),
        (NewHold, {"until_ns": 5}, "keeps something"),
        (NewHold, {"until_ns": 5, "run": "a", "stream": "a/b"}, "a run alone"),
        (NewHold, {"until_ns": True, "run": "a"}, "nanoseconds"),
        (NewNote, {"text": " "}, "says something"),
        (NewNote, {"text": "a\x1b[0m"}, "printable"),
        (NewNote, {"text": "a", "t_ns": 5, "end_ns": 4}, "has to come after"),
        (NoteChanges, {"text": ""}, "remove it instead"),
        (RunChanges, {"metadata": {"a": {}}}, "metadata 'a'"),
        (RunChanges, [], "an object"),
    ],
)
def test_what_cannot_be_is_refused_with_what_may(kind: Any, given_: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        kind.from_json(given_)


def test_nothing_to_change_is_refused(rig: Rig) -> None:
    rig.keeper.start(NewRun("a"))
    with pytest.raises(RequestError, match="nothing is to be changed"):
        rig.keeper.edit("a", RunChanges())
    note = rig.keeper.note(NewNote("x"))
    with pytest.raises(RequestError, match="nothing is to be changed"):
        rig.keeper.edit_note(note.id, NoteChanges())


def test_everything_travels_as_json() -> None:
    things: list[Any] = [
        NewRun("a", 1, 2, ("a/b",), "o", "s", "n", {"k": 1.5}),
        RunChanges(metadata={"a": None}, streams=()),
        NewHold(5, stream="a/b"),
        NewNote("x", streams=("a/*",)),
        NoteChanges(text="y"),
        Run("i", "n", 1, None, ("a/b",), metadata={"k": True}, started=SEEN, resumed_ns=(4,)),
        Hold("i", 5, run="r"),
        Note("i", 1, 2, "t", ("a/b",)),
        SEEN,
    ]
    for one in things:
        assert type(one).from_json(json.loads(json.dumps(one.as_json()))) == one


def test_patterns() -> None:
    assert covered((), "a/b")
    assert covered(("a/*",), "a/b")
    assert not covered(("a/b", "c/*"), "a/c")


# ---- what the log may be ----

text = st.text(string.ascii_letters + " é", max_size=8).map(str.strip)
values = st.one_of(st.none(), st.integers(-5, 5), st.booleans(), text)
edits = st.fixed_dictionaries(
    {},
    optional={
        "operator": text,
        "sample": text,
        "notes": text,
        "streams": st.lists(st.sampled_from(["a/b", "a/*", "c/d"]), max_size=2).map(tuple),
        "metadata": st.dictionaries(st.sampled_from("xyz"), values, max_size=3),
    },
).filter(bool)


@given(st.lists(edits, max_size=8))
def test_of_any_edits_the_last_word_on_each_field_holds(
    tmp_path_factory: pytest.TempPathFactory, all_: list[Any]
) -> None:
    rig = Rig(tmp_path_factory.mktemp("edits"))
    rig.keeper.start(NewRun("a"))
    expected: dict[str, Any] = {"operator": "", "sample": "", "notes": "", "streams": (), "metadata": {}}
    for edit in all_:
        rig.keeper.edit("a", RunChanges(**edit))
        metadata = {**expected["metadata"], **edit.get("metadata", {})}
        expected |= edit | {"metadata": {k: v for k, v in metadata.items() if v is not None}}
    run = rig.on_disk().run("a")
    assert {name: getattr(run, name) for name in expected} == expected
    assert run == rig.keeper.book.run("a")
    rig.log.close()


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=5,
)
KINDS = [
    f"{what}.{verb}"
    for what, verbs in {
        "run": ("started", "stopped", "resumed", "added", "edited", "deleted", "unheard_of"),
        "hold": ("placed", "released"),
        "note": ("added", "edited", "removed"),
        "instrument": ("armed",),
    }.items()
    for verb in verbs
]
KEYS = ["run", "hold", "note", "name", "start_ns", "stop_ns", "until_ns", "t_ns", "changes", "metadata", "streams"]
KEYS += ["started", "ended", "instrument", "settings", "text"]
odd = st.one_of(
    json_values,
    st.dictionaries(st.sampled_from(KEYS), st.one_of(st.just("a"), st.just(T0), json_values), max_size=6),
)


@given(st.lists(st.tuples(st.sampled_from(KINDS), odd), max_size=12))
def test_nothing_that_a_log_may_hold_breaks_the_book(facts: list[tuple[str, Any]]) -> None:
    book = RunBook()
    book.take(Fact(0, T0, "run.started", {"run": "a", "name": "kept", "metadata": {}}))
    for i, (kind, data) in enumerate(facts, 1):
        book.take(Fact(i, T0 + i, kind, data))
    assert "a" in [r.id for r in book.runs(deleted=True)]
    for run in book.runs(deleted=True):
        assert Run.from_json(json.loads(json.dumps(run.as_json()))) == run
    book.notes(T0, T0 + 5, ["a/b"])
    book.holds(T0)


def test_facts_of_before_are_read() -> None:
    book = RunBook()
    book.take(Fact(0, T0, "run.started", {"run": "r1", "name": "cooldown", "metadata": {"note": "ΔT", "deep": [1]}}))
    book.take(Fact(1, T0 + 5, "run.stopped", {"run": "r1", "name": "cooldown"}))
    run = book.run("cooldown")
    assert (run.start_ns, run.stop_ns, run.started) == (T0, T0 + 5, None)
    assert run.metadata == {"note": "ΔT", "deep": "[1]"}


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_log_loses_the_last_act_alone(tmp_path: Path, cut: int) -> None:
    rig = Rig(tmp_path / "facts")
    rig.keeper.start(NewRun("a"))
    rig.keeper.edit("a", RunChanges(operator="Ada"))
    before = rig.on_disk().runs()
    rig.keeper.edit("a", RunChanges(sample="S"))
    rig.log.close()
    (path,) = (tmp_path / "facts").iterdir()
    os.truncate(path, path.stat().st_size - cut)
    assert rig.on_disk().runs() == before


def test_damage_in_the_middle_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "facts")
    for name in ("a", "b", "c"):
        rig.keeper.start(NewRun(name))
    rig.log.close()
    (path,) = (tmp_path / "facts").iterdir()
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"name":"b"', b'"name":"x"'))
    book = rig.on_disk()
    assert {r.name for r in book.runs()} == {"a", "c"}
    assert len(book.damage) == 1
