"""Summaries: what is drawn has exactly the extremes of the rows, whatever the range, the width and the stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Calibration, Channel, Gap, Reason, Schema
from scidaq.query import Builder, Position, Pyramid, overview
from scidaq.query import pyramid as levels
from scidaq.query.view import Drawn, drawn, step_for
from scidaq.store import system_files

RATE = 1000
SCHEMAS = (
    Schema(
        (
            Channel("u", "float64", "V"),
            Channel("k", "int16", "1", calibration=Calibration(-0.5, 3.0, "V")),
            Channel("on", "bool"),
            Channel("adc", "float32", "V", shape=(2,), labels=("left", "right")),
            Channel("word", "text", max_bytes=4),
        ),
        Fraction(RATE),
    ),
    Schema((Channel("u", "float64", "V"), Channel("n", "int32")), None),
)
FAR = Position(1 << 40, 0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels that a test reaches."""
    monkeypatch.setattr(levels, "ROWS", 4)
    monkeypatch.setattr(levels, "FAN", 3)
    monkeypatch.setattr(levels, "BATCH", 8)
    monkeypatch.setattr(levels, "_FEW", 2)


def block(rng: np.random.Generator, epoch: int, first: int, rows: int, kind: int) -> Block:
    schema = SCHEMAS[kind]
    u = rng.normal(size=rows)
    u[rng.random(rows) < 0.1] = np.nan
    t0 = 1_000_000_000 * (epoch * 1000 + 1) + first * 1_000_000
    if kind == 1:
        times = t0 + np.arange(rows, dtype=np.int64) * 1_000_000
        return Block("d/s", epoch, first, schema, (u, rng.integers(-9, 9, rows).astype(np.int32)), t0, times)
    columns = (
        u,
        rng.integers(-3000, 3000, rows).astype(np.int16),
        rng.random(rows) < 0.5,
        rng.normal(size=(rows, 2)).astype(np.float32),
        np.array(["x"] * rows, "S4"),
    )
    mask = rng.random(rows) < 0.8
    return Block("d/s", epoch, first, schema, columns, t0, None, (None, mask, None, None, None))


