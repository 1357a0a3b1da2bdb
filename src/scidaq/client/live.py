"""What a stream shows as it comes, over the live socket: frames of buckets, again after a lost connection, no hole.

`Watching` understands the messages and touches no socket; `watch` and `watch_async` are the two that do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from scidaq.client.asking import Answer, problem
from scidaq.client.sending import Verify, headers_of, trust
from scidaq.errors import NotAllowed, ScidaqError, StationError, StationUnreachable

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = npt.NDArray[Any]
PATIENCE_S = 60.0
"""How long a station may be away before its viewer gives up."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_OPEN_S = 10.0
_DTYPES = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "u1": "|u1", "u4": "<u4"}
_OWN = ("op", "id", "event", "at_ns")
_REFUSED = 4401
"""The code with which a station ends the connection of a key that is valid no more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Some buckets of time, in order: one takes the place of an earlier one with the same time."""

    stream: str
    units: Mapping[str, str]
    """Of each channel's values."""
    step_ns: int
    """Length of a cell of the grid on which the buckets lie."""
    time_ns: npt.NDArray[np.int64]
    """UTC nanoseconds of the first row of each bucket."""
    last_ns: npt.NDArray[np.int64]
    """Of its last row."""
    rows: Numbers
    """How many it has."""
    least: Mapping[str, Numbers]
    """Per channel; NaN where nothing was valid."""
    greatest: Mapping[str, Numbers]
    mean: Mapping[str, Numbers]
    newest: Mapping[str, Numbers]
    """The value of the last row."""
    gaps: tuple[Mapping[str, Any], ...] = ()
    """Holes that were announced: `start_ns`, `stop_ns`, `rows`, `reason`, `open`."""
    history: bool = False
    """Whether it is what came before the viewer did, or while it was away."""

    def __len__(self) -> int:
        return len(self.time_ns)

    def to_arrow(self) -> pa.Table:
        """`time`, `rows`, and for each channel `x` the columns `x.min`, `x.max`, `x.mean` and `x.last`."""
        import pyarrow as pa

        times = pa.array(self.time_ns, pa.timestamp("ns", "UTC"))
        columns: dict[str, Any] = {"time": times, "rows": pa.array(self.rows)}
        for name in self.units:
            columns |= {f"{name}.min": self.least[name], f"{name}.max": self.greatest[name]}
            columns |= {f"{name}.mean": self.mean[name], f"{name}.last": self.newest[name]}
        return pa.table(columns)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Frames that were left out since this viewer was too slow: read this stretch where it matters."""

    stream: str
    frames: int
    start_ns: int
    """Of the first row in them."""
    stop_ns: int
    """Of the last."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at a station."""

    event: str
    """instrument, gap, run, note, health or log."""
    at_ns: int
    facts: Mapping[str, Any]
    """What else there is to say, as the reference of the live socket has it."""


def decoded(message: bytes) -> tuple[dict[str, Any], dict[str, Numbers]]:
    """Header and arrays of a frame. Raises `StationError` for what is none."""
    try:
        size = int.from_bytes(message[:4], "little")
        header = orjson.loads(message[4 : 4 + size])
        begin = 4 + size + -(4 + size) % 8
        arrays = {}
        for name, said in header.pop("buffers").items():
            shape, dtype = tuple(said["shape"]), np.dtype(_DTYPES[said["dtype"]])
            count = int(np.prod(shape, dtype=np.int64))
            data = np.frombuffer(message, dtype, count, begin + said["offset"]) if count else np.empty(0, dtype)
            arrays[name] = data.reshape(shape)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StationError(f"a frame of {len(message)} bytes came that cannot be understood ({error})") from error
    return header, arrays


def frame_of(header: Mapping[str, Any], arrays: Mapping[str, Numbers]) -> Frame:
    """A frame as it came."""
    base_ns = int(header["base_ns"])
    names = [channel["name"] for channel in header["channels"]]
    newest = {name: arrays[f"last:{i}"] for i, name in enumerate(names)}
    starts = arrays["t0"]

    def of(kind: str) -> dict[str, Numbers]:
        """Of buckets of one row each only the values are there."""
        return {name: arrays.get(f"{kind}:{i}", newest[name]) for i, name in enumerate(names)}

    return Frame(
        header["stream"],
        {channel["name"]: channel["unit"] for channel in header["channels"]},
        int(header["step_ns"] or 0),
        base_ns + starts.astype(np.int64),
        base_ns + arrays.get("t1", starts).astype(np.int64),
        arrays.get("n", np.ones(len(starts), np.uint32)),
        of("min"),
        of("max"),
        of("mean"),
        newest,
        tuple(header.get("gaps") or ()),
        bool(header.get("history")),
    )


