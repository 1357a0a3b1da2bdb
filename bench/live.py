"""Live views of a station that ingests as fast as it goes, next to bare servers that send frames of the same size.

`VIEWERS` connections of one process, one of which takes nothing, look at one view of the digitizer: all its channels,
in buckets of 4 ms, thirty times a second. A bare server (uvicorn with a queue for each connection; picows) in a process
of its own sends as many frames of the same length to the same clients beside the same ingest, and folds nothing. Then
the digitizer is paced at half of what the disk takes, as in `mixed`, and the age of rows is measured when they come.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import structlog

from bench import writers
from bench.mixed import NOMINAL_BYTES_S, PACED
from bench.places import fresh
from bench.processes import call, child
from bench.recording import PreparedDriver, digitizer, until
from bench.results import Row, judged, rate
from bench.settings import Settings
from bench.viewing import Door, Seen, look
from bench.writers import RAW, Work
from scidaq.clock import SystemClock
from scidaq.instruments import Driver, WaveformDriver
from scidaq.station import InstrumentPlan, Station, StationPlan, StationStats
from scidaq.store import read_marks
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors

VIEWERS, STALLED, FRAMES_HZ = 50, 1, 30
STREAM, STEP_NS = "adc/wave", 1 << 22
ALONE, US, US_PACED = "scidaq, nobody looks", "scidaq", "scidaq, paced at 0.5 × raw"
UVICORN, PICOWS = "uvicorn, a bare fan-out", "picows, a bare fan-out"
TARGET_COST, TARGET_S = 0.05, 0.150


def _make(work: Work, options: dict[str, Any], clock: SystemClock) -> Driver:
    return PreparedDriver(work, "adc", WaveformDriver.Options(**options), clock)


def station(there: Connection, data_dir: Path, options: dict[str, Any], work: Work) -> None:
    """Record and show until told to stop, then say how it went."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock = SystemClock()
    plan = InstrumentPlan("adc", partial(_make, work, options, clock), "waveform")
    with Station(StationPlan(data_dir, "bench", (plan,)), clock) as one:
        server, security = ServerOptions(port=0, requests_per_second=0), SecurityOptions(keys=False)
        with open_doors(one, one.stats().uuid, KeyStore(data_dir, clock), server, security) as web:
            there.send(int(web.address.rpartition(":")[2]))
            there.recv()
            there.send((one.stats(), one.live.stats(), web.viewers.stats()))
    there.send("stopped")


# ---- bare servers ---------------------------------------------------------------------------------------------------


