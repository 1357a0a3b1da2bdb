"""Rows that were read, in the form in which somebody wants to go on with them.

`Rows` holds blocks as they lie in the files, and gaps. Each `to_...` puts them together by channel name, across epochs,
without work per row. Values are calibrated unless the rows were read with `raw`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from scidaq.block import Array, Block, Channel, Gap, Mask, Schema, Times, shown
from scidaq.errors import RequestError
from scidaq.query.ahead import cores
from scidaq.query.drawing import svg_of_blocks

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import xarray as xr

Gaps = Literal["nan", "drop"]
"""`nan`: a row without values stands wherever rows are missing, so that a line in a plot breaks; `drop`: none does."""
Numbers = dict[str, tuple[Array, Mask | None]]
"""Of each channel that has numbers its values, and which rows have one (None: all)."""
_LARGE = 8 << 20
"""Bytes from which on to fill arrays is worth a thread."""
_EXACT = 1 << 53
"""Whole numbers up to this size are exact as a float64."""


# ---- one kind of value for each channel ------------------------------------------------------------------------------


def values_of(channel: Channel, raw: bool) -> Channel:
    """The channel as its values are read: where they are calibrated, a float64 in the physical unit."""
    if raw or channel.calibration is None:
        return channel
    return replace(channel, dtype="float64", unit=channel.physical_unit, calibration=None)


def unified(schemas: Sequence[Schema], raw: bool) -> tuple[Channel, ...]:
    """The channels that rows of all these schemas have in common, in the order of the newest.

    Numbers of different dtypes become what holds both. Raises `RequestError` where names, shapes or units differ.
    """
    newest = schemas[-1]
    for schema in schemas:
        if changed := set(schema.names) ^ set(newest.names):
            raise _changed(f"{', '.join(sorted(changed))} {'is' if len(changed) == 1 else 'are'} not always there")
    out = []
    for channel in newest.channels:
        kinds = list(dict.fromkeys(values_of(s.channels[s.index(channel.name)], raw) for s in schemas))
        merged = kinds[-1]
        for kind in kinds[:-1]:
            merged = _merged(kind, merged)
        out.append(merged)
    return tuple(out)


def _merged(a: Channel, b: Channel) -> Channel:
    for what in ("shape", "labels", "unit", "calibration"):
        if (x := getattr(a, what)) != (y := getattr(b, what)):
            raise _changed(f"the {what} of {a.name} changes ({x or 'none'}, then {y or 'none'})")
    if a.dtype == b.dtype:
        return replace(b, max_bytes=max(a.max_bytes, b.max_bytes))
    if {a.dtype, b.dtype} & {"text", "bool"}:
        raise _changed(f"{a.name} is {a.dtype}, then {b.dtype}")
    return replace(b, dtype=str(np.result_type(a.numpy_dtype, b.numpy_dtype)))


def _changed(what: str) -> RequestError:
    return RequestError(
        f"the channels change within these rows: {what}; read a shorter range, choose channels=[...] that stay, or "
        "take a table for each with .tables()"
    )


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Some rows of a stream and the gaps between them, as they were when they were read.

    The checksum of everything in it has been verified. Nothing is converted before one of `to_...` is called; arrays
    that come out of it may be views of the files, and are then read-only.
    """

    stream: str
    items: tuple[Block | Gap, ...]
    """In the order of epoch and row."""
    raw: bool = False
    """Values as they were stored, without calibration."""
    schema: Schema | None = None
    """What rows would be made of if there were any."""

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The rows, in pieces as they were recorded."""
        return tuple(item for item in self.items if isinstance(item, Block))

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """What is missing between the rows, before them and behind them."""
        return tuple(item for item in self.items if isinstance(item, Gap))

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """The channels as their values come out: dtype, unit, shape. Raises `RequestError` where they change."""
        schemas = self._schemas or ([self.schema] if self.schema is not None else [])
        return unified(schemas, self.raw) if schemas else ()

    @cached_property
    def _schemas(self) -> list[Schema]:
        """Those of the rows, each once."""
        # Blocks of an epoch share one; to compare them all by what they say would take as long as reading them.
        return list(dict.fromkeys({id(block.schema): block.schema for block in self.blocks}.values()))

    @property
    def units(self) -> dict[str, str]:
        """UCUM unit of each channel's values."""
        return {channel.name: channel.unit for channel in self.channels}

    def __len__(self) -> int:
        return sum(block.rows for block in self.blocks)

    def __repr__(self) -> str:
        return f"<{self._title()}>"

    def _title(self) -> str:
        span = f", {shown(self.blocks[0].t0_ns)} to {shown(self.blocks[-1].last_ns)}" if self.blocks else ""
        gaps = f", {len(self.gaps)} gap{'s' * (len(self.gaps) != 1)}" if self.gaps else ""
        return f"{len(self):,} row{'s' * (len(self) != 1)} of {self.stream}{span}{gaps}"

    def _repr_html_(self) -> str:
        seen = {c: None for block in self.blocks for c in block.schema.channels}
        names = ", ".join(f"{c.name} [{c.unit if self.raw else c.physical_unit}]" for c in seen)
        picture = svg_of_blocks(self.blocks, self.raw)
        return f"<p><b>{html.escape(self._title())}</b><br>{html.escape(names)}</p>{picture}"

    # ---- Arrow ----

    def batches(self) -> Iterator[pa.RecordBatch]:
        """A record batch for each block."""
        return batches_of(self.blocks, self.raw)

    def tables(self) -> list[pa.Table]:
        """Arrow tables, a new one wherever the channels or their calibration change."""
        import pyarrow as pa

        pieces = groupby(self.blocks, key=lambda block: block.schema.channels)
        return [pa.Table.from_batches(batches_of(blocks, self.raw)) for _, blocks in pieces]

    def to_arrow(self, gaps: Gaps = "drop") -> pa.Table:
        """One Arrow table: `time` (UTC, nanoseconds), then the channels with their units in the metadata of the fields.

        Epochs with other calibrations or dtypes are brought together; where that cannot be, `RequestError` says why.
        With `gaps="nan"` a row of nulls stands wherever rows are missing. Plain numbers are not copied.
        """
        import pyarrow as pa

        target, same = self._arrow_schema()
        batches = self.batches() if same else (_cast(batch, target) for batch in self.batches())
        if _checked(gaps) == "drop":
            return pa.Table.from_batches(batches, target)
        out, put = [], Together(self, breaks=True)
        empty = [pa.nulls(1, kind) for kind in target.types[1:]]
        holes = iter(put.holes)
        at, hole = 0, next(holes, None)
        for batch in batches:
            out.append(batch)
            at += batch.num_rows
            if hole is not None and hole[0] == at:
                time = pa.array([hole[1]], pa.int64()).cast(target.types[0])
                out.append(pa.RecordBatch.from_arrays([time, *empty], schema=target))
                at, hole = at + 1, next(holes, None)
        return pa.Table.from_batches(out, target)

    def _arrow_schema(self) -> tuple[pa.Schema, bool]:
        """The schema of all rows, and whether every block has it as it is."""
        from scidaq.block import arrow_schema

        kinds = list(dict.fromkeys(schema.channels for schema in self._schemas))
        if len(kinds) == 1:
            return arrow_schema(Schema(kinds[0]), raw=self.raw, stream=self.stream), True
        if not self.channels:
            import pyarrow as pa

            return pa.schema([("time", pa.timestamp("ns", "UTC"))], {"stream": self.stream}), True
        return arrow_schema(Schema(self.channels), raw=self.raw, stream=self.stream), False

    # ---- NumPy ----

    def to_numpy(self) -> dict[str, Array]:
        """An array per channel, first axis the row, and `time` (datetime64[ns], UTC).

        Where values are missing it is a masked array. Text comes as `str` in an array of objects.
        """
        put = Together(self, breaks=False)
        times, numbers = put.columns(self.channels)
        out: dict[str, Array] = {"time": times.view("datetime64[ns]")}
        for channel in self.channels:
            if channel.dtype == "text":
                text = put.texts(channel)
                values: Array = text.to_numpy()
                valid = None if not text.null_count else ~np.asarray(text.is_null())
            else:
                values, valid = numbers[channel.name]
            if valid is not None:
                mask = ~valid.reshape(-1, *[1] * (values.ndim - 1))
                values = np.ma.MaskedArray(values, np.broadcast_to(mask, values.shape))
            out[channel.name] = values
        return out

    # ---- data frames ----

    def to_pandas(self, gaps: Gaps = "nan") -> pd.DataFrame:
        """A pandas data frame indexed by `time` (UTC), a column per channel; units in `attrs["units"]`.

        A channel of shape (n,) is n columns, `adc[label]`; an image is one column of arrays. Missing values are NaN in
        floats and NA in everything else: whole numbers stay whole numbers, as `Int16` where some are missing. With
        `gaps="nan"` a row without values stands wherever rows are missing. Needs `pip install 'scidaq[pandas]'`.
        """
        from scidaq.query.frames import to_pandas

        return to_pandas(self, Together(self, breaks=_checked(gaps) == "nan"))

    def to_polars(self, gaps: Gaps = "nan") -> pl.DataFrame:
        """A polars data frame with the column `time`; what is missing is null, arrays are of the type `Array`.

        With `gaps="nan"` a row of nulls stands wherever rows are missing. Needs `pip install 'scidaq[polars]'`.
        """
        from scidaq.query.frames import to_polars

        return to_polars(self.to_arrow(gaps))

    def to_xarray(self, gaps: Gaps = "nan") -> xr.Dataset:
        """An xarray dataset along `time` (UTC), with units in the attributes of each variable.

        A channel of shape (n,) has the dimension `<channel>_element` with its labels as coordinate, an image `y` and
        `x`. xarray has no missing whole numbers: where some are missing (with `gaps="nan"` also where rows are) they
        become floats, and the attribute `recorded_dtype` says what they were; those that no float holds raise
        `RequestError`.
        Needs `pip install 'scidaq[xarray]'`.
        """
        from scidaq.query.frames import to_xarray

        return to_xarray(self, Together(self, breaks=_checked(gaps) == "nan"))


