"""Any range of a stream at any width, from a handful of files: buckets of rows at several sizes, kept beside the rows.

Level 0 has a bucket for every `ROWS` rows of an epoch, each level above one for `FAN` of the level below. A bucket ends
early at a hole and at the end of its epoch, so none goes over either. Kept are the least, greatest and last stored code
of each channel, their sum and how many there are; calibration comes afterwards, as it is linear.

Files are sealed segments (Arrow streams with checksums) whose rows are buckets. They are derived: written whole, under
their own name only when they are, never changed, merged into larger ones, and made again from the rows when they are
lost, damaged, or no longer true. Their names say what they cover, so nothing is opened to plan.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scidaq.block import Block, Channel, Epoch, Schema
from scidaq.clock import Anchor
from scidaq.errors import Corrupt, InvalidBlock
from scidaq.store import SUMMARY, Files, Outline, Segment, whole_segment

ROWS = 512
"""Rows to a bucket of level 0."""
FAN = 16
LEVELS = 6
"""The highest has a bucket for 537 million rows."""
MOST_ELEMENTS = 64
"""Array channels of more have no summaries: they are not drawn as lines."""
BATCH = 1024
"""Buckets to a batch."""
FILE_BYTES = 16 << 20
"""Files are merged up to this size."""
_FEW = 512
"""Buckets of a level that are worth a file of their own."""
_NAME = re.compile(r"(\d)-(\d{6})-(\d{14})-(\d{6})-(\d{14})-(-?\d{1,19})-(-?\d{1,19})\.arrows")
Numbers = npt.NDArray[Any]


class Position(NamedTuple):
    """Behind all rows before this one."""

    epoch: int
    row: int


START = Position(0, 0)


class Part(NamedTuple):
    """A file: all rows from `first` on and before `end` are in its buckets, and their times. The next one begins where
    this one ends, wherever rows are missing."""

    level: int
    first: Position
    end: Position
    t0_ns: int
    t1_ns: int

    def __str__(self) -> str:
        (a, b), (c, d) = self.first, self.end
        return f"{self.level}-{a:06d}-{b:014d}-{c:06d}-{d:014d}-{self.t0_ns}-{self.t1_ns}.arrows"

    @classmethod
    def parse(cls, name: str) -> Part | None:
        """None when the name is no summary's."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        level, a, b, c, d, t0, t1 = (int(n) for n in found.groups())
        return cls(level, Position(a, b), Position(c, d), t0, t1)


