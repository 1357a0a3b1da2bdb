"""The vocabulary in code: channels, schemas, epochs, blocks and gaps, with their arithmetic and their checks.

Pure: no files, no threads, no clock. Everything above speaks to everything else in these words.
"""

from typing import TYPE_CHECKING, Any

from scidaq.block.block import Array, Block, Mask, Times
from scidaq.block.channel import DTYPES, INSTRUMENT_ID, MAX_TEXT_BYTES, NS, Calibration, Channel, Schema, schema
from scidaq.block.description import KEY as DESCRIPTION_KEY
from scidaq.block.description import Description, Piece, Pieces, calibrated, physical_block
from scidaq.block.epoch import IMPORTED, Entry, Epoch, Ledger, Resume, StreamSpec, check_stream_id
from scidaq.block.gap import Gap, Reason
from scidaq.block.layout import (
    Bytes,
    Layout,
    buffer_count,
    from_body,
    from_buffers,
    join_buffers,
    pack,
    pack_plain,
    padded,
    plain_sizes,
    to_buffers,
    unpack,
)
from scidaq.block.moment import Moment, length_ns, moment_ns, shown
from scidaq.block.ranges import RangeSet
from scidaq.block.units import unit_problem

if TYPE_CHECKING:
    from scidaq.block.arrow import arrow_schema, record_batch

__all__ = [
    "DESCRIPTION_KEY",
    "DTYPES",
    "IMPORTED",
    "INSTRUMENT_ID",
    "MAX_TEXT_BYTES",
    "NS",
    "Array",
    "Block",
    "Bytes",
    "Calibration",
    "Channel",
    "Description",
    "Entry",
    "Epoch",
    "Gap",
    "Layout",
    "Ledger",
    "Mask",
    "Moment",
    "Piece",
    "Pieces",
    "RangeSet",
    "Reason",
    "Resume",
    "Schema",
    "StreamSpec",
    "Times",
    "arrow_schema",
    "buffer_count",
    "calibrated",
    "check_stream_id",
    "from_body",
    "from_buffers",
    "join_buffers",
    "length_ns",
    "moment_ns",
    "pack",
    "pack_plain",
    "padded",
    "physical_block",
    "plain_sizes",
    "record_batch",
    "schema",
    "shown",
    "to_buffers",
    "unit_problem",
    "unpack",
]


def __getattr__(name: str) -> Any:
    """What needs Arrow, which takes a while to import, is imported when it is asked for."""
    if name not in ("arrow_schema", "record_batch"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scidaq.block import arrow

    return getattr(arrow, name)
