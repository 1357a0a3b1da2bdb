"""The Flight process: `python -m scidaq.web.flight <descriptor of a socket>`, whose other end its station has.

It ends with its station.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import orjson

from scidaq.web.flight.process import MESSAGE, TELL_S

LEAVE_S = 3.0
"""How long calls may take to come to an end when the door is closed."""


def main(descriptor: int) -> None:
    """Serve until the station says that it is enough, or has gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the station ends it, in its turn
        signal.signal(number, signal.SIG_IGN)
    station = socket.socket(fileno=descriptor)
    said: dict[str, Any] = orjson.loads(station.recv(MESSAGE))
    _bound_memory(said.pop("memory_bytes"))
    _log_to(station)
    from scidaq.web.flight.service import Service, Setup

    certificate = said.pop("certificate")
    pair = tuple(one.encode() for one in certificate) if certificate else None
    setup = Setup(**said | {"data_dir": Path(said["data_dir"]), "certificate": pair})
    try:
        service = Service(setup, station)
    except Exception as error:
        station.send(orjson.dumps({"failed": str(error)[:500]}))
        return
    station.send(orjson.dumps({"port": service.port}))
    _listen(station, service)
    leaving = threading.Thread(target=service.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_S)
    os._exit(0)  # with calls that hang in gRPC there is no other end


def _listen(station: socket.socket, service: Any) -> None:
    """Tell what was counted, until the station ends the conversation."""
    told: object = None
    station.settimeout(TELL_S)
    while True:
        try:
            station.recv(MESSAGE)
            return
        except TimeoutError:
            if (now := service.counts.as_json(service.access.active)) != told:
                told = now
                with contextlib.suppress(OSError):
                    station.send(orjson.dumps({"counts": now}))
        except OSError:
            return


def _log_to(station: socket.socket) -> None:
    """What is logged here becomes lines of the station's log."""
    import structlog

    def tell(logger: Any, method: str, event: Any) -> Any:
        line = {"level": method, **{name: str(value)[:2000] for name, value in event.items()}}
        with contextlib.suppress(OSError):
            station.send(orjson.dumps({"log": line}))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.processors.format_exc_info, tell])


def _bound_memory(most: int) -> None:
    """Private memory only: files that are mapped are no burden."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(int(sys.argv[1]))
