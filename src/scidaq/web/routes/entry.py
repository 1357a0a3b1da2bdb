"""What a browser sees first: the dashboard, or in its place how the station is as a plain page.

Files of the dashboard are in memory and answered by the event loop: they come also when all threads are at work.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from scidaq.web import assets, overview
from scidaq.web.answers import Routes, actor, door
from scidaq.web.problem import Problem

entry = Routes("", "pages")
ROUTES = (entry,)
_KEPT = {"Cache-Control": "max-age=3600"}


@entry.add("GET", "/", None, response_class=HTMLResponse, responses={304: {"description": "As it was."}})
async def read_dashboard(request: Request) -> Response:
    """The dashboard, which logs in by itself where that is needed; where none was built, the plain page."""
    page = assets.assets().get("/")
    return RedirectResponse("/plain", 303) if page is None else assets.answer(request, page, for_ever=False)


@entry.add(
    "GET",
    "/assets/{name}",
    None,
    None,
    (404,),
    response_class=Response,
    responses={
        200: {"content": {"text/javascript": {}, "text/css": {}, "image/svg+xml": {}}},
        304: {"description": "As it was."},
    },
)
async def get_asset(
    request: Request, name: Annotated[str, Path(description="Name of the file.", max_length=200)]
) -> Response:
    """A file of the dashboard. Its name changes with its content."""
    asset = assets.assets().get(assets.PREFIX + name)
    if asset is None:
        raise Problem(404, "not-found", f"the dashboard has no file {name!r}; load the page anew")
    return assets.answer(request, asset, for_ever=True)


@entry.add("GET", "/plain", None, response_class=HTMLResponse)
def read_overview(request: Request) -> Response:
    """How the station is, without a script, on a page that renews itself. Whoever is not logged in is sent to do so."""
    who = actor(request)
    if not who.may("read"):
        return RedirectResponse("/login", 303)
    page = overview.page(door(request).stats(), door(request).health(), who.name, who.via)
    return HTMLResponse(page, headers={"Cache-Control": "no-store"})


@entry.add("GET", "/login", None, response_class=HTMLResponse, responses={304: {"description": "As it was."}})
async def read_login(request: Request) -> Response:
    """The page to log in with a key, or by a one-time link: the dashboard, or a small one where none was built."""
    page = assets.assets().get("/")
    if page is None:
        return HTMLResponse(overview.login_page(), headers={"Cache-Control": "no-store"})
    return assets.answer(request, page, for_ever=False)


@entry.add("GET", "/login.js", None, response_class=Response, responses={200: {"content": {"text/javascript": {}}}})
def get_login_script() -> Response:
    """What the small page to log in does."""
    return Response(overview.LOGIN_SCRIPT, media_type="text/javascript", headers=_KEPT)


@entry.add("GET", "/style.css", None, response_class=Response, responses={200: {"content": {"text/css": {}}}})
def get_page_style() -> Response:
    """How the pages without a script look."""
    return Response(overview.STYLE, media_type="text/css", headers=_KEPT)
