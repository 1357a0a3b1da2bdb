"""TDMS, as LabVIEW and DIAdem write it: a table for each group, or for each length and rate of its channels.

Source: NI, "The NI TDMS File Format" (wf_start_time, wf_increment, wf_start_offset, unit_string).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scidaq.block import DESCRIPTION_KEY, MAX_TEXT_BYTES, NS, Array, Block, Channel, Description, Schema
from scidaq.errors import RequestError, UnreadableFile
from scidaq.instruments.replay.foreign import (
    PIECE_BYTES,
    Reading,
    Rows,
    Table,
    TimeRule,
    apart,
    cell_names,
    check_units,
    columns,
    description,
    exported,
    find_time,
    known_unit,
    one_after_the_other,
    settle,
    slug,
    text_column,
    time_rule,
    unique,
    unit_for,
)

_FIRST = 1000


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file; what the library makes of a damaged one is an `UnreadableFile`."""
    try:
        import nptdms
        from nptdms.log import log_manager
    except ImportError:
        raise RequestError("to read TDMS, install the package npTDMS: pip install 'scidaq[tdms]'") from None
    log_manager.set_level(logging.ERROR)  # what it warns of is said in our words
    try:
        # Opened here: the library leaves a file open that it does not understand.
        with path.open("rb") as raw, nptdms.TdmsFile.open(raw) as file:
            yield file
    except RequestError:
        raise
    except Exception as error:  # the library raises whatever it stumbles over
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnreadableFile(path, "", f"its TDMS cannot be understood: {what}") from error


def tables(path: Path, reading: Reading) -> list[Table]:
    """The tables of a TDMS file."""
    notes: list[str] = []
    with _opened(path) as file:
        if getattr(file, "file_status", None) is not None and file.file_status.incomplete_final_segment:
            notes.append("the file is cut off: its last segment is taken as far as it goes")
        said = [(g.name, g.properties[DESCRIPTION_KEY]) for g in file.groups() if DESCRIPTION_KEY in g.properties]
        if said:
            found = [(description(path, text), group) for group, text in said]
            found.sort(key=lambda one: (one[0].stream, one[0].part))
            return apart([exported(path, a, partial(_own_rows, path, group, a), reading) for a, group in found])
        groups = [g for g in file.groups() if g.channels()]
        wanted = [(g, f"{path.stem}-{g.name}" if len(groups) > 1 else path.stem, _together(g)) for g in groups]
        flat = [
            (g, slug(f"{name}-{i + 1}" if len(sets) > 1 else name), one)
            for g, name, sets in wanted
            for i, one in enumerate(sets)
        ]
        names = unique([name for _, name, _ in flat])
        out = [
            t
            for (g, _, one), name in zip(flat, names, strict=True)
            if (t := _foreign(path, g, one, name, reading, notes))
        ]
    if not out:
        raise UnreadableFile(path, "", "; ".join(notes[:5]) or "there is no channel with values in it")
    return [replace(table, notes=tuple(notes) if i == 0 else ()) for i, table in enumerate(out)]


# ---- what scidaq exported --------------------------------------------------------------------------------------------


