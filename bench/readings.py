"""Single readings from a script, 2 and 10 columns of float64: as they come, and each durable before the next.

As they come: one call per reading, in a loop; a turn ends when everything is as safe as the contestant makes it (ours:
synced; files: flushed to the system). The limit is what Python itself needs: a tuple into a list, and all of them to
a file by the `csv` module.
Each durable: the call returns when the reading would survive a power cut. The limit is the disk: 64 bytes appended to a
file and fdatasync. Then the same from many threads, which share syncs.

Each contestant lives in a process of its own and takes turns with the others, in a new order in every round.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import scidaq
from bench.places import fresh
from bench.processes import Child, child
from bench.results import Row, judged
from bench.settings import Settings

COLUMNS = (2, 10)
VALUE = 1.2345678
BATCH = 1000
"""Readings between two looks at the clock, where a reading takes microseconds."""
GATHERED = 20_000
"""How long the list becomes before it is written."""
THREADS = (8, 32)

Turn = Callable[[float], int]
"""Record for so many seconds; how many readings."""
Contestant = Callable[[Path, int], Any]
"""A context manager: it writes into a directory, so many columns, and gives a `Turn`."""


def names(columns: int) -> list[str]:
    """The names of the columns."""
    return [f"c{k}" for k in range(columns)]


def loop_of(head: str, call: str, columns: int) -> Callable[[Any, int], None]:
    """A loop that makes a call as a script would write it: `{names}` are `c0=1.2345678, ...`, `{values}` the values."""
    named = ", ".join(f"{name}={VALUE}" for name in names(columns))
    written = {"names": named, "values": ", ".join([str(VALUE)] * columns)}
    scope: dict[str, Any] = {"now": time.time}
    exec(f"def loop(it, n):\n {head}\n for _ in range(n): {call.format(**written)}\n", scope)
    loop: Callable[[Any, int], None] = scope["loop"]
    return loop


def again(loop: Callable[[int], object], batch: int, end: Callable[[], object] = lambda: None) -> Turn:
    """A turn that runs a loop of so many readings again and again, and brings them to their end."""

    def turn(seconds: float) -> int:
        deadline, readings = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            loop(batch)
            readings += batch
        end()
        return readings

    return turn


# ---- as they come ----------------------------------------------------------------------------------------------------


@contextmanager
def ours(directory: Path, columns: int) -> Iterator[Turn]:
    """`add`, and `sync` at the end."""
    loop = loop_of("add = it.add", "add({names})", columns)
    with scidaq.record(directory / "data", dict.fromkeys(names(columns), "V")) as rec:
        rec.add(dict.fromkeys(names(columns), VALUE), sync=True)
        yield again(lambda n: loop(rec, n), BATCH, rec.sync)


@contextmanager
def python(directory: Path, columns: int) -> Iterator[Turn]:
    """A list, and whenever it is long into a file, so that a turn ends in time."""
    rows: list[tuple[float, ...]] = []
    loop = loop_of("append = it.append", "append((now(), {values}))", columns)
    with open(directory / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)

        def gather(n: int) -> None:
            loop(rows, n)
            if len(rows) >= GATHERED:
                writer.writerows(rows)
                rows.clear()

        def end() -> None:
            writer.writerows(rows)
            rows.clear()
            file.flush()

        yield again(gather, BATCH, end)


@contextmanager
def csv_rows(directory: Path, columns: int) -> Iterator[Turn]:
    """A line each by the `csv` module."""
    values = (VALUE,) * columns
    with open(directory / "rows.csv", "w", newline="") as file:
        write, now = csv.writer(file).writerow, time.time

        def loop(n: int) -> None:
            for _ in range(n):
                write((now(), *values))

        yield again(loop, BATCH, file.flush)


@contextmanager
def pymeasure(directory: Path, columns: int) -> Iterator[Turn]:
    """Its formatter, and a file that is buffered: what its recorder does beyond that only makes it slower."""
    format_ = import_module("pymeasure.experiment.results").CSVFormatter(names(columns)).format
    with open(directory / "rows.csv", "w") as file:
        write, row = file.write, dict.fromkeys(names(columns), VALUE)

        def loop(n: int) -> None:
            for _ in range(n):
                write(format_(row) + "\n")

        yield again(loop, BATCH, file.flush)


@contextmanager
def qcodes(directory: Path, columns: int) -> Iterator[Turn]:
    """A measurement with a parameter per column; rows go to its database every 5 s, and at the end of a turn."""
    os.environ.setdefault("QCODES_USER_PATH", str(directory))
    dataset = import_module("qcodes.dataset")
    dataset.initialise_or_create_database_at(str(directory / "rows.db"), journal_mode="WAL")
    measurement = dataset.Measurement(exp=dataset.load_or_create_experiment("bench", "bench"))
    for name in names(columns):
        measurement.register_custom_parameter(name)
    results = [(name, VALUE) for name in names(columns)]
    with measurement.run() as saver:

        def loop(n: int) -> None:
            for _ in range(n):
                saver.add_result(*results)

        yield again(loop, 20, saver.flush_data_to_database)


@contextmanager
def bluesky(directory: Path, columns: int) -> Iterator[Turn]:
    """`count` of simulated detectors, one per column; its documents go nowhere."""
    count, signal = import_module("bluesky.plans").count, import_module("ophyd.sim").SynSignal
    engine = import_module("bluesky").RunEngine({})
    detectors = [signal(name=name, func=lambda: VALUE) for name in names(columns)]
    yield again(lambda n: engine(count(detectors, num=n)), 20)


# ---- each durable ----------------------------------------------------------------------------------------------------


@contextmanager
def our_durable(directory: Path, columns: int, threads: int = 1) -> Iterator[Turn]:
    """`add(..., sync=True)`, from so many threads."""
    loop = loop_of("add = it.add", "add({names}, sync=True)", columns)
    with scidaq.record(directory / "data", dict.fromkeys(names(columns), "V")) as rec:
        rec.add(dict.fromkeys(names(columns), VALUE), sync=True)
        one = again(lambda n: loop(rec, n), 5)
        if threads == 1:
            yield one
        else:
            yield lambda seconds: together(one, threads, seconds)


def together(turn: Turn, threads: int, seconds: float) -> int:
    """The same turn in several threads; how many readings in all."""
    readings: list[int] = []
    workers = [threading.Thread(target=lambda: readings.append(turn(seconds))) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(readings)


@contextmanager
def disk(directory: Path, columns: int) -> Iterator[Turn]:
    """64 bytes and fdatasync."""
    fd, data = os.open(directory / "rows", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644), bytes(64)

    def loop(n: int) -> None:
        for _ in range(n):
            os.write(fd, data)
            os.fdatasync(fd)

    yield again(loop, 5)
    os.close(fd)


@contextmanager
def csv_durable(directory: Path, columns: int) -> Iterator[Turn]:
    """A line, flushed and synced."""
    values = (VALUE,) * columns
    with open(directory / "rows.csv", "w", newline="") as file:
        write = csv.writer(file).writerow

        def loop(n: int) -> None:
            for _ in range(n):
                write((time.time(), *values))
                file.flush()
                os.fdatasync(file.fileno())

        yield again(loop, 5)


@contextmanager
def sqlite(directory: Path, columns: int) -> Iterator[Turn]:
    """A transaction each, WAL and synchronous = FULL."""
    with closing(sqlite3.connect(directory / "rows.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"CREATE TABLE rows (t REAL, {', '.join(f'{n} REAL' for n in names(columns))})")
        insert = f"INSERT INTO rows VALUES ({', '.join('?' * (columns + 1))})"
        values = (VALUE,) * columns

        def loop(n: int) -> None:
            for _ in range(n):
                database.execute(insert, (time.time(), *values))

        yield again(loop, 5)


US, US_DURABLE = "scidaq", "scidaq, add(sync=True)"
PYTHON, DISK = "a list, then csv", "64 B and fdatasync"
PYMEASURE, QCODES, BLUESKY = "PyMeasure CSV", "QCoDeS dataset", "bluesky count"
NEEDS = {PYMEASURE: "pymeasure", QCODES: "qcodes", BLUESKY: "bluesky"}
AS_THEY_COME: dict[str, Contestant] = {
    US: ours,
    PYTHON: python,
    "csv.writer": csv_rows,
    PYMEASURE: pymeasure,
    QCODES: qcodes,
    BLUESKY: bluesky,
}
DURABLE: dict[str, Contestant] = {
    US_DURABLE: our_durable,
    DISK: disk,
    "csv.writer, fdatasync each": csv_durable,
    "SQLite, FULL commit each": sqlite,
}
LIMITS = {PYTHON, DISK}
LONGER = 5
"""Turns of readings as they come are so much longer: each ends with what brings all of them to the disk."""
LEAST = {2: 400_000, 10: 200_000}
"""Readings per second as they come."""
TARGETS = {PYMEASURE: 3.0, QCODES: 40.0}
TARGET_DISK = 0.75


# ---- taking turns ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Took:
    """One turn."""

    readings: int
    seconds: float
    cpu_s: float

    @property
    def speed(self) -> float:
        """Readings per second."""
        return self.readings / self.seconds


def contestant(there: Connection, make: Contestant, directory: Path, *how: int) -> None:
    """What the process of a contestant does: its turns, until it is told None."""
    with make(directory, *how) as turn:
        there.send("ready")
        while (seconds := there.recv()) is not None:
            begin, cpu = time.monotonic(), time.process_time()
            readings = turn(seconds)
            there.send(Took(readings, time.monotonic() - begin, time.process_time() - cpu))


def missing(name: str) -> bool:
    """Whether a contestant needs a module that is not installed."""
    return name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None


def readings(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """2 columns, then 10; as they come, then each durable."""
    rows = []
    for columns in COLUMNS:
        rows += _one(f"readings, {columns} columns", AS_THEY_COME, columns, settings, say)
    for columns in COLUMNS:
        all_of_them = dict(DURABLE)
        if columns == COLUMNS[0]:
            all_of_them |= {f"{US}, {n} threads": _Many(n) for n in THREADS}
        rows += _one(f"durable readings, {columns} columns", all_of_them, columns, settings, say)
    return rows


@dataclass(frozen=True)
class _Many:
    """Ours from so many threads."""

    threads: int

    def __call__(self, directory: Path, columns: int) -> Any:
        return our_durable(directory, columns, self.threads)


def _one(
    benchmark: str, makers: dict[str, Contestant], columns: int, settings: Settings, say: Callable[[str], None]
) -> list[Row]:
    wanted = [name for name in makers if name in LIMITS or settings.wants(name)]
    here = [name for name in wanted if not missing(name)]
    took: dict[str, list[Took]] = {name: [] for name in here}
    with ExitStack() as stack:
        present: dict[str, Child] = {}
        for name in here:
            directory = stack.enter_context(fresh())
            present[name] = stack.enter_context(child(contestant, makers[name], directory, columns))
            stack.callback(present[name].tell, None)
        for one in present.values():
            one.hear()
        for number in range(settings.reading_turns + 1):  # the first is for warming up
            for name in random.sample(here, len(here)):
                present[name].tell(settings.turn_s * (1 if makers is not AS_THEY_COME else LONGER))
                turn: Took = present[name].hear()
                took[name] += [turn] if number else []
    rows = [_row(benchmark, name, columns, took) for name in here]
    for row in rows:
        say(f"{row.benchmark}: {row.who} {row.speed}")
    return rows + [Row(benchmark, name, remarks="not installed") for name in wanted if name not in here]


def _row(benchmark: str, name: str, columns: int, took: dict[str, list[Took]]) -> Row:
    mine = took[name]
    speeds = sorted(turn.speed for turn in mine)
    durable = DISK in took
    limit, us = (DISK, US_DURABLE) if durable else (PYTHON, US)
    of_limit = _ratio(name, limit, took)
    compared, target = f"{of_limit:.2g} × {limit}", ""
    if name == us:
        if durable:
            target = judged(f"≥ {TARGET_DISK} × {DISK}", of_limit >= TARGET_DISK)
        else:
            target = judged(f"≥ {LEAST[columns]:,}/s", median(speeds) >= LEAST[columns])
    elif us in took and name != limit:
        ratio = _ratio(us, name, took)
        compared += f"; {us} is {ratio:.2g} × this"
        if name in TARGETS:
            target = judged(f"{us} ≥ {TARGETS[name]:g} ×", ratio >= TARGETS[name])
        elif name.startswith(US):  # more threads
            target = judged("above one thread", ratio < 1)
    cpu = median(turn.cpu_s / turn.readings for turn in mine)
    remarks = f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}/s"
    return Row(benchmark, name, f"{median(speeds):,.0f}/s", f"{cpu * 1e6:.1f} µs each", compared, target, remarks)


def _ratio(one: str, other: str, took: dict[str, list[Took]]) -> float:
    """The median of what it was in each round: only neighbours can be compared."""
    return median(a.speed / b.speed for a, b in zip(took[one], took[other], strict=True))
