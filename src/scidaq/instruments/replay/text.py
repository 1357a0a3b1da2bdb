"""Tables as text: CSV and its relatives, as instruments, spreadsheets and scripts write them.

What is guessed, in this order: the encoding (a byte order mark, else UTF-8, else Windows-1252), the delimiter and the
decimal sign (those with which the most cells are numbers or times), where the table begins (the first line with as many
cells as most have), the header and perhaps a line of units. Cells are parsed in bulk by Arrow; only a cell that is
wrong is looked at by hand, to say in which line and column it stands.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scidaq.block import MAX_TEXT_BYTES, Array, Block, Channel, Description, Mask, Schema, Times
from scidaq.errors import UnreadableFile
from scidaq.instruments.replay.foreign import (
    MISSING,
    SAMPLE_BYTES,
    Column,
    Reading,
    Rows,
    Table,
    TimeRule,
    cell_names,
    check_units,
    columns,
    described,
    description,
    exported,
    find_time,
    known_unit,
    one_after_the_other,
    settle,
    slug,
    text_column,
    time_rule,
)

SIDECAR = "-metadata.json"
"""Behind the name of a file: what it means, as the W3C's "CSV on the Web" wants it."""
SIDECAR_BYTES = 256 << 20
HEAD_BYTES = 1 << 18
LINE_BYTES = 16 << 20
"""No line is longer."""
_LINES = 200
_NUMBER = {
    ".": re.compile(
        r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?\s*|\s*[+-]?(?:inf|infinity|nan)\s*", re.IGNORECASE
    ),
    ",": re.compile(r"\s*[+-]?(?:\d+,?\d*|,\d+)(?:[eEdD][+-]?\d+)?\s*|\s*[+-]?(?:inf|infinity|nan)\s*", re.IGNORECASE),
}
_STAMP = re.compile(r"\s*\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?\s*(?:Z|[+-]\d\d:?\d\d)?)?\s*")
_ZONED = re.compile(r".*(?:Z|[+-]\d\d:?\d\d)\s*$")
_BOOLS = frozenset(("true", "false"))


_MARKUP = re.compile(r"\s*(<[!?A-Za-z]|\{|\[\s*[\[{])")


