"""Read a stream with nothing but pyarrow and NumPy, as a program would that has never heard of scidaq.

    python examples/read_stream.py scidaq-demo fast/wave

Each segment is an Arrow IPC stream. Its batches carry their row range (and the time of the first row, where the rows
have a fixed rate) in JSON beside the data; the channels carry units and calibration in the metadata of their fields.
Prints a pandas DataFrame where pandas is installed.

Not shown here: rows of the last minute of a slow stream are still in the journal, and after a refused write two
segments may hold the same rows. `scidaq read` knows both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa


def batches(path: Path) -> Iterator[tuple[pa.Schema, pa.RecordBatch, dict]]:
    """The batches of a segment with rows, and what the file says about each."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        while True:
            try:
                batch, metadata = reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                return
            if batch.num_rows:
                yield reader.schema, batch, json.loads(metadata[b"scidaq"])


def times(schema: pa.Schema, batch: pa.RecordBatch, about: dict) -> np.ndarray:
    """UTC of each row: a column of its own, or computed from the first row and the rate."""
    if "time" in schema.names:
        ns: np.ndarray = batch.column("time").to_numpy()
    else:
        rows, seconds = json.loads(schema.metadata[b"scidaq"])["rate"]  # so many rows in so many seconds
        ns = about["t0"] + np.arange(batch.num_rows) * 1_000_000_000 * seconds // rows
    return ns.astype("datetime64[ns]")


def values(field: pa.Field, column: pa.Array) -> dict[str, np.ndarray]:
    """The physical values of a channel, an entry for each of its elements."""
    about = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
    labels = [f"{field.name}[{label}]" for label in json.loads(about.get("labels", "[]"))] or [field.name]
    if pa.types.is_fixed_size_list(field.type):
        flat = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        parts = list(flat.T)
        labels = labels if len(labels) == len(parts) else [f"{field.name}[{i}]" for i in range(len(parts))]
    else:
        parts = [column.to_numpy(zero_copy_only=False)]
    if "scale" in about:
        parts = [part * float(about["scale"]) + float(about["offset"]) for part in parts]
    return dict(zip(labels, parts, strict=True))


def read(directory: Path) -> dict[str, np.ndarray]:
    """All rows in the segments of a stream, by column."""
    pieces = []
    for path in sorted(directory.glob("*.arrows")):
        for schema, batch, about in batches(path):
            piece = {"time": times(schema, batch, about)}
            for field in schema:
                if field.name != "time":
                    piece |= values(field, batch.column(field.name))
            pieces.append(piece)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}


def main(data_dir: str, stream: str) -> None:
    columns = read(Path(data_dir) / "streams" / stream)
    try:
        import pandas as pd
    except ImportError:
        for name, column in columns.items():
            print(name, column)
    else:
        print(pd.DataFrame(columns).set_index("time") if columns else "no rows in segments yet")


if __name__ == "__main__":
    main(*sys.argv[1:3])
