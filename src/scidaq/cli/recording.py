"""Running a station in the foreground: until a signal or the time is up, showing what it does."""

from __future__ import annotations

import math
import os
import shlex
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scidaq.cli.doors import doors, welcome
from scidaq.cli.reloading import hang_ups
from scidaq.cli.times import NS, clock_time, size
from scidaq.clock import Clock

if TYPE_CHECKING:
    from scidaq.catalog import NewRun
    from scidaq.config import Again, Config
    from scidaq.observe import Notifier
    from scidaq.station import Station, StationStats

log = structlog.get_logger(__name__)

TABLE_S = 0.5
LINES_S = 5.0
NARROW = 92
"""Columns of a terminal below which the table says less."""
_RATE_S = 10.0
"""Rates are those of about this long."""
_STOPPING = b"scidaq: stopping; what has arrived is made durable first\n"


# ---- until when -----------------------------------------------------------------------------------------------------


@contextmanager
def stop_signals(hang_up: bool = False) -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C set the event; a second one changes nothing, so that no data is lost to impatience.

    With `hang_up` the end of the terminal does so too. For the main thread.
    """
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        os.write(2, _STOPPING)  # the only way to write that is safe in a handler
        asked.set()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if hang_up and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {s: signal.signal(s, ask) for s in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def record(
    config: Config,
    again: Again,
    clock: Clock,
    seconds: float | None,
    greeting: str,
    *,
    demo: bool,
    run: NewRun | None = None,
) -> StationStats:
    """Run the station until a signal comes or `seconds` have passed, and return how it ended; with `run`, as a run.

    `greeting` is printed once the station is open: before, nothing is recorded. SIGHUP has the configuration read again
    by `again`; with a `demo` it ends the recording as the other signals do.
    A `demo` does with another HTTP port when its own is taken, and shows how it goes: a table that lives on a terminal,
    else lines every few seconds. On return everything is durable.
    """
    from scidaq.config import Reloader
    from scidaq.observe import Logs, Notifier, Service
    from scidaq.station import Station

    console = Console()
    live = demo and console.is_terminal
    every_s = TABLE_S if live else LINES_S
    secrets = [secret.reveal() for secret in config.secrets]
    with (
        hang_ups() as hung_up,
        stop_signals(hang_up=demo) as asked,
        Logs(config.logging, config.station.data_dir / "logs", clock, secrets) as logs,
        Service() as service,
    ):
        station = Station(replace(config.plan(clock), run=run), clock)
        station.hide(secrets)
        with station:
            logs.begin_file()
            station.health.add(logs.check())
            station.metrics.add(logs.samples)
            notifier = Notifier(config.notify, config.station.name, clock, lambda: station.health.last, station.losses)
            station.metrics.add(notifier.samples)
            service.ready(station.stands_still, partial(_status, station))
            _say(greeting + _run_words(station))

            def hide(secrets: Sequence[str]) -> None:
                logs.hide(secrets)
                station.hide(secrets)

            reloader = Reloader(
                config,
                again,
                station,
                clock,
                [lambda new: logs.set_levels(new.logging.level, new.logging.levels), partial(_tell_others, notifier)],
                hide,
            )
            ticks = _ticks(clock, asked, every_s, seconds)
            open_doors = doors(station, reloader, clock, logs, any_port=demo)
            with hung_up.answered(reloader.try_reload), notifier, open_doors as (web, flight):
                for line in welcome(web, flight, config):
                    _say(line)
                (_watch if live else _tell)(console, station, ticks) if demo else deque(ticks, 0)
            service.stopping()
        return station.stats()


def _tell_others(notifier: Notifier, config: Config) -> None:
    """Whom the notifier tells, from now on."""
    from scidaq.errors import ConfigError

    try:
        notifier.change(config.notify)
    except ConfigError as error:
        log.error("the same are told as before", error=str(error))


def _status(station: Station) -> str:
    """One line for who asks systemd."""
    stats = station.stats()
    acquiring = sum(one.state == "acquiring" for one in stats.instruments)
    health = station.health.last
    how = f", {health.status}" if health is not None else ""
    return f"{acquiring} of {len(stats.instruments)} instruments deliver, {size(stats.free_bytes)} free{how}"


def _run_words(station: Station) -> str:
    """What is under way, and whether it was before."""
    return "".join(
        f", as run {run.name}{', which goes on' if run.resumed_ns else ''}" for run in station.runs.book.under_way()
    )


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # nobody listens: recording goes on all the same
        print(text, flush=True)


def _ticks(clock: Clock, asked: threading.Event, every_s: float, seconds: float | None) -> Iterator[None]:
    """One now and then, until it is asked to stop or `seconds` have passed."""
    deadline = math.inf if seconds is None else clock.monotonic_s() + seconds
    while not clock.wait(asked, max(0.0, min(every_s, deadline - clock.monotonic_s()))):
        if clock.monotonic_s() >= deadline:
            return
        yield


def _watch(console: Console, station: Station, ticks: Iterator[None]) -> None:
    """The live table."""
    rates = Rates()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for _ in ticks:
            stats = station.stats()
            live.update(table(stats, rates.of(stats), narrow=console.width < NARROW), refresh=True)


def _tell(console: Console, station: Station, ticks: Iterator[None]) -> None:
    """A line per stream every now and then."""
    rates = Rates()
    for _ in ticks:
        stats = station.stats()
        now = clock_time(stats.now_ns)
        for said in [*(line.sentence() for line in lines(stats, rates.of(stats))), _disk(stats)]:
            console.print(f"{now} {said}", soft_wrap=True, highlight=False, markup=False)


# ---- what is shown --------------------------------------------------------------------------------------------------


class Rates:
    """Rows per second of each stream, from the snapshots of the last seconds."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, dict[tuple[str, int], int]]] = []

    def of(self, stats: StationStats) -> dict[str, float]:
        """The rates at this snapshot, which is remembered; a stream that has just begun an epoch has none."""
        rows = {(s.stream, s.epoch): s.rows for s in stats.recorder.streams}
        self._seen = [one for one in self._seen if stats.now_ns - one[0] < _RATE_S * NS] or self._seen[-1:]
        out = {}
        if self._seen and (passed := (stats.now_ns - self._seen[0][0]) / NS) > 0:
            before = self._seen[0][1]
            out = {key[0]: (n - before[key]) / passed for key, n in rows.items() if key in before}
        self._seen.append((stats.now_ns, rows))
        return out


