"""SQL over what is recorded: one SELECT, within limits, with no way to files or the network.

A connection to DuckDB in memory knows the streams that a query names as tables, whose rows are read when they come up:
only the columns that it needs, and only the time that its WHERE leaves. For a process of its own, or the command line:
a query may hold the interpreter while it runs.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from scidaq.block import Block, Channel
from scidaq.catalog import read_run_book
from scidaq.errors import QueryLimit, QueryRefused
from scidaq.query.ahead import cores
from scidaq.query.reader import Reader
from scidaq.query.rows import values_of

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST = 100_000
"""Characters of a query."""
_BATCH_ROWS = 65_536
_RESULT_ROWS = 16_384
_END = 1 << 62
"""Beyond every time."""
_STEADY = frozenset(
    "now ago - + * trunc date_trunc current_date today make_timestamp make_timestamp_ms make_timestamp_ns".split()
)
"""Functions, with those that begin with `to_`, that are the same whenever a query asks."""
_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "repeat", "json_each", "json_tree", "summary"})
"""Functions that may stand in FROM: none of them looks outside."""
_COMPARISONS = {
    "COMPARE_GREATERTHAN": (True, 0),
    "COMPARE_GREATERTHANOREQUALTO": (True, 0),
    "COMPARE_LESSTHAN": (False, 0),
    "COMPARE_LESSTHANOREQUALTO": (False, 1),
}
"""Which end of a range each sets for what stands on its left, and how far behind the value a range ends."""
_MIRRORED = {
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
}
_AGO = "CREATE MACRO ago(length) AS ((now() - CAST(length AS INTERVAL)) AT TIME ZONE 'UTC')::TIMESTAMP_NS"
_SETTINGS = (
    "SET TimeZone = 'UTC'",
    _AGO,
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


@dataclass(frozen=True, slots=True)
class SqlLimits:
    """What a query may take."""

    seconds: float | None = 30.0
    memory_bytes: int = 512 << 20
    rows: int | None = 1_000_000
    bytes: int | None = 64 << 20
    """Of the result, as Arrow has it."""
    threads: int = 2


UNLIMITED = SqlLimits(None, 1 << 30, None, None, cores())
"""For the command line, where Ctrl-C ends a query; the memory is bounded all the same."""


class SqlResult:
    """What a query gives, while `run_sql` is open."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.schema = schema
        self.batches = batches
        """One after the other; taking one may raise `QueryRefused` and `QueryLimit`."""


@contextmanager
def run_sql(data_dir: Path, query: str, limits: SqlLimits = UNLIMITED) -> Iterator[SqlResult]:
    """The result of a query over a data directory, batch by batch.

    Raises `QueryRefused` for what is not one SELECT or cannot be done, and `QueryLimit` for what takes too much.
    """
    reader = Reader(data_dir, threads=limits.threads)
    connection = _connection(limits)
    over = _Deadline(connection, limits.seconds)
    try:
        with _in_words(limits, over):
            connection.begin()  # so that now() is the same moment throughout
            Tables(connection, reader).register(query)
            relation = connection.sql(query)
            if relation is None:
                raise QueryRefused("this gives no rows: ask with one SELECT")
            found = (getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch)(_RESULT_ROWS)
        yield SqlResult(found.schema, _within(found, limits, over))
    finally:
        over.cancel()
        connection.close()


def _connection(limits: SqlLimits) -> Any:
    """DuckDB in memory, which can open nothing."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{limits.memory_bytes >> 20}MiB",
        "threads": limits.threads,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    connection = duckdb.connect(":memory:", config=config)
    for setting in _SETTINGS:
        connection.execute(setting)
    return connection


class _Deadline(threading.Timer):
    """Interrupts a connection when its time is over."""

    def __init__(self, connection: Any, seconds: float | None) -> None:
        super().__init__(seconds or 0, self._end)
        self.daemon, self.passed = True, False
        self._connection, self._seconds = connection, seconds
        if seconds is not None:
            self.start()

    def _end(self) -> None:
        self.passed = True
        self._connection.interrupt()

    def check(self) -> None:
        """Raises `QueryLimit` when it has passed."""
        if self.passed:
            raise QueryLimit(
                f"the query took longer than {self._seconds:g} s, and was ended: ask for less time, or fewer columns "
                "or groups"
            )


@contextmanager
def _in_words(limits: SqlLimits, over: _Deadline) -> Iterator[None]:
    """DuckDB's errors as ours."""
    import duckdb
    import pyarrow as pa

    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError, MemoryError) as error:
        over.check()
        raise _refusal(str(error), limits) from error
    over.check()


