"""Facts and the catalog: the log of what no segment holds, and the database in which everything is found.

The facts log works without the database, whose library takes long to import: it is loaded when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scidaq.catalog.facts import Fact, FactsLog, Files, Handle, canonical, kinds, read_facts, register_kind

if TYPE_CHECKING:
    from scidaq.catalog.database import Catalog, Projected, metadata, set_aside, upsert

__all__ = [
    "Catalog",
    "Fact",
    "FactsLog",
    "Files",
    "Handle",
    "Projected",
    "canonical",
    "kinds",
    "metadata",
    "read_facts",
    "register_kind",
    "set_aside",
    "upsert",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scidaq.catalog import database

    return getattr(database, name)