def _checked(gaps: Gaps) -> Gaps:
    if gaps not in ("nan", "drop"):
        raise RequestError(f"gaps={gaps!r}: give 'nan' for a row without values wherever rows are missing, or 'drop'")
    return gaps


def batches_of(blocks: Iterable[Block], raw: bool) -> Iterator[pa.RecordBatch]:
    """A record batch for each block."""
    from scidaq.block import arrow_schema, record_batch

    known: Schema | None = None
    target: pa.Schema | None = None
    kinds: list[pa.DataType] = []
    for block in blocks:
        if block.schema is not known or target is None:
            known, target = block.schema, arrow_schema(block.schema, raw=raw, stream=block.stream)
            kinds = target.types
        yield record_batch(block, raw=raw, schema=target, kinds=kinds)


def _cast(batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    """The batch with types, order and metadata of `target`. Raises `RequestError` where that is not exact."""
    import pyarrow as pa

    if batch.schema is target or batch.schema.equals(target, check_metadata=True):
        return batch
    columns = []
    for field in target:
        column = batch.column(field.name)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except pa.ArrowInvalid as error:
                raise _inexact(field.name, error) from None
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=target)


def _inexact(name: str, why: object) -> RequestError:
    return RequestError(
        f"channel {name} has whole numbers that a float64 cannot hold ({why}): read the epochs one by one with "
        "epoch=, or take .tables()"
    )


