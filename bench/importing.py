"""Imports: a file becomes rows of a store, against what libraries need only to read it, and to write it again.

Ours takes the SHA-256 of the file, reads it, and records its rows with a checksum for each batch, synced. A library
reads the file into memory; in its second row it writes what it read as an Arrow stream, and syncs that.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.places import fresh
from bench.processes import call
from bench.results import Row, rate
from bench.settings import Settings

CHANNELS = 4
T0_NS = 1_767_268_800_000_000_000
WRITES = " + Arrow stream"
"""Behind the name of a library that writes what it read."""
OTHERS = {"csv": ("pyarrow.csv", "pandas read_csv"), "parquet": ("pyarrow.parquet",), "hdf5": ("h5py",)}


def importing(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Each format, by us and by its library, from files that nobody of us wrote."""
    out = []
    for form in OTHERS:
        rows = max(1000, settings.export_rows // (10 if form == "csv" else 1))
        others = [who + also for who in OTHERS[form] for also in ("", WRITES)]
        whos = [who for who in ("scidaq", *others) if settings.wants(who)]
        speeds: dict[str, list[float]] = {who: [] for who in whos}
        with fresh() as directory:
            call(_written, form, str(directory / "file"), rows)
            for number in range(settings.export_rounds):
                order = whos.copy()
                random.Random(number).shuffle(order)
                for who in order:
                    with fresh() as target:
                        took = call(_measured, who, str(directory / "file"), str(target))
                    speeds[who].append(rows * 8 * (CHANNELS + 1) / took)
        found = {who: median(several) for who, several in speeds.items()}
        for who, speed in found.items():
            compared = "" if who == "scidaq" or "scidaq" not in found else f"scidaq {found['scidaq'] / speed:.2f} ×"
            remarks = "file read, into memory"
            if who == "scidaq":
                remarks = "checksum of the file, rows recorded, synced"
            elif who.endswith(WRITES):
                remarks = "file read, and its rows written and synced"
            out.append(Row(f"import of {form}", who, rate(speed), "", compared, "", remarks))
        say(f"import of {form}: " + ", ".join(f"{who} {rate(speed)}" for who, speed in found.items()))
    return out


# ---- in a process of its own ----------------------------------------------------------------------------------------


def _written(form: str, path: str, rows: int) -> None:
    import h5py
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    source = np.random.default_rng(1)
    times = T0_NS + np.arange(rows, dtype=np.int64) * 1000
    columns = {f"c{i}": np.cumsum(source.normal(size=rows)) for i in range(CHANNELS)}
    if form == "hdf5":
        with h5py.File(path, "w") as file:
            for name, values in {"time": times, **columns}.items():
                file[name] = values
            file["time"].attrs["units"] = "ns"
        return
    table = pa.table({"time": pa.array(times, pa.timestamp("ns", "UTC")), **columns})
    if form == "csv":
        pacsv.write_csv(table, path)
    else:
        pq.write_table(table, path)


def _measured(who: str, path: str, target: str) -> float:
    """Seconds."""
    act = _scidaq if who == "scidaq" else _READS[who.removesuffix(WRITES)]
    for name in ("h5py", "pandas", "pyarrow.csv", "pyarrow.parquet", "scidaq.instruments", "scidaq.station"):
        import_module(name)  # to find and load them is not a part of reading
    begin = time.monotonic()
    table = act(Path(path), Path(target) / "out")
    if who.endswith(WRITES):
        _write(table, Path(target) / "out")
    return time.monotonic() - begin


def _scidaq(path: Path, target: Path) -> None:
    from scidaq.instruments import Reading, tables
    from scidaq.station import Importer, Source, streams_of

    with Importer(target) as importer:
        source = Source.of(path, Reading())
        for stream, parts in streams_of(tables(path, Reading())).items():
            importer.take(source, stream, parts)


def _write(table: Any, target: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1 << 16)
    fd = os.open(target, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)


def _pyarrow_csv(path: Path, target: Path) -> Any:
    import pyarrow.csv as pacsv

    return pacsv.read_csv(path)


def _pandas_csv(path: Path, target: Path) -> Any:
    import pandas as pd
    import pyarrow as pa

    return pa.Table.from_pandas(pd.read_csv(path, parse_dates=["time"]))


def _pyarrow_parquet(path: Path, target: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path)


def _h5py(path: Path, target: Path) -> Any:
    import h5py
    import pyarrow as pa

    with h5py.File(path) as file:
        return pa.table({name: one[:] for name, one in file.items()})


_READS: dict[str, Callable[[Path, Path], Any]] = {
    "pyarrow.csv": _pyarrow_csv,
    "pandas read_csv": _pandas_csv,
    "pyarrow.parquet": _pyarrow_parquet,
    "h5py": _h5py,
}
