"""Bulk data over Arrow Flight, next to raw loopback TCP with messages of 4 MiB and a bare pyarrow server, in one run.

Our reader sends a stored stream: its segments are read from the page cache, every checksum is verified, and a batch is
4 MiB. Our live stream begins in a ring into which a thread offers blocks of 4 MiB as fast as they are taken, and goes
through the station's socket to the Flight process. The bare server sends one prepared batch again and again. Every
server and every client has a process of its own; they take turns, in a new order in every round.
"""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import scidaq
from bench.places import fresh
from bench.processes import Child, call, child
from bench.results import Row, judged, rate
from bench.settings import Settings
from scidaq.block import Block, Channel, Schema

MESSAGE = 4 << 20
CHANNELS = tuple(f"ch{c}" for c in range(8))
STREAM = "adc/wave"
TCP, BARE, READ, LIVE = "TCP, 4 MiB messages", "pyarrow", "scidaq, read", "scidaq, live"
BARE_TLS, READ_TLS = "pyarrow, TLS", "scidaq, read, TLS"
TARGET_READ, TARGET_LIVE, TARGET_TLS = 0.7, 0.4, 0.8


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate for this machine."""

    cert: Path
    key: Path


def certificate(directory: Path) -> Pair | None:
    """One made now; None where there is no openssl."""
    pair = Pair(directory / "cert.pem", directory / "key.pem")
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(pair.key), "-out", str(pair.cert)]
    try:
        subprocess.run([*words.split(), *names], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return pair


# ---- servers --------------------------------------------------------------------------------------------------------


def tcp(there: Connection, total: int) -> None:
    """Send so many bytes to whoever connects."""
    message = memoryview(bytes(MESSAGE))
    with socket.create_server(("127.0.0.1", 0)) as server:
        there.send(server.getsockname()[1])
        threading.Thread(target=_until_told, args=(there, server), daemon=True).start()
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            with one:
                for _ in range(total // MESSAGE):
                    one.sendall(message)


def _until_told(there: Connection, server: socket.socket) -> None:
    there.recv()
    server.shutdown(socket.SHUT_RDWR)


def bare(there: Connection, total: int, pair: Pair | None) -> None:
    """A pyarrow server without anything around it."""
    import pyarrow as pa
    from pyarrow import flight

    rows = MESSAGE // (8 * (len(CHANNELS) + 1))
    batch = pa.record_batch(
        [pa.array(np.random.default_rng(1).standard_normal(rows)) for _ in range(9)], [*"tabcdefgh"]
    )

    class Server(flight.FlightServerBase):  # type: ignore[misc]
        def do_get(self, context: Any, ticket: Any) -> Any:
            return flight.GeneratorStream(batch.schema, (batch for _ in range(total // MESSAGE)))

    tls = None if pair is None else [(pair.cert.read_bytes(), pair.key.read_bytes())]
    server = Server(f"{'grpc' if tls is None else 'grpc+tls'}://127.0.0.1:0", tls_certificates=tls)
    there.send(server.port)
    there.recv()
    server.shutdown()


class Feeding:
    """What the Flight door needs of a station for live rows: a ring that is offered blocks as fast as they go."""

    def __init__(self) -> None:
        from scidaq.pipeline import Ring

        self._ring = Ring(STREAM, 256 << 20)
        schema = Schema(tuple(Channel(name, unit="V") for name in CHANNELS), None)
        rows = MESSAGE // schema.row_bytes
        columns = {name: np.random.default_rng(1).standard_normal(rows) for name in CHANNELS}
        self._block = Block.of(schema, columns, times=np.arange(rows) + 10**18)
        self._ring.offer(self._block.placed(STREAM, 0, 0, 0))

    def follow(self, stream: str, buffer_bytes: int) -> Any:
        from scidaq.station import Follower

        follower = Follower(self._ring, 256 << 20)
        threading.Thread(target=self._feed, args=(follower._budget,), daemon=True).start()
        return follower

    def _feed(self, budget: Any) -> None:
        rows, n = self._block.rows, 1
        while budget in self._ring._budgets:
            if self._ring._next - budget._next < 4:
                self._ring.offer(self._block.placed(STREAM, 0, n * rows, 0))
                n += 1
            else:
                time.sleep(0.0002)


def ours(there: Connection, data_dir: Path, pair: Pair | None) -> None:
    """The door of a station, with its process."""
    from scidaq.web import FlightDoor, FlightOptions, SecurityOptions

    tls: dict[str, Any] = {} if pair is None else {"cert_path": pair.cert, "key_path": pair.key}
    security = SecurityOptions(keys=False, tls_enabled=pair is not None, **tls)
    feeding: Any = Feeding()
    with FlightDoor(feeding, data_dir, FlightOptions(port=0, calls_per_second=0), security) as door:
        there.send(int(door.address.rpartition(":")[2]))
        there.recv()


def write(data_dir: Path, total: int) -> None:
    """A stream of so many bytes."""
    rows = total // (8 * (len(CHANNELS) + 1))
    rng = np.random.default_rng(1)
    with scidaq.record(data_dir, dict.fromkeys(CHANNELS, "V"), stream=STREAM) as rec:
        step = 1 << 20
        for first in range(0, rows, step):
            n = min(step, rows - first)
            times = 10**18 + np.arange(first, first + n, dtype=np.int64) * 1000
            rec.extend({name: rng.standard_normal(n) for name in CHANNELS}, t=times)


# ---- clients --------------------------------------------------------------------------------------------------------


def take(there: Connection, total: int) -> None:
    """Take what a server sends, as often as told: who (`(kind, port, certificate)`), and how fast it came."""
    buffer = bytearray(MESSAGE)
    while (asked := there.recv()) is not None:
        kind, port, root = asked
        begin = time.monotonic()
        got = _tcp(port, buffer) if kind == TCP else _flight(kind, port, root, total)
        there.send(got / (time.monotonic() - begin))


def _tcp(port: int, buffer: bytearray) -> int:
    got = 0
    with socket.create_connection(("127.0.0.1", port)) as one:
        while n := one.recv_into(buffer):
            got += n
    return got


def _flight(kind: str, port: int, root: bytes | None, total: int) -> int:
    from pyarrow import flight

    where = f"grpc://127.0.0.1:{port}" if root is None else f"grpc+tls://localhost:{port}"
    ticket = b'{"stream": "adc/wave", "live": true}' if kind == LIVE else STREAM.encode()
    got = 0
    with flight.FlightClient(where, **({} if root is None else {"tls_root_certs": root})) as client:
        reader = client.do_get(flight.Ticket(ticket))
        for chunk in reader:
            got += chunk.data.nbytes
            if got >= total and kind == LIVE:
                reader.cancel()
                break
    return got


# ---- a run ----------------------------------------------------------------------------------------------------------


def flight(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure, and judge."""
    total = settings.flight_bytes
    speeds: dict[str, list[float]] = {}
    with fresh() as directory, ExitStack() as stack:
        data_dir = directory / "data"
        say("flight: writing what is read")
        call(_write_in_child, data_dir, total)
        pair = certificate(directory)
        plain: dict[str, tuple[Child, tuple[Any, ...]]] = {}
        for who, server, arguments in (
            (TCP, tcp, (total,)),
            (BARE, bare, (total, None)),
            (READ, ours, (data_dir, None)),
            (BARE_TLS, bare, (total, pair)),
            (READ_TLS, ours, (data_dir, pair)),
        ):
            secure = who in (BARE_TLS, READ_TLS)
            if settings.wants(who) and not (secure and pair is None):
                one = stack.enter_context(child(server, *arguments))
                root = pair.cert.read_bytes() if secure and pair is not None else None
                plain[who] = one, (who, one.hear(), root)
        if READ in plain and settings.wants(LIVE):
            plain[LIVE] = plain[READ][0], (LIVE, plain[READ][1][1], None)
        client = stack.enter_context(child(take, total))
        for n in range(settings.flight_rounds + 1):
            for who in random.sample(sorted(plain), len(plain)):
                client.tell(plain[who][1])
                speed = client.hear()
                if n:  # the first fills caches
                    speeds.setdefault(who, []).append(speed)
            if n:
                say(f"flight: round {n} of {settings.flight_rounds}")
        client.tell(None)
        for one in {id(one): one for one, _ in plain.values()}.values():
            one.tell("stop")
    return _rows({who: median(found) for who, found in speeds.items()})


def _write_in_child(data_dir: Path, total: int) -> bool:
    write(data_dir, total)
    return True


def _rows(speeds: dict[str, float]) -> list[Row]:
    rows = []
    for who, against, target in (
        (TCP, "", 0.0),
        (BARE, TCP, 0.0),
        (READ, TCP, TARGET_READ),
        (LIVE, TCP, TARGET_LIVE),
        (BARE_TLS, TCP, 0.0),
        (READ_TLS, BARE_TLS, TARGET_TLS),
    ):
        if who not in speeds:
            continue
        compared, outcome, remark = "", "", ""
        if against in speeds:
            share = speeds[who] / speeds[against]
            compared = f"{share:.2f} × {against.partition(',')[0] if against == TCP else against}"
            outcome = judged(f"≥ {target:g}", share >= target) if target else ""
        if who in (READ, LIVE) and BARE in speeds:
            remark = f"{speeds[who] / speeds[BARE]:.2f} × {BARE}"
        rows.append(Row("flight", who, rate(speeds[who]), "", compared, outcome, remark))
    return rows
