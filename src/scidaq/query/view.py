"""A stream as it is drawn: any range of it in about as many buckets as there are pixels, each with its exact extremes.

Summaries give what they have (`Pyramid`), rows give the rest: where summaries do not reach yet, and where there are so
few rows that they are read at once. What a viewer gets is the same `Buckets` that a live view consists of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scidaq.block import Block, Gap, Schema
from scidaq.errors import RequestError
from scidaq.query.folding import Buckets, Fold, Lane, arrays_of, lanes_of
from scidaq.query.pyramid import START, Chunk, Overview, Position, alike, grouped

MOST_ROWS = 20_000_000
"""Rows that are read for one view: where summaries lack more, the rest is told as not summarized yet."""
MOST_GAPS = 2000
AT_ONCE = 32 << 20
"""Bytes of rows that are rather read than looked for one by one."""
MOST_NUMBERS = 16 << 20
"""Of arrays that are shown whole."""


def step_for(length_ns: int, width: int) -> int:
    """The step of a grid of which a range has between `width` and twice as many: a power of two, at least 1 ns."""
    return 1 << max(0, (max(1, length_ns) // max(1, width)).bit_length() - 1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A view, and what it was made of."""

    buckets: Buckets
    start_ns: int
    stop_ns: int
    end: Position
    """Behind the last row that came from summaries."""
    rows_read: int
    unfinished_ns: int | None = None
    """From this time on it is not whole: there are too many rows that no summary has yet."""


def drawn(
    stream: str,
    names: Sequence[str] | None,
    span: tuple[int, int],
    width: int,
    summary: Overview | None,
    rest: Iterable[Block | Gap],
    gaps: Sequence[Gap] = (),
) -> Drawn:
    """One view out of what summaries have and the rows behind them, in this order. Channels that are not there in this
    range have no line."""
    step = step_for(span[1] - span[0], width)
    parts = [] if summary is None else [_buckets(stream, step, names, c) for c in _runs(summary.chunks, step)]
    fold = Fold(stream, names, step)
    rows, unfinished = 0, None
    for item in rest:
        if isinstance(item, Block):
            if rows > MOST_ROWS:
                unfinished = item.t0_ns
                break
            rows += item.rows
        fold.take(item)
    parts += fold.changed()
    one = merged(stream, step, parts, gaps)
    end = START if summary is None else summary.end
    return Drawn(one, *span, end, rows, unfinished)


