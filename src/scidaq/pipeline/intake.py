"""The intake: the door of a station, where the blocks of a driver get their epoch, row index and time.

It counts what the source delivered, in a book of its own: the recorder keeps another from what reaches the disk, and
the two must agree. It also sees every hole in the numbering and says why it is there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scidaq.block import Block, Epoch, Gap, RangeSet, Reason, Resume, StreamSpec
from scidaq.clock import SLEW_PPM, STEP_NS, Anchor, Clock
from scidaq.errors import InstrumentError
from scidaq.pipeline.ring import Ring
from scidaq.stats import field_of

_SLEW_EVERY_NS = 10_000_000_000
_SLEW_FROM_NS = 1_000_000
_PIECES = 1024
_LATE_NS = 5_000_000_000
"""How long every estimate has to be late before it is not the blocks that were held up."""
_CATCHING_UP_NS = 100_000_000
"""By how much less late a source that catches up has to become within that time."""
_STRADDLE_NS = 5_000_000_000
"""How long after a step of the clock blocks may come that were read before it."""
_LOST = "the files of the epoch before are damaged"
PATIENT_S = 0.01
"""How long a block may wait for room in the ring before it is refused."""
IMPATIENT_S = 0.001
"""The same once blocks have been refused: long enough for the recorder to get the processor."""


@dataclass(frozen=True, slots=True)
class IntakeStats:
    """What came through the door of one stream in its present epoch."""

    stream: str = field_of("1", "Stream id.")
    epoch: int = field_of("1", "Number of the present epoch, -1 before the first.")
    delivered: int = field_of("{row}", "Rows that the source sent or says it made, repeated ones counted again.")
    duplicates: int = field_of("{row}", "Rows that came more than once.")
    refused: int = field_of("{row}", "Rows that the ring had no room for, or that came after their epoch.")
    last_ns: int = field_of("ns", "UTC time of the newest row, 0 before the first.")
    all_duplicates: int = field_of("{row}", "Rows that came more than once, of all epochs since the start.")
    gaps: Mapping[str, int] = field_of("1", "Gaps since the start, by reason; those that are only being told, too.")
    lost_rows: Mapping[str, int] = field_of("{row}", "Rows in them, by reason, as far as that is known.")


class Timeline:
    """Time of the rows of a uniform stream: straight pieces, bent by at most `SLEW_PPM` towards what is measured."""

    def __init__(self, epoch: Epoch, row: int, t_ns: int) -> None:
        self._span = epoch.schema.span_ns
        self._rows, self._times = [row], [t_ns]
        self._errors: list[int] = []
        self._since_ns = t_ns
        """From when on the errors were measured."""
        self._late: tuple[int, int] | None = None
        """Since when all estimates have been late, and no less so: the first of them and its error."""

    def at(self, row: int) -> int:
        """UTC nanoseconds of a row, of one long past too."""
        i = max(bisect_right(self._rows, row) - 1, 0)
        rows = row - self._rows[i]
        return self._times[i] + (self._span(rows) if rows >= 0 else -self._span(-rows))

    def measure(self, row: int, t_ns: int) -> int:
        """Take the driver's estimate for the first row of a new block into account; the time to record for it.

        Estimates from arrival are late by chance, never early: the least error of ten seconds counts. The result
        never lies before the row before it.
        """
        t = self.at(row)
        self._errors.append(t_ns - t)
        elapsed = t - self._since_ns
        if elapsed < _SLEW_EVERY_NS:
            return t
        error, self._since_ns = min(self._errors), t
        self._errors.clear()
        if abs(error) < _SLEW_FROM_NS:
            return t
        most = elapsed * SLEW_PPM // 1_000_000
        bend = max(min(error, most), -most, 1 - self._span(1))
        self._rows.append(row)
        self._times.append(t + bend)
        del self._rows[:-_PIECES], self._times[:-_PIECES]
        return t + bend

    def stepped(self, row: int, t_ns: int, follows: bool) -> bool:
        """Whether the driver's estimate is off by more than a step; `follows`: no row is missing before it.

        A late one may come from arrival, and the block have been held up: they have to stay late, and no less so. An
        early one is none of these.
        """
        error = t_ns - self.at(row)
        if not follows or error <= STEP_NS:
            self._late = None
            return abs(error) > STEP_NS
        if self._late is None or error < self._late[1] - _CATCHING_UP_NS:
            self._late = t_ns, error
        return t_ns - self._late[0] > _LATE_NS


class Intake:
    """The door of one stream. Used by the thread that reads its instrument."""

    def __init__(
        self, stream: str, ring: Ring, clock: Clock, resume: Resume | None = None, next_epoch: int = 0
    ) -> None:
        """`next_epoch`: what the number of an epoch that begins is at least; those before it may be damaged."""
        self.stream, self._ring, self._clock = stream, ring, clock
        self._epoch: Epoch | None = None
        self._anchor: Anchor = clock.anchor
        """The clock's anchor that the present epoch goes by."""
        self._resume = resume
        self._spec: StreamSpec | None = None
        self._seen, self._high, self._duplicates, self._unseen_duplicates = RangeSet(), 0, 0, 0
        self._timeline: Timeline | None = None
        self._last_ns: int | None = None
        self._last_row = -1
        self._lost: list[tuple[int, int, Reason, str]] = []
        self._why: tuple[Reason, str] | None = None
        self._refused = self._all_duplicates = 0
        self._gaps: dict[str, int] = {}
        self._lost_rows: dict[str, int] = {}
        self._patience_s = PATIENT_S
        # What the next epoch is to follow.
        self._next_epoch, self._before_high = next_epoch, 0
        self._before: Epoch | None = None
        self._before_seen = RangeSet()
        self._goes_on = False
        """Whether the next epoch goes on with the same numbers, be they only those of one `arm`."""
        self._began_ns: int | None = None
        """Time of the first row of the present epoch, where it began here."""

    # ---- epochs ----

    def begin(self, spec: StreamSpec) -> None:
        """The instrument has been armed: the epoch goes on when it can, else a new one begins with the next block."""
        self._spec, self._goes_on = spec, False
        resume, self._resume = self._resume, None
        if resume is not None:
            self._go_on(resume, spec)
        elif self._epoch is not None and (why := self._why_new(self._epoch, self._anchor, spec)) is not None:
            self._end_epoch(*(self._why or (why, "")))

    def _go_on(self, resume: Resume, spec: StreamSpec) -> None:
        """Take up what was recorded before the station was started."""
        why = self._why_new(resume.epoch, resume.epoch.anchor, spec)
        self._last_ns, self._last_row = resume.last_ns, resume.last_row
        if resume.epoch.number + 1 < self._next_epoch:
            return  # what follows it is damaged, and nobody knows how far that had come
        if why is not None:
            self._before, self._before_high = resume.epoch, resume.high
            self._next_epoch = resume.epoch.number + 1
            self._before_seen = resume.seen.copy()
            self._why = (Reason.RESTART if why is Reason.RESET else why, "")
            return
        self._epoch, self._seen, self._high = resume.epoch, resume.seen.copy(), resume.high
        self._anchor = self._clock.anchor
        self._duplicates = resume.ledger.duplicates  # repeats of before are in the recorder's book as well
        self._why = (Reason.RESTART, "")
        if spec.schema.rate is not None and resume.last_ns is not None:
            self._timeline = Timeline(resume.epoch, resume.last_row, resume.last_ns)
        self._ring.offer(resume.epoch, self.delivered)

    def _why_new(self, epoch: Epoch, anchor: Anchor, spec: StreamSpec) -> Reason | None:
        """None when the epoch, whose time goes by `anchor`, can go on under this spec."""
        if epoch.schema != spec.schema:
            return Reason.SCHEMA
        if spec.counter is None or epoch.counter != spec.counter:
            return Reason.RESET
        return Reason.CLOCK_STEP if _differ(anchor, self._clock.anchor) else None

    def _end_epoch(self, reason: Reason, detail: str) -> None:
        if self._epoch is None:
            return
        self._flush_lost(None)
        self._before, self._before_high, self._before_seen = self._epoch, self._high, self._seen
        self._next_epoch = self._epoch.number + 1
        self._epoch, self._timeline = None, None
        self._why = (reason, detail)

    def _start_epoch(self, block: Block, spec: StreamSpec) -> Epoch:
        """The epoch of which this block is the first, joined to the one before by a gap."""
        before, origin, goes_on = self._before, 0, self._goes_on
        unknown = before_unknown(before, spec.counter) and not goes_on
        if spec.counter is not None or goes_on:
            origin = block.first
            if before is not None and not unknown:
                # The numbering went on: what it skipped since is known, and is the beginning of the new epoch.
                origin = min(before.origin + self._before_high, block.first)
        self._anchor = self._clock.anchor
        epoch = Epoch(
            self.stream, self._next_epoch, spec.schema, self._clock.bent_anchor(), spec.counter, origin, spec.backfill
        )
        self._epoch, self._seen, self._high, self._began_ns = epoch, RangeSet(), 0, block.t0_ns
        self._duplicates = self._unseen_duplicates = 0
        self._timeline, self._goes_on = None, False
        self._ring.offer(epoch)
        if before is None and epoch.number:
            span = (self._last_ns, block.t0_ns)
            self._count(Reason.CORRUPTION, 1, 0)
            self._ring.offer(Gap(self.stream, epoch.number, 0, 0, Reason.CORRUPTION, *span, True, detail=_LOST))
        elif before is not None:
            reason, detail = self._why or (Reason.SOURCE, "")
            if block.first == origin or unknown:
                self._count(reason, 1, 0)
                self._ring.offer(
                    Gap(self.stream, epoch.number, 0, 0, reason, self._last_ns, block.t0_ns, unknown, detail=detail)
                )
                self._why = None
        self._last_row = -1
        return epoch

    def interrupted(self, reason: Reason, detail: str) -> None:
        """Acquisition broke off: the next hole, or the next epoch, has this reason."""
        self._why = (reason, detail)

    # ---- rows ----

    @property
    def delivered(self) -> int:
        """Rows of the present epoch that the source sent or says it made, repeated ones counted again."""
        return self._high + self._duplicates

    def accept(self, block: Block) -> None:
        """Take a block in the source's numbering; it goes to the ring, or becomes a gap when there is no room."""
        arrived_s = self._clock.monotonic_s()
        spec = self._spec
        if spec is None:
            raise InstrumentError(f"{self.stream}: a block came before the stream was described")
        epoch = self._epoch
        if self._too_late(block):
            self._refused += block.rows
            return
        if epoch is not None and self._must_begin_anew(epoch, block):
            epoch = None
        if epoch is None:
            epoch = self._start_epoch(block, spec)
        index = block.first - epoch.origin
        end = index + block.rows
        high, late = self._high, index < self._high
        block = self._place(block, epoch, index, late)
        if index > high:
            self._hole(high, index, *(self._why or (Reason.SOURCE, "")))
        if not late:
            self._why = None
        repeated = sum(b - a for a, b in self._seen.within(index, end))
        self._high = max(high, end)
        if not self._ring.fits(block) and not self._ring.wait_for_room(block, self._patience_s):
            self._patience_s = IMPATIENT_S
            self._ring.offer(block)  # which counts it
            self._refused += block.rows
            self._duplicates += repeated
            self._all_duplicates += repeated
            self._unseen_duplicates += repeated
            if end > high:
                self._hole(max(index, high), end, self._ring.why_full)
            return
        self._patience_s = PATIENT_S
        self._flush_lost(None if late else block.t0_ns)
        self._duplicates += repeated
        self._all_duplicates += repeated
        self._ring.offer(block, self.delivered, self._unseen_duplicates, arrived_s)
        self._seen.add(index, end)
        if not late:
            self._last_ns, self._last_row = block.last_ns, end - 1

    def _too_late(self, block: Block) -> bool:
        """Whether rows come late from before the epoch: from a hole of the one before it, or from before the first row.

        They stay the gap that they are. A counter that began again without saying so is told by the time of its rows.
        """
        epoch, before = self._epoch, self._before
        if epoch is None or not epoch.backfill or block.end > epoch.origin:
            return False
        began_ns = self._timeline.at(0) if self._timeline is not None else self._began_ns
        if began_ns is not None and block.last_ns < began_ns:
            return True
        if before is None or before_unknown(before, epoch.counter) or block.first < before.origin:
            return False
        return not self._before_seen.within(block.first - before.origin, block.end - before.origin)

    def _must_begin_anew(self, epoch: Epoch, block: Block) -> bool:
        anchor = self._clock.anchor
        if anchor is not self._anchor and _differ(anchor, self._anchor) and not self._read_before(anchor, block):
            self._end_epoch(Reason.CLOCK_STEP, "")
            self._goes_on = True
            return True
        if block.first < epoch.origin:
            self._end_epoch(Reason.RESET, f"row {block.first} after {epoch.origin + self._high}")
            return True
        row = block.first - epoch.origin
        if block.times is not None and row >= self._high and self._went_back(block):
            self._end_epoch(Reason.CLOCK_STEP, "the source's time went back")
            self._goes_on = True
            return True
        line, high = self._timeline, self._high
        may_be_late = row == high and not (self._spec is not None and self._spec.own_times)
        if line is not None and row >= high and line.stepped(row, block.t0_ns, follows=may_be_late):
            self._end_epoch(Reason.CLOCK_STEP, "the source's time left its rate")
            self._goes_on = True
            return True
        return False

    def _read_before(self, anchor: Anchor, block: Block) -> bool:
        """Whether a block was read before the clock was stepped to a new anchor, and only comes now.

        Then it belongs to the old epoch, or the new one would begin with times that are not its own.
        """
        now = self._clock.now_ns()
        before = now + self._anchor.wall(0) - anchor.wall(0)
        return now - anchor.wall_ns < _STRADDLE_NS and abs(block.last_ns - before) < abs(block.last_ns - now)

    def _went_back(self, block: Block) -> bool:
        """Whether an irregular source's time is behind its own by more than a step."""
        return self._last_row >= 0 and self._last_ns is not None and self._last_ns - block.t0_ns > STEP_NS

    def _place(self, block: Block, epoch: Epoch, index: int, late: bool) -> Block:
        if block.times is None:
            if self._timeline is None:
                self._timeline = Timeline(epoch, index, block.t0_ns)
            t0 = self._timeline.at(index) if late else self._timeline.measure(index, block.t0_ns)
            return block.placed(self.stream, epoch.number, index, t0)
        if not late and self._last_ns is not None and self._last_row >= 0 and block.t0_ns < self._last_ns:
            block = replace(block, times=np.maximum(block.times, self._last_ns))
        return block.placed(self.stream, epoch.number, index, block.t0_ns)

    # ---- holes ----

    def _hole(self, first: int, end: int, reason: Reason, detail: str = "") -> None:
        goes_on = bool(self._lost) and self._lost[-1][1:] == (first, reason, detail)
        self._count(reason, int(not goes_on), end - first)
        if goes_on:
            first = self._lost.pop()[0]
        self._lost.append((first, end, reason, detail))

    def _count(self, reason: Reason, gaps: int, rows: int) -> None:
        """Once for each hole, as it is seen: one that grows for an hour is announced at its end only."""
        self._gaps[reason] = self._gaps.get(reason, 0) + gaps
        self._lost_rows[reason] = self._lost_rows.get(reason, 0) + rows

    def _flush_lost(self, end_ns: int | None) -> None:
        """Announce the holes so far; `end_ns` is the time of the row behind them, where there is one."""
        epoch = self._epoch
        if epoch is not None:
            for first, end, reason, detail in self._lost:  # each lies behind everything before it
                may_come = epoch.backfill and reason in (Reason.SOURCE, Reason.DISCONNECT, Reason.STOPPED)
                span = (first, end, reason, self._last_ns, end_ns)
                gap = Gap(self.stream, epoch.number, *span, open=may_come, detail=detail)
                # The count of this very moment: a commit may come between the gap and the block behind it.
                self._ring.offer(gap, end + self._duplicates, self._unseen_duplicates)
        self._lost.clear()

    def close(self) -> None:
        """No more will come: holes that no block followed are announced."""
        self._flush_lost(None)

    def stats(self) -> IntakeStats:
        """A snapshot."""
        number = self._epoch.number if self._epoch else -1
        return IntakeStats(
            self.stream,
            number,
            self.delivered,
            self._duplicates,
            self._refused,
            self._last_ns or 0,
            self._all_duplicates,
            dict(self._gaps),
            dict(self._lost_rows),
        )


