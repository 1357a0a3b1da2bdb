"""Fresh directories to write in: on the disk that the checkout lies on, removed afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

BASE = Path(__file__).resolve().parent.parent / "build" / "bench"


@contextlib.contextmanager
def fresh(base: Path = BASE) -> Iterator[Path]:
    """An empty directory. Its removal has reached the disk on return, so that the next run is not disturbed by it."""
    base.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=base))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        fd = os.open(base, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def on_disk(directory: Path) -> int:
    """Bytes that the files below a directory occupy, the directories themselves included."""
    total = 0
    for parent, _, names in os.walk(directory):
        for path in (parent, *(os.path.join(parent, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(path).st_blocks * 512
    return total
