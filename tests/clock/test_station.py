"""A station whose wall clock is put wrong: whole, with its threads and simulated instruments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from scidaq.block import Block, Gap, Reason
from scidaq.instruments import HostDriver, HostOptions
from scidaq.query import Reader
from scidaq.station import InstrumentPlan, Station, StationPlan, station
from scidaq.store import verify
from tests.clock.shifted import ShiftedClock
from tests.station.plans import IMPATIENT, plan, wait_for, waveform

HOUR_NS = 3600 * 1_000_000_000


@pytest.fixture(autouse=True)
def _watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(station, "CLOCK_WATCH_S", 0.02)


def everything(data_dir: Path, clock: ShiftedClock) -> StationPlan:
    """Every kind of source that the house has."""
    host = InstrumentPlan(
        "host",
        lambda: HostDriver("host", HostOptions(cpu_hz=50, rate_hz=50), clock),
        "host",
        supervision=IMPATIENT,
    )
    return plan(
        data_dir,
        host,
        waveform("uniform", clock),
        waveform("free", clock, free_running=True),
        waveform("uneven", clock, irregular=True),
        waveform("late", clock, backfill=True),
    )


def more_rows(one: Station, count: int = 20) -> None:
    """Wait until each stream has got so many rows more."""
    wait_for(lambda: len(one.stats().intakes) >= 8)
    before = {s.stream: (s.epoch, s.delivered) for s in one.stats().intakes}

    def has_more() -> bool:
        now = {s.stream: (s.epoch, s.delivered) for s in one.stats().intakes}
        return all(now[s][0] > max(epoch, 0) or now[s][1] >= rows + count for s, (epoch, rows) in before.items())

    wait_for(has_more)


def checked(data_dir: Path) -> dict[str, tuple[int, list[Gap]]]:
    """Epochs and gaps of each stream; all books balance and time never goes back within an epoch."""
    report = verify(data_dir)
    assert report.ok, [str(p) for p in report.problems]
    reader, out = Reader(data_dir), {}
    for stream in reader.names():
        items = list(reader.blocks(stream))
        for number in {i.epoch for i in items}:
            times = [b.time_ns() for b in items if isinstance(b, Block) and b.epoch == number]
            assert (np.diff(np.concatenate(times)) >= 0).all()
        out[stream] = len(reader.epochs(stream)), [i for i in items if isinstance(i, Gap)]
    return out


@pytest.mark.parametrize("by_ns", [HOUR_NS, -HOUR_NS])
def test_a_step_of_the_wall_clock_begins_one_epoch_in_every_stream(tmp_path: Path, by_ns: int) -> None:
    clock = ShiftedClock()
    with Station(everything(tmp_path / "d", clock), clock) as one:
        more_rows(one)
        clock.wrong_ns = by_ns
        wait_for(lambda: one.stats().clock_steps == 1)
        wait_for(lambda: all(s.epoch >= 1 for s in one.stats().intakes))
        more_rows(one)
    found = checked(tmp_path / "d")
    assert len(found) == 8
    for stream, (epochs, gaps) in found.items():
        assert epochs == 2, stream
        assert [(g.epoch, g.reason) for g in gaps] == [(1, Reason.CLOCK_STEP)], stream


def test_a_small_error_of_the_wall_clock_begins_none(tmp_path: Path) -> None:
    clock = ShiftedClock()
    with Station(everything(tmp_path / "d", clock), clock) as one:
        more_rows(one)
        clock.wrong_ns = 900_000_000
        before = clock.drift_ns()
        more_rows(one)
        assert clock.drift_ns() < before
        assert one.stats().clock_steps == 0
    assert all(found == (1, []) for found in checked(tmp_path / "d").values())


def test_a_clock_that_lies_before_what_is_recorded_is_told_and_confuses_nobody(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    for n, wrong_ns in enumerate([0, -30 * 24 * HOUR_NS, 0]):
        clock = ShiftedClock(wrong_ns)
        with capture_logs() as logs, Station(everything(data_dir, clock), clock) as one:
            more_rows(one)
        told = [e["since"] for e in logs if e["event"] == "the clock of this machine lies in the past; check it"]
        assert bool(told) == (n == 1)
    found = checked(data_dir)
    assert {epochs for epochs, _ in found.values()} == {3}
    reader = Reader(data_dir)
    newest = {s.stream: s.last_ns for s in reader.streams()}
    for stream, newest_ns in newest.items():
        assert newest_ns is not None
        in_the_past = list(reader.blocks(stream, None, newest_ns - HOUR_NS))
        assert {b.epoch for b in in_the_past if isinstance(b, Block)} == {1}
