"""Summaries against the rows themselves: what is drawn of any range at any width is exactly what is there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import NS, Block, Calibration, Channel, Gap, Schema
from scidaq.query import (
    Buckets,
    Builder,
    Chunk,
    Part,
    Position,
    Pyramid,
    chosen,
    drawn,
    lanes_of,
    overview,
    shown,
    view,
)
from scidaq.store import Files, system_files

STREAM = "adc/wave"
STATION = "11111111-2222-4333-8444-555555555555"
T0 = 1_750_000_000 * NS
START, STOP = T0 - NS, T0 + 10**9 * NS


def unsynced() -> Files:
    """Real files; nobody pulls the plug here."""
    files = system_files()
    files.sync = lambda file: None  # type: ignore[method-assign]
    return files


SCALARS = (
    Channel("x", "float64", "V"),
    Channel("code", "int16", "1", calibration=Calibration(-0.25, 3.0, "V")),
    Channel("on", "bool"),
    Channel("f", "float32", "V", calibration=Calibration(2.0, 0.5, "A")),
    Channel("big", "uint64", "{count}"),
)
ARRAY = Channel("adc", "int8", "1", (3,), ("a", "b", "c"), Calibration(0.5, 0.0, "V"))
TEXT = Channel("note", "text", max_bytes=4)


@dataclass(frozen=True)
class Recorded:
    """Rows in order of epoch and row, and the holes between them."""

    blocks: list[Block]

    @property
    def end(self) -> Position:
        return Position(self.blocks[-1].epoch, self.blocks[-1].end)

    def times(self) -> np.ndarray:
        return np.concatenate([b.time_ns() for b in self.blocks])

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Epoch and index of each row."""
        epochs = np.concatenate([np.full(b.rows, b.epoch) for b in self.blocks])
        return epochs, np.concatenate([np.arange(b.first, b.end) for b in self.blocks])

    def values(self, name: str) -> np.ndarray:
        """In physical values, NaN where there is none."""
        out = []
        for block in self.blocks:
            try:
                (lane,) = lanes_of(block.schema, [name])
            except Exception:
                out.append(np.full(block.rows, np.nan))
                continue
            column = block.columns[lane.column]
            one = column if lane.element is None else column[:, lane.element]
            values = block.schema.channels[lane.column].physical(one).astype(np.float64)
            mask = block.valid[lane.column] if block.valid else None
            out.append(values if mask is None else np.where(mask, values, np.nan))
        return np.concatenate(out)

    def rest(self, behind: Position, start: int, stop: int) -> Iterator[Block | Gap]:
        """What a reader gives from a position on."""
        for block in self.blocks:
            if (block.epoch, block.end) <= behind:
                continue
            first = max(block.first, behind.row) if block.epoch == behind.epoch else block.first
            times = block.time_ns()
            a, b = (block.first + int(np.searchsorted(times, t)) for t in (start, stop))
            if max(a, first) < b:
                yield block.slice(max(a, first), b)


def column(channel: Channel, rows: int, rng: np.random.Generator) -> np.ndarray:
    shape = (rows, *channel.shape)
    dtype = channel.numpy_dtype
    if channel.dtype == "text":
        return np.array([b"ab"] * rows, dtype)
    if dtype.kind == "f":
        values = rng.standard_normal(shape).astype(dtype)
        values[rng.random(shape) < 0.01] = np.inf
        values[rng.random(shape) < rng.choice([0.0, 0.3, 1.0], p=[0.5, 0.4, 0.1])] = np.nan
        return values
    if dtype.kind == "b":
        return rng.random(shape) < 0.01
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@st.composite
def recordings(draw: st.DrawFn, most_rows: int = 1500) -> Recorded:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    out: list[Block] = []
    t = T0
    for epoch in range(draw(st.integers(1, 3))):
        wanted = draw(st.lists(st.sampled_from([*SCALARS, ARRAY, TEXT]), min_size=1, max_size=3, unique=True))
        if wanted == [TEXT]:
            wanted.append(SCALARS[0])
        schema = Schema(tuple(wanted), draw(st.sampled_from([None, Fraction(1000), Fraction(1_000_000, 7)])))
        first = draw(st.sampled_from([0, 0, 100, 511, 5000]))
        for _ in range(draw(st.integers(1, 4))):
            rows = draw(st.integers(1, most_rows))
            columns = tuple(column(c, rows, rng) for c in wanted)
            masked = draw(st.booleans())
            share = rng.choice([0.0, 0.1, 0.99])
            valid = tuple(rng.random(rows) >= share if rng.random() < 0.7 else None for _ in wanted) if masked else None
            valid = None if valid is None or all(v is None for v in valid) else valid
            times = None
            if schema.rate is None:
                times = t + np.cumsum(rng.integers(1, 2 * 10**6, rows), dtype=np.int64)
            block = Block(STREAM, epoch, first, schema, columns, t if times is None else int(times[0]), times, valid)
            out.append(block)
            hole = draw(st.sampled_from([0, 0, 1, 700]))
            first = block.end + hole
            t = block.t0_ns + schema.span_ns(rows + hole) if times is None else block.last_ns + 1 + hole
        t += draw(st.sampled_from([1, NS, 1000 * NS]))
    return Recorded(out)


