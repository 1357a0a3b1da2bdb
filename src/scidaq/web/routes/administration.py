"""For who looks after the station: its configuration, its keys, and who did what."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import Response

from scidaq.errors import RequestError
from scidaq.web.answers import Json, Routes, configuration, cursor_text, cursor_value, door, listing
from scidaq.web.keys import KeyStore
from scidaq.web.models import (
    AuditEntry,
    ConfigView,
    KeyRequest,
    KeyView,
    ListOf,
    NewKeyView,
    ReloadView,
    RotateRequest,
)
from scidaq.web.routes.streams import Cursor

config = Routes("/api/v1/config", "configuration")
keys = Routes("/api/v1/keys", "keys")
audit = Routes("/api/v1/audit", "audit")
ROUTES = (config, keys, audit)

KeyId = Annotated[str, Path(description="Id or name of a valid key.", max_length=64)]


# ---- configuration --------------------------------------------------------------------------------------------------


@config.add("GET", "", "admin", ConfigView, (404,))
def get_configuration(request: Request) -> Response:
    """The configuration in force, with where each value was given. Of secrets only that they are there."""
    return Json(configuration(request).effective())


@config.add("GET", "/schema", "read", dict[str, Any], (404,))
def get_configuration_schema(request: Request) -> Response:
    """The JSON Schema of a configuration file, for editors."""
    return Json(configuration(request).schema())


@config.add("POST", "/reload", "admin", ReloadView, (404,))
def reload_configuration(request: Request) -> Response:
    """Read the configuration again, from where it came from. Instruments come, go and change while all others
    go on; the answer says what counts at once, and what from the next start on. With a mistake nothing changes."""
    return Json(configuration(request).reload().as_json())


# ---- keys -----------------------------------------------------------------------------------------------------------


def _keys(request: Request) -> KeyStore:
    found: KeyStore = request.app.state.keys
    return found


@keys.add("GET", "", "admin", ListOf[KeyView])
def list_keys(request: Request) -> Response:
    """All keys, those too that are valid no more, oldest first. The keys themselves are not kept."""
    now_ns = _keys(request).now_ns
    return Json({"items": [key.told(now_ns) for key in _keys(request).all()], "next": None})


@keys.add("POST", "", "admin", NewKeyView, (), 201)
def create_key(request: Request, wanted: KeyRequest) -> Response:
    """Make a key. What its owner has to present is told only in this answer."""
    request.state.secret_answer = True
    key, given = _keys(request).create(wanted.name, wanted.scopes, wanted.days)
    return _secret(key.told(_keys(request).now_ns) | {"key": given})


@keys.add("DELETE", "/{key}", "admin", KeyView, (404,))
def revoke_key(request: Request, key: KeyId) -> Response:
    """Make a key invalid, from now on."""
    return Json(_keys(request).revoke(key).told(_keys(request).now_ns))


@keys.add("POST", "/{key}/rotate", "admin", NewKeyView, (404,), 201)
def rotate_key(request: Request, key: KeyId, wanted: RotateRequest | None = None) -> Response:
    """Make a new key of the same name and scopes; the old one stays valid for a while."""
    request.state.secret_answer = True
    new, given = _keys(request).rotate(key, (wanted or RotateRequest()).grace_hours)
    return _secret(new.told(_keys(request).now_ns) | {"key": given})


def _secret(content: dict[str, Any]) -> Response:
    return Json(content, 201, {"Cache-Control": "no-store"})


# ---- audit ----------------------------------------------------------------------------------------------------------


@audit.add("GET", "", "admin", ListOf[AuditEntry])
def list_audit(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: Cursor = None) -> Response:
    """Who changed what, from where, with what result, newest first."""
    before = None if cursor is None else cursor_value(cursor)
    if before is not None and (type(before) is not int or not 0 <= before < 1 << 63):
        raise RequestError("cursor: take it from the answer before, as it is")
    found = door(request).audited(before, limit + 1)
    items = [
        {name: fact.data.get(name, "") for name in ("who", "via", "peer", "act", "problem", "request")}
        | {"seq": fact.seq, "t_ns": fact.t_ns, "status": fact.data.get("status", 0)}
        for fact in found[:limit]
    ]
    return listing(request, items, cursor_text(found[limit - 1].seq) if len(found) > limit else None)
