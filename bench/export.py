"""Exports against what each format's own library makes of the same rows, in memory for both, on the disk at the end.

All write a file and sync it. Ours takes a SHA-256 of it besides, writes the description, and gives it its name last. Of
the library there is a second row, in which it does what users do for the same end: it writes the file, takes the
SHA-256 of what it wrote, and syncs both.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.places import fresh
from bench.processes import call
from bench.results import Row, judged, rate
from bench.settings import Settings

CHANNELS = 4
BLOCK_ROWS = 20_000
TARGET = 0.7
T0_NS = 1_767_268_800_000_000_000
FORMATS = ("csv", "parquet", "arrow", "hdf5", "zarr", "tdms")
OTHERS = {
    "csv": ("pyarrow.csv", "pandas to_csv"),
    "parquet": ("pyarrow.parquet",),
    "arrow": ("pyarrow.ipc",),
    "hdf5": ("h5py",),
    "zarr": ("zarr",),
    "tdms": ("npTDMS",),
}
"""Each with the compression that ours uses by default."""
SHA = " + sha256"
"""Behind the name of a library that takes a checksum, too."""


def export(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Each format, by us and by its library."""
    out = []
    for form in FORMATS:
        blocks = max(1, settings.export_rows // BLOCK_ROWS // (10 if form == "csv" else 1))
        others = [who + also for who in OTHERS[form] for also in ("", SHA)]
        whos = [who for who in ("scidaq", *others) if settings.wants(who)]
        speeds: dict[str, list[float]] = {who: [] for who in whos}
        for number in range(settings.export_rounds):
            order = whos.copy()
            random.Random(number).shuffle(order)
            for who in order:
                with fresh() as directory:
                    speeds[who].append(call(_measured, form, who, str(directory), blocks))
        out += _rows(form, {who: median(found) for who, found in speeds.items()})
        say(f"export to {form}: " + ", ".join(f"{who} {rate(median(found))}" for who, found in speeds.items()))
    return out


def _rows(form: str, speeds: dict[str, float]) -> list[Row]:
    ours = speeds.get("scidaq")
    out = []
    for who, speed in speeds.items():
        compared = "" if ours is None or who == "scidaq" else f"scidaq {ours / speed:.2f} ×"
        target = judged(f"≥ {TARGET:g} ×", ours / speed >= TARGET) if compared and ours is not None else ""
        remarks = "file, description and checksum, synced" if who == "scidaq" else "file, synced"
        remarks = "file and checksum, synced" if who.endswith(SHA) else remarks
        out.append(Row(f"export to {form}", who, rate(speed), "", compared, target, remarks))
    return out


# ---- in a process of its own ----------------------------------------------------------------------------------------


def _measured(form: str, who: str, directory: str, blocks: int) -> float:
    """Bytes of rows per second, the time of each row included."""
    source = np.random.default_rng(1)
    columns = [np.cumsum(source.normal(size=BLOCK_ROWS * blocks)) for _ in range(CHANNELS)]
    size = BLOCK_ROWS * blocks * 8 * (CHANNELS + 1)
    library = _ACTS.get(who.removesuffix(SHA))
    act = _scidaq(form, columns, blocks) if library is None else library(columns)
    sums = who.endswith(SHA)
    act(Path(directory) / "warm", True)  # imports, code paths
    begin = time.monotonic()
    act(Path(directory) / "out", False)
    if who != "scidaq":
        _end(Path(directory) / "out", sums)
    took = time.monotonic() - begin
    return size / took


Act = Callable[[Path, bool], None]


def _scidaq(form: str, columns: list[Any], blocks: int) -> Act:
    from scidaq.archive import Origin, Request, Source
    from scidaq.archive import export as to_file
    from scidaq.block import Block, Channel, schema

    one = schema([Channel(f"c{i}", unit="V") for i in range(CHANNELS)], rate=1_000_000)
    made = []
    for n in range(blocks):
        rows = [c[n * BLOCK_ROWS : (n + 1) * BLOCK_ROWS] for c in columns]
        t0_ns = T0_NS + one.span_ns(n * BLOCK_ROWS)
        made.append(Block("a/b", 0, n * BLOCK_ROWS, one, tuple(rows), t0_ns))

    def act(path: Path, warm: bool) -> None:
        origin = Origin("bench", "0", "scidaq", 1)
        to_file([Source("a/b", made[:1] if warm else made)], Request(form, path), origin)

    return act


def _some(columns: list[Any], warm: bool) -> tuple[Any, list[Any]]:
    count = 1000 if warm else len(columns[0])
    return T0_NS + np.arange(count, dtype=np.int64) * 1000, [c[:count] for c in columns]


def _end(path: Path, sums: bool) -> None:
    """The file, or each of a directory, on the disk, and what `sha256sum` says of it where that is wanted."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if sums:
        lines = []
        for one in files:
            with one.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {one.name}\n")
        beside = path.with_name(path.name + ".sha256")
        beside.write_text("".join(lines))
        files.append(beside)
    for one in files:
        fd = os.open(one, os.O_RDWR)
        os.fsync(fd)
        os.close(fd)


def _table(columns: list[Any], warm: bool) -> Any:
    import pyarrow as pa

    times, here = _some(columns, warm)
    names = ["time", *(f"c{i}" for i in range(CHANNELS))]
    return pa.table([pa.array(times, pa.timestamp("ns", "UTC")), *map(pa.array, here)], names)


def _pyarrow_csv(columns: list[Any]) -> Act:
    import pyarrow.csv as pacsv

    def act(path: Path, warm: bool) -> None:
        pacsv.write_csv(_table(columns, warm), path)

    return act


def _pandas_csv(columns: list[Any]) -> Act:
    def act(path: Path, warm: bool) -> None:
        _table(columns, warm).to_pandas().to_csv(path, index=False)

    return act


def _pyarrow_parquet(columns: list[Any]) -> Act:
    import pyarrow.parquet as pq

    def act(path: Path, warm: bool) -> None:
        pq.write_table(_table(columns, warm), path, compression="zstd")

    return act


def _pyarrow_ipc(columns: list[Any]) -> Act:
    import pyarrow as pa

    def act(path: Path, warm: bool) -> None:
        table = _table(columns, warm)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1 << 18)

    return act


def _h5py(columns: list[Any]) -> Act:
    import h5py

    def act(path: Path, warm: bool) -> None:
        times, here = _some(columns, warm)
        with h5py.File(path, "w") as file:
            for name, values in zip(("time", *(f"c{i}" for i in range(CHANNELS))), (times, *here), strict=True):
                chunk = (min(len(values), 1 << 15),)
                file.create_dataset(
                    name, data=values, chunks=chunk, shuffle=True, compression="gzip", compression_opts=1
                )

    return act


def _zarr(columns: list[Any]) -> Act:
    import zarr
    from zarr.codecs import ZstdCodec

    def act(path: Path, warm: bool) -> None:
        times, here = _some(columns, warm)
        group = zarr.create_group(path)
        for name, values in zip(("time", *(f"c{i}" for i in range(CHANNELS))), (times, *here), strict=True):
            chunk = (min(len(values), 1 << 18),)
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=chunk, compressors=(ZstdCodec(level=1),)
            )
            array[:] = values

    return act


def _nptdms(columns: list[Any]) -> Act:
    import nptdms

    def act(path: Path, warm: bool) -> None:
        times, here = _some(columns, warm)
        with nptdms.TdmsWriter(path) as writer:
            for at in range(0, len(times), 1 << 18):
                part = slice(at, at + (1 << 18))
                named = zip(("time", *(f"c{i}" for i in range(CHANNELS))), (times, *here), strict=True)
                writer.write_segment([nptdms.ChannelObject("a", name, values[part]) for name, values in named])

    return act


_ACTS: dict[str, Callable[[list[Any]], Act]] = {
    "pyarrow.csv": _pyarrow_csv,
    "pandas to_csv": _pandas_csv,
    "pyarrow.parquet": _pyarrow_parquet,
    "pyarrow.ipc": _pyarrow_ipc,
    "h5py": _h5py,
    "zarr": _zarr,
    "npTDMS": _nptdms,
}
