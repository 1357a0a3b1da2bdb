"""The picture of rows: small, whole, and broken where rows are missing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
from hypothesis import given

from scidaq.block import Block, Calibration, Channel, schema
from scidaq.query.drawing import WIDTH, svg_of_blocks
from scidaq.testing import strategies

KIND = schema([Channel("v", "int16", "1", calibration=Calibration(0.5, 1.0, "V")), Channel("on", "bool")], rate=1000)


def block(values: list[int], first: int = 0) -> Block:
    t0_ns = first * 1_000_000
    return Block.of(KIND, [values, [True] * len(values)], stream="a/b", first=first, t0_ns=t0_ns)


def test_a_spike_is_seen_in_calibrated_values() -> None:
    values = np.zeros(100_000, np.int16)
    values[54_321] = 1000
    picture = svg_of_blocks([block(values.tolist())], raw=False)
    assert "v [V]: 1 to 501" in picture
    assert len(picture) < 100_000
    assert "v: 0 to 1000" in svg_of_blocks([block(values.tolist())], raw=True)


def test_a_hole_breaks_the_line() -> None:
    whole = svg_of_blocks([block([1] * 1000), block([1] * 1000, 1000)], raw=True)
    broken = svg_of_blocks([block([1] * 1000), block([1] * 1000, 2000)], raw=True)
    assert [path.count("M") for path in re.findall(r' d="([^"]*)"', whole)] == [1, 1]
    assert [path.count("M") for path in re.findall(r' d="([^"]*)"', broken)] == [2, 2]


def test_nothing_is_no_picture() -> None:
    assert svg_of_blocks([], raw=False) == ""
    text = schema([Channel("t", "text", max_bytes=4)])
    assert svg_of_blocks([Block.of(text, {"t": ["x"]}, stream="a/b", times=[1])], raw=False) == ""


@given(strategies.runs())
def test_any_rows_are_drawn_as_sound_xml(blocks: list[Block]) -> None:
    picture = svg_of_blocks(blocks, raw=False)
    if picture:
        root = ElementTree.fromstring(picture)
        assert 0 < float(root.attrib["width"]) <= WIDTH + 8