@dataclass(frozen=True, slots=True)
class Line:
    """One stream, or an instrument that has none yet."""

    instrument: str
    stream: str
    state: str
    rate: float | None
    rows: int = 0
    durable_rows: int = 0
    gap_rows: int = 0
    bytes: int = 0
    reason: str = ""

    def cells(self) -> list[str]:
        """As a row of the table."""
        rate = "-" if self.rate is None else f"{self.rate:,.1f}"
        counts = (f"{n:,}" for n in (self.rows, self.durable_rows, self.gap_rows))
        return [self.stream, self.state, rate, *counts, size(self.bytes)]

    def sentence(self) -> str:
        """As a line of text."""
        rate = "" if self.rate is None else f" {self.rate:.1f} rows/s,"
        counts = f"{self.rows} rows, {self.durable_rows} durable, {self.gap_rows} in gaps, {size(self.bytes)}"
        return f"{self.stream} {self.state}{rate} {counts}{': ' + self.reason if self.reason else ''}"


def lines(stats: StationStats, rates: dict[str, float]) -> list[Line]:
    """Every instrument's streams, and the instruments that have none yet."""
    out = []
    for instrument in stats.instruments:
        name = instrument.instrument
        streams = sorted((s for s in stats.recorder.streams if s.stream.startswith(f"{name}/")), key=lambda s: s.stream)
        if not streams:
            out.append(Line(name, name, instrument.state, None, reason=instrument.reason))
        out += [
            Line(
                name,
                s.stream,
                instrument.state,
                rates.get(s.stream),
                s.rows,
                s.durable_rows,
                s.gap_rows,
                s.bytes,
                instrument.reason,
            )
            for s in streams
        ]
    return out


def _disk(stats: StationStats) -> str:
    return f"journal {size(stats.recorder.journal_bytes)}, free {size(stats.free_bytes)}"


def table(stats: StationStats, rates: dict[str, float], *, narrow: bool = False) -> Table:
    """The live table; `narrow` leaves out what 80 columns have no room for."""
    title = f"{stats.name}  {clock_time(stats.now_ns)} UTC"
    shown = lines(stats, rates)
    reasons = {line.instrument: line.reason for line in shown if line.reason}
    caption = "\n".join([_disk(stats), *(f"{name}: {reason}" for name, reason in reasons.items())])
    out = Table(title=title, title_justify="left", caption=Text(caption), caption_justify="left")
    for name in ("stream", "state"):
        out.add_column(name, no_wrap=True)
    numbers = ["rows/s", "rows", "durable rows", "gap rows", "size"]
    if narrow:
        numbers.pop()
    for name in numbers:
        out.add_column(name, justify="right", no_wrap=True)
    colours = {"acquiring": "green", "degraded": "yellow", "failed": "red"}
    for line in shown:
        cells = line.cells()[: 2 + len(numbers)]
        cells[1] = f"[{colours[line.state]}]{line.state}[/]" if line.state in colours else line.state
        out.add_row(*cells)
    return out


def report_end(stats: StationStats, data_dir: Path) -> None:
    """Say what became of each stream, and what the data directory holds, once the station has ended."""
    from scidaq.query import Reader

    for line in lines(stats, {}):
        print(line.sentence())
    held = Reader(data_dir).streams()
    rows, durable, gaps = (sum(getattr(s, name) for s in held) for name in ("rows", "durable_rows", "gap_rows"))
    print(f"{data_dir} holds {rows} rows, {durable} durable, {gaps} in gaps, {size(sum(s.bytes for s in held))}")
    print(f"look at it: scidaq streams --data-dir {shlex.quote(str(data_dir))}")
