"""The examples run: the configuration, the reading, the driver as a package that somebody installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from examples import read_stream
from examples.thermometer.test_thermometer import TestThermometer, simulated_thermometer
from scidaq.block import Block
from scidaq.query import Reader
from tests.docs.commands import ROOT, Code, Newcomer

__all__ = ["TestThermometer"]  # collected here: the driver keeps the contract

EXAMPLES = ROOT / "examples"


@pytest.mark.slow
def test_the_laboratory_is_recorded_and_read_by_pyarrow_alone(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path)
    newcomer.do(Code("toml", (EXAMPLES / "lab.toml").read_text()))
    said = newcomer.do(
        Code(
            "sh",
            "python examples/multimeter.py 5025 & sleep 2\n"
            "scidaq check --config lab.toml\n"
            "scidaq serve --config lab.toml --for 2\n"
            "kill $!\n"
            "scidaq verify --config lab.toml\n"
            "python examples/read_stream.py lab-data adc/wave\n",
        )
    )
    assert "instrument dmm (scpi): scidaq, Multimeter" in said
    assert "all is well" in said
    assert "rows x 4 columns" in said
    reader = Reader(tmp_path / "lab-data")
    streams = {summary.stream for summary in reader.streams()}
    assert {"adc/wave", "dmm/readings", "dmm/ambient", "host/cpu"} <= streams
    for stream in streams:
        same(reader, tmp_path / "lab-data" / "streams" / stream, stream)


@pytest.mark.slow
def test_the_oscilloscope_is_recorded_with_its_settings(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path)
    newcomer.do(Code("toml", (EXAMPLES / "scope.toml").read_text().replace("5026", "5025")))
    said = newcomer.do(
        Code(
            "sh",
            "python examples/oscilloscope.py 5025 & sleep 2\n"
            "scidaq check --config lab.toml\n"
            "scidaq serve --config lab.toml --for 2\n"
            "kill $!\n"
            "scidaq verify --config lab.toml\n"
            "scidaq read scope/settings --config lab.toml\n",
        )
    )
    assert "instrument scope (scpi): scidaq, Oscilloscope" in said
    assert "all is well" in said
    assert "trigger_slope" in said
    reader = Reader(tmp_path / "scope-data")
    traces = [item for item in reader.blocks("scope/traces") if isinstance(item, Block)]
    assert traces
    for block in traces:
        volts = block.physical("ch2")
        assert block.valid is None
        assert abs(volts.min()) < 0.1
        assert abs(volts.max() - 3.3) < 0.1
        assert np.allclose(block.column("x_increment"), 2e-6)


def same(reader: Reader, directory: Path, stream: str) -> None:
    """What pyarrow alone reads of a stream is what scidaq reads."""
    plain = read_stream.read(directory)
    ours = [item for item in reader.blocks(stream) if isinstance(item, Block)]
    assert ours, f"{stream} has no rows"
    times = np.concatenate([block.time_ns() for block in ours])
    assert np.array_equal(plain.pop("time").astype(np.int64), times)
    channels = ours[0].schema.channels
    numbers = [c.dtype != "text" for c in channels for _ in range(c.elements)]
    columns = [[c.physical(b.columns[i]).reshape(b.rows, -1) for b in ours] for i, c in enumerate(channels)]
    flat = [column for parts in columns for column in np.concatenate(parts).T]
    assert len(flat) == len(plain)
    for ours_, theirs, numeric in zip(flat, plain.values(), numbers, strict=True):
        if numeric:
            there = ~np.isnan(theirs.astype(np.float64))  # a missing value is NaN in the one, masked in the other
            assert np.array_equal(ours_[there].astype(np.float64), theirs[there].astype(np.float64))


@pytest.mark.slow
def test_the_driver_works_as_an_installed_package(tmp_path: Path) -> None:
    """As pip would leave it: the module, and an entry point in its metadata."""
    project = tomllib.loads((EXAMPLES / "thermometer/pyproject.toml").read_text())["project"]
    site, info = tmp_path / "site", tmp_path / "site" / "scidaq_thermometer-0.1.0.dist-info"
    info.mkdir(parents=True)
    (site / "thermometer.py").symlink_to(EXAMPLES / "thermometer/thermometer.py")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["scidaq.drivers"]
    (info / "entry_points.txt").write_text(
        "[scidaq.drivers]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    home = tmp_path / "home"
    home.mkdir()
    newcomer = Newcomer(home)
    with simulated_thermometer() as port:
        instrument = f'[instruments.room]\ndriver = "thermometer"\nhost = "127.0.0.1"\nport = {port}\n'
        newcomer.do(Code("toml", f'[station]\ndata_dir = "data"\n{instrument}'))
        said = newcomer.do(
            Code(
                "sh",
                f"export PYTHONPATH={site}\n"
                "scidaq check --config lab.toml\n"
                "scidaq serve --config lab.toml --for 1\n"
                "scidaq read room/temperature --last 3 --config lab.toml\n",
            )
        )
    assert "instrument room (thermometer): Example, Thermometer, room" in said
    assert said.rstrip().endswith("23.5")
