"""A store without threads and without real time: everything happens when the test says so, on a disk that can fail.

The recorder's two threads are run by hand: `Store.turn` is a round of encoding, `Store.commit` a number of jobs of the
commit thread. Every verb to the disk goes through `Disk`, which may refuse it, tear it, or end the process there.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from scidaq.block import Block, Epoch, Gap
from scidaq.catalog import Catalog, FactsLog
from scidaq.pipeline import Intake, Ring
from scidaq.store import (
    STARTED,
    STOPPED,
    Buffer,
    File,
    Options,
    Policy,
    PortableFiles,
    Projector,
    Recorder,
    catch_up,
    known_segments,
    open_station,
    recover,
    system_files,
)
from scidaq.testing import FakeClock
from scidaq.testing.crashing import WatchedFiles
from scidaq.testing.powercut import PowerCutFiles, copy_others

QUIET_TURNS = 2000
"""More than anything takes that ends at all."""


class Killed(BaseException):
    """The process ends here."""


class _Pause(BaseException):
    """The thread waits here."""


class _Unsynced:
    """Files whose syncs cost nothing: what a power cut takes is decided in memory."""

    def __init__(self) -> None:
        self._files = system_files()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def sync(self, file: File) -> None:
        if file.fd < 0:
            raise OSError(errno.EBADF, "closed", str(file.path))

    def sync_dir(self, path: Path) -> None:
        if not path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no directory", str(path))

    def cut(self, path: Path, size: int) -> None:
        with self._files.reopen(path) as file:
            os.truncate(file.fd, size)


class Disk(WatchedFiles):
    """What the store writes to. `dies_in` verbs from now the process ends; verbs in `refusals` fail so many times."""

    def __init__(self, root: Path) -> None:
        self.cut_files = PowerCutFiles(root, files=cast(PortableFiles, _Unsynced()))
        super().__init__(None, self.cut_files)
        self.dies_in: int | None = None
        self.torn = False
        """Whether the write that fails or is interrupted has been done in part."""
        self.refusals: dict[str, int] = {}
        self._dead = False
        self._handles: list[File] = []

    def _begun(self, verb: str, kind: str, n: int, of_all: int) -> None:
        if self._dead:
            raise Killed
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                self._dead = True
                raise Killed
        if kind in ("segment", "journal") and self.refusals.get(verb):
            self.refusals[verb] -= 1
            raise OSError(errno.ENOSPC, "made up")

    def create(self, path: Path, *, direct: bool = False) -> File:
        file = super().create(path, direct=direct)
        self._handles.append(file)
        return file

    def reopen(self, path: Path) -> File:
        file = super().reopen(path)
        self._handles.append(file)
        return file

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        was_dead = self._dead
        try:
            super().append(file, pieces)
        except (Killed, OSError):
            whole = b"".join(bytes(p) for p in pieces)
            part = whole[: len(whole) // 2 // 512 * 512]
            if self.torn and part and not was_dead:
                with self.cut_files.reopen(file.path) as again:
                    self.cut_files.append(again, [part])
            raise

    def end(self) -> None:
        """The process is gone."""
        self._dead = True
        for file in self._handles:
            file.close()


class _Bell:
    """In the place of the event that the encoding thread waits for: waiting is a turn in which the others work."""

    def __init__(self, clock: FakeClock, meanwhile: Callable[[], None]) -> None:
        self._clock, self._meanwhile, self.turns = clock, meanwhile, 0

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def wait(self, timeout: float) -> bool:
        if self.turns <= 0:
            raise _Pause
        self.turns -= 1
        self._clock.advance(timeout)
        self._meanwhile()
        return False


class _Jobs:
    """In the place of the commit thread's queue."""

    def __init__(self) -> None:
        self._jobs: deque[Any] = deque()
        self.quota = 0

    def put(self, job: Any) -> None:
        self._jobs.append(job)

    def get(self) -> Any:
        if self.quota <= 0 or not self._jobs:
            raise _Pause
        self.quota -= 1
        return self._jobs.popleft()

    def qsize(self) -> int:
        return len(self._jobs)