def _refusal(words: str, limits: SqlLimits) -> QueryRefused:
    words = words.strip()
    if "Out of Memory" in words or not words or "malloc" in words or "bad allocation" in words:
        most = f"{limits.memory_bytes >> 20} MiB"
        return QueryLimit(f"the query needs more memory than the {most} that it may have: ask for less at once")
    return QueryRefused(words[:2000])


def _within(found: Iterator[pa.RecordBatch], limits: SqlLimits, over: _Deadline) -> Iterator[pa.RecordBatch]:
    """The batches, as long as they are not too much."""
    rows = size = 0
    while True:
        with _in_words(limits, over):
            batch = next(found, None)
        if batch is None:
            return
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if limits.rows is not None and rows > limits.rows:
            raise QueryLimit(f"the result has more than {limits.rows} rows: add a LIMIT, or groups")
        if limits.bytes is not None and size > limits.bytes:
            raise QueryLimit(f"the result is larger than {limits.bytes >> 20} MiB: add a LIMIT, or ask for less")
        yield batch


# ---- what a query asks for -------------------------------------------------------------------------------------------


class Tables:
    """Makes known to a connection what a query names, and refuses what is not one SELECT."""

    def __init__(self, connection: Any, reader: Reader) -> None:
        self._connection, self._reader = connection, reader

    def register(self, query: str) -> None:
        """Raises `QueryRefused`."""
        tree = self._parsed(query)
        named, shadowed = _looked_through(tree)
        streams = self._streams()
        ranges = self._ranges(tree, named, shadowed)
        for name in named:
            if name in _OWN:
                self._connection.register(name, _OWN[name](self._reader, streams))
            elif name in streams:
                table = StreamTable(self._reader, streams[name], ranges.get(name, Range()))
                self._connection.register(name, table.dataset())
            elif name not in shadowed:
                known = [*sorted(streams), *_OWN]
                near = get_close_matches(name, known, 1)
                hint = f" (did you mean {_quoted(near[0])}?)" if near else ""
                raise QueryRefused(
                    f"there is no stream or table {name[:100]!r}{hint}: SELECT id FROM streams lists the streams, "
                    'which are named as "instrument/stream"'
                )

    def _parsed(self, query: str) -> Any:
        """The one SELECT that it is, as a tree."""
        if len(query) > LONGEST:
            raise QueryRefused(f"a query has at most {LONGEST} characters, not {len(query)}")
        statements = self._connection.extract_statements(query)
        if len(statements) != 1:
            raise QueryRefused(f"give one SELECT, not {len(statements) or 'no'} statements")
        kind = getattr(statements[0].type, "name", str(statements[0].type))
        if kind != "SELECT":
            raise QueryRefused(f"give a SELECT: {kind} is not allowed here, where everything can only be read")
        tree = self._tree(query)
        if tree.get("error"):
            raise QueryRefused(f"give a plain SELECT: {tree.get('error_message')}")
        return tree

    def _tree(self, query: str) -> Any:
        ((text,),) = self._connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            raise QueryRefused("the query is nested too deeply") from None

    def _streams(self) -> dict[str, str]:
        """The id of each stream, by what it may be called: its id, and that with `_` where another name is not."""
        ids = self._reader.names()
        aliases: dict[str, list[str]] = {}
        for stream in ids:
            aliases.setdefault(alias(stream), []).append(stream)
        return {stream: stream for stream in ids} | {
            name: one[0] for name, one in aliases.items() if len(one) == 1 and name not in ids
        }

    # ---- ranges of time ----

    def _ranges(self, tree: Any, named: Sequence[str], shadowed: frozenset[str]) -> dict[str, Range]:
        """Per table the range of time that all of its uses together leave.

        Only where WHERE says so by comparisons with `time` joined by AND, and FROM is that table alone or a plain join:
        there a row outside of the range can change nothing.
        """
        uses: dict[str, int] = {}
        found: dict[str, list[Range]] = {}
        for node in _nodes(tree):
            if node.get("type") == "BASE_TABLE":
                uses[_name(node)] = uses.get(_name(node), 0) + 1
            if node.get("type") != "SELECT_NODE" or not isinstance(node.get("where_clause"), Mapping):
                continue
            tables = _plainly_joined(node.get("from_table"))
            conditions = list(_conjuncts(node["where_clause"]))
            for table in tables:
                name, called = _name(table), table.get("alias") or _name(table)
                if name in shadowed:
                    continue
                reach = self._range(conditions, called if len(tables) > 1 else None, called)
                found.setdefault(name, []).append(reach)
        return {
            name: _hull(ranges) for name, ranges in found.items() if name in named and len(ranges) == uses.get(name)
        }

    def _range(self, conditions: Sequence[Mapping[str, Any]], qualifier: str | None, called: str) -> Range:
        """What conditions leave of the time of a table."""
        start_ns, stop_ns = -_END, _END
        for kind, value in (pair for one in conditions for pair in _comparisons(one, qualifier, called)):
            ns = self._value_ns(value)
            if ns is None:
                continue
            lower, behind = _COMPARISONS[kind]
            if lower:
                start_ns = max(start_ns, ns)
            else:
                stop_ns = min(stop_ns, ns + behind)
        return Range(start_ns, max(stop_ns, start_ns))

    def _value_ns(self, expression: Any) -> int | None:
        """What a constant is as a time; None for what is none."""
        if not all(map(_steady, _nodes(expression))):
            return None
        import duckdb

        try:
            tree = self._tree("SELECT 1")
            tree["statements"][0]["node"]["select_list"] = [dict(expression, alias="")]
            text = orjson.dumps(tree).decode()
            ((said,),) = self._connection.execute("SELECT json_deserialize_sql(?::JSON)", [text]).fetchall()
            inner = said.strip().rstrip(";").removeprefix("SELECT ")
            ((ns,),) = self._connection.execute(f"SELECT epoch_ns(CAST(({inner}) AS TIMESTAMP_NS))").fetchall()
        except (duckdb.Error, KeyError, TypeError, orjson.JSONDecodeError):
            return None  # the query itself says what is wrong with it
        return None if ns is None or not -_END < ns < _END else int(ns)


