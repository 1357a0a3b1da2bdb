"""A store with many segments, as after months: sealed, one epoch a stream, known to the catalog."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from scidaq.block import NS, Block, Channel, Epoch, Ledger, Schema, schema
from scidaq.catalog import Catalog
from scidaq.clock import SystemClock
from scidaq.store import (
    Buffers,
    SegmentName,
    SegmentWriter,
    catch_up,
    make_directory,
    open_station,
    recover,
    system_files,
)

ROWS = 60
CHANNELS = 10
RATE_HZ = 10
AGO_NS = 90 * 86_400 * NS


def plain_schema() -> Schema:
    """10 channels of float64 at 10 Hz."""
    return schema([Channel(f"ch{c}", "float64", "V") for c in range(CHANNELS)], Fraction(RATE_HZ))


def fill(data_dir: Path, streams: int, segments: int) -> int:
    """Make a station's data directory with so many segments, spread over `inst0/wave` and so on; bytes of the segments.

    Nothing is synced: it is there to be found, not to be trusted.
    """
    files, clock, row_schema = system_files(), SystemClock(), plain_schema()
    station, lock = open_station(data_dir, files, "bench", clock.now_ns(), True)
    anchor, buffers, total = clock.anchor, Buffers(4, 1 << 17), 0
    values = np.random.default_rng(1).standard_normal((CHANNELS, ROWS))
    with lock:
        for number in range(streams):
            stream = f"inst{number}/wave"
            directory = data_dir / "streams" / stream
            make_directory(files, directory)
            epoch = Epoch(stream, 0, row_schema, anchor, "a counter of before")
            start_ns = anchor.wall_ns - AGO_NS
            for n in range(segments // streams):
                first, end = n * ROWS, (n + 1) * ROWS
                name = SegmentName(0, first, 0)
                writer = SegmentWriter(epoch, name, station.uuid, start_ns, buffers)
                t0_ns = start_ns + first * NS // RATE_HZ
                writer.append(Block(stream, 0, first, row_schema, tuple(values), t0_ns, None, None, t0_ns))
                writer.seal(end, Ledger(end, end), (), t_ns=t0_ns)
                content = b"".join([writer.head, *(c.buffer[: c.size] for c in writer.chunks)])
                for chunk in writer.chunks:
                    buffers.give_back(chunk.buffer)
                (directory / str(name)).write_bytes(content)
                total += len(content)
        with Catalog.open(data_dir) as catalog:
            catch_up(catalog, recover(data_dir, files, clock, station.uuid, {}).found, data_dir)
    return total
