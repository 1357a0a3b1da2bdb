"""A month of samples, zoomed: any range of a long stream as a plot of 2,000 pixels asks for it, over HTTP.

The store is written by our own segment writer: `adc/one` has one channel of int16, `adc/eight` eight of int8 and half
as many rows (so that they fit on a disk), in batches of 24,000 rows as a slow stream moves them from the journal, in
segments of 128 MiB. Summaries are made as a station makes them. Then a station serves it, and a client asks for ranges:
the whole of it, and others of every length down to a second, at random places.

*Cold*: before each request the system is told to forget the pages of every file of the store (`posix_fadvise`); how
much is then read from the disk is told. *Warm*: the same range once more. Times are those of the client, from request
to the last byte. Files are counted where the server opens them.

*Scan* is a range without summaries: 10 million float64 in memory, as buckets of ours, and as tsdownsample finds their
extremes. Both do so in one thread.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import structlog

from bench.asking import Asker
from bench.places import fresh, on_disk
from bench.processes import Child, call, child
from bench.results import Row, judged, rate
from bench.settings import Settings
from scidaq.block import NS, Block, Channel, Epoch, Ledger, Schema
from scidaq.catalog import Catalog
from scidaq.clock import SystemClock
from scidaq.query import Builder, Fold, Position, Pyramid
from scidaq.station import Station, StationPlan
from scidaq.store import (
    Buffers,
    Files,
    SegmentName,
    SegmentWriter,
    catch_up,
    make_directory,
    open_station,
    recover,
    system_files,
)
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors

RATE_HZ = 400
BATCH_ROWS = 24_000
SEGMENT_BYTES = 128 << 20
WIDTH = 2000
SHORTEST_ROWS = 400
"""A second of the stream on the screen."""
SCAN_ROWS = 10_000_000
SCAN_TARGET = 1.3
TSDOWNSAMPLE = "tsdownsample MinMax"


@dataclass(frozen=True, slots=True)
class Kind:
    """A stream of the store."""

    stream: str
    channels: int
    dtype: str
    share: int
    """It has one in so many of the rows."""
    cold_s: float
    warm_s: float
    """What 95 of 100 requests may take."""

    def rows(self, settings: Settings) -> int:
        """How many it has, whole batches."""
        return max(1, settings.zoom_rows // self.share // BATCH_ROWS) * BATCH_ROWS

    @property
    def schema(self) -> Schema:
        """Of its rows."""
        names = ["a"] if self.channels == 1 else [f"ch{c}" for c in range(self.channels)]
        return Schema(tuple(Channel(name, self.dtype, "1") for name in names), Fraction(RATE_HZ))


KINDS = (Kind("adc/one", 1, "int16", 1, 0.050, 0.005), Kind("adc/eight", 8, "int8", 2, 0.100, 0.005))
FILES_TARGET = 4


# ---- the store -------------------------------------------------------------------------------------------------------


def _samples(kind: Kind) -> list[Any]:
    """A table of each channel that batches are taken from: a slow wave, noise, and a spike here and there."""
    rng = np.random.default_rng(kind.channels)
    high = np.iinfo(kind.dtype).max
    out = []
    for _ in range(kind.channels):
        wave = np.sin(np.arange(BATCH_ROWS * 8) * rng.uniform(1e-5, 1e-3)) * high * 0.5
        wave += rng.standard_normal(len(wave)) * high * 0.05
        wave[rng.integers(0, len(wave), 5)] = high
        out.append(np.clip(wave, -high, high).astype(kind.dtype))
    return out


def fill(data_dir: Path, kinds: tuple[Kind, ...], settings: Settings) -> dict[str, tuple[float, float]]:
    """Write the store; of each stream its rows a second while writing, and while it was summarized.

    Nothing is synced, and it is summarized from memory: only what is on the disk in the end matters here.
    """
    files, clock = system_files(), SystemClock()
    station, lock = open_station(data_dir, files, "bench", clock.now_ns(), True)
    out = {}
    with lock:
        for kind in kinds:
            out[kind.stream] = _fill(data_dir, kind, kind.rows(settings), files, clock, station.uuid)
        with Catalog.open(data_dir) as catalog:
            catch_up(catalog, recover(data_dir, files, clock, station.uuid, {}).found, data_dir)
    os.sync()
    return out


def _fill(data_dir: Path, kind: Kind, rows: int, files: Files, clock: SystemClock, station: str) -> tuple[float, float]:
    directory = data_dir / "streams" / kind.stream
    make_directory(files, directory)
    schema, table, anchor = kind.schema, _samples(kind), clock.anchor
    epoch = Epoch(kind.stream, 0, schema, anchor, "a counter of before")
    start_ns = anchor.wall_ns - schema.span_ns(rows) - 3600 * NS
    builder = Builder(Pyramid(directory, kind.stream, files), station)
    per_segment = max(1, SEGMENT_BYTES // (BATCH_ROWS * schema.row_bytes)) * BATCH_ROWS
    buffers = Buffers(4, max(1 << 17, 2 * BATCH_ROWS * schema.row_bytes))
    wrote = summarized = 0.0
    for begin in range(0, rows, per_segment):
        end = min(rows, begin + per_segment)
        at = time.perf_counter()
        writer = SegmentWriter(epoch, SegmentName(0, begin, 0), station, start_ns, buffers)
        with open(directory / str(SegmentName(0, begin, 0)), "wb") as file:
            file.write(writer.head)
            for first in range(begin, end, BATCH_ROWS):
                k = first // BATCH_ROWS * 7919 % (len(table[0]) - BATCH_ROWS)
                columns = tuple(column[k : k + BATCH_ROWS] for column in table)
                block = Block(kind.stream, 0, first, schema, columns, start_ns + schema.span_ns(first))
                writer.append(block)
                _put(writer, buffers, file)
                began = time.perf_counter()
                builder.take(block)
                summarized += time.perf_counter() - began
            writer.seal(end, Ledger(end, end), (), t_ns=start_ns + schema.span_ns(end))
            _put(writer, buffers, file)
        wrote += time.perf_counter() - at
        began = time.perf_counter()
        builder.flush(Position(0, end), clock.now_ns())
        builder.pyramid.raise_levels(station, clock.now_ns(), all_of_it=end == rows)
        took = time.perf_counter() - began
        summarized += took
    return rows / wrote, rows / summarized


def _put(writer: SegmentWriter, buffers: Buffers, file: Any) -> None:
    for chunk in writer.chunks:
        file.write(chunk.buffer[: chunk.size])
        buffers.give_back(chunk.buffer)
    writer.chunks.clear()


# ---- the server ------------------------------------------------------------------------------------------------------


def _serve(there: Connection, data_dir: Path) -> None:
    """A station without instruments; it tells how many files it has mapped so far whenever it is asked."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock, files = SystemClock(), system_files()
    mapped: list[Path] = []
    map_ = files.map

    def counted(path: Path) -> memoryview:
        mapped.append(path)
        return map_(path)

    files.map = counted  # type: ignore[method-assign]
    with Station(StationPlan(data_dir, "bench"), clock, files) as station:
        keys = KeyStore(data_dir, clock)
        _, key = keys.create("bench", ["read"])
        server = ServerOptions(port=0, requests_per_second=0)
        with open_doors(station, station.stats().uuid, keys, server, SecurityOptions()) as web:
            there.send((int(web.address.rpartition(":")[2]), key))
            while there.recv() != "stop":
                there.send(sum(str(path).startswith(str(data_dir / "streams")) for path in mapped))
    there.send("stopped")


