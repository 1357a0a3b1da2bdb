"""Every contestant of `readings` records what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import readings
from bench.readings import AS_THEY_COME, COLUMNS, DURABLE, NEEDS, US, US_DURABLE, Took, together
from scidaq.store import verify

ALL = AS_THEY_COME | DURABLE


@pytest.mark.parametrize("name", [name for name in ALL if name not in NEEDS])
def test_every_contestant_records(name: str, tmp_path: Path) -> None:
    with ALL[name](tmp_path, 2) as turn:
        count = turn(0.01)
        assert count > 0
    assert any(path.stat().st_size >= 16 * min(count, 50) for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", [US, US_DURABLE])
@pytest.mark.parametrize("columns", COLUMNS)
def test_ours_are_all_there(name: str, columns: int, tmp_path: Path) -> None:
    with ALL[name](tmp_path, columns) as turn:
        count = turn(0.01)
    report = verify(tmp_path / "data")
    assert report.ok
    assert report.rows == count + 1


def test_threads_add_up() -> None:
    assert together(lambda seconds: 3, 4, 0.0) == 12


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, US, "a_module_that_nobody_has")
    assert readings.missing(US)
    assert not readings.missing("csv.writer")


def test_a_turn_has_a_speed() -> None:
    assert Took(10, 2.0, 0.1).speed == 5.0
