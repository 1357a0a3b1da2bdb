"""The log of a station that somebody started and stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import orjson

from tests.cli.conftest import environment, scidaq

CONFIGURATION = """
[station]
data_dir = "d"

[logging]
console = "never"

[instruments.adc]
driver = "waveform"
rate_hz = 1000
"""


def test_after_sigterm_the_last_line_is_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "scidaq", "serve", "--config", "lab.toml"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("recording adc")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    lines = [orjson.loads(line) for line in (tmp_path / "d/logs/scientific-daq.log").read_bytes().splitlines()]
    assert lines[-1]["event"] == "instrument stopped"
    assert lines[-1]["instrument"] == "adc"
    assert (tmp_path / "d/logs/scientific-daq.log").read_bytes().endswith(b"\n")
    # The logs in the data directory are nothing that anybody has to mend.
    assert scidaq("repair", "--dry-run", "--data-dir", "d", cwd=tmp_path).returncode == 0
    assert scidaq("verify", "--data-dir", "d", cwd=tmp_path).returncode == 0
