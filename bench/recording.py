"""A station in a process of its own, watched from outside by its durable marks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from bench.processes import Child, child
from bench.writers import CHANNELS, ROWS, Work, samples
from scidaq.block import StreamSpec
from scidaq.clock import SystemClock
from scidaq.instruments import Driver, WaveformDriver
from scidaq.station import InstrumentPlan, Station, StationPlan, StationStats
from scidaq.store import Files, Mark, Options, read_marks, system_files


class _Prepared:
    """The samples that all contestants write, in the place of the driver's own small table."""

    def __init__(self, work: Work) -> None:
        self.memory, self.values = samples(work)
        self.length = len(self.values)
        self.columns = (self.values,)


class PreparedDriver(WaveformDriver):
    """The simulated digitizer, with samples that no cache holds."""

    def __init__(self, work: Work, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._work = work

    def arm(self) -> Sequence[StreamSpec]:
        """As ever, then other values."""
        prepared = _Prepared(self._work)
        specs = super().arm()
        self._table = prepared  # type: ignore[assignment]
        return specs


def _make(instrument: str, options: dict[str, Any], work: Work | None, clock: SystemClock) -> Driver:
    chosen = WaveformDriver.Options(**options)
    if work is None:
        return WaveformDriver(instrument, chosen, clock)
    return PreparedDriver(work, instrument, chosen, clock)


def _record(
    there: Connection,
    data_dir: Path,
    instruments: dict[str, dict[str, Any]],
    work: Work | None,
    storage: Options,
    files: Callable[[], Files],
) -> None:
    """What the process does: record until told to stop, then say how it went."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock = SystemClock()
    plans = tuple(InstrumentPlan(i, partial(_make, i, o, work, clock), "waveform") for i, o in instruments.items())
    begin = time.monotonic()
    with Station(StationPlan(data_dir, "bench", plans, storage), clock, files()) as station:
        there.send(time.monotonic() - begin)
        there.recv()
        there.send(station.stats())
    there.send("stopped")


class Recording:
    """A station that records."""

    def __init__(self, process: Child, data_dir: Path, open_s: float) -> None:
        self.process, self.data_dir = process, data_dir
        self.open_s = open_s
        """How long it took to open."""

    def marks(self) -> dict[str, Mark]:
        """How far each stream is durable."""
        return read_marks(self.data_dir / "durable.map")

    def stop(self) -> StationStats:
        """How it stood; everything is durable and sealed on return."""
        self.process.tell("stop")
        stats: StationStats = self.process.hear()
        self.process.hear()
        return stats


@contextmanager
def recording(
    data_dir: Path,
    instruments: dict[str, dict[str, Any]],
    work: Work | None = None,
    storage: Options | None = None,
    files: Callable[[], Files] = system_files,
) -> Iterator[Recording]:
    """A station with `waveform` instruments by id, from before its first row on."""
    with child(_record, data_dir, instruments, work, storage or Options(), files) as process:
        yield Recording(process, data_dir, process.hear())


def digitizer(dtype: str, **options: Any) -> dict[str, Any]:
    """Options of the digitizer of `ingest`."""
    return {"channels": CHANNELS, "dtype": dtype, "block_rows": ROWS, **options}


def until(done: Callable[[], bool], timeout_s: float, every_s: float = 0.005) -> None:
    """Look again and again. Raises `TimeoutError`."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("the station does not record")
        time.sleep(every_s)
