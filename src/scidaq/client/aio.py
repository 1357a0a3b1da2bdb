"""`scidaq.connect_async`: the same station for programs with an event loop. Each verb is that of `RemoteStation`."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from scidaq.block import Block, Channel, Gap, Moment
from scidaq.catalog import Hold, InstrumentState, Note, Run, Scalar
from scidaq.client.asking import Asking
from scidaq.client.facts import Failure, InstrumentFacts, Parameter, Status, StreamFacts, Value
from scidaq.client.live import PATIENCE_S, Event, Frame, Skipped, Watching, wanted_view, watch_async
from scidaq.client.sending import TIMEOUT_S, Verify, Waiting, address_of
from scidaq.client.station import URL, ended_by
from scidaq.client.verbs import Verbs, Which, edit_content, run_content, step_of
from scidaq.errors import ScidaqError
from scidaq.query import Rows

if TYPE_CHECKING:
    import pyarrow as pa


def connect_async(
    url: str = URL, key: str | None = None, *, verify: Verify = True, timeout_s: float = TIMEOUT_S
) -> AsyncStation:
    """The station at an address, for `async with` or `await`: see `connect`.

    async with scidaq.connect_async("http://127.0.0.1:8080") as station:
        rows = await station["dmm/readings"].read("-1h")
    """
    address, key = address_of(url), os.environ.get("SCIDAQ_KEY") if key is None else key
    return AsyncStation(address, key or None, verify, timeout_s)


class AsyncStation:
    """A running station; for one event loop."""

    def __init__(self, address: str, key: str | None, verify: Verify, timeout_s: float) -> None:
        self.address = address
        self._key, self._verify = key, verify
        self._wire = Waiting(address, key, verify, timeout_s)
        self._verbs = Verbs(Asking(address))

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        try:
            await self.status()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of its connections."""
        await self._wire.close()

    # ---- how it is ----

    async def status(self) -> Status:
        """How it is, in short."""
        return await self._wire.run(self._verbs.status())

    async def health(self) -> dict[str, Any]:
        """How each component is."""
        return await self._wire.run(self._verbs.health())

    # ---- streams ----

    async def streams(self, search: str = "") -> dict[str, StreamFacts]:
        """What is recorded, by stream."""
        return {one.id: one for one in await self._wire.run(self._verbs.streams(search))}

    def __getitem__(self, stream: str) -> AsyncStream:
        """A stream by its id, `instrument/stream`."""
        return AsyncStream(self, stream)

    async def sql(self, query: str) -> pa.Table:
        """One SELECT over streams, runs and notes, as an Arrow table."""
        return await self._wire.run(self._verbs.sql(query))

    async def live(
        self,
        stream: str,
        channels: Sequence[str] | str | None = None,
        *,
        step: str | int = "20ms",
        fps: int = 20,
        since: Moment | None = None,
        patience_s: float = PATIENCE_S,
    ) -> AsyncGenerator[Frame | Skipped, None]:
        """The newest rows of a stream as they come, for ever: see `RemoteStation.live`."""
        (since_ns,) = await self._wire.run(self._verbs.ns(since))
        wanted = wanted_view(stream, channels, step_of(step), fps, since_ns)
        async with aclosing(self._watch(wanted, patience_s)) as told:
            async for one in told:
                yield one

    async def events(
        self,
        kinds: Sequence[str] = ("instrument", "gap", "run", "note", "health"),
        *,
        level: str = "info",
        recent: int = 0,
        patience_s: float = PATIENCE_S,
    ) -> AsyncGenerator[Event, None]:
        """What happens at the station, for ever."""
        wanted = {"events": list(kinds), "level": level, "recent": recent}
        async with aclosing(self._watch(wanted, patience_s)) as told:
            async for one in told:
                yield one

    def _watch(self, wanted: Mapping[str, Any], patience_s: float) -> AsyncGenerator[Any, None]:
        return watch_async(Watching(wanted, self.address), self.address, self._key, self._verify, patience_s)

    # ---- instruments ----

    async def instruments(self) -> dict[str, InstrumentFacts]:
        """All instruments as they are, by id."""
        return {one.id: one for one in await self._wire.run(self._verbs.instruments())}

    def instrument(self, instrument: str) -> AsyncInstrument:
        """One of them."""
        return AsyncInstrument(self, instrument)

    async def settings(self, at: Moment | None = None) -> Mapping[str, InstrumentState]:
        """Every instrument with its settings as they were read last, now or by a moment in the past."""
        return (await self._wire.run(self._verbs.settings(at))).instruments

    # ---- runs, notes, holds ----

    async def runs(self, search: str = "", start: Moment | None = None, stop: Moment | None = None) -> list[AsyncRun]:
        """The runs with a text in them and with any part in a range of time, by their start."""
        return [AsyncRun(self, one) for one in await self._wire.run(self._verbs.runs(search, start, stop))]

    async def find_run(self, run: str) -> AsyncRun:
        """One by its name or id. Raises `UnknownRun`."""
        return AsyncRun(self, await self._wire.run(self._verbs.run(run)))

    async def declare_run(
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
    ) -> AsyncRun:
        """Declare a run for the past: a name for what was recorded."""
        content = run_content(name, streams, operator, sample, notes, metadata)
        return AsyncRun(self, await self._wire.run(self._verbs.declare_run(start, stop, content)))

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
    ) -> AsyncRunContext:
        """A run around an `async with`: see `RemoteStation.run`."""
        content = run_content(name, streams, operator, sample, notes, {**(metadata or {}), **more})
        return AsyncRunContext(self, content)

    async def note(
        self,
        text: str,
        at: Moment | None = None,
        until: Moment | None = None,
        streams: Iterable[str] = (),
        run: str | None = None,
    ) -> Note:
        """Remark something about a moment, now if none is given, or about a range of time."""
        return await self._wire.run(self._verbs.add_note(text, at, until, streams, run))

    async def notes(
        self, start: Moment | None = None, stop: Moment | None = None, streams: Iterable[str] | None = None
    ) -> list[Note]:
        """The remarks about any part of a range of time."""
        return await self._wire.run(self._verbs.notes(start, stop, streams))

    async def remove_note(self, note: str) -> Note:
        """Show a note, named by its id, no more."""
        return await self._wire.run(self._verbs.remove_note(note))

    async def hold(
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
        return await self._wire.run(self._verbs.place_hold(until, run, stream, start, stop, why))

    async def holds(self) -> list[Hold]:
        """What is kept from retention now."""
        return await self._wire.run(self._verbs.holds())

    async def release(self, hold: str) -> Hold:
        """End a hold, named by its id, before its time."""
        return await self._wire.run(self._verbs.release_hold(hold))


class AsyncStream:
    """A stream of a running station. Which rows: see `RemoteStream`."""

    def __init__(self, station: AsyncStation, stream: str) -> None:
        self._station, self.id = station, stream

    async def facts(self) -> StreamFacts:
        """What is recorded of it, by epoch. Raises `UnknownStream`, as does whatever it is asked."""
        return await self._station._wire.run(self._station._verbs.stream(self.id))

    async def channels(self) -> tuple[Channel, ...]:
        """The channels of the newest epoch, as their calibrated values are."""
        return (await self.facts()).channels

    async def read(
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
        """Rows and the gaps between them: see `RemoteStream.read`."""
        which = Which(start, stop, channels, run, last, max_points, raw)
        return await self._station._wire.run(self._station._verbs.read(self.id, which))

    async def blocks(
        self,
        start: Moment | None = None,
        stop: Moment | None = None,
        channels: Sequence[str] | str | None = None,
        *,
        run: str | None = None,
        last: int | str | None = None,
    ) -> AsyncIterator[Block | Gap]:
        """The same rows as blocks with raw values and the gaps between them, a page at a time."""
        wire, verbs = self._station._wire, self._station._verbs
        place = await wire.run(verbs.begin(self.id, Which(start, stop, channels, run, last)))
        while place is not None:
            page = await wire.run(verbs.page(self.id, place))
            for item in page.items:
                yield item
            place = page.next

    def live(
        self,
        channels: Sequence[str] | str | None = None,
        *,
        step: str | int = "20ms",
        fps: int = 20,
        since: Moment | None = None,
        patience_s: float = PATIENCE_S,
    ) -> AsyncGenerator[Frame | Skipped, None]:
        """Its newest rows as they come, for ever: see `RemoteStation.live`."""
        return self._station.live(self.id, channels, step=step, fps=fps, since=since, patience_s=patience_s)


class AsyncInstrument:
    """An instrument of a running station. Raises `UnknownInstrument` when it is asked something and is not there."""

    def __init__(self, station: AsyncStation, instrument: str, lease: str | None = None) -> None:
        self._station, self.id, self._lease = station, instrument, lease

    async def facts(self) -> InstrumentFacts:
        """How it is."""
        return await self._station._wire.run(self._station._verbs.instrument(self.id))

    async def parameters(self) -> dict[str, Parameter]:
        """Its parameters, with the values as they were read last."""
        return await self._station._wire.run(self._station._verbs.parameters(self.id))

    async def get(self, name: str) -> Parameter:
        """A parameter as the instrument says that it is. Raises `UnknownParameter`."""
        return await self._station._wire.run(self._station._verbs.parameter(self.id, name))

    async def set(self, name: str, value: Value, unit: str | None = None) -> Parameter:
        """Set a parameter; as it is then. Raises `ParameterError` for what is not allowed, or reads back otherwise."""
        verbs = self._station._verbs
        return await self._station._wire.run(verbs.set_parameter(self.id, name, value, unit, self._lease))

    async def newest(self) -> dict[str, dict[str, Any]]:
        """The newest value of each channel, by stream and channel; None where it is missing."""
        return await self._station._wire.run(self._station._verbs.newest(self.id))

    async def failures(self) -> list[Failure]:
        """What went wrong with it of late, newest first, with advice."""
        return await self._station._wire.run(self._station._verbs.failures(self.id))

    async def start(self) -> InstrumentFacts:
        """Let it acquire; waits a few seconds for it."""
        return await self._act("start")

    async def stop(self) -> InstrumentFacts:
        """Let it stop acquiring, after its safe state, and stay connected."""
        return await self._act("stop")

    async def connect(self) -> InstrumentFacts:
        """Connect to it, and acquire nothing."""
        return await self._act("connect")

    async def disconnect(self) -> InstrumentFacts:
        """Let go of it, so that others can use it."""
        return await self._act("disconnect")

    async def safe(self) -> InstrumentFacts:
        """Bring it to its safe state now."""
        return await self._act("safe")

    def lease(self, seconds: float = 60.0) -> AsyncLease:
        """Have it alone within an `async with`: changes by others are refused meanwhile. Raises `Leased`."""
        return AsyncLease(self._station, self.id, seconds)

    async def _act(self, verb: str) -> InstrumentFacts:
        return await self._station._wire.run(self._station._verbs.act(self.id, verb, self._lease))


class AsyncLease:
    """An instrument that nobody else changes meanwhile; entered, it is that instrument."""

    def __init__(self, station: AsyncStation, instrument: str, seconds: float) -> None:
        self._station, self._instrument, self._seconds, self._token = station, instrument, seconds, ""

    async def renew(self) -> None:
        """Let it last as long again from now on."""
        talk = self._station._verbs.take_lease(self._instrument, self._seconds, self._token or None)
        self._token = await self._station._wire.run(talk)

    async def __aenter__(self) -> AsyncInstrument:
        await self.renew()
        return AsyncInstrument(self._station, self._instrument, self._token)

    async def __aexit__(self, *_: object) -> None:
        await self._station._wire.run(self._station._verbs.end_lease(self._instrument, self._token))


class AsyncRun:
    """A run of a station: a window on its streams."""

    def __init__(self, station: AsyncStation, facts: Run) -> None:
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

    async def read(
        self,
        stream: str,
        channels: Sequence[str] | str | None = None,
        *,
        max_points: int | None = None,
        raw: bool = False,
    ) -> Rows:
        """The rows of one of its streams; of a run that is under way those that there are by now."""
        return await self._station[stream].read(run=self.id, channels=channels, max_points=max_points, raw=raw)

    async def note(self, text: str, at: Moment | None = None, until: Moment | None = None) -> Note:
        """Remark something about it, at a moment, now if none is given."""
        return await self._station.note(text, at, until, run=self.id)

    async def edit(
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
        self.facts = await self._station._wire.run(self._station._verbs.edit_run(self.id, changes))
        return self

    async def stop(self) -> Self:
        """End it now."""
        self.facts = await self._station._wire.run(self._station._verbs.stop_run(self.id))
        return self

    async def delete(self) -> None:
        """Show it no more; its rows stay."""
        self.facts = await self._station._wire.run(self._station._verbs.delete_run(self.id))


class AsyncRunContext:
    """A run that is about to begin: see `RemoteStation.run`."""

    def __init__(self, station: AsyncStation, content: Mapping[str, Any]) -> None:
        self._station, self._content = station, content
        self._run: AsyncRun | None = None

    async def __aenter__(self) -> AsyncRun:
        facts = await self._station._wire.run(self._station._verbs.start_run(self._content))
        self._run = AsyncRun(self._station, facts)
        return self._run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        run = self._run
        if run is None:
            return
        try:
            if error is not None:
                await self._station.note(ended_by(error), run=run.id)
            await run.stop()
        except ScidaqError as failed:
            if error is None:
                raise
            error.add_note(f"the run {run.name!r} could not be ended: {failed}")