class _Wrong(Exception):
    """A cell that is not what its column is."""

    def __init__(self, row: int, column: int, text: str, why: str) -> None:
        super().__init__(why)
        self.row, self.column, self.text, self.why = row, column, text, why


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How a file is written."""

    encoding: str
    delimiter: str
    decimal: str
    newline: str | None
    """For `open`: None where a carriage return alone ends a line."""
    skip: int
    """Lines before the first row of data."""
    comment: str
    headings: tuple[str, ...]
    units: tuple[str, ...]
    longest: int
    """Bytes of the longest line seen."""
    sample: tuple[tuple[str, ...], ...]
    """The first rows."""
    notes: tuple[str, ...] = ()


# ---- the beginning ---------------------------------------------------------------------------------------------------


def tables(path: Path, reading: Reading) -> list[Table]:
    """The one table of a text file."""
    sidecar = path.with_name(path.name + SIDECAR)
    if sidecar.is_file() and (said := _said_by_sidecar(path, sidecar)) is not None:
        return [_exported(path, reading, said)]
    file = _File(path, reading)
    file.learn()
    return [file.table()]


def _said_by_sidecar(path: Path, sidecar: Path) -> Description | None:
    """The description in what lies beside an exported file; None where that is somebody else's.

    Its `url` is not looked at: it says the old name when both have been renamed.
    Source: Metadata Vocabulary for Tabular Data, W3C Recommendation of 17 December 2015.
    """
    if sidecar.stat().st_size > SIDECAR_BYTES:
        return None
    try:
        said = json.loads(sidecar.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(
            sidecar, "", f"it is no JSON ({error}); move it away to read {path.name} without it"
        ) from None
    if not isinstance(said, dict):
        return None
    text = next((v for k, v in said.items() if k.endswith("#description") and isinstance(v, str)), None)
    return None if text is None else description(sidecar, text)


def _exported(path: Path, reading: Reading, said: Description) -> Table:
    """A file that scidaq exported, with what lies beside it."""
    cells = [(channel, name) for channel in said.schema.channels for name in cell_names(channel)]
    wanted = ["time", *(name for _, name in cells)]
    file = _File(path, replace(reading, missing=()), _own_dialect(path, wanted))
    parts = [(i + 1, _element(channel, f"c{i}")) for i, (channel, _) in enumerate(cells)]

    def rows() -> Iterator[Rows]:
        for part in file.read(parts):
            columns, masks, at = [], [], 0
            for channel in said.schema.channels:
                n = channel.elements
                if channel.shape:
                    stacked = np.stack(part.columns[at : at + n], axis=1).reshape(-1, *channel.shape)
                    columns.append(np.ascontiguousarray(stacked))
                else:
                    columns.append(part.columns[at])
                masks.append(part.masks[at])
                at += n
            yield Rows(tuple(columns), tuple(masks), part.times)

    return exported(path, said, rows, reading)


def _own_dialect(path: Path, wanted: Sequence[str]) -> _Dialect:
    """How scidaq writes it; only the header is looked at."""
    with path.open(encoding="utf-8", newline="") as file:
        try:
            csv.field_size_limit(LINE_BYTES)
            lines = csv.reader(file)
            headings = next(lines, [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnreadableFile(path, "line 1", str(error)) from error
        if headings != list(wanted):
            what = ", ".join(wanted[:20])
            raise UnreadableFile(path, "line 1", f"its columns are not those of its description: {what}")
        longest = 64 * len(wanted)
        return _Dialect("utf-8", ",", ".", "", lines.line_num, "", tuple(headings), (), longest, ())


def _element(channel: Channel, name: str) -> Channel:
    """One element of a channel."""
    return Channel(name, channel.dtype, max_bytes=channel.max_bytes)


def _encoding(path: Path, head: bytes, whole: bool) -> tuple[str, str]:
    """The encoding, and what is to be said of it."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name, ""
    if head[:400].count(0) > len(head[:400]) // 4:
        even, odd = head[:400:2].count(0), head[1:400:2].count(0)
        if even == 0 and odd:
            return "utf-16-le", ""
        if odd == 0 and even:
            return "utf-16-be", ""
    if b"\0" in head:
        raise UnreadableFile(path, f"byte {head.index(0)}", "it is no text, and of no format that is known")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError as error:
        try:
            head.decode("cp1252")
        except UnicodeDecodeError:
            raise UnreadableFile(
                path, f"byte {error.start}", "it is no text in UTF-8, UTF-16 or Windows-1252"
            ) from None
        return "cp1252", "the file is no UTF-8: it is taken to be Windows-1252"
    return "utf-8", ""


def _look(path: Path, reading: Reading) -> _Dialect:
    with path.open("rb") as raw:
        size = HEAD_BYTES
        head = raw.read(size)
        if not head:
            raise UnreadableFile(path, "", "it is empty")
        encoding, note = _encoding(path, head, len(head) < size)
        while True:
            whole = len(head) < size
            text = codecs.getincrementaldecoder(encoding)("replace").decode(head, final=whole)
            lines = text.splitlines() if "\n" not in text else text.replace("\r\n", "\n").split("\n")
            if not whole:
                lines = lines[:-1]
            if whole or len(lines) >= 4 + reading.skip_lines:
                break
            if size >= LINE_BYTES:
                raise UnreadableFile(path, f"line {len(lines) + 1}", f"it is longer than {LINE_BYTES >> 20} MiB")
            size = min(LINE_BYTES, 4 * size)
            head += raw.read(size - len(head))
    newline = None if "\r" in text and "\n" not in text else ""
    found = _table(path, lines, reading)
    notes = tuple(n for n in (note, *found.notes) if n)
    longest = max((len(line) for line in lines), default=0) * 4
    return _Dialect(
        encoding, found.delimiter, found.decimal, newline, found.skip, "#", found.headings, found.units, longest,
        found.sample, notes,
    )  # fmt: skip


