"""The only wiring room: opens the rooms in order, joins them, closes them in reverse."""

from __future__ import annotations

import contextlib
import errno
import gc
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NoReturn, Self, TypeVar

import structlog

from scidaq.block import Reason, StreamSpec
from scidaq.catalog import (
    ARMED,
    Catalog,
    FactsLog,
    InstrumentState,
    Run,
    RunKeeper,
    Snapshot,
    covered,
    register_kind,
    set_aside,
)
from scidaq.clock import STEP_NS, Clock, SystemClock
from scidaq.errors import CatalogDamaged, CatalogError, ConfigError, RequestError, ScidaqError, WriteFailed
from scidaq.instruments import SETTINGS, InstrumentStats, Supervision
from scidaq.observe import Health, Metrics, Redactor
from scidaq.pipeline import Door, Hold, Intake, IntakeStats, Ring, RingStats
from scidaq.query import Position, Reader, snapshot_at
from scidaq.station import watching
from scidaq.station.exporting import Exports
from scidaq.station.live import Live
from scidaq.station.plan import InstrumentPlan, PlanChanges, StationPlan
from scidaq.station.querying import Queries
from scidaq.station.summarizing import Summaries
from scidaq.stats import field_of
from scidaq.store import (
    STARTED,
    STOPPED,
    File,
    Files,
    Found,
    Known,
    Projector,
    ProjectorStats,
    Recorder,
    RecorderStats,
    Recovered,
    Space,
    Stand,
    catch_up,
    known_segments,
    moves,
    open_station,
    recover,
    refusal,
    system_files,
)

T = TypeVar("T")
log = structlog.get_logger(__name__)

CHANGED = register_kind("station.changed", "Instruments were taken out or put in while the station recorded.")

CLOCK_WATCH_S = 1.0
MOST_SETTINGS = 1000
"""Settings of an instrument in the fact that it was armed: a fact has not room for any number of them."""
MIN_RING_BYTES = 4 << 20
SPACE_TO_START = 1 << 20
HEARD_S = 5.0
"""How long the recorder may take to hear that an instrument is put in again."""
CLOSE_S = 60.0
"""How long the disk may take to end the recording before the station gives up waiting for it."""


@dataclass(frozen=True, slots=True)
class StationStats:
    """The whole station at one moment."""

    name: str = field_of("1", "Name of the station.")
    uuid: str = field_of("1", "Its identity, given when the data directory was made.")
    started_ns: int = field_of("ns", "UTC time at which it began to record.")
    now_ns: int = field_of("ns", "UTC time of this snapshot.")
    instruments: tuple[InstrumentStats, ...] = field_of("1", "One per instrument.")
    intakes: tuple[IntakeStats, ...] = field_of("1", "One per stream that was announced.")
    rings: tuple[RingStats, ...] = field_of("1", "One per stream that was announced.")
    recorder: RecorderStats = field_of("1", "The recorder.")
    projector: ProjectorStats = field_of("1", "What the catalog was told.")
    free_bytes: int = field_of("By", "Free space where the data lies.")
    clock_steps: int = field_of("1", "Steps of the wall clock that began new epochs.")
    clock_drift_ns: int = field_of("ns", "Wall clock minus recorded time, which is bent towards it.")


