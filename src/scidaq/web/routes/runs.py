"""Runs, holds and notes: every verb that the command line has."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from scidaq.catalog import Hold, NewHold, NewNote, NewRun, Note, NoteChanges, Run, RunChanges, Snapshot
from scidaq.web.answers import Json, Routes, Time, actor, door, listing, page_of, time_ns
from scidaq.web.models import HoldRequest, ListOf, NoteEdit, NoteRequest, RunEdit, RunPast, RunStart
from scidaq.web.routes.streams import Cursor

routes = Routes("/api/v1/runs", "runs")
holds = Routes("/api/v1/holds", "holds")
notes = Routes("/api/v1/notes", "notes")
settings = Routes("/api/v1", "instruments")
ROUTES = (routes, holds, notes, settings)

Id = Annotated[str, Path(description="Name or id of the run; an id may be shortened to 8 characters.", max_length=200)]
HoldId = Annotated[str, Path(description="Id of the hold; it may be shortened to 8 characters.", max_length=200)]
NoteId = Annotated[str, Path(description="Id of the note; it may be shortened to 8 characters.", max_length=200)]
Limit = Annotated[int, Query(ge=1, le=1000)]


def _link(operation: str, parameter: str) -> dict[str, Any]:
    """How the answer leads to another request, for programs that read the documentation."""
    return {"links": {operation: {"operationId": operation, "parameters": {parameter: "$response.body#/id"}}}}


_RUN_LINKS: dict[int | str, dict[str, Any]] = {201: {"description": "It has begun.", **_link("get_run", "run")}}
_HOLD_LINKS: dict[int | str, dict[str, Any]] = {201: {"description": "It is held.", **_link("release_hold", "hold")}}
_NOTE_LINKS: dict[int | str, dict[str, Any]] = {201: {"description": "It is noted.", **_link("edit_note", "note")}}


def _given(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(exclude_unset=True)


@settings.add("GET", "/settings", "read", Snapshot)
def current_settings(request: Request, at: Time = None) -> Response:
    """Every instrument with its settings as they were read last, now or at a time in the past. None is asked."""
    return Json(door(request).snapshot(time_ns(request, "at", at)).as_json())


# ---- runs -----------------------------------------------------------------------------------------------------------


@routes.add("GET", "", "read", ListOf[Run])
def list_runs(
    request: Request,
    search: Annotated[
        str, Query(description="Only those with this in name, operator, sample, notes or metadata.", max_length=200)
    ] = "",
    start: Time = None,
    stop: Time = None,
    under_way: Annotated[bool | None, Query(description="Only those that have not ended, or only others.")] = None,
    deleted: Annotated[bool, Query(description="Those too that are not shown any more.")] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The runs with any part between `start` and `stop`, by their start."""
    start_ns = time_ns(request, "start", start)
    stop_ns = time_ns(request, "stop", stop)
    found = [
        run
        for run in door(request).book.runs(deleted=deleted)
        if (under_way is None or run.under_way == under_way)
        and (stop_ns is None or run.start_ns < stop_ns)
        and (start_ns is None or run.stop_ns is None or run.stop_ns > start_ns)
        and search.lower() in _words(run)
    ]
    items, after = page_of(found, lambda run: (run.start_ns, run.id), cursor, limit)
    return listing(request, [run.as_json() for run in items], after)


def _words(run: Run) -> str:
    said = (run.name, run.operator, run.sample, run.notes, *(f"{k} {v}" for k, v in run.metadata.items()))
    return "\n".join(said).lower()


@routes.add("POST", "", "operate", Run, (), 201, responses=_RUN_LINKS)
def start_run(request: Request, run: RunStart) -> Response:
    """Begin a run now. Streams of the policy `runs` are recorded from their pre-trigger on."""
    return Json(door(request).runs.start(NewRun.from_json(_given(run))).as_json(), 201)


