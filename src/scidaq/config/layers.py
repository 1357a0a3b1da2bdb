"""Where values come from: files, the environment, the command line; and one tree of them in which the later wins.

Nothing here knows what a key means. A layer that cannot be read is a problem, never an exception, so that everything
that is wrong can be told at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from scidaq.config.places import Path, locate

PREFIX = "SCIDAQ_"
RESERVED = ("SCIDAQ_ENV", "SCIDAQ_CONFIG_PATH")
"""Variables with a meaning of their own."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was given."""

    name: str
    """A file, `environment variable X`, `option --x`, or `default`."""
    line: int | None = None
    """Line of a file, from 1."""

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


DEFAULT = Origin("default")
REQUEST = Origin("request")
"""Of values that somebody proposes, and that stand in no file yet."""


class Problem(NamedTuple):
    """A mistake, and its place."""

    origin: Origin
    key: str
    """Dotted path; empty when it is no matter of one key."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.origin), self.key, self.message) if part)


class Override(NamedTuple):
    """A value given by an option of the command line."""

    option: str
    """As it was typed, such as `--data-dir`."""
    path: Path
    value: str


class Text(str):
    """A value that came as text, from the environment or an option: a string where one is asked, else read as TOML."""

    __slots__ = ()


def dotted(path: Path) -> str:
    """How a path is written in messages and on the command line: `instruments.adc.faults[0].kind`."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            quoted = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
            out += f".{quoted}" if out else quoted
    return out


@dataclass(slots=True)
class Layer:
    """Values from one place, with the place of each."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)


@dataclass(slots=True)
class Tree:
    """All layers so far, the later ones over the earlier ones."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)
    """Of every table, value and element of an array."""

    def add(self, layer: Layer) -> None:
        """Put a layer on top: tables merge, anything else is replaced as a whole."""
        self._merge(self.values, layer.values, (), layer)

    def _merge(self, below: dict[str, Any], above: Mapping[str, Any], path: Path, layer: Layer) -> None:
        for key, value in above.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(below.get(key, {}), dict):
                self.origins.setdefault(here, layer.origins[here])
                self._merge(below.setdefault(key, {}), value, here, layer)
                continue
            below[key] = value
            self.origins = {p: o for p, o in self.origins.items() if p[: len(here)] != here}
            self.origins |= {p: o for p, o in layer.origins.items() if p[: len(here)] == here}

    def get(self, path: Path) -> Any:
        """The value at a path, None where there is none."""
        value: Any = self.values
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def origin(self, path: Path) -> Origin:
        """Where the value at a path, or the nearest table around it, was given."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.origins:
                return self.origins[path[:depth]]
        return DEFAULT


# ---- files ----------------------------------------------------------------------------------------------------------


def read_file(file: FilePath, problems: list[Problem]) -> Layer:
    """A TOML file; empty, with a problem noted, when it cannot be read."""
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        problems.append(Problem(Origin(str(file)), "", f"cannot be read: {error.strerror or error}"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.append(Problem(Origin(str(file), line), "", "is not UTF-8, which TOML files are"))
    else:
        return read_toml(text.removeprefix("\ufeff"), str(file), problems)
    return Layer()


def read_toml(text: str, name: str, problems: list[Problem]) -> Layer:
    """TOML that stands in `name`; empty, with a problem noted, when it is none."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(_syntax(name, text, str(error)))
    except RecursionError:
        problems.append(Problem(Origin(name), "", "is nested too deeply"))
    else:
        return Layer(values, {path: Origin(name, line) for path, line in locate(text).items()})
    return Layer()


def _syntax(name: str, text: str, message: str) -> Problem:
    """tomllib ends its messages with `(at line 3, column 5)` or `(at end of document)`."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    what, line, column = found.groups() if found else (message, None, None)
    where = f" at column {column}" if column else ""
    return Problem(Origin(name, int(line or len(text.splitlines()))), "", f"is no valid TOML: {what}{where}")


def files_in(directory: FilePath, environment: str) -> list[FilePath]:
    """The configuration files of a directory that are there, in the order in which they count."""
    names = dict.fromkeys(("default", environment, "local"))
    return [file for name in names if (file := directory / f"{name}.toml").exists()]


# ---- environment and command line -----------------------------------------------------------------------------------


def read_environment(env: Mapping[str, str], sections: Sequence[str], problems: list[Problem]) -> Layer:
    """`SCIDAQ_A__B=x` as `a.b = x`.

    A variable without `__` is somebody else's (container platforms set such), unless it begins like a section: that is
    a mistake worth telling.
    """
    layer = Layer()
    for name in sorted(env):
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        parts = name[len(PREFIX) :].lower().split("__")
        origin = Origin(f"environment variable {name}")
        if len(parts) == 1:
            section = next((s for s in sections if parts[0].startswith(f"{s}_") or parts[0] == s), None)
            if section:
                rest = parts[0].removeprefix(section).lstrip("_").upper() or "<KEY>"
                problems.append(
                    Problem(origin, "", f"levels are joined by __; did you mean {PREFIX}{section.upper()}__{rest}?")
                )
        elif "" in parts:
            problems.append(Problem(origin, "", "a name between __ is empty"))
        else:
            _put(layer, tuple(parts), Text(env[name]), origin, problems)
    return layer


def read_overrides(overrides: Sequence[Override], problems: list[Problem]) -> Layer:
    """Options of the command line."""
    layer = Layer()
    for option, path, value in overrides:
        _put(layer, path, Text(value), Origin(f"option {option}"), problems)
    return layer


def _put(layer: Layer, path: Path, value: Text, origin: Origin, problems: list[Problem]) -> None:
    table: Any = layer.values
    for depth in range(1, len(path)):
        table = table.setdefault(path[depth - 1], {})
        if not isinstance(table, dict):
            problems.append(Problem(origin, dotted(path), f"{layer.origins[path[:depth]]} gives it a value"))
            return
        layer.origins.setdefault(path[:depth], origin)
    if isinstance(table.get(path[-1]), dict):
        problems.append(Problem(origin, dotted(path), f"{layer.origins[path]} gives values below it"))
        return
    table[path[-1]] = value
    layer.origins[path] = origin
