"""`durable.map`: how far each stream is durable, in a small mapped file for readers in other processes.

It is a convenience and holds no truth: the segments and the journal do. The recorder writes a stream's slot after each
sync; it is never synced itself. A slot carries its own checksum, so a reader that meets a half-written one reads again.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

NAME = "durable.map"
_MAGIC = b"scidaq-durable-1"
_SLOT = struct.Struct("<136s8q")
_SIZE = 256
_HEADER = 256
_RETRIES = 100


class Mark(NamedTuple):
    """How far one stream is durable."""

    stream: str
    epoch: int
    durable_index: int
    """Rows below it in this epoch are durable, or accounted for durably."""
    rows: int
    """Rows of this epoch taken by the recorder, durable or not."""
    durable_rows: int
    gap_rows: int
    first_ns: int
    """UTC nanoseconds of the first row of the epoch, -1 before there is one."""
    last_ns: int
    bytes: int
    """Of this stream's segments of this epoch."""


class DurableMap:
    """The writing side; from any thread. Grows by doubling, in place."""

    def __init__(self, path: Path, capacity: int = 64) -> None:
        self._path = path
        self._slots: dict[str, int] = {}
        self._lock = threading.Lock()
        # Under another name first: a reader may have the file of before mapped, and would be killed if it shrank.
        fresh = path.with_name(f".{path.name}.tmp")
        fresh.write_bytes(_MAGIC.ljust(_HEADER, b"\0") + bytes(capacity * _SIZE))
        os.replace(fresh, path)
        self._open()

    def _open(self) -> None:
        with open(self._path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def put(self, mark: Mark) -> None:
        """Publish a stream's mark."""
        body = _SLOT.pack(mark.stream.encode(), *mark[1:])
        with self._lock:
            slot = self._slots.get(mark.stream, len(self._slots))
            if _HEADER + (slot + 1) * _SIZE > len(self._map) and not self._grow():
                return  # no truth is lost; the next mark tries again
            self._slots[mark.stream] = slot
            at = _HEADER + slot * _SIZE
            self._map[at : at + len(body) + 4] = body + struct.pack("<I", crc32c(body))

    def _grow(self) -> bool:
        """Double the slots; False when the disk has no room. Written: to touch a hole on a full disk would kill."""
        size = len(self._map)
        try:
            with open(self._path, "r+b") as file:
                file.seek(size)
                file.write(bytes(size - _HEADER))
        except OSError:
            return False
        self._map.close()
        self._open()
        return True

    def close(self) -> None:
        """Unmap; the file stays for readers."""
        self._map.close()


def read_marks(path: Path) -> dict[str, Mark]:
    """The marks of all streams; empty when there is no such file. Slots that stay inconsistent are left out."""
    out: dict[str, Mark] = {}
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < _HEADER:
                return out
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        return out
    with data:
        if data[: len(_MAGIC)] != _MAGIC:
            return out
        for at in range(_HEADER, len(data) - _SIZE + 1, _SIZE):
            for _ in range(_RETRIES):
                body = data[at : at + _SLOT.size]
                (crc,) = struct.unpack_from("<I", data, at + _SLOT.size)
                if crc == crc32c(body) and any(body):
                    name, *numbers = _SLOT.unpack(body)
                    stream = name.rstrip(b"\0").decode()
                    out[stream] = Mark(stream, *numbers)
                    break
                if not any(body):
                    return out
    return out
