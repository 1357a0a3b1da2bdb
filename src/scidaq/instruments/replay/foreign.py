"""What a foreign file is to us: tables of rows, each with one schema, read a piece at a time.

A reader of a format looks at the beginning of a file, says what tables it holds, and gives their rows as arrays, in
pieces of bounded size. What is common to all is here: names that no channel may have, units, times, and how arrays
become Blocks, be it at the places that a file of scidaq's own says or one behind the other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scidaq.block import NS, Array, Block, Channel, Description, Gap, Mask, Schema, Times, unit_problem
from scidaq.errors import RequestError, UnreadableFile

PIECE_BYTES = 768 << 10
"""The most that is in one block."""
PIECE_ROWS = 65_536
SAMPLE_BYTES = 4 << 20
"""As much of a file is looked at to learn what its columns are, unless all of it is."""
TIME_NAMES = frozenset("time timestamp time_stamp datetime date_time date utc t zeit".split())
MISSING = frozenset(("", "na", "n/a", "#n/a", "null", "none", "-", "--", "---", "missing"))
"""What stands for a value that is not there, in small letters."""
_TEXT_UNITS = re.compile(r"^(.*?)\s*[(\[]\s*([^()\[\]]+?)\s*[)\]]\s*$")
_FACTORS = {"s": NS, "sec": NS, "seconds": NS, "ms": 1_000_000, "us": 1_000, "µs": 1_000, "ns": 1,
            "min": 60 * NS, "h": 3600 * NS}  # fmt: skip
_SUFFIX = re.compile(r"[_ ](s|ms|us|ns)$")
_LIMIT_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be taken for granted of a foreign file; all of it is guessed where it is not said."""

    format: str = ""
    """One of `FORMATS`; empty: told by the file itself."""
    time_column: str = ""
    """Name of the column, channel or dataset that holds the times."""
    rate_hz: float | None = None
    """Rows per second of a file that has no times."""
    start_ns: int | None = None
    """UTC nanoseconds of the first row, for a file that does not say when it was recorded."""
    units: Mapping[str, str] = field(default_factory=dict)
    """UCUM units by name of column or channel."""
    missing: tuple[str, ...] = ()
    """Texts that stand for a value that is missing, besides the usual ones."""
    skip_lines: int = 0
    """Lines of a text file before its header."""
    thorough: bool = True
    """Look at all of a text file before its first row is given, rather than at its beginning."""

    @property
    def rate(self) -> Fraction | None:
        """`rate_hz` as a fraction."""
        return None if self.rate_hz is None else Fraction(self.rate_hz).limit_denominator(1_000_000)


class Rows(NamedTuple):
    """Consecutive rows as arrays, of the channels' dtypes."""

    columns: tuple[Array, ...]
    masks: tuple[Mask | None, ...]
    """Per channel which rows have a value, None where all have."""
    times: Times | None
    """Nanoseconds, where each row has its own time."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows sampled together that a foreign file holds: one schema, from the first row to the last."""

    name: str
    """As it may stand behind the slash of a stream id."""
    schema: Schema
    read: Callable[[], Iterator[Block | Gap]]
    """Begins at the first row, each time it is called. Blocks of at most `PIECE_BYTES`, or one row, with the epochs and
    row indices of the file; gaps before the rows that follow them. Raises `UnreadableFile`."""
    timed: bool = True
    """Whether its times are UTC; else they count from 0 at the first row."""
    rows: int | None = None
    """How many there are, where the file says so."""
    stream: str = ""
    """Id of the stream that it was exported from."""
    notes: tuple[str, ...] = ()
    """What was taken for granted, changed or left out, in sentences."""


def apart(found: Sequence[Table]) -> list[Table]:
    """The same tables, each with a name of its own."""
    out = []
    for table, name in zip(found, unique([t.name for t in found]), strict=True):
        out.append(table if table.name == name else replace(table, name=name, read=partial(_renamed, table, name)))
    return out


def _renamed(table: Table, name: str) -> Iterator[Block | Gap]:
    for item in table.read():
        yield replace(item, stream=name) if isinstance(item, Block) else item


# ---- names and units -------------------------------------------------------------------------------------------------


