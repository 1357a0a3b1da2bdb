"""What the writers of all formats share: the seams that they fill, and columns over several blocks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scidaq.block import Array, Block, Channel, Description, Mask, Schema, Times


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose rows they are, and who exports them."""

    station: str
    station_uuid: str
    software: str
    """`scidaq 0.1.0`."""
    exported_ns: int
    """Now, in UTC nanoseconds."""
    run: Mapping[str, Any] | None = None
    """The run that is exported, as JSON; None for none."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """What the instruments said of themselves, by id."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one stream with one schema, as they go into a file."""

    name: str
    """A name for a file or a group: that of the stream with a dot for the slash, and a number from the second on."""
    stream: str
    schema: Schema
    """Of the values as they are written."""
    raw: bool
    lose: Callable[[str], None]
    """To be told the key of a `Limit` when something that the rows have does not go into the file."""


class TableWriter(Protocol):
    """Takes the rows of a table."""

    def write(self, blocks: Sequence[Block]) -> None:
        """The next rows: as many as `Format.rows` says, fewer at the end. Blocks need not follow one another."""

    def close(self, description: Description) -> None:
        """No more rows; what is known of them now."""


class StoreWriter(Protocol):
    """Takes tables, one after the other, and keeps them below one path."""

    def table(self, table: Table) -> TableWriter:
        """The next table; the one before has been closed."""

    def close(self) -> None:
        """Everything is in the files on return, if not on the disk."""

    def abandon(self) -> None:
        """Let go of the files, whatever state they are in. Raises nothing."""

    def grew(self) -> Path | None:
        """The file that is written from front to back now, for who reads it meanwhile; None where there is none."""


# ---- columns --------------------------------------------------------------------------------------------------------


def times(blocks: Sequence[Block]) -> Times:
    """UTC nanoseconds of all rows."""
    return blocks[0].time_ns() if len(blocks) == 1 else np.concatenate([b.time_ns() for b in blocks])


def column(blocks: Sequence[Block], i: int) -> Array:
    """The values of a channel."""
    return blocks[0].columns[i] if len(blocks) == 1 else np.concatenate([b.columns[i] for b in blocks])


def mask(blocks: Sequence[Block], i: int) -> Mask | None:
    """Which rows of a channel have a value; None where all have."""
    if all(b.valid is None or b.valid[i] is None for b in blocks):
        return None
    return np.concatenate([_mask(b, i) for b in blocks])


def _mask(block: Block, i: int) -> Mask:
    found = block.valid[i] if block.valid is not None else None
    return np.ones(block.rows, np.bool_) if found is None else found


def filled(values: Array, valid: Mask | None) -> Array:
    """The values, with NaN (else 0, or no text) where there is none, for formats that have no missing values."""
    if valid is None:
        return values
    values = values.copy()
    values[~valid] = np.nan if values.dtype.kind == "f" else np.zeros((), values.dtype)
    return values


def texts(values: Array) -> list[str]:
    """Texts as Python has them."""
    return [text.decode("utf-8", "replace") for text in values.tolist()]


def cells(channel: Channel) -> list[str]:
    """Name of each element of a channel: the channel's own, or `adc[label]` for those of an array."""
    if channel.labels:
        return [f"{channel.name}[{label}]" for label in channel.labels]
    if channel.shape:
        return [f"{channel.name}[{','.join(map(str, at))}]" for at in product(*map(range, channel.shape))]
    return [channel.name]


def odd_nans(values: Array) -> bool:
    """Whether some NaN is another than the one that everybody makes: its bits would say something."""
    if values.dtype.kind != "f":
        return False
    nans = np.isnan(values)
    if not nans.any():
        return False
    bits = values[nans].view(np.uint32 if values.dtype.itemsize == 4 else np.uint64)
    usual = 0x7FC00000 if values.dtype.itemsize == 4 else 0x7FF8000000000000
    return bool((bits != usual).any())


def unique(names: Iterable[str], spell: Callable[[str], str], limit: int = 63) -> Iterator[str]:
    """Each name as `spell` makes it, at most `limit` characters, with a number behind it where it was there already."""
    taken: set[str] = set()
    for name in names:
        first = spelled = spell(name)[:limit]
        number = 2
        while spelled in taken:
            tail = f"_{number}"
            spelled, number = first[: limit - len(tail)] + tail, number + 1
        taken.add(spelled)
        yield spelled


def gap_columns(description: Description) -> dict[str, list[Any]]:
    """The gaps as a table: where they lie, how much is missing, why, and between which times."""
    ends = [(piece.epoch, piece.first + piece.rows) for piece in description.pieces]  # ascending, as they were read
    columns: dict[str, list[Any]] = {name: [] for name in GAP_COLUMNS}
    for gap in description.gaps:
        before = bisect_right(ends, (gap.epoch, gap.first))
        piece = description.pieces[before - 1] if before else None
        row = (
            piece.at + piece.rows if piece else 0,
            gap.epoch,
            gap.first,
            gap.end,
            -1 if gap.start_ns is None else gap.start_ns,
            -1 if gap.end_ns is None else gap.end_ns,
            int(gap.unknown),
            int(gap.open),
            str(gap.reason),
            gap.detail,
        )
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    return columns


GAP_COLUMNS = {
    "position": "row of the table before which something is missing, from 0",
    "epoch": "epoch of the stream",
    "first": "index of the first missing row within the epoch",
    "end": "one past the last missing row; the same as first where the number is not known, or 0",
    "start_ns": "UTC nanoseconds of the last row before, -1 for none",
    "end_ns": "UTC nanoseconds of the first row after, -1 for none",
    "unknown": "1 where nobody can know how many rows are missing",
    "open": "1 where the rows may still come",
    "reason": "why",
    "detail": "what is known besides",
}
"""The columns of a table of gaps."""
