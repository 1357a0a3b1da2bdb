"""Errors as `application/problem+json` (RFC 9457): one table from our errors to statuses, one form for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from scidaq import errors

MEDIA_TYPE = "application/problem+json"

STATUSES: tuple[tuple[type[BaseException], int, str], ...] = (
    (errors.UnknownStream, 404, "unknown-stream"),
    (errors.UnknownRun, 404, "unknown-run"),
    (errors.UnknownInstrument, 404, "unknown-instrument"),
    (errors.UnknownParameter, 404, "unknown-parameter"),
    (errors.Unknown, 404, "unknown"),
    (errors.NotAllowed, 403, "not-allowed"),
    (errors.DefinedElsewhere, 409, "defined-elsewhere"),
    (errors.TooMany, 429, "too-many"),
    (errors.ParameterError, 422, "parameter-refused"),
    (errors.WrongIdentity, 409, "wrong-identity"),
    (errors.InstrumentTimeout, 504, "instrument-timeout"),
    (errors.InstrumentDisconnected, 409, "instrument-not-connected"),
    (errors.InstrumentError, 502, "instrument-failed"),
    (errors.QueryLimit, 422, "query-limit"),
    (errors.QueryRefused, 422, "query-refused"),
    (errors.ConfigError, 422, "configuration-refused"),
    (errors.RequestError, 422, "request-refused"),
    (errors.StationBusy, 409, "station-busy"),
    (errors.Corrupt, 500, "data-damaged"),
    (errors.WriteFailed, 503, "disk-refused"),
    (errors.StoreError, 503, "store-failed"),
    (errors.ScidaqError, 500, "failed"),
)
"""First match wins; `docs/reference/api-errors.md` is made from it."""


class Problem(Exception):
    """An answer that is no success, raised anywhere below a handler."""

    def __init__(
        self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        self.status, self.kind, self.detail, self.headers, self.more = status, kind, detail, dict(headers or {}), more
        super().__init__(detail)


def of(error: BaseException) -> Problem | None:
    """The problem that one of our errors is; None for a fault of the program."""
    if isinstance(error, Problem):
        return error
    for kind, status, name in STATUSES:
        if isinstance(error, kind):
            headers = {"Retry-After": "1"} if status in (429, 503) else None
            more = {"problems": list(error.problems)} if isinstance(error, errors.ConfigError) else {}
            return Problem(status, name, str(error), headers, **more)
    return None


def fault() -> Problem:
    """What strangers are told of a fault of the program."""
    return Problem(500, "fault", "a fault of the program; the log says which")


def body(status: int, kind: str, detail: str, request_id: str = "", **more: Any) -> bytes:
    """The JSON of a problem."""
    content = {"type": f"urn:scidaq:{kind}", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if request_id:
        content["request_id"] = request_id
    return orjson.dumps(content | more, default=str)


def response(problem: Problem, request_id: str = "") -> Response:
    """The answer."""
    content = body(problem.status, problem.kind, problem.detail, request_id, **problem.more)
    return Response(content, problem.status, problem.headers, MEDIA_TYPE)
