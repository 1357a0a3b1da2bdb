"""Opens a file of `scidaq export ... --format parquet` with pandas alone: python with_pandas.py readings.parquet"""

from __future__ import annotations

import sys

import pandas as pd
import pyarrow.parquet as pq


def main(path: str) -> None:
    frame = pd.read_parquet(path).set_index("time")
    units = {f.name: f.metadata[b"unit"].decode() for f in pq.read_schema(path) if f.metadata}
    print(f"{len(frame)} rows from {frame.index[0]} on")
    for name, unit in units.items():
        if frame[name].dtype.kind == "f":
            print(f"{name}: mean {frame[name].mean():.6g} {unit}")


if __name__ == "__main__":
    main(sys.argv[1])
