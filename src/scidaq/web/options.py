"""What the operator says of the doors: where they are, how much goes through them, and who may."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

OPEN_DOOR = "anybody who reaches this port may read and control this station"
"""What `security.open_door` has to say, in these words, to serve the network without keys or without TLS."""
_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The HTTP door."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    enabled: bool = True
    """Whether there is an HTTP port at all; the control socket is there in any case."""
    bind_address: str = "127.0.0.1"
    """Address to listen at; another than a loopback address needs TLS and keys."""
    port: Annotated[int, Ge(0), Le(65535)] = 8080
    """Port of the first page and the HTTP interface; 0 takes any free one, which is told at the start."""
    worker_threads: Annotated[int, Ge(1), Le(256)] = 8
    """Threads for handlers that wait for disks or instruments."""
    max_connections: Annotated[int, Ge(1)] = 512
    """Connections at the same time; beyond it the one that has been idle for the longest is closed."""
    max_connections_per_peer: Annotated[int, Ge(1)] = 256
    """Connections of one address at the same time."""
    max_live_connections: Annotated[int, Ge(1)] = 200
    """WebSockets at the same time, for live views; they do not count with the connections."""
    live_stall_seconds: Annotated[float, Gt(0)] = 30.0
    """How long a viewer may take nothing of what it is sent before its WebSocket is closed."""
    request_timeout_seconds: Annotated[float, Gt(0)] = 30.0
    """How long a request may take from the end of its header to the beginning of its answer, its body included; also
    how long a client may take nothing of an answer."""
    header_timeout_seconds: Annotated[float, Gt(0)] = 10.0
    """How long a client may take to send the header of a request."""
    idle_timeout_seconds: Annotated[float, Gt(0)] = 75.0
    """How long a connection may stay open between requests."""
    max_header_bytes: Annotated[int, Ge(1024)] = 32_768
    """The longest header of a request."""
    max_body_bytes: Annotated[int, Ge(1024)] = 1 << 20
    """The longest body of a request."""
    requests_per_second: Annotated[float, Ge(0)] = 200.0
    """Requests of one key, or of one address without a key, on average; 0 is no limit. Five seconds' worth may come at
    once."""

    def __post_init__(self) -> None:
        _check_address(self.bind_address)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.bind_address).is_loopback


@dataclass(frozen=True, slots=True)
class FlightOptions:
    """The door for bulk data, Arrow Flight, in a process of its own."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    enabled: bool = True
    """Whether there is such a port at all."""
    bind_address: str = "127.0.0.1"
    """Address to listen at; another than a loopback address needs TLS and keys."""
    port: Annotated[int, Ge(0), Le(65535)] = 8081
    """Port of Arrow Flight; 0 takes any free one, which is told at the start."""
    max_calls: Annotated[int, Ge(1), Le(1024)] = 64
    """Calls at the same time: ranges that are being read, live views, producers."""
    max_calls_per_key: Annotated[int, Ge(1), Le(1024)] = 16
    """Calls of one key, or of one address without a key, at the same time."""
    calls_per_second: Annotated[float, Ge(0)] = 200.0
    """Calls of one key, or of one address without a key, on average; 0 is no limit. Five seconds' worth may come at
    once."""
    max_batch_bytes: Annotated[int, Ge(4096), Le(1 << 30)] = 16 << 20
    """The largest batch that a producer may push."""
    live_buffer_bytes: Annotated[int, Ge(1 << 16)] = 16 << 20
    """How far a live reader may lag behind; beyond it rows are skipped for it, and it is told which."""
    memory_bytes: Annotated[int, Ge(256 << 20)] = 1 << 30
    """The most memory that its process may take: it is ended and started again when strangers make it want more."""

    def __post_init__(self) -> None:
        _check_address(self.bind_address)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.bind_address).is_loopback


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(
            f"bind_address: {address!r} is no IP address; 127.0.0.1 is this machine only, 0.0.0.0 every interface"
        ) from None


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """Who may come in."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    keys: bool = True
    """Whether requests over HTTP need an API key; without, anybody on this machine may do anything."""
    tls_enabled: bool = False
    """Serve HTTPS, TLS 1.2 or newer."""
    cert_path: Path | None = None
    """Certificate chain in PEM; a new one is taken into use without a restart."""
    key_path: Path | None = None
    """Its private key in PEM, not encrypted."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other web pages that may use the interface, as browsers send them: `https://lab.example.org`."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of the server, beside its own address and `localhost`: requests for others are refused."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of reverse proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."""
    session_hours: Annotated[float, Gt(0), Le(720)] = 12.0
    """How long a browser stays logged in."""
    bootstrap_key_file: Path | None = None
    """A file with an admin key for the first hours, made by whoever deploys: read once, kept hashed, valid for 24 h."""
    api_keys: tuple[str, ...] = ()
    """Not here: a key in a file that many can read is refused; `scidaq keys create` makes them and keeps a hash."""
    instrument_addresses: tuple[str, ...] = ()
    """Addresses at which the HTTP interface may add instruments, as `192.168.1.0/24:5025`; none by default."""
    instrument_drivers: tuple[str, ...] = ("host", "scpi", "waveform")
    """Drivers with which the HTTP interface may add instruments; add others, such as `replay`, which reads any file of
    this machine, only where whoever has an `admin` key may do what they do."""
    open_door: str = ""
    """To serve the network without keys or without TLS: a sentence that says that you know; the refusal tells which."""

    def __post_init__(self) -> None:
        if self.api_keys:
            raise ValueError("api_keys: keys do not stand in a configuration; make one with `scidaq keys create`")
        if self.tls_enabled and (self.cert_path is None or self.key_path is None):
            raise ValueError("cert_path, key_path: TLS needs both, as PEM files")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors_origins: {origin!r} is no origin: scheme, host and port only, as https://lab.example.org"
                )

        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(
                    f"trusted_proxies: {proxy!r} is neither an address nor a network, as 10.0.0.5 or 10.0.0.0/24"
                ) from None

        if self.instrument_addresses:
            from scidaq.instruments import address_rule

            for rule in self.instrument_addresses:
                try:
                    address_rule(rule)
                except ValueError as error:
                    raise ValueError(f"instrument_addresses: {error}") from error

    def refusal(self, server: ServerOptions | FlightOptions) -> str | None:
        """Why such a door is not opened; None when it may be."""
        if not server.enabled or server.loopback or self.open_door == OPEN_DOOR:
            return None
        missing = [what for what, there in (("keys", self.keys), ("TLS", self.tls_enabled)) if not there]
        if not missing:
            return None
        return (
            f"{server.bind_address!r} would open the station to the network without "
            f"{' and without '.join(missing)}; set security.tls_enabled with cert_path and key_path, and "
            f"security.keys, or bind 127.0.0.1, or say security.open_door = {OPEN_DOOR!r}"
        )
