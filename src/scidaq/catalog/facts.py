"""The facts log: what no segment holds, one checksummed line each, synced before it is confirmed, never rewritten.

The format is specified in `docs/format/facts.md`. A line that was being written when the power went stays where it is
and is ignored; the log goes on in a new file, chained to the last line that is whole. Reading verifies every line and
the chain, and hands out what is intact together with what is not. No database here: the catalog projects from this log.
"""

from __future__ import annotations

import io
import json
import operator
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from crc32c import crc32c

from scidaq.clock import Clock, SystemClock
from scidaq.errors import Corrupt, RequestError, WriteFailed

ROLL_BYTES = 1 << 20
"""No file grows beyond this, so no fact may be longer either."""
ROOT = "00000000"
"""`prev` of the very first fact."""

_NAME = re.compile(r"\d{8}\.jsonl")
_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_ENDING = re.compile(rb',"crc":"([0-9a-f]{8})"}')
_ENDING_BYTES = len(',"crc":"00000000"}')


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened, as it was confirmed."""

    seq: int
    """Place in the log, from 0, without holes."""
    t_ns: int
    """UTC nanoseconds at which it was written."""
    kind: str
    """A registered kind, such as `run.started` (a newer scidaq may have written others)."""
    data: Mapping[str, Any]
    """What there is to say: JSON values only."""


# ---- kinds -----------------------------------------------------------------------------------------------------------

_kinds: dict[str, str] = {}


def register_kind(name: str, description: str) -> str:
    """Make a kind of fact known, and return its name. Rooms call it at import, each for its own kinds.

    Raises `ValueError` when the name is no dotted lower-case word or is taken by another meaning.
    """
    if not _KIND.fullmatch(name):
        raise ValueError(f"kind of fact {name!r}: lower-case words joined by dots, such as 'run.started'")
    if _kinds.setdefault(name, description) != description:
        raise ValueError(f"kind of fact {name!r} is registered already, with another meaning")
    return name


def kinds() -> dict[str, str]:
    """The kinds that are registered, with their meaning, by name."""
    return dict(sorted(_kinds.items()))


# ---- lines -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """An intact line, and where it stands."""

    path: Path
    offset: int
    fact: Fact
    prev: str
    crc: str


def canonical(data: Mapping[str, Any]) -> str:
    """`data` as compact JSON with sorted keys. Raises `RequestError` for what JSON cannot say (NaN, bytes, objects)."""
    try:
        text = json.dumps(dict(data), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError) as error:
        raise RequestError(f"a fact holds JSON values only: {error}") from error
    return text


def _encode(seq: int, t_ns: int, kind: str, data: str, prev: str) -> tuple[bytes, str]:
    """The line, and its checksum."""
    head = f'{{"seq":{seq},"t_ns":{t_ns},"kind":"{kind}","data":{data},"prev":"{prev}"'.encode()
    crc = f"{crc32c(head):08x}"
    return head + f',"crc":"{crc}"}}\n'.encode(), crc


def _decode(path: Path, offset: int, raw: bytes) -> _Line | Corrupt:
    """A line without its newline, verified."""
    ending = _ENDING.fullmatch(raw, max(0, len(raw) - _ENDING_BYTES))
    if not ending:
        return Corrupt(path, offset, f"{len(raw)} bytes that are no line of the facts log")
    crc = ending[1].decode()
    if f"{crc32c(raw[:-_ENDING_BYTES]):08x}" != crc:
        return Corrupt(path, offset, "the checksum of a fact is wrong")
    try:
        d = json.loads(raw)
        fact = Fact(operator.index(d["seq"]), operator.index(d["t_ns"]), d["kind"], d["data"])
        return _Line(path, offset, fact, d["prev"], crc)
    except (KeyError, TypeError, ValueError):
        return Corrupt(path, offset, "a line with a right checksum that is no fact")


def _scan(path: Path) -> Iterator[_Line | Corrupt]:
    """Every line of a file, in order; what stands behind the last newline is not whole."""
    *lines, tail = path.read_bytes().split(b"\n")
    offset = 0
    for raw in lines:
        yield _decode(path, offset, raw)
        offset += len(raw) + 1
    if tail:
        yield Corrupt(path, offset, f"{len(tail)} bytes of a line without its end")


def _paths(directory: Path) -> list[Path]:
    """The files of the log, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(p for p in directory.iterdir() if _NAME.fullmatch(p.name))


