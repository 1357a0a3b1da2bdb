"""From files, environment and command line to a `Config`, or to every mistake at once.

Later wins: defaults < `default.toml` < `<environment>.toml` < `local.toml` < `<data_dir>/config/local.toml` <
environment variables < `--config` files < options. The environment is named by `SCIDAQ_ENV` (default `production`); the
first three lie in `./config` or in what `SCIDAQ_CONFIG_PATH` names, which may also be one file that takes their place.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from scidaq.block import INSTRUMENT_ID
from scidaq.clock import SystemClock
from scidaq.config.editing import Edit, local_file
from scidaq.config.layers import (
    Layer,
    Origin,
    Override,
    Problem,
    Tree,
    dotted,
    files_in,
    read_environment,
    read_file,
    read_overrides,
    read_toml,
)
from scidaq.config.model import Config, Instrument, InstrumentOptions
from scidaq.config.places import Path
from scidaq.config.secrets import Secrets
from scidaq.config.validation import check, doubtful, read_text, refused, sound
from scidaq.config.words import hints, near, value_words
from scidaq.errors import ConfigError
from scidaq.instruments import Driver, find_drivers

SECTIONS: dict[str, type] = {
    name: kind for name, kind in hints(Config).items() if isinstance(kind, type) and is_dataclass(kind)
}
"""The sections whose options are known beforehand, with their type."""
ALIASES: Mapping[Path, Path] = {("monitoring", "log_level"): ("logging", "level")}
"""Keys that are another name of a key."""
NOT_YET = {
    "data_retention": "this version has no retention: it never deletes anything that was recorded",
    "backup": "this version makes no backups: copy the data directory while no station runs",
    "database": "this version keeps its catalog in <data_dir>/catalog.sqlite; no other database can be chosen",
}
"""Sections that other versions have. To accept them in silence would promise what nobody keeps."""
_NAMES = (*SECTIONS, "instruments")
_GENERAL = tuple(f.name for f in fields(InstrumentOptions))
_DATA_DIR: Path = ("station", "data_dir")


class Base(NamedTuple):
    """A configuration that somebody starts from instead of files, such as the demo's."""

    name: str
    """What it is called where its values are shown."""
    text: str
    """TOML."""


def load(
    files: Sequence[FilePath] = (),
    overrides: Sequence[Override] = (),
    env: Mapping[str, str] = os.environ,
    drivers: Mapping[str, type] | None = None,
    base: Base | None = None,
    edit: Edit | None = None,
) -> Config:
    """The configuration, with the `files` and `overrides` of the command line on top.

    `base` takes the place of the files of the configuration directory; with `edit` it is the configuration that there
    would be after that.
    Drivers are made once to hear what they think of their options, which does no I/O. Raises `ConfigError` with every
    mistake there is, each with its place.
    """
    problems: list[Problem] = []
    tree, sources = _layers(files, overrides, env, base, edit, problems)
    whole = not problems  # what is missing may stand in a file that could not be read
    secrets = Secrets(env, problems)
    _resolve_aliases(tree, problems)
    sections = _sections(tree, secrets, problems)
    instruments = _instruments(tree, find_drivers() if drivers is None else drivers, secrets, problems)
    _look_at_doors(tree, sections, problems)
    if not whole:
        problems = [p for p in problems if " is missing" not in p.message]
    if problems:
        raise ConfigError([str(secrets.hide(p)) for p in sorted(problems, key=_by_place)])
    origins = {dotted(path): origin for path, origin in tree.origins.items()}
    return Config(
        **sections,
        instruments=instruments,
        origins=origins,
        sources=tuple(map(str, sources)),
        warnings=tuple(dict.fromkeys(secrets.warnings)),
    )


def _look_at_doors(tree: Tree, sections: Mapping[str, Any], problems: list[Problem]) -> None:
    """Whether the station would be open to the network without what keeps strangers out."""
    for name in ("server", "flight"):
        door, security = sections.get(name), sections.get("security")
        if door is None or security is None:
            continue  # one of them has mistakes, which come first
        if (refusal := security.refusal(door)) is not None:
            at = (name, "bind_address")
            problems.append(Problem(tree.origin(at), dotted(at), refusal))


