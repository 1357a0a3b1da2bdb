"""What is pure of the dashboard, tested in Node: formats and frames; tiles, drawing, axes and links of plots."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tools.dashboard import UI, find_node

NODE = find_node()
BUNDLER = UI / "node_modules" / "rolldown" / "bin" / "cli.mjs"
pytestmark = pytest.mark.requires(
    "Node", NODE is not None and BUNDLER.exists(), "install Node 20.19 or newer, then: python tools/dashboard.py --dev"
)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns"])
@pytest.mark.parametrize("name", [path.relative_to(UI / "src").as_posix() for path in UI.glob("src/**/*.test.ts")])
def test_pure_parts(tmp_path: Path, name: str, zone: str) -> None:
    assert NODE is not None
    made = tmp_path / "parts.test.mjs"
    source = UI / "src" / name
    bundle = [*NODE, str(BUNDLER), str(source), "--platform", "node", "--format", "esm", "-o", str(made)]
    subprocess.run(bundle, cwd=UI, check=True, capture_output=True, timeout=120)
    run = [*NODE, "--test", str(made)]
    told = subprocess.run(run, env={**os.environ, "TZ": zone}, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stdout[-4000:]
