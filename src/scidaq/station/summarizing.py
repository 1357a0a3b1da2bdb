"""Summaries are made while the station records: out of the rings as blocks arrive, out of the files what was missed.

One thread that holds nobody up. It reads each ring with a budget, and gives itself a share of one processor: what it is
too late for it reads from the files when it comes round to it. Only what is durable is written. Nothing that matters
depends on it: where it lags, views read rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from scidaq.block import Block, Epoch, Gap, Reason
from scidaq.clock import Clock
from scidaq.errors import Corrupt
from scidaq.pipeline import Budget, Ring
from scidaq.query import Builder, Chunk, Part, Place, Position, Pyramid, Reader
from scidaq.stats import field_of
from scidaq.store import Files, stream_directories

log = structlog.get_logger(__name__)

TURN_S = 0.25
SHARE = 0.2
"""Of one processor, on average."""
SLOW_BYTES_S = 1 << 20
"""Up to this rate a stream is read from the files now and then: they are in the system's cache."""
FAST_BYTES_S = 100 << 20
"""Above this rate a stream is summarized when it rests: to read it back would take from the disk what it needs."""
BUDGET_S = 2.0
BUDGET_BYTES = 48 << 20
"""Blocks of one stream that may wait for it."""
READ_ROWS = 16_384
"""Rows of a slow stream that are worth being read."""
READ_BYTES = 32 << 20
"""Of rows that are read from files in one turn."""
FLUSH_BUCKETS = 2048
FLUSH_S = 120.0
LISTED_S = 60.0
"""How often it is looked for streams that nobody records now."""
EVERYTHING = Position(1 << 62, 0)
AGAIN_S = 5.0
"""After this time it is looked again whether rows that may still come have come."""


@dataclass(frozen=True, slots=True)
class SummaryStats:
    """How far the summaries are."""

    streams: int = field_of("1", "Streams that have summaries.")
    behind: int = field_of("1", "Streams of which rows are read from files, since the thread was late or has begun.")
    rows: int = field_of("{row}", "Rows summarized since the start.")
    files: int = field_of("1", "Files written since the start.")
    failures: int = field_of("1", "Times that something could not be read or written.")


@dataclass(slots=True)
class _One:
    """What is known of one stream."""

    builder: Builder
    ring: Ring | None = None
    budget: Budget | None = None
    behind: bool = True
    again_s: float = 0.0
    flushed_s: float = 0.0
    rows: int = 0
    held: list[Block | Gap | Epoch] = field(default_factory=list)
    measured: tuple[float, int] = (0.0, 0)
    """When its bytes were looked at, and how many there were."""
    bytes_s: float = 0.0
    doubted: Part | None = None
    """A file that could not be read."""