# ---- putting together ------------------------------------------------------------------------------------------------


class Together:
    """Where each block goes in arrays that hold all rows, and where rows without values go that stand for gaps."""

    def __init__(self, rows: Rows, breaks: bool) -> None:
        self.raw = rows.raw
        self.placed: list[tuple[int, Block]] = []
        self.holes: list[tuple[int, int]] = []
        """Place and time of each row that stands for a gap."""
        at, lacking, before = 0, False, None
        for item in rows.items:
            if isinstance(item, Gap):
                lacking = lacking or (before is not None and item.rows != 0)
                continue
            if before is not None and lacking and breaks:
                self.holes.append((at, _break_ns(before, item)))
                at += 1
            self.placed.append((at, item))
            at, lacking, before = at + item.rows, False, item
        if before is not None and lacking and breaks:
            self.holes.append((at, _break_ns(before, None)))
            at += 1
        self.rows = at

    @property
    def blanks(self) -> npt.NDArray[np.int64]:
        """The rows that stand for gaps."""
        return np.array([at for at, _ in self.holes], np.int64)

    def times(self) -> Times:
        """UTC nanoseconds per row."""
        if self._one:
            return self.placed[0][1].time_ns()
        if self.placed and not self.holes:
            return np.concatenate([block.time_ns() for _, block in self.placed])
        out = np.empty(self.rows, np.int64)
        for at, block in self.placed:
            out[at : at + block.rows] = block.time_ns()
        for at, ns in self.holes:
            out[at] = ns
        return out

    def columns(self, channels: Sequence[Channel]) -> tuple[Times, Numbers]:
        """The times, and what `numbers` says of each channel that has numbers; of much at once on several cores."""
        wanted = [channel for channel in channels if channel.dtype != "text"]
        large = self.rows * sum(c.elements * c.numpy_dtype.itemsize for c in wanted) >= _LARGE
        if self._one or not large or cores() < 2:
            return self.times(), {channel.name: self.numbers(channel) for channel in wanted}
        with ThreadPoolExecutor(cores(), "scidaq-fill") as pool:
            times = pool.submit(self.times)
            numbers = dict(zip([c.name for c in wanted], pool.map(self.numbers, wanted), strict=True))
            return times.result(), numbers

    def numbers(self, channel: Channel) -> tuple[Array, Mask | None]:
        """The values of a channel, shape `(rows, *channel.shape)`, and which rows have one (None: all)."""
        if self._one:
            block = self.placed[0][1]
            i = block.schema.index(channel.name)
            source = values_of(block.schema.channels[i], self.raw)
            if source.dtype == channel.dtype:
                column = block.columns[i]
                values = column if self.raw else block.schema.channels[i].physical(column)
                return values, block.valid[i] if block.valid else None
        schema = self.placed[0][1].schema if self.placed else None
        valid: Mask | None = None
        if (
            not self.holes
            and schema is not None
            and (self.raw or schema.channels[schema.index(channel.name)].calibration is None)
            and all(block.schema is schema and block.valid is None for _, block in self.placed)
        ):  # in one go
            i = schema.index(channel.name)
            return np.concatenate([block.columns[i] for _, block in self.placed]), None
        out = np.empty((self.rows, *channel.shape), channel.numpy_dtype)
        for at, block in self.placed:
            i = block.schema.index(channel.name)
            part = out[at : at + block.rows]
            self._fill(part, block.schema.channels[i], block.columns[i])
            if block.valid is not None and (mask := block.valid[i]) is not None:
                valid = np.ones(self.rows, np.bool_) if valid is None else valid
                valid[at : at + block.rows] = mask
        if self.holes:
            valid = np.ones(self.rows, np.bool_) if valid is None else valid
            out[self.blanks] = 0
            valid[self.blanks] = False
        return out, valid

    def _fill(self, part: Array, channel: Channel, column: Array) -> None:
        c = channel.calibration
        if c is not None and not self.raw:
            with np.errstate(all="ignore"):  # as Channel.physical does, without its copies
                np.multiply(column, c.scale, out=part, dtype=np.float64)
                np.add(part, c.offset, out=part)
            return
        if part.dtype.kind == "f" and column.dtype.kind in "iu" and column.dtype.itemsize == 8:
            exact(column, channel.name)
        part[...] = column

    def texts(self, channel: Channel) -> pa.ChunkedArray:
        """The values of a channel of texts; null where there is none."""
        import pyarrow as pa

        from scidaq.block import record_batch

        chunks, holes = [], {at for at, _ in self.holes}
        for at, block in self.placed:
            if at - 1 in holes:
                chunks.append(pa.nulls(1, pa.utf8()))
            i = block.schema.index(channel.name)
            alone = Schema((block.schema.channels[i],))
            valid = None if block.valid is None else (block.valid[i],)
            column = replace(block, schema=alone, columns=(block.columns[i],), times=block.time_ns(), valid=valid)
            chunks.append(record_batch(column).column(1))
        if self.rows - 1 in holes:
            chunks.append(pa.nulls(1, pa.utf8()))
        return pa.chunked_array(chunks, pa.utf8())

    @property
    def _one(self) -> bool:
        return len(self.placed) == 1 and not self.holes


def exact(column: Array, name: str) -> None:
    """Raise `RequestError` where whole numbers of 64 bits would not be the same as floats."""
    if len(column) and (column.max() > _EXACT or (column.dtype.kind == "i" and column.min() < -_EXACT)):
        raise _inexact(name, f"above {_EXACT}")


def _break_ns(before: Block, after: Block | None) -> int:
    """When the row that stands for a gap is: where the first missing one may have been, before what comes next."""
    step = before.schema.span_ns(1) if before.schema.rate is not None else 1
    last = before.last_ns
    when = last + max(step, 1)
    if after is not None and after.t0_ns > last:
        when = min(when, max(last, after.t0_ns - 1))
    return when
