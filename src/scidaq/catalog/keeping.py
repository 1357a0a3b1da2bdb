"""The verbs on runs, holds and notes: what may be asked, and who does it by writing facts.

What is asked checks itself on birth and travels as JSON, so that the same verbs reach a station through its door or a
data directory that is opened for the purpose.
"""

from __future__ import annotations

import json
import math
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol, Self

import structlog

from scidaq.block import shown
from scidaq.catalog.facts import Fact, FactsLog
from scidaq.catalog.runs import (
    HOLD_PLACED,
    HOLD_RELEASED,
    NOTE_ADDED,
    NOTE_EDITED,
    NOTE_REMOVED,
    RUN_ADDED,
    RUN_DELETED,
    RUN_EDITED,
    RUN_RESUMED,
    RUN_STARTED,
    RUN_STOPPED,
    Hold,
    Note,
    Run,
    RunBook,
    Scalar,
    Snapshot,
    is_pattern,
)
from scidaq.clock import Clock
from scidaq.errors import RequestError

log = structlog.get_logger(__name__)

NAME_CHARACTERS = 200
TEXT_CHARACTERS = 20_000
METADATA_KEYS = 200
METADATA_BYTES = 1 << 16
STREAMS = 1000
SNAPSHOT_BYTES = 200_000
"""Of one snapshot in a fact, which has to fit a file of the log; of larger ones the settings are left out."""
INTERRUPTED = "interrupted"
STATION_STOPPED = "station stopped"
_END_OF_TIME = 1 << 63


# ---- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that checks itself, and its JSON."""

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Self:
        """What `as_json` gave. Raises `RequestError` that says what is wrong with anything else."""
        known = [f.name for f in fields(cls)]
        if not isinstance(d, Mapping):
            raise RequestError(f"an object with some of {', '.join(known)} is expected")
        if unknown := [str(name) for name in d if name not in known]:
            raise RequestError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
        given = dict(d)
        if isinstance(given.get("streams"), list):
            given["streams"] = tuple(given["streams"])
        try:
            return cls(**given)
        except TypeError:
            missing = [f.name for f in fields(cls) if f.name not in given]
            raise RequestError(f"something is missing, which may be {', '.join(missing)}") from None


@dataclass(frozen=True, slots=True)
class NewRun(_Asked):
    """A run that is to be started, or with both times to be declared for the past. Raises `RequestError` on birth."""

    name: str
    start_ns: int | None = None
    stop_ns: int | None = None
    streams: tuple[str, ...] = ()
    """Ids of streams, or `instrument/*`; none stands for all."""
    operator: str = ""
    sample: str = ""
    notes: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_run(self)
        _check_name(self.name)
        _check_metadata(self.metadata, removes=False)


@dataclass(frozen=True, slots=True)
class RunChanges(_Asked):
    """What is to be said of a run instead; None leaves it as it is. Raises `RequestError` on birth."""

    name: str | None = None
    start_ns: int | None = None
    stop_ns: int | None = None
    streams: tuple[str, ...] | None = None
    operator: str | None = None
    sample: str | None = None
    notes: str | None = None
    metadata: Mapping[str, Scalar | None] | None = None
    """What these keys are to say, the others stay; None takes a key away."""

    def __post_init__(self) -> None:
        _check_run(self)
        if self.name is not None:
            _check_name(self.name)
        if self.metadata is not None:
            _check_metadata(self.metadata, removes=True)