class Summaries:
    """Makes the summaries of a station. `of` may be asked from any thread."""

    def __init__(
        self,
        data_dir: Path,
        files: Files,
        clock: Clock,
        station: str,
        rings: Callable[[], Mapping[str, Ring]],
        durable: Callable[[], Mapping[str, Position]],
        roomy: Callable[[], bool],
    ) -> None:
        """`durable` says behind which row of a stream all is durable, `roomy` whether derived data may be written."""
        self._data_dir, self._files, self._clock, self._station = data_dir, files, clock, station
        self._rings, self._durable, self._roomy = rings, durable, roomy
        self._known: dict[str, _One] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reader: Reader | None = None
        self._resting: list[str] = []
        self._listed_s = 0.0
        self._written = self._failures = 0
        self._told = ""

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="summaries", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, and write what there is: everything is durable by now."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for one in self._known.values():
            if one.budget is not None:
                one.budget.close()

    def of(self, stream: str) -> tuple[Pyramid, list[Chunk]]:
        """The summaries of a stream on disk, and those that are not there yet."""
        one = self._known.get(stream)
        if one is None:
            return Pyramid(self._data_dir / "streams" / stream, stream, self._files), []
        return one.builder.pyramid, one.builder.pending()

    def stats(self) -> SummaryStats:
        """A snapshot."""
        known = list(self._known.values())
        behind, rows = sum(one.behind for one in known), sum(one.rows for one in known)
        return SummaryStats(len(known), behind, rows, self._written, self._failures)

    def doubt(self, stream: str, part: Part) -> None:
        """A file could not be read: it and what follows is made again."""
        one = self._known.get(stream)
        if one is not None:
            one.doubted = part

    # ---- the thread ----

    def _run(self) -> None:
        while not self._clock.wait(self._stop, TURN_S):
            began_s = self._clock.monotonic_s()
            durable = self._durable()
            heavy = sum(one.bytes_s for one in self._known.values()) > FAST_BYTES_S
            for stream, ring in list(self._rings().items()):
                if self._stop.is_set():
                    break
                where = durable.get(stream)
                if where is not None:
                    self._guarded(partial(self._turn, stream, ring, where, heavy=heavy))
            if not heavy:
                self._guarded(self._at_rest)
            busy_s = self._clock.monotonic_s() - began_s
            if self._clock.wait(self._stop, max(0.0, busy_s / SHARE - busy_s - TURN_S)):
                break
        durable = self._durable()
        for stream in list(self._known):
            self._guarded(partial(self._flush, stream, durable.get(stream), last=True))

    def _guarded(self, act: Callable[[], None]) -> None:
        """Do it; what goes wrong is told once, and stops nothing."""
        try:
            act()
        except Exception as error:  # whatever it is: rows are recorded, and views read them
            self._failures += 1
            if str(error) != self._told:
                self._told = str(error)
                log.warning("summaries cannot be made now; views read the rows", error=self._told)

    def _turn(self, stream: str, ring: Ring, durable: Position, *, heavy: bool) -> None:
        now_s = self._clock.monotonic_s()
        one = self._known.get(stream) or self._make(stream)
        self._mend(one)
        self._attach(one, ring, now_s)
        items = [entry.item for entry in one.budget.take()] if one.budget is not None else []
        if not one.behind and one.budget is not None:
            self._follow(one, items)
        elif items:
            one.held = [*one.held, *items] if _size(one.held) + _size(items) < BUDGET_BYTES else []
        lacking = durable > one.builder.at and (
            one.budget is not None
            or durable.epoch > one.builder.at.epoch
            or durable.row - one.builder.at.row >= READ_ROWS
        )
        if lacking and (one.behind or one.budget is None) and now_s >= one.again_s and not heavy:
            self._catch_up(stream, one)
        waiting = one.builder.waiting
        if waiting >= FLUSH_BUCKETS or (waiting and now_s - one.flushed_s > FLUSH_S):
            one.flushed_s = now_s
            self._flush(stream, durable)

    def _at_rest(self) -> None:
        """A share of a stream that nobody records now: of a script, imported, or of an instrument that was removed."""
        now_s, rings = self._clock.monotonic_s(), self._rings()
        if now_s >= self._listed_s:
            self._listed_s = now_s + LISTED_S
            self._resting = [name for name, _ in stream_directories(self._data_dir) if name not in rings]
        while self._resting:
            stream = self._resting[-1]
            if stream not in rings:
                one = self._known.get(stream) or self._make(stream)
                self._mend(one)
                if not self._catch_up(stream, one):
                    return  # there is more: in the next turn
                self._flush(stream, EVERYTHING)
            self._resting.pop()

    def _mend(self, one: _One) -> None:
        """Forget what could not be read and all behind it: it is made again from the rows."""
        if one.doubted is not None:
            one.builder.pyramid.cut(one.doubted.first)
            one.builder, one.doubted, one.behind = Builder(one.builder.pyramid, self._station), None, True

    def _make(self, stream: str) -> _One:
        pyramid = Pyramid(self._data_dir / "streams" / stream, stream, self._files)
        one = self._known[stream] = _One(Builder(pyramid, self._station), flushed_s=self._clock.monotonic_s())
        return one

    def _attach(self, one: _One, ring: Ring, now_s: float) -> None:
        """Follow the ring of a stream that is neither slow nor too fast."""
        stats = ring.stats()
        at_s, before = one.measured
        if one.ring is not ring or now_s - at_s >= 1.0:
            newest = ring.newest_block()
            total = stats.rows * (newest.schema.row_bytes if newest is not None else 0)
            if one.ring is ring:
                one.bytes_s = (total - before) / (now_s - at_s)
            one.measured = now_s, total
        if one.ring is not ring and one.budget is not None:
            one.budget.close()
            one.budget, one.behind = None, True
        one.ring = ring
        wanted = SLOW_BYTES_S < one.bytes_s <= FAST_BYTES_S
        if wanted and one.budget is None:
            size = min(BUDGET_BYTES, int(one.bytes_s * BUDGET_S))
            one.budget, one.behind, one.held = ring.budget(size), True, []
        elif not wanted and one.budget is not None:
            one.budget.close()
            one.budget, one.behind, one.held = None, True, []

    def _follow(self, one: _One, items: Sequence[Block | Gap | Epoch]) -> None:
        """Take what comes out of the ring as long as it follows what was taken."""
        builder = one.builder
        for item in items:
            if isinstance(item, Epoch):
                builder.begin(item.number)
            elif isinstance(item, Gap):
                if item.open or item.reason is Reason.LATE:
                    one.behind, one.again_s = True, self._clock.monotonic_s() + (AGAIN_S if item.open else 0.0)
                    return
                if item.epoch == builder.at.epoch and item.first <= builder.at.row:
                    builder.skip(item.end)
            elif (item.epoch, item.first) > builder.at:
                one.behind = True
                return
            else:
                before = builder.at
                builder.take(item)
                one.rows += builder.at.row - (before.row if before.epoch == item.epoch else item.first)

    def _catch_up(self, stream: str, one: _One) -> bool:
        """Read what follows from the files, not too much at once; whether their end was reached. Then go on with the
        ring."""
        if self._reader is None:
            self._reader = Reader(self._data_dir, self._files)
        builder, read = one.builder, 0
        for item in self._reader.blocks(stream, after=Place(*builder.at)):
            if isinstance(item, Gap):
                if item.open:
                    one.again_s = self._clock.monotonic_s() + AGAIN_S
                    return True
                continue
            if item.epoch > builder.at.epoch:
                builder.begin(item.epoch)
            builder.take(item)
            one.rows += item.rows
            read += item.nbytes
            if read > READ_BYTES or self._stop.is_set():
                return False
        if one.budget is not None:
            one.behind, held, one.held = False, one.held, []
            self._follow(one, held)
        return True

    def _flush(self, stream: str, durable: Position | None, *, last: bool = False) -> None:
        one = self._known[stream]
        if durable is None or not self._roomy():
            return
        if one.builder.flush(durable, self._clock.now_ns()):
            self._written += 1
        try:
            one.builder.pyramid.raise_levels(self._station, self._clock.now_ns(), all_of_it=last)
        except Corrupt as error:
            one.doubted = Part.parse(error.path.name)
            raise


def _size(items: Sequence[Block | Gap | Epoch]) -> int:
    return sum(item.nbytes for item in items if isinstance(item, Block))
