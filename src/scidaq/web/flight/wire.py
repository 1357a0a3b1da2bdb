"""How the station and its Flight process talk: messages of JSON and buffers over a Unix socket pair.

`u32` length of the JSON, the JSON, then the buffers whose sizes it lists, each padded to 8 bytes. Both ends are of one
version and on one machine, so this is no format for others.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from scidaq.block import Block, Schema, from_buffers, to_buffers
from scidaq.errors import InvalidBlock

Bytes = npt.NDArray[np.uint8]
_LENGTH = struct.Struct("<I")
_MOST_HEADER = 16 << 20
_MOST_BODY = 4 << 30
_PIECES = 512
"""Buffers that are given to the system at once; it takes 1024."""
_ZEROS = bytes(8)


def send(sock: socket.socket, header: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
    """Send a message; waits as long as the other side takes nothing. Raises `OSError` when it has gone."""
    views = [memoryview(b).cast("B") for b in buffers]
    head = orjson.dumps(header | {"sizes": [v.nbytes for v in views]} if views else header)
    pieces: list[memoryview] = [memoryview(_LENGTH.pack(len(head)) + head)]
    for view in views:
        if view.nbytes:
            pieces.append(view)
        if rest := -view.nbytes % 8:
            pieces.append(memoryview(_ZEROS)[:rest])
    while pieces:
        sent = sock.sendmsg(pieces[:_PIECES])
        while pieces and sent >= pieces[0].nbytes:
            sent -= pieces.pop(0).nbytes
        if sent:
            pieces[0] = pieces[0][sent:]


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[Bytes]] | None:
    """The next message; None when the other side has ended. Raises `OSError`, `ValueError` for what is none."""
    head = _exactly(sock, _LENGTH.size, at_end=True)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > _MOST_HEADER:
        raise ValueError("a message that is none")
    header: dict[str, Any] = orjson.loads(_exactly(sock, length) or b"")
    sizes: list[int] = header.pop("sizes", [])
    total = sum(size + -size % 8 for size in sizes)
    if total > _MOST_BODY:
        raise ValueError("a message that is too long")
    body = np.empty(total, np.uint8)
    _fill(sock, body.data)
    out, at = [], 0
    for size in sizes:
        out.append(body[at : at + size])
        at += size + -size % 8
    return header, out


def _exactly(sock: socket.socket, size: int, *, at_end: bool = False) -> bytearray | None:
    buffer = bytearray(size)
    return buffer if _fill(sock, memoryview(buffer), at_end=at_end) else None


def _fill(sock: socket.socket, view: memoryview, *, at_end: bool = False) -> bool:
    at = 0
    while at < view.nbytes:
        got = sock.recv_into(view[at:], min(view.nbytes - at, 8 << 20))
        if not got:
            if at_end and not at:
                return False
            raise ConnectionError("it ended within a message")
        at += got
    return True


def block_message(block: Block) -> tuple[dict[str, Any], list[Bytes]]:
    """A block as a message, without its schema, which the other side knows."""
    said = {"epoch": block.epoch, "first": block.first, "rows": block.rows, "t0": block.t0_ns}
    return {"block": said}, to_buffers(block).buffers


def block_of(stream: str, schema: Schema, said: dict[str, Any], buffers: list[Bytes]) -> Block:
    """The inverse of `block_message`, checked. Raises `InvalidBlock`."""
    try:
        epoch, first, rows, t0 = (int(said[name]) for name in ("epoch", "first", "rows", "t0"))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidBlock(f"block of {stream}: its message cannot be understood ({error})") from error
    return from_buffers(stream, epoch, first, schema, rows, t0, buffers)
