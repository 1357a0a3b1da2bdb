"""`scidaq.push`: rows of this program into a station elsewhere, over Arrow Flight, at least once and never twice.

What was added stays here until the station says that it is durable there. A thread sends it, and when the connection
breaks, or the station is restarted, begins again behind the last row that is durable; rows that come twice the station
knows by their numbers.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import numpy as np
import orjson

from scidaq.block import Block, Schema, moment_ns
from scidaq.client.sending import headers_of
from scidaq.clock import SystemClock
from scidaq.errors import NotAllowed, RequestError, StationUnreachable

if TYPE_CHECKING:
    from pyarrow import flight

URL = "grpc://127.0.0.1:8081"
PING_S = 10.0
"""How often a producer with nothing to say gives a sign of life."""
AGAIN_S, AGAIN_MOST_S = 0.1, 5.0
"""The first and the longest pause before another attempt."""
WAITING_BYTES = 64 << 20
BATCH_BYTES = 4 << 20
"""A batch is no larger; what is added at once may be."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows that the station has not said to be durable."""

    first: int
    rows: int
    batch: Any
    said: bytes
    nbytes: int


def push(
    url: str = URL,
    stream: str = "",
    *,
    key: str | None = None,
    counter: str | None = None,
    first: int | None = None,
    verify: bool | str = True,
    waiting_bytes: int = WAITING_BYTES,
    timeout_s: float = 60.0,
) -> Pusher:
    """A way into a stream of an instrument of driver `push`, for one thread at a time.

        import scidaq

        with scidaq.push("grpc://127.0.0.1:8081", "rig/temps") as out:
            out.add({"inside": [20.1, 20.2], "outside": [3.5, 3.5]}, t=[t0, t1])

    `key` needs the scope `operate`; by default it is the environment variable SCIDAQ_KEY. A program that numbers its
    rows beyond its own life gives the name of that numbering as `counter`, and goes on at `next_row`: at `first`, or
    else behind what the station has of it. Without one, each call is a numbering of its own, from 0. `waiting_bytes` of
    rows may wait for the station; then `add` waits, `timeout_s` at most. Raises `StationUnreachable`, `NotAllowed`, and
    `RequestError` for a stream that takes no rows.
    """
    key = os.environ.get("SCIDAQ_KEY") if key is None else key
    numbering = counter or str(uuid.uuid4())
    return Pusher(_address(url), stream, key or None, numbering, first, verify, waiting_bytes, timeout_s)