def pieces(recorded: Recorded, draw: st.DataObject) -> Iterator[Block]:
    """The blocks as they might come: cut anywhere."""
    for block in recorded.blocks:
        cuts = sorted({block.first, block.end, *draw.draw(st.lists(st.integers(block.first, block.end), max_size=3))})
        for a, b in pairwise(cuts):
            yield block.slice(a, b)


def summarize(pyramid: Pyramid, blocks: Iterator[Block] | Sequence[Block], draw: st.DataObject | None) -> Builder:
    """Feed and write, as a station does: several times, and from where it has come to after a restart."""
    builder = Builder(pyramid, STATION)
    for block in blocks:
        if builder.at.epoch < block.epoch:
            builder.begin(block.epoch)
        builder.take(block)
        if draw is not None and draw.draw(st.integers(0, 5)) == 0:
            builder.flush(Position(block.epoch, block.end), T0)
            if draw.draw(st.booleans()):
                pyramid.raise_levels(STATION, T0, all_of_it=draw.draw(st.booleans()))
    builder.flush(builder.at, T0)
    pyramid.raise_levels(STATION, T0, all_of_it=True)
    return builder


def drawn_of(
    recorded: Recorded,
    pyramid: Pyramid,
    span: tuple[int, int],
    width: int,
    pending: Sequence[Chunk] = (),
) -> Buckets:
    rows = int(np.sum((recorded.times() >= span[0]) & (recorded.times() < span[1])))
    summary = overview(pyramid, pending, *span, width, rows)
    behind = Position(0, 0) if summary is None else summary.end
    return drawn(STREAM, None, span, width, summary, recorded.rest(behind, *span)).buckets


def check(recorded: Recorded, buckets: Buckets, span: tuple[int, int]) -> None:
    """Every row of the range lies in one bucket, none goes over a hole, and all numbers are those of its rows."""
    times, (epochs, index) = recorded.times(), recorded.places()
    inside = np.flatnonzero((times >= span[0]) & (times < span[1]))
    begin = np.searchsorted(times, buckets.t0)  # times are different all over
    assert (times[begin] == buckets.t0).all()
    end = begin + buckets.n
    assert (times[end - 1] == buckets.t1).all()
    assert (begin[1:] >= end[:-1]).all()
    covered = np.concatenate([np.arange(a, b) for a, b in zip(begin, end, strict=True)] or [np.empty(0, np.int64)])
    assert np.isin(inside, covered).all()
    assert (epochs[begin] == epochs[end - 1]).all()
    assert (index[end - 1] - index[begin] == buckets.n - 1).all()
    for k, lane in enumerate(buckets.lanes):
        values = recorded.values(lane.name)
        wanted = np.full((4, len(begin)), np.nan)
        for i, (a, b) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
            part = values[a:b]
            there = part[~np.isnan(part)]
            wanted[3, i] = part[-1]
            if len(there):
                with np.errstate(all="ignore"):
                    wanted[:3, i] = there.min(), there.max(), there.mean()
        np.testing.assert_array_equal(buckets.least[k], wanted[0], lane.name)
        np.testing.assert_array_equal(buckets.most[k], wanted[1], lane.name)
        np.testing.assert_allclose(buckets.mean[k], wanted[2], rtol=1e-6, atol=1e-6, err_msg=lane.name)
        np.testing.assert_array_equal(buckets.last[k], wanted[3], lane.name)


@given(st.data(), recordings(), st.integers(1, 60))
def test_any_range_is_drawn_exactly(data: st.DataObject, recorded: Recorded, width: int) -> None:
    times = recorded.times()
    with tempfile.TemporaryDirectory() as directory:
        pyramid = Pyramid(Path(directory), STREAM, unsynced())
        summarize(pyramid, pieces(recorded, data), data)
        check(recorded, drawn_of(recorded, pyramid, (START, STOP), width), (START, STOP))
        for _ in range(2):
            a, b = sorted(data.draw(st.tuples(st.integers(0, len(times)), st.integers(0, len(times)))))
            span = (int(times[a]) if a < len(times) else STOP, int(times[b]) if b < len(times) else STOP)
            span = (span[0], max(span[1], span[0] + 1))
            check(recorded, drawn_of(recorded, pyramid, span, width), span)


def plain(epoch: int, first: int, values: np.ndarray, t0_ns: int) -> Block:
    schema = Schema((Channel("x", "float64", "V"),), Fraction(1000))
    return Block(STREAM, epoch, first, schema, (values,), t0_ns)


