"""Every verb on a station, once: what is asked, and what is made of the answers. `Talk`s for both kinds of client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from scidaq.block import Block, Gap, Moment, Schema, length_ns, moment_ns
from scidaq.catalog import Hold, Note, Run, Snapshot
from scidaq.client import facts
from scidaq.client.arriving import ARROW, items_of, table_of
from scidaq.client.asking import Asking, Talk, part
from scidaq.errors import RequestError
from scidaq.query import Rows

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Which:
    """Which rows, as they were asked for."""

    start: Moment | None = None
    stop: Moment | None = None
    channels: Sequence[str] | str | None = None
    run: str | None = None
    last: int | str | None = None
    max_points: int | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        """Raises `RequestError` for what does not go together."""
        ranged = self.start is not None or self.stop is not None or self.run is not None
        if self.last is not None and (ranged or self.max_points is not None):
            raise RequestError("last= goes with channels= only: it says itself which rows")
        if self.channels is not None and not self.channels:
            raise RequestError("channels=[] names no channel: leave it out for all of them")
        if isinstance(self.last, str) and length_ns(self.last) is None:
            raise RequestError(f"last={self.last!r}: give a number of rows, as 100, or a length, as '10s'")

    @property
    def names(self) -> str | None:
        """The channels as the interface has them."""
        if self.channels is None or isinstance(self.channels, str):
            return self.channels
        return ",".join(self.channels)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to go on with rows that are read page by page."""

    query: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the rows."""

    items: list[Block | Gap]
    schema: Schema | None
    next: Place | None


def _path(stream: str) -> str:
    """Of a stream. Raises `RequestError` for what can be no id."""
    instrument, slash, name = str(stream).partition("/")
    if not slash or not instrument or not name or "/" in name:
        raise RequestError(f"{stream!r} is no id of a stream, which is instrument/stream")
    return f"streams/{part(instrument)}/{part(name)}"


class Verbs:
    """What can be done with a station. Each returns a talk."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    # ---- how it is ----

    def status(self) -> Talk[facts.Status]:
        """How it is, in short."""
        return facts.taken(facts.Status, (yield from self._asking.json("status")))

    def health(self) -> Talk[dict[str, Any]]:
        """How each component is."""
        said: dict[str, Any] = (yield from self._asking.get("/health", also=(503,))).json()
        return said

    def ns(self, *moments: Moment | None) -> Talk[list[int | None]]:
        """Moments in nanoseconds; those that are relative to now, to the station's."""
        relative = any(
            isinstance(m, str) and (m == "now" or length_ns(m.removeprefix("-")) is not None) for m in moments
        )
        now_ns = (yield from self.status()).now_ns if relative else 0
        return [None if m is None else moment_ns(m, now_ns) for m in moments]

    # ---- streams ----

    def streams(self, search: str = "") -> Talk[list[facts.StreamFacts]]:
        """What is recorded."""
        said = yield from self._asking.every("streams", {"search": search or None})
        return [facts.stream_of(one) for one in said]

    def stream(self, stream: str) -> Talk[facts.StreamFacts]:
        """One stream with its epochs."""
        return facts.stream_of((yield from self._asking.json(_path(stream))))

    def begin(self, stream: str, which: Which) -> Talk[Place | None]:
        """Where rows begin; None where there can be none."""
        query: dict[str, Any] = {"channels": which.names, "raw": True}
        if isinstance(which.last, int):
            return Place({**query, "last": which.last})
        start_ns, stop_ns = yield from self.ns(which.start, which.stop)
        if which.run is not None:
            start_ns, stop_ns = yield from self._within(stream, which.run, start_ns, stop_ns)
            if start_ns == stop_ns:
                return None
        if which.last is not None:
            last_ns = (yield from self.stream(stream)).last_ns
            if last_ns is None:
                return None
            start_ns = last_ns - (length_ns(which.last) or 0)
        return Place({**query, "start": start_ns, "stop": stop_ns, "max_points": which.max_points})

    def page(self, stream: str, place: Place) -> Talk[Page]:
        """The rows from there, as far as one answer goes."""
        answer = yield from self._asking.get(f"{_path(stream)}/data", place.query, ARROW)
        items, schema = items_of(answer.body, stream)
        after = _next(answer.headers.get("link", ""))
        if "cursor" not in after:
            return Page(items, schema, None)
        # Of a range that was reduced the answer says which it was; all other times are ours, and stay.
        query = {**place.query, "cursor": after["cursor"]}
        if query.get("max_points"):
            query |= {"start": after.get("start"), "stop": after.get("stop")}
        if query.get("stop") is None and not query.get("max_points"):
            # What is recorded while it is read does not belong to it, or reading might never end.
            last_ns = (yield from self.stream(stream)).last_ns
            query["stop"] = None if last_ns is None else last_ns + 1
        return Page(items, schema, Place(query))

    def read(self, stream: str, which: Which) -> Talk[Rows]:
        """All of them."""
        items: list[Block | Gap] = []
        schema: Schema | None = None
        place = yield from self.begin(stream, which)
        while place is not None:
            page = yield from self.page(stream, place)
            items += page.items
            schema, place = page.schema or schema, page.next
        return Rows(stream, tuple(items), which.raw, None if any(isinstance(i, Block) for i in items) else schema)

    def _within(self, stream: str, run: str, start_ns: int | None, stop_ns: int | None) -> Talk[list[int | None]]:
        """The part of a range that lies in a run."""
        said = yield from self.run(run)
        if not said.covers(stream):
            raise RequestError(f"{stream} does not belong to run {said.name!r}, whose streams are {said.streams}")
        start = said.start_ns if start_ns is None else max(start_ns, said.start_ns)
        ends = [ns for ns in (stop_ns, said.stop_ns) if ns is not None]
        return [start, max(min(ends), start) if ends else None]

    # ---- SQL ----

    def sql(self, query: str) -> Talk[pa.Table]:
        """One SELECT over everything that is recorded."""
        answer = yield from self._asking.ask("sql", {"query": query, "format": "arrow"})
        return table_of(answer.body)

    # ---- instruments ----

    def instruments(self) -> Talk[list[facts.InstrumentFacts]]:
        """All of them."""
        return [facts.instrument_of(one) for one in (yield from self._asking.every("instruments", {"limit": None}))]

    def instrument(self, instrument: str) -> Talk[facts.InstrumentFacts]:
        """One of them."""
        return facts.instrument_of((yield from self._asking.json(f"instruments/{part(instrument)}")))

    def failures(self, instrument: str) -> Talk[list[facts.Failure]]:
        """What went wrong with it of late, newest first."""
        said = yield from self._asking.json(f"instruments/{part(instrument)}/failures")
        return [facts.taken(facts.Failure, one) for one in said["items"]]

    def newest(self, instrument: str) -> Talk[dict[str, dict[str, Any]]]:
        """The newest value of each channel, by stream and channel; None where it is missing."""
        said = yield from self._asking.json(f"instruments/{part(instrument)}/last")
        return {row["stream"]: {k: v["value"] for k, v in row["values"].items()} for row in said["items"]}

    def act(self, instrument: str, verb: str, lease: str | None) -> Talk[facts.InstrumentFacts]:
        """start, stop, connect, disconnect or safe."""
        path = f"instruments/{part(instrument)}/{verb}"
        return facts.instrument_of((yield from self._asking.change("POST", path, headers=_lease(lease))))

    def parameters(self, instrument: str) -> Talk[dict[str, facts.Parameter]]:
        """All of them, as they were read last."""
        said = yield from self._asking.json(f"instruments/{part(instrument)}/parameters")
        return {one["name"]: facts.parameter_of(one) for one in said["items"]}

    def parameter(self, instrument: str, name: str) -> Talk[facts.Parameter]:
        """One; the instrument is asked."""
        said = yield from self._asking.json(f"instruments/{part(instrument)}/parameters/{part(name)}")
        return facts.parameter_of(said)

    def set_parameter(
        self, instrument: str, name: str, value: facts.Value, unit: str | None, lease: str | None
    ) -> Talk[facts.Parameter]:
        """Set one; as it is then."""
        path = f"instruments/{part(instrument)}/parameters/{part(name)}"
        content = {"value": plain(value)} if unit is None else {"value": plain(value), "unit": unit}
        return facts.parameter_of((yield from self._asking.change("PUT", path, content, _lease(lease))))

    def take_lease(self, instrument: str, ttl_s: float, token: str | None = None) -> Talk[str]:
        """Take a lease, or make it last longer; its token."""
        path = f"instruments/{part(instrument)}/lease"
        said = yield from self._asking.change("POST", path, {"ttl_s": ttl_s}, _lease(token))
        return str(said["token"])

    def end_lease(self, instrument: str, token: str) -> Talk[None]:
        """Give it back."""
        yield from self._asking.change("DELETE", f"instruments/{part(instrument)}/lease", None, _lease(token))

    # ---- runs, notes, holds, settings ----

    def runs(self, search: str = "", start: Moment | None = None, stop: Moment | None = None) -> Talk[list[Run]]:
        """Those with any part in a range, by their start."""
        start_ns, stop_ns = yield from self.ns(start, stop)
        said = yield from self._asking.every("runs", {"search": search or None, "start": start_ns, "stop": stop_ns})
        return [facts.run_of(one) for one in said]

    def run(self, run: str) -> Talk[Run]:
        """One, by its name or id."""
        return facts.run_of((yield from self._asking.json(f"runs/{part(run)}")))

    def start_run(self, content: Mapping[str, Any]) -> Talk[Run]:
        """Begin one now."""
        return facts.run_of((yield from self._asking.change("POST", "runs", content)))

    def declare_run(self, start: Moment, stop: Moment, content: Mapping[str, Any]) -> Talk[Run]:
        """Declare one for the past."""
        start_ns, stop_ns = yield from self.ns(start, stop)
        window = {"start_ns": start_ns, "stop_ns": stop_ns}
        return facts.run_of((yield from self._asking.change("POST", "runs/past", {**content, **window})))

    def edit_run(self, run: str, changes: Mapping[str, Any]) -> Talk[Run]:
        """Say something else of one."""
        return facts.run_of((yield from self._asking.change("PATCH", f"runs/{part(run)}", changes)))

    def stop_run(self, run: str) -> Talk[Run]:
        """End one."""
        return facts.run_of((yield from self._asking.change("POST", f"runs/{part(run)}/stop")))

    def delete_run(self, run: str) -> Talk[Run]:
        """Show one no more."""
        return facts.run_of((yield from self._asking.change("DELETE", f"runs/{part(run)}")))

    def notes(self, start: Moment | None, stop: Moment | None, streams: Iterable[str] | None) -> Talk[list[Note]]:
        """The remarks about any part of a range."""
        start_ns, stop_ns = yield from self.ns(start, stop)
        about = None if streams is None else ",".join([streams] if isinstance(streams, str) else streams)
        said = yield from self._asking.every("notes", {"start": start_ns, "stop": stop_ns, "streams": about})
        return [facts.note_of(one) for one in said]

    def add_note(
        self, text: str, at: Moment | None, until: Moment | None, streams: Iterable[str], run: str | None
    ) -> Talk[Note]:
        """Remark something."""
        t_ns, end_ns = yield from self.ns(at, until)
        about = [streams] if isinstance(streams, str) else list(streams)
        content = given(text=text, t_ns=t_ns, end_ns=end_ns, streams=about or None, run=run)
        return facts.note_of((yield from self._asking.change("POST", "notes", content)))

    def remove_note(self, note: str) -> Talk[Note]:
        """Show one no more."""
        return facts.note_of((yield from self._asking.change("DELETE", f"notes/{part(note)}")))

    def holds(self) -> Talk[list[Hold]]:
        """What is kept from retention now."""
        return [facts.hold_of(one) for one in (yield from self._asking.every("holds"))]

    def place_hold(
        self, until: Moment, run: str | None, stream: str | None, start: Moment | None, stop: Moment | None, why: str
    ) -> Talk[Hold]:
        """Keep something from retention."""
        until_ns, start_ns, stop_ns = yield from self.ns(until, start, stop)
        content = given(until_ns=until_ns, run=run, stream=stream, start_ns=start_ns, stop_ns=stop_ns, why=why or None)
        return facts.hold_of((yield from self._asking.change("POST", "holds", content)))

    def release_hold(self, hold: str) -> Talk[Hold]:
        """End a hold before its time."""
        return facts.hold_of((yield from self._asking.change("DELETE", f"holds/{part(hold)}")))

    def settings(self, at: Moment | None) -> Talk[Snapshot]:
        """Every instrument with its settings, now or at a time."""
        (at_ns,) = yield from self.ns(at)
        return Snapshot.from_json((yield from self._asking.json("settings", {"at": at_ns})))