def forget(data_dir: Path) -> None:
    """Tell the system that nobody needs the pages of these files."""
    for path in data_dir.rglob("*"):
        if path.is_file():
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


# ---- asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """One range, asked for cold and then warm."""

    rows: int
    cold_s: float
    warm_s: float
    files: int
    read_bytes: int
    answer_bytes: int


def _ask(kind: Kind, settings: Settings, data_dir: Path, server: Child, port: int, key: str) -> list[Asked]:
    from psutil import Process

    rng = random.Random(1)
    rows, process = kind.rows(settings), Process(server.process.pid)
    first_ns, period_ns = _first_ns(data_dir, kind.stream), NS // RATE_HZ
    out = []
    for n in range(settings.zooms + 1):  # the first is for warming up what is no data
        wanted = rows if n < 2 else min(rows, int(SHORTEST_ROWS * (rows / SHORTEST_ROWS) ** rng.random()))
        start = first_ns + rng.randint(0, rows - wanted) * period_ns
        query = f"start={start}&stop={start + wanted * period_ns}&width={WIDTH}"
        asker = Asker(port, f"/api/v1/streams/{kind.stream}/view?{query}", f"Authorization: Bearer {key}\r\n")
        forget(data_dir)
        server.tell("files")
        files, read = server.hear(), process.io_counters().read_bytes
        begin = time.perf_counter()
        answer = asker.ask()
        cold = time.perf_counter() - begin
        server.tell("files")
        files, read = server.hear() - files, process.io_counters().read_bytes - read
        warm = []
        for _ in range(settings.warm_zooms):
            begin = time.perf_counter()
            asker.ask()
            warm.append(time.perf_counter() - begin)
        asker.close()
        if n:
            out.append(Asked(wanted, cold, median(warm), files, read, len(answer)))
    return out


def _first_ns(data_dir: Path, stream: str) -> int:
    from scidaq.query import Reader

    (one,) = Reader(data_dir).summary(stream)
    return one.first_ns or 0


# ---- a range without summaries ---------------------------------------------------------------------------------------