def _by_place(problem: Problem) -> tuple[str, int]:
    return problem.origin.name, problem.origin.line or 0


# ---- layers ---------------------------------------------------------------------------------------------------------


def _layers(
    files: Sequence[FilePath],
    overrides: Sequence[Override],
    env: Mapping[str, str],
    base: Base | None,
    edit: Edit | None,
    problems: list[Problem],
) -> tuple[Tree, list[FilePath]]:
    """All layers in their order, and the files among them."""

    def read(file: FilePath) -> Layer:
        return edit.layer if edit is not None and edit.concerns(file) else read_file(file, problems)

    below = [] if base else _found(env, problems)
    lower = [read_toml(base.text, base.name, problems)] if base else [read(file) for file in below]
    upper = [
        read_environment(env, _NAMES, problems),
        *(read(file) for file in files),
        read_overrides(overrides, problems),
    ]
    edited = local_file(_data_dir(lower + upper))
    there = edited.is_file() or (edit is not None and edit.concerns(edited))
    middle: list[Layer] = []
    if there and edited.resolve() not in [f.resolve() for f in (*below, *files)]:
        middle.append(read(edited))
        if _DATA_DIR in middle[0].origins:
            origin = middle[0].origins[_DATA_DIR]
            problems.append(Problem(origin, dotted(_DATA_DIR), "cannot be set by a file that is found through it"))
    tree = Tree()
    for layer in lower + middle + upper:
        tree.add(layer)
    return tree, [*below, *([edited] if middle else []), *files]


def _found(env: Mapping[str, str], problems: list[Problem]) -> list[FilePath]:
    """The files below the environment: those of the directory, or the one file."""
    named = env.get("SCIDAQ_CONFIG_PATH")
    environment = env.get("SCIDAQ_ENV") or "production"
    place = FilePath(named or "config")
    if place.is_dir():
        return files_in(place, environment)
    if named and not place.exists():
        problems.append(Problem(Origin("environment variable SCIDAQ_CONFIG_PATH"), "", f"there is no {named}"))
    return [place] if named and place.exists() else []


def _data_dir(layers: Sequence[Layer]) -> FilePath:
    """The data directory as all layers but its own file say."""
    tree = Tree()
    for layer in layers:
        tree.add(layer)
    named = tree.get(_DATA_DIR)
    return FilePath(named) if isinstance(named, str) else Config().station.data_dir


# ---- content --------------------------------------------------------------------------------------------------------


def _resolve_aliases(tree: Tree, problems: list[Problem]) -> None:
    """Put what was given under another name of a key in its place; two that differ are a mistake."""
    for alias, key in ALIASES.items():
        if (value := tree.get(alias)) is None:
            continue
        origin, target = tree.origin(alias), tree.get(key)
        del tree.values[str(alias[0])][alias[1]]
        if not tree.values[str(alias[0])]:
            del tree.values[str(alias[0])]
        if target is None:
            section = tree.values.setdefault(str(key[0]), {})
            if isinstance(section, dict):  # else that is the mistake
                section[key[1]] = value
                tree.origins[key] = origin
        elif target != value:
            message = f"is another name of {dotted(key)}, which {tree.origin(key)} says is {value_words(target)}"
            problems.append(
                Problem(origin, dotted(alias), f"{message}, not {value_words(value)}; leave one of them out")
            )


def _sections(tree: Tree, secrets: Secrets, problems: list[Problem]) -> dict[str, Any]:
    """The options of each section; those with a mistake are left out."""
    for key in tree.values:
        if key not in _NAMES:
            message = NOT_YET.get(key, f"unknown section{near(key, _NAMES)}")
            problems.append(Problem(tree.origin((key,)), dotted((key,)), message))
    out: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        values = _table(tree, (name,), problems)
        if values is None:
            continue
        secrets.fill(kind, values, (name,), tree)
        if (options := check(kind, values, (name,), tree, problems)) is not None:
            out[name] = options
    return out