@dataclass(frozen=True, slots=True)
class Range:
    """A range of time, `start_ns <= time < stop_ns`."""

    start_ns: int = -_END
    stop_ns: int = _END


def _hull(ranges: Sequence[Range]) -> Range:
    return Range(min(r.start_ns for r in ranges), max(r.stop_ns for r in ranges))


def _name(table: Mapping[str, Any]) -> str:
    """Of a table, as SQL tells names apart."""
    return str(table.get("table_name", "")).lower()


def _steady(node: Mapping[str, Any]) -> bool:
    """Whether a part of an expression is the same whenever a query asks."""
    if node.get("class") == "FUNCTION":
        name = str(node.get("function_name"))
        return name in _STEADY or name.startswith("to_")
    return node.get("class") in (None, "CONSTANT", "CAST", "TYPE")


def alias(stream: str) -> str:
    """What a stream may be called without quotes."""
    return re.sub(r"[^a-z0-9]", "_", stream)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else f'"{name}"'


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every node of a tree, without recursion."""
    left = [tree]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            yield one
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)


def _looked_through(tree: Any) -> tuple[list[str], frozenset[str]]:
    """The tables that it names, and of these the names that a WITH gives. Raises `QueryRefused`."""
    named: dict[str, None] = {}
    shadowed: set[str] = set()
    for node in _nodes(tree):
        kind = node.get("type")
        if kind == "TABLE_FUNCTION":
            function = node.get("function", {}).get("function_name", "")
            if function not in _FUNCTIONS:
                raise QueryRefused(
                    f"{str(function)[:100] or 'this function'} is not allowed in FROM: only what is recorded can be "
                    "read, not files, settings or the network"
                )
        elif kind == "BASE_TABLE":
            name = _name(node)
            if node.get("schema_name") or node.get("catalog_name"):
                raise QueryRefused(f"table {name[:100]!r}: give its name alone, without schema or catalog")
            named[name] = None
        for entry in (node.get("cte_map") or {}).get("map", []):
            shadowed.add(str(entry.get("key")).lower())
        if "cte_name" in node:
            shadowed.add(str(node["cte_name"]).lower())
    return list(named), frozenset(shadowed)


def _plainly_joined(table: Any) -> list[Mapping[str, Any]]:
    """The tables of a FROM that is one table, or inner joins of some; none for everything else."""
    if not isinstance(table, Mapping) or table.get("sample"):
        return []
    if table.get("type") == "BASE_TABLE":
        return [] if table.get("column_name_alias") or table.get("at_clause") else [table]
    plain = table.get("ref_type") in ("REGULAR", "CROSS") and table.get("join_type", "INNER") == "INNER"
    if table.get("type") != "JOIN" or not plain:
        return []
    left, right = _plainly_joined(table.get("left")), _plainly_joined(table.get("right"))
    return [*left, *right] if left and right else []


def _conjuncts(where: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The conditions that all have to hold."""
    left = [where]
    while left:
        one = left.pop()
        if one.get("type") == "CONJUNCTION_AND":
            left.extend(child for child in one.get("children", []) if isinstance(child, Mapping))
        else:
            yield one


