"""Rows as text and Arrow on standard output, a block at a time; gaps inside the table, beside the other formats.

Values are calibrated unless raw ones are asked for. A missing value is an empty cell in CSV, null in JSON and Arrow,
and `-` in the table. JSON knows no NaN and no infinity: they are null there.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt
import orjson

from scidaq.block import Block, Channel, Gap, shown
from scidaq.errors import RequestError

Items = Iterable[Block | Gap]
Note = Callable[[str], None]
"""Takes a line that is no part of the output."""

_WIDE = 8
"""Arrays of more elements are summed up in the table."""


def gap_words(gap: Gap) -> str:
    """A gap in a sentence."""
    count = "an unknown number of rows" if gap.unknown else "1 row" if gap.rows == 1 else f"{gap.rows} rows"
    what = "interrupted, nothing is missing" if gap.rows == 0 else f"{count} missing"
    where = f"epoch {gap.epoch} row {gap.first}"
    span = f", {shown(gap.start_ns)} to {shown(gap.end_ns)}" if gap.start_ns or gap.end_ns else ""
    detail = f" ({gap.detail})" if gap.detail else ""
    still = ", may still come" if gap.open else ""
    return f"gap at {where}: {what}: {gap.reason}{detail}{still}{span}"


# ---- values ---------------------------------------------------------------------------------------------------------


def times(block: Block) -> list[str]:
    """Time of each row, ISO 8601 with nanoseconds."""
    iso = np.datetime_as_string(block.time_ns().astype("datetime64[ns]"))
    return [f"{t}Z" for t in iso.tolist()]


def values(block: Block, raw: bool) -> Iterator[tuple[Channel, npt.NDArray[Any], npt.NDArray[np.bool_] | None]]:
    """Each channel with its values, shape `(rows, *channel.shape)`, and which rows have one (None: all)."""
    for i, channel in enumerate(block.schema.channels):
        column = block.columns[i] if raw else channel.physical(block.columns[i])
        yield channel, column, block.valid[i] if block.valid else None


def cells(channel: Channel) -> list[str]:
    """Name of each element of a channel: the channel's own, or `adc[label]` for those of an array."""
    if channel.labels:
        return [f"{channel.name}[{label}]" for label in channel.labels]
    if channel.shape:
        return [f"{channel.name}[{','.join(map(str, at))}]" for at in product(*map(range, channel.shape))]
    return [channel.name]


def listed(channel: Channel, column: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> list[Any]:
    """A channel as Python values, one (or a nested list) per row; None where there is none."""
    out: list[Any] = column.tolist()
    if channel.dtype == "text":
        out = [text.decode("utf-8", "replace") for text in out]
    return out if valid is None else [v if there else None for v, there in zip(out, valid.tolist(), strict=True)]


def _blocks(items: Items, note: Note, shape: Callable[[Block], object]) -> Iterator[Block]:
    """The blocks, all of one shape; gaps are noted. Raises `RequestError` where the channels change."""
    before = None
    for item in items:
        if isinstance(item, Gap):
            note(gap_words(item))
            continue
        now = shape(item)
        if before not in (None, now):
            when = shown(item.t0_ns)
            raise RequestError(
                f"the channels change at {when} (epoch {item.epoch}), and this format has one header: read the parts "
                "one after the other with --start and --stop, choose --channels that stay, or use --format json"
            )
        before = now
        yield item


# ---- formats --------------------------------------------------------------------------------------------------------


def write_csv(items: Items, out: TextIO, note: Note, raw: bool = False) -> None:
    """A header, then a line per row: its time, and a column for each element of each channel."""
    writer = csv.writer(out, lineterminator="\n")
    header: list[str] = []
    for block in _blocks(items, note, _header):
        if not header:
            header = _header(block)
            writer.writerow(header)
        columns: list[list[Any]] = [times(block)]
        for channel, column, valid in values(block, raw):
            flat = column.reshape(block.rows, -1)
            if channel.dtype == "bool":
                flat = np.where(flat, "true", "false")
            columns += [listed(channel, flat[:, i], valid) for i in range(flat.shape[1])]
        writer.writerows(zip(*columns, strict=True))


def _header(block: Block) -> list[str]:
    return ["time", *(cell for channel in block.schema.channels for cell in cells(channel))]


def write_json(items: Items, out: BinaryIO, note: Note, raw: bool = False) -> None:
    """One array, an object per row on a line of its own: `time`, then the channels by name."""
    lead = b"[\n"
    for item in items:
        if isinstance(item, Gap):
            note(gap_words(item))
            continue
        names = ["time", *item.schema.names]
        columns = [times(item), *(listed(*one) for one in values(item, raw))]
        rows = (orjson.dumps(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))
        out.write(lead + b",\n".join(rows))
        lead = b",\n"
    out.write(b"[]\n" if lead == b"[\n" else b"\n]\n")


def write_arrow(items: Items, out: BinaryIO, note: Note, raw: bool = False) -> None:
    """An Arrow IPC stream with the column `time` (UTC, nanoseconds) and one for each channel."""
    import pyarrow as pa

    from scidaq.block import record_batch

    writer = None
    try:
        for block in _blocks(items, note, lambda b: (b.schema.channels, b.schema.rate is None)):
            batch = record_batch(block, raw=raw)
            if writer is None:
                writer = pa.ipc.new_stream(out, batch.schema)
            writer.write_batch(batch)
        if writer is None:  # no rows: still a stream that opens
            writer = pa.ipc.new_stream(out, pa.schema([("time", pa.timestamp("ns", "UTC"))]))
    finally:
        if writer is not None:
            writer.close()


def write_table(items: Items, out: TextIO, raw: bool = False) -> None:
    """Aligned columns under their names and units; a new header where the channels change."""
    before: object = None
    widths: list[int] = []
    for item in items:
        if isinstance(item, Gap):
            out.write(f"-- {gap_words(item)}\n")
            continue
        if item.schema.channels != before:
            heads = [head for channel in item.schema.channels for head in _heads(channel, raw)]
            widths = [30, *(max(12, len(name), len(unit)) for name, unit in heads)]
            out.write(_line(["time", *(name for name, _ in heads)], widths))
            out.write(_line(["UTC", *(unit for _, unit in heads)], widths))
            before = item.schema.channels
        columns = [times(item)]
        for channel, column, valid in values(item, raw):
            columns += _shown(channel, column, valid)
        out.writelines(_line(row, widths) for row in zip(*columns, strict=True))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [f"{row[0]:<{widths[0]}}", *(f"{v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells).rstrip() + "\n"


def _heads(channel: Channel, raw: bool) -> list[tuple[str, str]]:
    unit = channel.unit if raw else channel.physical_unit
    if channel.elements > _WIDE:
        return [(f"{channel.name}: least", unit), (f"{channel.name}: most", unit)]
    return [(cell, unit) for cell in cells(channel)]


def _shown(channel: Channel, column: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> list[list[str]]:
    """A channel as the columns of the table."""
    flat = column.reshape(len(column), -1)
    parts = [flat.min(axis=1), flat.max(axis=1)] if channel.elements > _WIDE else list(flat.T)
    return [[_word(v) for v in listed(channel, part, valid)] for part in parts]


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