class _Found(NamedTuple):
    delimiter: str
    decimal: str
    skip: int
    headings: tuple[str, ...]
    units: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def _cells(line: str, delimiter: str) -> tuple[str, ...]:
    if delimiter == " ":
        return tuple(line.split())
    try:
        return tuple(next(csv.reader([line], delimiter=delimiter), ()))
    except csv.Error:
        return tuple(line.split(delimiter))


def _table(path: Path, lines: Sequence[str], reading: Reading) -> _Found:
    """Delimiter, decimal sign, where the rows begin, and what stands above them."""
    numbered = [
        (n, line)
        for n, line in enumerate(lines)
        if n >= reading.skip_lines and line.strip() and not line.lstrip().startswith("#")
    ]
    if not numbered:
        raise UnreadableFile(path, f"line {len(lines)}", "there is nothing in it but blank lines and comments")
    if (found := _MARKUP.match(numbered[0][1])) is not None:
        what = "XML or HTML" if found[1][0] == "<" else "JSON"
        raise UnreadableFile(path, f"line {numbered[0][0] + 1}", f"it looks like {what}, and no table of columns")
    inspected = numbered[: 4 * _LINES]
    delimiter, decimal = max(_candidates([line for _, line in inspected]))[1:]
    rows = [(n, _cells(line, delimiter)) for n, line in inspected]
    usual = Counter(len(cells) for _, cells in rows).most_common()
    width = max(w for w, count in usual if count == usual[0][1])
    begin = next(i for i, (_, cells) in enumerate(rows) if len(cells) == width)
    for i in range(begin + 1, min(len(rows) - 1, _LINES)):  # a line that names a time is a header, whatever is above
        cells = rows[i][1]
        named = len(cells) == width and _names_time(cells, reading.time_column)
        if named and not any(_like_data(c, decimal) for c in cells):
            begin = i
            break
    above: list[tuple[str, ...]] = []
    data = len(rows)
    for i in range(begin, len(rows)):
        if any(_like_data(c, decimal) for c in rows[i][1]):
            data = i
            break
        above.append(rows[i][1])
        if len(above) > 1 and not _all_units(rows[i][1]):
            above.pop()
            data = i  # text all over: only the first line is a header
            break
    skip = rows[data][0] if data < len(rows) else rows[-1][0] + 1
    headings = above[0] if above else tuple(f"column_{i + 1}" for i in range(width))
    units = above[1] if len(above) > 1 else ()
    notes = [] if above else ["the file has no header: its columns are named column_1, column_2, ..."]
    if begin:
        notes.append(f"the first {rows[begin][0]} lines are no part of the table, and are left out")
    sample = tuple(cells for _, cells in rows[data : data + _LINES])
    return _Found(delimiter, decimal, skip, tuple(headings), tuple(units), sample, tuple(notes))


def _names_time(cells: Sequence[str], wanted: str) -> bool:
    try:
        return find_time(cells, wanted) is not None
    except LookupError:
        return False


def _candidates(lines: Sequence[str]) -> Iterator[tuple[tuple[float, int, int], str, str]]:
    """How well each delimiter and decimal sign fits, with them."""
    tail = lines[-_LINES:]
    for order, delimiter in enumerate((",", ";", "\t", "|", " ")):
        split = [_cells(line, delimiter) for line in tail]
        counts = Counter(map(len, split))
        width, often = max(counts.items(), key=lambda one: (one[1], one[0]))
        cells = [c for row in split if len(row) == width for c in row]
        for decimal in (".",) if delimiter == "," else (".", ","):
            good = sum(_like_data(c, decimal) or not c.strip() or c.strip().lower() in MISSING | _BOOLS for c in cells)
            # As many numbers as can be; then as many columns; a point before a comma.
            score = round(good / max(1, len(cells)) * often / len(split), 3)
            yield (score, min(width, 2), 10 - order - (decimal == ",")), delimiter, decimal


def _like_data(cell: str, decimal: str) -> bool:
    """Whether it is a number or a time, and so no heading."""
    return bool(_NUMBER[decimal].fullmatch(cell) or _STAMP.fullmatch(cell))


