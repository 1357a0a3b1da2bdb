"""The verbs of a station that runs, from outside: over the control socket that it keeps for its owner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from scidaq.catalog import Hold, NewHold, NewNote, NewRun, Note, NoteChanges, Run, RunActs, RunChanges

if TYPE_CHECKING:
    from scidaq.web import Control


def acts(data_dir: Path) -> RunActs | None:
    """The verbs on runs of the station that records into a data directory; None when it cannot be reached."""
    from scidaq.web import connect_control

    found = connect_control(data_dir)
    return None if found is None else FarRuns(found)


@dataclass(frozen=True, slots=True)
class FarRuns:
    """`RunActs` over HTTP."""

    control: Control

    def start(self, new: NewRun) -> Run:
        """Begin a run now."""
        return Run.from_json(self._call("POST", "runs", new.as_json()))

    def stop(self, run: str) -> Run:
        """End a run now."""
        return Run.from_json(self._call("POST", f"runs/{_part(run)}/stop"))

    def add(self, new: NewRun) -> Run:
        """Declare a run for the past."""
        return Run.from_json(self._call("POST", "runs/past", new.as_json()))

    def edit(self, run: str, changes: RunChanges) -> Run:
        """Say something else of a run."""
        return Run.from_json(self._call("PATCH", f"runs/{_part(run)}", changes.as_json()))

    def delete(self, run: str) -> Run:
        """Show a run no more."""
        return Run.from_json(self._call("DELETE", f"runs/{_part(run)}"))

    def hold(self, new: NewHold) -> Hold:
        """Keep something from retention."""
        return Hold.from_json(self._call("POST", "holds", new.as_json()))

    def release(self, hold: str) -> Hold:
        """End a hold before its time."""
        return Hold.from_json(self._call("DELETE", f"holds/{_part(hold)}"))

    def note(self, new: NewNote) -> Note:
        """Remark something."""
        return Note.from_json(self._call("POST", "notes", new.as_json()))

    def edit_note(self, note: str, changes: NoteChanges) -> Note:
        """Remark something else instead."""
        return Note.from_json(self._call("PATCH", f"notes/{_part(note)}", changes.as_json()))

    def remove_note(self, note: str) -> Note:
        """Show a note no more."""
        return Note.from_json(self._call("DELETE", f"notes/{_part(note)}"))

    def instruments(self) -> list[str]:
        """The ids of the instruments of the station."""
        return [str(one["id"]) for one in self._call("GET", "instruments")["items"]]

    def _call(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        given = None if content is None else {k: v for k, v in content.items() if v is not None}
        return self.control.call(method, f"/api/v1/{path}", given)


def _part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")
