"""Logging in with a browser: a key or a one-time link for a cookie."""

from __future__ import annotations

import time

from fastapi import Request
from fastapi.responses import Response

from scidaq.web.answers import Json, Routes
from scidaq.web.front import Actor, Front, cookie, session_cookie
from scidaq.web.keys import SCOPES, KeyStore, spread
from scidaq.web.limits import neighbourhood
from scidaq.web.models import LinkView, LoginRequest, SessionView
from scidaq.web.problem import Problem

routes = Routes("/api/v1/session", "session")
ROUTES = (routes,)


def _view(actor: Actor) -> dict[str, object]:
    return {"name": actor.name, "scopes": [s for s in SCOPES if s in actor.scopes], "via": actor.via}


@routes.add("GET", "", None, SessionView, (401,))
def who_am_i(request: Request) -> Response:
    """Who asks, and what they may."""
    actor: Actor = request.state.actor
    if actor.via == "none":
        raise Problem(401, "no-key", "nobody is logged in: send a key, or log in", {"WWW-Authenticate": "Bearer"})
    return Json(_view(actor))


@routes.add("POST", "", None, SessionView, (401, 429), 201)
def log_in(request: Request, given: LoginRequest) -> Response:
    """Log in with a key, or the token of a one-time link. The answer sets a cookie that scripts cannot read."""
    front: Front = request.app.state.front
    keys: KeyStore = request.app.state.keys
    request.state.secret_answer = True
    now_s, peer = time.monotonic(), request.state.actor.peer
    if (given.key is None) == (given.link is None):
        raise Problem(422, "invalid-request", "give either a key or a link")
    if given.key is not None:
        key = keys.find(given.key.strip())
        who = None if key is None else (key.name, spread(key.scopes), key.id)
    else:
        who = ("link", spread(("admin",)), "") if front.sessions.use_link(given.link or "", now_s) else None
    if who is None:
        front.refused(peer, now_s)
        raise Problem(
            401,
            "wrong-key",
            "this is no valid key or link: it may have expired, or been used",
            {"WWW-Authenticate": "Bearer"},
        )
    front.bans.succeeded(neighbourhood(peer))
    name, scopes, key_id = who
    actor = Actor(name, scopes, "session", peer)
    request.state.audited, request.state.audited_as = True, actor
    answer = Json(_view(actor), 201, {"Cache-Control": "no-store"})
    front.sessions.end(cookie(request.scope, session_cookie(request.scope)))  # who logs in anew is not two
    token = front.sessions.begin(name, scopes, key_id, now_s)
    answer.set_cookie(
        session_cookie(request.scope),
        token,
        max_age=round(request.app.state.web.security.session_hours * 3600),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return answer


@routes.add("POST", "/link", "admin", LinkView, (403,), 201)
def make_link(request: Request) -> Response:
    """A link with which a browser logs in once, within a quarter of an hour; on the control socket only."""
    if request.state.actor.via != "control":
        raise Problem(403, "console-only", "links are made on the station's own machine, by `scidaq keys link`")
    request.state.secret_answer = True
    web = request.app.state.web
    return Json({"link": f"{web.address}/login#{web.new_link()}"}, 201, {"Cache-Control": "no-store"})


@routes.add("DELETE", "", None, None, (), 204, response_class=Response)
def log_out(request: Request) -> Response:
    """Log out."""
    front: Front = request.app.state.front
    name = session_cookie(request.scope)
    front.sessions.end(cookie(request.scope, name))
    answer = Response(status_code=204)
    secure = request.url.scheme == "https"
    answer.delete_cookie(name, path="/", httponly=True, samesite="strict", secure=secure)
    return answer
