"""What an exported file says of its rows, so that they can be taken in again bit for bit.

A file holds one table: rows of one stream with one schema. Its values and times are the table's own; everything else
(which rows of which epochs they are, what is missing between them, units, whose they are) is said here, as JSON, in the
place that the format has for it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from scidaq.block.block import Block
from scidaq.block.channel import NS, Channel, Schema
from scidaq.block.gap import Gap
from scidaq.errors import RequestError

FORMAT = 1
KEY = "scidaq"
"""Under which formats with named metadata keep a description: `as_json` as UTF-8."""


class Piece(NamedTuple):
    """Consecutive rows of an epoch that lie consecutively in a file."""

    at: int
    """Position of its first row in the file, from 0."""
    epoch: int
    first: int
    """Index of its first row within the epoch."""
    rows: int
    t0_ns: int | None
    """Of a uniform stream: row `i` of the piece is at `t0_ns + schema.span_ns(i)`. None where each has its own time."""


@dataclass(frozen=True, slots=True)
class Description:
    """Everything about a table but its values (and the times of an irregular stream)."""

    station: str
    """Name of the station."""
    station_uuid: str
    stream: str
    raw: bool
    """Whether values are as they were stored; else calibrations have been applied, and `schema` knows them no more."""
    schema: Schema
    """Of the values in the file, with the rate that the stream had."""
    pieces: tuple[Piece, ...] = ()
    """By position, without holes between them."""
    gaps: tuple[Gap, ...] = ()
    """What is missing before, between and behind the rows, in the order of reading."""
    start_ns: int | None = None
    """From which time on rows were asked for; None: from the first."""
    stop_ns: int | None = None
    """Before which time; None: to the last."""
    run: Mapping[str, Any] | None = None
    """The run whose window it is, as its facts say; None for none."""
    software: str = ""
    """Who wrote the file: `scidaq 0.1.0`."""
    exported_ns: int = 0
    """When, in UTC nanoseconds."""
    part: int = 1
    """Number of the table, where a stream whose channels change makes several."""

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return self.pieces[-1].at + self.pieces[-1].rows if self.pieces else 0

    def as_json(self) -> dict[str, Any]:
        """What goes into the file; `pieces` are lists in the order of the fields of `Piece`."""
        return {
            "description": FORMAT,
            "station": {"name": self.station, "uuid": self.station_uuid},
            "stream": self.stream,
            "raw": self.raw,
            "schema": self.schema.as_json(),
            "rows": self.rows,
            "pieces": [list(piece) for piece in self.pieces],
            "gaps": [{"epoch": gap.epoch, **gap.as_json()} for gap in self.gaps],
            "range": {"start_ns": self.start_ns, "stop_ns": self.stop_ns},
            "run": dict(self.run) if self.run is not None else None,
            "software": self.software,
            "exported_ns": self.exported_ns,
            "part": self.part,
        }

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Description:
        """The inverse of `as_json`. Raises `RequestError` for anything else, and for a format not known here."""
        known = d.get("description")
        if isinstance(known, int) and known > FORMAT:
            raise RequestError(f"the description has format {known}, this scidaq knows {FORMAT}: use a newer one")
        try:
            stream = str(d["stream"])
            return cls(
                d["station"]["name"],
                d["station"]["uuid"],
                stream,
                bool(d["raw"]),
                Schema.from_json(d["schema"]),
                _pieces(d["pieces"]),
                tuple(Gap.from_json(stream, gap["epoch"], gap) for gap in d["gaps"]),
                d["range"]["start_ns"],
                d["range"]["stop_ns"],
                d["run"],
                d["software"],
                d["exported_ns"],
                int(d["part"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"this is no description of exported rows: {type(error).__name__}: {error}") from error


def _pieces(lists: Iterable[Sequence[Any]]) -> tuple[Piece, ...]:
    """The pieces, when they are numbers and lie one behind the other."""
    out: list[Piece] = []
    rows = 0
    for numbers in lists:
        at, *rest, t0_ns = numbers
        if not all(type(n) is int and n >= 0 for n in (at, *rest)) or type(t0_ns) not in (int, type(None)):
            raise ValueError(f"{numbers} is no piece")
        piece = Piece(*numbers)
        if piece.at != rows or not piece.rows:
            raise ValueError(f"piece {numbers} does not lie at row {rows}")
        out.append(piece)
        rows += piece.rows
    return tuple(out)


class Pieces:
    """Takes blocks as they go into a file, and says in which pieces they lie there. 40 bytes a piece."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._uniform = True
        self.rows = 0
        """How many rows have been taken."""

    def __len__(self) -> int:
        return len(self._numbers) // 5

    def __iter__(self) -> Iterator[Piece]:
        for i in range(0, len(self._numbers), 5):
            at, epoch, first, rows, t0_ns = self._numbers[i : i + 5]
            yield Piece(at, epoch, first, rows, t0_ns if self._uniform else None)

    def take(self, block: Block) -> None:
        """Note a block that goes behind those before."""
        self._uniform = block.times is None
        if not self._continues(block):
            self._numbers.extend((self.rows, block.epoch, block.first, 0, block.t0_ns))
        self._numbers[-2] += block.rows
        self.rows += block.rows

    def _continues(self, block: Block) -> bool:
        """Whether the block's rows have the numbers and, to the nanosecond, the times that the last piece would say."""
        if not self._numbers:
            return False
        _, epoch, first, rows, t0_ns = self._numbers[-5:]
        if (block.epoch, block.first) != (epoch, first + rows):
            return False
        rate = block.schema.rate
        if rate is None:
            return True
        # Times are rounded down, so that two roundings may differ from one unless the first leaves nothing.
        exact = rows * NS * rate.denominator % rate.numerator == 0 or block.rows == 1
        return exact and block.t0_ns == t0_ns + block.schema.span_ns(rows)


def calibrated(schema: Schema) -> Schema:
    """The schema of the calibrated values of a schema."""
    if all(c.calibration is None for c in schema.channels):
        return schema
    return Schema(tuple(map(_calibrated, schema.channels)), schema.rate)


def _calibrated(channel: Channel) -> Channel:
    if channel.calibration is None:
        return channel
    return replace(channel, dtype="float64", unit=channel.physical_unit, calibration=None)


def physical_block(block: Block, schema: Schema) -> Block:
    """The block with calibrated values: `schema` is what `calibrated` made of its own. Missing values stay missing."""
    if schema is block.schema:
        return block
    with np.errstate(over="ignore", invalid="ignore"):  # a value beyond what a number holds is infinite
        columns = tuple(c.physical(column) for c, column in zip(block.schema.channels, block.columns, strict=True))
    return replace(block, schema=schema, columns=columns)
