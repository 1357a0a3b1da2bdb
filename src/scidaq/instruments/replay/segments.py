"""Segments of scidaq's own: one file, or a directory of those of a stream; `docs/format/segment.md` specifies them.

Every checksum is tested before a row is believed. A file that still grows, or was cut off, is read up to its last
intact batch; a damaged batch is left out, and its rows show as a gap.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from crc32c import crc32c

from scidaq.block import Block, Epoch, Gap, RangeSet, Reason, buffer_count, from_buffers
from scidaq.errors import InvalidBlock, UnreadableFile
from scidaq.instruments.replay.foreign import PIECE_BYTES, Reading, Table, slug, unique

NAME = re.compile(r"(\d{6})-(\d{14})-(\d{4})\.arrows")
_EMPTY_CRC = b"00000000"
_LIMIT = 1 << 30
"""No message is larger."""


class _Batch(NamedTuple):
    """Where the rows of a batch lie."""

    first: int
    end: int
    generation: int
    file: int
    """Index of its file."""
    at: int
    t0_ns: int


@dataclass(slots=True)
class _Stretch:
    """Everything that is there of one epoch."""

    epoch: Epoch
    batches: list[_Batch] = field(default_factory=list)
    gaps: dict[tuple[int, int, Reason, bool], Gap] = field(default_factory=dict)
    left_out: RangeSet = field(default_factory=RangeSet)
    high: int = 0


def is_segment(path: Path) -> bool:
    """Whether a file begins as a segment does."""
    with suppress(UnreadableFile, OSError, ValueError), _Mapped(path) as data:
        return _schema(path, data)[0] is not None
    return False


def segment_names(path: Path) -> list[Path]:
    """The segments in a directory, in their order."""
    return sorted(p for p in path.iterdir() if NAME.fullmatch(p.name))


def tables(path: Path, reading: Reading) -> list[Table]:
    """A table for each stretch of epochs with one schema, in order."""
    paths = segment_names(path) if path.is_dir() else [path]
    notes: list[str] = []
    stretches = _look(path, paths, notes)
    if not stretches:
        raise UnreadableFile(path, "", "; ".join(notes) or "no segment is in it")
    groups: list[list[_Stretch]] = []
    for number in sorted(stretches):
        stretch = stretches[number]
        if groups and groups[-1][-1].epoch.schema == stretch.epoch.schema:
            groups[-1].append(stretch)
        else:
            groups.append([stretch])
    stream = groups[0][0].epoch.stream
    names = unique([slug(stream.partition("/")[2])] * len(groups))
    return [
        Table(
            name,
            group[0].epoch.schema,
            lambda name=name, group=group: _items(paths, name, group),  # type: ignore[misc]
            True,
            sum(_ranges(s).total for s in group),
            stream,
            tuple(notes) if n == 0 else (),
        )
        for n, (name, group) in enumerate(zip(names, groups, strict=True))
    ]


def _ranges(stretch: _Stretch) -> RangeSet:
    return RangeSet((b.first, b.end) for b in stretch.batches)


# ---- messages --------------------------------------------------------------------------------------------------------


class _Mapped:
    """A file as memory, for as long as it is being read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> memoryview:
        with self._path.open("rb") as file:
            if not self._path.stat().st_size:
                raise UnreadableFile(self._path, "", "it is empty")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._view = memoryview(self._map)
        return self._view

    def __exit__(self, *exc: object) -> None:
        self._view.release()
        self._map.close()


class _Message(NamedTuple):
    at: int
    end: int
    rows: int
    facts: dict[str, Any]
    crc: int
    buffers: list[tuple[int, int]]
    """Place and size of each in the file."""


