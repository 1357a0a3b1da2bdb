"""All times are UTC: where clocks on the wall are set on or back by an hour, nothing happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from scidaq.block import Block, Gap
from scidaq.cli.app import run
from scidaq.cli.times import moment_ns, shown
from scidaq.query import Reader
from scidaq.testing import FakeClock
from tests.clock.test_epochs import NS, STREAM, Lab
from tests.model.stepping import make_template

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
CHANGES = {"spring": datetime(2026, 3, 29, 1, tzinfo=UTC), "autumn": datetime(2026, 10, 25, 1, tzinfo=UTC)}


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", BERLIN)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def ns_of(moment: datetime) -> int:
    return int(moment.timestamp()) * NS


@pytest.mark.parametrize("season", CHANGES)
@pytest.mark.parametrize("kind", ["uniform", "polled"])
def test_a_station_in_berlin_records_on_over_the_change(
    season: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_ns = ns_of(CHANGES[season])
    assert time.localtime(change_ns // NS - 1).tm_isdst != time.localtime(change_ns // NS).tm_isdst
    (tmp_path / "d").mkdir()
    lab = Lab(tmp_path / "d", kind, make_template(tmp_path / "t"), FakeClock(change_ns - 3600 * NS))
    for _ in range(72):
        lab.follow()
        lab.give(lab.make(1000))
        lab.store.turn()
        lab.store.commit()
    lab.stop()
    reader = Reader(tmp_path / "d")
    items = list(reader.blocks(STREAM))
    assert not [i for i in items if isinstance(i, Gap)]
    assert len(reader.epochs(STREAM)) == 1
    times = np.concatenate([b.time_ns() for b in items if isinstance(b, Block)])
    assert len(times) == 72_000
    assert np.diff(times).min() >= 0
    assert np.diff(times).max() < 200_000_000

    before, after = shown(change_ns - NS), shown(change_ns + NS)  # two seconds in UTC, whatever the wall says
    assert run(["read", STREAM, "--data-dir", str(tmp_path / "d"), "--start", before, "--stop", after]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(":59:5" in line or ":00:0" in line for line in lines) == 20


@pytest.mark.parametrize("season", CHANGES)
def test_times_that_are_typed_are_utc_or_say_what_they_are(season: str) -> None:
    change_ns, day = ns_of(CHANGES[season]), CHANGES[season].date().isoformat()
    winter, summer = "+01:00", "+02:00"
    first, then = (winter, summer) if season == "spring" else (summer, winter)
    for hours, offset in ((0, "Z"), (0, ""), (int(first[2]), first), (int(then[2]), then)):
        assert moment_ns(f"{day}T{1 + hours:02d}:00:00{offset}", 0) == change_ns
    assert moment_ns(f"{day}T02:30:00", 0) == change_ns + 5400 * NS, "in spring there is no half past two in Berlin"
    assert shown(change_ns) == f"{day}T01:00:00.000000000Z"
    assert moment_ns("-2h", change_ns + 3600 * NS) == change_ns - 3600 * NS
