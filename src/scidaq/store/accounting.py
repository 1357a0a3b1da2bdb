"""Accounting: each row of a stream gets its place in the book, once.

It is recorded, or left out by policy, or a repetition; holes have been announced by the intake. Used by the recorder's
encoding thread alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scidaq.block import Block, Entry, Epoch, Gap, Ledger, RangeSet, Reason
from scidaq.store.track import Book, Policy, Track


class Accounting:
    """Looks at the entries of rings and moves their rows into tracks."""

    def __init__(
        self,
        began: Callable[[Epoch], None],
        on_disk: Callable[[str, int, int, int], Iterator[Block]],
        set_aside: Callable[[Track, Book, Block], None],
    ) -> None:
        """`on_disk(stream, epoch, first, end)` reads rows back; `set_aside` is given repeated rows that differ."""
        self._began, self._on_disk, self._set_aside = began, on_disk, set_aside

    def take(self, track: Track, entry: Entry) -> None:
        """Look at the next entry of a track's ring."""
        item = entry.item
        track.seq = entry.seq
        track.looked = max(track.looked, entry.seq)
        self._look(track, item, entry)
        while track.due_switches and track.due_switches[0][0] <= entry.seq:
            self._act(track, track.due_switches.popleft()[1])

    def _look(self, track: Track, item: Block | Gap | Epoch, entry: Entry) -> None:
        if isinstance(item, Epoch):
            self._open(track, item)
        elif isinstance(item, Gap) and not track.held:
            self._note_gap(track, item, entry)
        elif isinstance(item, Block) and track.recording:
            if entry.arrived_s:
                track.arrived.append((entry.seq, entry.arrived_s))
            (self._give_up if track.gave_up else self._record)(track, item, entry)
        elif track.held or (track.policy is Policy.RUNS and track.pre_trigger_ns):
            self._hold(track, entry)
        else:
            self._leave_out(track, entry)

    @staticmethod
    def _door(book: Book, entry: Entry) -> None:
        book.delivered = max(book.delivered, entry.delivered)
        book.at_door = entry.duplicates

    def _open(self, track: Track, epoch: Epoch) -> None:
        if track.book is None or track.book.epoch.number != epoch.number:
            track.book, track.said = Book(epoch), Ledger()
            track.generation, track.segment_bytes = 0, 0
            self._began(epoch)

    def _record(self, track: Track, block: Block, entry: Entry) -> None:
        book = track.book
        if book is None:
            return
        fresh = book.fresh(block)
        if fresh != [(block.first, block.end)]:
            self._repeated(track, book, block, fresh)
        for first, end in fresh:
            piece = block.slice(first, end)
            track.mark(entry.seq, book.recorded, first, end)
            track.pending.append(piece)
            track.pending_bytes += piece.nbytes
            track.unsynced.append((entry.seq, piece))
        if book.first_ns < 0:
            book.first_ns = block.t0_ns
        if block.end > book.high:
            book.high = block.end
        if block.end - 1 > book.last_row:
            book.last_row, book.last_ns = block.end - 1, block.last_ns
        self._door(book, entry)

    def _give_up(self, track: Track, block: Block, entry: Entry) -> None:
        """There is no room for these rows on the disk and the station ends: they become a gap."""
        book = track.book
        if book is None:
            return
        book.duplicates += block.rows - sum(b - a for a, b in book.fresh(block))
        if block.end > book.high:
            first, since_ns = max(block.first, book.high), book.last_ns if book.last_row >= 0 else None
            if track.gaps and track.gaps[-1].end == first and track.gaps[-1].reason is Reason.DISK:
                first, since_ns = track.gaps[-1].first, track.gaps.pop().start_ns
            track.gaps.append(Gap(track.stream, book.epoch.number, first, block.end, Reason.DISK, since_ns))
            book.high = block.end
        self._door(book, entry)

    def _repeated(self, track: Track, book: Book, block: Block, fresh: list[tuple[int, int]]) -> None:
        """Count rows that are there already; those with other content are set aside, never chosen."""
        new = RangeSet(fresh)
        for first, end in new.missing(block.first, block.end):
            book.duplicates += end - first
            ours = block.slice(first, end)
            for theirs in self._recorded_rows(track, book, first, end):
                a, b = max(first, theirs.first), min(end, theirs.end)
                if a < b and not ours.slice(a, b).same_rows(theirs.slice(a, b)):
                    self._set_aside(track, book, ours.slice(a, b))

    def _recorded_rows(self, track: Track, book: Book, first: int, end: int) -> Iterator[Block]:
        recent = [b for _, b in track.unsynced] + track.journalled + (track.moving.blocks if track.moving else [])
        found = RangeSet()
        for block in recent:
            if block.epoch == book.epoch.number and block.first < end and first < block.end:
                found.add(block.first, block.end)
                yield block
        if found.missing(first, end):
            yield from self._on_disk(track.stream, book.epoch.number, first, end)

    def _hold(self, track: Track, entry: Entry) -> None:
        """Keep a block for the pre-trigger; leave out those that have become too old for it."""
        track.held.append(entry)
        newest = entry.item
        while track.held:
            oldest = track.held[0].item
            if isinstance(oldest, Block) and isinstance(newest, Block):
                if newest.last_ns - oldest.last_ns <= track.pre_trigger_ns:
                    break
            elif isinstance(newest, Gap):
                break
            self._let_go(track, track.held.popleft())

    def _let_go(self, track: Track, entry: Entry) -> None:
        """What was held is wanted by no run."""
        if isinstance(entry.item, Gap):
            self._note_gap(track, entry.item, entry)
        else:
            self._leave_out(track, entry)

    def let_all_go(self, track: Track) -> None:
        """No run will want what is held."""
        while track.held:
            self._let_go(track, track.held.popleft())

    def _note_gap(self, track: Track, gap: Gap, entry: Entry) -> None:
        track.gaps.append(gap)
        if track.book is not None:
            track.book.high = max(track.book.high, gap.end)
            self._door(track.book, entry)

    def _leave_out(self, track: Track, entry: Entry) -> None:
        """Count a block as left out by policy."""
        block, book = entry.item, track.book
        if not isinstance(block, Block) or book is None:
            return
        fresh = book.fresh(block)
        book.duplicates += block.rows - sum(b - a for a, b in fresh)
        for first, end in fresh:
            track.mark(entry.seq, book.left_out, first, end)
            if track.new_left_out and track.new_left_out[-1][1] == first:
                track.new_left_out[-1] = (track.new_left_out[-1][0], end)
            else:
                track.new_left_out.append((first, end))
        book.high = max(book.high, block.end)
        self._door(book, entry)

    def switch(self, track: Track, active: bool, last: int = -1) -> None:
        """A run begins, with what is held, or ends: for the entries that have not been looked at yet, behind `last`."""
        if track.seq < track.looked:  # entries of before are being looked at again: this comes behind them
            last = max(last, track.looked)
        if track.due_switches:
            last = max(last, track.due_switches[-1][0])
        if track.seq < last:
            track.due_switches.append((last, active))
            track.switches.append((last, active))
        else:
            track.switches.append((track.seq, active))
            self._act(track, active)

    def _act(self, track: Track, active: bool) -> None:
        track.recording = active
        if active:
            while track.held:
                entry = track.held.popleft()
                if isinstance(entry.item, Block):
                    self._record(track, entry.item, entry)
                elif isinstance(entry.item, Gap):
                    self._note_gap(track, entry.item, entry)
