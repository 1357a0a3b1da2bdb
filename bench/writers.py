"""Bulk writers to compare with: the disk itself, and the usual formats as well as they can be used.

All write the same prepared samples, block by block, in one thread without any acquisition before it. Each gives two
acts, *write a block* and *make what was written durable*; `pump` calls them.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ROWS, CHANNELS = 8192, 8
SYNC_S = 0.2
RAW_BYTES = 4 << 20
SQLITE_BLOCKS = 4
"""How many blocks are prepared as rows of Python."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a run measures."""

    dtype: str
    table_bytes: int
    warm_s: float
    seconds: float

    @property
    def row_bytes(self) -> int:
        return CHANNELS * np.dtype(self.dtype).itemsize

    @property
    def block_bytes(self) -> int:
        return ROWS * self.row_bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was durable at the end of the measured part, and what it took."""

    bytes: int
    seconds: float
    cpu_s: float
    worst_sync_s: float = 0.0
    remarks: str = ""

    @property
    def speed(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds

    @property
    def cpu_s_per_gb(self) -> float:
        """CPU seconds per 10⁹ bytes."""
        return self.cpu_s / self.bytes * 1e9


def samples(work: Work) -> tuple[mmap.mmap, Array]:
    """The prepared samples, `(rows, channels)`, in page-aligned memory, and that memory."""
    rows = work.table_bytes // work.row_bytes // ROWS * ROWS
    memory = mmap.mmap(-1, rows * work.row_bytes)
    table = np.frombuffer(memory, work.dtype).reshape(rows, CHANNELS)
    rng = np.random.default_rng(1)
    piece = rng.standard_normal((ROWS, CHANNELS)) * (1000 if work.dtype == "int16" else 1.0)
    for at in range(0, rows, ROWS):
        table[at : at + ROWS] = np.roll(piece, at // ROWS, axis=0)
    return memory, table


Acts = tuple[Callable[[int], int], Callable[[], object]]
"""Write the n-th block and say how many bytes that were; make everything durable."""


def pump(acts: Acts, work: Work) -> Outcome:
    """Write as fast as it goes, durable every 200 ms; what counts lies between two syncs."""
    write, sync = acts
    begin = time.monotonic()
    began: tuple[float, float] | None = None
    next_sync, done, n, worst = begin + SYNC_S, 0, 0, 0.0
    while True:
        done += write(n)
        n += 1
        if time.monotonic() < next_sync:
            continue
        before = time.monotonic()
        sync()
        now = time.monotonic()
        next_sync = now + SYNC_S
        if began is not None:
            worst = max(worst, now - before)
            if now - began[0] >= work.seconds:
                return Outcome(done, now - began[0], time.process_time() - began[1], worst)
        elif now - begin >= work.warm_s:
            began, done = (now, time.process_time()), 0


def run(name: str, work: Work, directory: Path) -> Outcome:
    """Let one of `WRITERS` write into a fresh directory."""
    with WRITERS[name](work, directory) as acts:
        return pump(acts, work)


@contextmanager
def raw(work: Work, directory: Path) -> Iterator[Acts]:
    """What the disk takes: O_DIRECT, 4 MiB at a time, from aligned memory."""
    memory, table = samples(work)
    pieces = [memoryview(memory)[at : at + RAW_BYTES] for at in range(0, table.nbytes - RAW_BYTES + 1, RAW_BYTES)]
    flags = os.O_CREAT | os.O_WRONLY
    try:
        fd = os.open(directory / "raw", flags | getattr(os, "O_DIRECT", 0))
    except OSError:  # a file system that knows no O_DIRECT: then this is what it takes
        fd = os.open(directory / "raw", flags)
    try:
        yield (lambda n: os.write(fd, pieces[n % len(pieces)])), (lambda: os.fdatasync(fd))
    finally:
        os.close(fd)


def blocks_of(work: Work) -> list[Array]:
    """The prepared samples block by block, without a copy."""
    table = samples(work)[1]
    return [table[at : at + ROWS] for at in range(0, len(table), ROWS)]


def _h5py(directory: Path, work: Work) -> tuple[Any, Any, int]:
    import h5py

    file = h5py.File(directory / "data.h5", "w", libver="latest")
    data = file.create_dataset("adc", (0, CHANNELS), work.dtype, maxshape=(None, CHANNELS), chunks=(ROWS, CHANNELS))
    file.swmr_mode = True
    return file, data, int(file.id.get_vfd_handle())


@contextmanager
def h5py_direct(work: Work, directory: Path, synced: bool = False) -> Iterator[Acts]:
    """Chunks written as they are (`write_direct_chunk`), readable while they come (SWMR)."""
    file, data, fd = _h5py(directory, work)
    blocks = blocks_of(work)

    def write(n: int) -> int:
        data.resize((n + 1) * ROWS, axis=0)
        data.id.write_direct_chunk((n * ROWS, 0), blocks[n % len(blocks)])
        return work.block_bytes

    def flush() -> None:
        data.flush()
        if synced:
            os.fsync(fd)

    with file:
        yield write, flush


@contextmanager
def h5py_direct_synced(work: Work, directory: Path) -> Iterator[Acts]:
    """The same, and durable every 200 ms."""
    with h5py_direct(work, directory, synced=True) as acts:
        yield acts


@contextmanager
def h5py_per_block(work: Work, directory: Path) -> Iterator[Acts]:
    """Slices assigned, a flush after each."""
    file, data, fd = _h5py(directory, work)
    blocks = blocks_of(work)

    def write(n: int) -> int:
        data.resize((n + 1) * ROWS, axis=0)
        data[n * ROWS :] = blocks[n % len(blocks)]
        data.flush()
        return work.block_bytes

    with file:
        yield write, lambda: os.fsync(fd)


@contextmanager
def arrow_stream(work: Work, directory: Path) -> Iterator[Acts]:
    """An Arrow IPC stream; the batches are made in advance."""
    import pyarrow as pa

    batches = [
        pa.RecordBatch.from_arrays([pa.FixedSizeListArray.from_arrays(pa.array(b.reshape(-1)), CHANNELS)], ["adc"])
        for b in blocks_of(work)
    ]
    with ExitStack() as stack:
        file = stack.enter_context(open(directory / "data.arrows", "wb", buffering=0))
        writer = stack.enter_context(pa.ipc.new_stream(file, batches[0].schema))

        def write(n: int) -> int:
            writer.write_batch(batches[n % len(batches)])
            return work.block_bytes

        yield write, lambda: os.fsync(file.fileno())


@contextmanager
def tdms(work: Work, directory: Path) -> Iterator[Acts]:
    """A TDMS segment per block, its channels in columns as the format has them."""
    nptdms = import_module("nptdms")
    names = [f"ch{c}" for c in range(CHANNELS)]
    segments = [
        [nptdms.ChannelObject("adc", name, np.ascontiguousarray(b[:, c])) for c, name in enumerate(names)]
        for b in blocks_of(work)
    ]
    with ExitStack() as stack:
        file = stack.enter_context(open(directory / "data.tdms", "wb"))
        writer = stack.enter_context(nptdms.TdmsWriter(file))

        def write(n: int) -> int:
            writer.write_segment(segments[n % len(segments)])
            return work.block_bytes

        def sync() -> None:
            file.flush()
            os.fsync(file.fileno())

        yield write, sync


@contextmanager
def pytables(work: Work, directory: Path) -> Iterator[Acts]:
    """An extensible array of PyTables."""
    tables = import_module("tables")
    blocks = blocks_of(work)
    with tables.open_file(str(directory / "data.h5"), "w") as file:
        atom = tables.Atom.from_dtype(np.dtype(work.dtype))
        array = file.create_earray(file.root, "adc", atom, (0, CHANNELS), chunkshape=(ROWS, CHANNELS))

        def write(n: int) -> int:
            array.append(blocks[n % len(blocks)])
            return work.block_bytes

        def sync() -> None:
            file.flush()
            os.fsync(file.fileno())

        yield write, sync


@contextmanager
def h5py_gzip(work: Work, directory: Path) -> Iterator[Acts]:
    """Compressed as most do it, readable while it comes."""
    import h5py

    blocks = blocks_of(work)
    with h5py.File(directory / "data.h5", "w", libver="latest") as file:
        data = file.create_dataset(
            "adc", (0, CHANNELS), work.dtype, maxshape=(None, CHANNELS), chunks=(ROWS, CHANNELS), compression="gzip"
        )
        file.swmr_mode = True
        fd = int(file.id.get_vfd_handle())

        def write(n: int) -> int:
            data.resize((n + 1) * ROWS, axis=0)
            data[n * ROWS :] = blocks[n % len(blocks)]
            return work.block_bytes

        def sync() -> None:
            data.flush()
            os.fsync(fd)

        yield write, sync


@contextmanager
def zarr_chunks(work: Work, directory: Path) -> Iterator[Acts]:
    """An array on the file system, a chunk per block, not compressed."""
    zarr = import_module("zarr")
    blocks = blocks_of(work)
    place = directory / "data.zarr"
    array = zarr.create_array(
        place, shape=(0, CHANNELS), chunks=(ROWS, CHANNELS), dtype=work.dtype, compressors=None, overwrite=True
    )
    fresh: list[Path] = []

    def write(n: int) -> int:
        array.append(blocks[n % len(blocks)])
        fresh.append(place / "c" / str(n) / "0")
        return work.block_bytes

    def sync() -> None:
        for path in (*fresh, place / "zarr.json", *(path.parent for path in fresh), place / "c"):
            _sync(path)
        fresh.clear()

    yield write, sync


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _columns(work: Work) -> list[Any]:
    """The prepared samples as Arrow batches with a column per channel."""
    import pyarrow as pa

    names = [f"ch{c}" for c in range(CHANNELS)]
    return [
        pa.RecordBatch.from_arrays([pa.array(np.ascontiguousarray(b[:, c])) for c in range(CHANNELS)], names)
        for b in blocks_of(work)
    ]


@contextmanager
def feather(work: Work, directory: Path) -> Iterator[Acts]:
    """An Arrow IPC file (Feather), which has its index at the end."""
    import pyarrow as pa

    batches = _columns(work)
    with ExitStack() as stack:
        file = stack.enter_context(open(directory / "data.feather", "wb", buffering=0))
        writer = stack.enter_context(pa.ipc.new_file(file, batches[0].schema))

        def write(n: int) -> int:
            writer.write_batch(batches[n % len(batches)])
            return work.block_bytes

        yield write, lambda: os.fsync(file.fileno())


@contextmanager
def parquet(work: Work, directory: Path) -> Iterator[Acts]:
    """A row group per block, without a dictionary and not compressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pa.Table.from_batches([batch]) for batch in _columns(work)]
    with ExitStack() as stack:
        file = stack.enter_context(open(directory / "data.parquet", "wb", buffering=0))
        writer = pq.ParquetWriter(file, tables[0].schema, use_dictionary=False, compression="none")
        stack.enter_context(writer)

        def write(n: int) -> int:
            writer.write_table(tables[n % len(tables)])
            return work.block_bytes

        yield write, lambda: os.fsync(file.fileno())


