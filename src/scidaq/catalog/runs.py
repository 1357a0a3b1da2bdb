"""Runs, holds and notes, folded from facts: what was recorded for whom, what is kept, what was remarked.

A run is a view: a name for a window of time over streams, and what was known of it. Nothing is copied, so it can be
declared for the past. `docs/format/facts.md` says what each kind of fact holds. Pure: the verbs that write facts are
those of `RunKeeper`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, TypeVar

from scidaq.catalog.facts import Fact, read_facts, register_kind
from scidaq.errors import Corrupt, RequestError, Unknown, UnknownRun

T = TypeVar("T")
Scalar = str | int | float | bool
"""What a run's metadata may say under a key."""

RUN_STARTED = register_kind("run.started", "A run began: its id, name and metadata.")
RUN_STOPPED = register_kind("run.stopped", "A run ended.")
RUN_RESUMED = register_kind("run.resumed", "A run that a kill had interrupted goes on.")
RUN_ADDED = register_kind("run.added", "A run was declared for the past.")
RUN_EDITED = register_kind("run.edited", "What is said of a run was changed.")
RUN_DELETED = register_kind("run.deleted", "A run is not shown any more; its rows stay.")
HOLD_PLACED = register_kind("hold.placed", "Rows of a run, a stream or a time are kept from retention.")
HOLD_RELEASED = register_kind("hold.released", "A hold ended before its time.")
NOTE_ADDED = register_kind("note.added", "A remark about a moment or a range of time.")
NOTE_EDITED = register_kind("note.edited", "A remark was changed.")
NOTE_REMOVED = register_kind("note.removed", "A remark is not shown any more.")
ARMED = register_kind(
    "instrument.armed", "An instrument delivers: its identity, streams and settings, when any is new."
)

_PATTERN = re.compile(r"[a-z0-9_-]{1,64}/([a-z0-9_-]{1,64}|\*)")
_END_OF_TIME = 1 << 63
_NEAR = 3


# ---- what there is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of an instrument, as it was read last."""

    value: str
    """Exactly as it was read: numbers in the shortest form that gives the same number again, `true` or `false`."""
    unit: str
    """UCUM unit of the value."""
    since_ns: int
    """UTC nanoseconds at which it was read."""

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Self:
        """What `asdict` gave. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        return cls(str(d["value"]), str(d["unit"]), int(d["since_ns"]))


@dataclass(frozen=True, slots=True)
class InstrumentState:
    """An instrument at one moment."""

    driver: str
    identity: str
    """Manufacturer, model, serial number and firmware; empty when it had not said so."""
    state: str
    """connecting, ready, acquiring, degraded, failed or stopped; empty when nobody knows."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """By name of the parameter."""

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Self:
        """What `asdict` gave. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        settings = {str(name): Setting.from_json(one) for name, one in d["settings"].items()}
        return cls(str(d["driver"]), str(d["identity"]), str(d["state"]), settings)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every instrument with its settings at one moment."""

    t_ns: int
    instruments: Mapping[str, InstrumentState] = field(default_factory=dict)
    """By id."""
    left_out: int = 0
    """Instruments whose settings had no room in the fact; their settings streams have them."""

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Self:
        """What `as_json` gave. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        instruments = {str(name): InstrumentState.from_json(one) for name, one in d["instruments"].items()}
        return cls(int(d["t_ns"]), instruments, int(d.get("left_out", 0)))


