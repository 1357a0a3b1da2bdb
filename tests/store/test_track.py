"""Which commits count: those whose predecessors do, and none that was under way when its stream went back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scidaq.block import Channel, Entry, Epoch, Reason, schema
from scidaq.clock import Anchor
from scidaq.store.track import Book, Policy, Track


class Quiet:
    """A ring's reader that has nothing."""

    waiting_bytes = 0
    newest = -1

    def take(self) -> Iterator[Entry]:
        return iter(())

    def release(self, seq: int) -> None:
        pass

    def rewind(self) -> None:
        pass

    def blame(self, reason: Reason) -> None:
        pass


@pytest.fixture
def track() -> Track:
    one = Track("a/b", Quiet(), Policy.ALWAYS)  # type: ignore[arg-type]
    one.book = Book(Epoch("a/b", 0, schema([Channel("v")]), Anchor(0, 0, 0, "boot")))
    return one


def test_commits_count_in_their_order(track: Track) -> None:
    first, second = track.begin_commit(), track.begin_commit()
    assert not track.confirm(second)  # the one before it failed, in another file
    assert track.confirm(first)
    assert track.confirm(second)


def test_a_commit_that_was_under_way_when_its_stream_went_back_never_counts(track: Track) -> None:
    elsewhere = track.begin_commit()
    book = track.book
    track.void()
    track.roll_back()
    track.book = book  # the ring gives it again
    assert not track.confirm(elsewhere)  # its file may have been removed by now
    again = track.begin_commit()
    assert track.confirm(again)


def test_what_became_durable_before_is_heard_of_first(track: Track) -> None:
    done = track.begin_commit()
    assert track.confirm(done)  # the commit thread; the encoding thread does not know yet
    track.void()
    assert track.unsettled
    track.settle(done)
    assert not track.unsettled
    track.roll_back()
    assert track.durable is done
    assert track.confirm(track.begin_commit())


def test_what_policy_leaves_out_settles_without_a_commit(track: Track) -> None:
    assert track.book is not None
    track.settle(track.book.snapshot(3))
    assert not track.unsettled
