"""What every change of state passes: its body is JSON, it is done once however often it is sent, and it is noted.

A client whose connection broke cannot know whether its request was heard. With `Idempotency-Key` it sends the same
again and gets the answer that it missed. What was begun is finished and noted, also when nobody waits for it any more.

Source: draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from starlette.concurrency import run_in_threadpool

from scidaq.errors import ScidaqError
from scidaq.web import problem
from scidaq.web.door import Audited
from scidaq.web.front import CSRF_SAFE, Actor, App, Message, Receive, Scope, Send
from scidaq.web.problem import Problem

if TYPE_CHECKING:
    from scidaq.web.door import StationDoor

log = structlog.get_logger(__name__)

QUESTIONS = frozenset({"/api/v1/sql"})
"""What is sent with POST for its length, and changes nothing: asked again it is answered again, and nobody notes it."""
KEPT_S = 86_400.0
MOST = 10_000
MOST_BYTES = 16 << 20
"""Of all answers that are kept."""
KEY_CHARACTERS = 200
_PATH_CHARACTERS = 300


@dataclass(slots=True)
class _Answer:
    """A whole answer."""

    status: int = 500
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    async def send(self, send: Send, *more: tuple[bytes, bytes]) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": [*self.headers, *more]})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(slots=True)
class _Kept:
    """A request with a key, and its answer when it has one."""

    fingerprint: bytes
    since_s: float
    answer: _Answer | Problem | None = None

    @property
    def bytes(self) -> int:
        return len(self.answer.body) if isinstance(self.answer, _Answer) else 0


class Changes:
    """Runs `app` behind these; requests that change nothing pass untouched."""

    def __init__(self, app: App, door: StationDoor) -> None:
        self._app, self._door = app, door
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._bytes = 0
        self._at_work: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["method"] in CSRF_SAFE or scope["path"] in QUESTIONS:
            await self._app(scope, receive, send)
            return
        body = await _whole(receive)
        _check_body(scope, body)
        key = _header(scope, b"idempotency-key")
        if key is None:
            answer = await self._shielded(scope, body)
            await answer.send(send)
            return
        if not 0 < len(key) <= KEY_CHARACTERS or not key.isascii() or not key.isprintable():
            raise Problem(400, "idempotency-key", f"Idempotency-Key has 1 to {KEY_CHARACTERS} visible characters")
        actor: Actor = scope["state"]["actor"]
        name = (actor.identity or f"{actor.via} {actor.name}", key)
        fingerprint = _fingerprint(scope, body)
        self._forget()
        if (kept := self._kept.get(name)) is not None:
            await self._again(kept, fingerprint, send)
            return
        kept = self._kept[name] = _Kept(fingerprint, time.monotonic())
        answer = await self._shielded(scope, body, name)
        await answer.send(send)

    async def _again(self, kept: _Kept, fingerprint: bytes, send: Send) -> None:
        if kept.fingerprint != fingerprint:
            raise Problem(
                422, "idempotency-key-reused", "this Idempotency-Key came with another request: each has one of its own"
            )
        if kept.answer is None:
            raise Problem(
                409,
                "idempotency-under-way",
                "this request is under way still: send it again in a moment to get its answer",
                {"Retry-After": "1"},
            )
        if isinstance(kept.answer, Problem):
            raise kept.answer
        await kept.answer.send(send, (b"idempotency-replayed", b"true"))

    async def _shielded(self, scope: Scope, body: bytes, name: tuple[str, str] | None = None) -> _Answer:
        """Do it, to its end also when the deadline of the request passes meanwhile."""
        task = asyncio.ensure_future(self._do(scope, body, name))
        self._at_work.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._at_work.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that nobody complains that it was not

    async def _do(self, scope: Scope, body: bytes, name: tuple[str, str] | None) -> _Answer:
        answer, given = _Answer(), False

        async def receive() -> Message:
            nonlocal given
            if given:
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], tuple(message.get("headers", ()))
            else:
                answer.body += message.get("body", b"")

        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            self._drop(name)
            refused = problem.of(error)
            await self._audit(scope, refused.status if refused else 500, refused.kind if refused else "fault")
            raise
        self._keep(scope, name, answer)
        await self._audit(scope, answer.status, _kind(answer))
        return answer

    # ---- what is kept ----

    def _keep(self, scope: Scope, name: tuple[str, str] | None, answer: _Answer) -> None:
        """Answers to what was done; what was refused has changed nothing and may be tried again."""
        if name is None or (kept := self._kept.get(name)) is None:
            return
        if answer.status >= 300:
            self._drop(name)
        elif scope["state"].get("secret_answer"):
            kept.answer = Problem(409, "answered-before", "this was done before, and its answer is shown only once")
        else:
            kept.answer = answer
            self._bytes += kept.bytes

    def _drop(self, name: tuple[str, str] | None) -> None:
        if name is not None and (kept := self._kept.pop(name, None)) is not None:
            self._bytes -= kept.bytes

    def _forget(self) -> None:
        """What is too old, and the oldest of too many; never what is under way."""
        now_s = time.monotonic()
        for name, kept in list(self._kept.items())[:64]:
            old = now_s - kept.since_s > KEPT_S
            if kept.answer is None or not (old or len(self._kept) >= MOST or self._bytes > MOST_BYTES):
                continue
            self._drop(name)

    # ---- audit ----

    async def _audit(self, scope: Scope, status: int, kind: str) -> None:
        """Note it, if who asked had the right to: what a stranger sends must not fill the log of facts."""
        state = scope["state"]
        if not state.get("audited"):
            return
        actor: Actor = state.get("audited_as") or state["actor"]
        path = scope["path"][:_PATH_CHARACTERS]
        entry = Audited(
            actor.name, actor.via, actor.peer, f"{scope['method']} {path}", status, kind, state["request_id"]
        )
        try:
            await run_in_threadpool(self._door.audit, entry)
        except ScidaqError as error:
            log.error("a change could not be noted in the audit", act=entry.act, who=entry.who, error=str(error))


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "incomplete", "the connection ended before the body was there")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _check_body(scope: MutableMapping[str, Any], body: bytes) -> None:
    """Raises `Problem` unless it is empty or JSON, and is said to be."""
    if not body:
        return
    kind = (_header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "no-json", "the body has to be JSON, and Content-Type to say application/json")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(
            400, "malformed-json", f"the body is no JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None


def _header(scope: MutableMapping[str, Any], name: bytes) -> str | None:
    found = [value for key, value in scope["headers"] if key == name]
    if len(found) > 1:
        raise Problem(400, "header-twice", f"the header {name.decode()} stands there twice")
    return found[0].decode("latin-1").strip() if found else None


def _fingerprint(scope: MutableMapping[str, Any], body: bytes) -> bytes:
    said = "\n".join((scope["method"], scope["path"], scope["query_string"].decode("latin-1")))
    return hashlib.blake2b(said.encode() + b"\n" + body, digest_size=16).digest()


def _kind(answer: _Answer) -> str:
    if answer.status < 400:
        return ""
    try:
        return str(orjson.loads(answer.body)["type"]).removeprefix("urn:scidaq:")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
