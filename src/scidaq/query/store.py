"""`scidaq.open`: a data directory in a script or a notebook, beside a station or without one."""

from __future__ import annotations

import difflib
import html
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from scidaq.block import Moment, moment_ns
from scidaq.catalog import Note, RunBook, Setting, read_run_book
from scidaq.clock import Clock, SystemClock
from scidaq.errors import ForeignDirectory, UnknownStream
from scidaq.query.ahead import cores
from scidaq.query.reader import Reader
from scidaq.query.run import RunView
from scidaq.query.settings import settings_at
from scidaq.query.stream import Stream, table_of
from scidaq.store import STATION


def open_store(path: str | os.PathLike[str]) -> Store:
    """The data directory `path`, to be read: nothing in it is changed, and a station may be recording into it.

        import scidaq

        store = scidaq.open("lab-data")
        frame = store["dmm/readings"].read("-1h").to_pandas()

    Raises `ForeignDirectory` where there is no data directory of scidaq.
    """
    return Store(Path(path))


class Store:
    """A read-only view of a data directory; see `open_store`. Not thread-safe, and nothing has to be closed."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        try:
            self._reader = Reader(path, threads=cores())
        except ForeignDirectory as error:
            raise _with_hint(path, error) from None
        self._clock = clock or SystemClock()

    @property
    def name(self) -> str:
        """The name of the station that the directory belongs to."""
        return self._reader.station.name

    @property
    def uuid(self) -> str:
        """The identity of that station."""
        return self._reader.station.uuid

    # ---- streams ----

    @property
    def streams(self) -> dict[str, Stream]:
        """The streams that there are now, by id."""
        return {name: self._stream(name) for name in self._reader.names()}

    def __getitem__(self, stream: str) -> Stream:
        """A stream by its id, `instrument/stream`. Raises `UnknownStream`."""
        known = self._reader.names()
        if stream not in known:
            near = difflib.get_close_matches(str(stream), known, 1)
            raise UnknownStream(stream, known, f" (did you mean {near[0]!r}?)" if near else "")
        return self._stream(stream)

    def __contains__(self, stream: object) -> bool:
        return stream in self._reader.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.names())

    def __len__(self) -> int:
        return len(self._reader.names())

    def _stream(self, name: str) -> Stream:
        return Stream(self._reader, self._clock, name)

    # ---- what was done ----

    @property
    def runs(self) -> list[RunView]:
        """The runs by their start; those that were deleted are left out."""
        return [RunView(run, self) for run in self._book().runs()]

    def run(self, name: str) -> RunView:
        """A run by its name or id. Raises `UnknownRun`, or `RequestError` with the ids where several have the name."""
        return RunView(self._book().run(name), self)

    def notes(
        self, start: Moment | None = None, stop: Moment | None = None, streams: Iterable[str] | None = None
    ) -> list[Note]:
        """The notes about any part of a range of time, and of those about any of the streams, by time."""
        start_ns, stop_ns = (None if t is None else self._ns(t) for t in (start, stop))
        return self._book().notes(start_ns, stop_ns, streams)

    def settings(self, at: Moment = "now") -> dict[str, dict[str, Setting]]:
        """Per instrument each parameter as it was last read at a moment or before; those never read are absent."""
        return settings_at(self._reader, self._ns(at))

    def _book(self) -> RunBook:
        return read_run_book(self.path / "facts")

    def _ns(self, moment: Moment) -> int:
        return moment_ns(moment, self._clock.now_ns())

    # ---- shown ----

    def __repr__(self) -> str:
        lines = [f"station {self.name} in {self.path}", *(f"  {one!r}" for one in self.streams.values())]
        return "\n".join(lines) if len(lines) > 1 else f"{lines[0]}, nothing recorded yet"

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(self.name)}</b> in {html.escape(str(self.path))}</p>" + table_of(
            list(self.streams.values())
        )


def _with_hint(path: Path, error: ForeignDirectory) -> ForeignDirectory:
    """The error, and the data directory that was probably meant where `path` lies in one."""
    for parent in path.absolute().parents:
        if (parent / STATION).is_file():
            return ForeignDirectory(f"{error}; it lies in the data directory {parent}: open that")
    return error
