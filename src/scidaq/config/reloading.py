"""Reading the configuration again while a station runs: what changes at once, and what needs a restart.

Instruments come, go and change at once, and so does every option that its room marks `LIVE`. Whatever else differs is
named and stays as it is until the next start. A configuration with a mistake changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog

from scidaq.clock import Clock
from scidaq.config.editing import Edit, local_file
from scidaq.config.effective import plain
from scidaq.config.layers import REQUEST, Origin, dotted
from scidaq.config.model import Config, Instrument
from scidaq.config.words import hints, is_live
from scidaq.errors import ConfigError, DefinedElsewhere, NotAllowed, RequestError, UnknownInstrument

if TYPE_CHECKING:
    from scidaq.station import PlanChanges

T = TypeVar("T")
_NOWHERE = ("host",)
"""Drivers whose resource is no address."""
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


class Again(Protocol):
    """Loads the configuration from where it came from."""

    def __call__(self, edit: Edit | None = None) -> Config:
        """As it is; with `edit`, as it would be after that. Raises `ConfigError`."""


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
        again: Again,
        station: Running,
        clock: Clock,
        tell: Sequence[Callable[[Config], None]] = (),
        hide: Callable[[Sequence[str]], None] = lambda secrets: None,
    ) -> None:
        """`tell` hears of options that change at once.

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
            return self._reload()

    def _reload(self) -> Changes:
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

    # ---- instruments ----

    def put_instrument(self, instrument: str, values: Mapping[str, Any]) -> Changes:
        """Add an instrument, or give it these options instead, and no others; then reload.

        `values` are what its table would hold. It is judged before anything is written, and what cannot be put in is
        taken back. Raises `ConfigError` with every mistake, `NotAllowed` for a driver or an address that
        `security` does not list, `DefinedElsewhere`, `RequestError`, and `WriteFailed`: then nothing is changed.
        """
        with self._lock:
            self._check_ours(instrument)
            self._check_driver(values.get("driver"))
            edit = Edit.of(self._file, instrument, values)
            new = self._again(edit)
            self._hide([secret.reveal() for secret in new.secrets])
            self._check_result(instrument, new)
            self._check_address(new.instruments[instrument])
            return self._make(edit)

    def remove_instrument(self, instrument: str) -> Changes:
        """Take an instrument out that was put in by `put_instrument`; what it has recorded stays. Then reload.

        Raises `UnknownInstrument`, `DefinedElsewhere`, and what `put_instrument` raises.
        """
        with self._lock:
            self._check_ours(instrument)
            edit = Edit.of(self._file, instrument, None)
            if instrument not in self._config.instruments and not edit.changes:
                known = self._config.instruments
                raise UnknownInstrument(instrument, sorted(known), get_close_matches(instrument, known, 2))
            self._again(edit)
            return self._make(edit)

    @property
    def _file(self) -> FilePath:
        return local_file(self._config.station.data_dir)

    def _make(self, edit: Edit) -> Changes:
        """Write it and reload; what was there before is put back when that fails."""
        edit.make()
        try:
            changes = self._reload()
        except BaseException:
            edit.undo()
            raise
        if (why := changes.failed.get(edit.instrument)) is not None:
            edit.undo()
            self._reload()
            raise ConfigError([f"{REQUEST}: instruments.{edit.instrument}: {why}"])
        return changes

    def _check_ours(self, instrument: str) -> None:
        """Raises `DefinedElsewhere` when another place than the file of the data directory says something of it."""
        file = self._file.resolve()
        for place, origin in _places(self._config, instrument):
            if FilePath(origin.name).resolve() != file:
                raise _elsewhere(instrument, place, origin)

    @staticmethod
    def _check_result(instrument: str, new: Config) -> None:
        """The same of a configuration that has been read since."""
        for place, origin in _places(new, instrument):
            if origin != REQUEST:
                raise _elsewhere(instrument, place, origin)
        if instrument not in new.instruments:
            raise RequestError("the configuration lies in another data directory now, which counts after a restart")

    def _check_driver(self, driver: Any) -> None:
        there = self._config.security.instrument_drivers
        if isinstance(driver, str) and driver not in there:
            raise NotAllowed(
                f"driver {driver!r} may not be used by who asks over HTTP: security.instrument_drivers has "
                f"{', '.join(there) or 'none'}; whoever has the station's files can write it there"
            )

    def _check_address(self, one: Instrument) -> None:
        from scidaq.instruments import allowed

        driver = one.factory(one.id, one.options, self._clock)
        resource = driver.resource
        driver.close()
        if resource is None or one.general.driver in _NOWHERE:
            return
        spellings = [resource, resource.replace("//localhost:", "//127.0.0.1:", 1)]
        rules = self._config.security.instrument_addresses
        if not any(allowed(one, rules) for one in spellings):
            raise NotAllowed(
                f"{resource} may not be used by who asks over HTTP: security.instrument_addresses has "
                f"{', '.join(rules) or 'none'}; whoever has the station's files can write it there"
            )

    # ---- saying it ----

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


def _places(config: Config, instrument: str) -> Iterator[tuple[str, Origin]]:
    """Every place that says something of an instrument, but for those of secrets alone, which its own table names."""
    key = dotted(("instruments", instrument))
    for place, origin in config.origins.items():
        mine = place == key or place.startswith(f"{key}.")
        if mine and not origin.name.startswith(("file ", "systemd credential ")):
            yield place, origin


def _elsewhere(instrument: str, place: str, origin: Origin) -> DefinedElsewhere:
    return DefinedElsewhere(
        f"instrument {instrument!r} stands in another place than what is changed over HTTP: {origin} has {place}; "
        "change it there, then reload"
    )


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
