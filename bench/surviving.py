"""What is left of a bulk writer's file when its process is killed in the middle of writing."""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.places import fresh
from bench.processes import call, child
from bench.writers import CHANNELS, ROWS, SQLITE_BLOCKS, WRITERS, Array, Work, blocks_of

SURVIVES, UNREADABLE = "survives a kill", "unreadable after a kill"
LOST, WRONG = "durable rows lost after a kill", "wrong rows after a kill, without an error"
COMMIT_BLOCKS, COMMITS = 16, 3


def after_a_kill(name: str, work: Work) -> str:
    """Let one of `WRITERS` write, kill it a few commits later, read its file in another process, and say what is there.

    One trial says what is possible, not what is certain.
    """
    with fresh() as directory:
        with child(_write, name, work, directory) as process:
            durable = 0
            while durable < COMMITS * COMMIT_BLOCKS:
                durable = process.hear()
            time.sleep(random.uniform(0.005, 0.05))  # not just behind a commit
            process.process.kill()
        said: str = call(_judge, name, work, directory, durable)
        return said


def _write(there: Connection, name: str, work: Work, directory: Path) -> None:
    """Write for ever, and say after each commit how many blocks are durable."""
    with WRITERS[name](work, directory) as (write, sync):
        n = 0
        while True:
            write(n)
            n += 1
            if n % COMMIT_BLOCKS == 0:
                sync()
                there.send(n)


def _judge(name: str, work: Work, directory: Path, durable: int) -> str:
    logging.disable()  # they may say what they like
    try:
        found = READERS[name](directory)
    except Exception:  # whatever a library raises of a file that it cannot read
        return UNREADABLE
    blocks = blocks_of(work)[: SQLITE_BLOCKS if READERS[name] is _sqlite else None]
    for at in range(0, len(found), ROWS):
        piece = found[at : at + ROWS]
        if not np.array_equal(piece, blocks[at // ROWS % len(blocks)][: len(piece)]):
            return WRONG
    return SURVIVES if len(found) >= durable * ROWS else LOST


# ---- as a user would open them --------------------------------------------------------------------------------------


def _hdf5(directory: Path) -> Array:
    import h5py

    with h5py.File(directory / "data.h5", "r", swmr=True) as file:
        return np.asarray(file["adc"])


def _arrow(directory: Path) -> Array:
    import pyarrow as pa

    found: list[Array] = []
    with pa.OSFile(str(directory / "data.arrows")) as file, pa.ipc.open_stream(file) as stream:
        while True:
            try:
                batch = stream.read_next_batch()
            except (StopIteration, OSError, pa.ArrowInvalid):  # the torn end
                return np.concatenate(found)
            found.append(batch.column(0).flatten().to_numpy().reshape(-1, CHANNELS))


def _tdms(directory: Path) -> Array:
    group = import_module("nptdms").TdmsFile.read(directory / "data.tdms")["adc"]
    columns = [group[f"ch{c}"][:] for c in range(CHANNELS)]
    rows = min(map(len, columns))  # it gives what it can of each
    return np.stack([column[:rows] for column in columns], axis=1)


def _pytables(directory: Path) -> Array:
    with import_module("tables").open_file(str(directory / "data.h5")) as file:
        return np.asarray(file.root.adc[:])


def _of_table(table: Any) -> Array:
    return np.stack([table.column(f"ch{c}").to_numpy() for c in range(CHANNELS)], axis=1)


def _feather(directory: Path) -> Array:
    import pyarrow as pa

    with pa.OSFile(str(directory / "data.feather")) as file:
        return _of_table(pa.ipc.open_file(file).read_all())


def _parquet(directory: Path) -> Array:
    import pyarrow.parquet as pq

    return _of_table(pq.read_table(directory / "data.parquet"))


def _zarr(directory: Path) -> Array:
    return np.asarray(import_module("zarr").open_array(directory / "data.zarr", mode="r")[:])


def _duckdb(directory: Path) -> Array:
    with import_module("duckdb").connect(str(directory / "data.duckdb")) as database:
        columns = database.execute("SELECT * FROM adc ORDER BY rowid").fetchnumpy()
    return np.stack([columns[f"ch{c}"] for c in range(CHANNELS)], axis=1)


def _sqlite(directory: Path) -> Array:
    with closing(sqlite3.connect(directory / "data.sqlite")) as database:
        return np.array(database.execute("SELECT * FROM adc ORDER BY rowid").fetchall())


READERS: dict[str, Callable[[Path], Array]] = {
    "h5py SWMR direct chunks, flush only": _hdf5,
    "h5py SWMR direct chunks": _hdf5,
    "h5py SWMR, flush per block": _hdf5,
    "h5py SWMR, gzip": _hdf5,
    "Arrow IPC stream": _arrow,
    "npTDMS": _tdms,
    "PyTables": _pytables,
    "Feather": _feather,
    "Parquet": _parquet,
    "zarr": _zarr,
    "DuckDB": _duckdb,
    "SQLite, rows": _sqlite,
}
