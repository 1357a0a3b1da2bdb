"""`<data_dir>/config/local.toml`: instruments that somebody adds, changes or takes out while the station runs.

Only the tables of one instrument are touched; whatever else stands in the file, comments too, stays as it is. What has
been made is read before it is used: a file that would say anything else than it should is never written.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from scidaq.config.layers import REQUEST, Layer, Problem, dotted, read_toml
from scidaq.config.places import Path
from scidaq.config.showing import table_text
from scidaq.config.words import walk
from scidaq.errors import ConfigError, RequestError, WriteFailed

DEEPEST = 12
_BEGINNING = "# What is changed over the HTTP interface. Other changes are welcome: they count at the next reload.\n"


def local_file(data_dir: FilePath) -> FilePath:
    """The file of a data directory."""
    return data_dir / "config" / "local.toml"


@dataclass(frozen=True, slots=True)
class Edit:
    """The file as it would be: its text without an instrument, and that instrument's own table."""

    file: FilePath
    before: str
    """The file as it is; empty where there is none."""
    rest: str
    instrument: str
    values: Mapping[str, Any] | None
    """None when it is taken out."""

    @classmethod
    def of(cls, file: FilePath, instrument: str, values: Mapping[str, Any] | None) -> Edit:
        """The change of what the file says now. Raises `ConfigError`, and `RequestError` where it cannot be made."""
        try:
            text = file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            text = ""
        except (OSError, ValueError) as error:
            raise ConfigError([f"{file}: cannot be read: {error}"]) from error
        if values is not None:
            _check(values)
        return cls(file, text, _without(text, instrument, file), instrument, values)

    @property
    def layer(self) -> Layer:
        """The values of the file as it would be, and of the instrument as ones that were requested."""
        problems: list[Problem] = []
        layer = read_toml(self.rest, str(self.file), problems)
        if self.values is not None and not problems:
            path: Path = ("instruments", self.instrument)
            layer.values.setdefault("instruments", {})[self.instrument] = dict(self.values)
            layer.origins.setdefault(path[:1], REQUEST)
            layer.origins |= {(*path, *place): REQUEST for place, _ in walk(dict(self.values))}
        return layer

    @property
    def changes(self) -> bool:
        """Whether the file speaks of the instrument, or will."""
        return self.values is not None or self.rest != self.before

    def concerns(self, file: FilePath) -> bool:
        """Whether it is this file, however it is spelled."""
        return file.resolve() == self.file.resolve()

    @property
    def text(self) -> str:
        """The file as it would be. Raises `RequestError` for what TOML cannot say."""
        if self.values is None:
            return self.rest
        before = (self.rest.rstrip("\n") + "\n\n") if self.rest.strip() else _BEGINNING + "\n"
        path = ("instruments", self.instrument)
        text = before + table_text(self.values, path)
        wanted = tomllib.loads(self.rest)
        wanted.setdefault("instruments", {})[self.instrument] = self.values
        if _values(text) != wanted:
            raise RequestError(f"{self.file}: {dotted(path)} cannot be written there; write it by hand")
        return text

    def make(self) -> None:
        """Write it, all or nothing. Durable on return; raises `WriteFailed`, and `RequestError` as `text`."""
        _write(self.file, self.text)

    def undo(self) -> None:
        """Write what was there before."""
        _write(self.file, self.before)


def _write(file: FilePath, text: str) -> None:
    from scidaq.store import make_directory, overwrite, system_files

    try:
        real = file.resolve()  # where somebody has put a link, the file that it names
        make_directory(system_files(), real.parent)
        mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else 0o600  # there may be secrets in it
        overwrite(real, text.encode(), mode)
    except OSError as error:
        raise WriteFailed(f"{file}: {error.strerror or error}; nothing was changed") from error


def _values(text: str) -> dict[str, Any] | None:
    """What a text says; None when it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _check(values: Mapping[str, Any]) -> None:
    """Whether it is something that a table can hold. Raises `ConfigError` with every place."""
    waiting: list[tuple[Path, Any]] = [((), values)]
    problems = []
    while waiting:
        path, value = waiting.pop()
        if value is None:
            problems.append(f"{REQUEST}: {dotted(path)}: found null, which TOML has not: leave it out")
        elif len(path) > DEEPEST:
            problems.append(f"{REQUEST}: {dotted(path[:2])}: is nested too deeply")
        elif isinstance(value, Mapping):
            waiting += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, i), inner) for i, inner in enumerate(value)]
    if problems:
        raise ConfigError(sorted(set(problems)))


# ---- text -----------------------------------------------------------------------------------------------------------


def _without(text: str, instrument: str, file: FilePath) -> str:
    """The text without the tables of an instrument. Raises `ConfigError`, and `RequestError` where that fails."""
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{file}: is no valid TOML: {error}"]) from error
    there = before.get("instruments")
    if not isinstance(there, dict) or instrument not in there:
        return text
    kept: list[str] = []
    mine: list[str] | None = None
    for line in text.split("\n"):
        path = _header(line)
        if path is not None and path[:2] == ["instruments", instrument]:
            mine = mine or []
        elif path is not None:
            kept += _tail(mine or [])
            mine = None
        (kept if mine is None else mine).append(line)
    out = "\n".join(kept + _tail(mine or []))
    rest = {name: one for name, one in there.items() if name != instrument}
    wanted = {name: value for name, value in before.items() if name != "instruments"} | (
        {"instruments": rest} if rest else {}
    )
    found = _values(out)
    if found is not None and found.get("instruments") == {}:
        del found["instruments"]
    if found != wanted:
        raise RequestError(
            f"{file}: instruments.{instrument} is written there in a way that only a hand can change: it has to stand "
            f"in tables of its own, as [instruments.{instrument}]"
        )
    return out


def _header(line: str) -> list[str] | None:
    """The key of a line that begins a table; None for any other."""
    if not line.lstrip(" \t").startswith("["):
        return None
    value: Any = _values(line)
    path: list[str] = []
    while value and isinstance(value, dict):
        ((key, value),) = value.items()
        path.append(key)
    return path or None


def _tail(lines: list[str]) -> list[str]:
    """The comments and empty lines at the end of a table, which belong to what comes behind it."""
    end = len(lines)
    while end > 0 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return lines[end:]
