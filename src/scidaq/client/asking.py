"""What is asked of a station and what becomes of the answer, without a socket: retries, deadlines, errors in words.

A `Talk` is a generator that yields a `Request` (and gets its `Answer`) or a `Pause`. Whoever drives it does the input
and output, with threads or with asyncio; every decision is made here, once.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import orjson

from scidaq import errors
from scidaq.errors import NotAllowed, OutcomeUnknown, RequestError, ScidaqError, StationError, StationUnreachable

T = TypeVar("T")
API = "/api/v1/"
_TRIES = 6
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_AGAIN = (429, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, once."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout_s: float | None = None
    """Instead of the usual one."""
    also: tuple[int, ...] = ()
    """Statuses that are an answer, too."""
    question: bool = False
    """Whether it changes nothing, whatever its method."""

    @property
    def safe(self) -> bool:
        """Whether it may be sent as often as one likes."""
        return self.question or self.method in ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes

    def json(self) -> Any:
        """Its body. Raises `StationError` where it is none."""
        try:
            return orjson.loads(self.body) if self.body else None
        except orjson.JSONDecodeError:
            raise StationError("the answer is no JSON: is it a station of scidaq that answers there?") from None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, and go on."""

    seconds: float


class Broken(Exception):
    """A request that has no answer; `sent` is False when the station cannot have heard it."""

    def __init__(self, why: str, *, sent: bool) -> None:
        self.why, self.sent = why, sent
        super().__init__(why)


Talk: TypeAlias = Generator[Request | Pause, Answer | None, T]


class Asking:
    """Asks one station: again where that is safe, and in words where it refuses."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._started_ns: int | None = None

    def get(self, path: str, query: Mapping[str, Any] | None = None, accept: str = "", **how: Any) -> Talk[Answer]:
        """Ask for something that changes nothing."""
        headers = {"Accept": accept} if accept else {}
        return (yield from self._ask(Request("GET", _at(path), _words(query), headers, **how)))

    def json(self, path: str, query: Mapping[str, Any] | None = None) -> Talk[Any]:
        """The same, for what its JSON says."""
        return (yield from self.get(path, query)).json()

    def ask(self, path: str, content: Any) -> Talk[Answer]:
        """Ask a question that is too long for an address: it changes nothing, and may be asked again."""
        body, headers = orjson.dumps(content), {"Content-Type": "application/json"}
        return (yield from self._ask(Request("POST", _at(path), {}, headers, body, question=True)))

    def every(self, path: str, query: Mapping[str, Any] | None = None) -> Talk[list[Any]]:
        """All items of a list, page by page."""
        items: list[Any] = []
        asked = {"limit": 1000, **(query or {})}
        while True:
            page = yield from self.json(path, asked)
            items += page["items"]
            if page["next"] is None:
                return items
            asked["cursor"] = page["next"]

    def change(
        self, method: str, path: str, content: Any = None, headers: Mapping[str, str] | None = None
    ) -> Talk[Any]:
        """Change something: once, however often it has to be sent. What the answer's JSON says."""
        if self._started_ns is None:
            self._started_ns = (yield from self._status())["started_ns"]
        given = {"Idempotency-Key": uuid.uuid4().hex, **(headers or {})}
        body = None if content is None else orjson.dumps(content)
        if body is not None:
            given["Content-Type"] = "application/json"
        return (yield from self._ask(Request(method, _at(path), {}, given, body))).json()

    def _status(self) -> Talk[Any]:
        return (yield from self._ask(Request("GET", API + "status"))).json()

    def _ask(self, request: Request) -> Talk[Answer]:
        unsure = False
        for attempt in range(1, _TRIES + 1):
            pause_s = min(_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
            try:
                answer = yield request
            except Broken as broken:
                unsure = unsure or (broken.sent and not request.safe)
                if attempt == _TRIES:
                    raise self._unreachable(request, broken, unsure) from None
            else:
                if answer is None:
                    raise StationError("there was no answer")
                if answer.status < 400 or answer.status in request.also:
                    return answer
                error = problem(answer, self.address)
                if attempt == _TRIES or not _passing(answer):
                    raise error
                pause_s = max(pause_s, min(_seconds(answer.headers.get("retry-after")), 60.0))
            yield Pause(pause_s)
            if unsure:
                yield from self._same_station(request)
        raise StationError("not reached")

    def _same_station(self, request: Request) -> Talk[None]:
        """Look whether the station that may have heard a change is still the one that remembers it."""
        status = yield from self._ask(Request("GET", API + "status"))
        if status.json()["started_ns"] != self._started_ns:
            raise OutcomeUnknown(
                f"{request.method} {request.path}: the station at {self.address} was restarted while it was asked, so "
                "nobody knows whether this was done: look, and ask again where it was not"
            )

    def _unreachable(self, request: Request, broken: Broken, unsure: bool) -> StationError:
        if unsure:
            return OutcomeUnknown(
                f"{request.method} {request.path}: the connection to {self.address} broke ({broken.why}), so nobody "
                "knows whether this was done: look, and ask again where it was not"
            )
        return StationUnreachable(
            f"no station answers at {self.address} ({broken.why}): is it running, and is the address right?"
        )


def _passing(answer: Answer) -> bool:
    """Whether the same request may do better in a moment."""
    return (answer.status in _AGAIN and kind_of(answer) not in _FINAL) or kind_of(answer) == "idempotency-under-way"


def _at(path: str) -> str:
    return path if path.startswith("/") else API + path


def part(text: str) -> str:
    """Text as one part of a path."""
    return quote(text, safe="") or "%20"


def _words(query: Mapping[str, Any] | None) -> dict[str, str]:
    """A query as text; what is None is left out."""
    given = {k: v for k, v in (query or {}).items() if v is not None}
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in given.items()}


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


