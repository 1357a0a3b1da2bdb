"""A fold against the rows themselves."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Calibration, Channel, Gap, Reason, Schema
from scidaq.errors import RequestError
from scidaq.query import Buckets, Fold, Newest, arrays_of, lanes_of

T0 = 1_764_100_000_000_000_000
DTYPES = ("float64", "float32", "int16", "uint8", "bool", "int64")


def fill(rng: np.random.Generator, channel: Channel, rows: int, holes: bool) -> np.ndarray:
    shape = (rows, *channel.shape)
    if channel.dtype == "bool":
        return rng.random(shape) < 0.5
    if channel.dtype.startswith("float"):
        values = rng.normal(size=shape).astype(channel.dtype)
        if holes:
            values[rng.random(shape) < 0.3] = np.nan
            values[rng.random(shape) < 0.02] = np.inf
        return values
    ends = np.iinfo(channel.dtype)
    low, high = max(ends.min, -(1 << 40)), min(ends.max, 1 << 40)
    return rng.integers(low, high, shape, channel.dtype, endpoint=True)


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Block | Gap], int, list[int]]:
    """Blocks of one stream with gaps and epochs between them; the step; before which items somebody looks."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    calibrations = st.sampled_from([None, Calibration(0.5, -3.0, "V"), Calibration(-0.25, 1.0, "V")])
    channels = []
    for i in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(DTYPES))
        shape: tuple[int, ...] = (3,) if draw(st.booleans()) else ()
        labelled = draw(st.booleans())
        labels = ("x", "y", "z") if shape and labelled else ()
        calibration = draw(calibrations) if dtype != "bool" else None
        channels.append(Channel(f"c{i}", dtype, "1", shape, labels, calibration))
    rate = draw(st.sampled_from([None, Fraction(1000), Fraction(48_000, 7), Fraction(3)]))
    schema = Schema(tuple(channels), rate)
    items: list[Block | Gap] = []
    epoch, row, t = 0, 0, T0 + draw(st.integers(0, 1 << 34))
    for _ in range(draw(st.integers(1, 6))):
        match draw(st.sampled_from(["follows", "follows", "gap", "epoch"])):
            case "gap" if items:
                lost = draw(st.integers(1, 50))
                items.append(Gap("a/b", epoch, row, row + lost, Reason.OVERFLOW, t, None))
                row += lost
                t += schema.span_ns(lost) if rate else lost * 1_000_000
            case "epoch" if items:
                epoch, row = epoch + 1, 0
        rows = draw(st.integers(1, 120))
        holes = draw(st.booleans())
        times = None if rate else t + np.cumsum(rng.integers(1, 3_000_000, rows))
        masks = None
        if draw(st.booleans()):
            masks = tuple(rng.random(rows) < 0.7 if rng.random() < 0.5 else None for _ in channels)
        columns = tuple(fill(rng, channel, rows, holes) for channel in channels)
        t0 = t if times is None else int(times[0])
        block = Block("a/b", epoch, row, schema, columns, t0, times, masks)
        items.append(block)
        row = block.end
        t = block.t0_ns + schema.span_ns(rows) + 1 if rate else block.last_ns
    step_ns = 1 << draw(st.integers(16, 36))
    return items, step_ns, draw(st.lists(st.integers(0, len(items)), max_size=4))


def physical(block: Block, lane: Any) -> np.ndarray:
    channel = block.schema.channels[lane.column]
    raw = block.columns[lane.column]
    values = channel.physical(raw if lane.element is None else raw[:, lane.element]).astype(np.float64)
    mask = block.valid[lane.column] if block.valid else None
    return values if mask is None else np.where(mask, values, np.nan)


@given(stories())
def test_the_extremes_are_those_of_the_rows(story: tuple[list[Block | Gap], int, list[int]]) -> None:
    items, step_ns, looks = story
    fold, seen = Fold("a/b", None, step_ns), {}
    gaps: list[Gap] = []

    def look() -> None:
        for found in fold.changed():
            gaps.extend(found.gaps)
            for k in range(len(found.t0)):
                seen[int(found.t0[k])] = found, k

    for i, item in enumerate(items):
        if i in looks:
            look()
        fold.take(item)
    look()
    assert gaps == [item for item in items if isinstance(item, Gap)]
    blocks = [item for item in items if isinstance(item, Block)]
    times = np.concatenate([b.time_ns() for b in blocks])
    rows = {}
    for lane in fold.lanes:
        rows[lane.name] = np.concatenate([physical(b, lane) for b in blocks])
    # One that was not full yet is replaced by the one that begins at the same time.
    if fold.lanes:
        assert sum(int(found.n[k]) for found, k in seen.values()) == len(times)
    for found, k in seen.values():
        first, last = int(found.t0[k]), int(found.t1[k])
        assert first // step_ns == last // step_ns
        inside = slice(int(times.searchsorted(first, "left")), int(times.searchsorted(last, "right")))
        assert inside.stop - inside.start == found.n[k]
        for i, lane in enumerate(found.lanes):
            these = rows[lane.name][inside]
            numbers = these[~np.isnan(these)]
            expected = (numbers.min(), numbers.max()) if len(numbers) else (np.nan, np.nan)
            np.testing.assert_array_equal((found.least[i, k], found.most[i, k]), expected)
            np.testing.assert_array_equal(found.last[i, k], these[-1])
            if len(numbers) and np.isfinite(numbers).all():
                scale = max(1e-300, np.abs(numbers).max())
                assert abs(found.mean[i, k] - numbers.mean()) <= 1e-6 * scale


