"""Messages and segments are what Arrow says they are, wherever they begin and whatever they carry."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import orjson
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Epoch, Ledger, RangeSet, Schema, buffer_count, to_buffers
from scidaq.errors import Corrupt
from scidaq.store import Buffers, Segment, SegmentName, SegmentWriter, wire
from scidaq.store.files import PAGE
from scidaq.testing import strategies

PATH = Path("x.arrows")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)
FACTS = st.dictionaries(st.text(max_size=8), JSON, max_size=5)


def body_of(block: Block) -> bytes:
    return b"".join(b.tobytes() + bytes(-len(b) % wire.ALIGN) for b in to_buffers(block).buffers)


def check_rows(table: pa.Table, block: Block) -> None:
    """What Arrow reads is what was put in."""
    if block.times is not None:
        assert table["time"].cast(pa.int64()).to_pylist() == block.times.tolist()
    for i, channel in enumerate(block.schema.channels):
        column = table[channel.name].combine_chunks()
        mask = block.valid[i] if block.valid else None
        mask = np.ones(block.rows, bool) if mask is None else mask
        assert np.array_equal(column.is_valid().to_numpy(zero_copy_only=False), mask)
        if channel.dtype == "text":
            texts = [bytes(t).decode() if ok else None for t, ok in zip(block.columns[i], mask, strict=True)]
            assert column.to_pylist() == texts
            continue
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        flat = column.values if channel.shape else column
        flat = flat.slice(0)
        if channel.shape:
            flat = column.values[column.offset * channel.elements :][: block.rows * channel.elements]
        size = channel.numpy_dtype.itemsize
        if channel.dtype == "bool":
            mine = np.asarray(pa.array(flat).to_pylist())
            theirs = block.columns[i].reshape(-1)
            pick = np.repeat(mask, channel.elements)
            assert [m for m, p in zip(mine, pick, strict=True) if p] == theirs[pick].tolist()
        else:
            raw = flat.buffers()[1].to_pybytes()[flat.offset * size : (flat.offset + len(flat)) * size]
            mine = np.frombuffer(raw, channel.numpy_dtype).reshape(block.columns[i].shape)
            assert mine[mask].tobytes() == block.columns[i][mask].tobytes(), "bit by bit, NaNs with their payload"


@given(strategies.blocks(), FACTS, st.sampled_from([64, 512, 4096]), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_any_message_is_accepted_by_arrow_and_read_back(
    block: Block, facts: dict[str, Any], boundary: int, begin: int, previous: int
) -> None:
    at = 64 * begin
    layout = to_buffers(block)
    shape = wire.shape_of(len(layout.nodes), len(layout.buffers))
    sizes = [len(b) for b in layout.buffers]
    header, size = wire.batch_header(shape, block.rows, layout.nodes, sizes, orjson.dumps(facts), boundary, at)
    message = header + body_of(block)
    assert len(message) == len(header) + size
    crc = wire.sign(message, shape.crc_at, previous)
    assert (at + len(message)) % boundary == 0
    assert len(header) % 8 == 0

    schema = wire.arrow_schema(block.schema)
    batch = pa.ipc.read_record_batch(pa.py_buffer(bytes(message)), schema)
    batch.validate(full=True)
    check_rows(pa.Table.from_batches([batch]), block)
    theirs = pa.ipc.read_message(pa.py_buffer(bytes(message)))
    assert theirs.type == "record batch"

    data = memoryview(bytes(at) + bytes(message))
    found = wire.parse(data, at, PATH)
    assert (found.at, found.end, found.rows, found.facts, found.crc) == (at, len(data), block.rows, facts, crc)
    assert found.crc == wire.checksum(data, found, previous)
    assert [b.tobytes() for b in wire.body_buffers(data, found)] == [b.tobytes() for b in layout.buffers]


@given(strategies.blocks(), FACTS, st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=3))
def test_the_quick_way_to_read_a_header_reads_what_the_general_one_does(
    block: Block, facts: dict[str, Any], flips: list[tuple[float, int]]
) -> None:
    layout = to_buffers(block)
    shape = wire.shape_of(len(layout.nodes), len(layout.buffers))
    sizes = [len(b) for b in layout.buffers]
    header, size = wire.batch_header(shape, block.rows, layout.nodes, sizes, orjson.dumps(facts), 64, 0)
    for where, bits in flips:
        header[int(where * len(header))] ^= bits
    data = memoryview(bytes(header) + bytes(size))

    def said() -> object:
        try:
            return wire.parse(data, 0, PATH)
        except (Corrupt, wire.EndOfStream) as error:
            return type(error)

    quick = said()
    with patch.object(wire, "_parse_ours", return_value=None) as general:
        assert said() == quick
    if not flips:
        assert general.called
        assert wire._parse_ours(data[8 : len(header)], 0, len(header) - 8) == quick


@given(strategies.schemas(), FACTS, st.sampled_from([64, 4096]))
def test_any_schema_message_is_accepted_by_arrow_and_read_back(one: Schema, facts: dict, boundary: int) -> None:
    message, crc = wire.schema_message(wire.arrow_schema(one), facts, boundary)
    assert len(message) % boundary == 0
    theirs = pa.ipc.read_schema(pa.py_buffer(message))
    assert theirs.equals(wire.arrow_schema(one))
    found = wire.parse(memoryview(message), 0, PATH)
    assert found.facts == facts
    assert found.crc == crc == wire.checksum(memoryview(message), found, 0)
    assert found.end == len(message)


# ---- whole segments --------------------------------------------------------------------------------------------------


class Disk:
    """Takes chunks as a file with O_DIRECT would, and watches which pages are written."""

    def __init__(self, buffers: Buffers) -> None:
        self.buffers, self.data, self.committed = buffers, bytearray(), 0

    def take(self, writer: SegmentWriter) -> None:
        for chunk in writer.chunks:
            assert chunk.size % PAGE == 0, "pages are written whole"
            assert len(self.data) % PAGE == 0
            assert len(self.data) >= self.committed, "a page that holds committed rows is written again"
            self.data += chunk.buffer[: chunk.size]
            self.buffers.give_back(chunk.buffer)
        writer.chunks.clear()


def write(epoch: Epoch, blocks: list[Block], commits: list[bool], sealed: bool, buffers: Buffers) -> bytes:
    writer = SegmentWriter(epoch, SegmentName(epoch.number, 0, 0), "station", 1, buffers)
    disk = Disk(buffers)
    disk.data += writer.head
    rows = 0
    for block, commit in zip(blocks, commits, strict=True):
        waiting: deque[Block] = deque([block])
        while waiting:
            if not writer.append(waiting[0]):
                assert writer.chunks, "no buffer is free, and none is on its way"
                disk.take(writer)
                continue
            waiting.popleft()
        rows += block.rows
        if commit:
            assert writer.commit(block.end, Ledger(block.end, rows, block.end - rows), ())
            disk.take(writer)
            assert writer.at == len(disk.data), "a commit leaves nothing behind"
            assert writer.at % PAGE == 0
            disk.committed = writer.at
    if sealed:
        assert writer.seal(blocks[-1].end, Ledger(blocks[-1].end, rows, blocks[-1].end - rows), ())
        assert writer.at % PAGE == 0
    elif not commits[-1]:
        assert writer.commit(blocks[-1].end, Ledger(blocks[-1].end, rows, blocks[-1].end - rows), ())
    disk.take(writer)
    assert writer.at == len(disk.data)
    return bytes(disk.data)


@given(st.data(), st.integers(2, 5), st.sampled_from([3, 4, 8, 64]), st.booleans())
def test_any_blocks_and_commits_come_back(data: st.DataObject, count: int, pages: int, sealed: bool) -> None:
    one = data.draw(strategies.schemas())
    blocks = data.draw(strategies.runs(one, max_blocks=8, max_rows=200))
    commits = data.draw(st.lists(st.booleans(), min_size=len(blocks), max_size=len(blocks)))
    epoch = data.draw(strategies.epochs(one))
    raw = write(epoch, blocks, commits, sealed, Buffers(count, pages * PAGE))
    segment = Segment(memoryview(raw), PATH)
    assert not segment.damage
    assert segment.sealed == sealed
    assert segment.epoch == epoch
    assert segment.keep + 8 * sealed == len(raw)
    found = [segment.block(m) for m in segment.batches if m.rows]
    assert len(found) == len(blocks)
    for mine, truth in zip(found, blocks, strict=True):
        assert mine.same_rows(truth)
        assert mine.t0_ns == truth.t0_ns
        assert (mine.time_ns() == truth.time_ns()).all()
    if segment.seal is not None:
        assert segment.seal["rows"] == sum(b.rows for b in blocks)
        assert RangeSet(map(tuple, segment.seal["ranges"])) == RangeSet((b.first, b.end) for b in blocks)
        assert segment.seal["first_ns"] == min(b.t0_ns for b in blocks)
        assert segment.seal["last_ns"] == max(b.last_ns for b in blocks)
    # Any reader of Arrow sees the same.
    with pa.ipc.open_stream(pa.py_buffer(raw)) as reader:
        batches = [b for b in reader if b.num_rows]
    assert sum(b.num_rows for b in batches) == sum(b.rows for b in blocks)
    for batch, truth in zip(batches, blocks, strict=True):
        batch.validate(full=True)
        check_rows(pa.Table.from_batches([batch]), truth)


def test_a_large_block_gets_a_buffer_of_its_own() -> None:
    from tests.store.makers import PLAIN, block_of, epoch_of

    block = block_of(PLAIN, 0, 100_000)
    raw = write(epoch_of(PLAIN), [block, block_of(PLAIN, 100_000, 3)], [False, True], True, Buffers(2, 4 * PAGE))
    assert Segment(memoryview(raw), PATH).block(Segment(memoryview(raw), PATH).batches[0]).same_rows(block)


def test_while_no_buffer_is_free_nothing_is_done() -> None:
    from tests.store.makers import PLAIN, block_of, epoch_of

    buffers = Buffers(1, 4 * PAGE)
    writer = SegmentWriter(epoch_of(PLAIN), SegmentName(0, 0, 0), "station", 1, buffers)
    assert writer.append(block_of(PLAIN, 0, 500))
    before = (writer.at, writer.seq, writer.totals.as_json())
    assert not writer.append(block_of(PLAIN, 500, 500))
    assert (writer.at, writer.seq, writer.totals.as_json()) == before
    assert writer.commit(500, Ledger(500, 500), ()), "a commit never waits"
    raw = writer.head + b"".join(c.buffer[: c.size] for c in writer.chunks)
    assert not Segment(memoryview(raw), PATH).damage


@given(strategies.schemas())
def test_the_number_of_buffers_is_arrows(one: Schema) -> None:
    """Nodes and buffers as Arrow itself counts them."""
    empty = wire.arrow_schema(one).empty_table().to_batches()
    batch = empty[0] if empty else pa.RecordBatch.from_pylist([], schema=wire.arrow_schema(one))
    raw = batch.serialize()
    message = pa.ipc.read_message(raw)
    metadata = memoryview(message.metadata)
    head = wire._fields(metadata, wire._follow(metadata, 0), 3)[2]
    _, nodes_at, buffers_at = wire._fields(metadata, wire._follow(metadata, head), 3)
    sizes = [
        int.from_bytes(metadata[(v := wire._follow(metadata, a)) : v + 4], "little") for a in (nodes_at, buffers_at)
    ]
    assert tuple(sizes) == buffer_count(one)
