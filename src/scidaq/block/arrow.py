"""Blocks for others: as Arrow record batches with a time for every row, calibrated unless raw codes are asked for.

Not the form of the files (that is the store's): here a uniform stream has its times written out, and values are those
that a reader wants to see. Imported when it is needed, since Arrow takes a while to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from scidaq.block.block import Array, Block, Mask
from scidaq.block.channel import Channel, Schema
from scidaq.block.layout import text_buffers

TIME = pa.field("time", pa.timestamp("ns", "UTC"), nullable=False)


def arrow_schema(schema: Schema, *, raw: bool = False, stream: str = "") -> pa.Schema:
    """The schema of `record_batch`: `time` (UTC, nanoseconds), then a field per channel.

    Text is `utf8`, an array channel a fixed-size list, an image a list of lists. The metadata of a field says the
    `unit` of its values, and where there are any its `labels` (JSON) and `description`. Calibrated values name what
    they were made of in `calibrated_from` (JSON: dtype and unit of the raw codes, scale, offset); raw codes carry
    `scale`, `offset` and `physical_unit`, as the files do. The id of the stream is in the metadata of the schema.
    """
    fields = [TIME, *(pa.field(c.name, _type(c, raw), metadata=_facts(c, raw)) for c in schema.channels)]
    return pa.schema(fields, {"stream": stream} if stream else None)


def record_batch(
    block: Block, *, raw: bool = False, schema: pa.Schema | None = None, kinds: Sequence[pa.DataType] = ()
) -> pa.RecordBatch:
    """The rows of a block; what is missing is null. Plain numbers that need no calibration are not copied.

    `schema` is what `arrow_schema` says of it, and `kinds` the types of its fields, for those who have them already.
    """
    schema = schema or arrow_schema(block.schema, raw=raw, stream=block.stream)
    kinds = kinds or schema.types
    rows = block.rows
    arrays = [pa.Array.from_buffers(kinds[0], rows, [None, pa.py_buffer(block.time_ns())])]
    masks: Sequence[Mask | None] = block.valid or [None] * len(block.columns)
    for c, column, mask, kind in zip(block.schema.channels, block.columns, masks, kinds[1:], strict=True):
        if not raw and c.calibration is not None:
            column = c.physical(column)
        if mask is None and column.ndim == 1 and column.dtype.kind not in "bS":
            arrays.append(pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(column)]))
        else:
            arrays.append(_array(c, column, mask, kind))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _type(channel: Channel, raw: bool) -> pa.DataType:
    if channel.dtype == "text":
        return pa.utf8()
    calibrated = channel.calibration is not None and not raw
    kind = pa.float64() if calibrated else pa.from_numpy_dtype(channel.numpy_dtype)
    for n in reversed(channel.shape):
        kind = pa.list_(kind, n)
    return kind


def _facts(channel: Channel, raw: bool) -> dict[str, str]:
    facts = {"unit": channel.unit if raw else channel.physical_unit}
    if c := channel.calibration:
        if raw:
            facts |= {"scale": repr(c.scale), "offset": repr(c.offset), "physical_unit": c.unit}
        else:
            code = {"dtype": channel.dtype, "unit": channel.unit, "scale": c.scale, "offset": c.offset}
            facts["calibrated_from"] = orjson.dumps(code).decode()
    if channel.labels:
        facts["labels"] = orjson.dumps(channel.labels).decode()
    if channel.description:
        facts["description"] = channel.description
    return facts


def _array(channel: Channel, column: Array, mask: Mask | None, kind: pa.DataType) -> pa.Array:
    """A column, shape `(rows, *channel.shape)`, as Arrow has it."""
    rows = len(column)
    bitmap = None if mask is None else _bits(mask)
    if channel.dtype == "text":
        offsets, chars = text_buffers(column, mask)
        return pa.Array.from_buffers(kind, rows, [bitmap, pa.py_buffer(offsets), pa.py_buffer(chars)])
    data = _bits(column) if column.dtype == np.bool_ else pa.py_buffer(column)
    if not channel.shape:
        return pa.Array.from_buffers(kind, rows, [bitmap, data])
    return _nested(kind, rows, bitmap, data)


def _nested(kind: pa.DataType, rows: int, bitmap: pa.Buffer | None, data: pa.Buffer) -> pa.Array:
    inner, n = kind.value_type, kind.list_size
    if pa.types.is_fixed_size_list(inner):
        child = _nested(inner, rows * n, None, data)
    else:
        child = pa.Array.from_buffers(inner, rows * n, [None, data])
    return pa.Array.from_buffers(kind, rows, [bitmap], children=[child])


def _bits(mask: Array) -> Any:
    return pa.py_buffer(np.packbits(mask.reshape(-1), bitorder="little"))
