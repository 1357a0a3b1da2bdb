"""The door: epochs, holes and their reasons, time, and a count that is right at every single entry."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Channel, Entry, Epoch, Gap, RangeSet, Reason, Resume, Schema, StreamSpec, schema
from scidaq.clock import SLEW_PPM
from scidaq.errors import InstrumentError
from scidaq.pipeline import Door, Intake, Ring, Timeline
from scidaq.testing import FakeClock

MS = 1_000_000
T0 = 1_750_000_000_000 * MS
PLAIN = schema([Channel("n", "int64")], 1000)
UNEVEN = schema([Channel("n", "int64")])
SPEC = StreamSpec("wave", PLAIN, "counter", backfill=True)


def rows(first: int, count: int, spec: StreamSpec = SPEC, late_ns: int = 0) -> Block:
    t0 = T0 + first * MS + late_ns
    times = None if spec.schema.rate is not None else t0 + np.arange(count) * MS
    return Block.of(spec.schema, [np.arange(first, first + count)], stream="wave", first=first, t0_ns=t0, times=times)


class Door1:
    """An intake whose ring is read entry by entry, with the books that the entries add up to."""

    def __init__(self, capacity: int = 1 << 20, spec: StreamSpec = SPEC, resume: Resume | None = None) -> None:
        self.entries: list[Entry] = []
        self.clock = FakeClock(T0)
        self.ring = Ring("dev/wave", capacity, bell=self._bell)
        self.hold = self.ring.hold()
        self.recorded, self.high, self.duplicates = RangeSet(), 0, 0
        self.intake = Intake("dev/wave", self.ring, self.clock, resume)
        self.intake.begin(spec)

    def _bell(self, stream: str, size: int) -> None:
        """Called with each entry, as if the recorder looked at this very moment."""
        for entry in self.hold.take():
            self.entries.append(entry)
            item = entry.item
            if isinstance(item, Epoch):
                self.recorded, self.high, self.duplicates = RangeSet(), 0, 0
                continue
            if isinstance(item, Block):
                self.duplicates += item.rows - self.recorded.add(item.first, item.end)
                self.high = max(self.high, item.end)
            else:
                self.high = max(self.high, item.end)
            if entry.delivered:
                gaps = self.high - self.recorded.total
                accounted = self.recorded.total + gaps + self.duplicates + entry.duplicates
                assert entry.delivered == accounted, f"the door's count is not what its entries say, at {item}"

    def gaps(self) -> list[Gap]:
        return [e.item for e in self.entries if isinstance(e.item, Gap)]

    def epochs(self) -> list[Epoch]:
        return [e.item for e in self.entries if isinstance(e.item, Epoch)]

    def blocks(self) -> list[Block]:
        return [e.item for e in self.entries if isinstance(e.item, Block)]

    def free(self) -> None:
        if self.entries:
            self.hold.release(self.entries[-1].seq)


def test_a_gap_counts_what_came_before_it_and_not_the_block_behind_it() -> None:
    door = Door1()
    door.intake.accept(rows(100, 10))
    door.intake.accept(rows(100, 10))
    door.intake.accept(rows(130, 10))
    counts = [e.delivered for e in door.entries if not isinstance(e.item, Epoch)]
    assert counts == [10, 20, 40, 50]
    assert [(g.first, g.end, g.reason, g.open) for g in door.gaps()] == [(10, 30, Reason.SOURCE, True)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 20)),
            st.tuples(st.just("skip"), st.integers(1, 20)),
            st.tuples(st.just("again"), st.integers(1, 40)),
            st.tuples(st.just("free"), st.just(0)),
            st.tuples(st.just("broken"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_at_every_entry_the_count_at_the_door_is_what_the_entries_add_up_to(acts: list[tuple[str, int]]) -> None:
    door = Door1(capacity=300)
    door.intake._patience_s = 0.0
    at, delivered, skipped = 50, 0, 0
    for act, n in [("send", 1), *acts]:
        if act == "send":
            door.intake.accept(rows(at, n))
            at, delivered = at + n, delivered + n
        elif act == "skip":
            at, skipped = at + n, skipped + n
        elif act == "again":
            first = max(50, at - n - 5)
            door.intake.accept(rows(first, n))
            at = max(at, first + n)
        elif act == "free":
            door.free()
        else:
            door.intake.interrupted(Reason.DISCONNECT, "")
        door.intake._patience_s = 0.0
    door.intake.close()
    # What stands in the ring is all that ever came, or a gap says that it is missing.
    missing = RangeSet((g.first, g.end) for g in door.gaps())
    for block in door.blocks():
        missing.add(block.first, block.end)
    if door.intake._high:
        assert missing.missing(0, door.intake._high) == []


def test_a_refused_block_that_reaches_beyond_the_newest_row_leaves_a_gap_for_that_part() -> None:
    door = Door1(capacity=10)
    door.intake.accept(rows(0, 10))
    door.intake._patience_s = 0.0
    door.intake.accept(rows(5, 10))
    door.intake.close()
    assert [(g.first, g.end, g.reason) for g in door.gaps()] == [(10, 15, Reason.OVERFLOW)]


def test_a_late_block_does_not_bound_a_hole_that_lies_behind_it() -> None:
    door = Door1(capacity=100)
    door.intake.accept(rows(0, 10))
    door.intake._patience_s = 0.0
    door.intake.accept(rows(10, 10))
    door.free()
    door.intake.accept(rows(0, 10))
    (gap,) = door.gaps()
    assert (gap.first, gap.end, gap.start_ns, gap.end_ns) == (10, 20, T0 + 9 * MS, None)


def test_repeated_rows_after_an_interruption_do_not_take_its_reason_away() -> None:
    door = Door1()
    door.intake.accept(rows(0, 10))
    door.intake.interrupted(Reason.DISCONNECT, "cable")
    door.intake.begin(SPEC)
    door.intake.accept(rows(0, 10))
    door.intake.accept(rows(20, 10))
    assert [(g.reason, g.detail) for g in door.gaps()] == [(Reason.DISCONNECT, "cable")]


def test_rows_that_are_late_for_an_epoch_that_has_ended_stay_its_gap() -> None:
    door = Door1()
    door.intake.accept(rows(100, 10))
    door.intake.accept(rows(120, 10))  # 110 to 119 are to come late
    door.clock.step(5)
    door.clock.reanchor()
    door.intake.accept(replace(rows(130, 10), t0_ns=T0 + 130 * MS + 5000 * MS))
    door.intake.accept(rows(110, 10))
    door.intake.accept(replace(rows(140, 10), t0_ns=T0 + 140 * MS + 5000 * MS))
    assert [e.origin for e in door.epochs()] == [100, 130]
    assert [(b.epoch, b.first, b.rows) for b in door.blocks()] == [(0, 0, 10), (0, 20, 10), (1, 0, 10), (1, 10, 10)]
    assert door.intake.stats().refused == 10


def test_a_counter_that_begins_again_makes_an_epoch_even_where_rows_may_come_late() -> None:
    door = Door1()
    door.intake.accept(rows(100, 10))
    door.intake.accept(rows(0, 10, late_ns=110 * MS))
    assert [(e.number, e.origin) for e in door.epochs()] == [(0, 100), (1, 0)]
    assert [(g.epoch, g.reason) for g in door.gaps()] == [(1, Reason.RESET)]


@pytest.mark.parametrize("uneven", [False, True])
def test_rows_that_are_late_from_before_the_first_are_no_reset(uneven: bool) -> None:
    spec = replace(SPEC, schema=UNEVEN) if uneven else SPEC
    door = Door1(spec=spec)
    door.intake.accept(rows(110, 10, spec))
    door.intake.accept(rows(100, 10, spec))  # withheld when the station began
    door.intake.accept(rows(110, 10, spec))  # a repetition, which another epoch would take for new rows
    assert [e.origin for e in door.epochs()] == [110]
    assert (door.duplicates, door.intake.stats().refused) == (10, 10)


@pytest.mark.parametrize(
    ("spec", "reason", "unknown"),
    [
        (replace(SPEC, schema=schema([Channel("n", "int64", "V")], 1000)), Reason.SCHEMA, False),
        (replace(SPEC, schema=schema([Channel("n", "int64")], 500)), Reason.SCHEMA, False),
        (replace(SPEC, counter="another"), Reason.RESET, True),
        (replace(SPEC, counter=None), Reason.RESET, True),
    ],
)
def test_what_begins_a_new_epoch(spec: StreamSpec, reason: Reason, unknown: bool) -> None:
    door = Door1()
    door.intake.accept(rows(100, 10))
    door.intake.begin(spec)
    door.intake.accept(rows(110 if spec.counter else 0, 10, spec))
    assert [e.number for e in door.epochs()] == [0, 1]
    assert [(g.epoch, g.first, g.end, g.reason, g.unknown) for g in door.gaps()] == [(1, 0, 0, reason, unknown)]
    (gap,) = door.gaps()
    assert gap.start_ns == T0 + 109 * MS
    assert gap.end_ns is not None


def test_a_new_epoch_of_the_same_counter_begins_with_what_was_skipped_before_it() -> None:
    door = Door1()
    door.intake.accept(rows(100, 10))
    door.intake.begin(replace(SPEC, schema=schema([Channel("n", "int64", "V")], 1000)))
    door.intake.accept(rows(150, 10, replace(SPEC, schema=schema([Channel("n", "int64", "V")], 1000))))
    assert [e.origin for e in door.epochs()] == [100, 110]
    assert [(g.epoch, g.first, g.end, g.reason) for g in door.gaps()] == [(1, 0, 40, Reason.SCHEMA)]


def test_a_step_of_the_clock_begins_an_epoch_and_a_drift_does_not() -> None:
    door = Door1()
    door.intake.accept(rows(0, 10))
    door.clock.step(0.5)
    door.clock.reanchor()
    door.intake.accept(rows(10, 10))
    assert len(door.epochs()) == 1
    door.clock.step(-2)
    door.clock.reanchor()
    door.intake.accept(rows(20, 10, late_ns=-1500 * MS))
    assert len(door.epochs()) == 2
    assert door.gaps()[-1].reason is Reason.CLOCK_STEP


@pytest.mark.parametrize("source", [PLAIN, UNEVEN])
@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_step_of_the_clock_loses_no_row_of_a_source_without_a_counter(source: Schema, seconds: int) -> None:
    spec = StreamSpec("wave", source, None)
    door = Door1(spec=spec)
    door.intake.accept(rows(0, 4, spec))
    door.clock.step(seconds)
    door.clock.reanchor()
    door.intake.accept(rows(4, 4, spec, late_ns=seconds * 1000 * MS))
    assert [(e.number, e.origin) for e in door.epochs()] == [(0, 0), (1, 4)]
    assert door.intake.stats().delivered == 4
    (join,) = door.gaps()
    assert (join.epoch, join.first, join.end, join.rows, join.unknown) == (1, 0, 0, 0, False)
    assert join.reason is Reason.CLOCK_STEP
    assert [(b.epoch, b.first, b.end) for b in door.blocks()] == [(0, 0, 4), (1, 0, 4)]


@pytest.mark.parametrize("counter", [None, "counter"])
@pytest.mark.parametrize(("back_ms", "epochs"), [(3_600_000, 2), (1_100, 2), (900, 1)])
def test_time_of_an_uneven_stream_that_goes_back_by_more_than_a_step_begins_an_epoch(
    counter: str | None, back_ms: int, epochs: int
) -> None:
    spec = StreamSpec("wave", UNEVEN, counter)
    door = Door1(spec=spec)
    door.intake.accept(rows(0, 4, spec))
    door.intake.accept(rows(4, 4, spec, late_ns=-back_ms * MS))
    first, second = door.blocks()
    assert len(door.epochs()) == epochs
    if epochs == 1:
        assert second.t0_ns == first.last_ns
        assert door.gaps() == []
        assert door.intake.stats().delivered == 8
        return
    assert second.t0_ns == T0 + 4 * MS - back_ms * MS
    (join,) = door.gaps()
    assert (join.epoch, join.rows, join.unknown, join.reason) == (1, 0, False, Reason.CLOCK_STEP)
    assert door.intake.stats().delivered == 4


@pytest.mark.parametrize("rate", [Fraction(1000), Fraction(1, 3), Fraction(1_000_000_007, 3), Fraction(2_000_000_000)])
@pytest.mark.parametrize("error_ppm", [-400, 0, 300, 900])
def test_time_is_bent_by_no_more_than_it_may_and_never_goes_back(rate: Fraction, error_ppm: int) -> None:
    source = schema([Channel("n", "int64")], rate)
    epoch = Epoch("dev/wave", 0, source, FakeClock(T0).anchor)
    line, rng = Timeline(epoch, 0, T0), np.random.default_rng(1)
    per_block = max(1, round(rate / 10))
    row, before, previous = 0, T0 - 1, T0
    for _ in range(2000):
        true = T0 + round(source.span_ns(row) * (1 + error_ppm / 1e6))
        t = line.measure(row, true + int(rng.exponential(5 * MS)))
        assert t > before or t >= previous
        nominal = source.span_ns(per_block)
        if row:
            assert abs((t - previous) - nominal) <= max(20_000 * MS * SLEW_PPM // 1_000_000, 2)
        previous, before = t, t + source.span_ns(per_block - 1)
        row += per_block
    elapsed = source.span_ns(row)
    assert abs(line.at(row) - (T0 + elapsed)) <= elapsed * SLEW_PPM // 1_000_000 + 1
    if abs(error_ppm) <= SLEW_PPM and elapsed > 100_000 * MS:
        assert abs(line.at(row) - (T0 + round(elapsed * (1 + error_ppm / 1e6)))) < 20 * MS + elapsed // 100


def test_times_of_an_uneven_stream_are_held_back_where_they_would_go_back() -> None:
    spec = StreamSpec("wave", UNEVEN, "counter")
    door = Door1(spec=spec)
    door.intake.accept(rows(0, 10, spec))
    door.intake.accept(rows(10, 10, spec, late_ns=-5 * MS))
    first, second = door.blocks()
    assert second.t0_ns == first.last_ns
    assert (np.diff(second.time_ns()) >= 0).all()


def test_a_restart_goes_on_where_the_numbering_was() -> None:
    before = Door1()
    before.intake.accept(rows(100, 10))
    (epoch,) = before.epochs()
    resume = Resume(epoch, 10, RangeSet([(0, 10)]), last_ns=T0 + 109 * MS, last_row=9)
    door = Door1(resume=resume)
    door.recorded, door.high = RangeSet([(0, 10)]), 10
    bell = door.ring._bell
    assert bell is not None
    door.intake.accept(rows(130, 10))
    assert [e.number for e in door.epochs()] == [0]
    assert [(g.first, g.end, g.reason) for g in door.gaps()] == [(10, 30, Reason.RESTART)]
    assert door.blocks()[-1].t0_ns == T0 + 130 * MS


def test_no_epoch_gets_the_number_of_one_whose_files_are_damaged() -> None:
    before = Door1()
    before.intake.accept(rows(100, 10))
    (epoch,) = before.epochs()
    resume = Resume(epoch, 10, RangeSet([(0, 10)]), last_ns=T0 + 109 * MS, last_row=9)
    for known in (resume, None):
        door = Door1()
        door.intake = Intake("dev/wave", door.ring, door.clock, known, next_epoch=3)
        door.intake.begin(SPEC)
        door.intake.accept(rows(130, 10))
        assert [(e.number, e.origin) for e in door.epochs()] == [(3, 130)]
        assert [(g.epoch, g.rows, g.reason) for g in door.gaps()] == [(3, None, Reason.CORRUPTION)]


def test_a_source_without_numbers_says_that_it_does_not_know() -> None:
    spec = StreamSpec("wave", PLAIN, None)
    door = Door1(spec=spec)
    door.intake.accept(rows(0, 10, spec))
    door.intake.interrupted(Reason.HANG, "no answer")
    door.intake.begin(spec)
    door.intake.accept(rows(0, 10, spec, late_ns=300 * MS))
    (gap,) = door.gaps()
    assert (gap.epoch, gap.rows, gap.reason, gap.unknown) == (1, None, Reason.HANG, True)
    assert (gap.start_ns, gap.end_ns) == (T0 + 9 * MS, T0 + 300 * MS)


def test_a_stream_that_was_not_announced_is_refused() -> None:
    door = Door("dev", lambda spec: Door1().intake)
    with pytest.raises(InstrumentError, match="had not announced"):
        door.accept(rows(0, 1))
