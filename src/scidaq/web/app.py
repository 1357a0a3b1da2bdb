"""The application behind the doors: routes, their documentation, and errors in one form."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from scidaq import __version__
from scidaq.errors import ScidaqError
from scidaq.web import problem
from scidaq.web.door import StationDoor
from scidaq.web.front import Actor, Front
from scidaq.web.keys import KeyStore
from scidaq.web.problem import Problem
from scidaq.web.server import WebServer


def make_app(station: StationDoor, web: WebServer, keys: KeyStore) -> Front:
    """The application of a station, with what every request passes before it."""
    app = FastAPI(
        title="scidaq",
        version=__version__,
        summary="A data-acquisition station over HTTP.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        strict_content_type=True,
    )
    front = web.front = Front(app, web.options, web.security, keys)
    app.state.station, app.state.web, app.state.keys, app.state.front = station, web, keys, front
    _errors(app)

    @app.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """Whether the process works."""
        return {"status": "alive"}

    @app.get("/api/v1/status", tags=["station"], dependencies=[Depends(needs("read"))])
    def status() -> dict[str, Any]:
        """How the station is, in short."""
        stats = station.stats()
        return {"name": stats.name, "uuid": stats.uuid, "started_ns": stats.started_ns, "now_ns": stats.now_ns}

    return front


def needs(scope: str) -> Any:
    """A dependency that lets only those pass who have a scope; gives the `Actor`."""

    def check(request: Request) -> Actor:
        actor: Actor = request.state.actor
        if not actor.may(scope):
            raise Problem(403, "scope-missing", f"the key {actor.name!r} has not the scope {scope!r} that this needs")
        return actor

    return check


def _errors(app: FastAPI) -> None:
    """Whatever is raised below a handler becomes a problem; a fault of the program tells strangers nothing."""

    @app.exception_handler(Problem)
    @app.exception_handler(ScidaqError)
    async def ours(request: Request, error: Exception) -> Response:
        return problem.response(problem.of(error) or problem.fault(), request.state.request_id)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:  # which is logged by `Front`
        return problem.response(problem.fault(), request.state.request_id)

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
        return problem.response(Problem(error.status_code, kind, detail, error.headers), request.state.request_id)


__all__ = ["make_app", "needs"]
