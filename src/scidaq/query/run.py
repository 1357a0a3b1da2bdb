"""A run as a window on the streams of a store: it refers to rows and holds none."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scidaq.block import shown
from scidaq.catalog import Run
from scidaq.query.rows import Rows
from scidaq.query.stream import Stream

if TYPE_CHECKING:
    from scidaq.query.store import Store


@dataclass(frozen=True)
class RunView:
    """One run of a store, with the rows of its streams between its start, which it holds, and its stop."""

    facts: Run
    """What is known of it: start and stop, operator, sample, metadata, the instruments when it began and ended."""
    _store: Store

    @property
    def name(self) -> str:
        """Its name, which another run may have too."""
        return self.facts.name

    @property
    def id(self) -> str:
        """Its identity."""
        return self.facts.id

    @property
    def streams(self) -> dict[str, Stream]:
        """The streams that belong to it, by id, each with all its rows: `read` gives those of the run."""
        return {name: stream for name, stream in self._store.streams.items() if self.facts.covers(name)}

    def read(self, stream: str, channels: Sequence[str] | None = None, *, raw: bool = False) -> Rows:
        """The rows of one of its streams; of a run that is under way those that there are by now.

        Raises `UnknownStream`, or `RequestError` for a stream that does not belong to it.
        """
        return self._store[stream].read(run=self.id, channels=channels, raw=raw)

    def __repr__(self) -> str:
        end = "under way" if self.facts.stop_ns is None else shown(self.facts.stop_ns)
        return f"<run {self.name!r}: {shown(self.facts.start_ns)} to {end}>"

    def _repr_html_(self) -> str:
        facts = {
            "from": shown(self.facts.start_ns),
            "to": "under way" if self.facts.stop_ns is None else shown(self.facts.stop_ns),
            "operator": self.facts.operator,
            "sample": self.facts.sample,
            "notes": self.facts.notes,
            **{key: str(value) for key, value in self.facts.metadata.items()},
            "streams": ", ".join(self.streams),
        }
        return f"<p><b>{html.escape(self.name)}</b></p>{_table(facts.items())}"


def _table(facts: Iterable[tuple[str, str]]) -> str:
    lines = (f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in facts if value)
    return f"<table>{''.join(lines)}</table>"
