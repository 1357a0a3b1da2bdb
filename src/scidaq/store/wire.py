"""Arrow IPC messages with a chained checksum: how batches are laid on disk, and how they are found again.

A file of the store is an ordinary Arrow IPC stream. Its schema message and every record batch carry three entries of
custom metadata: `scidaq` (facts as JSON), `scidaq.crc` (eight hexadecimal digits) and `scidaq.pad` (blanks that bring
the message to the boundary it must end on). The checksum is CRC32C over the four bytes of the checksum before
(little-endian, 0 for the schema), then the message from its continuation marker to the end of its body, with the eight
digits read as zeros. Every message begins on a multiple of 64 bytes.

The metadata of batches is written here and not by Arrow because the checksum must be patched in, the padding must be
exact and a small commit must cost microseconds. Sources: Arrow Columnar Format, "IPC Streaming Format" and
`Message.fbs`, `Schema.fbs` (Arrow 1.x, metadata V5); FlatBuffers internals. `docs/format/segment.md` says the same for
those who read the files by other means.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
from crc32c import crc32c

from scidaq.block import Bytes, Channel, Schema, padded
from scidaq.errors import Corrupt

if TYPE_CHECKING:
    import pyarrow as pa

ALIGN = 64
EOS = b"\xff\xff\xff\xff\0\0\0\0"
"""The end of an Arrow IPC stream."""
MAX_METADATA = 64 << 20
SCHEMA, BATCH = 1, 3  # MessageHeader of Message.fbs
_KEY, _CRC, _PAD = b"scidaq", b"scidaq.crc", b"scidaq.pad"
_ZEROS = b"00000000"

# One KeyValue table refers to strings behind it; the fixed strings come first, then the JSON, then the padding.
_FIXED = b"".join(struct.pack("<I", len(s)) + s + bytes(4 - len(s) % 4) for s in (_KEY, _CRC, _ZEROS, _PAD))
_AT_KEY, _AT_CRC = 0, 4 + 8
_AT_ZEROS = _AT_CRC + 4 + 12
_AT_PADKEY = _AT_ZEROS + 4 + 12
_KV = 64  # bytes from the vector of KeyValues to the first string


class Shape(NamedTuple):
    """The parts of a batch's metadata that are the same for all batches of a schema."""

    nodes: int
    buffers: int
    head: bytes
    tail: bytes
    """From the vector of KeyValues to the length of the JSON string; the offset of the padding is patched."""
    crc_at: int
    """Where the eight digits stand, from the start of the message."""
    json_at: int
    """Where the JSON begins, from the start of the message."""


@lru_cache(maxsize=4096)
def shape_of(nodes: int, buffers: int) -> Shape:
    """The metadata layout of a batch with so many field nodes and buffers."""
    end = 96 + 16 * nodes + 16 * buffers
    head = bytearray(88)
    struct.pack_into("<I7H", head, 0, 24, 14, 24, 20, 22, 4, 8, 16)  # root offset; vtable of Message
    struct.pack_into("<iIqIhB", head, 24, 20, 64 - 28, 0, end - 40, 4, BATCH)  # Message, metadata V5
    struct.pack_into("<5H", head, 48, 10, 20, 8, 4, 16)  # vtable of RecordBatch
    struct.pack_into("<iIqI", head, 64, 16, 84 - 68, 0, 92 + 16 * nodes - 80)  # RecordBatch
    struct.pack_into("<I", head, 84, nodes)
    tail = bytearray(_KV)
    struct.pack_into("<4I", tail, 0, 3, 24 - 4, 36 - 8, 48 - 12)
    struct.pack_into("<4H", tail, 16, 8, 12, 4, 8)
    json_at = _KV + len(_FIXED)
    struct.pack_into("<iII", tail, 24, 24 - 16, _KV + _AT_KEY - 28, json_at - 32)
    struct.pack_into("<iII", tail, 36, 36 - 16, _KV + _AT_CRC - 40, _KV + _AT_ZEROS - 44)
    struct.pack_into("<iII", tail, 48, 48 - 16, _KV + _AT_PADKEY - 52, 0)
    return Shape(
        nodes, buffers, bytes(head), bytes(tail) + _FIXED, 8 + end + _KV + _AT_ZEROS + 4, 8 + end + json_at + 4
    )


