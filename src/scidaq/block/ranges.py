"""Sets of row indices kept as half-open ranges: the arithmetic behind *every row is accounted for*."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """A set of integers as ascending, disjoint, non-touching half-open ranges `[first, end)`.

    Appending behind the last range, which is what recording does, costs O(1); anything else O(log n) to find and O(n)
    to move. Not thread-safe: each set has one owner.
    """

    __slots__ = ("_ends", "_firsts", "total")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self.total = 0
        """How many integers the set holds."""
        for first, end in ranges:
            self.add(first, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._ends, strict=True)

    def __len__(self) -> int:
        """How many ranges (not integers)."""
        return len(self._firsts)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._firsts == other._firsts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    def copy(self) -> RangeSet:
        """An independent set of the same ranges."""
        new = RangeSet()
        new._firsts, new._ends, new.total = self._firsts.copy(), self._ends.copy(), self.total
        return new

    @property
    def end(self) -> int:
        """One past the largest integer, 0 for the empty set."""
        return self._ends[-1] if self._ends else 0

    def add(self, first: int, end: int) -> int:
        """Put `[first, end)` in; how many of its integers were new."""
        if end <= first:
            return 0
        ends = self._ends
        if not ends or first > ends[-1]:
            self._firsts.append(first)
            ends.append(end)
            self.total += end - first
            return end - first
        if first == ends[-1]:
            ends[-1] = end
            self.total += end - first
            return end - first
        low = bisect_left(ends, first)  # the first range that touches or follows
        high = bisect_right(self._firsts, end)  # one past the last range that touches
        had = sum(self._ends[i] - self._firsts[i] for i in range(low, high))
        new_first = min(first, self._firsts[low]) if low < high else first
        new_end = max(end, self._ends[high - 1]) if low < high else end
        self._firsts[low:high] = [new_first]
        self._ends[low:high] = [new_end]
        new = (new_end - new_first) - had
        self.total += new
        return new

    def remove(self, first: int, end: int) -> int:
        """Take `[first, end)` out; how many of its integers were there."""
        if end <= first:
            return 0
        low = bisect_right(self._ends, first)
        high = bisect_left(self._firsts, end)
        kept: list[tuple[int, int]] = []
        gone = 0
        for i in range(low, high):
            a, b = self._firsts[i], self._ends[i]
            gone += min(b, end) - max(a, first)
            if a < first:
                kept.append((a, first))
            if b > end:
                kept.append((end, b))
        self._firsts[low:high] = [a for a, _ in kept]
        self._ends[low:high] = [b for _, b in kept]
        self.total -= gone
        return gone

    def missing(self, first: int, end: int) -> list[tuple[int, int]]:
        """The parts of `[first, end)` that are not in the set, ascending."""
        if first >= end:
            return []
        if not self._ends or first >= self._ends[-1]:
            return [(first, end)]
        out: list[tuple[int, int]] = []
        at = first
        for i in range(bisect_right(self._ends, first), len(self._ends)):
            a, b = self._firsts[i], self._ends[i]
            if a >= end:
                break
            if a > at:
                out.append((at, a))
            at = max(at, b)
        if at < end:
            out.append((at, end))
        return out

    def within(self, first: int, end: int) -> list[tuple[int, int]]:
        """The parts of `[first, end)` that are in the set, ascending."""
        out: list[tuple[int, int]] = []
        for i in range(bisect_right(self._ends, first), len(self._ends)):
            a, b = max(self._firsts[i], first), min(self._ends[i], end)
            if a >= b:
                break
            out.append((a, b))
        return out

    def __contains__(self, index: int) -> bool:
        i = bisect_right(self._firsts, index) - 1
        return i >= 0 and index < self._ends[i]
