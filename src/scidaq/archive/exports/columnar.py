"""Arrow and Parquet: a file per table, written by PyArrow as it lies in memory.

Arrow is the IPC *file* format (Feather version 2), not the stream: it has a footer, so that readers map it and go to
any batch at once. What a stream is better at, being readable before its end, is of no use to a file that appears whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from scidaq.archive.exports.table import Table, TableWriter
from scidaq.block import DESCRIPTION_KEY, Block, Description, arrow_schema, record_batch

if TYPE_CHECKING:
    import pyarrow as pa


FEW_ROWS = 8192
"""Batches that have fewer on average are joined."""


class _Files:
    """Files of one directory, one for each table."""

    suffix = ""

    def __init__(self, path: Path, compression: str | None) -> None:
        self._directory, self._compression = path, compression
        self._path: Path | None = None
        path.mkdir()

    def _next(self, table: Table) -> Path:
        self._path = self._directory / f"{table.name}{self.suffix}"
        self._path.touch()  # so that it can be followed from the first byte on
        return self._path

    def grew(self) -> Path | None:
        return self._path

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class ParquetFiles(_Files):
    """Parquet; the description is under `scidaq` in the metadata of the file."""

    suffix = ".parquet"

    def table(self, table: Table) -> TableWriter:
        return _ParquetTable(self._next(table), table, self._compression)


class ArrowFiles(_Files):
    """Arrow IPC files; the description is under `scidaq` in the metadata of a last batch that has no rows."""

    suffix = ".arrow"

    def table(self, table: Table) -> TableWriter:
        return _ArrowTable(self._next(table), table, self._compression)


def _batches(blocks: Sequence[Block], schema: pa.Schema) -> list[pa.RecordBatch]:
    return [record_batch(block, raw=True, schema=schema) for block in blocks]  # values are what they are to be


class _ParquetTable:
    def __init__(self, path: Path, table: Table, compression: str | None) -> None:
        import pyarrow.parquet as pq

        self._schema = arrow_schema(table.schema, raw=True, stream=table.stream)
        texts = [c.name for c in table.schema.channels if c.dtype == "text"]
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression=compression or "none",
            # Measured values hardly repeat: to try a dictionary for them costs more than it saves.
            use_dictionary=texts,
            # Times grow by nearly the same from row to row: a bit of each is left instead of eight bytes.
            column_encoding={"time": "DELTA_BINARY_PACKED"},
        )

    def write(self, blocks: Sequence[Block]) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_batches(_batches(blocks, self._schema)))

    def close(self, description: Description) -> None:
        self._writer.add_key_value_metadata({DESCRIPTION_KEY: orjson.dumps(description.as_json()).decode()})
        self._writer.close()


class _ArrowTable:
    def __init__(self, path: Path, table: Table, compression: str | None) -> None:
        import pyarrow as pa

        self._schema = arrow_schema(table.schema, raw=True, stream=table.stream)
        self._sink = pa.OSFile(str(path), "wb")
        options = pa.ipc.IpcWriteOptions(compression=compression)
        self._writer = pa.ipc.new_file(self._sink, self._schema, options=options)

    def write(self, blocks: Sequence[Block]) -> None:
        import pyarrow as pa

        batches = _batches(blocks, self._schema)
        # Readers cope better with few large batches; those that are large already are not copied.
        if sum(batch.num_rows for batch in batches) < FEW_ROWS * len(batches):
            batches = pa.Table.from_batches(batches).combine_chunks().to_batches()
        for batch in batches:
            self._writer.write_batch(batch)

    def close(self, description: Description) -> None:
        import pyarrow as pa

        none: Any = pa.RecordBatch.from_arrays([pa.array([], kind) for kind in self._schema.types], schema=self._schema)
        said = {DESCRIPTION_KEY: orjson.dumps(description.as_json())}
        self._writer.write_batch(none, custom_metadata=pa.KeyValueMetadata(said))
        self._writer.close()
        self._sink.close()