@routes.add("POST", "/past", "operate", Run, (), 201, responses=_RUN_LINKS)
def declare_run(request: Request, run: RunPast) -> Response:
    """Declare a run for the past. Nothing is copied: it is a name for what was recorded."""
    return Json(door(request).runs.add(NewRun.from_json(_given(run))).as_json(), 201)


@routes.add("GET", "/{run}", "read", Run, (404,))
def get_run(request: Request, run: Id) -> Response:
    """One run, with the settings of all instruments at its start and end."""
    return Json(door(request).book.run(run).as_json())


@routes.add("PATCH", "/{run}", "operate", Run, (404,))
def edit_run(request: Request, run: Id, changes: RunEdit) -> Response:
    """Say something else of a run; what is left out stays."""
    return Json(door(request).runs.edit(run, RunChanges.from_json(_given(changes))).as_json())


@routes.add("POST", "/{run}/stop", "operate", Run, (404,))
def stop_run(request: Request, run: Id) -> Response:
    """End a run now."""
    return Json(door(request).runs.stop(run).as_json())


@routes.add("DELETE", "/{run}", "operate", Run, (404,))
def delete_run(request: Request, run: Id) -> Response:
    """Show a run no more. Its rows stay. One that is under way or held is refused."""
    return Json(door(request).runs.delete(run).as_json())


# ---- holds ----------------------------------------------------------------------------------------------------------


@holds.add("GET", "", "read", ListOf[Hold])
def list_holds(
    request: Request,
    ended: Annotated[bool, Query(description="Those too that have ended.")] = False,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """What is kept from retention."""
    found = door(request).book.holds(None if ended else door(request).now_ns())
    items, after = page_of(found, lambda hold: (hold.placed_ns, hold.id), cursor, limit)
    return listing(request, [hold.as_json() for hold in items], after)


@holds.add("POST", "", "operate", Hold, (404,), 201, responses=_HOLD_LINKS)
def place_hold(request: Request, hold: HoldRequest) -> Response:
    """Keep a run, a stream or a range of time from retention, until a time that is to come."""
    given = _given(hold)
    given["by"] = given.get("by") or actor(request).name
    return Json(door(request).runs.hold(NewHold.from_json(given)).as_json(), 201)


@holds.add("DELETE", "/{hold}", "operate", Hold, (404,))
def release_hold(request: Request, hold: HoldId) -> Response:
    """End a hold before its time."""
    return Json(door(request).runs.release(hold).as_json())


# ---- notes ----------------------------------------------------------------------------------------------------------


@notes.add("GET", "", "read", ListOf[Note])
def list_notes(
    request: Request,
    start: Time = None,
    stop: Time = None,
    streams: Annotated[str | None, Query(description="Only about these, joined by commas.", max_length=4000)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """The remarks about any part of the time between `start` and `stop`, by time."""
    found = door(request).book.notes(
        time_ns(request, "start", start),
        time_ns(request, "stop", stop),
        None if streams is None else [one.strip() for one in streams.split(",")],
    )
    items, after = page_of(found, lambda note: (note.t_ns, note.id), cursor, limit)
    return listing(request, [note.as_json() for note in items], after)


@notes.add("POST", "", "operate", Note, (404,), 201, responses=_NOTE_LINKS)
def add_note(request: Request, note: NoteRequest) -> Response:
    """Remark something about a moment, now if none is given, or about a range of time."""
    given = _given(note)
    given["by"] = given.get("by") or actor(request).name
    return Json(door(request).runs.note(NewNote.from_json(given)).as_json(), 201)


@notes.add("PATCH", "/{note}", "operate", Note, (404,))
def edit_note(request: Request, note: NoteId, changes: NoteEdit) -> Response:
    """Remark something else instead. An end at the time of the note makes it one of a moment."""
    return Json(door(request).runs.edit_note(note, NoteChanges.from_json(_given(changes))).as_json())


@notes.add("DELETE", "/{note}", "operate", Note, (404,))
def remove_note(request: Request, note: NoteId) -> Response:
    """Show a note no more."""
    return Json(door(request).runs.remove_note(note).as_json())
