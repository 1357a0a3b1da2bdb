"""Facts and the catalog: the log of what no segment holds, what it says of runs, and the database that finds it all.

The facts log works without the database, whose library takes long to import: it is loaded when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scidaq.catalog.facts import Fact, FactsLog, Files, Handle, canonical, kinds, read_facts, register_kind
from scidaq.catalog.keeping import NewHold, NewNote, NewRun, NoteChanges, RunActs, RunChanges, RunKeeper
from scidaq.catalog.runs import (
    ARMED,
    Hold,
    InstrumentState,
    Note,
    Run,
    RunBook,
    Scalar,
    Setting,
    Snapshot,
    covered,
    is_pattern,
    read_run_book,
)

if TYPE_CHECKING:
    from scidaq.catalog.database import Catalog, Projected, look_up, metadata, set_aside, upsert

__all__ = [
    "ARMED",
    "Catalog",
    "Fact",
    "FactsLog",
    "Files",
    "Handle",
    "Hold",
    "InstrumentState",
    "NewHold",
    "NewNote",
    "NewRun",
    "Note",
    "NoteChanges",
    "Projected",
    "Run",
    "RunActs",
    "RunBook",
    "RunChanges",
    "RunKeeper",
    "Scalar",
    "Setting",
    "Snapshot",
    "canonical",
    "covered",
    "is_pattern",
    "kinds",
    "look_up",
    "metadata",
    "read_facts",
    "read_run_book",
    "register_kind",
    "set_aside",
    "upsert",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scidaq.catalog import database

    return getattr(database, name)