def bare_uvicorn(there: Connection, size: int) -> None:
    """A queue and a task for each connection, and the same bytes in all of them."""
    import uvicorn

    queues: set[asyncio.Queue[bytes]] = set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        mine: asyncio.Queue[bytes] = asyncio.Queue()
        queues.add(mine)
        while True:
            await send({"type": "websocket.send", "bytes": await mine.get()})

    async def pump() -> None:
        while True:
            frame = time.time_ns().to_bytes(8, "little") + bytes(size - 8)
            for one in queues:
                one.put_nowait(frame)
            await asyncio.sleep(1 / FRAMES_HZ)

    async def run() -> None:
        config = uvicorn.Config(
            app, port=0, ws="websockets-sansio", ws_per_message_deflate=False, log_level="critical", lifespan="off"
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110  it has no event to wait for
            await asyncio.sleep(0.01)
        pumping = asyncio.create_task(pump())
        there.send(server.servers[0].sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, there.recv)
        pumping.cancel()
        server.should_exit = server.force_exit = True
        await task

    import uvloop

    logging.disable(logging.CRITICAL)
    uvloop.run(run())


def bare_picows(there: Connection, size: int) -> None:
    """The same with picows, which queues for itself."""
    picows = import_module("picows")
    connections: set[Any] = set()
    verbs = {
        "on_ws_connected": lambda self, transport: connections.add(transport),
        "on_ws_disconnected": lambda self, transport: connections.discard(transport),
    }
    listener: Any = type("Listener", (picows.WSListener,), verbs)

    async def run() -> None:
        server = await picows.ws_create_server(lambda request: listener(), "127.0.0.1", 0)

        async def pump() -> None:
            while True:
                frame = time.time_ns().to_bytes(8, "little") + bytes(size - 8)
                for one in connections:
                    one.send(picows.WSMsgType.BINARY, frame)
                await asyncio.sleep(1 / FRAMES_HZ)

        pumping = asyncio.create_task(pump())
        there.send(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, there.recv)
        pumping.cancel()
        server.close()

    import uvloop

    uvloop.run(run())


def _has_picows() -> bool:
    try:
        import_module("picows")
    except ImportError:
        return False
    return True


# ---- a run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """One run."""

    speed: float
    """Durable bytes of the digitizer per second."""
    cpu_s: float
    """Of the station's process, in a second."""
    stats: StationStats
    late_rows: int
    skipped: int
    seen: Seen | None


def one_run(work: Work, options: dict[str, Any], who: str, size: int = 4096) -> Shown:
    """Ingest, and whoever looks beside it."""
    with fresh() as directory, ExitStack() as stack:
        data_dir = directory / "data"
        process = stack.enter_context(child(station, data_dir, options, work))
        port = process.hear()
        marks = partial(read_marks, data_dir / "durable.map")
        until(lambda: STREAM in marks() and marks()[STREAM].durable_rows > 0, 30)
        bare = None
        if who in (UVICORN, PICOWS):
            bare = stack.enter_context(child(bare_uvicorn if who == UVICORN else bare_picows, size))
            port = bare.hear()
        viewers = None
        if who != ALONE:
            asked = {"op": "subscribe", "id": 1, "stream": STREAM, "step_ns": str(STEP_NS), "fps": FRAMES_HZ}
            door = Door(port) if bare is not None else Door(port, "/api/v1/live", "", json.dumps(asked))
            viewers = stack.enter_context(child(look, [door] * VIEWERS, bare is None, STALLED))
            viewers.hear()
        time.sleep(work.warm_s)
        begin, rows, cpu_s = time.monotonic(), marks()[STREAM].durable_rows, process.cpu_s()
        if viewers is not None:
            viewers.tell("go")
        time.sleep(work.seconds)
        took, done = time.monotonic() - begin, (marks()[STREAM].durable_rows - rows) * work.row_bytes
        cpu_s = process.cpu_s() - cpu_s
        seen = None
        if viewers is not None:
            viewers.tell("stop")
            seen = viewers.hear()
        if bare is not None:
            bare.tell("stop")
        process.tell("stop")
        stats, live, shown = process.hear()
        process.hear()
    return Shown(done / took, cpu_s / took, stats, live.late_rows, shown.skipped, seen)


def live(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Ingest with nobody who looks, with ours, with the bare ones; then how old rows are when they are seen."""
    work = Work("float64", settings.table_bytes, settings.warm_s, settings.mixed_s)
    alone = Work("float64", settings.table_bytes, settings.warm_s, settings.ingest_s)
    fast = digitizer(work.dtype, unpaced=True, rate_hz=NOMINAL_BYTES_S / work.row_bytes)
    who = [name for name in (ALONE, US, UVICORN, PICOWS) if name != PICOWS or _has_picows()]
    runs: dict[str, list[Shown]] = {name: [] for name in (*who, US_PACED)}
    size = 4096
    for number in range(settings.live_rounds):
        with fresh() as directory:
            limit = float(call(writers.run, RAW, alone, directory).speed)
        paced = digitizer(work.dtype, free_running=False, rate_hz=round(PACED * limit / work.row_bytes))
        # Ours first in the first round: the others send frames of the length that ours had.
        order = [US, *random.sample([w for w in runs if w != US], len(runs) - 1)] if not number else []
        for name in order or random.sample(list(runs), len(runs)):
            run = one_run(work, paced if name == US_PACED else fast, name, size)
            runs[name].append(run)
            if name == US and run.seen is not None and run.seen.frames:
                size = run.seen.bytes // run.seen.frames
            ages = "" if run.seen is None else f", p95 {run.seen.percentiles_ms(run.seen.oldest_s)[1]:.0f} ms"
            say(f"live round {number + 1}: {name} {rate(run.speed)}{ages}")
    without = median(run.speed for run in runs[ALONE])
    return [_row(name, found, without) for name, found in runs.items()]


def _row(name: str, runs: list[Shown], without: float) -> Row:
    speed = median(run.speed for run in runs)
    cost = 1 - speed / without
    target, compared, remarks = "", "", ""
    seen = [run.seen for run in runs if run.seen is not None]
    if name not in (ALONE, US_PACED):
        compared = f"{speed / without:.3f} × nobody looks"
    if name == US:
        target = judged(f"≤ {TARGET_COST * 100:.0f} % of ingest", cost <= TARGET_COST)
    if seen:
        each = VIEWERS - STALLED
        frames = median(one.frames / one.seconds / each for one in seen)
        newest = [median(p) for p in zip(*(one.percentiles_ms(one.newest_s) for one in seen), strict=True)]
        remarks = (
            f"{each} viewers at {frames:.1f} of {FRAMES_HZ} frames/s of "
            f"{median(one.bytes / max(1, one.frames) for one in seen):,.0f} bytes, {STALLED} stalled; "
        )
        if name == US_PACED:
            oldest = [median(p) for p in zip(*(one.percentiles_ms(one.oldest_s) for one in seen), strict=True)]
            lost = sum(next(s for s in run.stats.recorder.streams if s.stream == STREAM).gap_rows for run in runs)
            target = judged(f"sample to viewer p95 ≤ {TARGET_S * 1e3:.0f} ms", oldest[1] <= TARGET_S * 1e3)
            remarks += (
                f"oldest new row p50 {oldest[0]:.0f} ms, p95 {oldest[1]:.0f} ms, newest p50 {newest[0]:.0f} ms, "
                f"p95 {newest[1]:.0f} ms; {lost:,} rows in gaps; "
            )
        elif name != US:
            remarks += f"sent to seen p50 {newest[0]:.1f} ms, p95 {newest[1]:.1f} ms; "
        if name in (US, US_PACED):
            late = sum(run.late_rows for run in runs)
            remarks += f"{late:,} rows late for the view, {sum(one.skipped for one in seen)} frames skipped for 49; "
    remarks += f"{median(run.cpu_s for run in runs):.2f} CPU s/s in the station"
    return Row("live", name, rate(speed), compared=compared, target=target, remarks=remarks)


__all__ = ["live"]