def _message(data: memoryview, at: int) -> _Message | None:
    """The message that begins here; None at the end. Raises `ValueError` for what is none."""
    if at + 8 > len(data):
        return None

    def u16(p: int) -> int:
        return int.from_bytes(data[p : p + 2], "little")

    def u32(p: int) -> int:
        return int.from_bytes(data[p : p + 4], "little")

    def i64(p: int) -> int:
        return int.from_bytes(data[p : p + 8], "little", signed=True)

    def entry(table: int, number: int) -> int:
        vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
        if not 0 <= vtable < len(data):
            raise ValueError("its metadata points outside the file")
        offset = u16(vtable + 4 + 2 * number) if 4 + 2 * number < u16(vtable) else 0
        return table + offset if offset else 0

    def follow(p: int) -> int:
        return p + u32(p)

    def text(p: int) -> bytes:
        where = follow(p)
        return bytes(data[where + 4 : where + 4 + u32(where)])

    if u32(at) != 0xFFFFFFFF:
        raise ValueError("no message begins here")
    size = u32(at + 4)
    if not size:
        return None
    if size > _LIMIT or at + 8 + size > len(data):
        raise ValueError("it is cut off")
    message = follow(at + 8)
    kind = data[entry(message, 1)]
    header = follow(entry(message, 2))
    body_at, body_place = at + 8 + size, entry(message, 3)
    body = i64(body_place) if body_place else 0
    if not 0 <= body <= _LIMIT or body_at + body > len(data):
        raise ValueError("it is cut off")
    end = body_at + body
    entries = follow(entry(header, 2) if kind == 1 else entry(message, 4))
    said: dict[bytes, bytes] = {}
    digits = 0
    for i in range(min(u32(entries), 16)):
        pair = follow(entries + 4 + 4 * i)
        key = text(entry(pair, 0))
        said[key] = text(entry(pair, 1))
        if key == b"scidaq.crc":
            digits = follow(entry(pair, 1)) + 4
    facts = json.loads(said.get(b"scidaq", b"null"))
    crc = said.get(b"scidaq.crc", b"")
    if not isinstance(facts, dict) or len(crc) != 8 or not at < digits < body_at:
        raise ValueError("it is no message of scidaq's")
    before = 0 if kind == 1 else int(str(facts["prev"]), 16)
    value = crc32c(data[at:digits], crc32c(before.to_bytes(4, "little")))
    value = crc32c(data[digits + 8 : end], crc32c(_EMPTY_CRC, value))
    if b"%08x" % value != crc:
        raise ValueError("its checksum is wrong")
    rows, places = 0, []
    if kind == 3:
        rows = i64(entry(header, 0)) if entry(header, 0) else 0
        vector = follow(entry(header, 2))
        places = [(body_at + i64(vector + 4 + 16 * i), i64(vector + 12 + 16 * i)) for i in range(u32(vector))]
    return _Message(at, end, rows, facts, value, places)


def _schema(path: Path, data: memoryview) -> tuple[Epoch | None, int]:
    """The epoch that a segment belongs to, and where its batches begin; None where it is no segment."""
    try:
        message = _message(data, 0)
        if message is None or message.facts.get("kind") != "segment":
            return None, 0
        if message.facts["format"] != 1:
            raise UnreadableFile(path, "", f"it has format version {message.facts['format']}, which is not known")
        return Epoch.from_json(message.facts), message.end
    except (ValueError, LookupError, TypeError) as error:
        if isinstance(error, UnreadableFile):
            raise
        return None, 0


def _resume(data: memoryview, at: int, identity: str) -> int:
    """Where the next batch behind damage may begin; the end of the file where there is none."""
    needle = b'{"id":"' + identity.encode() + b'"'
    mapped = data.obj
    if not isinstance(mapped, mmap.mmap):
        return len(data)
    place = mapped.find(needle, at + 1)
    while place >= 0:
        for begin in range(place - place % 64, max(at, place - (1 << 20)), -64):
            if bytes(data[begin : begin + 4]) == b"\xff\xff\xff\xff" and begin > at:
                with suppress(ValueError, LookupError, TypeError):
                    if (found := _message(data, begin)) is not None and found.at < place < found.end:
                        return begin
        place = mapped.find(needle, place + 1)
    return len(data)


# ---- what is there ---------------------------------------------------------------------------------------------------


def _look(where: Path, paths: Sequence[Path], notes: list[str]) -> dict[int, _Stretch]:
    """The epochs by number, from the headers of all batches."""
    out: dict[int, _Stretch] = {}
    stream = ""
    for index, path in enumerate(paths):
        try:
            with _Mapped(path) as data:
                epoch, at = _schema(path, data)
                if epoch is None:
                    notes.append(f"{path.name} is left out: it does not begin as a segment")
                    continue
                if stream and epoch.stream != stream:
                    raise UnreadableFile(where, path.name, f"it belongs to {epoch.stream}, the others to {stream}")
                stream = epoch.stream
                stretch = out.setdefault(epoch.number, _Stretch(epoch))
                if stretch.epoch.schema != epoch.schema:
                    raise UnreadableFile(where, path.name, f"its channels are not those of epoch {epoch.number}")
                _take(path, data, at, index, stretch, notes)
        except OSError as error:
            raise UnreadableFile(where, path.name, f"{error.strerror or error}") from error
    return out


