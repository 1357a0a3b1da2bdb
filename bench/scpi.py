"""SCPI over TCP on loopback: short queries, and blocks of a million float32, from one simulated instrument.

The limit is a bare blocking socket that sends, receives and understands nothing. All contestants are connected to the
same server, each from a process of its own, and take turns for a moment each, in a new order in every round: the other
ones wait in their pipes meanwhile. Then all of it again with new processes, since one keeps the luck that it has with
its memory.
"""

from __future__ import annotations

import asyncio
import importlib.util
import mmap
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np

from bench.processes import Child, child
from bench.results import Row, judged, rate
from bench.settings import Settings
from scidaq.clock import SystemClock
from scidaq.instruments import ScpiChannel, ScpiClient, ScpiDriver, ScpiOptions, ScpiStream
from scidaq.instruments.links import tcp
from scidaq.instruments.scpi_protocol import BlockFormat, number

QUERY, BLOCK = b"MEAS:VOLT:DC?", b"TRAC:DATA?"
READING = b"+1.50012345E+00"
POINTS = 1_000_000
BLOCK_BYTES = 4 * POINTS
HEADER = b"#7%d" % BLOCK_BYTES
BATCH = 50
"""Queries between two looks at the clock."""
TIMEOUT_S = 5.0
TARGET_RAW, TARGET_VISA_QUERIES, TARGET_VISA_BLOCKS = 0.8, 1.7, 4.0

Turn = Callable[[float], int]
"""Ask for so many seconds; how many replies came."""
Client = Callable[[int], Any]
"""A context manager: connected to a port of this machine, it gives a `Turn`."""


# ---- the instrument -------------------------------------------------------------------------------------------------


def serve(there: Connection) -> None:
    """What the instrument's process does: a thread per connection, replies made in advance."""
    share_a_core()
    block = HEADER + np.arange(POINTS, dtype="<f4").tobytes() + b"\n"
    replies = {QUERY + b"\n": READING + b"\n", BLOCK + b"\n": block, b"*IDN?\n": b"bench,instrument,0,0\n"}

    def answer(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while message := connection.recv(64):
                connection.sendall(replies[message])

    def accept(server: socket.socket) -> None:
        while True:
            threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        there.send(server.getsockname()[1])
        there.recv()


# ---- us -------------------------------------------------------------------------------------------------------------


def again_and_again(act: Callable[[], object], batch: int) -> Turn:
    """Do it until the time is over, which is looked at after every `batch`."""

    def turn(seconds: float) -> int:
        done, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(batch):
                act()
            done += batch
        return done

    return turn


@contextmanager
def our_queries(port: int) -> Iterator[Turn]:
    """The client that the driver uses, and programs may; the reply becomes a number."""
    link = tcp("127.0.0.1", port, TIMEOUT_S, TIMEOUT_S)
    client = ScpiClient(link)
    yield again_and_again(lambda: number(client.query(QUERY)), BATCH)
    link.close()


@contextmanager
def our_blocks(port: int) -> Iterator[Turn]:
    """The same client; the block becomes an array."""
    link, form = tcp("127.0.0.1", port, TIMEOUT_S, TIMEOUT_S), BlockFormat.parse("float32 little")
    client = ScpiClient(link)
    yield again_and_again(lambda: client.array(BLOCK, form, POINTS), 1)
    link.close()


@contextmanager
def _driver(port: int, channel: ScpiChannel) -> Iterator[Turn]:
    """The driver, which polls as fast as it can: rows with times, in blocks."""
    options = ScpiOptions(f"127.0.0.1:{port}", (ScpiStream("all", (channel,), rate_hz=1e6),), timeout_s=TIMEOUT_S)
    driver = ScpiDriver("bench", options, SystemClock())
    driver.identity()
    driver.arm()

    def turn(seconds: float) -> int:
        rows, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            rows += sum(block.rows for block in driver.read(0.05))
        return rows

    yield turn
    driver.close()


def our_driver_queries(port: int) -> Any:
    """A number a row."""
    return _driver(port, ScpiChannel("v", QUERY.decode(), "V"))


def our_driver_blocks(port: int) -> Any:
    """A block a row."""
    return _driver(port, ScpiChannel("v", BLOCK.decode(), "V", shape=(POINTS,), block="float32 little"))


# ---- others ---------------------------------------------------------------------------------------------------------


@contextmanager
def _socket(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port)) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield one