class _Thread:
    """In the place of a thread: what it does is done when somebody waits for its end."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run, self._ended = run, False

    def start(self) -> None: ...

    def join(self, timeout: float | None = None) -> None:
        self._run()
        self._ended = True

    def is_alive(self) -> bool:
        return not self._ended


class TappedRing(Ring):
    """A ring that tells what it took in."""

    def __init__(self, *args: Any, tap: Callable[[int, Block | Gap | Epoch], None], **more: Any) -> None:
        super().__init__(*args, **more)
        self._tap = tap

    def offer(self, item: Block | Gap | Epoch, delivered: int = 0, duplicates: int = 0, arrived_s: float = 0.0) -> bool:
        taken = super().offer(item, delivered, duplicates, arrived_s)
        if taken:
            self._tap(self._next - 1, item)
        return taken


class Store:
    """A data directory in use. The life of a process: `open`, then `close`, or `die` at any moment."""

    def __init__(self, data_dir: Path, clock: FakeClock, options: Options, template: Path) -> None:
        self.dir, self.clock, self._options, self._template = data_dir, clock, options, template
        self.rings: dict[str, TappedRing] = {}
        self.holds: dict[str, Any] = {}
        self.intakes: dict[str, Intake] = {}
        self._lock: File | None = None
        self._catalog: Catalog | None = None
        self.generation = 0

    def open(
        self,
        streams: dict[str, tuple[Policy, int, int]],
        tap: Callable[[str], Callable[[int, Block | Gap | Epoch], None]],
        dies_in: int | None = None,
    ) -> None:
        """Start, with recovery. `streams`: policy, pre-trigger in ns, bytes of the ring. Raises `Killed`."""
        self.disk = Disk(self.dir)
        self.disk.dies_in = dies_in
        me, self._lock = open_station(self.dir, self.disk, "model", self.clock.now_ns(), False)
        self.facts = FactsLog.open(self.dir / "facts", self.clock, self.disk)
        if not (self.dir / "catalog.sqlite").exists():
            shutil.copy(self._template, self.dir / "catalog.sqlite")
        self._catalog = Catalog.open(self.dir, set_aside_damaged=True)
        self._station = me.uuid
        self._catalog.project_facts(self.facts)
        found = self._recover()
        self.projector = Projector(self._catalog, self.dir, self.clock)
        number = max((n for n, _ in found.journals), default=-1) + 1
        self.recorder = recorder = Recorder(
            self.dir, self.disk, self.clock, me.uuid, self._options, self.projector, number
        )
        for stream, stand in found.stands.items():
            recorder.resume(stream, stand)
        recorder.adopt_journals(found.journals)
        self._bell = _Bell(self.clock, self._meanwhile)
        self._jobs = _Jobs()
        fake: Any = recorder
        fake._wake, fake._commit._jobs = self._bell, self._jobs
        fake._commit.freed = self._bell.set
        fake._thread = _Thread(self._drain)
        fake._commit._thread = _Thread(self._run_out)
        recorder.start()
        self.facts.append(STARTED, {"name": "model", "quarantined": len(found.quarantined)})
        self.rings, self.holds, self.intakes = {}, {}, {}
        for stream, (policy, pre_trigger_ns, ring_bytes) in streams.items():
            ring = TappedRing(stream, ring_bytes, bell=recorder.bell, tap=tap(stream))
            stand = found.stands.get(stream)
            self.rings[stream], self.holds[stream] = ring, ring.hold()
            resume, next_epoch = stand.resume() if stand else None, found.next_epochs.get(stream, 0)
            self.intakes[stream] = Intake(stream, ring, self.clock, resume, next_epoch)
            recorder.add(stream, self.holds[stream], policy, pre_trigger_ns)
        self.turn()

    def _recover(self) -> Any:
        catalog = cast(Catalog, self._catalog)
        found = recover(self.dir, self.disk, self.clock, self._station, known_segments(catalog, self.dir))
        catch_up(catalog, found.found, self.dir)
        return found

    # ---- the threads ----

    def turn(self, times: int = 1) -> None:
        """The encoding thread does its round, so many times, an interval apart."""
        for _ in range(times):
            self._bell.turns = 1
            with suppress(_Pause):
                self.recorder._run()

    def commit(self, jobs: int = 1 << 30) -> None:
        """The commit thread does so many jobs."""
        self._jobs.quota = jobs
        with suppress(_Pause):
            self.recorder._commit._run()

    def tell(self) -> None:
        """The catalog is told what waits for it."""
        self.projector._tell()

    def _meanwhile(self) -> None:
        if self._draining:
            self.commit()

    def _drain(self) -> None:
        self._bell.turns = QUIET_TURNS
        self._draining = True
        try:
            self.recorder._run()
        except _Pause:
            raise AssertionError(f"the recorder did not end: {self.recorder.stats()}") from None

    def _run_out(self) -> None:
        self._jobs.quota = 1 << 30
        self.recorder._commit._run()

    _draining = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits for the disk."""
        return not self._jobs.qsize()

    # ---- the end ----

    def close(self) -> bool:
        """Stop; False when the disk refused."""
        for intake in self.intakes.values():
            intake.close()
        for ring in self.rings.values():
            ring.close()
        clean = self.recorder.close(60)
        assert self.recorder.ended
        if clean and self.recorder.abandoned:
            self.tell()
            self._recover()
        self.tell()
        if clean:
            self.facts.append(STOPPED, {"name": "model"})
        self._leave()
        return clean

    def die(self) -> None:
        """The process is killed where it is."""
        self._leave()

    def _leave(self) -> None:
        self.disk.end()
        self._draining = False
        if hasattr(self, "recorder"):
            with suppress(ValueError):
                self.recorder._map.close()
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def cut_power(self, rng: random.Random, keep: Sequence[str]) -> None:
        """What survives takes the place of the directory. `keep`: files beside the seam that survive as they are."""
        self.generation += 1
        left = self.dir.with_name(f"{self.dir.name.split('-')[0]}-{self.generation}")
        left.mkdir()
        self.disk.cut_files.image(left, rng)
        copy_others(self.dir, left, keep)
        (left / "LOCK").touch()
        shutil.rmtree(self.dir)
        self.dir = left


def make_template(place: Path) -> Path:
    """An empty catalog to copy: to make one takes longer than all the rest."""
    place.mkdir(exist_ok=True)
    Catalog.open(place).close()
    return place / "catalog.sqlite"


__all__ = ["Killed", "Store", "TappedRing", "make_template"]
