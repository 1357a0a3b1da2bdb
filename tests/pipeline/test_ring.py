"""One cursor per reader, three policies for being slow: each against a model that fits on a page."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Channel, Entry, Epoch, Gap, RangeSet, Reason, schema
from scidaq.errors import RequestError
from scidaq.pipeline import Ring
from scidaq.testing import FakeClock

PLAIN = schema([Channel("n", "int8")], 1000)


def rows(first: int, count: int, epoch: int = 0) -> Block:
    block = Block.of(PLAIN, [np.zeros(count)], stream="wave", first=first, t0_ns=first * 1_000_000)
    return block.placed("dev/wave", epoch, first, first * 1_000_000)


def epoch_of(number: int) -> Epoch:
    return Epoch("dev/wave", number, PLAIN, FakeClock().anchor)


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("block"), st.integers(1, 12)),
        st.tuples(st.just("block"), st.integers(1, 12)),
        st.tuples(st.just("big block"), st.integers(20, 60)),
        st.tuples(st.just("gap"), st.integers(1, 5)),
        st.tuples(st.just("epoch"), st.just(0)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("release"), st.integers(0, 10)),
        st.tuples(st.just("rewind"), st.just(0)),
        st.tuples(st.just("look"), st.integers(0, 1)),
    ),
    max_size=60,
)


@dataclass
class Source:
    """What is offered to the ring, and what it took."""

    ring: Ring
    at: int = 0
    epoch: int = 0
    taken: list[Block | Gap | Epoch] = field(default_factory=list)

    def act(self, act: str, n: int) -> bool:
        """Offer something; False when the act is not the source's."""
        if act in ("block", "big block"):
            item: Block | Gap | Epoch = rows(self.at, n, self.epoch)
            self.at += n
        elif act == "gap":
            item = Gap("dev/wave", self.epoch, self.at, self.at + n, Reason.SOURCE)
            self.at += n
        elif act == "epoch":
            self.epoch, self.at = self.epoch + 1, 0
            item = epoch_of(self.epoch)
        else:
            return False
        fits = not isinstance(item, Block) or self.ring.fits(item)
        assert self.ring.offer(item) is fits
        if fits:
            self.taken.append(item)
        return True


@given(ACTS, st.sampled_from([0, 30]))
def test_hold_keeps_everything_until_it_is_released(acts: list[tuple[str, int]], history: int) -> None:
    ring = Ring("dev/wave", 40, history)
    hold = ring.hold()
    source = Source(ring)
    released = seen = 0
    for act, n in acts:
        if source.act(act, n):
            continue
        if act == "take":
            got = hold.take()
            assert [e.item for e in got] == source.taken[seen:]
            assert [e.seq for e in got] == list(range(seen, len(source.taken)))
            seen = len(source.taken)
        elif act == "release":
            upto = min(released + n, seen)
            if upto > released:
                hold.release(upto - 1)
                released = upto
            hold.release(released - 2)  # one of long ago changes nothing
        elif act == "rewind":
            hold.rewind()
            seen = released
        held = sum(i.nbytes for i in source.taken[released:] if isinstance(i, Block))
        stats = ring.stats()
        assert stats.held_bytes == held
        assert stats.history_bytes <= max(history, 0)
        assert stats.peak_bytes <= max(40, 60)
    hold.rewind()
    assert [e.item for e in hold.take()] == source.taken[released:]


def test_a_block_larger_than_the_ring_is_taken_when_it_is_empty() -> None:
    ring = Ring("dev/wave", 10)
    hold = ring.hold()
    assert ring.offer(rows(0, 100))
    assert not ring.offer(rows(100, 1))
    hold.release(hold.take()[-1].seq)
    assert ring.offer(rows(101, 1))
    assert ring.stats().refused_rows == 1


def test_there_is_one_recorder() -> None:
    ring = Ring("dev/wave", 10)
    ring.hold()
    with pytest.raises(RequestError, match="already"):
        ring.hold()


def test_what_came_before_the_recorder_is_handed_to_it() -> None:
    ring = Ring("dev/wave", 100, 100)
    ring.offer(rows(0, 5))
    hold = ring.hold()
    assert [e.item.first for e in hold.take() if isinstance(e.item, Block)] == [0]
    assert ring.stats().held_bytes == 5


