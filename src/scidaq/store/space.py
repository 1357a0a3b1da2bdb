"""Room on the disk: a mark below which recording pauses, and a ballast file that is given up for closing cleanly.

A disk that runs full in the middle of a write can be met by writing elsewhere later, but not by closing: gap records,
seals, the catalog and the facts need room too. So rows stop going to the disk while there is still some, wait in the
rings, become gaps of reason *disk* when those are full, and go on by themselves when somebody has made room.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import structlog

from scidaq.stats import field_of
from scidaq.store.files import Files
from scidaq.store.options import Options

log = structlog.get_logger(__name__)

BALLAST = "ballast"
_LOW_SHARE, _BALLAST_SHARE = 8, 16
"""At most this part of a small file system is kept free, and filled."""


@dataclass(frozen=True, slots=True)
class SpaceStats:
    """Room where the data lies."""

    free_bytes: int = field_of("By", "Free space when it was last looked at, less what waits to be written.")
    low_bytes: int = field_of("By", "Below this much free space rows are not written.")
    ballast_bytes: int = field_of("By", "Space held by the ballast file, to be given up for closing cleanly.")
    low: int = field_of("1", "1 while rows are not written because there is too little room, else 0.")
    times_low: int = field_of("1", "How often that has begun.")


class Space:
    """Whether there is room for rows. Used by one thread; `stats` from any."""

    def __init__(self, data_dir: Path, files: Files, options: Options) -> None:
        self._dir, self._files = data_dir, files
        total = shutil.disk_usage(data_dir).total
        self.low_bytes = min(options.low_space_bytes, total // _LOW_SHARE)
        self._resume_bytes = self.low_bytes * 3 // 2
        self._wanted_ballast = min(options.ballast_bytes, total // _BALLAST_SHARE)
        self._ballast = self._present()
        self.free = self._free()
        self.low = False
        self._times_low = 0

    def _present(self) -> int:
        path = self._dir / BALLAST
        return path.stat().st_size if path.is_file() else 0

    def _free(self) -> int:
        try:
            return self._files.free_space(self._dir)
        except OSError as e:  # to record is worth trying: the write will say what is wrong
            log.warning("the free space cannot be told", path=str(self._dir), error=str(e))
            return self.low_bytes * 2

    def prepare(self) -> None:
        """Before anything else is written: fill the ballast where there is room, or give it up where there is none.

        A station that starts on a full disk opens with the room of the ballast, and records into gaps.
        """
        if self.free < self.low_bytes:
            self.release()
        self.fill()

    def fill(self) -> None:
        """Make the ballast file when it is missing and there is room for it; that it cannot be made is no fault."""
        missing = self._wanted_ballast - self._ballast
        if missing <= 0 or self.free < self._resume_bytes + missing:
            return
        path = self._dir / BALLAST
        temporary = path.with_name(f".{BALLAST}.tmp")
        try:
            self._files.remove(temporary)
            with self._files.create(temporary) as file:
                self._files.reserve(file, self._wanted_ballast)
                self._files.sync(file)
            self._files.remove(path)  # a smaller one
            self._files.rename(temporary, path)
            self._ballast = self._wanted_ballast
        except OSError as e:
            log.warning("no space could be put by for closing cleanly", path=str(path), error=str(e))

    def release(self) -> None:
        """Give the ballast up: what is to be closed now needs the room."""
        if not self._ballast:
            return
        try:
            self._files.remove(self._dir / BALLAST)
            self._files.sync_dir(self._dir)
        except OSError as e:
            log.error("the ballast cannot be given up", error=str(e))
            return
        log.warning("the ballast was given up to close cleanly", bytes=self._ballast)
        self._ballast = 0
        self.free = self._free()

    def look(self, waiting_bytes: int) -> bool:
        """Look again; whether rows must not be written now. `waiting_bytes` are on their way to the disk already."""
        self.free = self._free() - waiting_bytes
        if self.free < (self._resume_bytes if self.low else self.low_bytes):
            if not self.low:
                self.low, self._times_low = True, self._times_low + 1
        else:
            self.low = False
        return self.low

    def stats(self) -> SpaceStats:
        """A snapshot."""
        return SpaceStats(self.free, self.low_bytes, self._ballast, int(self.low), self._times_low)
