"""All at once: bulk ingest, an instrument polled at 1 kHz, five plots, and requests for the state of the station.

What goes on beside the ingest:
- `control`: 10 scalar channels of float64 at 1,000 rows a second;
- five plot processes (none where it says so), each of which looks at all channels of the fast stream over the live
  socket thirty times a second, as a browser does: minima and maxima of every 4 ms, folded by the station's own process;
- 100 requests a second over HTTP, each answered with all statistics as JSON by the station's own process.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson
import structlog

from bench import writers
from bench.asking import Asker
from bench.places import fresh
from bench.processes import Child, call, child
from bench.recording import PreparedDriver, digitizer, until
from bench.results import Row, judged, rate, size
from bench.settings import Settings
from bench.viewing import Door, Seen, look
from bench.writers import RAW, Work
from scidaq.block import Block
from scidaq.clock import SystemClock
from scidaq.instruments import Driver, WaveformDriver
from scidaq.station import InstrumentPlan, Station, StationPlan, StationStats
from scidaq.store import read_marks
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors

US, US_PACED = "scidaq, as fast as it goes", "scidaq, paced at 0.5 × raw"
US_UNSEEN = "scidaq, paced at 0.5 × raw, without plots"
STREAM = "adc/wave"
NOMINAL_BYTES_S = 2e9
PACED = 0.5
CONTROL = {"channels": 10, "dtype": "float64", "layout": "columns", "rate_hz": 1000.0, "block_s": 0.05}
VIEWERS, FRAMES_HZ, STEP_NS = 5, 30.0, 1 << 22
REQUESTS_HZ = 100.0
SETTLED_S = 1.0
"""Hand-overs before this do not count: files and buffers are being made."""
TARGET_RAW, TARGET_STALL_S = 0.5, 0.020


class WatchedDriver(PreparedDriver):
    """The prepared digitizer, which also looks at how long its thread is kept from reading."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._left = self._since = 0.0
        self._longest = self._many = 0.0
        self._times = 0

    def read(self, timeout_s: float) -> list[Block]:
        """As ever; from the end of one to the beginning of the next is the way of blocks into the ring."""
        now = time.monotonic()
        self._since = self._since or now
        if self._left and now - self._since > SETTLED_S:
            self._times += 1
            self._many += now - self._left
            self._longest = max(self._longest, now - self._left)
        blocks = list(super().read(timeout_s))
        self._left = time.monotonic() if blocks else 0.0
        return blocks

    def counted(self) -> dict[str, int]:
        """In the statistics of the instrument."""
        return {"longest_us": round(self._longest * 1e6), "sum_us": round(self._many * 1e6), "times": self._times}


# ---- the station ----------------------------------------------------------------------------------------------------


def _make(instrument: str, options: dict[str, Any], work: Work, clock: SystemClock) -> Driver:
    chosen = WaveformDriver.Options(**options)
    return (
        WatchedDriver(work, instrument, chosen, clock)
        if instrument == "adc"
        else WaveformDriver(instrument, chosen, clock)
    )


def _station(there: Connection, data_dir: Path, adc: dict[str, Any], work: Work) -> None:
    """Record and answer until told to stop, then say how it went."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock = SystemClock()
    plans = tuple(
        InstrumentPlan(name, partial(_make, name, options, work, clock), "waveform")
        for name, options in (("adc", adc), ("control", CONTROL))
    )
    with Station(StationPlan(data_dir, "bench", plans), clock) as one:
        server, security = ServerOptions(port=0, requests_per_second=0), SecurityOptions(keys=False)
        with open_doors(one, one.stats().uuid, KeyStore(data_dir, clock), server, security) as web:
            there.send(int(web.address.rpartition(":")[2]))
            there.recv()
            there.send(one.stats())
    there.send("stopped")


# ---- the others -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watched:
    """What became of something that was to happen at a rate."""

    per_s: float
    p95_s: float
    """Of how long one took; of a plot the time from frame to frame."""


def _every(there: Connection, rate_hz: float, act: Callable[[], object]) -> None:
    """Do it at a rate, or as often as it goes, from being told so until told again; then say how it went."""
    there.send("ready")
    there.recv()
    took: list[float] = []
    begin = due = time.monotonic()
    while not there.poll(max(0.0, due - time.monotonic())):
        start = time.monotonic()
        due = max(due + 1 / rate_hz, start)
        act()
        took.append(time.monotonic() - start)
    there.recv()
    there.send(Watched(len(took) / (time.monotonic() - begin), float(np.percentile(took or [0.0], 95))))


def _request(there: Connection, port: int) -> None:
    """Somebody who asks for the statistics."""
    asker = Asker(port, "/api/v1/stats")
    _every(there, REQUESTS_HZ, lambda: orjson.loads(asker.ask()))
    asker.close()


# ---- a run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mixed:
    """One run."""

    speed: float
    """Durable bytes of the fast stream per second."""
    cpu_s_per_gb: float
    """Of the station's process, with all that it does."""
    stall_s: float
    usual_s: float
    """Of the way into the ring: longest, mean."""
    lost_rows: int
    stats: StationStats
    plots: list[Watched]
    requests: Watched | None
    """None where nobody asked."""