@dataclass(frozen=True, slots=True)
class NewHold(_Asked):
    """What is to be kept from retention until a time: a run, or a stream or everything in a range of time."""

    until_ns: int
    run: str | None = None
    """Name or id."""
    stream: str | None = None
    """A stream, or `instrument/*`."""
    start_ns: int | None = None
    stop_ns: int | None = None
    why: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        _check_time(self.until_ns, "until_ns")
        _check_range(self.start_ns, self.stop_ns)
        _check_line(self.why, "why")
        _check_line(self.by, "by")
        if self.run is not None:
            _check_line(self.run, "run")
            if self.stream is not None or self.start_ns is not None or self.stop_ns is not None:
                raise RequestError("a hold keeps a run, or a stream or a range of time: give a run alone, or none")
        elif self.stream is None and self.start_ns is None and self.stop_ns is None:
            raise RequestError("a hold keeps something: give a run, a stream, or a range of time")
        if self.stream is not None:
            _check_streams((self.stream,))


@dataclass(frozen=True, slots=True)
class NewNote(_Asked):
    """A remark about a moment, now if none is given, or about a range of time."""

    text: str
    t_ns: int | None = None
    end_ns: int | None = None
    streams: tuple[str, ...] = ()
    run: str | None = None
    """Name or id of the run that it belongs to."""
    by: str = ""

    def __post_init__(self) -> None:
        _check_text(self.text, "text")
        if not self.text.strip():
            raise RequestError("a note says something: its text is empty")
        _check_range(self.t_ns, self.end_ns)
        _check_streams(self.streams)
        _check_line(self.by, "by")
        if self.run is not None:
            _check_line(self.run, "run")


@dataclass(frozen=True, slots=True)
class NoteChanges(_Asked):
    """What a note is to say instead; None leaves it as it is, an end at the same time makes it one of a moment."""

    text: str | None = None
    t_ns: int | None = None
    end_ns: int | None = None
    streams: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.text is not None:
            _check_text(self.text, "text")
            if not self.text.strip():
                raise RequestError("a note says something: its text is empty; remove it instead")
        for name in ("t_ns", "end_ns"):
            if getattr(self, name) is not None:
                _check_time(getattr(self, name), name)
        if self.streams is not None:
            _check_streams(self.streams)


class RunActs(Protocol):
    """The verbs on runs, holds and notes. Each is durable on return, and raises `RequestError` that says what may be
    asked, or `WriteFailed` when it is not confirmed. A run is named by its name or id."""

    def start(self, new: NewRun) -> Run:
        """Begin a run now: streams of policy `runs` are recorded, from their pre-trigger on."""

    def stop(self, run: str) -> Run:
        """End a run now."""

    def add(self, new: NewRun) -> Run:
        """Declare a run for the past."""

    def edit(self, run: str, changes: RunChanges) -> Run:
        """Say something else of a run."""

    def delete(self, run: str) -> Run:
        """Show a run no more. Its rows stay."""

    def hold(self, new: NewHold) -> Hold:
        """Keep something from retention."""

    def release(self, hold: str) -> Hold:
        """End a hold, given by its id, before its time."""

    def note(self, new: NewNote) -> Note:
        """Remark something."""

    def edit_note(self, note: str, changes: NoteChanges) -> Note:
        """Remark something else instead; a note is given by its id."""

    def remove_note(self, note: str) -> Note:
        """Show a note no more."""


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check_run(asked: NewRun | RunChanges) -> None:
    _check_range(asked.start_ns, asked.stop_ns)
    _check_streams(asked.streams)
    for name in ("operator", "sample"):
        _check_line(getattr(asked, name), name)
    _check_text(asked.notes, "notes")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS or not name.isprintable():
        raise RequestError(f"name {_shown(name)}: a run's name has 1 to {NAME_CHARACTERS} printable characters")
    if name != name.strip() or name.startswith("-") or "/" in name:
        raise RequestError(
            f"name {_shown(name)}: a run's name has no '/', which those of streams have, begins with no '-', and "
            "neither begins nor ends with a space"
        )


def _check_line(text: object, what: str) -> None:
    if text is None:
        return
    if not isinstance(text, str) or len(text) > NAME_CHARACTERS or not text.isprintable():
        raise RequestError(
            f"{what} {_shown(text)}: a line of at most {NAME_CHARACTERS} printable characters is expected"
        )


