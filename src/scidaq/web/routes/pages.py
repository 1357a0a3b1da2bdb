"""The documentation of the interface, for programs and for people."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response

from scidaq.web import openapi
from scidaq.web.answers import Json, Routes, etag_of, unchanged

documents = Routes("", "documentation")
ROUTES = (documents,)


@documents.add("GET", "/api/v1/openapi.json", None, dict[str, Any], responses={304: {"description": "As it was."}})
def get_openapi(request: Request) -> Response:
    """This interface in OpenAPI 3.1. Any valid key will do."""
    answer = Json(openapi.document(request.app))
    etag = etag_of(answer.body)
    answer.headers["ETag"] = etag
    return unchanged(request, etag) or answer


@documents.add("GET", "/docs", None, response_class=HTMLResponse)
def read_documentation(request: Request) -> Response:
    """This interface as a page to read. Any valid key will do."""
    return HTMLResponse(openapi.page(openapi.document(request.app)))


@documents.add("GET", "/docs/style.css", None, response_class=Response, responses={200: {"content": {"text/css": {}}}})
def get_style() -> Response:
    """How that page looks."""
    return Response(openapi.STYLE, media_type="text/css", headers={"Cache-Control": "max-age=3600"})