@contextmanager
def raw_queries(port: int) -> Iterator[Turn]:
    """Send and receive; nothing is looked at."""
    with _socket(port) as one:

        def ask() -> None:
            one.sendall(QUERY + b"\n")
            one.recv(4096)

        yield again_and_again(ask, BATCH)


def landing() -> memoryview:
    """Room for a reply whose numbers begin on a page: between two loopback sockets that is up to three times faster."""
    page, size = mmap.PAGESIZE, len(HEADER) + BLOCK_BYTES + 1
    room = memoryview(mmap.mmap(-1, page + size))
    room[:] = bytes(len(room))
    return room[page - len(HEADER) :][:size]


@contextmanager
def raw_blocks(port: int) -> Iterator[Turn]:
    """Receive into one and the same array."""
    whole, all_of_it = landing(), getattr(socket, "MSG_WAITALL", 0)
    with _socket(port) as one:

        def ask() -> None:
            one.sendall(BLOCK + b"\n")
            at = 0
            while at < len(whole):
                at += one.recv_into(whole[at:], 0, all_of_it)

        yield again_and_again(ask, 1)


@contextmanager
def _visa(port: int, **attributes: Any) -> Iterator[Any]:
    manager = import_module("pyvisa").ResourceManager("@py")
    resource = manager.open_resource(
        f"TCPIP::127.0.0.1::{port}::SOCKET", read_termination="\n", write_termination="\n", **attributes
    )
    yield resource
    resource.close()
    manager.close()


@contextmanager
def visa_queries(port: int) -> Iterator[Turn]:
    """As its documentation has it."""
    with _visa(port) as resource:
        yield again_and_again(lambda: float(resource.query(QUERY.decode())), BATCH)


@contextmanager
def visa_queries_low(port: int) -> Iterator[Turn]:
    """The best found: bytes both ways, past everything that looks at text."""
    with _visa(port) as resource:
        session, library = resource.session, resource.visalib

        def ask() -> float:
            library.write(session, QUERY + b"\n")
            return float(library.read(session, 4096)[0])

        yield again_and_again(ask, BATCH)


@contextmanager
def visa_blocks(port: int) -> Iterator[Turn]:
    """As its documentation has it."""
    with _visa(port) as resource:
        yield again_and_again(lambda: resource.query_binary_values(BLOCK.decode(), "f", container=np.array), 1)


@contextmanager
def visa_blocks_low(port: int, piece: int | None = None, chunk: int = 1 << 20) -> Iterator[Turn]:
    """The best found: the length is known, and nobody looks for an end."""
    with _visa(port) as resource:
        resource.read_termination = None
        session, library = resource.session, resource.visalib
        if piece:
            library.sessions[session].max_recv_size = piece

        def ask() -> Any:
            library.write(session, BLOCK + b"\n")
            whole = resource.read_bytes(len(HEADER) + BLOCK_BYTES + 1, chunk_size=chunk)
            return np.frombuffer(whole, "<f4", POINTS, len(HEADER))

        yield again_and_again(ask, 1)


def visa_blocks_inside(port: int) -> Any:
    """The same with a size changed that is nobody's business: how much its session takes from the socket at once."""
    return visa_blocks_low(port, 1 << 20, 20 << 10)


