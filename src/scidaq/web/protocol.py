"""HTTP/1.1 with limits below the framework: uvicorn's protocol, guarded.

uvicorn counts connections, and answers 503 to everybody while idle ones sit there; it has no deadline for a header and
none for a client that does not take its answer. Here the connection that has been idle for the longest makes room for
a new one, a header has to come whole in its time, and a reserve stays for those who ask how the station is.

Source: RFC 9112; `uvicorn.protocols.http.httptools_impl`, whose callbacks of the parser are what is overridden.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from asyncio.events import TimerHandle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import structlog
from uvicorn import Server
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from scidaq.stats import field_of
from scidaq.web import problem
from scidaq.web.limits import neighbourhood
from scidaq.web.options import ServerOptions

log = structlog.get_logger(__name__)
_FAULTS = logging.getLogger("uvicorn.error.protocol")
"""Only faults: what strangers send that is no HTTP, or asks for another protocol, is counted and fills no log."""
_FAULTS.setLevel(logging.ERROR)

HANDSHAKE_S, SHUTDOWN_S = 10.0, 3.0
"""How long the beginning and the end of TLS may take."""
ACCEPT_AGAIN_S = 0.1
RESERVE = 8
"""Connections beyond the limit for those who ask for `RESERVED` when all others are at work."""
RESERVED = (b"/health", b"/metrics")
CONTROL_CONNECTIONS = 64
"""Of the control socket, which does not count with the others."""
LIVE_PATH = b"/api/v1/live"
"""The one path at which a connection may become a WebSocket."""
LIVE_BYTES_S, LIVE_BURST_BYTES = 64 << 10, 512 << 10
"""What a client of a WebSocket may send in a second, and at once: it only says what it wants to see."""
BEHIND_BYTES = 1 << 20
"""What may wait for a client that does not take it; with more, it is passed over."""


@dataclass(frozen=True, slots=True)
class DoorStats:
    """What came to the HTTP door."""

    connections: int = field_of("1", "Connections that are open now.")
    busy: int = field_of("1", "Of these, those with a request under way.")
    accepted: int = field_of("1", "Connections that were made.")
    evicted: int = field_of("1", "Idle connections that were closed to make room.")
    refused: int = field_of("1", "Connections that were closed at once because there was no room.")
    late: int = field_of("1", "Connections that were closed because a header or the taking of an answer took too long.")
    malformed: int = field_of("1", "Requests that were no HTTP, or too long.")
    live: int = field_of("1", "WebSockets that are open now.")


class Gate:
    """Who is connected, and who has to go when there is no room. Used in the event loop only; `stats` from anywhere."""

    def __init__(self, options: ServerOptions, metrics_path: str = "/metrics") -> None:
        self.options = options
        self.reserved = (*RESERVED, metrics_path.encode())
        self.waiting: dict[GuardedProtocol, None] = {}
        """Connections without a request under way, the one that has been so for the longest first."""
        self.busy: set[GuardedProtocol] = set()
        self.control: set[GuardedProtocol] = set()
        self.shaking: dict[asyncio.Task[None], str] = {}
        """TLS connections that are not there yet, oldest first, with their addresses."""
        self.peers: Counter[str] = Counter()
        self.live: set[LiveProtocol] = set()
        """Connections that have become WebSockets: they count no more with those that ask."""
        self.accepted = self.evicted = self.refused = self.late = self.malformed = 0

    def stats(self) -> DoorStats:
        """A snapshot."""
        busy = len(self.busy)
        return DoorStats(
            busy + len(self.waiting),
            busy,
            self.accepted,
            self.evicted,
            self.refused,
            self.late,
            self.malformed,
            len(self.live),
        )

    def admit(self, one: GuardedProtocol) -> bool:
        """Let a new connection in, on the place of one that idles if need be; False when it has to go."""
        self.accepted += 1
        if one.is_control:
            if len(self.control) >= CONTROL_CONNECTIONS:
                self.refused += 1
                return False
            self.control.add(one)
            return True
        if self.peers[one.peer] >= self.options.max_connections_per_peer:
            others = [w for w in self.waiting if w.peer == one.peer]
            if not others:
                self.refused += 1
                return False
            self._evict(others[0])
        if len(self.waiting) + len(self.busy) >= self.options.max_connections:
            if self.waiting:
                self._evict(next(iter(self.waiting)))
            elif len(self.busy) >= self.options.max_connections + RESERVE:
                self.refused += 1
                return False
            else:
                one.in_reserve = True
        self.waiting[one] = None
        self.peers[one.peer] += 1
        return True

    def begin_handshake(self, one: asyncio.Task[None], peer: str) -> None:
        """A connection is to speak TLS; where too many are about to, the oldest of them goes."""
        near = [other for other, its in self.shaking.items() if its == peer]
        late = near[0] if len(near) >= self.options.max_connections_per_peer else None
        if late is None and len(self.shaking) >= self.options.max_connections:
            late = next(iter(self.shaking))
        if late is not None:
            self.evicted += 1
            self.end_handshake(late)
            late.cancel()
        self.shaking[one] = peer

    def end_handshake(self, one: asyncio.Task[None]) -> None:
        """It speaks TLS now, or is gone."""
        self.shaking.pop(one, None)

    def _evict(self, one: GuardedProtocol) -> None:
        self.evicted += 1
        self.forget(one)
        one.transport.close()

    def begin(self, one: GuardedProtocol) -> None:
        """A request is under way."""
        if one in self.waiting:
            del self.waiting[one]
            self.busy.add(one)

    def end(self, one: GuardedProtocol) -> None:
        """It is answered."""
        if one in self.busy:
            self.busy.discard(one)
            self.waiting[one] = None

    def forget(self, one: GuardedProtocol) -> None:
        """It is gone."""
        self.control.discard(one)
        if one in self.busy or one in self.waiting:
            self.busy.discard(one)
            self.waiting.pop(one, None)
            self.peers[one.peer] -= 1
            if self.peers[one.peer] <= 0:
                del self.peers[one.peer]


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `of` makes the class that belongs to a gate."""

    gate: ClassVar[Gate]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _FAULTS
        self.peer = ""
        self.is_control = self.in_reserve = False
        self._deadline: TimerHandle | None = None
        self._stalled: TimerHandle | None = None
        self._header_bytes = 0
        self._header_whole = False
        self._rejected = False

    @classmethod
    def of(cls, gate: Gate) -> type[GuardedProtocol]:
        """The protocol with a gate of its own."""
        return type("GuardedProtocol", (cls,), {"gate": gate})

    # ---- the connection ----

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        sock = transport.get_extra_info("socket")
        self.is_control = sock is not None and sock.family == getattr(socket, "AF_UNIX", None)
        super().connection_made(transport)
        self.peer = neighbourhood(self.client[0]) if self.client else ""
        if self.is_control:
            self.app_state = {**self.app_state, "control": True}
        if not self.gate.admit(self):
            self._rejected = True
            transport.abort()
            return
        self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.forget(self)
        self._deadline = _cancel(self._deadline)
        self._stalled = _cancel(self._stalled)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._rejected:
            return
        if self._deadline is None and not self._at_work():  # the next request of a connection begins
            self._expect_header()
        super().data_received(data)

    def _at_work(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _expect_header(self) -> None:
        self._header_bytes = 0
        self._deadline = self.loop.call_later(self.gate.options.header_timeout_seconds, self._header_is_late)

    def _header_is_late(self) -> None:
        self._deadline = None
        if self._at_work() or self.transport.is_closing():
            return
        self.gate.late += 1
        self._reject(408, "late", "the header of the request did not come in time")

    # ---- the connection becomes a WebSocket ----

    def _should_upgrade(self) -> bool:
        """Only where there is one: anywhere else the wish is left unheard, as RFC 9110 has it."""
        return super()._should_upgrade() and self.url.partition(b"?")[0] == LIVE_PATH

    def handle_websocket_upgrade(self) -> None:
        if self._rejected:
            return
        most = self.gate.options.max_live_connections
        if len(self.gate.live) >= most:
            self.gate.refused += 1
            self._reject(503, "too-many-viewers", f"{most} live connections are open (server.max_live_connections)")
            return
        self.gate.forget(self)
        self._deadline, self._stalled = _cancel(self._deadline), _cancel(self._stalled)
        super().handle_websocket_upgrade()

    # ---- the request ----

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        self._header_whole = False

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._header_whole:  # what comes behind the body has passed no check, and is not read
            super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.gate.options.max_header_bytes and not self._rejected:
            self.gate.malformed += 1
            limit = self.gate.options.max_header_bytes
            self._reject(431, "header-too-long", f"the header of a request has {limit} bytes at most")

    def on_headers_complete(self) -> None:
        self._deadline = _cancel(self._deadline)
        self._header_whole = True
        if self._rejected:
            return
        path = self.url.partition(b"?")[0]
        if self.in_reserve and not path.startswith(self.gate.reserved):
            self.gate.refused += 1
            self._reject(503, "busy", "all connections are at work; try again soon", b"retry-after: 1\r\n")
            return
        self.gate.begin(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._rejected:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._rejected:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self.gate.end(self)
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        self.gate.forget(self)
        super().timeout_keep_alive_handler()

    # ---- who does not take what they asked for ----

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.gate.options.request_timeout_seconds, self._is_stalled)

    def resume_writing(self) -> None:
        self._stalled = _cancel(self._stalled)
        super().resume_writing()

    def _is_stalled(self) -> None:
        self._stalled = None
        self.gate.late += 1
        self.transport.abort()

    # ---- what is no request ----

    def send_400_response(self, msg: str) -> None:
        self.gate.malformed += 1
        self._reject(400, "no-http", msg)

    def _reject(self, status: int, kind: str, detail: str, more: bytes = b"") -> None:
        """Answer without the framework, and close."""
        self._rejected = True
        self._deadline = _cancel(self._deadline)
        if self.transport.is_closing():
            return
        if self._at_work():  # an answer is under way, nothing may stand in it
            self.transport.abort()
            return
        content = problem.body(status, kind, detail)
        head = [
            STATUS_LINE[status],
            b"content-type: ",
            problem.MEDIA_TYPE.encode(),
            b"\r\ncontent-length: ",
            str(len(content)).encode(),
            b"\r\nconnection: close\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n",
            more,
            b"\r\n",
            content,
        ]
        self.transport.write(b"".join(head))
        self.transport.close()


class LiveProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. `of` makes the class that belongs to a gate.

    What a handler sends goes to the operating system at once, or waits in a buffer that is bounded: nobody is waited
    for. A frame that many get is put together once (`framed`) and written to each as it is.

    Source: RFC 6455; `uvicorn.protocols.websockets.websockets_sansio_impl`.
    """

    gate: ClassVar[Gate]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = _FAULTS
        self._left_bytes, self._left_s = float(LIVE_BURST_BYTES), 0.0
        self._stalled: TimerHandle | None = None
        self.resumed: Callable[[], None] = _nothing
        """Called when a client takes again what it is sent."""
        self.ended: Callable[[], None] = _nothing
        """Called when the connection is gone."""

    @classmethod
    def of(cls, gate: Gate) -> type[LiveProtocol]:
        """The protocol with a gate of its own."""
        return type("LiveProtocol", (cls,), {"gate": gate})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.gate.live.add(self)
        self.app_state = {**self.app_state, "wire": self}
        self.transport.set_write_buffer_limits(high=BEHIND_BYTES // 4, low=BEHIND_BYTES // 16)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
            with contextlib.suppress(OSError):  # what the system keeps for a slow client is old when it comes there
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BEHIND_BYTES // 4)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gate.live.discard(self)
        self._stalled = _cancel(self._stalled)
        super().connection_lost(exc)
        self.ended()

    def data_received(self, data: bytes) -> None:
        now_s = self.loop.time()
        gained = (now_s - self._left_s) * LIVE_BYTES_S if self._left_s else 0.0
        self._left_bytes = min(float(LIVE_BURST_BYTES), self._left_bytes + gained) - len(data)
        self._left_s = now_s
        if self._left_bytes < 0:
            self.gate.malformed += 1
            self.end(1008, "messages come faster than they are read")
            return
        super().data_received(data)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # whoever takes nothing gets no answers either

    # ---- what goes out ----

    @property
    def open(self) -> bool:
        """Whether something may be sent."""
        return self.handshake_complete and not (self.close_sent or self.disconnected or self.transport.is_closing())

    @property
    def behind(self) -> bool:
        """Whether the client does not take what it is sent."""
        return not self.writable.is_set()

    def write(self, framed: bytes) -> None:
        """Send messages that are framed already; they are lost where the client is far behind."""
        if self.open and self.transport.get_write_buffer_size() <= BEHIND_BYTES:
            self.transport.write(framed)

    def end(self, code: int, reason: str) -> None:
        """Close the connection, with a word about why."""
        if not self.open:
            self.transport.close()
            return
        self.conn.send_close(code, reason[:120])
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.read_paused:  # what comes is read up to the client's good-bye, and not heeded
            self.read_paused = False
            self.transport.resume_reading()
        # Not `close`, which waits until a client that takes nothing has taken everything.
        self.close_timer = self.loop.call_later(1.0, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.gate.options.live_stall_seconds, self._is_stalled)

    def resume_writing(self) -> None:
        self._stalled = _cancel(self._stalled)
        super().resume_writing()
        self.resumed()

    def _is_stalled(self) -> None:
        self._stalled = None
        self.gate.late += 1
        self.transport.abort()


def _nothing() -> None:
    """Nobody wants to know."""


def framed(content: bytes, *, text: bool = False) -> bytes:
    """A whole message as it goes over a WebSocket from a server (RFC 6455, section 5.2)."""
    first, size = 0x81 if text else 0x82, len(content)
    if size < 126:
        head = bytes((first, size))
    elif size < 1 << 16:
        head = bytes((first, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 127)) + size.to_bytes(8, "big")
    return head + content


class TlsDoor:
    """Accepts connections that are to speak TLS, each of which counts from the moment that it is accepted.

    asyncio's own server shakes hands before it tells anybody: thousands who never do would take all descriptors, which
    the recorder needs too.
    """

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLContext, gate: Gate, make: Callable[[], GuardedProtocol]
    ) -> None:
        self._sock, self._tls, self._gate, self._make = sock, tls, gate, make
        sock.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept no more, and let those go who have only knocked."""
        self._task.cancel()
        for one in list(self._gate.shaking):
            one.cancel()

    async def wait_closed(self) -> None:
        """Once nobody is accepted any more."""
        await asyncio.wait([self._task])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                one, address = await loop.sock_accept(self._sock)
            except OSError:  # no descriptor is left; some connection will end
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            task = loop.create_task(self._shake(one))
            self._gate.begin_handshake(task, neighbourhood(address[0]))
            task.add_done_callback(self._gate.end_handshake)

    async def _shake(self, one: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, one, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=SHUTDOWN_S
            )
        except OSError:  # no TLS, or not of today, or not in time, or gone
            one.close()
        except asyncio.CancelledError:
            one.close()
            raise


def _cancel(timer: TimerHandle | None) -> TimerHandle | None:
    """None, in the place of a timer that does not go off any more."""
    if timer is not None:
        timer.cancel()
    return None


class OpenServer(Server):
    """uvicorn's server on sockets that are open already, of which only the TCP ones speak TLS."""

    async def open(self, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Begin to accept."""
        config = self.config
        self.lifespan = config.lifespan_class(config)
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()

        kind: Any = config.http_protocol_class

        def protocol() -> GuardedProtocol:
            return kind(config=config, server_state=self.server_state, app_state={}, _loop=loop)  # type: ignore[no-any-return]

        self.servers = []
        for one in sockets:
            opened: Any
            if one.family == getattr(socket, "AF_UNIX", None):
                opened = await loop.create_unix_server(protocol, sock=one)
            elif tls is None:
                opened = await loop.create_server(protocol, sock=one)
            else:
                opened = TlsDoor(one, tls, kind.gate, protocol)
            self.servers.append(opened)
        self.started = True