def mixed(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """The disk alone, then with all of it: unpaced and paced; and paced without the plots."""
    work = Work("float64", settings.table_bytes, settings.warm_s, settings.mixed_s)
    alone = Work("float64", settings.table_bytes, settings.warm_s, settings.ingest_s)
    _raw(alone)  # for warming up
    limits: list[float] = []
    runs: dict[str, list[Mixed]] = {US: [], US_PACED: [], US_UNSEEN: []}
    for number in range(settings.mixed_rounds):
        limits.append(_raw(alone))
        for name in random.sample(list(runs), len(runs)):
            run = one_run(work, _adc(name, work, limits[-1]), 0 if name == US_UNSEEN else VIEWERS)
            runs[name].append(run)
            say(f"mixed round {number + 1}: {name} {rate(run.speed)}, longest stall {run.stall_s * 1e3:.1f} ms")
    return [_row(name, runs[name], limits) for name in runs] + [Row("mixed", RAW, rate(median(limits)))]


def _raw(work: Work) -> float:
    with fresh() as directory:
        return float(call(writers.run, RAW, work, directory).speed)


def _adc(name: str, work: Work, limit: float) -> dict[str, Any]:
    if name == US:
        return digitizer(work.dtype, unpaced=True, rate_hz=NOMINAL_BYTES_S / work.row_bytes)
    return digitizer(work.dtype, free_running=False, rate_hz=round(PACED * limit / work.row_bytes))


def one_run(work: Work, adc: dict[str, Any], viewers: int, *, asked: bool = True) -> Mixed:
    """So many plots, and requests where it is `asked`, beside a digitizer with these options."""
    with fresh() as directory, ExitStack() as stack:
        data_dir = directory / "data"
        station = stack.enter_context(child(_station, data_dir, adc, work))
        port = station.hear()
        marks = partial(read_marks, data_dir / "durable.map")
        until(lambda: STREAM in marks() and marks()[STREAM].durable_rows > 0, 30)
        asked_for = {"op": "subscribe", "id": 1, "stream": STREAM, "step_ns": str(STEP_NS), "fps": round(FRAMES_HZ)}
        door = Door(port, "/api/v1/live", "", orjson.dumps(asked_for).decode())
        others = [stack.enter_context(child(look, [door], True, 0)) for _ in range(viewers)]
        others += [stack.enter_context(child(_request, port))] if asked else []
        for one in others:
            one.hear()
        for one in others:
            one.tell("go")
        time.sleep(work.warm_s)
        begin, rows, cpu_s = time.monotonic(), marks()[STREAM].durable_rows, station.cpu_s()
        time.sleep(work.seconds)
        took, done = time.monotonic() - begin, (marks()[STREAM].durable_rows - rows) * work.row_bytes
        cpu_s = station.cpu_s() - cpu_s
        plots: list[Watched | None] = [_ended(one) for one in others]
        requests = plots.pop() if asked else None
        station.tell("stop")
        stats: StationStats = station.hear()
        station.hear()
    counts = next(i.counts for i in stats.instruments if i.instrument == "adc")
    book = next(s for s in stats.recorder.streams if s.stream == STREAM)
    return Mixed(
        done / took,
        cpu_s / done * 1e9 if done else math.inf,  # a disk may hang for the whole of a short run
        counts["longest_us"] / 1e6,
        counts["sum_us"] / 1e6 / max(1, counts["times"]),
        book.gap_rows,
        stats,
        [plot for plot in plots if plot is not None],
        requests,
    )


def _ended(one: Child) -> Watched:
    one.tell("stop")
    said: Watched | Seen = one.hear()
    if isinstance(said, Watched):
        return said
    return Watched(said.frames / said.seconds, float(np.percentile(said.waited_s or [said.seconds], 95)))


def _row(name: str, runs: list[Mixed], limits: list[float]) -> Row:
    of_raw = median(run.speed / limit for run, limit in zip(runs, limits, strict=True))
    stall, lost = max(run.stall_s for run in runs), sum(run.lost_rows for run in runs)
    if name == US:
        target = judged(f"≥ {TARGET_RAW} × raw", of_raw >= TARGET_RAW)
    else:
        good = lost == 0 and stall < TARGET_STALL_S
        target = judged(f"no lost row, stall < {TARGET_STALL_S * 1e3:.0f} ms", good)
    ring = max((r for run in runs for r in run.stats.rings if r.stream == STREAM), key=lambda r: r.peak_bytes)
    asked = median(run.requests.per_s for run in runs if run.requests is not None)
    asked_s = median(run.requests.p95_s for run in runs if run.requests is not None)
    wrong = [s.stream for run in runs for s in run.stats.recorder.streams if s.imbalance]
    seen = [plot for run in runs for plot in run.plots]
    plots = (
        f"{VIEWERS} plots at {median(p.per_s for p in seen):.0f} of {FRAMES_HZ:.0f} frames/s, "
        f"p95 {median(p.p95_s for p in seen) * 1e3:.0f} ms from one to the next; "
        if seen
        else ""
    )
    remarks = (
        f"into the ring: longest {stall * 1e3:.1f} ms, mean {median(r.usual_s for r in runs) * 1e3:.2f} ms; "
        f"{lost:,} rows in gaps, ring ≤ {size(ring.peak_bytes)} of {size(ring.capacity_bytes)}; {plots}"
        f"{asked:.0f} of {REQUESTS_HZ:.0f} requests/s, p95 {asked_s * 1e3:.1f} ms{', IMBALANCE' if wrong else ''}"
    )
    return Row(
        "mixed",
        name,
        rate(median(run.speed for run in runs)),
        f"{median(run.cpu_s_per_gb for run in runs):.2f} s/GB",
        f"{of_raw:.2f} × raw",
        target,
        remarks,
    )
