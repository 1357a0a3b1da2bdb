"""Exports are what NeXus tools, Octave and the examples take them for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scidaq.archive import Request, Source, export
from scidaq.block import Block, Calibration, Channel, Gap, Reason, schema
from tests.archive.streams import ORIGIN

EXAMPLES = Path(__file__).parents[2] / "examples" / "exports"
STREAM = "dmm/readings"
T0 = 1_767_268_800_000_000_000
SCHEMA = schema(
    [
        Channel("voltage", "int16", calibration=Calibration(0.5, 1.0, "V")),
        Channel("on", "bool"),
        Channel("note", "text", max_bytes=8),
        Channel("adc", "float32", "mV", (2,), ("left", "right")),
        Channel("image", "uint8", shape=(2, 3)),
        Channel("odd-name:1", "uint64"),
    ],
    rate=10,
)


def rows(first: int, count: int = 20) -> Block:
    values = {
        "voltage": np.full(count, 4),
        "on": np.arange(count) % 2 == 0,
        "note": ["µA", "", "plain", 'q"'] * (count // 4),
        "adc": np.ones((count, 2)),
        "image": np.arange(count * 6).reshape(count, 2, 3),
        "odd-name:1": np.full(count, 2**64 - 1, np.uint64),
    }
    there = {"voltage": np.arange(count) != 3}
    t0_ns = T0 + SCHEMA.span_ns(first)
    return Block.of(SCHEMA, values, valid=there, first=first, t0_ns=t0_ns).placed(STREAM, 0, first, t0_ns)


def made(target: Path, form: str, raw: bool = False) -> Path:
    items: list[Block | Gap] = [rows(0), Gap(STREAM, 0, 20, 30, Reason.OVERFLOW, T0, T0 + 1), rows(30)]
    export([Source(STREAM, items)], Request(form, target, raw), ORIGIN)
    return target


def said(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("raw", [False, True])
def test_nexus_finds_nothing_wrong(raw: bool, tmp_path: Path) -> None:
    """By the validator of nexusformat, with the definitions that it ships."""
    code = "import sys; from nexusformat.nexus.validate import validate_file; print(validate_file(sys.argv[1]))"
    out = said(sys.executable, "-c", code, made(tmp_path / "a.h5", "hdf5", raw))
    assert "(0, 0)" in out, out


@pytest.mark.slow
def test_nexus_finds_what_to_plot(tmp_path: Path) -> None:
    code = """
import sys
from nexusformat.nexus import nxload
data = nxload(sys.argv[1]).plottable_data
print(data.nxsignal.nxname, data.nxaxes[0].nxname, data.nxsignal.attrs["units"])
"""
    assert said(sys.executable, "-c", code, made(tmp_path / "a.h5", "hdf5")).split() == ["voltage", "time", "V"]


@pytest.mark.slow
@pytest.mark.requires("Octave", shutil.which("octave") is not None, "apt install octave")
def test_octave_opens_it_as_the_example_says(tmp_path: Path) -> None:
    out = said("octave", "--no-gui", "-q", EXAMPLES / "with_octave.m", made(tmp_path / "a.mat", "mat"))
    assert out.splitlines() == [
        "dmm/readings: 40 rows in 4.900 s",
        "voltage: mean 3 V",
        "gaps: 1, because of overflow",
    ]


@pytest.mark.slow
@pytest.mark.requires("Octave", shutil.which("octave") is not None, "apt install octave")
def test_octave_reads_every_kind_of_value(tmp_path: Path) -> None:
    check = """
all = load(argv(){1}); r = all.dmm_readings;
assert(class(r.time), 'int64'); assert(r.time(1), int64(1767268800000000000));
assert(class(r.on), 'logical'); assert(r.on(1:2), [true; false]);
assert(r.note{1}, 'µA'); assert(isempty(r.note{2})); assert(r.note{4}, 'q"');
assert(size(r.adc), [2 40]); assert(size(r.image), [3 2 40]);
assert(r.image(:,:,2)', uint8([6 7 8; 9 10 11]));
assert(r.odd_name_1(1), intmax('uint64'));
assert(all.provenance.station, 'lab');
"""
    (tmp_path / "check.m").write_text(check, encoding="utf-8")
    said("octave", "--no-gui", "-q", tmp_path / "check.m", made(tmp_path / "a.mat", "mat"))


@pytest.mark.slow
def test_the_examples_print_what_is_there(tmp_path: Path) -> None:
    hdf5, parquet = made(tmp_path / "a.h5", "hdf5"), made(tmp_path / "a.parquet", "parquet")
    assert "voltage: mean 3 V" in said(sys.executable, EXAMPLES / "with_h5py.py", hdf5)
    assert "voltage: mean 3 V" in said(sys.executable, EXAMPLES / "with_pandas.py", parquet)
    out = said(sys.executable, EXAMPLES / "with_duckdb.py", parquet, "voltage").splitlines()
    assert out[0] == "12:00:00      10 rows  3"
    assert len(out) == 4
