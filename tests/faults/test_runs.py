"""One fault at every operation of each verb on runs, holds and notes: an act is done whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scidaq.catalog import (
    FactsLog,
    NewHold,
    NewNote,
    NewRun,
    NoteChanges,
    RunBook,
    RunChanges,
    RunKeeper,
    read_run_book,
)
from scidaq.errors import WriteFailed
from scidaq.testing import FakeClock
from scidaq.testing.faults import DiskFault, FaultyFiles
from tests.faults.lives import KINDS, clear

T0 = 1_750_000_000_000_000_000
S = 1_000_000_000
VERBS: dict[str, Callable[[RunKeeper], Any]] = {
    "start": lambda k: k.start(NewRun("c")),
    "stop": lambda k: k.stop("b"),
    "add": lambda k: k.add(NewRun("p", T0, T0 + 1)),
    "edit": lambda k: k.edit("b", RunChanges(notes="x")),
    "delete": lambda k: k.delete("a"),
    "hold": lambda k: k.hold(NewHold(T0 + 100 * S, run="a")),
    "release": lambda k: k.release(k.book.holds()[0].id),
    "note": lambda k: k.note(NewNote("x")),
    "edit_note": lambda k: k.edit_note(k.book.notes()[0].id, NoteChanges(text="y")),
    "remove_note": lambda k: k.remove_note(k.book.notes()[0].id),
    "take_up": lambda k: k.take_up(NewRun("b", sample="S")),
    "station_stops": lambda k: k.station_stops(),
}


def content(book: RunBook) -> Any:
    return book.runs(deleted=True), book.holds(), book.notes()


def prepared(directory: Path, files: FaultyFiles, told: list[Any]) -> tuple[FactsLog, RunKeeper]:
    """A run that has ended, one that is under way, a hold and a note."""
    clock = FakeClock(T0)
    log = FactsLog.open(directory, clock, files)
    keeper = RunKeeper(log, clock, live=True, told=lambda wanted: told.append(list(wanted)))
    keeper.start(NewRun("a"))
    keeper.start(NewRun("b", streams=("x/y",)))
    keeper.stop("a")
    keeper.hold(NewHold(T0 + 50 * S, stream="a/b"))
    keeper.note(NewNote("remark"))
    clock.advance(10)
    return log, keeper


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_any_operation(tmp_path: Path, verb: str, kind: str) -> None:
    for k in range(1, 20):
        files, told = FaultyFiles(seed=k), list[Any]()
        directory = tmp_path / str(k)
        log, keeper = prepared(directory, files, told)
        with log:
            before = content(keeper.book)
            files.also(DiskFault(kind, files.operations(kind) + k))
            try:
                VERBS[verb](keeper)
            except WriteFailed as error:
                clear(error, str(directory))
                single = verb not in ("take_up", "station_stops")  # which do several things, one after the other
                assert not single or content(keeper.book) == before
                assert told[-1] == [("x/y",)] or not single, "who is under way is recorded, and nobody else"
                killed = read_run_book(directory)  # a kill at this moment
                assert (killed.ignored, killed.damage) == (0, ())
                VERBS[verb](keeper)
            assert content(keeper.book) != before
            after = read_run_book(directory)
            assert content(after) == content(keeper.book)
            assert (after.ignored, after.damage) == (0, ())
        if not files.struck:
            return
    raise AssertionError("it never came to an end")
