"""Arrow IPC (streams and files) and Parquet; and what an Arrow array is as a channel."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scidaq.block import (
    DESCRIPTION_KEY,
    MAX_TEXT_BYTES,
    Array,
    Block,
    Calibration,
    Channel,
    Description,
    Mask,
    Schema,
    Times,
    unit_problem,
)
from scidaq.errors import InvalidBlock, UnreadableFile
from scidaq.instruments.replay.foreign import (
    PIECE_ROWS,
    Column,
    Reading,
    Rows,
    Table,
    TimeRule,
    check_units,
    columns,
    description,
    exported,
    find_time,
    one_after_the_other,
    settle,
    slug,
    text_column,
    time_rule,
    unit_for,
)

Batches = Callable[[], Generator[Any, None, None]]
"""Record batches from the first on, each time it is called."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A column of the file that becomes a channel."""

    index: int
    channel: Channel


def tables(path: Path, reading: Reading, form: str) -> list[Table]:
    """The one table of an Arrow or Parquet file."""
    import pyarrow as pa

    batches: Batches = partial(_parquet if form == "parquet" else _ipc, path)
    try:
        said = (_said_by_parquet if form == "parquet" else _said_by_ipc)(path)
        with closing(batches()) as rows:
            arrow = next(rows)
            first = next(rows, None) if said is None else None
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(path, "", _said(error)) from error
    if said is not None:
        return [_exported(path, reading, description(path, said), arrow, batches)]
    return [foreign(path, reading, arrow, first, batches)]


def _said_by_parquet(path: Path) -> bytes | None:
    """The description in an exported file; None in another."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        found: bytes | None = (file.metadata.metadata or {}).get(DESCRIPTION_KEY.encode())
        return found


def _said_by_ipc(path: Path) -> bytes | None:
    """The description in the last batch of an exported file, which has no rows; None in another."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        if source.read(6) != b"ARROW1":
            return None
        source.seek(0)
        with pa.ipc.open_file(source) as file:
            if not file.num_record_batches:
                return None
            batch, said = file.get_batch_with_custom_metadata(file.num_record_batches - 1)
            found: bytes | None = (said or {}).get(DESCRIPTION_KEY.encode()) if not batch.num_rows else None
            return found


def _exported(path: Path, reading: Reading, said: Description, arrow: Any, batches: Batches) -> Table:
    """A file of scidaq's own: its columns are the time and the channels, in their order."""
    wanted = ["time", *said.schema.names]
    if list(arrow.names) != wanted:
        raise UnreadableFile(path, "", f"its columns are not those of its description: {', '.join(wanted[:20])}")
    parts = [_Part(i + 1, channel) for i, channel in enumerate(said.schema.channels)]
    return exported(path, said, lambda: _rows(path, batches, parts, 0, None), reading)


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


def _parquet(path: Path) -> Generator[Any, None, None]:
    """The schema, then the batches."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=False, buffer_size=1 << 20, pre_buffer=False) as file:
        yield file.schema_arrow
        yield from file.iter_batches(PIECE_ROWS, use_threads=False)


def _ipc(path: Path) -> Generator[Any, None, None]:
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        if source.read(6) == b"ARROW1":
            source.seek(0)
            with pa.ipc.open_file(source) as file:
                yield file.schema
                for i in range(file.num_record_batches):
                    yield file.get_batch(i)
            return
        source.seek(0)
        with pa.ipc.open_stream(source) as stream:
            yield stream.schema
            yield from stream


# ---- a foreign table -------------------------------------------------------------------------------------------------


def foreign(path: Path, reading: Reading, arrow: Any, first: Any, batches: Batches) -> Table:
    """A table whose columns are told by Arrow's schema and, where that is not enough, the `first` batch."""
    said = [{k.decode(): v.decode("utf-8", "replace") for k, v in (f.metadata or {}).items()} for f in arrow]
    known = columns(arrow.names, [m.get("unit", "") for m in said])
    check_units(path, known, reading)
    try:
        time_at = find_time(arrow.names, reading.time_column)
    except LookupError as error:
        raise UnreadableFile(path, "", str(error)) from None
    if time_at is None:
        time_at = next((i for i, f in enumerate(arrow) if _kind(f.type) == "time"), None)
    parts, notes = _parts(path, arrow, said, known, reading, time_at, first)
    rule, timed, rate = None, False, reading.rate
    if time_at is not None:
        if rate is not None:
            raise UnreadableFile(path, "", f"its times are in column {arrow.names[time_at]!r}; leave out the rate")
        rule = _rule(path, arrow.field(time_at), known[time_at], first)
        timed = rule is None or rule.timed
    elif rate is None:
        names = ", ".join(arrow.names[:20])
        raise UnreadableFile(path, "", f"none of its columns is a time ({names}): name it, or say the rate")
    timed, shift_ns = settle(path, timed, reading)
    schema = Schema(tuple(p.channel for p in parts), rate)
    name = slug(path.stem)

    def read() -> Iterator[Block]:
        return one_after_the_other(path, name, schema, _rows(path, batches, parts, time_at, rule), shift_ns)

    return Table(name, schema, read, timed, notes=tuple(notes))


