"""The live socket: who looks at what, and what each of them is sent.

A view is folded once by the station (`StationDoor.watch`) and encoded once here, in the station's thread, as the bytes
that go over every viewer's connection. Nobody is waited for: to a viewer that does not take its frames only the newest
is kept, and what was left out is counted and told, so that it can be asked for. Everything of a viewer belongs to the
event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import orjson
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from scidaq.block import Gap
from scidaq.errors import ScidaqError
from scidaq.query import Buckets, Lane
from scidaq.station import Happening, ViewWanted, Watch, grid_step_ns
from scidaq.stats import field_of
from scidaq.web import messages, problem
from scidaq.web.door import LogTail, StationDoor
from scidaq.web.frames import encode
from scidaq.web.front import Actor, Front
from scidaq.web.messages import MOST_SUBSCRIPTIONS, Ping, Subscribe, SubscribeEvents, Unsubscribe
from scidaq.web.problem import Problem
from scidaq.web.protocol import LiveProtocol, framed

log = structlog.get_logger(__name__)

CHECK_S = 1.0
"""How often it is looked whether a viewer's key is still valid."""
LOG_S = 0.25
HELD_BYTES = 8 << 20
"""Frames that wait for a viewer while what came before them is read."""
MOST_ERRORS = 100
"""Messages of one viewer that may be wrong before it is sent away."""
EVENTS_S, EVENTS_BURST = 200.0, 2000.0
"""Events to one viewer in a second, and at once: more are left out and counted."""
UNAUTHORIZED, NO_MESSAGE = 4401, 1008


@dataclass(frozen=True, slots=True)
class ViewersStats:
    """What is sent over the live socket."""

    viewers: int = field_of("1", "Connections that are open.")
    subscriptions: int = field_of("1", "What they look at and listen to, all together.")
    views: int = field_of("1", "Views that are different.")
    encoded: int = field_of("1", "Frames that were made.")
    frames: int = field_of("1", "Frames that were sent, once for each viewer.")
    skipped: int = field_of("1", "Frames that were left out because a viewer did not take them.")
    bytes: int = field_of("By", "Bytes of frames that were sent.")
    events: int = field_of("1", "Events that were sent.")
    refused: int = field_of("1", "Messages that were answered with an error.")


# ---- frames ---------------------------------------------------------------------------------------------------------


def frame_of(buckets: Buckets, view: str, seq: int, **more: Any) -> bytes:
    """One view as a frame."""
    base = int(buckets.t0.min()) if len(buckets.t0) else 0
    header = {
        "kind": "view",
        "view": view,
        "seq": seq,
        "stream": buckets.stream,
        "base_ns": str(base),
        "start_ns": str(base),
        "stop_ns": str(int(buckets.t1.max()) + 1 if len(buckets.t1) else base),
        "step_ns": str(buckets.step_ns) if buckets.step_ns else None,
        "exact": True,
        "channels": [_lane(lane) for lane in buckets.lanes],
        "gaps": [gap_of(gap) for gap in buckets.gaps],
        **more,
    }
    arrays: dict[str, Any] = {"t0": (buckets.t0 - base).astype(np.float64)}
    if buckets.arrays:
        arrays |= {f"array:{i}": one for i, one in enumerate(buckets.arrays)}
    elif buckets.one_row_each:
        header["raw"] = True
        arrays |= {f"last:{i}": one for i, one in enumerate(buckets.last)}
    else:
        arrays |= {"t1": (buckets.t1 - base).astype(np.float64), "n": buckets.n}
        for name, values in (("min", buckets.least), ("max", buckets.most), ("mean", buckets.mean)):
            arrays |= {f"{name}:{i}": one for i, one in enumerate(values)}
        arrays |= {f"last:{i}": one for i, one in enumerate(buckets.last)}
    return encode(header, arrays)


def _lane(lane: Lane) -> dict[str, Any]:
    labels = list(lane.labels) or None
    return {"name": lane.name, "unit": lane.unit, "dtype": lane.dtype, "shape": list(lane.shape), "labels": labels}