def _differ(one: Anchor, other: Anchor) -> bool:
    """Whether no slew leads from one anchor to the other: another boot, or a step in between."""
    return one.boot_id != other.boot_id or abs(one.wall(0) - other.wall(0)) > STEP_NS


def before_unknown(before: Epoch | None, counter: str | None) -> bool:
    """Whether nobody can know how many rows lie between an epoch and the next, which has this counter."""
    return before is not None and (counter is None or before.counter != counter)


class Door:
    """The intakes of all streams of one instrument: what supervision feeds."""

    def __init__(self, instrument: str, open_intake: Callable[[StreamSpec], Intake]) -> None:
        """`open_intake` makes the intake of a stream when it is announced for the first time."""
        self.instrument, self._open = instrument, open_intake
        self._intakes: dict[str, Intake] = {}

    def begin(self, specs: Sequence[StreamSpec]) -> None:
        """Announce the streams after the instrument was armed."""
        for spec in specs:
            if spec.name not in self._intakes:
                self._intakes[spec.name] = self._open(spec)
            self._intakes[spec.name].begin(spec)

    def accept(self, block: Block) -> None:
        """Take a block in the source's numbering. Raises `InstrumentError` for a stream that was not announced."""
        intake = self._intakes.get(block.stream)
        if intake is None:
            raise InstrumentError(f"{self.instrument} sent rows of {block.stream!r}, which it had not announced")
        intake.accept(block)

    def interrupted(self, reason: Reason, since_ns: int, detail: str) -> None:
        """Acquisition of the whole instrument broke off."""
        for intake in self._intakes.values():
            intake.interrupted(reason, detail)

    def close(self) -> None:
        """No more will come."""
        for intake in self._intakes.values():
            intake.close()

    def stats(self) -> tuple[IntakeStats, ...]:
        """A snapshot per stream."""
        return tuple(i.stats() for i in list(self._intakes.values()))
