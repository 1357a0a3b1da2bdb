"""The journal as a file that is written, rolled and removed; what goes into it is the recorder's business."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from scidaq.clock import Clock
from scidaq.store.files import Files
from scidaq.store.journal import JournalWriter, journal_name
from scidaq.store.track import Track
from scidaq.store.writing import Call, Create, Job, Sync, Target

MAX_BYTES = 64 << 20


class JournalLane:
    """The present journal file and the older ones whose rows have not all moved. Used by the encoding thread."""

    def __init__(
        self,
        data_dir: Path,
        files: Files,
        clock: Clock,
        station: str,
        roll_s: float,
        put: Callable[[Job], None],
        number: int,
    ) -> None:
        self._dir, self._files, self._clock, self._station = data_dir / "journal", files, clock, station
        self._roll_s, self._put, self._number = roll_s, put, number
        self._present: tuple[JournalWriter, Target] | None = None
        self._opened_s = 0.0
        self._old: list[tuple[int, Path]] = []
        self._under_way: dict[int, int] = {}
        """Commits of each file that are not settled: their rows are nowhere else yet."""

    @property
    def size(self) -> int:
        """Bytes of the present file."""
        present = self._present
        return present[0].at if present is not None else 0

    def adopt(self, files: Iterable[tuple[int, Path]]) -> None:
        """Take charge of files of before: each is removed once its rows have moved."""
        self._old = list(files)

    def open(self) -> tuple[JournalWriter, Target]:
        """The present file, made when there is none."""
        if self._present is None:
            writer = JournalWriter(self._number, self._station, self._clock.now_ns())
            target = Target(self._dir / journal_name(self._number), direct=False)
            self._number += 1
            self._opened_s = self._clock.monotonic_s()
            self._present = writer, target
            self._put(Create(target, writer.head))
        return self._present

    def begun(self, number: int) -> None:
        """A commit to a file is under way."""
        self._under_way[number] = self._under_way.get(number, 0) + 1

    def settled(self, number: int) -> None:
        """A commit to a file is durable, and the tracks know what they have in it."""
        self._under_way[number] = self._under_way.get(number, 1) - 1
        if self._under_way[number] <= 0:
            del self._under_way[number]

    def close(self) -> None:
        """The next commit begins a new file."""
        if self._present is not None:
            writer, target = self._present
            self._old.append((writer.number, target.path))
            self._put(Sync(target, _nothing, close=True))
            self._present = None

    def abandon(self, target: Target) -> None:
        """A file could not be written: another one is begun, this one stays until its rows have moved."""
        if self._present is not None and self._present[1] is target:
            self._old.append((self._present[0].number, target.path))
            self._present = None
        for number, path in self._old:
            if path == target.path:
                self._under_way.pop(number, None)  # their rows are taken from the rings again

    def roll(self, now_s: float, tracks: Iterable[Track]) -> None:
        """Begin a new file in time, and remove old ones whose rows have all moved."""
        if self._present is not None:
            writer = self._present[0]
            old = now_s - self._opened_s >= self._roll_s and writer.at > len(writer.head)
            if old or writer.at >= MAX_BYTES:
                self.close()
        if not self._old:
            return
        needed = [n for n in (t.journal_needed() for t in tracks) if n is not None] + list(self._under_way)
        limit = min(needed, default=self._number)
        for number, path in self._old:
            if number < limit:
                self._put(Call(Target(path, direct=False), partial(self._retire, path)))
        self._old = [(n, p) for n, p in self._old if n >= limit]

    def _retire(self, path: Path) -> None:
        self._files.remove(path)
        self._files.sync_dir(path.parent)


def _nothing() -> None:
    pass
