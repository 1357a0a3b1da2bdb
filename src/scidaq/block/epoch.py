"""Epochs, and the book-keeping of their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from scidaq.block.block import Block
from scidaq.block.channel import INSTRUMENT_ID, Schema
from scidaq.block.gap import Gap
from scidaq.block.ranges import RangeSet
from scidaq.clock import Anchor
from scidaq.errors import InvalidBlock

IMPORTED = "imported"
"""The boot in the anchor of an epoch whose rows came from a file, at times that no clock of ours measured."""


def check_stream_id(stream: str) -> str:
    """`stream` itself when it is a stream id (`instrument/stream`), else `InvalidBlock`."""
    instrument, slash, name = stream.partition("/")
    if not slash or not INSTRUMENT_ID.fullmatch(instrument) or not INSTRUMENT_ID.fullmatch(name):
        raise InvalidBlock(f"stream id {stream!r} is not instrument/stream, each of 1 to 64 characters a-z 0-9 _ -")
    return stream


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a driver says of one of its streams when it is armed."""

    name: str
    """The part of the stream id behind the slash."""
    schema: Schema
    counter: str | None = None
    """Identity of the source's row counter (it changes when the counter is reset); None for a source without one."""
    backfill: bool = False
    """Whether rows that were skipped may still come later."""
    own_times: bool = False
    """Whether the times of its blocks are measured by the source, and none of them is late because it came late."""

    def __post_init__(self) -> None:
        if not INSTRUMENT_ID.fullmatch(self.name):
            raise InvalidBlock(f"stream name {self.name!r} is not 1 to 64 characters of a-z 0-9 _ -")
        if self.counter is not None and not 0 < len(self.counter) <= 256:
            raise InvalidBlock(f"stream {self.name}: the identity of a counter has 1 to 256 characters")


@dataclass(frozen=True, slots=True)
class Epoch:
    """A stretch of a stream with one schema, one row numbering and one clock anchor."""

    stream: str
    number: int
    """From 0, without holes."""
    schema: Schema
    anchor: Anchor
    counter: str | None = None
    """The source's counter that numbers the rows; None where the station numbered them itself."""
    origin: int = 0
    """The source's number of row 0."""
    backfill: bool = False

    def __post_init__(self) -> None:
        check_stream_id(self.stream)
        if self.number < 0:
            raise InvalidBlock(f"epoch {self.number} of {self.stream}: numbers begin at 0")

    @property
    def imported(self) -> bool:
        """Whether its rows came from a file: then their times are kept to the nanosecond."""
        return self.anchor.boot_id == IMPORTED

    def as_json(self) -> dict[str, Any]:
        """What goes into files."""
        a = self.anchor
        return {
            "stream": self.stream,
            "epoch": self.number,
            **self.schema.as_json(),
            "anchor": {
                "wall_ns": a.wall_ns,
                "steady_ns": a.steady_ns,
                "uncertainty_ns": a.uncertainty_ns,
                "boot_id": a.boot_id,
            },
            "counter": self.counter,
            "origin": self.origin,
            "backfill": self.backfill,
        }

    @classmethod
    def from_json(cls, d: dict[str, Any]) -> Epoch:
        """The inverse of `as_json`."""
        return cls(
            d["stream"],
            d["epoch"],
            Schema.from_json(d),
            Anchor(**d["anchor"]),
            d["counter"],
            d["origin"],
            d.get("backfill", False),
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The rows of one epoch, by what became of them. `delivered` is counted at the door, the others where they end."""

    delivered: int = 0
    """Rows that the source sent or that its numbering says it made, those sent twice counted twice."""
    recorded: int = 0
    gaps: int = 0
    duplicates: int = 0
    left_out: int = 0
    """By the recording policy."""
    expired: int = 0
    """By retention."""
    lost: int = 0
    """Of those in gaps: rows that had their place in the book, and that damage has taken since."""

    @property
    def imbalance(self) -> int:
        """Rows delivered that nothing accounts for (negative: accounted for twice). 0 when the book balances."""
        return self.delivered - (self.recorded + self.gaps + self.duplicates + self.left_out + self.expired)

    @property
    def age(self) -> tuple[int, int, int]:
        """Grows from each commit of an epoch to the next: of two books the one with the higher is the newer."""
        return self.delivered, self.recorded + self.left_out + self.expired + self.lost, self.lost

    def as_list(self) -> list[int]:
        """The numbers in the order of the fields, as they go into files: six, and a seventh where any row is lost."""
        six = [self.delivered, self.recorded, self.gaps, self.duplicates, self.left_out, self.expired]
        return [*six, self.lost] if self.lost else six

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(*(a + b for a, b in zip_longest(self.as_list(), other.as_list(), fillvalue=0)))


class Entry(NamedTuple):
    """What a ring hands to its readers: an epoch that begins, a gap, or a block, with the count at the door so far."""

    seq: int
    """Position in the ring's own order of arrival."""
    item: Block | Gap | Epoch
    delivered: int
    """`Ledger.delivered` of the epoch when this item had come in."""
    duplicates: int
    """Of these, repeated rows that never reached the ring because it was full."""
    arrived_s: float = 0.0
    """When a block came to the door, by the steady clock (`Clock.monotonic_s`); 0 where nobody looked."""


@dataclass(slots=True)
class Resume:
    """Where a stream stands: what the store knows when it opens, and what the intake needs to go on."""

    epoch: Epoch
    high: int = 0
    """One past the highest row that the numbering has reached."""
    seen: RangeSet = field(default_factory=RangeSet)
    """Rows of the epoch that are recorded or were left out by policy."""
    ledger: Ledger = field(default_factory=Ledger)
    last_ns: int | None = None
    """Time of the newest recorded row; None when the epoch has none."""
    last_row: int = -1
    """Index of that row."""
