"""Rows as JSON, CSV and Arrow, in pieces that hold the interpreter for a millisecond or two each.

Values are calibrated unless raw ones are asked for. JSON knows neither NaN nor infinity: they are null there, as is
what is missing. Gaps stand in JSON in their place, in Arrow in the metadata of the batch behind them, and not in CSV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from scidaq.block import Block, Channel, Gap, Schema, calibrated
from scidaq.errors import RequestError

if TYPE_CHECKING:
    from scidaq.web.door import Page

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
FORMATS = {"json": JSON, "csv": CSV, "arrow": ARROW}
_VALUES = 20_000
"""In a piece of JSON."""
_CSV_VALUES = 100_000
_ARROW_ROWS = 65_536
_MOST_COLUMNS = 4096


def channel_json(channel: Channel, raw: bool) -> dict[str, Any]:
    """What a reader has to know of a channel."""
    calibrated = channel.calibration is not None and not raw
    return {
        "name": channel.name,
        "dtype": "float64" if calibrated else channel.dtype,
        "unit": channel.unit if raw else channel.physical_unit,
        "shape": list(channel.shape),
        "labels": list(channel.labels),
        "description": channel.description,
    }


def gap_json(gap: Gap) -> dict[str, Any]:
    """A gap; `rows` is null where nobody can know."""
    return {
        "kind": "gap",
        "epoch": gap.epoch,
        "first": gap.first,
        "end": gap.end,
        "rows": gap.rows,
        "reason": str(gap.reason),
        "start_ns": gap.start_ns,
        "end_ns": gap.end_ns,
        "open": gap.open,
        "detail": gap.detail,
    }


def _pieces(block: Block, values: int) -> Iterator[Block]:
    """The block in pieces of about so many values."""
    width = sum(c.elements for c in block.schema.channels) + 1
    step = max(1, values // width)
    for first in range(block.first, block.end, step):
        yield block.slice(first, min(block.end, first + step))


def plain_values(block: Block, raw: bool) -> dict[str, Any]:
    """Each channel's values in a form that orjson writes; None for what is missing."""
    out: dict[str, Any] = {}
    for i, channel in enumerate(block.schema.channels):
        column = block.columns[i] if raw else channel.physical(block.columns[i])
        mask = block.valid[i] if block.valid else None
        if channel.dtype == "text":
            listed: Any = [text.decode("utf-8", "replace") for text in column.tolist()]
        else:
            listed = np.ascontiguousarray(column) if mask is None else column.tolist()
        if mask is not None:
            listed = [v if there else None for v, there in zip(listed, mask.tolist(), strict=True)]
        out[channel.name] = listed
    return out


# ---- JSON -----------------------------------------------------------------------------------------------------------


def json_pieces(stream: str, page: Page, schema: Schema | None, raw: bool, after: str | None) -> Iterator[bytes]:
    """`{stream, channels, items, next}`: items are rows (columns of values) and gaps, in order."""
    channels = [] if schema is None else [channel_json(c, raw) for c in schema.channels]
    head = orjson.dumps({"stream": stream, "channels": channels})
    yield head[:-1] + b',"items":['
    lead = b""
    for item in page.items:
        if isinstance(item, Gap):
            yield lead + orjson.dumps(gap_json(item))
            lead = b","
            continue
        for piece in _pieces(item, _VALUES):
            rows = {
                "kind": "rows",
                "epoch": piece.epoch,
                "first": piece.first,
                "count": piece.rows,
                "time_ns": piece.time_ns(),
                "values": plain_values(piece, raw),
            }
            yield lead + orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
            lead = b","
    yield b'],"next":' + orjson.dumps(after) + b"}"


# ---- CSV ------------------------------------------------------------------------------------------------------------


def _cells(channel: Channel) -> list[str]:
    if channel.labels:
        return [f"{channel.name}[{label}]" for label in channel.labels]
    if channel.shape:
        return [f"{channel.name}[{','.join(map(str, at))}]" for at in product(*map(range, channel.shape))]
    return [channel.name]


