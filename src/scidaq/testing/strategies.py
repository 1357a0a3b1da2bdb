"""Hypothesis strategies for schemas and blocks: anything that the vocabulary allows, small.

    from scidaq.testing import strategies

    @given(strategies.blocks())
    def test_my_stage(block): ...

Needs `hypothesis`, which the rest of `scidaq.testing` does not.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from scidaq.block import DTYPES, NS, Block, Calibration, Channel, Epoch, Gap, RangeSet, Reason, Schema
from scidaq.clock import Anchor

UNITS = ("1", "V", "mV", "Cel", "Ohm", "m/s2", "%", "{count}", "W/(m2.sr)")
RECORDED = [r for r in Reason if r not in (Reason.POLICY, Reason.UNEXPLAINED)]
"""The reasons that are written into files."""
FIRST_NS, LAST_NS = 0, 4_000_000_000 * NS
_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.:\-]{0,12}", fullmatch=True).filter(lambda n: n != "time")


def names() -> st.SearchStrategy[str]:
    """Names of channels."""
    return _NAMES


def stream_ids() -> st.SearchStrategy[str]:
    """`instrument/stream`."""
    part = st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True)
    return st.builds("{}/{}".format, part, part)


def calibrations() -> st.SearchStrategy[Calibration]:
    """Any finite scale but zero, any finite offset."""
    finite = st.floats(allow_nan=False, allow_infinity=False)
    return st.builds(Calibration, finite.filter(lambda x: x != 0), finite, st.sampled_from(UNITS))


@st.composite
def channels(draw: st.DrawFn, name: st.SearchStrategy[str] = _NAMES) -> Channel:
    """One channel of any dtype and shape."""
    dtype = draw(st.sampled_from(DTYPES))
    unit, description = draw(st.sampled_from(UNITS)), draw(st.text(st.characters(codec="utf-8"), max_size=8))
    if dtype == "text":
        return Channel(draw(name), dtype, unit, max_bytes=draw(st.integers(1, 12)), description=description)
    size = st.integers(1, 5)
    shape = tuple(draw(st.lists(size, max_size=2)))
    labelled = len(shape) == 1 and draw(st.booleans())
    labels = tuple(f"e{i}" for i in range(shape[0])) if labelled else ()
    calibration = draw(st.none() | calibrations()) if dtype != "bool" else None
    return Channel(draw(name), dtype, unit, shape, labels, calibration, 0, description)


def rates() -> st.SearchStrategy[Fraction]:
    """Rates of uniform streams, from a row in days to ten thousand million per second, round ones and others."""
    usual = st.sampled_from([1, 10, 1000, 44_100, 250_000, 125_000_000, 10 * NS])
    return usual.map(Fraction) | st.builds(Fraction, st.integers(1, 10**12), st.integers(100, 10**6)).filter(
        lambda r: r <= 10 * NS
    )


@st.composite
def schemas(draw: st.DrawFn, max_channels: int = 4) -> Schema:
    """Channels sampled together, uniform or irregular."""
    columns = draw(st.lists(channels(), min_size=1, max_size=max_channels, unique_by=lambda c: c.name))
    return Schema(tuple(columns), draw(st.none() | rates()))


@st.composite
def ranges(draw: st.DrawFn, limit: int = 60) -> tuple[int, int]:
    """A half-open range within `[0, limit)`, sometimes empty."""
    first = draw(st.integers(0, limit))
    return first, draw(st.integers(first, limit))


def range_sets(limit: int = 60) -> st.SearchStrategy[RangeSet]:
    """Any set of rows below `limit`."""
    return st.lists(ranges(limit), max_size=8).map(RangeSet)


def _column(channel: Channel, rows: int, source: np.random.Generator) -> np.ndarray[Any, np.dtype[Any]]:
    shape = (rows, *channel.shape)
    if channel.dtype == "text":
        letters = ["", "a", "µ", "Ω°", "0\0x", "-1.5E3", "長"]
        texts = [t.encode() for t in source.choice(letters, rows)]
        return np.array([t if len(t) <= channel.max_bytes else b"" for t in texts], channel.numpy_dtype)
    if channel.dtype == "bool":
        return source.integers(0, 2, shape).astype(bool)
    # Any bit pattern is a number, infinities and NaNs with a payload included.
    size = channel.numpy_dtype.itemsize * rows * channel.elements
    return np.frombuffer(source.bytes(size), channel.numpy_dtype).reshape(shape)


@st.composite
def blocks(
    draw: st.DrawFn,
    schema: Schema | None = None,
    stream: str = "fake/stream",
    epoch: int = 0,
    first: int | None = None,
    max_rows: int = 40,
    start_ns: int | None = None,
) -> Block:
    """A block of any schema (or of `schema`), from row `first` on where that is given, not before `start_ns`."""
    schema = schema or draw(schemas())
    rows = draw(st.integers(1, max_rows))
    source = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = tuple(_column(c, rows, source) for c in schema.channels)
    missing = draw(st.lists(st.booleans(), min_size=len(columns), max_size=len(columns)))
    valid = tuple(source.integers(0, 4, rows) > 0 if m else None for m in missing) if any(missing) else None
    t0_ns = draw(st.integers(FIRST_NS, LAST_NS)) if start_ns is None else start_ns + draw(st.integers(0, NS))
    times = None
    if schema.rate is None:
        times = t0_ns + np.cumsum(source.integers(0, 3, rows) * source.integers(0, NS), dtype=np.int64)
    begin = draw(st.integers(0, 10**12)) if first is None else first
    return Block(stream, epoch, begin, schema, columns, t0_ns, times, valid)


@st.composite
def runs(draw: st.DrawFn, schema: Schema | None = None, max_blocks: int = 6, max_rows: int = 40) -> list[Block]:
    """Consecutive blocks of one epoch, with holes between some of them."""
    schema = schema or draw(schemas())
    out: list[Block] = []
    for _ in range(draw(st.integers(1, max_blocks))):
        end = out[-1].end if out else 0
        hole = draw(st.sampled_from([0, 0, 0, 1, 7]))
        if out and schema.rate is not None:
            start = out[-1].t0_ns + schema.span_ns(out[-1].rows + hole)
            block = draw(blocks(schema, first=end + hole, max_rows=max_rows, start_ns=0))
            out.append(block.placed(block.stream, block.epoch, block.first, start))
        else:
            start = out[-1].last_ns if out else draw(st.integers(FIRST_NS, LAST_NS))
            out.append(draw(blocks(schema, first=end + hole, max_rows=max_rows, start_ns=start)))
    return out


@st.composite
def gaps(draw: st.DrawFn, stream: str = "fake/stream", epoch: int = 0, limit: int = 10**6) -> Gap:
    """A gap record as it may stand in a file."""
    unknown = draw(st.booleans())
    first = draw(st.integers(0, limit))
    end = first if unknown else draw(st.integers(first, limit))
    times = st.none() | st.integers(FIRST_NS, LAST_NS)
    detail = draw(st.text(st.characters(codec="utf-8"), max_size=20))
    reason = draw(st.sampled_from(RECORDED))
    return Gap(stream, epoch, first, end, reason, draw(times), draw(times), unknown, draw(st.booleans()), detail)


def epochs(schema: Schema, stream: str = "fake/stream", number: int = 0) -> st.SearchStrategy[Epoch]:
    """An epoch of this schema."""
    anchors = st.builds(
        Anchor, st.integers(FIRST_NS, LAST_NS), st.integers(0, 10**17), st.integers(1, 10**6), st.text(max_size=8)
    )
    counter = st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
    return st.builds(
        Epoch,
        st.just(stream),
        st.just(number),
        st.just(schema),
        anchors,
        counter,
        st.integers(0, 10**15),
        st.booleans(),
    )
