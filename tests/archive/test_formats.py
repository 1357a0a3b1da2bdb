"""What goes into a file comes out of it, bit by bit, with the libraries that users have: any schema, any format."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scidaq.archive import FORMATS, Request, Source, export
from scidaq.block import Block, Channel, Gap
from tests.archive.opening import OPENERS, Opened, by_part
from tests.archive.streams import ORIGIN, STREAM, streams, tables


def canonical(values: Any) -> Any:
    """NaNs without what they carry."""
    return np.where(np.isnan(values), np.nan, values).astype(values.dtype) if values.dtype.kind == "f" else values


def valid_rows(blocks: list[Block], i: int) -> Any:
    masks = [None if b.valid is None else b.valid[i] for b in blocks]
    return np.concatenate([np.ones(b.rows, bool) if m is None else m for b, m in zip(blocks, masks, strict=True)])


def check(opened: Opened, blocks: list[Block], form: str, raw: bool) -> None:
    """The table holds these blocks."""
    description = opened.description
    assert description.schema == blocks[0].schema
    assert description.raw is raw
    assert description.rows == sum(b.rows for b in blocks)
    numbers = [(b.epoch, i) for b in blocks for i in range(b.first, b.end)]
    assert [(p.epoch, p.first + i) for p in description.pieces for i in range(p.rows)] == numbers
    assert np.array_equal(opened.times, np.concatenate([b.time_ns() for b in blocks]))
    for i, channel in enumerate(blocks[0].schema.channels):
        values, valid = np.concatenate([b.columns[i] for b in blocks]), valid_rows(blocks, i)
        same(channel, values, valid, opened.columns[i], form)
        if opened.missing[i] is not None:
            assert np.array_equal(opened.missing[i], ~valid)


def same(channel: Channel, values: Any, valid: Any, seen: Any, form: str) -> None:
    if channel.dtype == "text":
        assert seen == [v.decode() if there else "" for v, there in zip(values.tolist(), valid, strict=True)]
        return
    assert seen.shape == values.shape
    assert seen.dtype == values.dtype
    ours, theirs = values[valid], seen[valid]
    if form == "csv":
        ours, theirs = canonical(ours), canonical(theirs)
    assert ours.tobytes() == theirs.tobytes(), channel


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=settings().max_examples * 2 // 5)
@given(items=streams(), raw=st.booleans(), small=st.booleans())
def test_any_stream_comes_back(form: str, items: list[Block | Gap], raw: bool, small: bool) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        if small:  # many writes of few rows
            patch.setitem(FORMATS, form, replace(FORMATS[form], write_bytes=200))
        target = Path(directory) / f"out{FORMATS[form].suffix}"
        done = export([Source(STREAM, items)], Request(form, target, raw), ORIGIN)
        opened, expected = by_part(OPENERS[form](target)), list(tables(items, raw))
    assert len(opened) == len(expected) == done.tables
    for one, blocks in zip(opened, expected, strict=True):
        check(one, blocks, form, raw)
        if one.gaps:
            assert one.gaps["first"] == [gap.first for gap in one.description.gaps]
    assert [gap for one in opened for gap in one.description.gaps] == [i for i in items if isinstance(i, Gap)]
