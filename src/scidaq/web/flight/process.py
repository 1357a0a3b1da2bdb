"""The station's side of the Flight door: begins the process, watches it, and does for it what only the station can."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson
import structlog

from scidaq.errors import StationError
from scidaq.stats import Status, Verdict, field_of
from scidaq.web.options import FlightOptions, SecurityOptions

if TYPE_CHECKING:
    from scidaq.station import Station
    from scidaq.web.door import StationDoor
    from scidaq.web.flight.calls import Calls

log = structlog.get_logger(__name__)

MESSAGE = 1 << 16
"""The longest message on the socket between the two."""
TELL_S = 1.0
"""How often what was counted is told."""
PORT_S = 3.0
"""How long a port that is taken is waited for."""
START_S = 60.0
STOP_S = 8.0
AGAIN_S, AGAIN_MOST_S = 0.5, 30.0
"""The first and the longest pause before the process is begun again."""
STABLE_S = 60.0
CERTIFICATE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class FlightStats:
    """What the Flight door does."""

    running: bool = field_of("1", "Whether its process runs and listens.")
    restarts: int = field_of("1", "Times that its process ended by itself and was begun again.")
    calls: int = field_of("1", "Calls under way.")
    by_result: Mapping[tuple[str, str], int] = field_of("1", "Calls by method and result: ok or the kind of problem.")
    sent_bytes: int = field_of("By", "Bytes of rows that were sent.")
    sent_rows: int = field_of("{row}", "Rows that were sent.")
    pushed_rows: int = field_of("{row}", "Rows that producers pushed.")
    skipped_rows: int = field_of("{row}", "Rows that live readers were too slow for.")


@dataclass(slots=True)
class _Totals:
    """Of all processes there have been; the present one tells its own."""

    before: dict[str, Any] = field(default_factory=dict)
    now: dict[str, Any] = field(default_factory=dict)

    def end(self) -> None:
        self.before, self.now = _added(self.before, self.now), {}

    def sum(self) -> dict[str, Any]:
        return _added(self.before, self.now)


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    out = {name: one.get(name, 0) + other.get(name, 0) for name in _COUNTED}
    calls: dict[tuple[str, str], int] = {}
    for method, result, count in [*one.get("calls", ()), *other.get("calls", ())]:
        calls[method, result] = calls.get((method, result), 0) + count
    return out | {"calls": [[*key, count] for key, count in calls.items()]}


_COUNTED = ("sent_bytes", "sent_rows", "pushed_rows", "skipped_rows")


def _calls(station: Station | StationDoor) -> Calls:
    from scidaq.station import Serving, Station
    from scidaq.web.flight.calls import Calls

    return Calls(Serving(station) if isinstance(station, Station) else station)


class FlightDoor:
    """The Flight process of a station, until the end of `with`; `address` is where it listens.

    Raises on entry `StationError` when the door may not be opened as configured, or the port cannot be had. Later the
    process is begun again whenever it ends, and when there is another certificate: its readers then get an error that
    says that they may try again.
    """

    def __init__(
        self,
        station: Station | StationDoor,
        data_dir: Path,
        flight: FlightOptions,
        security: SecurityOptions,
        *,
        any_port: bool = False,
    ) -> None:
        """`any_port`: take another port when the configured one is taken."""
        self.options, self.security = flight, security
        self._calls = _calls(station) if flight.enabled else None
        self._data_dir, self._any_port = data_dir.absolute(), any_port
        self.address = ""
        """`grpc://127.0.0.1:8081`; empty when there is no port."""
        self._port = flight.port
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._restarts = 0
        self._active = 0
        self._totals = _Totals()
        self._certificate: object = None

    # ---- life ----

    def __enter__(self) -> Self:
        if not self.options.enabled:
            return self
        if (refusal := self.security.refusal(self.options)) is not None:
            raise StationError(refusal)
        if not hasattr(socket, "SOCK_SEQPACKET") or not hasattr(socket, "send_fds"):
            log.warning("this system has no sockets of the kind that the Flight door needs: there is none")
            return self
        self._choose_port()
        if self.security.tls_enabled:
            self._certificate_pair()  # an unfit one is told before anything is begun
        self._begin()
        self._thread = threading.Thread(target=self._watch, name="flight", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; calls that are under way get a short while."""
        self._stopping.set()
        control = self._control
        if control is not None:
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(STOP_S + START_S)
            self._thread = None
        self._end()
        if self._calls is not None:
            self._calls.end()

    def _choose_port(self) -> None:
        """Look whether the port can be had, for an error in words."""
        deadline_s = time.monotonic() + PORT_S
        while (error := self._port_refused()) is not None:
            taken = error.errno == errno.EADDRINUSE and self.options.port
            if taken and self._any_port:
                log.warning("the port is taken, another is used", port=self.options.port)
                self._port = 0
                return
            if not taken or time.monotonic() >= deadline_s:
                raise StationError(self._why_no_port(error)) from error
            self._stopping.wait(0.05)  # the process of a station that was killed is about to end

    def _port_refused(self) -> OSError | None:
        """What the system says to somebody who wants to listen at the port; None when it may."""
        o = self.options
        family = socket.AF_INET6 if ":" in o.bind_address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((o.bind_address, o.port))
                trial.listen(1)
            except OSError as error:
                return error
        return None

    def _why_no_port(self, error: OSError) -> str:
        o = self.options
        if error.errno == errno.EADDRINUSE:
            return (
                f"port {o.port} at {o.bind_address} is taken by another program; choose another flight.port (0 takes "
                "any free one), or set flight.enabled = false"
            )
        if error.errno == errno.EADDRNOTAVAIL:
            return f"flight.bind_address = {o.bind_address!r} is no address of this machine"
        return f"flight.port {o.port} at {o.bind_address} cannot be opened: {error.strerror or error}"

    # ---- the process ----

    def _begin(self) -> None:
        """Begin the process, and wait until it listens. Raises `StationError`."""
        o = self.options
        host = f"[{o.bind_address}]" if ":" in o.bind_address else o.bind_address
        scheme = "grpc+tls" if self.security.tls_enabled else "grpc"
        setup = {
            "data_dir": str(self._data_dir),
            "address": f"{scheme}://{host}:{self._port}",
            "certificate": self._certificate_pair() if self.security.tls_enabled else None,
            "keys": self.security.keys,
            "max_calls": o.max_calls,
            "max_calls_per_key": o.max_calls_per_key,
            "calls_per_second": o.calls_per_second,
            "max_batch_bytes": o.max_batch_bytes,
            "live_buffer_bytes": o.live_buffer_bytes,
            "memory_bytes": o.memory_bytes,
        }
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MESSAGE)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "scidaq.web.flight", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=os.environ | {"GRPC_VERBOSITY": "NONE"},
                )
            control.settimeout(START_S)
            control.send(orjson.dumps(setup))
            answer = control.recv(MESSAGE)
            said: dict[str, Any] = orjson.loads(answer) if answer else {}
            if "port" not in said:
                why = said.get("failed") or "it ended, or it took too long; the log may say more"
                raise StationError(f"the Flight door did not open: {why}")
        except (OSError, StationError) as error:
            control.close()
            self._end()
            if isinstance(error, StationError):
                raise
            raise StationError(f"the Flight door did not open: {error}") from error
        self._port = said["port"]  # the next process takes the same
        self._control = control
        self.address = f"{scheme}://{host}:{self._port}"

    def _end(self) -> None:
        """Close the conversation, which ends the process; one that goes on all the same is killed."""
        if self._control is not None:
            self._control.close()
            self._control = None
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _watch(self) -> None:
        """Hear what the process says; begin it again when it has ended, or when there is another certificate."""
        pause_s, began_s = AGAIN_S, time.monotonic()
        while not self._stopping.is_set():
            why = self._converse()
            self._totals.end()
            self._active = 0
            process = self._process
            self._end()
            if self._stopping.is_set():
                return
            if why:
                log.info("the Flight door is opened again", why=why)
                pause_s = AGAIN_S
            else:
                self._restarts += 1
                if time.monotonic() - began_s > STABLE_S:
                    pause_s = AGAIN_S
                code = process.returncode if process is not None else None
                log.warning("the Flight process has ended and is begun again", code=code, pause_s=pause_s)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, AGAIN_MOST_S)
            while not self._stopping.is_set():
                began_s = time.monotonic()
                try:
                    self._begin()
                except StationError as error:
                    log.error("the Flight door could not be opened again; it is tried on", error=str(error))
                    self._stopping.wait(pause_s)
                    pause_s = min(2 * pause_s, AGAIN_MOST_S)
                else:
                    break

    def _converse(self) -> str:
        """Until the process has ended (empty), or why it is to end."""
        control = self._control
        if control is None:
            return ""
        control.settimeout(CERTIFICATE_EVERY_S)
        looked_s = time.monotonic()
        while not self._stopping.is_set():
            if self.security.tls_enabled and time.monotonic() - looked_s >= CERTIFICATE_EVERY_S:
                looked_s = time.monotonic()
                if self._has_new_certificate():
                    return "a new certificate"
            try:
                message, descriptors, _, _ = socket.recv_fds(control, MESSAGE, 1)
            except TimeoutError:
                continue
            except OSError:
                return ""
            if not message:
                return ""
            self._hear(orjson.loads(message), descriptors)
        return ""

    def _hear(self, said: dict[str, Any], descriptors: list[int]) -> None:
        if (counts := said.get("counts")) is not None:
            self._active = counts.pop("active")
            self._totals.now = counts
        if (line := said.get("log")) is not None:
            level, event = line.pop("level"), line.pop("event", "")
            getattr(log, level if level in ("info", "warning") else "error")(event, **line)
        if descriptors and self._calls is not None:
            self._calls.begin(said, socket.socket(fileno=descriptors[0]))

    # ---- the certificate ----

    def _certificate_pair(self) -> tuple[str, str]:
        """Chain and key. Raises `StationError` when they cannot be used."""
        cert, key = self.security.cert_path, self.security.key_path
        if cert is None or key is None:
            raise StationError("security.cert_path, key_path: TLS needs both")
        try:
            self._certificate = self._look()
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
            return cert.read_text(), key.read_text()
        except (OSError, ValueError) as error:
            raise StationError(f"security.cert_path, key_path: {cert} and {key} cannot be used ({error})") from error

    def _look(self) -> object:
        paths = (self.security.cert_path, self.security.key_path)
        found = [path.stat() for path in paths if path is not None]
        return [(one.st_ino, one.st_mtime_ns, one.st_size) for one in found]

    def _has_new_certificate(self) -> bool:
        """Whether there is another one that can be used."""
        before = self._certificate
        try:
            if self._look() == before:
                return False
            self._certificate_pair()
        except (OSError, StationError):
            self._certificate = before  # half of it may be there; the door for HTTP says so
            return False
        return True

    # ---- what is counted ----

    def judge(self) -> Verdict:
        """How the door is, for health: recording does not depend on it, so it is degraded at worst."""
        stats = self.stats()
        details = {"restarts": stats.restarts, "calls": stats.calls}
        if self.address and not stats.running:
            why = "the Flight process has ended and is being begun again; the log says why"
            return Verdict(Status.DEGRADED, why, details, critical=False)
        return Verdict(Status.HEALTHY, "", details, critical=False)

    def stats(self) -> FlightStats:
        """A snapshot, from any thread."""
        sums = self._totals.sum()
        by_result = {(method, result): count for method, result, count in sums.pop("calls")}
        return FlightStats(self._control is not None, self._restarts, self._active, by_result, **sums)
