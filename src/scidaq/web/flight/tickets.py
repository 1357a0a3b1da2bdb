"""Tickets: what a client of Arrow Flight says that it wants, as JSON. Checked field by field, refused in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import orjson

from scidaq.block import Moment, check_stream_id, moment_ns, shown
from scidaq.errors import InvalidBlock, RequestError, UnknownStream

LONGEST = 64 << 10
"""Bytes of a ticket, of a descriptor and of what an action is given."""
_MOST_CHANNELS = 10_000
_MOST_ROW = 1 << 62


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which rows of a stream; or, with `live`, those that come from now on."""

    stream: str
    channels: tuple[str, ...] | None = None
    """Only these, in this order."""
    start_ns: int | None = None
    stop_ns: int | None = None
    epochs: tuple[int, int] | None = None
    """Only rows of the first to the last of these."""
    first: int | None = None
    """With one epoch: only rows from this number on."""
    end: int | None = None
    """With one epoch: only rows before this number."""
    last: int | None = None
    """Instead of all these: the newest rows."""
    raw: bool = False
    """As they were stored, without calibration."""
    live: bool = False
    """Rows as they come, durable or not, from `start_ns` on where that is given."""

    def as_bytes(self) -> bytes:
        """The ticket that `parsed` makes this of."""
        said: dict[str, Any] = {"stream": self.stream}
        for one in fields(self)[1:]:
            if (value := getattr(self, one.name)) is not None and value is not False:
                said[one.name.removesuffix("_ns")] = value
        return orjson.dumps(said)

    def of_epochs(self, first: int, last: int) -> Ticket:
        """The same, of some epochs only."""
        return replace(self, epochs=(first, last))


def parsed(given: bytes, now_ns: int) -> Ticket:
    """The ticket that a client has sent; also just the id of a stream. Raises `RequestError`."""
    said = content(given, "a ticket")
    if isinstance(said, str):
        said = {"stream": said}
    known = {"stream", "channels", "start", "stop", "epoch", "epochs", "first", "end", "last", "raw", "live"}
    _check_names(said, known, "a ticket")
    stream = stream_of(said)
    epochs = _epochs(said)
    first, end, last = (_number(said, name) for name in ("first", "end", "last"))
    start_ns, stop_ns = (_time(said, name, now_ns) for name in ("start", "stop"))
    raw, live = (_flag(said, name) for name in ("raw", "live"))
    if (first is not None or end is not None) and (epochs is None or epochs[0] != epochs[1]):
        raise RequestError("first, end: rows are numbered within an epoch, so say which in `epoch`")
    if last is not None and (any(one is not None for one in (start_ns, stop_ns, epochs, first, end)) or live):
        raise RequestError("last: give either `last` or start, stop, epoch, first, end, live")
    if start_ns is not None and stop_ns is not None and stop_ns < start_ns:
        raise RequestError(f"the range ends ({shown(stop_ns)}) before it starts ({shown(start_ns)})")
    if last == 0:
        raise RequestError("last: at least one row")
    if live and any(one is not None for one in (stop_ns, epochs, first, end)):
        raise RequestError("live: rows as they come have neither stop nor numbers; `start` says from when on")
    return Ticket(stream, _channels(said), start_ns, stop_ns, epochs, first, end, last, raw, live)


def content(given: bytes, what: str) -> Any:
    """JSON that a client has sent: an object, or a bare stream id. Raises `RequestError`."""
    if len(given) > LONGEST:
        raise RequestError(f"{what} has {LONGEST} bytes at most, not {len(given)}")
    text = given.decode("utf-8", "replace").strip()
    if text and not text.startswith(("{", '"', "[")):
        return text
    try:
        said = orjson.loads(given)
    except ValueError:
        raise RequestError(f'{what} is JSON, such as {{"stream": "dmm/readings"}}, or the id of a stream') from None
    if not isinstance(said, dict | str):
        raise RequestError(f"{what} is a JSON object")
    return said


def stream_of(said: Mapping[str, Any]) -> str:
    """The stream that is meant. Raises `RequestError`, and `UnknownStream` for an id that none can have."""
    stream = said.get("stream")
    if not isinstance(stream, str):
        raise RequestError("stream: the id of a stream is missing, as instrument/stream")
    try:
        return check_stream_id(stream)
    except InvalidBlock:
        raise UnknownStream(stream[:140]) from None


def _check_names(said: Mapping[str, Any], known: set[str], what: str) -> None:
    if strange := sorted(set(said) - known):
        raise RequestError(f"{what} has no {strange[0][:64]!r}; it may have {', '.join(sorted(known))}")


def _number(said: Mapping[str, Any], name: str) -> int | None:
    value = said.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < _MOST_ROW):
        raise RequestError(f"{name}: a number from 0 on, not {str(value)[:40]!r}")
    return value


def _flag(said: Mapping[str, Any], name: str) -> bool:
    value = said.get(name, False)
    if type(value) is not bool:
        raise RequestError(f"{name}: true or false, not {str(value)[:40]!r}")
    return value


def _time(said: Mapping[str, Any], name: str, now_ns: int) -> int | None:
    value: Moment | None = said.get(name)
    if value is None:
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise RequestError(f"{name}: a time as text (ISO 8601, or -10s), or in nanoseconds since 1970")
    return moment_ns(value, now_ns)


def _epochs(said: Mapping[str, Any]) -> tuple[int, int] | None:
    one = _number(said, "epoch")
    several = said.get("epochs")
    if several is None:
        return None if one is None else (one, one)
    if one is not None:
        raise RequestError("epoch, epochs: give one of them")
    match several:
        case [int(a), int(b)] if 0 <= a <= b < _MOST_ROW:
            return a, b
    raise RequestError("epochs: the first and the last of them, as [2, 5]")


def _channels(said: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = said.get("channels")
    if value is None:
        return None
    if not isinstance(value, list) or not value or len(value) > _MOST_CHANNELS:
        raise RequestError(f"channels: a list of 1 to {_MOST_CHANNELS} names")
    if not all(isinstance(name, str) for name in value):
        raise RequestError("channels: a list of names")
    return tuple(dict.fromkeys(value))
