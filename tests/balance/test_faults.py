"""What the simulated digitizer says it did, against what is on disk: two books that know nothing of each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scidaq.block import NS, Gap, Reason
from scidaq.errors import InstrumentDisconnected
from scidaq.instruments.waveform import Truth, WaveformDriver, WaveformOptions, expected
from scidaq.query import Reader
from scidaq.station import Station
from scidaq.store import Policy, verify
from tests.balance.rig import EPOCH_NS, Rig, WallClock
from tests.station.plans import SystemClock, plan, wait_for, waveform

BLOCK = 20


class Bench:
    """A digitizer on a clock that stands still, read by hand into a rig."""

    def __init__(
        self, data_dir: Path, policy: Policy = Policy.ALWAYS, ring_bytes: int = 1 << 24, **options: Any
    ) -> None:
        self.options = WaveformOptions(
            **({"channels": 2, "rate_hz": 1000, "block_rows": BLOCK, "backfill": True} | options)
        )
        self.clock = WallClock(EPOCH_NS)
        self.rig = Rig(data_dir, policy=policy, ring_bytes=ring_bytes, clock=self.clock)
        self.driver = self._driver()

    def _driver(self) -> WaveformDriver:
        return WaveformDriver("dev", self.options, self.clock)

    def arm(self) -> None:
        """Connect, as supervision would."""
        self.driver.identity()
        self.rig.spec = self.driver.arm()[0]
        self.rig.intake.begin(self.rig.spec)

    def run(self, seconds: float, settle: bool = True) -> None:
        """Let time pass; the instrument is read, and connected again when it went."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)
            try:
                if not self.driver._armed:
                    self.arm()
                while blocks := self.driver.read(0):
                    for block in blocks:
                        self.rig.intake.accept(block)
            except InstrumentDisconnected as error:
                if self.driver._armed:
                    self.rig.intake.interrupted(Reason.DISCONNECT, str(error))
                self.driver.close()
                self.driver = self._driver()
        if settle:
            self.rig.settle()

    def open(self) -> None:
        """Start, or start again."""
        self.rig.open(announce=False)
        self.driver = self._driver()
        self.arm()


@dataclass
class Found:
    """What is on disk."""

    recorded: int
    gaps: int
    duplicates: int
    left_out: int
    bounded: bool
    reasons: set[Reason]
    holes: list[Gap]
    epochs: int
    conflicts: int


def find(data_dir: Path, options: WaveformOptions, stream: str = "dev/wave") -> Found:
    """Verify, read, and compare every row with what the digitizer made."""
    report = verify(data_dir)
    assert report.ok, [str(p) for p in report.problems]
    reader = Reader(data_dir)
    origins = {e.number: e.origin for e in reader.epochs(stream)}
    at: dict[int, int] = {}
    holes: list[Gap] = []
    rows = 0
    for item in reader.blocks(stream):
        if isinstance(item, Gap):
            assert item.reason is not Reason.UNEXPLAINED
            holes.append(item)
            if item.end > item.first:
                assert item.first == at.get(item.epoch, 0)
                at[item.epoch] = item.end
            continue
        assert item.first == at.get(item.epoch, 0)
        at[item.epoch] = item.end
        truth = expected(options, origins[item.epoch] + item.first, item.rows)
        np.testing.assert_array_equal(item.column("adc"), truth)
        rows += item.rows
    balances = [b for b in report.balances if b.stream == stream]
    total = balances[0].ledger
    for b in balances[1:]:
        total += b.ledger
    assert rows == total.recorded
    assert sum(at.values()) == total.recorded + total.gaps + total.left_out
    quarantined = len(list((data_dir / "quarantine").glob("*-conflict-*")))
    return Found(
        total.recorded,
        total.gaps,
        total.duplicates,
        total.left_out,
        any(b.bounded for b in balances),
        {h.reason for h in holes},
        holes,
        len(balances),
        quarantined,
    )


def check(bench: Bench, found: Found) -> Truth:
    """The device's book against the recorder's."""
    truth = bench.driver.truth()
    assert truth.withheld == 0
    assert found.recorded + found.gaps + found.left_out == truth.produced
    assert found.duplicates == truth.duplicated + truth.conflicting
    return truth


