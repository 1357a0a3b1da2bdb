"""What simulated instruments have in common: the socket, the command tree, the error queue, the faults.

Messages are taken as SCPI-1999.0 says (volume 1, 6.2: short and long forms, optional nodes, a header behind a semicolon
begins where the one before ended, unless it begins with a colon). What an instrument makes of them is its own.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from types import TracebackType
from typing import Self

from scidaq.errors import GarbledReply
from scidaq.instruments.scpi_protocol import split

Act = Callable[[bytes], bytes | None]
"""What a command does with its argument; a query returns its reply, None where it has none."""
QUEUE = 20
"""Entries of the error queue; the last one says that there were more."""
_PIECE = 65_536
_NODE = re.compile(r"(\[?):?([*A-Za-z]+\d*)\]?")


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
    SHORT_BLOCK = "short block"
    """A block that is whole, of half the bytes; other replies are as they should be."""
    BROKEN_BLOCK = "broken block"
    """A block whose header lies: it announces more bytes than come before the end of the line."""


@dataclass(slots=True)
class _Armed:
    trouble: Trouble
    times: int
    seconds: float
    only: bytes


class SimulatedInstrument:
    """A SCPI instrument at `address` while it is entered. Several clients may connect; they see one instrument."""

    def __init__(self, identity: str, commands: Mapping[str, Act], port: int = 0) -> None:
        """`commands` by header, as `MEASure:VOLTage[:DC]?`: capitals are the short form, brackets may be left out."""
        self.identity = identity
        """What `*IDN?` is answered with."""
        self.delay_s = 0.0
        """How long each reply takes."""
        self.queries = 0
        """How many messages with an answer came in."""
        self._errors: deque[str] = deque()
        self._troubles: deque[_Armed] = deque()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._port = port
        self._server: socket.socket | None = None
        self._clients: dict[socket.socket, threading.Thread] = {}
        common: dict[str, Act] = {
            "*IDN?": lambda _: self.identity.encode(),
            "*CLS": self._clear,
            "*OPC?": lambda _: b"1",
            "*WAI": lambda _: None,
            "SYSTem:ERRor[:NEXT]?": lambda _: self._error(),
        }
        # Every spelling is an entry of its own, so that the way of a query is one look-up.
        self._acts = {form: act for header, act in (common | dict(commands)).items() for form in spellings(header)}

    # ---- life ----

    def __enter__(self) -> Self:
        self._stopping.clear()
        self._server = socket.create_server(("127.0.0.1", self._port))
        self._port = self._server.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._server,), name="scidaq-simulator", daemon=True
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
            thread = threading.Thread(target=self._serve, args=(client,), name="scidaq-simulator", daemon=True)
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
        reply = self.answer(line) if b";" not in line else self._answers(line)
        if reply is None:
            return True
        self.queries += 1
        if self.delay_s:
            self._stopping.wait(self.delay_s)
        if self._troubles:
            return self._send(client, line, reply)
        client.sendall(reply + b"\n")
        return True

    def _send(self, client: socket.socket, line: bytes, content: bytes) -> bool:
        armed, reply = self._next_trouble(line), content + b"\n"
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
            case Trouble.SHORT_BLOCK if content[:1] == b"#":
                data = content[2 + int(content[1:2]) :]
                reply = block(data[: len(data) // 2]) + b"\n"
            case Trouble.BROKEN_BLOCK if content[:1] == b"#":
                at = 2 + int(content[1:2])
                reply = content[:at] + content[at : at + (len(content) - at) // 2] + b"\n"
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
        act = self._acts.get(header) or self._acts.get(header.upper())
        if act is None:
            if header:
                self.fault(-113, "Undefined header")
            return None
        return act(argument.strip())

    def _answers(self, line: bytes) -> bytes | None:
        """The replies to all parts of a message, joined as they are sent."""
        try:
            parts = split(line, b";")
        except GarbledReply:
            return self.fault(-151, "Invalid string data")
        replies, path = [], b""
        for part in map(bytes.strip, parts):
            whole = part if part[:1] in (b":", b"*") else path + part
            if part[:1] != b"*":
                header = whole.partition(b" ")[0]
                path = header[: header.rfind(b":") + 1]
            if (reply := self.answer(whole)) is not None:
                replies.append(reply)
        return b";".join(replies) if replies else None

    def fault(self, code: int, text: str) -> bytes | None:
        """Put an entry into the error queue; None, as the reply of a command that went wrong."""
        if len(self._errors) >= QUEUE:
            self._errors[-1] = '-350,"Queue overflow"'
        else:
            self._errors.append(f'{code},"{text}"')
        return None

    def _clear(self, _: bytes) -> None:
        self._errors.clear()

    def _error(self) -> bytes:
        try:
            return self._errors.popleft().encode()
        except IndexError:
            return b'+0,"No error"'


def spellings(header: str) -> Iterator[bytes]:
    """All ways to write a header, in capitals: short and long forms, with and without optional nodes and a suffix 1."""
    nodes: list[set[str]] = []
    for bracket, name in _NODE.findall(header.removesuffix("?")):
        forms = {name.upper(), "".join(c for c in name if not c.islower())}
        forms |= {form[:-1] for form in forms if form.endswith("1")}
        nodes.append(forms | {""} if bracket else forms)
    for chosen in product(*nodes):
        yield (":".join(filter(None, chosen)) + "?" * header.endswith("?")).encode()


def block(data: bytes) -> bytes:
    """A definite length block (IEEE 488.2, 8.7.9)."""
    size = b"%d" % len(data)
    return b"#%d%s" % (len(size), size) + data


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in it
    except OSError:
        pass  # it was not connected
    connection.close()
