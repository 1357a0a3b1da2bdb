"""MATLAB files of level 5 (version 6 and 7, without compression): a structure per table, written with bounded memory.

A structure says its size before its content, and its fields lie one behind the other, so what comes row by row goes
into a file beside the result first, and from there field by field to its place.

Source: MathWorks, "MAT-File Format", chapter 1, Level 5 MAT-File Format.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from scidaq.archive.exports.table import Origin, Table, column, filled, gap_columns, mask, texts, times, unique
from scidaq.block import DESCRIPTION_KEY, Array, Block, Description, padded
from scidaq.errors import RequestError

LIMIT = (1 << 31) - 1
"""Bytes of a variable: what MATLAB reads of level 5."""
NAME = 63
"""Characters of a name."""
RESERVED = ("time", "stream", "units", "rate_hz", "channels", "gaps", "description")
"""Fields of a table that are no channels."""
_INT8, _INT32, _UINT32, _MATRIX, _UTF8, _UTF16 = 1, 5, 6, 14, 16, 17
_CELL, _STRUCT, _CHAR = 1, 2, 4
_LOGICAL = 0x0200
_KINDS = {  # dtype: (class of the array, type of the data)
    "int8": (8, 1),
    "uint8": (9, 2),
    "int16": (10, 3),
    "uint16": (11, 4),
    "int32": (12, 5),
    "uint32": (13, 6),
    "float32": (7, 7),
    "float64": (6, 9),
    "int64": (14, 12),
    "uint64": (15, 13),
    "bool": (9 | _LOGICAL, 2),
}
_PIECE = 8 << 20


def spelled(name: str) -> str:
    """A name that MATLAB allows for a variable or a field."""
    clean = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return clean if re.match("[A-Za-z]", clean) else f"x{clean}"


def _tag(kind: int, size: int) -> bytes:
    return struct.pack("<II", kind, size)


def _element(kind: int, data: bytes) -> bytes:
    return _tag(kind, len(data)) + data + bytes(-len(data) % 8)


def _header(kind: int, dims: Sequence[int], name: str = "") -> bytes:
    """The sub-elements of an array that come before its data."""
    return (
        _element(_UINT32, struct.pack("<II", kind, 0))
        + _element(_INT32, struct.pack(f"<{len(dims)}i", *dims))
        + _element(_INT8, name.encode())
    )


def _matrix(kind: int, dims: Sequence[int], data: bytes, name: str = "") -> bytes:
    head = _header(kind, dims, name)
    return _tag(_MATRIX, len(head) + len(data)) + head + data


def numbers(values: Array) -> bytes:
    """A column of numbers as an array."""
    kind, mi = _KINDS[values.dtype.name]
    return _matrix(kind, (len(values), 1), _element(mi, values.tobytes()))


def text(value: str) -> bytes:
    """A text as a row of characters."""
    if value.isascii():
        return _matrix(_CHAR, (min(1, len(value)), len(value)), _element(_UTF8, value.encode()))
    units = plain(value).encode("utf-16-le")
    return _matrix(_CHAR, (1, len(units) // 2), _element(_UTF16, units))


def plain(value: str) -> str:
    """Without characters that are no single unit of UTF-16: programs disagree how many characters those are."""
    return "".join(c if ord(c) < 1 << 16 else "\N{REPLACEMENT CHARACTER}" for c in value)


def cell(values: Sequence[str]) -> bytes:
    """Texts as a column of cells."""
    return _matrix(_CELL, (len(values), 1), b"".join(map(text, values)))


def structure(fields: dict[str, bytes]) -> bytes:
    """A structure of arrays that are encoded already."""
    return _matrix(_STRUCT, (1, 1), _field_names(list(fields)) + b"".join(fields.values()))


def _field_names(names: Sequence[str]) -> bytes:
    size = NAME + 1
    # The length of a name is a small element: its type, its size and its value share eight bytes.
    return struct.pack("<HHi", _INT32, 4, size) + _element(
        _INT8, b"".join(n.encode().ljust(size, b"\0") for n in names)
    )


@dataclass(slots=True)
class _Column:
    """A field whose data lie in pieces in the file beside the result."""

    kind: int
    mi: int
    """Type of its data; 0 for cells, which are whole elements."""
    shape: tuple[int, ...]
    """Of a row, the last dimension first."""
    size: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)

    def header(self, rows: int) -> bytes:
        dims = (*self.shape, rows) if self.shape else (rows, 1)
        head = _header(self.kind, dims) + (_tag(self.mi, self.size) if self.mi else b"")
        return _tag(_MATRIX, len(head) + padded(self.size, 8)) + head

    def total(self, rows: int) -> int:
        return len(self.header(rows)) + padded(self.size, 8)


class MatFile:
    """One MATLAB file."""

    def __init__(self, path: Path, compression: str | None, origin: Origin) -> None:
        self._path, self._origin = path, origin
        self._names: list[str] = []
        self._file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by `close` or `abandon`
        said = f"MATLAB 5.0 MAT-file, written by {origin.software}"
        self._file.write(
            said.encode("ascii", "replace")[:116].ljust(116) + bytes(8) + struct.pack("<H", 0x0100) + b"IM"
        )
        self._spill: BinaryIO | None = None

    def table(self, table: Table) -> _MatTable:
        *_, name = unique([*self._names, table.name], spelled, NAME)
        self._names.append(name)
        self._drop()
        self._spill = open(self._path.with_suffix(".rows"), "wb+", buffering=0)  # noqa: SIM115
        return _MatTable(self._file, self._spill, name, table)

    def grew(self) -> Path | None:
        self._file.flush()
        return self._path

    def close(self) -> None:
        self._drop()
        origin = self._origin
        fields = {"station": text(origin.station), "uuid": text(origin.station_uuid), "software": text(origin.software)}
        if origin.identities:
            names = unique(origin.identities, spelled, NAME)
            fields["instruments"] = structure(dict(zip(names, map(text, origin.identities.values()), strict=True)))
        if origin.run is not None:
            fields["run"] = text(json.dumps(dict(origin.run)))
        *_, name = unique([*self._names, "provenance"], spelled, NAME)
        self._file.write(_named(name, fields))
        self._file.close()

    def abandon(self) -> None:
        for file in (self._file, self._spill):
            try:
                if file is not None:
                    file.close()
            except OSError:
                pass  # what it still held goes away all the same

    def _drop(self) -> None:
        if self._spill is not None:
            self._spill.close()
            os.unlink(self._path.with_suffix(".rows"))
            self._spill = None


def _named(name: str, fields: dict[str, bytes]) -> bytes:
    body = _header(_STRUCT, (1, 1), name) + _field_names(list(fields)) + b"".join(fields.values())
    return _tag(_MATRIX, len(body)) + body


class _MatTable:
    """A variable of the file."""

    def __init__(self, file: BinaryIO, spill: BinaryIO, name: str, table: Table) -> None:
        self._file, self._spill, self._name, self._table = file, spill, name, table
        channels = table.schema.channels
        wanted = [*(c.name for c in channels), *(f"{c.name}_valid" for c in channels)]
        names = list(unique([*RESERVED, *wanted], spelled, NAME))[len(RESERVED) :]
        self._fields, self._valid = names[: len(channels)], names[len(channels) :]
        if any(a != c.name for a, c in zip(self._fields, channels, strict=True)):
            table.lose("names")
        if any(c.shape for c in channels):
            table.lose("dimensions")
        self._columns: dict[str, _Column] = {}
        self._rows = self._at = 0

    def write(self, blocks: Sequence[Block]) -> None:
        when = times(blocks)
        self._numbers("time", when)
        for i, channel in enumerate(self._table.schema.channels):
            valid = mask(blocks, i)
            values = filled(column(blocks, i), valid)
            if channel.dtype == "text":
                said = texts(values)
                if any(plain(one) != one for one in said if not one.isascii()):
                    self._table.lose("text")
                self._put(self._fields[i], b"".join(map(text, said)), _CELL, 0, ())
            else:
                self._numbers(self._fields[i], values)
            if valid is not None and self._valid[i] not in self._columns:
                self._table.lose("missing")
                self._numbers(self._valid[i], np.ones(0, np.bool_))
                for at in range(0, self._rows, _PIECE):
                    self._numbers(self._valid[i], np.ones(min(_PIECE, self._rows - at), np.bool_))
            if self._valid[i] in self._columns:
                self._numbers(self._valid[i], np.ones(len(when), np.bool_) if valid is None else valid)
        self._rows += len(when)
        if self._at > LIMIT - (1 << 20):
            raise RequestError(
                f"{self._table.stream} is too large for a MATLAB file: a variable has at most 2 GiB there; use "
                "--format hdf5, which MATLAB reads too, or export it in parts: --start, --stop, --channels"
            )

    def _numbers(self, name: str, values: Array) -> None:
        kind, mi = _KINDS[values.dtype.name]
        self._put(name, np.ascontiguousarray(values).data, kind, mi, values.shape[:0:-1])

    def _put(self, name: str, data: Any, kind: int, mi: int, shape: tuple[int, ...]) -> None:
        one = self._columns.setdefault(name, _Column(kind, mi, shape))
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        one.pieces.append((self._at, view.nbytes))
        one.size += view.nbytes
        self._at += view.nbytes
        while view:
            view = view[self._spill.write(view) :]

    def close(self, description: Description) -> None:
        fixed = self._fixed(description)
        names = [*self._columns, *fixed]
        head = _header(_STRUCT, (1, 1), self._name) + _field_names(names)
        size = len(head) + sum(c.total(self._rows) for c in self._columns.values()) + sum(map(len, fixed.values()))
        if size > LIMIT:
            raise RequestError(f"{self._table.stream} is too large for a MATLAB file; use --format hdf5")
        self._file.write(_tag(_MATRIX, size) + head)
        for one in self._columns.values():
            self._file.write(one.header(self._rows))
            for piece in self._pieces(one):
                self._file.write(piece)
            self._file.write(bytes(-one.size % 8))
        for data in fixed.values():
            self._file.write(data)

    def _said(self) -> Iterator[dict[str, Any]]:
        """What there is to say of each channel, and of the fields that hold it."""
        for channel, name, valid in zip(self._table.schema.channels, self._fields, self._valid, strict=True):
            mask = {"valid": valid} if valid in self._columns else {}
            yield channel.as_json() | {"field": name} | mask

    def _pieces(self, one: _Column) -> Iterator[bytes]:
        for at, size in one.pieces:
            for begin in range(0, size, _PIECE):
                count = min(_PIECE, size - begin)
                data = os.pread(self._spill.fileno(), count, at + begin)
                if len(data) != count:
                    raise OSError(f"{self._spill.name} is shorter than what was written to it")
                yield data

    def _fixed(self, description: Description) -> dict[str, bytes]:
        """The fields that are known at the end."""
        channels = self._table.schema.channels
        units = {name: text(c.unit) for name, c in zip(self._fields, channels, strict=True)}
        gaps = {
            name: cell(values) if name in ("reason", "detail") else numbers(np.array(values, np.int64))
            for name, values in gap_columns(description).items()
        }
        fields = {"stream": text(self._table.stream), "units": structure({"time": text("ns since 1970 UTC"), **units})}
        if self._table.schema.rate is not None:
            fields["rate_hz"] = numbers(np.array([float(self._table.schema.rate)]))
        fields["channels"] = cell([json.dumps(said) for said in self._said()])
        fields["gaps"] = structure({("end_row" if n == "end" else n): v for n, v in gaps.items()})
        fields["description"] = text(json.dumps({DESCRIPTION_KEY: description.as_json()}))
        return fields
