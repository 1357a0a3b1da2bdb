"""Segments: one append-only file of a stream, written in order, sealed when full, then never changed.

`SegmentWriter` encodes blocks into page-aligned buffers and hands those to whoever writes; it does no I/O itself, so
that a slow disk never delays encoding. `Segment` reads one back, growing, sealed or damaged.
"""

from __future__ import annotations

import copy
import mmap
import re
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import orjson

from scidaq.block import Block, Bytes, Epoch, Gap, Ledger, RangeSet, buffer_count, join_buffers, padded
from scidaq.errors import Corrupt, InvalidBlock
from scidaq.store import wire
from scidaq.store.batch import block_of, previous_of
from scidaq.store.files import PAGE
from scidaq.store.outline import LEAST, Entry, entry_of, is_noted, outline_json

FORMAT = 1
SUFFIX = ".arrows"
_NAME = re.compile(r"(\d{6})-(\d{14})-(\d{4})\.arrows")
_RESERVE = 2 * PAGE


class SegmentName(NamedTuple):
    """What the name of a segment's file says."""

    epoch: int
    first: int
    generation: int

    def __str__(self) -> str:
        return f"{self.epoch:06d}-{self.first:014d}-{self.generation:04d}{SUFFIX}"

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """None when the name is no segment's."""
        found = _NAME.fullmatch(name)
        return cls(*(int(n) for n in found.groups())) if found else None


class Buffers:
    """A fixed number of page-aligned buffers, handed out and taken back; used from two threads."""

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._free: deque[mmap.mmap] = deque(_pages(size) for _ in range(count))

    def take(self, size: int = 0) -> mmap.mmap | None:
        """A buffer of at least `size` bytes, or None while all are in use. One above the usual size is made anew."""
        if size > self.size:
            return mmap.mmap(-1, padded(size, PAGE))
        try:
            return self._free.pop()  # the one used last, which the caches still have
        except IndexError:
            return None

    def give_back(self, buffer: mmap.mmap) -> None:
        """Return a buffer that nothing refers to any more."""
        if len(buffer) == self.size:
            self._free.append(buffer)


