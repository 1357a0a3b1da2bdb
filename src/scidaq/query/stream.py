"""One stream of an opened data directory: what it is made of, and its rows."""

from __future__ import annotations

import html
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scidaq.block import Block, Channel, Epoch, Gap, Moment, Schema, length_ns, moment_ns, shown
from scidaq.catalog import Run, read_run_book
from scidaq.clock import Clock
from scidaq.errors import RequestError
from scidaq.query.reader import Reader, StreamSummary
from scidaq.query.rows import Rows, batches_of

if TYPE_CHECKING:
    import pyarrow as pa

_NOT_YET = 1 << 62


class Stream:
    """A stream of a `Store`. Whatever it is asked, it looks again: a station or a script may be writing.

    Which rows, in `read`, `blocks` and `batches`: by time, `start <= time < stop`, each nanoseconds UTC as an int,
    seconds as a float, an aware datetime, a datetime64, ISO 8601 text, or text such as `"-10s"` before now; by `run`,
    the name or the id of one; by row index within an epoch, `first <= row < end`; or the `last` so many rows, or
    `"10s"` before the newest. Not thread-safe.
    """

    def __init__(self, reader: Reader, clock: Clock, stream: str) -> None:
        self._reader, self._clock, self.id = reader, clock, stream

    # ---- what it is ----

    @property
    def epochs(self) -> list[Epoch]:
        """The stretches with one schema and one row numbering each, ascending."""
        return self._reader.epochs(self.id)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels of the newest epoch. Empty where no file says what they are any more."""
        epochs = self.epochs
        return epochs[-1].schema.channels if epochs else ()

    @property
    def units(self) -> dict[str, str]:
        """UCUM unit of each channel's calibrated values."""
        return {channel.name: channel.physical_unit for channel in self.channels}

    @property
    def rows(self) -> int:
        """How many rows are recorded."""
        return sum(one.rows for one in self.summary())

    @property
    def range_ns(self) -> tuple[int, int] | None:
        """UTC nanoseconds of the first and the last row; None without rows."""
        spans = [(s.first_ns, s.last_ns) for s in self.summary() if s.first_ns is not None and s.last_ns is not None]
        return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else None

    def summary(self) -> list[StreamSummary]:
        """What is recorded of each epoch; without looking at rows."""
        return self._reader.summary(self.id)

    def gaps(self, start: Moment | None = None, stop: Moment | None = None) -> list[Gap]:
        """What is missing, in order; looks at every row of the range, so that damage shows too."""
        return [item for item in self.blocks(start, stop) if isinstance(item, Gap)]

    # ---- its rows ----

    def read(
        self,
        start: Moment | None = None,
        stop: Moment | None = None,
        channels: Sequence[str] | None = None,
        *,
        run: str | None = None,
        epoch: int | None = None,
        first: int | None = None,
        end: int | None = None,
        last: int | str | None = None,
        raw: bool = False,
    ) -> Rows:
        """Rows and the gaps between them, to be converted as you like. All by default; the class says how to choose.

        Every checksum is verified; what is damaged is left out and shows as a gap. Blocks are views of the files: what
        takes memory is what they are converted to. Raises `RequestError` for a range or a channel that cannot be.
        """
        chosen = _names(channels)
        items = self._items(start, stop, chosen, run=run, epoch=epoch, first=first, end=end, last=last, held=True)
        found = tuple(items)
        return Rows(self.id, found, raw, self._schema(chosen) if not found else None)

    def batches(
        self,
        start: Moment | None = None,
        stop: Moment | None = None,
        channels: Sequence[str] | None = None,
        *,
        run: str | None = None,
        epoch: int | None = None,
        first: int | None = None,
        end: int | None = None,
        last: int | str | None = None,
        raw: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """The same rows as Arrow record batches, one after the other: for more than the memory holds.

        Gaps are passed over, and the schema may change from one batch to the next where the channels do.
        """
        items = self.blocks(start, stop, channels, run=run, epoch=epoch, first=first, end=end, last=last)
        return batches_of((item for item in items if isinstance(item, Block)), raw)

    def blocks(
        self,
        start: Moment | None = None,
        stop: Moment | None = None,
        channels: Sequence[str] | None = None,
        *,
        run: str | None = None,
        epoch: int | None = None,
        first: int | None = None,
        end: int | None = None,
        last: int | str | None = None,
    ) -> Iterator[Block | Gap]:
        """The same rows as blocks with raw values, as they lie in the files, and the gaps between them."""
        return self._items(start, stop, channels, run=run, epoch=epoch, first=first, end=end, last=last, held=False)

    def _items(
        self,
        start: Moment | None,
        stop: Moment | None,
        channels: Sequence[str] | None,
        *,
        run: str | None,
        epoch: int | None,
        first: int | None,
        end: int | None,
        last: int | str | None,
        held: bool,
    ) -> Iterator[Block | Gap]:
        chosen, by_index = _names(channels), first is not None or end is not None or epoch is not None
        if last is not None:
            if by_index or run is not None or start is not None or stop is not None:
                raise RequestError("last= goes with channels= only: it says itself which rows")
            return iter(self._last(last, chosen))
        now_ns = self._clock.now_ns()
        start_ns, stop_ns = (None if t is None else moment_ns(t, now_ns) for t in (start, stop))
        if run is not None:
            start_ns, stop_ns = self._within(run, start_ns, stop_ns)
        if first is not None or end is not None:
            epoch = self._only_epoch() if epoch is None else epoch
        return self._reader.blocks(self.id, start_ns, stop_ns, chosen, epoch=epoch, first=first, end=end, held=held)

    def _last(self, last: int | str, channels: Sequence[str] | None) -> list[Block | Gap]:
        if isinstance(last, str):
            length = length_ns(last)
            if length is None:
                raise RequestError(f"last={last!r}: give a number of rows, as 100, or a length, as '10s'")
            return self._reader.last(self.id, seconds=length / 1e9, channels=channels)
        rows = operator.index(last)
        if isinstance(last, bool) or rows < 1:
            raise RequestError(f"last={last!r}: give a number of rows, as 100, or a length, as '10s'")
        return self._reader.last(self.id, rows=rows, channels=channels)

    def _only_epoch(self) -> int:
        numbers = sorted(one.epoch for one in self.summary())
        if len(numbers) > 1:
            raise RequestError(
                f"{self.id} has the epochs {', '.join(map(str, numbers[:20]))}, and each numbers its rows anew: say "
                "which with epoch="
            )
        return numbers[0] if numbers else 0

    def _schema(self, channels: Sequence[str] | None) -> Schema | None:
        """What rows would be made of, for those who found none."""
        here = [c for c in self.channels if channels is None or c.name in channels]
        return Schema(tuple(here)) if here else None

    def _within(self, run: str, start_ns: int | None, stop_ns: int | None) -> tuple[int | None, int | None]:
        """The part of a range that lies in a run."""
        facts = read_run_book(self._reader.data_dir / "facts").run(run)
        if not facts.covers(self.id):
            raise RequestError(f"{self.id} does not belong to run {facts.name!r}, whose streams are {_list(facts)}")
        if start_ns is not None and stop_ns is not None and stop_ns < start_ns:
            return start_ns, stop_ns  # which is refused
        start = facts.start_ns if start_ns is None else max(start_ns, facts.start_ns)
        ends = [ns for ns in (stop_ns, facts.stop_ns) if ns is not None]
        return start, max(min(ends), start) if ends else None

    # ---- shown ----

    def _facts(self) -> tuple[str, str, str, str]:
        """Rows, range, gaps and channels in words."""
        summary, span = self.summary(), self.range_ns
        lost, epochs = sum(s.gap_rows for s in summary), len(summary)
        gaps = f"{lost:,} in gaps" if lost else ""
        gaps += f"{', ' if gaps else ''}{epochs} epochs" if epochs > 1 else ""
        when = f"{shown(span[0])} to {shown(span[1])}" if span is not None else ""
        return f"{sum(s.rows for s in summary):,}", when, gaps, ", ".join(map(_described, self.channels))

    def __repr__(self) -> str:
        rows, when, gaps, channels = self._facts()
        return f"<stream {self.id}: {rows} rows{when and f', {when}'}{gaps and f', {gaps}'}; {channels}>"

    def _repr_html_(self) -> str:
        return table_of([self])


def _list(run: Run) -> str:
    return ", ".join(run.streams)


def _described(channel: Channel) -> str:
    shape = f" {'×'.join(map(str, channel.shape))}" if channel.shape else ""
    return f"{channel.name}{shape} [{channel.physical_unit}]"


def table_of(streams: Sequence[Stream]) -> str:
    """The streams as an HTML table."""
    head = "".join(f"<th>{name}</th>" for name in ("stream", "rows", "from, to (UTC)", "gaps", "channels"))
    lines = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in (one.id, *one._facts()))}</tr>" for one in streams
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _names(channels: Sequence[str] | None) -> list[str] | None:
    """Channels as a list; a single name may be given as it is."""
    if channels is None:
        return None
    names = [channels] if isinstance(channels, str) else list(channels)
    if not names:
        raise RequestError("channels=[] names no channel: leave it out for all of them")
    return names
