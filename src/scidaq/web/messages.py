"""The messages of the live socket: what a client may say, and what it is told.

Text messages are JSON, one object each; what is drawn comes in binary messages, in the form of `frames`. The
reference page of the live socket is made from this.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scidaq.web.models import OneStreamId

MOST_BYTES = 64 << 10
"""Of one message of a client."""
MOST_SUBSCRIPTIONS = 64
Number = Annotated[int, Field(ge=0, lt=1 << 31)]
"""The client's own number of a subscription."""
NsText = Annotated[str, Field(pattern=r"^-?\d{1,19}$", examples=["1764100000000000000"])]
"""Nanoseconds as text: browsers cannot hold them as numbers."""
Level = Literal["debug", "info", "warning", "error", "critical"]
EventName = Literal["instrument", "gap", "run", "note", "health", "log"]


class _In(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")


class _Out(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


# ---- what a client says ---------------------------------------------------------------------------------------------


class Subscribe(_In):
    """Show a stream: its newest rows as buckets of time, from now on.

    Answered by `subscribed` or `error`; then come binary messages of this view. One frame serves all who look at the
    same: its header has `view`, which `subscribed` tells.
    """

    op: Literal["subscribe"]
    id: Number
    stream: OneStreamId
    channels: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=256)] | None = None
    """Names of channels, of arrays (all their elements) or of single elements (`adc.left`, `adc[3]`); null is all that
    can be drawn as lines."""
    kind: Literal["lines", "arrays"] = "lines"
    """`arrays`: the newest row of spectra and images, whole."""
    step_ns: NsText = "16777216"
    """Length of a bucket. The server takes the next power of two, 65536 at least; the answer says which."""
    fps: Annotated[int, Field(ge=1, le=60)] = 30
    """Frames in a second, at most; fewer when nothing is new."""
    since_ns: NsText | None = None
    """First a frame with everything from this UTC time on, then live: how a client goes on that had lost its
    connection."""


class SubscribeEvents(_In):
    """Be told of events from now on. `log` needs the scope `operate`."""

    op: Literal["subscribe"]
    id: Number
    events: Annotated[list[EventName], Field(min_length=1, max_length=10)]
    level: Level = "info"
    """Of log lines: this one and those that are worse."""
    recent: Annotated[int, Field(ge=0, le=1000)] = 0
    """First so many of each that happened before, as far as they are kept."""


class Unsubscribe(_In):
    """Show it no more."""

    op: Literal["unsubscribe"]
    id: Number


class Ping(_In):
    """Answered by `pong`: whether somebody is there, and what its clock says."""

    op: Literal["ping"]


# ---- what it is told ------------------------------------------------------------------------------------------------


class SeenChannel(_Out):
    """A line, or an array, of a view."""

    name: str
    unit: str
    """In UCUM."""
    dtype: str
    shape: list[int]
    """Empty for a line."""
    labels: list[str] | None
    """Of the elements of an array."""


class Subscribed(_Out):
    """The answer to `subscribe`."""

    op: Literal["subscribed"]
    id: int
    view: str | None = None
    """What the headers of its frames say as `view`; null for events."""
    step_ns: str | None = None
    fps: int | None = None
    channels: list[SeenChannel] | None = None
    """In the order of the buffers, as far as they are known yet: every frame says its own."""
    live_from_ns: str | None = None
    """What comes from now on has all rows from this time on; null where there are none yet."""


class Error(_Out):
    """A message that was not understood, or asks for what cannot be. Everything else goes on."""

    op: Literal["error"]
    id: int | None
    """Of the subscription, where the message said one."""
    kind: str = Field(examples=["unknown-stream"])
    """As in `type` of the problems of the HTTP interface."""
    detail: str


class Event(_Out):
    """Something that happened. What else is there depends on `event`.

    `instrument`: `instrument`, `state`, `reason`. `gap`: `stream`, `epoch`, `first`, `end`, `rows` (null where nobody
    can know), `reason`, `start_ns`, `end_ns`, `open`, `detail`. `run` and `note`: `what` (such as `started`) and what
    the fact says. `health`: `component`, `status`, `reason`, `whole`. `log`: `level`, `message`, `logger` and its facts
    in `values`.
    """

    model_config = ConfigDict(extra="allow")

    op: Literal["event"]
    id: int
    event: EventName
    at_ns: str


class Skipped(_Out):
    """Frames that were left out because the client, or the server, was too slow: ask for this stretch over HTTP."""

    op: Literal["skipped"]
    id: int
    frames: int
    from_ns: str
    """Of the first row that was in them."""
    to_ns: str
    """Of the last."""


class Pong(_Out):
    """The answer to `ping`."""

    op: Literal["pong"]
    now_ns: str
    """UTC time of the station."""


class Closing(_Out):
    """The connection is about to be closed."""

    op: Literal["closing"]
    reason: str


INCOMING: tuple[type[BaseModel], ...] = (Subscribe, SubscribeEvents, Unsubscribe, Ping)
OUTGOING: tuple[type[BaseModel], ...] = (Subscribed, Error, Event, Skipped, Pong, Closing)


def parse(content: Any) -> Subscribe | SubscribeEvents | Unsubscribe | Ping:
    """The message that a JSON value is. Raises `ValueError` that says what is wrong with it."""
    if not isinstance(content, dict):
        raise ValueError("a message is a JSON object")
    op = content.get("op")
    kind: type[BaseModel] | None
    match op:
        case "subscribe":
            kind = SubscribeEvents if "events" in content else Subscribe
        case "unsubscribe":
            kind = Unsubscribe
        case "ping":
            kind = Ping
        case _:
            raise ValueError(f"there is no op {str(op)[:40]!r}; there are subscribe, unsubscribe and ping")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ValueError(told) from None


def schema() -> dict[str, Any]:
    """The JSON Schema of all messages: `client` and `server` are what either may send."""
    definitions: dict[str, Any] = {}
    sides = {}
    for side, kinds in (("client", INCOMING), ("server", OUTGOING)):
        for kind in kinds:
            one = kind.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(one.pop("$defs", {}))
            definitions[kind.__name__] = one
        sides[side] = {"oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "scidaq live",
        "type": "object",
        "properties": sides,
        "$defs": definitions,
    }