class Station:
    """One data directory and the process that owns it. A context manager: inside, it records.

    Raises on entry `StationError` and its kin when the data directory cannot be used; instruments that cannot be
    reached are no error, supervision keeps trying. On exit the instruments go to their safe state, everything is made
    durable and every segment is sealed.
    """

    def __init__(self, plan: StationPlan, clock: Clock | None = None, files: Files | None = None) -> None:
        self.plan = plan
        self._clock = clock or SystemClock()
        self._files = files or system_files()
        self._stack = ExitStack()
        self._redactor = Redactor()
        self._lock = threading.Lock()
        self._rings: dict[str, Ring] = {}
        self._holds: dict[str, Hold] = {}
        """The recorder's side of each ring, those of instruments that were taken out as well."""
        self._doors: dict[str, _ArmedDoor] = {}
        self._taken_out: dict[str, tuple[_ArmedDoor, dict[str, Ring]]] = {}
        """Of instruments that may be put in again: their streams go on where they were."""
        self._changing = threading.Lock()
        self._may_change = False
        self._armed: dict[str, Any] = {}
        self._stands: dict[str, Stand] = {}
        self._stop = threading.Event()
        self._seen: Snapshot | None = None
        """The instruments as they were when the station began to stop."""
        self._clock_steps = 0
        self._last_step: tuple[int | None, int] = (None, 0)
        """When the wall clock was stepped last, by the steady clock, and by how much."""
        self._recording, self._ended = False, True
        self._made_again = False
        """Whether this start has put a damaged catalog aside."""
        self._untold: tuple[Found, ...] = ()
        self.live = Live(
            self._clock,
            lambda: self._rings,
            lambda: self._supervision.stats(),
            lambda: self.health.last,
        )
        """What is seen of it while it records."""
        self.recovered = Recovered()
        """What recovery found at the start."""

    # ---- life ----

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            try:
                self._open(stack)
            except OSError as e:
                raise refusal(self.plan.data_dir, e) from e
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack) -> None:
        """Each room in turn; what was opened is closed in reverse, also when a later one fails."""
        plan, clock, files = self.plan, self._clock, self._files
        data_dir = plan.data_dir
        self._station, lock = open_station(
            data_dir, files, plan.name, clock.now_ns(), plan.storage.allow_network_filesystem
        )
        stack.callback(self._unlock, lock)
        self._prepare_process()
        self._space = Space(data_dir, files, plan.storage)
        self._space.prepare()
        if self._space.free < SPACE_TO_START:
            raise OSError(errno.ENOSPC, "too little space to start")
        self._facts = stack.enter_context(FactsLog.open(data_dir / "facts", clock, files))
        self._facts.told = self.live.fact
        self._catalog = Catalog.open(data_dir, set_aside_damaged=True, later=True)
        stack.callback(lambda: self._catalog.close())  # recovery may have put another in its place
        self.recovered = self._recover()
        self._doubt_clock(self.recovered.stands)
        self._projector = Projector(self._catalog, data_dir, clock)
        self._projector.behind(self._untold)
        self._untold = ()
        self._projector.start()
        stack.callback(self._projector.close)
        stack.callback(self._note_end)
        self.summaries = Summaries(
            data_dir,
            files,
            clock,
            self._station.uuid,
            lambda: self._rings,
            self._durable,
            lambda: not self._no_room(),
        )
        stack.callback(self.summaries.close)  # when all rows are durable
        self._open_recorder(stack)
        self._started_ns = clock.now_ns()
        self._facts.append(STARTED, self._said | {"quarantined": len(self.recovered.quarantined)})
        self._recording = True
        self._supervision, self._seen = Supervision(clock, clean=self._redactor.text), None
        self._open_runs()
        watch = threading.Thread(target=self._watch_clock, name="clock-watch", daemon=True)
        watch.start()
        stack.callback(watch.join)
        stack.callback(self._stop.set)
        stack.callback(self._end_runs)  # when the instruments have stopped: what they delivered last belongs to them
        self._open_instruments(stack)
        stack.callback(self._look_at_instruments)
        self.summaries.start()
        self.queries = stack.enter_context(Queries(data_dir, clock))
        self.exports = stack.enter_context(Exports(data_dir, clock, files, self._no_room))
        self._open_watch(stack)
        stack.callback(self.live.close)

    @property
    def _said(self) -> dict[str, str]:
        """What a start says of the station."""
        said = {"name": self._station.name, "version": self.plan.version, "config_hash": self.plan.config_hash}
        return {key: value for key, value in said.items() if value}

    def _prepare_process(self) -> None:
        """The process is the station's own."""
        _tune()

    def _recover(self) -> Recovered:
        """Bring the data directory in order and the catalog up to date; one that proves damaged is made again."""
        data_dir = self.plan.data_dir
        try:
            known = self._known()
        except CatalogDamaged as error:
            self._make_catalog_again(error)
            known = self._known()
        recovered = recover(data_dir, self._files, self._clock, self._station.uuid, known)
        try:
            self._catch_up(recovered)
        except CatalogDamaged as error:
            self._make_catalog_again(error)
            again = recover(data_dir, self._files, self._clock, self._station.uuid, self._known())
            self._catch_up(again)
            quarantined = recovered.quarantined + again.quarantined
            recovered = replace(again, sealed=recovered.sealed + again.sealed, quarantined=quarantined)
        if recovered.sealed or recovered.quarantined:
            log.warning(
                "the station had not been stopped cleanly",
                sealed=recovered.sealed,
                quarantined=[str(p.relative_to(data_dir)) for p in recovered.quarantined],
            )
        return recovered

    def _known(self) -> dict[str, dict[str, Known]]:
        """What recovery need not look at, once the catalog has the facts."""
        self._ask_catalog(lambda: self._catalog.project_facts(self._facts))
        return self._ask_catalog(lambda: known_segments(self._catalog, self.plan.data_dir)) or {}

    def _catch_up(self, recovered: Recovered) -> None:
        """Tell the catalog what recovery found; what it cannot be told now waits for the projector."""
        self._untold = tuple(recovered.found)
        self._ask_catalog(lambda: self._told(recovered))

    def _told(self, recovered: Recovered) -> None:
        catch_up(self._catalog, recovered.found, self.plan.data_dir)
        self._untold = ()

    def _ask_catalog(self, act: Callable[[], T]) -> T | None:
        """Do it, or say that it cannot be done: a catalog on a full disk keeps nobody from recording.

        Raises `CatalogDamaged` as long as it can be made again: once, before the projector uses it.
        """
        try:
            return act()
        except CatalogError as error:
            if isinstance(error, CatalogDamaged) and not (self._recording or self._made_again):
                raise
            log.warning("the catalog cannot be used; recording goes on, and it is caught up later", error=str(error))
            return None

    def _make_catalog_again(self, error: CatalogDamaged) -> None:
        self._made_again = True
        self._catalog.close()
        log.warning("the catalog is damaged and made again", error=str(error), kept=str(set_aside(self.plan.data_dir)))
        self._catalog = Catalog.open(self.plan.data_dir, later=True)

    def _open_recorder(self, stack: ExitStack) -> None:
        recovered = self.recovered
        next_journal = max((n for n, _ in recovered.journals), default=-1) + 1
        self._recorder = Recorder(
            self.plan.data_dir,
            self._files,
            self._clock,
            self._station.uuid,
            self.plan.storage,
            self._projector,
            next_journal,
            self._space,
        )
        for stream, stand in recovered.stands.items():
            self._recorder.resume(stream, stand)
        self._recorder.adopt_journals(recovered.journals)
        # Not the segments and the journal's rows themselves: each has its file mapped, and a file that is removed would
        # keep its room on the disk.
        self._stands = {stream: replace(stand, journalled=[]) for stream, stand in recovered.stands.items()}
        self.recovered = replace(recovered, stands={}, found=[])
        self._ended = False
        self._recorder.start()
        stack.callback(self._close_recorder)

    def _close_recorder(self) -> None:
        """After the instruments have stopped: what they delivered last goes to disk."""
        for door in self._doors.values():
            door.close()
        for ring in self._rings.values():
            ring.close()
        clean = self._recorder.close(CLOSE_S)
        if not clean:
            log.error("recording could not be ended cleanly; the next start accounts for what is missing")
        elif self._recorder.abandoned:
            clean = self._seal_abandoned()
        self._ended = clean

    def _seal_abandoned(self) -> bool:
        """Seal what refused writes have left open; False when the disk refuses still."""
        try:
            self._recover()
        except OSError as error:
            log.error("what refused writes have left open stays so until the next start", error=str(error))
            return False
        return True

    def _open_instruments(self, stack: ExitStack) -> None:
        stack.enter_context(self._supervision)
        if not self.plan.instruments:
            log.warning("no instrument is configured, so nothing will be recorded")
        for one in self.plan.instruments:
            self._put_in(one)
        self._may_change = True
        stack.callback(self._end_changes)

    # ---- changes while it records ----

    def apply(self, changes: PlanChanges) -> dict[str, str]:
        """Take instruments out and put others in, while all others go on; which could not be put in, and why.

        One that is taken out goes to its safe state first; what it has delivered is recorded, and its segments are
        sealed as soon as that is durable. Put in again, its streams go on: with a gap, in the same epoch where the
        source numbers its rows. Raises `RequestError` when the station does not record.
        """
        with self._changing:
            if not self._may_change:
                raise RequestError("the station is starting or stopping, so nothing can be changed")
            leaving = [name for name in changes.remove if name in self._doors]
            for name in leaving:  # all at once: each takes its time to come to a safe state
                self._supervision.instruments[name].request_stop()
            for name in leaving:
                self._take_out(name)
            problems = {}
            for one in changes.add:
                try:
                    self._put_in(one)
                except ConfigError as error:
                    problems[one.id] = str(error)
            put_in = tuple(one for one in changes.add if one.id not in problems)
            stay = tuple(one for one in self.plan.instruments if one.id not in leaving)
            config_hash = changes.config_hash or self.plan.config_hash
            self.plan = replace(self.plan, instruments=stay + put_in, config_hash=config_hash)
            self._keeper.configured(config_hash)
            self._note_change(leaving, [one.id for one in put_in])
            return problems

    def _put_in(self, one: InstrumentPlan) -> None:
        """Record an instrument; one that was taken out goes on where its streams are. Raises `ConfigError`."""
        door, rings = self._taken_out.pop(one.id, (None, {}))
        if door is None:
            door = _ArmedDoor(one.id)
        door.open_for(partial(self._open_intake, one), partial(self._note_armed, one), partial(self._widen, one))
        for stream in rings:
            self._recorder.add(stream, self._holds[stream], one.policy(stream.split("/")[1]), _pre_trigger_ns(one))
        if rings and not self._recorder.wait_until_heard(HEARD_S):  # or the first rows would go by the policy of before
            log.warning("the recorder is late; the first rows are recorded as before", instrument=one.id)
        with self._lock:
            self._doors, self._rings = {**self._doors, one.id: door}, {**self._rings, **rings}
        try:
            self._supervision.add(one.id, one.make, door, options=one.supervision, driver_name=one.driver)
        except ConfigError:
            self._set_by(one.id)
            raise

    def _take_out(self, name: str) -> None:
        """Stop an instrument; what it has delivered is recorded to the end."""
        door = self._doors[name]
        if not self._supervision.remove(name):
            log.warning("an instrument had to be left behind as it was", instrument=name)
        door.interrupted(Reason.DISCONNECT, self._clock.now_ns(), "the instrument was taken out or configured anew")
        door.close()
        self._armed.pop(name, None)
        self._set_by(name)

    def _set_by(self, name: str) -> None:
        """Keep the streams of an instrument that is no longer there, and have their segments sealed."""
        with self._lock:
            door = self._doors[name]
            rings = {stream: ring for stream, ring in self._rings.items() if stream.startswith(f"{name}/")}
            self._doors = {key: value for key, value in self._doors.items() if key != name}
            self._rings = {key: value for key, value in self._rings.items() if key not in rings}
        self._taken_out[name] = door, rings
        for stream in rings:
            self._recorder.rest(stream)

    def _widen(self, instrument: InstrumentPlan, specs: Sequence[StreamSpec]) -> None:
        """Let the rings of streams that are there already hold as much as their present schema asks for."""
        for spec in specs:
            ring = self._rings.get(f"{instrument.id}/{spec.name}")
            if ring is not None:
                ring.widen(self._ring_bytes(spec, instrument.pre_trigger_s))

    def _note_change(self, removed: Sequence[str], added: Sequence[str]) -> None:
        said = {"removed": list(removed), "added": list(added), "config_hash": self.plan.config_hash}
        log.info("instruments were changed", removed=list(removed), added=list(added))
        try:
            self._facts.append(CHANGED, {key: value for key, value in said.items() if value})
        except WriteFailed as error:
            log.error("that instruments were changed could not be noted", error=str(error))

    def _end_changes(self) -> None:
        with self._changing:  # one that is under way comes to its end
            self._may_change = False

    # ---- the end ----

    def _unlock(self, lock: File) -> None:
        """Give the directory free; not where the recorder did not end: it may write until the process ends."""
        if self._ended or self._recorder.ended:  # nothing writes any more
            lock.close()

    def _note_end(self) -> None:
        """After the recorder has ended: whoever reads this fact may rely on every segment being sealed."""
        if not (self._recording and self._ended):
            return
        try:
            self._facts.append(STOPPED, {"name": self._station.name})
        except WriteFailed as error:
            log.error("everything is recorded, but that the station has ended could not be noted", error=str(error))
        self._ask_catalog(lambda: self._catalog.project_facts(self._facts))

    def _open_watch(self, stack: ExitStack) -> None:
        """Health and metrics, and the thread that looks at what changes slowly; the first to be closed."""
        clock, monitoring = self._clock, self.plan.monitoring
        interval_s = monitoring.health_check_interval_seconds
        self.health = Health(
            watching.checks(
                self._supervision,
                self._is_critical,
                self._ring_stats,
                self._recorder,
                self._free_bytes,
                self._catalog,
                self._projector,
                lambda: watching.judge_clock(clock, self._clock_steps, *self._last_step),
            ),
            clock,
            interval_s,
            lambda: watching.not_ready(self._recorder),
            self._redactor,
        )
        written = self._recorder.written_bytes
        watch = watching.Watch(self.plan.data_dir, clock, self.health, written, interval_s)
        self.metrics = Metrics(lambda: watching.samples(self.stats(), watch, self.health), monitoring.labelled_streams)
        self.metrics.add(self.exports.samples)
        stack.enter_context(watch)

    # ---- streams ----

    def _open_intake(self, instrument: InstrumentPlan, spec: StreamSpec) -> Intake:
        """The ring, the recorder's reader and the intake of a stream that an instrument announces."""
        stream = f"{instrument.id}/{spec.name}"
        size = self._ring_bytes(spec, instrument.pre_trigger_s)
        ring = Ring(stream, size, bell=self._recorder.bell, told=self.live.gap)
        with self._lock:
            self._rings = {**self._rings, stream: ring}
        stand = self._stands.get(stream)
        resume, next_epoch = stand.resume() if stand else None, self.recovered.next_epochs.get(stream, 0)
        intake = Intake(stream, ring, self._clock, resume, next_epoch)
        hold = self._holds[stream] = ring.hold()
        self._recorder.add(stream, hold, instrument.policy(spec.name), _pre_trigger_ns(instrument))
        return intake

    def _ring_bytes(self, spec: StreamSpec, pre_trigger_s: float) -> int:
        """Enough for `ring_seconds` of a uniform stream, within `ring_bytes`; that for an irregular one."""
        o, rate = self.plan.pipeline, spec.schema.rate
        if rate is None:
            return o.ring_bytes
        seconds = o.ring_seconds + 2 * pre_trigger_s
        return min(o.ring_bytes, max(MIN_RING_BYTES, int(float(rate) * spec.schema.row_bytes * seconds)))

    def _note_armed(self, instrument: InstrumentPlan, specs: tuple[StreamSpec, ...]) -> None:
        """Keep what the instrument said of itself, when it is new."""
        supervisor = self._supervision.instruments.get(instrument.id)
        identity = supervisor.stats().identity if supervisor is not None else ""
        said = {"identity": identity, "streams": {s.name: s.schema.as_json() for s in specs}}
        if self._armed.get(instrument.id) == said:
            return
        try:
            settings = list(supervisor.settings().items())[:MOST_SETTINGS] if supervisor is not None else []
            instrument_is = {"instrument": instrument.id, "driver": instrument.driver}
            fact = self._facts.append(
                ARMED, instrument_is | said | {"settings": {name: asdict(one) for name, one in settings}}
            )
        except WriteFailed as error:  # its rows matter more; it is noted when the instrument is armed next
            log.error(
                "what an instrument said of itself could not be noted", instrument=instrument.id, error=str(error)
            )
        else:
            self._armed[instrument.id] = said
            self._keeper.heard(fact)

    # ---- runs ----

    @property
    def runs(self) -> RunKeeper:
        """The verbs on runs, holds and notes, from any thread: while the station is open."""
        return self._keeper

    def _open_runs(self) -> None:
        """End what a kill has interrupted, and begin the run that is asked for, before anything is delivered."""
        self._keeper = RunKeeper(
            self._facts,
            self._clock,
            live=True,
            version=self.plan.version,
            config_hash=self.plan.config_hash,
            snapshot=self.snapshot,
            snapshot_at=self._snapshot_at,
            newest_ns=self._newest_ns,
            told=self._follow_runs,
        )
        self._keeper.take_up(self.plan.run)

    def _follow_runs(self, wanted: Sequence[tuple[str, ...]]) -> None:
        """Record the streams of policy `runs` that belong to a run that is under way."""
        self._recorder.set_recording(lambda stream: any(covered(streams, stream) for streams in wanted))

    def _newest_ns(self, run: Run) -> int | None:
        """Time of the newest row that recovery found of a run's streams."""
        found = [stand.book.last_ns for stream, stand in self._stands.items() if run.covers(stream)]
        return max((ns for ns in found if ns >= 0), default=None)

    def _end_runs(self) -> None:
        try:
            self._keeper.station_stops()
        except WriteFailed as error:  # the next start ends them, with their newest row
            log.error("the end of a run could not be noted", error=str(error))

    def snapshot(self) -> Snapshot:
        """Every instrument with the settings that were read of it last, from any thread; none is asked."""
        if self._seen is not None:
            return self._seen
        t_ns, supervisors = self._clock.now_ns(), self._supervision.instruments
        instruments = {one.id: InstrumentState(one.driver, "", "connecting") for one in self.plan.instruments}
        for name, one in supervisors.items():
            instruments[name] = InstrumentState(one.driver_name, one.stats().identity, one.state.value, one.settings())
        return Snapshot(t_ns, instruments)

    def _look_at_instruments(self) -> None:
        """Before they stop."""
        self._seen = self.snapshot()

    def _snapshot_at(self, t_ns: int) -> Snapshot | None:
        """What the settings streams say of a time in the past; None when they cannot be read."""
        try:
            return snapshot_at(Reader(self.plan.data_dir, self._files), t_ns)
        except (ScidaqError, OSError) as error:
            log.warning("the settings of a time in the past cannot be read", t_ns=t_ns, error=str(error))
            return None

    # ---- watching ----

    def _watch_clock(self) -> None:
        """Follow the wall clock; when it was stepped, every stream begins a new epoch."""
        while not self._clock.wait(self._stop, CLOCK_WATCH_S):
            if by_ns := self._clock.follow():
                self._clock_steps += 1
                self._last_step = self._clock.steady_ns(), by_ns
                log.warning("the wall clock was stepped", by_s=by_ns / 1e9)

    def _doubt_clock(self, stands: Mapping[str, Stand]) -> None:
        """Say so when this machine's clock lies before what has been recorded: it is wrong now, or was then."""
        known = [("the station was made", self._station.created_ns)]
        known += [(f"the newest row of {stream} was recorded", stand.book.last_ns) for stream, stand in stands.items()]
        what, newest_ns = max(known, key=lambda one: one[1])
        if (behind_ns := newest_ns - self._clock.now_ns()) > STEP_NS:
            log.warning("the clock of this machine lies in the past; check it", since=what, by_s=behind_ns / 1e9)

    def hide(self, secrets: Iterable[str]) -> None:
        """What must never be in anything that drivers say and others read; to be told before the station is entered."""
        self._redactor.hide(secrets)

    def stats(self) -> StationStats:
        """A snapshot, from any thread."""
        return StationStats(
            self._station.name,
            self._station.uuid,
            self._started_ns,
            self._clock.now_ns(),
            self._supervision.stats(),
            tuple(s for door in self._doors.values() for s in door.stats()),
            self._ring_stats(),
            self._recorder.stats(),
            self._projector.stats(),
            self._free_bytes(),
            self._clock_steps,
            self._clock.drift_ns(),
        )

    def losses(self) -> dict[tuple[str, str], tuple[int, int]]:
        """How many gaps there have been since the start, and how many rows are in them, by stream and reason."""
        return watching.losses(tuple(s for door in list(self._doors.values()) for s in door.stats()))

    def stands_still(self) -> str:
        """Why nothing is made durable any more, empty while it is: what a watchdog may act on. Waits for nobody."""
        return moves(self._recorder.stats())

    def _durable(self) -> dict[str, Position]:
        """Behind which row of each stream everything is durable, or accounted for durably."""
        return {s.stream: Position(s.epoch, s.durable_index) for s in self._recorder.stats().streams if s.epoch >= 0}

    def _is_critical(self, instrument: str) -> bool:
        return next((one.critical for one in self.plan.instruments if one.id == instrument), True)

    def _ring_stats(self) -> tuple[RingStats, ...]:
        return tuple(ring.stats() for ring in self._rings.values())

    def _free_bytes(self) -> int:
        """Room on the disk; what the recorder saw last, when the system does not tell."""
        try:
            return self._files.free_space(self.plan.data_dir)
        except OSError:
            return self._space.stats().free_bytes

    def _no_room(self) -> str:
        """Why nothing but rows may go to the disk now; empty while it may."""
        free, least = self._free_bytes(), self._space.stats().low_bytes * 3 // 2
        if free >= least:
            return ""
        return (
            f"{free >> 20} MiB are free where the data lies, and {least >> 20} MiB have to stay so that rows can be "
            "recorded (storage.low_space_bytes, and half as much again): make room, or export to elsewhere with "
            "`scidaq export --out`"
        )