def gap_of(gap: Gap) -> dict[str, Any]:
    """A gap as the header of a frame says it."""
    start, stop = gap.start_ns, gap.end_ns
    return {
        "start_ns": None if start is None else str(start),
        "stop_ns": None if stop is None else str(stop),
        "rows": gap.rows,
        "reason": str(gap.reason),
        "open": gap.open,
    }


# ---- who looks ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Frame:
    """A frame as it goes over a connection, and the times of the rows that are in it."""

    content: bytes
    number: int
    from_ns: int
    to_ns: int


@dataclass(slots=True, eq=False)
class _Subscription:
    """One view of one viewer."""

    id: int
    view: _View
    from_number: int = 0
    """The first delivery of the view that it gets."""
    held: list[_Frame] | None = None
    """What waits until what came before is sent; None when nothing has to."""
    waiting: _Frame | None = None
    """The newest frame, while the viewer does not take any."""
    skipped: int = 0
    skipped_from: int = 0
    skipped_to: int = 0

    def skip(self, frame: _Frame) -> None:
        """It was left out."""
        self.skipped_from = frame.from_ns if not self.skipped else min(self.skipped_from, frame.from_ns)
        self.skipped_to = max(self.skipped_to, frame.to_ns) if self.skipped else frame.to_ns
        self.skipped += 1


@dataclass(slots=True, eq=False)
class _View:
    """A view that some look at."""

    key: str
    wanted: ViewWanted
    watch: Watch | None = None
    opened: asyncio.Future[None] | None = None
    lanes: tuple[Lane, ...] = ()
    viewers: dict[_Subscription, _Viewer] = field(default_factory=dict)
    users: int = 0
    """Who look at it, or are about to."""


@dataclass(slots=True, eq=False)
class _Listening:
    """One subscription to events."""

    id: int
    events: frozenset[str]
    level: int