def _pages(size: int) -> mmap.mmap:
    """Anonymous memory, in huge pages where the system has them: the disk driver pins pages one by one."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class Chunk(NamedTuple):
    """Encoded bytes on their way to a file."""

    buffer: mmap.mmap
    size: int


@dataclass(slots=True)
class Totals:
    """What a segment has held so far; goes into its seal."""

    rows: int = 0
    gap_rows: int = 0
    """Rows that the gap records in the segment explain."""
    batches: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    ranges: RangeSet = field(default_factory=RangeSet)

    def count(self, first: int, rows: int, first_ns: int, last_ns: int) -> None:
        """Take one batch into account."""
        self.rows += rows
        self.batches += 1
        self.first_ns = first_ns if self.first_ns is None else min(self.first_ns, first_ns)
        self.last_ns = last_ns if self.last_ns is None else max(self.last_ns, last_ns)
        self.ranges.add(first, first + rows)

    def as_json(self) -> dict[str, Any]:
        """As it stands in the seal."""
        return {
            "rows": self.rows,
            "gap_rows": self.gap_rows,
            "batches": self.batches,
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "ranges": list(self.ranges),
        }


class SegmentWriter:
    """Encodes blocks, commits and the seal of one segment. Used by one thread; does no I/O.

    `chunks` collects what is ready to be written, in order; every chunk but one that ends a commit is a whole number of
    pages, and so is that one, because a commit is padded to a page inside its own metadata.
    """

    def __init__(self, epoch: Epoch, name: SegmentName, station: str, created_ns: int, buffers: Buffers) -> None:
        self.epoch, self.name, self.buffers, self.created_ns = epoch, name, buffers, created_ns
        self.id = str(uuid4())
        self.totals = Totals()
        self.chunks: deque[Chunk] = deque()
        self.synced = 0
        """How far the file is known to be durable; goes into every batch, so that recovery need not check before it."""
        facts = segment_facts(self.id, epoch, name, station, created_ns)
        self.head, self._crc = wire.schema_message(wire.arrow_schema(epoch.schema), facts, PAGE)
        """The schema message: what the file is created with."""
        self.at = len(self.head)
        """Where the next message begins."""
        self.committed = self.at
        """Where the newest commit ends."""
        self._seq = 0
        self._shape = wire.shape_of(*buffer_count(epoch.schema))
        self._buffer: mmap.mmap | None = None
        self._view: Bytes | None = None
        self._fill = 0
        self.dirty = False
        """Whether batches have been encoded since the last commit."""
        self._entries = array("q")
        """For the outline: five numbers for each batch with rows."""
        self._noted: list[int] = []

    @property
    def seq(self) -> int:
        """How many batches have been encoded."""
        return self._seq

    def go_on(self, uuid: str, at: int, crc: int, seq: int, before: Sequence[wire.Message]) -> None:
        """Continue a segment that another writer has begun: for recovery, which seals what it finds.

        `before` are the batches that are there.
        """
        self.id, self.at, self._crc, self._seq = uuid, at, crc, seq
        self._entries = array("q", (n for m in before if m.rows for n in entry_of(m)))
        self._noted = [m.at for m in before if is_noted(m.facts)]

    def append(self, block: Block | Sequence[Block], gaps: Sequence[Gap] = ()) -> bool:
        """Encode a block, or several that follow one another, as one batch; False (and nothing done) while no buffer
        is free.

        More than half a buffer should be cut by the caller; what is larger all the same gets a buffer of its own.
        """
        blocks = (block,) if isinstance(block, Block) else block
        head, last = blocks[0], blocks[-1]
        nodes, pieces = join_buffers(blocks)
        rows, last_ns = last.end - head.first, last.last_ns
        facts: dict[str, Any] = {"first": head.first, "rows": rows, "t0": head.t0_ns}
        if head.times is not None:
            facts["t1"] = last_ns
        if gaps:
            facts["gaps"] = [g.as_json() for g in gaps]
        done = self._message(rows, nodes, pieces, facts, wire.ALIGN)
        if done:
            self.totals.gap_rows += sum(g.rows or 0 for g in gaps)
            self.totals.count(head.first, rows, head.t0_ns, last_ns)
            self.dirty = True
        return done

    def commit(self, high: int, ledger: Ledger, left_out: Sequence[tuple[int, int]], gaps: Sequence[Gap] = ()) -> bool:
        """End a commit: a batch without rows that has the book and pads to a page. False while no buffer is free."""
        facts = self._commit_facts(high, ledger, left_out, gaps)
        if not self._message(0, [(0, 0)] * self._shape.nodes, _NOTHING * self._shape.buffers, facts, PAGE):
            return False
        self._emit()
        self.dirty, self.committed = False, self.at
        return True

    def seal(
        self,
        high: int,
        ledger: Ledger,
        left_out: Sequence[tuple[int, int]],
        gaps: Sequence[Gap] = (),
        by: str = "writer",
        t_ns: int = 0,
    ) -> bool:
        """End the segment: totals, then the end-of-stream marker of Arrow. False while no buffer is free."""
        totals = {"by": by, "t_ns": t_ns} | self.totals.as_json()
        if self._seq >= LEAST and (outline := outline_json(self._entries, self._noted)) is not None:
            totals["outline"] = outline
        facts = self._commit_facts(high, ledger, left_out, gaps) | {"seal": totals}
        nothing = _NOTHING * self._shape.buffers
        if not self._message(0, [(0, 0)] * self._shape.nodes, nothing, facts, PAGE, wire.EOS):
            return False
        self._emit()
        self.dirty, self.committed = False, self.at
        return True

    def _commit_facts(
        self, high: int, ledger: Ledger, left_out: Sequence[tuple[int, int]], gaps: Sequence[Gap]
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {"high": high, "ledger": ledger.as_list()}
        if left_out:
            facts["left_out"] = [list(r) for r in left_out]
        if gaps:
            facts["gaps"] = [g.as_json() for g in gaps]
            self.totals.gap_rows += sum(g.rows or 0 for g in gaps)
        return facts

    def _message(
        self,
        rows: int,
        nodes: Sequence[tuple[int, int]],
        arrays: Sequence[Sequence[Bytes]],
        facts: dict[str, Any],
        boundary: int,
        trailer: bytes = b"",
    ) -> bool:
        known = {"id": self.id, "seq": self._seq, "prev": f"{self._crc:08x}", "synced": self.synced}
        text = orjson.dumps(known | facts)
        sizes = [len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces)) for pieces in arrays]
        header, body = wire.batch_header(self._shape, rows, nodes, sizes, text, boundary, self.at, len(trailer))
        size = len(header) + body + len(trailer)
        if not self._room(size, reserve=_RESERVE if rows else 0):
            return False
        view, buffer, at = self._view, self._buffer, self._fill
        if view is None or buffer is None:
            raise RuntimeError("no buffer after _room")
        to = at + len(header)
        buffer[at:to] = header  # small: not by NumPy, which would let go of the interpreter
        for pieces, n in zip(arrays, sizes, strict=True):
            for piece in pieces:
                view[to : to + len(piece)] = piece
                to += len(piece)
            if rest := -n % wire.ALIGN:
                buffer[to : to + rest] = bytes(rest)
                to += rest
        with memoryview(buffer)[at:to] as message:
            self._crc = wire.sign(message, self._shape.crc_at, self._crc)
        if trailer:
            buffer[to : to + len(trailer)] = trailer
        if rows:
            self._entries.extend((self.at, len(header) + body, facts["first"], rows, facts["t0"]))
        if is_noted(facts):
            self._noted.append(self.at)
        self._fill += size
        self.at += size
        self._seq += 1
        return True

    def _room(self, size: int, reserve: int) -> bool:
        """Make sure the current buffer takes `size` more bytes (and a commit behind them); False while none is free."""
        if self._buffer is not None and self._fill + size + reserve <= len(self._buffer):
            return True
        carried = self._fill % PAGE
        fresh = self.buffers.take(carried + size + reserve)
        if fresh is None and not reserve:
            fresh = mmap.mmap(-1, padded(carried + size, PAGE))  # a commit never waits
        if fresh is None:
            return False
        if self._buffer is not None:
            # The last, partial page goes along: pages are written whole, and once.
            whole = self._fill - carried
            fresh[:carried] = self._buffer[whole : self._fill]
            old, self._view = self._buffer, None
            if whole:
                self.chunks.append(Chunk(old, whole))
            else:
                self.buffers.give_back(old)
        self._buffer, self._fill = fresh, carried
        self._view = np.frombuffer(fresh, np.uint8)
        return True

    def _emit(self) -> None:
        if self._buffer is not None and self._fill:
            self.chunks.append(Chunk(self._buffer, self._fill))
        self._buffer, self._view, self._fill = None, None, 0

    def abandon(self) -> None:
        """Give all buffers back; the segment will not be continued."""
        for chunk in self.chunks:
            self.buffers.give_back(chunk.buffer)
        self.chunks.clear()
        if self._buffer is not None:
            self.buffers.give_back(self._buffer)
        self._buffer, self._view, self._fill = None, None, 0


_NOTHING: list[list[Bytes]] = [[]]


def segment_facts(uuid: str, epoch: Epoch, name: SegmentName, station: str, created_ns: int) -> dict[str, Any]:
    """What the schema message of a segment says of it."""
    return {
        "format": FORMAT,
        "kind": "segment",
        "id": uuid,
        "station": station,
        **epoch.as_json(),
        "first": name.first,
        "generation": name.generation,
        "created_ns": created_ns,
    }


def whole_segment(epoch: Epoch, blocks: Sequence[Block], station: str, now_ns: int) -> tuple[bytes, str]:
    """A sealed segment with some blocks, and its UUID: for rows that are set aside."""
    size = 4 * PAGE + sum(2 * b.nbytes + 4 * PAGE for b in blocks)
    writer = SegmentWriter(epoch, SegmentName(epoch.number, blocks[0].first, 0), station, now_ns, Buffers(1, size))
    for block in blocks:
        writer.append(block)
    rows = writer.totals.rows
    writer.seal(blocks[-1].end, Ledger(rows, rows), ())
    return b"".join([writer.head, *(c.buffer[: c.size] for c in writer.chunks)]), writer.id


# ---- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `[at, end)` of a file that are not what was written there, or not in their place."""

    path: Path
    at: int
    end: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path} bytes [{self.at}, {self.end}): {self.reason}"