FAULTS: dict[str, Callable[[WaveformDriver], None]] = {
    "drop": lambda d: d.drop(33),
    "duplicate": lambda d: d.duplicate(),
    "conflict": lambda d: d.conflict(),
    "late": lambda d: d.late(50),
    "lag": lambda d: d.lag(0.3),
    "disconnect": lambda d: d.disconnect(0.2),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_each_fault_is_in_the_books_as_it_was(tmp_path: Path, fault: str, end: str) -> None:
    bench = Bench(tmp_path / "d")
    bench.open()
    bench.run(0.3)
    for _ in range(3):
        FAULTS[fault](bench.driver)
        bench.run(0.6)
    if end == "stop":
        bench.rig.close()
    else:
        bench.rig.kill()
    first = find(bench.rig.dir, bench.options)
    truth = check(bench, first)
    bench.open()
    bench.run(0.3)
    bench.rig.close()
    found = find(bench.rig.dir, bench.options)
    truth = check(bench, found)
    assert found.epochs == 1
    lost = truth.dropped + truth.missed
    assert found.gaps == lost
    assert found.recorded == truth.produced - lost
    expected_reasons = {"drop": Reason.SOURCE, "disconnect": Reason.DISCONNECT}
    if fault in expected_reasons:
        assert expected_reasons[fault] in found.reasons
    assert found.conflicts == (3 if fault == "conflict" else 0)


def test_all_faults_together(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "d")
    bench.open()
    rng = np.random.default_rng(5)
    for i in range(40):
        bench.run(0.15, settle=i % 4 == 0)
        for fault in rng.choice(list(FAULTS), 2):
            FAULTS[fault](bench.driver)
        if i == 20:
            bench.run(0.5)
            bench.rig.close()
            bench.open()
        if i == 30:
            bench.run(0.5)
            bench.rig.kill()
            bench.open()
    bench.run(2.0)
    bench.rig.close()
    check(bench, find(bench.rig.dir, bench.options))


def test_a_source_that_begins_its_count_anew_is_bounded_and_never_called_balanced(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "d", free_running=False, backfill=False)
    bench.open()
    bench.run(0.3)
    bench.driver.disconnect(0.2)
    bench.run(0.6)
    bench.rig.close()
    found = find(bench.rig.dir, bench.options)
    assert found.bounded
    assert found.epochs == 2
    (hole,) = [h for h in found.holes if h.unknown]
    assert (hole.rows, hole.reason) == (None, Reason.DISCONNECT)
    assert hole.start_ns is not None
    assert hole.end_ns is not None
    assert 0.2 * NS <= hole.end_ns - hole.start_ns <= 0.4 * NS
    truth = bench.driver.truth()
    assert found.recorded == truth.sent


@pytest.mark.parametrize("policy", [Policy.NEVER, Policy.RUNS])
def test_what_policy_leaves_out_is_in_the_books(tmp_path: Path, policy: Policy) -> None:
    bench = Bench(tmp_path / "d", policy)
    bench.open()
    bench.run(0.5, settle=False)
    bench.driver.drop(10)
    bench.rig.recorder.set_recording(True)
    bench.rig.wait_for(lambda: bench.rig.track.recording is (policy is Policy.RUNS))
    bench.run(0.5, settle=False)
    bench.driver.duplicate()
    bench.rig.wait_for(lambda: bench.rig.track.seq >= bench.rig.ring._next - 1)
    bench.rig.recorder.set_recording(False)
    bench.run(0.5, settle=False)
    bench.rig.close()
    found = find(bench.rig.dir, bench.options)
    check(bench, found)
    assert found.left_out > 0
    assert (found.recorded > 0) is (policy is Policy.RUNS)
    assert Reason.POLICY in found.reasons


def test_a_full_ring_loses_rows_that_are_counted_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "d", ring_bytes=2000)
    bench.open()
    bench.run(0.3)
    slow = [True]

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        while slow[0] and verb == "sync" and kind in ("journal", "segment"):
            bench.rig.wait_a_moment()

    bench.rig.before = before
    for fault in ("duplicate", "drop", "duplicate", "conflict", "late", "duplicate"):
        bench.run(0.3, settle=False)
        FAULTS[fault](bench.driver)
    bench.run(1.0, settle=False)
    slow[0] = False
    bench.rig.wait_for(lambda: bench.rig.ring.stats().held_bytes == 0)
    for _ in range(20):
        bench.run(0.05)
    bench.rig.close()
    found = find(bench.rig.dir, bench.options)
    truth = bench.driver.truth()
    assert Reason.OVERFLOW in found.reasons
    assert found.recorded + found.gaps == truth.produced
    assert bench.rig.intake.stats().refused > 0


def test_a_step_of_the_clock_begins_an_epoch_and_loses_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "d")
    bench.open()
    bench.run(0.3)
    for seconds in (3600, -7200, 5):
        bench.clock.step(seconds)
        bench.clock.reanchor()
        bench.run(0.3)
    bench.rig.close()
    found = find(bench.rig.dir, bench.options)
    check(bench, found)
    assert found.epochs == 4
    assert found.gaps == 0
    assert [h.reason for h in found.holes] == [Reason.CLOCK_STEP] * 3


def _sent(bench: WaveformDriver, rows: int) -> bool:
    return bench.truth().sent > rows


PLAIN: dict[str, Any] = {"channels": 2, "rate_hz": 2000, "block_s": 0.01, "backfill": True}
WIDE: dict[str, Any] = {"channels": 64, "rate_hz": 20_000, "block_s": 0.02, "backfill": True}


@pytest.mark.slow
@pytest.mark.parametrize("options", [PLAIN, WIDE], ids=["by the journal", "straight to the segment"])
def test_a_whole_station_with_every_fault(tmp_path: Path, options: dict[str, Any]) -> None:
    clock = SystemClock()
    data_dir = tmp_path / "d"
    bench = WaveformDriver("w", WaveformOptions(**options), clock)  # the same device, seen from aside
    for _ in range(2):
        with Station(plan(data_dir, waveform("w", clock, **options)), clock):
            sent = bench.truth().sent
            wait_for(partial(_sent, bench, sent))
            for fault in FAULTS.values():
                fault(bench)
                sent = bench.truth().sent
                wait_for(partial(_sent, bench, sent + 200))
            wait_for(lambda: bench.truth().withheld == 0)
    found, truth = find(data_dir, bench._o, "w/wave"), bench.truth()
    assert found.recorded + found.gaps == truth.produced
    assert found.duplicates == truth.duplicated + truth.conflicting
    assert found.gaps == truth.dropped + truth.missed
    assert {Reason.SOURCE, Reason.DISCONNECT, Reason.RESTART} <= found.reasons