class Pusher:
    """Rows on their way into a stream. Closed by `with`, which waits until all of them are durable."""

    def __init__(
        self,
        address: str,
        stream: str,
        key: str | None,
        counter: str,
        first: int | None,
        verify: bool | str,
        waiting_bytes: int,
        timeout_s: float,
    ) -> None:
        self.address, self.stream, self.counter = address, stream, counter
        self._key, self._verify = key, verify
        self._most_bytes, self._timeout_s = waiting_bytes, timeout_s
        self._clock = SystemClock()
        self._changed = threading.Condition()
        self._waiting: deque[_Piece] = deque()
        self._sent = 0
        """How many of these have been sent over the present connection."""
        self._bytes = 0
        self._next = self._durable = first or 0
        self._next_ns: int | None = None
        self._closing = self._gone = False
        self._why = ""
        """Why the last attempt failed."""
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._connections = 0
        self.schema = self._asked()
        """What the rows are made of; with a rate, they follow one another at that."""
        from scidaq.block import arrow_schema

        whole = arrow_schema(self.schema, raw=True)
        self._arrow = whole if self.schema.rate is None else whole.remove(0)
        self._thread = threading.Thread(target=self._run, name="scidaq-push", daemon=True)
        self._thread.start()
        if first is None:
            try:
                self._wait(lambda: self._connections, "the station to say what it has")
            except BaseException:
                self._stop_all()
                raise
            self._next = self._durable

    # ---- what one does with it ----

    def add(self, values: Mapping[str, Any], t: Any = None, *, first: int | None = None) -> int:
        """Rows: a list or an array per channel. The number of the first of them.

        `t`: UTC nanoseconds (or datetime64) of each row; of a stream with a rate, the time of the first row, by default
        that which follows the rows before. `first`: their number, when rows before it are lost for good. Waits when too
        much waits already. Raises `RequestError` for values that do not fit, and what the station has refused.
        """
        number = self._next if first is None else first
        if number < self._next:
            raise RequestError(f"first: row {number} comes after row {self._next - 1}; numbers do not go back")
        block = self._block(values, t, number)
        for piece in self._pieces(block):
            self._wait(lambda piece=piece: not self._waiting or self._bytes + piece.nbytes <= self._most_bytes, "room")
            with self._changed:
                self._waiting.append(piece)
                self._bytes += piece.nbytes
                self._next = piece.first + piece.rows
                self._changed.notify_all()
        self._next_ns = block.last_ns + (0 if self.schema.rate is None else self.schema.span_ns(1))
        return number

    def flush(self, timeout_s: float | None = None) -> int:
        """Wait until everything is durable in the station; the number of the next row. Raises `StationUnreachable`."""
        self._wait(lambda: not self._waiting, "the rows to become durable", timeout_s)
        return self._next

    def close(self, timeout_s: float | None = None) -> None:
        """`flush`, and let the station know that this was all. Raises as that does, and is closed all the same."""
        if self._gone:
            return
        try:
            self.flush(timeout_s)
        finally:
            self._stop_all()

    def _stop_all(self) -> None:
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._stop.set()
            self._changed.notify_all()
        self._thread.join(self._timeout_s)
        self._gone = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def durable(self) -> int:
        """Before which row number everything is durable in the station."""
        return self._durable

    @property
    def next_row(self) -> int:
        """The number of the next row."""
        return self._next

    @property
    def waiting_rows(self) -> int:
        """Rows that are not durable yet."""
        with self._changed:
            return sum(piece.rows for piece in self._waiting)

    @property
    def connections(self) -> int:
        """How many connections there have been."""
        return self._connections

    def __repr__(self) -> str:
        return f"<rows into {self.stream} at {self.address}: {self._next} added, durable before {self._durable}>"

    # ---- rows ----

    def _block(self, values: Mapping[str, Any], t: Any, first: int) -> Block:
        names = self.schema.names
        if strange := sorted(set(values) - set(names)):
            raise RequestError(f"{self.stream} has no channel {', '.join(strange)}; it has {', '.join(names)}")
        if missing := [name for name in names if name not in values]:
            raise RequestError(f"{self.stream}: values of {', '.join(missing)} are missing")
        times, t0_ns = None, 0
        if self.schema.rate is None:
            if t is None:
                raise RequestError(f"{self.stream}: each row has its own time, give `t`")
            given = np.asarray(t)
            if given.dtype.kind == "M":
                given = given.astype("datetime64[ns]")
            elif given.dtype.kind not in "iu":
                raise RequestError(f"{self.stream}: t is UTC nanoseconds as whole numbers, or datetime64")
            times = given.astype(np.int64)
        elif t is not None:
            t0_ns = moment_ns(t, self._clock.now_ns())
        else:
            t0_ns = self._next_ns if self._next_ns is not None else self._clock.now_ns()
        try:
            filled, valid = {}, {}
            for name in names:
                filled[name], valid[name] = _there(values[name])
            masks = {name: mask for name, mask in valid.items() if mask is not None}
            return Block.of(self.schema, filled, stream=self.stream, first=first, t0_ns=t0_ns, times=times, valid=masks)
        except (ValueError, TypeError) as error:
            raise RequestError(f"{self.stream}: the rows cannot be taken: {error}") from error

    def _pieces(self, block: Block) -> list[_Piece]:
        from scidaq.block import record_batch

        out = []
        step = max(1, BATCH_BYTES * block.rows // max(1, block.nbytes))
        for at in range(block.first, block.end, step):
            piece = block.slice(at, min(block.end, at + step))
            batch = record_batch(piece, raw=True)
            facts = {"first": piece.first}
            if self.schema.rate is not None:
                batch = batch.remove_column(0)
                facts["t0_ns"] = piece.t0_ns
            out.append(_Piece(piece.first, piece.rows, batch, orjson.dumps(facts), piece.nbytes))
        return out

    def _wait(self, what: Any, for_what: str, timeout_s: float | None = None) -> None:
        """Wait until something holds. Raises what the station has refused, and `StationUnreachable`."""
        patience_s = self._timeout_s if timeout_s is None else timeout_s
        with self._changed:
            if self._gone:
                raise RequestError(f"{self.stream}: nothing can be added any more, it is closed")
            done = self._changed.wait_for(lambda: self._failure is not None or what(), patience_s)
            if self._failure is not None:
                raise self._failure
            if not done:
                why = self._why or "the station has not said so"
                raise StationUnreachable(
                    f"{self.address}: waited {patience_s:g} s for {for_what}: {why}; the rows stay here, so try again"
                )

    # ---- the connection ----

    def _client(self) -> flight.FlightClient:
        from pyarrow import flight

        options: dict[str, Any] = {}
        if self.address.startswith("grpc+tls:"):
            if isinstance(self._verify, str):
                try:
                    with open(self._verify, "rb") as file:
                        options["tls_root_certs"] = file.read()
                except OSError as error:
                    raise RequestError(f"verify={self._verify!r}: no certificates can be read ({error})") from None
            elif not self._verify:
                options["disable_server_verification"] = True
        return flight.FlightClient(self.address, **options)

    def _options(self, timeout_s: float | None = None) -> flight.FlightCallOptions:
        from pyarrow import flight

        said = headers_of(self._key)
        key = [(b"authorization", said["Authorization"].encode())] if "Authorization" in said else []
        return flight.FlightCallOptions(timeout=timeout_s, headers=key)

    def _asked(self) -> Schema:
        """What the station takes."""
        import pyarrow as pa
        from pyarrow import flight

        with self._client() as client:
            asked = flight.Action("takes", orjson.dumps({"stream": self.stream}))
            try:
                answer = next(iter(client.do_action(asked, self._options(self._timeout_s))))
            except (flight.FlightError, pa.ArrowException, OSError) as error:
                raise _refusal(error, self.address) or StationUnreachable(
                    f"no station answers at {self.address} ({_words(error)})"
                ) from error
            said = orjson.loads(answer.body.to_pybytes())
        return Schema.from_json(said["schema"])

    def _run(self) -> None:
        import pyarrow as pa
        from pyarrow import flight

        pause_s = AGAIN_S
        while True:
            with self._changed:
                if self._closing and not self._waiting:
                    return
                before = self._durable
            try:
                self._session()
                return
            except (flight.FlightError, pa.ArrowException, OSError, StopIteration) as error:
                with self._changed:
                    self._failure = _refusal(error, self.address)
                    self._why = _words(error)
                    self._sent = 0
                    self._changed.notify_all()
                    if self._failure is not None or (self._closing and not self._waiting):
                        return
                pause_s = AGAIN_S if self._durable > before else min(2 * pause_s, AGAIN_MOST_S)
            self._clock.wait(self._stop, pause_s)

    def _session(self) -> None:
        """One connection: send what waits from where the station is, until all is done."""
        from pyarrow import flight

        asked = orjson.dumps({"stream": self.stream, "counter": self.counter})
        with self._client() as client:
            writer, reader = client.do_put(flight.FlightDescriptor.for_command(asked), self._arrow, self._options())
            over = threading.Event()
            acks: threading.Thread | None = None
            try:
                if (opened := reader.read()) is None:
                    writer.close()  # which says why
                    raise StopIteration
                self._heard(opened)
                with self._changed:
                    self._sent = 0
                    self._connections += 1
                    self._why = ""
                    self._changed.notify_all()
                acks = threading.Thread(target=self._listen, args=(reader, over), name="scidaq-acks", daemon=True)
                acks.start()
                self._send_all(writer, over)
                if over.is_set():
                    writer.close()  # which says why
                    raise StopIteration
                writer.done_writing()
                acks.join(self._timeout_s)
            except BaseException:
                # What the station has to say of it stands in the end of the call.
                client.close()
                raise
            writer.close()

    def _send_all(self, writer: Any, over: threading.Event) -> None:
        """Send what waits, in order, until it is closed or the station has ended the call."""
        empty = _empty(self._arrow)
        while not over.is_set():
            with self._changed:
                self._changed.wait_for(
                    lambda: over.is_set() or self._sent < len(self._waiting) or (self._closing and not self._waiting),
                    PING_S,
                )
                if over.is_set() or (self._closing and not self._waiting):
                    return
                piece = self._waiting[self._sent] if self._sent < len(self._waiting) else None
                self._sent += piece is not None
            if piece is not None:
                writer.write_with_metadata(piece.batch, piece.said)
            else:
                writer.write_with_metadata(empty, b"{}")

    def _listen(self, reader: Any, over: threading.Event) -> None:
        try:
            while (ack := reader.read()) is not None and self._heard(ack):
                pass
        except Exception:
            pass  # the end of the call says what it was
        over.set()
        with self._changed:
            self._changed.notify_all()

    def _heard(self, ack: Any) -> bool:
        """Forget what is durable; False when the station wants this call to end."""
        said = orjson.loads(ack.to_pybytes())
        if "ended" in said:
            return False
        durable = said["durable"]
        with self._changed:
            while durable is not None and self._waiting:
                piece = self._waiting[0]
                if piece.first + piece.rows > durable:
                    break
                self._waiting.popleft()
                self._bytes -= piece.nbytes
                self._sent = max(0, self._sent - 1)
            if durable is not None:
                self._durable = max(self._durable, durable)
            self._changed.notify_all()
        return True


def _empty(schema: Any) -> Any:
    import pyarrow as pa

    return pa.RecordBatch.from_pylist([], schema=schema)


def _there(values: Any) -> tuple[Any, Any]:
    """Values with something in the place of those that are missing (None, masked), and which there are."""
    if isinstance(values, np.ma.MaskedArray):
        mask = ~np.ma.getmaskarray(values)
        flat = mask.reshape(len(mask), -1).all(axis=1)
        return values.filled(0), None if flat.all() else flat
    if isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return values, None
    listed = list(values)
    mask = np.array([one is not None for one in listed], np.bool_)
    if mask.all():
        return listed, None
    stand_in = next((one for one in listed if one is not None), 0)
    return [stand_in if one is None else one for one in listed], mask


def _address(url: str) -> str:
    """The address as Flight wants it. Raises `RequestError`."""
    parts = urlsplit(url if "://" in url else f"grpc://{url}")
    schemes = {"grpc": "grpc", "grpc+tcp": "grpc", "grpc+tls": "grpc+tls", "grpcs": "grpc+tls"}
    if parts.scheme not in schemes or not parts.hostname or parts.username or parts.query:
        raise RequestError(f"{url!r} is no address of Arrow Flight: give grpc://host:8081 or grpc+tls://host:8081")
    return f"{schemes[parts.scheme]}://{parts.netloc}"


def _words(error: BaseException) -> str:
    """What a Flight error says, without the words of gRPC."""
    return str(error).partition(". Detail:")[0].partition(" Detail:")[0][:300] or type(error).__name__


def _refusal(error: BaseException, address: str) -> Exception | None:
    """What the station has refused for good; None when it may be tried again."""
    from pyarrow import flight

    told = getattr(error, "extra_info", b"") or b""
    if isinstance(error, flight.FlightUnauthenticatedError | flight.FlightUnauthorizedError):
        return NotAllowed(_words(error))
    if isinstance(error, flight.FlightUnavailableError) or not told:
        return None
    try:
        said = orjson.loads(told)
        status, detail = int(said["status"]), str(said["detail"])
    except (ValueError, KeyError, TypeError):
        return None
    return None if status in (409, 429, 500, 503, 504) else RequestError(detail)