class _Asking(asyncio.Protocol):
    """Asks again when the answer has come."""

    def __init__(self) -> None:
        self.done, self.end = 0, 0.0
        self.over: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        float(data)
        self.done += 1
        if self.done % BATCH == 0 and time.monotonic() >= self.end and self.over is not None:
            self.over.set_result(self.done)
        else:
            self.transport.write(QUERY + b"\n")

    async def turn(self, seconds: float) -> int:
        self.over = asyncio.get_running_loop().create_future()
        self.done, self.end = 0, time.monotonic() + seconds
        self.transport.write(QUERY + b"\n")
        return await self.over


class _Receiving(asyncio.BufferedProtocol):
    """Receives into one and the same array."""

    def __init__(self) -> None:
        self.whole = landing()
        self.at, self.done, self.end = 0, 0, 0.0
        self.over: asyncio.Future[int] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.whole[self.at :]

    def buffer_updated(self, nbytes: int) -> None:
        self.at += nbytes
        if self.at < len(self.whole):
            return
        np.frombuffer(self.whole, "<f4", POINTS, len(HEADER))
        self.at = 0
        self.done += 1
        if time.monotonic() >= self.end and self.over is not None:
            self.over.set_result(self.done)
        else:
            self.transport.write(BLOCK + b"\n")

    async def turn(self, seconds: float) -> int:
        self.over = asyncio.get_running_loop().create_future()
        self.done, self.end = 0, time.monotonic() + seconds
        self.transport.write(BLOCK + b"\n")
        return await self.over


@contextmanager
def _loop(port: int, module: str, make: Callable[[], Any]) -> Iterator[Turn]:
    loop = import_module(module).new_event_loop()
    transport, protocol = loop.run_until_complete(loop.create_connection(make, "127.0.0.1", port))
    yield lambda seconds: int(loop.run_until_complete(protocol.turn(seconds)))
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def asyncio_queries(port: int) -> Any:
    """A protocol, without streams and futures."""
    return _loop(port, "asyncio", _Asking)


def asyncio_blocks(port: int) -> Any:
    """A buffered protocol."""
    return _loop(port, "asyncio", _Receiving)


def uvloop_queries(port: int) -> Any:
    """The same on uvloop."""
    return _loop(port, "uvloop", _Asking)


def uvloop_blocks(port: int) -> Any:
    """The same on uvloop."""
    return _loop(port, "uvloop", _Receiving)


US, US_DRIVER, RAW = "scidaq client", "scidaq driver, rows with times", "raw blocking socket"
VISA = "PyVISA-py, by its documentation"
VISA_QUERIES, VISA_BLOCKS = "PyVISA-py, its best: library calls", "PyVISA-py, its best: read_bytes"
VISA_INSIDE = "PyVISA-py, its insides changed"
ASYNCIO, UVLOOP = "asyncio protocol", "uvloop protocol"
NEEDS = {VISA: "pyvisa_py", VISA_QUERIES: "pyvisa_py", VISA_BLOCKS: "pyvisa_py", VISA_INSIDE: "pyvisa_py"} | {
    UVLOOP: "uvloop"
}
CLIENTS: dict[str, dict[str, Client]] = {
    "queries": {
        US: our_queries,
        US_DRIVER: our_driver_queries,
        RAW: raw_queries,
        VISA: visa_queries,
        VISA_QUERIES: visa_queries_low,
        ASYNCIO: asyncio_queries,
        UVLOOP: uvloop_queries,
    },
    "blocks": {
        US: our_blocks,
        US_DRIVER: our_driver_blocks,
        RAW: raw_blocks,
        VISA: visa_blocks,
        VISA_BLOCKS: visa_blocks_low,
        VISA_INSIDE: visa_blocks_inside,
        ASYNCIO: asyncio_blocks,
        UVLOOP: uvloop_blocks,
    },
}


# ---- taking turns ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Took:
    """One turn."""

    replies: int
    seconds: float
    cpu_s: float

    @property
    def speed(self) -> float:
        """Replies per second."""
        return self.replies / self.seconds


