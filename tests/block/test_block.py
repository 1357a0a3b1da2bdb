"""Blocks check themselves, split, join, follow, and survive the way through buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from scidaq.block import (
    NS,
    Block,
    Calibration,
    Channel,
    Schema,
    buffer_count,
    from_body,
    from_buffers,
    pack,
    plain_sizes,
    schema,
    to_buffers,
    unpack,
)
from scidaq.errors import InvalidBlock
from scidaq.testing import strategies

V = Channel("v", unit="V")
PLAIN = Schema((V,), Fraction(1000))
FREE = Schema((V,))


def alike(a: Block, b: Block) -> bool:
    return (
        a.same_rows(b)
        and (a.stream, a.epoch, a.t0_ns) == (b.stream, b.epoch, b.t0_ns)
        and bool((a.time_ns() == b.time_ns()).all())
    )


# ---- arithmetic ------------------------------------------------------------------------------------------------------


@given(strategies.blocks(), st.data())
def test_what_is_split_joins_again(block: Block, data: st.DataObject) -> None:
    assume(block.rows > 1)
    at = data.draw(st.integers(block.first + 1, block.end - 1))
    a, b = block.split(at)
    assert (a.first, a.end, b.first, b.end) == (block.first, at, at, block.end)
    assert b.follows(a)
    assert not a.follows(b)
    assert alike(Block.join([a, b]), block)


@given(strategies.blocks(), st.data())
def test_a_slice_is_those_rows(block: Block, data: st.DataObject) -> None:
    first = data.draw(st.integers(block.first, block.end - 1))
    end = data.draw(st.integers(first + 1, block.end))
    part, k = block.slice(first, end), slice(first - block.first, end - block.first)
    for mine, whole in zip(part.columns, block.columns, strict=True):
        assert mine.tobytes() == whole[k].tobytes()
        assert np.shares_memory(mine, whole)
    off = np.abs(part.time_ns() - block.time_ns()[k])
    assert off.max() <= 1, "times are those of the block, to within the rounding of a nanosecond"
    assert part.time_ns()[0] == block.time_ns()[k][0]


@given(strategies.runs())
def test_a_run_of_blocks_joins_where_it_has_no_holes(blocks: list[Block]) -> None:
    for before, after in pairwise(blocks):
        assert after.follows(before) == (after.first == before.end)
    if all(b.follows(a) for a, b in pairwise(blocks)):
        whole = Block.join(blocks)
        assert whole.rows == sum(b.rows for b in blocks)
        assert all(alike(whole.slice(b.first, b.end), b) or whole.schema.rate is not None for b in blocks)
        assert all(whole.slice(b.first, b.end).same_rows(b) for b in blocks)
    else:
        with pytest.raises(InvalidBlock, match="does not follow"):
            Block.join(blocks)


@given(strategies.rates(), st.integers(1, 5000), st.integers(0, 4 * 10**18))
@example(Fraction(250_000_000 * 3_000_001 + 1, 3_000_001), 5000, 0)
@example(Fraction(10**12 - 1, 1000), 5000, 0)
@example(Fraction(6004799503160661, 18014398509481984), 100, 0)
@example(Fraction(9_999_999_999_999_989, 1_000_003), 50_000, 0)
def test_the_time_of_every_row_is_exact(rate: Fraction, rows: int, t0_ns: int) -> None:
    one = Schema((Channel("n", "uint8"),), rate)
    block = Block("a/b", 0, 0, one, (np.zeros(rows, np.uint8),), t0_ns)
    assume(t0_ns + one.span_ns(rows) < 2**63)
    times = block.time_ns()
    for i in {0, rows // 2, rows // 3, rows - 1}:
        assert int(times[i]) == t0_ns + i * NS * rate.denominator // rate.numerator
    assert (np.diff(times) >= 0).all()
    assert int(times[-1]) == block.last_ns


def test_times_within_a_nanosecond_still_join() -> None:
    one = Schema((V,), Fraction(3))
    block = Block.of(one, [np.arange(10.0)], t0_ns=5)
    a, b = block.split(4)
    c, d = b.split(8)
    assert alike(Block.join([a, c, d]), block)
    assert not replace(b, t0_ns=b.t0_ns + 2).follows(a)


def test_blocks_of_other_streams_epochs_or_schemas_do_not_follow() -> None:
    a = Block.of(PLAIN, [[1.0]], stream="x/y")
    b = Block.of(PLAIN, [[2.0]], stream="x/y", first=1, t0_ns=1_000_000)
    assert b.follows(a)
    assert not replace(b, stream="x/z").follows(a)
    assert not replace(b, epoch=1).follows(a)
    other = Block.of(Schema((Channel("w", unit="V"),), Fraction(1000)), [[2.0]], stream="x/y", first=1, t0_ns=1_000_000)
    assert not other.follows(a)
    with pytest.raises(InvalidBlock, match="nothing to join"):
        Block.join([])


# ---- buffers ---------------------------------------------------------------------------------------------------------


@given(strategies.blocks())
def test_a_block_goes_through_buffers_and_comes_back(block: Block) -> None:
    layout = to_buffers(block)
    assert (len(layout.nodes), len(layout.buffers)) == buffer_count(block.schema)
    place = (block.stream, block.epoch, block.first, block.schema, block.rows, block.t0_ns)
    back = from_buffers(*place, layout.buffers)
    assert alike(back, block)


@given(strategies.blocks(), st.sampled_from([1, 8, 64]))
def test_a_block_goes_through_one_piece_and_comes_back(block: Block, align: int) -> None:
    layout = to_buffers(block)
    data, sizes = pack(layout, align)
    plain = plain_sizes(block.schema, block.rows)
    if block.valid is None and plain is not None:
        assert sizes == plain, "a block in which nothing is missing says its sizes itself"
    if align == 1:
        return  # numbers would not be aligned
    assert len(data) % align == 0
    place = (block.stream, block.epoch, block.first, block.schema, block.rows, block.t0_ns)
    whole = np.frombuffer(data, np.uint8)
    assert alike(from_buffers(*place, unpack(whole, sizes, align)), block)
    places, at = [], 0
    for size in sizes:
        places += [at, size]
        at += size + -size % align
    for body in (data, bytearray(data)):  # memory that somebody may write to is no place to leave columns writable
        back = from_body(*place, memoryview(type(body)(64) + body), 64, places)
        assert alike(back, block)
        assert not any(column.flags.writeable for column in back.columns)
        assert back.first == block.first
    if sum(sizes):
        with pytest.raises(InvalidBlock, match="too few"):
            unpack(whole[: sum(sizes) - 1], [*sizes[:-1], sizes[-1] + align], align)


def test_missing_texts_take_no_room() -> None:
    text = Schema((Channel("t", "text", max_bytes=8),))
    block = Block.of(text, {"t": ["abc", "µ", ""]}, times=[1, 2, 3], valid={"t": [False, True, True]})
    assert to_buffers(block).buffers[-1].tobytes() == "µ".encode()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[:-1],
        lambda b: [*b[:-1], b[-1][:-8]],
        lambda b: [b[0], b[1][:-8], *b[2:]],
    ],
)
def test_buffers_that_do_not_fit_are_refused(spoil: Callable[[list[np.ndarray]], list[np.ndarray]]) -> None:
    block = Block.of(FREE, [[1.0, 2.0]], times=[1, 2], stream="a/b")
    with pytest.raises(InvalidBlock):
        from_buffers("a/b", 0, 0, FREE, 2, 0, spoil(to_buffers(block).buffers))
    found = spoil(to_buffers(block).buffers)
    places = [n for i, b in enumerate(found) for n in (sum(map(len, found[:i])), len(b))]
    with pytest.raises(InvalidBlock):
        from_body("a/b", 0, 0, FREE, 2, 0, memoryview(b"".join(b.tobytes() for b in found)), 0, places)


@pytest.mark.parametrize(("first", "rows", "times"), [(-1, 2, [1, 2]), (0, 0, [1, 2]), (0, 2, [2, 1])])
def test_a_body_is_no_block_where_its_rows_make_no_sense(first: int, rows: int, times: list[int]) -> None:
    data = np.array([*times, 1, 2], np.int64).tobytes()
    with pytest.raises(InvalidBlock):
        from_body("a/b", 0, first, FREE, rows, 0, memoryview(data), 0, [0, 0, 0, 16, 16, 0, 16, 16])


# ---- what a block refuses --------------------------------------------------------------------------------------------


def ones(rows: int = 2, dtype: str = "float64") -> np.ndarray:
    return np.ones(rows, dtype)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Block("a/b", 0, 0, PLAIN, (), 0), "0 columns for 1 channels"),
        (lambda: Block("a/b", 0, 0, PLAIN, (ones(0),), 0), "at least one row"),
        (lambda: Block("a/b", 0, -1, PLAIN, (ones(),), 0), "indices begin at 0"),
        (lambda: Block("a/b", 0, 0, PLAIN, (ones(2, "float32"),), 0), "float32"),
        (lambda: Block("a/b", 0, 0, PLAIN, (ones(2, ">f8"),), 0), "'v'"),
        (lambda: Block("a/b", 0, 0, PLAIN, (np.ones((2, 1)),), 0), "'v'"),
        (lambda: Block("a/b", 0, 0, PLAIN, (ones(),), 0, np.array([1, 2])), "no times per row"),
        (lambda: Block("a/b", 0, 0, FREE, (ones(),), 0), "time per row"),
        (lambda: Block("a/b", 0, 0, FREE, (ones(),), 0, np.array([1.0, 2.0])), "time per row"),
        (lambda: Block("a/b", 0, 0, FREE, (ones(),), 0, np.array([2, 1])), "times go back"),
        (lambda: Block("a/b", 0, 0, FREE, (ones(),), 0, np.array([1])), "time per row"),
        (lambda: Block("a/b", 0, 0, PLAIN, (ones(),), 0, None, (np.array([True]),)), "validity"),
        (lambda: Block("a/b", 0, 0, PLAIN, (ones(),), 0, None, (None, None)), "validity"),
        (lambda: Block("a/b", 0, 0, PLAIN, (ones(),), 0, None, ()), "validity"),
        (lambda: Block.of(PLAIN, [[1.0]]).slice(0, 2), "not within"),
        (lambda: Block.of(PLAIN, [[1.0]]).slice(0, 0), "not within"),
        (lambda: Block.of(PLAIN, [[1.0]]).column("w"), "there are v"),
    ],
)
def test_a_block_that_contradicts_itself_is_refused(make: Callable[[], object], why: str) -> None:
    with pytest.raises(InvalidBlock, match=why):
        make()


TEXT = Schema((Channel("t", "text", max_bytes=4),), Fraction(1))


@pytest.mark.parametrize("bad", [b"\xff", b"ab\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf0\x9f\x98"])
def test_text_that_is_not_utf8_is_refused(bad: bytes) -> None:
    """Any reader of Arrow would stumble over it."""
    with pytest.raises(InvalidBlock, match="UTF-8"):
        Block("a/b", 0, 0, TEXT, (np.array([b"ok", bad, b"ok"], "S4"),), 0)
    with pytest.raises(InvalidBlock, match="UTF-8"):
        Block.of(TEXT, [[bad]])


def test_halves_of_a_letter_in_neighbouring_rows_are_not_a_letter() -> None:
    with pytest.raises(InvalidBlock, match="UTF-8"):
        Block.of(TEXT, [[b"abc\xc3", b"\xa9bcd"]])


def test_text_in_all_lengths() -> None:
    texts = ["", "a", "ab", "é", "éé", "😀", "a\0b"]
    block = Block.of(TEXT, [texts])
    assert [bytes(t).decode() for t in block.column("t")] == texts
    with pytest.raises(InvalidBlock, match="longer than 4 bytes"):
        Block.of(TEXT, [["abcde"]])
    with pytest.raises(InvalidBlock, match="NUL"):
        Block.of(TEXT, [["a\0"]])


def test_nothing_of_a_block_can_be_written() -> None:
    source, mask = np.arange(3.0), np.array([True, False, True])
    block = Block("a/b", 0, 0, FREE, (source,), 0, np.arange(3), (mask,))
    for array in (*block.columns, block.time_ns(), block.valid[0] if block.valid else None):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    source[0] = 7.0  # the arrays of the caller are not touched, only views of them
    assert block.column("v")[0] == 7.0


def test_a_mask_that_hides_nothing_is_dropped() -> None:
    assert Block.of(PLAIN, [[1.0]], valid={"v": [True]}).valid is None


def test_calibrated_values() -> None:
    one = schema([Channel("v", "int16", calibration=Calibration(0.5, 1.0, "V")), Channel("n", "int32")], 1)
    block = Block.of(one, {"v": [2, 4], "n": [1, 2]}, valid={"v": [True, False], "n": [False, True]})
    assert block.physical("v")[0] == 2.0
    assert np.isnan(block.physical("v")[1])
    assert block.physical("n").tolist() == [1, 2], "whole numbers have no NaN; their validity says what is missing"