def _comparisons(one: Mapping[str, Any], qualifier: str | None, called: str) -> Iterator[tuple[str, Any]]:
    """What a condition says of `time`: comparisons with values on their right."""
    kind = str(one.get("type"))
    if kind == "COMPARE_BETWEEN" and _is_time(one.get("input"), qualifier, called):
        yield "COMPARE_GREATERTHANOREQUALTO", one.get("lower")
        yield "COMPARE_LESSTHANOREQUALTO", one.get("upper")
        return
    left, right = one.get("left"), one.get("right")
    if _is_time(right, qualifier, called):
        left, right, kind = right, left, _MIRRORED.get(kind, kind)
    if not _is_time(left, qualifier, called) or right is None:
        return
    if kind == "COMPARE_EQUAL":
        yield "COMPARE_GREATERTHANOREQUALTO", right
        yield "COMPARE_LESSTHANOREQUALTO", right
    elif kind in _COMPARISONS:
        yield kind, right


def _is_time(one: Any, qualifier: str | None, called: str) -> bool:
    """Whether it is the column `time` of a table; with a qualifier, one that says so itself."""
    if not isinstance(one, Mapping) or one.get("class") != "COLUMN_REF":
        return False
    names = [str(part) for part in one.get("column_names", [])]
    if qualifier is None and len(names) == 1:
        return names[0].lower() == "time"
    return len(names) == 2 and names[0].lower() == called.lower() and names[1].lower() == "time"


# ---- streams as tables -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a stream's table: a channel, in those epochs in which it is as it is last."""

    name: str
    channel: Channel
    """As its values are: calibrated."""
    epochs: frozenset[int]


class StreamTable:
    """The rows of a stream as a table, read when they are asked for."""

    def __init__(self, reader: Reader, stream: str, reach: Range) -> None:
        self._reader, self._stream, self._reach = reader, stream, reach
        self._epochs = {epoch.number: epoch.schema for epoch in reader.epochs(stream)}
        self._columns = {one.name: one for one in columns_of({n: s.channels for n, s in self._epochs.items()})}

    def schema(self) -> pa.Schema:
        """`time` (UTC), `epoch`, `row`, then the channels."""
        import pyarrow as pa

        own = [("time", pa.timestamp("ns")), ("epoch", pa.int64()), ("row", pa.int64())]
        return pa.schema([*own, *((one.name, _kind(one.channel)) for one in self._columns.values())])

    def dataset(self) -> Any:
        """What DuckDB scans: it says which columns it needs, and what it knows of `epoch`."""
        import pyarrow.dataset as ds

        table, schema = self, self.schema()

        class Rows(ds.InMemoryDataset):  # type: ignore[misc]
            """A data set without data: whoever scans it gets the rows of the stream."""

            def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **how: Any) -> Any:  # noqa: A002
                asked = str(filter) if filter is not None else ""
                needed = [n for n in schema.names if columns is None or n in columns or n in asked]
                kind = schema if columns is None else _chosen(schema, needed)
                chosen = schema.names if columns is None else list(columns)
                rows = table.batches(kind, filter)
                return ds.Scanner.from_batches(rows, schema=kind, columns=chosen, filter=filter)

        return Rows([], schema=schema)

    def batches(self, kind: pa.Schema, where: Any) -> Iterator[pa.RecordBatch]:
        """The rows, with these columns only."""
        wanted = [self._columns[name] for name in kind.names if name in self._columns]
        start_ns = None if self._reach.start_ns == -_END else self._reach.start_ns
        stop_ns = None if self._reach.stop_ns == _END else self._reach.stop_ns
        for epoch in _epochs_within(sorted(self._epochs), where):
            channels = [one.channel.name for one in wanted if epoch in one.epochs]
            least = min(self._epochs[epoch].channels, key=lambda c: c.elements * c.numpy_dtype.itemsize)
            found = self._reader.blocks(self._stream, start_ns, stop_ns, channels or [least.name], epoch=epoch)
            for block in found:
                if isinstance(block, Block):
                    for first in range(block.first, block.end, _BATCH_ROWS):
                        yield _batch(block.slice(first, min(block.end, first + _BATCH_ROWS)), kind, wanted)