# ---- buckets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive buckets of one kind of rows. Arrays have an element per bucket; of channels, one each."""

    schema: Schema
    """Of the rows, with the channels that are summarized only."""
    epoch: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    n: npt.NDArray[np.int64]
    t0: npt.NDArray[np.int64]
    t1: npt.NDArray[np.int64]
    least: tuple[Numbers, ...]
    """Stored codes of shape `(buckets,)` or `(buckets, elements)`; as `most`."""
    most: tuple[Numbers, ...]
    last: tuple[Numbers, ...]
    total: tuple[Numbers, ...]
    valid: tuple[Numbers, ...]
    """How many values there are. Where there is none, the codes mean nothing."""

    def __len__(self) -> int:
        return len(self.n)

    @property
    def begin(self) -> Position:
        """Before its first row."""
        return Position(int(self.epoch[0]), int(self.first[0]))

    @property
    def end(self) -> Position:
        """Behind its last row."""
        return Position(int(self.epoch[-1]), int(self.first[-1] + self.n[-1]))

    def __getitem__(self, part: slice) -> Chunk:
        own = (self.epoch, self.first, self.n, self.t0, self.t1)
        own_ = [a[part] for a in own]
        each = [tuple(a[part] for a in many) for many in (self.least, self.most, self.last, self.total, self.valid)]
        return Chunk(self.schema, *own_, *each)  # type: ignore[arg-type]


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Several of the same schema, one behind the other."""
    if len(chunks) == 1:
        return chunks[0]
    own = (np.concatenate([getattr(c, name) for c in chunks]) for name in ("epoch", "first", "n", "t0", "t1"))
    each = (
        tuple(np.concatenate(arrays) for arrays in zip(*(getattr(c, name) for c in chunks), strict=True))
        for name in ("least", "most", "last", "total", "valid")
    )
    return Chunk(chunks[0].schema, *own, *each)  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def summarized(schema: Schema) -> Schema | None:
    """What of a schema has summaries, as they keep it; None where nothing has."""
    chosen = tuple(
        replace(c, dtype=_code(c), description="")
        for c in schema.channels
        if c.dtype != "text" and c.elements <= MOST_ELEMENTS and len(c.shape) < 2
    )
    return Schema(chosen, None) if chosen else None


def _code(channel: Channel) -> str:
    """What a code is kept as."""
    return "uint8" if channel.dtype == "bool" else channel.dtype


def buckets_of(block: Block, size: int) -> Chunk | None:
    """The rows of a block as buckets, cut at multiples of `size`; the first and the last may be parts."""
    schema = summarized(block.schema)
    if schema is None or not block.rows:
        return None
    cuts = np.arange(block.first // size * size + size, block.end, size, dtype=np.int64) - block.first
    starts = np.concatenate([[0], cuts]).astype(np.intp)
    n = np.diff(np.append(starts, block.rows)).astype(np.int64)
    last = starts + n - 1
    if block.times is not None:
        t0, t1 = block.times[starts], block.times[last]
    else:
        span = block.schema.span_ns
        t0 = np.array([block.t0_ns + span(int(i)) for i in starts], np.int64)
        t1 = np.array([block.t0_ns + span(int(i)) for i in last], np.int64)
    columns: list[tuple[Numbers, ...]] = []
    for channel in schema.channels:
        i = block.schema.names.index(channel.name)
        mask = block.valid[i] if block.valid else None
        columns.append(_codes(channel, block.columns[i], mask, starts, n, last))
    each = (tuple(c[k] for c in columns) for k in range(5))
    epochs = np.full(len(n), block.epoch, np.int64)
    return Chunk(schema, epochs, block.first + starts.astype(np.int64), n, t0, t1, *each)


def _codes(
    channel: Channel, values: Numbers, mask: Numbers | None, starts: Numbers, n: Numbers, last: Numbers
) -> tuple[Numbers, ...]:
    """Least, greatest, last, sum and count of each bucket."""
    dtype, shape = np.dtype(channel.dtype), (len(n), *channel.shape)
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    flat = values.reshape(len(values), -1)
    there = np.broadcast_to(n.reshape(-1, 1), (len(n), flat.shape[1]))
    if mask is not None and not mask.all():
        shown = np.broadcast_to(mask.reshape(-1, 1), flat.shape)
        low, high = _ends(dtype)
        least = np.fmin.reduceat(np.where(shown, flat, high), starts, axis=0)
        most = np.fmax.reduceat(np.where(shown, flat, low), starts, axis=0)
        if dtype.kind == "f":
            shown = shown & ~np.isnan(flat)
        total = np.add.reduceat(np.where(shown, flat, 0), starts, axis=0, dtype=np.float64)
        there = np.add.reduceat(shown, starts, axis=0, dtype=np.int64)
        newest = np.where(mask[last].reshape(-1, 1), flat[last].astype(np.float64), np.nan)
    else:
        least, most = np.minimum.reduceat(flat, starts, axis=0), np.maximum.reduceat(flat, starts, axis=0)
        total = np.add.reduceat(flat, starts, axis=0, dtype=np.float64)
        if dtype.kind == "f" and np.isnan(least).any():
            bad = np.isnan(flat)
            least, most = np.fmin.reduceat(flat, starts, axis=0), np.fmax.reduceat(flat, starts, axis=0)
            total = np.add.reduceat(np.where(bad, 0.0, flat), starts, axis=0, dtype=np.float64)
            there = np.add.reduceat(~bad, starts, axis=0, dtype=np.int64)
        newest = flat[last].astype(np.float64)
    codes = (np.ascontiguousarray(a.reshape(shape), dtype) for a in (least, most))
    return (
        *codes,
        newest.reshape(shape),
        total.reshape(shape),
        there.reshape(shape).astype(np.uint32),
    )


def _ends(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """What loses against everything when the greatest is looked for, and the least."""
    if dtype.kind == "f":
        return np.nan, np.nan
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def raised(chunk: Chunk, size: int) -> Chunk:
    """Buckets as larger ones of at most `size` rows: cut at its multiples, at holes and between epochs."""
    return grouped(chunk, chunk.first // size)


def grouped(chunk: Chunk, number: npt.NDArray[np.int64]) -> Chunk:
    """Neighbours of one number as one bucket, but not over holes nor epochs."""
    if not len(chunk):
        return chunk
    new = np.ones(len(chunk), np.bool_)
    new[1:] = (
        (number[1:] != number[:-1])
        | (chunk.epoch[1:] != chunk.epoch[:-1])
        | (chunk.first[1:] != chunk.first[:-1] + chunk.n[:-1])
    )
    if new.all():
        return chunk
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(chunk)) - 1
    least, most, last, total, valid = [], [], [], [], []
    for i in range(len(chunk.least)):
        low, high, count = chunk.least[i], chunk.most[i], chunk.valid[i]
        if low.dtype.kind != "f" and not count.all():
            least_of, most_of = _ends(low.dtype)
            low, high = np.where(count > 0, low, most_of), np.where(count > 0, high, least_of)
        least.append(np.fmin.reduceat(low, starts, axis=0).astype(chunk.least[i].dtype))
        most.append(np.fmax.reduceat(high, starts, axis=0).astype(chunk.most[i].dtype))
        last.append(chunk.last[i][ends])
        total.append(np.add.reduceat(chunk.total[i], starts, axis=0))
        valid.append(np.add.reduceat(count, starts, axis=0, dtype=np.uint32))
    own = (chunk.epoch[starts], chunk.first[starts], np.add.reduceat(chunk.n, starts), chunk.t0[starts], chunk.t1[ends])
    return Chunk(chunk.schema, *own, tuple(least), tuple(most), tuple(last), tuple(total), tuple(valid))


def size_of(level: int) -> int:
    """Rows to a bucket."""
    return int(ROWS * FAN**level)


# ---- files ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _kept_as(schema: Schema) -> Schema:
    """The rows of a file; their time is that of a bucket's first row."""
    out = [Channel("epoch", "int64"), Channel("first", "int64"), Channel("n", "int64"), Channel("t1", "int64", "ns")]
    for i, channel in enumerate(schema.channels):
        out.append(replace(channel, name=f"c{i}.min", description=channel.name))
        like = replace(channel, calibration=None)
        out.append(replace(like, name=f"c{i}.max"))
        out += [replace(like, name=f"c{i}.{what}", dtype="float64") for what in ("last", "sum")]
        out += [replace(like, name=f"c{i}.n", dtype="uint32")]
    return Schema(tuple(out), None)


