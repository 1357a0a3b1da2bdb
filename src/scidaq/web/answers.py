"""What the routes have in common: who may, how an answer is written, how long lists are paged, and what stays the same.

A route says its scope and every problem that it answers with, and `openapi` makes the documentation of that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import orjson
import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.responses import Response

from scidaq.block import moment_ns
from scidaq.errors import RequestError
from scidaq.web.door import ConfigDoor, StationDoor
from scidaq.web.front import CSRF_SAFE, Actor
from scidaq.web.problem import Problem

log = structlog.get_logger(__name__)

T = TypeVar("T")
Handler = TypeVar("Handler", bound=Callable[..., Any])


class Json(Response):
    """JSON by orjson: dataclasses and arrays too."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As bytes."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def needs(scope: str) -> Any:
    """A dependency that lets only those pass who have a scope; gives the `Actor`."""

    async def check(request: Request) -> Actor:  # not in a thread, of which a change of threads is most of the price
        actor: Actor = request.state.actor
        if not actor.may(scope):
            act = f"{request.method} {request.scope['path'][:300]}"
            log.warning("a key without the scope was refused", who=actor.name, scope=scope, act=act, peer=actor.peer)
            raise Problem(403, "scope-missing", f"the key {actor.name!r} has not the scope {scope!r} that this needs")
        if request.method not in CSRF_SAFE:
            request.state.audited = True
        return actor

    return Depends(check)


def _parameters(dependant: Dependant) -> set[str]:
    """Of a query, with those of what a route depends on."""
    return {p.alias for p in dependant.query_params}.union(*map(_parameters, dependant.dependencies))


async def known_only(request: Request) -> None:
    """Lets no query parameter pass that the route has not: ignored, one that is misspelled gives a wrong answer."""
    if not request.query_params:
        return
    known = _parameters(request.scope["route"].dependant)
    for name in request.query_params:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there are none here"
            near = get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise Problem(400, "unknown-parameter", f"there is no query parameter {name[:100]!r}{hint}; {there}")


class Routes:
    """Routes of one subject: each with its scope, its model, and the statuses of the problems that it answers with."""

    def __init__(self, prefix: str, tag: str) -> None:
        self.router = APIRouter(prefix=prefix, tags=[tag])

    def add(
        self,
        method: str,
        path: str,
        scope: str | None,
        model: Any = None,
        problems: Sequence[int] = (),
        status: int = 200,
        **more: Any,
    ) -> Callable[[Handler], Handler]:
        """Make the decorated function answer; its docstring is the documentation."""

        def register(handler: Handler) -> Handler:
            doc = " ".join((handler.__doc__ or "").split())
            summary = doc.partition(". ")[0].rstrip(".")
            self.router.add_api_route(
                path,
                handler,
                methods=[method],
                response_model=model,
                status_code=status,
                summary=summary,
                description=doc,
                operation_id=getattr(handler, "__name__", ""),
                dependencies=[needs(scope), Depends(known_only)] if scope else [Depends(known_only)],
                openapi_extra={"x-scope": scope or "", "x-problems": list(problems), **more.pop("extra", {})},
                **more,
            )
            return handler

        return register


def door(request: Request) -> StationDoor:
    """The station."""
    found: StationDoor = request.app.state.station
    return found


def configuration(request: Request) -> ConfigDoor:
    """The configuration. Raises `Problem` (404) where the station was not made from one."""
    found: ConfigDoor | None = request.app.state.config
    if found is None:
        raise Problem(404, "no-configuration", "this station was not made from a configuration")
    return found


def actor(request: Request) -> Actor:
    """Who asks."""
    found: Actor = request.state.actor
    return found


# ---- times ----------------------------------------------------------------------------------------------------------

SPELLING = (
    "ISO 8601 (UTC unless it says otherwise), nanoseconds since 1970, `now`, or a length before now such as `-10s`."
)
"""How a time is written wherever one is asked for: `start`, `stop`, `at`."""
Time = Annotated[str | None, Query(max_length=64, description=SPELLING, examples=["-10m"])]


def time_ns(request: Request, name: str, text: str | None) -> int | None:
    """The time that a parameter says, in UTC nanoseconds. Raises `RequestError` that names it.

    For all of a request it is the same `now`.
    """
    if text is None:
        return None
    if not hasattr(request.state, "now_ns"):
        request.state.now_ns = door(request).now_ns()
    try:
        return moment_ns(text, request.state.now_ns)
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None


# ---- pages ----------------------------------------------------------------------------------------------------------


def cursor_text(value: Any) -> str:
    """A place in a list, as a word without meaning for others."""
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


def cursor_value(text: str) -> Any:
    """The inverse of `cursor_text`. Raises `RequestError`."""
    try:
        return orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        raise RequestError("cursor: take it from the answer before, as it is") from None


def next_link(request: Request, cursor: str, **changed: str | int) -> str:
    """The value of a `Link` header for what comes after this page."""
    query: dict[str, Any] = dict(request.query_params) | changed | {"cursor": cursor}
    return f'<{request.url.path}?{urlencode(query)}>; rel="next"'


def page_of(items: Iterable[T], key: Callable[[T], Any], cursor: str | None, limit: int) -> tuple[list[T], str | None]:
    """The items behind the cursor, in the ascending order of `key`, and where the next page begins."""
    ordered = sorted(items, key=key)
    if cursor is not None:
        after = cursor_value(cursor)
        try:
            ordered = [one for one in ordered if _comparable(key(one)) > _comparable(after)]
        except TypeError:
            raise RequestError("cursor: take it from the answer before, as it is") from None
    out = ordered[:limit]
    return out, cursor_text(key(out[-1])) if len(ordered) > limit else None


def _comparable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list | tuple) else key


def listing(request: Request, items: Sequence[Any], cursor: str | None) -> Response:
    """`{items, next}`, with a `Link` when there is more."""
    headers = {} if cursor is None else {"Link": next_link(request, cursor)}
    return Json({"items": items, "next": cursor}, headers=headers)


# ---- what stays the same --------------------------------------------------------------------------------------------


def etag_of(*parts: Any) -> str:
    """A strong validator of whatever these parts say."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return f'"{digest.hexdigest()}"'


def unchanged(request: Request, etag: str, headers: Mapping[str, str] | None = None) -> Response | None:
    """304 when the client has this already."""
    given = request.headers.get("if-none-match", "")
    if given.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in given.split(",")):
        return Response(status_code=304, headers={"ETag": etag, **(headers or {})})
    return None
