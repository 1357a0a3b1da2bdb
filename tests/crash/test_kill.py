"""kill -9, again and again: everything that was durable is there afterwards, and every book balances."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scidaq.block import Block, Gap, Reason
from scidaq.instruments.waveform import WaveformOptions, _table, expected
from scidaq.query import Reader
from scidaq.store import Report, read_marks, verify
from tests import figures
from tests.crash.recording import INSTRUMENTS, record

KILLS_PER_DIRECTORY = 12
_EITHER = ("before", "after")
MOMENTS = [
    *(f"{v}:segment:{{n}}:{w}" for v in ("create", "append", "sync", "rename", "sync_dir") for w in _EITHER),
    *(f"{v}:journal:{{n}}:{w}" for v in ("create", "append", "sync", "rename", "sync_dir", "remove") for w in _EITHER),
    "append:segment:{n}:torn",
    "append:journal:{n}:torn",
    "rename:quarantine:1:before",
    "sync_dir:quarantine:2:after",
    "append:facts:{n}:before",
    "append:facts:{n}:torn",
    "sync:facts:{n}:after",
    "cut:*:1:before",
    "cut:*:1:after",
    "reopen:segment:{n}:after",
    "map:segment:{n}:after",
]
"""Where it is killed, for any `n`."""


@dataclass
class Tally:
    """What all kills together showed."""

    kills: int = 0
    by_how: dict[str, int] = field(default_factory=dict)
    rows_checked: int = 0
    rows_lost: int = 0
    wrong_values: int = 0
    problems: list[str] = field(default_factory=list)
    segments_opened: int = 0

    def figures(self, what: str, remarks: str) -> figures.Row:
        """For the page of figures."""
        counts = (self.kills, self.rows_checked, self.rows_lost, self.wrong_values, len(self.problems))
        return figures.Row(what, *counts, remarks)

    def __str__(self) -> str:
        how = ", ".join(f"{n} {h}" for h, n in sorted(self.by_how.items()))
        return (
            f"{self.kills} kills ({how}): {self.rows_checked} rows compared, {self.rows_lost} durable rows lost, "
            f"{self.wrong_values} wrong values, {len(self.problems)} problems, "
            f"{self.segments_opened} segments opened with plain Arrow"
        )


Durable = dict[tuple[str, int], dict[int, int]]
"""Per stream and epoch: how many rows below an index were published as durable, the most that was ever said."""


@lru_cache
def _threshold(options: WaveformOptions) -> float:
    return float(np.median(_table(options).columns[0]))


def wrong_values(options: WaveformOptions, block: Block, origin: int) -> int:
    """How many values of a block are not what the simulated device made."""
    truth = expected(options, origin + block.first, block.rows)
    if options.layout == "interleaved":
        return int((block.column("adc") != truth).sum())
    wrong = sum(int((block.column(f"ch{c}") != truth[:, c]).sum()) for c in range(options.channels))
    if options.status:
        high = truth[:, 0] > _threshold(options)
        wrong += int((block.column("high") != high).sum())
        wrong += int((block.column("level") != np.where(high, b"high", b"low")).sum())
    return wrong


def look(data_dir: Path, durable: Durable, tally: Tally, *, stopped: bool = False) -> None:
    """Look at a data directory that nobody owns now: everything durable is there, right, once, and accounted for."""
    report: Report = verify(data_dir)
    where = f"{data_dir.name} after kill {tally.kills}: "
    # A catalog whose making was interrupted holds nothing yet; the next start goes on with it.
    tally.problems += [where + str(p) for p in report.problems if "the station upgrades it" not in p.what]
    tally.problems += [f"{where}unbalanced {b}" for b in report.balances if not b.balanced]
    high = {(b.stream, b.epoch): b.ledger.recorded + b.ledger.gaps + b.ledger.left_out for b in report.balances}
    reader = Reader(data_dir)
    present: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for stream in sorted({s.stream for s in reader.streams()}):
        options = INSTRUMENTS[stream.partition("/")[0]]
        origins = {e.number: e.origin for e in reader.epochs(stream)}
        at: dict[int, int] = {}
        newest_ns: dict[int, int] = {}
        for item in reader.blocks(stream):
            e = item.epoch
            if isinstance(item, Gap):
                if item.reason is Reason.UNEXPLAINED:
                    tally.problems.append(f"{where}{item}")
                if item.end > item.first:
                    if item.first != at.get(e, 0):
                        tally.problems.append(f"{where}{item} where row {at.get(e, 0)} belongs")
                    at[e] = item.end
                continue
            if item.first != at.get(e, 0):
                tally.problems.append(f"{where}{stream} {e}: row {item.first} where {at.get(e, 0)} belongs")
            if item.t0_ns < newest_ns.get(e, 0):
                tally.problems.append(f"{where}{stream} {e}: time goes back at row {item.first}")
            at[e], newest_ns[e] = item.end, item.last_ns
            tally.rows_checked += item.rows
            if wrong := wrong_values(options, item, origins[e]):
                tally.wrong_values += wrong
                tally.problems.append(f"{where}{stream} {e}: {wrong} wrong values in [{item.first}, {item.end})")
            present.setdefault((stream, e), []).append((item.first, item.end))
        for e, end in at.items():
            if end != high[stream, e]:
                tally.problems.append(f"{where}{stream} {e}: {end} rows are read, the book says {high[stream, e]}")
    for key, said in durable.items():
        for index, rows in said.items():
            found = sum(min(b, index) - a for a, b in present.get(key, []) if a < index)
            if found < rows:
                tally.rows_lost += rows - found
                tally.problems.append(f"{where}{key}: {rows} rows below {index} were durable, {found} are there")
    if stopped:
        if left := list((data_dir / "journal").iterdir()):
            tally.problems.append(f"{where}a clean stop left {left}")
        if report.segments != report.sealed:
            tally.problems.append(f"{where}a clean stop left {report.segments - report.sealed} segments open")
        open_plainly(data_dir, tally)


def open_plainly(data_dir: Path, tally: Tally) -> None:
    """Any Arrow reader opens every segment."""
    for path in (data_dir / "streams").rglob("*.arrows"):
        with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as arrow:
            arrow.read_all().validate(full=True)
        tally.segments_opened += 1


def take_marks(data_dir: Path, durable: Durable) -> None:
    """What was published as durable up to this moment."""
    for mark in read_marks(data_dir / "durable.map").values():
        # What policy leaves out is published before it is written, and late rows fill holes: the count says it.
        said = durable.setdefault((mark.stream, mark.epoch), {})
        said[mark.durable_index] = max(said.get(mark.durable_index, 0), mark.durable_rows)


class Killer:
    """Starts the station, kills it somehow, looks."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.rng = root, random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.crash.recording"])
        self.tally = Tally()
        self.durable: Durable = {}
        self.dir = root / "0"

    def start(self, moment: str = "", without: str = "") -> tuple[multiprocessing.process.BaseProcess, Iterator[str]]:
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=record, args=(str(self.dir), moment, without, theirs))
        process.start()
        theirs.close()

        def words() -> Iterator[str]:
            with ours:
                while True:
                    try:
                        yield ours.recv()
                    except EOFError:
                        return

        said = words()
        assert next(said, None) == "opening"
        return process, said

    def kill(self) -> None:
        """Start, kill, look."""
        how = self.rng.choices(["at random", "at a moment", "in recovery", "in the stop"], [40, 40, 10, 10])[0]
        moment = (
            self.rng.choice(MOMENTS).format(n=self.rng.choice([1, 2, 3, 5, 8, 13, 30])) if how == "at a moment" else ""
        )
        without = self.rng.choice(["", "", "", *INSTRUMENTS])
        process, said = self.start(moment, without)
        if how == "in recovery":
            time.sleep(self.rng.uniform(0, 0.15))
        else:
            word = next(said, None)
            if word != "recording" and not moment:
                raise AssertionError(f"the station did not open unattended: {word}, exit code {process.exitcode}")
            self._let_run(process, said, how, moment)
        process.kill()
        process.join(20)
        list(said)
        if process.exitcode == 0 and how == "in the stop":
            return  # it had stopped before the signal came
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        self.tally.kills += 1
        self.tally.by_how[how] = self.tally.by_how.get(how, 0) + 1
        take_marks(self.dir, self.durable)
        if (self.dir / "station.json").exists():
            look(self.dir, self.durable, self.tally)

    def _let_run(
        self, process: multiprocessing.process.BaseProcess, said: Iterator[str], how: str, moment: str
    ) -> None:
        if how == "at a moment":
            process.join(0.7)  # it may not come to it
            return
        until = time.monotonic() + self.rng.uniform(0.0, 0.8)
        while time.monotonic() < until:
            take_marks(self.dir, self.durable)
            time.sleep(0.02)
        if how == "in the stop":
            process.terminate()
            next(said, None)
            time.sleep(self.rng.uniform(0.0, 0.06))

    def end(self) -> None:
        """A start that nobody disturbs, a clean stop, and a last look."""
        process, said = self.start()
        assert next(said, None) == "recording", "the station did not open unattended"
        time.sleep(0.2)
        process.terminate()
        assert list(said)[-1:] == ["stopped"]
        process.join(20)
        assert process.exitcode == 0
        take_marks(self.dir, self.durable)
        look(self.dir, self.durable, self.tally, stopped=True)
        if not self.tally.problems:
            shutil.rmtree(self.dir)
        self.dir = self.root / str(self.tally.kills)
        self.durable = {}


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_kill_9_loses_nothing_durable(tmp_path: Path, kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("SCIDAQ_CRASH_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    faulthandler.cancel_dump_traceback_later()  # each kill has a time of its own
    killer = Killer(tmp_path, seed)
    while killer.tally.kills < kills:
        killer.kill()
        if killer.tally.kills % KILLS_PER_DIRECTORY == 0 or killer.tally.kills == kills:
            killer.end()
        assert not killer.tally.problems, (f"SCIDAQ_CRASH_SEED={seed}", *killer.tally.problems[:10])
    tally = killer.tally
    with capsys.disabled():
        sys.stdout.write(f"\n{tally}\n")
    assert (tally.rows_lost, tally.wrong_values, tally.problems) == (0, 0, [])
    assert tally.rows_checked > 0
    how = ", ".join(f"{n} {h}" for h, n in sorted(tally.by_how.items()))
    figures.write(tally.figures("`make crash`: `kill -9` while recording", f"of the last run {how}"))