def _take(path: Path, data: memoryview, at: int, index: int, stretch: _Stretch, notes: list[str]) -> None:
    """Note the batches of one segment, its gap records, and how far its book goes."""
    facts = (_message(data, 0) or _Message(0, 0, 0, {}, 0, [])).facts
    generation, identity = int(facts["generation"]), str(facts["id"])
    epoch = stretch.epoch
    while at < len(data):
        try:
            message = _message(data, at)
        except (ValueError, LookupError, TypeError) as error:
            again = _resume(data, at, identity)
            lost = "its end is" if again == len(data) else f"{again - at} bytes are"
            notes.append(f"{path.name} at byte {at}: {error}; {lost} left out")
            at = again
            continue
        if message is None:
            return
        said = message.facts
        for gap in (Gap.from_json(epoch.stream, epoch.number, g) for g in said.get("gaps", ())):
            stretch.gaps[gap.first, gap.end, gap.reason, gap.unknown] = gap
            stretch.high = max(stretch.high, gap.end)
        for first, end in said.get("left_out", ()):
            stretch.left_out.add(first, end)
        stretch.high = max(stretch.high, int(said.get("high", 0)))
        if message.rows:
            first = int(said["first"])
            stretch.batches.append(_Batch(first, first + message.rows, generation, index, at, int(said["t0"])))
            stretch.high = max(stretch.high, first + message.rows)
        at = message.end


# ---- rows ------------------------------------------------------------------------------------------------------------


def _items(paths: Sequence[Path], name: str, stretches: Sequence[_Stretch]) -> Iterator[Block | Gap]:
    """The rows of some epochs in order, each once, and the gaps between them."""
    opened: dict[int, tuple[_Mapped, memoryview]] = {}
    try:
        for stretch in stretches:
            yield from _rows(paths, name, stretch, opened)
    finally:
        for mapped, view in opened.values():
            del view
            mapped.__exit__()


def _rows(
    paths: Sequence[Path], name: str, stretch: _Stretch, opened: dict[int, tuple[_Mapped, memoryview]]
) -> Iterator[Block | Gap]:
    at, before_ns = 0, None
    for first, end, batch in _plan(stretch.batches):
        block = _block(paths, name, stretch.epoch, batch, opened).slice(first, end)
        yield from _holes(stretch, at, first, before_ns, block.t0_ns)
        yield from _pieces(block)
        at, before_ns = end, block.last_ns
        for index in [i for i in opened if i < batch.file]:
            if all(b.file != index or b.end <= at for b in stretch.batches):
                opened.pop(index)[0].__exit__()
    if stretch.high > at or not stretch.batches:
        yield from _holes(stretch, at, stretch.high, before_ns, None)


def _plan(batches: Sequence[_Batch]) -> list[tuple[int, int, _Batch]]:
    """Which rows to take of which batch, ascending: those of a higher generation first."""
    done, out = RangeSet(), []
    for batch in sorted(batches, key=lambda b: (-b.generation, b.first)):
        for first, end in done.missing(batch.first, batch.end):
            out.append((first, end, batch))
        done.add(batch.first, batch.end)
    return sorted(out, key=lambda one: one[0])


def _block(
    paths: Sequence[Path], name: str, epoch: Epoch, batch: _Batch, opened: dict[int, tuple[_Mapped, memoryview]]
) -> Block:
    path = paths[batch.file]
    try:
        if batch.file not in opened:
            mapped = _Mapped(path)
            opened[batch.file] = mapped, mapped.__enter__()
        data = opened[batch.file][1]
        message = _message(data, batch.at)
        if message is None:
            raise ValueError("it is gone")
        wanted = buffer_count(epoch.schema)[1]
        if len(message.buffers) != wanted:
            raise ValueError(f"{len(message.buffers)} buffers where {wanted} belong")
        buffers = [np.frombuffer(bytes(data[a : a + n]), np.uint8) for a, n in message.buffers]
        return from_buffers(
            name, epoch.number, batch.first, epoch.schema, batch.end - batch.first, batch.t0_ns, buffers
        )
    except (ValueError, LookupError, TypeError, InvalidBlock, OSError) as error:
        raise UnreadableFile(path, f"byte {batch.at}", f"{error}; it has been changed") from error


def _pieces(block: Block) -> Iterator[Block]:
    most = max(1, PIECE_BYTES // max(1, block.schema.row_bytes))
    for first in range(block.first, block.end, most):
        yield block.slice(first, min(block.end, first + most))


def _holes(stretch: _Stretch, first: int, end: int, before_ns: int | None, after_ns: int | None) -> Iterator[Gap]:
    """The gaps in the rows `[first, end)`, and losses of unknown size just before row `end`."""
    epoch = stretch.epoch
    for gap in stretch.gaps.values():
        if gap.first == gap.end == end and (gap.unknown or gap.first == 0):
            yield gap
    rest = RangeSet([(first, end)] if first < end else [])
    found = []
    for a, b in stretch.left_out.within(first, end) if rest else ():
        found.append(Gap(epoch.stream, epoch.number, a, b, Reason.POLICY, before_ns, after_ns))
        rest.remove(a, b)
    for gap in stretch.gaps.values():
        for a, b in rest.within(gap.first, gap.end):
            found.append(replace(gap, first=a, end=b))
            rest.remove(a, b)
    found += [Gap(epoch.stream, epoch.number, a, b, Reason.UNEXPLAINED, before_ns, after_ns) for a, b in rest]
    yield from sorted(found, key=lambda g: g.first)
