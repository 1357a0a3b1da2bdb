"""What every request passes before a handler sees it: who it is for, where it comes from, whose it is, and how much.

One ASGI callable that reads from top to bottom. What it refuses is told as `application/problem+json`; nothing of a
request's content but its method, path and origin reaches the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog

from scidaq.stats import field_of
from scidaq.web import problem
from scidaq.web.keys import KeyStore, spread
from scidaq.web.limits import Bans, Buckets, neighbourhood
from scidaq.web.options import SecurityOptions, ServerOptions
from scidaq.web.problem import Problem

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SESSION_COOKIE = "scidaq_session"
HOST_COOKIE = f"__Host-{SESSION_COOKIE}"
"""Its name over HTTPS: browsers take that from this host only, and send it over HTTPS only."""
CSRF_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
WITHOUT_KEY = frozenset(
    {"/health/live", "/health/ready", "/api/v1/session", "/", "/plain", "/login", "/login.js", "/style.css"}
)
"""What answers whoever asks: that the process works, that it takes data, and the way to log in."""
ASSETS = "/assets/"
"""So do the files of the dashboard, which is how a browser logs in."""
_ALIVE = frozenset({"/health/live", "/health/ready"})
"""What answers also those whose address has to wait: who restarts a station must not be misled by others' mistakes."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
_CSP = (
    b"default-src 'none'; object-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    b"manifest-src 'self'"
)
_BURST_S = 5.0
_SECRETS_IN_URL = frozenset({"key", "api_key", "apikey", "token", "access_token"})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks."""

    name: str
    """Name of the key, `console` on the control socket, `anybody` where no keys are asked for."""
    scopes: frozenset[str]
    """Its scopes, with those that they contain."""
    via: str
    """`key`, `session`, `control` or `open`."""
    peer: str
    """Address it comes from; empty on the control socket."""
    identity: str = ""
    """What tells it from others of the same name: the key's id, or the session's where a link opened it."""

    def may(self, scope: str) -> bool:
        """Whether it has a scope."""
        return scope in self.scopes


@dataclass(frozen=True, slots=True)
class FrontStats:
    """What was asked over HTTP."""

    requests: dict[tuple[str, str, int], int] = field_of("1", "Requests by method, route and status.")
    seconds: dict[str, float] = field_of("s", "Time spent on them, by route.")
    limited: int = field_of("1", "Requests that came too fast.")
    unauthorized: int = field_of("1", "Requests without a valid key.")
    forbidden: int = field_of("1", "Requests for which a key had not the scope, or of a strange host or origin.")
    timeouts: int = field_of("1", "Requests that were not answered in their time.")


class Sessions:
    """Browsers that are logged in, and links with which one may log in once. In memory: a restart ends them all."""

    LINK_S = 900.0
    MOST = 1000

    def __init__(self, hours: float) -> None:
        self._length_s = hours * 3600
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[str, frozenset[str], str, float]] = OrderedDict()
        self._links: dict[str, float] = {}

    def link(self, now_s: float) -> str:
        """A token that opens one session with everything allowed, within a quarter of an hour."""
        token = secrets.token_urlsafe(32)
        with self._lock:  # else one that is used meanwhile would be in the new table again
            valid = {t: until for t, until in self._links.items() if until > now_s}
            self._links = valid | {token: now_s + self.LINK_S}
        return token

    def use_link(self, token: str, now_s: float) -> bool:
        """Whether it was a link's, which it is no more."""
        with self._lock:
            return self._links.pop(token, 0.0) > now_s

    def begin(self, name: str, scopes: frozenset[str], key_id: str, now_s: float) -> str:
        """Log in; the value of the cookie. `key_id` is the key that it stands for, empty for a link."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._open[token] = (name, scopes, key_id, now_s + self._length_s)
            if len(self._open) > self.MOST:
                self._open.popitem(last=False)
        return token

    def find(self, token: str, now_s: float, valid: Callable[[str], bool]) -> tuple[str, frozenset[str], str] | None:
        """Who is logged in with it, with which scopes, as which key; not longer than that key is `valid`."""
        found = self._open.get(token)
        if found is None:
            return None
        name, scopes, key_id, until_s = found
        if until_s <= now_s or (key_id and not valid(key_id)):
            self.end(token)
            return None
        return name, scopes, key_id

    def end(self, token: str) -> None:
        """Log out."""
        with self._lock:
            self._open.pop(token, None)


class Front:
    """The first of all; `app` is what comes behind it."""

    def __init__(self, app: App, server: ServerOptions, security: SecurityOptions, keys: KeyStore) -> None:
        self._app, self._server, self._security, self._keys = app, server, security, keys
        self._buckets = Buckets(server.requests_per_second, server.requests_per_second * _BURST_S)
        self.bans = Bans()
        self.sessions = Sessions(security.session_hours)
        self._hosts = {"localhost", *(h.lower().rstrip(".") for h in security.allowed_hosts)}
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, float] = {}
        self._limited = self._unauthorized = self._forbidden = self._timeouts = 0

    def stats(self) -> FrontStats:
        """A snapshot, from any thread."""
        return FrontStats(
            dict(self._requests),
            dict(self._seconds),
            self._limited,
            self._unauthorized,
            self._forbidden,
            self._timeouts,
        )

    # ---- the way of a request ----

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = secrets.token_hex(8)
        status = 500
        answered = False

        async def answer(message: Message) -> None:
            nonlocal status, answered
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status, answered = message["status"], True
                given = list(message.get("headers", ()))
                if not any(name.lower() == b"cache-control" for name, _ in given):
                    given.append((b"cache-control", b"no-store"))
                message["headers"] = [*given, *self._headers(scope, request_id)]
            elif message["type"] == "websocket.accept":
                answered = True
            await send(message)

        try:
            with structlog.contextvars.bound_contextvars(request=request_id):
                self._check_host(scope)
                cors = self._check_origin(scope)
                if scope["type"] == "http" and scope["method"] == "OPTIONS" and cors:
                    await _preflight(answer)
                else:
                    state["actor"] = self._who(scope)
                    await self._within_limits(scope, receive, answer)
        except Exception as error:
            refused = problem.of(error)
            if refused is None:
                log.error("request failed", path=scope["path"], exc_info=error)
                refused = problem.fault()
            if answered:
                return  # too late to say so; an answer that is not whole makes the server close the connection
            # Also to who wants a WebSocket: it is refused before it is one, and the answer can be read.
            await problem.response(refused, request_id)(scope, receive, answer)
            status = refused.status
        finally:
            if scope["type"] == "http":
                self._count(scope, status, time.monotonic() - began_s)

    def _count(self, scope: Scope, status: int, took_s: float) -> None:
        """By route, not by path: what strangers ask for must not become a label."""
        route = getattr(scope.get("route"), "path", "")
        key = (scope["method"] if scope["method"] in _METHODS else "other", route or "other", status)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._seconds[key[1]] = self._seconds.get(key[1], 0.0) + took_s

    def _headers(self, scope: Scope, request_id: str) -> list[tuple[bytes, bytes]]:
        out = [*_HEADERS, (b"x-request-id", request_id.encode())]
        out.append((b"content-security-policy", _CSP))
        if scope["scheme"] in ("https", "wss"):
            out.append((b"strict-transport-security", b"max-age=31536000"))
        origins = [value.decode("latin-1") for name, value in _pairs(scope) if name == b"origin"]
        if len(origins) == 1 and (origin := origins[0].strip()) in self._security.cors_origins:
            out += [
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-expose-headers", b"ETag, Link, Retry-After, X-Request-Id"),
                (b"vary", b"Origin"),
            ]
        return out

    # ---- for whom, and from where ----

    def _check_host(self, scope: Scope) -> None:
        """Raises `Problem` when it was addressed to another name: a page that had itself renamed to this machine."""
        if _control(scope):
            return
        host = _header(scope, b"host")
        name = _name_of(host)
        local = (scope.get("server") or ("",))[0]
        if name and (name in self._hosts or name == self._server.bind_address or _same_address(name, local)):
            return
        self._forbidden += 1
        raise Problem(
            421, "strange-host", f"this server is not {host!r}; name it in security.allowed_hosts if it should be"
        )

    def _check_origin(self, scope: Scope) -> bool:
        """Whether it comes from a page that security.cors_origins names. Raises `Problem` for one of any other site."""
        origin = _header(scope, b"origin")
        if origin and origin in self._security.cors_origins:
            return True
        own = (
            origin
            and origin == f"{'https' if scope['scheme'] in ('https', 'wss') else 'http'}://{_header(scope, b'host')}"
        )
        if own or _control(scope):
            return False
        strange = bool(origin) or _header(scope, b"sec-fetch-site") in ("cross-site", "same-site")
        unsafe = scope["type"] == "websocket" or scope["method"] not in CSRF_SAFE
        followed = _header(scope, b"sec-fetch-mode") == "navigate" and _header(scope, b"sec-fetch-dest") == "document"
        if strange and (unsafe or origin or not followed):  # a link may be followed; nothing of it may be a part
            self._forbidden += 1
            raise Problem(
                403,
                "strange-origin",
                f"a page of {origin or 'another site'} may not do this; see security.cors_origins",
            )
        return False

    # ---- whose ----

    def _who(self, scope: Scope) -> Actor:
        """Who asks. Raises `Problem` for a wrong key, and where there is none but has to be."""
        if _control(scope):
            return Actor("console", spread(("admin",)), "control", "")
        peer = (scope.get("client") or ("",))[0]
        near, now_s = neighbourhood(peer), time.monotonic()
        if scope["path"] in _ALIVE:
            self._limit(f"alive@{near}", now_s)
            return Actor("nobody", frozenset(), "none", peer)
        if (wait_s := self.bans.wait_s(near, now_s)) > 0:
            self._limited += 1
            raise Problem(429, "too-many-failures", "too many wrong keys came from this address", _after(wait_s))
        if any(part.partition("=")[0].lower() in _SECRETS_IN_URL for part in _query(scope).split("&")):
            raise Problem(
                400, "key-in-url", "a key in an address ends up in logs: send it as `Authorization: Bearer <key>`"
            )
        actor = self._by_key(scope, peer, now_s) or self._by_session(scope, peer, now_s)
        if actor is None and not self._security.keys:
            actor = Actor("anybody", spread(("admin",)), "open", peer)
        self._limit(actor.identity if actor and actor.identity else f"@{near}", now_s)
        if actor is None:
            if scope["path"] in WITHOUT_KEY or scope["path"].startswith(ASSETS):
                return Actor("nobody", frozenset(), "none", peer)
            self._unauthorized += 1
            raise Problem(
                401,
                "no-key",
                "an API key is needed: send it as `Authorization: Bearer <key>`; `scidaq keys create` makes one",
                {"WWW-Authenticate": "Bearer"},
            )
        return actor

    def _by_key(self, scope: Scope, peer: str, now_s: float) -> Actor | None:
        scheme, _, given = _header(scope, b"authorization").partition(" ")
        if not scheme:
            given = _header(scope, b"x-api-key")
        elif scheme.lower() != "bearer":
            given = given or "?"
        if not given:
            return None
        key = self._keys.find(given.strip())
        if key is None:
            self.refused(peer, now_s)
            raise Problem(
                401,
                "wrong-key",
                "this is no valid API key: it may have expired or been revoked",
                {"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        self.bans.succeeded(neighbourhood(peer))
        return Actor(key.name, spread(key.scopes), "key", peer, f"key {key.id}")

    def refused(self, peer: str, now_s: float) -> None:
        """An address came with what is no key, or no link: it counts, and is told. Pauses keep the log short."""
        self.bans.failed(neighbourhood(peer), now_s)
        self._unauthorized += 1
        log.warning("a wrong key was refused", peer=peer)

    def _by_session(self, scope: Scope, peer: str, now_s: float) -> Actor | None:
        token = cookie(scope, session_cookie(scope))
        found = self.sessions.find(token, now_s, self._is_valid) if token else None
        if found is None:
            return None
        name, scopes, key_id = found
        whose = f"key {key_id}" if key_id else f"link {hashlib.sha256(token.encode()).hexdigest()[:16]}"
        return Actor(name, scopes, "session", peer, whose)

    def still(self, scope: Scope, actor: Actor) -> bool:
        """Whether who was let in would be let in still: for what stays open."""
        if actor.via == "key":
            return self._is_valid(actor.identity.removeprefix("key "))
        if actor.via == "session":
            return (
                self.sessions.find(cookie(scope, session_cookie(scope)), time.monotonic(), self._is_valid) is not None
            )
        return True

    def _is_valid(self, key_id: str) -> bool:
        return any(k.id == key_id and k.state(self._keys.now_ns) == "valid" for k in self._keys.all())

    def _limit(self, who: str, now_s: float) -> None:
        if (wait_s := self._buckets.wait_s(who, now_s)) > 0:
            self._limited += 1
            raise Problem(429, "too-fast", "requests come faster than server.requests_per_second", _after(wait_s))

    # ---- how much, how long ----

    async def _within_limits(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run what comes behind, with a limit on the body and a deadline for the beginning of the answer."""
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        most = self._server.max_body_bytes
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > most:
            raise _too_long(most)
        taken = 0
        deadline = asyncio.timeout(self._server.request_timeout_seconds)

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise _too_long(most)
            return message

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                deadline.reschedule(None)
            await send(message)

        try:
            async with deadline:
                await self._app(scope, counted, timed)
        except TimeoutError:
            if not deadline.expired():
                raise
            self._timeouts += 1
            raise Problem(
                503,
                "timeout",
                f"no answer within {self._server.request_timeout_seconds:g} s; what the request began may go on",
                {"Retry-After": "5", "Connection": "close"},
            ) from None


_METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())


def _too_long(most: int) -> Problem:
    return Problem(413, "body-too-long", f"the body of a request has {most} bytes at most", {"Connection": "close"})


def _after(wait_s: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, -int(-wait_s // 1)))}


def _control(scope: Scope) -> bool:
    return bool(scope.get("state", {}).get("control"))


def _query(scope: Scope) -> str:
    raw: bytes = scope.get("query_string", b"")
    return raw.decode("latin-1")


def _header(scope: Scope, name: bytes) -> str:
    """The only header of this name; empty when there is none, and for a second one a `Problem`."""
    found = [value for key, value in _pairs(scope) if key == name]
    if len(found) > 1:
        raise Problem(400, "header-twice", f"the header {name.decode()} stands there twice")
    return found[0].decode("latin-1").strip() if found else ""


def _pairs(scope: Scope) -> Iterable[tuple[bytes, bytes]]:
    pairs: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return pairs


def session_cookie(scope: Scope) -> str:
    """The name of the cookie of a session, by how the browser came."""
    return HOST_COOKIE if scope["scheme"] in ("https", "wss") else SESSION_COOKIE


def cookie(scope: Scope, name: str) -> str:
    """The value of a cookie, empty when there is none."""
    for key, value in _pairs(scope):
        if key == b"cookie":
            for part in value.decode("latin-1").split(";"):
                given, _, content = part.strip().partition("=")
                if given == name:
                    return content
    return ""


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _same_address(name: str, local: str) -> bool:
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(local)
    except ValueError:
        return False


async def _preflight(send: Send) -> None:
    """The answer to a browser that asks whether another site's page may do what it wants to."""
    headers = [
        (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
        (
            b"access-control-allow-headers",
            b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Lease",
        ),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
