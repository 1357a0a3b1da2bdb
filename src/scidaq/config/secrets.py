"""Secrets that stand elsewhere: in a file that `<key>_file` names, or in a credential that systemd hands over.

They are put where the key itself would be before anything is checked, so what an option means is the same from wherever
it came.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from scidaq.config.layers import REQUEST, Origin, Problem, Text, Tree, dotted
from scidaq.config.places import Path
from scidaq.config.validation import annotation_at, read_text, value_at
from scidaq.config.words import hints, secret_fields, tables_in, value_words
from scidaq.options import HIDDEN

MAX_BYTES = 64 << 10
"""A file that is larger is none with a secret."""
OTHERS = stat.S_IRWXO
CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""The variable by which systemd says where it put what `LoadCredential=` and `SetCredential=` name."""


@dataclass(slots=True)
class Secrets:
    """What was found of them while a configuration is loaded."""

    env: Mapping[str, str]
    problems: list[Problem]
    warnings: list[str] = field(default_factory=list)
    """What is right and should not be so, each with its place."""
    texts: set[str] = field(default_factory=set)
    """Every secret, be the rest of the configuration right or wrong."""

    def fill(self, kind: type, values: dict[str, Any], path: Path, tree: Tree) -> None:
        """Put the secrets of `values`, which stand at `path` and are to become a `kind`, in their places."""
        for place, table, options in _tables(kind, values):
            full = (*path, *place)
            for name in secret_fields(options):
                self._find(name, table, full, tree, own_file=f"{name}_file" not in hints(options))
                value = table.get(name)
                if isinstance(value, str):
                    self.texts.add(str(value))
                    self._look_at_place((*full, name), tree)

    def hide(self, problem: Problem) -> Problem:
        """A problem that tells no secret, whoever worded it."""
        message = problem.message
        for text in sorted(self.texts, key=len, reverse=True):
            if len(text) >= 4:  # shorter ones are in any text
                message = message.replace(text, HIDDEN)
        return problem._replace(message=message)

    def _find(self, name: str, table: dict[str, Any], full: Path, tree: Tree, own_file: bool) -> None:
        at, by_file = (*full, name), (*full, f"{name}_file")
        if own_file and by_file[-1] in table:
            named = table.pop(str(by_file[-1]))
            origin = tree.origin(by_file)
            if name in table:
                self._wrong(origin, by_file, f"{dotted(at)} ({tree.origin(at)}) is given too; leave one of them out")
            elif origin == REQUEST:  # it would be told to whoever stands at the address that comes with it
                self._wrong(origin, by_file, "names a file of this machine, which only a file of the configuration may")
            elif not isinstance(named, str):
                self._wrong(origin, by_file, f"found {value_words(named)}, expected a path")
            elif (text := self._read(FilePath(named), origin, by_file)) is not None:
                table[name], tree.origins[at] = text, Origin(f"file {named}")
        elif name not in table and (directory := self.env.get(CREDENTIALS)):
            file = FilePath(directory) / dotted(at)
            origin = Origin(f"systemd credential {file.name}")
            if file.exists() and (text := self._read(file, origin, at)) is not None:
                table[name], tree.origins[at] = text, origin

    def _read(self, file: FilePath, origin: Origin, key: Path) -> str | None:
        """The secret in a file; None, with a problem noted, when there is none."""
        try:
            text, mode = read_secret(file)
        except ValueError as error:
            self._wrong(origin, key, f"{file} {error}")
            return None
        if mode & OTHERS and not origin.name.startswith("systemd"):
            self.warnings.append(open_to_others(file, f"{origin}: {dotted(key)}"))
        return text

    def _look_at_place(self, at: Path, tree: Tree) -> None:
        """Say so when a file of the configuration holds a secret and others may read it."""
        origin = tree.origins.get(at)
        if origin is None or origin.line is None:
            return
        try:
            mode = FilePath(origin.name).stat().st_mode
        except OSError:
            return  # a configuration that is no file, such as the demo's
        if mode & OTHERS:
            self.warnings.append(open_to_others(FilePath(origin.name), f"{origin}: {dotted(at)}"))

    def _wrong(self, origin: Origin, key: Path, message: str) -> None:
        self.problems.append(Problem(origin, dotted(key), message))


def read_secret(file: FilePath) -> tuple[str, int]:
    """The content of a file without the end of its last line, and its mode. Raises `ValueError` that says why not."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):  # to read a pipe could wait for ever
            raise ValueError("is no file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"holds more than {MAX_BYTES} bytes, so it is no secret")
        text = file.read_bytes().decode().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    if not text:
        raise ValueError("is empty")
    return text, found.st_mode


def open_to_others(file: FilePath, where: str) -> str:
    """The warning that everybody on the machine may use a file with a secret."""
    return f"{where}: everybody on this machine may use {file}, which holds a secret: chmod o= {file}"


def _tables(kind: type, values: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any], type]]:
    """Each table in `values` with the options that it is to become; text that has to be a table is read as one."""
    waiting: list[Path] = [()]
    while waiting:
        place = waiting.pop()
        annotation, value = annotation_at(kind, place), value_at(values, place)
        if annotation is None:
            continue
        if isinstance(value, Text) and tables_in(annotation, deep=True) and read_text(values, place):
            value = value_at(values, place)
        if isinstance(value, dict):
            for options in tables_in(annotation):
                yield place, value, options
            waiting += [(*place, key) for key in value]
        elif isinstance(value, list):
            waiting += [(*place, i) for i in range(len(value))]
