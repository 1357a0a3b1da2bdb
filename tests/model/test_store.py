"""The store against a model: whatever happens in whatever order, what is read is what was recorded.

The model is a plain dictionary: per stream and epoch, the rows that came through the door. `Story` lets a source, an
operator, a disk and a power switch do what they like to a store that runs without threads (`stepping.Store`), and
compares after each look. What it holds the store to:

- a row that is read has the value and the time that it came with, each row once, in order;
- rows and gaps together leave no hole in an epoch, and the books balance;
- a row that was durable is there, unless the test itself damaged the batch that it is in: then that is told;
- a store that was ended is complete.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from structlog.testing import capture_logs

from scidaq.block import Block, Channel, Epoch, Gap, Reason, Schema, StreamSpec, schema
from scidaq.query import Reader
from scidaq.store import (
    DURABLE_MAP,
    Mark,
    Options,
    Policy,
    Record,
    Segment,
    read_journal,
    read_marks,
    scan,
    verify,
)
from scidaq.store.segment import Damage
from scidaq.testing import FakeClock
from tests import figures
from tests.model.stepping import Killed, Store, make_template

NS = 1_000_000_000
START_NS = 1_750_000_000 * NS
PERIOD_NS = 1_000_000
PRE_TRIGGER_NS = 20 * PERIOD_NS
ROUNDING_NS = 2
WAVE, POLL, RUNS = "dev/wave", "dev/poll", "dev/runs"
STREAMS = (WAVE, POLL, RUNS)
RATE = Fraction(1000)
NARROW = [Channel("n", "int64"), Channel("x", "float64", "V")]
WIDE = [*NARROW, Channel("w", "float64", "V", (1024,))]
OTHER = [Channel("n", "int64"), Channel("x", "float64", "mV")]
LAYOUTS = {"narrow": NARROW, "wide": WIDE, "other": OTHER}
"""Ten wide rows go straight to the segment, narrow ones through the journal."""


@dataclass
class Kept:
    """One epoch as the model knows it."""

    epoch: Epoch
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Value and time of every row that came through the door, the first that came."""
    must: set[int] = field(default_factory=set)
    """Rows that policy wants recorded."""
    durable: set[int] = field(default_factory=set)
    """Those of them that the store has promised to keep."""
    left: set[int] = field(default_factory=set)
    """Rows that the store may know as left out by policy: repeated, they are dropped."""
    lost: set[int] = field(default_factory=set)
    """Rows that the test has damaged: they may be missing, and may be sent anew."""
    anew: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    """What was sent of those since."""
    high: int = 0
    """Where the numbering was when the process ended; only while it goes on."""


@dataclass
class Source:
    """What one instrument makes."""

    stream: str
    rate: Fraction | None
    counted: bool
    policy: Policy
    layout: str = "narrow"
    at: int = 0
    """Its next number."""
    life: int = 0
    base: int = 0
    """What is added to its numbers to make values, so that no two lives have the same."""
    offset_ns: int = 0
    epochs: dict[int, Kept] = field(default_factory=dict)
    under_way: list[tuple[int, int, list[int]]] = field(default_factory=list)
    """Blocks that are not known to be durable: entry, epoch, rows."""
    wanted: bool = True
    present: int = -1
    """The epoch that goes on."""
    held: list[tuple[int, list[int], int]] = field(default_factory=list)
    """Blocks that came while no run was under way: epoch, rows, time of the last."""

    @property
    def schema(self) -> Schema:
        return schema(LAYOUTS[self.layout], self.rate)

    @property
    def spec(self) -> StreamSpec:
        counter = f"counter-{self.life}" if self.counted else None
        return StreamSpec(self.stream.split("/")[1], self.schema, counter, backfill=self.counted)

    def block(self, first: int, rows: int, wrong: int) -> Block:
        n = np.arange(first, first + rows)
        values = n + self.base + wrong
        t0 = START_NS + (self.base + first) * PERIOD_NS + self.offset_ns
        columns = [values, values * 0.5]
        if self.layout == "wide":
            columns.append(np.repeat(values[:, None].astype(float), 1024, axis=1))
        times = None if self.rate is not None else t0 + np.arange(rows) * PERIOD_NS
        return Block.of(self.schema, columns, stream=self.spec.name, first=first, t0_ns=t0, times=times)


