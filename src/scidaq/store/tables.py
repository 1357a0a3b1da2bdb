"""Streams, epochs, segments and gaps in the catalog: what is kept where, for finding.

Everything here follows from what the segments say of themselves; writing it twice, in any order, changes nothing.
An epoch is put before its segments and gaps. The connections come from `Catalog.begin` and `Catalog.read`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
import sqlalchemy as sa

from scidaq.block import Epoch, Gap, Ledger, Reason, Schema
from scidaq.catalog import canonical, look_up, metadata, upsert
from scidaq.clock import Anchor

stream = sa.Table(
    "stream",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("first_seen_ns", sa.BigInteger, nullable=False),
)

epoch = sa.Table(
    "epoch",
    metadata,
    sa.Column("stream", sa.Text, sa.ForeignKey("stream.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("schema_json", sa.Text, nullable=False),
    sa.Column("anchor_json", sa.Text, nullable=False),
    sa.Column("counter", sa.Text),
    sa.Column("origin", sa.BigInteger, nullable=False),
    sa.Column("backfill", sa.Boolean, nullable=False),
    sa.Column("began_ns", sa.BigInteger, nullable=False),
)

segment = sa.Table(
    "segment",
    metadata,
    sa.Column("uuid", sa.String(36), primary_key=True),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("gap_rows", sa.BigInteger, nullable=False),
    sa.Column("first_ns", sa.BigInteger),
    sa.Column("last_ns", sa.BigInteger),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("ranges_json", sa.Text, nullable=False),
    sa.Column("ledger_json", sa.Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("sealed_ns", sa.BigInteger),
    sa.ForeignKeyConstraint(["stream", "epoch"], ["epoch.stream", "epoch.number"]),
    sa.Index(None, "stream", "epoch", "first"),
    sa.Index(None, "stream", "first_ns", "last_ns"),
)

gap = sa.Table(
    "gap",
    metadata,
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("end", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.String(32), primary_key=True),
    sa.Column("unknown", sa.Boolean, primary_key=True),
    sa.Column("start_ns", sa.BigInteger),
    sa.Column("end_ns", sa.BigInteger),
    sa.Column("open", sa.Boolean, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["stream", "epoch"], ["epoch.stream", "epoch.number"]),
)

_PLAIN = [c.name for c in segment.c if not c.name.endswith("_json")]


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """What the catalog knows of a segment."""

    uuid: str
    stream: str
    epoch: int
    first: int
    """The rows of the file lie within `[first, end)`."""
    end: int
    generation: int
    """Where ranges overlap, the higher one wins."""
    path: str
    """Relative to the data directory, with `/`."""
    state: Literal["hot", "sealed"]
    rows: int
    """Rows that are there."""
    gap_rows: int
    """Rows that gap records of the file explain."""
    first_ns: int | None
    """UTC nanoseconds of the first row, None without rows."""
    last_ns: int | None
    """UTC nanoseconds of the last row."""
    bytes: int
    """Size of the file."""
    ranges: tuple[tuple[int, int], ...]
    """The half-open ranges of the rows that are there, ascending."""
    ledger: Ledger
    created_ns: int
    sealed_ns: int | None = None


class EpochRow(NamedTuple):
    """What the catalog knows of an epoch."""

    epoch: Epoch
    began_ns: int
    """UTC nanoseconds at which it began."""


# ---- writing ---------------------------------------------------------------------------------------------------------


def put_epoch(conn: sa.Connection, epoch_: Epoch, began_ns: int) -> None:
    """Note an epoch, and its stream with it."""
    upsert(conn, stream, [{"id": epoch_.stream, "first_seen_ns": began_ns}], {"first_seen_ns": _earlier})
    upsert(
        conn,
        epoch,
        [
            {
                "stream": epoch_.stream,
                "number": epoch_.number,
                "schema_json": canonical(epoch_.schema.as_json()),
                "anchor_json": canonical(asdict(epoch_.anchor)),
                "counter": epoch_.counter,
                "origin": epoch_.origin,
                "backfill": epoch_.backfill,
                "began_ns": began_ns,
            }
        ],
        {"began_ns": _first_said},
    )


def put_segment(conn: sa.Connection, row: SegmentRow) -> None:
    """Note a segment, or what became of it."""
    put_segments(conn, [row])


def put_segments(conn: sa.Connection, rows: Iterable[SegmentRow]) -> None:
    """Note many of them by one statement: to make that takes ten times as long as to carry it out."""
    upsert(conn, segment, [_values(row) for row in rows])


def _values(row: SegmentRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _PLAIN}
    values["ranges_json"] = json.dumps(row.ranges, separators=(",", ":"))
    values["ledger_json"] = json.dumps(row.ledger.as_list(), separators=(",", ":"))
    return values


def put_gaps(conn: sa.Connection, gaps_: Iterable[Gap]) -> None:
    """Note gaps. One that is final stays final, and bounds that are known stay known."""
    rows = [{c.name: getattr(one, c.name) for c in gap.c} | {"reason": str(one.reason)} for one in gaps_]
    upsert(conn, gap, rows, {"open": sa.and_, "start_ns": _known, "end_ns": _known})


def forget_segment(conn: sa.Connection, uuid: str) -> None:
    """Drop a segment whose file is no more (expired, replaced, in quarantine); an unknown one is no error."""
    conn.execute(segment.delete().where(segment.c.uuid == uuid))


def forget_all(conn: sa.Connection) -> None:
    """Drop everything that follows from segments, before it is projected again."""
    for table in (gap, segment, epoch, stream):
        conn.execute(table.delete())


def _earlier(old: sa.ColumnElement[Any], new: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.case((new < old, new), else_=old)


def _first_said(old: sa.ColumnElement[Any], new: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return old


def _known(old: sa.ColumnElement[Any], new: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(new, old)


# ---- reading ---------------------------------------------------------------------------------------------------------


def streams(conn: sa.Connection) -> list[str]:
    """The ids of all streams, sorted."""
    return list(conn.execute(sa.select(stream.c.id).order_by(stream.c.id)).scalars())


def epochs(conn: sa.Connection, stream_id: str | None = None) -> list[EpochRow]:
    """The epochs of one stream or of all, by stream and number."""
    rows = conn.execute(_of(epoch, stream_id).order_by(epoch.c.stream, epoch.c.number))
    return [
        EpochRow(
            Epoch(
                r.stream,
                r.number,
                Schema.from_json(json.loads(r.schema_json)),
                Anchor(**json.loads(r.anchor_json)),
                r.counter,
                r.origin,
                r.backfill,
            ),
            r.began_ns,
        )
        for r in rows
    ]


def segments(conn: sa.Connection, stream_id: str | None = None) -> list[SegmentRow]:
    """The segments of one stream or of all, by stream, epoch, first row and generation."""
    order = segment.c.stream, segment.c.epoch, segment.c.first, segment.c.generation, segment.c.uuid
    return [_segment_row(*r) for r in conn.execute(_of(segment, stream_id).order_by(*order))]


def sealed_segments(data_dir: Path) -> list[SegmentRow]:
    """The sealed segments of all streams that the catalog of a data directory knows, in no order.

    Raises `CatalogError`; `ValueError`, `TypeError` or `LookupError` where it says what no segment can be.
    """
    columns = ", ".join(f'"{column.name}"' for column in segment.c)
    return [_segment_row(*row) for row in look_up(data_dir, f"SELECT {columns} FROM segment WHERE state = 'sealed'")]


def _segment_row(*values: Any) -> SegmentRow:
    """From the columns in the order of the table; by place, since a start reads all there are."""
    make: Callable[..., SegmentRow] = SegmentRow
    *head, ranges_json, ledger_json, created_ns, sealed_ns = values
    ranges = tuple((first, end) for first, end in orjson.loads(ranges_json))
    return make(*head, ranges, Ledger(*orjson.loads(ledger_json)), created_ns, sealed_ns)


def gaps(conn: sa.Connection, stream_id: str | None = None) -> list[Gap]:
    """The gaps of one stream or of all, by stream, epoch and row."""
    rows = conn.execute(_of(gap, stream_id).order_by(*gap.primary_key)).mappings()
    return [Gap(**dict(r) | {"reason": Reason(r["reason"])}) for r in rows]


def _of(table: sa.Table, stream_id: str | None) -> sa.Select[Any]:
    return sa.select(table) if stream_id is None else sa.select(table).where(table.c.stream == stream_id)
