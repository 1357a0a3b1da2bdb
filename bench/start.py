"""Starting and idling: how long until a station records, on a new directory and on a large old one, and what it costs.

All of it by `scidaq serve` and `scidaq demo` as a user starts them, watched from outside: a row counts when the durable
marks say so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from bench.big_store import CHANNELS, RATE_HZ, fill
from bench.places import fresh
from bench.processes import call
from bench.recording import recording
from bench.results import Row, judged, size
from bench.settings import Settings
from scidaq.store import read_marks

INSTRUMENTS = 10
TARGET_START_S, TARGET_ROW_S, TARGET_CPU, TARGET_BYTES = 1.0, 2.0, 0.05, 250e6
TIMEOUT_S = 60.0
RECORDS_S = 1.0
"""How long a station records before it is killed."""
OPTIONS = {"channels": CHANNELS, "dtype": "float64", "layout": "columns", "rate_hz": float(RATE_HZ)}
CONFIGURATION = "".join(
    f'[instruments.inst{i}]\ndriver = "waveform"\nchannels = {CHANNELS}\ndtype = "float64"\nlayout = "columns"\n'
    f"rate_hz = {RATE_HZ}\nseed = {i}\n"
    for i in range(INSTRUMENTS)
)


def start(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """The first row, the start after a kill, and the idle station."""
    rows = [_first_row(("demo",), cold=False, settings=settings)]
    rows += [_first_row(("serve",), cold, settings) for cold in (False, True)]
    rows += [_idle(settings), _after_a_kill(settings)]
    for row in rows:
        say(f"{row.benchmark}: {row.who} {row.speed}")
    return rows


# ---- a station as a user starts it ----------------------------------------------------------------------------------


@contextmanager
def station(directory: Path, *verb: str) -> Iterator[subprocess.Popen[bytes]]:
    """`scidaq` with a verb, in a process that was just begun; stopped as by Ctrl-C."""
    (directory / "station.toml").write_text(CONFIGURATION)
    more = ("--config", str(directory / "station.toml")) if verb == ("serve",) else ()
    command = [sys.executable, "-m", "scidaq", *verb, *more, "--data-dir", str(directory / "data")]
    with open(directory / "said.txt", "wb") as said:
        process = subprocess.Popen(command, cwd=directory, stdout=said, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT_S)


def durable_row(data_dir: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until some row is durable. Raises `RuntimeError` when the process ends before."""
    deadline = time.monotonic() + TIMEOUT_S
    while not any(mark.durable_rows for mark in read_marks(data_dir / "durable.map").values()):
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError("the station does not record")
        time.sleep(0.005)


def _first_row(verb: tuple[str, ...], cold: bool, settings: Settings) -> Row:
    took = []
    for _ in range(settings.starts):
        with fresh() as directory:
            if cold:
                forget_programs()
            begin = time.monotonic()
            with station(directory, *verb) as process:
                durable_row(directory / "data", process)
                took.append(time.monotonic() - begin)
    who = f"scidaq {verb[0]}{', programs not in memory' if cold else ''}"
    worst = max(took)
    return Row(
        "first row",
        who,
        f"durable after {median(took):.2f} s",
        target=judged(f"≤ {TARGET_ROW_S:g} s", median(took) <= TARGET_ROW_S),
        remarks=f"from the start of the process on, worst of {len(took)} {worst:.2f} s",
    )


def forget_programs() -> None:
    """Ask the system to drop its copies of what Python loads; it keeps what a running process has mapped."""
    if not hasattr(os, "posix_fadvise"):
        return
    places = {sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib")}
    for place in [*places, str(Path(__file__).resolve().parent.parent / "src")]:
        for parent, _, names in os.walk(place):
            for name in names:
                if name.endswith((".py", ".pyc", ".so")) or ".so." in name:
                    fd = os.open(os.path.join(parent, name), os.O_RDONLY)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(fd)


# ---- idle -----------------------------------------------------------------------------------------------------------


def _idle(settings: Settings) -> Row:
    with fresh() as directory, station(directory, "serve") as process:
        durable_row(directory / "data", process)
        time.sleep(min(2.0, settings.idle_s))
        seen = psutil.Process(process.pid)
        begin, times = time.monotonic(), seen.cpu_times()
        peak = 0
        while time.monotonic() - begin < settings.idle_s:
            time.sleep(min(0.5, settings.idle_s))
            peak = max(peak, seen.memory_info().rss)
        took, after = time.monotonic() - begin, seen.cpu_times()
        threads = seen.num_threads()
    cpu = (after.user + after.system - times.user - times.system) / took
    return Row(
        "idle",
        f"scidaq serve, {INSTRUMENTS} × {CHANNELS} channels at {RATE_HZ} Hz",
        cpu=f"{cpu:.1%} of a core",
        target=judged(f"≤ {TARGET_CPU:.0%}, ≤ {TARGET_BYTES / 1e6:.0f} MB", cpu <= TARGET_CPU and peak <= TARGET_BYTES),
        remarks=f"peak memory {size(peak)}, {threads} threads",
    )


# ---- after a kill ---------------------------------------------------------------------------------------------------


def _after_a_kill(settings: Settings) -> Row:
    """Kill a station that records into a large store, and start it again; as often as it is to be started."""
    until_open, until_row = [], []
    with fresh() as directory:
        data_dir = directory / "data"
        held = call(fill, data_dir, INSTRUMENTS, settings.segments)
        for number in range(settings.starts + 1):
            (data_dir / "durable.map").unlink(missing_ok=True)  # so that it says nothing of before
            begin = time.monotonic()
            with recording(data_dir, {f"inst{i}": OPTIONS | {"seed": i} for i in range(INSTRUMENTS)}) as one:
                durable_row(data_dir)
                took = time.monotonic() - begin
                if number:  # the first was not killed before
                    until_open.append(one.open_s)
                    until_row.append(took)
                time.sleep(RECORDS_S)
                one.process.process.kill()
    return Row(
        "start after a kill",
        f"scidaq, {settings.segments:,} segments",
        f"opens in {median(until_open):.2f} s",
        target=judged(f"≤ {TARGET_START_S:g} s", median(until_open) <= TARGET_START_S),
        remarks=f"first durable row {median(until_row):.2f} s after the start of its process; "
        f"{size(held)} in {INSTRUMENTS} streams, worst of {len(until_open)} {max(until_open):.2f} s",
    )
