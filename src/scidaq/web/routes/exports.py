"""Exports: files for other programs, made beside the recording, and fetched when they are whole."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import FileResponse, Response

from scidaq.web.answers import Json, Routes, actor, door, listing, page_of, time_ns, unchanged
from scidaq.web.door import ExportWanted
from scidaq.web.models import ExportOptions, ExportRequest, ExportView, ListOf
from scidaq.web.problem import Problem
from scidaq.web.routes.runs import Id
from scidaq.web.routes.streams import Cursor

routes = Routes("/api/v1/exports", "exports")
of_runs = Routes("/api/v1/runs", "exports")
ROUTES = (of_runs, routes)

ExportId = Annotated[str, Path(description="Id of the export.", max_length=64)]
FileName = Annotated[str, Path(description="Name of one of its files.", max_length=400)]
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")
_BEGUN: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "It is made when its turn comes; `Location` says where to look.",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "The export."}},
        "links": {
            name: {"operationId": name, "parameters": {"export": "$response.body#/id"}}
            for name in ("get_export", "remove_export")
        },
    }
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {"ETag": {"schema": {"type": "string"}, "description": "SHA-256 of the whole file."}},
    },
    206: {
        "description": "The part of it that `Range` says.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "It is as `If-None-Match` says."},
}


@of_runs.add("POST", "/{run}/export", "operate", ExportView, (404,), 202, responses=_BEGUN)
def export_run(request: Request, run: Id, wanted: ExportOptions) -> Response:
    """Export all streams of a run, each as a table of its own. It is made in a process beside the station, one at a
    time, and kept for a day."""
    found = door(request).book.run(run)
    return _begin(request, wanted, run=found.id)


@routes.add("POST", "", "operate", ExportView, (404,), 202, responses=_BEGUN)
def begin_export(request: Request, wanted: ExportRequest) -> Response:
    """Export rows of a stream. It is made in a process beside the station, one at a time, and kept for a day."""
    door(request).stream(wanted.stream)
    run = "" if wanted.run is None else door(request).book.run(wanted.run).id
    return _begin(request, wanted, stream=wanted.stream, run=run, last=wanted.last)


def _begin(request: Request, wanted: ExportOptions, **more: Any) -> Response:
    export = door(request).exports.begin(
        ExportWanted(
            format=wanted.format,
            start_ns=time_ns(request, "start", wanted.start),
            stop_ns=time_ns(request, "stop", wanted.stop),
            channels=None if wanted.channels is None else tuple(dict.fromkeys(wanted.channels)),
            raw=wanted.raw,
            compression=wanted.compression,
            **more,
        ),
        actor(request).name,
    )
    return Json(export.as_json(), 202, {"Location": f"/api/v1/exports/{export.id}"})


@routes.add("GET", "", "read", ListOf[ExportView])
def list_exports(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: Cursor = None
) -> Response:
    """The exports that there are, oldest first."""
    items, after = page_of(door(request).exports.all(), lambda one: (one.created_ns, one.id), cursor, limit)
    return listing(request, [one.as_json() for one in items], after)


@routes.add("GET", "/{export}", "read", ExportView, (404,))
def get_export(request: Request, export: ExportId) -> Response:
    """How an export goes on, and when it is done its files with their sizes and checksums."""
    return Json(door(request).exports.get(export).as_json())


@routes.add("DELETE", "/{export}", "operate", ExportView, (404,))
def remove_export(request: Request, export: ExportId) -> Response:
    """Remove an export and its files. One that waits is not made, one that is under way is ended."""
    return Json(door(request).exports.remove(export).as_json())


@routes.add("GET", "/{export}/{file:path}", "read", None, (404, 416), response_class=Response, responses=_FILE)
def get_export_file(request: Request, export: ExportId, file: FileName) -> Response:
    """One file of an export that is done, or the part of it that `Range` says (one part, in bytes)."""
    path, one = door(request).exports.file(export, file)
    etag = f'"{one.sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if (same := unchanged(request, etag, headers)) is not None:
        return same
    _check_range(request, etag, one.bytes)
    name = one.name.rpartition("/")[2]
    return FileResponse(path, headers=headers, media_type="application/octet-stream", filename=name)


def _check_range(request: Request, etag: str, size: int) -> None:
    """Let the whole file be the answer to what is not one part of it (RFC 9110, 14.2). Raises `Problem` (416)."""
    asked = request.headers.get("range")
    if asked is None or request.headers.get("if-range", etag) != etag:
        return
    found = _RANGE.fullmatch(asked.strip())
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    elif int(found[1] or 0) >= size or found[3] == "0":
        raise Problem(416, "no-such-part", f"the file has {size} bytes", {"Content-Range": f"bytes */{size}"})
