"""A catalog with any page spoiled, or that cannot be written, keeps nobody from recording, and is made again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from scidaq.catalog import Catalog
from scidaq.clock import SystemClock
from scidaq.errors import CatalogDamaged, CatalogError
from scidaq.station import Station
from scidaq.store import Options, known_segments, verify
from tests.station.plans import plan, wait_for, waveform
from tests.station.test_catalog import dump

SMALL = Options(sync_interval_ms=20, journal_move_s=0.05, segment_bytes=1 << 16)


def recorded(data_dir: Path) -> None:
    clock = SystemClock()
    instruments = [waveform(f"adc{i}", clock, rate_hz=20_000, streams=2) for i in range(3)]
    with Station(plan(data_dir, *instruments, storage=SMALL), clock) as station:
        wait_for(lambda: sum(s.delivered > 6000 for s in station.stats().recorder.streams) == 6)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that has been recorded, and started once more without an instrument."""
    data_dir = tmp_path_factory.mktemp("damage") / "d"
    recorded(data_dir)
    with Station(plan(data_dir)):
        pass
    return data_dir


def spoil(path: Path, page: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * size)
        file.write(b"\xff" * size)


@pytest.mark.slow
def test_each_page_of_the_catalog_may_be_spoiled(once: Path) -> None:
    path = once / "catalog.sqlite"
    before, sound = dump(once), path.read_bytes()
    size = int.from_bytes(sound[16:18], "big")
    pages = len(sound) // size
    assert pages > 10
    for page in range(pages):
        path.write_bytes(sound)
        spoil(path, page, size)
        with Station(plan(once)) as station:
            assert station.stats().projector.failures == 0
        assert dump(once) == before, f"page {page}"
        path.unlink()
    path.write_bytes(sound)
    assert len(list((once / "quarantine").glob("catalog-*.sqlite"))) == pages
    assert verify(once).ok


@pytest.mark.parametrize("verb", ["project_facts", "known_segments", "catch_up"])
def test_damage_that_shows_only_at_work_is_put_aside_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    from scidaq.station import station as wiring

    recorded(tmp_path / "d")
    before = dump(tmp_path / "d")
    told: list[str] = []
    owner: Any = Catalog if verb == "project_facts" else wiring
    as_it_is = getattr(owner, verb)

    def meets_damage_once(*args: Any) -> Any:
        told.append(verb)
        if len(told) == 1:
            raise CatalogDamaged("malformed")
        return as_it_is(*args)

    monkeypatch.setattr(owner, verb, meets_damage_once)
    with Station(plan(tmp_path / "d")):
        pass
    assert dump(tmp_path / "d") == before
    assert (tmp_path / "d" / "quarantine" / "catalog-0.sqlite").exists()
    assert verify(tmp_path / "d").ok


def test_a_row_that_cannot_be_understood_is_damage(tmp_path: Path) -> None:
    recorded(tmp_path / "d")
    before = dump(tmp_path / "d")
    with sqlite3.connect(tmp_path / "d" / "catalog.sqlite") as conn:
        conn.execute("UPDATE segment SET ranges_json = '[[0,'")
    conn.close()
    with Catalog.open(tmp_path / "d") as catalog, pytest.raises(CatalogDamaged, match="no segment can be"):
        known_segments(catalog, tmp_path / "d")
    with Station(plan(tmp_path / "d")):
        pass
    assert dump(tmp_path / "d") == before


def test_a_catalog_that_cannot_be_written_stops_neither_start_nor_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, data_dir = SystemClock(), tmp_path / "d"
    recorded(data_dir)
    (data_dir / "catalog.sqlite").unlink()
    full, as_it_is = [True], Catalog.begin

    @contextmanager
    def begin(self: Catalog) -> Iterator[sa.Connection]:
        if full[0]:
            raise CatalogError("database or disk is full")
        with as_it_is(self) as conn:
            yield conn

    monkeypatch.setattr(Catalog, "begin", begin)
    monkeypatch.setattr("scidaq.store.Projector.RETRY_S", 0.01)
    with Station(plan(data_dir, waveform("adc0", clock, streams=2)), clock) as station:
        wait_for(lambda: sum(s.delivered > 100 for s in station.stats().intakes) == 2)
        wait_for(lambda: station.stats().projector.failures > 2)
        full[0] = False
        wait_for(lambda: station.stats().projector.waiting == 0)
    assert verify(data_dir).ok
    told = dump(data_dir)
    (data_dir / "catalog.sqlite").unlink()
    with Station(plan(data_dir)):
        pass
    assert dump(data_dir) == told


@pytest.mark.parametrize("error", [CatalogDamaged("malformed"), ValueError("a fault of ours")])
def test_whatever_the_projector_meets_it_stays_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    clock, data_dir = SystemClock(), tmp_path / "d"
    bad, as_it_is = [True], Catalog.begin

    @contextmanager
    def begin(self: Catalog) -> Iterator[sa.Connection]:
        if bad[0] and self is station._catalog and station._recording:
            raise error
        with as_it_is(self) as conn:
            yield conn

    monkeypatch.setattr("scidaq.store.Projector.RETRY_S", 0.01)
    station = Station(plan(data_dir, waveform("adc0", clock)), clock)
    monkeypatch.setattr(Catalog, "begin", begin)
    with station:
        wait_for(lambda: station.stats().projector.failures > 2)
        bad[0] = False
        wait_for(lambda: station.stats().projector.waiting == 0)
    assert len(dump(data_dir)["epoch"]) == 1
    assert verify(data_dir).ok
