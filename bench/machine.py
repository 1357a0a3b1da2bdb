"""The machine that figures belong to, without its name and its paths."""

from __future__ import annotations

import mmap
import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from scidaq.store import file_system

LIBRARIES = ("scidaq", "numpy", "pyarrow", "crc32c", "h5py", "tables", "nptdms")
KEPT_WARM = 0.85
"""How much of the free memory `warm` touches; the rest is for others."""
_PROCESSORS = Path("/proc/cpuinfo")


def processor() -> str:
    """The model of the CPU as the system gives it."""
    if _PROCESSORS.exists():
        for line in _PROCESSORS.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of what is installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def described(directory: Path) -> str:
    """One sentence: processor, memory, kernel, file system of `directory`, Python, libraries, date."""
    memory = psutil.virtual_memory().total / (1 << 30)
    libraries = ", ".join(f"{name} {number}" for name, number in versions().items())
    return (
        f"{time.strftime('%Y-%m-%d')}: {processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; "
        f"{platform.system()} {platform.release()}, {file_system(directory) or 'unknown file system'}; "
        f"Python {platform.python_version()}, {libraries}."
    )


def warm(seconds: float) -> int:
    """Touch the memory that is free, for at most so long; the bytes touched. To be run in a process of its own.

    A virtual machine gets its memory from the host at the first touch, which takes seconds per GiB: without this,
    whoever writes through the page cache pays for it, and whoever does not looks that much better.
    """
    step, deadline = 256 << 20, time.monotonic() + seconds
    pieces: list[mmap.mmap] = []
    for _ in range(int(KEPT_WARM * psutil.virtual_memory().available) // step):
        piece = mmap.mmap(-1, step)
        pieces.append(piece)
        for at in range(0, step, mmap.PAGESIZE):
            piece[at] = 1
        if time.monotonic() > deadline:
            break
    return step * len(pieces)


def load() -> float:
    """What others ask of the machine now, in cores: the load average of the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
