"""The application behind the doors: routes, and errors in one form."""

from __future__ import annotations

from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from scidaq import __version__
from scidaq.web import problem
from scidaq.web.changes import Changes
from scidaq.web.door import ConfigDoor, LogTail, StationDoor
from scidaq.web.front import App, Front, Message, Receive, Scope, Send
from scidaq.web.keys import KeyStore
from scidaq.web.leases import Leases
from scidaq.web.live import Viewers
from scidaq.web.problem import Problem
from scidaq.web.routes import all_routes
from scidaq.web.server import WebServer

_SQL_THREADS = 16
"""That wait for queries; the station itself says when too many wait."""


class _App(FastAPI):
    """FastAPI, whose faults are answered by `Front`, which knows our errors and the request's id."""

    def build_middleware_stack(self) -> ASGIApp:
        """Without the layer that answers every exception with 500 and raises it again."""
        outermost: Any = super().build_middleware_stack()
        within: ASGIApp = outermost.app
        return within


class Heads:
    """Answers HEAD as GET without the body: `app` makes the header, and is ended when it begins with the rest."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ended = False

        async def header_only(message: Message) -> None:
            nonlocal ended
            if message["type"] != "http.response.body":
                await send(message)
                return
            ended = True
            await send({"type": "http.response.body", "body": b""})
            raise _EnoughError

        try:
            await self._app({**scope, "method": "GET"}, receive, header_only)
        except Exception:  # ours, or a group with it
            if not ended:
                raise


class _EnoughError(Exception):
    """The header is there, and nobody wants more."""


def make_app(
    station: StationDoor,
    web: WebServer,
    keys: KeyStore,
    config: ConfigDoor | None = None,
    logs: LogTail | None = None,
) -> Front:
    """The application of a station, with what every request passes before it. To be called in the event loop."""
    app = make_interface()
    app.state.station, app.state.web, app.state.keys, app.state.config = station, web, keys, config
    app.state.leases = Leases()
    front = web.front = app.state.front = Front(Changes(Heads(app), station), web.options, web.security, keys)
    app.state.logs = logs
    web.viewers = app.state.viewers = Viewers(station, front, logs)
    app.state.sql_threads = CapacityLimiter(_SQL_THREADS)
    current_default_thread_limiter().total_tokens = web.options.worker_threads
    return front


def make_interface() -> FastAPI:
    """The routes without a station behind them: what their documentation is made from."""
    app = _App(
        title="scidaq",
        version=__version__,
        summary="A data-acquisition station over HTTP.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    _errors(app)
    for router in all_routes():
        app.include_router(router)
    return app


def _errors(app: FastAPI) -> None:
    """Whatever is raised below a handler becomes a problem in `Front`, but for what FastAPI handles itself."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [
            {"where": ".".join(map(str, e["loc"])), "message": e["msg"]}
            for e in error.errors()  # without what was given: it may be a secret
        ]
        told = "; ".join(f"{p['where']}: {p['message']}" for p in problems[:5])
        return problem.response(
            Problem(422, "invalid-request", told or "the request is not as it should be", errors=problems),
            request.state.request_id,
        )

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        kind = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "refused")
        detail = f"there is nothing at {request.url.path}" if error.status_code == 404 else str(error.detail)
        if error.status_code == 405:
            detail = f"{request.method} is not allowed here: see the header Allow"
            allowed = [one.strip() for one in (error.headers or {}).get("Allow", "").split(",") if one.strip()]
            error.headers = {"Allow": ", ".join(allowed + ["HEAD"] * ("GET" in allowed))}
        return problem.response(Problem(error.status_code, kind, detail, error.headers), request.state.request_id)


__all__ = ["make_app", "make_interface"]