def csv_pieces(page: Page, schema: Schema | None, raw: bool) -> Iterator[bytes]:
    """A header, then a line per row: its time in ISO 8601, and a column for each element of each channel."""
    import pyarrow as pa
    from pyarrow import csv

    channels = schema.channels if schema is not None else ()
    if sum(c.elements for c in channels) > _MOST_COLUMNS:
        raise RequestError(
            f"CSV would have more than {_MOST_COLUMNS} columns: choose channels without images, or ask for Arrow"
        )
    names = ["time", *(cell for channel in channels for cell in _cells(channel))]
    text = any(c.dtype == "text" for c in channels)
    options = csv.WriteOptions(include_header=False, quoting_style="needed" if text else "none")
    yield (",".join(_quoted(n) for n in names) + "\n").encode()
    for item in page.items:
        if isinstance(item, Gap):
            continue
        for piece in _pieces(item, _CSV_VALUES):
            out = pa.BufferOutputStream()
            csv.write_csv(pa.table(_columns(piece, raw), names=_numbered(names)), out, options)
            yield out.getvalue().to_pybytes()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in ',"\n\r') else name


def _numbered(names: Sequence[str]) -> list[str]:
    """Names that are all different: Arrow's own need not be those of the header."""
    return [str(i) for i in range(len(names))]


def _columns(block: Block, raw: bool) -> list[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    times = pa.array(block.time_ns().view("datetime64[ns]"))
    out = [pc.strftime(times, "%Y-%m-%dT%H:%M:%SZ")]
    for i, channel in enumerate(block.schema.channels):
        column = block.columns[i] if raw else channel.physical(block.columns[i])
        mask = block.valid[i] if block.valid else None
        if channel.dtype == "text":
            words = [text.decode("utf-8", "replace") for text in column.tolist()]
            out.append(pa.array(words, pa.utf8(), mask=None if mask is None else ~mask))
            continue
        flat = column.reshape(block.rows, -1)
        out += [
            pa.array(np.ascontiguousarray(flat[:, j]), mask=None if mask is None else ~mask)
            for j in range(flat.shape[1])
        ]
    return out


# ---- Arrow ----------------------------------------------------------------------------------------------------------


class _Sink:
    """Takes what Arrow writes, until it is taken away."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        return len(part)

    def flush(self) -> None:
        """Nothing to be done."""

    def close(self) -> None:
        """Nothing to be done."""

    def writable(self) -> bool:
        """It is."""
        return True

    def take(self) -> bytes:
        """What has been written since the last call."""
        out, self._parts = b"".join(self._parts), []
        return out


def arrow_pieces(stream: str, page: Page, schema: Schema | None, raw: bool) -> Iterator[bytes]:
    """An Arrow IPC stream: `time` (UTC, nanoseconds) and a field per channel.

    The metadata of the schema says `stream`, and in `schema` (JSON) the channels and the rate as the files have them,
    which makes blocks of the batches again. The metadata of each batch says `epoch` and `first` (index of its first
    row), and in `gaps` (JSON) what is missing before it; what is missing behind the last row stands in a batch without
    rows.
    """
    import pyarrow as pa

    from scidaq.block import arrow_schema, record_batch

    if schema is None:
        kind = pa.schema([_time_field()], {"stream": stream})
    else:
        said_schema = orjson.dumps((schema if raw else calibrated(schema)).as_json()).decode()
        kind = arrow_schema(schema, raw=raw, stream=stream).with_metadata({"stream": stream, "schema": said_schema})
    sink = _Sink()
    gaps: list[dict[str, Any]] = []
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), kind) as writer:
        for item in page.items:
            if isinstance(item, Gap):
                gaps.append(gap_json(item))
                continue
            for first in range(item.first, item.end, _ARROW_ROWS):
                piece = item.slice(first, min(item.end, first + _ARROW_ROWS))
                said = {"epoch": str(piece.epoch), "first": str(piece.first)}
                if gaps:
                    said["gaps"] = orjson.dumps(gaps).decode()
                    gaps = []
                writer.write_batch(record_batch(piece, raw=raw, schema=kind), custom_metadata=said)
                yield sink.take()
        if gaps:
            empty = pa.RecordBatch.from_pylist([], schema=kind)
            writer.write_batch(empty, custom_metadata={"gaps": orjson.dumps(gaps).decode()})
    yield sink.take()


def _time_field() -> Any:
    import pyarrow as pa

    return pa.field("time", pa.timestamp("ns", "UTC"), nullable=False)
