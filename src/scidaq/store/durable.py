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

import structlog
from crc32c import crc32c

log = structlog.get_logger(__name__)

NAME = "durable.map"
_MAGIC = b"scidaq-durable-1"
_SLOT = struct.Struct("<136s8q")
_SIZE = 256
_HEADER = 256
_RETRIES = 100
_AGAIN = 256
"""After so many marks that could not be published it is tried again."""


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
        """Never fails: on a disk that refuses the file, nothing is published until it takes it."""
        self._path, self._capacity = path, capacity
        self._slots: dict[str, int] = {}
        self._lock = threading.Lock()
        self._left_out = 0
        self._map = self._make()

    def _make(self) -> mmap.mmap | None:
        # Under another name first: a reader may have the file of before mapped, and would be killed if it shrank.
        fresh = self._path.with_name(f".{self._path.name}.tmp")
        try:
            fresh.write_bytes(_MAGIC.ljust(_HEADER, b"\0") + bytes(self._capacity * _SIZE))
            os.replace(fresh, self._path)
            with open(self._path, "r+b") as file:
                return mmap.mmap(file.fileno(), 0)
        except OSError as error:
            if not self._left_out:
                log.warning("readers are not told how far streams are durable", path=str(self._path), error=str(error))
            return None

    def put(self, mark: Mark) -> None:
        """Publish a stream's mark."""
        body = _SLOT.pack(mark.stream.encode(), *mark[1:])
        with self._lock:
            if self._map is None:
                self._left_out += 1
                self._map = None if self._left_out % _AGAIN else self._make()
                if self._map is None:
                    return
            slot = self._slots.get(mark.stream, len(self._slots))
            if _HEADER + (slot + 1) * _SIZE > len(self._map):
                larger = self._grown(len(self._map))
                if larger is None:
                    return  # no truth is lost; the next mark tries again
                self._map.close()
                self._map = larger
            self._slots[mark.stream] = slot
            at = _HEADER + slot * _SIZE
            self._map[at : at + len(body) + 4] = body + struct.pack("<I", crc32c(body))

    def _grown(self, size: int) -> mmap.mmap | None:
        """Twice the slots; None when the disk has no room. Written: to touch a hole on a full disk would kill."""
        try:
            with open(self._path, "r+b") as file:
                file.seek(size)
                file.write(bytes(size - _HEADER))
                file.flush()
                return mmap.mmap(file.fileno(), 0)
        except OSError:
            return None

    def close(self) -> None:
        """Unmap; the file stays for readers."""
        with self._lock:
            if self._map is not None:
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
