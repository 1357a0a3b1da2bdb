"""The journal: one file for the small commits of all slow streams, one write and one sync for all of them.

A journal file is an Arrow IPC stream like a segment, with the same chained checksum; each batch is one commit, each
row of it what one stream has to keep: a packed block, or only gaps and the book. It is self-contained: the epoch of
a stream stands before its first row in each file. Rows move on to their segments; a file whose rows have all moved is
removed. Replaying goes by row index, so doing it twice changes nothing.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from scidaq.block import (
    Block,
    Bytes,
    Epoch,
    Gap,
    Ledger,
    from_buffers,
    pack,
    pack_plain,
    padded,
    plain_sizes,
    to_buffers,
    unpack,
)
from scidaq.errors import InvalidBlock
from scidaq.store import wire
from scidaq.store.files import PAGE
from scidaq.store.segment import FORMAT, Damage, scan

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"(\d{8})\.log")
_INTEGERS = (
    "stream epoch rows first t0 high delivered recorded gaps duplicates left_out expired".split()
)  # int32 the first three, int64 the others
_NARROW = 3
_LEDGER = 6
_ANNOUNCEMENT = -1


@dataclass(frozen=True, slots=True)
class Record:
    """What one stream keeps by one commit."""

    epoch: Epoch
    block: Block | None
    high: int
    ledger: Ledger
    gaps: tuple[Gap, ...] = ()
    left_out: tuple[tuple[int, int], ...] = ()


def journal_name(number: int) -> str:
    """The name of a journal file."""
    return f"{number:08d}.log"


def journal_files(directory: Path) -> list[tuple[int, Path]]:
    """The journal files there are, ascending."""
    if not directory.is_dir():
        return []
    found = ((_NAME.fullmatch(p.name), p) for p in directory.iterdir())
    return sorted((int(m[1]), p) for m, p in found if m)


def _schema() -> pa.Schema:
    import pyarrow as pa

    narrow = [pa.field(n, pa.int32(), nullable=False) for n in _INTEGERS[:_NARROW]]
    wide = [pa.field(n, pa.int64(), nullable=False) for n in _INTEGERS[_NARROW:]]
    return pa.schema([*narrow, *wide, pa.field("extra", pa.utf8()), pa.field("payload", pa.binary())])


_NODES = len(_INTEGERS) + 2
_BUFFERS = 2 * len(_INTEGERS) + 6
_OFFSETS = struct.Struct("<ii56x")
_ONE = struct.Struct("<" + "i60x" * _NARROW + "q56x" * (len(_INTEGERS) - _NARROW) + "ii56x")
"""The integers of one row and the offsets of its `extra`, each padded as the buffers of a batch are."""
_HEADERS = 1024


class JournalWriter:
    """Encodes commits for one journal file; does no I/O. Used by one thread."""

    def __init__(self, number: int, station: str, created_ns: int) -> None:
        self.number, self.id = number, str(uuid.uuid4())
        self._id = self.id.encode()
        facts = {"format": FORMAT, "kind": "journal", "id": self.id, "station": station, "created_ns": created_ns}
        self.head, self._crc = wire.schema_message(_schema(), facts, PAGE)
        self.at = len(self.head)
        self.synced = 0
        """How far the file is known to be durable."""
        self._seq = 0
        self._keys: dict[tuple[str, int], int] = {}
        self._shape = wire.shape_of(_NODES, _BUFFERS)
        self._headers: dict[tuple[int, int, int], bytes] = {}
        """Headers of batches of one row that have been made, by the sizes that they depend on; without the facts."""

    def encode(self, records: Sequence[Record]) -> bytearray:
        """One commit, ready to be appended: one batch that ends on a page."""
        integers: list[tuple[int, ...]] = []
        extras: list[bytes] = []
        payloads: list[bytes] = []
        for record in records:
            key = self._keys.get((record.epoch.stream, record.epoch.number))
            if key is None:
                key = self._keys[record.epoch.stream, record.epoch.number] = len(self._keys)
                integers.append((key, record.epoch.number, _ANNOUNCEMENT, *[0] * (len(_INTEGERS) - _NARROW)))
                extras.append(orjson.dumps(record.epoch.as_json()))
                payloads.append(b"")
            integers.append(self._integers(record, key))
            extra, payload = self._payload(record)
            extras.append(extra)
            payloads.append(payload)
        return self._batch(integers, extras, payloads)

    @staticmethod
    def _integers(record: Record, key: int) -> tuple[int, ...]:
        b = record.block
        place = (b.rows, b.first, b.t0_ns) if b is not None else (0, record.high, 0)
        return (key, record.epoch.number, *place, record.high, *record.ledger.as_list()[:_LEDGER])

    @staticmethod
    def _payload(record: Record) -> tuple[bytes, bytes]:
        extra: dict[str, Any] = {}
        payload = b""
        if record.block is not None:
            plain = pack_plain(record.block)
            if plain is None:
                payload, extra["sizes"] = pack(to_buffers(record.block))
            else:
                payload = plain
        if record.gaps:
            extra["gaps"] = [g.as_json() for g in record.gaps]
        if record.ledger.lost:
            extra["lost"] = [record.ledger.lost]
        if record.left_out:
            extra["left_out"] = [list(r) for r in record.left_out]
        return orjson.dumps(extra) if extra else b"", payload

    def _batch(self, integers: list[tuple[int, ...]], extras: list[bytes], payloads: list[bytes]) -> bytearray:
        if len(integers) == 1:
            return self._batch_of_one(integers[0], extras[0], payloads[0])
        return self._batch_of_many(integers, extras, payloads)

    def _batch_of_many(self, integers: list[tuple[int, ...]], extras: list[bytes], payloads: list[bytes]) -> bytearray:
        rows = len(integers)
        table = np.array(integers, np.int64).T
        pieces: list[bytes] = []
        for i in range(len(_INTEGERS)):
            column = table[i].astype(np.int32) if i < _NARROW else np.ascontiguousarray(table[i])
            pieces += [b"", column.tobytes()]
        for texts in (extras, payloads):
            offsets = np.zeros(rows + 1, np.int32)
            np.cumsum([len(t) for t in texts], out=offsets[1:])
            pieces += [b"", offsets.tobytes(), b"".join(texts)]
        sizes = [len(p) for p in pieces]
        out, _ = wire.batch_header(self._shape, rows, [(rows, 0)] * _NODES, sizes, self._facts(), PAGE, self.at)
        for piece in pieces:
            out += piece
            out += bytes(-len(piece) % wire.ALIGN)
        return self._signed(out)

    def _batch_of_one(self, integers: tuple[int, ...], extra: bytes, payload: bytes) -> bytearray:
        """What `_batch_of_many` makes of one row, but quickly: somebody may wait for each reading to be durable."""
        facts = self._facts()
        key = len(extra), len(payload), len(facts)
        header = self._headers.get(key)
        if header is None:
            sizes = [n for i in range(len(_INTEGERS)) for n in (0, 4 if i < _NARROW else 8)]
            sizes += [0, 8, len(extra), 0, 8, len(payload)]
            made, _ = wire.batch_header(self._shape, 1, [(1, 0)] * _NODES, sizes, facts, PAGE, self.at)
            header = bytes(made)
            if len(self._headers) < _HEADERS and self.at % PAGE == 0:
                self._headers[key] = header
        out = bytearray(header)
        out[self._shape.json_at : self._shape.json_at + len(facts)] = facts
        out += _ONE.pack(*integers, 0, len(extra))
        out += extra
        out += bytes(-len(extra) % wire.ALIGN)
        out += _OFFSETS.pack(0, len(payload))
        out += payload
        out += bytes(-len(payload) % wire.ALIGN)
        return self._signed(out)

    def _facts(self) -> bytes:
        return b'{"id":"%b","seq":%d,"prev":"%08x","synced":%d}' % (self._id, self._seq, self._crc, self.synced)

    def _signed(self, out: bytearray) -> bytearray:
        self._crc = wire.sign(out, self._shape.crc_at, self._crc)
        self._seq += 1
        self.at += len(out)
        return out


def _texts(offsets: Bytes, data: Bytes, rows: int) -> list[Bytes]:
    bounds = offsets[: 4 * (rows + 1)].view(np.int32)
    if len(bounds) != rows + 1 or (np.diff(bounds) < 0).any() or bounds[0] < 0 or bounds[-1] > len(data):
        raise InvalidBlock("the offsets of a text are wrong")
    return [data[a:b] for a, b in pairwise(bounds)]


def _scan(data: memoryview, path: Path) -> Iterator[wire.Message | Damage]:
    """Every message of a journal file, and damage; zeros up to the end are none: the file was prepared with them."""
    for item in scan(data, path):
        if isinstance(item, Damage) and item.end == len(data) and not written(data, item.at) > item.at:
            return
        yield item


def written(data: memoryview, keep: int) -> int:
    """Where a file ends that was prepared with zeros (see `express`) and is intact up to `keep`, in whole pages."""
    there = np.flatnonzero(np.frombuffer(data[keep:], np.uint8))
    return min(keep + padded(int(there[-1]) + 1, PAGE), len(data)) if len(there) else keep


def read_journal(data: memoryview, path: Path) -> Iterator[Record | Damage]:
    """The records of a journal file in order, and what is damaged in between."""
    epochs: dict[int, Epoch] = {}
    for item in _scan(data, path):
        if isinstance(item, Damage):
            yield item
        elif item.kind == wire.BATCH:
            try:
                yield from _read_batch(data, path, item, epochs)
            except (InvalidBlock, ValueError, KeyError, TypeError, IndexError) as e:
                yield Damage(path, item.at, item.end, f"a commit that makes no sense ({e})")


def _read_batch(
    data: memoryview, path: Path, message: wire.Message, epochs: dict[int, Epoch]
) -> Iterator[Record | Damage]:
    buffers = wire.body_buffers(data, message)
    rows = message.rows
    columns = [
        buffers[2 * i + 1].view(np.int32 if i < _NARROW else np.int64)[:rows].tolist() for i in range(len(_INTEGERS))
    ]
    at = 2 * len(_INTEGERS)
    extras = _texts(buffers[at + 1], buffers[at + 2], rows)
    payloads = _texts(buffers[at + 4], buffers[at + 5], rows)
    for numbers, extra_bytes, payload in zip(zip(*columns, strict=True), extras, payloads, strict=True):
        key, number, count, first, t0, high, *ledger = numbers
        extra = orjson.loads(extra_bytes.tobytes()) if len(extra_bytes) else {}
        if count == _ANNOUNCEMENT:
            epochs[key] = Epoch.from_json(extra)
            continue
        epoch = epochs.get(key)
        if epoch is None:
            yield Damage(path, message.at, message.end, f"rows of stream {key}, whose announcement is lost")
            continue
        block = None
        if count:
            sizes = extra.get("sizes") or plain_sizes(epoch.schema, count) or []
            block = from_buffers(epoch.stream, number, first, epoch.schema, count, t0, unpack(payload, sizes))
        yield Record(
            epoch,
            block,
            high,
            Ledger(*ledger, *extra.get("lost", ())),
            tuple(Gap.from_json(epoch.stream, number, g) for g in extra.get("gaps", ())),
            tuple((a, b) for a, b in extra.get("left_out", ())),
        )


def journal_keep(data: memoryview, path: Path) -> tuple[int, str]:
    """How many bytes of a journal file recovery keeps, and why not more: up to damage that a torn write can explain."""
    damages: list[Damage] = []
    durable = keep = 0
    for item in _scan(data, path):
        if isinstance(item, Damage):
            damages.append(item)
        else:
            keep, durable = item.end, max(durable, int(item.facts.get("synced", 0)))
    torn = [d for d in damages if d.at >= durable]
    return (min(keep, torn[0].at), torn[0].reason) if torn else (keep, "the end was not written")
