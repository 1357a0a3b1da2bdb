"""A block as flat buffers in the order and form that Arrow defines, and back.

The same buffers make up the body of a record batch in a segment (aligned to 64 bytes), a row of the journal and a block
in shared memory (aligned to 8). Source: Arrow Columnar Format 1.5, "Physical memory layout" and "Buffer listing".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scidaq.block.block import Array, Block, Mask, Times
from scidaq.block.channel import Channel, Schema
from scidaq.errors import InvalidBlock

Bytes = npt.NDArray[np.uint8]
_EMPTY = np.empty(0, np.uint8)


class Layout(NamedTuple):
    """The Arrow field nodes and buffers of a block."""

    nodes: list[tuple[int, int]]
    """(length, number of missing values) per Arrow field, depth first."""
    buffers: list[Bytes]
    """One-dimensional byte views or copies; an absent validity bitmap has length 0."""


def _bytes(array: Array) -> Bytes:
    return array.reshape(-1).view(np.uint8)


def _bits(mask: Array) -> Bytes:
    return np.packbits(mask.reshape(-1), bitorder="little")


def text_buffers(column: Array, valid: Mask | None) -> tuple[Bytes, Bytes]:
    """Offsets (int32) and the joined bytes of a column of dtype `S<n>`."""
    width = column.dtype.itemsize
    chars = column.view(np.uint8).reshape(len(column), width)
    # Length: what is left when the NULs at the end are dropped; NULs inside stay.
    lengths = width - np.argmax(np.concatenate([chars[:, ::-1] != 0, np.ones((len(chars), 1), bool)], axis=1), axis=1)
    if valid is not None:
        lengths = np.where(valid, lengths, 0)
    offsets = np.zeros(len(column) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return _bytes(offsets), chars[np.arange(width) < lengths[:, None]]


def to_buffers(block: Block) -> Layout:
    """The buffers of a block; those of plain numbers are views, nothing is copied."""
    rows = block.rows
    nodes: list[tuple[int, int]] = []
    buffers: list[Bytes] = []
    if block.times is not None:
        nodes.append((rows, 0))
        buffers += [_EMPTY, _bytes(block.times)]
    for i, (channel, column) in enumerate(zip(block.schema.channels, block.columns, strict=True)):
        mask = block.valid[i] if block.valid else None
        nodes.append((rows, 0 if mask is None else rows - int(np.count_nonzero(mask))))
        buffers.append(_EMPTY if mask is None else _bits(mask))
        if channel.shape:
            nodes.append((rows * channel.elements, 0))
            buffers.append(_EMPTY)
        if channel.dtype == "text":
            buffers += text_buffers(column, mask)
        else:
            buffers.append(_bits(column) if channel.dtype == "bool" else _bytes(column))
    return Layout(nodes, buffers)


def join_buffers(blocks: Sequence[Block]) -> tuple[list[tuple[int, int]], list[list[Bytes]]]:
    """The nodes of blocks that follow one another as of one, and each of its buffers in pieces: nothing is copied.

    What cannot be put together from pieces (bits, offsets of texts) is joined first.
    """
    head = blocks[0]
    if len(blocks) > 1 and (
        any(b.valid is not None for b in blocks) or any(c.dtype in ("bool", "text") for c in head.schema.channels)
    ):
        blocks = (head.join(blocks),)
        head = blocks[0]
    nodes, buffers = to_buffers(head)
    pieces = [[b] for b in buffers]
    if len(blocks) > 1:
        rows = sum(len(b.columns[0]) for b in blocks)
        nodes = [(n // head.rows * rows, 0) for n, _ in nodes]
        for block in blocks[1:]:
            for piece, more in zip(pieces, to_buffers(block).buffers, strict=True):
                if len(more):
                    piece.append(more)
    return nodes, pieces


def buffer_count(schema: Schema) -> tuple[int, int]:
    """(nodes, buffers) of any block of this schema."""
    nodes = 1 if schema.rate is None else 0
    buffers = 2 * nodes
    for c in schema.channels:
        nodes += 2 if c.shape else 1
        buffers += 3 if c.shape or c.dtype == "text" else 2
    return nodes, buffers


def _column(channel: Channel, dtype: np.dtype[Any], rows: int, buffers: Sequence[Bytes]) -> Array:
    if channel.dtype == "text":
        offsets = buffers[0][: 4 * (rows + 1)].view(np.int32)
        lengths = np.diff(offsets)
        if len(offsets) != rows + 1 or (lengths < 0).any() or (lengths > channel.max_bytes).any():
            raise InvalidBlock(f"channel {channel.name!r}: the offsets of its texts are wrong")
        chars = np.zeros((rows, channel.max_bytes), np.uint8)
        chars[np.arange(channel.max_bytes) < lengths[:, None]] = buffers[1][offsets[0] : offsets[-1]]
        return chars.reshape(-1).view(f"S{channel.max_bytes}")
    count = rows * channel.elements if channel.shape else rows
    if channel.dtype == "bool":
        flat: Array = np.unpackbits(buffers[0], count=count, bitorder="little").view(np.bool_)
    else:
        flat = buffers[0][: count * dtype.itemsize].view(dtype)
    if len(flat) != count:
        raise InvalidBlock(f"channel {channel.name!r}: {len(flat)} values where {count} belong")
    return flat.reshape(rows, *channel.shape) if channel.shape else flat


def from_buffers(
    stream: str, epoch: int, first: int, schema: Schema, rows: int, t0_ns: int, buffers: Sequence[Bytes]
) -> Block:
    """The inverse of `to_buffers`, without copying numbers. Raises `InvalidBlock` when the buffers do not fit."""
    if len(buffers) != buffer_count(schema)[1]:
        raise InvalidBlock(f"block of {stream}: {len(buffers)} buffers where {buffer_count(schema)[1]} belong")
    at = 0
    times = None
    if schema.rate is None:
        times, at = buffers[1][: 8 * rows].view(np.int64), 2
    columns: list[Array] = []
    masks: list[Mask | None] = []
    missing = False
    for channel, dtype in zip(schema.channels, schema.dtypes, strict=True):
        bitmap = buffers[at]
        mask = np.unpackbits(bitmap, count=rows, bitorder="little").view(np.bool_) if len(bitmap) else None
        missing = missing or mask is not None
        masks.append(mask)
        at += 2 if channel.shape else 1
        n = 2 if channel.dtype == "text" else 1
        columns.append(_column(channel, dtype, rows, buffers[at : at + n]))
        at += n
    valid = tuple(masks) if missing else None
    return Block(stream, epoch, first, schema, tuple(columns), t0_ns, times, valid)


def from_body(
    stream: str,
    epoch: int,
    first: int,
    schema: Schema,
    rows: int,
    t0_ns: int,
    data: memoryview,
    at: int,
    places: Sequence[int],
) -> Block:
    """As `from_buffers`, of buffers that lie in `data` from byte `at` on, at `places`: offset, size, offset, size...

    Numbers of which none is missing, the most there is, are placed on the memory without anything between.
    """
    plain = _plain(schema, rows, data, at, places) if rows > 0 <= first else None
    if plain is not None:
        columns, times = plain
        return Block.laid_out(stream, epoch, first, schema, columns, t0_ns, times)
    buffers = [
        np.frombuffer(data, np.uint8, places[i + 1], at + places[i]) if places[i + 1] else _EMPTY
        for i in range(0, len(places), 2)
    ]
    return from_buffers(stream, epoch, first, schema, rows, t0_ns, buffers)


def _plain(
    schema: Schema, rows: int, data: memoryview, at: int, places: Sequence[int]
) -> tuple[tuple[Array, ...], Times | None] | None:
    """The columns and times of a block without bitmaps, text or booleans; None of any other."""
    if len(places) != 2 * buffer_count(schema)[1] or not data.readonly:
        return None
    i, times = 0, None
    if schema.rate is None:
        if places[3] < 8 * rows:
            return None
        times, i = np.ndarray(rows, np.int64, data, at + places[2]), 4
    columns: list[Array] = []
    for channel, dtype in zip(schema.channels, schema.dtypes, strict=True):
        values = i + 4 if channel.shape else i + 2
        if places[i + 1] or dtype.kind in "bS" or places[values + 1] < rows * channel.elements * dtype.itemsize:
            return None
        shape = (rows, *channel.shape) if channel.shape else rows
        columns.append(np.ndarray(shape, dtype, data, at + places[values]))
        i = values + 2
    return tuple(columns), times


def padded(size: int, align: int) -> int:
    """`size` rounded up to a multiple of `align`."""
    return -(-size // align) * align


def pack(layout: Layout, align: int = 8) -> tuple[bytes, list[int]]:
    """All buffers in one piece, each padded with zeros to `align`, and their sizes before padding."""
    pieces: list[bytes] = []
    for b in layout.buffers:
        pieces.append(b.tobytes())
        if rest := -len(b) % align:
            pieces.append(bytes(rest))
    return b"".join(pieces), [len(b) for b in layout.buffers]


def pack_plain(block: Block, align: int = 8) -> bytes | None:
    """What `pack` makes of a block whose buffers have their `plain_sizes`; None when they have others."""
    if block.valid is not None:
        return None
    pieces: list[bytes] = [] if block.times is None else [block.times.tobytes()]
    for column in block.columns:
        if column.dtype.kind in "bS":
            return None
        pieces.append(column.tobytes())
        if rest := -column.nbytes % align:
            pieces.append(bytes(rest))
    return b"".join(pieces)


def plain_sizes(schema: Schema, rows: int) -> list[int] | None:
    """Sizes of the buffers of a block in which nothing is missing; None when they depend on its texts."""
    sizes = [0, 8 * rows] if schema.rate is None else []
    for c in schema.channels:
        if c.dtype == "text":
            return None
        count = rows * c.elements
        data = -(-count // 8) if c.dtype == "bool" else count * c.numpy_dtype.itemsize
        sizes += [0, 0, data] if c.shape else [0, data]
    return sizes


def unpack(data: Bytes, sizes: Sequence[int], align: int = 8) -> list[Bytes]:
    """The buffers that `pack` put together, as views. Raises `InvalidBlock` when `data` is too short."""
    out, at = [], 0
    for size in sizes:
        if size < 0 or at + size > len(data):
            raise InvalidBlock(f"{len(data)} bytes are too few for buffers of {sum(sizes)}")
        out.append(data[at : at + size])
        at += padded(size, align)
    return out