def _start(paths: list[Path], seq: int) -> int:
    """Index of the last file that begins at or before fact `seq`."""
    for i in range(len(paths) - 1, 0, -1):
        with paths[i].open("rb") as file:
            raw = file.readline(ROLL_BYTES + 1)
        line = _decode(paths[i], 0, raw[:-1]) if raw.endswith(b"\n") else None
        if isinstance(line, _Line) and line.fact.seq <= seq:
            return i
    return 0


def read_facts(directory: Path, since: int = 0) -> Iterator[Fact | Corrupt]:
    """Every intact fact from number `since` on, in order, with a `Corrupt` in the place of each damage.

    Needs no right to write and may run while the station appends. Damage is a line that is not whole, or facts that
    are missing; a torn line at the end of a file, from which the log went on as if it had never been, is none. Reading
    begins at the start of a file, so damage shortly before `since` is reported too.
    """
    paths = _paths(directory)
    start = _start(paths, since) if since else 0
    held: _Line | None = None  # read, but a later file may say that it was never confirmed
    suspects: list[Corrupt] = []  # not whole, behind `held`
    for path in paths[start:]:
        for line in _scan(path):
            if isinstance(line, Corrupt):
                suspects.append(line)
                continue
            seq = line.fact.seq
            if held is None:
                chained, replaces, again = start > 0 or (seq, line.prev) == (0, ROOT), False, False
            else:
                replaces = _replaces(line, held)
                chained = replaces or (seq, line.prev) == (held.fact.seq + 1, held.crc)
                again = seq <= held.fact.seq and not replaces
            if held is not None and held.fact.seq >= since and not (replaces or again):
                yield held.fact
            if not (chained and _torn(suspects, path)):
                yield from suspects or [_break(line, held)]
            suspects.clear()
            held = held if again else line
    if held is not None and held.fact.seq >= since:
        yield held.fact
    if not _torn(suspects):
        yield from suspects


def _replaces(line: _Line, held: _Line) -> bool:
    """Whether `held` was written but its sync failed: then the log went on in a new file with the same number."""
    return line.path != held.path and (line.fact.seq, line.prev) == (held.fact.seq, held.prev)


def _torn(suspects: list[Corrupt], *behind: Path) -> bool:
    """Whether the lines that are not whole are the last of their files, one each: writes that never ended."""
    places = [s.path for s in suspects] + list(behind)
    return len(set(places)) == len(places)


def _break(line: _Line, held: _Line | None) -> Corrupt:
    expected = 0 if held is None else held.fact.seq + 1
    seq = line.fact.seq
    if seq > expected:
        reason = f"facts {expected} to {seq - 1} are missing" if seq - expected > 1 else f"fact {expected} is missing"
    elif seq < expected:
        reason = f"fact {seq} stands here a second time"
    else:
        reason = f"fact {seq} does not belong behind the one before it"
    return Corrupt(line.path, line.offset, reason)


# ---- files -----------------------------------------------------------------------------------------------------------


class Handle(Protocol):
    """An open file, as far as the log looks into it."""

    def close(self) -> None:
        """Give the file back; nothing is synced."""


H = TypeVar("H", bound=Handle)


class Files(Protocol[H]):
    """What the log needs of a file system: five verbs of the store's seam, through which tests let it fail.

    Each raises `OSError` when the operating system refuses; the end of that file is not trusted afterwards.
    """

    def create(self, path: Path) -> H:
        """A new empty file. Raises `FileExistsError` rather than touch one that is there."""

    def reopen(self, path: Path) -> H:
        """A file that is there, to append to its end."""

    def append(self, file: H, pieces: Sequence[bytes]) -> None:
        """Write all pieces behind what is there; on return the operating system has them."""

    def sync(self, file: H) -> None:
        """Return when what was appended survives power loss."""

    def sync_dir(self, path: Path) -> None:
        """Return when the names in the directory `path` survive power loss."""


class _OsFiles:
    """The operating system itself."""

    def create(self, path: Path) -> io.FileIO:
        return io.FileIO(path, "xb")

    def reopen(self, path: Path) -> io.FileIO:
        return io.FileIO(path, "ab")

    def append(self, file: io.FileIO, pieces: Sequence[bytes]) -> None:
        rest = memoryview(b"".join(pieces))
        while rest:
            rest = rest[file.write(rest) or 0 :]

    def sync(self, file: io.FileIO) -> None:
        os.fsync(file.fileno())

    def sync_dir(self, path: Path) -> None:
        if os.name == "nt":  # a directory cannot be opened there; NTFS journals its names
            return
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# ---- the log ---------------------------------------------------------------------------------------------------------


