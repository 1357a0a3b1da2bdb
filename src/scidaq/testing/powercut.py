"""Files over which the power can be cut: what was not synced survives in part, in any part, torn at sectors.

`PowerCutFiles` hands every verb on to real files and remembers what no sync has covered yet: the bytes written to each
file, the entries made, renamed and removed in each directory. `image` then writes into another directory what a disk
could hold if the power failed at this moment: all that is durable, and of the rest any subset, as a disk and a file
system are allowed to keep it: each 512-byte sector of an unsynced write by itself, sizes with or without what was
appended, each directory change by itself.

What is assumed of the file system: a sync of a file makes its content and its size durable, a sync of a directory its
entries. Nothing is assumed about the order of anything else.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scidaq.store import Buffer, File, Files, system_files

SECTOR = 512


@dataclass(slots=True)
class _Inode:
    """A file, whatever its names."""

    durable: bytearray = field(default_factory=bytearray)
    volatile: list[tuple[int, bytes]] = field(default_factory=list)
    """Unsynced writes: where, what."""

    def sync(self) -> None:
        for at, data in self.volatile:
            self._put(self.durable, at, data)
        self.volatile.clear()

    @staticmethod
    def _put(content: bytearray, at: int, data: bytes) -> None:
        if len(content) < at:
            content.extend(bytes(at - len(content)))
        content[at : at + len(data)] = data

    def after_a_cut(self, rng: random.Random) -> bytes:
        """What may be left of it."""
        content = bytearray(self.durable)
        mood = rng.random()
        for at, data in self.volatile:
            for start in range(0, len(data), SECTOR):
                if mood < 0.2 or (mood < 0.8 and rng.random() < 0.5):
                    self._put(content, at + start, data[start : start + SECTOR])
        if len(content) > len(self.durable) and rng.random() < 0.3:  # the size had not been told
            del content[rng.randrange(len(self.durable), len(content)) :]
        elif self.volatile and rng.random() < 0.2:  # or only the size had
            end = max(at + len(data) for at, data in self.volatile)
            content.extend(bytes(max(0, end - len(content))))
        return bytes(content)


@dataclass(slots=True)
class _Directory:
    durable: dict[str, _Inode] = field(default_factory=dict)
    present: dict[str, _Inode] = field(default_factory=dict)
    volatile: list[tuple[str, _Inode | None]] = field(default_factory=list)
    """Unsynced changes in order: a name, and what it means from then on (None: nothing)."""

    def change(self, name: str, inode: _Inode | None) -> None:
        self.volatile.append((name, inode))
        if inode is None:
            self.present.pop(name, None)
        else:
            self.present[name] = inode

    def sync(self) -> None:
        self.durable = dict(self.present)
        self.volatile.clear()

    def after_a_cut(self, rng: random.Random) -> dict[str, _Inode]:
        entries = dict(self.durable)
        keep = rng.choice((0.0, 0.5, 1.0))
        for name, inode in self.volatile:
            if rng.random() < keep:
                if inode is None:
                    entries.pop(name, None)
                else:
                    entries[name] = inode
        return entries


class PowerCutFiles:
    """Real files below `root` that remember what a power cut could take. From any thread.

    `moment(n)` is called before the n-th verb that changes something, with everything held still: the place to call
    `image`.
    """

    def __init__(self, root: Path, moment: Callable[[int], None] | None = None, files: Files | None = None) -> None:
        self.root, self._files, self.moment = root, files or system_files(), moment
        self._lock = threading.RLock()
        self._directories: dict[Path, _Directory] = {}
        self.verbs = 0
        """How many verbs have changed something."""
        for path in root.rglob("*"):
            if path.is_file():  # what was there before counts as durable
                directory, inode = self._directory(path.parent), _Inode(bytearray(path.read_bytes()))
                directory.durable[path.name] = directory.present[path.name] = inode

    def _enter(self) -> None:
        self.verbs += 1
        if self.moment is not None:
            self.moment(self.verbs)

    def _directory(self, path: Path) -> _Directory:
        return self._directories.setdefault(path, _Directory())

    def _inode(self, path: Path) -> _Inode:
        return self._directory(path.parent).present[path.name]

    def image(self, target: Path, rng: random.Random) -> None:
        """Write what may be left after a power cut now into an empty directory `target`."""
        with self._lock:
            for directory in self._surviving():
                place = target / directory.relative_to(self.root)
                place.mkdir(parents=True, exist_ok=True)
                for name, inode in self._directories.get(directory, _Directory()).after_a_cut(rng).items():
                    (place / name).write_bytes(inode.after_a_cut(rng))

    def _surviving(self) -> list[Path]:
        """Directories, parents first. Making one is followed by a sync of its parent before anything is put in it."""
        below = [p for p in self.root.rglob("*") if p.is_dir()]
        return [self.root, *sorted(below)]

    # ---- the verbs ----

    def create(self, path: Path, *, direct: bool = False) -> File:
        with self._lock:
            self._enter()
            file = self._files.create(path, direct=direct)
            self._directory(path.parent).change(path.name, _Inode())
            return file

    def reopen(self, path: Path) -> File:
        return self._files.reopen(path)

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        with self._lock:
            self._enter()
            inode, at = self._inode(file.path), file.size
            inode.volatile.append((at, b"".join(bytes(p) for p in pieces)))
            self._files.append(file, pieces)

    def reserve(self, file: File, size: int) -> None:
        with self._lock:
            self._enter()
            self._files.reserve(file, size)  # of a size that nobody relies on, what is left is the empty file

    def sync(self, file: File) -> None:
        with self._lock:
            self._enter()
            self._files.sync(file)
            self._inode(file.path).sync()

    def cut(self, path: Path, size: int) -> None:
        with self._lock:
            self._enter()
            self._files.cut(path, size)
            inode = self._inode(path)
            inode.sync()
            del inode.durable[size:]

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            self._enter()
            self._files.rename(source, target)
            inode = self._inode(source)
            self._directory(source.parent).change(source.name, None)
            self._directory(target.parent).change(target.name, inode)

    def remove(self, path: Path) -> None:
        with self._lock:
            self._enter()
            self._files.remove(path)
            if path.name in self._directory(path.parent).present:
                self._directory(path.parent).change(path.name, None)

    def sync_dir(self, path: Path) -> None:
        with self._lock:
            self._enter()
            self._files.sync_dir(path)
            self._directory(path).sync()

    def lock(self, path: Path) -> File:
        return self._files.lock(path)

    def free_space(self, path: Path) -> int:
        return self._files.free_space(path)

    def map(self, path: Path) -> memoryview:
        return self._files.map(path)


def copy_others(root: Path, target: Path, names: Sequence[str]) -> None:
    """Copy files that do not go through the seam (the catalog syncs by itself) as they are now."""
    for name in names:
        for path in root.glob(f"{name}*"):
            shutil.copy2(path, target / path.name)