def _table(tree: Tree, path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """The table at a path, empty where there is none; None, with a problem noted, where something else is."""
    value = tree.get(path)
    if isinstance(value, str) and read_text(tree.values, path):
        value = tree.get(path)
    if value is None or isinstance(value, dict):
        return value or {}
    problems.append(Problem(tree.origin(path), dotted(path), f"found {value_words(value)}, expected a table"))
    return None


def _instruments(
    tree: Tree, drivers: Mapping[str, type], secrets: Secrets, problems: list[Problem]
) -> dict[str, Instrument]:
    """The instruments that are right; for the others problems are noted."""
    out: dict[str, Instrument] = {}
    resources: dict[str, Path] = {}
    for id_ in _table(tree, ("instruments",), problems) or {}:
        path: Path = ("instruments", id_)
        if not INSTRUMENT_ID.fullmatch(id_):
            message = f"{id_!r} is no id for an instrument, which is 1 to 64 characters of a-z 0-9 _ -"
            problems.append(Problem(tree.origin(path), dotted(path), message))
        values = _table(tree, path, problems)
        instrument = None if values is None else _instrument(id_, values, path, tree, drivers, secrets, problems)
        if instrument is None:
            continue
        out[id_] = instrument
        for resource in _resource(instrument, path, tree, problems):
            if (other := resources.setdefault(resource, path)) != path:
                message = f"uses {resource}, which {dotted(other)} ({tree.origin(other)}) uses already"
                problems.append(Problem(tree.origin(path), dotted(path), message))
    return out


def _instrument(
    id_: str,
    values: dict[str, Any],
    path: Path,
    tree: Tree,
    drivers: Mapping[str, type],
    secrets: Secrets,
    problems: list[Problem],
) -> Instrument | None:
    """One instrument: what every one has, and the options of its driver."""
    common = {k: v for k, v in values.items() if k in _GENERAL}
    general = check(InstrumentOptions, common, path, tree, problems)
    name = values.get("driver")
    if not isinstance(name, str):
        return None
    if name not in drivers:
        at = (*path, "driver")
        problems.append(Problem(tree.origin(at), dotted(at), f"there is no driver {name!r}{near(name, drivers)}"))
        meant = get_close_matches(name, drivers, 1, 0.7)
        if not meant:
            return None
        # Judged as the one that was meant, most likely, so that this mistake hides no other.
        _instrument(id_, values | {"driver": meant[0]}, path, tree, drivers, secrets, problems)
        return None
    try:
        factory: Any = drivers[name]
    except ConfigError as error:  # it cannot be imported
        at = (*path, "driver")
        problems += [Problem(tree.origin(at), dotted(at), problem) for problem in error.problems]
        return None
    own = {k: v for k, v in values.items() if k not in _GENERAL}
    secrets.fill(factory.Options, own, path, tree)
    options = check(factory.Options, own, path, tree, problems, also=_GENERAL)
    if general is not None and options is not None:
        return Instrument(id_, general, options, factory)
    # The driver judges what is sound all the same, so that one mistake hides no other.
    rest, left_out = (options, []) if options is not None else sound(factory.Options, own)
    if rest is not None:
        found: list[Problem] = []
        deque(_resource(Instrument(id_, InstrumentOptions(name), rest, factory), path, tree, found), 0)
        problems += [p for p in found if not any(doubtful(p, (*path, *one)) for one in left_out)]
    return None


def _resource(instrument: Instrument, path: Path, tree: Tree, problems: list[Problem]) -> Iterator[str]:
    """What the instrument cannot share, once its driver accepts its options."""
    try:
        driver: Driver = instrument.factory(instrument.id, instrument.options, SystemClock())
    except ValueError as error:
        problems += refused(str(error), path, tree)
    except Exception as error:  # a third party's driver may raise anything
        message = f"driver {instrument.general.driver!r} failed at its options: {type(error).__name__}: {error}"
        problems.append(Problem(tree.origin(path), dotted(path), message))
    else:
        resource = driver.resource
        driver.close()
        if resource is not None:
            yield resource
