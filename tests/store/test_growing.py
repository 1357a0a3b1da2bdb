"""Any reader of Arrow sees every durable row, while the file grows and after it was sealed."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scidaq.block import Block, Calibration, Channel, Ledger, Schema
from scidaq.clock import SystemClock
from scidaq.store import (
    DURABLE_MAP,
    Buffers,
    Options,
    PortableFiles,
    PosixFiles,
    Record,
    SegmentName,
    SegmentWriter,
    journal_files,
    read_journal,
    read_marks,
    segment_files,
    stream_directories,
)
from tests.station.plans import plan, waveform
from tests.store.makers import MIXED, SCHEMAS, STATION, block_of, cut, epoch_of, segment_bytes


def arrow_rows(path: Path) -> tuple[list[pa.RecordBatch], bool]:
    """What Arrow reads of a file, and whether the stream ended as one should."""
    batches: list[pa.RecordBatch] = []
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        while True:
            try:
                batches.append(reader.read_next_batch())
            except StopIteration:
                return batches, True
            except pa.ArrowInvalid:  # the last message is still being written
                return batches, False


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "cached"])
def test_arrow_reads_every_committed_row_of_a_growing_segment(tmp_path: Path, kind: str, direct: bool) -> None:
    schema = SCHEMAS[kind]
    files = PosixFiles() if direct else PortableFiles()
    buffers = Buffers(4, 1 << 16)
    writer = SegmentWriter(epoch_of(schema), SegmentName(0, 0, 0), STATION, 1, buffers)
    path = tmp_path / "a.arrows"
    rows = 0
    with files.create(path, direct=direct) as file:
        import mmap

        with mmap.mmap(-1, len(writer.head)) as aligned:
            aligned[:] = writer.head
            with memoryview(aligned) as view:
                files.append(file, [view])
        for size in (1, 2, 300, 17, 1):
            for block in cut(schema, [size, 5], rows):
                assert writer.append(block)
                rows += block.rows
            assert writer.commit(rows, Ledger(rows, rows), ())
            pieces = [memoryview(c.buffer)[: c.size] for c in writer.chunks]
            files.append(file, pieces)
            files.sync(file)
            for piece, chunk in zip(pieces, list(writer.chunks), strict=True):
                piece.release()
                buffers.give_back(chunk.buffer)
            writer.chunks.clear()
            batches, _ = arrow_rows(path)
            for batch in batches:
                batch.validate(full=True)
            assert sum(b.num_rows for b in batches) == rows
            assert file.size == writer.at
            assert path.stat().st_size % 4096 == 0


def test_arrow_reads_every_durable_row_of_a_running_station(tmp_path: Path) -> None:
    """What the sidecar calls durable is there for any reader, in order and with the right values."""
    from scidaq.station import Station

    clock = SystemClock()
    fast = waveform("fast", clock, rate_hz=4_000_000, block_s=0.005)
    storage = Options(sync_interval_ms=20, journal_move_s=1)
    checked = 0
    with Station(plan(tmp_path / "d", fast, storage=storage), clock):
        deadline = time.monotonic() + 10
        while checked < 5 and time.monotonic() < deadline:
            marks = read_marks(tmp_path / "d" / DURABLE_MAP)
            slow = sum(
                item.block.rows
                for _, path in journal_files(tmp_path / "d" / "journal")
                for item in read_journal(memoryview(path.read_bytes()), path)
                if isinstance(item, Record) and item.block is not None
            )  # a commit that was small, at the beginning
            for stream, directory in stream_directories(tmp_path / "d"):
                mark = marks.get(stream)
                found = [arrow_rows(path)[0] for _, path in segment_files(directory)]
                rows = sum(b.num_rows for batches in found for b in batches)
                if mark is None or not rows:
                    continue
                assert rows + slow >= mark.durable_rows
                assert rows > slow
                checked += 1
            time.sleep(0.02)
    assert checked >= 5
    for _, directory in stream_directories(tmp_path / "d"):
        assert all(arrow_rows(path)[1] for _, path in segment_files(directory)), "sealed files end"


# ---- sealed ----------------------------------------------------------------------------------------------------------


def opened(tmp_path: Path, schema: Schema, blocks: list[Block]) -> pa.Table:
    path = tmp_path / "a.arrows"
    path.write_bytes(segment_bytes(epoch_of(schema), blocks))
    with pa.ipc.open_stream(path) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table


def test_pandas_reads_a_sealed_segment(tmp_path: Path) -> None:
    frame = opened(tmp_path, MIXED, cut(MIXED, [3, 40, 2])).to_pandas()
    truth = block_of(MIXED, 0, 45)
    assert truth.valid is not None
    assert list(frame.columns) == ["time", "t", "on", "note", "n"]
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]"
    assert frame["time"].astype("int64").tolist() == truth.time_ns().tolist()
    for i, name in enumerate(("t", "on", "note", "n")):
        mask = truth.valid[i]
        assert mask is not None
        assert frame[name].notna().tolist() == mask.tolist()
        expected = [bytes(v).decode() if name == "note" else v for v in truth.columns[i][mask].tolist()]
        assert frame[name][mask].tolist() == expected


def test_an_image_is_a_tensor(tmp_path: Path) -> None:
    schema = SCHEMAS["image"]
    table = opened(tmp_path, schema, cut(schema, [2, 3]))
    assert table.schema.field("frame").type == pa.fixed_shape_tensor(pa.uint16(), (6, 5))
    frames = table["frame"].combine_chunks()
    assert (frames.to_numpy_ndarray() == block_of(schema, 0, 5).column("frame")).all()
    assert table["ok"].to_pylist() == block_of(schema, 0, 5).column("ok").tolist()


def test_the_fields_say_what_a_reader_needs(tmp_path: Path) -> None:
    schema = Schema(
        (
            Channel("adc", "int16", "1", (2,), ("left", "right"), Calibration(0.1, -1e-300, "V"), 0, "inputs"),
            Channel("plain", "float32", "Cel"),
        ),
        Fraction(10, 3),
    )
    table = opened(tmp_path, schema, [block_of(schema, 0, 4)])
    adc = {k.decode(): v.decode() for k, v in table.schema.field("adc").metadata.items()}
    assert adc == {
        "unit": "1",
        "scale": "0.1",
        "offset": "-1e-300",
        "physical_unit": "V",
        "labels": '["left","right"]',
        "description": "inputs",
    }
    assert table.schema.field("plain").metadata == {b"unit": b"Cel"}
    assert table.schema.field("adc").type == pa.list_(pa.int16(), 2)
    facts = json.loads(table.schema.metadata[b"scidaq"])
    assert facts["rate"] == [10, 3]
    values = np.array(table["adc"].to_pylist()) * float(adc["scale"]) + float(adc["offset"])
    assert (values == block_of(schema, 0, 4).physical("adc")).all()


def test_each_batch_says_where_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "a.arrows"
    path.write_bytes(segment_bytes(epoch_of(MIXED), cut(MIXED, [3, 4])))
    with pa.ipc.open_stream(path) as reader:
        said = []
        while True:
            try:
                batch, metadata = reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                break
            said.append((batch.num_rows, json.loads(metadata[b"scidaq"])))
    assert [(n, f.get("first"), f.get("rows"), f["seq"]) for n, f in said if n] == [(3, 0, 3, 0), (4, 3, 4, 2)]
    assert said[-1][1]["seal"]["rows"] == 7