def _scan_of_ours(values: Any) -> Callable[[], object]:
    schema = Schema((Channel("a", "float64", "V"),), Fraction(1000))
    blocks = [
        Block("adc/one", 0, k, schema, (values[k : k + BATCH_ROWS],), schema.span_ns(k))
        for k in range(0, len(values), BATCH_ROWS)
    ]

    def scan() -> object:
        fold = Fold("adc/one", None, schema.span_ns(len(values)) // WIDTH)
        for block in blocks:
            fold.take(block)
        return fold.changed()

    return scan


def _scan(rounds: int) -> dict[str, list[float]]:
    values = np.random.default_rng(1).standard_normal(SCAN_ROWS)
    contestants: dict[str, Callable[[], object]] = {"scidaq": _scan_of_ours(values)}
    if importlib.util.find_spec("tsdownsample"):
        minmax = import_module("tsdownsample").MinMaxDownsampler()
        contestants[TSDOWNSAMPLE] = lambda: minmax.downsample(values, n_out=2 * WIDTH)
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for n in range(rounds + 1):
        for name in random.sample(list(contestants), len(contestants)):
            begin = time.perf_counter()
            contestants[name]()
            took[name] += [time.perf_counter() - begin] if n else []
    return took


# ---- the table -------------------------------------------------------------------------------------------------------


def zoom(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Ranges of every length, of one channel and of eight; then a scan."""
    rows: list[Row] = []
    with fresh() as directory:
        data_dir = directory / "data"
        made = call(fill, data_dir, KINDS, settings)
        for kind in KINDS:
            wrote, summarized = made[kind.stream]
            summary = on_disk(data_dir / "streams" / kind.stream / "summary")
            share = summary / on_disk(data_dir / "streams" / kind.stream)
            what = f"{wrote * kind.schema.row_bytes / 1e6:,.0f} MB/s with writing; {share:.1%} of the stream's files"
            say(
                f"zoom: {kind.stream} {kind.rows(settings):,} rows; summarized {summarized / 1e6:,.1f} M rows/s; {what}"
            )
            speed = f"{summarized / 1e6:,.1f} M rows/s"
            rows.append(Row(f"zoom, {kind.stream}", "scidaq, making summaries", speed, remarks=what))
        with child(_serve, data_dir) as server:
            port, key = server.hear()
            for kind in KINDS:
                rows += _judge(kind, settings, _ask(kind, settings, data_dir, server, port, key), say)
            server.tell("stop")
            server.hear()
    return rows + _scan_rows(call(_scan, settings.rounds), say)


def _judge(kind: Kind, settings: Settings, asked: list[Asked], say: Callable[[str], None]) -> list[Row]:
    out = []
    least, most = min(a.rows for a in asked), max(a.rows for a in asked)
    for name, took, target_s in (
        ("cold", [a.cold_s for a in asked], kind.cold_s),
        ("warm", [a.warm_s for a in asked], kind.warm_s),
    ):
        p50, p95 = np.percentile(took, [50, 95])
        remarks = f"p50 {p50 * 1e3:.1f} ms, longest {max(took) * 1e3:.1f} ms; "
        target = judged(f"p95 ≤ {target_s * 1e3:.0f} ms", p95 <= target_s)
        if name == "cold":
            files = max(a.files for a in asked)
            read = median(a.read_bytes for a in asked)
            remarks += f"{files} files at most, {read / 1e6:.1f} MB from the disk"
            target += "; " + judged(f"≤ {FILES_TARGET} files", files <= FILES_TARGET)
        else:
            answer = max(a.answer_bytes for a in asked)
            remarks += f"{least:,} to {most:,} of {kind.rows(settings):,} rows, {answer / 1e3:,.0f} kB at most"
        who = f"scidaq, {name}"
        row = Row(f"zoom, {kind.stream}", who, f"p95 {p95 * 1e3:.1f} ms", "", f"{len(took)} ranges", target, remarks)
        say(f"{row.benchmark}: {who} {row.speed}; {target}; {remarks}")
        out.append(row)
    return out


def _scan_rows(took: dict[str, list[float]], say: Callable[[str], None]) -> list[Row]:
    out = []
    for who, times in took.items():
        compared = target = ""
        if who == "scidaq" and TSDOWNSAMPLE in took:
            ratio = median(a / b for a, b in zip(times, took[TSDOWNSAMPLE], strict=True))
            compared, target = f"{ratio:.2f} × {TSDOWNSAMPLE}", judged(f"≤ {SCAN_TARGET} ×", ratio <= SCAN_TARGET)
        speed = rate(8 * SCAN_ROWS / median(times))
        remarks = f"{SCAN_ROWS:,} float64, {median(times) * 1e3:.1f} ms"
        row = Row("zoom, scan", who, speed, "", compared, target, remarks)
        say(f"{row.benchmark}: {who} {row.speed} {compared} {target}")
        out.append(row)
    if TSDOWNSAMPLE not in took:
        out.append(Row("zoom, scan", TSDOWNSAMPLE, remarks="not installed"))
    return out