class Watching:
    """What one viewer asks for and hears, over as many connections as it takes."""

    def __init__(self, wanted: Mapping[str, Any], address: str) -> None:
        self._wanted, self._address = wanted, address
        self._from_ns: int | None = None
        self._before_ns = -1

    def hello(self) -> str:
        """What to say on a new connection."""
        asked = dict(self._wanted)
        if self._from_ns is not None and "stream" in asked:
            asked["since_ns"] = str(self._from_ns)  # from the bucket on that may not have been full
        elif self._from_ns is not None:
            asked["recent"], self._before_ns = 1000, self._from_ns
        return orjson.dumps({"op": "subscribe", "id": 1, **asked}).decode()

    def take(self, message: str | bytes) -> Iterator[Frame | Skipped | Event]:
        """What a message tells. Raises the error that it may be."""
        if isinstance(message, bytes):
            frame = frame_of(*decoded(message))
            if len(frame):
                self._from_ns = max(int(frame.time_ns[-1]), self._from_ns or 0)
            yield frame
            return
        said = orjson.loads(message)
        if said["op"] == "error":
            body = {"type": f"urn:scidaq:{said['kind']}", "detail": said["detail"]}
            raise problem(Answer(422, {}, orjson.dumps(body)), self._address)
        if said["op"] == "skipped":
            stream = str(self._wanted.get("stream"))
            yield Skipped(stream, said["frames"], int(said["from_ns"]), int(said["to_ns"]))
        elif said["op"] == "event":
            event = Event(said["event"], int(said["at_ns"]), {k: v for k, v in said.items() if k not in _OWN})
            if event.at_ns > self._before_ns:  # else it was told before the connection was lost
                self._from_ns = max(event.at_ns, self._from_ns or 0)
                yield event


def wanted_view(
    stream: str, channels: Sequence[str] | str | None, step_ns: int, fps: int, since_ns: int | None
) -> dict[str, Any]:
    """A subscription to a stream."""
    chosen = [channels] if isinstance(channels, str) else None if channels is None else list(channels)
    said: dict[str, Any] = {"stream": stream, "channels": chosen, "step_ns": str(step_ns), "fps": fps}
    return said if since_ns is None else said | {"since_ns": str(since_ns)}


def _options(address: str, key: str | None, verify: Verify) -> dict[str, Any]:
    secure = address.startswith("https:")
    given: dict[str, Any] = {
        "additional_headers": {k: v for k, v in headers_of(key).items() if k != "User-Agent"},
        "user_agent_header": headers_of(None)["User-Agent"],
        "compression": None,
        "max_size": None,
        "open_timeout": _OPEN_S,
    }
    return given | ({"ssl": trust(verify)} if secure else {})


def _uri(address: str) -> str:
    return "ws" + address.removeprefix("http") + "/api/v1/live"


class _Patience:
    """How long to wait before the next attempt, and when to give up."""

    def __init__(self, address: str, patience_s: float) -> None:
        self._address, self._most_s = address, patience_s
        self._waited_s, self._pause_s = 0.0, _PAUSE_S

    def heard(self) -> None:
        """The station is there."""
        self._waited_s, self._pause_s = 0.0, _PAUSE_S

    def pause_s(self, why: Exception) -> float:
        """Raises what `why` means where another attempt cannot help, or no more."""
        from websockets.exceptions import ConnectionClosed, InvalidStatus

        if isinstance(why, InvalidStatus):
            body = bytes(why.response.body or b"")
            error = problem(Answer(why.response.status_code, {}, body), self._address)
            if why.response.status_code < 500 and why.response.status_code != 429:
                raise error from None
        if isinstance(why, ConnectionClosed) and why.rcvd is not None and why.rcvd.code == _REFUSED:
            raise NotAllowed("the key is valid no more: it was revoked, or has expired") from None
        if self._waited_s >= self._most_s:
            raise StationUnreachable(f"the live socket of {self._address} is not to be had ({why})") from None
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, _LONGEST_PAUSE_S)
        self._waited_s += pause_s
        return pause_s


def watch(
    watching: Watching, address: str, key: str | None, verify: Verify, patience_s: float
) -> Generator[Frame | Skipped | Event, None, None]:
    """Whatever a subscription tells, until somebody stops asking for it."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    patience, never = _Patience(address, patience_s), threading.Event()
    while True:
        try:
            with connect(_uri(address), **_options(address, key, verify)) as socket:
                socket.send(watching.hello())
                while True:
                    message = socket.recv()
                    patience.heard()
                    yield from watching.take(message)
        except ScidaqError:
            raise
        except (WebSocketException, OSError, TimeoutError, EOFError) as error:
            never.wait(patience.pause_s(error))


async def watch_async(
    watching: Watching, address: str, key: str | None, verify: Verify, patience_s: float
) -> AsyncGenerator[Frame | Skipped | Event, None]:
    """The same in an event loop."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    patience = _Patience(address, patience_s)
    while True:
        try:
            async with connect(_uri(address), **_options(address, key, verify)) as socket:
                await socket.send(watching.hello())
                while True:
                    message = await socket.recv()
                    patience.heard()
                    for one in watching.take(message):
                        yield one
        except ScidaqError:
            raise
        except (WebSocketException, OSError, TimeoutError, EOFError) as error:
            await asyncio.sleep(patience.pause_s(error))
