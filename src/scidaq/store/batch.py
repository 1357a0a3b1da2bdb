"""One batch of a segment: whether it is what was written, and the rows in it."""

from __future__ import annotations

from pathlib import Path

from scidaq.block import Block, Epoch, from_body
from scidaq.errors import Corrupt, InvalidBlock
from scidaq.store import wire


def previous_of(message: wire.Message) -> int:
    """The checksum of the message before, as a batch says it. Raises `KeyError` or `ValueError`."""
    return int(str(message.facts["prev"]), 16)


def block_of(data: memoryview, path: Path, message: wire.Message, epoch: Epoch | None) -> Block:
    """The rows of a batch as a block whose arrays are views of the file, checked against its checksum.

    Any thread may ask. Raises `Corrupt`.
    """
    try:
        intact = message.crc == wire.checksum(data, message, previous_of(message))
    except (KeyError, ValueError, OverflowError):
        intact = False
    if not intact:
        raise Corrupt(path, message.at, "the checksum of a batch is wrong")
    return decoded(data, path, message, epoch)


def decoded(data: memoryview, path: Path, message: wire.Message, epoch: Epoch | None) -> Block:
    """The rows of a batch that is known to be intact. Raises `Corrupt`."""
    if epoch is None:
        raise Corrupt(path, 0, "the schema is lost")
    f, body = message.facts, message.at + message.header
    place = epoch.stream, epoch.number, f["first"], epoch.schema, message.rows, f["t0"]
    try:
        return from_body(*place, data, body, message.buffers)
    except (InvalidBlock, ValueError, KeyError) as e:
        raise Corrupt(path, message.at, f"a batch that is no block ({e})") from e