def _chosen(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([schema.field(name) for name in names])


def columns_of(epochs: Mapping[int, Sequence[Channel]]) -> list[Column]:
    """The columns of a stream's table: each channel as it is in the newest epoch that has it, across all epochs.

    One that was another kind of thing before (of another unit or shape, a text) has a column for that, too, named as
    `name@epoch` after the last epoch in which it was so. Names that SQL cannot tell apart get a number.
    """
    kinds: dict[str, list[tuple[Channel, set[int]]]] = {}
    for number in sorted(epochs, reverse=True):
        for channel in epochs[number]:
            value = values_of(channel, raw=False)
            for i, (known, numbers) in enumerate(kinds.setdefault(channel.name, [])):
                if (both := _both(known, value)) is not None:
                    kinds[channel.name][i] = (both, numbers | {number})
                    break
            else:
                kinds[channel.name].append((value, {number}))
    taken = {"time", "epoch", "row"}
    out = []
    for name, variants in kinds.items():
        for i, (channel, numbers) in enumerate(variants):
            wanted = free = name if i == 0 else f"{name}@{max(numbers)}"
            count = 1
            while free.lower() in taken:
                free, count = f"{wanted}_{count}", count + 1
            taken.add(free.lower())
            out.append(Column(free, channel, frozenset(numbers)))
    return out


def _both(newer: Channel, older: Channel) -> Channel | None:
    """What holds the values of both; None when they are not the same kind of thing."""
    if (newer.unit, newer.shape, newer.labels) != (older.unit, older.shape, older.labels):
        return None
    if newer.dtype == older.dtype:
        return newer
    if {newer.dtype, older.dtype} & {"text", "bool"}:
        return None
    kind = np.result_type(newer.numpy_dtype, older.numpy_dtype)
    exact = not (kind.kind == "f" and {newer.dtype, older.dtype} & {"int64", "uint64"})
    return replace(newer, dtype=str(kind)) if exact else None


def _kind(channel: Channel) -> pa.DataType:
    import pyarrow as pa

    if channel.dtype == "text":
        return pa.utf8()
    kind = pa.from_numpy_dtype(channel.numpy_dtype)
    for n in reversed(channel.shape):
        kind = pa.list_(kind, n)
    return kind


def _batch(block: Block, kind: pa.Schema, wanted: Sequence[Column]) -> pa.RecordBatch:
    import pyarrow as pa

    from scidaq.block import record_batch

    rows = record_batch(block)
    by_name = {one.name: one for one in wanted}
    arrays = []
    for field in kind:
        if field.name == "time":
            array = rows.column(0).view(field.type)
        elif field.name == "epoch":
            array = pa.array(np.full(block.rows, block.epoch))
        elif field.name == "row":
            array = pa.array(np.arange(block.first, block.end))
        elif block.epoch in by_name[field.name].epochs:
            array = rows.column(rows.schema.get_field_index(by_name[field.name].channel.name))
            array = array if array.type == field.type else array.cast(field.type)
        else:
            array = pa.nulls(block.rows, field.type)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=kind)