def scan(data: memoryview, path: Path, check: bool = True) -> Iterator[wire.Message | Damage]:
    """Every message of a file in order, the schema first, with what is wrong in between.

    Batches behind damage are found again by the segment's UUID; swapped and repeated ones are reported and still given,
    since their rows are intact. With `check` every byte is read; without, only the headers. An end-of-stream marker
    that no seal precedes, or that more bytes follow, is damage; the mere end of the file is not (a segment that grows).
    """
    try:
        head = wire.parse(data, 0, path)
        if head.kind != wire.SCHEMA or head.crc != wire.checksum(data, head, 0):
            raise Corrupt(path, 0, "the checksum of the schema is wrong")
        at, previous, seq = head.end, head.crc, 0
        needle = _needle(head)
        if head.facts.get("kind") == "segment":
            Epoch.from_json(head.facts)
        yield head
    except (Corrupt, wire.EndOfStream, KeyError, TypeError, InvalidBlock) as e:
        reason = e.reason if isinstance(e, Corrupt) else "there is no schema"
        found = re.search(rb'\{"id":"[0-9a-f-]{36}"', data)
        needle = found[0] if found else b"\0"
        at, previous, seq = 0, -1, -1
        following = next(_resume(data, path, 1, needle), None) if found else None
        yield Damage(path, 0, following.at if following else len(data), reason)
        if following is None:
            return
        at = following.at
    yield from _batches(data, path, check, (at, previous, seq), needle)


