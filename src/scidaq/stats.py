"""One snapshot, many readers: what every room's `stats()` has in common.

A room counts with plain integers and hands out a frozen dataclass; metrics, health, the terminal and the doctor read
only that, so that they cannot disagree. Each field of such a dataclass is made by `field_of`, which gives it its unit
and its sentence; `describe` lists them for the reference pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, field, fields
from typing import Any, NamedTuple


class FieldDoc(NamedTuple):
    """What one field of a statistics dataclass means."""

    name: str
    unit: str
    doc: str


def field_of(unit: str, doc: str, default: Any = MISSING) -> Any:
    """A dataclass field with its unit (UCUM; `1` for a count) and one sentence of meaning."""
    metadata = {"unit": unit, "doc": doc}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def describe(kind: type[Any]) -> Iterator[FieldDoc]:
    """The fields of a statistics dataclass, in order."""
    for one in fields(kind):
        yield FieldDoc(one.name, one.metadata.get("unit", ""), one.metadata.get("doc", ""))
