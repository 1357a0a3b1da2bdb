"""The power is cut while a script records: each reading that was durable is there, whatever else survives."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from scidaq.query import Reader
from scidaq.station import Recording, Station, StationPlan
from scidaq.station import script as script_module
from scidaq.store import express, verify
from scidaq.testing.powercut import PowerCutFiles
from tests.station.test_script import STREAM, values_of


def record(data_dir: Path, rng: random.Random, wanted: int) -> list[tuple[Path, int]]:
    """Record rows, some of them synced, and keep what a power cut would leave: where, and how many were durable."""
    taken: list[tuple[Path, int]] = []
    files = PowerCutFiles(data_dir)
    with Recording(data_dir, {"n": "int64", "x": "V"}, sync_interval_ms=20, files=files) as rec:

        def moment(_: int) -> None:
            if len(taken) < wanted and rng.random() < 0.02:
                target = data_dir.with_name(f"{data_dir.name}-left-{len(taken)}")
                target.mkdir()
                durable = max(rec._recorded, rec._safe)  # before: it may grow meanwhile
                files.image(target, rng)
                taken.append((target, durable))

        files.moment = moment
        deadline = time.monotonic() + 10
        while len(taken) < wanted and time.monotonic() < deadline:
            rec.add(n=rec.rows, x=0.5, sync=rng.random() < 0.5)
            if rng.random() < 0.02:
                rec.extend(n=range(rec.rows, rec.rows + 3000))
        files.moment = None
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_what_was_durable_is_there_after_a_power_cut(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "FILE_BYTES", 64 << 10)  # files change often
    monkeypatch.setattr(express, "KEPT_S", 0.02)
    monkeypatch.setattr(script_module, "EXPRESS_S", 0.05)
    taken = record(tmp_path / "data", random.Random(seed), 12)
    assert len(taken) == 12
    for left, durable in taken:
        with Station(StationPlan(left)):
            pass
        report = verify(left)
        assert report.ok, [str(p) for p in report.problems]
        assert all(b.balanced for b in report.balances)
        stored = STREAM in {s.stream for s in Reader(left).streams()}
        rows = values_of(left, "n") if stored else []
        assert rows == list(range(len(rows)))
        assert len(rows) >= durable
