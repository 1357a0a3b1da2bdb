"""The station that is watched: its instruments, and the disk and the clock that give it trouble."""

from __future__ import annotations

import errno
import logging
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from scidaq.clock import Anchor, SystemClock
from scidaq.instruments import Multimeter
from scidaq.instruments.host import HostDriver
from scidaq.instruments.scpi import ScpiChannel, ScpiDriver, ScpiOptions, ScpiStream
from scidaq.instruments.waveform import Fault, WaveformDriver, WaveformOptions
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.store import Options
from scidaq.testing.crashing import WatchedFiles

DIGITIZER = WaveformOptions(channels=8, rate_hz=1_000_000, block_s=0.01)
"""16 MB/s: half an hour of it is 29 GB, which still fits on a disk."""
SLOW = WaveformOptions(channels=10, rate_hz=10, dtype="float64", layout="columns", block_s=0.1)
MANY = WaveformOptions(channels=10, rate_hz=1, streams=100, dtype="float64", layout="columns", block_s=1.0, seed=1)
FAULTY = WaveformOptions(
    channels=2,
    rate_hz=5000,
    seed=2,
    backfill=True,
    faults=(
        Fault("drop", 7.3, rows=11),
        Fault("duplicate", 5.1),
        Fault("late", 3.7, rows=50),
        Fault("disconnect", 23.0, seconds=0.5),
        Fault("hang", 61.0, seconds=4.0),
    ),
)
REFUSES_S, REFUSED_S = 47.0, 1.5
SLOW_S, SLOWED_S, SYNC_S = 31.0, 3.0, 0.3
STEP_S, STEP_NS = 113.0, 2_000_000_000


class SteppedClock(SystemClock):
    """The machine's clock, whose wall clock is put forward by 2 s now and then."""

    def __init__(self) -> None:
        self._off_ns, self._began_s = 0, time.monotonic()
        super().__init__()

    def _take(self) -> Anchor:
        seen = super()._take()
        steps = int((time.monotonic() - self._began_s) / STEP_S)
        return Anchor(seen.wall_ns + steps * STEP_NS, seen.steady_ns, seen.uncertainty_ns, seen.boot_id)


class TroubledDisk:
    """Refuses everything for a moment, now and then, and is slow at other times."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self.refused = self.slowed = 0

    def __call__(self, verb: str, kind: str, n: int, path: Path) -> None:
        now = time.monotonic() - self._began_s
        if kind not in ("segment", "journal") or now < 5:
            return
        if verb in ("append", "sync", "create") and now % REFUSES_S < REFUSED_S:
            self.refused += 1
            raise OSError(errno.EIO, "made up")
        if verb == "sync" and now % SLOW_S < SLOWED_S:
            self.slowed += 1
            time.sleep(SYNC_S)


def plan_of(data_dir: Path, clock: SystemClock, multimeter: str) -> StationPlan:
    def waveform(name: str, options: WaveformOptions) -> InstrumentPlan:
        return InstrumentPlan(name, partial(WaveformDriver, name, options, clock), "waveform")

    volts = ScpiChannel("voltage", "MEAS:VOLT:DC?", unit="V")
    scpi = ScpiOptions(multimeter, (ScpiStream("readings", (volts,), rate_hz=10),))
    return StationPlan(
        data_dir,
        "soak",
        (
            waveform("adc", DIGITIZER),
            *(waveform(f"slow{i}", SLOW) for i in range(10)),
            waveform("many", MANY),
            waveform("faulty", FAULTY),
            InstrumentPlan("dmm", partial(ScpiDriver, "dmm", scpi, clock), "scpi"),
            InstrumentPlan("host", partial(HostDriver, "host", HostDriver.Options(), clock), "host"),
        ),
        Options(segment_bytes=64 << 20),
    )


def record(data_dir: str, tell: Connection) -> None:
    """Record until told to stop; answers every other word with how it stands."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    clock, disk = SteppedClock(), TroubledDisk()
    with Multimeter() as multimeter:
        plan = plan_of(Path(data_dir), clock, multimeter.address)
        with Station(plan, clock, WatchedFiles(disk)) as station:
            _answer(station, tell)
    tell.send({"refused": disk.refused, "slowed": disk.slowed})


def _answer(station: Station, tell: Connection) -> None:
    tell.send("recording")
    while tell.recv() != "stop":
        stats = station.stats()
        tell.send(
            {
                "waiting_bytes": sum(r.held_bytes for r in stats.rings),
                "refused_rows": sum(r.refused_rows for r in stats.rings),
                "queue": stats.recorder.writing.queue,
                "syncs": stats.recorder.writing.syncs,
                "worst_sync_s": stats.recorder.writing.worst_sync_s,
                "failures": stats.recorder.writing.failures,
                "imbalance": sum(abs(s.imbalance) for s in stats.recorder.streams),
                "gap_rows": sum(s.gap_rows for s in stats.recorder.streams),
                "epochs": sum(s.epoch + 1 for s in stats.recorder.streams),
                "reconnects": sum(i.reconnects for i in stats.instruments),
                "threads": threading.active_count(),
            }
        )