def plain(value: Any) -> Any:
    """A number of NumPy as Python's own."""
    return value.item() if hasattr(value, "item") and not isinstance(value, (str, bytes)) else value


def given(**content: Any) -> dict[str, Any]:
    """What is not None."""
    return {name: value for name, value in content.items() if value is not None}


def run_content(
    name: str, streams: Iterable[str], operator: str, sample: str, notes: str, metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is said of a new run."""
    said = {key: plain(value) for key, value in (metadata or {}).items()}
    chosen = [streams] if isinstance(streams, str) else list(streams)
    return {
        "name": name,
        "streams": chosen,
        "operator": operator,
        "sample": sample,
        "notes": notes,
        "metadata": said,
    }


def edit_content(
    name: str | None,
    streams: Iterable[str] | None,
    operator: str | None,
    sample: str | None,
    notes: str | None,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What is to be said of a run instead."""
    chosen = None if streams is None else [streams] if isinstance(streams, str) else list(streams)
    said = None if metadata is None else {key: plain(value) for key, value in metadata.items()}
    return given(name=name, streams=chosen, operator=operator, sample=sample, notes=notes, metadata=said)


def step_of(step: str | int) -> int:
    """The length of a bucket in nanoseconds. Raises `RequestError`."""
    ns = length_ns(step) if isinstance(step, str) else step
    if not ns or ns < 0:
        raise RequestError(f"step={step!r}: give a length, as '10ms', or nanoseconds")
    return ns


def _lease(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Lease": token}


def _next(link: str) -> dict[str, str]:
    """The query of the next page, as the header `Link` says it; empty at the end."""
    target, _, relation = link.partition(">")
    return dict(parse_qsl(urlsplit(target.lstrip("<")).query)) if 'rel="next"' in relation else {}