def _all_units(cells: Sequence[str]) -> bool:
    return all(not c.strip() or known_unit(c) or c.strip().strip("()[]").lower() in ("utc", "iso", "-") for c in cells)


# ---- the stream of characters ----------------------------------------------------------------------------------------


class _Characters(io.RawIOBase):
    """The rows of a file as UTF-8, without what stands above them and without comments: what Arrow parses."""

    def __init__(self, path: Path, dialect: _Dialect) -> None:
        super().__init__()
        self._path, self._d = path, dialect
        self._file = path.open("r", encoding=dialect.encoding, newline=dialect.newline)
        self.problem: UnreadableFile | None = None
        self._rest = ""
        self._line = 0
        try:
            for _ in range(dialect.skip):
                if len(self._file.readline(LINE_BYTES)) >= LINE_BYTES:
                    raise UnreadableFile(path, f"line {self._line + 1}", "it is too long")
                self._line += 1
        except UnicodeDecodeError as error:
            self._file.close()
            raise self._undecodable(error) from None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """About as many bytes as are asked for; nothing at the end."""
        try:
            while True:
                text = self._file.read(max(1, min(size if size > 0 else 1 << 20, 1 << 20)))
                at_end = not text
                text, self._rest = self._rest + text, ""
                if not text:
                    return b""
                if self._d.comment and self._d.comment in text:
                    if not at_end:  # whether the last line is a comment is known when it is whole
                        cut = text.rfind("\n") + 1
                        if not cut and len(text) <= LINE_BYTES:
                            self._rest = text
                            continue
                        text, self._rest = text[:cut] if cut else text, text[cut:] if cut else ""
                    text = self._without_comments(text)
                    if not text:
                        continue
                if self._d.delimiter == " ":
                    text = self._single_blanks(text, at_end)
                    if not text:
                        continue
                return text.encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            self.problem = self._undecodable(error)
            raise OSError("the text cannot be decoded") from None

    def _without_comments(self, text: str) -> str:
        lines = text.splitlines(keepends=True) if self._d.newline is None else text.split("\n")
        if self._d.newline is None:
            return "".join(line for line in lines if not line.lstrip().startswith("#"))
        return "\n".join(line for line in lines if not line.lstrip(" \t").startswith("#"))

    def _single_blanks(self, text: str, at_end: bool) -> str:
        if not at_end and not text.endswith("\n"):
            cut = text.rfind("\n") + 1
            text, self._rest = text[:cut], text[cut:] + self._rest
        return "\n".join(" ".join(line.split()) for line in text.split("\n"))

    def _undecodable(self, error: UnicodeDecodeError) -> UnreadableFile:
        line, at = _undecodable_line(self._path, self._d.encoding)
        return UnreadableFile(
            self._path, f"line {line}", f"byte {at} of the file is no {self._d.encoding}: {error.reason}"
        )

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _undecodable_line(path: Path, encoding: str) -> tuple[int, int]:
    """Line and byte of the first character that cannot be decoded."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, at = 1, 0
    with path.open("rb") as file:
        while data := file.read(1 << 16):
            try:
                line += decoder.decode(data).count("\n")
            except UnicodeDecodeError as error:
                bad = at + max(0, error.start - (len(error.object) - len(data)))
                good = bytes(error.object[: error.start]).decode(encoding, "replace")
                return line + good.count("\n"), bad
            at += len(data)
    return line, at


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Kind:
    """What has been learned of a column."""

    family: str = ""
    """`number`, `bool` or `text`; empty before the first value."""
    dtype: str = "int64"
    longest: int = 1

    def channel_dtype(self, sure: bool) -> str:
        if self.family == "number":
            return self.dtype if sure else "float64"
        return self.family or "float64"


@dataclass(slots=True)
class _File:
    """A text file as it is being learned."""

    path: Path
    reading: Reading
    own: _Dialect | None = None
    """How it is written, where scidaq wrote it."""
    dialect: _Dialect = field(init=False)
    known: list[Column] = field(init=False)
    time_at: int | None = field(init=False, default=None)
    stamps: bool = field(init=False, default=False)
    """Whether its times are ISO 8601; else numbers, by `rule`."""
    zoned: bool = field(init=False, default=True)
    rule: TimeRule | None = field(init=False, default=None)
    kinds: list[_Kind] = field(init=False)
    rows: int | None = field(init=False, default=None)
    missing: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        path, reading = self.path, self.reading
        self.dialect = d = self.own or _look(path, reading)
        self.missing = MISSING | {m.strip().lower() for m in reading.missing}
        self.known = columns(d.headings, d.units)
        if self.own is None:
            check_units(path, self.known, reading)
        self.kinds = [_Kind() for _ in self.known]
        if self.own is not None:
            self.missing, self.time_at, self.stamps = frozenset(("",)), 0, True
            return
        self._find_time()

    def _find_time(self) -> None:
        d, sample = self.dialect, self.dialect.sample
        try:
            at = find_time(d.headings, self.reading.time_column)
        except LookupError as error:
            raise UnreadableFile(self.path, f"line {d.skip}", str(error)) from None
        column = [[c for row in sample if len(row) > i and (c := row[i].strip())] for i in range(len(self.known))]
        if at is None:
            at = next((i for i, cells in enumerate(column) if cells and all(map(_STAMP.fullmatch, cells))), None)
        if at is None:
            if self.reading.rate_hz is None:
                names = ", ".join(d.headings[:20])
                raise UnreadableFile(
                    self.path, f"line {d.skip}", f"none of its columns is a time ({names}): name it, or say the rate"
                )
            return
        if self.reading.rate_hz is not None:
            raise UnreadableFile(self.path, "", f"its times are in column {d.headings[at]!r}; leave out the rate")
        self.time_at, cells = at, column[at]
        self.stamps = bool(cells) and bool(_STAMP.fullmatch(cells[0]))
        if self.stamps:
            self.zoned = bool(_ZONED.fullmatch(cells[0]))
        else:
            numbers = np.array([_number(c, d.decimal) for c in cells if _NUMBER[d.decimal].fullmatch(c)], np.float64)
            unit = d.units[at] if at < len(d.units) else ""
            self.rule = time_rule(d.headings[at], unit, numbers[np.isfinite(numbers)])

    # ---- reading ----

    def batches(self) -> Generator[list[Any], None, None]:
        """The columns of some rows, as Arrow arrays of texts; null where a cell is empty."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        names = [f"c{i}" for i in range(len(self.known))]
        ragged: list[Any] = []

        def refuse(row: Any) -> str:
            ragged.append((row.number, row.actual_columns, row.text))
            return "error"

        d, seen = self.dialect, 0
        characters = _Characters(self.path, d)
        try:
            reader = arrow_csv.open_csv(
                pa.PythonFile(characters, mode="r"),
                arrow_csv.ReadOptions(
                    use_threads=False, block_size=max(1 << 20, min(4 * d.longest, LINE_BYTES)), column_names=names
                ),
                arrow_csv.ParseOptions(delimiter=d.delimiter, newlines_in_values=True, invalid_row_handler=refuse),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    check_utf8=True,
                ),
            )
            with reader:
                for batch in reader:
                    yield batch.columns
                    seen += batch.num_rows
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            if characters.problem is not None:
                raise characters.problem from None
            if ragged:
                line, count = self._first_ragged()
                raise UnreadableFile(
                    self.path, f"line {line}", f"it has {count} cells where the header has {len(names)}"
                ) from None
            if "Empty CSV" in str(error):
                return
            raise UnreadableFile(self.path, f"behind row {seen}", " ".join(str(error).split())[:200]) from error
        finally:
            characters.close()

    def _by_hand(self) -> Iterator[tuple[int, list[str]]]:
        """Each row with the number of the line on which it ends: slow, for finding what is wrong."""
        d = self.dialect
        with self.path.open("r", encoding=d.encoding, newline=d.newline, errors="replace") as file:
            for _ in range(d.skip):
                file.readline(LINE_BYTES)
            number = d.skip

            def lines() -> Iterator[str]:
                nonlocal number
                for line in file:
                    number += 1
                    if not (d.comment and line.lstrip(" \t").startswith(d.comment)):
                        yield line.replace("\0", "")

            if d.delimiter == " ":
                for line in lines():
                    if line.strip():
                        yield number, line.split()
                return
            csv.field_size_limit(LINE_BYTES)
            for row in csv.reader(lines(), delimiter=d.delimiter):
                if row:
                    yield number, row

    def _first_ragged(self) -> tuple[int, int]:
        """Line and number of cells of the first row that has another number than the header."""
        return next(((line, len(cells)) for line, cells in self._by_hand() if len(cells) != len(self.known)), (0, 0))

    def line_of(self, row: int) -> str:
        """Where a row stands, in words."""
        for i, (line, _) in enumerate(self._by_hand()):
            if i == row:
                return f"line {line}"
        return f"row {row + 1}"

    def wrong(self, error: _Wrong, before: int) -> UnreadableFile:
        """The error of a cell, with its line and column."""
        heading = self.dialect.headings[error.column].strip() or self.known[error.column].channel
        text = error.text if len(error.text) <= 60 else f"{error.text[:60]}…"
        hint = "; say what stands for a missing value, if it does" if "number" in error.why else ""
        return UnreadableFile(
            self.path, f"{self.line_of(before + error.row)}, column {heading!r}", f"{text!r} {error.why}{hint}"
        )

    # ---- learning ----

    def learn(self) -> None:
        """Look at the cells: all of them, or those of the first `SAMPLE_BYTES`."""
        seen = size = 0
        with closing(self.batches()) as batches:
            for arrays in batches:
                for i, array in enumerate(arrays):
                    if i != self.time_at:
                        try:
                            self._learn_column(i, array)
                        except _Wrong as error:
                            raise self.wrong(error, seen) from None
                seen += len(arrays[0])
                size += sum(a.nbytes for a in arrays)
                if size >= SAMPLE_BYTES and not self.reading.thorough:
                    return
        self.rows = seen

    def _learn_column(self, i: int, array: Any) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = self.kinds[i]
        if array.null_count == len(array):
            return
        if kind.family in ("", "text"):
            longest = pc.max(pc.binary_length(array)).as_py() or 0
            kind.longest = max(kind.longest, longest)
        if not kind.family:
            kind.family = self._family(array)
        if kind.family == "bool":
            _bools(i, array, self.missing)
        elif kind.family == "number":
            texts = self._texts(array)
            for dtype in ("int64", "uint64"):
                if kind.dtype == dtype:
                    try:
                        pc.cast(texts, pa.type_for_alias(dtype))
                        return
                    except pa.ArrowInvalid:
                        kind.dtype = "uint64" if dtype == "int64" and self._beyond(texts) else "float64"
            _floats(i, texts)

    @staticmethod
    def _beyond(texts: Any) -> bool:
        """Whether there may be whole numbers that only a uint64 holds."""
        import pyarrow.compute as pc

        return (pc.max(pc.utf8_length(texts)).as_py() or 0) >= 19

    def _family(self, array: Any) -> str:
        """What the first values of a column are, by the most of them."""
        values = [
            v for v in array.slice(0, 1000).to_pylist() if v is not None and v.strip().lower() not in self.missing
        ]
        if not values:
            return ""
        lower = {v.strip().lower() for v in values}
        if lower <= _BOOLS:
            return "bool"
        numbers = sum(_NUMBER[self.dialect.decimal].fullmatch(v) is not None for v in values)
        return "number" if 2 * numbers >= len(values) else "text"

    def _texts(self, array: Any) -> Any:
        """Cells of numbers as Arrow reads them: trimmed, with a point, null where a value is missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        array = pc.utf8_trim_whitespace(array)
        if self.dialect.decimal == ",":
            array = pc.replace_substring(array, ",", ".")
        lower = pc.utf8_lower(array)
        absent = pc.is_in(lower, pa.array(sorted(self.missing)))
        if pc.any(absent).as_py():
            array = pc.if_else(absent, pa.scalar(None, array.type), array)
        return array

    # ---- rows ----

    def table(self) -> Table:
        """The table, once it has been learned."""
        sure = self.rows is not None
        parts: list[tuple[int, Channel]] = []
        for i, (column, kind) in enumerate(zip(self.known, self.kinds, strict=True)):
            if i == self.time_at:
                continue
            dtype = kind.channel_dtype(sure)
            more = {}
            if dtype == "text":
                if kind.longest > MAX_TEXT_BYTES:
                    raise UnreadableFile(
                        self.path,
                        f"column {column.name!r}",
                        f"a text of it has {kind.longest} bytes; {MAX_TEXT_BYTES} are the most",
                    )
                more["max_bytes"] = kind.longest if sure else min(MAX_TEXT_BYTES, max(64, 4 * kind.longest))
            parts.append((i, described(column, self.reading, dtype, **more)))
        if not parts:
            raise UnreadableFile(self.path, f"line {self.dialect.skip}", "it has no column but the time")
        if self.time_at is None and self.rows != 0 and all(c.dtype == "text" for _, c in parts):
            line = f"line {self.dialect.skip + 1}"
            raise UnreadableFile(self.path, line, "there is neither a time nor a number: it is text, and no table")
        schema = Schema(tuple(c for _, c in parts), None if self.time_at is not None else self.reading.rate)
        timed = self.time_at is not None and (self.stamps or (self.rule is not None and self.rule.timed))
        timed, shift_ns = settle(self.path, timed, self.reading)
        name = slug(self.path.stem)
        notes = self.dialect.notes
        if self.stamps and not self.zoned:
            notes += (f"the times in column {self.dialect.headings[self.time_at or 0]!r} name no zone: taken as UTC",)

        def read() -> Iterator[Block]:
            return one_after_the_other(self.path, name, schema, self.read(parts), shift_ns, self.line_of)

        return Table(name, schema, read, timed, self.rows, notes=notes)

    def read(self, parts: Sequence[tuple[int, Channel]]) -> Iterator[Rows]:
        """The rows as arrays. Raises `UnreadableFile` with the line and column of what is wrong."""
        seen = 0
        with closing(self.batches()) as batches:
            for arrays in batches:
                try:
                    times = None if self.time_at is None else self.times(arrays[self.time_at])
                    values, masks = [], []
                    for i, channel in parts:
                        column, mask = self.values(i, channel, arrays[i])
                        values.append(column)
                        masks.append(mask)
                except _Wrong as error:
                    raise self.wrong(error, seen) from None
                seen += len(arrays[0])
                yield Rows(tuple(values), tuple(masks), times)

    def times(self, array: Any) -> Times:
        """The times of some rows."""
        i = self.time_at or 0
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise _Wrong(row, i, "", "is no time")
        if self.stamps:
            return _stamps(i, array, self.zoned)
        rule = self.rule or TimeRule(1, True)
        texts = self._texts(array)
        exact = _decimal_times(texts, rule.factor)
        if exact is not None:
            return exact
        numbers, mask = _numbers(i, texts, "float64")
        if mask is not None:
            row = int(np.flatnonzero(~mask)[0])
            raise _Wrong(row, i, array[row].as_py(), "is no time")
        try:
            return rule.ns(numbers)
        except ValueError:
            for row, number in enumerate(numbers.tolist()):
                try:
                    rule.ns(np.array([number]))
                except ValueError as error:
                    raise _Wrong(row, i, array[row].as_py(), f"is no time: {error}") from None
            raise

    def values(self, i: int, channel: Channel, array: Any) -> tuple[Array, Mask | None]:
        """The values of some rows of a column."""
        if channel.dtype == "text":
            return _as_texts(i, channel, array)
        if channel.dtype == "bool":
            return _bools(i, array, self.missing)
        return _numbers(i, self._texts(array), channel.dtype)


# ---- cells -----------------------------------------------------------------------------------------------------------


def _number(text: str, decimal: str) -> float:
    return float(text.strip().replace(decimal, ".").lower().replace("d", "e"))


def _floats(i: int, texts: Any) -> Any:
    """Cells as an Arrow array of float64. Raises `_Wrong` for the first that is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.cast(texts, pa.float64())
    except pa.ArrowInvalid:
        out = []
        for row, text in enumerate(texts.to_pylist()):
            if text is not None and not _NUMBER["."].fullmatch(text):
                raise _Wrong(row, i, text, "is no number") from None
            out.append(None if text is None else _number(text, "."))
        return pa.array(out, pa.float64())


