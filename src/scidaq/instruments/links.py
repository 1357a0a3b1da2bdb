"""Bytes to and from an instrument: lines and blocks over TCP, with a deadline on every reply.

A reply may come in pieces, several may come at once; a `Link` gives them one by one. After a timeout or nonsense it is
*out of step*: a late reply could be taken for the answer to the next query. Whoever uses it then calls `resync`.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Protocol

from scidaq.errors import GarbledReply, InstrumentDisconnected, InstrumentTimeout
from scidaq.instruments.scpi_protocol import BlockHeader, block_header

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAX_LINE = 1 << 24
"""A longer line is nonsense: nothing sends 16 MiB of text."""
MAX_BLOCK = 1 << 28
"""A longer block is a header that was read wrong."""
_PIECE = 65_536
_LINE = 4096
"""Room for a reply of usual length: Python takes memory for all of it first, and 64 KiB cost 3 us."""
_SMALL = 64


class Pipe(Protocol):
    """Bytes both ways, in order; what a `Link` is laid over.

    `send`, `receive` and `receive_into` may be the operating system's own functions: they raise any `OSError`, and
    `failure` says what it means.
    """

    @property
    def send(self) -> Callable[[bytes], object]:
        """Sends all of it."""

    @property
    def receive(self) -> Callable[[int], bytes]:
        """At least one byte and at most so many; none when the other end has closed."""

    def failure(self, error: OSError | None) -> InstrumentTimeout | InstrumentDisconnected:
        """What an error means; None is the end of the connection."""

    def receive_into(self, buffer: memoryview) -> int:
        """As `receive`, into a buffer; it may wait until all of it is filled. 0 when the other end has closed."""

    def pending(self) -> bool:
        """Whether bytes have arrived that nobody has received."""

    def drain(self) -> int:
        """Throw away what has arrived, without waiting; how many bytes that was."""

    def close(self) -> None:
        """Idempotent, from any thread; ends a call that waits."""


class TcpPipe:
    """A TCP connection. Each call waits at most `timeout_s` for the next bytes."""

    def __init__(self, host: str, port: int, timeout_s: float, connect_timeout_s: float) -> None:
        self._where = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), connect_timeout_s)
        except TimeoutError as error:
            raise InstrumentTimeout(f"{self._where} did not take the connection in {connect_timeout_s} s") from error
        except OSError as error:
            raise InstrumentDisconnected(f"cannot connect to {self._where}: {error}") from error
        self._timeout_s = timeout_s
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if os.name == "posix":
            # The kernel keeps the time: a socket with a Python timeout asks poll() before every recv().
            self._socket.settimeout(None)
            seconds, rest = divmod(timeout_s, 1.0)
            limit = struct.pack("@ll", int(seconds), max(1, int(rest * 1e6)))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        else:
            self._socket.settimeout(timeout_s)
        self._all = getattr(socket, "MSG_WAITALL", 0) if os.name == "posix" else 0
        self._count = array.array("i", [0])
        self._closing = threading.Lock()
        # The socket's own functions, without a frame of Python around them: a query takes 35 us.
        self.send: Callable[[bytes], object] = self._socket.sendall
        self.receive: Callable[[int], bytes] = self._socket.recv

    def receive_into(self, buffer: memoryview) -> int:
        """Fill the buffer, in one system call where that can be."""
        return self._socket.recv_into(buffer, len(buffer), self._all)

    def pending(self) -> bool:
        """Ask the kernel."""
        try:
            if fcntl is None:
                return bool(select.select([self._socket], [], [], 0)[0])
            fcntl.ioctl(self._socket, termios.FIONREAD, self._count)
            return self._count[0] != 0
        except (OSError, ValueError) as error:  # closed from another thread
            raise InstrumentDisconnected(f"the connection to {self._where} is closed") from error

    def drain(self) -> int:
        """Throw away what has arrived."""
        total = 0
        flag = getattr(socket, "MSG_DONTWAIT", 0)
        if not flag:
            self._socket.settimeout(0)
        try:
            while data := self._socket.recv(_PIECE, flag):
                total += len(data)
                if total > MAX_BLOCK:
                    break
        except BlockingIOError:
            return total
        except OSError as error:
            raise self.failure(error) from error
        finally:
            if not flag:
                self._socket.settimeout(self._timeout_s)
        raise self.failure(None)

    def close(self) -> None:
        """End the connection."""
        with self._closing:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes a recv() in another thread; close() alone does not
            except OSError:
                pass  # it was gone already
            self._socket.close()

    def failure(self, error: OSError | None) -> InstrumentTimeout | InstrumentDisconnected:
        """A timeout, or the end of the connection."""
        if error is None:
            return InstrumentDisconnected(f"{self._where} closed the connection")
        if isinstance(error, BlockingIOError | TimeoutError):
            return InstrumentTimeout(f"{self._where} did not answer within {self._timeout_s} s")
        return InstrumentDisconnected(f"the connection to {self._where} broke: {error}")


class MemoryPipe:
    """An instrument that is a function, for tests: what it returns for a message arrives in pieces of `piece` bytes."""

    def __init__(self, answer: Callable[[bytes], bytes], piece: int = _PIECE) -> None:
        self._answer, self._piece = answer, piece
        self._waiting = bytearray()
        self._closed = False

    def send(self, data: bytes) -> None:
        """Ask the function."""
        if self._closed:
            raise ConnectionResetError("closed")
        self._waiting += self._answer(data)

    def receive(self, size: int) -> bytes:
        """The next piece; a timeout when there is none, since nothing more can come."""
        if self._closed:
            return b""
        if not self._waiting:
            raise TimeoutError("no answer")
        piece = bytes(self._waiting[: min(size, self._piece)])
        del self._waiting[: len(piece)]
        return piece

    def receive_into(self, buffer: memoryview) -> int:
        """As `receive`."""
        piece = self.receive(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def failure(self, error: OSError | None) -> InstrumentTimeout | InstrumentDisconnected:
        """A timeout, or the end."""
        return InstrumentTimeout(str(error)) if isinstance(error, TimeoutError) else InstrumentDisconnected("closed")

    def pending(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def drain(self) -> int:
        """Throw away what waits."""
        size = len(self._waiting)
        self._waiting.clear()
        return size

    def close(self) -> None:
        """End it."""
        self._closed = True


class Link:
    """Queries and their answers over a pipe. One thread at a time; only `close` may come from another."""

    def __init__(self, pipe: Pipe, timeout_s: float, terminator: bytes = b"\n") -> None:
        self._pipe, self._timeout_s, self._terminator = pipe, timeout_s, terminator
        self._raw_send, self._raw_receive = pipe.send, pipe.receive
        self._rest = b""
        """What arrived behind the reply that was asked for."""
        self._after_block = False
        """Whether the last reply was a block; some instruments end those with two line ends."""
        self.in_step = True
        """False when a reply may still be under way; then only `resync` may be called."""

    def write(self, message: bytes) -> None:
        """Send a message that has no reply."""
        self._send(message + self._terminator)

    def query(self, message: bytes) -> bytes:
        """Send a message, and return the line that answers it, without its end.

        Raises `InstrumentTimeout`, `GarbledReply` (both leave the link out of step) or `InstrumentDisconnected`.
        """
        if self._rest or self._after_block:
            self._check_rest()
        try:
            self._raw_send(message + self._terminator)
            line = self._raw_receive(_LINE)
        except OSError as error:
            self.in_step = False
            raise self._pipe.failure(error) from error
        # Nearly always one reply is one piece: one find, no buffer.
        if not line or line.find(b"\n") != len(line) - 1:
            return self._line(line)
        return line[:-2] if line[-2:-1] == b"\r" else line[:-1]

    def _send(self, data: bytes) -> None:
        try:
            self._raw_send(data)
        except OSError as error:
            raise self._pipe.failure(error) from error

    def _receive(self, size: int) -> bytes:
        try:
            data = self._raw_receive(size)
        except OSError as error:
            raise self._pipe.failure(error) from error
        if not data:
            raise self._pipe.failure(None)
        return data

    def _receive_into(self, buffer: memoryview) -> int:
        try:
            size = self._pipe.receive_into(buffer)
        except OSError as error:
            raise self._pipe.failure(error) from error
        if not size:
            raise self._pipe.failure(None)
        return size

    def _check_rest(self) -> None:
        """Raise `GarbledReply` when something is left behind a reply, but for the second line end of a block."""
        if self._after_block:
            self._after_block = False
            while len(self._rest) < _SMALL and self._pipe.pending():
                self._rest += self._receive(_SMALL)
            if not self._rest.strip(b"\r\n"):
                self._rest = b""
        if self._rest:
            self.in_step = False
            raise GarbledReply(f"{self._rest[:60]!r} came without being asked for")

    def check_quiet(self) -> None:
        """Raise `GarbledReply` when something has arrived that nobody asked for; the link is then out of step.

        Worth its system call after a pause. Between two queries without one it would come too early to see anything.
        """
        self._check_rest()
        if self._pipe.pending():
            self.in_step = False
            raise GarbledReply("something came without being asked for")

    def _line(self, data: bytes) -> bytes:
        """The line that begins with `data`; the rest is kept. Nothing at all is the end of the connection."""
        if not data:
            raise self._pipe.failure(None)
        self.in_step, was = False, self.in_step  # until it is whole
        deadline = time.monotonic() + self._timeout_s
        pieces, size = [data], len(data)
        while b"\n" not in data:
            if time.monotonic() > deadline:
                raise InstrumentTimeout(f"half a reply, {b''.join(pieces)[:60]!r}, came within {self._timeout_s} s")
            if size > MAX_LINE:
                raise GarbledReply(f"{size} bytes without an end of line")
            try:
                data = self._receive(_PIECE)
            except InstrumentTimeout as error:
                raise InstrumentTimeout(f"{error}, save for {b''.join(pieces)[:60]!r}") from error
            pieces.append(data)
            size += len(data)
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        self.in_step = was
        return line.removesuffix(b"\r")

    def query_block(
        self, message: bytes, make: Callable[[int], memoryview], *, size: int | None = None, headed: bool = False
    ) -> memoryview:
        """Send a message, and receive the block of bytes that answers it straight into a buffer.

        `make(size)` gives a buffer of that many bytes or more, or raises `GarbledReply` for a size that cannot be; the
        part that was filled is returned. An indefinite block has the `size` that is expected; without one it ends with
        the line, which bytes that happen to be a line feed end too. Where replies are `headed`, what stands before the
        block is skipped. Raises as `query` does.
        """
        if self._rest or self._after_block:
            self._check_rest()
        try:
            self._send(message + self._terminator)
            # A small piece: all that it holds of the data must be copied.
            data = self._receive(_SMALL)
            while headed and b"#" not in data and b"\n" not in data and len(data) < _LINE:
                data += self._receive(_SMALL)
            if headed:
                data = data[max(0, data.find(b"#")) :]
            while (header := block_header(data)) is None:
                data += self._receive(_SMALL)
            return self._block(data, header if header.size is not None else BlockHeader(header.start, size), make)
        except (InstrumentTimeout, GarbledReply):
            self.in_step = False
            raise

    def _block(self, data: bytes, header: BlockHeader, make: Callable[[int], memoryview]) -> memoryview:
        if header.size is None:
            line = self._line(data)[header.start :]
            buffer = make(len(line))[: len(line)]
            buffer[:] = line
            return buffer
        if header.size > MAX_BLOCK:
            raise GarbledReply(f"a block of {header.size} bytes")
        buffer = make(header.size)[: header.size]
        body, tail = data[header.start : header.start + header.size], data[header.start + header.size :]
        buffer[: len(body)] = body
        at, deadline = len(body), time.monotonic() + self._timeout_s
        while at < header.size:
            at += self._receive_into(buffer[at:])
            # As long as bytes come it may take its time; a trickle may not.
            if time.monotonic() > deadline + at / 100_000:
                raise InstrumentTimeout(f"{at} of {header.size} bytes came in {self._timeout_s} s and more")
        while b"\n" not in tail:
            if tail.strip(b"\r"):
                raise GarbledReply(f"{tail[:60]!r} behind a block of {header.size} bytes")
            tail += self._receive(_SMALL)
        end, _, self._rest = tail.partition(b"\n")
        if end.strip(b"\r"):
            raise GarbledReply(f"{end[:60]!r} behind a block of {header.size} bytes")
        self._after_block = True
        return buffer

    def resync(self, query: bytes, answer: bytes) -> int:
        """Get in step again: throw replies away until `query` is answered with `answer`; how many bytes were thrown.

        The instrument answers in order, so whatever is late comes before. Raises `InstrumentTimeout` when the answer
        does not come within the timeout; then only a new connection helps.
        """
        thrown = len(self._rest) + self._pipe.drain()
        self._rest, self._after_block = b"", False
        self.in_step = False
        self._send(query + self._terminator)
        deadline, waiting = time.monotonic() + self._timeout_s, b""
        while True:
            waiting += self._receive(_PIECE)
            *lines, waiting = waiting.split(b"\n")
            for i, line in enumerate(lines):
                # It may be glued to the beginning of a reply whose end never came.
                if line.rstrip().endswith(answer):
                    if any(lines[i + 1 :]) or waiting:
                        raise InstrumentTimeout("replies go on coming that nobody asked for")
                    self.in_step = True
                    return thrown
                thrown += len(line) + 1
            waiting = waiting[-MAX_LINE:]
            if time.monotonic() > deadline:
                raise InstrumentTimeout(f"{query.decode()} was not answered within {self._timeout_s} s")

    def close(self) -> None:
        """End the connection, and with it a query that waits in another thread."""
        self._pipe.close()


def tcp(host: str, port: int, timeout_s: float, connect_timeout_s: float, terminator: bytes = b"\n") -> Link:
    """A link to a TCP port."""
    return Link(TcpPipe(host, port, timeout_s, connect_timeout_s), timeout_s, terminator)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"address: {address!r} is not host:port, for example 192.168.0.7:5025")
    return host.lower(), int(port)
