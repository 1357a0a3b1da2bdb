"""Channels, schemas, epochs and gaps check themselves and survive JSON."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import (
    MAX_TEXT_BYTES,
    Calibration,
    Channel,
    Epoch,
    Gap,
    Reason,
    Schema,
    StreamSpec,
    check_stream_id,
    schema,
)
from scidaq.clock import Anchor
from scidaq.errors import InvalidBlock
from scidaq.testing import strategies


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": ""}, "a name is a letter"),
        ({"name": "1v"}, "a name is a letter"),
        ({"name": "v" * 65}, "a name is a letter"),
        ({"name": "v w"}, "a name is a letter"),
        ({"name": "v\n"}, "a name is a letter"),
        ({"name": "µ"}, "a name is a letter"),
        ({"name": "time"}, "not 'time'"),
        ({"dtype": "complex128"}, "not one of int8, int16"),
        ({"dtype": "float16"}, "not one of"),
        ({"unit": "volts"}, "did you mean 'V'"),
        ({"unit": ""}, "did you mean '1'"),
        ({"shape": (0,)}, "shape"),
        ({"shape": (1, 2, 3)}, "shape"),
        ({"shape": (-1,)}, "shape"),
        ({"shape": (1 << 20, 1 << 20)}, "shape"),
        ({"labels": ("a",)}, "labels for shape"),
        ({"shape": (2,), "labels": ("a",)}, "1 labels for shape"),
        ({"shape": (2, 2), "labels": ("a", "b")}, "labels for shape"),
        ({"shape": (2,), "labels": ("a", "a")}, "same label"),
        ({"dtype": "text"}, "max_bytes"),
        ({"dtype": "text", "max_bytes": MAX_TEXT_BYTES + 1}, "max_bytes"),
        ({"dtype": "text", "max_bytes": 8, "shape": (2,)}, "scalar"),
        ({"dtype": "text", "max_bytes": 8, "calibration": Calibration(1.0, 0.0, "V")}, "without calibration"),
        ({"max_bytes": 3}, "for text"),
        ({"dtype": "bool", "calibration": Calibration(1.0, 0.0, "V")}, "boolean"),
    ],
)
def test_a_channel_that_cannot_be_is_refused(fields: dict, why: str) -> None:
    with pytest.raises(InvalidBlock, match=why):
        Channel(**{"name": "v"} | fields)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_calibration_that_cannot_be_is_refused(scale: float) -> None:
    with pytest.raises(InvalidBlock, match="finite, scale not zero"):
        Calibration(scale, 0.0, "V")
    with pytest.raises(InvalidBlock, match="finite"):
        Calibration(1.0, float("-inf"), "V")
    with pytest.raises(InvalidBlock, match="did you mean 'Cel'"):
        Calibration(1.0, 0.0, "°C")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: schema([]), "at least one"),
        (lambda: schema([Channel("a"), Channel("b"), Channel("a")]), "named a"),
        (lambda: schema([Channel("a")], 0), "above 0"),
        (lambda: schema([Channel("a")], -1), "above 0"),
        (lambda: schema([Channel("a")], 10**11), "at most"),
        (lambda: schema([Channel("a")]).span_ns(1), "no period"),
        (lambda: schema([Channel("a")]).index("b"), "there are a"),
        (lambda: check_stream_id("a"), "instrument/stream"),
        (lambda: check_stream_id("a/B"), "instrument/stream"),
        (lambda: check_stream_id("a/b/c"), "instrument/stream"),
        (lambda: check_stream_id("../b"), "instrument/stream"),
        (lambda: StreamSpec("A", schema([Channel("a")])), "stream name"),
        (lambda: StreamSpec("a", schema([Channel("a")]), counter=""), "counter"),
        (lambda: Epoch("a/b", -1, schema([Channel("a")]), Anchor(0, 0, 0, "")), "numbers begin at 0"),
        (lambda: Gap("a/b", 0, 5, 4, Reason.SOURCE), "no range"),
        (lambda: Gap("a/b", 0, -1, 4, Reason.SOURCE), "no range"),
        (lambda: Gap("a/b", 0, 1, 4, Reason.SOURCE, unknown=True), "unknown"),
    ],
)
def test_what_contradicts_itself_is_refused(make, why: str) -> None:
    with pytest.raises(InvalidBlock, match=why):
        make()


@given(st.data())
def test_everything_survives_json(data: st.DataObject) -> None:
    one = data.draw(strategies.schemas())
    epoch = data.draw(strategies.epochs(one, "a/b", 3))
    gap = data.draw(strategies.gaps("a/b", 3))

    def through(d: dict) -> Any:
        return json.loads(json.dumps(d))

    assert Schema.from_json(through(one.as_json())) == one
    assert Epoch.from_json(through(epoch.as_json())) == epoch
    assert Gap.from_json("a/b", 3, through(gap.as_json())) == gap


def test_a_rate_as_a_float_is_the_fraction_that_was_meant() -> None:
    assert schema([Channel("a")], 0.1).rate == Fraction(1, 10)
    assert schema([Channel("a")], 1 / 3).rate == Fraction(1, 3)
    assert schema([Channel("a")], 44_100).rate == 44_100


def test_the_size_of_a_row() -> None:
    channels = [Channel("a", "int16", shape=(4,)), Channel("b", "text", max_bytes=10), Channel("c", "bool")]
    assert schema(channels, 1).row_bytes == 8 + 10 + 1
    assert schema(channels).row_bytes == 8 + 8 + 10 + 1
