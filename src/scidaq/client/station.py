"""`scidaq.connect`: a running station in a script or a notebook, on this machine or another."""

from __future__ import annotations

import html
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from scidaq.block import Block, Channel, Gap, Moment, shown
from scidaq.catalog import Hold, InstrumentState, Note, Run, Scalar, Snapshot
from scidaq.client.asking import Asking
from scidaq.client.facts import Failure, InstrumentFacts, Parameter, Status, StreamFacts, Value
from scidaq.client.live import PATIENCE_S, Event, Frame, Skipped, Watching, wanted_view, watch
from scidaq.client.sending import TIMEOUT_S, Blocking, Verify, address_of
from scidaq.client.verbs import Verbs, Which, edit_content, run_content, step_of
from scidaq.errors import ScidaqError
from scidaq.query import Rows, svg_of_blocks

if TYPE_CHECKING:
    import pyarrow as pa

_DRAWN_ROWS = 10_000
"""Of a stream that shows itself."""
URL = "http://127.0.0.1:8080"


def connect(
    url: str = URL, key: str | None = None, *, verify: Verify = True, timeout_s: float = TIMEOUT_S
) -> RemoteStation:
    """The station at an address, asked once whether it is there.

        import scidaq

        station = scidaq.connect("http://127.0.0.1:8080")
        frame = station["dmm/readings"].read("-1h").to_pandas()

    `key` is what `scidaq keys create` gave, by default the environment variable SCIDAQ_KEY. With https, `verify` is a
    file with the certificates to trust instead of this machine's, or False for none (and then nobody knows who
    answers). `timeout_s` is how long one answer may take. Raises `StationUnreachable` and `NotAllowed`.
    """
    address, key = address_of(url), os.environ.get("SCIDAQ_KEY") if key is None else key
    return RemoteStation(address, key or None, verify, timeout_s)


