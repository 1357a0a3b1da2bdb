"""An intake, a ring and a recorder on a real directory, fed by hand; restarted and killed without leaving the process.

The source is made up by the test: row n of it has the value n, so that every recorded row can be checked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from scidaq.block import Block, Channel, Epoch, Gap, Reason, Resume, Schema, StreamSpec, schema
from scidaq.pipeline import Intake, Ring
from scidaq.query import Reader
from scidaq.store import Files, Mark, Options, Policy, Recorder, StreamStats, open_station, read_marks, recover, verify
from scidaq.store.track import Track
from scidaq.testing import FakeClock
from scidaq.testing.crashing import WatchedFiles

STREAM = "dev/wave"
RATE = Fraction(1000)
PLAIN = schema([Channel("n", "int64"), Channel("x", "float64", "V")], RATE)
OTHER = schema([Channel("n", "int64"), Channel("x", "float64", "mV")], RATE)
PERIOD_NS = 1_000_000
EPOCH_NS = 1_750_000_000_000_000_000


def rows_of(source: Schema, first: int, rows: int, *, t0_ns: int | None = None, wrong: int = 0) -> Block:
    """Rows `[first, first + rows)` of the made-up source; `wrong` is added to their values."""
    n = np.arange(first, first + rows)
    when = EPOCH_NS + first * PERIOD_NS if t0_ns is None else t0_ns
    times = None if source.rate is not None else when + np.arange(rows) * PERIOD_NS
    return Block.of(source, [n + wrong, n * 0.5 + wrong], stream="wave", first=first, t0_ns=when, times=times)


class Nowhere:
    """A catalog that nobody reads."""

    def epoch(self, epoch: Epoch, began_ns: int) -> None: ...

    def segment(self, facts: Any) -> None: ...

    def gaps(self, gaps: Iterable[Gap]) -> None: ...


class WallClock(FakeClock):
    """Real seconds for waiting, and a wall clock that only the test moves."""

    def monotonic_s(self) -> float:
        return time.monotonic()


class Rig:
    """One stream from intake to disk. `open` and `close` (or `kill`) any number of times."""

    def __init__(
        self,
        data_dir: Path,
        *,
        policy: Policy = Policy.ALWAYS,
        pre_trigger_s: float = 0.0,
        ring_bytes: int = 1 << 24,
        clock: FakeClock | None = None,
        **options: Any,
    ) -> None:
        self.dir, self.policy, self.ring_bytes = data_dir, policy, ring_bytes
        self.pre_trigger_ns = int(pre_trigger_s * 1e9)
        self.options = Options(**({"sync_interval_ms": 10, "journal_move_s": 0.05, "segment_bytes": 1 << 16} | options))
        self.clock = clock or WallClock(EPOCH_NS)
        self.before: Callable[[str, str, int, Path], None] | None = None
        self.disk: Files | None = None
        """What it writes to, where not the plain file system."""
        self.spec = StreamSpec("wave", PLAIN, "counter-0", backfill=True)
        self._dead = False
        self.is_open = False

    # ---- life ----

    def _enter(self, verb: str, kind: str, n: int, path: Path) -> None:
        if self._dead:
            raise Killed  # ends the commit thread here and now
        if self.before is not None:
            self.before(verb, kind, n, path)

    def open(self, announce: bool = True) -> Rig:
        """Start, with recovery."""
        self._dead = False
        files: Files = WatchedFiles(self._enter, self.disk)
        me, self._lock = open_station(self.dir, files, "rig", self.clock.now_ns(), False)
        self._files, self._uuid = files, me.uuid
        found = self.recovered = recover(self.dir, files, self.clock, me.uuid, {})
        number = max((n for n, _ in found.journals), default=-1) + 1
        self.recorder = Recorder(self.dir, files, self.clock, me.uuid, self.options, Nowhere(), number)
        for stream, stand in found.stands.items():
            self.recorder.resume(stream, stand)
        self.recorder.adopt_journals(found.journals)
        self.ring = Ring(STREAM, self.ring_bytes, bell=self.recorder.bell)
        mine = found.stands.get(STREAM)
        self.resume: Resume | None = mine.resume() if mine is not None else None
        self.intake = Intake(STREAM, self.ring, self.clock, self.resume)
        self.recorder._thread = _mortal("recorder-encode", self.recorder._run)
        self.recorder._commit._thread = _mortal("recorder-commit", self.recorder._commit._run)
        self.recorder.start()
        self.recorder.add(STREAM, self.ring.hold(), self.policy, self.pre_trigger_ns)
        self.is_open = True
        if announce:
            self.intake.begin(self.spec)
        return self

    def close(self) -> None:
        """Stop cleanly."""
        self.intake.close()
        self.ring.close()
        assert self.recorder.close(30), "recording did not end"
        if self.recorder.abandoned:  # as a station does, so that nothing is left that refused writes have torn
            recover(self.dir, self._files, self.clock, self._uuid, {})
        self._lock.close()
        self.is_open = False

    def kill(self) -> None:
        """End both threads where they are; nothing that has not reached the operating system does so any more."""
        self._dead = True
        recorder = self.recorder
        recorder._inbox.append(_end)
        recorder._wake.set()
        recorder._thread.join(10)
        recorder._commit.close(10)
        assert not recorder._thread.is_alive()
        assert not recorder._commit._thread.is_alive()
        self._lock.close()
        self.is_open = False

    def __enter__(self) -> Rig:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.is_open:
            if kind is None:
                self.close()
            else:
                self.kill()

    # ---- the source ----

    def send(self, first: int, rows: int, **how: Any) -> None:
        """The source sends rows."""
        self.intake.accept(rows_of(self.spec.schema, first, rows, **how))

    def settle(self, timeout_s: float = 10.0) -> None:
        """Wait until everything sent so far is durable."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            stats = self.recorder.stats().streams
            if stats and self.ring.stats().held_bytes == 0 and stats[0].delivered >= self.intake.delivered:
                return
            time.sleep(0.002)
        raise AssertionError(f"not durable within {timeout_s} s: {self.recorder.stats()} {self.ring.stats()}")

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, "it did not come to it"
            time.sleep(0.001)

    @property
    def book(self) -> StreamStats:
        """The book as recorded, when there is one."""
        self.wait_for(lambda: bool(self.recorder.stats().streams))
        return self.recorder.stats().streams[0]

    @staticmethod
    def wait_a_moment() -> None:
        """Let the other threads do something."""
        time.sleep(0.0015)

    @property
    def track(self) -> Track:
        """What the recorder knows of the stream."""
        self.wait_for(lambda: STREAM in self.recorder._tracks)
        return self.recorder._tracks[STREAM]

    def marks(self) -> Mark | None:
        """How far the stream is durable."""
        return read_marks(self.dir / "durable.map").get(STREAM)

    def read(self) -> Recording:
        """Everything on disk, checked."""
        return Recording(self.dir)


