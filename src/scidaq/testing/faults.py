"""Files that fail as disks do: at an operation that is named, for as long as is said, and the same way every time.

A fault is written `kind@k`: the kind, and which of the operations that it can strike, counted from 1 over the whole
life of the files. `eio@17` refuses the seventeenth operation and no other, `enospc@17+5` five from there on,
`enospc@17+` all of them until `FaultyFiles.release`. The kinds:

| kind | strikes | what happens |
|---|---|---|
| `eio` | every verb | the device reports an error, before anything is done |
| `enospc` | what may need room | there is none, before anything is done |
| `interrupted` | every verb | a signal; of an append, part is written |
| `short` | append | some whole pages are written, then there is no room |
| `torn` | append | a part that ends anywhere is written, then the device reports an error |
| `lost` | sync | an error, as Linux gives it: pages since the last good sync are gone, and it will not say so again |
| `slow` | every verb | it takes 50 to 500 ms, and succeeds |
| `full` | append, reserve | the disk has room for k bytes; what is removed or cut gives room back |
"""

from __future__ import annotations

import errno
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scidaq.store import Buffer, File, Files
from scidaq.testing.crashing import VERBS, WatchedFiles

_PAGE = 4096
_NEED_ROOM = ("create", "append", "reserve", "sync", "rename", "sync_dir", "lock")
STRIKES: dict[str, tuple[str, ...]] = {
    "eio": VERBS,
    "enospc": _NEED_ROOM,
    "interrupted": VERBS,
    "short": ("append",),
    "torn": ("append",),
    "lost": ("sync",),
    "slow": VERBS,
    "full": ("append", "reserve"),
}
"""The kinds of faults, and the verbs that each can strike."""
_WRITTEN = re.compile(r"([a-z]+)@(\d+)(?:(\+)(\d*))?")
_ERRORS = {"enospc": errno.ENOSPC, "short": errno.ENOSPC, "full": errno.ENOSPC, "interrupted": errno.EINTR}


@dataclass(frozen=True, slots=True)
class DiskFault:
    """One fault of a disk."""

    kind: str
    at: int
    """Which of the operations that the kind can strike, from 1; for `full` the room in bytes."""
    lasting: int = 1
    """How many operations it strikes; 0 for all until it is released."""

    @classmethod
    def parse(cls, text: str) -> DiskFault:
        """From `kind@k`, `kind@k+m` or `kind@k+`. Raises `ValueError` that says what would be right."""
        found = _WRITTEN.fullmatch(text.strip())
        if not found or found[1] not in STRIKES or (found[1] != "full" and found[2] == "0"):
            raise ValueError(f"{text!r} is not kind@k, kind@k+m or kind@k+, k from 1, a kind of {', '.join(STRIKES)}")
        return cls(found[1], int(found[2]), int(found[4] or 0) if found[3] else 1)

    def __str__(self) -> str:
        if self.lasting == 1:
            return f"{self.kind}@{self.at}"
        return f"{self.kind}@{self.at}+{self.lasting or ''}"

    def strikes(self, n: int) -> bool:
        """Whether it strikes the n-th operation of those that it can."""
        return self.at <= n and (not self.lasting or n < self.at + self.lasting)


