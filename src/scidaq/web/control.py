"""How a program on this machine speaks to the station that runs on a data directory: HTTP over its control socket."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from scidaq.errors import RequestError, StationBusy, StationError
from scidaq.store import read_control, read_station
from scidaq.web.places import control_path

TIMEOUT_S = 35.0
"""A little more than the station takes for a request at most."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Control:
    """A running station, from outside. Each call is a connection of its own; may be used from any thread."""

    path: str

    def call(
        self,
        method: str,
        path: str,
        content: Any = None,
        query: Mapping[str, str | int] | None = None,
        timeout_s: float = TIMEOUT_S,
        also: Sequence[int] = (),
    ) -> Any:
        """Ask for something; what the answer's JSON says (None for an answer without).

        `also` are statuses that are an answer too, as the 503 of a station that is not well. Raises `RequestError` with
        the station's own words when it refuses, `StationError` when it cannot be reached.
        """
        connection = _UnixConnection(self.path, timeout_s)
        try:
            body = None if content is None else orjson.dumps(content)
            headers = {} if body is None else {"Content-Type": "application/json"}
            target = f"{path}?{urlencode(query)}" if query else path
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise StationError(
                f"the running station does not answer at {self.path} ({error!r}); is it starting or stopping?"
            ) from error
        finally:
            connection.close()
        try:
            said = orjson.loads(raw) if raw else None
        except orjson.JSONDecodeError:
            said = raw.decode("utf-8", "replace")
        if answer.status >= 400 and answer.status not in also:
            detail = said.get("detail") if isinstance(said, dict) else None
            if answer.status == 409 and isinstance(said, dict) and said.get("type") == "urn:scidaq:station-busy":
                raise StationBusy(str(detail))
            raise RequestError(str(detail or f"the station answered {answer.status}"))
        return said


def connect_control(data_dir: Path) -> Control | None:
    """The station that runs on a data directory, None when none answers there. Raises `ForeignDirectory`."""
    if not hasattr(socket, "AF_UNIX"):
        return None
    station = read_station(data_dir)
    for path in dict.fromkeys((read_control(data_dir), str(control_path(station.uuid)))):
        if path and _answers(path):
            return Control(path)
    return None


def _answers(path: str) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.settimeout(2.0)
            one.connect(path)
    except OSError:
        return False
    return True
