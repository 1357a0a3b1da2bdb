"""A file system of 64 MB runs full while recording, and is freed again: nothing is lost that was durable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.station.full_disk import SCENARIOS

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--mount"] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["unshare", "-r", "--mount"]
MOUNTS = {
    "tmpfs": 'mount -t tmpfs -o size=64m none "$0"',
    "ext4": 'truncate -s 64M "$0.img" && mkfs.ext4 -q "$0.img" && mount -o loop "$0.img" "$0"',
}


@lru_cache
def _mounts(kind: str) -> bool:
    """Whether this user may mount one, in a namespace of its own."""
    if not shutil.which("unshare"):
        return False
    place = Path(os.environ.get("TMPDIR", "/tmp")) / f"scidaq-mount-{os.getpid()}"
    place.mkdir()
    try:
        return subprocess.run(_command(kind, place, "true"), capture_output=True, timeout=20).returncode == 0
    finally:
        place.rmdir()
        place.with_name(place.name + ".img").unlink(missing_ok=True)


def _command(kind: str, place: Path, *then: str) -> list[str]:
    return [*NAMESPACE, "sh", "-c", f'{MOUNTS[kind]} && exec "$@"', str(place), *then]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kind", MOUNTS)
def test_a_small_file_system_runs_full(
    tmp_path: Path, kind: str, scenario: str, requires: Callable[[str, bool, str], None]
) -> None:
    how = "root, or user namespaces; for ext4 root, mkfs.ext4 and loop devices"
    requires(f"the right to mount {kind}", _mounts(kind), how)
    place = tmp_path / "disk"
    place.mkdir()
    program = [sys.executable, "-X", "dev", "-m", "tests.station.full_disk", scenario, str(place)]
    done = subprocess.run(_command(kind, place, *program), cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "all is well"
