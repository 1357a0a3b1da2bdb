"""The catalog is a projection: gone or garbage, it is made again and gives the same answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scidaq.block import Block
from scidaq.catalog import Catalog, NewRun
from scidaq.clock import SystemClock
from scidaq.query import Reader
from scidaq.station import Station
from scidaq.store import Policy, verify
from tests.balance.test_faults import FAULTS
from tests.station.plans import plan, wait_for, waveform

SINCE = {"epoch": "began_ns", "stream": "first_seen_ns"}
"""When an epoch was first seen is known exactly by who saw it; the files know when its first segment was made."""


def answers(data_dir: Path) -> list[Any]:
    """What queries give."""
    reader = Reader(data_dir)
    out: list[Any] = [reader.streams()]
    for stream in reader.names():
        out += [
            (i.first, i.end, i.column("adc").tobytes()) if isinstance(i, Block) else i for i in reader.blocks(stream)
        ]
        out.append([(i.first, i.end) for i in reader.last(stream, rows=50)])
    return out


def dump(data_dir: Path) -> dict[str, list[tuple[Any, ...]]]:
    from scidaq.catalog import metadata

    with Catalog.open(data_dir, read_only=True) as catalog:
        found = catalog.dump()
    for table, column in SINCE.items():
        at = [c.name for c in metadata.tables[table].c].index(column)
        found[table] = [(*row[:at], *row[at + 1 :]) for row in found[table]]
    found.pop("fact")  # a start and a stop are facts of their own
    return found


def _went_on(station: Station, before: dict[str, int]) -> bool:
    return all(s.delivered > before[s.stream] + 500 for s in station.stats().recorder.streams)


def recorded(data_dir: Path) -> None:
    clock = SystemClock()
    instruments = (
        waveform("fast", clock, rate_hz=50_000, channels=8, backfill=True),
        waveform("slow", clock, streams=2, backfill=True),
        waveform("runs", clock, Policy.RUNS),
    )
    for _ in range(2):
        with Station(plan(data_dir, *instruments), clock) as station:
            wait_for(lambda: sum(s.delivered > 100 for s in station.stats().recorder.streams) == 4)
            run = station.runs.start(NewRun("one"))
            for fault in FAULTS.values():
                for name in ("fast", "slow"):
                    driver: Any = station._supervision.instruments[name].driver
                    if driver is not None:
                        fault(driver)
            before = {s.stream: s.delivered for s in station.stats().recorder.streams}
            wait_for(partial(_went_on, station, before))
            station.runs.stop(run.id)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(20_000))


def truncated(path: Path) -> None:
    os.truncate(path, 5000)


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [removed, garbage, truncated])
def test_a_lost_catalog_is_made_again_and_answers_the_same(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    data_dir = tmp_path / "d"
    recorded(data_dir)
    before, said = dump(data_dir), answers(data_dir)
    assert verify(data_dir).ok
    for extra in data_dir.glob("catalog.sqlite-*"):
        extra.unlink()
    spoil(data_dir / "catalog.sqlite")
    with Station(plan(data_dir)):
        pass
    assert answers(data_dir) == said
    after = dump(data_dir)
    for table in before:
        assert after[table] == before[table], table
    assert verify(data_dir).ok


def test_a_catalog_lost_while_rows_are_in_the_journal_only(tmp_path: Path) -> None:
    # The epochs of these rows are in no segment: they are told of from the journal.
    from tests.balance.rig import Rig

    rig = Rig(tmp_path / "d", journal_move_s=60).open()
    rig.send(0, 10)
    rig.send(15, 10)
    rig.settle()
    rig.kill()
    with Station(plan(tmp_path / "d")) as station:
        assert station.stats().projector.failures == 0
    with Catalog.open(tmp_path / "d", read_only=True) as catalog:
        found = catalog.dump()
    assert len(found["epoch"]) == len(found["segment"]) == len(found["gap"]) == 1
    assert verify(tmp_path / "d").ok
