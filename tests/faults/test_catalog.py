"""The catalog's disk fails, at a start or while recording: recording goes on, and the catalog is caught up later.

SQLite does not write through the seam, so it is made to say what it says then: there is no room (a limit on its pages),
it is read-only, somebody has it locked, or the disk reports an error.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scidaq.catalog import Catalog
from scidaq.clock import SystemClock
from scidaq.errors import CatalogError
from scidaq.station import Station
from scidaq.store import verify
from tests.faults.lives import nothing_left
from tests.station.plans import plan, wait_for, waveform
from tests.station.test_catalog import dump

TROUBLES = ("full", "read only", "locked", "I/O error")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scidaq.store.Projector.RETRY_S", 0.02)
    monkeypatch.setattr("scidaq.catalog.database.BUSY_MS", 20)


@contextmanager
def trouble(kind: str, path: Path) -> Iterator[None]:
    """The disk of all catalogs of this process, or for `locked` of one, is not as it should be."""
    if kind == "locked":
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
            other.execute("ROLLBACK")
        return
    bad = [True]

    def execute(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if bad[0] and kind == "full" and statement.startswith(("INSERT", "CREATE", "DELETE")):
            raise sqlite3.OperationalError("database or disk is full")  # also where a page has some room left

    def checkout(connection: sqlite3.Connection, *_: Any) -> None:
        connection.execute(f"PRAGMA query_only={int(bad[0] and kind == 'read only')}")
        connection.execute(f"PRAGMA max_page_count={1 if bad[0] and kind == 'full' else 1 << 30}")
        if bad[0] and kind == "I/O error":
            raise sqlite3.OperationalError("disk I/O error")

    sa.event.listen(sa.pool.Pool, "checkout", checkout)
    sa.event.listen(sa.Engine, "before_cursor_execute", execute)
    try:
        yield
    finally:
        bad[0] = False  # its connections are mended when they are used next


def goes_on(station: Station, streams: int) -> None:
    """Rows are made durable, now."""
    before = sum(s.durable_rows for s in station.stats().recorder.streams)
    wait_for(lambda: len(station.stats().recorder.streams) == streams)
    wait_for(lambda: sum(s.durable_rows for s in station.stats().recorder.streams) > before + 200)


def failed(station: Station) -> bool:
    """Whether the catalog has refused more than once."""
    return station.stats().projector.failures > 1


def told(station: Station) -> bool:
    """Whether the catalog knows everything."""
    return station.stats().projector.waiting == 0


def told_as_from_the_files(data_dir: Path) -> None:
    """The catalog says what one made again says."""
    assert verify(data_dir).ok
    before = dump(data_dir)
    assert before["segment"]
    (data_dir / "catalog.sqlite").unlink()
    with Station(plan(data_dir)):
        pass
    assert dump(data_dir) == before


@pytest.mark.parametrize("kind", TROUBLES)
def test_while_recording_it_is_caught_up_when_it_can_be_used_again(tmp_path: Path, kind: str) -> None:
    clock, data_dir = SystemClock(), tmp_path / "d"
    with nothing_left(kind), Station(plan(data_dir, waveform("w", clock, streams=2)), clock) as station:
        wait_for(lambda: station.stats().projector.transactions)
        with trouble(kind, data_dir / "catalog.sqlite"):
            clock.reanchor()  # new epochs: something to tell
            wait_for(partial(failed, station))
            goes_on(station, 2)
        wait_for(partial(told, station))
    told_as_from_the_files(data_dir)


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False], ids=["old", "new"])
@pytest.mark.parametrize("kind", TROUBLES)
def test_at_a_start_it_is_tried_again_while_recording_goes_on(tmp_path: Path, kind: str, there: bool) -> None:
    clock, data_dir = SystemClock(), tmp_path / "d"
    instrument = waveform("w", clock, streams=2)
    with Station(plan(data_dir, instrument), clock) as station:
        goes_on(station, 2)
    path = data_dir / "catalog.sqlite"
    if not there:
        path.unlink()
    with nothing_left(kind):
        station = Station(plan(data_dir, instrument), clock)
        with trouble(kind, path):
            started = time.monotonic()
            station.__enter__()
            assert time.monotonic() - started < 30
            goes_on(station, 2)
            wait_for(partial(failed, station))
        wait_for(partial(told, station))
        station.__exit__(None, None, None)
        del station
    told_as_from_the_files(data_dir)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TROUBLES)
def test_at_a_stop_it_is_caught_up_by_the_next_start(tmp_path: Path, kind: str) -> None:
    clock, data_dir = SystemClock(), tmp_path / "d"
    with nothing_left(kind):
        station = Station(plan(data_dir, waveform("w", clock)), clock)
        station.__enter__()
        goes_on(station, 1)
        with trouble(kind, data_dir / "catalog.sqlite"):
            station.__exit__(None, None, None)
        del station
    with Station(plan(data_dir)) as station:
        assert station.stats().projector.failures == 0
    told_as_from_the_files(data_dir)


def test_a_directory_in_its_place_is_told_and_stops_nothing(tmp_path: Path) -> None:
    clock, data_dir = SystemClock(), tmp_path / "d"
    with Station(plan(data_dir)):
        pass
    (data_dir / "catalog.sqlite").unlink()
    (data_dir / "catalog.sqlite").mkdir()
    with Station(plan(data_dir, waveform("w", clock)), clock) as station:
        goes_on(station, 1)
    (data_dir / "catalog.sqlite").rmdir()
    with Station(plan(data_dir)):
        pass
    told_as_from_the_files(data_dir)


def test_a_catalog_taken_away_while_recording_is_made_again_by_the_next_start(tmp_path: Path) -> None:
    clock, data_dir = SystemClock(), tmp_path / "d"
    with Station(plan(data_dir, waveform("w", clock)), clock) as station:
        goes_on(station, 1)
        for path in data_dir.glob("catalog.sqlite*"):
            path.unlink()
        goes_on(station, 1)
    with Station(plan(data_dir)):
        pass
    told_as_from_the_files(data_dir)


@pytest.mark.parametrize("kind", TROUBLES)
def test_one_that_is_opened_for_itself_says_what_is_wrong(tmp_path: Path, kind: str) -> None:
    Catalog.open(tmp_path).close()
    if kind == "full":
        (tmp_path / "catalog.sqlite").unlink()
    with (
        trouble(kind, tmp_path / "catalog.sqlite"),
        pytest.raises(CatalogError, match=r"catalog at .*/catalog.sqlite: .*(full|readonly|locked|I/O)"),
        Catalog.open(tmp_path) as catalog,
        catalog.begin() as conn,
    ):
        conn.execute(sa.text("CREATE TABLE more (n INTEGER)"))