def _check_text(text: object, what: str) -> None:
    if text is None:
        return
    if not isinstance(text, str) or len(text) > TEXT_CHARACTERS:
        raise RequestError(f"{what} {_shown(text)}: a text of at most {TEXT_CHARACTERS} characters is expected")
    if not all(c.isprintable() or c in "\n\t\r" for c in text):
        raise RequestError(f"{what} {_shown(text)}: a text has printable characters, and new lines")


def _check_streams(streams: object) -> None:
    if streams is None:
        return
    if not isinstance(streams, tuple) or len(streams) > STREAMS:
        raise RequestError(f"streams: a list of at most {STREAMS} is expected")
    for one in streams:
        if not isinstance(one, str) or not is_pattern(one):
            raise RequestError(f"stream {_shown(one)}: give the id of a stream, as dmm/readings, or all of one, dmm/*")


def _check_metadata(metadata: object, *, removes: bool) -> None:
    if not isinstance(metadata, Mapping) or len(metadata) > METADATA_KEYS:
        raise RequestError(f"metadata: an object of at most {METADATA_KEYS} keys is expected")
    for key, value in metadata.items():
        if not isinstance(key, str) or not 0 < len(key) <= NAME_CHARACTERS or not key.isprintable():
            raise RequestError(f"metadata key {_shown(key)}: 1 to {NAME_CHARACTERS} printable characters are expected")
        if value is None and removes:
            continue
        finite = isinstance(value, str) or (isinstance(value, int) and abs(value) < _END_OF_TIME)
        if not finite and not (isinstance(value, float) and math.isfinite(value)):
            raise RequestError(
                f"metadata {key!r} is {_shown(value)}: a text, a number of at most 64 bits, true or false is expected"
            )
    try:
        size = len(json.dumps(dict(metadata), ensure_ascii=False).encode())
    except ValueError:
        raise RequestError("metadata: a text is no Unicode") from None
    if size > METADATA_BYTES:
        raise RequestError(
            f"metadata has {size} bytes, at most {METADATA_BYTES} are allowed: keep large things in files"
        )


def _check_time(ns: object, what: str) -> None:
    if not isinstance(ns, int) or isinstance(ns, bool) or not 0 <= ns < _END_OF_TIME:
        raise RequestError(f"{what} {_shown(ns)}: UTC nanoseconds since 1970 are expected")


def _check_range(start_ns: int | None, stop_ns: int | None) -> None:
    for ns, what in ((start_ns, "the start"), (stop_ns, "the end")):
        if ns is not None:
            _check_time(ns, what)
    if start_ns is not None and stop_ns is not None and stop_ns <= start_ns:
        raise RequestError(f"the end ({shown(stop_ns)}) has to come after the start ({shown(start_ns)})")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- who does it -----------------------------------------------------------------------------------------------------