def _schema_of(epoch: Epoch) -> Schema:
    """What the rows were, of which a file has buckets."""
    found = [c for c in epoch.schema.channels if c.name.endswith(".min")]
    return Schema(tuple(replace(c, name=c.description, description="") for c in found), None)


def _block(stream: str, chunk: Chunk) -> Iterator[Block]:
    """As rows of a file."""
    schema = _kept_as(chunk.schema)
    for begin in range(0, len(chunk), BATCH):
        part = chunk[begin : begin + BATCH]
        columns: list[Numbers] = [part.epoch, part.first, part.n, part.t1]
        for i in range(len(part.least)):
            columns += [part.least[i], part.most[i], part.last[i], part.total[i], part.valid[i]]
        typed = tuple(np.ascontiguousarray(c, d) for c, d in zip(columns, schema.dtypes, strict=True))
        yield Block(stream, 0, begin, schema, typed, int(part.t0[0]), part.t0)


def _chunk(block: Block, schema: Schema) -> Chunk:
    """Back again. Raises `Corrupt` through its caller when the columns are others."""
    epoch, first, n, t1, *rest = block.columns
    each = (tuple(rest[k::5]) for k in range(5))
    return Chunk(schema, epoch, first, n, block.time_ns(), t1, *each)


class Pyramid:
    """The summaries of one stream. Planned from names; may be read from any thread, and while others are written."""

    def __init__(self, directory: Path, stream: str, files: Files) -> None:
        self.directory, self.stream, self._files = directory / SUMMARY, stream, files
        self.opened = 0
        """Files opened so far."""

    def parts(self) -> list[list[Part]]:
        """The files of each level, in order, without those that others cover whole."""
        levels: list[list[Part]] = [[] for _ in range(LEVELS)]
        try:
            names = [entry.name for entry in self.directory.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return levels
        for part in filter(None, map(Part.parse, names)):
            if part.level < LEVELS:
                levels[part.level].append(part)
        for level in levels:
            level.sort(key=lambda one: (one.first, (-one.end.epoch, -one.end.row)))
            kept: list[Part] = []
            for part in level:
                if part.first == (kept[-1].end if kept else START):
                    kept.append(part)
            level[:] = kept
        return levels

    def read(
        self, part: Part, start_ns: int | None = None, stop_ns: int | None = None, after: Position = START
    ) -> list[Chunk]:
        """The buckets of a file that begin behind `after` and overlap a range of time. Raises `Corrupt`, `OSError`."""
        path = self.directory / str(part)
        data = self._files.map(path)
        self.opened += 1
        segment: Outline | Segment = Outline.of(data, path) or Segment(data, path)
        if segment.epoch is None or (isinstance(segment, Segment) and not segment.sealed):
            raise Corrupt(path, 0, "a summary that is not whole")
        try:
            schema = _schema_of(segment.epoch)
            out: list[Chunk] = []
            begins = [entry.t0_ns for entry in segment.entries]
            # Time does not go back in a file: all buckets of a batch end before the next batch begins.
            low = 0 if start_ns is None else max(0, bisect_left(begins, start_ns) - 1)
            high = len(begins) if stop_ns is None else bisect_left(begins, stop_ns)
            for i in reversed(range(low, high)):  # from behind: what lies before `after` is not read
                chunk = _chunk(segment.block_at(i), schema)
                keep = np.ones(len(chunk), np.bool_)
                if start_ns is not None:
                    keep &= chunk.t1 >= start_ns
                if stop_ns is not None:
                    keep &= chunk.t0 < stop_ns
                if after != START:
                    keep &= (chunk.epoch > after.epoch) | ((chunk.epoch == after.epoch) & (chunk.first >= after.row))
                chosen = np.flatnonzero(keep)
                if len(chosen):
                    out.append(chunk[int(chosen[0]) : int(chosen[-1]) + 1])
                if chunk.begin <= after:
                    break
            return out[::-1]
        except (KeyError, ValueError, TypeError, IndexError, InvalidBlock) as error:
            raise Corrupt(path, 0, f"a summary that cannot be read: {error}") from error

    # ---- writing: by one thread of one process ----

    def write(self, level: int, behind: Position, chunks: Iterable[Chunk], station: str, now_ns: int) -> list[Part]:
        """Add the buckets that follow `behind` to a level: a file for each stretch of one schema in which time does
        not go back."""
        out = []
        for chunk in alike(chunks):
            out.append(self._write(level, behind, chunk, station, now_ns))
            behind = chunk.end
        return out

    def _write(self, level: int, behind: Position, chunk: Chunk, station: str, now_ns: int) -> Part:
        part = Part(level, behind, chunk.end, int(chunk.t0[0]), int(chunk.t1.max()))
        path = self.directory / str(part)
        schema = _kept_as(chunk.schema)
        epoch = Epoch(self.stream, 0, schema, Anchor(0, 0, 0, "derived"))
        content, _ = whole_segment(epoch, list(_block(self.stream, chunk)), station, now_ns)
        self.directory.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        self._files.remove(temporary)
        with self._files.create(temporary) as file:
            self._files.append(file, [content])
            self._files.sync(file)
        with suppress(FileExistsError):
            self._files.rename(temporary, path)
        return part

    def forget(self, parts: Iterable[Part]) -> None:
        """Remove files: others cover their rows, or they are not true."""
        for part in parts:
            self._files.remove(self.directory / str(part))

    def size(self, part: Part) -> int:
        """Of a file, in bytes; 0 when it is gone."""
        try:
            return int((self.directory / str(part)).stat().st_size)
        except FileNotFoundError:
            return 0

    def covered(self, level: int, parts: Sequence[Sequence[Part]] | None = None) -> Position:
        """Up to where a level has buckets without a break, from the first row that has any."""
        known = (self.parts() if parts is None else parts)[level]
        return known[-1].end if known else START

    def raise_levels(self, station: str, now_ns: int, *, all_of_it: bool = False) -> None:
        """Make of each level what the one above lacks, where that is worth a file; then merge small files.

        With `all_of_it` also what is little: at the end, when nothing follows for long.
        """
        for level in range(1, LEVELS):
            parts = self.parts()
            below, done = parts[level - 1], self.covered(level, parts)
            if not below or below[-1].end <= done:
                break
            chunks = [c for part in below if part.end > done for c in self.read(part, after=done)]
            larger = [raised(one, size_of(level)) for one in alike(chunks)]
            if larger and not _is_full(larger[-1], size_of(level)):  # the last may go on
                larger[-1] = larger[-1][: len(larger[-1]) - 1]
            larger = [one for one in larger if len(one)]
            if sum(map(len, larger)) < (1 if all_of_it else _FEW):
                continue
            self.write(level, done, larger, station, now_ns)
        for level in range(LEVELS):
            self._merge(level, station, now_ns)

    def _merge(self, level: int, station: str, now_ns: int) -> None:
        """Make one of the newest files while they are alike in size: few stay, and each bucket is copied rarely."""
        while True:
            parts = self.parts()[level]
            last: list[Part] = []
            total = 0
            for part in reversed(parts):
                size = self.size(part)
                if last and (size > 4 * total or size + total > FILE_BYTES):
                    break
                last.append(part)
                total += size
            if len(last) < 2:
                return
            last.reverse()
            runs = alike([c for part in last for c in self.read(part)])
            if len(runs) >= len(last):
                return  # of different kinds: they stay apart
            made = self.write(level, last[0].first, runs, station, now_ns)
            self.forget(part for part in last if part not in made)

    def cut(self, position: Position) -> None:
        """Forget what is behind a position, and the buckets that go over it: rows have come there."""
        self.forget(part for level in self.parts() for part in level if part.end > position)


def alike(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Neighbours of one schema as one, as long as time does not go back."""
    runs: list[list[Chunk]] = []
    for chunk in chunks:
        if runs and runs[-1][-1].schema == chunk.schema and chunk.t0[0] >= runs[-1][-1].t1[-1]:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return [joined(run) for run in runs]


def _is_full(chunk: Chunk, size: int) -> bool:
    """Whether nothing can be added to the last bucket."""
    return bool((chunk.first[-1] + chunk.n[-1]) % size == 0)


# ---- a range --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overview:
    """What summaries have of a range, and behind which rows they have nothing."""

    chunks: list[Chunk]
    end: Position
    last_ns: int
    """Time of the last row before `end`."""
    damaged: Part | None = None
    """A file that could not be read: what it has comes from elsewhere."""


def overview(
    pyramid: Pyramid, pending: Sequence[Chunk], start_ns: int, stop_ns: int, width: int, rows_in_range: int
) -> Overview | None:
    """The coarsest buckets of which there are at least `width` in a range; None where the rows are as few.

    What the level lacks at its end comes from the levels below, at last from what is `pending`. Of a file that is
    damaged the rows are read, and of all behind it.
    """
    level = -1
    while level + 1 < LEVELS and rows_in_range // size_of(level + 1) >= width:
        level += 1
    if level < 0:
        return None
    chunks, end, last_ns, damaged, gone = _gathered(pyramid, level, start_ns, stop_ns)
    for _ in range(_TRIES if gone else 0):
        chunks, end, last_ns, damaged, gone = _gathered(pyramid, level, start_ns, stop_ns)
        if not gone:
            break
    if damaged is None and not gone:  # nothing is missing between files and memory
        for chunk in pending:
            if chunk.end > end:
                keep = (chunk.epoch > end.epoch) | (chunk.first >= end.row)
                shown = np.flatnonzero(keep & (chunk.t1 >= start_ns) & (chunk.t0 < stop_ns))
                if len(shown):
                    chunks.append(chunk[int(shown[0]) : int(shown[-1]) + 1])
                end, last_ns = chunk.end, int(chunk.t1[-1])
    return Overview(chunks, end, last_ns, damaged) if end != START else None


_TRIES = 4
"""Files are merged while others look at them."""


def _gathered(
    pyramid: Pyramid, level: int, start_ns: int, stop_ns: int
) -> tuple[list[Chunk], Position, int, Part | None, bool]:
    """What files have from a level down: buckets, behind which rows there are none, the time of the last of these, what
    could not be read, and whether one was gone."""
    parts = pyramid.parts()
    while level > 0 and not parts[level]:
        level -= 1
    chunks: list[Chunk] = []
    end, last_ns, damaged, gone = START, 0, None, False
    for k in range(level, -1, -1):
        for part in parts[k]:
            if part.end <= end:
                continue
            if part.t1_ns >= start_ns and part.t0_ns < stop_ns:
                try:
                    chunks += pyramid.read(part, start_ns, stop_ns, end)
                except FileNotFoundError:
                    gone = True
                    break  # the level below, or the rows
                except (Corrupt, OSError):
                    damaged = part
                    break
            end, last_ns = part.end, part.t1_ns
    return chunks, end, last_ns, damaged, gone


class Builder:
    """Makes level 0 of a stream out of its rows, in order. Belongs to one thread, but for `pending`."""

    def __init__(self, pyramid: Pyramid, station: str) -> None:
        self.pyramid, self._station = pyramid, station
        self.written = self.at = pyramid.covered(0)
        """Behind the last bucket on disk, and behind the last row that was taken."""
        self._done: list[Chunk] = []
        self._open: Chunk | None = None
        self._waiting: list[Block] = []
        self._waiting_rows = 0

    def take(self, block: Block) -> None:
        """The rows that follow. What was taken before is left out."""
        if block.epoch == self.at.epoch and block.first < self.at.row:
            if block.end <= self.at.row:
                return
            block = block.slice(self.at.row, block.end)
        elif block.epoch < self.at.epoch:
            return
        last = self._waiting[-1] if self._waiting else None
        if last is not None and not (block.follows(last) and block.schema == last.schema):
            self._fold()
        self._waiting.append(block)
        self._waiting_rows += block.rows
        self.at = Position(block.epoch, block.end)
        if self._waiting_rows >= _GATHERED or block.nbytes > _LARGE:
            self._fold()

    def skip(self, row: int) -> None:
        """The rows before this one do not come."""
        self.at = max(self.at, Position(self.at.epoch, row))

    def begin(self, epoch: int) -> None:
        """An epoch begins."""
        self.at = max(self.at, Position(epoch, 0))

    def _fold(self) -> None:
        blocks, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not blocks:
            return
        chunk = buckets_of(blocks[0] if len(blocks) == 1 else Block.join(blocks), ROWS)
        if chunk is None:
            return
        if self._open is not None:
            if self._open.schema == chunk.schema:
                chunk = raised(joined([self._open, chunk]), ROWS)
            else:
                self._done.append(self._open)
            self._open = None
        if not _is_full(chunk, ROWS):
            self._open, chunk = chunk[len(chunk) - 1 :], chunk[: len(chunk) - 1]
        if len(chunk):
            self._done.append(chunk)

    @property
    def waiting(self) -> int:
        """Buckets that are not on disk."""
        return sum(map(len, self._done))

    def pending(self) -> list[Chunk]:
        """Whole buckets that are not on disk yet, in order. From any thread."""
        return list(self._done)

    def flush(self, durable: Position, now_ns: int) -> bool:
        """Put the buckets on disk whose rows are all durable; whether there were any. Raises `OSError`."""
        self._fold()
        ready: list[Chunk] = []
        rest: list[Chunk] = []
        for chunk in self._done:
            behind = (chunk.epoch < durable.epoch) | (
                (chunk.epoch == durable.epoch) & (chunk.first + chunk.n <= durable.row)
            )
            count = int(np.argmin(behind)) if not behind.all() else len(chunk)
            if rest or not count:
                rest.append(chunk)
                continue
            ready.append(chunk[:count])
            if count < len(chunk):
                rest.append(chunk[count:])
        if not ready:
            return False
        self.pyramid.write(0, self.written, ready, self._station, now_ns)
        self.written = ready[-1].end
        self._done = rest
        return True


_GATHERED = 4096
_LARGE = 1 << 16
