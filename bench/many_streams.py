"""A thousand slow streams: 10 channels of float64 each, a row per second each, every row durable within a second.

All instruments have the same rate and the same clock, so all rows come at the same moment: the hardest case.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.places import fresh, on_disk
from bench.processes import call
from bench.recording import Recording, recording, until
from bench.results import Row, judged, size
from bench.settings import Settings
from scidaq.store import BALLAST

CHANNELS, RATE_HZ = 10, 1.0
ROW_BYTES = 8 * CHANNELS
LOOK_S = 0.05
US, SQLITE, ARROW = "scidaq", "SQLite, a commit per row", "Arrow IPC stream per stream, fsync per row"
TARGET_LAG_S, TARGET_CPU, TARGET_BYTES, TARGET_DISK = 1.0, 0.30, 400e6, 3.0
STARTED_S = 3.0
"""After so long the files of all streams have been made."""


def many_streams(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Us, then what others need for the same rows."""
    count = settings.instruments * settings.streams
    name = f"{count:,} streams"
    rows: list[Row] = []
    if settings.wants(US):
        say(f"many_streams: {US} for {settings.streams_s:.0f} s")
        rows.append(_us(name, settings))
    for who, work in ((SQLITE, sqlite), (ARROW, arrow)):
        if settings.wants(who):
            with fresh() as directory:
                took_s, cpu_s, ratio = call(work, directory, count, settings.peer_s)
            say(f"many_streams: {who} {took_s:.2f} s per second of data")
            compared = f"{ratio:.1f} bytes on disk per byte"
            rows.append(Row(name, who, f"{took_s:.2f} s of work per s", f"{cpu_s:.1%} of a core", compared))
    return rows


# ---- us -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Watched:
    """What was seen from outside while it recorded."""

    lags_s: list[float] = field(default_factory=list)
    """Per look and stream that had moved: how old its newest durable row was."""
    waits_s: list[float] = field(default_factory=list)
    """Per look: the age of the oldest row that is not durable."""
    first_lag_s: float = 0.0
    """The worst while the files were made."""
    peak_bytes: int = 0
    cpu_s: float = 0.0
    seconds: float = 0.0


def _us(name: str, settings: Settings) -> Row:
    options = {
        "channels": CHANNELS,
        "dtype": "float64",
        "layout": "columns",
        "rate_hz": RATE_HZ,
        "streams": settings.streams,
        "block_rows": 1,
    }
    with fresh() as directory:
        data = directory / "data"
        instruments = {f"inst{i}": options | {"seed": i} for i in range(settings.instruments)}
        with recording(data, instruments) as station:
            seen = _watch(station, settings)
            running = _occupied(data) / (ROW_BYTES * _durable_rows(station))
            stats = station.stop()
            rows = _durable_rows(station)
            stopped = _occupied(data) / (ROW_BYTES * rows)
    cpu = seen.cpu_s / seen.seconds
    good = max(seen.lags_s, default=9.9) <= TARGET_LAG_S and cpu <= TARGET_CPU and seen.peak_bytes <= TARGET_BYTES
    writing = stats.recorder.writing
    return Row(
        name,
        US,
        f"durable after {max(seen.lags_s, default=0):.2f} s",
        f"{cpu:.1%} of a core",
        f"{running:.1f} bytes on disk per byte, {stopped:.1f} when stopped",
        judged(f"≤ {TARGET_LAG_S:.0f} s, ≤ {TARGET_CPU:.0%}, ≤ {TARGET_BYTES / 1e6:.0f} MB", good),
        f"median {median(seen.lags_s or [0]):.2f} s, at the start {seen.first_lag_s:.2f} s, "
        f"peak memory {size(seen.peak_bytes)}, {rows:,} rows in {seen.seconds:.0f} s, "
        f"{writing.syncs / max(1, seen.seconds):.1f} syncs/s, worst sync {writing.worst_sync_s * 1e3:.0f} ms",
    )


def _occupied(data_dir: Path) -> int:
    """What the data take: all but the file that keeps room for closing cleanly, whose size is the same for ever."""
    ballast = data_dir / BALLAST
    return on_disk(data_dir) - (ballast.stat().st_blocks * 512 if ballast.exists() else 0)


