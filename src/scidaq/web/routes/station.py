"""How the station is: in short, in numbers, and for those who watch it."""

from __future__ import annotations

import os

from fastapi import Request
from fastapi.responses import Response

from scidaq import __version__
from scidaq.station import StationStats
from scidaq.web.answers import Json, Routes, door
from scidaq.web.models import Alive, HealthReport, Ready, Status
from scidaq.web.problem import Problem

station = Routes("/api/v1", "station")
watching = Routes("", "watching")
ROUTES = (station, watching)


@station.add("GET", "/status", "read", Status)
def status(request: Request) -> Response:
    """How the station is, in short."""
    stats, why_not = door(request).stats(), door(request).not_ready()
    streams = stats.recorder.streams
    said = {
        "name": stats.name,
        "uuid": stats.uuid,
        "version": __version__,
        "process": os.getpid(),
        "started_ns": stats.started_ns,
        "now_ns": stats.now_ns,
        "ready": not why_not,
        "why_not": why_not,
        "instruments": {one.instrument: str(one.state) for one in stats.instruments},
        "streams": len(streams),
        "rows": sum(s.rows for s in streams),
        "durable_rows": sum(s.durable_rows for s in streams),
        "free_bytes": stats.free_bytes,
    }
    return Json(said)


@station.add("GET", "/stats", "read", StationStats)
def stats(request: Request) -> Response:
    """Everything that is counted, as one snapshot. What each field means is in the reference of statistics."""
    return Json(door(request).stats())


@watching.add("GET", "/health/live", None, Alive)
async def live() -> Response:
    """Whether the process works. Needs no key."""
    return Json({"status": "alive"})


@watching.add(
    "GET", "/health/ready", None, Ready, responses={503: {"model": Ready, "description": "It does not accept data"}}
)
def ready(request: Request) -> Response:
    """Whether data is accepted. Needs no key."""
    why_not = door(request).not_ready()
    said = {"status": "not ready" if why_not else "ready", "reason": why_not}
    return Json(said, 503 if why_not else 200)


@watching.add(
    "GET",
    "/health",
    "metrics",
    HealthReport,
    responses={503: {"model": HealthReport, "description": "Something that is critical is unhealthy"}},
)
def health(request: Request) -> Response:
    """How every component is, since when, and why. 503 when something that is critical is unhealthy."""
    report = door(request).health()
    return Json(report, 503 if report["status"] == "unhealthy" else 200)


@watching.add(
    "GET",
    "/metrics",
    "metrics",
    problems=(404,),
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
)
def metrics(request: Request) -> Response:
    """The metrics, as Prometheus or OpenMetrics text by `Accept`."""
    rendered = door(request).metrics(request.headers.get("accept", ""))
    if rendered is None:
        raise Problem(404, "no-metrics", "metrics are off: see monitoring.metrics_enabled")
    content, kind = rendered
    return Response(content, media_type=kind)