def _needle(message: wire.Message) -> bytes:
    """What the facts of every message of the same segment begin with."""
    return b'{"id":"' + str(message.facts["id"]).encode() + b'"'


def _batches(
    data: memoryview, path: Path, check: bool, where: tuple[int, int, int], needle: bytes | None
) -> Iterator[wire.Message | Damage]:
    """The batches from `where` on: a byte, the checksum before it (-1: not known), the number that belongs there.

    Without a `needle` damage ends it: nobody looks for what may lie behind.
    """
    (at, previous, seq), sealed = where, False
    while True:
        problem = ""
        try:
            message = wire.parse(data, at, path)
            if message.kind != wire.BATCH:
                raise Corrupt(path, at, "a second schema")
            own = previous_of(message)
            if check and message.crc != wire.checksum(data, message, own):
                raise Corrupt(path, at, "the checksum of a batch is wrong")
            number = int(message.facts["seq"])
            if not check and message.rows:  # readers go by these before the checksum is compared
                int(message.facts["first"]), int(message.facts["t0"])
            if not data[at + message.crc_at :] or not (needle is None or _needle(message) == needle):
                raise Corrupt(path, at, "a batch of another segment")
            if previous >= 0 and (number != seq or own != previous):
                yield Damage(path, at, message.end, f"batch {number} where {seq} belongs: swapped, repeated or missing")
            yield message
            at, previous, seq, sealed = message.end, message.crc, number + 1, "seal" in message.facts
            continue
        except wire.EndOfStream as e:
            if not e.marked:
                return
            if sealed and at + len(wire.EOS) == len(data):
                return
            problem = "bytes behind the end of the stream" if sealed else "an end of stream that no seal precedes"
        except Corrupt as e:
            problem = e.reason
        except (KeyError, ValueError, TypeError):
            problem = "the facts of a batch are incomplete"
        following = next(_resume(data, path, at + 1, needle), None) if needle is not None else None
        yield Damage(path, at, following.at if following else len(data), problem)
        if following is None:
            return
        at, previous, sealed = following.at, -1, False


def _resume(data: memoryview, path: Path, start: int, needle: bytes) -> Iterator[wire.Message]:
    for at in wire.find_batch(data, start, needle):
        try:
            message = wire.parse(data, at, path)
            if message.crc == wire.checksum(data, message, previous_of(message)):
                yield message
        except (Corrupt, wire.EndOfStream, KeyError, ValueError):
            continue


_LAG = 16 << 20


def _let_go(data: memoryview, seen: int, at: int) -> int:
    """Take what was looked at from the memory of the process, now and then; up to where it has gone.

    The system maps what lies around a page that is looked at: the headers of a segment bring in all of it. It stays in
    the system's cache, and comes from there when it is read.
    """
    mapped = data.obj
    if at - seen < _LAG or not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return seen
    size = (at - seen) // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, seen, size)
    return seen + size