def batch_header(
    shape: Shape,
    rows: int,
    nodes: Sequence[tuple[int, int]],
    sizes: Sequence[int],
    facts: bytes,
    boundary: int,
    at: int,
    trailer: int = 0,
) -> tuple[bytearray, int]:
    """The message of a record batch without its body, checksum still zero, and the size of the body.

    `sizes` are those of the buffers; each starts on a multiple of 64 in the body. The header is padded so that the
    whole message, begun at `at`, ends on a multiple of `boundary`, less `trailer` bytes.
    """
    placed: list[int] = []
    body = 0
    for size in sizes:
        placed += (body, size)
        body += -(-size // ALIGN) * ALIGN
    end = 96 + 16 * shape.nodes + 16 * shape.buffers
    pad_at = padded(shape.json_at - 8 + len(facts) + 1, 4)
    least = 8 + pad_at + 4 + 1
    total = padded(at + least + body + trailer, boundary) - at - body - trailer
    out = bytearray(total)
    out[0:4] = b"\xff\xff\xff\xff"
    struct.pack_into("<i", out, 4, total - 8)
    out[8:96] = shape.head
    struct.pack_into("<q", out, 8 + 32, body)
    struct.pack_into("<q", out, 8 + 72, rows)
    flat = [n for node in nodes for n in node]
    struct.pack_into(f"<{len(flat)}qiI{len(placed)}q", out, 96, *flat, 0, shape.buffers, *placed)
    out[8 + end : shape.json_at - 4] = shape.tail
    struct.pack_into("<I", out, 8 + end + 56, pad_at - (end + 56))
    struct.pack_into("<I", out, shape.json_at - 4, len(facts))
    out[shape.json_at : shape.json_at + len(facts)] = facts
    blanks = total - least
    struct.pack_into("<I", out, 8 + pad_at, blanks)
    out[8 + pad_at + 4 : total - 1] = b" " * blanks
    return out, body


def sign(message: bytearray | memoryview, crc_at: int, previous: int) -> int:
    """Put the chained checksum into a whole message (header and body) and return it."""
    crc: int = crc32c(message, crc32c(previous.to_bytes(4, "little")))
    message[crc_at : crc_at + 8] = b"%08x" % crc
    return crc


# ---- the schema message ---------------------------------------------------------------------------------------------


def arrow_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema of a stream: `time` first where it is irregular, then a field per channel.

    Text is `utf8`, an array channel a fixed-size list, an image the canonical extension `arrow.fixed_shape_tensor`;
    unit, calibration and labels stand in the metadata of the field.
    """
    import pyarrow as pa

    time = [] if schema.rate is not None else [pa.field("time", pa.timestamp("ns", "UTC"), nullable=False)]
    return pa.schema([*time, *(pa.field(c.name, _arrow_type(c), metadata=_field_facts(c)) for c in schema.channels)])


def _arrow_type(channel: Channel) -> pa.DataType:
    import pyarrow as pa

    kind: pa.DataType = pa.utf8() if channel.dtype == "text" else pa.from_numpy_dtype(channel.numpy_dtype)
    if len(channel.shape) == 2:
        return pa.fixed_shape_tensor(kind, channel.shape)
    return pa.list_(kind, channel.elements) if channel.shape else kind


def _field_facts(channel: Channel) -> dict[str, str]:
    facts = {"unit": channel.unit}
    if c := channel.calibration:
        facts |= {"scale": repr(c.scale), "offset": repr(c.offset), "physical_unit": c.unit}
    if channel.labels:
        facts["labels"] = orjson.dumps(channel.labels).decode()
    if channel.description:
        facts["description"] = channel.description
    return facts


def schema_message(schema: pa.Schema, facts: dict[str, Any], boundary: int) -> tuple[bytes, int]:
    """The signed schema message, ending on a multiple of `boundary`, and its checksum."""
    text = orjson.dumps(facts)
    blanks = 0
    while True:
        metadata = {_KEY: text, _CRC: _ZEROS, _PAD: b" " * blanks}
        message = bytearray(memoryview(schema.with_metadata(metadata).serialize()))
        over = len(message) % boundary
        if not over:
            break
        blanks += boundary - over if blanks == 0 else (8 if boundary - over < 64 else boundary - over)
    parsed = parse(memoryview(message), 0, Path("schema"))
    crc = sign(message, parsed.crc_at, 0)
    return bytes(message), crc


# ---- reading --------------------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """One message as found in a file; nothing is trusted before `check` has passed."""

    at: int
    """Where it begins in the file."""
    kind: int
    header: int
    """Bytes before the body."""
    body: int
    """Bytes of the body."""
    rows: int
    facts: dict[str, Any]
    crc: int
    crc_at: int
    """Where the eight digits stand, from `at`."""
    buffers: tuple[int, ...]
    """offset, size, offset, size... within the body."""

    @property
    def end(self) -> int:
        """One past its last byte in the file."""
        return self.at + self.header + self.body


class EndOfStream(Exception):
    """An end-of-stream marker (or the end of the file, or zeros) stands where a message could begin."""

    def __init__(self, at: int, marked: bool) -> None:
        self.at, self.marked = at, marked
        super().__init__(at)


def _fields(data: memoryview, table: int, count: int) -> list[int]:
    """Absolute positions of the first `count` fields of a flatbuffer table, 0 for an absent one."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0] if vtable >= 0 else 0
    out = []
    for i in range(count):
        at = 4 + 2 * i
        offset = struct.unpack_from("<H", data, vtable + at)[0] if at + 2 <= size else 0
        out.append(table + offset if offset else 0)
    return out


def _follow(data: memoryview, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _string(data: memoryview, at: int) -> tuple[int, bytes]:
    start = _follow(data, at)
    size = struct.unpack_from("<I", data, start)[0]
    if start + 4 + size > len(data):
        raise ValueError("a string runs past the end")
    return start + 4, bytes(data[start + 4 : start + 4 + size])


def parse(data: memoryview, at: int, path: Path) -> Message:
    """The message that begins at `at`. Raises `EndOfStream`, or `Corrupt` when there is none to be understood."""
    left = len(data) - at
    if left == 0:
        raise EndOfStream(at, marked=False)
    if left < 8:
        raise Corrupt(path, at, f"the file ends inside a message ({left} bytes)")
    marker, size = struct.unpack_from("<Ii", data, at)
    if marker == 0xFFFFFFFF and size == 0:
        raise EndOfStream(at, marked=True)
    if marker != 0xFFFFFFFF or not 0 < size <= MAX_METADATA or size % 8:
        raise Corrupt(path, at, "no message begins here")
    if 8 + size > left:
        raise Corrupt(path, at, "the file ends inside the header of a message")
    try:
        message = _parse_metadata(data[at + 8 : at + 8 + size], at, size)
    except (struct.error, ValueError, KeyError, IndexError, TypeError, OverflowError) as e:
        raise Corrupt(path, at, f"the header of a message makes no sense ({e})") from None
    if message.end > len(data):
        raise Corrupt(path, at, "the file ends inside the body of a message")
    return message


class _Form(NamedTuple):
    """The metadata of a batch as `batch_header` lays it out, all at once."""

    parts: struct.Struct
    fixed: tuple[bytes | int, ...]
    """What is the same in every batch of a shape."""


@lru_cache(maxsize=4096)
def _form_of(nodes: int, buffers: int) -> _Form:
    shape = shape_of(nodes, buffers)
    head, tail, digits = shape.head, shape.tail, _KV + _AT_ZEROS + 4
    fixed = (head[:32], head[40:72], head[80:], 0, buffers, tail[:56], tail[60:digits], tail[digits + 8 :])
    parts = f"<32sq32sq8s{16 * nodes}xiI56sI{digits - 60}s8s{len(tail) - digits - 8}sI"
    at = parts.index("56s")
    return _Form(struct.Struct(f"{parts[:at]}{2 * buffers}q{parts[at:]}"), fixed)


def _parse_ours(data: memoryview, at: int, size: int) -> Message | None:
    """The metadata of a batch that is laid out as we do it, read some five times as quickly; None for any other."""
    if size < 96:
        return None
    (nodes,) = struct.unpack_from("<I", data, 84)
    if 16 * nodes > size - 96:
        return None
    (count,) = struct.unpack_from("<I", data, 92 + 16 * nodes)
    if 16 * count > size - 96 - 16 * nodes:
        return None
    form = _form_of(nodes, count)
    if form.parts.size > size:
        return None
    a, body, b, rows, c, zero, many, *buffers, d, pad, e, digits, f, length = form.parts.unpack_from(data)
    if (a, b, c, zero, many, d, e, f) != form.fixed:
        return None
    to = 0
    for i in range(0, 2 * count, 2):
        if buffers[i] != to or buffers[i + 1] < 0:
            return None
        to += (buffers[i + 1] + ALIGN - 1) // ALIGN * ALIGN
    json_at = form.parts.size
    pad_at = 96 + 16 * nodes + 16 * count + 56 + pad
    if to != body or json_at + length > pad_at or pad_at + 5 > size:
        return None
    facts = orjson.loads(data[json_at : json_at + length])
    if not isinstance(facts, dict) or struct.unpack_from("<I", data, pad_at)[0] != size - pad_at - 5:
        return None
    crc = int(digits, 16)
    if digits != b"%08x" % crc:
        return None
    return Message(at, BATCH, 8 + size, body, rows, facts, crc, shape_of(nodes, count).crc_at, tuple(buffers))


def _parse_metadata(data: memoryview, at: int, size: int) -> Message:
    if (known := _parse_ours(data, at, size)) is not None:
        return known
    _, kind_at, header_at, body_at, custom_at = _fields(data, _follow(data, 0), 5)
    kind = data[kind_at] if kind_at else 0
    body = struct.unpack_from("<q", data, body_at)[0] if body_at else 0
    if kind not in (SCHEMA, BATCH) or body < 0 or body % 8:
        raise ValueError(f"kind {kind}, body of {body} bytes")
    rows = 0
    buffers: tuple[int, ...] = ()
    if kind == BATCH:
        rows_at, _, buffers_at = _fields(data, _follow(data, header_at), 3)
        rows = struct.unpack_from("<q", data, rows_at)[0] if rows_at else 0
        vector = _follow(data, buffers_at)
        count = struct.unpack_from("<I", data, vector)[0]
        buffers = struct.unpack_from(f"<{2 * count}q", data, vector + 4)
        placed = list(zip(buffers[::2], buffers[1::2], strict=True))
        # A wrong size is told at once, without reading the body: the next message would be looked for elsewhere.
        if any(offset < 0 or n < 0 for offset, n in placed) or body != sum(padded(n, ALIGN) for _, n in placed):
            raise ValueError("its buffers are not its body")
        if any(offset + n > body for offset, n in placed):
            raise ValueError("a buffer lies outside the body")
    else:
        custom_at = _fields(data, _follow(data, header_at), 3)[2]  # of the schema, where Arrow keeps its metadata
    found: dict[bytes, tuple[int, bytes]] = {}
    vector = _follow(data, custom_at)
    for i in range(min(int(struct.unpack_from("<I", data, vector)[0]), 64)):
        key_at, value_at = _fields(data, _follow(data, vector + 4 + 4 * i), 2)
        found[_string(data, key_at)[1]] = _string(data, value_at)
    crc_at, digits = found[_CRC]
    facts = orjson.loads(found[_KEY][1])
    if not isinstance(facts, dict):
        raise ValueError("its facts are no object")
    crc = int(digits, 16)
    if digits != b"%08x" % crc:  # capitals and blanks are the same number, but not what was written
        raise ValueError("its checksum is not spelled as it was written")
    pad_at, blanks = found[_PAD]
    if kind == BATCH and pad_at + len(blanks) + 1 != size:
        raise ValueError("its padding does not end with it")
    return Message(at, kind, 8 + size, body, rows, facts, crc, crc_at + 8, buffers)


def checksum(data: memoryview, message: Message, previous: int) -> int:
    """The checksum that the message should carry behind `previous`."""
    a, b = message.at, message.at + message.crc_at
    crc: int = crc32c(data[a:b], crc32c(previous.to_bytes(4, "little")))
    crc = crc32c(_ZEROS, crc)
    return int(crc32c(data[b + 8 : message.end], crc))


def body_buffers(data: memoryview, message: Message) -> list[Bytes]:
    """The buffers of a batch as views of the file."""
    body = np.frombuffer(data, np.uint8, message.body, message.at + message.header) if message.body else _EMPTY
    flat = message.buffers
    return [body[flat[i] : flat[i] + flat[i + 1]] if flat[i + 1] else _EMPTY for i in range(0, len(flat), 2)]


_EMPTY = np.empty(0, np.uint8)


_REACH = 1 << 20
"""The farthest that the facts of a batch lie behind its beginning (some 30,000 fields)."""


def find_batch(data: memoryview, start: int, needle: bytes) -> Iterator[int]:
    """Where messages may begin at or behind `start`, judging by the facts that begin with `needle`.

    For finding the feet again behind damage: `needle` is the beginning of every batch's JSON, up to the segment's UUID.
    """
    haystack = data.obj if isinstance(data.obj, bytes) or hasattr(data.obj, "find") else bytes(data)
    found = haystack.find(needle, start)
    while found >= 0:
        for at in range((found - _KV) // ALIGN * ALIGN, max(start, found - _REACH) - 1, -ALIGN):
            if data[at : at + 4] == EOS[:4] and _json_at(data, at) == found:
                yield at
                break
        found = haystack.find(needle, found + 1)


def last_batch(data: memoryview, needle: bytes) -> int | None:
    """Where the last message may begin, judging by the facts that begin with `needle`."""
    haystack = data.obj if hasattr(data.obj, "rfind") else bytes(data)
    found = haystack.rfind(needle, 0, len(data))
    for at in range((found - _KV) // ALIGN * ALIGN, max(0, found - _REACH) - 1, -ALIGN):
        if data[at : at + 4] == EOS[:4] and _json_at(data, at) == found:
            return at
    return None


def _json_at(data: memoryview, at: int) -> int:
    """Where the JSON of a batch that begins at `at` would stand."""
    try:
        nodes = struct.unpack_from("<I", data, at + 92)[0]
        buffers = struct.unpack_from("<I", data, at + 100 + 16 * nodes)[0]
    except (struct.error, OverflowError):
        return -1
    return at + shape_of(nodes, buffers).json_at if nodes + buffers < _REACH // 16 else -1
