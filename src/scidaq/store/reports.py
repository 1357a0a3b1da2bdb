"""What the recorder tells others: statistics to whoever asks, and to the catalog what is kept where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scidaq.block import Epoch, Gap, Ledger
from scidaq.stats import DurationStats, field_of
from scidaq.store.segment import SegmentName
from scidaq.store.space import SpaceStats
from scidaq.store.writing import WritingStats


class Projection(Protocol):
    """Who wants to know what is kept where: the catalog, told in order and never waited for."""

    def epoch(self, epoch: Epoch, began_ns: int) -> None:
        """An epoch has begun."""

    def segment(self, facts: SegmentFacts) -> None:
        """A segment has been made, has grown or was sealed."""

    def gaps(self, gaps: Iterable[Gap]) -> None:
        """Gaps are durable."""


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What the catalog is told of a segment."""

    uuid: str
    epoch: Epoch
    name: SegmentName
    path: Path
    sealed: bool
    rows: int
    gap_rows: int
    first_ns: int | None
    last_ns: int | None
    bytes: int
    ranges: tuple[tuple[int, int], ...]
    ledger: Ledger
    created_ns: int
    sealed_ns: int | None


@dataclass(frozen=True, slots=True)
class StreamStats:
    """The book of one stream in its present epoch, as recorded."""

    stream: str = field_of("1", "Stream id.")
    epoch: int = field_of("1", "Number of the epoch, -1 before the first.")
    rows: int = field_of("{row}", "Rows recorded, durable or on the way.")
    durable_rows: int = field_of("{row}", "Rows that survive a power cut.")
    gap_rows: int = field_of("{row}", "Rows in gaps.")
    duplicates: int = field_of("{row}", "Rows that came more than once.")
    left_out: int = field_of("{row}", "Rows left out by policy.")
    delivered: int = field_of("{row}", "Rows that the source sent or says it made.")
    imbalance: int = field_of("{row}", "Rows that nothing accounts for: anything but 0 is a fault of this program.")
    durable_index: int = field_of("1", "Rows of the epoch below this index are durable or accounted for durably.")
    conflicts: int = field_of("{row}", "Repeated rows that differed from those recorded; in quarantine.")
    failures: int = field_of("1", "Writes or syncs that the system refused for this stream.")
    last_ns: int = field_of("ns", "UTC time of the newest row, -1 before the first.")
    bytes: int = field_of("By", "Size of the segments of this epoch since the start.")
    all_durable_rows: int = field_of("{row}", "Rows that were made durable since the start, of all epochs.")
    refused: str = field_of("1", "What the system said when it last refused a write; empty while it takes them.")


@dataclass(frozen=True, slots=True)
class RecorderStats:
    """The recorder as a whole."""

    streams: tuple[StreamStats, ...] = field_of("1", "One per stream.")
    writing: WritingStats = field_of("1", "The commit thread.")
    journal_bytes: int = field_of("By", "Size of the present journal file.")
    commits: int = field_of("1", "Commits begun.")
    space: SpaceStats = field_of("1", "Room where the data lies.")
    delays: DurationStats = field_of("1", "How long blocks took from the door of the station until they were durable.")
    turn_age_s: float = field_of("s", "Time since the encoding thread last came round; it does so at every commit.")
    running: int = field_of("1", "1 while both threads run, else 0.")
    interval_s: float = field_of("s", "How often a commit is made.")
