"""`scidaq export` as a user runs it: streams and runs, ranges, what is refused, and how much memory it takes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import scidaq as library
from scidaq.block import Block
from scidaq.query import Reader
from tests.cli.conftest import environment, scidaq


def times(path: Path) -> list[int]:
    out: list[int] = pq.read_table(path).column("time").cast("int64").to_pylist()
    return out


def recorded_times(data_dir: Path, stream: str, start: int | None = None, stop: int | None = None) -> list[int]:
    found = [b.time_ns() for b in Reader(data_dir).blocks(stream, start, stop) if isinstance(b, Block)]
    return [int(t) for b in found for t in b]


@pytest.mark.slow
def test_a_stream_by_default_and_in_part(recorded: Path, tmp_path: Path) -> None:
    done = scidaq("export", "adc/wave", "--format", "parquet", "--data-dir", recorded, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows" in done.stdout
    everything = recorded_times(recorded, "adc/wave")
    assert times(tmp_path / "adc.wave.parquet") == everything
    start, stop = everything[10], everything[-10]
    more = ("--start", str(start), "--stop", str(stop), "--out", "part.parquet")
    assert (
        scidaq("export", "adc/wave", "--format", "parquet", *more, "--data-dir", recorded, cwd=tmp_path).returncode == 0
    )
    assert times(tmp_path / "part.parquet") == everything[10:-10]


@pytest.mark.slow
def test_a_run_takes_its_streams_and_its_window(recorded: Path, tmp_path: Path) -> None:
    recorded = Path(shutil.copytree(recorded, tmp_path / "data"))  # a run is declared in it
    everything = recorded_times(recorded, "adc/wave")
    start, stop = everything[5], everything[-5]
    window = ("--from", str(start), "--to", str(stop))
    added = scidaq("run", "add", "the night", *window, "--operator", "Ada", "--data-dir", recorded)
    assert added.returncode == 0, added.stderr
    done = scidaq("export", "the night", "--format", "parquet", "--data-dir", recorded, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "the night.parquet"
    assert {path.name for path in folder.iterdir()} >= {"adc.wave.parquet", "slow.wave.parquet", "manifest.json"}
    assert times(folder / "adc.wave.parquet") == everything[5:-5]
    one = scidaq("export", "adc/wave", "--run", "the night", "--format", "hdf5", "--data-dir", recorded, cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    import h5py

    with h5py.File(tmp_path / "adc.wave.h5") as file:
        assert file["entry/adc_wave/time"][:].tolist() == everything[5:-5]
        assert file["entry/user/name"][()] == b"Ada"


@pytest.mark.slow
@pytest.mark.parametrize(("form", "files"), [("csv", 3), ("hdf5", 2), ("zarr", 5)])
def test_programs_are_told_of_every_file(form: str, files: int, recorded: Path, tmp_path: Path) -> None:
    more = ("--out", f"out/of-{form}", "--last", "5", "--json")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"of-{form}.other").touch()
    done = scidaq("export", "adc/wave", "--format", form, *more, "--data-dir", recorded, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *steps, end = map(json.loads, done.stdout.splitlines())
    assert [one["rows"] for one in steps] == [0, 5]
    assert (end["rows"], end["tables"], end["path"]) == (5, 1, f"out/of-{form}")
    assert sum(one["bytes"] for one in end["files"]) == end["bytes"]
    assert len(end["files"]) >= files
    for one in end["files"]:
        assert hashlib.sha256((tmp_path / "out" / one["name"]).read_bytes()).hexdigest() == one["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("gone/stream", "--format", "csv"), 1, "no stream 'gone/stream'"),
        (("nightmare", "--format", "csv"), 1, "no run"),
        (("adc/wave", "--format", "xls"), 2, "xls"),
        (("adc/wave", "--format", "csv", "--stop", "1"), 1, "no rows in this range"),
        (("adc/wave", "--format", "csv", "--channels", "gone"), 1, "no channel gone"),
        (("adc/wave", "--format", "csv", "--out", "/gone/x.csv"), 1, "is no directory"),
        (("adc/wave", "--format", "csv", "--last", "0"), 1, "--last '0'"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: tuple[str, ...], code: int, says: str, recorded: Path, tmp_path: Path
) -> None:
    done = scidaq("export", *arguments, "--data-dir", recorded, cwd=tmp_path)
    assert done.returncode == code
    assert says in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def content(data_dir: Path) -> dict[str, list[object]]:
    """All rows and gaps of all streams, row by row, without the numbers that a store gives."""
    out: dict[str, list[object]] = {}
    reader = Reader(data_dir)
    for name in reader.names():
        told = out.setdefault(name, [])
        for item in reader.blocks(name):
            if isinstance(item, Block):
                values = [c.tolist() for c in item.columns]
                told += zip([item.schema] * item.rows, item.time_ns().tolist(), *values, strict=True)
            else:
                told.append((item.epoch, item.first, item.end, item.reason, item.unknown))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "csv", "arrow", "hdf5"])
def test_runs_and_streams_that_change_come_back(form: str, home: Path) -> None:
    """As the commands take them: a run of two streams, and one whose channels change, in a directory or a file."""
    for channels in ({"v": "V"}, {"v": "V", "i": "mA"}):
        with library.record(home / "data", channels, stream="lab/one") as rec:
            rec.extend({name: np.arange(100.0) for name in channels})
    with library.record(home / "data", {"x": "Cel"}, stream="lab/two") as rec:
        rec.extend(x=np.arange(50.0))
    done = scidaq("run", "add", "night", "--from", "-1h", "--to", "now", "--data-dir", "data", cwd=home)
    assert done.returncode == 0, done.stderr
    for name, streams in (("night", ["lab/one", "lab/two"]), ("lab/one", ["lab/one"])):
        done = scidaq(
            "export", name, "--format", form, "--raw", "--out", "out", "--force", "--data-dir", "data", cwd=home
        )
        assert done.returncode == 0, done.stderr
        assert (home / "out").is_dir() == (form != "hdf5")
        again = f"again from {name.replace('/', ' ')}"
        done = scidaq("import", "out", "--data-dir", again, cwd=home)
        assert done.returncode == 0, done.stderr
        before, after = content(home / "data"), content(home / again)
        assert after == {stream: before[stream] for stream in streams}


MEASURED = """
import sys
from scidaq.cli.app import run
code = run(sys.argv[1:])
with open("/proc/self/status") as file:  # unlike ru_maxrss, it knows nothing of the process that this one came from
    print(next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM")))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "arrow", "hdf5"])
def test_memory_does_not_grow_with_the_rows(form: str, tmp_path: Path) -> None:
    columns: dict[str, Any] = {f"c{i}": np.arange(400_000.0) for i in range(8)}
    with library.record(tmp_path / "data", {f"c{i}": "V" for i in range(8)}, stream="fast/wave") as rec:
        for _ in range(15):
            rec.extend(**columns)
    size = sum(p.stat().st_size for p in (tmp_path / "data/streams").rglob("*.arrows"))
    assert size > 400e6
    done = subprocess.run(
        [
            *(sys.executable, "-c", MEASURED, "export", "fast/wave", "--format", form, "--compression", "none"),
            *("--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")),
        ],
        env=environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 300, done.stdout
