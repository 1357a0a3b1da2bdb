"""The doors of a station over HTTP: limits, keys, routes; and the way to a running station from this machine.

Knows neither files of samples nor hardware: a station is reached through `StationDoor`. FastAPI and uvicorn are loaded
when a server is opened, which is after recording has begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scidaq.web.control import Control, connect_control
from scidaq.web.flight import FlightDoor, FlightStats
from scidaq.web.keys import SCOPES, Key, KeyStore
from scidaq.web.options import OPEN_DOOR, FlightOptions, SecurityOptions, ServerOptions
from scidaq.web.server import LoopStats, WebServer

if TYPE_CHECKING:
    from scidaq.station import Station
    from scidaq.web.door import ConfigDoor, LogTail, StationDoor

__all__ = [
    "OPEN_DOOR",
    "SCOPES",
    "ConfigDoor",
    "Control",
    "FlightDoor",
    "FlightOptions",
    "FlightStats",
    "Key",
    "KeyStore",
    "LogTail",
    "LoopStats",
    "SecurityOptions",
    "ServerOptions",
    "StationDoor",
    "WebServer",
    "connect_control",
    "open_doors",
]


def open_doors(
    station: Station | StationDoor,
    uuid: str,
    keys: KeyStore,
    server: ServerOptions,
    security: SecurityOptions,
    *,
    any_port: bool = False,
    config: ConfigDoor | None = None,
    logs: LogTail | None = None,
) -> WebServer:
    """The server of a station, to be entered; `any_port` where another will do when the configured one is taken."""
    from scidaq.station import Serving, Station

    door = Serving(station) if isinstance(station, Station) else station

    def make(web: WebServer) -> object:
        from scidaq.web.app import make_app

        return make_app(door, web, keys, config, logs)

    return WebServer(make, uuid, server, security, any_port=any_port)


def __getattr__(name: str) -> Any:
    """What takes long to import is loaded when it is asked for."""
    if name not in ("ConfigDoor", "LogTail", "StationDoor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scidaq.web import door

    return getattr(door, name)