def _own_rows(path: Path, group: str, about: Description) -> Iterator[Rows]:
    channels = about.schema.channels
    if not about.rows:
        return
    with _opened(path) as file:
        held = {c.name: c for c in file[group].channels()}
        cells = {c.name: cell_names(c) for c in channels}
        for name in (n for names in cells.values() for n in names):
            if name not in held or len(held[name]) != about.rows:
                raise UnreadableFile(path, f"group {group!r}, channel {name!r}", f"it has not {about.rows} values")
        valid = {c.name: held.get(held[cells[c.name][0]].properties.get("valid", "")) for c in channels}
        step = max(1, PIECE_BYTES // max(1, about.schema.row_bytes))
        for a in range(0, about.rows, step):
            count = min(step, about.rows - a)
            values, masks = [], []
            for channel in channels:
                values.append(_own(channel, [held[n].read_data(a, count) for n in cells[channel.name]]))
                there = valid[channel.name]
                mask = None if there is None else _filled(there.read_data(a, count), count)
                masks.append(None if mask is None or mask.all() else mask)
            times = held["time"].read_data(a, count).astype(np.int64) if about.schema.rate is None else None
            yield Rows(tuple(values), tuple(masks), times)


def _filled(mask: Array, count: int) -> Array:
    """A mask; where it ends before the rows do, all have values."""
    out = np.ones(count, np.bool_)
    out[: len(mask)] = mask.astype(np.bool_)
    return out


def _own(channel: Channel, parts: Sequence[Array]) -> Array:
    if channel.dtype == "text":
        return text_column([str(v).encode() for v in parts[0]], channel.max_bytes)
    stacked = np.stack(parts, axis=1) if channel.shape else parts[0]
    return np.ascontiguousarray(stacked.reshape(-1, *channel.shape).astype(channel.numpy_dtype, copy=False))


# ---- what others wrote -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    channel: Channel


def _together(group: Any) -> list[list[Any]]:
    """The channels of a group that are sampled together: of one length, and one waveform rate."""
    out: dict[tuple[int, Any, Any], list[Any]] = {}
    stamps = {len(c) for c in group.channels() if _is_time(c)}
    for channel in group.channels():
        if not len(channel):
            continue
        step, start = channel.properties.get("wf_increment"), channel.properties.get("wf_start_time")
        key = (len(channel), None, None) if len(channel) in stamps else (len(channel), step, start)
        out.setdefault(key, []).append(channel)
    return list(out.values())


def _is_time(channel: Any) -> bool:
    return channel.dtype.kind == "M" or find_time([channel.name], "") is not None


def _foreign(
    path: Path, group: Any, found: Sequence[Any], name: str, reading: Reading, notes: list[str]
) -> Table | None:
    where = f"group {group.name!r}"
    known = columns(
        [c.name for c in found],
        [
            known_unit(str(c.properties.get("unit_string", "") or c.properties.get("NI_UnitDescription", "")))
            for c in found
        ],
    )
    names = [c.name for c in found]
    try:
        time_at = find_time(names, reading.time_column) if reading.rate_hz is None else None
    except LookupError:
        time_at = None
    if time_at is None and reading.rate_hz is None:
        time_at = next((i for i, c in enumerate(found) if c.dtype.kind == "M"), None)
    parts = []
    for i, channel in enumerate(found):
        if i == time_at:
            continue
        kind = channel.dtype
        unit, about = unit_for(known[i], reading), known[i].description
        if kind.kind in "OSU":
            texts = [str(v).encode() for v in channel.read_data(0, min(len(channel), _FIRST))]
            most = min(MAX_TEXT_BYTES, max(64, 4 * max(map(len, texts), default=1)))
            parts.append(
                _Part(channel.name, Channel(known[i].channel, "text", unit, max_bytes=most, description=about))
            )
        elif kind.kind == "M":
            parts.append(
                _Part(channel.name, Channel(known[i].channel, "int64", "ns", description=about or "UTC since 1970"))
            )
        elif kind.kind in "biuf" and kind.itemsize <= 8:
            dtype = "float32" if kind == np.float16 else kind.newbyteorder("=").name
            parts.append(_Part(channel.name, Channel(known[i].channel, dtype, unit, description=about)))
        else:
            notes.append(f"{where}: channel {channel.name!r} is left out: its type is {kind}")
    if not parts:
        return None
    rule: TimeRule | None = None
    rate, timed, shift_ns = reading.rate, False, 0
    if time_at is not None:
        rate, clock = None, found[time_at]
        timed = clock.dtype.kind == "M"
        if not timed:
            if clock.dtype.kind not in "iuf":
                notes.append(f"{where}: channel {clock.name!r} is no time")
                return None
            sample = np.asarray(clock.read_data(0, min(len(clock), _FIRST)), np.float64)
            rule = time_rule(clock.name, str(clock.properties.get("unit_string", "")), sample[np.isfinite(sample)])
            timed = rule.timed
    else:
        properties = found[0].properties
        rate = rate or _rate(properties.get("wf_increment"))
        if rate is None:
            notes.append(f"{where}: {', '.join(names[:10])} have no time: none is one, and no wf_increment is said")
            return None
        start = properties.get("wf_start_time")
        if start is not None:
            timed = True
            offset = properties.get("wf_start_offset", 0.0)
            shift_ns = int(np.datetime64(start, "ns").astype(np.int64)) + round(float(offset) * NS)
            if shift_ns < 0:
                timed, shift_ns = False, 0
    check_units(path, known, reading)
    timed, more_ns = settle(path, timed, reading)
    schema, rows = Schema(tuple(p.channel for p in parts), rate), len(found[0])
    read = partial(_rows, path, group.name, parts, None if time_at is None else found[time_at].name, rule, rows)

    def blocks() -> Iterator[Block]:
        return one_after_the_other(path, name, schema, read(), shift_ns + more_ns)

    return Table(name, schema, blocks, timed, rows)


def _rate(step: Any) -> Fraction | None:
    try:
        number = float(step)
    except (TypeError, ValueError):
        return None
    if not (np.isfinite(number) and number >= 1e-10):
        return None
    whole = round(1 / number)
    exact = whole and abs(1 / number - whole) < 1e-9 * whole
    return Fraction(whole) if exact else Fraction(1 / number).limit_denominator(1_000_000)


def _rows(
    path: Path, group: str, parts: Sequence[_Part], time: str | None, rule: TimeRule | None, rows: int
) -> Iterator[Rows]:
    row_bytes = sum(p.channel.numpy_dtype.itemsize for p in parts)
    step = max(1, PIECE_BYTES // max(1, row_bytes))
    with _opened(path) as file:
        held = file[group]
        for a in range(0, rows, step):
            count = min(step, rows - a)
            try:
                times = None
                if time is not None:
                    stamps = held[time].read_data(a, count)
                    times = (
                        rule.ns(np.asarray(stamps)) if rule is not None else stamps.astype("M8[ns]").astype(np.int64)
                    )
                values = tuple(_values(p.channel, held[p.name].read_data(a, count)) for p in parts)
            except ValueError as error:
                raise UnreadableFile(path, f"group {group!r}, rows {a + 1} to {a + count}", str(error)) from error
            if any(len(v) != count for v in values):
                raise UnreadableFile(path, f"group {group!r}, behind row {a}", "the file is cut off")
            yield Rows(values, (None,) * len(values), times)


def _values(channel: Channel, values: Any) -> Array:
    if channel.dtype == "text":
        return text_column([str(v).encode().rstrip(b"\0") for v in values], channel.max_bytes)
    if values.dtype.kind == "M":
        values = values.astype("M8[ns]").astype(np.int64)
    return np.ascontiguousarray(values.astype(channel.numpy_dtype, copy=False))
