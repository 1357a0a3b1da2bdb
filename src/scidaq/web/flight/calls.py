"""What the station does for calls of its Flight process: follows a stream for a live reader, takes what is pushed.

Each call has a socket of its own and a thread here. The other end of the socket is closed when the client goes.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import structlog

from scidaq.block import Block, Epoch, Gap, Schema
from scidaq.errors import ScidaqError
from scidaq.web.door import Audited, StationDoor
from scidaq.web.flight.wire import block_message, block_of, receive, send
from scidaq.web.problem import Problem, fault, of

log = structlog.get_logger(__name__)

LOOK_S = 0.25
"""How often a live reader of which nothing is to be told is looked at."""
ACK_S = 0.02
"""How often it is looked whether more of what was pushed has become durable."""
END_S = 30.0
"""How long a producer that has said that it ends waits for its last rows to become durable."""


class Gone(Exception):
    """The other side of a call has ended it."""


class Calls:
    """The calls that are under way. `begin` from one thread."""

    def __init__(self, station: StationDoor) -> None:
        self._station = station
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()

    def begin(self, said: dict[str, Any], sock: socket.socket) -> None:
        """Do what a message asks for, in a thread of its own; the socket is closed at its end."""
        act = {"live": self._live, "push": self._push, "takes": self._takes}.get(str(said.get("call")))
        thread = threading.Thread(target=self._run, args=(act, said, sock), name="flight-call", daemon=True)
        with self._lock:
            self._sockets.add(sock)
            self._threads.add(thread)
        thread.start()

    def end(self) -> None:
        """End all of them."""
        with self._lock:
            sockets, threads = list(self._sockets), list(self._threads)
            for sock in sockets:
                _shut(sock)
        for thread in threads:
            thread.join(5.0)

    def _run(self, act: Callable[[dict[str, Any], socket.socket], None] | None, said: Any, sock: socket.socket) -> None:
        try:
            if act is not None:
                act(said, sock)
        except Gone:
            pass
        except Exception as error:
            refused = of(error)
            if refused is None and isinstance(error, OSError):
                return  # the client has gone, or the process with all of them
            if refused is None:
                log.error("call failed", door="flight", exc_info=error)
                refused = fault()
            try:
                send(sock, {"problem": told(refused)})
            except OSError:
                pass
        finally:
            with self._lock:
                self._sockets.discard(sock)
                self._threads.discard(threading.current_thread())
            sock.close()

    # ---- live ----

    def _live(self, said: dict[str, Any], sock: socket.socket) -> None:
        """Tell everything that a stream gets, until the other side has had enough."""
        stream = str(said["stream"])
        follower = self._station.follow(stream, int(said["buffer_bytes"]))
        schema: Schema | None = None
        try:
            before = follower.before
            place = None if before is None else [before.epoch, before.end, before.last_ns]
            send(sock, {"follows": place})
            if before is not None:
                schema = before.schema
                send(sock, {"schema": schema.as_json()})
            while not _ended(sock, 0.0):
                for entry in follower.take(LOOK_S):
                    item = entry.item
                    if isinstance(item, Block):
                        if item.schema is not schema:
                            schema = item.schema
                            send(sock, {"schema": schema.as_json()})
                        send(sock, *block_message(item))
                    elif isinstance(item, Gap):
                        send(sock, {"gap": item.as_json() | {"epoch": item.epoch}})
                    elif isinstance(item, Epoch):
                        schema = item.schema
                        send(sock, {"schema": schema.as_json()})
        finally:
            follower.close()

    # ---- push ----

    def _takes(self, said: dict[str, Any], sock: socket.socket) -> None:
        send(sock, {"schema": self._station.takes(str(said["stream"])).as_json()})

    def _push(self, said: dict[str, Any], sock: socket.socket) -> None:
        """Take blocks, and tell how far they are durable, until the producer ends or goes."""
        stream, who = str(said["stream"]), str(said["who"])
        act = Audited(who, str(said["via"]), str(said["peer"]), f"PUSH {stream}", 200)
        try:
            pushing = self._station.push(stream, str(said["counter"]), f"{who} at {said['peer']}")
        except ScidaqError as error:
            refused = of(error) or fault()
            self._station.audit(Audited(who, act.via, act.peer, act.act, refused.status, refused.kind))
            raise
        clean = False
        try:
            self._station.audit(act)
            schema, acked = pushing.schema, pushing.durable()
            send(sock, {"schema": schema.as_json(), "durable": acked})

            def tell() -> None:
                """Say how far rows are durable, when that is farther than before; for as long as somebody listens."""
                nonlocal acked
                if (now := pushing.durable()) != acked:
                    acked = now
                    send(sock, {"durable": now})
                if _hung_up(sock):
                    raise Gone

            end = 0
            while True:
                if not _ended(sock, ACK_S, peek=False):
                    tell()
                    continue
                message = receive(sock)
                if message is None:
                    return
                header, buffers = message
                pushing.heard()
                if "block" in header:
                    block = block_of(stream.partition("/")[2], schema, header["block"], buffers)
                    pushing.push(block, tell)
                    end = block.end
                elif "end" in header:
                    clean = True
                    self._last_rows(end, lambda: acked, tell, sock)
                    send(sock, {"whole": True})
                    return
        finally:
            pushing.close(clean=clean)

    @staticmethod
    def _last_rows(end: int, acked: Callable[[], int | None], tell: Callable[[], None], sock: socket.socket) -> None:
        """Wait for the rest to become durable."""
        for _ in range(int(END_S / ACK_S)):
            tell()
            if (acked() or 0) >= end or _ended(sock, ACK_S):
                return


def told(refused: Problem) -> dict[str, Any]:
    """A problem for the other process."""
    return {"status": refused.status, "kind": refused.kind, "detail": refused.detail}


def _ended(sock: socket.socket, timeout_s: float, *, peek: bool = True) -> bool:
    """Whether something can be read within a time; with `peek`, whether it is the end."""
    readable, _, _ = select.select([sock], [], [], timeout_s)
    if not readable:
        return False
    return not peek or not sock.recv(1, socket.MSG_PEEK)


def _hung_up(sock: socket.socket) -> bool:
    """Whether the other side has closed it, behind whatever it may have sent before."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP if hasattr(select, "POLLRDHUP") else select.POLLHUP)
    return bool(poll.poll(0))


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended by itself
