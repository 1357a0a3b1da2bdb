"""A client of HTTP that costs next to nothing, so that what is measured is the server."""

from __future__ import annotations

import socket


class Asker:
    """One connection that stays open, and one request that is made again and again."""

    def __init__(self, port: int, path: str, headers: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()

    def ask(self) -> bytes:
        """The body of the answer. Raises `RuntimeError` for one that is no success."""
        self._socket.sendall(self._request)
        head, body = b"", b""
        while b"\r\n\r\n" not in head:
            if not (piece := self._socket.recv(262_144)):
                raise RuntimeError("the server has closed the connection")
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.partition(b"\r\n")[0].decode())
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(262_144)
        return body

    def close(self) -> None:
        """No more."""
        self._socket.close()
