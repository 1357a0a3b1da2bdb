"""What is kept where, told to the catalog by a thread of its own: recording never waits for a database.

A catalog that cannot be written is caught up at the next start, or when it can be written again: what could not be told
is kept, newest state per segment.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from scidaq.block import Epoch, Gap
from scidaq.catalog import Catalog
from scidaq.clock import Clock
from scidaq.errors import CatalogDamaged, CatalogError
from scidaq.stats import field_of
from scidaq.store.recovery import Found, Known, epoch_of, gaps_of
from scidaq.store.reports import SegmentFacts
from scidaq.store.tables import SegmentRow, epochs, forget_segment, put_epoch, put_gaps, put_segments, segments

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProjectorStats:
    """What the catalog was told."""

    transactions: int = field_of("1", "Transactions that were committed.")
    failures: int = field_of("1", "Transactions that failed and were tried again.")
    waiting: int = field_of("1", "Facts waiting to be told.")
    refused: str = field_of("1", "What the catalog said when it was told last; empty when it took it.")


class Projector:
    """Tells the catalog. Its verbs may be called from any thread and return at once."""

    INTERVAL_S = 0.2
    RETRY_S = 5.0

    def __init__(self, catalog: Catalog, data_dir: Path, clock: Clock) -> None:
        self._catalog, self._dir, self._clock = catalog, data_dir, clock
        self._lock = threading.Lock()
        self._epochs: list[tuple[Epoch, int]] = []
        self._segments: dict[str, SegmentRow] = {}
        self._gaps: list[Gap] = []
        self._behind: tuple[Found, ...] = ()
        self._something = threading.Event()
        self._stop = threading.Event()
        self._transactions = self._failures = 0
        self._said: set[type[Exception]] = set()
        self._refused = ""
        self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> bool:
        """Tell what waits, then stop."""
        self._stop.set()
        self._something.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def behind(self, found: Iterable[Found]) -> None:
        """The catalog could not be told of what recovery found: it is told before all else. To be called before use."""
        with self._lock:
            self._behind = tuple(found)
        self._something.set()

    def epoch(self, epoch: Epoch, began_ns: int) -> None:
        """An epoch has begun."""
        with self._lock:
            self._epochs.append((epoch, began_ns))
        self._something.set()

    def segment(self, facts: SegmentFacts) -> None:
        """A segment has been made, has grown or was sealed."""
        row = row_of(facts, self._dir)
        with self._lock:
            self._segments[row.uuid] = row
        self._something.set()

    def gaps(self, gaps: Iterable[Gap]) -> None:
        """Gaps are durable."""
        with self._lock:
            self._gaps += gaps
        self._something.set()

    def stats(self) -> ProjectorStats:
        """A snapshot."""
        waiting = len(self._epochs) + len(self._segments) + len(self._gaps) + len(self._behind)
        return ProjectorStats(self._transactions, self._failures, waiting, self._refused)

    def _run(self) -> None:
        while True:
            self._something.wait()
            if not self._stop.is_set():
                self._clock.wait(self._stop, self.INTERVAL_S)  # several facts make one transaction
            self._something.clear()
            if not self._tell():
                if self._stop.is_set():
                    return
                self._clock.wait(self._stop, self.RETRY_S)
                self._something.set()
            elif self._stop.is_set():
                return

    def _tell(self) -> bool:
        with self._lock:
            epochs_, self._epochs = self._epochs, []
            segments_, self._segments = self._segments, {}
            gaps_, self._gaps = self._gaps, []
            behind = self._behind
        if not (epochs_ or segments_ or gaps_ or behind):
            return True
        try:
            catch_up(self._catalog, behind, self._dir)
            self._behind = ()
            with self._catalog.begin() as conn:
                for epoch, began_ns in epochs_:
                    put_epoch(conn, epoch, began_ns)
                put_segments(conn, segments_.values())
                if gaps_:
                    put_gaps(conn, gaps_)
        except Exception as e:  # whatever it is: this thread has to stay, and nothing that waits may be lost
            self._note_failure(e)
            self._failures += 1
            self._refused = str(e) or type(e).__name__
            with self._lock:
                self._epochs = epochs_ + self._epochs
                self._segments = segments_ | self._segments
                self._gaps = gaps_ + self._gaps
            return False
        self._refused = ""
        self._transactions += 1
        return True

    def _note_failure(self, error: Exception) -> None:
        """Say it once of each kind."""
        if type(error) in self._said:
            return
        self._said.add(type(error))
        if isinstance(error, CatalogDamaged):
            log.error("the catalog is damaged; recording goes on, and the next start makes it again", error=str(error))
        else:
            unforeseen = not isinstance(error, CatalogError)
            log.error("the catalog cannot be written; it will be caught up", error=str(error), exc_info=unforeseen)


def row_of(facts: SegmentFacts, data_dir: Path) -> SegmentRow:
    """A segment as a row of the catalog."""
    ranges = facts.ranges
    return SegmentRow(
        facts.uuid,
        facts.epoch.stream,
        facts.epoch.number,
        ranges[0][0] if ranges else facts.name.first,
        ranges[-1][1] if ranges else facts.name.first,
        facts.name.generation,
        facts.path.relative_to(data_dir).as_posix(),
        "sealed" if facts.sealed else "hot",
        facts.rows,
        facts.gap_rows,
        facts.first_ns,
        facts.last_ns,
        facts.bytes,
        ranges,
        facts.ledger,
        facts.created_ns,
        facts.sealed_ns,
    )


def row_of_found(found: Found, data_dir: Path) -> SegmentRow:
    """A segment that recovery looked at, as a row of the catalog."""
    segment, epoch = found.segment, epoch_of(found)
    ranges = tuple(found.ranges)
    return SegmentRow(
        segment.id,
        epoch.stream,
        epoch.number,
        ranges[0][0] if ranges else found.name.first,
        ranges[-1][1] if ranges else found.name.first,
        found.name.generation,
        found.path.relative_to(data_dir).as_posix(),
        "sealed" if segment.sealed else "hot",
        found.ranges.total,
        sum(g.rows or 0 for g in segment.gaps()),
        found.first_ns,
        found.last_ns,
        found.size,
        ranges,
        found.ledger,
        int(segment.facts.get("created_ns", 0)),
        found.sealed_ns if segment.sealed else None,
    )


def known_segments(catalog: Catalog, data_dir: Path) -> dict[str, dict[str, Known]]:
    """What the catalog says of sealed segments whose files are there in full; entries of lost files are dropped.

    Raises `CatalogDamaged` when what it says cannot be understood.
    """
    out: dict[str, dict[str, Known]] = {}
    gone: list[str] = []
    with catalog.read() as conn:
        try:
            rows = segments(conn)
        except (ValueError, TypeError, LookupError) as error:
            raise CatalogDamaged(f"the catalog says what no segment can be ({error!r}); it is made again") from error
    for row in rows:
        try:
            size = os.stat(f"{data_dir}/{row.path}").st_size
        except OSError:
            gone.append(row.uuid)
            continue
        if row.state == "sealed" and size == row.bytes:
            known = Known(row.epoch, row.ranges, row.ledger, row.first_ns, row.last_ns)
            out.setdefault(row.stream, {})[row.path.rpartition("/")[2]] = known
    if gone:
        log.warning("the catalog names segments whose files are gone", count=len(gone))
        _forget(catalog, gone)
    return out


def _forget(catalog: Catalog, gone: Iterable[str]) -> None:
    try:
        with catalog.begin() as conn:
            for uuid in gone:
                forget_segment(conn, uuid)
    except CatalogDamaged:
        raise
    except CatalogError as error:  # a full disk, say: they are dropped at the next start
        log.warning("the catalog cannot be written; it still names segments that are gone", error=str(error))


def catch_up(catalog: Catalog, found: Iterable[Found], data_dir: Path) -> None:
    """Tell the catalog of segments that it did not know, or knew otherwise."""
    found = list(found)
    if not found:
        return
    with catalog.begin() as conn:
        known = {(e.epoch.stream, e.epoch.number) for e in epochs(conn)}
        for one in found:
            epoch = epoch_of(one)
            if (epoch.stream, epoch.number) not in known:
                put_epoch(conn, epoch, int(one.segment.facts.get("created_ns", 0)))
                known.add((epoch.stream, epoch.number))
        put_segments(conn, (row_of_found(one, data_dir) for one in found))
        put_gaps(conn, (gap for one in found for gap in gaps_of(one)))
