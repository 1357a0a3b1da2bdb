"""Files that end the process at a named moment, as a power switch would, and files that refuse when they are told to.

A moment is written `verb:kind:n:when`: `append:journal:3:after`, `sync:segment:1:before`, `rename:segment:1:after`,
`sync_dir:*:2:before`, `remove:journal:1:after`, `append:segment:2:torn` (half of it is written). The kinds are those of
the rooms of a data directory: `segment`, `journal`, `facts`, `quarantine`, `station`, `LOCK`; `*` is any.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from scidaq.store import Buffer, File, Files, system_files

_PAGE = 4096
_FOLDERS = {"streams": "segment", "journal": "journal", "facts": "facts", "quarantine": "quarantine"}
VERBS = (
    "create",
    "reopen",
    "append",
    "reserve",
    "sync",
    "cut",
    "rename",
    "remove",
    "sync_dir",
    "lock",
    "free_space",
    "map",
)
"""What can be crashed at or refused."""


def kind_of(path: Path) -> str:
    """What a path of a data directory belongs to; temporary names count as what they become."""
    for part in reversed(path.parts):
        if part in _FOLDERS:
            return _FOLDERS[part]
    return "LOCK" if path.name == "LOCK" else "station"


def kill_self() -> NoReturn:
    """End this process at once: no handler, no `finally`, nothing flushed."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    while True:  # the signal is on its way
        time.sleep(1)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment in the life of a store."""

    verb: str
    kind: str
    count: int
    """The how-manieth of the verb on the kind, from 1."""
    when: str
    """`before`, `after`, or for `append` also `torn`."""

    @classmethod
    def parse(cls, text: str) -> Moment:
        """From `verb:kind:n:when`. Raises `ValueError` that says what would be right."""
        parts = text.split(":")
        if len(parts) != 4 or parts[0] not in VERBS or parts[3] not in ("before", "after", "torn"):
            raise ValueError(f"{text!r} is not verb:kind:n:when, with a verb of {', '.join(VERBS)}")
        if parts[3] == "torn" and parts[0] != "append":
            raise ValueError(f"{text!r}: only an append can be torn")
        return cls(parts[0], parts[1], int(parts[2]), parts[3])

    def __str__(self) -> str:
        return f"{self.verb}:{self.kind}:{self.count}:{self.when}"


class WatchedFiles:
    """Hands every verb on to other files, and asks `before(verb, kind, n, path)` first; what that raises is raised.

    `n` counts the verb on that kind from 1. `before` is called in the thread of the caller and may wait: then the disk
    is slow.
    """

    def __init__(
        self,
        before: Callable[[str, str, int, Path], None] | None = None,
        files: Files | None = None,
    ) -> None:
        self.before = before
        self._files = files or system_files()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def _enter(self, verb: str, path: Path) -> None:
        kind = kind_of(path)
        with self._lock:
            self._counts[verb, kind] += 1
            self._counts[verb, "*"] += 1
            n, of_all = self._counts[verb, kind], self._counts[verb, "*"]
        self._begun(verb, kind, n, of_all)
        if self.before is not None:
            self.before(verb, kind, n, path)

    def _begun(self, verb: str, kind: str, n: int, of_all: int) -> None:
        """Something is about to be done."""

    def _leave(self, verb: str, path: Path) -> None:
        """It has been done."""

    def create(self, path: Path, *, direct: bool = False) -> File:
        self._enter("create", path)
        out = self._files.create(path, direct=direct)
        self._leave("create", path)
        return out

    def reopen(self, path: Path) -> File:
        self._enter("reopen", path)
        out = self._files.reopen(path)
        self._leave("reopen", path)
        return out

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        self._enter("append", file.path)
        self._files.append(file, pieces)
        self._leave("append", file.path)

    def reserve(self, file: File, size: int) -> None:
        self._enter("reserve", file.path)
        self._files.reserve(file, size)
        self._leave("reserve", file.path)

    def sync(self, file: File) -> None:
        self._enter("sync", file.path)
        self._files.sync(file)
        self._leave("sync", file.path)

    def cut(self, path: Path, size: int) -> None:
        self._enter("cut", path)
        self._files.cut(path, size)
        self._leave("cut", path)

    def rename(self, source: Path, target: Path) -> None:
        self._enter("rename", target)
        self._files.rename(source, target)
        self._leave("rename", target)

    def remove(self, path: Path) -> None:
        self._enter("remove", path)
        self._files.remove(path)
        self._leave("remove", path)

    def sync_dir(self, path: Path) -> None:
        self._enter("sync_dir", path)
        self._files.sync_dir(path)
        self._leave("sync_dir", path)

    def lock(self, path: Path) -> File:
        self._enter("lock", path)
        out = self._files.lock(path)
        self._leave("lock", path)
        return out

    def free_space(self, path: Path) -> int:
        self._enter("free_space", path)
        out = self._files.free_space(path)
        self._leave("free_space", path)
        return out

    def map(self, path: Path) -> memoryview:
        self._enter("map", path)
        out = self._files.map(path)
        self._leave("map", path)
        return out


class CrashingFiles(WatchedFiles):
    """Kills its process with SIGKILL at a moment."""

    def __init__(self, moment: Moment, files: Files | None = None) -> None:
        super().__init__(None, files)
        self.moment = moment
        self._mine = threading.local()

    def _begun(self, verb: str, kind: str, n: int, of_all: int) -> None:
        m = self.moment
        number = of_all if m.kind == "*" else n
        self._mine.due = verb == m.verb and m.kind in (kind, "*") and number == m.count
        if self._mine.due and m.when == "before":
            kill_self()

    def _leave(self, verb: str, path: Path) -> None:
        if self._mine.due:
            kill_self()

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        if self.moment.when == "torn":
            self._enter("append", file.path)
            if self._mine.due:
                whole = b"".join(bytes(p) for p in pieces)
                self._tear(file, whole[: len(whole) // 2 // _PAGE * _PAGE])
            self._files.append(file, pieces)
        else:
            super().append(file, pieces)

    def _tear(self, file: File, part: bytes) -> NoReturn:
        if part:
            path = file.path
            with self._files.reopen(path) as again:  # without O_DIRECT, which would want aligned memory
                self._files.append(again, [part])
        kill_self()