class Killed(BaseException):
    """What ends a thread as if its process had been killed."""


def _end() -> None:
    raise Killed


def _mortal(name: str, run: Callable[[], None]) -> threading.Thread:
    def until_killed() -> None:
        with contextlib.suppress(Killed):
            run()

    return threading.Thread(target=until_killed, name=name, daemon=True)


class Recording:
    """What a data directory holds of the stream: verified, and read by the reader, each row compared."""

    def __init__(self, data_dir: Path, stream: str = STREAM) -> None:
        report = verify(data_dir)
        assert report.ok, [str(p) for p in report.problems]
        self.balances = {b.epoch: b for b in report.balances if b.stream == stream}
        assert all(b.balanced for b in self.balances.values()), self.balances
        self.rows: dict[int, list[int]] = {}
        """Per epoch the indices of the rows, as read."""
        self.source_rows: list[int] = []
        """The source's own numbers of all rows, over all epochs."""
        self.gaps: list[Gap] = []
        reader = Reader(data_dir)
        self.epochs: dict[int, Epoch] = {}
        if stream in {s.stream for s in reader.streams()}:  # a directory may have no segment yet
            self.epochs = {e.number: e for e in reader.epochs(stream)}
            self._read(reader, stream)
        for number, balance in self.balances.items():
            assert len(self.rows.get(number, [])) == balance.ledger.recorded

    def _read(self, reader: Reader, stream: str) -> None:
        at: dict[int, int] = {}
        last_ns: dict[int, int] = {}
        for item in reader.blocks(stream):
            if isinstance(item, Gap):
                assert item.reason is not Reason.UNEXPLAINED, item
                self.gaps.append(item)
                if not item.unknown and item.end > item.first:
                    assert item.first == at.get(item.epoch, 0), "gaps and rows tile an epoch"
                    at[item.epoch] = item.end
                continue
            assert item.first == at.get(item.epoch, 0), "each row once, in order"
            at[item.epoch] = item.end
            origin = self.epochs[item.epoch].origin
            n = np.arange(item.first, item.end) + origin
            np.testing.assert_array_equal(item.column("n"), n)
            np.testing.assert_array_equal(item.column("x"), n * 0.5)
            times = item.time_ns()
            assert (np.diff(times) >= 0).all()
            assert times[0] >= last_ns.get(item.epoch, 0), "time never goes back within an epoch"
            last_ns[item.epoch] = int(times[-1])
            self.rows.setdefault(item.epoch, []).extend(range(item.first, item.end))
            self.source_rows.extend(int(v) for v in n)
        for number, balance in self.balances.items():
            ledger = balance.ledger
            accounted = ledger.recorded + ledger.gaps + ledger.left_out
            assert at.get(number, 0) == accounted, "what is read is what the book says"

    def total(self, name: str) -> int:
        """A number of the books, over all epochs."""
        return sum(getattr(b.ledger, name) for b in self.balances.values())

    def gap_list(self) -> list[tuple[int, int, int, Reason]]:
        """The gaps that are read: epoch, first, end, reason."""
        return [(g.epoch, g.first, g.end, g.reason) for g in self.gaps]


__all__ = ["OTHER", "PLAIN", "RATE", "STREAM", "Recording", "Rig", "rows_of"]
