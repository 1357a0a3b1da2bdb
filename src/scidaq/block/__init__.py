"""The vocabulary in code: channels, schemas, epochs, blocks and gaps, with their arithmetic and their checks.

Pure: no files, no threads, no clock. Everything above speaks to everything else in these words.
"""

from scidaq.block.block import Array, Block, Mask, Times
from scidaq.block.channel import DTYPES, INSTRUMENT_ID, MAX_TEXT_BYTES, NS, Calibration, Channel, Schema, schema
from scidaq.block.epoch import Entry, Epoch, Ledger, Resume, StreamSpec, check_stream_id
from scidaq.block.gap import Gap, Reason
from scidaq.block.layout import (
    Bytes,
    Layout,
    buffer_count,
    from_buffers,
    join_buffers,
    pack,
    pack_plain,
    padded,
    plain_sizes,
    to_buffers,
    unpack,
)
from scidaq.block.ranges import RangeSet
from scidaq.block.units import unit_problem

__all__ = [
    "DTYPES",
    "INSTRUMENT_ID",
    "MAX_TEXT_BYTES",
    "NS",
    "Array",
    "Block",
    "Bytes",
    "Calibration",
    "Channel",
    "Entry",
    "Epoch",
    "Gap",
    "Layout",
    "Ledger",
    "Mask",
    "RangeSet",
    "Reason",
    "Resume",
    "Schema",
    "StreamSpec",
    "Times",
    "buffer_count",
    "check_stream_id",
    "from_buffers",
    "join_buffers",
    "pack",
    "pack_plain",
    "padded",
    "plain_sizes",
    "schema",
    "to_buffers",
    "unit_problem",
    "unpack",
]