# ---- problems as errors ----------------------------------------------------------------------------------------------

KINDS: dict[str, type[ScidaqError]] = {
    "unknown-stream": errors.UnknownStream,
    "unknown-run": errors.UnknownRun,
    "unknown-instrument": errors.UnknownInstrument,
    "unknown-parameter": errors.UnknownParameter,
    "unknown": errors.Unknown,
    "too-many": errors.TooMany,
    "not-allowed": errors.NotAllowed,
    "defined-elsewhere": errors.DefinedElsewhere,
    "parameter-refused": errors.ParameterError,
    "wrong-identity": errors.WrongIdentity,
    "instrument-timeout": errors.InstrumentTimeout,
    "instrument-not-connected": errors.InstrumentDisconnected,
    "instrument-failed": errors.InstrumentError,
    "query-limit": errors.QueryLimit,
    "query-refused": errors.QueryRefused,
    "configuration-refused": errors.ConfigError,
    "request-refused": errors.RequestError,
    "station-busy": errors.StationBusy,
    "data-damaged": errors.Corrupt,
    "disk-refused": errors.WriteFailed,
    "store-failed": errors.StoreError,
    "failed": errors.ScidaqError,
}
"""The error that each kind of problem is here: as the station's own table has it."""
_FINAL = ("instrument-timeout", "instrument-failed", "too-many", "too-many-failures")
_STATUSES: dict[int, type[ScidaqError]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: errors.Unknown,
    423: errors.Leased,
    429: errors.TooMany,
}


def kind_of(answer: Answer) -> str:
    """Which problem an answer tells of; empty for none."""
    try:
        said = orjson.loads(answer.body)
        return str(said["type"]).removeprefix("urn:scidaq:")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def problem(answer: Answer, address: str) -> ScidaqError:
    """The error that an answer tells of, in the station's own words."""
    kind, status = kind_of(answer), answer.status
    try:
        said = orjson.loads(answer.body)
        detail, request_id = str(said["detail"]), str(said.get("request_id", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        text = answer.body[:200].decode("utf-8", "replace")
        detail, request_id, said = f"{address} answered {status}, and not as a station does: {text!r}", "", {}
    found = KINDS.get(kind) or _STATUSES.get(status) or (RequestError if status < 500 else StationError)
    if found is NotAllowed and status == 401:
        detail += "; give key=... or set SCIDAQ_KEY"
    error = _made(found, detail, said)
    if request_id:
        error.add_note(f"the station's log has it as request {request_id}")
    return error


_FACTS: dict[type[ScidaqError], Mapping[str, Any]] = {
    errors.UnknownStream: {"stream": "", "known": ()},
    errors.UnknownRun: {"run": "", "known": (), "near": ()},
    errors.UnknownInstrument: {"instrument": "", "known": (), "near": ()},
    errors.Corrupt: {"path": None, "offset": 0, "reason": ""},
}
"""What these errors carry beside their words, of which a problem says nothing."""


def _made(kind: type[ScidaqError], detail: str, said: Mapping[str, Any]) -> ScidaqError:
    """An error with the station's words, which some classes would make themselves."""
    if kind is errors.ConfigError:
        return errors.ConfigError([str(one) for one in said.get("problems", [detail])])
    if kind not in _FACTS:
        return kind(detail)
    error = kind.__new__(kind, detail)
    Exception.__init__(error, detail)
    for name, value in _FACTS.get(kind, {}).items():
        setattr(error, name, value)
    return error
