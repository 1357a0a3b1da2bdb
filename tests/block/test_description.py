"""What an exported file says of its rows comes back as it was, and gives each row its number and its time again."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import (
    Block,
    Calibration,
    Channel,
    Description,
    Gap,
    Piece,
    Pieces,
    Reason,
    calibrated,
    physical_block,
    schema,
)
from scidaq.errors import RequestError
from scidaq.testing import strategies

ONE = schema([Channel("code", "int16", calibration=Calibration(0.5, 1.0, "V"))], rate=1000)


def block(first: int, rows: int, t0_ns: int, rate: Fraction = Fraction(1000), epoch: int = 0) -> Block:
    one = schema([Channel("code", "int16")], rate)
    return Block("a/b", epoch, first, one, (np.zeros(rows, np.int16),), t0_ns)


@given(strategies.schemas(), st.data())
def test_it_survives_json(channels, data):
    gaps = tuple(data.draw(st.lists(strategies.gaps(), max_size=3)))
    pieces = (Piece(0, 0, 7, 5, 10), Piece(5, 1, 0, 2, None))
    before = Description(
        "lab", "id", "fake/stream", True, channels, pieces, gaps, 1, None, {"name": "night"}, "scidaq 1", 9, 2
    )
    after = Description.from_json(orjson.loads(orjson.dumps(before.as_json())))
    assert after == before
    assert after.rows == 7


@given(strategies.runs())
def test_pieces_say_where_every_row_is_and_when(run):
    pieces = Pieces()
    for one in run:
        pieces.take(one)
    times = np.concatenate([b.time_ns() for b in run])
    numbers = np.concatenate([np.arange(b.first, b.end) for b in run])
    found = list(pieces)
    assert found[0].at == 0
    assert pieces.rows == len(times) == sum(p.rows for p in found)
    assert np.array_equal(np.concatenate([np.arange(p.first, p.first + p.rows) for p in found]), numbers)
    rate = run[0].schema.rate
    if rate is None:
        assert all(p.t0_ns is None for p in found)
    else:
        said = [p.t0_ns + run[0].schema.span_ns(i) for p in found for i in range(p.rows)]
        assert np.array_equal(said, times)


def test_what_follows_makes_one_piece():
    pieces = Pieces()
    for one in (block(0, 10, 0), block(10, 5, 10_000_000), block(15, 5, 15_000_001), block(0, 1, 99, epoch=1)):
        pieces.take(one)
    assert list(pieces) == [Piece(0, 0, 0, 15, 0), Piece(15, 0, 15, 5, 15_000_001), Piece(20, 1, 0, 1, 99)]


def test_what_was_rounded_twice_is_no_piece():
    third = Fraction(3_000_000_000)
    pieces = Pieces()
    for one in (block(0, 1, 0, third), block(1, 2, 0, third), block(3, 3, 0, third), block(6, 3, 1, third)):
        pieces.take(one)
    assert [p.first for p in pieces] == [0, 1, 3]


def test_calibrated_values_have_a_schema_of_their_own():
    rows = Block.of(ONE, [[1, 2]], valid={"code": [True, False]}, stream="a/b")
    there = calibrated(ONE)
    assert there == schema([Channel("code", "float64", "V")], rate=1000)
    seen = physical_block(rows, there)
    assert seen.columns[0].tolist() == [1.5, 2.0]
    assert seen.valid is not None
    assert calibrated(there) is there
    assert physical_block(seen, there) is seen


@pytest.mark.parametrize(
    "change",
    [
        {"description": 99},
        {"pieces": [[1, 0, 0, 5, 0]]},
        {"pieces": [[0, 0, 0, 0, 0]]},
        {"pieces": [[0, 0, 0, -1, 0]]},
        {"pieces": [[0, 0, 0, 5, "now"]]},
        {"pieces": [[0, 0, 0]]},
        {"schema": {"channels": []}},
        {"gaps": [{}]},
        {"station": None},
    ],
)
def test_anything_else_is_refused_in_words(change):
    gap = Gap("a/b", 0, 2, 7, Reason.OVERFLOW)
    good = Description("lab", "id", "a/b", False, ONE, (Piece(0, 0, 0, 5, 0),), (gap,)).as_json()
    with pytest.raises(RequestError, match="description"):
        Description.from_json(good | change)
    with pytest.raises(RequestError, match="description"):
        Description.from_json({})
