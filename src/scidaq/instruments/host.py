"""The machine as an instrument: processor, memory, disks, network, temperatures. What it does not have is absent."""

from __future__ import annotations

import platform
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import psutil
from annotated_types import Gt, Le

from scidaq.block import Block, Channel, StreamSpec, schema
from scidaq.clock import Clock
from scidaq.errors import InstrumentDisconnected, InstrumentError
from scidaq.instruments.driver import Identity
from scidaq.instruments.schedule import Schedule

Row = Mapping[str, Any]
"""Values by channel; what is not in it is missing."""


@dataclass(frozen=True, slots=True)
class HostOptions:
    """The machine that the station runs on."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cpu_hz: Annotated[float, Gt(0), Le(100)] = 10.0
    """How often the load of the processor is read."""
    rate_hz: Annotated[float, Gt(0), Le(100)] = 1.0
    """How often everything else is read."""


class _Rates:
    """Counters and how fast they grow; no rate before the second reading, none where a counter went back."""

    def __init__(self) -> None:
        self._before: tuple[float, dict[str, int]] | None = None

    def of(self, now_s: float, counters: dict[str, int]) -> dict[str, Any]:
        """The counters, and a `<name>_rate` for each that has one."""
        row: dict[str, Any] = dict(counters)
        if self._before is not None and now_s > self._before[0]:
            for name, value in counters.items():
                grown = value - self._before[1].get(name, value)
                if grown >= 0:
                    row[f"{name}_rate"] = grown / (now_s - self._before[0])
        self._before = now_s, counters
        return row


@dataclass(slots=True)
class _Source:
    spec: StreamSpec
    rate_hz: float
    read: Callable[[], Row]
    rows: int = 0


def _counter(name: str, unit: str, what: str) -> tuple[Channel, Channel]:
    return (
        Channel(name, "uint64", unit, description=f"{what} since the machine started"),
        Channel(f"{name}_rate", "float64", f"{unit}/s", description=f"{what} per second since the reading before"),
    )


class HostDriver:
    """Reads the host's own counters. Rows have no source numbers and are counted from 0 at each arm."""

    Options = HostOptions

    def __init__(self, instrument_id: str, options: HostOptions, clock: Clock) -> None:
        self._o, self._clock = options, clock
        self._closed = threading.Event()
        self._sources: list[_Source] = []
        self._schedule = Schedule([])
        self._disk, self._network = _Rates(), _Rates()
        self._cpu_before: list[Any] = []
        self._sensors: dict[str, tuple[str, int]] = {}

    @property
    def resource(self) -> str | None:
        """`host`: it is enough to have it once."""
        return "host"

    # ---- the verbs ----

    def identity(self) -> Identity:
        """System, machine type, host name, release of the kernel."""
        self._check_open()
        return Identity(platform.system(), platform.machine(), platform.node(), platform.release())

    def describe(self) -> Sequence[StreamSpec]:
        """Looks at what this machine has."""
        self._check_open()
        self._sources = [s for s in (self._cpu(), self._memory(), *self._counters(), self._temperature()) if s]
        return tuple(source.spec for source in self._sources)

    def arm(self) -> Sequence[StreamSpec]:
        """Take the first reading of all counters, so that the first row has rates."""
        specs = self.describe()
        for source in self._sources:
            source.read()
        self._schedule = Schedule([1 / source.rate_hz for source in self._sources])
        # A period later: a rate over no time is no rate.
        self._schedule.start(self._clock.monotonic_s() + 1 / max(source.rate_hz for source in self._sources))
        return specs

    def read(self, timeout_s: float) -> Sequence[Block]:
        """A block of one row for each stream that is due."""
        deadline = self._clock.monotonic_s() + timeout_s
        while True:
            self._check_open()
            now = self._clock.monotonic_s()
            blocks = []
            while (index := self._schedule.due(now)) is not None:
                blocks.append(self._row(self._sources[index]))
            if blocks or now >= deadline:
                return blocks
            self._clock.wait(self._closed, min(deadline, self._schedule.next_s()) - now)

    def disarm(self) -> None:
        """Nothing: it is only polled."""

    def close(self) -> None:
        """Ends a read that waits."""
        self._closed.set()

    # ---- inside ----

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise InstrumentDisconnected("closed")

    def _row(self, source: _Source) -> Block:
        anchor, began = self._clock.anchor, self._clock.now_ns()
        try:
            row = source.read()
        except (OSError, psutil.Error) as error:
            raise InstrumentError(f"{source.spec.name} cannot be read: {error}") from error
        arrived = self._clock.now_ns()
        if self._clock.anchor is not anchor:  # the clock was stepped in between: the two have no middle
            began = arrived
        s = source.spec.schema
        block = Block.of(
            s,
            {c.name: [row.get(c.name, np.zeros(c.shape, c.numpy_dtype))] for c in s.channels},
            stream=source.spec.name,
            first=source.rows,
            times=[(began + arrived) // 2],
            valid={c.name: [c.name in row] for c in s.channels},
            arrived_ns=arrived,
        )
        source.rows += 1
        return block

    def _cpu(self) -> _Source:
        self._cpu_before = psutil.cpu_times(percpu=True)
        cores = len(self._cpu_before)
        labels = tuple(f"cpu{i}" for i in range(cores))
        channels = [Channel("usage", "float32", "%", (cores,), labels, description="time not idle, per core")]
        if hasattr(psutil, "getloadavg"):
            what = "threads that run or wait to, averaged over {} min"
            channels += [Channel(f"load{m}", "float64", "1", description=what.format(m)) for m in (1, 5, 15)]
        return _Source(StreamSpec("cpu", schema(channels)), self._o.cpu_hz, self._read_cpu)

    def _read_cpu(self) -> Row:
        before, self._cpu_before = self._cpu_before, psutil.cpu_times(percpu=True)
        if len(before) != len(self._cpu_before):
            raise InstrumentError(f"there are {len(self._cpu_before)} cores now, and were {len(before)}")
        row: dict[str, Any] = {}
        usage = [_busy_percent(a, b) for a, b in zip(before, self._cpu_before, strict=True)]
        if None not in usage:
            row["usage"] = usage
        if hasattr(psutil, "getloadavg"):
            row.update(zip(("load1", "load5", "load15"), psutil.getloadavg(), strict=True))
        return row

    def _memory(self) -> _Source:
        names = {
            "total": "memory of the machine",
            "available": "memory that programs can have without swapping",
            "swap_total": "size of the swap space",
            "swap_used": "swap space in use",
        }
        channels = [Channel(name, "uint64", "By", description=what) for name, what in names.items()]
        return _Source(StreamSpec("memory", schema(channels)), self._o.rate_hz, self._read_memory)

    def _read_memory(self) -> Row:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        return {
            "total": memory.total,
            "available": memory.available,
            "swap_total": swap.total,
            "swap_used": swap.used,
        }

    def _counters(self) -> list[_Source]:
        """Disk and network, where the system counts them."""
        sources = []
        if psutil.disk_io_counters() is not None:
            channels = [
                *_counter("read", "By", "read from all disks"),
                *_counter("written", "By", "written to all disks"),
                *_counter("reads", "{read}", "read requests to all disks"),
                *_counter("writes", "{write}", "write requests to all disks"),
            ]
            sources.append(_Source(StreamSpec("disk", schema(channels)), self._o.rate_hz, self._read_disk))
        if psutil.net_io_counters() is not None:
            channels = [
                *_counter("received", "By", "received on all interfaces"),
                *_counter("sent", "By", "sent on all interfaces"),
            ]
            sources.append(_Source(StreamSpec("network", schema(channels)), self._o.rate_hz, self._read_network))
        return sources

    def _read_disk(self) -> Row:
        io = psutil.disk_io_counters()
        if io is None:
            return {}
        counters = {
            "read": io.read_bytes,
            "written": io.write_bytes,
            "reads": io.read_count,
            "writes": io.write_count,
        }
        return self._disk.of(self._clock.monotonic_s(), counters)

    def _read_network(self) -> Row:
        io = psutil.net_io_counters()
        if io is None:
            return {}
        return self._network.of(self._clock.monotonic_s(), {"received": io.bytes_recv, "sent": io.bytes_sent})

    def _temperature(self) -> _Source | None:
        self._sensors = {}
        for chip, entries in _temperatures().items():
            for i, entry in enumerate(entries):
                name = re.sub(r"[^A-Za-z0-9_]+", "_", f"{chip}_{entry.label or i}").strip("_")[:60]
                if name and name[0].isalpha() and name not in self._sensors:
                    self._sensors[name] = (chip, i)
        if not self._sensors:
            return None
        channels = [Channel(name, "float32", "Cel", description=f"chip {c}") for name, (c, _) in self._sensors.items()]
        return _Source(StreamSpec("temperature", schema(channels)), self._o.rate_hz, self._read_temperature)

    def _read_temperature(self) -> Row:
        now = _temperatures()
        return {
            name: now[chip][i].current
            for name, (chip, i) in self._sensors.items()
            if i < len(now.get(chip, ())) and now[chip][i].current is not None
        }


def _temperatures() -> dict[str, list[Any]]:
    read = getattr(psutil, "sensors_temperatures", None)  # Linux and FreeBSD only
    return dict(read()) if read is not None else {}


def _busy_percent(before: Any, after: Any) -> float | None:
    """Share of the time between two readings that a core was not idle; None when no time passed."""
    # Guest time is contained in user time; time waiting for a disk is idle time.
    spent = {f: getattr(after, f) - getattr(before, f) for f in after._fields if not f.startswith("guest")}
    total = sum(spent.values())
    idle = spent["idle"] + spent.get("iowait", 0.0)
    return min(100.0, max(0.0, 100.0 * (total - idle) / total)) if total > 0 else None
