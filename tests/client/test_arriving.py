"""Rows that came over HTTP are the rows that went."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Gap
from scidaq.client.arriving import items_of
from scidaq.errors import StationError
from scidaq.testing import strategies
from scidaq.web.door import Page
from scidaq.web.rows import arrow_pieces


@st.composite
def pages(draw: st.DrawFn) -> list[Block | Gap]:
    items: list[Block | Gap] = []
    for block in draw(strategies.runs()):
        if draw(st.booleans()):
            items.append(draw(strategies.gaps(block.stream, block.epoch)))
        items.append(block)
    if draw(st.booleans()):
        items.append(draw(strategies.gaps(items[-1].stream, items[-1].epoch)))
    return items


@given(pages())
def test_blocks_and_gaps_come_back(items: list[Block | Gap]) -> None:
    stream = items[-1].stream
    schema = next(i.schema for i in items if isinstance(i, Block))
    body = b"".join(arrow_pieces(stream, Page(tuple(items), None), schema, raw=True))
    found, kind = items_of(body, stream)
    assert kind == schema
    assert len(found) == len(items)
    for one, other in zip(found, items, strict=True):
        if isinstance(one, Gap) or isinstance(other, Gap):
            assert one == other
            continue
        assert one.same_rows(other)
        assert (one.stream, one.epoch, one.time_ns().tolist()) == (stream, other.epoch, other.time_ns().tolist())


def test_nothing_comes_back_as_nothing() -> None:
    assert items_of(b"".join(arrow_pieces("a/b", Page((), None), None, raw=True)), "a/b") == ([], None)


@pytest.mark.parametrize("body", [b"", b"rubbish", b"\xff" * 200])
def test_rubbish_is_refused(body: bytes) -> None:
    with pytest.raises(StationError, match="a/b: rows came that cannot be understood"):
        items_of(body, "a/b")
