"""A scrape of the metrics while 100 streams record: what it takes, and how long nobody else has the interpreter."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import structlog

from bench.places import fresh
from bench.processes import child
from bench.results import Row, judged
from bench.settings import Settings
from scidaq.clock import SystemClock
from scidaq.instruments import WaveformDriver
from scidaq.station import InstrumentPlan, Station, StationPlan

INSTRUMENTS, STREAMS = 10, 10
TARGET_S, TARGET_HOLD_S = 0.030, 0.005
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
SETTLED_S = 3.0


def scrape(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Both formats."""
    rows = []
    for kind, accept in (("Prometheus", ""), ("OpenMetrics", OPEN_METRICS)):
        with fresh() as directory, child(_station, directory / "data", accept, settings.scrapes) as process:
            took, held, held_before, size = process.hear()
        row = Row(
            "scrape",
            f"scidaq, {INSTRUMENTS * STREAMS} streams, {kind}",
            f"{median(took) * 1e3:.1f} ms",
            target=judged(
                f"≤ {TARGET_S * 1e3:.0f} ms, ≤ {TARGET_HOLD_S * 1e3:.0f} ms at a time",
                median(took) <= TARGET_S and median(held) <= TARGET_HOLD_S,
            ),
            remarks=f"worst of {len(took)} {max(took) * 1e3:.1f} ms; longest hold of the interpreter, median "
            f"{median(held) * 1e3:.2f} ms ({median(held_before) * 1e3:.2f} ms without a scrape); {size:,} bytes",
        )
        say(f"{row.who}: {row.speed}, {row.remarks}")
        rows.append(row)
    return rows


def _station(there: Connection, data_dir: Path, accept: str, scrapes: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock = SystemClock()
    plans = tuple(InstrumentPlan(f"inst{i}", partial(_make, i, clock), "waveform") for i in range(INSTRUMENTS))
    with Station(StationPlan(data_dir, "bench", plans), clock) as station:
        time.sleep(SETTLED_S)
        station.metrics.render(accept)
        took, held, without, size = [], [], [], 0
        for _ in range(scrapes):
            with Onlooker() as onlooker:
                time.sleep(0.02)
            without.append(onlooker.longest_s)
            with Onlooker() as onlooker:
                begin = time.perf_counter()
                size = len(station.metrics.render(accept)[0])
                took.append(time.perf_counter() - begin)
            held.append(onlooker.longest_s)
    there.send((took, held, without, size))


def _make(number: int, clock: SystemClock) -> WaveformDriver:
    options = WaveformDriver.Options(channels=10, rate_hz=10, layout="columns", streams=STREAMS, seed=number)
    return WaveformDriver(f"inst{number}", options, clock)


class Onlooker:
    """A thread that wants the interpreter all the time, and notes for how long it could not have it."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._stop = False
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        before = time.perf_counter()
        while not self._stop:
            time.sleep(0.0002)
            now = time.perf_counter()
            self.longest_s, before = max(self.longest_s, now - before - 0.0002), now

    def __enter__(self) -> Onlooker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()
