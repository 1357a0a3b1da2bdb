"""Streams as they are read, to be exported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

from scidaq.archive import Origin
from scidaq.block import Block, Gap, calibrated, physical_block
from scidaq.testing import strategies

ORIGIN = Origin("lab", "5a1c", "scidaq 0.1.0", 1_767_268_800_000_000_000, {"name": "night"}, {"dmm": "ACME, 1"})
STREAM = "fake/stream"


@st.composite
def streams(draw: st.DrawFn) -> list[Block | Gap]:
    """The rows of a stream over some epochs, with gaps between, in the order of reading."""
    out: list[Block | Gap] = []
    schema = draw(strategies.schemas())
    for number in range(draw(st.integers(1, 3))):
        if number and draw(st.booleans()):
            schema = draw(strategies.schemas())
        before = 0
        for block in draw(strategies.runs(schema, max_blocks=3, max_rows=9)):
            if block.first > before:
                out.append(Gap(STREAM, number, before, block.first, draw(st.sampled_from(strategies.RECORDED)), 5))
            before = block.end
            out.append(block.placed(STREAM, number, block.first, block.t0_ns))
        if draw(st.booleans()):
            out.append(draw(strategies.gaps(STREAM, number)))
    return out


def tables(items: Sequence[Block | Gap], raw: bool) -> Iterator[list[Block]]:
    """The blocks as they are to be in files, those of one table together."""
    here: list[Block] = []
    for item in items:
        if isinstance(item, Gap):
            continue
        block = item if raw else physical_block(item, calibrated(item.schema))
        if here and here[-1].schema != block.schema:
            yield here
            here = []
        here.append(block)
    yield here
