"""The Flight server itself, in its own process: ranges straight from the files, live rows and pushes by the station.

Each call passes `_Service._call` first: rate, key, scope, and how many there are at once. What it refuses is a Flight
error whose `extra_info` is the same `application/problem+json` as over HTTP. Calls run in threads of gRPC.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson
import pyarrow as pa
import structlog
from pyarrow import flight

from scidaq import __version__
from scidaq.block import Block, Epoch, Gap, Reason, Schema, arrow_schema, calibrated, record_batch
from scidaq.clock import SystemClock
from scidaq.errors import RequestError
from scidaq.query import Place, Reader, StreamSummary
from scidaq.query import select as select_channels
from scidaq.web import problem
from scidaq.web.flight.pushed import Offer, block_of_batch, check_schema, expected, offered
from scidaq.web.flight.tickets import Ticket, content, parsed, stream_of
from scidaq.web.flight.wire import block_message, block_of, receive, send
from scidaq.web.keys import KeyStore, spread
from scidaq.web.limits import Bans, Buckets, neighbourhood
from scidaq.web.problem import Problem

log = structlog.get_logger(__name__)
F = TypeVar("F", bound=Callable[..., Any])

BATCH_BYTES = 4 << 20
"""A batch is made of at most so much of a large block."""
SMALL_BYTES, SMALL_ROWS = 1 << 18, 65_536
"""Blocks below are put together, until they have as much."""
CATCH_UP_S, DURABLE_S = 30.0, 0.05
"""How long rows before the live ones may take to become durable, and how often that is looked at."""
LOOK_S = 0.5
"""How often it is looked whether the client of a live stream without news is still there."""
_BURST_S = 5.0
_READERS = 8
_TYPES: dict[int, type[flight.FlightError]] = {
    401: flight.FlightUnauthenticatedError,
    403: flight.FlightUnauthorizedError,
    409: flight.FlightUnavailableError,
    429: flight.FlightUnavailableError,
    500: flight.FlightInternalError,
    503: flight.FlightUnavailableError,
    504: flight.FlightTimedOutError,
}
"""By status of the problem; all others are told as `FlightServerError`. What is unavailable may be tried again."""
Batches = Generator[Any, None, None]
Gone = Callable[[], bool]
"""Whether the client of a call has gone."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the station tells its Flight process at the start."""

    data_dir: Path
    address: str
    """`grpc://127.0.0.1:8081`"""
    certificate: tuple[bytes, bytes] | None
    """Chain and key in PEM; None without TLS."""
    keys: bool
    """Whether an API key is asked for."""
    max_calls: int
    max_calls_per_key: int
    calls_per_second: float
    max_batch_bytes: int
    live_buffer_bytes: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    name: str
    identity: str
    """What tells it from others: the key's id, or the address."""
    via: str
    peer: str


class Counts:
    """What happened, as plain integers; told to the station."""

    def __init__(self) -> None:
        self.by_result: Counter[tuple[str, str]] = Counter()
        """Calls by method and by `ok` or kind of problem."""
        self.sent_bytes = self.sent_rows = self.pushed_rows = self.skipped_rows = 0

    def as_json(self, active: int) -> dict[str, Any]:
        """For the station."""
        return {
            "active": active,
            "calls": [[*key, count] for key, count in self.by_result.items()],
            "sent_bytes": self.sent_bytes,
            "sent_rows": self.sent_rows,
            "pushed_rows": self.pushed_rows,
            "skipped_rows": self.skipped_rows,
        }


class _Headers(flight.ServerMiddleware):  # type: ignore[misc]
    """The headers of a call, for its handler."""

    def __init__(self, headers: Mapping[str, list[Any]]) -> None:
        self.given = headers


