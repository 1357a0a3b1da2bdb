"""Reading: 8 columns of float64 and a time per row, from the page cache, into Arrow, NumPy, pandas; and a short range.

We read our own segments and verify every checksum; pyarrow reads the same files and verifies nothing; h5py and pandas
read the same rows from files of their own kind, written in one piece and uncompressed. Everybody opens the files anew
each time, and adds up every column that was read, so that nobody is quick by having put the work off. Each contestant
lives in a process of its own and takes turns with the others, in a new order in every round.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import scidaq
from bench.places import fresh
from bench.processes import Child, call, child
from bench.results import Row, judged, rate, size
from bench.settings import Settings

CHANNELS = tuple(f"ch{c}" for c in range(8))
STREAM = "adc/wave"
T0, STEP_NS = 1_750_000_000 * 10**9, 1000
ROW_BYTES = 8 * (len(CHANNELS) + 1)
TARGET = 0.7
SHARE = 100
"""A range is one row in so many, from the middle."""
WARM = 2
"""Readings before the first that counts."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Files:
    """The same rows, in the files of each contestant."""

    directory: Path
    rows: int

    @property
    def segments(self) -> list[Path]:
        """Ours."""
        return sorted((self.directory / "data" / "streams" / STREAM).glob("*.arrows"))

    @property
    def range_ns(self) -> tuple[int, int]:
        """The range that is asked for."""
        first = self.rows // 2
        return T0 + first * STEP_NS, T0 + (first + self.rows // SHARE) * STEP_NS


def write(files: Files) -> None:
    """Write all files."""
    rng = np.random.default_rng(1)
    columns = {name: rng.standard_normal(files.rows) for name in CHANNELS}
    times = T0 + np.arange(files.rows, dtype=np.int64) * STEP_NS
    with scidaq.record(files.directory / "data", dict.fromkeys(CHANNELS, "V"), stream=STREAM) as rec:
        rec.extend(columns, t=times)
    if importlib.util.find_spec("h5py"):
        import h5py

        with h5py.File(files.directory / "rows.h5", "w") as file:
            for name, values in {"time": times, **columns}.items():
                file[name] = values
    if importlib.util.find_spec("pandas"):
        import pandas as pd

        frame = pd.DataFrame(columns, index=pd.DatetimeIndex(times.view("datetime64[ns]"), name="time", tz="UTC"))
        frame.to_parquet(files.directory / "rows.parquet", compression=None)
        if importlib.util.find_spec("tables"):
            frame.to_hdf(files.directory / "frame.h5", key="rows")


# ---- contestants -----------------------------------------------------------------------------------------------------


def _added(columns: Sequence[Array]) -> float:
    return float(sum(column.sum() for column in columns))


def _added_table(table: Any) -> float:
    import pyarrow.compute as pc

    return float(sum(pc.sum(table.column(name)).as_py() for name in CHANNELS))


def _ours(files: Files) -> Any:
    return scidaq.open(files.directory / "data")[STREAM]


def _our_arrow(files: Files) -> float:
    return _added_table(_ours(files).read().to_arrow())


def _our_numpy(files: Files) -> float:
    arrays = _ours(files).read().to_numpy()
    return _added([arrays[name] for name in CHANNELS])


def _our_pandas(files: Files) -> float:
    frame = _ours(files).read().to_pandas()
    return _added([frame[name].to_numpy() for name in CHANNELS])


def _our_range(files: Files) -> float:
    arrays = _ours(files).read(*files.range_ns).to_numpy()
    return _added([arrays[name] for name in CHANNELS])


def _table(files: Files) -> Any:
    import pyarrow as pa

    tables = []
    for path in files.segments:
        with pa.OSFile(str(path)) as file:
            tables.append(pa.ipc.open_stream(file).read_all().replace_schema_metadata(None))
    return pa.concat_tables(tables)


def _pyarrow_arrow(files: Files) -> float:
    return _added_table(_table(files))


def _pyarrow_numpy(files: Files) -> float:
    table = _table(files)
    arrays = {name: table.column(name).to_numpy() for name in table.column_names}
    return _added([arrays[name] for name in CHANNELS])


def _pyarrow_pandas(files: Files) -> float:
    frame = _table(files).to_pandas().set_index("time")
    return _added([frame[name].to_numpy() for name in CHANNELS])


def _pyarrow_range(files: Files) -> float:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _table(files)
    start, stop = (pa.scalar(ns, pa.int64()).cast(table.schema.field("time").type) for ns in files.range_ns)
    time_ = table.column("time")
    table = table.filter(pc.and_(pc.greater_equal(time_, start), pc.less(time_, stop)))
    return _added([table.column(name).to_numpy() for name in CHANNELS])


def _h5py_numpy(files: Files) -> float:
    import h5py

    with h5py.File(files.directory / "rows.h5") as file:
        arrays = {name: file[name][:] for name in ("time", *CHANNELS)}
    return _added([arrays[name] for name in CHANNELS])


def _h5py_range(files: Files) -> float:
    import h5py

    with h5py.File(files.directory / "rows.h5") as file:
        a, b = np.searchsorted(file["time"][:], files.range_ns)
        return _added([file[name][a:b] for name in CHANNELS])


def _h5py_pandas(files: Files) -> float:
    import h5py
    import pandas as pd

    with h5py.File(files.directory / "rows.h5") as file:
        arrays = {name: file[name][:] for name in CHANNELS}
        index = pd.DatetimeIndex(file["time"][:].view("datetime64[ns]"), tz="UTC")
    frame = pd.DataFrame(arrays, index=index)
    return _added([frame[name].to_numpy() for name in CHANNELS])


def _parquet(files: Files) -> float:
    import pandas as pd

    frame = pd.read_parquet(files.directory / "rows.parquet")
    return _added([frame[name].to_numpy() for name in CHANNELS])


def _read_hdf(files: Files) -> float:
    import pandas as pd

    frame: Any = pd.read_hdf(files.directory / "frame.h5")
    return _added([frame[name].to_numpy() for name in CHANNELS])


US = "scidaq"
READERS: dict[str, dict[str, Callable[[Files], float]]] = {
    "Arrow": {US: _our_arrow, "pyarrow, our files": _pyarrow_arrow},
    "NumPy": {US: _our_numpy, "pyarrow, our files": _pyarrow_numpy, "h5py": _h5py_numpy},
    "pandas": {
        US: _our_pandas,
        "pyarrow, our files": _pyarrow_pandas,
        "h5py": _h5py_pandas,
        "pandas.read_parquet": _parquet,
        "pandas.read_hdf": _read_hdf,
    },
    "range": {US: _our_range, "pyarrow, our files": _pyarrow_range, "h5py": _h5py_range},
}
NEEDS = {"h5py": "h5py", "pandas.read_parquet": "pandas", "pandas.read_hdf": "tables"}


def missing(form: str, who: str) -> bool:
    """Whether something that a contestant needs is not installed."""
    needed = [NEEDS[who]] if who in NEEDS else []
    needed += ["pandas"] if form == "pandas" else []
    return any(importlib.util.find_spec(name) is None for name in needed)


def _compete(there: Connection, form: str, who: str, files: Files) -> None:
    """Read for so many seconds whenever told to; say how long each took, and the CPU time of all."""
    reader = READERS[form][who]
    sums = [reader(files) for _ in range(WARM)]
    there.send(sums[-1])
    while (seconds := there.recv()) is not None:
        took: list[float] = []
        cpu_s, deadline = time.process_time(), time.monotonic() + seconds
        while not took or time.monotonic() < deadline:
            begin = time.monotonic()
            reader(files)
            took.append(time.monotonic() - begin)
        there.send((took, (time.process_time() - cpu_s) / len(took)))


# ---- the benchmark ---------------------------------------------------------------------------------------------------


def read(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Each form in turn."""
    rows = []
    with fresh() as directory:
        files = Files(directory, 4 * settings.table_bytes // ROW_BYTES)
        call(write, files)
        for form in READERS:
            rows += _form(form, files, settings, say)
    return rows


def _form(form: str, files: Files, settings: Settings, say: Callable[[str], None]) -> list[Row]:
    names = [who for who in READERS[form] if settings.wants(who) and not missing(form, who)]
    took: dict[str, list[float]] = {who: [] for who in names}
    cpu: dict[str, list[float]] = {who: [] for who in names}
    with ExitStack() as stack:
        children: dict[str, Child] = {
            who: stack.enter_context(child(_compete, form, who, files)) for who in names
        }  # all begin at once, and wait
        sums = {who: one.hear() for who, one in children.items()}
        if not np.allclose(list(sums.values()), next(iter(sums.values()))):
            raise RuntimeError(f"read {form}: they read other values: {sums}")
        for _ in range(settings.reading_turns):
            for who in random.sample(names, len(names)):
                children[who].tell(settings.turn_s)
                times, cpu_s = children[who].hear()
                took[who].append(median(times))
                cpu[who].append(cpu_s)
        for one in children.values():
            one.tell(None)
    amount = files.rows * ROW_BYTES
    for who in names:
        say(f"read {form}: {who} {median(took[who]) * 1e3:.1f} ms")
    return [_row(form, who, took, median(cpu[who]), amount) for who in names]


def _row(form: str, who: str, took: dict[str, list[float]], cpu_s: float, amount: int) -> Row:
    mine = median(took[who])
    compared = target = ""
    if who != US and US in took:
        ours = median(theirs / us for theirs, us in zip(took[who], took[US], strict=True))
        compared = f"scidaq is {ours:.2f} × this"
        target = judged(f"scidaq ≥ {TARGET} ×", ours >= TARGET)
    what = f"1 row in {SHARE}" if form == "range" else size(amount)
    speed = f"{mine * 1e3:,.2f} ms" if form == "range" else rate(amount / mine)
    remarks = f"{what}, {min(took[who]) * 1e3:,.1f} to {max(took[who]) * 1e3:,.1f} ms"
    checked = ", checksums verified" if who == US else ""
    return Row(f"read {form}", who, speed, f"{cpu_s * 1e3:,.1f} ms", compared, target, remarks + checked)
