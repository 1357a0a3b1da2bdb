"""Watches a station from another process: what it takes of the machine, once a second, and whether that grows."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from scidaq.query import Reader
from scidaq.store import verify
from tests.soak.station import record

SETTLED = 0.25
"""The part of the time before things are expected to be flat: caches fill, every fault comes for the first time."""
MEMORY_BYTES, MEMORY_SHARE = 16 << 20, 0.05
"""How much the memory may differ between the second and the last quarter of the time: the larger of the two."""
DESCRIPTORS = THREADS = 3
JUDGED_S = 600.0
"""A shorter soak says nothing of growth: buffers and caches are still filling."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How it stood at one moment."""

    t_s: float
    memory_bytes: int
    descriptors: int
    threads: int
    cpu: float
    """Cores."""
    rows: int
    """Durable rows, from the marks, in the present epochs."""
    waiting_bytes: int
    queue: int
    gap_rows: int
    failures: int
    epochs: int


@dataclass
class Outcome:
    """What a soak showed."""

    samples: list[Sample] = field(default_factory=list)
    rows: int = 0
    gap_rows: int = 0
    reads: int = 0
    """How often another process read the newest rows."""
    refused: int = 0
    slowed: int = 0
    failures: int = 0
    epochs: int = 0
    grown_bytes: int = 0
    memory_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def csv(self) -> str:
        names = [f.name for f in fields(Sample)]
        return "\n".join([",".join(names), *(",".join(f"{getattr(s, n)}" for n in names) for s in self.samples)]) + "\n"

    def remarks(self) -> str:
        return (
            f"{self.failures:,} refused writes and syncs, {self.slowed:,} slow syncs, {self.epochs:,} epochs, "
            f"{self.gap_rows:,} rows in gaps, all accounted for; memory {self.memory_bytes / (1 << 20):,.0f} MiB, "
            f"{self.grown_bytes / (1 << 20):+,.1f} MiB from the second quarter to the last"
        )

    def __str__(self) -> str:
        said = "\n".join(self.problems) or "all is well"
        return f"{self.rows:,} rows; {self.remarks()}; {self.reads} reads meanwhile\n{said}"


def soak(seconds: float, place: Path, say: Callable[[str], None]) -> Outcome:
    """Record for so long, in a directory that is removed afterwards when all is well."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    data_dir, out = place / "data", Outcome()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=record, args=(str(data_dir), there), daemon=True)
    process.start()
    there.close()
    try:
        if here.recv() != "recording":
            raise RuntimeError("the station did not start")
        _watch(seconds, psutil.Process(process.pid), here, data_dir, out, say)
        here.send("stop")
        end = here.recv()
        out.refused, out.slowed = end["refused"], end["slowed"]
    finally:
        process.join(120)
        if process.is_alive():
            process.kill()
    if process.exitcode != 0:
        out.problems.append(f"the station ended with {process.exitcode}")
    _account(data_dir, out)
    _judge(out)
    if not out.problems:
        shutil.rmtree(place)
    return out


def _watch(
    seconds: float, process: psutil.Process, here: Any, data_dir: Path, out: Outcome, say: Callable[[str], None]
) -> None:
    began, reader, turn = time.monotonic(), Reader(data_dir), 0
    process.cpu_percent()
    while (now := time.monotonic() - began) < seconds:
        here.send("how")
        stats = here.recv()
        rows = sum(s.rows for s in reader.streams()) if turn % 10 == 0 else out.samples[-1].rows
        out.samples.append(
            Sample(
                round(now, 2),
                process.memory_info().rss,
                process.num_fds(),
                process.num_threads(),
                process.cpu_percent() / 100,
                rows,
                stats["waiting_bytes"],
                stats["queue"],
                stats["gap_rows"],
                stats["failures"],
                stats["epochs"],
            )
        )
        if stats["imbalance"]:
            out.problems.append(f"after {now:.0f} s {stats['imbalance']} rows are in no account")
        if turn % 60 == 0:
            s = out.samples[-1]
            say(
                f"{now:6.0f} s: {s.memory_bytes >> 20} MiB, {s.descriptors} descriptors, {s.threads} threads, "
                f"{s.cpu:.2f} cores, {s.rows:,} rows, {s.failures} failures"
            )
        names = reader.names()
        if names and turn % 3 == 0:  # somebody looks at the newest rows of something
            reader.last(names[turn // 3 % len(names)], rows=1000)
            out.reads += 1
        out.failures, out.epochs = stats["failures"], stats["epochs"]
        turn += 1
        time.sleep(max(0.0, began + turn - time.monotonic()))


def _account(data_dir: Path, out: Outcome) -> None:
    """Read everything again."""
    report = verify(data_dir)
    out.problems += [str(p) for p in report.problems]
    out.problems += [f"unbalanced: {b}" for b in report.balances if not b.balanced or b.ledger.imbalance]
    out.rows = sum(b.ledger.recorded for b in report.balances)
    out.gap_rows = sum(b.ledger.gaps for b in report.balances)


def _judge(out: Outcome) -> None:
    """Whether anything has grown between the second quarter and the last, where that says something."""
    n = len(out.samples)
    early, late = out.samples[int(SETTLED * n) : n // 2], out.samples[-int(SETTLED * n) :]
    if not early or not late or out.samples[-1].t_s < JUDGED_S:
        return
    before, after = _typical(early, "memory_bytes"), _typical(late, "memory_bytes")
    out.memory_bytes, out.grown_bytes = after, after - before
    if after - before > max(MEMORY_BYTES, MEMORY_SHARE * before):
        out.problems.append(f"memory has grown from {before:,} to {after:,} bytes")
    for name, most in (("descriptors", DESCRIPTORS), ("threads", THREADS)):
        if (grown := _typical(late, name) - _typical(early, name)) > most:
            out.problems.append(f"{name} have grown by {grown}")


def _typical(samples: Sequence[Sample], name: str) -> int:
    return int(median(getattr(s, name) for s in samples))
