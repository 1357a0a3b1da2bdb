"""What the station costs its machine: processor, memory, room on the disk. What cannot be read is not told."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

_PAUSE_EVERY = 256
"""Files after which somebody else may have the interpreter."""


class Process:
    """The process of the station."""

    def __init__(self) -> None:
        self._seen: tuple[float, float] | None = None
        self.cpu_percent: float | None = None
        """Over the time between the last two samples, 100 for one core; None before there were two."""

    def sample(self, now_s: float) -> None:
        """Look at the processor time; to be called every few seconds, by one thread."""
        used = os.times()
        used_s = used.user + used.system
        if self._seen is not None and now_s > self._seen[0]:
            self.cpu_percent = 100 * max(0.0, used_s - self._seen[1]) / (now_s - self._seen[0])
        self._seen = now_s, used_s

    @staticmethod
    def memory_bytes() -> int | None:
        """Memory that it occupies now; None where the system does not tell."""
        import psutil

        try:
            return int(psutil.Process().memory_info().rss)
        except (psutil.Error, OSError):
            return None


class Pace:
    """How fast a number that only grows has grown lately."""

    def __init__(self, window_s: float = 3600.0, least_s: float = 10.0) -> None:
        self._window_s, self._least_s = window_s, least_s
        self._seen: deque[tuple[float, float]] = deque()

    def sample(self, now_s: float, value: float) -> None:
        """What it is now."""
        self._seen.append((now_s, value))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= self._window_s:
            self._seen.popleft()

    def per_s(self) -> float | None:
        """Per second, over the window; None before there is enough of it."""
        if not self._seen:
            return None
        (begin_s, first), (end_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end_s - begin_s) if end_s - begin_s >= self._least_s else None


def usage(places: Mapping[str, Path]) -> dict[str, int]:
    """Bytes that the files of each place occupy, itself or what is below it; places that are not there are left out."""
    out = {}
    for name, path in places.items():
        try:
            out[name] = _occupied(path)
        except OSError:  # it is not there, or may not be read
            continue
    return out


def _occupied(path: Path) -> int:
    stat = path.stat()
    if not path.is_dir():
        return _bytes(stat)
    total, count, waiting = 0, 0, [str(path)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += _bytes(entry.stat(follow_symlinks=False))
                    count += 1
                    if count % _PAUSE_EVERY == 0:
                        time.sleep(0.001)
        except FileNotFoundError:  # removed just now
            continue
    return total


def _bytes(stat: os.stat_result) -> int:
    blocks = getattr(stat, "st_blocks", None)
    return stat.st_size if blocks is None else blocks * 512
