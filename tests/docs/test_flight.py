"""The page about Arrow Flight: what it shows runs as it is written, against the demo and the producer of its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scidaq.cli.demo import simulated
from scidaq.clock import SystemClock
from scidaq.config import Base, Override, load
from scidaq.station import Station
from scidaq.web import FlightDoor, FlightOptions, SecurityOptions
from tests.docs.commands import ROOT, Newcomer, blocks

PAGE = ROOT / "docs" / "flight.md"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[FlightDoor]:
    (rig,) = [one.text for one in blocks(ROOT / "docs" / "instruments.md") if 'driver = "push"' in one.text]
    clock = SystemClock()
    with simulated() as configuration:
        elsewhere = Override("--data-dir", ("station", "data_dir"), str(tmp_path / "data"))
        config = load(base=Base("demo", f"{configuration}\n{rig}"), overrides=[elsewhere])
        with Station(config.plan(clock), clock) as station:
            options, security = FlightOptions(port=0), SecurityOptions(keys=False)
            with FlightDoor(station, tmp_path / "data", options, security) as door:
                for _ in range(1000):
                    streams = {s.stream: s.durable_rows for s in station.stats().recorder.streams}
                    if streams.get("fast/wave", 0) > 20_000 and streams.get("dmm/readings", 0) > 3:
                        break
                    clock.wait(station._stop, 0.02)
                yield door


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path, demo: FlightDoor) -> None:
    (tmp_path / "somewhere").mkdir()
    newcomer = Newcomer(tmp_path / "somewhere")
    text = "".join(code.text for code in blocks(PAGE) if code.language == "python")
    said = newcomer.do(type(blocks(PAGE)[0])("python", text.replace("grpc://127.0.0.1:8081", demo.address)))
    assert "dmm/readings" in said
    assert "b'V'" in said
    assert "of epoch 0" in said
    assert "rows in 1 part" in said
    assert "live: True" in said
    assert "durable: 2" in said
    assert "go on at row 0" in said
    assert "refused: no stream 'dmm/reading'" in said
