"""The HTTP interface of a recording station next to a bare ASGI function on the same server, and what it costs ingest.

`CLIENTS` connections of one process each ask again as soon as they have their answer. The station records a digitizer
of 10,000 rows a second beside it. What 100 requests a second cost is measured on the ingest that is as fast as it goes.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import structlog

from bench import mixed
from bench.asking import Asker
from bench.places import fresh
from bench.processes import call, child
from bench.recording import digitizer
from bench.results import Row, rate
from bench.settings import Settings
from bench.writers import Work
from scidaq.clock import SystemClock
from scidaq.instruments import WaveformDriver
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors

CLIENTS = 4
BARE = "uvicorn, a bare function"
PATHS = {
    "scidaq, whether it lives": "/health/live",
    "scidaq, its status": "/api/v1/status",
    "scidaq, 100 rows as JSON": "/api/v1/streams/adc/wave/data?last=100",
    "scidaq, 10,000 rows as Arrow": "/api/v1/streams/adc/wave/data?last=10000&format=arrow",
}


def api(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Requests a second and how long one takes; then ingest with and without requests."""
    took: dict[str, list[float]] = {}
    per_s: dict[str, float] = {}
    with fresh() as directory, child(_bare) as bare, child(_station, directory / "data") as station:
        ports = {BARE: (bare.hear(), "/", ""), **{who: (0, path, "") for who, path in PATHS.items()}}
        port, key = station.hear()
        ports |= {who: (port, path, f"Authorization: Bearer {key}\r\n") for who, path in PATHS.items()}
        for who in random.sample(list(ports), len(ports)):
            took[who], per_s[who] = call(_hammer, *ports[who], settings.api_s)
            say(f"api: {who} {per_s[who]:,.0f} requests/s, p99 {np.percentile(took[who], 99) * 1e3:.2f} ms")
        bare.tell("stop")
        station.tell("stop")
        station.hear()
    rows = [
        Row(
            "api",
            who,
            f"{per_s[who]:,.0f} requests/s",
            compared="" if who == BARE else f"{per_s[who] / per_s[BARE]:.2f} × bare",
            remarks=f"{CLIENTS} clients; p50 {np.percentile(took[who], 50) * 1e3:.2f} ms, "
            f"p99 {np.percentile(took[who], 99) * 1e3:.2f} ms",
        )
        for who in ports
    ]
    return [*rows, _ingest(settings, say)]


def _ingest(settings: Settings, say: Callable[[str], None]) -> Row:
    work = Work("float64", settings.table_bytes, settings.warm_s, settings.mixed_s)
    adc = digitizer(work.dtype, unpaced=True, rate_hz=mixed.NOMINAL_BYTES_S / work.row_bytes)
    runs: dict[bool, list[mixed.Mixed]] = {True: [], False: []}
    for _ in range(settings.mixed_rounds):
        for asked in random.sample([True, False], 2):
            runs[asked].append(mixed.one_run(work, adc, 0, asked=asked))
            say(f"api: ingest {'with' if asked else 'without'} requests {rate(runs[asked][-1].speed)}")
    with_, without = (median(run.speed for run in runs[asked]) for asked in (True, False))
    asked_s = median(run.requests.p95_s for run in runs[True] if run.requests is not None)
    return Row(
        "api",
        f"scidaq, ingest with {mixed.REQUESTS_HZ:.0f} requests/s",
        rate(with_),
        compared=f"{with_ / without:.2f} × without",
        remarks=f"all statistics as JSON, p95 {asked_s * 1e3:.1f} ms; without {rate(without)}",
    )


def _hammer(port: int, path: str, headers: str, seconds: float) -> tuple[list[float], float]:
    """How long each request took, and how many there were a second."""
    took: list[list[float]] = [[] for _ in range(CLIENTS)]
    begin = time.perf_counter()

    def one(mine: list[float]) -> None:
        asker = Asker(port, path, headers)
        while time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            asker.ask()
            mine.append(time.perf_counter() - start)
        asker.close()

    threads = [threading.Thread(target=one, args=(mine,)) for mine in took]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [t for mine in took for t in mine]
    return every, len(every) / (time.perf_counter() - begin)


def _bare(there: Connection) -> None:
    """What the server costs by itself."""
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"content-length", b"18")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"status":"alive"}'})

    config = uvicorn.Config(app, port=0, access_log=False, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    there.send(server.servers[0].sockets[0].getsockname()[1])
    there.recv()


def _station(there: Connection, data_dir: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    clock = SystemClock()
    plan = InstrumentPlan("adc", partial(_make, clock), "waveform")
    with Station(StationPlan(data_dir, "bench", (plan,)), clock) as station:
        keys = KeyStore(data_dir, clock)
        _, key = keys.create("bench", ["read"])
        server = ServerOptions(port=0, requests_per_second=0)
        with open_doors(station, station.stats().uuid, keys, server, SecurityOptions()) as web:
            while not any(s.durable_rows > 20_000 for s in station.stats().recorder.streams):
                time.sleep(0.05)
            there.send((int(web.address.rpartition(":")[2]), key))
            there.recv()
    there.send("stopped")


def _make(clock: SystemClock) -> WaveformDriver:
    return WaveformDriver("adc", WaveformDriver.Options(rate_hz=10_000), clock)
