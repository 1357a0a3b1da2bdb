"""The doors of a station that runs in the foreground: opened with it, closed before it, told on the console."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from scidaq.clock import Clock
from scidaq.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from scidaq.config import Config, Reloader
    from scidaq.observe import Sample
    from scidaq.station import Station
    from scidaq.web import FlightDoor, FlightStats, KeyStore, LogTail, WebServer

log = structlog.get_logger(__name__)

ADMIN_KEY = "admin.key"
"""The file in the data directory with the key that the first start makes."""
BOOTSTRAP_HOURS = 24.0


@contextmanager
def doors(
    station: Station, reloader: Reloader, clock: Clock, logs: LogTail, *, any_port: bool
) -> Iterator[tuple[WebServer, FlightDoor]]:
    """The ports of HTTP and Flight, and the control socket, whose address is noted beside the data while it is open."""
    from scidaq.observe import Check
    from scidaq.store import note_control, system_files
    from scidaq.web import FlightDoor, KeyStore, open_doors

    config, files = reloader.config, system_files()
    data_dir = config.station.data_dir
    keys = KeyStore(data_dir, clock)
    opens = config.server.enabled or config.flight.enabled
    first = _first_keys(keys, config) if config.security.keys and opens else None
    uuid, server, security = station.stats().uuid, config.server, config.security
    with (
        open_doors(station, uuid, keys, server, security, any_port=any_port, config=reloader, logs=logs) as web,
        FlightDoor(station, data_dir, config.flight, security, any_port=any_port) as flight,
    ):
        web.first_key = first
        station.metrics.add(lambda: _samples(web))
        if flight.address:
            station.metrics.add(lambda: _flight_samples(flight.stats()))
            station.health.add(Check("flight", flight.judge, critical=False))
        station.metrics.add(lambda: _live_samples(web, station))
        with suppress(OSError):  # a full disk: then it is found where it always is
            note_control(data_dir, files, web.control)
        try:
            yield web, flight
        finally:
            with suppress(OSError):
                note_control(data_dir, files, "")


def _samples(web: WebServer) -> Iterator[Sample]:
    """What the doors have to tell the metrics."""
    from scidaq.observe import Sample

    yield Sample("scidaq_event_loop_lag_seconds", (), web.stats().lag_s)
    if web.gate is not None and web.front is not None:
        yield Sample("scidaq_http_connections", (), web.gate.stats().connections)
        by_status: dict[tuple[str, str], int] = {}
        for (method, _, status), count in web.front.stats().requests.items():
            by_status[method, str(status)] = by_status.get((method, str(status)), 0) + count
        for labels, count in by_status.items():
            yield Sample("scidaq_http_requests_total", labels, count)


def _flight_samples(stats: FlightStats) -> Iterator[Sample]:
    """What the Flight door has to tell."""
    from scidaq.observe import Sample

    yield Sample("scidaq_flight_up", (), float(stats.running))
    yield Sample("scidaq_flight_restarts_total", (), stats.restarts)
    yield Sample("scidaq_flight_calls_under_way", (), stats.calls)
    for labels, count in stats.by_result.items():
        yield Sample("scidaq_flight_calls_total", labels, count)
    yield Sample("scidaq_flight_sent_bytes_total", (), stats.sent_bytes)
    yield Sample("scidaq_flight_pushed_rows_total", (), stats.pushed_rows)
    yield Sample("scidaq_flight_skipped_rows_total", (), stats.skipped_rows)


def _live_samples(web: WebServer, station: Station) -> Iterator[Sample]:
    """What is seen of the station while it records."""
    from scidaq.observe import Sample

    if web.viewers is None:
        return
    shown, seen = web.viewers.stats(), station.live.stats()
    yield Sample("scidaq_live_viewers", (), shown.viewers)
    yield Sample("scidaq_live_views", (), seen.views)
    yield Sample("scidaq_live_frames_total", (), shown.frames)
    yield Sample("scidaq_live_skipped_frames_total", (), shown.skipped)
    yield Sample("scidaq_live_bytes_total", (), shown.bytes)
    yield Sample("scidaq_live_late_rows_total", (), seen.late_rows)


def _first_keys(keys: KeyStore, config: Config) -> Path | None:
    """Where the first key of a station has been put, when this is its first start with keys."""
    if (path := config.security.bootstrap_key_file) is not None:
        try:
            keys.adopt("bootstrap", path.read_text(encoding="ascii", errors="replace").strip(), BOOTSTRAP_HOURS)
        except (OSError, RequestError) as error:
            raise ConfigError([f"security.bootstrap_key_file: {path} cannot be used: {error}"]) from error
    if keys.all():
        return None
    _, given = keys.create("admin", ["admin"], days=None)
    path = config.station.data_dir / ADMIN_KEY
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{given}\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def welcome(web: WebServer, flight: FlightDoor, config: Config) -> Iterator[str]:
    """What the console is told of the doors."""
    keys = f"({'with' if config.security.keys else 'without'} keys)"
    if web.address:
        yield f"HTTP at {web.address} {keys}"
    if flight.address:
        yield f"Arrow Flight at {flight.address} {keys}"
    if web.first_key is not None:
        yield f"this station's first key, for its administrator, is in {web.first_key}"
    if web.first_key is not None and web.address:
        yield f"log in with a browser, once and within 15 minutes: {login_link(web.address, web.new_link())}"


def login_link(address: str, token: str) -> str:
    """The token stands behind the `#`, which browsers keep to themselves."""
    return f"{address}/login#{token}"
