"""Runs, notes and settings of an opened data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scidaq
from scidaq.block import Block, Channel, Schema
from scidaq.catalog import FactsLog, NewNote, NewRun, Run, RunKeeper
from scidaq.errors import RequestError, UnknownRun, UnknownStream
from scidaq.query import Store
from scidaq.store import SegmentName
from scidaq.testing import FakeClock
from tests.query.test_open import rows
from tests.query.test_reader import MS, STREAM, Made, ms, simple
from tests.store.makers import PLAIN, T0, block_of, epoch_of, segment_bytes


class Lab:
    """A data directory with 300 rows, and the verbs of runs."""

    def __init__(self, path: Path) -> None:
        self.made = Made(path)
        simple(self.made)
        other = segment_bytes(epoch_of(PLAIN, "other/v"), [block_of(PLAIN, 0, 300, stream="other/v")])
        self.made.put(SegmentName(0, 0, 0), other, "other/v")
        self.clock = FakeClock(ms(10_000))

    def declare(self, name: str, start_ns: int, stop_ns: int, *streams: str, **more: Any) -> Run:
        with FactsLog.open(self.made.path / "facts", self.clock) as facts:
            return RunKeeper(facts, self.clock).add(NewRun(name, start_ns, stop_ns, streams, **more))

    def open(self) -> Store:
        return Store(self.made.path, self.clock)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "data")


def test_the_rows_of_a_run(lab: Lab) -> None:
    lab.declare("night", ms(10), ms(20), operator="Mara", sample="A<1>", metadata={"field_T": 0.5})
    store = lab.open()
    night = store.run("night")
    assert rows(night.read(STREAM)) == rows(store[STREAM].read(run="night")) == (10, 20)
    assert (night.name, night.facts.operator, list(night.streams)) == ("night", "Mara", [STREAM, "other/v"])
    assert [run.id for run in store.runs] == [night.id]
    assert repr(night) == "<run 'night': 2025-06-15T15:06:40.010000000Z to 2025-06-15T15:06:40.020000000Z>"
    shown = night._repr_html_()
    assert "<td>A&lt;1&gt;</td>" in shown
    assert "<th>field_T</th><td>0.5</td>" in shown
    assert rows(store[STREAM].read(ms(15), ms(99), run=night.id)) == (15, 20)
    assert rows(store[STREAM].read(first=5, end=12, run="night")) == (10, 12)
    assert len(store[STREAM].read(ms(50), run="night")) == 0
    assert night.read(STREAM, "v", raw=True).raw


@pytest.fixture(scope="module")
def one_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab") / "data")


@given(a=st.integers(-12, 1212), rest=st.integers(1, 1212))
def test_a_run_holds_its_start_and_not_its_stop(one_lab: Lab, a: int, rest: int) -> None:
    start_ns, stop_ns = T0 + a * MS // 4, T0 + (a + rest) * MS // 4
    run = one_lab.declare("any", start_ns, stop_ns)
    found = one_lab.open()[STREAM].read(run=run.id)
    assert [n for b in found.blocks for n in range(b.first, b.end)] == [
        n for n in range(300) if start_ns <= ms(n) < stop_ns
    ]


def test_what_does_not_belong_to_a_run(lab: Lab) -> None:
    lab.declare("one", ms(10), ms(20), "fake/*")
    store = lab.open()
    assert list(store.run("one").streams) == [STREAM]
    with pytest.raises(RequestError, match=r"other/v does not belong to run 'one', whose streams are fake/\*"):
        store.run("one").read("other/v")
    with pytest.raises(UnknownStream):
        store.run("one").read("none/v")
    with pytest.raises(UnknownRun, match="did you mean 'one'"):
        store.run("onn")
    with pytest.raises(UnknownRun):
        store[STREAM].read(run="two")
    with pytest.raises(RequestError, match="before it starts"):
        store[STREAM].read(ms(15), ms(12), run="one")


def test_notes_and_settings(lab: Lab) -> None:
    with FactsLog.open(lab.made.path / "facts", lab.clock) as facts:
        keeper = RunKeeper(facts, lab.clock)
        keeper.note(NewNote("a door was opened", ms(30)))
        keeper.note(NewNote("and shut", ms(60), streams=(STREAM,)))
    schema = Schema(
        (
            Channel("parameter", "text", max_bytes=9),
            Channel("value", "text", max_bytes=9),
            Channel("unit", "text", max_bytes=9),
        )
    )
    block = Block.of(schema, [["gain", "gain"], ["1", "2"], ["1", "1"]], stream="dmm/settings", times=[ms(5), ms(15)])
    data = segment_bytes(epoch_of(schema, "dmm/settings"), [block.placed("dmm/settings", 0, 0, ms(5))])
    lab.made.put(SegmentName(0, 0, 0), data, "dmm/settings")
    store = lab.open()
    assert [note.text for note in store.notes()] == ["a door was opened", "and shut"]
    assert [note.text for note in store.notes(ms(40), ms(90))] == ["and shut"]
    assert store.settings()["dmm"]["gain"].value == "2"
    assert store.settings(ms(10))["dmm"]["gain"].value == "1"
    assert store.settings(ms(1)) == {}


def test_without_runs(lab: Lab) -> None:
    store = scidaq.open(lab.made.path)
    assert (store.runs, store.notes(), store.settings()) == ([], [], {})
