"""Buckets against plain Python: no value is lost to the eye."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Calibration, Channel, Gap, Reason, schema
from scidaq.query import Grid, decimated

NUMBERS = schema([Channel("x", "float64", "V"), Channel("n", "int16", "1", calibration=Calibration(-0.5, 1.0, "V"))])


def block(first: int, times: list[int], x: list[float], n: list[int], there: list[bool], epoch: int = 0) -> Block:
    made = Block.of(NUMBERS, [x, n], stream="a/b", first=first, times=times, valid={"x": there})
    return made if epoch == 0 else made.placed("a/b", epoch, first, made.t0_ns)


@st.composite
def streams(draw: st.DrawFn) -> list[Block | Gap]:
    out: list[Block | Gap] = []
    for epoch in range(draw(st.integers(1, 2))):
        first, t = 0, draw(st.integers(0, 50))
        for _ in range(draw(st.integers(0, 4))):
            if draw(st.booleans()):
                out.append(Gap("a/b", epoch, first, first + 3, Reason.SOURCE))
                first += 3
            count = draw(st.integers(1, 6))
            steps = draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))
            times = [t := t + s for s in steps]
            x = draw(st.lists(st.floats(width=32), min_size=count, max_size=count))
            n = draw(st.lists(st.integers(-100, 100), min_size=count, max_size=count))
            there = draw(st.lists(st.booleans(), min_size=count, max_size=count))
            out.append(block(first, times, x, n, there, epoch))
            first += count
    return out


def expected(items: list[Block | Gap], grid: Grid) -> list[dict[str, Any]]:
    """Row by row, without NumPy."""
    edges = grid.edges().tolist()
    out: list[dict[str, Any]] = []
    before: object = None
    for item in items:
        if isinstance(item, Gap):
            continue
        mask = item.valid[0] if item.valid else None
        for i, t in enumerate(item.time_ns().tolist()):
            number = max(0, min(len(edges) - 2, sum(e <= t for e in edges) - 1))
            if before != (item.epoch, number):
                out.append({"t": t, "end": t, "rows": 0, "x": [], "n": []})
                before = (item.epoch, number)
            bucket = out[-1]
            bucket["end"], bucket["rows"] = t, bucket["rows"] + 1
            if mask is None or mask[i]:
                bucket["x"].append(float(item.column("x")[i]))
            bucket["n"].append(1.0 - 0.5 * int(item.column("n")[i]))
    return out


@given(streams(), st.integers(-10, 60), st.integers(1, 500), st.integers(1, 40))
def test_every_bucket_has_its_least_and_greatest(items: list[Block | Gap], start: int, length: int, count: int) -> None:
    grid = Grid(start, start + length, count)
    wanted = expected(items, grid)
    got = list(decimated(items, grid))
    rows = [(b, i) for b in got if isinstance(b, Block) for i in range(b.rows)]
    assert len(rows) == len(wanted)
    for (b, i), want in zip(rows, wanted, strict=True):
        assert (int(b.time_ns()[i]), int(b.column("end_ns")[i])) == (want["t"], want["end"])
        assert int(b.column("rows")[i]) == want["rows"]
        numbers = [x for x in want["x"] if not math.isnan(x)]
        there = b.valid is None or b.valid[3] is None or bool(b.valid[3][i])
        assert there == bool(numbers)
        if numbers:
            assert (b.column("x.min")[i], b.column("x.max")[i]) == (min(numbers), max(numbers))
        assert (b.column("n.min")[i], b.column("n.max")[i]) == (min(want["n"]), max(want["n"]))
    assert [g for g in got if isinstance(g, Gap)] == [g for g in items if isinstance(g, Gap)]


def test_truth_values_and_small_arrays_are_reduced_and_text_is_not() -> None:
    kind = schema(
        [
            Channel("on", "bool"),
            Channel("adc", "int16", "1", shape=(2,), labels=("a", "b")),
            Channel("t", "text", max_bytes=8),
        ],
        rate=10,
    )
    one = Block.of(kind, [[True, False, False], [[1, 9], [5, 2], [3, 3]], ["a", "b", "c"]], stream="a/b")
    (got,) = decimated([one], Grid(0, 200_000_000, 1))
    assert isinstance(got, Block)
    assert got.schema.names == ("rows", "end_ns", "first", "on.min", "on.max", "adc.min", "adc.max")
    assert got.column("on.min").tolist() == [0]
    assert got.column("on.max").tolist() == [1]
    assert got.column("adc.min").tolist() == [[1, 2]]
    assert got.column("adc.max").tolist() == [[5, 9]]


def test_raw_codes_stay_what_they_are() -> None:
    one = block(0, [0, 1], [0.0, 1.0], [5, -7], [True, True])
    (got,) = decimated([one], Grid(0, 2, 1), raw=True)
    assert isinstance(got, Block)
    assert got.column("n.min").dtype == np.int16
    assert (got.column("n.min")[0], got.column("n.max")[0]) == (-7, 5)


@pytest.mark.parametrize(("length", "count"), [(10, 3), (1, 5), (10**18, 100_000)])
def test_the_edges_of_a_grid_lie_where_they_are_said_to(length: int, count: int) -> None:
    grid = Grid(7, 7 + length, count)
    edges = grid.edges()
    span = max(length, count)
    assert edges[0] == 7
    assert edges[-1] == 7 + span
    for i in (0, 1, count // 2, count):
        assert int(edges[i]) == 7 + i * span // count
