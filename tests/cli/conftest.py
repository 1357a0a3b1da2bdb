"""A station that has recorded, and the program as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGURATION = """\
[storage]
sync_interval_ms = 50

[instruments.adc]
driver = "waveform"
channels = 2
rate_hz = 1000

[instruments.slow]
driver = "waveform"
channels = 1
rate_hz = 50
layout = "columns"
"""


def environment() -> dict[str, str]:
    """Without what the user's own environment says to scidaq, and on any free port."""
    rest = {k: v for k, v in os.environ.items() if not k.startswith("SCIDAQ_")}
    return rest | {"SCIDAQ_SERVER__PORT": "0", "SCIDAQ_FLIGHT__ENABLED": "false", "COLUMNS": "200", "NO_COLOR": "1"}


def scidaq(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "scidaq", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def started(*arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start the program."""
    return subprocess.Popen(
        [sys.executable, "-m", "scidaq", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a second of two streams; the tests only read it."""
    home = tmp_path_factory.mktemp("recorded")
    (home / "lab.toml").write_text(CONFIGURATION)
    done = scidaq("serve", "--for", "1", "--config", "lab.toml", "--data-dir", "data", cwd=home)
    assert done.returncode == 0, done.stderr
    return home / "data"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing in the environment but that any port will do."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("SCIDAQ_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SCIDAQ_SERVER__PORT", "0")
    monkeypatch.setenv("SCIDAQ_FLIGHT__ENABLED", "false")
    return tmp_path