def slug(text: str, default: str = "data") -> str:
    """A text as part of a stream id."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:64].strip("-") or default


def unique(names: Sequence[str]) -> list[str]:
    """The same with a number behind those that were there before; none grows beyond 64 characters."""
    taken, seen, out = set(names), set[str](), []
    counts: dict[str, int] = {}
    for name in names:
        found = name
        while found in seen:
            counts[name] = number = counts.get(name, 1) + 1
            found = f"{name[: 63 - len(str(number))]}_{number}"
            if found in taken:
                continue
        seen.add(found)
        out.append(found)
    return out


class Column(NamedTuple):
    """What a heading says."""

    name: str
    """As it stands in the file."""
    channel: str
    """As a channel may be called."""
    unit: str
    """UCUM; empty where nothing is said."""
    description: str


def columns(headings: Sequence[str], units: Sequence[str] = ()) -> list[Column]:
    """What headings such as `U1 (mV)` say; each gets a name of its own that a channel may have."""
    said = [_heading(h, units[i] if i < len(units) else "") for i, h in enumerate(headings)]
    names = unique([_channel_name(bare, i) for i, (bare, _) in enumerate(said)])
    out = []
    for heading, name, (bare, unit) in zip(headings, names, said, strict=True):
        changed = name != bare and heading.strip()
        out.append(Column(heading, name, unit, f"column {heading.strip()[:200]!r}" if changed else ""))
    return out


def _heading(text: str, unit: str) -> tuple[str, str]:
    text = text.strip()
    found = _TEXT_UNITS.match(text)
    if found and (known := known_unit(found[2])) and found[1]:
        return found[1], known
    return text, known_unit(unit)


def known_unit(text: str) -> str:
    """A unit as UCUM spells it, empty where it is none that we know."""
    text = text.strip().strip("[]()").strip()
    if not text or len(text) > 64:
        return ""
    text = text.replace("µ", "u").replace("μ", "u").replace("Ω", "Ohm").replace("\u2126", "Ohm")
    text = {"°C": "Cel", "degC": "Cel", "deg C": "Cel", "C°": "Cel", "°": "deg", "sec": "s", "volts": "V", "Volt": "V",
            "Volts": "V", "Amp": "A", "Amps": "A", "%RH": "%", "°F": "[degF]"}.get(text, text)  # fmt: skip
    return text if unit_problem(text) is None else ""


def _channel_name(text: str, index: int) -> str:
    name = re.sub(r"[^A-Za-z0-9_.:\-]+", "_", text).strip("_")[:64] or f"column_{index + 1}"
    if not re.match(r"[A-Za-z_]", name):
        name = f"_{name}"[:64]
    return "time_" if name == "time" else name


def unit_for(column: Column, reading: Reading) -> str:
    """The unit that the reader of a file says, else that of the file, else none."""
    for name in (column.name, column.channel, column.name.strip()):
        if name in reading.units:
            return reading.units[name]
    return column.unit or "1"


def check_units(path: Path, known: Iterable[Column], reading: Reading) -> None:
    """Raises `UnreadableFile` when units are said of columns that are not there, or are none."""
    names = {n for c in known for n in (c.name, c.channel, c.name.strip())}
    for name, unit in reading.units.items():
        if name not in names:
            raise UnreadableFile(path, "", f"no column {name!r} for the unit {unit!r}; there are {_some(names)}")
        if problem := unit_problem(unit):
            raise UnreadableFile(path, f"column {name!r}", problem)


def _some(names: Iterable[str]) -> str:
    known = sorted(set(names))
    return ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")


# ---- times -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimeRule:
    """How numbers become nanoseconds."""

    factor: int
    """Nanoseconds of one."""
    timed: bool
    """Whether they count from 1970; else from wherever the file began."""

    def ns(self, values: Array) -> Times:
        """Nanoseconds of times as the file has them. Raises `ValueError` for what is no time."""
        if values.dtype.kind in "iu":
            limit = _LIMIT_NS // self.factor
            if len(values) and (int(values.max()) > limit or int(values.min()) < -limit):
                raise ValueError("a time lies beyond the year 2116")
            return values.astype(np.int64) * self.factor
        numbers = values.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError("a time is missing")
        if len(numbers) and np.abs(numbers).max() * self.factor > _LIMIT_NS:
            raise ValueError("a time lies beyond the year 2116")
        whole = np.floor(numbers)
        return whole.astype(np.int64) * self.factor + np.rint((numbers - whole) * self.factor).astype(np.int64)


def time_rule(heading: str, unit: str, sample: Array) -> TimeRule:
    """What numbers under a heading mean, by its unit, and by how large they are."""
    found = _TEXT_UNITS.match(heading.strip())
    said = (found[2] if found else unit).strip()
    if not said and (suffix := _SUFFIX.search(heading.strip().lower())):
        said = suffix[1]
    size = float(np.abs(sample.astype(np.float64)).max()) if len(sample) else 0.0
    if (factor := _FACTORS.get(said)) is not None:
        return TimeRule(factor, size * factor >= 1e8 * NS)
    for limit, factor in ((1e11, NS), (1e14, 1_000_000), (1e17, 1_000)):
        if size < limit:
            return TimeRule(factor, size >= 1e8)
    return TimeRule(1, True)


def find_time(names: Sequence[str], wanted: str) -> int | None:
    """Which of the columns is called as times are, or as it is `wanted`. Raises `LookupError`."""
    bare = [_heading(n, "")[0].strip().lower() for n in names]
    if wanted:
        for i, name in enumerate(names):
            if wanted in (name, name.strip(), _heading(name, "")[0]):
                return i
        raise LookupError(f"no column {wanted!r} for the time; there are {_some(names)}")
    for i, name in enumerate(bare):
        if _SUFFIX.sub("", name) in TIME_NAMES:
            return i
    return None


# ---- rows as blocks --------------------------------------------------------------------------------------------------


def in_pieces(schema: Schema, rows: Iterable[Rows]) -> Iterator[Rows]:
    """The same rows, in pieces that are no larger than a block should be, and cut where that costs no nanosecond."""
    taking = Taking(rows)
    most = piece_rows(schema)
    while (part := taking.take(most)) is not None:
        yield part


def piece_rows(schema: Schema) -> int:
    """How many rows a block has; of a uniform stream so many that the next begins on a whole nanosecond, if it can."""
    most = max(1, min(PIECE_ROWS, PIECE_BYTES // max(1, schema.row_bytes)))
    if schema.rate is not None:
        step = schema.rate.numerator // math.gcd(NS * schema.rate.denominator, schema.rate.numerator)
        most -= most % step if step <= most else 0
    return most


class Taking:
    """Takes as many rows as are asked for out of pieces of any size."""

    def __init__(self, rows: Iterable[Rows]) -> None:
        self._rows = iter(rows)
        self._left: Rows | None = None

    def take(self, most: int) -> Rows | None:
        """The next rows, `most` unless there are fewer; None at the end."""
        parts: list[Rows] = []
        missing = most
        while missing:
            part = self._left if self._left is not None else next(self._rows, None)
            self._left = None
            if part is None:
                break
            count = len(part.columns[0])
            if count > missing:
                self._left, part, count = cut(part, missing, count), cut(part, 0, missing), missing
            if count:
                parts.append(part)
                missing -= count
        return joined(parts) if parts else None


def joined(parts: Sequence[Rows]) -> Rows:
    """Pieces as one; copies, unless there is one."""
    if len(parts) == 1:
        return parts[0]
    columns = tuple(np.concatenate([p.columns[i] for p in parts]) for i in range(len(parts[0].columns)))
    masks: list[Mask | None] = []
    for i in range(len(columns)):
        if all(p.masks[i] is None for p in parts):
            masks.append(None)
            continue
        found = [p.masks[i] for p in parts]
        masks.append(
            np.concatenate(
                [np.ones(len(p.columns[i]), np.bool_) if m is None else m for p, m in zip(parts, found, strict=True)]
            )
        )
    times = None if parts[0].times is None else np.concatenate([p.times for p in parts if p.times is not None])
    return Rows(columns, tuple(masks), times)


def cut(rows: Rows, a: int, b: int) -> Rows:
    """Some of the rows, sharing memory."""
    return Rows(
        tuple(c[a:b] for c in rows.columns),
        tuple(None if m is None else m[a:b] for m in rows.masks),
        None if rows.times is None else rows.times[a:b],
    )


def one_after_the_other(
    path: Path,
    name: str,
    schema: Schema,
    rows: Iterable[Rows],
    start_ns: int = 0,
    where: Callable[[int], str] | None = None,
) -> Iterator[Block]:
    """Rows of a file that numbers nothing: one epoch, from row 0 on. Times are moved by `start_ns`.

    Raises `UnreadableFile` where time goes back; `where` says in words where a row stands in the file.
    """
    at, last_ns = 0, None
    place = where or (lambda row: f"row {row + 1}")
    for part in in_pieces(schema, rows):
        count = len(part.columns[0])
        times = part.times
        if times is not None:
            times = times + start_ns if start_ns else times
            back = np.flatnonzero(times[1:] < times[:-1])
            if last_ns is not None and times[0] < last_ns:
                back = np.array([-1])
            if len(back):
                row = int(back[0]) + 1
                before = int(times[row - 1]) if row else int(last_ns or 0)
                behind = (before - int(times[row])) / NS
                raise UnreadableFile(
                    path, place(at + row), f"its time lies {behind:g} s before that of the row before; sort the rows"
                )
            if times[0] < 0:
                raise UnreadableFile(path, place(at), "its time lies before 1970")
            last_ns = int(times[-1])
        t0_ns = int(times[0]) if times is not None else start_ns + schema.span_ns(at)
        masks = part.masks if any(m is not None for m in part.masks) else None
        yield Block(name, 0, at, schema, part.columns, t0_ns, times, masks)
        at += count


def restored(path: Path, name: str, said: Description, rows: Iterable[Rows]) -> Iterator[Block | Gap]:
    """The rows of an exported file at the places that its description says, and the gaps between them.

    Raises `UnreadableFile` where the file has fewer rows than its description, or more.
    """
    schema, taking = said.schema, Taking(rows)
    most, gaps = piece_rows(schema), list(said.gaps)
    for piece in said.pieces:
        while gaps and (gaps[0].epoch, gaps[0].end) <= (piece.epoch, piece.first):
            yield gaps.pop(0)
        done = 0
        while done < piece.rows:
            part = taking.take(min(most, piece.rows - done))
            if part is None:
                raise UnreadableFile(path, f"behind row {piece.at + done}", f"it ends; {said.rows} rows belong into it")
            count = len(part.columns[0])
            if schema.rate is None:
                times = part.times
                if times is None or (times[1:] < times[:-1]).any():
                    raise UnreadableFile(
                        path, f"rows {piece.at + done + 1} to {piece.at + done + count}", "time goes back"
                    )
                t0_ns = int(times[0])
            else:
                times, t0_ns = None, (piece.t0_ns or 0) + schema.span_ns(done)
            masks = part.masks if any(m is not None for m in part.masks) else None
            yield Block(name, piece.epoch, piece.first + done, schema, part.columns, t0_ns, times, masks)
            done += count
    if taking.take(1) is not None:
        raise UnreadableFile(path, f"row {said.rows + 1}", f"it has more rows than the {said.rows} that it says")
    yield from gaps


def exported(path: Path, said: Description, read: Callable[[], Iterable[Rows]], reading: Reading) -> Table:
    """The table of an exported file: everything is said in it, and nothing may be said otherwise."""
    if reading.rate_hz is not None or reading.start_ns is not None or reading.time_column:
        raise UnreadableFile(path, "", "scidaq exported it, with its times; leave out rate, start and time column")
    schema = said.schema
    if reading.units:
        names = {c.name for c in schema.channels}
        if unknown := [n for n in reading.units if n not in names]:
            raise UnreadableFile(path, "", f"no channel {unknown[0]!r} for a unit; there are {_some(names)}")
        channels = tuple(replace(c, unit=reading.units.get(c.name, c.unit)) for c in schema.channels)
        said = replace(said, schema=Schema(channels, schema.rate))
    name = slug(said.stream.partition("/")[2])
    return Table(name, said.schema, lambda: restored(path, name, said, read()), True, said.rows, said.stream)


def description(path: Path, text: str | bytes) -> Description:
    """What an exported file says of itself. Raises `UnreadableFile`."""
    try:
        return Description.from_json(json.loads(text))
    except (RequestError, ValueError, RecursionError) as error:
        raise UnreadableFile(path, "", f"its description cannot be understood: {error}") from error


def cell_names(channel: Channel) -> list[str]:
    """How formats without arrays name the elements of a channel: `adc[label]`, or `adc[0,1]`; its own name, of one."""
    if channel.labels:
        return [f"{channel.name}[{label}]" for label in channel.labels]
    if channel.shape:
        return [f"{channel.name}[{','.join(map(str, at))}]" for at in product(*map(range, channel.shape))]
    return [channel.name]


def text_column(values: Sequence[bytes], most: int) -> Array:
    """Texts as they lie in a block. Raises `ValueError` for one that is too long or would not be kept."""
    for value in values:
        if len(value) > most:
            raise ValueError(f"a text of {len(value)} bytes where {most} are the most")
        if value.endswith(b"\0"):
            raise ValueError("a text ends in NUL")
    return np.array(values, f"S{most}")


def described(column: Column, reading: Reading, dtype: str, **more: Any) -> Channel:
    """The channel of a column."""
    return Channel(column.channel, dtype, unit_for(column, reading), description=column.description, **more)


def settle(path: Path, timed: bool, reading: Reading) -> tuple[bool, int]:
    """Whether a table's times are UTC, and by how much they are moved, when those of the file itself are or are not."""
    if reading.start_ns is None:
        return timed, 0
    if timed:
        raise UnreadableFile(path, "", "it says itself when it was recorded; leave out the start")
    return True, reading.start_ns