def _epochs_within(epochs: Sequence[int], where: Any) -> list[int]:
    """Those that a filter may leave something of, as Arrow itself judges."""
    if where is None or len(epochs) < 2:
        return list(epochs)
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    from pyarrow import fs

    schema = pa.schema([("epoch", pa.int64())])
    pieces = ds.FileSystemDataset.from_paths(
        [str(number) for number in epochs],
        schema=schema,
        format=ds.IpcFileFormat(),
        filesystem=fs.LocalFileSystem(),  # none of these is ever opened: they stand for epochs
        partitions=[pc.field("epoch") == pa.scalar(number, pa.int64()) for number in epochs],
    )
    try:
        return sorted(int(piece.path) for piece in pieces.get_fragments(where))
    except pa.ArrowException:  # it is about columns beside
        return list(epochs)


# ---- tables of what was done -----------------------------------------------------------------------------------------


def _table(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Any]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=pa.schema(list(kinds.items())))


def _streams_table(reader: Reader, streams: Mapping[str, str]) -> pa.Table:
    """What is recorded."""
    import pyarrow as pa

    ns, count, text = pa.timestamp("ns"), pa.int64(), pa.utf8()
    called = {stream: name for name, stream in streams.items() if name != stream}
    rows = []
    for stream in sorted(set(streams.values())):
        parts = reader.summary(stream)
        rows.append(
            {
                "id": stream,
                "alias": called.get(stream),
                "rows": sum(s.rows for s in parts),
                "gap_rows": sum(s.gap_rows for s in parts),
                "epochs": len(parts),
                "start": min((s.first_ns for s in parts if s.first_ns is not None), default=None),
                "stop": max((s.last_ns for s in parts if s.last_ns is not None), default=None),
                "bytes": sum(s.bytes for s in parts),
            }
        )
    counts = {"rows": count, "gap_rows": count, "epochs": count, "start": ns, "stop": ns, "bytes": count}
    return _table(rows, {"id": text, "alias": text, **counts})


def _channels_table(reader: Reader, streams: Mapping[str, str]) -> pa.Table:
    """The channels of each stream, as columns of its table."""
    import pyarrow as pa

    text = pa.utf8()
    rows = []
    for stream in sorted(set(streams.values())):
        for one in columns_of({e.number: e.schema.channels for e in reader.epochs(stream)}):
            channel = one.channel
            said = {"unit": channel.unit, "dtype": channel.dtype, "description": channel.description}
            shape = {"shape": list(channel.shape), "labels": list(channel.labels)}
            rows.append({"stream": stream, "column": one.name, **said, **shape})
    lists = {"shape": pa.list_(pa.int64()), "labels": pa.list_(text)}
    words = dict.fromkeys(("stream", "column", "unit", "dtype", "description"), text)
    return _table(rows, {**words, **lists})


def _runs_table(reader: Reader, _: Mapping[str, str]) -> pa.Table:
    """The runs; `stop` is null while one is under way."""
    import pyarrow as pa

    ns, text = pa.timestamp("ns"), pa.utf8()
    rows = [
        {
            "id": run.id,
            "name": run.name,
            "start": run.start_ns,
            "stop": run.stop_ns,
            "streams": list(run.streams),
            "operator": run.operator,
            "sample": run.sample,
            "notes": run.notes,
            "metadata": orjson.dumps(dict(run.metadata)).decode(),
        }
        for run in read_run_book(reader.data_dir / "facts").runs()
    ]
    words = dict.fromkeys(("operator", "sample", "notes", "metadata"), text)
    return _table(rows, {"id": text, "name": text, "start": ns, "stop": ns, "streams": pa.list_(text), **words})


def _notes_table(reader: Reader, _: Mapping[str, str]) -> pa.Table:
    """The remarks; `until` is null for those about a moment."""
    import pyarrow as pa

    ns, text = pa.timestamp("ns"), pa.utf8()
    rows = [
        {
            "id": note.id,
            "time": note.t_ns,
            "until": note.end_ns,
            "text": note.text,
            "streams": list(note.streams),
            "run": note.run,
            "by": note.by,
        }
        for note in read_run_book(reader.data_dir / "facts").notes()
    ]
    about = {"text": text, "streams": pa.list_(text), "run": text, "by": text}
    return _table(rows, {"id": text, "time": ns, "until": ns, **about})


_OWN = {"streams": _streams_table, "channels": _channels_table, "runs": _runs_table, "notes": _notes_table}
"""The tables beside the streams."""
