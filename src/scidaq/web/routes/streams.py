"""Streams: what is recorded, and the rows themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from scidaq.block import Block, Schema
from scidaq.errors import RequestError, UnknownStream
from scidaq.query import Grid, Place, StreamSummary
from scidaq.web.answers import (
    Json,
    Routes,
    Time,
    cursor_text,
    cursor_value,
    door,
    etag_of,
    listing,
    next_link,
    page_of,
    time_ns,
    unchanged,
)
from scidaq.web.door import Page, Stream, Wanted
from scidaq.web.frames import MEDIA_TYPE as FRAME
from scidaq.web.live import frame_of
from scidaq.web.models import ListOf, RowsPage, StreamDetail, StreamView
from scidaq.web.problem import Problem
from scidaq.web.rows import ARROW, CSV, FORMATS, JSON, arrow_pieces, channel_json, csv_pieces, gap_json, json_pieces

routes = Routes("/api/v1/streams", "streams")
ROUTES = (routes,)

_PART = re.compile(r"[a-z0-9_-]{1,64}")
_DEFAULT_ROWS = {JSON: 10_000, CSV: 100_000, ARROW: 1_000_000}
MOST_ROWS = 1_000_000
MOST_POINTS = 100_000
MOST_WIDTH = 20_000
MOST_ARRAYS = 2000
_AT_ONCE = 1 << 20
"""Bytes of rows that are written in one piece."""

Instrument = Annotated[str, Path(description="Id of the instrument.", examples=["dmm"])]
Name = Annotated[str, Path(description="Name of its stream.", examples=["readings"])]
Cursor = Annotated[str | None, Query(description="Where to go on: `next` of the answer before.", max_length=300)]


def stream_id(instrument: str, stream: str) -> str:
    """The id of a stream. Raises `UnknownStream` for what can be none."""
    name = f"{instrument}/{stream}"
    if not (_PART.fullmatch(instrument) and _PART.fullmatch(stream)):
        raise UnknownStream(name[:140])
    return name


def _view(one: Stream) -> dict[str, Any]:
    firsts = [e.first_ns for e in one.epochs if e.first_ns is not None]
    lasts = [e.last_ns for e in one.epochs if e.last_ns is not None]
    return {
        "id": one.id,
        "live": one.live,
        "rows": sum(e.rows for e in one.epochs),
        "durable_rows": sum(e.durable_rows for e in one.epochs),
        "gap_rows": sum(e.gap_rows for e in one.epochs),
        "first_ns": min(firsts, default=None),
        "last_ns": max(lasts, default=None),
        "bytes": sum(e.bytes for e in one.epochs),
    }


@routes.add("GET", "", "read", ListOf[StreamView])
def list_streams(
    request: Request,
    search: Annotated[str, Query(description="Only ids with this in them.", max_length=130)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> Response:
    """What is recorded, by stream."""
    found = [one for one in door(request).streams() if search in one.id]
    items, after = page_of(found, lambda one: one.id, cursor, limit)
    return listing(request, [_view(one) for one in items], after)


@routes.add("GET", "/{instrument}/{stream}", "read", StreamDetail, (404,))
def get_stream(request: Request, instrument: Instrument, stream: Name) -> Response:
    """One stream, with the channels and counts of each of its epochs."""
    one = door(request).stream(stream_id(instrument, stream))
    schemas = {epoch.number: epoch.schema for epoch in one.schemas}
    return Json(_view(one) | {"epochs": [_epoch(e, schemas.get(e.epoch)) for e in one.epochs]})


def _epoch(e: StreamSummary, schema: Schema | None) -> dict[str, Any]:
    return {
        "epoch": e.epoch,
        "rows": e.rows,
        "durable_rows": e.durable_rows,
        "gap_rows": e.gap_rows,
        "first_ns": e.first_ns,
        "last_ns": e.last_ns,
        "bytes": e.bytes,
        "rate_hz": None if schema is None or schema.rate is None else float(schema.rate),
        "channels": [] if schema is None else [channel_json(c, raw=False) for c in schema.channels],
    }


# ---- rows -----------------------------------------------------------------------------------------------------------

_ROWS_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Rows and the gaps between them.",
        "content": {CSV: {"schema": {"type": "string"}}, ARROW: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "ETag": {"schema": {"type": "string"}, "description": "Changes when the answer would."},
            "Link": {"schema": {"type": "string"}, "description": 'The next page, as `<...>; rel="next"`.'},
            "Gap-Count": {"schema": {"type": "integer"}, "description": "Gaps in this page."},
        },
    },
    304: {"description": "It is as `If-None-Match` says."},
}


@routes.add("GET", "/{instrument}/{stream}/data", "read", RowsPage, (404, 406), responses=_ROWS_ANSWERS)
def get_rows(
    request: Request,
    instrument: Instrument,
    stream: Name,
    start: Time = None,
    stop: Time = None,
    last: Annotated[int | None, Query(ge=1, le=MOST_ROWS, description="Instead of a range: the newest rows.")] = None,
    channels: Annotated[str | None, Query(max_length=4000, description="Only these, joined by commas.")] = None,
    max_points: Annotated[
        int | None,
        Query(
            ge=1,
            le=MOST_POINTS,
            description="Reduce: the range is cut into so many buckets of equal length, and each that has rows becomes "
            "one, with `rows`, `end_ns`, `first` and the least and greatest value of each channel.",
        ),
    ] = None,
    raw: Annotated[bool, Query(description="Values as they were stored, without calibration.")] = False,
    limit: Annotated[
        int | None,
        Query(ge=1, le=MOST_ROWS, description="Rows in a page: by default 10000, 100000 (CSV) or 1000000 (Arrow)."),
    ] = None,
    cursor: Cursor = None,
    format: Annotated[  # noqa: A002
        Literal["json", "csv", "arrow"] | None, Query(description="Instead of `Accept`.")
    ] = None,
) -> Response:
    """Rows with `start <= time < stop`, in order of epoch and row, and the gaps between them, as JSON, CSV or an Arrow
    IPC stream. A range of any size is answered in pages: `next`, and the header `Link`, lead to the one behind. A page
    also ends where the channels change."""
    name, kind = stream_id(instrument, stream), _kind(request, format)
    wanted = Wanted(
        name,
        time_ns(request, "start", start),
        time_ns(request, "stop", stop),
        None if channels is None else tuple(dict.fromkeys(c.strip() for c in channels.split(","))),
        None if cursor is None else _place(cursor),
        limit or _DEFAULT_ROWS[kind],
        raw,
        one_schema=True,
    )
    link: dict[str, str | int] = {}
    if last is not None:
        if any(one is not None for one in (start, stop, max_points, cursor)):
            raise RequestError("last: give either last or start, stop, max_points and cursor")
        page = door(request).last(replace(wanted, rows=last))
        page = _of_one_schema(page)
    elif max_points is not None:
        grid = _grid(door(request), wanted, max_points)
        wanted = replace(wanted, start_ns=grid.start_ns, stop_ns=grid.stop_ns)
        page = door(request).reduced(wanted, grid)
        link = {"start": grid.start_ns, "stop": grid.stop_ns}
    else:
        page = door(request).page(wanted)
    return _answer(request, wanted, page, kind, link, reduced=max_points is not None)


@routes.add(
    "GET",
    "/{instrument}/{stream}/view",
    "read",
    None,
    (404,),
    responses={
        200: {
            "description": "A frame: a JSON header and arrays, as the reference of live views says.",
            "content": {FRAME: {"schema": {"type": "string", "format": "binary"}}},
            "headers": {"ETag": {"schema": {"type": "string"}, "description": "Changes when the answer would."}},
        },
        304: {"description": "It is as `If-None-Match` says."},
    },
)
def get_view(
    request: Request,
    instrument: Instrument,
    stream: Name,
    start: Time = None,
    stop: Time = None,
    channels: Annotated[
        str | None,
        Query(max_length=4000, description="Only these, joined by commas; of an array `name.label` or `name[3]`."),
    ] = None,
    width: Annotated[
        int, Query(ge=1, le=MOST_WIDTH, description="Buckets wanted: as many to twice as many come.")
    ] = 2000,
    kind: Annotated[
        Literal["lines", "arrays"], Query(description="`arrays`: spectra and images, a few rows of them whole.")
    ] = "lines",
    rows: Annotated[int, Query(ge=1, le=MOST_ARRAYS, description="With `kind=arrays`: how many at most.")] = 200,
) -> Response:
    """A range as it is drawn, whatever its length: buckets of rows with the exact least and greatest value of each
    channel and the mean, or the rows themselves where there are few. No bucket goes over a gap or into another epoch.
    Rows that are not durable yet are part of it. Where `unfinished_ns` is given, rows behind that time were too many to
    be read and are not summarized yet. With `kind=arrays` rows of spectra and images come whole, evenly chosen, the
    newest among them."""
    name = stream_id(instrument, stream)
    asked = (
        name,
        None if channels is None else tuple(dict.fromkeys(c.strip() for c in channels.split(","))),
        time_ns(request, "start", start),
        time_ns(request, "stop", stop),
    )
    one = door(request).view(*asked, width) if kind == "lines" else door(request).arrays(*asked, rows)
    more: dict[str, Any] = {"start_ns": str(one.start_ns), "stop_ns": str(one.stop_ns)}
    if one.unfinished_ns is not None:
        more["unfinished_ns"] = str(one.unfinished_ns)
    content = frame_of(one.buckets, "", 0, **more)
    headers = {"ETag": etag_of(content), "Cache-Control": "private, no-cache"}
    if (same := unchanged(request, headers["ETag"], headers)) is not None:
        return same
    return Response(content, headers=headers, media_type=FRAME)


def _kind(request: Request, asked: str | None) -> str:
    """The media type of the answer. Raises `Problem` (406)."""
    if asked is not None:
        return FORMATS[asked]
    accept = request.headers.get("accept", "*/*")
    ranges = []
    for i, part in enumerate(accept.split(",")):
        media, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            ranges.append((-float(quality), i, media))
        except ValueError:
            continue
    for quality_, _, media in sorted(ranges):
        for kind in (JSON, CSV, ARROW):
            if quality_ < 0 and media in (kind, "*/*", f"{kind.partition('/')[0]}/*"):
                return kind
    raise Problem(406, "not-acceptable", f"rows come as {JSON}, {CSV} or {ARROW}")


def _place(cursor: str) -> Place:
    match cursor_value(cursor):
        case [int(epoch), int(row), int() | None as before_ns] if 0 <= epoch < 1 << 63 and 0 <= row < 1 << 63:
            return Place(epoch, row, before_ns)
    raise RequestError("cursor: take it from the answer before, as it is")


def _grid(station: Any, wanted: Wanted, points: int) -> Grid:
    """Buckets over the range, or over what is there of it."""
    view = _view(station.stream(wanted.stream))
    first_ns, last_ns = view["first_ns"] or 0, view["last_ns"] or 0
    start_ns = first_ns if wanted.start_ns is None else wanted.start_ns
    stop_ns = max(last_ns + 1, start_ns + 1) if wanted.stop_ns is None else wanted.stop_ns
    if stop_ns <= start_ns:
        raise RequestError("stop has to come after start")
    if not -(1 << 62) < start_ns < stop_ns < 1 << 62:
        raise RequestError("start, stop: the range is too long to be cut into buckets")
    return Grid(start_ns, stop_ns, points)


def _of_one_schema(page: Page) -> Page:
    """The newest rows, as far back as the channels are the same."""
    items = list(page.items)
    schema = next((i.schema for i in reversed(items) if isinstance(i, Block)), None)
    for n in range(len(items) - 1, -1, -1):
        item = items[n]
        if isinstance(item, Block) and schema is not None and item.schema.channels != schema.channels:
            return Page(tuple(items[n + 1 :]), None)
    return page


def _answer(
    request: Request, wanted: Wanted, page: Page, kind: str, link: dict[str, str | int], *, reduced: bool
) -> Response:
    blocks = [item for item in page.items if isinstance(item, Block)]
    schema = blocks[0].schema if blocks else None if reduced else _newest_schema(request, wanted)
    raw = wanted.raw or reduced  # what was reduced has been calibrated before
    after = None if page.next is None else cursor_text(list(page.next))
    etag = etag_of(kind, wanted.raw, reduced, wanted.channels, after, *(_identity(i, reduced) for i in page.items))
    headers = {
        "ETag": etag,
        "Vary": "Accept",
        "Cache-Control": "private, no-cache",
        "Gap-Count": str(len(page.items) - len(blocks)),
    }
    if after is not None:
        headers["Link"] = next_link(request, after, **link)
    if (same := unchanged(request, etag, headers)) is not None:
        return same
    if kind == CSV:
        pieces = csv_pieces(page, schema, raw)
        first = next(pieces)  # where it is refused
        pieces = _chain(first, pieces)
    elif kind == ARROW:
        pieces = arrow_pieces(wanted.stream, page, schema, raw)
    else:
        pieces = json_pieces(wanted.stream, page, schema, raw, after)
    if sum(b.nbytes for b in blocks) < _AT_ONCE:
        return Response(b"".join(pieces), headers=headers, media_type=kind)
    return StreamingResponse(pieces, headers=headers, media_type=kind)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _newest_schema(request: Request, wanted: Wanted) -> Schema | None:
    """What a page without rows would consist of."""
    epochs = door(request).stream(wanted.stream).schemas
    if not epochs:
        return None
    schema = epochs[-1].schema
    if wanted.channels is None:
        return schema
    chosen = tuple(schema.channels[schema.names.index(c)] for c in wanted.channels if c in schema.names)
    return Schema(chosen, schema.rate) if chosen else None


def _identity(item: Any, reduced: bool) -> Any:
    """What the content of an item follows from: a row never changes, a bucket may get more of them."""
    if not isinstance(item, Block):
        return gap_json(item)
    said = (item.epoch, item.first, item.end, item.t0_ns)
    return (said, item.columns[0].tobytes(), item.columns[1].tobytes()) if reduced else said