class _ArmedDoor(Door):
    """A door that tells when its instrument is armed: before its streams begin, and after."""

    def __init__(self, instrument: str) -> None:
        super().__init__(instrument, _not_open)
        self._before: Callable[[Sequence[StreamSpec]], None] = _not_open
        self._after: Callable[[tuple[StreamSpec, ...]], None] = _not_open

    def open_for(
        self,
        open_intake: Callable[[StreamSpec], Intake],
        armed: Callable[[tuple[StreamSpec, ...]], None],
        arming: Callable[[Sequence[StreamSpec]], None],
    ) -> None:
        """Before its instrument is started, also when it was taken out meanwhile."""
        self._open, self._after, self._before = open_intake, armed, arming

    def begin(self, specs: Sequence[StreamSpec]) -> None:
        self._before(specs)
        super().begin(specs)
        if tuple(specs) != (SETTINGS,):  # it was not armed: settings of before are kept
            self._after(tuple(specs))


def _not_open(_: object) -> NoReturn:
    raise RuntimeError("a door that nobody has opened yet")


def _pre_trigger_ns(instrument: InstrumentPlan) -> int:
    return int(instrument.pre_trigger_s * 1e9)


def _tune() -> None:
    """Settings of the process that recording wants: quick thread switches, and as many open files as it may have."""
    sys.setswitchinterval(0.0005)
    # What the imports have made stays; blocks are freed by their counts. Looking for cycles often only costs.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536) if hard > 0 else 65_536, hard))
