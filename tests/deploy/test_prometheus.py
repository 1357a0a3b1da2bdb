"""The alert rules, the dashboard, and a real Prometheus that scrapes a real station."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from scidaq.observe import CATALOGUE, LoggingOptions, Logs
from scidaq.station import Station, watching
from tests.clock.shifted import ShiftedClock
from tests.station.plans import plan, wait_for, waveform

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "scidaq.json"
NAMES = {m.name for m in CATALOGUE}
SERIES = re.compile(r"\bscidaq_\w+")
NOT_YET = {
    "scidaq_event_loop_lag_seconds",
    "scidaq_http_requests_total",
    "scidaq_http_connections",
    "scidaq_live_viewers",
    "scidaq_live_views",
    "scidaq_live_frames_total",
    "scidaq_live_skipped_frames_total",
    "scidaq_live_bytes_total",
    "scidaq_live_late_rows_total",
    "scidaq_notifications_total",
    *(name for name in NAMES if name.startswith("scidaq_flight_")),
}
"""What only the doors know, and whoever is told."""
needs_prometheus = pytest.mark.requires(
    "prometheus", shutil.which("promtool") is not None and shutil.which("prometheus") is not None, "apt install it"
)


def unknown(text: str) -> set[str]:
    return {n for n in SERIES.findall(text) if re.sub(r"_(bucket|sum|count)$", "", n) not in NAMES and n not in NAMES}


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text())


def test_rules_and_dashboard_speak_of_metrics_that_there_are() -> None:
    assert unknown(RULES.read_text()) == set()
    expressions = [t["expr"] for p in json.loads(DASHBOARD.read_text())["panels"] for t in p["targets"]]
    assert len(expressions) > 15
    assert unknown("\n".join(expressions)) == set()
    assert unknown("scidaq_nothing") == {"scidaq_nothing"}


def test_every_alert_has_a_test_and_a_line_in_the_runbook() -> None:
    tests = RULES.with_name("alerts_test.yml").read_text()
    page = (ROOT / "docs" / "operations.md").read_text()
    for alert in alerts():
        assert f"- name: {alert} fires" in tests
        assert f"- name: {alert} is quiet" in tests
        assert re.search(rf"^### {alert}\n\w", page, re.MULTILINE)
        assert f"runbook: docs/operations.md#{alert.lower()}" in RULES.read_text()
    assert set(re.findall(r"^### (\w+)", page, re.MULTILINE)) == set(alerts())


@needs_prometheus
def test_the_rules_do_what_their_tests_say() -> None:
    for what in (["check", "rules", RULES.name], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(["promtool", *what], cwd=RULES.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def served(one: Station) -> Iterator[int]:
    """The metrics over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = one.metrics.render(self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as answer:
        return json.load(answer)["data"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def prometheus(directory: Path, target: int) -> Iterator[int]:
    """A Prometheus that scrapes it every second; the port at which it answers."""
    (directory / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s}}\nrule_files: ['{RULES}']\nscrape_configs:\n"
        f"  - job_name: scidaq\n    static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
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


@pytest.mark.slow
@needs_prometheus
def test_a_real_prometheus_has_every_metric_and_sees_it_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SAMPLE_S", 0.1)
    monkeypatch.setattr("scidaq.observe.host.Pace.__init__.__defaults__", (3600.0, 1.0))
    clock = ShiftedClock()
    options = LoggingOptions(console="never")
    with (
        Logs(options, tmp_path / "logs", clock) as logs,
        Station(plan(tmp_path / "d", waveform("adc", clock)), clock) as one,
        served(one) as target,
    ):
        logs.begin_file()
        one.metrics.add(logs.samples)
        with prometheus(tmp_path, target) as port:
            wait_for(lambda: _answers(port), 30)
            wait_for(lambda: _value(port, "scidaq_durable_rows_total") > 0, 30)
            first = _value(port, "scidaq_durable_rows_total")
            wait_for(lambda: _value(port, "scidaq_durable_rows_total") > first, 30)
            wait_for(lambda: _missing(port) == set(), 30)
            metadata = ask(port, "metadata")
            for metric in CATALOGUE:
                if metric.name in NOT_YET:
                    continue
                name = metric.name.removesuffix("_total").removesuffix("_info")
                (known,) = metadata[name]
                unit = metric.unit if name.endswith(f"_{metric.unit}") else ""
                assert known == {"type": metric.kind, "help": metric.help, "unit": unit}
            assert ask(port, "query?query=ALERTS")["result"] == []
            assert len(ask(port, "rules")["groups"][0]["rules"]) == len(alerts())


def _answers(port: int) -> bool:
    try:
        return bool(ask(port, "targets")["activeTargets"][0]["health"] == "up")
    except (OSError, LookupError):  # it has only just started
        time.sleep(0.2)
        return False


def _value(port: int, name: str) -> float:
    time.sleep(0.2)
    found = ask(port, f"query?query=sum({name})")["result"]
    return float(found[0]["value"][1]) if found else 0.0


def _missing(port: int) -> set[str]:
    time.sleep(0.2)
    names = set(ask(port, "label/__name__/values"))
    wanted = {f"{m.name}_count" if m.kind == "histogram" else m.name for m in CATALOGUE if m.name not in NOT_YET}
    return wanted - names