def _runs(chunks: Sequence[Chunk], step_ns: int) -> list[Chunk]:
    """As coarse as the grid, neighbours of one schema together."""
    return [grouped(chunk, chunk.t0 // step_ns) for chunk in alike(chunks)]


def _buckets(stream: str, step_ns: int, names: Sequence[str] | None, chunk: Chunk) -> Buckets:
    """In physical values, of the lines that are asked for."""
    lanes = _lanes(chunk.schema, names)
    shape = (len(lanes), len(chunk))
    least, most, mean, last = (np.empty(shape) for _ in range(4))
    with np.errstate(all="ignore"):
        for k, lane in enumerate(lanes):
            given = chunk.schema.channels[lane.column].calibration
            scale, offset = (1.0, 0.0) if given is None else (given.scale, given.offset)
            arrays = (a[lane.column] for a in (chunk.least, chunk.most, chunk.last, chunk.total, chunk.valid))
            low, high, newest, total, count = (
                a.astype(np.float64) if lane.element is None else a[:, lane.element].astype(np.float64) for a in arrays
            )
            ends = (low, high) if scale >= 0 else (high, low)
            nothing = count == 0
            least[k], most[k] = (np.where(nothing, np.nan, e * scale + offset) for e in ends)
            mean[k] = total / count * scale + offset
            last[k] = newest * scale + offset
    return Buckets(stream, step_ns, lanes, chunk.t0, chunk.t1, chunk.n.astype(np.uint32), least, most, mean, last)


def _lanes(schema: Schema, names: Sequence[str] | None) -> tuple[Lane, ...]:
    if names is None:
        return lanes_of(schema, None)
    out: list[Lane] = []
    for name in names:
        try:
            out += lanes_of(schema, [name])
        except RequestError:  # another epoch may have it
            continue
    return tuple(out)


def merged(stream: str, step_ns: int, parts: Sequence[Buckets], gaps: Sequence[Gap] = ()) -> Buckets:
    """Several stretches as one: lines are known by their names, and have no value where they are not there."""
    lanes: dict[str, Lane] = {}
    for part in parts:
        lanes.update((lane.name, lane) for lane in part.lanes)
    rows = {name: k for k, name in enumerate(lanes)}
    count = sum(len(p.t0) for p in parts)

    def times(name: str, dtype: type) -> npt.NDArray[np.generic]:
        return np.concatenate([np.empty(0, dtype), *(getattr(p, name) for p in parts)]).astype(dtype)

    def values(name: str) -> npt.NDArray[np.float64]:
        out = np.full((len(rows), count), np.nan)
        at = 0
        for part in parts:
            end = at + len(part.t0)
            out[[rows[lane.name] for lane in part.lanes], at:end] = getattr(part, name)
            at = end
        return out

    all_gaps = {(g.epoch, g.first, g.end): g for part in parts for g in part.gaps}
    all_gaps.update(((g.epoch, g.first, g.end), g) for g in gaps)
    told = sorted(all_gaps.values(), key=lambda g: (g.epoch, g.first, g.end))
    return Buckets(
        stream,
        step_ns,
        tuple(lanes.values()),
        times("t0", np.int64),  # type: ignore[arg-type]
        times("t1", np.int64),  # type: ignore[arg-type]
        times("n", np.uint32),  # type: ignore[arg-type]
        values("least"),
        values("most"),
        values("mean"),
        values("last"),
        tuple(told[-MOST_GAPS:]),
    )


# ---- arrays, whole ---------------------------------------------------------------------------------------------------


def chosen(
    read: Callable[[int, int], Iterable[Block | Gap]],
    names: Sequence[str] | None,
    span: tuple[int, int],
    rows: int,
    estimate: int,
) -> list[Block]:
    """At most `rows` rows of a range of time, evenly chosen, the newest among them; each a block, in order of time.

    `read` gives what lies between two times. It is asked for the first row of each of so many stretches, and no
    further, so that what lies between is not read. Of rows with many numbers fewer are chosen. `estimate` is about how
    many rows there are. A range of few bytes is read in one go. Raises `RequestError` for channels that are none.
    """
    held: list[Block] = []
    size = 0
    for item in read(*span):
        if isinstance(item, Block):
            held.append(item)
            size += item.nbytes
            if size > AT_ONCE:
                break
    else:
        return _evenly(held, names, rows)
    newest = _newest_of(read, span, estimate)
    if newest is None:
        return []
    rows = _most(newest.schema, names, rows)
    out = {(newest.epoch, newest.first): newest}
    length, cell = newest.t0_ns - span[0], 0
    while cell < rows - 1:
        start = span[0] + length * cell // (rows - 1)
        first = next((b for b in read(start, newest.t0_ns) if isinstance(b, Block)), None)
        if first is None:
            break
        first = first.slice(first.first, first.first + 1)
        out[first.epoch, first.first] = first
        cell = max(cell + 1, (first.t0_ns - span[0]) * (rows - 1) // max(1, length) + 1)
    return sorted(out.values(), key=lambda b: (b.t0_ns, b.epoch, b.first))


def _most(schema: Schema, names: Sequence[str] | None, rows: int) -> int:
    numbers = sum(schema.channels[lane.column].elements for lane in arrays_of(schema, names))
    return max(1, min(rows, MOST_NUMBERS // max(1, numbers)))


def _evenly(blocks: Sequence[Block], names: Sequence[str] | None, rows: int) -> list[Block]:
    """The same of rows that are at hand."""
    if not blocks:
        return []
    times = np.concatenate([b.time_ns() for b in blocks])
    ends = np.cumsum([b.rows for b in blocks])
    order = np.argsort(times, kind="stable")
    newest = int(np.searchsorted(ends, order[-1], "right"))
    rows = _most(blocks[newest].schema, names, rows)
    first, last = int(times[order[0]]), int(times[order[-1]])
    wanted = [first + (last - first) * k // max(1, rows - 1) for k in range(rows - 1)]
    places = np.append(np.searchsorted(times[order], np.array(wanted, np.int64)), len(times) - 1)
    out = []
    for at in order[np.unique(places)].tolist():
        k = int(np.searchsorted(ends, at, "right"))
        row = blocks[k].end - int(ends[k]) + at
        out.append(blocks[k].slice(row, row + 1))
    return out


def _newest_of(read: Callable[[int, int], Iterable[Block | Gap]], span: tuple[int, int], estimate: int) -> Block | None:
    """The last row of a range: looked for in its last stretch, and ever further back."""
    length = span[1] - span[0]
    back = min(length, 2 * length // max(1, estimate) + 1)
    while True:
        last = None
        for item in read(span[1] - back, span[1]):
            if isinstance(item, Block):
                last = item
        if last is not None:
            return last.slice(last.end - 1, last.end)
        if back >= length:
            return None
        back = min(length, back * 16)


def shown(stream: str, names: Sequence[str] | None, rows: Sequence[Block], gaps: Sequence[Gap] = ()) -> Buckets:
    """Single rows as arrays, in physical values: what the newest of them has; NaN where another has no such array."""
    none, times = np.empty((0, len(rows))), np.array([b.t0_ns for b in rows], np.int64)
    lanes = arrays_of(rows[-1].schema, names) if rows else ()
    arrays = []
    for lane in lanes:
        out = np.full((len(rows), *lane.shape), np.nan, np.float32)
        for i, block in enumerate(rows):
            k = block.schema.names.index(lane.name) if lane.name in block.schema.names else None
            if k is None or block.schema.channels[k].shape != lane.shape or block.schema.channels[k].dtype == "text":
                continue
            mask = block.valid[k] if block.valid else None
            if mask is None or mask[0]:
                with np.errstate(all="ignore"):
                    out[i] = block.schema.channels[k].physical(block.columns[k])[0]
        arrays.append(out)
    n = np.ones(len(rows), np.uint32)
    return Buckets(stream, 0, lanes, times, times, n, none, none, none, none, tuple(gaps)[-MOST_GAPS:], tuple(arrays))
