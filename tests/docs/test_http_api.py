"""The page about the HTTP interface: what it shows runs as it is written, against the demo."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scidaq.cli.demo import simulated
from scidaq.clock import SystemClock
from scidaq.config import Base, Config, Edit, Override, Reloader, load
from scidaq.station import Station
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, WebServer, open_doors
from tests.docs.commands import ROOT, Newcomer, blocks

PAGE = ROOT / "docs" / "http-api.md"
TELLS = '"type":"urn:scidaq:'


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="scidaq-") as runtime, simulated() as configuration:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
        elsewhere = Override("--data-dir", ("station", "data_dir"), str(tmp_path / "data"))

        def again(edit: Edit | None = None) -> Config:
            return load(base=Base("demo", configuration), overrides=[elsewhere], edit=edit)

        config = again()
        with Station(config.plan(clock), clock) as station:
            keys = KeyStore(tmp_path / "data", clock)
            server, security = ServerOptions(port=0), SecurityOptions(keys=False)
            reloader = Reloader(config, again, station, clock)
            with open_doors(station, station.stats().uuid, keys, server, security, config=reloader) as web:
                for _ in range(1000):
                    streams = {s.stream: s.durable_rows for s in station.stats().recorder.streams}
                    if streams.get("fast/wave", 0) > 20_000 and streams.get("dmm/readings", 0) > 3:
                        break
                    clock.wait(station._stop, 0.02)
                yield web


@pytest.mark.slow
@pytest.mark.requires("curl", shutil.which("curl") is not None, "apt install curl")
def test_all_of_it_runs(tmp_path: Path, demo: WebServer) -> None:
    (tmp_path / "somewhere").mkdir()
    newcomer, said = Newcomer(tmp_path / "somewhere"), ""
    for code in blocks(PAGE):
        if code.language == "text":
            continue
        text = code.text.replace("http://127.0.0.1:8080", demo.address)
        printed = newcomer.do(type(code)(code.language, text))
        refused = TELLS in printed or "Traceback" in printed
        assert refused == ("/dmn" in text), printed
        said += printed
    assert '"name":"demo"' in said
    assert "did you mean 'dmm'" in said
    assert "is outside" in said
    assert "rows of time, adc" in said or "rows of ['time', 'adc']" in said
    assert "buckets, the greatest is" in said
    assert "warm-up took" in said
    assert "fast.wave.parquet" in said
    assert "bytes True" in said
    assert "bytes False" not in said
    assert (tmp_path / "somewhere" / "wave.arrows").stat().st_size > 10_000
