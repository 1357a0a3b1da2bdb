"""The block: some consecutive rows of one epoch, immutable and columnar, the currency of the whole program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scidaq.block.channel import NS, Schema
from scidaq.errors import InvalidBlock

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]

ROUNDING_NS = 1
"""Two uniform blocks whose times meet within this join: the times of both were rounded down."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows `[first, end)` of one epoch of a stream.

    It checks itself on birth and raises `InvalidBlock`; its arrays are made read-only views. The caller hands the
    memory over: it must not be written afterwards. Arrays may lie in any buffer, shared memory included. A driver makes
    blocks in the source's numbering with `epoch=0`; the intake places them.
    """

    stream: str
    epoch: int
    first: int
    """Index of the first row."""
    schema: Schema
    columns: tuple[Array, ...]
    """One C-contiguous array per channel, of the channel's dtype and of shape `(rows, *channel.shape)`."""
    t0_ns: int
    """UTC nanoseconds of the first row."""
    times: Times | None = None
    """UTC nanoseconds per row of an irregular stream, never descending; None for a uniform one."""
    valid: tuple[Mask | None, ...] | None = None
    """Per channel which rows have a value, None where all have; None when all channels have all."""
    arrived_ns: int = 0
    """UTC nanoseconds at which the driver had the whole block; 0 when nobody noted it."""

    def __post_init__(self) -> None:
        schema = self.schema
        if len(self.columns) != len(schema.channels):
            raise self._invalid(f"{len(self.columns)} columns for {len(schema.channels)} channels")
        rows = len(self.columns[0])
        if rows < 1 or self.first < 0:
            raise self._invalid(
                f"{rows} rows from index {self.first}: a block has at least one row, indices begin at 0"
            )
        frozen = []
        for channel, dtype, column in zip(schema.channels, schema.dtypes, self.columns, strict=True):
            if column.dtype != dtype or column.shape != (rows, *channel.shape):
                raise self._invalid(
                    f"channel {channel.name!r} is {column.dtype}{list(column.shape)}, "
                    f"not {dtype}{[rows, *channel.shape]}"
                )
            flags = column.flags
            if not flags.c_contiguous:
                column = np.ascontiguousarray(column)
                column.flags.writeable = False
            elif flags.writeable:
                column = column.view()
                column.flags.writeable = False
            frozen.append(column)
        object.__setattr__(self, "columns", tuple(frozen))
        for i, channel in enumerate(schema.channels):
            if channel.dtype == "text":
                self._check_text(i)
        if schema.rate is None:
            self._check_times(rows)
        elif self.times is not None:
            raise self._invalid("a uniform stream has no times per row")
        if self.valid is not None:
            self._check_valid(rows)

    @classmethod
    def laid_out(
        cls,
        stream: str,
        epoch: int,
        first: int,
        schema: Schema,
        columns: tuple[Array, ...],
        t0_ns: int,
        times: Times | None,
    ) -> Self:
        """A block of read-only arrays that were made by the schema just now, so that only its times are to be checked.

        Raises `InvalidBlock`.
        """
        block = object.__new__(cls)
        put = object.__setattr__  # as the generated `__init__` does
        put(block, "stream", stream)
        put(block, "epoch", epoch)
        put(block, "first", first)
        put(block, "schema", schema)
        put(block, "columns", columns)
        put(block, "t0_ns", t0_ns)
        put(block, "times", times)
        put(block, "valid", None)
        put(block, "arrived_ns", 0)
        if schema.rate is None:
            block._check_times(len(columns[0]))
        return block

    def _check_times(self, rows: int) -> None:
        times = self.times
        if times is None or times.dtype != np.int64 or times.shape != (rows,):
            raise self._invalid("an irregular stream has an int64 time per row")
        if rows > 1 and bool((times[1:] < times[:-1]).any()):
            raise self._invalid("times go back")
        view = times.view() if times.flags.c_contiguous else np.ascontiguousarray(times)
        view.flags.writeable = False
        object.__setattr__(self, "times", view)
        object.__setattr__(self, "t0_ns", int(times[0]))

    def _check_valid(self, rows: int) -> None:
        valid = self.valid or ()
        if len(valid) != len(self.columns):
            raise self._invalid(f"validity of {len(valid)} columns where there are {len(self.columns)}")
        masks = []
        for channel, mask in zip(self.schema.channels, valid, strict=True):
            if mask is not None and (mask.dtype != np.bool_ or mask.shape != (rows,)):
                raise self._invalid(f"validity of channel {channel.name!r} is not a boolean per row")
            view = None if mask is None or bool(mask.all()) else mask.view()
            if view is not None:
                view.flags.writeable = False
            masks.append(view)
        object.__setattr__(self, "valid", tuple(masks) if any(m is not None for m in masks) else None)

    def _check_text(self, i: int) -> None:
        """Text is UTF-8, or readers of Arrow stumble over it; what is missing may be anything."""
        column = self.columns[i]
        chars = column.view(np.uint8).reshape(len(column), -1)
        beyond_ascii = (chars >= 0x80).any(axis=1)
        mask = self.valid[i] if self.valid and len(self.valid) == len(self.columns) else None
        for row in np.flatnonzero(beyond_ascii if mask is None else beyond_ascii & mask):
            try:
                bytes(column[row]).decode()
            except UnicodeDecodeError:
                name = self.schema.channels[i].name
                raise self._invalid(f"channel {name!r}: {bytes(column[row])!r} is no UTF-8") from None

    def _invalid(self, what: str) -> InvalidBlock:
        return InvalidBlock(f"block of {self.stream or '?'} epoch {self.epoch}: {what}")

    # ---- extent ----

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.columns[0])

    @property
    def end(self) -> int:
        """One past the index of the last row."""
        return self.first + len(self.columns[0])

    @property
    def last_ns(self) -> int:
        """UTC nanoseconds of the last row."""
        if self.times is not None:
            return int(self.times[-1])
        return self.t0_ns + self.schema.span_ns(self.rows - 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        size = 0 if self.times is None else self.times.nbytes
        for column in self.columns:
            size += column.nbytes
        for mask in self.valid or ():
            if mask is not None:
                size += mask.nbytes
        return size

    def time_ns(self) -> Times:
        """UTC nanoseconds of every row, int64 of shape `(rows,)`."""
        if self.times is not None:
            return self.times
        rate = self.schema.rate
        if rate is None:
            raise self._invalid("no rate and no times")
        period, rest = divmod(NS * rate.denominator, rate.numerator)
        if not rest:  # as most rates: in one go
            return np.arange(self.t0_ns, self.t0_ns + self.rows * period, period, dtype=np.int64)
        steps = np.arange(self.rows, dtype=np.int64)
        # i*NS*den//num without overflow: whole nanoseconds and the remainder apart.
        if (self.rows - 1) * rest < 1 << 63:
            return self.t0_ns + steps * period + steps * rest // rate.numerator
        parts = np.array([i * rest // rate.numerator for i in range(self.rows)], np.int64)
        return self.t0_ns + steps * period + parts

    # ---- arithmetic ----

    def slice(self, first: int, end: int) -> Block:
        """Rows `[first, end)`, by index within the epoch, sharing memory. Raises `InvalidBlock` outside the block."""
        a, b = first - self.first, end - self.first
        if not 0 <= a < b <= self.rows:
            raise self._invalid(f"rows [{first}, {end}) are not within [{self.first}, {self.end})")
        if a == 0 and b == self.rows:
            return self
        return replace(
            self,
            first=first,
            columns=tuple(c[a:b] for c in self.columns),
            t0_ns=self.t0_ns + (self.schema.span_ns(a) if self.times is None else 0),
            times=None if self.times is None else self.times[a:b],
            valid=None if self.valid is None else tuple(None if m is None else m[a:b] for m in self.valid),
        )

    def split(self, at: int) -> tuple[Block, Block]:
        """The rows before index `at` and those from it on; both must be non-empty."""
        return self.slice(self.first, at), self.slice(at, self.end)

    def follows(self, other: Block) -> bool:
        """Whether this block continues `other` without a hole, so that the two join."""
        if (self.stream, self.epoch, self.first) != (other.stream, other.epoch, other.end):
            return False
        if self.schema is not other.schema and self.schema != other.schema:
            return False
        if self.times is not None:
            return self.t0_ns >= other.last_ns
        return abs(self.t0_ns - (other.t0_ns + self.schema.span_ns(other.rows))) <= ROUNDING_NS

    @classmethod
    def join(cls, blocks: Sequence[Block]) -> Block:
        """One block of several that follow one another (copies, unless there is one). Raises `InvalidBlock`."""
        if not blocks:
            raise InvalidBlock("nothing to join")
        head = blocks[0]
        if len(blocks) == 1:
            return head
        for before, after in pairwise(blocks):
            if not after.follows(before):
                raise after._invalid(f"row {after.first} does not follow row {before.end} of {before.stream}")
        valid: tuple[Mask | None, ...] | None = None
        if any(b.valid for b in blocks):
            valid = tuple(
                np.concatenate([_mask(b, i) for b in blocks]) for i in range(len(head.columns))
            )  # those that are all true are dropped on birth
        return replace(
            head,
            columns=tuple(np.concatenate([b.columns[i] for b in blocks]) for i in range(len(head.columns))),
            times=None if head.times is None else np.concatenate([b.times for b in blocks if b.times is not None]),
            valid=valid,
            arrived_ns=blocks[-1].arrived_ns,
        )

    def placed(self, stream: str, epoch: int, first: int, t0_ns: int) -> Block:
        """The same rows as part of an epoch: for the intake, which gives a driver's block its place."""
        new = object.__new__(Block)  # checked already; only the place changes
        for name, value in (
            ("stream", stream),
            ("epoch", epoch),
            ("first", first),
            ("schema", self.schema),
            ("columns", self.columns),
            ("t0_ns", t0_ns if self.times is None else self.t0_ns),
            ("times", self.times),
            ("valid", self.valid),
            ("arrived_ns", self.arrived_ns),
        ):
            object.__setattr__(new, name, value)
        return new

    # ---- content ----

    def column(self, name: str) -> Array:
        """The raw array of a channel."""
        return self.columns[self.schema.index(name)]

    def physical(self, name: str) -> Array:
        """The calibrated values of a channel; missing ones are NaN where the result is floating point."""
        i = self.schema.index(name)
        values = self.schema.channels[i].physical(self.columns[i])
        mask = self.valid[i] if self.valid else None
        if mask is not None and values.dtype.kind == "f":
            values = values.copy()
            values[~mask] = np.nan
        return values

    def same_rows(self, other: Block) -> bool:
        """Whether both hold the same rows bit by bit, NaNs and missing values included; time is not compared."""
        if (self.first, self.rows, self.schema) != (other.first, other.rows, other.schema):
            return False
        for i, (a, b) in enumerate(zip(self.columns, other.columns, strict=True)):
            mask, theirs = _mask(self, i), _mask(other, i)
            if not np.array_equal(mask, theirs):
                return False
            if mask.all():
                if a.tobytes() != b.tobytes():
                    return False
            elif a[mask].tobytes() != b[mask].tobytes():
                return False
        return True

    @classmethod
    def of(
        cls,
        schema: Schema,
        values: Mapping[str, Any] | Iterable[Any],
        *,
        stream: str = "",
        first: int = 0,
        t0_ns: int = 0,
        times: Any = None,
        valid: Mapping[str, Any] | None = None,
        arrived_ns: int = 0,
    ) -> Self:
        """A block from anything that NumPy takes: `values` by channel name or in their order.

        Text may be given as `str`; it is encoded as UTF-8 and must fit the channel's `max_bytes`.
        """
        ordered = [values[n] for n in schema.names] if isinstance(values, Mapping) else list(values)
        columns = []
        for channel, dtype, value in zip(schema.channels, schema.dtypes, ordered, strict=True):
            if channel.dtype == "text":
                encoded = [v.encode() if isinstance(v, str) else bytes(v) for v in value]
                if any(len(v) > channel.max_bytes for v in encoded):
                    raise InvalidBlock(f"channel {channel.name!r}: a text is longer than {channel.max_bytes} bytes")
                if any(v.endswith(b"\0") for v in encoded):
                    raise InvalidBlock(f"channel {channel.name!r}: a text ends in NUL, which would not be kept")
                value = encoded
            columns.append(np.ascontiguousarray(value, dtype=dtype))
        masks = tuple(
            None if valid is None or n not in valid else np.ascontiguousarray(valid[n], dtype=np.bool_)
            for n in schema.names
        )
        when = None if times is None else np.ascontiguousarray(times, dtype=np.int64)
        return cls(stream, 0, first, schema, tuple(columns), t0_ns, when, masks if valid else None, arrived_ns)


def _mask(block: Block, i: int) -> Mask:
    mask = block.valid[i] if block.valid else None
    return np.ones(block.rows, np.bool_) if mask is None else mask