def _kind(kind: Any) -> str:
    """`time`, `text`, `number`, `bool`, `array`, or nothing for what no channel can hold."""
    import pyarrow as pa

    t = pa.types
    if t.is_timestamp(kind) or t.is_date(kind):
        return "time"
    if t.is_string(kind) or t.is_large_string(kind) or (t.is_dictionary(kind) and _kind(kind.value_type) == "text"):
        return "text"
    if t.is_boolean(kind):
        return "bool"
    if t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind):
        return "number"
    if isinstance(kind, pa.FixedShapeTensorType) or t.is_fixed_size_list(kind):
        value = kind.value_type
        while t.is_fixed_size_list(value):
            value = value.value_type
        return "array" if _kind(value) in ("number", "bool") and not t.is_decimal(value) else ""
    return ""


def _shape(kind: Any) -> tuple[tuple[int, ...], Any]:
    """The shape of an array's value in one row, and the type of its elements."""
    import pyarrow as pa

    if isinstance(kind, pa.FixedShapeTensorType):
        return tuple(kind.shape), kind.value_type
    shape = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    return tuple(shape), kind


def _dtype(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_decimal(kind):
        return "float64"
    if pa.types.is_boolean(kind):
        return "bool"
    name = str(np.dtype(kind.to_pandas_dtype()).name)
    return "float32" if name == "float16" else name


def _parts(
    path: Path,
    arrow: Any,
    said: list[dict[str, str]],
    known: list[Column],
    reading: Reading,
    time_at: int | None,
    first: Any,
) -> tuple[list[_Part], list[str]]:
    parts, notes = [], []
    for i, f in enumerate(arrow):
        if i == time_at:
            continue
        kind, column = _kind(f.type), known[i]
        unit = unit_for(column, reading)
        description = said[i].get("description", "") or column.description
        try:
            if kind == "time":
                channel = Channel(column.channel, "int64", "ns", description=description or "UTC since 1970")
            elif kind == "text":
                most = _longest(first, i) if first is not None else 1
                channel = Channel(column.channel, "text", unit, max_bytes=most, description=description)
            elif kind in ("number", "bool", "array"):
                shape, value = _shape(f.type)
                labels = _labels(said[i], shape)
                calibration = _calibration(said[i])
                channel = Channel(
                    column.channel, _dtype(value), unit, shape, labels, calibration, description=description
                )
            else:
                notes.append(f"column {f.name!r} is left out: no channel can hold {f.type}")
                continue
        except InvalidBlock as error:
            raise UnreadableFile(path, f"column {f.name!r}", str(error)) from error
        parts.append(_Part(i, channel))
    if not parts:
        raise UnreadableFile(path, "", f"none of its columns can be a channel: {', '.join(arrow.names[:20]) or 'none'}")
    return parts, notes


def _labels(said: dict[str, str], shape: tuple[int, ...]) -> tuple[str, ...]:
    try:
        labels = json.loads(said.get("labels", "[]"))
    except ValueError:
        labels = said["labels"].split(",")
    fits = isinstance(labels, list) and len(shape) == 1 and len(labels) == shape[0] == len(set(map(str, labels)))
    return tuple(map(str, labels)) if fits else ()


def _calibration(said: dict[str, str]) -> Calibration | None:
    try:
        scale, offset = float(said["scale"]), float(said.get("offset", "0"))
    except (KeyError, ValueError):
        return None
    unit = said.get("physical_unit", "1")
    return Calibration(scale, offset, unit) if unit_problem(unit) is None and scale else None


def _longest(batch: Any, index: int) -> int:
    """Room for the texts of a column: four times the longest of the first, so that later ones fit as well."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = batch.column(index)
    texts = texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts
    return min(MAX_TEXT_BYTES, max(64, 4 * (pc.max(pc.binary_length(texts)).as_py() or 0)))


def _rule(path: Path, time: Any, column: Column, first: Any) -> TimeRule | None:
    """How the numbers of a time column are times; None where Arrow knows it."""
    kind = _kind(time.type)
    if kind == "time":
        return None
    if kind != "number":
        raise UnreadableFile(path, f"column {time.name!r}", f"it is {time.type}, which is no time")
    sample = np.empty(0)
    index = -1 if first is None else first.schema.get_field_index(time.name)
    if first is not None and first.num_rows:
        values = first.column(index)
        sample = values.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    return time_rule(time.name, "" if column.unit == "1" else column.unit, sample[np.isfinite(sample)])


# ---- arrays ----------------------------------------------------------------------------------------------------------


def _rows(
    path: Path, batches: Batches, parts: list[_Part], time_at: int | None, rule: TimeRule | None
) -> Iterator[Rows]:
    import pyarrow as pa

    at = 0
    with closing(batches()) as rows:
        try:
            next(rows)
            for batch in rows:
                try:
                    times = None if time_at is None else _times(batch.column(time_at), rule)
                except (ValueError, pa.ArrowException) as error:
                    raise UnreadableFile(path, f"rows {at + 1} to {at + batch.num_rows}", _said(error)) from error
                columns, masks = [], []
                for part in parts:
                    try:
                        values, mask = column(part.channel, batch.column(part.index))
                    except (ValueError, pa.ArrowException) as error:
                        where = f"column {batch.schema.names[part.index]!r}, rows {at + 1} to {at + batch.num_rows}"
                        raise UnreadableFile(path, where, _said(error)) from error
                    columns.append(values)
                    masks.append(mask)
                at += batch.num_rows
                yield Rows(tuple(columns), tuple(masks), times)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableFile(path, f"behind row {at}", _said(error)) from error


def _times(array: Any, rule: TimeRule | None) -> Times:
    import pyarrow as pa
    import pyarrow.compute as pc

    if array.null_count:
        raise ValueError("a time is missing")
    if rule is not None:
        if pa.types.is_decimal(array.type):
            array = pc.cast(array, pa.float64())
        return rule.ns(array.to_numpy(zero_copy_only=False))
    zone = getattr(array.type, "tz", None)
    stamps = pc.cast(array, pa.timestamp("ns", zone))
    times: Times = pc.cast(stamps, pa.int64()).to_numpy(zero_copy_only=False)
    return times


def column(channel: Channel, array: Any) -> tuple[Array, Mask | None]:
    """The values of an Arrow array as they lie in a block, and which of them there are. Raises `ValueError`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask: Mask | None = None
    if array.null_count:
        mask = ~array.is_null().to_numpy(zero_copy_only=False)
    if channel.dtype == "text":
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        texts = [v or b"" for v in pc.cast(array, pa.large_binary()).to_pylist()]
        return text_column(texts, channel.max_bytes), mask
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    while pa.types.is_fixed_size_list(array.type):
        n = array.type.list_size
        array = array.values.slice(array.offset * n, len(array) * n)
        # A row that is missing may have missing elements; a row that is there may not.
    if pa.types.is_temporal(array.type):
        zone = getattr(array.type, "tz", None)
        array = pc.cast(pc.cast(array, pa.timestamp("ns", zone)), pa.int64())
    if pa.types.is_decimal(array.type):
        array = pc.cast(array, pa.float64())
    if array.null_count:
        if channel.shape:
            there = ~array.is_null().to_numpy(zero_copy_only=False).reshape(-1, channel.elements)
            if not there.all(axis=1)[mask if mask is not None else slice(None)].all():
                raise ValueError("an element of an array is missing, where only whole rows can be")
        array = pc.fill_null(array, pa.scalar(False if pa.types.is_boolean(array.type) else 0, array.type))
    values = array.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.reshape(-1, *channel.shape), channel.numpy_dtype), mask