class Viewers:
    """All who look. Made in the event loop; `stats` from any thread."""

    def __init__(self, station: StationDoor, front: Front, logs: LogTail | None) -> None:
        self.station, self.front, self.logs = station, front, logs
        self._loop = asyncio.get_running_loop()
        self._viewers: set[_Viewer] = set()
        self._views: dict[ViewWanted, _View] = {}
        self._made = 0
        self._unlisten: Callable[[], None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._logging: asyncio.Task[None] | None = None
        self.encoded = self.frames = self.skipped = self.bytes = self.events = self.refused = 0

    async def serve(self, websocket: WebSocket, actor: Actor) -> None:
        """Serve one viewer until it is gone."""
        await websocket.accept()
        viewer = _Viewer(self, websocket, actor)
        self._viewers.add(viewer)
        if self._checking is None:
            self._checking = self._loop.create_task(self._check())
        try:
            await viewer.run()
        except WebSocketDisconnect:
            pass
        except Exception:
            log.exception("a live connection failed", who=actor.name)
            viewer.wire.end(1011, "a fault of the program; the log says which")
        finally:
            self._viewers.discard(viewer)
            viewer.leave()

    def close(self) -> None:
        """Say good-bye to all."""
        for viewer in list(self._viewers):
            viewer.dismiss(1012, "the station stops or starts again: come back in a moment")
        for task in (self._checking, self._logging):
            if task is not None:
                task.cancel()

    async def _check(self) -> None:
        """Send those away whose key is no longer valid."""
        while self._viewers:
            await asyncio.sleep(CHECK_S)
            for viewer in list(self._viewers):
                try:
                    valid = self.front.still(viewer.websocket.scope, viewer.actor)
                except ScidaqError:  # the keys cannot be read: none is valid
                    valid = False
                if not valid:
                    viewer.dismiss(UNAUTHORIZED, "the key or the session is no longer valid")
        self._checking = None

    def stats(self) -> ViewersStats:
        """A snapshot."""
        viewers = list(self._viewers)
        return ViewersStats(
            len(viewers),
            sum(one.subscribed for one in viewers),
            len(self._views),
            self.encoded,
            self.frames,
            self.skipped,
            self.bytes,
            self.events,
            self.refused,
        )

    # ---- views ----

    async def look(self, wanted: ViewWanted) -> _View:
        """The view, made if nobody looks at it yet. Raises what the station raises. To be given back by `part`."""
        view = self._views.get(wanted)
        if view is None:
            self._made += 1
            view = self._views[wanted] = _View(f"v{self._made}", wanted)
        view.users += 1
        try:
            if view.opened is None:
                view.opened = self._loop.create_future()
                try:
                    deliver = partial(self._deliver, view)
                    view.watch, view.lanes = await run_in_threadpool(self.station.watch, wanted, deliver)
                except BaseException as error:
                    view.opened.set_exception(error if isinstance(error, Exception) else ScidaqError("given up"))
                    view.opened.exception()
                    raise
                view.opened.set_result(None)
            else:
                await asyncio.shield(view.opened)
        except BaseException:
            self.part(view)
            raise
        return view

    def part(self, view: _View) -> None:
        """One looks at it no more."""
        view.users -= 1
        if view.users or self._views.get(view.wanted) is not view:
            return
        del self._views[view.wanted]
        if view.watch is not None:
            self._loop.run_in_executor(None, view.watch.close)

    def _deliver(self, view: _View, changed: Sequence[Buckets], number: int) -> None:
        """In the station's thread: encode what changed, once."""
        out = []
        for buckets in changed:
            content = framed(frame_of(buckets, view.key, number))
            times = (int(buckets.t0.min()), int(buckets.t1.max())) if len(buckets.t0) else (0, 0)
            out.append((_Frame(content, number, *times), buckets))
        self._loop.call_soon_threadsafe(self._broadcast, view, out)

    def _broadcast(self, view: _View, frames: list[tuple[_Frame, Buckets]]) -> None:
        if view.watch is not None:
            view.watch.taken()
        self.encoded += len(frames)
        for frame, buckets in frames:
            view.lanes = buckets.lanes
            for one, viewer in view.viewers.items():
                if frame.number >= one.from_number:
                    viewer.show(one, frame)
                    if buckets.left_out is not None:
                        viewer.tell_skipped(one.id, 1, *buckets.left_out)

    # ---- events ----

    def listening(self) -> None:
        """Somebody listens, or nobody any more."""
        wanted = {name for viewer in self._viewers for one in viewer.listening.values() for name in one.events}
        if wanted - {"log"} and self._unlisten is None:
            self._unlisten = self.station.listen(self._happened)
        elif not wanted - {"log"} and self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        if "log" in wanted and self.logs is not None and self._logging is None:
            self._logging = self._loop.create_task(self._follow_log(self.logs, self.logs.newest()))

    def _happened(self, one: Happening) -> None:
        """In whatever thread it happened."""
        self._loop.call_soon_threadsafe(self._tell, one.event, {"at_ns": str(one.at_ns), **_texts(one.data)}, 0)

    def _tell(self, event: str, said: dict[str, Any], level: int) -> None:
        for viewer in list(self._viewers):
            for one in viewer.listening.values():
                if event in one.events and level >= one.level * (event == "log"):
                    viewer.event(one.id, event, said)

    async def _follow_log(self, logs: LogTail, after: int) -> None:
        while any("log" in one.events for viewer in self._viewers for one in viewer.listening.values()):
            await asyncio.sleep(LOG_S)
            if logs.newest() != after:
                lines = await run_in_threadpool(logs.lines, 0, 500, after)
                after = lines[-1]["seq"] if lines else logs.newest()
                for line in lines:
                    self._tell("log", *_line(line))
        self._logging = None


def _line(line: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A line of the log as an event, and its level."""
    said = {"at_ns": str(line["at_ns"]), "level": line["level"], "message": line["event"], "logger": line["logger"]}
    return said | {"values": line["values"]}, LEVELS[line["level"]]


LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def _texts(data: Any) -> dict[str, Any]:
    """Times as text, as browsers need them."""
    return {k: str(v) if k.endswith("_ns") and isinstance(v, int) else v for k, v in data.items()}


class _Viewer:
    """One connection."""

    def __init__(self, viewers: Viewers, websocket: WebSocket, actor: Actor) -> None:
        self.websocket, self.actor = websocket, actor
        self.wire: LiveProtocol = websocket.scope["state"]["wire"]
        self._all = viewers
        self._views: dict[int, _Subscription] = {}
        self.listening: dict[int, _Listening] = {}
        self._errors = 0
        self._tokens, self._tokens_s = EVENTS_BURST, 0.0
        self._dropped_events = 0
        self.wire.resumed = self._resumed

    @property
    def subscribed(self) -> int:
        """How many subscriptions it has."""
        return len(self._views) + len(self.listening)

    # ---- what it says ----

    async def run(self) -> None:
        """Hear and answer."""
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                self.dismiss(1003, "messages are text")
                return
            await self._hear(text)
            if self._errors > MOST_ERRORS:
                self.dismiss(NO_MESSAGE, "too many messages that were wrong")
                return

    async def _hear(self, text: str) -> None:
        number = None
        try:
            try:
                content = orjson.loads(text)
                number = content.get("id") if isinstance(content, dict) else None
                number = number if isinstance(number, int) else None
                said = messages.parse(content)
            except ValueError as error:
                raise Problem(422, "invalid-request", f"this is no message: {error}"[:1000]) from None
            match said:
                case Ping():
                    self._say({"op": "pong", "now_ns": str(self._all.station.now_ns())})
                case Unsubscribe():
                    self._drop(said.id)
                case SubscribeEvents():
                    await self._listen(said)
                case Subscribe():
                    await self._subscribe(said)
        except Exception as error:
            told = problem.of(error)
            if told is None:
                log.error("a live message failed", exc_info=error)
                told = problem.fault()
            self._errors += 1
            self._all.refused += 1
            self._say({"op": "error", "id": number, "kind": told.kind, "detail": told.detail})

    def _room(self, number: int) -> None:
        if number in self._views or number in self.listening:
            raise Problem(409, "id-taken", f"there is a subscription {number} already: unsubscribe first")
        if self.subscribed >= MOST_SUBSCRIPTIONS:
            raise Problem(429, "too-many", f"a connection has {MOST_SUBSCRIPTIONS} subscriptions at most")

    async def _subscribe(self, said: Subscribe) -> None:
        self._room(said.id)
        wanted = ViewWanted(
            said.stream,
            None if said.channels is None else tuple(said.channels),
            grid_step_ns(int(said.step_ns)),
            said.fps,
            said.kind,
        )
        view = await self._all.look(wanted)
        if view.watch is None:
            raise ScidaqError("the view is gone")
        since_ns = None if said.since_ns is None else int(said.since_ns)
        begins_ns, number = view.watch.join()
        one = _Subscription(said.id, view, number, None if since_ns is None else [])
        self._views[said.id] = one
        view.viewers[one] = self
        self._say(
            {
                "op": "subscribed",
                "id": said.id,
                "view": view.key,
                "step_ns": str(wanted.step_ns),
                "fps": said.fps,
                "channels": [_lane(lane) for lane in view.lanes],
                "live_from_ns": None if begins_ns is None else str(begins_ns),
            }
        )
        if since_ns is not None:
            try:
                await self._go_on(one, since_ns, begins_ns)
            finally:
                held, one.held = one.held or [], None
                for frame in held:
                    self.show(one, frame)

    async def _go_on(self, one: _Subscription, since_ns: int, begins_ns: int | None) -> None:
        """What lies between the time that a viewer knows and its first frame."""
        wanted = one.view.wanted
        stop_ns = begins_ns
        if stop_ns is None:  # no row has come since the station was started, so what is recorded is older
            stop_ns = (await run_in_threadpool(self._all.station.stats)).started_ns
        if since_ns >= stop_ns or wanted.kind != "lines":
            return
        frame, unfinished_ns = await run_in_threadpool(self._history, one.view, since_ns, stop_ns)
        if self._views.get(one.id) is one:
            self._send(frame)
            if unfinished_ns is not None:
                self.tell_skipped(one.id, 1, unfinished_ns, stop_ns)

    def _history(self, view: _View, since_ns: int, stop_ns: int) -> tuple[bytes, int | None]:
        found = self._all.station.since(view.wanted, since_ns, stop_ns)
        return framed(frame_of(found.buckets, view.key, -1, history=True)), found.unfinished_ns

    async def _listen(self, said: SubscribeEvents) -> None:
        self._room(said.id)
        if "log" in said.events:
            if not self.actor.may("operate"):
                raise Problem(403, "scope-missing", "log lines need the scope 'operate'")
            if self._all.logs is None:
                raise Problem(404, "no-log", "this station keeps no log")
        one = _Listening(said.id, frozenset(said.events), LEVELS[said.level])
        self.listening[said.id] = one
        self._all.listening()
        self._say({"op": "subscribed", "id": said.id})
        if said.recent:
            for event in sorted(one.events - {"log"}):
                before = [h for h in self._all.station.happened() if h.event == event]
                for h in before[-said.recent :]:
                    self.event(one.id, event, {"at_ns": str(h.at_ns), **_texts(h.data)})
            if "log" in one.events and self._all.logs is not None:
                for line in await run_in_threadpool(self._all.logs.lines, one.level, said.recent, None):
                    self.event(one.id, "log", _line(line)[0])

    def _drop(self, number: int) -> None:
        one = self._views.pop(number, None)
        if one is not None:
            one.view.viewers.pop(one, None)
            self._all.part(one.view)
        elif self.listening.pop(number, None) is not None:
            self._all.listening()
        else:
            raise Problem(404, "unknown", f"there is no subscription {number}")

    def leave(self) -> None:
        """The connection is gone."""
        for number in [*self._views, *self.listening]:
            self._drop(number)
        self.wire.resumed = _nothing

    # ---- what it is told ----

    def _say(self, said: dict[str, Any]) -> None:
        self.wire.write(framed(orjson.dumps(said, default=str), text=True))

    def _send(self, content: bytes) -> None:
        self._all.frames += 1
        self._all.bytes += len(content)
        self.wire.write(content)

    def show(self, one: _Subscription, frame: _Frame) -> None:
        """A frame of a view, or later the newest of them where it takes none now."""
        if one.held is not None:
            one.held.append(frame)
            while sum(len(f.content) for f in one.held) > HELD_BYTES and len(one.held) > 1:
                self._skip(one, one.held.pop(0))
        elif self.wire.behind:
            if one.waiting is not None:
                self._skip(one, one.waiting)
            one.waiting = frame
        else:
            self._catch_up(one)
            self._send(frame.content)

    def _skip(self, one: _Subscription, frame: _Frame) -> None:
        one.skip(frame)
        self._all.skipped += 1

    def _resumed(self) -> None:
        """It takes frames again."""
        for one in list(self._views.values()):
            if self.wire.behind:
                return
            self._catch_up(one)

    def _catch_up(self, one: _Subscription) -> None:
        if one.skipped:
            self.tell_skipped(one.id, one.skipped, one.skipped_from, one.skipped_to)
            one.skipped = 0
        frame, one.waiting = one.waiting, None
        if frame is not None:
            self._send(frame.content)

    def tell_skipped(self, number: int, frames: int, from_ns: int, to_ns: int) -> None:
        """Some were left out."""
        self._say({"op": "skipped", "id": number, "frames": frames, "from_ns": str(from_ns), "to_ns": str(to_ns)})

    def event(self, number: int, event: str, said: dict[str, Any]) -> None:
        """Something happened; in a flood, and where it takes nothing, it is only counted."""
        now_s = asyncio.get_running_loop().time()
        self._tokens = min(EVENTS_BURST, self._tokens + (now_s - self._tokens_s) * EVENTS_S)
        self._tokens_s = now_s
        if self.wire.behind or self._tokens < 1:
            self._dropped_events += 1
            return
        self._tokens -= 1
        self._all.events += 1
        if self._dropped_events:
            said = {**said, "missed": self._dropped_events}
            self._dropped_events = 0
        self._say({"op": "event", "id": number, "event": event, **said})

    def dismiss(self, code: int, reason: str) -> None:
        """Send it away."""
        self._say({"op": "closing", "reason": reason})
        self.wire.end(code, reason)


def _nothing() -> None:
    """Nobody is there any more."""
