"""WAV files: RIFF, RF64 and BW64, with whole numbers of 8 to 32 bits or floating point.

Sources: Microsoft, "Multimedia Programming Interface and Data Specifications 1.0" (RIFF); "Multiple Channel Audio Data
and WAVE Files"; EBU Tech 3306 (RF64); ITU-R BS.2088 (BW64).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scidaq.block import Array, Block, Channel, Schema
from scidaq.errors import UnreadableFile
from scidaq.instruments.replay.foreign import PIECE_BYTES, Reading, Rows, Table, one_after_the_other, slug

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_NAMES = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x55: "MP3"}
_GUID = bytes.fromhex("0000000010008000 00aa00389b71".replace(" ", ""))
_UNKNOWN = 0xFFFFFFFF
_CHUNKS = 10_000
"""More chunks than this before the samples are no WAV file that anybody wrote on purpose."""


@dataclass(frozen=True, slots=True)
class _Layout:
    dtype: str
    width: int
    """Bytes of a sample in the file."""
    channels: int
    rate: int
    at: int
    """Where the samples begin."""
    frames: int


def tables(path: Path, reading: Reading) -> list[Table]:
    """The one table of a WAV file: an array channel with an element per input, or a scalar where there is one."""
    with path.open("rb") as file:
        layout, notes = _look(path, file)
    n = layout.channels
    shape, labels = ((n,), tuple(f"ch{i + 1}" for i in range(n))) if n > 1 else ((), ())
    channel = Channel("audio", layout.dtype, reading.units.get("audio", "1"), shape, labels)
    if unknown := [name for name in reading.units if name != "audio"]:
        raise UnreadableFile(path, "", f"no channel {unknown[0]!r} for a unit; a WAV file has one, 'audio'")
    schema = Schema((channel,), reading.rate or Fraction(layout.rate))

    def read() -> Iterator[Block]:
        return one_after_the_other(path, name, schema, _rows(path, layout), reading.start_ns or 0)

    name = slug(path.stem)
    return [Table(name, schema, read, reading.start_ns is not None, layout.frames, notes=notes)]


def _look(path: Path, file: BinaryIO) -> tuple[_Layout, tuple[str, ...]]:
    """Where the samples lie and what they are."""
    bad = partial(UnreadableFile, path)
    size = path.stat().st_size
    head = file.read(12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        raise bad("byte 0", "it does not begin as a WAV file (RIFF, RF64 or BW64, then WAVE)")
    form: tuple[int, int, int, int, int] | None = None
    large: int | None = None
    for _ in range(_CHUNKS):
        at = file.tell()
        header = file.read(8)
        if len(header) < 8:
            raise bad(f"byte {at}", "it ends before its samples: there is no chunk 'data'")
        kind, length = header[:4], int.from_bytes(header[4:], "little")
        if kind == b"ds64" and length >= 28:
            body = file.read(28)
            large = int.from_bytes(body[8:16], "little") if len(body) == 28 else None
        elif kind == b"fmt ":
            form = _format(path, at, file.read(min(length, 64)))
        elif kind == b"data":
            if form is None:
                raise bad(f"byte {at}", "the samples come before the chunk 'fmt ' that says what they are")
            return _samples(path, form, at + 8, large if length == _UNKNOWN and large is not None else length, size)
        file.seek(at + 8 + length + length % 2)
    raise bad("", f"there are no samples in its first {_CHUNKS} chunks")


def _format(path: Path, at: int, body: bytes) -> tuple[int, int, int, int, int]:
    """(format, channels, rate, bytes of a frame, bits)."""
    if len(body) < 16:
        raise UnreadableFile(path, f"byte {at}", "the chunk 'fmt ' is too short")
    kind, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", body)
    if kind == _EXTENSIBLE and len(body) >= 40 and body[26:40] == _GUID:
        kind = int.from_bytes(body[24:26], "little")
    return kind, channels, rate, frame, bits


def _samples(
    path: Path, form: tuple[int, int, int, int, int], at: int, length: int, size: int
) -> tuple[_Layout, tuple[str, ...]]:
    kind, channels, rate, frame, bits = form
    where = "chunk 'fmt '"
    if kind not in (_PCM, _FLOAT):
        what = _NAMES.get(kind, f"format {kind}")
        raise UnreadableFile(path, where, f"its samples are {what}; convert it to PCM or floating point")
    if not 1 <= channels <= 65_535 or not rate >= 1:
        raise UnreadableFile(path, where, f"{channels} channels at {rate} Hz cannot be")
    width = frame // channels
    dtypes = {4: "float32", 8: "float64"} if kind == _FLOAT else {1: "uint8", 2: "int16", 3: "int32", 4: "int32"}
    if width not in dtypes or frame != width * channels or not 0 < bits <= 8 * width:
        raise UnreadableFile(path, where, f"samples of {bits} bits in frames of {frame} bytes are not known")
    notes = []
    there = max(0, size - at)
    if length in (0, _UNKNOWN) and there > 0:
        length = there  # it was written to a pipe, or is still being written
        notes.append("the file does not say how many samples it has: all up to its end are taken")
    elif length > there:
        notes.append(f"the file is cut off: it says {length // frame} samples, {there // frame} are there")
        length = there
    return _Layout(dtypes[width], width, channels, rate, at, length // frame), tuple(notes)


def _rows(path: Path, layout: _Layout) -> Iterator[Rows]:
    width, channels = layout.width, layout.channels
    most = max(1, PIECE_BYTES // (width * channels))
    left = layout.frames
    with path.open("rb") as file:
        file.seek(layout.at)
        while left:
            frames = min(left, most)
            data = file.read(frames * width * channels)
            if len(data) < frames * width * channels:
                raise UnreadableFile(path, f"byte {file.tell()}", "it has become shorter while it was read")
            left -= frames
            values = _values(data, layout)
            yield Rows((values.reshape(frames, channels) if channels > 1 else values,), (None,), None)


def _values(data: bytes, layout: _Layout) -> Array:
    if layout.width != 3:
        return np.frombuffer(data, np.dtype(layout.dtype).newbyteorder("<")).astype(layout.dtype, copy=False)
    packed = np.frombuffer(data, np.uint8).reshape(-1, 3)
    wide = np.zeros((len(packed), 4), np.uint8)
    wide[:, 1:] = packed  # the sign lies in the highest byte
    values: Array = wide.reshape(-1).view("<i4") >> 8
    return values.astype(np.int32, copy=False)