def _sources() -> dict[str, Source]:
    return {
        WAVE: Source(WAVE, RATE, True, Policy.ALWAYS),
        POLL: Source(POLL, None, False, Policy.ALWAYS),
        RUNS: Source(RUNS, None, True, Policy.RUNS, wanted=False),
    }


some_stream = st.sampled_from(STREAMS)
some_rows = st.integers(1, 40)
some_jobs = st.sampled_from([0, 1, 2, 3, 5, 1000, 1000])
some_verbs = st.integers(0, 16) | st.integers(0, 60)


class Story(RuleBasedStateMachine):
    """Anything that can happen to a store."""

    template: Path
    room: Path
    told = rows_compared = 0
    """Stories so far, and rows that were read and compared in them."""

    @initialize(
        ring=st.sampled_from([1 << 24, 1 << 24, 1 << 19]),
        segment_bytes=st.sampled_from([1 << 16, 1 << 20]),
        may_damage=st.sampled_from([False, False, True]),
        wide=st.sets(some_stream),
    )
    def begin(self, ring: int, segment_bytes: int, may_damage: bool, wide: set[str]) -> None:
        self.may_damage, self.hurt = may_damage, set[Path]()
        Story.told += 1
        self.base = Path(tempfile.mkdtemp(prefix="story-", dir=self.room))
        self.logs = capture_logs()
        self.log = self.logs.__enter__()
        self.clock = FakeClock(START_NS)
        options = Options(sync_interval_ms=10, segment_bytes=segment_bytes, write_buffers=4, write_buffer_bytes=1 << 20)
        self.ring_bytes = ring
        (self.base / "d").mkdir()
        self.store = Store(self.base / "d", self.clock, options, self.template)
        self.sources = _sources()
        for stream in wide:
            self.sources[stream].layout = "wide"
        self.is_open = self.ended = self.damaged = False
        self.run_on = False
        self.promised: dict[str, Mark] = {}
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            if self.is_open:
                self.store.die()
            self.logs.__exit__(None, None, None)
            shutil.rmtree(self.base)

    # ---- the door, as the model sees it ----

    def _tap(self, stream: str) -> Callable[[int, Block | Gap | Epoch], None]:
        source = self.sources[stream]

        def tap(seq: int, item: Block | Gap | Epoch) -> None:
            if isinstance(item, Epoch):
                kept = source.epochs.get(item.number)
                if kept is None or kept.epoch.as_json() != item.as_json():
                    assert kept is None or not kept.durable, "an epoch that has durable rows is begun again"
                    source.epochs[item.number] = Kept(item)
                source.present = item.number
                source.held.clear()
                return
            kept = source.epochs[item.epoch]
            kept.high = max(kept.high, item.end)
            if isinstance(item, Block):
                self._take(source, kept, seq, item)

        return tap

    @staticmethod
    def _take(source: Source, kept: Kept, seq: int, block: Block) -> None:
        new = []
        for i, n, t in zip(
            range(block.first, block.end), block.column("n").tolist(), block.time_ns().tolist(), strict=True
        ):
            if i not in kept.rows and i not in kept.left and i not in kept.lost:
                new.append(i)
            kept.rows.setdefault(i, (n, t))
            if i in kept.lost:
                kept.anew.setdefault(i, set()).add((n, t))
        if source.wanted:
            kept.must.update(new)
        else:
            source.held.append((block.epoch, new, block.last_ns))
        source.under_way.append((seq, block.epoch, list(range(block.first, block.end))))

    def _note_durable(self) -> None:
        """What the ring need not keep any more is promised."""
        for stream, source in self.sources.items():
            released = self.store.holds[stream].released
            while source.under_way and source.under_way[0][0] < released:
                _, epoch, rows = source.under_way.pop(0)
                kept = source.epochs[epoch]
                kept.durable.update(kept.must.intersection(rows))
        self.promised = read_marks(self.store.dir / DURABLE_MAP)

    # ---- looking ----

    def look(self, complete: bool = False) -> dict[str, dict[int, set[int]]]:
        """Read everything and compare; what was found, by stream and epoch."""
        reader = Reader(self.store.dir)
        names = reader.names()
        found: dict[str, dict[int, set[int]]] = {}
        for stream, source in self.sources.items():
            items = list(reader.blocks(stream)) if stream in names else []
            found[stream] = self._compare(source, items)
            Story.rows_compared += sum(len(rows) for rows in found[stream].values())
            for number, kept in source.epochs.items():
                missing = kept.durable - found[stream].get(number, set()) - kept.lost
                assert not missing, f"{stream} epoch {number}: durable rows {sorted(missing)[:5]} are not there"
            if not self.damaged and (mark := self.promised.get(stream)) is not None:
                assert len(found[stream].get(mark.epoch, ())) >= mark.durable_rows, f"{mark}, and they are not there"
            if complete and not self.damaged:
                self._complete(source, items, found[stream])
        return found

    def _compare(self, source: Source, items: list[Block | Gap]) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        at: dict[int, int] = {}
        last_ns: dict[int, int] = {}
        before = -1
        for item in items:
            assert item.epoch >= before, "epochs come in order"
            before = item.epoch
            if isinstance(item, Gap):
                assert self.damaged or item.reason is not Reason.UNEXPLAINED, item
                if item.end > item.first:
                    assert item.first == at.get(item.epoch, 0), f"gaps and rows tile an epoch: {item}"
                    at[item.epoch] = item.end
                if item.reason is Reason.POLICY:
                    assert source.policy is Policy.RUNS
                    self._may_be_left(source, item)
                continue
            assert item.first == at.get(item.epoch, 0), f"each row once, in order, or a gap: {item.first}, {at}"
            at[item.epoch] = item.end
            times = item.time_ns()
            assert (np.diff(times) >= 0).all()
            assert times[0] >= last_ns.get(item.epoch, 0), "time never goes back within an epoch"
            last_ns[item.epoch] = int(times[-1])
            self._same(source, item)
            found.setdefault(item.epoch, set()).update(range(item.first, item.end))
        return found

    @staticmethod
    def _may_be_left(source: Source, gap: Gap) -> None:
        kept = source.epochs.get(gap.epoch)
        rows = set(range(gap.first, gap.end))
        assert kept is None or not kept.durable & rows - kept.lost, f"{gap}: but these were durable"

    @staticmethod
    def _same(source: Source, block: Block) -> None:
        kept = source.epochs.get(block.epoch)
        assert kept is not None, f"nothing was ever sent in epoch {block.epoch}"
        values, times = block.column("n").tolist(), block.time_ns().tolist()
        for i, n, t in zip(range(block.first, block.end), values, times, strict=True):
            assert i in kept.rows, f"{source.stream} epoch {block.epoch} row {i} was never sent"
            said = {kept.rows[i], *kept.anew.get(i, ())}
            same = any(n == value and abs(t - when) <= ROUNDING_NS for value, when in said)
            assert same, f"{source.stream} epoch {block.epoch} row {i} is {n} at {t}, was {said}"
        numbers = np.array(values)
        np.testing.assert_array_equal(block.column("x"), numbers * 0.5)
        if "w" in block.schema.names:
            np.testing.assert_array_equal(block.column("w"), np.repeat(numbers[:, None].astype(float), 1024, axis=1))

    @staticmethod
    def _complete(source: Source, items: list[Block | Gap], found: dict[int, set[int]]) -> None:
        """Everything that came is there, and the epoch reaches as far as the numbering did."""
        reach: dict[int, int] = {}
        for item in items:
            reach[item.epoch] = max(reach.get(item.epoch, 0), item.end)
        for number, kept in source.epochs.items():
            assert kept.must <= found.get(number, set()), f"{source.stream} epoch {number} is not complete"
            assert reach.get(number, 0) == kept.high, f"{source.stream} epoch {number} ends at {reach}, not {kept.high}"

    def _verify(self) -> None:
        report = verify(self.store.dir)
        if not self.damaged:
            assert report.ok, [str(p) for p in report.problems]
            assert all(b.balanced for b in report.balances)
        odd = [e for e in self.log if "unexpected" in str(e.get("event"))]
        assert not odd, odd[0]

    def _adopt(self, found: dict[str, dict[int, set[int]]]) -> None:
        """After a start: what is there is durable, and what is not there never will be, unless it comes again."""
        reader = Reader(self.store.dir)
        self.promised = {}
        for stream, source in self.sources.items():
            source.under_way.clear()
            source.held.clear()
            for number, kept in list(source.epochs.items()):
                there = found[stream].get(number, set())
                for i in kept.rows.keys() - there - kept.lost:
                    del kept.rows[i]
                kept.must, kept.durable = set(there), set(there)
                kept.high = 0
            if stream in reader.names():
                for item in reader.blocks(stream):
                    if isinstance(item, Gap) and item.reason is Reason.POLICY and item.epoch in source.epochs:
                        source.epochs[item.epoch].left.update(range(item.first, item.end))
                    if item.epoch in source.epochs:
                        kept = source.epochs[item.epoch]
                        kept.high = max(kept.high, item.end)

    # ---- life ----

    closed = precondition(lambda self: not self.is_open)
    opened = precondition(lambda self: self.is_open)

    @closed
    @rule(dies_in=st.none() | st.none() | st.integers(0, 60), power=st.booleans(), seed=st.integers(0, 1 << 16))
    def open_again(self, dies_in: int | None, power: bool, seed: int) -> None:
        """Start; perhaps the process dies, or the power goes, before that is done."""
        if dies_in is None:
            self.start()
            return
        try:
            self._open(dies_in)
        except Killed:
            self.store.die()
            if power:
                self._cut_power(seed)
            self.ended = False
            self.look()
            self._verify()
            return
        self.store.disk.dies_in = None
        self._started()

    def start(self) -> None:
        self._open(None)
        self._started()

    def _open(self, dies_in: int | None) -> None:
        streams = {s.stream: (s.policy, PRE_TRIGGER_NS, self.ring_bytes) for s in self.sources.values()}
        self.store.open(streams, self._tap, dies_in)

    def _started(self) -> None:
        self.is_open, self.ended, self.run_on = True, False, False
        self._adopt(self.look())
        self.sources[RUNS].wanted = False
        for stream, source in self.sources.items():
            if not source.counted:
                self._new_numbers(source)
            self.store.intakes[stream].begin(source.spec)

    @staticmethod
    def _new_numbers(source: Source) -> None:
        source.life += 1
        source.base += source.at
        source.at = 0

    @opened
    @rule()
    def stop(self) -> None:
        self.store.disk.refusals.clear()
        assert self.store.close(), "it did not end cleanly"
        self.is_open, self.ended = False, True
        self._verify()
        self.look(complete=True)

    @opened
    @rule(verbs=some_verbs, turns=st.integers(0, 3), torn=st.booleans(), rows=some_rows, stream=some_stream)
    def crash(self, verbs: int, turns: int, torn: bool, rows: int, stream: str) -> None:
        self.send(stream, rows)
        self._work_until(verbs, turns, torn)
        self.store.die()
        self._down()

    @opened
    @rule(
        verbs=some_verbs,
        turns=st.integers(0, 3),
        seed=st.integers(0, 1 << 16),
        kept=st.sets(st.sampled_from(["catalog.sqlite", "durable.map"])),
        rows=some_rows,
        stream=some_stream,
    )
    def power_cut(self, verbs: int, turns: int, seed: int, kept: set[str], rows: int, stream: str) -> None:
        self.send(stream, rows)
        self._work_until(verbs, turns, torn=True)
        self.store.die()
        self._cut_power(seed, kept)
        self._down()

    def _work_until(self, verbs: int, turns: int, torn: bool) -> None:
        """Go on for a while, until so many verbs of the disk have been done."""
        disk = self.store.disk
        disk.refusals.clear()
        disk.dies_in, disk.torn = verbs, torn
        try:
            for _ in range(turns):
                self.store.turn()
                self.store.commit()
                self._note_durable()
        except Killed:
            pass
        self._note_durable()

    def _cut_power(self, seed: int, kept: set[str] | None = None) -> None:
        keep = {"catalog.sqlite", "durable.map"} if kept is None else kept
        self.store.cut_power(random.Random(seed), sorted(keep))

    def _down(self) -> None:
        self.is_open = self.ended = False
        self._verify()
        self.look()

    # ---- the source ----

    @opened
    @rule(stream=some_stream, rows=some_rows)
    def send(self, stream: str, rows: int) -> None:
        source = self.sources[stream]
        self._accept(source, source.at, rows)
        source.at += rows

    @opened
    @rule(stream=some_stream, rows=some_rows, times=st.integers(1, 3), jobs=some_jobs)
    def record(self, stream: str, rows: int, times: int, jobs: int) -> None:
        """What goes on most of the time."""
        for _ in range(times):
            self.send(stream, rows)
            self.work(1, jobs)

    def _accept(self, source: Source, first: int, rows: int, wrong: int = 0) -> None:
        intake = self.store.intakes[source.stream]
        intake._patience_s = 0.0
        intake.accept(source.block(first, rows, wrong))

    @opened
    @rule(stream=st.sampled_from([WAVE, RUNS]), rows=some_rows)
    def skip(self, stream: str, rows: int) -> None:
        self.sources[stream].at += rows

    @opened
    @rule(stream=some_stream, back=st.integers(1, 80), rows=some_rows, wrong=st.sampled_from([0, 0, 1]))
    def send_again(self, stream: str, back: int, rows: int, wrong: int) -> None:
        """Late rows, repeated ones, or both; from before the epoch too."""
        source = self.sources[stream]
        first = max(0, source.at - back)
        rows = min(rows, source.at - first)
        if rows > 0:
            self._accept(source, first, rows, wrong)

    @opened
    @rule(stream=some_stream, layout=st.sampled_from([None, "narrow", "wide", "wide", "other"]), reset=st.booleans())
    def arm(self, stream: str, layout: str | None, reset: bool) -> None:
        source = self.sources[stream]
        self.store.intakes[stream].interrupted(Reason.DISCONNECT, "cable")
        if reset or not source.counted:
            self._new_numbers(source)
        if layout is not None:
            source.layout = layout
        self.store.intakes[stream].begin(source.spec)

    @opened
    @rule(seconds=st.sampled_from([-3600, -2, 2, 90]))
    def step_clock(self, seconds: int) -> None:
        self.clock.step(seconds)
        self.clock.reanchor()
        for source in self.sources.values():
            source.offset_ns += seconds * NS

    # ---- the operator ----

    @opened
    @rule(on=st.booleans())
    def run(self, on: bool) -> None:
        source = self.sources[RUNS]
        self.store.turn()
        if on and not self.run_on and source.held:
            newest = source.held[-1][2]
            for epoch, rows, last_ns in source.held:
                if newest - last_ns <= PRE_TRIGGER_NS and epoch == source.present:
                    source.epochs[epoch].must.update(rows)
        if not on:
            source.wanted = False
        self.store.recorder.set_recording(on)
        self.store.turn()
        source.wanted = self.run_on = on
        source.held.clear()

    @closed
    @rule()
    def lose_the_catalog(self) -> None:
        for path in self.store.dir.glob("catalog.sqlite*"):
            path.unlink()

    # ---- the program ----

    @opened
    @rule(turns=st.integers(1, 3), jobs=some_jobs)
    def work(self, turns: int, jobs: int) -> None:
        self.store.turn(turns)
        self.store.commit(jobs)
        self._note_durable()

    @opened
    @rule(seconds=st.sampled_from([0.5, 11.0, 61.0, 3600.0, 90_000.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @opened
    @rule()
    def tell(self) -> None:
        self.store.tell()

    @opened
    @rule()
    def settle(self) -> None:
        """Everything becomes durable."""
        self.store.disk.refusals.clear()
        for _ in range(50):
            self.store.turn()
            self.store.commit()
            self.clock.advance(1.0)
        self._note_durable()
        for source in self.sources.values():
            if source.policy is Policy.ALWAYS:
                assert not source.under_way, f"{source.stream} does not become durable"
        self.look()
        self._verify()

    # ---- the disk ----

    @opened
    @rule(
        verb=st.sampled_from(["append", "sync", "create", "rename"]),
        times=st.integers(1, 6),
        torn=st.booleans(),
        rows=some_rows,
        stream=some_stream,
    )
    def refuse(self, verb: str, times: int, torn: bool, rows: int, stream: str) -> None:
        """The disk refuses for a while."""
        self.store.disk.torn = torn
        self.store.disk.refusals[verb] = times
        self.send(stream, rows)
        self.work(1, 1000)

    @precondition(lambda self: not self.is_open and self.may_damage)
    @rule(which=st.integers(0, 1 << 16), where=st.floats(0, 1), cut=st.booleans(), bit=st.integers(0, 7))
    def damage(self, which: int, where: float, cut: bool, bit: int) -> None:
        files = [*self.store.dir.glob("streams/*/*/*.arrows"), *self.store.dir.glob("journal/*.log")]
        files = sorted(f for f in files if f.stat().st_size and f not in self.hurt)
        if not files:
            return
        before, path = self.look(), files[which % len(files)]
        self.hurt.add(path)  # once: what a second wound costs cannot be told from a file that the first has spoilt
        content = bytearray(path.read_bytes())
        at = min(int(where * len(content)), len(content) - 1)
        self.damaged = True
        for stream, epoch, row in _hit(path, content, at, cut):
            if (kept := self.sources[stream].epochs.get(epoch)) is not None:
                kept.lost.add(row)
        if cut:
            del content[at:]
        else:
            content[at] ^= 1 << bit
        path.write_bytes(content)
        after = self.look()
        if self.ended and after != before:
            assert not verify(self.store.dir).ok, "rows are gone, and nobody says so"
        self._verify()

    # ---- the reader ----

    @rule(stream=some_stream, start=st.floats(0, 1), length=st.floats(0, 1), channels=st.sampled_from([None, ["n"]]))
    def query(self, stream: str, start: float, length: float, channels: list[str] | None) -> None:
        source = self.sources[stream]
        times = sorted({t for k in source.epochs.values() for _, t in k.rows.values()})
        reader = Reader(self.store.dir)
        if not times or stream not in reader.names():
            return
        first_ns = times[int(start * (len(times) - 1))]
        stop_ns = first_ns + int(length * (times[-1] - times[0])) + 1
        whole = _rows(reader.blocks(stream))
        part = _rows(reader.blocks(stream, first_ns, stop_ns, channels))
        assert part == {key: t for key, t in whole.items() if first_ns <= t < stop_ns}

    @rule(stream=some_stream, rows=st.integers(1, 100))
    def query_the_last(self, stream: str, rows: int) -> None:
        reader = Reader(self.store.dir)
        if stream in reader.names():
            whole = sorted(_rows(reader.blocks(stream)))
            assert sorted(_rows(iter(reader.last(stream, rows=rows)))) == whole[-rows:]


def _rows(items: Iterator[Block | Gap]) -> dict[tuple[int, int], int]:
    """Time of each row, by epoch and row."""
    out: dict[tuple[int, int], int] = {}
    for item in items:
        if isinstance(item, Block):
            for i, t in zip(range(item.first, item.end), item.time_ns().tolist(), strict=True):
                assert (item.epoch, i) not in out
                out[item.epoch, i] = t
    return out


def _hit(path: Path, content: bytearray, at: int, cut: bool) -> Iterator[tuple[str, int, int]]:
    """The rows that are damaged with a byte, or cut off from there."""
    data = memoryview(bytes(content))
    if path.suffix == ".log":
        yield from _hit_journal(path, data, at, cut)
        return
    segment = Segment(data, path)
    if segment.epoch is None:
        return
    durable = max((int(b.facts.get("synced", 0)) for b in segment.batches if not b.at <= at < b.end), default=0)
    tail = not segment.ended and at >= durable
    for b in segment.batches:
        struck = b.end > at if cut else b.at <= at < b.end
        # What lies behind damage that a torn write can explain is put aside with it.
        if b.rows and (struck or at < segment.head or (tail and b.end > at)):
            for row in range(int(b.facts["first"]), int(b.facts["first"]) + b.rows):
                yield segment.epoch.stream, segment.epoch.number, row


def _hit_journal(path: Path, data: memoryview, at: int, cut: bool) -> Iterator[tuple[str, int, int]]:
    """A journal is read anew with the damage: what is missing then is what was hit."""

    def rows(content: memoryview) -> set[tuple[str, int, int]]:
        out: set[tuple[str, int, int]] = set()
        for r in read_journal(content, path):
            if isinstance(r, Record) and r.block is not None:
                out.update((r.epoch.stream, r.epoch.number, i) for i in range(r.block.first, r.block.end))
        return out

    broken = bytearray(data)
    if cut:
        del broken[at:]
        yield from rows(data) - rows(memoryview(bytes(broken)))
        return
    batches = [i for i in scan(data, path) if not isinstance(i, Damage)]
    durable = max((int(b.facts.get("synced", 0)) for b in batches if not b.at <= at < b.end), default=0)
    broken[at] ^= 255
    keep = next((b.at for b in batches if b.at <= at < b.end), at) if at >= durable else len(broken)
    yield from rows(data) - rows(memoryview(bytes(broken[:keep])))


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """Memory where there is some: the syncs that count are those of the model."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="scidaq-model-", dir=place) as directory:
        yield Path(directory)


@pytest.fixture(autouse=True)
def with_outlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short segments have one too, or none in a story would."""
    monkeypatch.setattr("scidaq.store.segment.LEAST", 1)


EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))


@pytest.mark.slow
@pytest.mark.timeout(0 if EXAMPLES else 600)
def test_what_is_read_is_what_was_recorded_whatever_happens(room: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # each story has a time of its own
    Story.room, Story.template = room, make_template(room / "template")
    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=EXAMPLES or 40,
            stateful_step_count=40,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            deadline=None,
        ),
    )
    if EXAMPLES:
        what = "`make model`: stories of up to 40 steps"
        figures.write(
            figures.Row(what, Story.told, Story.rows_compared, 0, 0, 0, "compared with a model after each step")
        )


# ---- stories that once ended badly -----------------------------------------------------------------------------------


@pytest.fixture
def story(room: Path) -> Iterator[Story]:
    Story.room, Story.template = room, make_template(room / "template")
    story = Story()
    story.begin(1 << 24, 1 << 16, False, set())
    yield story
    story.teardown()


def test_a_run_ends_where_it_did_when_its_rows_have_to_be_written_again(story: Story) -> None:
    story.run(True)
    story.send(RUNS, 1)
    story.refuse("append", 1, False, 1, WAVE)
    story.run(False)
    story.stop()


def test_a_hole_that_late_rows_fill_in_part_stays_explained_by_a_segment_behind_them(story: Story) -> None:
    story.send(WAVE, 20)
    story.stop()
    story.start()
    story.skip(WAVE, 34)
    story.send(WAVE, 3)
    story.stop()
    story.start()
    story.send_again(WAVE, 10, 16, 0)
    story.settle()
