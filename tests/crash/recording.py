"""The station that is killed: many kinds of streams, small files, everything that a store does several times a second.

Runs in a process of its own, forked from one that has imported everything (`multiprocessing`'s fork server).
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from scidaq.catalog import NewRun
from scidaq.clock import SystemClock
from scidaq.instruments.waveform import Fault, WaveformDriver, WaveformOptions
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.store import Options, Policy
from scidaq.testing.crashing import CrashingFiles, Moment

INSTRUMENTS: dict[str, WaveformOptions] = {
    "fast": WaveformOptions(channels=16, rate_hz=150_000, block_s=0.01),
    "slow": WaveformOptions(channels=2, rate_hz=1000, dtype="float64", layout="columns", status=True, block_s=0.01),
    "small": WaveformOptions(channels=1, rate_hz=200, streams=4, dtype="float32", block_s=0.01, seed=1),
    "uneven": WaveformOptions(channels=2, rate_hz=500, irregular=True, layout="columns", block_s=0.01, seed=2),
    "faulty": WaveformOptions(
        channels=2,
        rate_hz=2000,
        block_s=0.01,
        seed=3,
        backfill=True,
        faults=(
            Fault("drop", 0.13, rows=7),
            Fault("duplicate", 0.17),
            Fault("conflict", 0.31),
            Fault("late", 0.11, rows=33),
            Fault("disconnect", 0.7, seconds=0.05),
        ),
    ),
    "restless": WaveformOptions(channels=1, rate_hz=1000, block_s=0.01, seed=4, free_running=False),
    "runs": WaveformOptions(channels=1, rate_hz=5000, block_s=0.01, seed=5),
    "never": WaveformOptions(channels=1, rate_hz=1000, block_s=0.01, seed=6),
    "bursts": WaveformOptions(
        channels=16, rate_hz=20_000, block_s=0.02, seed=7, faults=(Fault("lag", 0.4, seconds=0.15),)
    ),
}
POLICIES = {"runs": Policy.RUNS, "never": Policy.NEVER}


def plan_of(data_dir: Path, without: str = "") -> StationPlan:
    """The plan of the station, less one instrument."""
    clock = SystemClock()

    def instrument(name: str, options: WaveformOptions) -> InstrumentPlan:
        return InstrumentPlan(
            name,
            lambda: WaveformDriver(name, options, clock),
            "waveform",
            POLICIES.get(name, Policy.ALWAYS),
            pre_trigger_s=0.05 if name == "runs" else 0.0,
        )

    return StationPlan(
        data_dir,
        "crash",
        tuple(instrument(n, o) for n, o in INSTRUMENTS.items() if n != without),
        Options(sync_interval_ms=20, segment_bytes=1 << 18, journal_move_s=0.15),
    )


def record(data_dir: str, moment: str, without: str, tell: Connection) -> None:
    """Record until killed, or until asked to stop by SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    tell.send("opening")
    files = CrashingFiles(Moment.parse(moment)) if moment else None
    with Station(plan_of(Path(data_dir), without), files=files) as station:
        tell.send("recording")
        run = None
        while not stop.wait(0.13):
            if run is None:
                run = station.runs.start(NewRun("again"))
            else:
                station.runs.stop(run.id)
                run = None
        tell.send("stopping")
    tell.send("stopped")
