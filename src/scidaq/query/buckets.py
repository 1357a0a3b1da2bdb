"""A long stretch of a stream in few rows: the least and the greatest value of each bucket of time.

No value between a bucket's two is lost to the eye: a spike of one row is in its bucket's greatest. What comes out are
blocks again, so whoever writes rows writes these too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from scidaq.block import Block, Channel, Gap, Schema

MOST_ELEMENTS = 4096
"""Array channels of more are left out."""
ROWS, END, FIRST = "rows", "end_ns", "first"
_LOSS = 1 << 14
"""Buckets to a block."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Buckets of equal length: bucket `i` of `count` begins at `start_ns + i * (stop_ns - start_ns) // count`."""

    start_ns: int
    stop_ns: int
    count: int

    def edges(self) -> npt.NDArray[np.int64]:
        """Where each begins, and where the last one ends."""
        length, rest = divmod(max(self.count, self.stop_ns - self.start_ns), self.count)
        steps = np.arange(self.count + 1, dtype=np.int64)
        return self.start_ns + steps * length + steps * rest // self.count


def can_be_reduced(channel: Channel) -> bool:
    """Whether a channel has a least and a greatest value: numbers and truth values, also in small arrays."""
    return channel.dtype != "text" and channel.elements <= MOST_ELEMENTS and len(channel.name) <= 60


@lru_cache(maxsize=64)
def reduced_schema(schema: Schema, raw: bool) -> Schema:
    """What buckets of a stream consist of; the time of such a row is that of the bucket's first."""
    out = [
        Channel(ROWS, "int64", description="rows in the bucket"),
        Channel(END, "int64", "ns", description="UTC time of the last of them"),
        Channel(FIRST, "int64", description="index of the first of them within its epoch"),
    ]
    for channel in schema.channels:
        if can_be_reduced(channel):
            unit = channel.unit if raw else channel.physical_unit
            one = replace(channel, dtype=_dtype(channel, raw), unit=unit, calibration=None)
            out += [replace(one, name=f"{channel.name}.{end}") for end in ("min", "max")]
    return Schema(tuple(out), None)


def _dtype(channel: Channel, raw: bool) -> str:
    if channel.calibration is not None and not raw:
        return "float64"
    return "uint8" if channel.dtype == "bool" else channel.dtype


def decimated(items: Iterable[Block | Gap], grid: Grid, *, raw: bool = False) -> Iterator[Block | Gap]:
    """Rows in order of epoch and row as rows that stand for a bucket each, and the gaps between them.

    A row has `rows`, `end_ns` (of its last) and `first` (index of its first), and for each channel that can be reduced
    `<name>.min` and `<name>.max` of the calibrated values, or with `raw` of those that were stored. What is missing and
    what is no number counts for neither; where there is nothing else both are missing. Buckets without rows are left
    out, none goes beyond its epoch, and one in which channels change is two. A gap comes behind the bucket in which it
    begins.
    """
    edges = grid.edges()
    open_: _Bucket | None = None
    done: list[_Bucket] = []
    gaps: list[Gap] = []
    for item in items:
        if isinstance(item, Gap):
            gaps.append(item)
            continue
        for bucket in _buckets(item, edges, raw):
            if open_ is not None and open_.goes_on_with(bucket):
                open_.take(bucket)
                continue
            if open_ is not None:
                done.append(open_)
                if gaps or len(done) >= _LOSS or open_.key[:2] != bucket.key[:2]:
                    yield _block(item.stream, done)
                    done = []
            yield from gaps
            gaps.clear()
            open_ = bucket
    if open_ is not None:
        yield _block(open_.stream, [*done, open_])
    yield from gaps


@dataclass(slots=True)
class _Bucket:
    stream: str
    key: tuple[int, Schema, int]
    """Epoch, what it consists of, number in the grid."""
    start_ns: int
    end_ns: int
    first: int
    rows: int
    least: list[npt.NDArray[Any]]
    most: list[npt.NDArray[Any]]
    there: list[bool]

    def goes_on_with(self, other: _Bucket) -> bool:
        """Whether both are parts of one."""
        return self.key == other.key

    def take(self, other: _Bucket) -> None:
        """Become both."""
        for i, there in enumerate(other.there):
            if there and self.there[i]:
                self.least[i] = np.fmin(self.least[i], other.least[i])
                self.most[i] = np.fmax(self.most[i], other.most[i])
            elif there:
                self.least[i], self.most[i], self.there[i] = other.least[i], other.most[i], True
        self.end_ns, self.rows = other.end_ns, self.rows + other.rows


def _buckets(block: Block, edges: npt.NDArray[np.int64], raw: bool) -> Iterator[_Bucket]:
    """The parts of a block that lie in one bucket each."""
    times = block.time_ns()
    numbers = np.clip(np.searchsorted(edges, times, "right") - 1, 0, len(edges) - 2)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1])
    ends = [*starts[1:].tolist(), block.rows]
    schema = reduced_schema(block.schema, raw)
    columns = [_reduced(block, i, starts, raw) for i, c in enumerate(block.schema.channels) if can_be_reduced(c)]
    for n, (a, b) in enumerate(zip(starts.tolist(), ends, strict=True)):
        yield _Bucket(
            block.stream,
            (block.epoch, schema, int(numbers[a])),
            int(times[a]),
            int(times[b - 1]),
            block.first + a,
            b - a,
            [least[n] for least, _, _ in columns],
            [most[n] for _, most, _ in columns],
            [bool(there[n]) for _, _, there in columns],
        )


def _reduced(
    block: Block, i: int, starts: npt.NDArray[Any], raw: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Least and greatest value of a channel behind each of the starts, and whether there is any."""
    channel, column = block.schema.channels[i], block.columns[i]
    values = column if raw else channel.physical(column)
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    mask = block.valid[i] if block.valid else None
    there = np.ones(len(starts), np.bool_)
    low = high = values
    if mask is not None:
        there = np.logical_or.reduceat(mask, starts)
        shaped = mask.reshape(-1, *(1,) * (values.ndim - 1))
        least, most = _ends(values.dtype)
        low, high = np.where(shaped, values, most), np.where(shaped, values, least)
    least_, most_ = np.fmin.reduceat(low, starts, axis=0), np.fmax.reduceat(high, starts, axis=0)
    if values.dtype.kind == "f":
        there = there & ~np.isnan(least_.reshape(len(starts), -1)).all(axis=1)
    return least_, most_, there


def _ends(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """A value that loses against every other when the greatest is looked for, and one for the least."""
    if dtype.kind == "f":
        return dtype.type(np.nan), dtype.type(np.nan)
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _block(stream: str, buckets: Sequence[_Bucket]) -> Block:
    epoch, schema, _ = buckets[0].key
    columns: list[npt.NDArray[Any]] = [
        np.array([b.rows for b in buckets], np.int64),
        np.array([b.end_ns for b in buckets], np.int64),
        np.array([b.first for b in buckets], np.int64),
    ]
    masks: list[npt.NDArray[np.bool_] | None] = [None, None, None]
    for i in range(len(buckets[0].least)):
        columns += [np.array([b.least[i] for b in buckets]), np.array([b.most[i] for b in buckets])]
        there = np.array([b.there[i] for b in buckets])
        masks += [None, None] if there.all() else [there, there]
    times = np.maximum.accumulate(np.array([b.start_ns for b in buckets], np.int64))
    typed = tuple(np.ascontiguousarray(c, d) for c, d in zip(columns, schema.dtypes, strict=True))
    valid = tuple(masks) if any(m is not None for m in masks) else None
    return Block(stream, epoch, buckets[0].first, schema, typed, int(times[0]), times, valid)
