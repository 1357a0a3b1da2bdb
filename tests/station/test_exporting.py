"""The queue of exports: in turn, ended, found again, with room left; made by processes that do as they are told."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from scidaq.clock import SystemClock
from scidaq.errors import RequestError, TooMany, Unknown, WriteFailed
from scidaq.station import Export, Exports, ExportWanted
from scidaq.station.exporting import KEPT_NS, WAITING
from scidaq.store import system_files
from scidaq.testing import FakeClock

WANTED = ExportWanted("csv", "adc/wave")
QUICK = """
import json, os
open("adc.wave.csv", "w").write("x")
print(json.dumps({"rows": 3, "of": 4}), flush=True)
files = [{"name": "adc.wave.csv", "bytes": 1, "sha256": "00"}]
print(json.dumps({"rows": 4, "notes": ["so"], "files": files}), flush=True)
"""
FOREVER = """
import json, os, time
open("half", "w").write("x")
print(json.dumps({"rows": 3, "of": 4, "pid": os.getpid()}), flush=True)
time.sleep(600)
"""
STEADY = """
import time
open("half", "w").write("x")
while True:
    print("{}", flush=True)
    time.sleep(0.01)
"""
REFUSING = "import sys; sys.exit('scidaq: the disk is full')"


class Scripted(Exports):
    """Its processes run what a test says."""

    def __init__(
        self, data_dir: Path, script: str = QUICK, room: Callable[[], str] = str, clock: object = None
    ) -> None:
        super().__init__(data_dir, clock or SystemClock(), system_files(), room)  # type: ignore[arg-type]
        self.script = script
        self.commands: list[list[str]] = []

    def _command(self, job: Export) -> list[str]:
        self.commands.append(super()._command(job))
        return [sys.executable, "-c", self.script]

    def until(self, export: str, *states: str) -> Export:
        until(lambda: self.get(export).state in states)
        return self.get(export)


def until(what: Callable[[], bool]) -> None:
    never, turns = threading.Event(), 0
    while not what():
        never.wait(0.01)
        turns += 1
        assert turns < 3000, "not in time"


def counted(exports: Exports) -> dict[str, float]:
    """What the metrics say of them, by state and result."""
    samples = list(exports.samples())
    (seconds,) = [s.value for s in samples if s.metric == "scidaq_export_seconds_total"]
    assert isinstance(seconds, float)
    return {s.labels[0]: s.value for s in samples if s.labels}  # type: ignore[misc]


def test_it_is_made_and_found_again_by_the_next_start(tmp_path: Path) -> None:
    with Scripted(tmp_path) as exports:
        begun = exports.begin(WANTED, "kim")
        assert begun.state == "queued"
        done = exports.until(begun.id, "done", "failed")
        assert (done.state, done.rows, done.of_rows, done.notes, done.by) == ("done", 4, 4, ("so",), "kim")
        path, one = exports.file(done.id, "adc.wave.csv")
        assert (path.read_text(), one.sha256) == ("x", "00")
        with pytest.raises(Unknown, match="no file"):
            exports.file(done.id, "ended.json")
        assert counted(exports) == {"queued": 0, "running": 0, "done": 1, "failed": 0}
    with Scripted(tmp_path) as again:
        assert again.all() == [done]
        assert counted(again)["done"] == 0, "they are those since the start"
        again.remove(done.id)
        assert list((tmp_path / "exports").iterdir()) == []
        with pytest.raises(Unknown, match="no export"):
            again.get(done.id)


def test_what_failed_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with Scripted(tmp_path, REFUSING) as exports:
        failed = exports.until(exports.begin(WANTED, "kim").id, "failed")
        assert failed.error == "the disk is full"
        exports.script = "open('half', 'w').write('x'); raise SystemExit(3)"
        failed = exports.until(exports.begin(WANTED, "kim").id, "failed")
        assert failed.error == "its process ended with 3"
        assert {p.name for p in (tmp_path / "exports" / failed.id).iterdir()} == {"asked.json", "ended.json"}


def test_one_at_a_time_and_not_too_many(tmp_path: Path) -> None:
    with Scripted(tmp_path, FOREVER) as exports:
        first = exports.begin(WANTED, "kim")
        exports.until(first.id, "running")
        waiting = [exports.begin(WANTED, "kim") for _ in range(WAITING)]
        with pytest.raises(TooMany, match="wait already"):
            exports.begin(WANTED, "kim")
        assert [one.state for one in exports.all()] == ["running"] + ["queued"] * WAITING
        exports.script = QUICK
        exports.remove(waiting[0].id)
        exports.remove(first.id)
        for one in waiting[1:]:
            exports.until(one.id, "done")
        assert not (tmp_path / "exports" / first.id).exists()


def test_the_end_of_the_station_is_theirs(tmp_path: Path) -> None:
    with Scripted(tmp_path, FOREVER) as exports:
        first, second = exports.begin(WANTED, "kim"), exports.begin(WANTED, "kim")
        until(lambda: exports.get(first.id).rows == 3)
        worker = exports._worker
        assert worker is not None
        if hasattr(os, "getpriority"):
            assert os.getpriority(os.PRIO_PROCESS, worker[1].pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    assert worker[1].returncode is not None
    with pytest.raises(RequestError, match="stopping"):
        exports.begin(WANTED, "kim")
    with Scripted(tmp_path) as again:
        assert [(one.id, one.state) for one in again.all()] == [(first.id, "failed"), (second.id, "failed")]
        assert "ask for it again" in again.get(first.id).error
        assert not (tmp_path / "exports" / first.id / "half").exists()


def test_room_stays_for_rows(tmp_path: Path) -> None:
    full = ["there is too little"]
    with Scripted(tmp_path, FOREVER, lambda: full[0]) as exports:
        with pytest.raises(WriteFailed, match="too little"):
            exports.begin(WANTED, "kim")
        assert exports.all() == []
        full[0] = ""
        crowded = exports.begin(WANTED, "kim")
        exports.until(crowded.id, "running")
        exports.remove(crowded.id)
        exports.script = STEADY
        crowded = exports.begin(WANTED, "kim")
        exports.until(crowded.id, "running")
        full[0] = "there is too little"
        failed = exports.until(crowded.id, "failed")
        assert failed.error == "there is too little"
        assert {p.name for p in (tmp_path / "exports" / failed.id).iterdir()} == {"asked.json", "ended.json"}


def test_a_day_later_it_is_gone(tmp_path: Path) -> None:
    clock = FakeClock()
    with Scripted(tmp_path, clock=clock) as exports:
        done = exports.until(exports.begin(WANTED, "kim").id, "done")
        clock.advance(KEPT_NS / 1e9 - 60)
        assert exports.get(done.id).state == "done"
        clock.advance(120)
        until(lambda: exports.all() == [])
    assert list((tmp_path / "exports").iterdir()) == []


def test_what_is_no_export_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "exports" / "mine").mkdir(parents=True)
    (tmp_path / "exports" / ("0" * 32)).mkdir()
    (tmp_path / "exports" / ("1" * 32)).mkdir()
    (tmp_path / "exports" / ("1" * 32) / "asked.json").write_text(json.dumps({"id": "2" * 32}))
    with Scripted(tmp_path) as exports:
        assert exports.all() == []
    assert [p.name for p in (tmp_path / "exports").iterdir()] == ["mine"]


def test_no_words_of_others_become_an_option_or_a_path(tmp_path: Path) -> None:
    with Scripted(tmp_path) as exports:
        wanted = ExportWanted("zarr", "", "0123456789abcdef", 5, 7, None, ("a", "--force"), True, "gzip")
        exports.until(exports.begin(wanted, "--out=/").id, "done")
        command = exports.commands[0]
    assert command[-2:] == ["--", "0123456789abcdef"]
    out = tmp_path / "exports"
    assert [one for one in command if one.startswith("--out")] == [
        f"--out={next(out.iterdir())}/run-01234567.zarr",
    ]
    assert {"--start=5", "--stop=7", "--channels=a,--force", "--raw", "--compression=gzip", "--json"} <= set(command)
