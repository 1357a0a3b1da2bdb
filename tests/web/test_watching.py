"""What is put wrong with a station shows over HTTP: in the right component and in the metrics, and goes by itself."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from scidaq.instruments import WaveformDriver
from scidaq.observe import MonitoringOptions
from scidaq.station import Station, station, watching
from scidaq.store import PosixFiles
from scidaq.testing.faults import FaultyFiles
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors
from tests.clock.shifted import ShiftedClock
from tests.deploy.test_prometheus import RULES, free_port, needs_prometheus
from tests.deploy.test_prometheus import ask as ask_prometheus
from tests.faults.test_catalog import trouble
from tests.station.plans import IMPATIENT, plan, waveform
from tests.web.live import until
from tests.web.talk import Answer, ask

HANGS_SOON = replace(IMPATIENT, hang_after_s=0.3, late_factor=2.0, reconnect_initial_s=2.0, reconnect_max_s=2.0)
DEADLINE_S = 4.0
"""What a check may take, and what else a test machine does."""
LIVE_S = 1.0
LEVELS = {"healthy": 0, "degraded": 1, "unhealthy": 2}


@dataclass
class Watched:
    """A station, seen from outside only."""

    station: Station
    clock: ShiftedClock
    files: FaultyFiles
    data_dir: Path
    address: str
    key: str

    def get(self, path: str) -> Answer:
        return ask(self.address, path, headers={"Authorization": f"Bearer {self.key}"})

    def health(self) -> dict[str, Any]:
        """The report, within its deadline; meanwhile the process is alive."""
        began = time.monotonic()
        answer = self.get("/health")
        assert time.monotonic() - began < DEADLINE_S
        report: dict[str, Any] = answer.json
        assert answer.status == (503 if report["status"] == "unhealthy" else 200)
        began = time.monotonic()
        assert ask(self.address, "/health/live").status == 200
        assert time.monotonic() - began < LIVE_S
        return report

    def until(self, component: str, status: str) -> dict[str, Any]:
        """What the report says of a component once it has a status."""
        seen: list[dict[str, Any]] = []

        def there() -> bool:
            seen.append(self.health()["components"][component])
            return bool(seen[-1]["status"] == status)

        until(there)
        return seen[-1]

    def level(self, component: str) -> float:
        """What the metrics say of a component."""
        return self.metric(f'scidaq_component_health{{component="{component}"}}')

    def metric(self, series: str) -> float:
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(f"{series} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"{series} is not there")

    def until_well(self) -> None:
        until(lambda: self.health()["status"] == "healthy")


@contextmanager
def watched(data_dir: Path, **supervision: Any) -> Iterator[Watched]:
    clock, files = ShiftedClock(), FaultyFiles()
    instruments = waveform("adc", clock, **supervision), waveform("other", clock)
    monitoring = MonitoringOptions(health_check_interval_seconds=0.1)
    made = replace(plan(data_dir, *instruments), monitoring=monitoring)
    with Station(made, clock, files) as one:
        keys = KeyStore(data_dir, clock)
        _, key = keys.create("prometheus", ["metrics"], days=None)
        options = ServerOptions(port=0, requests_per_second=0)
        with open_doors(one, one.stats().uuid, keys, options, SecurityOptions()) as web:
            yield Watched(one, clock, files, data_dir, web.address, key)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, runtime: Path) -> None:
    monkeypatch.setattr(station, "CLOCK_WATCH_S", 0.02)
    monkeypatch.setattr(watching, "STEP_TOLD_S", 1.0)
    monkeypatch.setattr("scidaq.store.Projector.RETRY_S", 0.02)
    monkeypatch.setattr("scidaq.catalog.database.BUSY_MS", 20)


def hang(one: Watched) -> AbstractContextManager[Any]:
    driver = one.station._supervision.instruments["adc"].driver
    assert isinstance(driver, WaveformDriver)
    driver.hang(1.5, stubborn=True)
    return nullcontext()


def lock(one: Watched) -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = trouble("locked", one.data_dir / "catalog.sqlite")
    return context


@contextmanager
def fill(one: Watched) -> Iterator[None]:
    one.files.also("enospc@1+")
    yield
    one.files.release()


def jump(one: Watched) -> AbstractContextManager[Any]:
    one.clock.wrong_ns = 3600 * 1_000_000_000
    return nullcontext()


@pytest.mark.parametrize(
    ("harm", "component", "status", "words"),
    [
        (hang, "instrument:adc", "unhealthy", "read has not returned for"),
        (lock, "catalog", "unhealthy", "recording goes on"),
        (fill, "storage", "unhealthy", "the disk refuses rows of"),
        (jump, "clock", "degraded", "the wall clock was stepped by +3600.0"),
    ],
    ids=["instrument hangs", "catalog locked", "disk full", "clock jumps"],
)
def test_it_is_seen_named_measured_and_over_by_itself(
    tmp_path: Path,
    harm: Callable[[Watched], AbstractContextManager[Any]],
    component: str,
    status: str,
    words: str,
) -> None:
    with watched(tmp_path / "d", supervision=HANGS_SOON) as one:
        one.until_well()
        assert one.level(component) == LEVELS["healthy"]
        with harm(one):
            seen = one.until(component, status)
            assert words in seen["reason"]
            assert seen["since"].endswith("Z")
            until(lambda: one.level(component) == LEVELS[status])
        one.until_well()
        until(lambda: one.level(component) == LEVELS["healthy"])


@contextmanager
def scraped(directory: Path, one: Watched) -> Iterator[int]:
    """A real Prometheus with our rules, which has a key of the scope `metrics`; the port at which it answers."""
    (directory / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\nrule_files: ['{RULES}']\nscrape_configs:\n"
        f"  - job_name: scidaq\n    authorization: {{credentials: {one.key}}}\n"
        f"    static_configs: [{{targets: ['{one.address.removeprefix('http://')}']}}]\n"
    )
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with open(directory / "said.txt", "w") as said:
        process = subprocess.Popen(command, cwd=directory, stdout=said, stderr=said, env=dict(os.environ))
        try:
            yield port
        finally:
            process.terminate()
            process.wait(30)


def firing(port: int) -> set[str]:
    try:
        alerts = ask_prometheus(port, "alerts")["alerts"]
    except OSError:  # it has only just started
        return {"not there yet"}
    return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


@pytest.mark.slow
@needs_prometheus
def test_a_real_prometheus_fires_and_is_quiet_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10 << 30]
    monkeypatch.setattr(PosixFiles, "free_space", lambda *_: free[0])
    with watched(tmp_path / "d") as one:
        one.until_well()
        with scraped(tmp_path, one) as port:
            until(lambda: firing(port) == set(), 30)
            up = 'query?query=up{job="scidaq"}==1'
            until(lambda: ask_prometheus(port, up)["result"], 30)
            free[0] = 1 << 20
            until(lambda: firing(port) == {"ScidaqDiskFull"}, 30)
            assert "too little room" in one.until("storage", "unhealthy")["reason"]
            free[0] = 10 << 30
            until(lambda: firing(port) == set(), 30)
        one.until_well()