def _durable_rows(station: Recording) -> int:
    return sum(mark.durable_rows for mark in station.marks().values())


def _watch(station: Recording, settings: Settings) -> _Watched:
    """Look at all marks every 50 ms: a row's lag ends at the first look that finds it durable."""
    count = settings.instruments * settings.streams
    until(lambda: len(station.marks()) >= count, 60, LOOK_S)
    seen, indices = _Watched(), dict.fromkeys(station.marks(), 0)
    begin = time.monotonic()
    settled = begin + min(STARTED_S, settings.streams_s / 4)
    started: tuple[float, float] | None = None
    while (now := time.monotonic()) < begin + settings.streams_s:
        if started is None and now >= settled:
            started = now, station.process.cpu_s()
        wall = time.time_ns()
        for stream, mark in station.marks().items():
            if mark.durable_index > indices[stream] > 0 or (mark.durable_index > 0 and indices[stream] == 0):
                oldest_ns = mark.last_ns - (mark.durable_index - max(indices[stream], 1) - 1) * int(1e9 / RATE_HZ)
                lag = (wall - oldest_ns) / 1e9
                if indices[stream] == 0 or started is None:
                    seen.first_lag_s = max(seen.first_lag_s, lag)
                else:
                    seen.lags_s.append(lag)
                indices[stream] = mark.durable_index
        seen.peak_bytes = max(seen.peak_bytes, station.process.memory_bytes())
        time.sleep(LOOK_S)
    since, cpu_s = started or (begin, 0.0)
    seen.cpu_s, seen.seconds = station.process.cpu_s() - cpu_s, time.monotonic() - since
    return seen


# ---- others ---------------------------------------------------------------------------------------------------------


def sqlite(directory: Path, streams: int, seconds: float) -> tuple[float, float, float]:
    """Seconds of work and of CPU per second of data, and bytes on disk per byte of data."""
    path = directory / "data.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        columns = ", ".join(f"ch{c} REAL" for c in range(CHANNELS))
        db.execute(f"CREATE TABLE rows (stream INTEGER, t INTEGER, {columns}, PRIMARY KEY (stream, t)) WITHOUT ROWID")
        insert = f"INSERT INTO rows VALUES ({', '.join('?' * (CHANNELS + 2))})"
        values = [0.1 * c for c in range(CHANNELS)]

        def keep(stream: int, second: int) -> None:
            db.execute(insert, (stream, second, *values))

        took = _work(keep, streams, seconds)
    return took[0], took[1], on_disk(directory) / (ROW_BYTES * took[2])


def arrow(directory: Path, streams: int, seconds: float) -> tuple[float, float, float]:
    """The same with a file per stream."""
    import pyarrow as pa

    _allow_files(streams + 100)
    schema = pa.schema([("time", pa.timestamp("ns")), *((f"ch{c}", pa.float64()) for c in range(CHANNELS))])
    columns = [pa.array([0], pa.timestamp("ns")), *(pa.array([0.1 * c]) for c in range(CHANNELS))]
    batch = pa.record_batch(columns, schema=schema)
    with ExitStack() as stack:
        files = [stack.enter_context(open(directory / f"{n}.arrows", "wb", buffering=0)) for n in range(streams)]
        made = [stack.enter_context(pa.ipc.new_stream(file, schema)) for file in files]

        def keep(stream: int, second: int) -> None:
            made[stream].write_batch(batch)
            os.fsync(files[stream].fileno())

        took = _work(keep, streams, seconds)
    return took[0], took[1], on_disk(directory) / (ROW_BYTES * took[2])


def _work(keep: Callable[[int, int], None], streams: int, seconds: float) -> tuple[float, float, int]:
    """Keep rows of all streams in turn for a while; seconds of work and of CPU per second of data, and the rows."""
    begin, cpu, rows = time.monotonic(), time.process_time(), 0
    while time.monotonic() - begin < seconds:
        keep(rows % streams, rows // streams)
        rows += 1
    data_s = rows / (streams * RATE_HZ)
    return (time.monotonic() - begin) / data_s, (time.process_time() - cpu) / data_s, rows


def _allow_files(count: int) -> None:
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