def test_a_clock_that_was_set_back_hides_nothing(tmp_path: Path) -> None:
    values = np.zeros(1024 * 1024)
    values[-1] = 7.0  # in the last bucket of the epoch, which reaches behind the beginning of the next
    before = plain(0, 0, values, T0)
    after = plain(1, 0, np.zeros(5000), before.last_ns - 300 * 10**6)
    pyramid = Pyramid(tmp_path, STREAM, unsynced())
    summarize(pyramid, [before, after], None)
    span = before.last_ns - 10**6, before.last_ns + 10**6
    summary = overview(pyramid, [], *span, 1, 1000)
    assert summary is not None
    one = drawn(STREAM, None, span, 1, summary, [])
    assert one.buckets.most.max() == 7.0


def test_files_that_are_merged_while_they_are_looked_at_leave_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded([plain(0, k * 5120, np.arange(5120.0) + k, T0 + k * 5120 * 10**6) for k in range(6)])
    pyramid = Pyramid(tmp_path, STREAM, unsynced())
    builder = Builder(pyramid, STATION)
    for block in recorded.blocks[:5]:
        builder.take(block)
        builder.flush(builder.at, T0)
    builder.take(recorded.blocks[5])
    builder._fold()
    read, left = Pyramid.read, [1]

    def merged_meanwhile(self: Pyramid, part: Part, *arguments: object) -> list[Chunk]:
        if part == self.parts()[0][-1] and left:
            for _ in range(left.pop()):
                self._merge(0, STATION, T0)
        return read(self, part, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Pyramid, "read", merged_meanwhile)
    pending = builder.pending()
    assert pending
    check(recorded, drawn_of(recorded, pyramid, (START, STOP), 5, pending), (START, STOP))
    left.append(0)
    monkeypatch.setattr(Pyramid, "read", gone)
    check(recorded, drawn_of(recorded, pyramid, (START, STOP), 5, pending), (START, STOP))


def gone(*_: object) -> list[Chunk]:
    raise FileNotFoundError


# ---- arrays, whole ---------------------------------------------------------------------------------------------------

SPECTRA = Schema((Channel("s", "uint16", "{count}", (5,), (), Calibration(2.0, 1.0, "V")), Channel("t", "float32")))
IMAGES = Schema((Channel("s", "uint16", "{count}", (2, 3)),))


def spectra(epoch: int, first: int, times: Sequence[int], schema: Schema = SPECTRA) -> Block:
    index = np.arange(first, first + len(times))
    shape = (len(index), *schema.channels[0].shape)
    columns = [np.broadcast_to(index.reshape(-1, *[1] * (len(shape) - 1)), shape).astype(np.uint16)]
    columns += [index.astype(np.float32)] * (len(schema.channels) - 1)
    valid = (index % 7 != 3, *[None] * (len(schema.channels) - 1))
    return Block(STREAM, epoch, first, schema, tuple(columns), times[0], np.array(times, np.int64), valid)


@given(
    st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=60).map(sorted), min_size=1, max_size=3),
    st.integers(0, 1000),
    st.integers(1, 1000),
    st.integers(1, 30),
    st.integers(0, 100),
    st.booleans(),
)
def test_whole_arrays_are_chosen_evenly_and_the_newest_is_there(
    epochs: list[list[int]], start: int, length: int, rows: int, estimate: int, large: bool
) -> None:
    recorded = Recorded([spectra(n, 0, times) for n, times in enumerate(epochs)])
    span = (start, start + length)

    def read(a: int, b: int) -> Iterator[Block | Gap]:
        return recorded.rest(Position(0, 0), a, b)

    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(view, "AT_ONCE", 0)
        found = chosen(read, None, span, rows, estimate)
    inside = [t for times in epochs for t in times if span[0] <= t < span[1]]
    assert bool(found) == bool(inside)
    assert len(found) <= rows
    assert len({(b.epoch, b.first) for b in found}) == len(found)
    assert all(b.rows == 1 and span[0] <= b.t0_ns < span[1] for b in found)
    if len(epochs) == 1 and inside:
        assert found[-1].t0_ns == max(inside)
        if len(set(inside)) == len(inside) and rows > length:
            assert [b.t0_ns for b in found] == inside
    buckets = shown(STREAM, ["s"], found)
    assert (buckets.t0 == [b.t0_ns for b in found]).all()
    for i, block in enumerate(found):
        wanted = np.nan if block.first % 7 == 3 else 2.0 * block.first + 1
        np.testing.assert_array_equal(buckets.arrays[0][i], np.full(5, wanted))


def test_arrays_are_those_of_the_newest_row() -> None:
    rows = [spectra(0, 0, [1]), spectra(1, 0, [5], IMAGES)]
    buckets = shown(STREAM, None, rows)
    assert [(lane.name, lane.shape) for lane in buckets.lanes] == [("s", (2, 3))]
    assert np.isnan(buckets.arrays[0][0]).all()
    assert (buckets.arrays[0][1] == 0).all()