def _numbers(i: int, texts: Any, dtype: str) -> tuple[Array, Mask | None]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if dtype == "float64":
        array = _floats(i, texts)
    else:
        kind = pa.float32() if dtype == "float32" else pa.type_for_alias(dtype)
        try:
            array = pc.cast(texts, kind)
        except pa.ArrowInvalid:
            for row, text in enumerate(texts.to_pylist()):
                try:
                    pc.cast(pa.scalar(text, pa.string()), kind)
                except pa.ArrowInvalid:
                    raise _Wrong(row, i, text, f"is no number that {dtype} holds") from None
            raise
    mask = None
    if array.null_count:
        mask = ~array.is_null().to_numpy(zero_copy_only=False)
        array = pc.fill_null(array, pa.scalar(0, array.type))
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False)), mask


def _decimal_times(texts: Any, factor: int) -> Times | None:
    """Decimal numbers as nanoseconds, without the rounding that a float64 of seconds brings; None where that fails."""
    import pyarrow as pa
    import pyarrow.compute as pc

    digits = len(str(factor)) - 1
    if factor != 10**digits or texts.null_count:
        return None
    try:
        exact = pc.cast(texts, pa.decimal128(38, digits))
    except pa.ArrowInvalid:
        return None
    words = np.frombuffer(exact.buffers()[1], np.int64)[2 * exact.offset : 2 * (exact.offset + len(exact))]
    low, high = words[::2], words[1::2]
    if not (high == low >> 63).all() or (np.abs(low) > 1 << 62).any():
        return None
    return np.ascontiguousarray(low)