@contextmanager
def duckdb(work: Work, directory: Path) -> Iterator[Acts]:
    """A transaction every 200 ms, filled from Arrow."""
    import pyarrow as pa

    tables = [pa.Table.from_batches([batch]) for batch in _columns(work)]
    database = import_module("duckdb").connect(str(directory / "data.duckdb"))
    kind = {"float64": "DOUBLE", "int16": "SMALLINT"}[work.dtype]
    database.execute(f"CREATE TABLE adc ({', '.join(f'ch{c} {kind}' for c in range(CHANNELS))})")
    database.execute("BEGIN")

    def write(n: int) -> int:
        database.register("block", tables[n % len(tables)])
        database.execute("INSERT INTO adc SELECT * FROM block")
        return work.block_bytes

    def sync() -> None:
        database.execute("COMMIT")
        database.execute("BEGIN")

    yield write, sync
    database.close()


@contextmanager
def sqlite_rows(work: Work, directory: Path) -> Iterator[Acts]:
    """A row per row, a durable transaction every 200 ms."""
    prepared = [[tuple(row) for row in block.tolist()] for block in blocks_of(work)[:SQLITE_BLOCKS]]
    with closing(sqlite3.connect(directory / "data.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"CREATE TABLE adc ({', '.join(f'ch{c}' for c in range(CHANNELS))})")
        insert = f"INSERT INTO adc VALUES ({', '.join('?' * CHANNELS)})"
        database.execute("BEGIN")

        def write(n: int) -> int:
            database.executemany(insert, prepared[n % len(prepared)])
            return work.block_bytes

        def sync() -> None:
            database.execute("COMMIT")
            database.execute("BEGIN")

        yield write, sync


RAW = "raw O_DIRECT"
WRITERS: dict[str, Callable[[Work, Path], Any]] = {
    RAW: raw,
    "h5py SWMR direct chunks, flush only": h5py_direct,
    "h5py SWMR direct chunks": h5py_direct_synced,
    "h5py SWMR, flush per block": h5py_per_block,
    "Arrow IPC stream": arrow_stream,
    "npTDMS": tdms,
    "PyTables": pytables,
    "Feather": feather,
    "Parquet": parquet,
    "zarr": zarr_chunks,
    "h5py SWMR, gzip": h5py_gzip,
    "DuckDB": duckdb,
    "SQLite, rows": sqlite_rows,
}
NEEDS = {"npTDMS": "nptdms", "PyTables": "tables", "zarr": "zarr", "DuckDB": "duckdb"}
"""What cannot be taken for granted."""
OTHERS = ("Feather", "Parquet", "zarr", "h5py SWMR, gzip", "DuckDB", "SQLite, rows")
"""Those of which one sample type and a round or two say enough."""


def missing(name: str) -> str:
    """The module that a writer needs and that is not installed; empty when it can run."""
    module = NEEDS.get(name, "")
    return module if module and importlib.util.find_spec(module) is None else ""
