"""A configuration to begin with: every setting with its meaning and its default, made from the options themselves.

Loaded as it is, it changes nothing. What has no default, or none but "not set", stands there as a comment.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from scidaq.config.effective import plain
from scidaq.config.loading import SECTIONS
from scidaq.config.model import InstrumentOptions
from scidaq.config.places import Path
from scidaq.config.showing import header_text, toml
from scidaq.config.words import expected, field_docs, hints, is_secret, tables_in

WIDTH = 116
INTRODUCTION = """\
# The configuration of scidaq as it is when nobody sets anything: every setting with its meaning and what it may be.
# Made by `scidaq config default`. Lines that begin with # and no space are settings too, which are not set.
#
# An editor that knows JSON Schema checks and completes what you write here, after
#     scidaq config schema > scidaq.schema.json
# and with this as the first line of the file:
#     #:schema ./scidaq.schema.json
"""
INSTRUMENTS = """\
# One table for each instrument, by its id. Beside what every instrument has, which follows, it holds the options of its
# driver: docs/configuration.md lists them.
"""


def default_configuration() -> str:
    """The whole of it, as TOML."""
    parts = [INTRODUCTION]
    parts += ["\n".join(_table(kind, (name,))) + "\n" for name, kind in SECTIONS.items()]
    parts.append(INSTRUMENTS + "\n".join(_table(InstrumentOptions, ("instruments", "adc"), off=True)) + "\n")
    return "\n".join(parts)


def _table(kind: type, path: Path, *, off: bool = False, many: bool = False) -> Iterator[str]:
    """The lines of a table and of the tables inside it; with `off` as settings that are not set."""
    mark, docs = "#" if off else "", field_docs(kind)
    inner: list[tuple[type, str, bool, bool]] = []
    yield f"{mark}{header_text(path, many)}"
    for one in fields(kind):
        annotation = hints(kind)[one.name]
        value = one.default_factory() if one.default_factory is not MISSING else one.default
        if (tables := tables_in(annotation)) and (is_dataclass(value) or value is None):
            inner.append((tables[0], one.name, off or value is None, False))
        elif value in ((), []) and (tables := tables_in(annotation, deep=True)):
            inner.append((tables[0], one.name, True, True))
        else:
            yield from _about(docs.get(one.name, ""), expected(annotation))
            yield _setting(one.name, value, annotation, mark)
    for table, name, not_set, array in inner:
        yield ""
        yield from _about(docs.get(name, ""), "")
        yield from _table(table, (*path, name), off=not_set, many=array)


def _setting(name: str, value: Any, annotation: Any, mark: str) -> str:
    if value is MISSING or value is None:
        return f"#{name}{'_file' if is_secret(annotation) else ''} ="
    return f"{mark}{name} = {toml(plain(value))}"


def _about(doc: str, words: str) -> Iterator[str]:
    """What a setting means and what it may be, as comments."""
    text = " ".join([*doc.split(), *([f"({words})"] if words else [])])
    yield from (f"# {line}" for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False, break_long_words=False))