@dataclass(frozen=True, slots=True)
class Run:
    """A named window of time over streams."""

    id: str
    name: str
    start_ns: int
    """UTC nanoseconds of its first moment."""
    stop_ns: int | None
    """The moment behind its last; None while it is under way."""
    streams: tuple[str, ...] = ()
    """Ids of streams, or `instrument/*`; none stands for all."""
    operator: str = ""
    sample: str = ""
    notes: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    declared: bool = False
    """Whether it was declared for the past; else it was started and stopped."""
    reason: str = ""
    """Why it ended when nobody stopped it: `interrupted` by a kill, or `station stopped`."""
    started: Snapshot | None = None
    """The instruments when it began; None when nobody knows."""
    ended: Snapshot | None = None
    """The instruments when it ended."""
    version: str = ""
    """Of scidaq, when it was started or declared."""
    config_hash: str = ""
    """Of the configuration that the station ran with, when it was started."""
    resumed_ns: tuple[int, ...] = ()
    """When it went on after a kill."""
    edited_ns: int | None = None
    """When it was last edited."""
    deleted: bool = False

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.stop_ns is None

    def covers(self, stream: str) -> bool:
        """Whether a stream belongs to it."""
        return covered(self.streams, stream)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Self:
        """What `as_json` gave. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        given = dict(d)
        for name in ("started", "ended"):
            given[name] = None if given.get(name) is None else Snapshot.from_json(given[name])
        for name in ("streams", "resumed_ns"):
            given[name] = tuple(given[name])
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Hold:
    """What is kept from retention, for a time: a run, or a stream or all streams in a range of time."""

    id: str
    until_ns: int
    """When it ends by itself."""
    run: str | None = None
    """Id of the run; then there is no stream and no range."""
    stream: str | None = None
    """A stream, or `instrument/*`."""
    start_ns: int | None = None
    stop_ns: int | None = None
    why: str = ""
    by: str = ""
    placed_ns: int = 0
    released_ns: int | None = None
    """When it was ended before its time."""

    def holds(self, at_ns: int) -> bool:
        """Whether it is in force."""
        return self.released_ns is None and at_ns < self.until_ns

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Self:
        """What `as_json` gave. Raises `TypeError` for anything else."""
        return cls(**d)


@dataclass(frozen=True, slots=True)
class Note:
    """A remark about a moment or a range of time."""

    id: str
    t_ns: int
    end_ns: int | None
    """The moment behind the range; None for a moment."""
    text: str
    streams: tuple[str, ...] = ()
    """Ids of streams, or `instrument/*`; none stands for all."""
    run: str | None = None
    """Id of the run that it belongs to."""
    by: str = ""
    edited_ns: int | None = None
    removed: bool = False

    def within(self, start_ns: int | None, stop_ns: int | None) -> bool:
        """Whether any of it lies in `[start_ns, stop_ns)`."""
        if stop_ns is not None and self.t_ns >= stop_ns:
            return False
        last_ns = self.t_ns if self.end_ns is None else max(self.t_ns, self.end_ns - 1)
        return start_ns is None or last_ns >= start_ns

    def about(self, streams: Iterable[str]) -> bool:
        """Whether it is about any of these streams."""
        return any(covered(self.streams, stream) for stream in streams)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Self:
        """What `as_json` gave. Raises `KeyError` or `TypeError` for anything else."""
        return cls(**{**d, "streams": tuple(d["streams"])})


def covered(patterns: Sequence[str], stream: str) -> bool:
    """Whether a stream is named by one of the patterns, which are ids and `instrument/*`; no pattern names all."""
    return not patterns or stream in patterns or f"{stream.partition('/')[0]}/*" in patterns


def is_pattern(text: str) -> bool:
    """Whether it is the id of a stream, or `instrument/*`."""
    return _PATTERN.fullmatch(text) is not None


# ---- folding ---------------------------------------------------------------------------------------------------------


class RunBook:
    """Runs, holds and notes as the facts so far say.

    `take` is called by one thread at a time; the questions may come from any other.
    """

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._holds: dict[str, Hold] = {}
        self._notes: dict[str, Note] = {}
        self.ignored = 0
        """Facts of a known kind that could not be understood, or are about what nobody knows."""
        self.damage: tuple[Corrupt, ...] = ()
        """Places of the log that are damaged: what stood there is not in this book."""
        self._acts: dict[str, Callable[[int, Mapping[str, Any]], None]] = {
            RUN_STARTED: self._started,
            RUN_STOPPED: self._stopped,
            RUN_RESUMED: self._resumed,
            RUN_ADDED: self._added,
            RUN_EDITED: self._edited,
            RUN_DELETED: self._deleted,
            HOLD_PLACED: self._placed,
            HOLD_RELEASED: self._released,
            NOTE_ADDED: self._noted,
            NOTE_EDITED: self._note_edited,
            NOTE_REMOVED: self._note_removed,
            ARMED: self._armed,
        }

    @classmethod
    def of(cls, facts: Iterable[Fact | Corrupt]) -> Self:
        """The book of a log, with its damage."""
        book, damage = cls(), []
        for item in facts:
            if isinstance(item, Fact):
                book.take(item)
            else:
                damage.append(item)
        book.damage = tuple(damage)
        return book

    def take(self, fact: Fact) -> None:
        """Fold in the next fact. Kinds that are not known here are passed over; nothing is raised."""
        act = self._acts.get(fact.kind)
        if act is None:
            return
        try:
            act(fact.t_ns, fact.data)
        except (KeyError, TypeError, ValueError, AttributeError):  # written by another program, or a newer one
            self.ignored += 1

    # ---- questions ----

    def runs(self, *, deleted: bool = False) -> list[Run]:
        """All runs by their start, with `deleted` those too that are not shown any more."""
        found = [r for r in list(self._runs.values()) if deleted or not r.deleted]
        return sorted(found, key=lambda r: (r.start_ns, r.id))

    def run(self, name_or_id: str) -> Run:
        """The run of this name or id; an id also finds one that was deleted, and may be shortened to 8 characters.

        Raises `UnknownRun` when there is none, and `RequestError` with the ids when several have the name.
        """
        if name_or_id in self._runs:
            return self._runs[name_or_id]
        runs = self.runs()
        found = [r for r in runs if r.name == name_or_id]
        if not found and len(name_or_id) >= 8:
            found = [r for r in runs if r.id.startswith(name_or_id)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(r.id for r in found)
            raise RequestError(f"{len(found)} runs are called {name_or_id!r}: give the id of one, which are {ids}")
        known = [r.name for r in runs]
        raise UnknownRun(name_or_id, known, get_close_matches(name_or_id, known, _NEAR))

    def namesakes(self, one: Run) -> list[Run]:
        """Other runs of the same name at the same time."""
        return [
            other
            for other in self.runs()
            if other.name == one.name
            and other.id != one.id
            and (other.stop_ns is None or one.start_ns < other.stop_ns)
            and (one.stop_ns is None or other.start_ns < one.stop_ns)
        ]

    def under_way(self) -> list[Run]:
        """The runs that have not ended, by their start."""
        return [r for r in self.runs() if r.under_way]

    def holds(self, at_ns: int | None = None) -> list[Hold]:
        """The holds in force at a time, or all that there ever were, in the order in which they were placed."""
        return [h for h in list(self._holds.values()) if at_ns is None or h.holds(at_ns)]

    def hold(self, hold_id: str) -> Hold:
        """The hold of this id, which may be shortened to 8 characters. Raises `Unknown` when there is none."""
        return _one(self._holds, hold_id, "hold")

    def notes(
        self, start_ns: int | None = None, stop_ns: int | None = None, streams: Iterable[str] | None = None
    ) -> list[Note]:
        """The notes about any part of `[start_ns, stop_ns)`, and of those about any of the streams, by time."""
        asked = None if streams is None else list(streams)
        found = [
            n
            for n in list(self._notes.values())
            if not n.removed and n.within(start_ns, stop_ns) and (asked is None or n.about(asked))
        ]
        return sorted(found, key=lambda n: (n.t_ns, n.id))

    def note(self, note_id: str) -> Note:
        """The note of this id, which may be shortened to 8 characters. Raises `Unknown` when there is none."""
        return _one(self._notes, note_id, "note")

    # ---- runs ----

    def _started(self, t_ns: int, d: Mapping[str, Any]) -> None:
        start_ns = _time(d, "start_ns", t_ns)
        self._runs.setdefault(_key(d, "run"), _run(d, start_ns, None, declared=False))

    def _added(self, t_ns: int, d: Mapping[str, Any]) -> None:
        start_ns, stop_ns = _time(d, "start_ns"), _time(d, "stop_ns")
        self._runs.setdefault(_key(d, "run"), _run(d, start_ns, stop_ns, declared=True))

    def _stopped(self, t_ns: int, d: Mapping[str, Any]) -> None:
        run = self._runs[_key(d, "run")]
        if not run.under_way:
            return
        stop_ns = max(run.start_ns, _time(d, "stop_ns", t_ns))
        self._runs[run.id] = replace(run, stop_ns=stop_ns, reason=_text(d, "reason"), ended=_snapshot(d, "ended"))

    def _resumed(self, t_ns: int, d: Mapping[str, Any]) -> None:
        run = self._runs[_key(d, "run")]
        self._runs[run.id] = replace(run, resumed_ns=(*run.resumed_ns, t_ns))

    def _edited(self, t_ns: int, d: Mapping[str, Any]) -> None:
        run, changes = self._runs[_key(d, "run")], d["changes"]
        new: dict[str, Any] = {
            name: _text(changes, name) for name in ("operator", "sample", "notes") if name in changes
        }
        if _text(changes, "name"):
            new["name"] = changes["name"]
        if "streams" in changes:
            new["streams"] = _streams(changes)
        if "metadata" in changes:
            removed = {k for k, v in changes["metadata"].items() if v is None}
            new["metadata"] = {k: v for k, v in {**run.metadata, **_metadata(changes)}.items() if k not in removed}
        for name in ("start_ns", "stop_ns"):
            if name in changes:
                new[name] = _time(changes, name)
        self._runs[run.id] = replace(run, **new, edited_ns=t_ns)

    def _deleted(self, t_ns: int, d: Mapping[str, Any]) -> None:
        run = self._runs[_key(d, "run")]
        self._runs[run.id] = replace(run, deleted=True)

    def _armed(self, t_ns: int, d: Mapping[str, Any]) -> None:
        """An instrument that was not reached before a run began is in its snapshot as it was when it was armed."""
        for run in [r for r in self._runs.values() if r.under_way and r.started is not None]:
            name, snapshot = _key(d, "instrument"), run.started
            known = snapshot.instruments.get(name) if snapshot is not None else None
            if snapshot is None or (known is not None and known.identity):
                continue
            settings = {str(p): Setting.from_json(one) for p, one in d.get("settings", {}).items()}
            armed = InstrumentState(_text(d, "driver"), _text(d, "identity"), "acquiring", settings)
            filled = replace(snapshot, instruments={**snapshot.instruments, name: armed})
            self._runs[run.id] = replace(run, started=filled)

    # ---- holds ----

    def _placed(self, t_ns: int, d: Mapping[str, Any]) -> None:
        hold = Hold(
            _key(d, "hold"),
            _time(d, "until_ns"),
            _text(d, "run") or None,
            _text(d, "stream") or None,
            None if d.get("start_ns") is None else _time(d, "start_ns"),
            None if d.get("stop_ns") is None else _time(d, "stop_ns"),
            _text(d, "why"),
            _text(d, "by"),
            t_ns,
        )
        self._holds.setdefault(hold.id, hold)

    def _released(self, t_ns: int, d: Mapping[str, Any]) -> None:
        hold = self._holds[_key(d, "hold")]
        if hold.released_ns is None:
            self._holds[hold.id] = replace(hold, released_ns=t_ns)

    # ---- notes ----

    def _noted(self, t_ns: int, d: Mapping[str, Any]) -> None:
        note = Note(
            _key(d, "note"),
            _time(d, "t_ns", t_ns),
            None if d.get("end_ns") is None else _time(d, "end_ns"),
            _text(d, "text"),
            _streams(d),
            _text(d, "run") or None,
            _text(d, "by"),
        )
        self._notes.setdefault(note.id, note)

    def _note_edited(self, t_ns: int, d: Mapping[str, Any]) -> None:
        note, changes = self._notes[_key(d, "note")], d["changes"]
        new: dict[str, Any] = {}
        if "text" in changes:
            new["text"] = _text(changes, "text")
        if "streams" in changes:
            new["streams"] = _streams(changes)
        if "t_ns" in changes:
            new["t_ns"] = _time(changes, "t_ns")
        if "end_ns" in changes:
            new["end_ns"] = None if changes["end_ns"] is None else _time(changes, "end_ns")
        self._notes[note.id] = replace(note, **new, edited_ns=t_ns)

    def _note_removed(self, t_ns: int, d: Mapping[str, Any]) -> None:
        note = self._notes[_key(d, "note")]
        self._notes[note.id] = replace(note, removed=True)


def read_run_book(facts: Path) -> RunBook:
    """The book of the facts log in a directory (`<data_dir>/facts`), also while a station appends to it."""
    return RunBook.of(read_facts(facts))


def _one(things: Mapping[str, T], wanted: str, what: str) -> T:
    if wanted in things:
        return things[wanted]
    found = [one for key, one in list(things.items()) if len(wanted) >= 8 and key.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Unknown(f"no {what} {wanted!r}")
    raise RequestError(f"{len(found)} {what}s begin with {wanted!r}")


# ---- what a fact says, which another program may have written --------------------------------------------------------


def _run(d: Mapping[str, Any], start_ns: int, stop_ns: int | None, *, declared: bool) -> Run:
    key = _key(d, "run")
    return Run(
        key,
        _text(d, "name") or key,
        start_ns,
        stop_ns,
        _streams(d),
        _text(d, "operator"),
        _text(d, "sample"),
        _text(d, "notes"),
        _metadata(d),
        declared,
        started=_snapshot(d, "started"),
        ended=_snapshot(d, "ended"),
        version=_text(d, "version"),
        config_hash=_text(d, "config_hash"),
    )


def _key(d: Mapping[str, Any], name: str) -> str:
    key = d[name]
    if not isinstance(key, str) or not key:
        raise ValueError(f"{name} is no id")
    return key


def _text(d: Mapping[str, Any], name: str) -> str:
    value = d.get(name, "")
    return value if isinstance(value, str) else ""


def _time(d: Mapping[str, Any], name: str, default: int | None = None) -> int:
    ns = d.get(name, default)
    if not isinstance(ns, int) or isinstance(ns, bool) or not 0 <= ns < _END_OF_TIME:
        raise ValueError(f"{name} is no time")
    return ns


def _streams(d: Mapping[str, Any]) -> tuple[str, ...]:
    streams = d.get("streams", ())
    if not isinstance(streams, list | tuple):
        raise ValueError("streams is no list")
    return tuple(str(one) for one in streams)


def _metadata(d: Mapping[str, Any]) -> dict[str, Scalar]:
    """What is no scalar is kept as its JSON."""
    given = d.get("metadata", {}).items()
    return {str(k): v if _is_scalar(v) else json.dumps(v, sort_keys=True) for k, v in given if v is not None}


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value))


def _snapshot(d: Mapping[str, Any], name: str) -> Snapshot | None:
    try:
        return Snapshot.from_json(d[name])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
