"""Bulk ingest: 8 channels, 8192 rows a block, data prepared in advance, from the driver to the disk.

The limit is the disk itself, written by O_DIRECT in 4 MiB pieces and synced every 200 ms. We go the whole way: driver,
intake, ring, recorder with its checksums, group commit every 200 ms. An unpaced driver makes rows faster than any disk
takes them, so the ring is full and refuses the rest; what counts is what became durable.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import writers
from bench.machine import warm
from bench.places import fresh
from bench.processes import call
from bench.recording import digitizer, recording, until
from bench.results import Row, judged, rate, size
from bench.settings import Settings
from bench.surviving import READERS, SURVIVES, after_a_kill
from bench.writers import OTHERS, RAW, WRITERS, Outcome, Work
from scidaq.station import StationStats

US, US_PACED = "scidaq", "scidaq, paced at 0.8 × raw"
PACED = 0.8
TARGET_RAW, TARGET_DIRECT, TARGET_OTHERS, TARGET_CPU = 0.8, 1.1, 1.6, 0.5
NOMINAL_BYTES_S = 2e9
"""What an unpaced driver is said to deliver: from it follows the size of the ring."""
STREAM = "adc/wave"


Outcomes = dict[str, dict[int, Outcome]]
"""Of each contestant, by the number of the round."""


def ingest(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Both sample types."""
    say(f"ingest: {size(call(warm, settings.memory_s))} of memory touched")
    fates = _fates(settings, say)
    return [row for dtype in ("float64", "int16") for row in _one(dtype, fates, settings, say)]


def _fates(settings: Settings, say: Callable[[str], None]) -> dict[str, str]:
    """What is left of each one's files after a kill: the worst of a few trials."""
    work, fates = Work("float64", settings.table_bytes // 4, 0.0, 0.0), {}
    for name in READERS:
        if settings.wants(name) and not writers.missing(name):
            said = [after_a_kill(name, work) for _ in range(settings.kills)]
            fates[name] = next((one for one in said if one != SURVIVES), SURVIVES)
            say(f"ingest: {name} {fates[name]}")
    return fates


def _one(dtype: str, fates: dict[str, str], settings: Settings, say: Callable[[str], None]) -> list[Row]:
    work = Work(dtype, settings.table_bytes, settings.warm_s, settings.ingest_s)
    wanted = [n for n in WRITERS if (n == RAW or settings.wants(n)) and (dtype == "float64" or n not in OTHERS)]
    names = [n for n in (US, US_PACED) if settings.wants(n)] + [n for n in wanted if not writers.missing(n)]
    outcomes: Outcomes = {name: {} for name in names}
    limit = _run(RAW, work, 0.0).speed  # the first of all runs is for warming up, and for the pace
    for number in range(settings.rounds):
        takers = [n for n in names if n not in OTHERS or number < settings.other_rounds]
        for name in random.sample(takers, len(takers)):
            outcome = outcomes[name][number] = _run(name, work, limit)
            say(f"ingest {dtype} round {number + 1}: {name} {rate(outcome.speed)} {outcome.cpu_s_per_gb:.2f} s/GB")
        limit = median(o.speed for o in outcomes[RAW].values())
    rows = [_row(dtype, name, outcomes, fates.get(name, "")) for name in names]
    return rows + [Row(f"ingest {dtype}", name, remarks="not installed") for name in wanted if name not in names]


def _run(name: str, work: Work, limit: float) -> Outcome:
    with fresh() as directory:
        if name == US:
            options = digitizer(work.dtype, unpaced=True, rate_hz=NOMINAL_BYTES_S / work.row_bytes)
            return _recorded(work, directory, options)
        if name == US_PACED:
            options = digitizer(work.dtype, free_running=False, rate_hz=round(PACED * limit / work.row_bytes))
            return _recorded(work, directory, options)
        outcome: Outcome = call(writers.run, name, work, directory)
        return outcome


def _recorded(work: Work, directory: Path, options: dict[str, object]) -> Outcome:
    outcome, stats = record(work, directory / "data", options)
    return replace(outcome, remarks=_remarks(stats))


def record(work: Work, data_dir: Path, options: dict[str, object], **how: Any) -> tuple[Outcome, StationStats]:
    """What the durable marks say, from one of them to another, as seen by another process; and how it ended."""
    with recording(data_dir, {"adc": options}, work, **how) as station:
        durable = 0

        def moved() -> bool:
            nonlocal durable
            mark = station.marks().get(STREAM)
            before, durable = durable, mark.durable_rows if mark is not None else 0
            return durable > before

        until(moved, 30)
        time.sleep(work.warm_s)
        moved()
        until(moved, 30)
        begin, rows, cpu_s = time.monotonic(), durable, station.process.cpu_s()
        time.sleep(work.seconds)
        moved()
        until(moved, 30)
        took = time.monotonic() - begin
        done, cpu_s = (durable - rows) * work.row_bytes, station.process.cpu_s() - cpu_s
        stats = station.stop()
    return Outcome(done, took, cpu_s, stats.recorder.writing.worst_sync_s), stats


def _remarks(stats: StationStats) -> str:
    ring, writing, book = stats.rings[0], stats.recorder.writing, stats.recorder.streams[0]
    mean = writing.sync_s / max(1, writing.syncs)
    refused = ring.refused_rows / max(1, ring.rows + ring.refused_rows)
    wrong = f", IMBALANCE {book.imbalance}" if book.imbalance else ""
    return (
        f"ring ≤ {size(ring.peak_bytes)} of {size(ring.capacity_bytes)}, {refused:.0%} refused, "
        f"sync {mean * 1e3:.0f} ms{wrong}"
    )


def _row(dtype: str, name: str, outcomes: Outcomes, fate: str) -> Row:
    mine = list(outcomes[name].values())
    of_raw, cpu = _ratio(name, RAW, outcomes), median(o.cpu_s_per_gb for o in mine)
    spread = f"{rate(min(o.speed for o in mine))} to {rate(max(o.speed for o in mine))}" if len(mine) > 1 else ""
    worst = f"worst sync {max(o.worst_sync_s for o in mine) * 1e3:.0f} ms"
    compared, target = f"{of_raw:.2f} × raw", ""
    if name == US:
        target = judged(f"≥ {TARGET_RAW} × raw", of_raw >= TARGET_RAW)
    elif name == US_PACED:
        target = judged(f"≤ {TARGET_CPU} s/GB", cpu <= TARGET_CPU)
    elif US in outcomes and name != RAW:
        ours = _ratio(US, name, outcomes)
        compared += f"; scidaq is {ours:.2f} × this"
        least = TARGET_DIRECT if "direct chunks" in name else TARGET_OTHERS if fate == SURVIVES else 0.0
        if least and dtype == "float64":
            target = judged(f"scidaq ≥ {least} ×", ours >= least)
    remarks = ", ".join(part for part in (mine[-1].remarks, fate, worst, spread) if part)
    return Row(
        f"ingest {dtype}", name, rate(median(o.speed for o in mine)), f"{cpu:.2f} s/GB", compared, target, remarks
    )


def _ratio(one: str, other: str, outcomes: Outcomes) -> float:
    """The median of what it was in each round that both took part in: only neighbours can be compared."""
    both = outcomes[one].keys() & outcomes[other].keys()
    return median(outcomes[one][number].speed / outcomes[other][number].speed for number in both)
