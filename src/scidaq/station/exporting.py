"""Exports while the station records: one at a time, each in a process of its own, kept for a day.

An export reads files and packs them, which would hold the interpreter of the station; so `scidaq export` does it, with
a low priority and as the first that the system may kill. Results lie below `<data_dir>/exports/<id>/`. Nothing that
somebody else has said becomes part of a path.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson
import structlog

from scidaq.archive import FORMATS
from scidaq.block import NS
from scidaq.clock import Clock
from scidaq.errors import RequestError, TooMany, Unknown, WriteFailed
from scidaq.observe import Sample
from scidaq.store import Files, make_directory, publish

log = structlog.get_logger(__name__)

DIRECTORY = "exports"
WAITING = 10
"""Exports that may wait while another is made."""
KEPT_NS = 86_400 * NS
"""How long a result is kept."""
MOST_KEPT = 1000
"""Records of exports, failed ones included."""
_ASKED, _ENDED = "asked.json", "ended.json"
_ID = re.compile("[0-9a-f]{32}")
_LOOK_S = 30.0
_JOIN_S = 10.0
_LONGEST_ERROR = 2000
_NOT_ITS = ("SCIDAQ_", "NOTIFY_", "WATCHDOG_")
"""Variables of the environment that are for the station only, secrets among them."""


@dataclass(frozen=True, slots=True)
class ExportWanted:
    """What is to be exported, and as what."""

    format: str
    """One of `scidaq.archive.FORMATS`."""
    stream: str = ""
    """Id of a stream; empty for all streams of the run."""
    run: str = ""
    """Id of a run, whose window is exported; empty for none."""
    start_ns: int | None = None
    stop_ns: int | None = None
    last: int | None = None
    """Instead of a range: the newest rows."""
    channels: tuple[str, ...] | None = None
    raw: bool = False
    compression: str | None = None


@dataclass(frozen=True, slots=True)
class ExportFile:
    """A file of an export."""

    name: str
    """Below the directory of the export, with `/`."""
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Export:
    """An export as it is."""

    id: str
    state: str
    """`queued`, `running`, `done` or `failed`."""
    wanted: ExportWanted
    by: str
    """Who asked for it."""
    created_ns: int
    ended_ns: int | None = None
    rows: int = 0
    """Written so far."""
    of_rows: int | None = None
    """About how many there are; None when nobody knows."""
    error: str = ""
    notes: tuple[str, ...] = ()
    """What the format could not carry as it is."""
    files: tuple[ExportFile, ...] = ()

    @property
    def expires_ns(self) -> int | None:
        """When it is removed; None before it has ended."""
        return None if self.ended_ns is None else self.ended_ns + KEPT_NS

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"expires_ns": self.expires_ns}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Self:
        """The inverse. Raises `KeyError`, `TypeError` or `ValueError`."""
        said = {name: value for name, value in said.items() if name != "expires_ns"}
        wanted = dict(said.pop("wanted"))
        channels = wanted.pop("channels")
        files = tuple(ExportFile(**one) for one in said.pop("files"))
        notes = tuple(said.pop("notes"))
        chosen = None if channels is None else tuple(channels)
        return cls(wanted=ExportWanted(**wanted, channels=chosen), files=files, notes=notes, **said)


class Exports:
    """The exports of a station. A context manager; every method may be called from any thread.

    On exit the one under way is ended, and what waits is forgotten: the next start says of both that they failed.
    `room` says why there is too little of it on the disk, empty while there is enough.
    """

    def __init__(self, data_dir: Path, clock: Clock, files: Files, room: Callable[[], str]) -> None:
        self._data_dir = data_dir.absolute()
        self._dir = self._data_dir / DIRECTORY
        self._clock, self._files, self._room = clock, files, room
        self._lock, self._beginning = threading.Lock(), threading.Lock()
        self._jobs: dict[str, Export] = {}
        """In the order in which they were asked for."""
        self._ended = {"done": 0, "failed": 0}
        self._seconds = 0.0
        self._bell, self._stopping = threading.Event(), False
        self._worker: tuple[str, subprocess.Popen[bytes]] | None = None
        """The export under way, and the process that makes it."""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._dir.is_dir():
            self._find()
        if self._jobs:
            self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            self._stopping = True
            self._kill()
        self._bell.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def samples(self) -> Iterator[Sample]:
        """What the metrics say of them, since the start."""
        with self._lock:
            states = Counter(one.state for one in self._jobs.values())
            ended, seconds = dict(self._ended), self._seconds
        for state in ("queued", "running"):
            yield Sample("scidaq_export_jobs", (state,), states[state])
        for result, count in ended.items():
            yield Sample("scidaq_exports_total", (result,), count)
        yield Sample("scidaq_export_seconds_total", (), seconds)

    # ---- the verbs ----

    def begin(self, wanted: ExportWanted, by: str) -> Export:
        """Ask for an export; it is made when its turn comes.

        Raises `RequestError` for what cannot be, `TooMany` when too many wait, and `WriteFailed` without room for it.
        """
        _check(wanted)
        if why := self._room():
            raise WriteFailed(why)
        job = Export(uuid.uuid4().hex, "queued", wanted, by, self._clock.now_ns())
        with self._beginning:
            self._admit()
            try:
                make_directory(self._files, self._dir / job.id)
                self._note(job)
            except OSError as error:
                self._forget(job.id)
                raise WriteFailed(f"cannot export below {self._dir}: {error.strerror or error}") from error
            with self._lock:
                self._jobs[job.id] = job
        self._start()
        self._bell.set()
        return job

    def _admit(self) -> None:
        with self._lock:
            if self._stopping:
                raise RequestError("the station is stopping, so no export begins")
            if sum(one.state == "queued" for one in self._jobs.values()) >= WAITING:
                raise TooMany(f"{WAITING} exports wait already: wait until one has ended, or remove one")
            if len(self._jobs) >= MOST_KEPT:
                raise TooMany(f"{MOST_KEPT} exports are kept already: remove some")

    def all(self) -> list[Export]:
        """Those that there are, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def get(self, export: str) -> Export:
        """One of them. Raises `Unknown`."""
        with self._lock:
            found = self._jobs.get(export)
        if found is None:
            raise Unknown(
                f"no export {export[:40]!r}: it was removed, by somebody or a day after its end; GET /api/v1/exports "
                "lists those there are"
            )
        return found

    def remove(self, export: str) -> Export:
        """Remove one and its files; one that is under way is ended. Raises `Unknown`."""
        found = self.get(export)
        with self._lock:
            if self._jobs.pop(found.id, None) is None:
                return found
            if self._worker is not None and self._worker[0] == found.id:
                self._kill()  # its thread removes what it has made
                return found
        shutil.rmtree(self._dir / found.id, ignore_errors=True)
        return found

    def file(self, export: str, name: str) -> tuple[Path, ExportFile]:
        """One file of an export that is done. Raises `Unknown`."""
        found = self.get(export)
        for one in found.files:
            if one.name == name and (path := self._dir / found.id / one.name).is_file():
                return path, one
        there = ", ".join(one.name for one in found.files[:5]) or "none, for it is " + found.state
        raise Unknown(f"the export has no file {name[:100]!r}; there are {there}")

    # ---- the thread ----

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._work, name="exports", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while not self._stopping:
            self._bell.clear()
            job = next((one for one in self.all() if one.state == "queued"), None)
            if job is None:
                self._expire()
                self._clock.wait(self._bell, _LOOK_S)
                continue
            began_s = self._clock.monotonic_s()
            try:
                self._make(job)
            except Exception as error:  # the next one is to be made all the same
                log.exception("an export could not be made", export=job.id)
                self._end(job, state="failed", error=f"a fault of the program: {error}")
            with self._lock:
                self._seconds += self._clock.monotonic_s() - began_s

    def _make(self, job: Export) -> None:
        """Have it made, following how it goes on; what went wrong is kept with it."""
        if why := self._room():
            self._end(job, state="failed", error=why)
            return
        with tempfile.TemporaryFile() as complaints:
            worker = self._spawn(job, complaints)
            if worker is None:
                return
            last, crowded = self._follow(job, worker)
            code = worker.wait()
            with self._lock:
                self._worker = None
            complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - _LONGEST_ERROR))
            said = complaints.read().decode("utf-8", "replace").strip()
        if code == 0 and "files" in last:
            files = tuple(ExportFile(**one) for one in last["files"])
            rows = int(last["rows"])
            self._end(job, state="done", rows=rows, of_rows=rows, files=files, notes=tuple(last["notes"]))
        elif crowded:
            self._end(job, state="failed", error=crowded)
        else:
            ended = f"its process was ended by signal {-code}" if code < 0 else f"its process ended with {code}"
            self._end(job, state="failed", error=said.removeprefix("scidaq: ") or ended)

    def _spawn(self, job: Export, complaints: IO[bytes]) -> subprocess.Popen[bytes] | None:
        """The process, of low priority; None when it is not wanted any more."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_ITS)}
        with self._lock:
            if self._stopping or job.id not in self._jobs:
                return None
            worker = subprocess.Popen(
                self._command(job),
                cwd=self._dir / job.id,
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,  # Ctrl-C in the terminal is for the station
            )
            self._worker = job.id, worker
            self._jobs[job.id] = replace(job, state="running")
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, worker.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))
        with contextlib.suppress(OSError):
            Path(f"/proc/{worker.pid}/oom_score_adj").write_text("500")
        return worker

    def _command(self, job: Export) -> list[str]:
        wanted = job.wanted
        base = wanted.stream.replace("/", ".") or f"run-{wanted.run[:8]}"
        options = {
            "format": wanted.format,
            "out": str(self._dir / job.id / (base + FORMATS[wanted.format].suffix)),
            "data-dir": str(self._data_dir),
            "run": wanted.run if wanted.stream else None,
            "start": wanted.start_ns,
            "stop": wanted.stop_ns,
            "last": wanted.last,
            "channels": None if wanted.channels is None else ",".join(wanted.channels),
            "compression": wanted.compression,
        }
        given = [f"--{name}={value}" for name, value in options.items() if value not in (None, "")]
        given += ["--json", *(["--raw"] if wanted.raw else [])]
        return [sys.executable, "-P", "-m", "scidaq", "export", *given, "--", wanted.stream or wanted.run]

    def _follow(self, job: Export, worker: subprocess.Popen[bytes]) -> tuple[dict[str, Any], str]:
        """What it said last, and why it was ended for want of room. A station that dies takes the reading end along."""
        said: dict[str, Any] = {}
        crowded = ""
        if worker.stdout is not None:
            with worker.stdout:
                for line in worker.stdout:
                    with contextlib.suppress(orjson.JSONDecodeError):
                        said = orjson.loads(line)
                    if "files" in said or crowded:
                        continue
                    self._goes_on(job.id, said)
                    if crowded := self._room():
                        worker.kill()
        return said, crowded

    def _goes_on(self, export: str, said: dict[str, Any]) -> None:
        with self._lock:
            if (one := self._jobs.get(export)) is not None:
                self._jobs[export] = replace(one, rows=said.get("rows", one.rows), of_rows=said.get("of"))

    def _end(self, job: Export, **changes: Any) -> None:
        """It has ended so; when it was removed meanwhile, nothing is left of it."""
        with self._lock:
            known = self._jobs.get(job.id)
            stays = known is not None and not self._stopping
        if known is None or not stays:
            self._clear(job.id, records=known is None)
            return
        ended = replace(known, ended_ns=self._clock.now_ns(), **changes)
        if ended.state == "failed":
            log.warning("an export failed", export=job.id, error=ended.error)
            self._clear(job.id, records=False)
        try:
            self._note(ended)
        except OSError as error:  # until the station stops it is known all the same
            log.warning("the end of an export could not be noted", export=job.id, error=str(error))
        with self._lock:
            if stays := job.id in self._jobs:
                self._jobs[job.id] = ended
                self._ended[ended.state] += self._thread is not None  # not of before, which are found at the start
        if not stays:
            self._clear(job.id, records=True)

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker[1].kill()

    # ---- what is kept ----

    def _note(self, job: Export) -> None:
        """Keep it where the next start finds it. Raises `OSError`."""
        name = _ASKED if job.ended_ns is None else _ENDED
        publish(self._files, self._dir / job.id / name, orjson.dumps(job.as_json(), option=orjson.OPT_INDENT_2))

    def _clear(self, export: str, *, records: bool) -> None:
        """Remove what there is of an export, its records too or not."""
        if records:
            shutil.rmtree(self._dir / export, ignore_errors=True)
            return
        with contextlib.suppress(OSError):
            for path in (self._dir / export).iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name not in (_ASKED, _ENDED):
                    path.unlink()

    def _forget(self, export: str) -> None:
        with self._lock:
            self._jobs.pop(export, None)
        shutil.rmtree(self._dir / export, ignore_errors=True)

    def _expire(self) -> None:
        now_ns = self._clock.now_ns()
        for one in self.all():
            if one.expires_ns is not None and one.expires_ns <= now_ns:
                self._forget(one.id)

    def _find(self) -> None:
        """What earlier lives of the station have left; one that was not whole has failed."""
        found = []
        for path in self._dir.iterdir():
            if not (_ID.fullmatch(path.name) and path.is_dir() and not path.is_symlink()):
                continue
            try:
                record = path / _ENDED if (path / _ENDED).exists() else path / _ASKED
                job = Export.from_json(orjson.loads(record.read_bytes()))
                if job.id != path.name:
                    raise ValueError("it is another's")
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("an export without a record is removed", export=path.name, error=str(error))
                shutil.rmtree(path, ignore_errors=True)
                continue
            found.append(job)
        for job in sorted(found, key=lambda one: one.created_ns):
            self._jobs[job.id] = job
            if job.state not in ("done", "failed"):
                self._end(job, state="failed", error="the station ended before it was whole: ask for it again")


def _check(wanted: ExportWanted) -> None:
    """Raises `RequestError` for what no export can be."""
    form = FORMATS.get(wanted.format)
    if form is None:
        raise RequestError(f"no format {wanted.format[:40]!r}; there are {', '.join(FORMATS)}")
    if wanted.compression is not None and wanted.compression not in form.compressions:
        raise RequestError(f"{form.name} is not compressed so: choose {', '.join(form.compressions)}")
    if not (wanted.stream or wanted.run):
        raise RequestError("name a stream or a run")
    if wanted.last is not None and (wanted.start_ns, wanted.stop_ns, wanted.run) != (None, None, ""):
        raise RequestError("give either last or start, stop and run")
    if wanted.start_ns is not None and wanted.stop_ns is not None and wanted.stop_ns < wanted.start_ns:
        raise RequestError(f"the range ends ({wanted.stop_ns}) before it starts ({wanted.start_ns})")
