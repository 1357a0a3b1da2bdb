"""The HTTP server of a station: an event loop in a thread of its own, a TCP port and a Unix socket.

Both speak the same interface. The socket is for this machine's owner: mode 0600, no keys, no limits but its own. The
server ends by itself with its `with` block, also when a handler hangs; what a station records does not depend on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from scidaq.errors import StationError
from scidaq.stats import field_of
from scidaq.web.options import SecurityOptions, ServerOptions
from scidaq.web.places import control_path

log = structlog.get_logger(__name__)

START_S = 30.0
STOP_S = 5.0
PING_S = 20.0
"""How often a WebSocket is asked whether somebody is there, and how long the answer may take."""
LAG_EVERY_S = 0.25
CERTIFICATE_EVERY_S = 2.0
_LAGS = 240


@dataclass(frozen=True, slots=True)
class LoopStats:
    """How promptly the event loop comes to what is due."""

    lag_s: float = field_of("s", "By how much the newest of four looks a second came late.")
    worst_lag_s: float = field_of("s", "The worst of the last minute.")


class WebServer:
    """Serves `app(server)` until it is closed. A context manager; `address` is where it listens once it is entered.

    Raises on entry `StationError` when a door may not be opened as configured, or the port or socket cannot be had.
    """

    def __init__(
        self,
        make_app: Callable[[WebServer], Any],
        uuid: str,
        server: ServerOptions,
        security: SecurityOptions,
        *,
        any_port: bool = False,
    ) -> None:
        """`any_port`: take another port when the configured one is taken."""
        self.options, self.security = server, security
        self._make_app, self._uuid, self._any_port = make_app, uuid, any_port
        self.address = ""
        """`http://127.0.0.1:8080`; empty when there is no port."""
        self.control = ""
        """Path of the control socket; empty where there can be none."""
        self._sockets: list[socket.socket] = []
        self._tls: ssl.SSLContext | None = None
        self._certificate: object = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Any = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._lags: list[float] = []
        self.gate: Any = None
        self.viewers: Any = None
        self.front: Any = None
        self.first_key: Path | None = None
        """Where the first key of the station has been put, when this start made it."""

    # ---- life ----

    def __enter__(self) -> Self:
        if (refusal := self.security.refusal(self.options)) is not None:
            raise StationError(refusal)
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_sockets)
            if self.security.tls_enabled:
                self._tls = self._load_tls()
            self._open_control()
            if self.options.enabled:
                self._open_port()
            undo.pop_all()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S) or self._failure is not None:
            self.close()
            raise StationError(
                f"the HTTP server did not start: {self._failure or 'it took too long'}"
            ) from self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer what is under way, for a short while, then end."""
        server, loop, thread = self._server, self._loop, self._thread
        if server is not None and loop is not None and thread is not None and thread.is_alive():
            server.should_exit = True
            thread.join(STOP_S)
            if thread.is_alive():
                server.force_exit = True
                with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                    loop.call_soon_threadsafe(loop.stop)
                thread.join(STOP_S)
        self._close_sockets()

    def _close_sockets(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets = []
        if self.control:
            with contextlib.suppress(OSError):
                os.unlink(self.control)
            self.control = ""

    def new_link(self) -> str:
        """The token of a link with which a browser logs in once; in memory only."""
        token: str = self.front.sessions.link(time.monotonic())
        return token

    # ---- doors ----

    def _open_port(self) -> None:
        o = self.options
        family = socket.AF_INET6 if ":" in o.bind_address else socket.AF_INET
        for port in (o.port, 0) if self._any_port and o.port else (o.port,):
            one = socket.socket(family, socket.SOCK_STREAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((o.bind_address, port))
            except OSError as error:
                one.close()
                if error.errno == errno.EADDRINUSE and self._any_port and port:
                    log.warning("the port is taken, another is used", port=port)
                    continue
                raise StationError(self._why_no_port(error)) from error
            one.listen(o.max_connections)
            self._sockets.append(one)
            number = one.getsockname()[1]
            host = f"[{o.bind_address}]" if ":" in o.bind_address else o.bind_address
            self.address = f"{'https' if self._tls else 'http'}://{host}:{number}"
            return

    def _why_no_port(self, error: OSError) -> str:
        o = self.options
        if error.errno == errno.EADDRINUSE:
            return (
                f"port {o.port} at {o.bind_address} is taken by another program; choose another server.port (0 takes "
                "any free one), or set server.enabled = false"
            )
        if error.errno == errno.EADDRNOTAVAIL:
            return f"server.bind_address = {o.bind_address!r} is no address of this machine"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"this user may not listen at port {o.port}; choose a server.port from 1024 on"
        return f"port {o.port} at {o.bind_address} cannot be opened: {error.strerror or error}"

    def _open_control(self) -> None:
        """The Unix socket. Where there can be none, the command line opens the data directory itself."""
        if not hasattr(socket, "AF_UNIX"):
            return
        path = control_path(self._uuid)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = path.parent.stat()
            if owner.st_uid != os.getuid() or stat.S_IMODE(owner.st_mode) & 0o022:
                raise PermissionError(
                    errno.EACCES, "belongs to somebody else, or others may write to it", str(path.parent)
                )
            with contextlib.suppress(FileNotFoundError):
                path.unlink()  # of a station that was killed: whoever gets here holds the data directory's lock
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            before = os.umask(0o177)
            try:
                one.bind(str(path))
            except OSError:
                one.close()
                raise
            finally:
                os.umask(before)
            one.listen(64)
        except OSError as error:
            log.warning("there is no control socket: the command line cannot reach this station", error=str(error))
            return
        self._sockets.append(one)
        self.control = str(path)

    # ---- TLS ----

    def _load_tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            self._load_certificate(context)
        except (OSError, ssl.SSLError) as error:
            raise StationError(
                f"security.cert_path, key_path: {self.security.cert_path} and {self.security.key_path} cannot be used "
                f"({error}); both have to be PEM files of one certificate, the key not encrypted"
            ) from error
        return context

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        """New connections get it from now on; those that are open keep theirs."""
        cert, key = self.security.cert_path, self.security.key_path
        if cert is None or key is None:
            raise StationError("security.cert_path, key_path: TLS needs both")
        seen = self._look_of(cert), self._look_of(key)
        # First into a context of its own: a pair that does not belong together must not replace one that does.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
        context.load_cert_chain(cert, key, password=lambda: "")
        self._certificate = seen

    @staticmethod
    def _look_of(path: Path) -> tuple[int, int, int]:
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def renew_certificate(self) -> bool:
        """Take the certificate into use when its files have changed; whether it was. An unfit one changes nothing."""
        cert, key, context = self.security.cert_path, self.security.key_path, self._tls
        if context is None or cert is None or key is None:
            return False
        try:
            if (self._look_of(cert), self._look_of(key)) == self._certificate:
                return False
            self._load_certificate(context)
        except (OSError, ssl.SSLError) as error:
            log.warning("the new certificate cannot be used; the old one stays in use", error=str(error))
            return False
        log.info("a new certificate is in use", path=str(cert))
        return True

    # ---- the thread ----

    def _run(self) -> None:
        try:
            import uvloop

            new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        except ImportError:  # not on Windows
            new_loop = asyncio.new_event_loop
        try:
            loop = self._loop = new_loop()
            asyncio.set_event_loop(loop)
            loop.run_until_complete(self._serve())
        except BaseException as error:
            if not self._ready.is_set():
                self._failure = error
            elif not isinstance(error, RuntimeError):  # that the loop was stopped
                log.exception("the HTTP server has ended; recording goes on")
        finally:
            self._ready.set()
            if self._loop is not None:
                with contextlib.suppress(Exception):
                    self._loop.close()

    async def _serve(self) -> None:
        import uvicorn

        from scidaq.web.messages import MOST_BYTES
        from scidaq.web.protocol import Gate, GuardedProtocol, LiveProtocol, OpenServer

        self.gate = Gate(self.options)
        app = self._make_app(self)
        for name in ("uvicorn.error", "uvicorn.access"):
            logging.getLogger(name).setLevel(logging.WARNING)
        config = uvicorn.Config(
            app,
            http=GuardedProtocol.of(self.gate),
            ws=LiveProtocol.of(self.gate),
            ws_max_size=MOST_BYTES,
            ws_per_message_deflate=False,  # what is drawn does not get smaller, and each viewer would cost a processor
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(self.security.trusted_proxies),
            forwarded_allow_ips=list(self.security.trusted_proxies),
            timeout_keep_alive=max(1, round(self.options.idle_timeout_seconds)),
            timeout_graceful_shutdown=round(STOP_S) - 2,
        )
        config.load()
        server = self._server = OpenServer(config)
        watch = asyncio.ensure_future(self._watch())
        try:
            await server.open(self._sockets, self._tls)
            self._ready.set()
            await server.main_loop()
            if self.viewers is not None:
                self.viewers.close()
            await server.shutdown()
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """How late the loop comes to this, and whether there is another certificate."""
        loop = asyncio.get_running_loop()
        renewed_s = loop.time()
        while True:
            due_s = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lags = [*self._lags[1 - _LAGS :], max(0.0, loop.time() - due_s)]
            if loop.time() - renewed_s >= CERTIFICATE_EVERY_S:
                renewed_s = loop.time()
                self.renew_certificate()

    def stats(self) -> LoopStats:
        """A snapshot, from any thread."""
        lags = self._lags
        return LoopStats(lags[-1] if lags else 0.0, max(lags, default=0.0))
