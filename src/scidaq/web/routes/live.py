"""Live: the WebSocket over which views and events come, and the log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, WebSocket
from fastapi.responses import Response

from scidaq.web import messages
from scidaq.web.answers import Json, Routes
from scidaq.web.door import LogTail
from scidaq.web.front import Actor
from scidaq.web.live import LEVELS, Viewers
from scidaq.web.messages import Level
from scidaq.web.models import LogLine
from scidaq.web.problem import Problem

routes = Routes("/api/v1", "live")
ROUTES = (routes,)
MOST_LINES = 1000


@routes.router.websocket("/live")
async def live(websocket: WebSocket) -> None:
    """Views and events, until either side has enough."""
    actor: Actor = websocket.state.actor
    if not actor.may("read"):
        raise Problem(403, "scope-missing", f"the key {actor.name!r} has not the scope 'read' that this needs")
    viewers: Viewers = websocket.app.state.viewers
    await viewers.serve(websocket, actor)


@routes.add("GET", "/live", "read", None, (426,), status=101)
async def get_live(request: Request) -> Response:
    """Views and events over a WebSocket. The messages are in the reference, and as JSON Schema at
    `/api/v1/live/schema`. A request that does not ask for a WebSocket is refused."""
    raise Problem(426, "no-websocket", "this is a WebSocket: connect to it as one", {"Upgrade": "websocket"})


@routes.add("GET", "/live/schema", "read", dict[str, Any])
async def get_live_schema(request: Request) -> Response:
    """The JSON Schema of the messages of the WebSocket: `client` and `server` are what either may send."""
    return Json(messages.schema())


@routes.add("GET", "/log", "operate", list[LogLine], (404,))
def get_log(
    request: Request,
    level: Annotated[Level, Query(description="This one and those that are worse.")] = "info",
    limit: Annotated[int, Query(ge=1, le=MOST_LINES)] = 200,
) -> Response:
    """The newest lines of the log, oldest first, without secrets. Older ones are in the files of the log."""
    logs: LogTail | None = request.app.state.logs
    if logs is None:
        raise Problem(404, "no-log", "this station keeps no log")
    return Json(logs.lines(LEVELS[level], limit, None))
