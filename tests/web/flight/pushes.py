"""A station with an instrument to which rows are pushed; `python -m tests.web.flight.pushes DIR PORT` to be killed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scidaq import pipeline
from scidaq.clock import SystemClock
from scidaq.instruments import PushChannel, PushDriver, PushOptions, PushStream
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.web import FlightDoor, FlightOptions, SecurityOptions

T0 = 1_764_100_000_000_000_000
STREAMS = PushOptions(
    (
        PushStream("temps", (PushChannel("inside", "Cel"), PushChannel("count", dtype="int64"))),
        PushStream("wave", (PushChannel("adc", "V", dtype="int16", shape=(4,)),), 10_000.0),
        PushStream(
            "all",
            (
                PushChannel("f", dtype="float32", scale=2.0, offset=1.0, unit="V"),
                PushChannel("b", dtype="bool"),
                PushChannel("s", dtype="text", max_bytes=8),
                PushChannel("v", dtype="uint8", shape=(2, 3)),
            ),
        ),
    )
)


@dataclass
class Rig:
    """A station, its door, and what it has counted."""

    station: Station
    door: FlightDoor

    def ledger(self, stream: str) -> Any:
        (one,) = [s for s in self.station.stats().recorder.streams if s.stream == stream]
        return one


@contextmanager
def rig(
    data_dir: Path, port: int = 0, security: SecurityOptions | None = None, ring_bytes: int = 0, **flight: Any
) -> Iterator[Rig]:
    clock = SystemClock()
    options = pipeline.Options(ring_bytes=ring_bytes) if ring_bytes else pipeline.Options()
    instrument = InstrumentPlan("rig", lambda: PushDriver("rig", STREAMS, clock), "push")
    plan = StationPlan(data_dir, "lab", (instrument,), pipeline=options)
    with Station(plan, clock) as station:
        allowed = security or SecurityOptions(keys=False)
        given = FlightOptions(**{"port": port, "calls_per_second": 0} | flight)
        with FlightDoor(station, data_dir, given, allowed) as door:
            yield Rig(station, door)


if __name__ == "__main__":
    with rig(Path(sys.argv[1]), int(sys.argv[2])) as one:
        sys.stdout.write(f"{one.door.address}\n")
        sys.stdout.flush()
        threading.Event().wait()