def client(there: Connection, make: Client, port: int) -> None:
    """What the process of a contestant does: its turns, until it is told None."""
    share_a_core()
    with make(port) as turn:
        there.send("connected")
        while (seconds := there.recv()) is not None:
            begin, cpu = time.monotonic(), time.process_time()
            replies = turn(seconds)
            there.send(Took(replies, time.monotonic() - begin, time.process_time() - cpu))


def share_a_core() -> None:
    """Run on the last core. Between two cores it is the waking of the other one that would be measured."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def scpi(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Queries, then blocks."""
    return [row for kind in CLIENTS for row in _one(kind, settings, say)]


def _one(kind: str, settings: Settings, say: Callable[[str], None]) -> list[Row]:
    wanted = [name for name in CLIENTS[kind] if name == RAW or settings.wants(name)]
    names = [name for name in wanted if not missing(NEEDS.get(name, ""))]
    took: dict[str, list[Took]] = {name: [] for name in names}
    for _ in range(settings.generations):
        with ExitStack() as stack:
            port = _joined(stack, serve).hear()
            clients = {name: _joined(stack, client, CLIENTS[kind][name], port) for name in names}
            for one in clients.values():
                one.hear()
            for number in range(settings.turns + 1):  # the first is for warming up
                for name in random.sample(names, len(names)):
                    clients[name].tell(settings.turn_s)
                    turn: Took = clients[name].hear()
                    took[name] += [turn] if number else []
    rows = [_row(kind, name, took) for name in names]
    for row in rows:
        say(f"{row.benchmark}: {row.who} {row.speed}")
    return rows + [Row(f"SCPI {kind}", name, remarks="not installed") for name in wanted if name not in names]


def _joined(stack: ExitStack, function: Callable[..., None], *arguments: Any) -> Child:
    """A process that is told None at the end."""
    one = stack.enter_context(child(function, *arguments))
    stack.callback(one.tell, None)
    return one


def _row(kind: str, name: str, took: dict[str, list[Took]]) -> Row:
    mine = took[name]
    speeds, of_raw = sorted(turn.speed for turn in mine), _ratio(name, RAW, took)
    compared, target = f"{of_raw:.2f} × raw", ""
    if name in (US, US_DRIVER):
        target = judged(f"≥ {TARGET_RAW} × raw", of_raw >= TARGET_RAW)
    elif US in took and name != RAW:
        ours, least = _ratio(US, name, took), TARGET_VISA_QUERIES if kind == "queries" else TARGET_VISA_BLOCKS
        compared += f"; scidaq client is {ours:.2f} × this"
        if name in (VISA, VISA_QUERIES, VISA_BLOCKS):
            target = judged(f"scidaq ≥ {least:g} ×", ours >= least)
    cpu = median(turn.cpu_s / turn.replies for turn in mine)
    if kind == "queries":
        speed, shown = f"{median(speeds):,.0f} queries/s", f"{cpu * 1e6:.1f} µs each"
        remarks = f"{speeds[0]:,.0f} to {speeds[-1]:,.0f} queries/s"
    else:
        speed, shown = rate(median(speeds) * BLOCK_BYTES), f"{cpu / BLOCK_BYTES * 1e9:.2f} s/GB"
        remarks = f"{rate(speeds[0] * BLOCK_BYTES)} to {rate(speeds[-1] * BLOCK_BYTES)}"
    return Row(f"SCPI {kind}", name, speed, shown, compared, target, remarks)


def _ratio(one: str, other: str, took: dict[str, list[Took]]) -> float:
    """The median of what it was in each round: only neighbours can be compared."""
    return median(a.speed / b.speed for a, b in zip(took[one], took[other], strict=True))


def missing(module: str) -> bool:
    """Whether a module is needed and not installed."""
    return bool(module) and importlib.util.find_spec(module) is None
