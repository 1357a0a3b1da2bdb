"""HDF5: files that scidaq exported, and others as far as their datasets lie along one axis of time.

In a file of somebody else's, the datasets of a group that have the same first dimension are sampled together. Their
time is what NeXus names as the first axis, or a dataset that is called as times are, or a rate or interval that an
attribute says. Source: NeXus manual, NXdata (axes), NXlog (time, start).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scidaq.block import MAX_TEXT_BYTES, NS, Array, Block, Channel, Description, Mask, Schema, Times
from scidaq.errors import InvalidBlock, UnreadableFile
from scidaq.instruments.replay.foreign import (
    PIECE_BYTES,
    Column,
    Reading,
    Rows,
    Table,
    TimeRule,
    apart,
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
    unit_for,
)

_RATES = ("rate_hz", "sampling_rate", "sample_rate", "samplerate", "sampling_frequency", "frequency", "fs", "rate")
_STEPS = ("dt", "delta_t", "sample_interval", "sampling_interval", "wf_increment")
_STARTS = ("start_time", "start", "t0", "wf_start_time")
_ELEMENTS = 1 << 28
"""Numbers in a row at most."""
_FIRST = 1000
"""Rows that are looked at to learn how long texts are."""


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file; what the library makes of a damaged one is an `UnreadableFile`."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, UnreadableFile):
            raise
        raise UnreadableFile(path, "", f"HDF5 says: {' '.join(str(error).split())[:200]}") from error


def tables(path: Path, reading: Reading) -> list[Table]:
    """The tables of an HDF5 file."""
    with _opened(path) as file:
        found = _exported(path, file, reading)
        if found:
            return found
        groups = _groups(file)
        notes: list[str] = []
        out = [t for group, names in groups for t in _foreign(path, file, group, names, reading, notes)]
    if not out:
        raise UnreadableFile(path, "", "; ".join(notes[:5]) or "there is no dataset of rows in it")
    return [replace(table, notes=tuple(notes) if i == 0 else ()) for i, table in enumerate(apart(out))]


# ---- what scidaq exported --------------------------------------------------------------------------------------------


def _exported(path: Path, file: Any, reading: Reading) -> list[Table]:
    import h5py

    notes = file.get("entry/provenance")
    if not isinstance(notes, h5py.Group):
        return []
    out = []
    for name in notes:
        said = notes.get(f"{name}/data")
        if said is None or not isinstance(file.get(f"entry/{name}"), h5py.Group):
            continue
        text = said[()]
        about = description(path, text)
        out.append((about.stream, about.part, exported(path, about, partial(_own_rows, path, name, about), reading)))
    return apart([table for *_, table in sorted(out, key=lambda one: one[:2])])


def _own_rows(path: Path, name: str, about: Description) -> Iterator[Rows]:
    channels = about.schema.channels
    if not about.rows:
        return
    with _opened(path) as file:
        group = file[f"entry/{name}"]
        sets = {str(ds.attrs["channel"]): ds for ds in group.values() if "channel" in ds.attrs}
        if lacking := [c.name for c in channels if c.name not in sets]:
            raise UnreadableFile(path, f"entry/{name}", f"there is no channel {lacking[0]!r}")
        found = [sets[c.name] for c in channels]
        for channel, ds in zip(channels, found, strict=True):
            if ds.shape != (about.rows, *channel.shape):
                raise UnreadableFile(path, ds.name, f"its shape is {ds.shape}, not {(about.rows, *channel.shape)}")
        valid = [group[ds.attrs["valid"]] if "valid" in ds.attrs else None for ds in found]
        step = max(1, PIECE_BYTES // max(1, about.schema.row_bytes))
        step += -step % (found[0].chunks or (1,))[0]
        for a in range(0, about.rows, step):
            b = min(a + step, about.rows)
            masks = [None if v is None else v[a:b].astype(np.bool_) for v in valid]
            times = group["time"][a:b].astype(np.int64) if about.schema.rate is None else None
            values = [_own(channel, ds[a:b]) for channel, ds in zip(channels, found, strict=True)]
            yield Rows(tuple(values), tuple(None if m is None or m.all() else m for m in masks), times)


def _own(channel: Channel, values: Array) -> Array:
    return np.ascontiguousarray(values.astype(channel.numpy_dtype, copy=False))


# ---- what others wrote -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    place: str
    """Name of the dataset in the file."""
    field: str | None
    """Of a compound dataset: which of its fields."""
    channel: Channel


def _groups(file: Any) -> list[tuple[str, list[str]]]:
    """Each group with the datasets of rows in it; compound ones are groups of their own."""
    import h5py

    out: dict[str, list[str]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape and item.ndim >= 1:
            key = f"{name}\0" if item.dtype.names else name.rpartition("/")[0]
            out.setdefault(key, []).append(name)

    file.visititems(visit)
    return sorted(out.items())


def _foreign(
    path: Path, file: Any, group: str, names: Sequence[str], reading: Reading, notes: list[str]
) -> list[Table]:
    """The tables of a group: one for each length of its datasets that has a time."""
    if group.endswith("\0"):
        ds = file[names[0]]
        known = [(names[0], field, field, ds.shape[0]) for field in ds.dtype.names] if ds.ndim == 1 else []
        return _of_one_length(path, file, names[0], known, reading, notes) if known else []
    out = []
    lengths = sorted({file[name].shape[0] for name in names}, reverse=True)
    for length in lengths:
        same = [(n, None, n.rpartition("/")[2], length) for n in names if file[n].shape[0] == length]
        out += _of_one_length(path, file, group, same, reading, notes)
    return out


def _of_one_length(
    path: Path,
    file: Any,
    group: str,
    known: Sequence[tuple[str, str | None, str, int]],
    reading: Reading,
    notes: list[str],
) -> list[Table]:
    attributes = [_attributes(file[place]) if field is None else {} for place, field, _, _ in known]
    headings = columns(
        [title for *_, title, _ in known], [known_unit(a.get("units", a.get("unit", ""))) for a in attributes]
    )
    rows = known[0][3]
    about = _attributes(file[group] if group else file)
    where = f"/{group}"
    time_at = _time_axis([title for *_, title, _ in known], about, reading)
    parts: list[_Part] = []
    for i, (place, field, title, _) in enumerate(known):
        if i == time_at:
            continue
        try:
            channel = _channel(file[place], field, headings[i], reading)
        except (InvalidBlock, ValueError) as error:
            notes.append(f"{where}: {title} is left out: {error}")
            continue
        parts.append(_Part(place, field, channel))
    if not parts:
        return []
    shift_ns, timed = 0, False
    rule: TimeRule | None = None
    rate = reading.rate
    start_ns = next((t for a in (*attributes, about) if (t := _start(a)) is not None), None)
    if time_at is not None:
        rate = None
        place, field, title, _ = known[time_at]
        sample = _slice(file[place], field, 0, min(rows, _FIRST))
        if sample.dtype.kind not in "iuf" or sample.ndim != 1:
            notes.append(f"{where}: {title} is no column of times")
            return []
        rule = time_rule(title, str(attributes[time_at].get("units", "")), sample[np.isfinite(sample)])
        timed, begun = rule.timed, _start(attributes[time_at])
        if not timed and begun is not None:
            timed, shift_ns = True, begun
    else:
        rate = rate or next((r for a in (*attributes, about) if (r := _rate(a)) is not None), None)
        if rate is None:
            titles = ", ".join(title for *_, title, _ in known[:10])
            notes.append(f"{where}: {titles} have no time: none of them is one, and no rate is said")
            return []
        if start_ns is not None:
            timed, shift_ns = True, start_ns
    check_units(path, headings, reading)
    timed, more_ns = settle(path, timed, reading)
    schema = Schema(tuple(p.channel for p in parts), rate)
    name = slug(f"{path.stem}-{group}" if group else path.stem)
    time = None if time_at is None else known[time_at][:2]
    read = partial(_rows, path, parts, time, rule, rows)

    def blocks() -> Iterator[Block]:
        return one_after_the_other(path, name, schema, read(), shift_ns + more_ns)

    return [Table(name, schema, blocks, timed, rows)]


def _attributes(item: Any) -> dict[str, Any]:
    """Attributes by name in small letters, texts as texts; what cannot be read is left out."""
    out: dict[str, Any] = {}
    for name in item.attrs:
        try:
            value = item.attrs[name]
        except (OSError, TypeError, ValueError):
            continue
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        out[str(name).lower()] = value
    return out


def _time_axis(titles: Sequence[str], about: Mapping[str, Any], reading: Reading) -> int | None:
    if reading.time_column:
        return next((i for i, title in enumerate(titles) if title == reading.time_column), None)
    if reading.rate_hz is not None:
        return None
    axes = about.get("axes", "")
    first = str(axes if isinstance(axes, str) else next(iter(np.atleast_1d(axes)), "")).split(":")[0]
    if first in titles and find_time([first], "") is not None:
        return list(titles).index(first)
    return find_time(titles, "")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _rate(about: Mapping[str, Any]) -> Fraction | None:
    for name in _RATES:
        if (rate := _number(about.get(name))) is not None and rate <= 10 * NS:
            return Fraction(rate).limit_denominator(1_000_000) or None
    for name in _STEPS:
        if (step := _number(about.get(name))) is not None and step >= 1e-10:
            whole = round(1 / step)
            exact = whole and abs(1 / step - whole) < 1e-9 * whole
            return Fraction(whole) if exact else Fraction(1 / step).limit_denominator(1_000_000)
    return None


def _start(about: Mapping[str, Any]) -> int | None:
    """UTC nanoseconds of the beginning that attributes say."""
    for name in _STARTS:
        value = about.get(name)
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value.strip())
            except ValueError:
                continue
            since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
            ns = (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000
            return ns if ns >= 0 else None
    return None


def _channel(ds: Any, field: str | None, column: Column, reading: Reading) -> Channel:
    """Raises `ValueError` for what no channel can hold."""
    import h5py

    kind = ds.dtype if field is None else ds.dtype[field]
    shape = tuple(int(n) for n in ds.shape[1:])
    if kind.subdtype is not None:
        kind, inner = kind.subdtype
        shape = (*shape, *inner)
    unit = unit_for(column, reading)
    if (text := h5py.check_string_dtype(kind)) is not None:
        if shape:
            raise ValueError("an array of texts")
        longest = text.length
        if longest is None:
            values = _slice(ds, field, 0, min(ds.shape[0], _FIRST))
            longest = max(64, 4 * max((len(_bytes(v)) for v in values), default=1))
        return Channel(
            column.channel, "text", unit, max_bytes=min(longest, MAX_TEXT_BYTES), description=column.description
        )
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise ValueError(f"its type is {kind}")
    if len(shape) > 2 or int(np.prod(shape or (1,))) > _ELEMENTS or 0 in shape:
        raise ValueError(f"a row of it has shape {shape}")
    name = "float32" if kind == np.float16 else kind.newbyteorder("=").name
    return Channel(column.channel, name, unit, shape, description=column.description)


def _slice(ds: Any, field: str | None, a: int, b: int) -> Array:
    values: Array = ds[a:b] if field is None else ds.fields(field)[a:b]
    return values


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _rows(
    path: Path, parts: Sequence[_Part], time: tuple[str, str | None] | None, rule: TimeRule | None, rows: int
) -> Iterator[Rows]:
    with _opened(path) as file:
        row_bytes = sum(p.channel.elements * p.channel.numpy_dtype.itemsize for p in parts)
        step = max(1, PIECE_BYTES // max(1, row_bytes))
        step += -step % ((file[parts[0].place].chunks or (1,))[0]) if step > 1 else 0
        step = min(step, 1 << 20)
        for a in range(0, rows, step):
            b = min(a + step, rows)
            try:
                times = None if time is None or rule is None else _times(rule, _slice(file[time[0]], time[1], a, b))
                found = [_values(p.channel, _slice(file[p.place], p.field, a, b)) for p in parts]
            except ValueError as error:
                raise UnreadableFile(path, f"rows {a + 1} to {b}", str(error)) from error
            yield Rows(tuple(v for v, _ in found), tuple(m for _, m in found), times)


def _times(rule: TimeRule, values: Array) -> Times:
    return rule.ns(values)


def _values(channel: Channel, values: Array) -> tuple[Array, Mask | None]:
    if channel.dtype == "text":
        texts = [_bytes(v).rstrip(b"\0") for v in values]
        for text in texts:
            text.decode()
        return text_column(texts, channel.max_bytes), None
    return np.ascontiguousarray(values.astype(channel.numpy_dtype, copy=False)), None