class RunKeeper:
    """The verbs on one facts log, which must have no other keeper. Every method may be called from any thread.

    It knows of the rest of a station by what it is given: `snapshot` looks at the instruments now, `snapshot_at` at
    their settings of a time in the past, `newest_ns` finds the newest durable row of a run's streams, and `told` hears
    which runs are under way before any of that is confirmed. Without a recorder (`live` is false) no run can be
    started, and one that is stopped ends with its newest row.
    """

    def __init__(
        self,
        facts: FactsLog,
        clock: Clock,
        *,
        live: bool = False,
        version: str = "",
        config_hash: str = "",
        snapshot: Callable[[], Snapshot] | None = None,
        snapshot_at: Callable[[int], Snapshot | None] | None = None,
        newest_ns: Callable[[Run], int | None] | None = None,
        told: Callable[[Sequence[tuple[str, ...]]], None] | None = None,
    ) -> None:
        self._facts, self._clock, self._live = facts, clock, live
        self._said = {k: v for k, v in (("version", version), ("config_hash", config_hash)) if v}
        self._snapshot, self._snapshot_at = snapshot, snapshot_at
        self._newest_ns, self._told = newest_ns, told
        self._lock = threading.RLock()
        self.book = RunBook.of(facts)
        """What there is, for questions."""

    def configured(self, config_hash: str) -> None:
        """The configuration is another one from now on: it is what runs that begin later will say."""
        with self._lock:
            self._said = self._said | {"config_hash": config_hash}

    # ---- a life ----

    def start(self, new: NewRun) -> Run:
        """Begin a run now: streams of policy `runs` are recorded, from their pre-trigger on."""
        if not self._live:
            raise RequestError(
                "no station records here, so no run can be started: `scidaq serve --run NAME` records one, "
                "`scidaq run add` declares one for the past"
            )
        if new.start_ns is not None or new.stop_ns is not None:
            raise RequestError("a run that is started begins now: declare one with times by `scidaq run add`")
        with self._lock:
            if same := [r for r in self.book.under_way() if r.name == new.name]:
                raise RequestError(f"a run {new.name!r} is under way ({same[0].id}): stop it, or take another name")
            key = str(uuid.uuid4())
            # The recorder hears of it first: no row from the start on may be left out while the fact is written.
            self._tell([new.streams])
            try:
                said = self._said | _facts_of(new) | {"start_ns": self._clock.now_ns()}
                self._note(RUN_STARTED, said | {"run": key} | self._now("started"))
            except BaseException:
                self._tell()
                raise
            self._note_namesakes(key)
            return self.book.run(key)

    def stop(self, run: str) -> Run:
        """End a run now. Where no station records it ends with its newest row: that is where a kill had ended it."""
        with self._lock:
            one = self._under_way(run)
            if not self._live:
                return self._interrupt(one)
            return self._stop(one, {"stop_ns": self._end_ns(one)} | self._now("ended"))

    def take_up(self, new: NewRun | None) -> Run | None:
        """At the start of a station: end what a kill has interrupted, but go on with the run called as `new` is.

        Where there is none, `new` is started. Returns the run that is under way, None without one.
        """
        with self._lock:
            before = self.book.under_way()
            same = [r for r in before if new is not None and r.name == new.name]
            for one in before:
                if one not in same[-1:]:
                    self._interrupt(one)
            if new is None:
                return None
            if not same:
                return self.start(new)
            self._tell()
            self._note(RUN_RESUMED, {"run": same[-1].id} | self._said)
            changes = RunChanges(
                operator=new.operator or None,
                sample=new.sample or None,
                notes=new.notes or None,
                streams=new.streams or None,
                metadata=new.metadata or None,
            )
            return self.edit(same[-1].id, changes) if changes != RunChanges() else self.book.run(same[-1].id)

    def station_stops(self) -> None:
        """End what is under way, since nothing is recorded any more. Raises `WriteFailed`."""
        with self._lock:
            for one in self.book.under_way():
                self._stop(one, {"stop_ns": self._end_ns(one), "reason": STATION_STOPPED} | self._now("ended"))

    def _under_way(self, run: str) -> Run:
        if run not in [r.id for r in self.book.runs(deleted=True)]:
            same = [r for r in self.book.under_way() if r.name == run]
            if len(same) == 1:  # others of this name may have ended
                return same[0]
        one = self.book.run(run)
        if not one.under_way:
            raise RequestError(f"no run {run!r} is under way: it has ended")
        return one

    def _end_ns(self, run: Run) -> int:
        return max(run.start_ns, self._clock.now_ns())

    def _interrupt(self, run: Run) -> Run:
        """End a run where a kill has ended it: behind the newest row that was durable."""
        newest_ns = self._newest_ns(run) if self._newest_ns is not None else None
        stop_ns = run.start_ns if newest_ns is None else max(run.start_ns, newest_ns + 1)
        return self._stop(run, {"stop_ns": stop_ns, "reason": INTERRUPTED})

    def _stop(self, run: Run, said: Mapping[str, Any]) -> Run:
        self._note(RUN_STOPPED, {"run": run.id, "name": run.name, **said})
        self._tell()
        return self.book.run(run.id)

    def _now(self, edge: str) -> dict[str, Any]:
        return {edge: _bounded(self._snapshot())} if self._snapshot is not None else {}

    def _tell(self, also: Sequence[tuple[str, ...]] = ()) -> None:
        if self._told is not None:
            self._told([*(r.streams for r in self.book.under_way()), *also])

    # ---- what is said of it ----

    def add(self, new: NewRun) -> Run:
        """Declare a run for the past, with the settings that the instruments had."""
        if new.start_ns is None or new.stop_ns is None:
            raise RequestError("a run that is declared for the past has a start and an end")
        self._check_past(new.stop_ns)
        said: dict[str, Any] = {k: v for k, v in self._said.items() if k == "version"} | _facts_of(new)
        if self._snapshot_at is not None:  # reads files, so not while others wait
            edges = (("started", new.start_ns), ("ended", new.stop_ns))
            said |= {edge: _bounded(seen) for edge, ns in edges if (seen := self._snapshot_at(ns)) is not None}
        key = str(uuid.uuid4())
        self._note(RUN_ADDED, said | {"run": key, "start_ns": new.start_ns, "stop_ns": new.stop_ns})
        self._note_namesakes(key)
        return self.book.run(key)

    def edit(self, run: str, changes: RunChanges) -> Run:
        """Say something else of a run; what its snapshots say stays."""
        said = {k: v for k, v in changes.as_json().items() if v is not None}
        if not said:
            raise RequestError(
                "nothing is to be changed: give a name, times, streams, operator, sample, notes or metadata"
            )
        with self._lock:
            one = self._shown(run)
            if one.under_way and ("start_ns" in said or "stop_ns" in said):
                raise RequestError(f"run {one.name!r} is under way: its times can be changed when it has ended")
            start_ns, stop_ns = said.get("start_ns", one.start_ns), said.get("stop_ns", one.stop_ns)
            if stop_ns is not None and said.keys() & {"start_ns", "stop_ns"}:
                _check_range(start_ns, stop_ns)
                self._check_past(stop_ns)
            if changes.metadata is not None:
                kept = {k: v for k, v in ({**one.metadata, **changes.metadata}).items() if v is not None}
                _check_metadata(kept, removes=False)
            if one.under_way and any(r.name == said.get("name") and r.id != one.id for r in self.book.under_way()):
                raise RequestError(f"a run {said['name']!r} is under way, too: take another name")
            self._note(RUN_EDITED, {"run": one.id, "changes": said})
            if said.keys() & {"name", "start_ns", "stop_ns"}:
                self._note_namesakes(one.id)
            if one.under_way and changes.streams is not None:
                self._tell()
            return self.book.run(one.id)

    def delete(self, run: str) -> Run:
        """Show a run no more. Its rows stay. One that is under way or held is refused."""
        with self._lock:
            one = self._shown(run)
            if one.under_way:
                raise RequestError(f"run {one.name!r} is under way: stop it first")
            if held := [h for h in self.book.holds(self._clock.now_ns()) if h.run == one.id]:
                raise RequestError(f"run {one.name!r} is held ({held[0].id}): release it first")
            self._note(RUN_DELETED, {"run": one.id, "name": one.name})
            return replace(one, deleted=True)

    def _note_namesakes(self, key: str) -> None:
        """A station says in its log that a name means two runs; without one, who asked is told by who asks."""
        if self._live and (others := self.book.namesakes(one := self.book.run(key))):
            ids = [one.id, *(other.id for other in others)]
            log.warning("runs of one name at the same time: only their ids tell which is meant", run=one.name, ids=ids)

    def _shown(self, run: str) -> Run:
        one = self.book.run(run)
        if one.deleted:
            raise RequestError(f"run {one.name!r} ({one.id}) was deleted: declare it again by `scidaq run add`")
        return one

    def _check_past(self, stop_ns: int) -> None:
        now_ns = self._clock.now_ns()
        if stop_ns > now_ns:
            raise RequestError(
                f"the end of a run lies in the past: {shown(stop_ns)} is {(stop_ns - now_ns) / 1e9:.1f} s ahead"
            )

    # ---- holds ----

    def hold(self, new: NewHold) -> Hold:
        """Keep something from retention until a time that is to come."""
        if new.until_ns <= self._clock.now_ns():
            raise RequestError("a hold ends in the future: the time that is given has passed")
        with self._lock:
            run = None if new.run is None else self._shown(new.run).id
            key = str(uuid.uuid4())
            said = {k: v for k, v in new.as_json().items() if v not in (None, "")}
            self._note(HOLD_PLACED, said | {"hold": key} | ({} if run is None else {"run": run}))
            return self.book.hold(key)

    def release(self, hold: str) -> Hold:
        """End a hold before its time."""
        with self._lock:
            one = self.book.hold(hold)
            if not one.holds(self._clock.now_ns()):
                raise RequestError(f"hold {one.id} has ended already")
            self._note(HOLD_RELEASED, {"hold": one.id})
            return self.book.hold(one.id)

    # ---- notes ----

    def note(self, new: NewNote) -> Note:
        """Remark something."""
        t_ns = self._clock.now_ns() if new.t_ns is None else new.t_ns
        _check_range(t_ns, new.end_ns)
        with self._lock:
            run = None if new.run is None else self._shown(new.run).id
            key = str(uuid.uuid4())
            said = {k: v for k, v in new.as_json().items() if v not in (None, "", ())}
            self._note(NOTE_ADDED, said | {"note": key, "t_ns": t_ns} | ({} if run is None else {"run": run}))
            return self.book.note(key)

    def edit_note(self, note: str, changes: NoteChanges) -> Note:
        """Remark something else instead."""
        said = {k: v for k, v in changes.as_json().items() if v is not None}
        if not said:
            raise RequestError("nothing is to be changed: give a text, times or streams")
        with self._lock:
            one = self._remarked(note)
            t_ns, end_ns = said.get("t_ns", one.t_ns), said.get("end_ns", one.end_ns)
            if end_ns == t_ns:
                said["end_ns"] = None
            else:
                _check_range(t_ns, end_ns)
            self._note(NOTE_EDITED, {"note": one.id, "changes": said})
            return self.book.note(one.id)

    def remove_note(self, note: str) -> Note:
        """Show a note no more."""
        with self._lock:
            one = self._remarked(note)
            self._note(NOTE_REMOVED, {"note": one.id})
            return self.book.note(one.id)

    def _remarked(self, note: str) -> Note:
        one = self.book.note(note)
        if one.removed:
            raise RequestError(f"note {one.id} was removed")
        return one

    # ---- facts ----

    def _note(self, kind: str, data: Mapping[str, Any]) -> None:
        with self._lock:
            self.book.take(self._facts.append(kind, data))

    def heard(self, fact: Fact) -> None:
        """Somebody else has noted a fact: that an instrument was armed completes the snapshot of a run's beginning."""
        with self._lock:
            self.book.take(fact)


def _facts_of(new: NewRun) -> dict[str, Any]:
    said = {k: v for k, v in new.as_json().items() if k not in ("start_ns", "stop_ns") and v not in (None, "", ())}
    return said | {"metadata": dict(new.metadata)}


def _bounded(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON that a fact has room for."""
    said, left_out = snapshot.as_json(), 0
    by_size = sorted(said["instruments"].values(), key=lambda one: len(one["settings"]), reverse=True)
    while by_size and len(json.dumps(said)) > SNAPSHOT_BYTES:
        by_size.pop(0)["settings"] = {}
        left_out += 1
    return said | {"left_out": snapshot.left_out + left_out}
