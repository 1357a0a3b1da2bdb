"""Raw bytes over a socket, as no well-behaved client would send them."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 15.0


def place(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@contextlib.contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    with socket.create_connection(place(address), timeout=TIMEOUT_S) as one:
        yield one


def until_closed(one: socket.socket) -> bytes:
    """Everything until the other side closes."""
    out = b""
    with contextlib.suppress(ConnectionError):
        while piece := one.recv(65536):
            out += piece
    return out


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, {k.lower(): v for k, v in headers.items()}, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """Which problem it is."""
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.body)
        return str(self.json["type"]).removeprefix("urn:scidaq:")


def ask(
    address: str,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(*place(address), timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, dict(headers or {}))
        got = connection.getresponse()
        return Answer(got.status, dict(got.getheaders()), got.read())
    finally:
        connection.close()