class FaultyFiles(WatchedFiles):
    """Real files on a disk with faults; without one they keep the contract as any other. From any thread.

    The same faults, seed and order of operations give the same bytes on disk.
    """

    def __init__(self, *faults: DiskFault | str, seed: int = 0, files: Files | None = None) -> None:
        super().__init__(None, files)
        self.faults = tuple(f if isinstance(f, DiskFault) else DiskFault.parse(f) for f in faults)
        self.seed = seed
        self.struck: list[str] = []
        """What was struck so far, as `fault verb room name`."""
        self._all: Counter[str] = Counter()
        self._synced: dict[Path, int] = {}
        """How far each file is durable."""
        self._used = 0
        self._guard = threading.Lock()
        self._mine = threading.local()
        self._released = False

    def operations(self, kind: str) -> int:
        """How many operations there were so far that a kind of fault could have struck."""
        with self._guard:
            return sum(self._all[verb] for verb in STRIKES[kind])

    @property
    def used_bytes(self) -> int:
        """Bytes written less those given back, as a budget counts them."""
        return self._used

    def release(self) -> None:
        """The disk is sound from now on."""
        self._released = True

    def also(self, *faults: DiskFault | str) -> None:
        """More faults from now on; they count from the beginning like the others."""
        self.faults += tuple(f if isinstance(f, DiskFault) else DiskFault.parse(f) for f in faults)

    # ---- what is due ----

    def _enter(self, verb: str, path: Path) -> None:
        """Fail before anything is done, or be slow; what fails half-way is left to the verb, in `_mine.due`."""
        super()._enter(verb, path)
        self._mine.due = None
        with self._guard:
            self._all[verb] += 1
            counts = {kind: sum(self._all[v] for v in verbs) for kind, verbs in STRIKES.items() if verb in verbs}
        if self._released:
            return
        for fault in self.faults:
            if fault.kind == "full" or not (verb in STRIKES[fault.kind] and fault.strikes(counts[fault.kind])):
                continue
            self._note(fault, verb, path)
            if fault.kind == "slow":
                time.sleep(self._dice(fault, counts["slow"]).uniform(0.05, 0.5))
            elif (fault.kind == "interrupted" and verb == "append") or fault.kind in ("short", "torn", "lost"):
                self._mine.due = fault, counts[fault.kind]
            else:
                raise self._error(fault, path)

    def _note(self, fault: DiskFault, verb: str, path: Path) -> None:
        self.struck.append(f"{fault} {verb} {path.parent.name}/{path.name}")

    def _dice(self, fault: DiskFault, n: int) -> random.Random:
        """Chance that depends on nothing but the seed, the fault and the operation."""
        return random.Random(f"{self.seed} {fault} {n}")

    @staticmethod
    def _error(fault: DiskFault, path: Path) -> OSError:
        number = _ERRORS.get(fault.kind, errno.EIO)
        return OSError(number, f"{os.strerror(number)} (made by {fault})", str(path))

    # ---- what fails half-way ----

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        self._enter("append", file.path)
        size = sum(len(memoryview(p).cast("B")) for p in pieces if len(p))
        if self._mine.due is not None and size:
            fault, n = self._mine.due
            part = self._dice(fault, n).randrange(size)
            self._begin(file, pieces, part // _PAGE * _PAGE if fault.kind == "short" else part)
            raise self._error(fault, file.path)
        self._take_room(file, pieces, size)
        self._files.append(file, pieces)
        self._leave("append", file.path)

    def _take_room(self, file: File, pieces: Sequence[Buffer], size: int) -> None:
        """Write what there is room for, and refuse the rest."""
        full = self._full()
        with self._guard:
            room = max(0, full.at - self._used) if full is not None else size
            part = size if size <= room else room // _PAGE * _PAGE
            self._used += part
        if full is not None and part < size:
            self._note(full, "append", file.path)
            self._begin(file, pieces, part)
            raise self._error(full, file.path)

    def _full(self) -> DiskFault | None:
        """The budget, while there is one: the smallest."""
        budgets = [] if self._released else [f for f in self.faults if f.kind == "full"]
        return min(budgets, key=lambda f: f.at, default=None)

    def reserve(self, file: File, size: int) -> None:
        full, more = self._full(), max(0, size - file.size)
        with self._guard:
            fits = full is None or self._used + more <= full.at
            self._used += more if fits else 0
        if full is not None and not fits:
            self._note(full, "reserve", file.path)
            raise self._error(full, file.path)
        super().reserve(file, size)

    def _begin(self, file: File, pieces: Sequence[Buffer], size: int) -> None:
        """Write the first bytes only, as the system may: a direct file too may be left with an end inside a page."""
        part = b"".join(bytes(p) for p in pieces)[:size]
        if part:
            with self._files.reopen(file.path) as plain:  # its own handle may want aligned memory
                self._files.append(plain, [part])
            file.size += len(part)

    def sync(self, file: File) -> None:
        self._enter("sync", file.path)
        if self._mine.due is not None:
            fault, n = self._mine.due
            self._lose(file, self._dice(fault, n))
            raise self._error(fault, file.path)
        self._files.sync(file)
        with self._guard:
            self._synced[file.path] = file.size
        self._leave("sync", file.path)

    def _lose(self, file: File, dice: random.Random) -> None:
        """Let pages that were appended since the last good sync read as zeros: at least one, whichever.

        They are not cut off: the kernel does not shorten a file whose pages it drops, and who has it mapped would die.
        """
        durable = self._synced.get(file.path, 0)
        pages = range(durable // _PAGE * _PAGE, file.size, _PAGE)
        if not pages:
            return
        lost = {dice.choice(pages)} | {at for at in pages if dice.random() < 0.5}
        fd = os.open(file.path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            for at in sorted(lost):
                start, end = max(at, durable), min(at + _PAGE, file.size)
                os.lseek(fd, start, os.SEEK_SET)
                os.write(fd, bytes(end - start))
        finally:
            os.close(fd)

    # ---- what is known of each file ----

    def create(self, path: Path, *, direct: bool = False) -> File:
        file = super().create(path, direct=direct)
        with self._guard:
            self._synced[path] = 0
        return file

    def reopen(self, path: Path) -> File:
        file = super().reopen(path)
        with self._guard:
            self._synced.setdefault(path, file.size)  # what was there before this life counts as durable
        return file

    def cut(self, path: Path, size: int) -> None:
        before = _size(path)
        super().cut(path, size)
        with self._guard:
            self._synced[path] = size
            self._used -= max(0, before - size)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        with self._guard:
            self._synced[target] = self._synced.pop(source, 0)

    def remove(self, path: Path) -> None:
        before = _size(path)
        super().remove(path)
        with self._guard:
            self._synced.pop(path, None)
            self._used -= before

    def free_space(self, path: Path) -> int:
        free = super().free_space(path)
        full = self._full()
        return free if full is None else max(0, min(free, full.at - self._used))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def faults_of(texts: str | Iterable[str]) -> tuple[DiskFault, ...]:
    """Faults as they are written in an environment variable: `eio@3,slow@9+2`."""
    words = texts.replace(",", " ").split() if isinstance(texts, str) else texts
    return tuple(DiskFault.parse(word) for word in words)
