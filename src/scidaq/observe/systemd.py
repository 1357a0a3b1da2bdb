"""Telling systemd how the service is: ready, at work, stopping, and that the recorder still moves.

The protocol is a datagram of `KEY=value` lines to the Unix socket that `NOTIFY_SOCKET` names (sd_notify(3)). With
`WatchdogSec=` in the unit, `WATCHDOG_USEC` says how often systemd wants to hear `WATCHDOG=1`; it hears that only while
the recorder moves, and starts the service again when it does not. Where there is no systemd, nothing is sent.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Self

import structlog

log = structlog.get_logger(__name__)

STATUS_S = 10.0
"""How often the status line is renewed where no watchdog wants to hear more often."""


class Service:
    """This process as a service of systemd; a context manager around the station. Nothing here ever raises."""

    def __init__(self, env: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract address.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(env, os.getpid() if pid is None else pid)
        self._stands_still: Callable[[], str] = lambda: ""
        self._status: Callable[[], str] = lambda: ""
        self._stop = threading.Event()
        self._stopping = False
        self._told_still = False
        self._thread: threading.Thread | None = None

    @property
    def present(self) -> bool:
        """Whether somebody listens."""
        return bool(self._address)

    def ready(self, stands_still: Callable[[], str], status: Callable[[], str]) -> None:
        """The station records. `stands_still` says why it does not any more, empty while it does."""
        if not self.present:
            return
        self._stands_still, self._status = stands_still, status
        self._send("READY=1", f"STATUS={self._line()}")
        self._thread = threading.Thread(target=self._run, name="systemd", daemon=True)
        self._thread.start()

    def stopping(self) -> None:
        """What has arrived is being made durable; how long that may take is the business of `TimeoutStopSec=`."""
        self._stopping = True
        self._send("STOPPING=1", "STATUS=stopping; what has arrived is made durable first")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # Three times as often as asked, so that one that comes late harms nobody.
        while not self._stop.wait(STATUS_S if self._watchdog_s is None else min(STATUS_S, self._watchdog_s / 3)):
            self._beat()

    def _beat(self) -> None:
        if self._stopping:
            self._send("WATCHDOG=1")
            return
        try:
            still = self._stands_still()
        except Exception as error:
            still = f"it cannot be told whether the recorder moves: {error!r}"
        if not still:
            self._told_still = False
            self._send("WATCHDOG=1", f"STATUS={self._line()}")
            return
        self._send(f"STATUS={still}")
        if not self._told_still:
            self._told_still = True
            log.error("the watchdog is not told that all is well", reason=still)

    def _line(self) -> str:
        try:
            return " ".join(self._status().split())
        except Exception:  # it is only for people
            return "recording"

    def _send(self, *lines: str) -> None:
        if not self.present:
            return
        with (
            suppress(OSError, ValueError),  # nobody listens any more: recording goes on all the same
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as out,
        ):
            out.settimeout(1.0)
            out.sendto("\n".join(lines).encode(), self._address)


def _watchdog_s(env: Mapping[str, str], pid: int) -> float | None:
    """How often the watchdog wants to hear of this process; None where it does not."""
    if env.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None  # it is another process that is watched
    try:
        microseconds = int(env.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None
