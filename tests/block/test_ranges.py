"""A RangeSet is a set of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import RangeSet
from scidaq.testing import strategies

LIMIT = 60
ACTS = st.lists(st.tuples(st.booleans(), strategies.ranges(LIMIT)), max_size=20)


def numbers(ranges: RangeSet) -> set[int]:
    return {n for first, end in ranges for n in range(first, end)}


def check(ranges: RangeSet, truth: set[int]) -> None:
    assert numbers(ranges) == truth
    assert ranges.total == len(truth)
    assert bool(ranges) == bool(truth)
    assert ranges.end == (max(truth) + 1 if truth else 0)
    found = list(ranges)
    assert all(a < b for a, b in found)
    assert all(before[1] < after[0] for before, after in pairwise(found))
    assert len(ranges) == len(found)


@given(ACTS)
def test_it_holds_what_a_set_would(acts: list[tuple[bool, tuple[int, int]]]) -> None:
    ranges, truth = RangeSet(), set[int]()
    for adding, (first, end) in acts:
        these = set(range(first, end))
        if adding:
            assert ranges.add(first, end) == len(these - truth)
            truth |= these
        else:
            assert ranges.remove(first, end) == len(these & truth)
            truth -= these
        check(ranges, truth)


@given(strategies.range_sets(LIMIT), strategies.ranges(LIMIT))
def test_what_is_in_a_range_and_what_is_not(ranges: RangeSet, span: tuple[int, int]) -> None:
    truth, these = numbers(ranges), set(range(*span))
    within, missing = RangeSet(ranges.within(*span)), RangeSet(ranges.missing(*span))
    assert numbers(within) == truth & these
    assert numbers(missing) == these - truth
    assert list(within) == ranges.within(*span), "ascending, none touching the next"
    assert list(missing) == ranges.missing(*span)
    assert all((n in ranges) == (n in truth) for n in range(-1, LIMIT + 1))


@given(strategies.range_sets(LIMIT), st.permutations(range(8)))
def test_the_order_of_putting_in_is_of_no_matter(ranges: RangeSet, order: list[int]) -> None:
    pieces = [(n, n + 1) for n in numbers(ranges)]
    mixed = RangeSet(sorted(pieces, key=lambda p: (order[p[0] % 8], p)))
    assert mixed == ranges
    copy = ranges.copy()
    assert copy == ranges
    copy.add(LIMIT + 5, LIMIT + 6)
    assert copy != ranges, "a copy is independent"
