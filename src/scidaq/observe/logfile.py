"""The log on disk: one file a day, the older ones compressed, and those beyond their time removed.

Days are those of UTC and of the events themselves. Bytes go to the system at once, so that only a power cut can take a
line; `close` makes them durable. Used by one thread.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import threading
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

NAME = "scientific-daq.log"
_OLD = re.compile(r"scientific-daq-(\d{4}-\d\d-\d\d)(?:\.\d+)?\.log(\.gz)?")
NS_A_DAY = 86_400_000_000_000


class DayFile:
    """`scientific-daq.log` in a directory, made where it is missing. Every method raises `OSError`."""

    def __init__(self, directory: Path, retention_days: int) -> None:
        self._dir, self._days = directory, retention_days
        self._fd: int | None = None
        self._day = 0
        self._tidying: threading.Thread | None = None

    def write(self, data: bytes, t_ns: int) -> None:
        """Append whole lines, whose events are of the UTC day of `t_ns`."""
        day = t_ns // NS_A_DAY
        if self._fd is None:
            self._open(day)
        elif day > self._day:  # never back: a clock that was set back stays in the present file
            self._rotate(day)
        view = memoryview(data)
        while view and self._fd is not None:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        """Make everything durable, and wait a little for what is being compressed."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        if self._tidying is not None:
            self._tidying.join(5.0)  # what is left is done at the next start

    def give_up(self) -> None:
        """The file refuses: let go of it, to open it anew."""
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None

    # ---- days ----

    def _open(self, day: int) -> None:
        self._dir.mkdir(parents=True, exist_ok=True)
        path = self._dir / NAME
        self._day = day
        if path.exists() and path.stat().st_size:
            then = path.stat().st_mtime_ns // NS_A_DAY
            if then < day:
                self._put_away(then)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o640)
        size = os.fstat(self._fd).st_size
        if size and _last_byte(path) != b"\n":  # a line that a kill has torn
            os.write(self._fd, b"\n")
        self._tidy()

    def _rotate(self, day: int) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        self._put_away(self._day)
        self._open(day)

    def _put_away(self, day: int) -> None:
        """Give the present file the name of its day."""
        stem, count = f"scientific-daq-{_date(day)}", 0
        name = f"{stem}.log"
        while (self._dir / name).exists() or (self._dir / f"{name}.gz").exists():
            count += 1
            name = f"{stem}.{count}.log"
        os.rename(self._dir / NAME, self._dir / name)

    def _tidy(self) -> None:
        """Compress and remove in a thread of its own: a large file takes seconds."""
        before, today = self._tidying, _date(self._day)

        def run() -> None:
            if before is not None:
                before.join()
            tidy(self._dir, self._days, today)

        self._tidying = threading.Thread(target=run, name="log-tidy", daemon=True)
        self._tidying.start()


def tidy(directory: Path, retention_days: int, today: date) -> None:
    """Compress the files of past days, and remove those older than `retention_days`.

    The newest `retention_days` of them stay whatever the clock says: one that jumped must not empty the directory.
    """
    with suppress(OSError):
        for path in directory.glob(".scientific-daq-*.tmp"):  # of a compression that was interrupted
            path.unlink(missing_ok=True)
        for path in sorted(directory.glob("scientific-daq-*.log")):
            if _OLD.fullmatch(path.name):
                _compress(path)
        old = sorted((m[1], path) for path in directory.iterdir() if (m := _OLD.fullmatch(path.name)))
        days = sorted({day for day, _ in old})
        limit = (today - timedelta(days=retention_days)).isoformat()
        gone = {day for day in days[: max(0, len(days) - retention_days)] if day < limit}
        for day, path in old:
            if day in gone:
                path.unlink(missing_ok=True)


def _compress(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(path, "rb") as plain, gzip.open(temporary, "wb", compresslevel=6) as packed:
        shutil.copyfileobj(plain, packed, 1 << 18)
    os.chmod(temporary, 0o640)
    os.replace(temporary, path.with_name(f"{path.name}.gz"))
    path.unlink()


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _date(day: int) -> date:
    return datetime.fromtimestamp(day * 86_400, UTC).date()
