"""The configuration that is in force, as TOML for people and as JSON for programs, with the origin of each value.

Secrets are said to be there, and not what they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from scidaq.config.effective import effective
from scidaq.config.layers import DEFAULT, Origin, dotted
from scidaq.config.model import Config
from scidaq.config.places import Path
from scidaq.config.words import walk
from scidaq.options import HIDDEN, Secret


def show(config: Config, *, origins: bool = False) -> str:
    """All values in force as TOML that could be loaded again; with `origins`, each with where it was given."""
    out: list[str] = []
    values = effective(config)
    if not values["instruments"]:
        del values["instruments"]
    for path, header, table in _tables(values):
        out += ["", header] if header else []
        for key, value in table.items():
            line = f"{key_text(key)} = {toml(value)}" if not isinstance(value, Secret) else f"# {key}: {HIDDEN}"
            out.append(f"{line}  # {origin_of(config, (*path, key))}" if origins else line)
    return "\n".join(out).strip("\n") + "\n"


def as_json(config: Config) -> dict[str, Any]:
    """The same for programs: values, the origin of each by dotted key, files read, warnings, and the hash."""
    values = effective(config)
    leaves = [path for path, value in walk(values) if path and not _is_container(value)]
    return {
        "values": _shown(values),
        "origins": {dotted(path): str(origin_of(config, path)) for path in leaves},
        "sources": list(config.sources),
        "warnings": list(config.warnings),
        "hash": config.hash,
    }


def origin_of(config: Config, path: Path) -> Origin:
    """Where a value was given: itself, or the text of the environment or an option that it is a part of."""
    if (found := config.origins.get(dotted(path))) is not None:
        return found
    for depth in range(len(path) - 1, 0, -1):
        around = dotted(path[:depth])
        if (origin := config.origins.get(around)) is not None:
            # Text is one value: nothing inside it has a place of its own.
            text = origin.line is None and not any(k.startswith((f"{around}.", f"{around}[")) for k in config.origins)
            return origin if text else DEFAULT
    return DEFAULT


def _shown(value: Any) -> Any:
    if isinstance(value, Secret):
        return HIDDEN
    if isinstance(value, dict):
        return {key: _shown(inner) for key, inner in value.items()}
    return [_shown(inner) for inner in value] if isinstance(value, list) else value


def table_text(values: Mapping[str, Any], path: Path) -> str:
    """A table that stands at a path, with all tables inside it, as TOML."""
    out: list[str] = []
    for where, header, table in _tables(dict(values), path):
        out += [""] if where != path else []
        out += [header, *(f"{key_text(key)} = {toml(value)}" for key, value in table.items())]
    return "\n".join(out).strip("\n") + "\n"


# ---- TOML -----------------------------------------------------------------------------------------------------------


def toml(value: Any) -> str:
    """A value as it stands behind `=`; tables in one line. Raises `ValueError` for what TOML has no way to say."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key_text(k)} = {toml(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, Secret):
        return toml(HIDDEN)
    raise ValueError(f"TOML has no {type(value).__name__}")


def key_text(key: str) -> str:
    """A key as TOML writes it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml(key)


def header_text(path: Path, many: bool = False) -> str:
    """The header of a table, or of an element of an array of tables."""
    inside = ".".join(key_text(part) for part in path if isinstance(part, str))
    return f"[[{inside}]]" if many else f"[{inside}]"


def _tables(table: dict[str, Any], path: Path = (), many: bool = False) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Each table with its header and what stands in it itself, in an order in which TOML takes them."""
    own = {k: v for k, v in table.items() if v is not None and not _has_header(v)}
    if path and (own or many or not table):
        yield path, header_text(path, many), own
    for key, value in table.items():
        if isinstance(value, dict) and _has_header(value):
            yield from _tables(value, (*path, key))
        elif _has_header(value):
            for i, element in enumerate(value):
                yield from _tables(element, (*path, key, i), many=True)


def _has_header(value: Any) -> bool:
    """Whether something is written as tables of their own."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, dict) for one in value)
    return isinstance(value, dict)


def _is_container(value: Any) -> bool:
    """Whether its parts have origins of their own, rather than itself."""
    return isinstance(value, dict) or _has_header(value)