class _TakesHeaders(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    def start_call(self, info: Any, headers: Mapping[str, list[Any]]) -> _Headers:
        return _Headers({name.lower(): values for name, values in headers.items()})


class Access:
    """Who may call, how often, and how many calls at once. From any thread."""

    def __init__(self, setup: Setup, keys: KeyStore) -> None:
        self._setup, self._keys = setup, keys
        self._lock = threading.Lock()
        self._bans = Bans()
        self._rates = Buckets(setup.calls_per_second, setup.calls_per_second * _BURST_S)
        self._active: Counter[str] = Counter()

    @property
    def active(self) -> int:
        """Calls under way."""
        return self._active.total()

    def caller(self, peer: str, headers: Mapping[str, list[Any]], scope: str) -> Caller:
        """Who calls, when that one may. Raises `Problem`."""
        near, now_s = neighbourhood(peer), time.monotonic()
        with self._lock:
            if (wait_s := self._bans.wait_s(near, now_s)) > 0:
                raise Problem(
                    429, "too-many-failures", f"too many wrong keys came from this address: wait {wait_s:.0f} s"
                )
        given = headers.get("authorization", [])
        if not self._setup.keys and not given:
            who = Caller("anybody", f"@{near}", "open", peer)
            self._limit(who, now_s)
            return who
        if len(given) != 1 or not isinstance(given[0], str):
            self._limit(Caller("", f"@{near}", "", peer), now_s)
            raise Problem(
                401,
                "no-key",
                "an API key is needed: send the header `authorization: Bearer <key>` with each call; "
                "`scidaq keys create` makes one",
            )
        scheme, _, secret = given[0].partition(" ")
        key = self._keys.find(secret.strip()) if scheme.lower() == "bearer" else None
        with self._lock:
            if key is None:
                self._bans.failed(near, now_s)
            else:
                self._bans.succeeded(near)
        if key is None:
            log.warning("a wrong key was refused", peer=peer, door="flight")
            raise Problem(401, "wrong-key", "this is no valid API key: it may have expired or been revoked")
        who = Caller(key.name, f"key {key.id}", "key", peer)
        self._limit(who, now_s)
        if scope not in spread(key.scopes):
            raise Problem(403, "scope-missing", f"key {key.name!r} has not the scope {scope!r}, which this needs")
        return who

    def _limit(self, who: Caller, now_s: float) -> None:
        with self._lock:
            wait_s = self._rates.wait_s(who.identity, now_s)
        if wait_s > 0:
            raise Problem(429, "too-fast", "calls come faster than flight.calls_per_second")

    def enter(self, who: Caller) -> None:
        """One call more. Raises `Problem` where there is no room for it."""
        with self._lock:
            if self._active.total() >= self._setup.max_calls:
                raise Problem(429, "too-many-calls", "flight.max_calls are under way: try again later")
            if self._active[who.identity] >= self._setup.max_calls_per_key:
                raise Problem(
                    429, "too-many-calls", "flight.max_calls_per_key are under way with this key: end one of them"
                )
            self._active[who.identity] += 1

    def leave(self, who: Caller) -> None:
        """One less."""
        with self._lock:
            self._active[who.identity] -= 1
            if not self._active[who.identity]:
                del self._active[who.identity]


def flight_error(error: BaseException) -> flight.FlightError:
    """What a client is told of an error."""
    if isinstance(error, flight.FlightError):
        return error
    refused = problem.of(error)
    if refused is None:
        log.error("call failed", door="flight", exc_info=error)
        refused = problem.fault()
    said = problem.body(refused.status, refused.kind, refused.detail, **refused.more)
    return _TYPES.get(refused.status, flight.FlightServerError)(refused.detail, said)


def _kind(error: BaseException) -> str:
    refused = problem.of(error)
    return "fault" if refused is None else refused.kind


def _method(scope: str) -> Callable[[F], F]:
    """A method that answers at once: admitted, counted, its errors told."""

    def around(act: F) -> F:
        @wraps(act)
        def call(self: Service, context: Any, *args: Any) -> Any:
            with self.admitted(context, scope, act.__name__):
                return act(self, context, *args)

        return call  # type: ignore[return-value]

    return around


class Service(flight.FlightServerBase):  # type: ignore[misc]
    """The methods of Arrow Flight."""

    def __init__(self, setup: Setup, station: socket.socket) -> None:
        """`station`: where requests for live rows and for pushes are sent."""
        tls = [setup.certificate] if setup.certificate is not None else None
        self._setup, self._station = setup, station
        self._clock = SystemClock()
        self.counts = Counts()
        self.access = Access(setup, KeyStore(setup.data_dir, self._clock))
        self._lock = threading.Lock()
        self._idle: list[Reader] = []
        super().__init__(setup.address, tls_certificates=tls, middleware={"headers": _TakesHeaders()})

    # ---- coming in ----

    @contextmanager
    def admitted(self, context: Any, scope: str, method: str) -> Iterator[Caller]:
        """Within, a call is under way that may be. Raises `flight.FlightError`."""
        try:
            who = self._enter(context, scope)
            try:
                yield who
            finally:
                self.access.leave(who)
        except Exception as error:
            self.counts.by_result[method, _kind(error)] += 1
            raise flight_error(error) from None
        self.counts.by_result[method, "ok"] += 1

    def _enter(self, context: Any, scope: str) -> Caller:
        headers = context.get_middleware("headers")
        who = self.access.caller(_address(context.peer()), headers.given if headers is not None else {}, scope)
        self.access.enter(who)
        return who

    @contextmanager
    def _reader(self) -> Iterator[Reader]:
        with self._lock:
            known = self._idle.pop() if self._idle else None
        reader = known or Reader(self._setup.data_dir)
        yield reader
        with self._lock:  # not after an error: nobody knows what it has seen
            if len(self._idle) < _READERS:
                self._idle.append(reader)

    # ---- what there is ----

    @_method("read")
    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        """Every stream, or those whose id has the criteria in it."""
        search = bytes(criteria)[:200].decode("utf-8", "replace")
        with self._reader() as reader:
            return iter([self._info(reader, Ticket(name)) for name in reader.names() if search in name])

    @_method("read")
    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """What a descriptor would give: its command is a ticket, or its path the id of a stream."""
        ticket = self._described(descriptor)
        with self._reader() as reader:
            return self._info(reader, ticket)

    @_method("read")
    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """Its schema."""
        ticket = self._described(descriptor)
        with self._reader() as reader:
            stretches = _stretches(reader, ticket)
            return flight.SchemaResult(_arrow(stretches[-1].schema, ticket) if stretches else _NOTHING)

    def _described(self, descriptor: Any) -> Ticket:
        if descriptor.descriptor_type == flight.DescriptorType.PATH:
            path = "/".join(part.decode("utf-8", "replace") for part in descriptor.path)
            return parsed(path.encode(), self._clock.now_ns())
        return parsed(descriptor.command, self._clock.now_ns())

    def _info(self, reader: Reader, ticket: Ticket) -> Any:
        """One endpoint for each stretch of epochs with the same channels, since a Flight stream has one schema."""
        stretches = _stretches(reader, ticket)
        summaries = [s for one in stretches for s in one.summaries]
        whole = ticket == Ticket(ticket.stream, ticket.channels, raw=ticket.raw)
        rows = sum(s.rows for s in summaries)
        firsts = [s.first_ns for s in summaries if s.first_ns is not None]
        lasts = [s.last_ns for s in summaries if s.last_ns is not None]
        said = {
            "stream": ticket.stream,
            "rows": rows,
            "durable_rows": sum(s.durable_rows for s in summaries),
            "gap_rows": sum(s.gap_rows for s in summaries),
            "first_ns": min(firsts, default=None),
            "last_ns": max(lasts, default=None),
            "epochs": len(summaries),
        }
        if len(stretches) > 1 and not (ticket.live or ticket.last):
            tickets = [ticket.of_epochs(one.epochs[0], one.epochs[1]) for one in stretches]
        else:
            tickets = [ticket]
        return flight.FlightInfo(
            _arrow(stretches[-1].schema, ticket) if stretches else _NOTHING,
            flight.FlightDescriptor.for_command(ticket.as_bytes()),
            [flight.FlightEndpoint(one.as_bytes(), []) for one in tickets],
            rows if whole else -1,
            sum(s.bytes for s in summaries) if whole else -1,
            ordered=True,
            app_metadata=orjson.dumps(said),
        )

    # ---- rows ----

    def do_get(self, context: Any, ticket: Any) -> Any:
        """The rows of a ticket."""
        try:
            who = self._enter(context, "read")
        except Exception as error:
            self.counts.by_result["do_get", _kind(error)] += 1
            raise flight_error(error) from None
        rows: Batches | None = None
        try:
            wanted = parsed(ticket.ticket, self._clock.now_ns())
            rows = self._counted(who, self._rows(wanted, context.is_cancelled))
            # Begun here, so that what is wrong with the ticket is told at once, and that it surely ends with `leave`.
            schema = next(rows)
        except Exception as error:
            if rows is None:
                self.access.leave(who)
                self.counts.by_result["do_get", _kind(error)] += 1
            raise flight_error(error) from None
        return flight.GeneratorStream(schema, rows)

    def _counted(self, who: Caller, rows: Batches) -> Batches:
        """The same with its errors told, until it ends or the client goes."""
        try:
            yield next(rows)
            for batch, said in rows:
                self.counts.sent_bytes += batch.nbytes
                self.counts.sent_rows += batch.num_rows
                yield batch, orjson.dumps(said)
        except GeneratorExit:
            self.counts.by_result["do_get", "cancelled"] += 1
            raise
        except Exception as error:
            self.counts.by_result["do_get", _kind(error)] += 1
            raise flight_error(error) from None
        else:
            self.counts.by_result["do_get", "ok"] += 1
        finally:
            rows.close()
            self.access.leave(who)

    def _rows(self, ticket: Ticket, gone: Gone) -> Batches:
        """The schema, then batches with what is to be said of each."""
        if ticket.live:
            yield from self._live(ticket, gone)
            return
        with self._reader() as reader:
            stretches = _stretches(reader, ticket)
            if ticket.last is not None:
                items = _of_one_schema(reader.last(ticket.stream, ticket.last, None, ticket.channels))
                schema = next((i.schema for i in items if isinstance(i, Block)), None)
                yield (shape := _NOTHING if schema is None else _arrow(schema, ticket))
                yield from batches(iter(items), shape, ticket.raw)
                return
            if len(stretches) > 1:
                told = " and ".join(f"[{one.epochs[0]}, {one.epochs[1]}]" for one in stretches[:4])
                raise RequestError(
                    f"the channels of {ticket.stream} change in this range, and a Flight stream has one schema: ask "
                    f"get_flight_info, which gives an endpoint for each part, or give `epochs`: {told}"
                )
            yield (shape := _arrow(stretches[0].schema, ticket) if stretches else _NOTHING)
            yield from batches(_items(reader, ticket, stretches), shape, ticket.raw)

    # ---- live rows ----

    def _live(self, ticket: Ticket, gone: Gone) -> Batches:
        """Rows as they come; with a start, first what there is since then. The schema first of all."""
        with self._call(
            {"call": "live", "stream": ticket.stream, "buffer_bytes": self._setup.live_buffer_bytes}
        ) as sock:
            said, _ = _answer(sock)
            follows = Place(*said["follows"]) if said["follows"] is not None else None
            arriving = _arriving(sock, ticket, gone)
            schema = next(arriving)
            if schema is None or (chosen := _chosen(schema, ticket.channels)) is None:
                raise RequestError(
                    f"{ticket.stream} has no channel {', '.join(ticket.channels or ())}; "
                    f"it has {', '.join(schema.names if schema is not None else ())}"
                )
            yield (shape := _arrow(chosen, ticket))
            items = arriving if ticket.start_ns is None else self._since(ticket, follows, arriving)
            for batch, about in batches(items, shape, ticket.raw, live=True):
                skipped = [gap["rows"] or 0 for gap in about.get("gaps", ()) if gap["reason"] == Reason.LATE]
                self.counts.skipped_rows += sum(skipped)
                yield batch, about

    def _since(self, ticket: Ticket, follows: Place | None, arriving: Iterator[Any]) -> Iterator[Any]:
        """What is recorded since the start of a ticket up to where the live rows begin, then those."""
        deadline_s = time.monotonic() + CATCH_UP_S
        place: Place | None = None
        while follows is not None and (place is None or place[:2] < follows[:2]):
            with self._reader() as reader:
                for item in reader.blocks(ticket.stream, ticket.start_ns, None, ticket.channels, after=place):
                    if isinstance(item, Block):
                        if (item.epoch, item.first) >= follows[:2]:
                            break
                        if item.epoch == follows.epoch and item.end > follows.row:
                            item = item.slice(item.first, follows.row)
                        place = Place(item.epoch, item.end, item.last_ns)
                    elif (item.epoch, item.first) >= follows[:2]:
                        break
                    yield item
            if place is None and (follows.before_ns or 0) < (ticket.start_ns or 0):
                break  # it begins later than what there is
            if place is None or place[:2] < follows[:2]:
                if time.monotonic() > deadline_s:
                    raise Problem(503, "not-durable-yet", "rows before the live ones do not become durable: try again")
                time.sleep(DURABLE_S)  # they are on their way to the disk
        yield from arriving

    @contextmanager
    def _call(self, said: dict[str, Any]) -> Iterator[socket.socket]:
        """A conversation with the station about one call."""
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                try:
                    socket.send_fds(self._station, [orjson.dumps(said)], [theirs.fileno()])
                except OSError:
                    raise Problem(503, "station-away", "the station does not answer: try again") from None
            yield mine

    # ---- pushes ----

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Take rows of a producer, and tell it how far they are durable."""
        with self.admitted(context, "operate", "do_put") as who:
            if descriptor.descriptor_type != flight.DescriptorType.CMD:
                raise RequestError('the descriptor of a push is a command: {"stream": "rig/temps", "counter": "..."}')
            self._push(who, offered(descriptor.command), reader, writer)

    def _push(self, who: Caller, offer: Offer, reader: Any, writer: Any) -> None:
        asked = {"call": "push", "stream": offer.stream, "counter": offer.counter}
        about = {"who": who.name, "via": who.via, "peer": who.peer}
        with self._call(asked | about) as sock:
            said, _ = _answer(sock)
            schema = Schema.from_json(said["schema"])
            try:
                check_schema(offer.stream, schema, reader.schema)
            except RequestError:
                send(sock, {"end": True})  # nothing was begun, so nothing is lost
                raise
            writer.write(_ack(said["durable"]))
            acks = _Acks(sock, writer)
            try:
                self._take(offer.stream, schema, reader, sock)
                send(sock, {"end": True})
                acks.join()
            except OSError:
                acks.give_up()
                raise acks.problem or Problem(503, "station-away", "the station has ended this: try again") from None
            finally:
                acks.give_up()
            if acks.problem is not None:
                raise acks.problem

    def _take(self, stream: str, schema: Schema, reader: Any, sock: socket.socket) -> None:
        """Every batch until the producer says that it was the last."""
        while True:
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                return
            except pa.ArrowInvalid as error:
                raise RequestError(f"what was pushed to {stream} is no Arrow data: {str(error)[:200]}") from error
            batch = chunk.data
            if batch is None:
                continue
            if batch.get_total_buffer_size() > self._setup.max_batch_bytes:
                raise RequestError(
                    f"a batch of {batch.get_total_buffer_size()} bytes: it may have flight.max_batch_bytes, which are "
                    f"{self._setup.max_batch_bytes}"
                )
            block = block_of_batch(stream, schema, batch, chunk.app_metadata)
            if block is None:
                send(sock, {"alive": True})
                continue
            send(sock, *block_message(block))
            self.counts.pushed_rows += block.rows

    # ---- actions ----

    def list_actions(self, context: Any) -> list[Any]:
        """What `do_action` knows."""
        return [flight.ActionType(name, what) for name, what in ACTIONS.items()]

    @_method("read")
    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        """Answers of JSON."""
        if action.type == "version":
            answer: Any = {"scidaq": __version__, "flight": pa.__version__}
        elif action.type == "streams":
            with self._reader() as reader:
                found: dict[str, list[StreamSummary]] = {}
                for one in reader.streams():
                    found.setdefault(one.stream, []).append(one)
            answer = [_summed(name, summaries) for name, summaries in found.items()]
        elif action.type == "takes":
            asked = content(action.body.to_pybytes(), "what `takes` is given")
            stream = stream_of({"stream": asked} if isinstance(asked, str) else asked)
            with self._call({"call": "takes", "stream": stream}) as sock:
                schema = Schema.from_json(_answer(sock)[0]["schema"])
            answer = {"stream": stream, "schema": schema.as_json()}
            arrow = flight.Result(expected(schema).serialize())
            return iter([flight.Result(pa.py_buffer(orjson.dumps(answer))), arrow])
        else:
            raise RequestError(f"no action {action.type[:64]!r}; there are {', '.join(ACTIONS)}")
        return iter([flight.Result(pa.py_buffer(orjson.dumps(answer)))])


ACTIONS = {
    "version": "The versions of scidaq and of Arrow, as JSON.",
    "streams": "What is recorded, by stream, as JSON.",
    "takes": 'What has to be pushed to {"stream": ...}: as JSON, and as an Arrow schema.',
}
_NOTHING = pa.schema([pa.field("time", pa.timestamp("ns", "UTC"), nullable=False)])
"""Of a stream of which nothing is known yet."""


def _summed(name: str, summaries: list[StreamSummary]) -> dict[str, Any]:
    firsts = [s.first_ns for s in summaries if s.first_ns is not None]
    lasts = [s.last_ns for s in summaries if s.last_ns is not None]
    return {
        "id": name,
        "rows": sum(s.rows for s in summaries),
        "durable_rows": sum(s.durable_rows for s in summaries),
        "gap_rows": sum(s.gap_rows for s in summaries),
        "first_ns": min(firsts, default=None),
        "last_ns": max(lasts, default=None),
        "bytes": sum(s.bytes for s in summaries),
    }


# ---- the station ----------------------------------------------------------------------------------------------------


def _answer(sock: socket.socket) -> tuple[dict[str, Any], list[Any]]:
    """The next message of the station. Raises `Problem`, also when it has ended the conversation."""
    try:
        got = receive(sock)
    except (OSError, ValueError):
        got = None
    if got is None:
        raise Problem(503, "station-away", "the station has ended this: try again")
    if (refused := got[0].get("problem")) is not None:
        raise Problem(refused["status"], refused["kind"], refused["detail"])
    return got


def _arriving(sock: socket.socket, ticket: Ticket, gone: Gone) -> Iterator[Any]:
    """The schema of what comes, then blocks with the chosen channels, gaps, and None when there is a pause.

    Raises `Problem` when the channels change: a Flight stream has one schema.
    """
    schema: Schema | None = None
    seen: Any = None
    known: dict[int, Any] = {}
    while True:
        if schema is not None and not select.select([sock], [], [], 0)[0]:
            yield None
        while not select.select([sock], [], [], LOOK_S)[0]:
            if gone():
                raise Problem(499, "cancelled", "the client has gone")
        said, buffers = _answer(sock)
        if (given := said.get("schema")) is not None:
            schema = Schema.from_json(given)
            chosen = _chosen(schema, ticket.channels)
            now = None if chosen is None else _seen(chosen, ticket.raw)
            if seen is None:
                seen = now
                yield schema
            elif now != seen:
                raise Problem(409, "channels-changed", f"the channels of {ticket.stream} have changed: ask again")
        elif (gap := said.get("gap")) is not None:
            yield Gap.from_json(ticket.stream, gap["epoch"], gap)
        elif schema is not None:
            block = block_of(ticket.stream, schema, said["block"], buffers)
            yield block if ticket.channels is None else select_channels(block, ticket.channels, known)


def _ack(durable: int | None) -> Any:
    return pa.py_buffer(orjson.dumps({"durable": durable}))


class _Acks:
    """What the station says of a push, told to the producer in a thread of its own, until it has said everything.

    When the station ends it before the producer has, the producer is told so in a last message, and is to end the call:
    its handler waits for the next batch, and nothing but the producer can end that.
    """

    def __init__(self, sock: socket.socket, writer: Any) -> None:
        self._sock, self._writer = sock, writer
        self._given_up = False
        self.problem: Problem | None = None
        """Why the station has ended it."""
        self._thread = threading.Thread(target=self._run, name="acks", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while (got := receive(self._sock)) is not None:
                if (refused := got[0].get("problem")) is not None:
                    self.problem = Problem(refused["status"], refused["kind"], refused["detail"])
                    break
                if got[0].get("whole"):
                    return
                self._writer.write(_ack(got[0]["durable"]))
            if self.problem is None:
                self.problem = Problem(503, "station-away", "the station has ended this: try again")
            if not self._given_up:
                _shut(self._sock)
                said = problem.body(self.problem.status, self.problem.kind, self.problem.detail)
                self._writer.write(pa.py_buffer(b'{"ended":' + said + b"}"))
        except Exception:  # the producer has gone
            _shut(self._sock)

    def join(self) -> None:
        """Wait for the last word."""
        self._thread.join()

    def give_up(self) -> None:
        """No word is wanted any more."""
        self._given_up = True
        _shut(self._sock)
        self._thread.join(1.0)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has been ended already


# ---- of one schema ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Stretch:
    """Neighbouring epochs whose readers see the same channels."""

    schema: Schema
    summaries: list[StreamSummary]

    @property
    def epochs(self) -> tuple[int, int]:
        return self.summaries[0].epoch, self.summaries[-1].epoch


def _stretches(reader: Reader, ticket: Ticket) -> list[_Stretch]:
    """The stretches of a stream that a ticket may have rows of. Raises `UnknownStream`, `RequestError`."""
    epochs: dict[int, Epoch] = {one.number: one for one in reader.epochs(ticket.stream)}
    out: list[_Stretch] = []
    known: set[str] = set()
    for summary in reader.summary(ticket.stream):
        epoch = epochs.get(summary.epoch)
        if epoch is None or not _within(ticket, summary):
            continue
        known.update(epoch.schema.names)
        schema = _chosen(epoch.schema, ticket.channels)
        if schema is None:
            continue
        if out and _seen(out[-1].schema, ticket.raw) == _seen(schema, ticket.raw):
            out[-1].summaries.append(summary)
            out[-1].schema = schema
        else:
            out.append(_Stretch(schema, [summary]))
    if known and not out:
        raise RequestError(
            f"{ticket.stream} has no channel {', '.join(ticket.channels or ())}; it has {', '.join(sorted(known))}"
        )
    return out


def _within(ticket: Ticket, summary: StreamSummary) -> bool:
    if ticket.epochs is not None and not ticket.epochs[0] <= summary.epoch <= ticket.epochs[1]:
        return False
    if summary.first_ns is None or summary.last_ns is None:
        return False  # without a row
    if ticket.start_ns is not None and summary.last_ns < ticket.start_ns:
        return False
    return ticket.stop_ns is None or summary.first_ns < ticket.stop_ns


def _chosen(schema: Schema, channels: tuple[str, ...] | None) -> Schema | None:
    if channels is None:
        return schema
    here = tuple(schema.channels[schema.index(name)] for name in channels if name in schema.names)
    return Schema(here, schema.rate) if here else None


def _seen(schema: Schema, raw: bool) -> Any:
    return schema.channels if raw else calibrated(schema).channels


def _arrow(schema: Schema, ticket: Ticket) -> pa.Schema:
    """The schema of the answer; its metadata says the stream, and the rate where there is one."""
    out = arrow_schema(schema, raw=ticket.raw, stream=ticket.stream)
    if schema.rate is not None:
        out = out.with_metadata({**out.metadata, b"rate": str(schema.rate).encode()})
    return out


def _of_one_schema(items: list[Block | Gap]) -> list[Block | Gap]:
    """The newest rows, as far back as the channels are the same."""
    schema = next((i.schema for i in reversed(items) if isinstance(i, Block)), None)
    for n in range(len(items) - 1, -1, -1):
        item = items[n]
        if isinstance(item, Block) and schema is not None and item.schema.channels != schema.channels:
            return items[n + 1 :]
    return items


def _items(reader: Reader, ticket: Ticket, stretches: list[_Stretch]) -> Iterator[Block | Gap]:
    """The rows of a ticket, and the gaps between them."""
    if not stretches:
        return
    span = (ticket.start_ns, ticket.stop_ns)
    if ticket.first is not None or ticket.end is not None:
        epoch = stretches[0].epochs[0]
        yield from reader.blocks(ticket.stream, *span, ticket.channels, epoch=epoch, first=ticket.first, end=ticket.end)
        return
    low, high = stretches[0].epochs
    after = Place(low, 0) if low else None
    for item in reader.blocks(ticket.stream, *span, ticket.channels, after=after):
        if item.epoch > high:
            return
        yield item


# ---- batches ---------------------------------------------------------------------------------------------------------


def batches(items: Iterator[Block | Gap | None], shape: pa.Schema, raw: bool, *, live: bool = False) -> Batches:
    """Record batches of a handy size, each with `epoch`, `first` and the `gaps` before it; those at the end stand with
    a batch without rows. In `live` rows gaps are told when there is a pause, which None stands for."""
    gaps: list[dict[str, Any]] = []
    for item in _joined(items):
        if isinstance(item, Gap):
            gaps.append(_gap(item))
            continue
        if item is None:
            if live and gaps:
                yield pa.RecordBatch.from_pylist([], schema=shape), {"gaps": gaps}
                gaps = []
            continue
        step = max(1, BATCH_BYTES * item.rows // max(1, item.nbytes))
        for first in range(item.first, item.end, step):
            piece = item.slice(first, min(item.end, first + step))
            said: dict[str, Any] = {"epoch": piece.epoch, "first": piece.first}
            if gaps:
                said["gaps"], gaps = gaps, []
            yield record_batch(piece, raw=raw, schema=shape), said
    if gaps:
        yield pa.RecordBatch.from_pylist([], schema=shape), {"gaps": gaps}


def _gap(gap: Gap) -> dict[str, Any]:
    return gap.as_json() | {"epoch": gap.epoch, "rows": gap.rows}


def _joined(items: Iterator[Block | Gap | None]) -> Iterator[Block | Gap | None]:
    """The same with small blocks that follow one another as one: a slow stream comes row by row."""
    run: list[Block] = []
    rows = size = 0
    for item in items:
        fits = isinstance(item, Block) and item.nbytes < SMALL_BYTES and size < SMALL_BYTES and rows < SMALL_ROWS
        if run and not (fits and isinstance(item, Block) and item.follows(run[-1])):
            yield Block.join(run)
            run, rows, size = [], 0, 0
        if isinstance(item, Block) and item.nbytes < SMALL_BYTES:
            run.append(item)
            rows, size = rows + item.rows, size + item.nbytes
        else:
            yield item
    if run:
        yield Block.join(run)


def _address(peer: str) -> str:
    """The address in what gRPC calls a peer: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`."""
    kind, _, rest = peer.partition(":")
    host = unquote(rest).rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return peer[:100]
