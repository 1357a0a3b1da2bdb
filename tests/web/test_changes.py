"""A change is made once, whole, and noted: whatever the connection does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from scidaq.errors import RequestError, WriteFailed
from scidaq.web import changes
from scidaq.web.changes import Changes
from scidaq.web.door import Audited
from scidaq.web.front import Actor
from scidaq.web.problem import Problem
from tests.web.live import Live

Handler = Callable[[dict[str, Any]], Awaitable[tuple[int, bytes]]]


class Noted:
    """A door that notes."""

    def __init__(self) -> None:
        self.entries: list[Audited] = []
        self.full = False

    def audit(self, entry: Audited) -> None:
        if self.full:
            raise WriteFailed("the disk is full")
        self.entries.append(entry)


class Rig:
    """`Changes` before a handler that counts."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.calls = 0
        self.door = Noted()
        self._handler = handler
        self.changes = Changes(self._app, self.door)  # type: ignore[arg-type]

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        scope["state"]["audited"] = True
        await receive()
        status, body = (200, b"%d" % self.calls) if self._handler is None else await self._handler(scope)
        await send({"type": "http.response.start", "status": status, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": body})

    async def ask(
        self, key: str | None = None, body: bytes = b"", who: str = "kim", path: str = "/a", **more: Any
    ) -> tuple[int, bytes, dict[bytes, bytes]]:
        sent: list[Any] = []
        headers = [(b"content-type", b"application/json")] + ([(b"idempotency-key", key.encode())] if key else [])
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": headers,
            "state": {"actor": Actor(who, frozenset(), "key", "::1"), "request_id": "r"},
        } | more

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.changes(scope, receive, send)
        return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])


def test_the_same_again_is_not_done_again() -> None:
    async def story() -> None:
        rig = Rig()
        first = await rig.ask("k", b'{"a":1}')
        again = await rig.ask("k", b'{"a":1}')
        assert again[:2] == first[:2] == (200, b"1")
        assert b"idempotency-replayed" not in first[2]
        assert again[2][b"idempotency-replayed"] == b"true"
        assert (rig.calls, len(rig.door.entries)) == (1, 1)
        assert (await rig.ask("other", b'{"a":1}'))[1] == b"2"
        assert (await rig.ask("k", b'{"a":1}', who="lee"))[1] == b"3"  # keys are everybody's own
        assert (await rig.ask(None, b'{"a":1}'))[1] == b"4"

    asyncio.run(story())


def test_another_request_with_the_same_key_is_refused() -> None:
    async def story() -> None:
        rig = Rig()
        await rig.ask("k", b'{"a":1}')
        for other in ({"body": b'{"a":2}'}, {"body": b'{"a":1}', "path": "/b"}, {"body": b"", "method": "DELETE"}):
            with pytest.raises(Problem) as refused:
                await rig.ask("k", **other)
            assert (refused.value.status, refused.value.kind) == (422, "idempotency-key-reused")

    asyncio.run(story())


def test_while_it_is_under_way_the_same_is_told_so() -> None:
    async def story() -> None:
        go, begun = asyncio.Event(), asyncio.Event()

        async def slow(scope: Any) -> tuple[int, bytes]:
            begun.set()
            await go.wait()
            return 201, b"done"

        rig = Rig(slow)
        first = asyncio.ensure_future(rig.ask("k"))
        await begun.wait()
        with pytest.raises(Problem) as refused:
            await rig.ask("k")
        assert (refused.value.status, refused.value.kind) == (409, "idempotency-under-way")
        go.set()
        assert (await first)[:2] == (await rig.ask("k"))[:2] == (201, b"done")

    asyncio.run(story())


def test_who_gave_up_waiting_gets_the_answer_later() -> None:
    async def story() -> None:
        go = asyncio.Event()

        async def slow(scope: Any) -> tuple[int, bytes]:
            await go.wait()
            return 201, b"done"

        rig = Rig(slow)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await rig.ask("k")
        go.set()
        await asyncio.gather(*rig.changes._at_work)
        assert (await rig.ask("k"))[:2] == (201, b"done")
        assert rig.calls == 1

    asyncio.run(story())


@pytest.mark.parametrize("raised", [True, False])
def test_what_was_refused_may_be_tried_again(raised: bool) -> None:
    async def story() -> None:
        async def refuse(scope: Any) -> tuple[int, bytes]:
            if raised:
                raise RequestError("no")
            return 422, b'{"type": "urn:scidaq:no"}'

        rig = Rig(refuse)
        for _ in range(2):
            if raised:
                with pytest.raises(RequestError):
                    await rig.ask("k")
            else:
                assert (await rig.ask("k"))[0] == 422
        assert rig.calls == 2
        assert [(e.status, e.problem) for e in rig.door.entries] == [(422, "request-refused" if raised else "no")] * 2

    asyncio.run(story())


def test_secrets_are_not_kept_to_be_told_again() -> None:
    async def story() -> None:
        async def secret(scope: Any) -> tuple[int, bytes]:
            scope["state"]["secret_answer"] = True
            return 201, b"secret"

        rig = Rig(secret)
        assert (await rig.ask("k"))[1] == b"secret"
        with pytest.raises(Problem, match="shown only once"):
            await rig.ask("k")
        assert "secret" not in repr(rig.changes._kept)

    asyncio.run(story())


def test_only_so_many_are_kept_and_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("scidaq.web.changes.time.monotonic", lambda: now[0])
    monkeypatch.setattr(changes, "MOST", 10)

    async def story() -> None:
        rig = Rig()
        for n in range(30):
            await rig.ask(f"k{n}")
        assert len(rig.changes._kept) == 10
        assert (await rig.ask("k29"))[1] == b"30"
        now[0] += changes.KEPT_S + 1
        assert (await rig.ask("k29"))[1] == b"31"
        monkeypatch.setattr(changes, "MOST_BYTES", 3)
        for n in range(10):
            await rig.ask(f"m{n}")
        assert rig.changes._bytes <= 6
        assert rig.changes._bytes == sum(k.bytes for k in rig.changes._kept.values())

    asyncio.run(story())


@pytest.mark.parametrize("key", ["", " ", "x" * 201, "a\tb", "é"])
def test_keys_have_a_form(live: Live, key: str) -> None:
    from tests.web.talk import ask

    headers = {"Authorization": f"Bearer {live.keys['operate']}", "Idempotency-Key": key}
    answer = ask(live.web.address, "/api/v1/notes", "POST", None, headers)
    assert (answer.status, answer.kind) == (400, "idempotency-key")


def test_what_cannot_be_noted_is_done_all_the_same_and_logged() -> None:
    from structlog.testing import capture_logs

    async def story() -> None:
        rig = Rig()
        rig.door.full = True
        with capture_logs() as logs:
            assert (await rig.ask())[0] == 200
        assert [e["event"] for e in logs] == ["a change could not be noted in the audit"]

    asyncio.run(story())


def test_a_run_is_begun_once(live: Live) -> None:
    first = live.ask("runs", "POST", {"name": "once"}, key="operate", Idempotency_Key="abc")
    again = live.ask("runs", "POST", {"name": "once"}, key="operate", Idempotency_Key="abc")
    assert (first.status, again.status) == (201, 201)
    assert first.json == again.json
    assert again.headers["idempotency-replayed"] == "true"
    assert live.ask("runs/once/stop", "POST").status == 200
    assert live.ask("runs/once", "DELETE").status == 200
