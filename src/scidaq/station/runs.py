"""The verbs on runs of a data directory into which nobody records: for the command line and for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scidaq.catalog import FactsLog, Run, RunKeeper, Snapshot
from scidaq.clock import Clock, SystemClock
from scidaq.errors import ScidaqError
from scidaq.query import Reader, snapshot_at
from scidaq.store import Files, open_station, read_station, system_files


@contextmanager
def open_runs(
    path: Path | str, *, version: str = "", clock: Clock | None = None, files: Files | None = None
) -> Iterator[RunKeeper]:
    """Runs, holds and notes of a data directory, to be changed: nobody else can record into it meanwhile.

        with scidaq.runs("lab-data") as runs:
            runs.add(NewRun("night", start_ns, stop_ns, sample="Nb 17"))

    Raises `StationBusy` while a station or a script records there, and `ForeignDirectory` when it is none of scidaq's.
    """
    data_dir, clock, files = Path(path), clock or SystemClock(), files or system_files()
    read_station(data_dir)  # so that nothing is made where there is nothing
    _, lock = open_station(data_dir, files, "", clock.now_ns(), True)

    def seen(t_ns: int) -> Snapshot | None:
        with suppress(ScidaqError, OSError):  # a run is declared, be its settings readable or not
            return snapshot_at(Reader(data_dir, files), t_ns)
        return None

    def newest_ns(run: Run) -> int | None:
        found = [s.last_ns for s in Reader(data_dir, files).streams() if run.covers(s.stream)]
        return max((ns for ns in found if ns is not None), default=None)

    with lock, FactsLog.open(data_dir / "facts", clock, files) as facts:
        yield RunKeeper(facts, clock, version=version, snapshot_at=seen, newest_ns=newest_ns)
