"""What a browser sees first: how the station is, or where to log in."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from scidaq.web import overview
from scidaq.web.answers import Routes, actor, door

entry = Routes("", "pages")
ROUTES = (entry,)
_KEPT = {"Cache-Control": "max-age=3600"}


@entry.add("GET", "/", None, response_class=HTMLResponse)
def read_overview(request: Request) -> Response:
    """How the station is, as a page that renews itself. Whoever is not logged in is sent to log in."""
    who = actor(request)
    if not who.may("read"):
        return RedirectResponse("/login", 303)
    page = overview.page(door(request).stats(), door(request).health(), who.name, who.via)
    return HTMLResponse(page, headers={"Cache-Control": "no-store"})


@entry.add("GET", "/login", None, response_class=HTMLResponse)
def read_login() -> Response:
    """The page to log in with a key, or by a one-time link."""
    return HTMLResponse(overview.login_page(), headers={"Cache-Control": "no-store"})


@entry.add("GET", "/login.js", None, response_class=Response, responses={200: {"content": {"text/javascript": {}}}})
def get_login_script() -> Response:
    """What that page does."""
    return Response(overview.LOGIN_SCRIPT, media_type="text/javascript", headers=_KEPT)


@entry.add("GET", "/style.css", None, response_class=Response, responses={200: {"content": {"text/css": {}}}})
def get_page_style() -> Response:
    """How these pages look."""
    return Response(overview.STYLE, media_type="text/css", headers=_KEPT)
