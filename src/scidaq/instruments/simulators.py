"""A multimeter that is not there: a SCPI server on loopback, with faults to switch on. For demonstrations and tests."""

from __future__ import annotations

import random
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

import numpy as np

MAX_POINTS = 1 << 24
_RANGES = (0.1, 1.0, 10.0, 100.0, 1000.0)
_PIECE = 65_536


class Trouble(StrEnum):
    """What can go wrong with a reply."""

    SILENCE = "silence"
    """The query is taken and never answered."""
    PARTIAL = "partial"
    """Half of the reply, and never its end."""
    GARBAGE = "garbage"
    """Bytes that mean nothing."""
    DISCONNECT = "disconnect"
    """The connection is closed instead."""
    LATE = "late"
    """The reply comes `seconds` later."""
    FLOOD = "flood"
    """The reply comes a thousand times."""


@dataclass(slots=True)
class _Armed:
    trouble: Trouble
    times: int
    seconds: float
    only: bytes


class Multimeter:
    """A simulated digital multimeter with an output, at `address` while it is entered. Several clients may connect.

    Readings are drawn from a seed: about 1.5 V, 20 mA, 1 kOhm and 23.5 Cel with a little noise.
    """

    def __init__(self, seed: int = 0, *, port: int = 0, identity: str = "scidaq,Multimeter,0001,1.0") -> None:
        self.identity = identity
        """What `*IDN?` is answered with."""
        self.delay_s = 0.0
        """How long each reply takes."""
        self.queries = 0
        """How many queries came in."""
        self.output = False
        self.range_v = 10.0
        self._random = random.Random(seed)
        self._trace = np.random.default_rng(seed).standard_normal(4096).astype("<f4")
        self._blocks: dict[int, bytes] = {}
        self._errors: deque[str] = deque(maxlen=20)
        self._troubles: deque[_Armed] = deque()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._port = port
        self._server: socket.socket | None = None
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._answers: dict[bytes, Callable[[bytes], bytes | None]] = {
            b"*IDN?": lambda _: self.identity.encode(),
            b"*RST": self._reset,
            b"*CLS": self._clear,
            b"*OPC?": lambda _: b"1",
            b"SYST:ERR?": self._error,
            b"MEAS:VOLT:DC?": lambda _: self._reading(1.5, 1e-4),
            b"MEAS:CURR:DC?": lambda _: self._reading(0.02, 1e-6),
            b"MEAS:RES?": lambda _: self._reading(1000.0, 0.1),
            b"MEAS:TEMP?": lambda _: self._reading(23.5, 0.01),
            b"CONF:VOLT:DC": lambda _: None,
            b"CONF:CURR:DC": lambda _: None,
            b"CONF:RES": lambda _: None,
            b"CONF:TEMP": lambda _: None,
            b"VOLT:RANG": self._set_range,
            b"VOLT:RANG?": lambda _: b"%+.8E" % self.range_v,
            b"OUTP": self._set_output,
            b"OUTP?": lambda _: b"%d" % self.output,
            b"FETC:ARR?": self._array,
            b"TRAC:DATA?": self._array,
        }

    # ---- life ----

    def __enter__(self) -> Self:
        self._stopping.clear()
        self._server = socket.create_server(("127.0.0.1", self._port))
        self._port = self._server.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._server,), name="scidaq-multimeter", daemon=True
        )
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopping.set()
        if self._server is not None:
            _end(self._server)
        self._acceptor.join()
        self.disconnect()

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self._port}"

    def disconnect(self) -> None:
        """Close every connection; new ones are taken."""
        with self._lock:
            clients = dict(self._clients)
        for client, thread in clients.items():
            _end(client)
            if thread is not threading.current_thread():
                thread.join()

    def trouble(self, trouble: Trouble | str, times: int = 1, *, seconds: float = 0.1, only: str = "") -> None:
        """Let the next `times` queries (those that begin with `only`) go wrong."""
        with self._lock:
            self._troubles.append(_Armed(Trouble(trouble), times, seconds, only.encode()))

    def relax(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._troubles.clear()

    # ---- connections ----

    def _accept(self, server: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = server.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(client,), name="scidaq-multimeter", daemon=True)
            with self._lock:
                self._clients[client] = thread
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        buffer = b""
        try:
            while data := client.recv(_PIECE):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    if not self._handle(client, line.strip()):
                        return
        except OSError:
            pass  # the client went away
        finally:
            with self._lock:
                self._clients.pop(client, None)
            client.close()

    def _handle(self, client: socket.socket, line: bytes) -> bool:
        """Do what a message says; False to end the connection."""
        replies = [r for r in map(self.answer, line.split(b";")) if r is not None]
        if not replies:
            return True
        self.queries += 1
        reply = b";".join(replies) + b"\n"
        if self.delay_s:
            self._stopping.wait(self.delay_s)
        if self._troubles:
            return self._send(client, line, reply)
        client.sendall(reply)
        return True

    def _send(self, client: socket.socket, line: bytes, reply: bytes) -> bool:
        armed = self._next_trouble(line)
        match armed and armed.trouble:
            case Trouble.SILENCE:
                return True
            case Trouble.PARTIAL:
                reply = reply[: len(reply) // 2]
            case Trouble.GARBAGE:
                reply = b"\xff\x00?!~@\r\r+1.5 volts?\n"
            case Trouble.DISCONNECT:
                return False
            case Trouble.LATE:
                self._stopping.wait(armed.seconds if armed else 0.0)
            case Trouble.FLOOD:
                reply *= 1000
        client.sendall(reply)
        return True

    def _next_trouble(self, line: bytes) -> _Armed | None:
        with self._lock:
            for armed in self._troubles:
                if line.startswith(armed.only):
                    armed.times -= 1
                    if not armed.times:
                        self._troubles.remove(armed)
                    return armed
        return None

    # ---- commands ----

    def answer(self, message: bytes) -> bytes | None:
        """The reply to one command or query, None where there is none. Unknown ones go to the error queue."""
        header, _, argument = message.strip().removeprefix(b":").partition(b" ")
        act = self._answers.get(header) or self._answers.get(header.upper())
        if act is None:
            if header:
                self._errors.append('-113,"Undefined header"')
            return None
        return act(argument.strip())

    def _reading(self, value: float, noise: float) -> bytes:
        return b"%+.8E" % self._random.gauss(value, noise)

    def _reset(self, _: bytes) -> None:
        self.output, self.range_v = False, 10.0

    def _clear(self, _: bytes) -> None:
        self._errors.clear()

    def _error(self, _: bytes) -> bytes:
        try:
            return self._errors.popleft().encode()
        except IndexError:
            return b'+0,"No error"'

    def _set_range(self, argument: bytes) -> None:
        try:
            wanted = float(argument)
        except ValueError:
            self._errors.append('-104,"Data type error"')
            return
        if not 0 < wanted <= _RANGES[-1]:
            self._errors.append('-222,"Data out of range"')
            return
        self.range_v = min(r for r in _RANGES if r >= wanted)

    def _set_output(self, argument: bytes) -> None:
        if argument.upper() not in (b"ON", b"OFF", b"1", b"0"):
            self._errors.append('-224,"Illegal parameter value"')
            return
        self.output = argument.upper() in (b"ON", b"1")

    def _array(self, argument: bytes) -> bytes | None:
        if not argument.isdigit() or not 0 < int(argument) <= MAX_POINTS:
            self._errors.append('-222,"Data out of range"')
            return None
        points = int(argument)
        if points not in self._blocks:  # kept, so that a benchmark measures the way and not the making
            data = self.points(points).tobytes()
            size = b"%d" % len(data)
            self._blocks = {points: b"#%d%s" % (len(size), size) + data}
        return self._blocks[points]

    def points(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """What `FETC:ARR? count` sends, as float32."""
        return np.resize(self._trace, count).astype(np.float32)


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it
    except OSError:
        pass  # it was not connected
    connection.close()
