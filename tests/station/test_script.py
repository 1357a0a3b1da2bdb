"""`scidaq.record`: a script's rows, on their way to the disk, through interruptions, kills and full disks."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scidaq
from scidaq.block import NS, Block, Channel, Gap
from scidaq.errors import DiskStalled, InvalidBlock, RequestError, ScidaqError, StationBusy, WriteFailed
from scidaq.query import Reader
from scidaq.station import Recording, record, script
from scidaq.store import verify
from scidaq.store.files import File, PosixFiles
from scidaq.testing import FakeClock
from tests.balance.rig import WallClock

T0 = 1_750_000_000 * NS
STREAM = "script/readings"
VI = {"v": "V", "i": "A"}


def blocks_of(data_dir: Path, stream: str = STREAM) -> list[Block]:
    return [b for b in Reader(data_dir).blocks(stream) if isinstance(b, Block)]


def gaps_of(data_dir: Path, stream: str = STREAM) -> list[Gap]:
    return [g for g in Reader(data_dir).blocks(stream) if isinstance(g, Gap)]


def values_of(data_dir: Path, name: str, stream: str = STREAM) -> list[Any]:
    """The values of a channel, None where they are missing."""
    out: list[Any] = []
    for block in blocks_of(data_dir, stream):
        i = block.schema.names.index(name)
        mask = block.valid[i] if block.valid else None
        there = itertools.repeat(True) if mask is None else mask
        out += [v if ok else None for v, ok in zip(block.columns[i].tolist(), there, strict=False)]
    return out


def times_of(data_dir: Path) -> list[int]:
    return [int(t) for b in blocks_of(data_dir) for t in b.time_ns()]


def sound(data_dir: Path) -> None:
    report = verify(data_dir)
    assert report.ok, [str(p) for p in report.problems]
    assert all(b.balanced for b in report.balances)


@contextmanager
def quick(data_dir: Path, channels: Any = None, **how: Any) -> Iterator[Recording]:
    """A recording whose interval is short."""
    with Recording(data_dir, channels, sync_interval_ms=how.pop("sync_interval_ms", 20), **how) as rec:
        yield rec


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_there_after_the_with(tmp_path: Path) -> None:
    with scidaq.record(tmp_path / "data", VI) as rec:
        rec.add(v=1.5, i=3e-3)
        rec.add(i=4e-3, v=2)
        rec.extend(v=np.array([3.0, 4.0]), i=[5e-3, 6e-3])
    assert values_of(tmp_path / "data", "v") == [1.5, 2.0, 3.0, 4.0]
    assert values_of(tmp_path / "data", "i") == [3e-3, 4e-3, 5e-3, 6e-3]
    assert [c.unit for c in blocks_of(tmp_path / "data")[0].schema.channels] == ["V", "A"]
    sound(tmp_path / "data")


def test_the_first_row_tells_what_the_channels_are(tmp_path: Path) -> None:
    with quick(tmp_path) as rec:
        rec.add(n=3, x=1.5, ok=True, note="go", wave=np.arange(3, dtype=np.int16))
        rec.add(n=4, x=2, ok=False, note="Ω", wave=[4, 5, 6])
    block = blocks_of(tmp_path)[0]
    assert [(c.dtype, c.shape) for c in block.schema.channels] == [
        ("int64", ()),
        ("float64", ()),
        ("bool", ()),
        ("text", ()),
        ("int16", (3,)),
    ]
    assert values_of(tmp_path, "note") == [b"go", "Ω".encode()]
    assert values_of(tmp_path, "ok") == [True, False]
    assert values_of(tmp_path, "wave") == [[0, 1, 2], [4, 5, 6]]
    sound(tmp_path)


def test_a_whole_number_in_the_first_row_binds_nobody_to_whole_numbers(tmp_path: Path) -> None:
    with quick(tmp_path) as rec:
        rec.add(v=0, n=2**60 + 1)
        rec.add(v=0.25, n=2)
        rec.extend(v=[1, 2.5], n=[3, 4])
    assert values_of(tmp_path, "v") == [0, 0.25, 1.0, 2.5]
    assert values_of(tmp_path, "n") == [2**60 + 1, 2, 3, 4]
    assert [e.number for e in Reader(tmp_path).epochs(STREAM)] == [0, 1]
    sound(tmp_path)


def test_what_is_not_given_is_missing_and_no_number(tmp_path: Path) -> None:
    with quick(tmp_path, VI) as rec:
        rec.add(v=1.0)
        rec.add(v=None, i=2.0)
        rec.add(v=float("nan"), i=3.0)
        rec.extend(v=np.ma.masked_array([4.0, 5.0], [False, True]))
        rec.extend(v=[None, 6.0], i=[7.0, 8.0])
    v, i = values_of(tmp_path, "v"), values_of(tmp_path, "i")
    assert v[:2] == [1.0, None]
    assert np.isnan(v[2])
    assert v[3:] == [4.0, None, None, 6.0]
    assert i == [None, 2.0, 3.0, None, None, 7.0, 8.0]
    sound(tmp_path)


def test_a_row_may_be_missing_as_a_whole(tmp_path: Path) -> None:
    with quick(tmp_path, {"v": "V"}) as rec:
        for v in (1.0, None, 3.0, None):
            rec.add(v=v)
    assert values_of(tmp_path, "v") == [1.0, None, 3.0, None]
    sound(tmp_path)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"v": 1.0, "vv": 2.0}, "did you mean 'v'"),
        ({"q": 1.0}, "there are v, n, ok, note, wave"),
        ({"v": "1.0"}, "channel 'v' is float64, and '1.0' (str) is not"),
        ({"v": 1j}, "channel 'v' is float64"),
        ({"v": [1.0, 2.0]}, "channel 'v' is float64"),
        ({"n": 1.5}, "channel 'n' is int16"),
        ({"n": 40_000}, "it holds -32768 to 32767"),
        ({"ok": 1}, "channel 'ok' is bool"),
        ({"note": "toolong"}, "it holds 4 bytes"),
        ({"note": b"x"}, "channel 'note' is text"),
        ({"wave": [1, 2, 3]}, "[3] instead of [2]"),
        ({"wave": [1, 2.5]}, "its dtype is float64"),
        ({}, "a row names at least one channel"),
    ],
)
def test_a_row_that_is_none_is_refused_and_leaves_nothing(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    channels = {
        "v": float,
        "n": "int16",
        "ok": bool,
        "note": Channel("note", "text", max_bytes=4),
        "wave": Channel("wave", "int32", shape=(2,)),
    }
    with quick(tmp_path, channels) as rec:
        rec.add(v=1.0)
        with pytest.raises(RequestError) as refused:
            rec.add(row)
        assert says in str(refused.value)
        rec.add(v=2.0)
        assert rec.rows == 2
    assert values_of(tmp_path, "v") == [1.0, 2.0]


def test_numbers_alone_are_refused_as_clearly(tmp_path: Path) -> None:
    with quick(tmp_path, {"x": "float32", "n": np.uint8}) as rec:
        rec.add(x=1.0, n=1)
        rec.add(x=2.0, n=2)
        for row in ({"x": 1e300, "n": 1}, {"x": 1.0, "n": 256}, {"x": 1.0, "n": -1}, {"x": "a", "n": 1}):
            with pytest.raises(RequestError):
                rec.add(row)
        rec.add(x=float("inf"), n=np.int64(3))
    assert values_of(tmp_path, "n") == [1, 2, 3]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"v": [1.0, 2.0], "i": [1.0]}, "different lengths: v 2, i 1"),
        ({"v": [1.0, 2.0], "i": 1.0}, "i one value"),
        ({"v": [1.0], "x": [1.0]}, "no channel 'x'"),
        ({"v": ["a"]}, "channel 'v'"),
        ({"v": np.array(["a"])}, "its dtype is <U1"),
        ({}, "no rows"),
    ],
)
def test_columns_that_are_none_are_refused_as_a_whole(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    with quick(tmp_path, VI) as rec:
        with pytest.raises(RequestError) as refused:
            rec.extend(columns)
        assert says in str(refused.value)
        assert rec.rows == 0
        rec.extend(v=[], i=[])
        assert rec.rows == 0


@pytest.mark.parametrize("channels", ["v", {"v": "Volt!"}, {"v": object()}, {"v": Channel("w")}, {"time": "s"}, []])
def test_channels_that_cannot_be_are_refused_before_anything_is_made(tmp_path: Path, channels: Any) -> None:
    with pytest.raises((RequestError, InvalidBlock)):
        record(tmp_path / "data", channels)
    assert not (tmp_path / "data").exists()


def test_names_that_are_no_words_of_python_are_given_as_a_mapping(tmp_path: Path) -> None:
    with quick(tmp_path, ["t", "dmm.v"]) as rec:
        rec.add({"t": 1.0, "dmm.v": 2.0})
        rec.add({"t": 3.0, "dmm.v": 4.0})
        rec.extend({"t": [5.0], "dmm.v": [6.0]})
    assert values_of(tmp_path, "t") == [1.0, 3.0, 5.0]
    assert values_of(tmp_path, "dmm.v") == [2.0, 4.0, 6.0]


# ---- times -----------------------------------------------------------------------------------------------------------


def test_times_are_now_or_as_given(tmp_path: Path) -> None:
    clock = FakeClock(T0)
    with quick(tmp_path, VI, clock=clock) as rec:
        rec.add(v=1.0)
        rec.add(v=1.0, t=T0 + NS)
        rec.add(v=1.0, t=T0 / NS + 2.5)
        rec.add(v=1.0, t=datetime.fromtimestamp(T0 // NS + 3, UTC))
        rec.add(v=1.0, t=np.datetime64(T0 + 4 * NS, "ns"))
        rec.extend(v=[1.0, 2.0], t=[T0 + 5 * NS, T0 + 5 * NS])
        rec.extend(v=[1.0, 2.0], t=np.array([6.0, 6.5]) + T0 / NS)
        rec.extend(v=[1.0, 2.0, 3.0], t=T0 + 7 * NS, rate_hz=3)
        clock.advance(9)
        rec.extend(v=[1.0, 2.0])
    times = times_of(tmp_path)
    assert 0 <= times[0] - T0 < NS // 2
    expected = [1, 2.5, 3, 4, 5, 5, 6, 6.5, 7]
    assert times[1:10] == [T0 + int(s * NS) for s in expected]
    assert times[10:12] == [T0 + 7 * NS + 333_333_333, T0 + 7 * NS + 666_666_667]
    assert times[12:] == [T0 + 9 * NS] * 2
    sound(tmp_path)


@pytest.mark.parametrize(
    ("t", "says"),
    [
        (1_750_000_000, "an int is taken as nanoseconds"),
        (float("nan"), "no time"),
        ("now", "no time"),
        (True, "no time"),
        (datetime(2026, 1, 1), "time zone"),  # noqa: DTZ001
        (T0 - 1, "0.000000001 s before"),
    ],
)
def test_a_time_that_cannot_be_is_refused(tmp_path: Path, t: Any, says: str) -> None:
    with quick(tmp_path, VI) as rec:
        rec.add(v=1.0, t=T0)
        with pytest.raises(RequestError) as refused:
            rec.add(v=2.0, t=t)
        assert says in str(refused.value)
        with pytest.raises(RequestError):
            rec.extend(v=[1.0, 2.0], t=[T0 + 1, T0])
        with pytest.raises(RequestError):
            rec.extend(v=[1.0, 2.0], rate_hz=10.0)
        rec.add(v=3.0, t=T0)
    assert values_of(tmp_path, "v") == [1.0, 3.0]


def test_a_row_of_now_behind_one_of_the_future_is_refused(tmp_path: Path) -> None:
    clock = FakeClock(T0)
    with quick(tmp_path, VI, clock=clock) as rec:
        rec.add(v=1.0, t=T0 + 60 * NS)
        with pytest.raises(RequestError):
            rec.add(v=2.0)
        clock.advance(61)
        rec.add(v=3.0)
    assert values_of(tmp_path, "v") == [1.0, 3.0]


def test_a_step_of_the_clock_begins_an_epoch_and_loses_nothing(tmp_path: Path) -> None:
    clock = WallClock(T0)
    with quick(tmp_path, VI, clock=clock) as rec:
        for k in range(10):
            rec.add(v=float(k), sync=True)
        clock.step(-3600)
        clock.reanchor()
        for k in range(10, 20):
            rec.add(v=float(k), sync=True)
    assert values_of(tmp_path, "v") == [float(k) for k in range(20)]
    assert len(Reader(tmp_path).epochs(STREAM)) == 2
    sound(tmp_path)


# ---- durable ---------------------------------------------------------------------------------------------------------


def test_sync_returns_when_everything_is_durable(tmp_path: Path) -> None:
    with quick(tmp_path, VI) as rec:
        for k in range(5):
            rec.add(v=float(k), i=0.0)
        rec.sync()
        assert (rec.rows, rec.durable) == (5, 5)
        rec.add(v=5.0, i=0.0, sync=True)
        assert rec.durable == 6
        assert values_of(tmp_path, "v") == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "readers have them now"
        rec.extend(v=np.zeros(100_000), sync=True)
        assert rec.durable == 100_006
    sound(tmp_path)


def test_what_was_added_becomes_durable_by_itself(tmp_path: Path) -> None:
    with quick(tmp_path, VI) as rec:
        rec.add(v=1.0)
        deadline = time.monotonic() + 10
        while rec.durable < 1 and time.monotonic() < deadline:
            time.sleep(0.002)
        assert rec.durable == 1


def test_threads_share_a_recording_and_its_syncs(tmp_path: Path) -> None:
    with quick(tmp_path, {"who": "int64", "n": "int64"}) as rec:

        def write(who: int) -> None:
            for n in range(50):
                rec.add(who=who, n=n, sync=True)

        threads = [threading.Thread(target=write, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert rec.durable == 400
    rows = list(zip(values_of(tmp_path, "who"), values_of(tmp_path, "n"), strict=True))
    for who in range(8):
        assert [n for w, n in rows if w == who] == list(range(50)), "each thread's rows in its order"
    sound(tmp_path)


row = st.fixed_dictionaries(
    {},
    optional={
        "x": st.none() | st.floats(width=64),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "f": st.none() | st.floats(width=32),
        "ok": st.none() | st.booleans(),
        "s": st.none() | st.text(max_size=5).filter(lambda s: not s.endswith("\0")),
    },
).filter(lambda r: any(v is not None for v in r.values()))
act = st.tuples(st.just("add"), row) | st.tuples(st.just("extend"), st.lists(row, max_size=6))
CHANNELS = {"x": float, "n": int, "f": "float32", "ok": bool, "s": str}


@settings(max_examples=15)
@given(st.lists(st.lists(act | st.tuples(st.just("sync"), st.none()), max_size=12), min_size=1, max_size=3))
def test_everything_that_was_added_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, lives: Any) -> None:
    data_dir = tmp_path_factory.mktemp("data") / "d"
    expected: list[dict[str, Any]] = []
    for acts in lives:
        with quick(data_dir, CHANNELS) as rec:
            for verb, what in acts:
                if verb == "add":
                    rec.add(what)
                    expected.append(what)
                elif verb == "sync":
                    rec.sync()
                    assert rec.durable == rec.rows
                else:
                    rec.extend({name: [r.get(name) for r in what] for name in CHANNELS})
                    expected += what
    for name in CHANNELS:
        read = values_of(data_dir, name) if expected else []
        wanted = [r.get(name) for r in expected]
        wanted = [w.encode() if isinstance(w, str) else w for w in wanted]
        assert [repr(w) for w in wanted] == [repr(r) for r in read]
    sound(data_dir)


# ---- again -----------------------------------------------------------------------------------------------------------


def test_a_directory_is_gone_on_with(tmp_path: Path) -> None:
    for life in range(3):
        with quick(tmp_path, VI) as rec:
            rec.add(v=float(life))
    assert values_of(tmp_path, "v") == [0.0, 1.0, 2.0]
    assert [e.number for e in Reader(tmp_path).epochs(STREAM)] == [0]
    assert gaps_of(tmp_path) == [], "nothing was lost in between, and that is known"
    sound(tmp_path)


def test_other_channels_begin_an_epoch(tmp_path: Path) -> None:
    with quick(tmp_path, {"v": "V"}) as rec:
        rec.add(v=1.0)
    with quick(tmp_path, {"v": "mV"}) as rec:
        rec.add(v=2000.0)
    assert [e.number for e in Reader(tmp_path).epochs(STREAM)] == [0, 1]
    assert [g.unknown for g in gaps_of(tmp_path)] == [False]
    assert values_of(tmp_path, "v") == [1.0, 2000.0]
    sound(tmp_path)


def test_streams_of_several_scripts_lie_in_one_directory(tmp_path: Path) -> None:
    for stream in ("script/readings", "furnace/temperature", "script/readings"):
        with quick(tmp_path, VI, stream=stream) as rec:
            rec.add(v=1.0)
    assert values_of(tmp_path, "v") == [1.0, 1.0]
    assert values_of(tmp_path, "v", "furnace/temperature") == [1.0]
    assert gaps_of(tmp_path) == []
    with pytest.raises(InvalidBlock):
        record(tmp_path, VI, stream="readings")


def test_a_directory_has_one_writer(tmp_path: Path) -> None:
    with quick(tmp_path, VI), pytest.raises(StationBusy, match="a directory of its own"):
        record(tmp_path, VI)


def test_a_closed_recording_takes_nothing(tmp_path: Path) -> None:
    with quick(tmp_path, VI) as rec:
        rec.add(v=1.0, i=1.0)
    for verb in (lambda: rec.add(v=1.0, i=1.0), lambda: rec.extend(v=[1.0]), rec.sync):
        with pytest.raises(RequestError, match="closed"):
            verb()
    rec.close()
    assert (rec.rows, rec.durable) == (1, 1)


def test_progress_tells_how_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PROGRESS_S", 0.01)
    told: list[tuple[int, int]] = []
    with quick(tmp_path, VI, progress=lambda rows, durable: told.append((rows, durable))) as rec:
        rec.add(v=1.0, sync=True)
    assert told[-1] == (1, 1)


def test_importing_scidaq_does_not_import_the_station() -> None:
    code = "import sys, scidaq; assert not {'numpy', 'pyarrow', 'sqlalchemy'} & set(sys.modules); scidaq.record"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---- interruptions ---------------------------------------------------------------------------------------------------


def test_an_exception_inside_the_with_loses_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with quick(tmp_path, VI) as rec:
            rec.add(v=1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert values_of(tmp_path, "v") == [1.0]
    sound(tmp_path)


@contextmanager
def run(code: str, data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """A script in a process of its own."""
    program = f"import scidaq, sys\ndata = {str(data_dir)!r}\n" + textwrap.dedent(code)
    # A shell lets what runs in its background ignore Ctrl-C, and that is inherited.
    interruptible = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=interruptible) as child:
        try:
            yield child
        finally:
            child.kill()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


@pytest.mark.slow
def test_ctrl_c_at_any_moment_loses_no_row_that_was_added(tmp_path: Path) -> None:
    code = """
        n = 0
        try:
            with scidaq.record(data, {"n": "int64", "x": "V"}) as rec:
                print("go", flush=True)
                while True:
                    rec.add(n=n, x=0.5 * n, sync=n % 7 == 0)
                    n += 1
        except KeyboardInterrupt:
            print(n, flush=True)
        """
    for life in range(6):
        data_dir = tmp_path / str(life)
        with run(code, data_dir) as child:
            assert said(child) == "go\n"
            time.sleep(0.05 + 0.11 * life)  # any moment will do
            child.send_signal(signal.SIGINT)
            added = int(said(child))
            assert child.wait(30) == 0
        read = values_of(data_dir, "n")
        assert read == list(range(len(read)))
        assert added <= len(read) <= added + 1, "of the interrupted add the row may be there"
        sound(data_dir)


@pytest.mark.slow
def test_the_end_of_the_interpreter_closes_what_nobody_closed(tmp_path: Path) -> None:
    with run('rec = scidaq.record(data, {"v": "V"})\nrec.add(v=1.0)\n', tmp_path / "data") as child:
        assert child.wait(30) == 0
    assert values_of(tmp_path / "data", "v") == [1.0]
    with quick(tmp_path / "data", {"v": "V"}) as rec:
        rec.add(v=2.0)
    assert gaps_of(tmp_path / "data") == []
    assert [e.number for e in Reader(tmp_path / "data").epochs(STREAM)] == [0], "it was a clean end"


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_durable_and_what_may_be_lost_is_bounded(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    for life in range(8):
        each = life % 2 == 0
        code = f"""
            rec = scidaq.record(data, {{"n": "int64"}})
            n = {life} << 32
            while True:
                rec.add(n=n, sync={each})
                n += 1
                if {each} or n % 1000 == 0:
                    print(rec.durable, flush=True)
            """
        with run(code, data_dir) as child:
            told = 0
            deadline = time.monotonic() + 0.3 + 0.07 * life
            while time.monotonic() < deadline:
                told = int(said(child))
            child.kill()
            assert child.stdout is not None
            told = max([told, *(int(line) for line in child.stdout.read().split("\n")[:-1])])
        with quick(data_dir, {"n": "int64"}):
            pass
        sound(data_dir)
        mine = [n for n in values_of(data_dir, "n") if n >> 32 == life]
        assert mine == list(range(life << 32, (life << 32) + len(mine))), "in order, none twice, none left out"
        assert len(mine) >= told
    gaps = gaps_of(data_dir)
    assert all(g.unknown for g in gaps), "how many rows it had added nobody knows"
    assert len(gaps) == len(Reader(data_dir).epochs(STREAM)) - 1


# ---- disks -----------------------------------------------------------------------------------------------------------


class Disk(PosixFiles):
    """One that hangs, refuses or runs full when told."""

    def __init__(self) -> None:
        self.hangs = threading.Event()
        self.hangs.set()
        self.full = False
        self.refuses = 0

    def sync(self, file: File) -> None:
        self.hangs.wait(30)
        if self.refuses:
            self.refuses -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(file)

    def append(self, file: File, pieces: Any) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().append(file, pieces)


def test_a_disk_that_hangs_makes_sync_say_so_and_loses_nothing(tmp_path: Path) -> None:
    disk = Disk()
    with quick(tmp_path, VI, files=disk) as rec:
        rec.add(v=1.0, sync=True)
        disk.hangs.clear()
        rec.extend(v=np.zeros(50_000))
        with pytest.raises(DiskStalled, match="waits in memory"):
            rec.sync(timeout_s=0.05)
        assert rec.durable == 1
        disk.hangs.set()
        rec.sync()
        assert rec.durable == 50_001
    sound(tmp_path)


def test_add_waits_for_a_slow_disk_and_in_the_end_refuses_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "RING_BYTES", 1 << 16)
    monkeypatch.setattr(script, "WAITING_BYTES", 1 << 16)
    monkeypatch.setattr(script, "CHUNK_BYTES", 1 << 14)
    disk = Disk()
    rec = Recording(tmp_path, VI, sync_interval_ms=20, timeout_s=0.05, files=disk)
    rec.add(v=0.0, sync=False)
    rec.sync(timeout_s=10)
    disk.hangs.clear()

    def add_on_and_on() -> None:
        while True:
            rec.add(v=float(rec.rows))

    with pytest.raises(DiskStalled):
        add_on_and_on()
    added = rec.rows
    threading.Timer(0.1, disk.hangs.set).start()
    rec._timeout_s = 30.0
    for n in range(added, added + 5000):
        rec.add(v=float(n))
    rec.close()
    assert values_of(tmp_path, "v") == [float(n) for n in range(added + 5000)]
    sound(tmp_path)


def test_a_sync_that_the_disk_refuses_is_made_good_elsewhere(tmp_path: Path) -> None:
    disk = Disk()
    with quick(tmp_path, VI, files=disk) as rec:
        rec.add(v=0.0, sync=True)
        for n in range(1, 40):
            disk.refuses = n % 9 == 0
            rec.add(v=float(n), sync=True)
            assert rec.durable == n + 1
    assert values_of(tmp_path, "v") == [float(n) for n in range(40)]
    sound(tmp_path)


def test_a_full_disk_at_the_end_is_told_with_the_number_of_rows(tmp_path: Path) -> None:
    disk = Disk()
    rec = Recording(tmp_path, VI, sync_interval_ms=20, timeout_s=0.2, files=disk)
    rec.add(v=0.0, sync=True)
    disk.full = True
    rec.extend(v=np.ones(1000))
    with pytest.raises(ScidaqError) as told:
        rec.close()
    assert isinstance(told.value, WriteFailed)
    assert "1000 of 1001 rows" in str(told.value)
    with quick(tmp_path, VI) as again:
        again.add(v=2.0)
    v = values_of(tmp_path, "v")
    assert v == [0.0, 2.0]
    assert len(Reader(tmp_path).epochs(STREAM)) == 2, "that was no clean end"