@given(ACTS, st.integers(1, 40), st.booleans())
def test_budget_gets_each_row_or_a_gap_that_names_it(acts: list[tuple[str, int]], budget: int, held: bool) -> None:
    ring = Ring("dev/wave", 1 << 20)
    hold = ring.hold() if held else None
    stage = ring.budget(budget)
    source = Source(ring)
    got: list[Entry] = []

    def take() -> None:
        new = stage.take()
        lag = sum(e.item.nbytes for e in new if isinstance(e.item, Block))
        assert lag <= budget
        got.extend(new)

    for act, n in acts:
        if source.act(act, n):
            continue
        if act == "take":
            take()
        elif act == "release" and hold is not None and (entries := hold.take()):
            hold.release(entries[-1].seq)
    take()
    # Each epoch and gap that was offered comes, in order; each row of a block comes as itself or in a late gap.
    others = [
        e.item
        for e in got
        if isinstance(e.item, Epoch) or (isinstance(e.item, Gap) and e.item.reason is not Reason.LATE)
    ]
    assert others == [i for i in source.taken if not isinstance(i, Block)]
    came: dict[int, RangeSet] = {}
    for entry in got:
        item = entry.item
        if isinstance(item, Block) or (isinstance(item, Gap) and item.reason is Reason.LATE):
            ranges = came.setdefault(item.epoch, RangeSet())
            assert ranges.add(item.first, item.end) == item.end - item.first, "no row twice"
    offered: dict[int, RangeSet] = {}
    for item in source.taken:
        if isinstance(item, Block):
            offered.setdefault(item.epoch, RangeSet()).add(item.first, item.end)
    assert came == offered
    late = sum(e.item.end - e.item.first for e in got if isinstance(e.item, Gap) and e.item.reason is Reason.LATE)
    assert ring.stats().missed_rows == late


@given(ACTS)
def test_latest_is_the_newest_block_and_the_number_of_those_skipped(acts: list[tuple[str, int]]) -> None:
    ring = Ring("dev/wave", 1 << 20)
    hold = ring.hold()
    viewer = ring.latest()
    source = Source(ring)
    seen = 0
    for act, n in [*acts, ("look", 0)]:
        if source.act(act, n):
            continue
        if act == "look":
            fresh = [i for i in source.taken[seen:] if isinstance(i, Block)]
            seen = len(source.taken)
            assert viewer.take() == ((fresh[-1], len(fresh) - 1) if fresh else (None, 0))
        elif act == "release" and (entries := hold.take()):
            hold.release(entries[-1].seq)


@pytest.mark.slow
def test_one_writer_and_several_readers_lose_no_entry() -> None:
    ring = Ring("dev/wave", 4000, 2000)
    hold, stage, viewer = ring.hold(), ring.budget(1500), ring.latest()
    done = threading.Event()
    recorded: list[int] = []
    staged, viewed = RangeSet(), [0]
    refused = RangeSet()

    def record() -> None:
        rng = np.random.default_rng(1)
        while True:
            last = done.is_set()
            entries = hold.take()
            if entries and rng.random() < 0.2:
                hold.rewind()
                entries = hold.take()
            for entry in entries:
                if isinstance(entry.item, Block):
                    recorded.extend(range(entry.item.first, entry.item.end))
            if entries:
                hold.release(entries[-1].seq)
            elif last:
                return

    def process() -> None:
        while True:
            last = done.is_set()
            for entry in stage.take(0.001):
                if isinstance(entry.item, Block | Gap):
                    assert staged.add(entry.item.first, entry.item.end) == entry.item.end - entry.item.first
            if last:
                return

    def view() -> None:
        while not done.is_set():
            newest, skipped = viewer.take(0.001)
            viewed[0] += skipped + (newest is not None)

    threads = [threading.Thread(target=t) for t in (record, process, view)]
    for thread in threads:
        thread.start()
    total = 60_000
    for at in range(0, total, 20):
        if not ring.offer(rows(at, 20)):
            refused.add(at, at + 20)
    done.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    newest, skipped = viewer.take()
    viewed[0] += skipped + (newest is not None)
    wanted = [n for a, b in refused.missing(0, total) for n in range(a, b)]
    assert recorded == wanted
    assert [n for a, b in staged for n in range(a, b)] == wanted
    assert viewed[0] == len(wanted) // 20


def test_readers_that_wait_are_woken_by_the_end() -> None:
    ring = Ring("dev/wave", 100)
    stage, viewer = ring.budget(10), ring.latest()
    threads = [threading.Thread(target=stage.take, args=(30,)), threading.Thread(target=viewer.take, args=(30,))]
    for thread in threads:
        thread.start()
    ring.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_a_stage_that_leaves_keeps_nothing_back() -> None:
    ring = Ring("dev/wave", 1000)
    stage = ring.budget(50)
    for i in range(10):
        ring.offer(rows(i * 10, 10))
    assert ring.stats().history_bytes == 50
    other = ring.budget(20)
    stage.close()
    assert ring.stats().history_bytes == 20
    assert ring.recent() == [entry.item for entry in ring.budget(20, whole=True).take()]
    other.close()
    ring.offer(rows(100, 10))
    assert ring.stats().history_bytes <= 20


def test_a_stage_may_begin_with_what_is_there_still_and_knows_what_was_before() -> None:
    ring = Ring("dev/wave", 1000)
    ring.hold()
    assert ring.budget(1000).before is None
    for i in range(3):
        ring.offer(rows(i * 10, 10))
    late, whole = ring.budget(1000), ring.budget(1000, whole=True)
    assert late.before is not None
    assert (late.before.first, late.waiting, whole.waiting) == (20, False, True)
    assert (late.take(), len(whole.take())) == ([], 3)


def test_gaps_are_told_as_they_come() -> None:
    told: list[Gap] = []
    ring = Ring("dev/wave", 1000, told=told.append)
    gap = Gap("dev/wave", 0, 0, 5, Reason.SOURCE)
    for item in (epoch_of(0), gap, rows(5, 10)):
        ring.offer(item)
    assert told == [gap]