class RemoteStation:
    """A running station. May be used from several threads; closed by `with` or `close`, or when it is forgotten."""

    def __init__(self, address: str, key: str | None, verify: Verify, timeout_s: float) -> None:
        self.address = address
        self._key, self._verify = key, verify
        self._wire = Blocking(address, key, verify, timeout_s)
        self._verbs = Verbs(Asking(address))
        try:
            self._status = self.status()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of its connections."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- how it is ----

    @property
    def name(self) -> str:
        """Its name."""
        return self._status.name

    @property
    def uuid(self) -> str:
        """Its identity."""
        return self._status.uuid

    def status(self) -> Status:
        """How it is, in short."""
        return self._wire.run(self._verbs.status())

    def health(self) -> dict[str, Any]:
        """How each component is, since when and why: `status`, `components`."""
        return self._wire.run(self._verbs.health())

    # ---- streams ----

    @property
    def streams(self) -> dict[str, RemoteStream]:
        """The streams that there are now, by id."""
        return {one.id: RemoteStream(self, one.id) for one in self._wire.run(self._verbs.streams())}

    def __getitem__(self, stream: str) -> RemoteStream:
        """A stream by its id, `instrument/stream`; whether there is one shows when it is asked something."""
        return RemoteStream(self, stream)

    def __contains__(self, stream: object) -> bool:
        return stream in self.streams

    def __iter__(self) -> Iterator[str]:
        return iter(self.streams)

    def __len__(self) -> int:
        return len(self.streams)

    def sql(self, query: str) -> pa.Table:
        """One SELECT over streams, runs and notes, as an Arrow table: `.to_pandas()` makes it a data frame.

        Raises `QueryRefused` for what is none, and `QueryLimit` for what takes too much.
        """
        return self._wire.run(self._verbs.sql(query))

    def live(
        self,
        stream: str,
        channels: Sequence[str] | str | None = None,
        *,
        step: str | int = "20ms",
        fps: int = 20,
        since: Moment | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Generator[Frame | Skipped, None, None]:
        """The newest rows of a stream as they come, for ever: frames of buckets as long as `step`, or a little longer.

        With `since` first what there is from then on. A connection that is lost is made again, and what was missed
        comes first; a station that is away for `patience_s` raises `StationUnreachable`. Where this program is too
        slow, `Skipped` says which stretch was left out.
        """
        (since_ns,) = self._wire.run(self._verbs.ns(since))
        wanted = wanted_view(stream, channels, step_of(step), fps, since_ns)
        return self._watch(wanted, patience_s)

    def events(
        self,
        kinds: Sequence[str] = ("instrument", "gap", "run", "note", "health"),
        *,
        level: str = "info",
        recent: int = 0,
        patience_s: float = PATIENCE_S,
    ) -> Generator[Event, None, None]:
        """What happens at the station, for ever; first `recent` of each kind that happened before.

        The kind `log` (lines of at least `level`) needs the scope `operate`.
        """
        return self._watch({"events": list(kinds), "level": level, "recent": recent}, patience_s)

    def _watch(self, wanted: Mapping[str, Any], patience_s: float) -> Generator[Any, None, None]:
        return watch(Watching(wanted, self.address), self.address, self._key, self._verify, patience_s)

    # ---- instruments ----

    @property
    def instruments(self) -> Instruments:
        """Its instruments, by id."""
        return Instruments(self)

    def settings(self, at: Moment | None = None) -> Mapping[str, InstrumentState]:
        """Every instrument with its settings as they were read last, now or by a moment in the past."""
        return self.snapshot(at).instruments

    def snapshot(self, at: Moment | None = None) -> Snapshot:
        """The same, with the time at which it was so."""
        return self._wire.run(self._verbs.settings(at))

    # ---- runs, notes, holds ----

    @property
    def runs(self) -> Runs:
        """Its runs."""
        return Runs(self)

    def run(
        self,
        name: str,
        streams: Iterable[str] = (),
        *,
        operator: str = "",
        sample: str = "",
        notes: str = "",
        metadata: Mapping[str, Scalar] | None = None,
        **more: Scalar,
    ) -> RunContext:
        """A run around a `with`: begins with it and ends with it, also when an exception leaves it, which is noted.

            with station.run("night 12", sample="A7", voltage=3.3) as run:
                ...

        What is named beside is metadata. Without `streams` it is about all of them.
        """
        content = run_content(name, streams, operator, sample, notes, {**(metadata or {}), **more})
        return RunContext(self, content)

    def note(
        self,
        text: str,
        at: Moment | None = None,
        until: Moment | None = None,
        streams: Iterable[str] = (),
        run: str | None = None,
    ) -> Note:
        """Remark something about a moment, now if none is given, or about a range of time."""
        return self._wire.run(self._verbs.add_note(text, at, until, streams, run))

    def notes(
        self, start: Moment | None = None, stop: Moment | None = None, streams: Iterable[str] | None = None
    ) -> list[Note]:
        """The remarks about any part of a range of time, and of those about any of the streams, by time."""
        return self._wire.run(self._verbs.notes(start, stop, streams))

    def remove_note(self, note: str) -> Note:
        """Show a note, named by its id, no more."""
        return self._wire.run(self._verbs.remove_note(note))

    def hold(
        self,
        until: Moment,
        *,
        run: str | None = None,
        stream: str | None = None,
        start: Moment | None = None,
        stop: Moment | None = None,
        why: str = "",
    ) -> Hold:
        """Keep a run, or a stream or everything in a range of time, from retention until a time to come."""
        return self._wire.run(self._verbs.place_hold(until, run, stream, start, stop, why))

    def holds(self) -> list[Hold]:
        """What is kept from retention now."""
        return self._wire.run(self._verbs.holds())

    def release(self, hold: str) -> Hold:
        """End a hold, named by its id, before its time."""
        return self._wire.run(self._verbs.release_hold(hold))

    # ---- shown ----

    def __repr__(self) -> str:
        try:
            found = self._wire.run(self._verbs.streams())
        except ScidaqError as error:
            return f"<station {self.name} at {self.address}: {error}>"
        lines = [f"  {one.id}: {one.rows:,} rows{_span(one)}" for one in found]
        return "\n".join([f"station {self.name} at {self.address}", *lines])

    def _repr_html_(self) -> str:
        found = self._wire.run(self._verbs.streams())
        rows = "".join(
            f"<tr><td>{html.escape(one.id)}</td><td>{one.rows:,}</td><td>{_span(one)}</td></tr>" for one in found
        )
        head = "<tr><th>stream</th><th>rows</th><th>from, to (UTC)</th></tr>"
        return f"<p><b>{html.escape(self.name)}</b> at {html.escape(self.address)}</p><table>{head}{rows}</table>"


def _span(one: StreamFacts) -> str:
    return "" if one.first_ns is None else f", {shown(one.first_ns)} to {shown(one.last_ns)}"


class RemoteStream:
    """A stream of a running station, as `scidaq.open` has those of a data directory.

    Which rows, in `read`, `blocks` and `batches`: by time, `start <= time < stop`, each nanoseconds UTC as an int,
    seconds as a float, an aware datetime, a datetime64, ISO 8601 text, or text such as `"-10s"` before the station's
    now; by `run`, the name or the id of one; or the `last` so many rows, or `"10s"` before the newest.
    """

    def __init__(self, station: RemoteStation, stream: str) -> None:
        self._station, self.id = station, stream

    def facts(self) -> StreamFacts:
        """What is recorded of it, by epoch. Raises `UnknownStream`, as does whatever it is asked."""
        return self._station._wire.run(self._station._verbs.stream(self.id))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels of the newest epoch, as their calibrated values are."""
        return self.facts().channels

    @property
    def units(self) -> dict[str, str]:
        """UCUM unit of each channel's calibrated values."""
        return {channel.name: channel.unit for channel in self.channels}

    @property
    def rows(self) -> int:
        """How many rows are recorded."""
        return self.facts().rows

    @property
    def range_ns(self) -> tuple[int, int] | None:
        """UTC nanoseconds of the first and the last row; None without rows."""
        facts = self.facts()
        return None if facts.first_ns is None or facts.last_ns is None else (facts.first_ns, facts.last_ns)

    # ---- its rows ----

    def read(
        self,
        start: Moment | None = None,
        stop: Moment | None = None,
        channels: Sequence[str] | str | None = None,
        *,
        run: str | None = None,
        last: int | str | None = None,
        max_points: int | None = None,
        raw: bool = False,
    ) -> Rows:
        """Rows and the gaps between them, to be converted as you like. All by default; the class says how to choose.

        With `max_points` they are reduced to at most so many buckets of equal length, each with the least and the
        greatest value of every channel `x`, as `x.min` and `x.max`. Raises `RequestError` for what cannot be.
        """
        which = Which(start, stop, channels, run, last, max_points, raw)
        return self._station._wire.run(self._station._verbs.read(self.id, which))

    def blocks(
        self,
        start: Moment | None = None,
        stop: Moment | None = None,
        channels: Sequence[str] | str | None = None,
        *,
        run: str | None = None,
        last: int | str | None = None,
    ) -> Iterator[Block | Gap]:
        """The same rows as blocks with raw values and the gaps between them, a page at a time: for more than the memory
        holds."""
        wire, verbs = self._station._wire, self._station._verbs
        place = wire.run(verbs.begin(self.id, Which(start, stop, channels, run, last)))
        while place is not None:
            page = wire.run(verbs.page(self.id, place))
            yield from page.items
            place = page.next

    def batches(
        self,
        start: Moment | None = None,
        stop: Moment | None = None,
        channels: Sequence[str] | str | None = None,
        *,
        run: str | None = None,
        last: int | str | None = None,
        raw: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """The same rows as Arrow record batches; gaps are passed over."""
        for item in self.blocks(start, stop, channels, run=run, last=last):
            if isinstance(item, Block):
                yield from Rows(self.id, (item,), raw).batches()

    def live(
        self,
        channels: Sequence[str] | str | None = None,
        *,
        step: str | int = "20ms",
        fps: int = 20,
        since: Moment | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Generator[Frame | Skipped, None, None]:
        """Its newest rows as they come, for ever: see `RemoteStation.live`."""
        return self._station.live(self.id, channels, step=step, fps=fps, since=since, patience_s=patience_s)

    # ---- shown ----

    def __repr__(self) -> str:
        facts = self.facts()
        channels = ", ".join(f"{c.name} [{c.unit}]" for c in facts.channels)
        return f"<stream {self.id}: {facts.rows:,} rows{_span(facts)}; {channels}>"

    def _repr_html_(self) -> str:
        """What is recorded, and a picture of the newest rows."""
        picture = svg_of_blocks(self.read(last=_DRAWN_ROWS).blocks, raw=False) if self.rows else ""
        return f"<p><b>{html.escape(repr(self)[1:-1])}</b></p>{picture}"


# ---- instruments -----------------------------------------------------------------------------------------------------


class Instruments(Mapping[str, "RemoteInstrument"]):
    """The instruments of a station, by id."""

    def __init__(self, station: RemoteStation) -> None:
        self._station = station

    def facts(self) -> list[InstrumentFacts]:
        """All of them as they are."""
        return self._station._wire.run(self._station._verbs.instruments())

    def __getitem__(self, instrument: str) -> RemoteInstrument:
        """One; whether there is one shows when it is asked something."""
        return RemoteInstrument(self._station, instrument)

    def __iter__(self) -> Iterator[str]:
        return iter([one.id for one in self.facts()])

    def __len__(self) -> int:
        return len(self.facts())

    def __repr__(self) -> str:
        return "\n".join(f"{one.id}: {one.state} ({one.driver}) {one.identity}" for one in self.facts()) or "none"


class RemoteInstrument:
    """An instrument of a running station. Raises `UnknownInstrument` when it is asked something and is not there."""

    def __init__(self, station: RemoteStation, instrument: str, lease: str | None = None) -> None:
        self._station, self.id, self._lease = station, instrument, lease

    def facts(self) -> InstrumentFacts:
        """How it is."""
        return self._station._wire.run(self._station._verbs.instrument(self.id))

    @property
    def state(self) -> str:
        """connecting, ready, acquiring, degraded, failed or stopped."""
        return self.facts().state

    @property
    def parameters(self) -> Parameters:
        """Its parameters, by name: `parameters["level"].value`, `parameters["level"] = 0.5`."""
        return Parameters(self._station, self.id, self._lease)

    def newest(self) -> dict[str, dict[str, Any]]:
        """The newest value of each channel, by stream and channel; None where it is missing."""
        return self._station._wire.run(self._station._verbs.newest(self.id))

    def failures(self) -> list[Failure]:
        """What went wrong with it of late, newest first, with advice."""
        return self._station._wire.run(self._station._verbs.failures(self.id))

    def start(self) -> InstrumentFacts:
        """Let it acquire; waits a few seconds for it."""
        return self._act("start")

    def stop(self) -> InstrumentFacts:
        """Let it stop acquiring, after its safe state, and stay connected."""
        return self._act("stop")

    def connect(self) -> InstrumentFacts:
        """Connect to it, and acquire nothing."""
        return self._act("connect")

    def disconnect(self) -> InstrumentFacts:
        """Let go of it, so that others can use it."""
        return self._act("disconnect")

    def safe(self) -> InstrumentFacts:
        """Bring it to its safe state now."""
        return self._act("safe")

    def lease(self, seconds: float = 60.0) -> Lease:
        """Have it alone within a `with`: changes by others are refused meanwhile. Raises `Leased`."""
        return Lease(self._station, self.id, seconds)

    def _act(self, verb: str) -> InstrumentFacts:
        return self._station._wire.run(self._station._verbs.act(self.id, verb, self._lease))

    def __repr__(self) -> str:
        one = self.facts()
        return f"<instrument {one.id} ({one.driver}): {one.state}{one.reason and f', {one.reason}'}>"


class Lease:
    """An instrument that nobody else changes meanwhile; entered, it is that instrument."""

    def __init__(self, station: RemoteStation, instrument: str, seconds: float) -> None:
        self._station, self._instrument, self._seconds, self._token = station, instrument, seconds, ""

    def renew(self) -> None:
        """Let it last as long again from now on."""
        run, verbs = self._station._wire.run, self._station._verbs
        self._token = run(verbs.take_lease(self._instrument, self._seconds, self._token or None))

    def __enter__(self) -> RemoteInstrument:
        self.renew()
        return RemoteInstrument(self._station, self._instrument, self._token)

    def __exit__(self, *_: object) -> None:
        self._station._wire.run(self._station._verbs.end_lease(self._instrument, self._token))


class Parameters(Mapping[str, Parameter]):
    """The parameters of an instrument: reading one asks the instrument, setting one reads it back."""

    def __init__(self, station: RemoteStation, instrument: str, lease: str | None) -> None:
        self._station, self._instrument, self._lease = station, instrument, lease

    def all(self) -> dict[str, Parameter]:
        """All of them, with the values as they were read last."""
        return self._station._wire.run(self._station._verbs.parameters(self._instrument))

    def __getitem__(self, name: str) -> Parameter:
        """One as the instrument says that it is. Raises `UnknownParameter`."""
        return self._station._wire.run(self._station._verbs.parameter(self._instrument, name))

    def __setitem__(self, name: str, value: Value) -> None:
        """Set one. Raises `ParameterError` for what is not allowed, or reads back otherwise."""
        self.set(name, value)

    def set(self, name: str, value: Value, unit: str | None = None) -> Parameter:
        """Set one; as it is then. A `unit` that the parameter has not is refused."""
        verbs = self._station._verbs
        return self._station._wire.run(verbs.set_parameter(self._instrument, name, value, unit, self._lease))

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self.all())

    def __repr__(self) -> str:
        return "\n".join(map(str, self.all().values())) or "none"


# ---- runs ------------------------------------------------------------------------------------------------------------


class Runs:
    """The runs of a station, by their start."""

    def __init__(self, station: RemoteStation) -> None:
        self._station = station

    def search(self, text: str = "", start: Moment | None = None, stop: Moment | None = None) -> list[RemoteRun]:
        """Those with a text in name, operator, sample, notes or metadata, and with any part in a range of time."""
        found = self._station._wire.run(self._station._verbs.runs(text, start, stop))
        return [RemoteRun(self._station, one) for one in found]

    def __getitem__(self, run: str) -> RemoteRun:
        """One by its name or id. Raises `UnknownRun`."""
        return RemoteRun(self._station, self._station._wire.run(self._station._verbs.run(run)))

    def __iter__(self) -> Iterator[RemoteRun]:
        return iter(self.search())

    def __len__(self) -> int:
        return len(self.search())

    def declare(
        self,
        name: str,
        start: Moment,
        stop: Moment,
        streams: Iterable[str] = (),
        *,
        operator: str = "",
        sample: str = "",
        notes: str = "",
        metadata: Mapping[str, Scalar] | None = None,
    ) -> RemoteRun:
        """Declare a run for the past: a name for what was recorded."""
        content = run_content(name, streams, operator, sample, notes, metadata)
        return RemoteRun(self._station, self._station._wire.run(self._station._verbs.declare_run(start, stop, content)))

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no runs"


class RemoteRun:
    """A run of a station: a window on its streams."""

    def __init__(self, station: RemoteStation, facts: Run) -> None:
        self._station = station
        self.facts = facts
        """What is known of it, as of when it was asked last."""

    @property
    def name(self) -> str:
        """Its name, which another run may have too."""
        return self.facts.name

    @property
    def id(self) -> str:
        """Its identity."""
        return self.facts.id

    @property
    def under_way(self) -> bool:
        """Whether it had not ended."""
        return self.facts.under_way

    @property
    def streams(self) -> dict[str, RemoteStream]:
        """The streams that belong to it, by id, each with all its rows: `read` gives those of the run."""
        return {name: one for name, one in self._station.streams.items() if self.facts.covers(name)}

    def read(
        self,
        stream: str,
        channels: Sequence[str] | str | None = None,
        *,
        max_points: int | None = None,
        raw: bool = False,
    ) -> Rows:
        """The rows of one of its streams; of a run that is under way those that there are by now."""
        return self._station[stream].read(run=self.id, channels=channels, max_points=max_points, raw=raw)

    def note(self, text: str, at: Moment | None = None, until: Moment | None = None) -> Note:
        """Remark something about it, at a moment, now if none is given."""
        return self._station.note(text, at, until, run=self.id)

    def edit(
        self,
        *,
        name: str | None = None,
        streams: Iterable[str] | None = None,
        operator: str | None = None,
        sample: str | None = None,
        notes: str | None = None,
        metadata: Mapping[str, Scalar | None] | None = None,
    ) -> Self:
        """Say something else of it; what is left out stays, and None takes a key of its metadata away."""
        changes = edit_content(name, streams, operator, sample, notes, metadata)
        self.facts = self._station._wire.run(self._station._verbs.edit_run(self.id, changes))
        return self

    def stop(self) -> Self:
        """End it now."""
        self.facts = self._station._wire.run(self._station._verbs.stop_run(self.id))
        return self

    def delete(self) -> None:
        """Show it no more; its rows stay."""
        self.facts = self._station._wire.run(self._station._verbs.delete_run(self.id))

    def hold(self, until: Moment, why: str = "") -> Hold:
        """Keep its rows from retention until a time to come."""
        return self._station.hold(until, run=self.id, why=why)

    def __repr__(self) -> str:
        end = "under way" if self.facts.stop_ns is None else shown(self.facts.stop_ns)
        return f"<run {self.name!r}: {shown(self.facts.start_ns)} to {end}>"


class RunContext:
    """A run that is about to begin: see `RemoteStation.run`."""

    def __init__(self, station: RemoteStation, content: Mapping[str, Any]) -> None:
        self._station, self._content = station, content
        self._run: RemoteRun | None = None

    def __enter__(self) -> RemoteRun:
        wire, verbs = self._station._wire, self._station._verbs
        self._run = RemoteRun(self._station, wire.run(verbs.start_run(self._content)))
        return self._run

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        run = self._run
        if run is None:
            return
        try:
            if error is not None:
                self._station.note(ended_by(error), run=run.id)
            run.stop()
        except ScidaqError as failed:
            if error is None:
                raise
            error.add_note(f"the run {run.name!r} could not be ended: {failed}")


def ended_by(error: BaseException) -> str:
    """What is remarked of a run that an exception has ended."""
    return f"ended by {type(error).__name__}: {error}"[:2000]