def _bools(i: int, array: Any, missing: frozenset[str]) -> tuple[Array, Mask | None]:
    values = np.zeros(len(array), np.bool_)
    mask = np.ones(len(array), np.bool_)
    for row, text in enumerate(array.to_pylist()):
        lower = "" if text is None else text.strip().lower()
        if lower in _BOOLS:
            values[row] = lower == "true"
        elif lower in missing:
            mask[row] = False
        else:
            raise _Wrong(row, i, text, "is neither true nor false, as the others in the column are")
    return values, None if mask.all() else mask


def _as_texts(i: int, channel: Channel, array: Any) -> tuple[Array, Mask | None]:
    mask = None
    if array.null_count:
        mask = ~array.is_null().to_numpy(zero_copy_only=False)
    texts = [b"" if v is None else v.encode() for v in array.to_pylist()]
    try:
        return text_column(texts, channel.max_bytes), mask
    except ValueError:
        for row, text in enumerate(texts):
            try:
                text_column([text], channel.max_bytes)
            except ValueError as error:
                raise _Wrong(row, i, text.decode(), f"cannot be kept: {error}") from None
        raise


def _stamps(i: int, array: Any, zoned: bool) -> Times:
    """ISO 8601 as nanoseconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(array)
    kind = pa.timestamp("ns", "UTC" if zoned else None)
    try:
        return np.ascontiguousarray(pc.cast(pc.cast(texts, kind), pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        out = []
        for row, text in enumerate(texts.to_pylist()):
            ns = _stamp(text)
            if ns is None:
                raise _Wrong(row, i, text, "is no time (ISO 8601, as 2026-01-31T12:00:00.5Z)") from None
            out.append(ns)
        return np.array(out, np.int64)


def _stamp(text: str) -> int | None:
    """One time, with any number of digits behind the second, and with either sign before them."""
    from datetime import UTC, datetime

    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))?\s*(Z|[+-]\d\d:?\d\d)?)?", text)
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}{zone or ''}")
    except ValueError:
        return None
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    ns = (since.days * 86_400 + since.seconds) * 1_000_000_000 + int((fraction or "0")[:9].ljust(9, "0"))
    return ns if abs(ns) < 1 << 62 else None
