"""The outline of a sealed segment: where its batches lie, as its seal says, for who wants some rows only.

A walk looks at a header every few kilobytes and maps in what lies around each; the outline is a page or two at the end
of the file. It is only believed where the batches bear it out: each is checked when it is read, and who finds one that
is not as the outline says walks (`Segment`).
"""

from __future__ import annotations

from array import array
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from scidaq.block import Block, Epoch, Gap
from scidaq.errors import Corrupt, InvalidBlock
from scidaq.store import wire
from scidaq.store.batch import block_of, previous_of

LEAST = 64
"""Messages from which on a segment has an outline: fewer are walked as quickly."""
MOST = 100_000
"""Batches up to which it has one."""


class Entry(NamedTuple):
    """A batch with rows, as far as it must be known to decide whether to read it."""

    at: int
    """Where it begins in the file."""
    size: int
    first: int
    rows: int
    t0_ns: int

    @property
    def end(self) -> int:
        """One past its last row."""
        return self.first + self.rows


def entry_of(message: wire.Message) -> Entry:
    """That of a batch with rows, as its own facts say."""
    said = message.facts
    return Entry(message.at, message.header + message.body, int(said["first"]), message.rows, int(said["t0"]))


def is_noted(facts: dict[str, Any]) -> bool:
    """Whether a batch says of rows that are not there why."""
    return "gaps" in facts or "left_out" in facts


def outline_json(entries: array[int], noted: list[int]) -> dict[str, Any] | None:
    """As it stands in the seal; None where it would be too long.

    `entries` are the numbers of all entries one behind the other, `noted` is where batches begin that carry gap records
    or rows left out.
    """
    width = len(Entry._fields)
    if len(entries) // width + len(noted) > MOST:
        return None
    numbers = entries.tolist()
    return {"batches": [numbers[i : i + width] for i in range(0, len(numbers), width)], "noted": noted}


class Outline:
    """A sealed segment by its outline. Blocks are views of the file; may be asked from any thread."""

    def __init__(
        self, data: memoryview, path: Path, epoch: Epoch, uuid: str, entries: list[Entry], noted: list[dict[str, Any]]
    ) -> None:
        self.data, self.path, self.id = data, path, uuid
        self.epoch: Epoch | None = epoch
        self.entries = entries
        """The batches with rows, in the order of the file."""
        self._noted = noted

    @classmethod
    def of(cls, data: memoryview, path: Path) -> Outline | None:
        """None where there is none, or anything about it is not in order."""
        try:
            if data[-len(wire.EOS) :] != wire.EOS:
                return None
            head = wire.parse(data, 0, path)
            if head.kind != wire.SCHEMA or head.crc != wire.checksum(data, head, 0):
                return None
            uuid, epoch = str(head.facts["id"]), Epoch.from_json(head.facts)
            at = wire.last_batch(data, b'{"id":"' + uuid.encode() + b'"')
            seal = wire.parse(data, at, path) if at is not None else head
            said = seal.facts.get("seal", {}).get("outline")
            if said is None or seal.end + len(wire.EOS) != len(data):
                return None
            if seal.crc != wire.checksum(data, seal, previous_of(seal)):
                return None
            entries = [Entry._make(entry) for entry in said["batches"]]
            if set(map(type, chain.from_iterable(entries))) - {int}:
                return None
            noted = [_of(data, path, int(at), uuid).facts for at in said["noted"]]
        except (Corrupt, wire.EndOfStream, InvalidBlock, ValueError, KeyError, TypeError, OverflowError):
            return None
        return cls(data, path, epoch, uuid, entries, [*noted, seal.facts])

    def block_at(self, i: int) -> Block:
        """The rows of the batch of entry `i`, checked. Raises `Corrupt` where they are not as its checksum or the entry
        says.
        """
        entry = self.entries[i]
        message = _of(self.data, self.path, entry.at, self.id)
        if (message.header + message.body, message.rows) != (entry.size, entry.rows):
            raise Corrupt(self.path, entry.at, "a batch is not the one that the outline names")
        block = block_of(self.data, self.path, message, self.epoch)
        if (block.first, block.t0_ns) != (entry.first, entry.t0_ns):
            raise Corrupt(self.path, entry.at, "a batch is not the one that the outline names")
        return block

    def gaps(self) -> list[Gap]:
        """Every gap record in the file, in order."""
        e = self.epoch
        if e is None:
            return []
        return [Gap.from_json(e.stream, e.number, g) for facts in self._noted for g in facts.get("gaps", ())]

    def left_out(self) -> list[tuple[int, int]]:
        """Every range of rows that were left out by policy, in order."""
        return [(a, b) for facts in self._noted for a, b in facts.get("left_out", ())]


def _of(data: memoryview, path: Path, at: int, uuid: str) -> wire.Message:
    """The batch that begins at `at`. Raises `Corrupt` where no batch of the segment does."""
    if not 0 < at < len(data):
        raise Corrupt(path, at, "the outline names a batch outside the file")
    try:
        message = wire.parse(data, at, path)
    except wire.EndOfStream:
        raise Corrupt(path, at, "no message begins here") from None
    if message.kind != wire.BATCH or message.facts.get("id") != uuid:
        raise Corrupt(path, at, "a batch of another segment")
    return message
