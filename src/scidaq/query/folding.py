"""Blocks as they come, folded into buckets of time: what a live view draws.

The grid stands still (multiples of the step since 1970), so that a bucket has the same beginning for everybody who
looks. A bucket goes neither over a hole nor into another epoch, and its extremes are exactly those of its rows, in
physical values: codes are folded as they are stored and calibrated afterwards, which a straight line allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from scidaq.block import Block, Channel, Gap, Schema
from scidaq.errors import RequestError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_CHANNELS = 256
"""Channels of one view, each element of an array counted."""
MOST_BUCKETS = 1 << 17
"""Buckets that may wait to be taken; of more the oldest are left out, and told."""
MOST_ELEMENTS = 1 << 22
"""Numbers of a row of an array that is shown whole."""
_SMALL = 1 << 14
"""Numbers of a block up to which copying them costs less than looking at each column by itself."""
_ELEMENT = re.compile(r"(.+)\[(\d{1,9})\]")


@dataclass(frozen=True, slots=True)
class Lane:
    """One line of a plot: a channel, or one element of an array channel."""

    name: str
    unit: str
    dtype: str
    column: int
    """Which channel of the schema."""
    element: int | None = None
    """Which of its elements; None for a scalar."""
    shape: tuple[int, ...] = ()
    """Of an array that is shown whole."""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Buckets:
    """Rows of one stream as buckets, and the gaps between them. Arrays have an element per bucket."""

    stream: str
    step_ns: int
    lanes: tuple[Lane, ...]
    t0: Ints
    """UTC nanoseconds of the first row of each, and `t1` of the last."""
    t1: Ints
    n: npt.NDArray[np.uint32]
    least: Floats
    """Of shape `(lanes, buckets)`, as `most`, `mean` and `last`; NaN where there is no value."""
    most: Floats
    mean: Floats
    last: Floats
    gaps: tuple[Gap, ...] = ()
    arrays: tuple[npt.NDArray[np.float32], ...] = ()
    """The newest row of each lane that is an array, with a first axis of one; the one bucket is then its time."""
    left_out: tuple[int, int] | None = None
    """Times of the first and last row that are not in here though they came: there were too many."""

    @property
    def one_row_each(self) -> bool:
        """Whether every bucket is a single row."""
        return bool((self.n == 1).all())


# ---- what is asked for ----------------------------------------------------------------------------------------------


def lanes_of(schema: Schema, names: Sequence[str] | None) -> tuple[Lane, ...]:
    """The lines that `names` ask for; None is all that can be drawn as lines, up to `MOST_CHANNELS`.

    A name is that of a scalar channel, of an array (all its elements), or of one element: `adc.left`, `adc[3]`. Raises
    `RequestError` for what is not there, and for what is no number.
    """
    if names is None:
        out = [lane for i, c in enumerate(schema.channels) if c.dtype != "text" for lane in _lanes(c, i, labelled=True)]
        return tuple(out[:MOST_CHANNELS])
    out = [lane for name in names for lane in _asked(schema, name)]
    if len(out) > MOST_CHANNELS:
        raise RequestError(f"a view has {MOST_CHANNELS} lines at most, not {len(out)}: name fewer channels or elements")
    return tuple({lane.name: lane for lane in out}.values())


def _asked(schema: Schema, name: str) -> list[Lane]:
    if name in schema.names:
        i = schema.names.index(name)
        channel = schema.channels[i]
        if channel.dtype == "text":
            raise RequestError(f"channel {name!r} is text: it has no line")
        if len(channel.shape) > 1:
            raise RequestError(f"channel {name!r} is an image: ask for it with kind arrays")
        return _lanes(channel, i, labelled=False)
    for i, channel in enumerate(schema.channels):
        if not channel.shape or len(channel.shape) > 1 or not name.startswith(channel.name):
            continue
        rest = name[len(channel.name) :]
        if rest.startswith(".") and rest[1:] in channel.labels:
            return [_lane(channel, i, channel.labels.index(rest[1:]))]
        found = _ELEMENT.fullmatch(name)
        if found and found[1] == channel.name and int(found[2]) < channel.shape[0]:
            return [_lane(channel, i, int(found[2]))]
    raise RequestError(f"no channel {name[:140]!r}; there are {', '.join(schema.names)}")


def _lanes(channel: Channel, i: int, *, labelled: bool) -> list[Lane]:
    if not channel.shape:
        return [_lane(channel, i, None)]
    if len(channel.shape) > 1 or (labelled and not channel.labels):
        return []
    return [_lane(channel, i, k) for k in range(min(channel.shape[0], MOST_CHANNELS + 1))]


def _lane(channel: Channel, i: int, element: int | None) -> Lane:
    name = channel.name
    if element is not None:
        name = f"{name}.{channel.labels[element]}" if channel.labels else f"{name}[{element}]"
    dtype = "float64" if channel.calibration is not None else channel.dtype
    return Lane(name, channel.physical_unit, dtype, i, element)


def arrays_of(schema: Schema, names: Sequence[str] | None) -> tuple[Lane, ...]:
    """The array channels that `names` ask for, to be shown whole. Raises `RequestError`."""
    if names is None:
        names = [c.name for c in schema.channels if c.shape and c.dtype != "text" and c.elements <= MOST_ELEMENTS][:8]
    out = []
    for name in names:
        if name not in schema.names:
            raise RequestError(f"no channel {name[:140]!r}; there are {', '.join(schema.names)}")
        i = schema.names.index(name)
        channel = schema.channels[i]
        if not channel.shape:
            raise RequestError(f"channel {name!r} is no array: it is drawn as a line")
        if channel.elements > MOST_ELEMENTS:
            raise RequestError(f"channel {name!r} has {channel.elements} numbers in a row, {MOST_ELEMENTS} are shown")
        out.append(Lane(name, channel.physical_unit, "float32", i, None, channel.shape, channel.labels))
    return tuple(out)


# ---- folding --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """The bucket that rows are still added to."""

    number: int
    epoch: int
    end: int
    """Index of the row that would continue it."""
    t0: int
    t1: int
    n: int
    least: Floats
    most: Floats
    total: Floats
    """Sum of the codes that are numbers, and how many these are."""
    valid: Floats
    last: Floats


@dataclass(slots=True)
class _Done:
    """Buckets that get no more rows, of one schema."""

    t0: list[Ints] = field(default_factory=list)
    t1: list[Ints] = field(default_factory=list)
    n: list[Ints] = field(default_factory=list)
    least: list[Floats] = field(default_factory=list)
    most: list[Floats] = field(default_factory=list)
    total: list[Floats] = field(default_factory=list)
    valid: list[Floats] = field(default_factory=list)
    last: list[Floats] = field(default_factory=list)
    count: int = 0


class Fold:
    """The buckets of one view, fed with what comes out of a ring. Belongs to one thread."""

    def __init__(self, stream: str, names: Sequence[str] | None, step_ns: int) -> None:
        self.stream, self.names, self.step_ns = stream, names, step_ns
        self.lanes: tuple[Lane, ...] = ()
        self._schema: Schema | None = None
        self._open: _Open | None = None
        self._done = _Done()
        self._whole: list[Buckets] = []
        """What was folded under a schema of before, and not taken yet."""
        self._gaps: list[Gap] = []
        self._left_out: tuple[int, int] | None = None
        self._touched = False
        self._lines: list[tuple[int, list[int], npt.NDArray[np.intp] | None]] = []
        """Per column of the schema: its lanes, and which elements they are."""
        self._scale: Floats = np.ones((0, 1))
        self._offset: Floats = np.zeros((0, 1))

    def take(self, item: Block | Gap) -> None:
        """Fold what came."""
        if isinstance(item, Gap):
            self._gaps.append(item)
            del self._gaps[:-MOST_CHANNELS]
            self._touched = True
            return
        if self._schema is not item.schema and self._schema != item.schema:
            self._begin(item.schema)
        self._schema = item.schema
        if not self.lanes:
            return
        self._touched = True
        with np.errstate(all="ignore"):  # infinities and what is no number are the user's own
            self._fold(item)

    def _begin(self, schema: Schema) -> None:
        if self._schema is not None:
            self._whole.extend(self._cut(last=True))
        try:
            self.lanes = lanes_of(schema, self.names)
        except RequestError:  # the channel is not there any more
            known = [lane for name in self.names or () for lane in _some(schema, name)]
            self.lanes = tuple(known[:MOST_CHANNELS])
        columns: dict[int, list[int]] = {}
        for k, lane in enumerate(self.lanes):
            columns.setdefault(lane.column, []).append(k)
        self._lines = []
        for column, lanes in columns.items():
            elements = [self.lanes[k].element for k in lanes]
            shape = schema.channels[column].shape
            every = not shape or elements == list(range(shape[0]))
            self._lines.append((column, lanes, None if every else np.array(elements, np.intp)))
        given = [schema.channels[lane.column].calibration for lane in self.lanes]
        self._scale = np.array([1.0 if c is None else c.scale for c in given]).reshape(-1, 1)
        self._offset = np.array([0.0 if c is None else c.offset for c in given]).reshape(-1, 1)

    def _added(self, block: Block) -> bool:
        """Add a block to the open bucket, where it belongs there as a whole: of a fast stream most do."""
        open_ = self._open
        if open_ is None or block.valid or (block.epoch, block.first) != (open_.epoch, open_.end):
            return False
        if self._is_small(block):
            return False
        last_ns = block.last_ns
        if last_ns >= (open_.number + 1) * self.step_ns or block.t0_ns < open_.number * self.step_ns:
            return False
        found = []
        for column, lanes, elements in self._lines:
            values = block.columns[column]
            if values.dtype == np.bool_:
                values = values.view(np.uint8)
            if elements is not None:
                values = values[:, elements]
            values = values.reshape(block.rows, -1)
            least = _whole(np.minimum, values, None)
            if values.dtype.kind == "f" and np.isnan(least).any():
                return False
            found.append(
                (lanes, least, _whole(np.maximum, values, None), _whole(np.add, values, np.float64), values[-1])
            )
        for lanes, least, most, total, last in found:
            every: Any = slice(None) if len(lanes) == len(self.lanes) else lanes
            open_.least[every] = np.fmin(open_.least[every], least)
            open_.most[every] = np.fmax(open_.most[every], most)
            open_.total[every] += total
            open_.last[every] = last
        open_.valid += block.rows
        open_.t1, open_.end, open_.n = last_ns, block.end, open_.n + block.rows
        return True

    def _fold(self, block: Block) -> None:
        if self._added(block):
            return
        numbers, starts, t0, t1 = _cut_rows(block, self.step_ns)
        count = len(starts)
        n = np.diff(np.append(starts, block.rows))
        ends = np.append(starts[1:], block.rows) - 1
        if self._is_small(block):
            least, most, total, valid, last = _reduced(self._together(block), None, starts, n, ends)
        else:
            least, most, total, valid, last = (np.empty((len(self.lanes), count)) for _ in range(5))
            for column, lanes, elements in self._lines:
                values, mask = block.columns[column], block.valid[column] if block.valid else None
                if elements is not None:
                    values = values[:, elements]
                values = values.reshape(block.rows, -1)
                found = _reduced(values, mask, starts, n, ends)
                least[lanes], most[lanes], total[lanes], valid[lanes], last[lanes] = found
        open_ = self._open
        if open_ is not None and block.epoch == open_.epoch and block.first < open_.end:  # rows that come late
            self._add(t0, t1, n, least, most, total, valid, last, slice(None))
            return
        begin = 0
        if open_ is not None and (open_.epoch, open_.end, open_.number) == (block.epoch, block.first, numbers[0]):
            open_.t1, open_.n = int(t1[0]), open_.n + int(n[0])
            np.fmin(open_.least, least[:, 0], out=open_.least)
            np.fmax(open_.most, most[:, 0], out=open_.most)
            open_.total += total[:, 0]
            open_.valid += valid[:, 0]
            open_.last = last[:, 0].copy()
            open_.end = block.first + int(n[0])
            if count == 1:
                return
            begin = 1
        self._close()
        self._add(t0, t1, n, least, most, total, valid, last, slice(begin, count - 1))
        self._open = _Open(
            numbers[-1],
            block.epoch,
            block.end,
            int(t0[-1]),
            int(t1[-1]),
            int(n[-1]),
            *(a[:, -1].copy() for a in (least, most, total, valid, last)),
        )

    def _is_small(self, block: Block) -> bool:
        return len(self._lines) > 1 and block.rows * len(self.lanes) <= _SMALL

    def _together(self, block: Block) -> Floats:
        """All lanes of a small block side by side, as numbers: many columns of few rows are reduced at once."""
        out = np.empty((block.rows, len(self.lanes)))
        for column, lanes, elements in self._lines:
            values = block.columns[column]
            if elements is not None:
                values = values[:, elements]
            mask = block.valid[column] if block.valid else None
            if mask is not None:
                values = np.where(mask.reshape(-1, *(1,) * (values.ndim - 1)), values, np.nan)
            if len(lanes) == 1:
                out[:, lanes[0]] = values.reshape(-1)
            else:
                out[:, lanes] = values
        return out

    def _add(self, t0: Ints, t1: Ints, n: Ints, *arrays: Any) -> None:
        *values, part = arrays
        done = self._done
        t0 = t0[part]
        if not len(t0):
            return
        done.t0.append(t0)
        done.t1.append(t1[part])
        done.n.append(n[part])
        for kept, value in zip((done.least, done.most, done.total, done.valid, done.last), values, strict=True):
            kept.append(value[:, part])
        done.count += len(t0)
        while done.count > MOST_BUCKETS and len(done.t0) > 1:  # nobody has taken them for long
            gone = done.t0.pop(0), done.t1.pop(0)
            done.count -= len(gone[0])
            for one in (done.n, done.least, done.most, done.total, done.valid, done.last):
                one.pop(0)
            begin = int(gone[0][0]) if self._left_out is None else self._left_out[0]
            self._left_out = begin, int(gone[1][-1])

    def _close(self) -> None:
        open_, self._open = self._open, None
        if open_ is not None:
            one = [a.reshape(-1, 1) for a in (open_.least, open_.most, open_.total, open_.valid, open_.last)]
            times = (np.array([t], np.int64) for t in (open_.t0, open_.t1, open_.n))
            self._add(*times, *one, slice(None))

    # ---- what has come of it ----

    @property
    def begins_ns(self) -> int | None:
        """Time of the first row that the next `changed` will have, of one at least if none comes; None before any."""
        if self._whole and len(self._whole[0].t0):
            return int(self._whole[0].t0[0])
        if self._done.t0:
            return min(int(t[0]) for t in self._done.t0)
        return None if self._open is None else self._open.t0

    def changed(self) -> list[Buckets]:
        """The buckets that have changed since the last call, the one that is not full yet included; and the gaps."""
        if not self._touched:
            return []
        self._touched = False
        out, self._whole = [*self._whole, *self._cut(last=False)], []
        return out

    def _cut(self, *, last: bool) -> Iterator[Buckets]:
        """What is done, and the open bucket as it is; with `last` it is closed."""
        if last:
            self._close()
        done, open_ = self._done, self._open
        if not (done.count or open_ is not None or self._gaps or self._left_out):
            return
        t0, t1, n = list(done.t0), list(done.t1), list(done.n)
        parts = [list(a) for a in (done.least, done.most, done.total, done.valid, done.last)]
        if open_ is not None:
            for times, value in ((t0, open_.t0), (t1, open_.t1), (n, open_.n)):
                times.append(np.array([value], np.int64))
            ends = (open_.least, open_.most, open_.total, open_.valid, open_.last)
            for kept, one in zip(parts, ends, strict=True):
                kept.append(one.reshape(-1, 1).copy())
        empty = np.empty((len(self.lanes), 0))
        least, most, total, valid, newest = (np.concatenate([empty, *a], axis=1) for a in parts)
        none = np.empty(0, np.int64)
        with np.errstate(all="ignore"):
            mean = np.where(valid > 0, total / valid, np.nan) * self._scale + self._offset
            least, most = least * self._scale + self._offset, most * self._scale + self._offset
            newest = newest * self._scale + self._offset
        down = self._scale[:, 0] < 0
        least[down], most[down] = most[down].copy(), least[down].copy()
        yield Buckets(
            self.stream,
            self.step_ns,
            self.lanes,
            np.concatenate([none, *t0]),
            np.concatenate([none, *t1]),
            np.concatenate([none, *n]).astype(np.uint32),
            least,
            most,
            mean,
            newest,
            tuple(self._gaps),
            left_out=self._left_out,
        )
        self._done, self._gaps, self._left_out = _Done(), [], None


class Newest:
    """The newest row of arrays that are shown whole: spectra, images. The same verbs as `Fold`."""

    def __init__(self, stream: str, names: Sequence[str] | None) -> None:
        self.stream, self.names, self.step_ns = stream, names, 0
        self.lanes: tuple[Lane, ...] = ()
        self._newest: Block | None = None
        self._rows = 0
        self._gaps: list[Gap] = []

    begins_ns: int | None = None

    def take(self, item: Block | Gap) -> None:
        """Keep what came last."""
        if isinstance(item, Gap):
            self._gaps.append(item)
            del self._gaps[:-MOST_CHANNELS]
        else:
            self._newest, self._rows = item, self._rows + item.rows

    def changed(self) -> list[Buckets]:
        """The newest row, when there is another than at the last call."""
        block = self._newest
        if block is None:
            return []
        try:
            self.lanes = arrays_of(block.schema, self.names)
        except RequestError:
            self.lanes = ()
        arrays = []
        for lane in self.lanes:
            row = block.columns[lane.column][-1:]
            physical = block.schema.channels[lane.column].physical(row).astype(np.float32)
            mask = block.valid[lane.column] if block.valid else None
            arrays.append(physical if mask is None or mask[-1] else np.full_like(physical, np.nan))
        t, none = np.array([block.last_ns], np.int64), np.empty((0, 1))
        n = np.array([self._rows], np.uint32)
        gaps = tuple(self._gaps)
        self._newest, self._rows, self._gaps = None, 0, []
        return [Buckets(self.stream, 0, self.lanes, t, t, n, none, none, none, none, gaps, tuple(arrays))]


def _some(schema: Schema, name: str) -> list[Lane]:
    try:
        return _asked(schema, name)
    except RequestError:
        return []


def _cut_rows(block: Block, step_ns: int) -> tuple[list[int], Ints, Ints, Ints]:
    """Number of each bucket that a block has rows of, index of its first row there, times of its first and last."""
    first, last = block.t0_ns // step_ns, block.last_ns // step_ns
    rate = block.schema.rate
    if first == last:
        numbers, starts = [first], np.zeros(1, np.intp)
        return numbers, starts, np.array([block.t0_ns], np.int64), np.array([block.last_ns], np.int64)
    if rate is not None and (last - first) * 8 < block.rows:
        # Row i lies at floor(i / rate): the first behind an edge follows in whole numbers, without a time per row.
        up, down = rate.numerator, 1_000_000_000 * rate.denominator
        if max((block.last_ns - block.t0_ns + step_ns) * up, block.rows * down) < 1 << 62:
            edges = np.arange(first + 1, last + 1, dtype=np.int64) * step_ns - block.t0_ns
            begins = np.concatenate([np.zeros(1, np.int64), -(-edges * up // down)])
            ends = np.append(begins[1:], block.rows) - 1
            t0, t1 = (block.t0_ns + one * down // up for one in (begins, ends))
            return list(range(first, last + 1)), begins, t0, t1
        rows = [0, *(-(-(k * step_ns - block.t0_ns) * up // down) for k in range(first + 1, last + 1))]
        span = block.schema.span_ns
        t0 = np.array([block.t0_ns + span(r) for r in rows], np.int64)
        t1 = np.array([block.t0_ns + span(r - 1) for r in [*rows[1:], block.rows]], np.int64)
        return list(range(first, last + 1)), np.array(rows, np.intp), t0, t1
    times = block.time_ns()
    numbers_ = times // step_ns
    starts = np.concatenate([[0], np.flatnonzero(numbers_[1:] != numbers_[:-1]) + 1])
    ends = np.append(starts[1:], block.rows) - 1
    return numbers_[starts].tolist(), starts, times[starts], times[ends]


def _reduced(
    values: npt.NDArray[Any], mask: npt.NDArray[np.bool_] | None, starts: Ints, n: Ints, ends: Ints
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Of columns of `(rows, lanes)`: least, greatest, sum, count and last of each bucket, as `(lanes, buckets)`."""
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    if mask is not None:
        values = np.where(mask.reshape(-1, 1), values, np.nan).astype(np.float64)
    last = values[ends].T.astype(np.float64)
    if len(starts) == len(values):  # a row each
        one = values.T.astype(np.float64)
        nothing = np.isnan(one)
        return one, one, np.where(nothing, 0.0, one), (~nothing).astype(np.float64), last
    few = len(values) >= _LONG * len(starts)
    least, most = (_each(op, values, starts, ends, None, few=few) for op in (np.minimum, np.maximum))
    if values.dtype.kind == "f" and np.isnan(least).any():
        nothing = np.isnan(values)
        least, most = np.fmin.reduceat(values, starts, axis=0), np.fmax.reduceat(values, starts, axis=0)
        total = np.add.reduceat(np.where(nothing, 0.0, values), starts, axis=0, dtype=np.float64)
        there = np.add.reduceat(~nothing, starts, axis=0, dtype=np.float64).T
    else:
        total = _each(np.add, values, starts, ends, np.float64, few=few)
        there = np.broadcast_to(n.astype(np.float64), (values.shape[1], len(n)))
    return least.T.astype(np.float64), most.T.astype(np.float64), total.T, there, last


_LONG = 2048
"""Rows to a bucket from which on each is reduced by itself."""
_WIDE = 512
"""Numbers side by side that a processor reduces at its speed: rows of few lanes are taken together."""


def _each(op: np.ufunc, values: npt.NDArray[Any], starts: Ints, ends: Ints, dtype: Any, *, few: bool) -> Any:
    """Of shape `(buckets, lanes)`."""
    if not few:
        return op.reduceat(values, starts, axis=0, dtype=dtype)
    return np.array([_whole(op, values[a : b + 1], dtype) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])


def _whole(op: np.ufunc, values: npt.NDArray[Any], dtype: Any) -> Any:
    rows, lanes = values.shape
    together = _WIDE // lanes
    if together < 2 or rows < 4 * together or not values.flags.c_contiguous:
        return op.reduce(values, axis=0, dtype=dtype)
    if lanes == 1:
        return op.reduce(values.reshape(-1), dtype=dtype).reshape(1)
    end = rows // together * together
    wide = op.reduce(values[:end].reshape(-1, together * lanes), axis=0, dtype=dtype)
    out = op.reduce(wide.reshape(together, lanes), axis=0)
    return out if end == rows else op(out, op.reduce(values[end:], axis=0, dtype=dtype))
