"""Stations with simulated digitizers, for tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scidaq.clock import Clock, SystemClock
from scidaq.instruments import SupervisionOptions
from scidaq.instruments.waveform import WaveformDriver, WaveformOptions
from scidaq.station import InstrumentPlan, StationPlan
from scidaq.store import Options, Policy

QUICK = Options(sync_interval_ms=20, journal_move_s=0.2, segment_bytes=1 << 18)
IMPATIENT = SupervisionOptions(read_timeout_s=0.05, reconnect_initial_s=0.02, reconnect_max_s=0.05, stop_timeout_s=1.0)


def waveform(
    name: str,
    clock: Clock,
    record: Policy = Policy.ALWAYS,
    pre_trigger_s: float = 0.0,
    supervision: SupervisionOptions = IMPATIENT,
    **options: Any,
) -> InstrumentPlan:
    """A simulated digitizer."""
    chosen = WaveformOptions(**({"channels": 2, "rate_hz": 2000, "block_s": 0.01} | options))
    return InstrumentPlan(
        name,
        lambda: WaveformDriver(name, chosen, clock),
        "waveform",
        record,
        pre_trigger_s=pre_trigger_s,
        supervision=supervision,
    )


def plan(data_dir: Path, *instruments: InstrumentPlan, storage: Options = QUICK) -> StationPlan:
    """A station."""
    return StationPlan(data_dir, "test", instruments, storage)


def wait_for(what: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to it"
        time.sleep(0.005)


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a directory: size, time of change, content."""
    return {
        str(p.relative_to(root)): (p.stat().st_size, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in sorted(root.rglob("*"))
    }


__all__ = ["IMPATIENT", "QUICK", "Policy", "SystemClock", "plan", "tree", "wait_for", "waveform"]
