"""Who looks at a live view in a benchmark: many WebSockets of one process, which do no more than they must."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import orjson

REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
)


@dataclass(frozen=True, slots=True)
class Door:
    """Where to look, and what to say there."""

    port: int
    path: str = "/"
    headers: str = ""
    say: str = ""


@dataclass(slots=True)
class Seen:
    """What viewers saw together."""

    seconds: float = 0.0
    frames: int = 0
    bytes: int = 0
    newest_s: list[float] = field(default_factory=list)
    """How old the newest row was when its frame came."""
    oldest_s: list[float] = field(default_factory=list)
    """How old the oldest row was that no frame before had."""
    waited_s: list[float] = field(default_factory=list)
    """Time from one frame of a viewer to its next."""
    skipped: int = 0

    def percentiles_ms(self, ages: list[float]) -> tuple[float, float]:
        """The 50th and the 95th."""
        p50, p95 = np.percentile(ages or [np.nan], [50, 95])
        return float(p50) * 1e3, float(p95) * 1e3


def sent_ns(payload: memoryview) -> tuple[int, int]:
    """When a bare frame was sent: its newest row, and its oldest that is new."""
    t = int.from_bytes(payload[:8], "little")
    return t, t


def rows_ns(payload: memoryview) -> tuple[int, int]:
    """Times of the newest row of a frame of ours, and of its first."""
    size = int.from_bytes(payload[:4], "little")
    header = orjson.loads(payload[4 : 4 + size])
    begin = 4 + size + -(4 + size) % 8
    base, said = int(header["base_ns"]), header["buffers"]
    last = said.get("t1") or said["t0"]
    count = last["shape"][0]
    at = begin + last["offset"] + 8 * (count - 1)
    return base + int(np.frombuffer(payload, "<f8", 1, at)[0]), base


class _Viewer(asyncio.Protocol):
    """One that looks."""

    def __init__(self, door: Door, seen: Seen, times: Callable[[memoryview], tuple[int, int]]) -> None:
        self._door, self._seen, self._times = door, seen, times
        self._buffer, self._upgraded = bytearray(), False
        self._newest = self._came_ns = 0
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(REQUEST.format(path=self._door.path, headers=self._door.headers).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(f"refused: {bytes(self._buffer[:300])!r}"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0 or not self._buffer.startswith(b"HTTP/1.1 101"):
                return
            del self._buffer[: end + 4]
            self._upgraded = True
            if self._door.say:
                self._transport.write(masked(self._door.say.encode()))
            self.ready.set_result(None)
        at, buffer = 0, self._buffer
        while len(buffer) - at >= 2:
            size, head = buffer[at + 1] & 0x7F, 2
            if size >= 126:
                head = 4 if size == 126 else 10
                if len(buffer) - at < head:
                    break
                size = int.from_bytes(buffer[at + 2 : at + head], "big")
            if len(buffer) - at < head + size:
                break
            self._message(buffer[at] & 0x0F, bytes(buffer[at + head : at + head + size]))
            at += head + size
        del buffer[:at]

    def _message(self, kind: int, payload: bytes) -> None:
        if kind == 0x9:  # are you there?
            self._transport.write(masked(payload, 0x8A))
        elif kind == 0x1 and payload.startswith((b'{"op":"error"', b'{"op":"closing"')):
            raise RuntimeError(payload.decode())
        elif kind == 0x1 and payload.startswith(b'{"op":"skipped"'):
            self._seen.skipped += orjson.loads(payload)["frames"]
        elif kind == 0x2:
            now_ns = time.time_ns()
            newest, first = self._times(memoryview(payload))
            seen = self._seen
            seen.frames, seen.bytes = seen.frames + 1, seen.bytes + len(payload)
            seen.newest_s.append((now_ns - newest) / 1e9)
            seen.oldest_s.append((now_ns - (max(first, self._newest) if self._newest else newest)) / 1e9)
            if self._came_ns:
                seen.waited_s.append((now_ns - self._came_ns) / 1e9)
            self._newest, self._came_ns = newest, now_ns


def masked(payload: bytes, first: int = 0x81) -> bytes:
    """A message of a client (RFC 6455)."""
    mask = os.urandom(4)
    size = len(payload)
    head = bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0xFE)) + size.to_bytes(2, "big")
    repeated = mask * (size // 4 + 1)
    return head + mask + bytes(a ^ b for a, b in zip(payload, repeated, strict=False))


def stalled(door: Door) -> socket.socket:
    """One that asks for everything and takes nothing."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.connect(("127.0.0.1", door.port))
    one.sendall(REQUEST.format(path=door.path, headers=door.headers).encode())
    while b"\r\n\r\n" not in one.recv(4096):
        pass
    if door.say:
        one.sendall(masked(door.say.encode()))
    return one


def look(there: Connection, doors: list[Door], ours: bool, stall: int) -> None:
    """So many that look, and some that take nothing: from being told until told again; then what they saw."""
    import uvloop

    async def run() -> None:
        loop, seen = asyncio.get_running_loop(), Seen()
        still = [stalled(door) for door in doors[:stall]]
        viewers = []
        for door in doors[stall:]:
            _, one = await loop.create_connection(lambda d=door: _Viewer(d, seen, times), "127.0.0.1", door.port)  # type: ignore[misc]
            viewers.append(one)
            await one.ready
        there.send("ready")
        for _ in range(2):
            await loop.run_in_executor(None, there.recv)
            begin, first = time.monotonic(), not seen.seconds
            if first:
                seen.frames = seen.bytes = seen.skipped = 0
                seen.newest_s.clear()
                seen.oldest_s.clear()
                seen.waited_s.clear()
                seen.seconds = begin
        seen.seconds = time.monotonic() - seen.seconds
        there.send(seen)
        for silent in still:
            silent.close()

    times = rows_ns if ours else sent_ns
    uvloop.run(run())