def volts(rows: int, first: int = 0, epoch: int = 0, *, t0: int = T0, rate: int = 1000) -> Block:
    schema = Schema((Channel("v", "float64", "V"),), Fraction(rate))
    return Block("a/b", epoch, first, schema, (np.arange(first, first + rows, dtype=float),), t0)


def only(found: list[Buckets]) -> Buckets:
    (one,) = found
    return one


def test_the_newest_bucket_comes_again_until_it_is_full() -> None:
    fold = Fold("a/b", ["v"], 1 << 30)
    begin = T0 // (1 << 30) * (1 << 30)
    fold.take(volts(100, t0=begin))
    first = only(fold.changed())
    assert (first.n.tolist(), first.most.tolist()) == ([100], [[99.0]])
    assert fold.changed() == []
    fold.take(volts(1000, 100, t0=begin + 100_000_000))
    second = only(fold.changed())
    assert second.t0[0] == first.t0[0]
    assert second.n.tolist() == [1074, 26]
    assert second.least.tolist() == [[0.0, 1074.0]]


def test_a_bucket_goes_over_no_gap_and_no_epoch() -> None:
    fold = Fold("a/b", None, 1 << 36)
    begin = T0 // (1 << 36) * (1 << 36)
    fold.take(volts(10, t0=begin))
    fold.take(volts(10, 20, t0=begin + 20_000_000))
    fold.take(volts(10, 0, 1, t0=begin + 40_000_000))
    assert only(fold.changed()).n.tolist() == [10, 10, 10]


def test_rows_that_come_late_are_buckets_in_the_past() -> None:
    fold = Fold("a/b", None, 1 << 36)
    begin = T0 // (1 << 36) * (1 << 36)
    fold.take(volts(10, 20, t0=begin + 20_000_000))
    fold.take(volts(10, 5, t0=begin + 5_000_000))
    fold.take(volts(10, 30, t0=begin + 30_000_000))
    found = only(fold.changed())
    assert dict(zip(((found.t0 - begin) // 1_000_000).tolist(), found.n.tolist(), strict=True)) == {5: 10, 20: 20}


def test_what_nobody_takes_is_bounded_and_told() -> None:
    fold = Fold("a/b", None, 1 << 16)
    for i in range(20):
        fold.take(volts(10_000, i * 10_000, t0=T0 + i * 10_000_000_000))
    found = only(fold.changed())
    assert len(found.t0) <= (1 << 17) + 10_000
    assert found.left_out is not None
    assert (found.left_out[0], found.left_out[1] + 1_000_000) == (T0, int(found.t0[0]))


def test_channels_are_named_by_themselves_or_by_element() -> None:
    adc = Channel("adc", "int16", "1", (3,), ("l", "r", "s"), Calibration(0.1, 0.0, "V"))
    raw, image, text = Channel("raw", "int16", "1", (9,)), Channel("i", "uint8", "1", (4, 4)), None
    text = Channel("words", "text", max_bytes=8)
    schema = Schema((Channel("v"), adc, raw, image, text), None)
    assert [one.name for one in lanes_of(schema, None)] == ["v", "adc.l", "adc.r", "adc.s"]
    assert [(one.name, one.unit) for one in lanes_of(schema, ["adc.r", "raw[8]"])] == [("adc.r", "V"), ("raw[8]", "1")]
    assert [one.name for one in arrays_of(schema, None)] == ["adc", "raw", "i"]
    for names in (["nothing"], ["words"], ["i"], ["raw[9]"], ["adc.x"], ["v[0]"]):
        with pytest.raises(RequestError):
            lanes_of(schema, names)
    for names in (["v"], ["nothing"]):
        with pytest.raises(RequestError):
            arrays_of(schema, names)


def test_a_channel_that_is_gone_leaves_the_others() -> None:
    one, two = (Schema((Channel("v"), Channel(name)), Fraction(1000)) for name in ("a", "b"))
    fold = Fold("s/s", ["v", "a"], 1 << 30)
    fold.take(Block("s/s", 0, 0, one, (np.ones(5), np.ones(5)), T0))
    fold.take(Block("s/s", 1, 0, two, (np.ones(5), np.ones(5)), T0 + 10_000_000))
    assert [[lane.name for lane in found.lanes] for found in fold.changed()] == [["v", "a"], ["v"]]


def test_the_newest_image_is_shown_whole() -> None:
    schema = Schema((Channel("i", "uint8", "1", (2, 2), (), Calibration(2.0, 1.0, "V")),), Fraction(10))
    newest = Newest("a/b", None)
    assert newest.changed() == []
    values = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    newest.take(Block("a/b", 0, 0, schema, (values,), T0))
    found = only(newest.changed())
    np.testing.assert_array_equal(found.arrays[0], values[-1:].astype(np.float32) * 2 + 1)
    assert (found.t0.tolist(), found.n.tolist(), newest.changed()) == ([T0 + 200_000_000], [3], [])
