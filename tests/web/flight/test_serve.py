"""`scidaq serve` opens the Flight door, tells of it, and leaves nothing of it behind, also when it is killed."""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from pyarrow import flight

from tests.cli.conftest import CONFIGURATION, started
from tests.web.flight.conftest import with_key
from tests.web.live import until
from tests.web.talk import ask

MORE = """
[flight]
enabled = true
port = 0

[monitoring]
health_check_interval_seconds = 0.5
"""


def address(process: subprocess.Popen[str], what: str) -> str:
    """What the console says of a door."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(what):
            return line.split()[3 if what.startswith("Arrow") else 2]
    pytest.fail(f"it never said {what!r}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_there_from_the_beginning_to_the_end(tmp_path: Path, number: int) -> None:
    (tmp_path / "lab.toml").write_text(f"{CONFIGURATION}{MORE}")
    with started("serve", "--config", "lab.toml", cwd=tmp_path) as process, ExitStack() as stack:
        stack.callback(process.kill)
        web, bulk = address(process, "HTTP at"), address(process, "Arrow Flight at")
        key = (tmp_path / "scidaq-data" / "admin.key").read_text().strip()
        (child,) = [one for one in psutil.Process(process.pid).children() if "scidaq.web.flight" in one.cmdline()]
        with flight.connect(bulk) as client:
            until(lambda: len(list(client.list_flights(b"", with_key(key)))) == 2)
        given = {"Authorization": f"Bearer {key}"}
        until(lambda: "flight" in ask(web, "/health", headers=given).json["components"])
        assert ask(web, "/health", headers=given).json["components"]["flight"]["status"] == "healthy"
        until(lambda: b"scidaq_flight_calls_total{" in ask(web, "/metrics", headers=given).body)
        assert b"scidaq_flight_up 1.0" in ask(web, "/metrics", headers=given).body
        process.send_signal(number)
        process.communicate(timeout=30)
        child.wait(15)
