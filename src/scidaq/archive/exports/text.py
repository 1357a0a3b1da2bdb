"""CSV: a file per table, and beside each what it means, as the W3C's "CSV on the Web" wants it.

Source: Metadata Vocabulary for Tabular Data, W3C Recommendation of 17 December 2015, and RFC 4180.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from scidaq.archive.exports.table import Table, cells, column, mask, odd_nans, times
from scidaq.block import NS, Array, Block, Channel, Description, Mask, Times, arrow_schema, record_batch
from scidaq.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa

SIDECAR = "-metadata.json"
"""Behind the name of a file: where readers of CSV on the Web look for what it means."""
MOST_COLUMNS = 100_000
_TERMS = "https://w3id.org/scidaq#"
_DATATYPES = {
    "int8": "byte",
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "uint8": "unsignedByte",
    "uint16": "unsignedShort",
    "uint32": "unsignedInt",
    "uint64": "unsignedLong",
    "float32": "float",
    "float64": "double",
    "bool": "boolean",
    "text": "string",
}
_THREE_DIGITS = np.array([f"{i:03d}" for i in range(1000)], "S3").view(np.uint8).reshape(1000, 3)


class CsvFiles:
    """CSV files of one directory, each with its sidecar."""

    def __init__(self, path: Path, compression: str | None) -> None:
        self._directory = path
        self._path: Path | None = None
        path.mkdir()

    def table(self, table: Table) -> _CsvTable:
        self._path = self._directory / f"{table.name}.csv"
        self._path.touch()
        return _CsvTable(self._path, table)

    def grew(self) -> Path | None:
        return self._path

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class _CsvTable:
    def __init__(self, path: Path, table: Table) -> None:
        import pyarrow as pa

        self._path, self._table = path, table
        channels = table.schema.channels
        count = 1 + sum(c.elements for c in channels)
        if count > MOST_COLUMNS:
            raise RequestError(
                f"{table.stream} has {count:,} values in a row, too many columns for CSV (at most {MOST_COLUMNS:,}): "
                "use --format hdf5 or parquet, or choose --channels"
            )
        if any(c.shape for c in channels):
            table.lose("arrays")
        self._schema = arrow_schema(table.schema, raw=True)
        self._names = ["time", *(cell for channel in channels for cell in cells(channel))]
        self._quoting = "needed" if any(c.dtype == "text" for c in channels) else "none"
        self._sink = pa.OSFile(str(path), "wb")
        self._sink.write(",".join(map(_quoted, self._names)).encode() + b"\n")

    def write(self, blocks: Sequence[Block]) -> None:
        import pyarrow as pa
        import pyarrow.csv as pacsv

        arrays: list[Any] = [iso_times(times(blocks))]
        for i, channel in enumerate(self._table.schema.channels):
            arrays += self._columns(blocks, i, channel)
        rows = pa.Table.from_arrays(arrays, self._names)
        options = pacsv.WriteOptions(include_header=False, quoting_style=self._quoting, batch_size=16_384)
        pacsv.write_csv(rows, self._sink, options)

    def _columns(self, blocks: Sequence[Block], i: int, channel: Channel) -> Iterator[Any]:
        import pyarrow as pa

        if channel.dtype == "text":
            found = [record_batch(block, raw=True, schema=self._schema).column(i + 1) for block in blocks]
            yield pa.chunked_array(found)
            return
        values, valid = column(blocks, i), mask(blocks, i)
        if odd_nans(values if valid is None else values[valid]):
            self._table.lose("nan")
        missing: Mask | None = None if valid is None else ~valid
        flat: Array = values.reshape(len(values), -1)
        for element in range(flat.shape[1]):
            yield _numbers(np.ascontiguousarray(flat[:, element]), missing)

    def close(self, description: Description) -> None:
        self._sink.close()
        said = sidecar(self._path.name, self._table, description)
        self._path.with_name(self._path.name + SIDECAR).write_bytes(orjson.dumps(said, option=orjson.OPT_INDENT_2))


def _numbers(values: Array, missing: Mask | None) -> Any:
    """A column; what is not finite as the W3C spells it: NaN, INF, -INF."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column: Any = pa.array(values, mask=missing)
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return column
    said = pc.cast(column, pa.string())  # as the writer would spell them
    for found, word in ((np.isnan(values), "NaN"), (values == np.inf, "INF"), (values == -np.inf, "-INF")):
        here = pa.array(found if missing is None else found & ~missing)
        said = pc.if_else(here, word, said)
    return said


def iso_times(ns: Times) -> pa.Array:
    """ISO 8601 in UTC with nanoseconds: 30 characters each."""
    import pyarrow as pa

    seconds, rest = np.divmod(ns, NS)
    begins = np.flatnonzero(np.concatenate([[True], seconds[1:] != seconds[:-1]]))
    spelled = np.datetime_as_string(seconds[begins].astype("datetime64[s]")).astype("S19")
    out = np.empty((len(ns), 30), np.uint8)
    # Times of one second share their beginning: it is spelled once.
    out[:, :19] = np.repeat(spelled.view(np.uint8).reshape(-1, 19), np.diff(np.append(begins, len(ns))), axis=0)
    out[:, 19], out[:, 29] = ord("."), ord("Z")
    out[:, 20:23] = _THREE_DIGITS[rest // 1_000_000]
    out[:, 23:26] = _THREE_DIGITS[rest // 1000 % 1000]
    out[:, 26:29] = _THREE_DIGITS[rest % 1000]
    offsets = np.arange(0, 30 * len(ns) + 1, 30, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ns), pa.py_buffer(offsets), pa.py_buffer(out))


def _quoted(name: str) -> str:
    if any(c in name for c in ',"\r\n'):
        return '"' + name.replace('"', '""') + '"'
    return name


def sidecar(name: str, table: Table, description: Description) -> dict[str, Any]:
    """The metadata of a CSV file of this name."""
    columns: list[dict[str, Any]] = [
        {
            "name": "time",
            "titles": "time",
            "datatype": {"base": "dateTimeStamp", "format": "yyyy-MM-ddTHH:mm:ss.SSSSSSSSSX"},
            "required": True,
            "dc:description": "time of the row in UTC",
        }
    ]
    for channel in table.schema.channels:
        for number, title in enumerate(cells(channel)):
            one: dict[str, Any] = {
                "name": channel.name if not channel.shape else f"{channel.name}_{number}",
                "titles": title,
                "datatype": _DATATYPES[channel.dtype],
                "schema:unitCode": channel.unit,
            }
            if channel.description:
                one["dc:description"] = channel.description
            columns.append(one)
    return {
        "@context": ["http://www.w3.org/ns/csvw", {"@language": "en"}],
        "url": name,
        "dc:title": table.stream,
        "dialect": {"header": True, "delimiter": ",", "encoding": "utf-8", "lineTerminators": ["\n"]},
        "tableSchema": {"columns": columns},
        f"{_TERMS}description": orjson.dumps(description.as_json()).decode(),
    }
