"""The result of a query as text, JSON, Arrow and Parquet.

Times are ISO 8601 in UTC. JSON knows neither NaN nor infinity: they are null there, as is what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from scidaq.query.sql import SqlResult

if TYPE_CHECKING:
    import pyarrow as pa

FORMS = {
    "json": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
"""What a result may become for programs, and the media type of each."""
_SHOWN = 60
"""Characters of a value in a table."""
_MEASURED = 1000
"""Rows that say how wide the columns of a table are."""


def write_sql(result: SqlResult, form: str, out: BinaryIO) -> int:
    """Write a result as one of `FORMS`, as `objects` (JSON, a row a line) or as a `table`; how many rows it has."""
    return _WRITERS[form](result, out)


# ---- values ----------------------------------------------------------------------------------------------------------


def _texts(array: pa.Array) -> pa.Array:
    """Times as text; everything else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_timestamp(array.type):
        return array
    return pc.strftime(array.cast(pa.timestamp(array.type.unit, "UTC")), "%Y-%m-%dT%H:%M:%SZ")


def _plain(value: Any) -> Any:
    """What orjson does not write by itself."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return list(value)
    return str(value)


def _values(batch: pa.RecordBatch) -> list[list[Any]]:
    """Each column as Python values."""
    return [_texts(column).to_pylist() for column in batch.columns]


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)


# ---- forms -----------------------------------------------------------------------------------------------------------


def _write_json(result: SqlResult, out: BinaryIO) -> int:
    """`{columns, rows, count}`: a list of values for each row, in the order of the columns."""
    columns = [{"name": field.name, "type": str(field.type)} for field in result.schema]
    out.write(_json({"columns": columns})[:-1] + b',"rows":[')
    count, lead = 0, b""
    for batch in result.batches:
        if rows := list(zip(*_values(batch), strict=True)):
            out.write(lead + b",".join(_json(list(row)) for row in rows))
            lead, count = b",", count + len(rows)
    out.write(b'],"count":%d}' % count)
    return count


def _write_objects(result: SqlResult, out: BinaryIO) -> int:
    count, lead = 0, b"[\n"
    for batch in result.batches:
        if rows := list(zip(*_values(batch), strict=True)):
            names = batch.schema.names
            out.write(lead + b",\n".join(_json(dict(zip(names, row, strict=True))) for row in rows))
            lead, count = b",\n", count + len(rows)
    out.write(b"[]\n" if lead == b"[\n" else b"\n]\n")
    return count


def _write_csv(result: SqlResult, out: BinaryIO) -> int:
    import pyarrow as pa
    from pyarrow import csv

    names = [str(i) for i in range(len(result.schema))]  # which Arrow wants to be different
    header = ",".join(
        '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n\r') else name for name in result.schema.names
    )
    out.write(header.encode() + b"\n")
    count = 0
    for batch in result.batches:
        table = pa.table([_cell(column) for column in batch.columns], names=names)
        csv.write_csv(table, out, csv.WriteOptions(include_header=False, quoting_style="needed"))
        count += batch.num_rows
    return count


def _cell(column: pa.Array) -> pa.Array:
    """A column as CSV has it: what is nested as JSON, bytes in hexadecimal."""
    import pyarrow as pa

    simple = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_timestamp,
    )
    if any(is_one(column.type) for is_one in simple):
        return _texts(column)
    if pa.types.is_nested(column.type):
        return pa.array([None if v is None else _json(v).decode() for v in column.to_pylist()], pa.utf8())
    return pa.array([None if v is None else str(_plain(v)) for v in column.to_pylist()], pa.utf8())


def _write_arrow(result: SqlResult, out: BinaryIO) -> int:
    import pyarrow as pa

    count = 0
    with pa.ipc.new_stream(out, result.schema) as writer:
        for batch in result.batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


class _Counted:
    """Tells Parquet where it is, also in a pipe, which cannot say."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._at = out, 0

    def write(self, data: Any) -> int:
        self._out.write(data)
        self._at += memoryview(data).nbytes
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> None:
        """It is not ours to be closed."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _write_parquet(result: SqlResult, out: BinaryIO) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet has no intervals, and not every reader knows what else DuckDB may give.
    odd = [
        i for i, field in enumerate(result.schema) if pa.types.is_interval(field.type) or pa.types.is_null(field.type)
    ]
    schema = result.schema
    for i in odd:
        schema = schema.set(i, schema.field(i).with_type(pa.utf8()))
    count = 0
    with pq.ParquetWriter(pa.PythonFile(_Counted(out), mode="w"), schema, compression="zstd") as writer:
        for batch in result.batches:
            arrays = [_cell(column) if i in odd else column for i, column in enumerate(batch.columns)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            count += batch.num_rows
    return count


def _write_table(result: SqlResult, out: BinaryIO) -> int:
    """Aligned columns under their names."""
    heads, widths, count = list(result.schema.names), list[int](), 0
    for rows in _pieces(result):
        if not widths:
            widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
            out.write(_line(heads, widths))
        out.write(b"".join(_line(row, widths) for row in rows))
        count += len(rows)
    if not count:
        out.write("  ".join(heads).encode() + b"\n")
    return count


def _pieces(result: SqlResult) -> Iterator[list[list[str]]]:
    for batch in result.batches:
        for first in range(0, batch.num_rows, _MEASURED):
            columns = _values(batch.slice(first, _MEASURED))
            yield [[_word(value) for value in row] for row in zip(*columns, strict=True)]


def _line(row: list[str], widths: list[int]) -> bytes:
    return ("  ".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=True)).rstrip() + "\n").encode()


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.9g}"
    text = (
        value
        if isinstance(value, str)
        else _json(value).decode()
        if isinstance(value, list | dict | tuple)
        else str(value)
    )
    text = text.replace("\n", " ")
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


_WRITERS = {
    "json": _write_json,
    "objects": _write_objects,
    "csv": _write_csv,
    "arrow": _write_arrow,
    "parquet": _write_parquet,
    "table": _write_table,
}
