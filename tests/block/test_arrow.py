"""A block as an Arrow record batch: the same values, null where there is none, and what they are in the metadata."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from scidaq import block as words
from scidaq.block import Block, Calibration, Channel, Schema, arrow_schema, record_batch
from scidaq.testing import strategies


def expected(block: Block, i: int, raw: bool) -> list[object]:
    """A column as Arrow gives it to Python, made row by row."""
    channel, column = block.schema.channels[i], block.columns[i]
    out: list[object] = []
    for row in range(block.rows):
        if block.valid is not None and (mask := block.valid[i]) is not None and not mask[row]:
            out.append(None)
        elif channel.dtype == "text":
            out.append(bytes(column[row]).decode())
        else:
            out.append((column[row] if raw else channel.physical(column[row : row + 1])[0]).tolist())
    return out


@given(strategies.blocks())
@pytest.mark.parametrize("raw", [False, True])
def test_every_value_of_any_block(raw: bool, block: Block) -> None:
    batch = record_batch(block, raw=raw)
    batch.validate(full=True)
    assert batch.schema.equals(arrow_schema(block.schema, raw=raw, stream=block.stream), check_metadata=True)
    assert batch["time"].cast(pa.int64()).to_pylist() == block.time_ns().tolist()
    for i, name in enumerate(block.schema.names):
        np.testing.assert_equal(batch[name].to_pylist(), expected(block, i, raw))


def test_plain_numbers_are_not_copied() -> None:
    schema = Schema((Channel("v", unit="V"), Channel("adc", "int16", shape=(2,))), Fraction(10))
    block = Block.of(schema, {"v": np.arange(5.0), "adc": np.arange(10).reshape(5, 2)})
    batch = record_batch(block)
    assert batch["v"].buffers()[1].address == block.columns[0].ctypes.data
    assert batch["adc"].flatten().buffers()[1].address == block.columns[1].ctypes.data


def test_the_metadata_says_what_values_are() -> None:
    code = Channel("code", "int16", "1", (2,), ("a,b", "c"), Calibration(0.1, -1.0, "V"), description="front panel")
    plain, raw = (arrow_schema(Schema((code,)), raw=raw, stream="a/b") for raw in (False, True))
    assert plain.metadata == raw.metadata == {b"stream": b"a/b"}
    assert arrow_schema(Schema((code,))).metadata is None
    facts = {k.decode(): v.decode() for k, v in plain.field("code").metadata.items()}
    assert json.loads(facts.pop("calibrated_from")) == {"dtype": "int16", "unit": "1", "scale": 0.1, "offset": -1.0}
    assert facts == {"unit": "V", "labels": '["a,b","c"]', "description": "front panel"}
    assert raw.field("code").metadata | {b"scale": b"0.1", b"offset": b"-1.0", b"physical_unit": b"V"} == {
        **raw.field("code").metadata
    }
    assert raw.field("code").metadata[b"unit"] == b"1"
    assert (plain.field("code").type, raw.field("code").type) == (pa.list_(pa.float64(), 2), pa.list_(pa.int16(), 2))


def test_an_image_is_a_list_of_lists() -> None:
    schema = Schema((Channel("frame", "uint8", shape=(2, 3)),))
    block = Block.of(schema, [np.arange(12).reshape(2, 2, 3)], times=[5, 6], valid={"frame": [True, False]})
    assert record_batch(block)["frame"].to_pylist() == [[[0, 1, 2], [3, 4, 5]], None]


def test_the_door_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'arrow_table'"):
        words.arrow_table  # noqa: B018