class Segment:
    """One segment as it lies on disk. Open while its content is used: arrays of its blocks are views of the file."""

    def __init__(self, data: memoryview, path: Path, schema_of: Epoch | None = None, check: bool = True) -> None:
        self.data, self.path = data, path
        self.epoch: Epoch | None = schema_of
        self.id = ""
        self.facts: dict[str, Any] = {}
        self.batches: list[wire.Message] = []
        self.damage: list[Damage] = []
        self.seal: dict[str, Any] | None = None
        self._entries: list[Entry] | None = None
        self._with_rows: list[wire.Message] = []
        self.head = 0
        """Bytes of the schema message."""
        seen = 0
        for item in scan(data, path, check):
            if isinstance(item, Damage):
                self.damage.append(item)
                continue
            seen = _let_go(data, seen, item.end)
            if item.kind == wire.SCHEMA:
                self.facts, self.id = item.facts, str(item.facts["id"])
                self.epoch = Epoch.from_json(item.facts)
                self.head = item.end
            else:
                self.batches.append(item)
                self.id = self.id or str(item.facts["id"])
                self.seal = item.facts.get("seal")

    def grown(self, data: memoryview) -> Segment | None:
        """The same file as it is now, of which only what is new was looked at; None where all of it must be.

        For a file that has only been appended to since, as a recorder does; this one stays as it is. Damage behind the
        last batch is taken for the half of the next, until it is found there once more.
        """
        last = self.batches[-1] if self.batches else None
        if last is None or self.seal is not None or len(data) < last.end or any(d.at < last.end for d in self.damage):
            return None
        where = last.end, last.crc, int(last.facts["seq"]) + 1
        found = list(_batches(data, self.path, False, where, None))
        batches = [item for item in found if isinstance(item, wire.Message)]
        damage = [item for item in found if isinstance(item, Damage)]
        if any(str(b.facts.get("id")) != self.id for b in batches) or (damage and self.damage and not batches):
            return None
        grown = copy.copy(self)
        grown.data, grown.batches, grown.damage, grown._entries = data, self.batches + batches, damage, None
        grown.seal = batches[-1].facts.get("seal") if batches else None
        return grown

    @property
    def ended(self) -> bool:
        """Whether the file was sealed and nothing will be added to it, damaged since or not."""
        return self.seal is not None and self.data[-8:] == wire.EOS

    @property
    def sealed(self) -> bool:
        """Whether the file says itself that it is whole."""
        return self.ended and not self.damage

    @property
    def durable(self) -> int:
        """Bytes that some batch knows to have been durable when it was encoded: damage before it is no torn write."""
        return max((int(b.facts.get("synced", 0)) for b in self.batches), default=0)

    @property
    def torn(self) -> bool:
        """Whether there is damage that a torn write can explain."""
        return any(d.at >= self.durable for d in self.damage)

    @property
    def keep(self) -> int:
        """Bytes that recovery keeps: up to the first damage that a torn write can explain."""
        last = self.batches[-1].end if self.batches else self.head
        return min([last, *(d.at for d in self.damage if d.at >= self.durable)])

    @property
    def entries(self) -> list[Entry]:
        """The batches with rows, in the order of the file."""
        if self._entries is None:
            self._with_rows = [m for m in self.batches if m.rows]
            self._entries = [entry_of(m) for m in self._with_rows]
        return self._entries

    def block_at(self, i: int) -> Block:
        """The rows of the batch of entry `i`, checked against its checksum. Raises `Corrupt`."""
        return self.block(self._with_rows[i])

    def block(self, message: wire.Message) -> Block:
        """The rows of a batch, checked against its checksum. May be asked from any thread. Raises `Corrupt`."""
        return block_of(self.data, self.path, message, self.epoch)

    def gaps(self) -> list[Gap]:
        """Every gap record in the file, in order."""
        if self.epoch is None:
            return []
        e = self.epoch
        return [Gap.from_json(e.stream, e.number, g) for b in self.batches for g in b.facts.get("gaps", ())]

    def left_out(self) -> list[tuple[int, int]]:
        """Every range of rows that were left out by policy, in order."""
        return [(a, b) for m in self.batches for a, b in m.facts.get("left_out", ())]

    def commits(self) -> list[wire.Message]:
        """The batches that end a commit."""
        return [b for b in self.batches if "ledger" in b.facts]


def ranges_of(segment: Segment) -> RangeSet:
    """The rows that are present in a segment."""
    out = RangeSet()
    for b in segment.batches:
        if b.rows:
            out.add(b.facts["first"], b.facts["first"] + b.rows)
    return out