def lines(blocks: Sequence[Block]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Times and physical values of each line, as they are."""
    out: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for one in blocks:
        for i, channel in enumerate(one.schema.channels):
            if channel.dtype == "text":
                continue
            values = np.asarray(channel.physical(one.columns[i]), np.float64).copy()
            mask = one.valid[i] if one.valid else None
            if mask is not None:
                values[~mask] = np.nan
            for name, column in zip(
                [f"{channel.name}.{label}" for label in channel.labels] or [channel.name],
                values.reshape(len(values), -1).T,
                strict=True,
            ):
                out.setdefault(name, []).append((one.time_ns(), column))
    return {name: (np.concatenate([t for t, _ in a]), np.concatenate([v for _, v in a])) for name, a in out.items()}


def check(one: Drawn, blocks: Sequence[Block], start: int, stop: int) -> None:
    """Each bucket has the extremes of the rows between its times; all rows of the range are in one."""
    b = one.buckets
    truth = lines(blocks)
    times = np.concatenate([x.time_ns() for x in blocks]) if blocks else np.empty(0, np.int64)
    counted = np.zeros(len(times), int)
    for j in range(len(b.t0)):
        inside = (times >= b.t0[j]) & (times <= b.t1[j])
        assert inside.sum() == b.n[j]
        counted += inside
        for k, lane in enumerate(b.lanes):
            t, v = truth[lane.name]
            mine = v[(t >= b.t0[j]) & (t <= b.t1[j])]
            mine = mine[~np.isnan(mine)]
            if not len(mine):
                assert np.isnan(b.least[k, j])
                assert np.isnan(b.most[k, j])
                continue
            assert b.least[k, j] == mine.min()
            assert b.most[k, j] == mine.max()
            assert np.isclose(b.mean[k, j], mine.mean(), rtol=1e-9, atol=1e-9)
    inside = (times >= start) & (times < stop)
    assert (counted[inside] == 1).all()
    assert (counted <= 1).all()


@st.composite
def stories(draw: st.DrawFn) -> list[Block]:
    """Blocks in order: with holes, in several epochs, of two kinds."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    out, first, epoch = [], 0, 0
    kind = draw(st.integers(0, 1))
    for _ in range(draw(st.integers(1, 8))):
        match draw(st.sampled_from(["on", "on", "hole", "epoch", "kind"])):
            case "hole":
                first += draw(st.integers(1, 9))
            case "epoch":
                epoch, first = epoch + 1, 0
            case "kind":
                epoch, first, kind = epoch + 1, 0, 1 - kind
        rows = draw(st.integers(1, 60))
        out.append(block(rng, epoch, first, rows, kind))
        first += rows
    return out


def built(path: Path, blocks: Sequence[Block], flushes: set[int]) -> Builder:
    builder = Builder(Pyramid(path, "d/s", system_files()), "station")
    for n, one in enumerate(blocks):
        if one.epoch > builder.at.epoch:
            builder.begin(one.epoch)
        builder.skip(one.first)
        builder.take(one)
        if n in flushes:
            builder.flush(FAR, 0)
            builder.pyramid.raise_levels("station", 0)
    return builder


def behind(blocks: Sequence[Block], end: Position) -> Iterator[Block]:
    """What a reader gives behind a position."""
    for one in blocks:
        if (one.epoch, one.end) <= end:
            continue
        yield one.slice(end.row, one.end) if one.epoch == end.epoch and one.first < end.row else one


@given(stories(), st.sets(st.integers(0, 7)), st.data())
def test_what_is_drawn_has_the_extremes_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[Block], flushes: set[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("pyramid")
    builder = built(path, blocks, flushes)
    if data.draw(st.booleans()):  # killed here: another goes on from the files
        again = Builder(builder.pyramid, "station")
        for one in behind(blocks, again.at):
            if one.epoch > again.at.epoch:
                again.begin(one.epoch)
            again.skip(one.first)
            again.take(one)
        builder = again
    times = np.concatenate([b.time_ns() for b in blocks])
    start = data.draw(st.integers(int(times[0]) - 5, int(times[-1])))
    stop = data.draw(st.integers(start + 1, int(times[-1]) + 5))
    width = data.draw(st.integers(1, 40))
    rows = int(((times >= start) & (times < stop)).sum())
    summary = overview(builder.pyramid, builder.pending(), start, stop, width, rows)
    end = Position(0, 0) if summary is None else summary.end
    rest = (
        part.slice(part.first + int(lo), part.first + int(hi))
        for part in behind(blocks, end)
        for lo, hi in [part.time_ns().searchsorted([start, stop])]
        if lo < hi
    )
    seen = drawn("d/s", None, (start, stop), width, summary, rest)
    check(seen, blocks, start, stop)


def test_a_long_stream_is_seen_through_few_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    blocks = [block(rng, 0, n * 50, 50, 1) for n in range(60)]
    builder = built(tmp_path, blocks, set(range(60)))
    builder.flush(FAR, 0)
    builder.pyramid.raise_levels("station", 0, all_of_it=True)
    parts = builder.pyramid.parts()
    assert all(parts[:5])
    assert max(map(len, parts)) <= 8
    assert [p.first for p in parts[0][1:]] == [p.end for p in parts[0][:-1]]
    start, stop = blocks[0].t0_ns, blocks[-1].last_ns + 1
    pyramid = Pyramid(tmp_path, "d/s", system_files())
    summary = overview(pyramid, [], start, stop, 8, 3000)
    assert summary is not None
    assert pyramid.opened <= 8
    one = drawn("d/s", ["u"], (start, stop), 8, summary, behind(blocks, summary.end))
    assert 4 <= len(one.buckets.t0) <= 24
    check(one, blocks, start, stop)


def test_a_damaged_file_is_not_believed(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    blocks = [block(rng, 0, n * 50, 50, 1) for n in range(20)]
    builder = built(tmp_path, blocks, set(range(20)))
    (part, *_) = builder.pyramid.parts()[1]
    path = tmp_path / "summary" / str(part)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    start, stop = blocks[0].t0_ns, blocks[-1].last_ns + 1
    summary = overview(builder.pyramid, builder.pending(), start, stop, 60, 1000)
    assert summary is not None
    assert summary.damaged is None or summary.damaged == part
    one = drawn("d/s", None, (start, stop), 60, summary, behind(blocks, summary.end))
    check(one, blocks, start, stop)


def test_rows_that_come_late_make_buckets_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    blocks = [block(rng, 0, n * 50, 50, 1) for n in range(20)]
    builder = built(tmp_path, blocks, set(range(20)))
    builder.pyramid.cut(Position(0, 120))
    assert builder.pyramid.covered(0).row <= 120
    assert all(p.end <= Position(0, 120) for level in builder.pyramid.parts() for p in level)


def test_steps_of_a_grid() -> None:
    for length in (1, 7, 1000, 10**9, 86_400 * 10**9):
        for width in (1, 100, 2000):
            step = step_for(length, width)
            assert step == 1 or width <= length / step < 2 * width


def test_a_range_of_nothing_but_a_gap_is_drawn() -> None:
    gap = Gap("d/s", 1, 0, 0, Reason.RESTART, 5, 900, unknown=True)
    one = drawn("d/s", ["u"], (10, 20), 100, None, [gap])
    assert one.buckets.gaps == (gap,)
    assert not len(one.buckets.t0)