class FactsLog:
    """The log of one data directory, open for appending.

    One process at a time, which is what the data directory's lock is for. `append` may be called from any thread.
    """

    def __init__(self, directory: Path, clock: Clock, files: Files[Any]) -> None:
        self._directory, self._clock, self._files = directory, clock, files
        self._lock = threading.Lock()
        self._closed = False
        self.told: Callable[[Fact], None] | None = None
        """Is told of each fact once it is durable, in the thread that wrote it."""
        self._file: Handle | None = None
        self._size = 0
        self._number = -1
        """Of the newest file."""
        self._next_seq = 0
        self._prev = ROOT

    @classmethod
    def open(cls, directory: Path, clock: Clock | None = None, files: Files[Any] | None = None) -> Self:
        """The log in `directory` (`<data_dir>/facts`), made where there is none; everything in it is durable on return.

        Raises `WriteFailed` when the directory cannot be written.
        """
        log = cls(directory, clock or SystemClock(), files or _OsFiles())
        try:
            log._recover()
        except OSError as error:
            log.close()
            raise WriteFailed(f"facts log {directory}: {error}; is the data directory writable?") from error
        return log

    def _recover(self) -> None:
        """Find the last intact line, and the file to go on in."""
        if not self._directory.is_dir():
            self._directory.mkdir(parents=True)
            self._files.sync_dir(self._directory.parent)
        paths = _paths(self._directory)
        if not paths:
            return
        self._number = int(paths[-1].stem)
        # A process killed between write and sync left lines and a name that can be read but are not durable yet. What
        # is appended next is chained to them, so they come first.
        self._files.sync_dir(self._directory)
        for path in reversed(paths):
            file = self._files.reopen(path)
            try:
                self._files.sync(file)
            finally:
                file.close()
            lines = list(_scan(path))
            if path == paths[-1] and not (lines and isinstance(lines[-1], Corrupt)):
                self._file, self._size = self._files.reopen(path), path.stat().st_size
            intact = [line for line in lines if isinstance(line, _Line)]
            if intact:
                self._next_seq, self._prev = intact[-1].fact.seq + 1, intact[-1].crc
                break

    def append(self, kind: str, data: Mapping[str, Any]) -> Fact:
        """Write a fact, and return it once it is durable.

        Raises `RequestError` for a kind that nobody registered and for data that JSON cannot hold, and `WriteFailed`
        when the disk refuses: then the fact is not confirmed, may yet be found after a restart, and may be tried again.
        """
        if kind not in _kinds:
            raise RequestError(f"unknown kind of fact {kind!r}: its room registers it with register_kind")
        text = canonical(data)
        with self._lock:
            if self._closed:
                raise RequestError(f"the facts log {self._directory} is closed")
            fact = Fact(self._next_seq, self._clock.now_ns(), kind, json.loads(text))
            line, crc = _encode(fact.seq, fact.t_ns, kind, text, self._prev)
            if len(line) > ROLL_BYTES:
                raise RequestError(f"a fact of {len(line)} bytes is too long: at most {ROLL_BYTES}")
            try:
                file = self._room_for(len(line))
                self._files.append(file, [line])
                self._files.sync(file)
            except OSError as error:
                # Never again on this file: nobody knows what of it reached the disk.
                self._abandon()
                raise WriteFailed(f"facts log {self._directory}: {error}; the fact is not confirmed") from error
            self._size += len(line)
            self._next_seq, self._prev = fact.seq + 1, crc
        if self.told is not None:
            self.told(fact)
        return fact

    def _room_for(self, size: int) -> Handle:
        """The file that the next `size` bytes go to: the present one, or a new one whose name is durable."""
        if self._file is not None and self._size + size <= ROLL_BYTES:
            return self._file
        self._abandon()
        # Empty under its own name is as safe as renamed into place: a file without lines says nothing, and the first
        # line is confirmed only after the name is durable.
        self._number += 1
        self._file = self._files.create(self._directory / f"{self._number:08d}.jsonl")
        self._size = 0
        self._files.sync_dir(self._directory)
        return self._file

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # what counts was synced before

    @property
    def next_seq(self) -> int:
        """Number that the next fact will get: how many were confirmed so far."""
        return self._next_seq

    def __iter__(self) -> Iterator[Fact | Corrupt]:
        return self.since(0)

    def since(self, seq: int) -> Iterator[Fact | Corrupt]:
        """What `read_facts` finds from fact `seq` on."""
        return read_facts(self._directory, seq)

    def close(self) -> None:
        """Give the file back. Everything that was confirmed is durable already."""
        with self._lock:
            self._closed = True
            self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
