"""Reading the configuration again while a station runs: what changes at once, and what needs a restart.

Instruments come, go and change at once, and so does every option that its room marks `LIVE`. Whatever else differs is
named and stays as it is until the next start. A configuration with a mistake changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from scidaq.clock import Clock
from scidaq.config.effective import plain
from scidaq.config.model import Config, Instrument
from scidaq.config.words import hints, is_live
from scidaq.errors import ConfigError

if TYPE_CHECKING:
    from scidaq.station import PlanChanges

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a configuration and the next, by when it counts. False when nothing does."""

    added: tuple[str, ...] = ()
    """Instruments, by id."""
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Instruments with other options: taken out and put in again."""
    live: tuple[str, ...] = ()
    """Dotted keys of options that change at once."""
    restart: tuple[str, ...] = ()
    """Dotted keys of options that stay as they are until the station is started again."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Instruments that could not be put in, by id, and why."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.live or self.restart)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


class Running(Protocol):
    """What a reload needs of a station."""

    def apply(self, changes: PlanChanges) -> Mapping[str, str]:
        """Take instruments out and put others in; which could not be put in, and why."""


def compare(old: Config, new: Config) -> Changes:
    """What differs between two configurations, where a value came from left aside."""
    before, after = old.instruments, new.instruments
    keys = [(key, live) for section in _sections(old) for key, live in _differences(section, old, new)]
    return Changes(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in after if name in before and not _same(before[name], after[name])),
        live=tuple(key for key, live in keys if live),
        restart=tuple(key for key, live in keys if not live),
    )


class Reloader:
    """The configuration that a station runs by, and the way to read it again. From any thread."""

    def __init__(
        self,
        config: Config,
        again: Callable[[], Config],
        station: Running,
        clock: Clock,
        tell: Sequence[Callable[[Config], None]] = (),
        hide: Callable[[Sequence[str]], None] = lambda secrets: None,
    ) -> None:
        """`again` loads the configuration from where it came from; `tell` hears of options that change at once.

        `hide` hears of all secrets before anything is done that knows them.
        """
        self._config, self._again, self._station, self._clock, self._tell = config, again, station, clock, tell
        self._hide = hide
        self._lock = threading.Lock()

    @property
    def config(self) -> Config:
        """The configuration by which the station runs: of what needs a restart, the values before."""
        return self._config

    def effective(self) -> dict[str, Any]:
        """Its values, with the origin of each; of secrets only that they are there."""
        from scidaq.config.showing import as_json

        return as_json(self._config)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a configuration file."""
        from scidaq.config.schema import json_schema

        return json_schema()

    def reload(self) -> Changes:
        """Read the configuration again, and let count what can; what differs, and what came of it.

        Raises `ConfigError` with every mistake, and then changes nothing; `RequestError` when the station is starting
        or stopping.
        """
        with self._lock:
            new = self._again()
            self._hide([secret.reveal() for secret in new.secrets])
            old, changes = self._config, compare(self._config, new)
            running = _live_parts(old, new)
            leaving = (*changes.removed, *changes.changed)
            coming = (*changes.added, *changes.changed)
            if leaving or coming:
                changes = replace(changes, failed=dict(self._station.apply(self._plan(running, leaving, coming))))
            there = {name: one for name, one in new.instruments.items() if name not in changes.failed}
            self._config = replace(running, instruments=there)
            if changes.live:
                for tell in self._tell:
                    tell(self._config)
            self._say(changes)
            return changes

    def try_reload(self) -> Changes | None:
        """As `reload`, where nobody waits for the answer: mistakes are logged, each of them. None when there are."""
        try:
            return self.reload()
        except ConfigError as error:
            log.error("the configuration has mistakes, so nothing is changed", mistakes=len(error.problems))
            for problem in error.problems:
                log.error("mistake in the configuration", problem=problem)
        except Exception as error:  # whatever it is, recording goes on
            log.error("the configuration could not be read again, so nothing is changed", error=str(error))
        return None

    def _plan(self, running: Config, leaving: Sequence[str], coming: Sequence[str]) -> PlanChanges:
        from scidaq.station import PlanChanges

        plan = running.plan(self._clock)
        return PlanChanges(tuple(leaving), tuple(one for one in plan.instruments if one.id in coming), running.hash)

    @staticmethod
    def _say(changes: Changes) -> None:
        if not changes:
            log.info("the configuration was read again and is the same")
            return
        said = {
            name: list(value) for name in ("added", "removed", "changed", "live") if (value := getattr(changes, name))
        }
        if said:
            log.info("the configuration was read again", **said)
        if changes.restart:
            log.warning("these options count only after a restart", options=list(changes.restart))
        for name, why in changes.failed.items():
            log.error("an instrument could not be put in", instrument=name, error=why)


def _sections(config: Config) -> list[str]:
    return [f.name for f in fields(config) if is_dataclass(getattr(config, f.name))]


def _same(one: Instrument, other: Instrument) -> bool:
    # As plain values: a third party's options need not know how to compare themselves. Secrets stay secrets there.
    parts = (plain(one.general), plain(one.options)), (plain(other.general), plain(other.options))
    return parts[0] == parts[1] and one.factory is other.factory


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, bool]]:
    """The options below a dotted key that differ, and whether each may change at once."""
    name = key.rpartition(".")[2]
    before, after = getattr(old, name), getattr(new, name)
    kind: Any = type(before)
    for one in fields(kind):
        a, b = getattr(before, one.name), getattr(after, one.name)
        if a == b:
            continue
        live = is_live(hints(kind)[one.name])
        if not live and is_dataclass(a) and type(a) is type(b):
            yield from _differences(f"{key}.{one.name}", before, after)
        else:
            yield f"{key}.{one.name}", live


def _live_parts(old: Config, new: Config) -> Config:
    """The old configuration with what changes at once of the new one, its instruments and where they came from."""
    merged = {name: _merged(getattr(old, name), getattr(new, name)) for name in _sections(old)}
    return replace(new, **merged)


def _merged(old: T, new: T) -> T:
    """Options with the live ones of others of the same kind."""
    values: dict[str, Any] = {}
    kind: Any = type(old)
    for one in fields(kind):
        a, b = getattr(old, one.name), getattr(new, one.name)
        if is_live(hints(kind)[one.name]):
            values[one.name] = b
        elif is_dataclass(a) and type(a) is type(b):
            values[one.name] = _merged(a, b)
    return replace(old, **values)  # type: ignore[type-var]
