"""The documentation of the interface: OpenAPI 3.1 with every problem, scope and example; and as a page to read.

FastAPI makes the shapes; what routes say of themselves (`x-scope`, `x-problems`) becomes answers here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from scidaq.stats import describe
from scidaq.web.keys import SCOPES
from scidaq.web.models import ProblemBody
from scidaq.web.problem import MEDIA_TYPE

_ALWAYS = (400, 401, 403, 408, 421, 429, 431, 500, 503)
"""What any route may answer: see `Front` and `GuardedProtocol`."""
_CHANGES = (409, 413, 415, 422)
"""What a change may answer besides: see `Changes`."""
_WORDS = {
    400: "The request cannot be understood.",
    401: "There is no valid key.",
    403: "The key has not the scope, or the request comes from a strange page.",
    404: "There is no such thing; the nearest names are told.",
    406: "None of the formats that are accepted is there.",
    408: "The request did not come in its time.",
    409: "It cannot be done as things are now.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    416: "The file has no such part.",
    421: "The request is for another server.",
    422: "What was asked cannot be; the detail says what would be.",
    423: "Somebody else has the instrument leased.",
    426: "This is a WebSocket: it has to be asked for as one.",
    429: "Requests come too fast; `Retry-After` says when to come again.",
    431: "The address or the header is too long.",
    500: "A fault of the program, or damaged data; the log says more.",
    502: "The instrument did not do as it should.",
    503: "Not now; `Retry-After` says when to come again.",
    504: "The instrument did not answer in time.",
}
ABOUT = """Whatever the command line does with a running station, for programs.

A key goes into `Authorization: Bearer <key>`; `scidaq keys create` makes one. Times in bodies and answers
(`..._ns`) are integers of UTC nanoseconds since 1970; where one is asked for (`start`, `stop`, `at`) it is ISO 8601
(UTC unless it says otherwise), such an integer, `now`, or a length before now such as `-10s`.
Every answer that is no success is `application/problem+json`, and says in `detail` what happened and what to do.
A change of state may carry an `Idempotency-Key`: sent again with the same key it is not done again, and gets the same
answer. Over the control socket of the station (mode 0600, its path is in the file `control` beside the data) no key
is needed.
"""


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    made = get_openapi(
        title=app.title,
        version="1",
        summary=app.summary,
        description=ABOUT,
        routes=app.routes,
        openapi_version="3.1.0",
    )
    components = made.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    schemas["Problem"] = ProblemBody.model_json_schema() | {"title": "Problem"}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key."},
        "session": {"type": "apiKey", "in": "cookie", "name": "scidaq_session", "description": "A browser's session."},
    }
    for path, method, operation in _operations(made):
        _complete(path, method, operation)
    _describe(schemas)
    app.openapi_schema = made
    return made


def _operations(made: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    scope, problems = operation.get("x-scope", ""), operation.pop("x-problems", [])
    changes = method not in ("get", "head")
    answers: dict[str, Any] = operation["responses"]
    answers.pop("422", None)
    takes = bool(operation.get("parameters") or operation.get("requestBody"))
    known = {*_ALWAYS, *problems, *(_CHANGES if changes else ()), *((422,) if takes else ())}
    for status in sorted(known):
        if str(status) not in answers:
            answers[str(status)] = _problem(status)
        elif MEDIA_TYPE not in answers[str(status)].setdefault("content", {}):
            answers[str(status)]["content"][MEDIA_TYPE] = _problem(status)["content"][MEDIA_TYPE]
    operation["responses"] = dict(sorted(answers.items()))
    if scope:
        operation["security"] = [{"key": []}, {"session": []}]
        operation["description"] += f"\n\nNeeds the scope `{scope}`."
    else:
        operation["security"] = []
    if changes and not path.endswith("/session"):
        operation.setdefault("parameters", []).append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Makes it safe to send this again: kept for 24 hours.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
            }
        )


def _problem(status: int) -> dict[str, Any]:
    words = _WORDS[status]
    example = {
        "type": "urn:scidaq:example",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": words,
        "request_id": "5f0c3a9be1d24c77",
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": words, "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}


def _describe(schemas: dict[str, Any]) -> None:
    """What each statistics field means, from the dataclass that counts."""
    from scidaq import station

    kinds: dict[str, type[Any]] = {}
    _collect(station.StationStats, kinds)
    for name, kind in kinds.items():
        properties = schemas.get(name, {}).get("properties", {})
        for one in describe(kind):
            if one.name in properties and one.doc:
                unit = "" if one.unit in ("", "1") else f" Unit: {one.unit}."
                properties[one.name]["description"] = f"{one.doc}{unit}"


def _collect(kind: Any, found: dict[str, type[Any]]) -> None:
    import dataclasses
    import typing

    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__name__ not in found:
        found[kind.__name__] = kind
        for hint in typing.get_type_hints(kind).values():
            for part in (hint, *typing.get_args(hint)):
                _collect(part, found)


# ---- for people -----------------------------------------------------------------------------------------------------

STYLE = """:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;border-bottom:1px solid #8888}
h3{font-size:1rem;margin:1.8rem 0 .3rem}
code,h3{font-family:ui-monospace,monospace}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;vertical-align:top;padding:.2rem .6rem;border-bottom:1px solid #8884}
.method{display:inline-block;min-width:4.5rem;font-weight:700}
.scope{float:right;font-weight:400;opacity:.7}
"""


def page(made: Mapping[str, Any]) -> str:
    """The document as a page that needs no script."""
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width"><title>scidaq: HTTP interface</title>',
        '<link rel=stylesheet href="/docs/style.css"></head><body><h1>HTTP interface</h1>',
        *(f"<p>{_code(paragraph)}</p>" for paragraph in ABOUT.strip().split("\n\n")),
        '<p>For programs: <a href="/api/v1/openapi.json">openapi.json</a>.</p>',
        "<table><tr><th>scope<th>may</tr>",
        *(f"<tr><td><code>{name}</code><td>{_code(may)}</tr>" for name, may in SCOPES.items()),
        "</table>",
    ]
    subject = ""
    for path, method, operation in _operations(made):
        if (tag := operation.get("tags", ["other"])[0]) != subject:
            subject = tag
            parts.append(f"<h2 id={escape(tag)}>{escape(tag)}</h2>")
        parts.append(_section(path, method, operation))
    return "\n".join([*parts, "</body></html>"])


def _section(path: str, method: str, operation: Mapping[str, Any]) -> str:
    scope = operation.get("x-scope") or "no key"
    rows = [
        f"<tr><td><code>{escape(p['name'])}</code><td>{p['in']}<td>{_code(p.get('description', ''))}</tr>"
        for p in operation.get("parameters", ())
    ]
    statuses = ", ".join(operation["responses"])
    table = f"<table><tr><th>parameter<th>in<th>meaning</tr>{''.join(rows)}</table>" if rows else ""
    return (
        f"<h3 id={escape(operation['operationId'])}><span class=scope>{escape(scope)}</span>"
        f"<span class=method>{method.upper()}</span>{escape(path)}</h3>"
        f"<p>{_code(operation['description'])}</p>{table}<p>Answers: {statuses}.</p>"
    )


def _code(text: str) -> str:
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
