"""What the clock does to a recording: a step begins an epoch, a slew does not, in every kind of stream.

A source made up by the test delivers as time passes: through intake, ring and recorder to disk, and back from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from scidaq.block import Block, Channel, Epoch, Gap, Reason, StreamSpec, schema
from scidaq.instruments.waveform import WaveformDriver, WaveformOptions
from scidaq.query import Reader
from scidaq.store import Options, Policy, verify
from scidaq.testing import FakeClock
from tests.model.stepping import Store, make_template

NS = 1_000_000_000
MS = 1_000_000
T0 = 1_750_000_000 * NS
STREAM = "dev/s"
RATE = Fraction(10)
CHANNELS = [Channel("n", "int64")]
KINDS = {
    "uniform": StreamSpec("s", schema(CHANNELS, RATE), "counter"),
    "irregular": StreamSpec("s", schema(CHANNELS), "counter"),
    "polled": StreamSpec("s", schema(CHANNELS), None),
    "backfilling": StreamSpec("s", schema(CHANNELS, RATE), "counter", backfill=True),
}
COUNTED = [k for k, spec in KINDS.items() if spec.counter is not None]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


class Lab:
    """One instrument with ten rows a second, and the store it is recorded in."""

    def __init__(self, place: Path, kind: str, template: Path, clock: FakeClock | None = None) -> None:
        self.spec, self.clock = KINDS[kind], clock or FakeClock(T0)
        self.store = Store(place, self.clock, Options(sync_interval_ms=10), template)
        self.at = self.sent = 0
        self.start()

    def start(self) -> None:
        """A process takes its own anchor."""
        self.clock.reanchor()
        self.store.open({STREAM: (Policy.ALWAYS, 0, 1 << 20)}, lambda stream: lambda seq, item: None)
        self.arm()

    def arm(self) -> None:
        if self.spec.counter is None:
            self.at = 0
        self.store.intakes[STREAM].begin(self.spec)

    def stop(self) -> None:
        assert self.store.close()

    def follow(self) -> None:
        """What the station does every second."""
        self.clock.follow()

    def make(self, rows: int) -> Block:
        """Time passes, and the source makes rows; the newest is of this very moment."""
        self.clock.advance(rows / float(RATE))
        times = self.clock.now_ns() - (rows - 1 - np.arange(rows)) * 100 * MS
        n = np.arange(self.sent, self.sent + rows)
        uneven = times if self.spec.schema.rate is None else None
        block = Block.of(self.spec.schema, [n], stream="s", first=self.at, t0_ns=int(times[0]), times=uneven)
        self.at, self.sent = self.at + rows, self.sent + rows
        return block

    def give(self, block: Block) -> None:
        self.store.intakes[STREAM].accept(block)

    def run(self, rows: int) -> None:
        self.give(self.make(rows))
        self.store.turn(2)
        self.store.commit()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    return tmp_path / "d"


@pytest.fixture(params=list(KINDS))
def lab(request: pytest.FixtureRequest, place: Path, template: Path) -> Iterator[Lab]:
    lab = Lab(place, request.param, template)
    yield lab
    lab.store.die()  # where the test failed


@pytest.fixture
def wave(place: Path, template: Path) -> Iterator[Lab]:
    lab = Lab(place, "uniform", template)
    yield lab
    lab.store.die()


def look(lab: Lab) -> tuple[list[Epoch], list[Gap], dict[int, Block]]:
    """Stop, check all books, and read everything back."""
    lab.stop()
    report = verify(lab.store.dir)
    assert report.ok, [str(p) for p in report.problems]
    reader = Reader(lab.store.dir)
    items = list(reader.blocks(STREAM))
    rows: dict[int, Block] = {}
    for number in dict.fromkeys(i.epoch for i in items):
        mine = [b for b in items if isinstance(b, Block) and b.epoch == number]
        times = np.concatenate([b.time_ns() for b in mine])
        assert (np.diff(times) >= 0).all(), "time never goes back within an epoch"
        rows[number] = mine[0]
    values = [n for b in items if isinstance(b, Block) for n in b.column("n").tolist()]
    assert values == list(range(lab.sent)), "every row is there, in order"
    return reader.epochs(STREAM), [i for i in items if isinstance(i, Gap)], rows


# ---- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.5, -1.5, 3600, -3600])
def test_a_step_begins_an_epoch_and_loses_nothing(lab: Lab, seconds: float) -> None:
    lab.run(20)
    lab.clock.step(seconds)
    lab.follow()
    lab.run(20)
    epochs, gaps, rows = look(lab)
    assert [(g.epoch, g.rows, g.reason) for g in gaps] == [(1, 0, Reason.CLOCK_STEP)]
    assert [e.number for e in epochs] == [0, 1]
    assert epochs[1].anchor.wall_ns == pytest.approx(T0 + (4 + seconds) * NS, abs=100 * MS)
    assert rows[1].t0_ns == pytest.approx(T0 + (4 + seconds - 1.9) * NS, abs=100 * MS)


def test_of_two_steps_with_nothing_between_one_epoch_comes_and_with_rows_two(lab: Lab) -> None:
    lab.run(20)
    for seconds in (3600, -1800):
        lab.clock.step(seconds)
        lab.follow()
    lab.run(20)
    lab.clock.step(-1800)
    lab.follow()
    lab.run(20)
    epochs, gaps, _ = look(lab)
    assert [e.number for e in epochs] == [0, 1, 2]
    assert {g.reason for g in gaps} == {Reason.CLOCK_STEP}


def test_of_a_step_there_and_back_with_nothing_between_nothing_remains(lab: Lab) -> None:
    lab.run(20)
    for seconds in (3600, -3600):
        lab.clock.step(seconds)
        lab.follow()
    lab.run(20)
    epochs, gaps, _ = look(lab)
    assert (len(epochs), gaps) == (1, [])


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_step_while_the_instrument_is_away(lab: Lab, seconds: float) -> None:
    lab.run(20)
    lab.store.intakes[STREAM].interrupted(Reason.DISCONNECT, "cable")
    lab.clock.step(seconds)
    lab.follow()
    lab.arm()
    lab.run(20)
    epochs, (gap,), _ = look(lab)
    assert [e.number for e in epochs] == [0, 1]
    assert gap.reason is Reason.DISCONNECT  # the better explanation, since it may have cost rows
    assert gap.rows == (0 if lab.spec.counter else None)


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_step_between_stop_and_start(lab: Lab, seconds: float) -> None:
    lab.run(20)
    lab.stop()
    lab.clock.step(seconds)
    lab.start()
    lab.run(20)
    epochs, (gap,), rows = look(lab)
    assert [e.number for e in epochs] == [0, 1]
    assert gap.reason is (Reason.CLOCK_STEP if lab.spec.counter else Reason.RESTART)
    assert gap.rows == (0 if lab.spec.counter else None)
    assert rows[1].t0_ns == pytest.approx(T0 + (2.1 + seconds) * NS, abs=10**9)


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_step_during_recovery(lab: Lab, seconds: float) -> None:
    lab.run(20)
    lab.store.die()
    lab.start()  # the anchor has been taken, and nobody has looked at the clock since
    lab.clock.step(seconds)
    lab.follow()
    lab.run(20)
    epochs, gaps, _ = look(lab)
    assert [e.number for e in epochs] == [0, 1]
    assert gaps[-1].reason is (Reason.CLOCK_STEP if lab.spec.counter else Reason.RESTART)


def test_rows_that_were_read_before_a_step_and_come_after_it_stay_in_their_epoch(lab: Lab) -> None:
    lab.run(20)
    under_way = lab.make(10)
    lab.clock.step(3600)
    lab.follow()
    lab.give(under_way)
    lab.run(20)
    epochs, gaps, rows = look(lab)
    assert [e.number for e in epochs] == [0, 1]
    assert [g.reason for g in gaps] == [Reason.CLOCK_STEP]
    assert rows[1].rows == 20


def test_a_source_that_goes_by_a_clock_of_its_own_cannot_put_a_step_off_for_ever(wave: Lab) -> None:
    wave.run(20)
    wave.clock.step(3600)
    wave.follow()
    for _ in range(10):
        block = wave.make(10)
        wave.give(Block.of(block.schema, block.columns, stream="s", first=block.first, t0_ns=block.t0_ns - 3600 * NS))
    epochs, _, _ = look(wave)
    assert len(epochs) == 2


# ---- slews -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.3, -0.3, -1.0])
def test_a_slew_ends_no_epoch_and_the_rows_come_to_the_right_time(lab: Lab, seconds: float) -> None:
    lab.run(20)
    lab.clock.step(seconds)
    for _ in range(250):
        lab.follow()
        lab.give(lab.make(100))
    assert abs(lab.clock.drift_ns()) < 1000
    newest = lab.store.intakes[STREAM].stats().last_ns
    assert newest == pytest.approx(lab.clock.now_ns(), abs=10 * MS)
    lab.store.turn(3)
    lab.store.commit()
    epochs, gaps, _ = look(lab)
    assert (len(epochs), gaps) == (1, [])


def test_slews_that_add_up_to_more_than_a_step_end_no_epoch(wave: Lab) -> None:
    for _ in range(5):
        wave.clock.step(0.4)
        for _ in range(100):
            wave.follow()
            wave.give(wave.make(100))
    epochs, _, _ = look(wave)
    assert len(epochs) == 1


def test_an_epoch_that_begins_while_time_is_bent_notes_it(wave: Lab) -> None:
    wave.run(20)
    wave.clock.step(0.4)
    wave.follow()
    wave.clock.advance(1000)
    wave.store.intakes[STREAM].interrupted(Reason.DISCONNECT, "")
    wave.spec = StreamSpec("s", wave.spec.schema, "another")
    wave.arm()
    wave.run(20)
    epochs, _, _ = look(wave)
    assert epochs[1].anchor.wall(wave.clock.steady_ns()) == pytest.approx(wave.clock.now_ns(), abs=MS)


# ---- suspend, and a wrong clock --------------------------------------------------------------------------------------


def test_suspend_costs_the_rows_of_that_time_and_nothing_else(wave: Lab) -> None:
    wave.run(20)
    wave.clock.suspend(3600)
    wave.follow()
    wave.at += 36_000  # the instrument went on counting
    wave.run(20)
    epochs, (gap,), _ = look(wave)
    assert len(epochs) == 1
    assert (gap.rows, gap.reason) == (36_000, Reason.SOURCE)


@pytest.mark.parametrize("year", [1970, 2036])
def test_a_machine_that_starts_in_the_wrong_year_and_is_corrected(lab: Lab, year: int) -> None:
    lab.run(20)
    lab.stop()
    wrong_s = (year - 1970) * 365.25 * 86_400 + 60 - lab.clock.now_ns() / NS
    lab.clock.boot("another", wrong_s)
    lab.start()
    lab.run(20)
    lab.clock.step(-wrong_s + 86_400)
    lab.follow()
    lab.run(20)
    lab.stop()
    lab.clock.boot("a third", wrong_s)  # and again
    lab.start()
    lab.run(20)
    epochs, gaps, _ = look(lab)
    assert [e.number for e in epochs] == [0, 1, 2, 3]
    assert [g.epoch for g in gaps] == [1, 2, 3]
    reader = Reader(lab.store.dir)
    in_2025 = [b for b in reader.blocks(STREAM, T0, T0 + 2 * 86_400 * NS) if isinstance(b, Block)]
    assert {b.epoch for b in in_2025} == {0, 2}
    assert sum(b.rows for b in in_2025) == 40
    last = [b for b in reader.last(STREAM, seconds=60) if isinstance(b, Block)]
    assert {b.epoch for b in last} == {3}
    assert sum(b.rows for b in last) == 20
    assert reader.streams()[-1].rows == 20


# ---- blocks that are merely late -------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_up_s", [3, 4.5, 60])
def test_blocks_that_were_held_up_end_no_epoch(wave: Lab, held_up_s: float) -> None:
    wave.run(20)
    made = [wave.make(1) for _ in range(round(held_up_s * 10))]
    for i, block in enumerate(made):  # all at once, each as late as it comes: estimated from arrival
        late_ns = wave.clock.now_ns() + i * MS
        wave.give(Block.of(block.schema, block.columns, stream="s", first=block.first, t0_ns=late_ns))
    for _ in range(200):
        wave.give(wave.make(10))
    epochs, gaps, _ = look(wave)
    assert (len(epochs), gaps) == (1, [])


def test_a_link_that_catches_up_slowly_ends_no_epoch(wave: Lab) -> None:
    wave.run(20)
    wave.clock.advance(60)  # a minute of rows waits in the instrument
    for _ in range(120):
        block = wave.make(20)  # twice as fast as they are made
        wave.clock.advance(-1.0)
        late = wave.clock.now_ns() - 1900 * MS
        on_time = T0 + (wave.at - 20 + 1) * 100 * MS
        wave.give(Block.of(block.schema, block.columns, stream="s", first=block.first, t0_ns=max(late, on_time)))
    epochs, gaps, _ = look(wave)
    assert (len(epochs), gaps) == (1, [])


def test_a_source_that_stood_still_without_counting_begins_an_epoch_when_that_is_sure(wave: Lab) -> None:
    wave.run(20)
    wave.clock.advance(30)
    for _ in range(10):
        wave.run(10)
    epochs, (gap,), rows = look(wave)
    assert [e.number for e in epochs] == [0, 1]
    assert (gap.rows, gap.reason, gap.detail) == (0, Reason.CLOCK_STEP, "the source's time left its rate")
    assert rows[1].t0_ns == pytest.approx(T0 + (2 + 30 + 5) * NS, abs=2 * NS)


def test_the_simulated_digitizer_counts_by_the_steady_clock_whatever_the_wall_clock_does() -> None:
    clock = FakeClock(T0)
    options = WaveformOptions(channels=1, rate_hz=10, block_s=1.0, free_running=True)

    def next_row(name: str) -> int:
        driver = WaveformDriver(name, options, clock)
        driver.arm()
        clock.advance(2)
        block = driver.read(1.0)[0]
        assert block.t0_ns == clock.at_ns(block.first * NS // 10)
        driver.close()
        return block.first - clock.steady_ns() * 10 // NS

    before = next_row("one")
    clock.step(0.9)
    clock.follow()
    clock.advance(1800)
    assert next_row("two") == before
    clock.step(-3600)
    clock.follow()
    assert next_row("three") == before
