"""Rows as they come over HTTP or Flight, back into blocks and gaps: raw codes, with the calibration beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from scidaq.block import Block, Channel, Gap, Reason, Schema
from scidaq.block import from_buffers as block_of
from scidaq.errors import ScidaqError, StationError

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"
_NOTHING = np.empty(0, np.uint8)


def items_of(body: Any, stream: str) -> tuple[list[Block | Gap], Schema | None]:
    """What an Arrow IPC stream holds, without copying numbers, and its schema. Raises `StationError`."""
    import pyarrow as pa

    items: list[Block | Gap] = []
    try:
        with pa.ipc.open_stream(body) as reader:
            schema = schema_of(reader.schema)
            while True:
                try:
                    batch, said = reader.read_next_batch_with_custom_metadata()
                except StopIteration:
                    return items, schema
                items += items_of_batch(batch, dict(said or {}), schema, stream)
    except (pa.ArrowException, OSError, ScidaqError, LookupError, TypeError, ValueError) as error:
        raise StationError(
            f"{stream}: rows came that cannot be understood ({type(error).__name__}: {error})"
        ) from error


def table_of(body: bytes) -> pa.Table:
    """What an Arrow IPC stream holds. Raises `StationError`."""
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(body) as reader:
            return reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise StationError(f"a result came that cannot be understood ({error})") from error


def schema_of(arrow: pa.Schema) -> Schema | None:
    """The schema that goes with Arrow's; None where there are no channels."""
    if len(arrow) < 2:
        return None
    return Schema.from_json(orjson.loads((arrow.metadata or {})[b"schema"]))


def items_of_batch(
    batch: pa.RecordBatch, said: Mapping[bytes, bytes], schema: Schema | None, stream: str
) -> Iterator[Block | Gap]:
    """The gaps before the rows of a batch, and the rows."""
    for gap in orjson.loads(said.get(b"gaps", b"[]")):
        yield gap_of(stream, gap)
    if batch.num_rows and schema is not None:
        yield _block(batch, stream, int(said[b"epoch"]), int(said[b"first"]), schema)


def gap_of(stream: str, said: Mapping[str, Any]) -> Gap:
    """A gap as the interface says it."""
    return Gap(
        stream,
        said["epoch"],
        said["first"],
        said["end"],
        Reason(said["reason"]),
        said["start_ns"],
        said["end_ns"],
        said["rows"] is None,
        said["open"],
        said["detail"],
    )


def _bytes(buffer: Any) -> Any:
    return _NOTHING if buffer is None else np.frombuffer(buffer, np.uint8)


def _block(batch: pa.RecordBatch, stream: str, epoch: int, first: int, schema: Schema) -> Block:
    times = np.frombuffer(batch.column(0).buffers()[1], np.int64, batch.num_rows)
    buffers = [] if schema.rate is not None else [_NOTHING, times.view(np.uint8)]
    for channel, column in zip(schema.channels, batch.columns[1:], strict=True):
        buffers += _buffers(channel, column)
    return block_of(stream, epoch, first, schema, batch.num_rows, int(times[0]), buffers)


def _buffers(channel: Channel, column: pa.Array) -> list[Any]:
    """Those of `scidaq.block` for a column: validity, that of the elements (none), offsets of texts, values."""
    validity, *others = map(_bytes, column.buffers())
    if channel.dtype == "text":
        return [validity, *others]
    return [validity, _NOTHING, others[-1]] if channel.shape else [validity, others[-1]]
