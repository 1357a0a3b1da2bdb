"""How long and how large a run of the benchmarks is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The full measurement; `quick()` says something, and is over in a minute."""

    rounds: int = 5
    """How often each contestant of `ingest` runs, in a new order each time."""
    other_rounds: int = 2
    """How many of these rounds those take part in that are far behind."""
    kills: int = 2
    """How often each peer is killed to see what is left."""
    ingest_s: float = 2.0
    """Length of the measured part of one run."""
    warm_s: float = 0.7
    """What goes before it: pages, buffers and ring are in their steady state then."""
    memory_s: float = 60.0
    """How long free memory is touched at most before all else, so that the page cache is warm for those who use it."""
    table_bytes: int = 64 << 20
    """Size of the prepared samples, more than the caches hold."""
    slow_s: float = 8.0
    """How long the slow disk of `disks` is written to."""
    streams_s: float = 60.0
    """How long `many_streams` records."""
    instruments: int = 10
    streams: int = 100
    """Streams of each instrument."""
    peer_s: float = 5.0
    """How long the peers of `many_streams` work."""
    mixed_rounds: int = 3
    mixed_s: float = 4.0
    """Length of one run of `mixed`."""
    live_rounds: int = 3
    """How often each contestant of `live` has its turn, `mixed_s` long."""
    starts: int = 3
    """How often `start` starts each station."""
    idle_s: float = 20.0
    """How long the idle station of `start` is watched."""
    segments: int = 10_000
    """How many segments the store has that a killed station starts on again."""
    reading_turns: int = 6
    """How often each contestant of `readings` has its turn."""
    generations: int = 3
    """How often the processes of `scpi` are begun."""
    turns: int = 4
    """How often each of them has its turn."""
    turn_s: float = 0.2
    api_s: float = 4.0
    """How long each contestant of `api` is asked."""
    scrapes: int = 50
    """How often `scrape` renders the metrics."""
    export_rounds: int = 3
    """How often each contestant of `export` writes its file."""
    export_rows: int = 4_000_000
    """Of these, a tenth as CSV."""
    zoom_rows: int = 1_000_000_000
    """Rows of the long stream that `zoom` draws ranges of."""
    zooms: int = 60
    """How many ranges."""
    warm_zooms: int = 5
    """How often each is asked for again."""
    flight_bytes: int = 1 << 30
    """How much each contestant of `flight` sends in a turn."""
    flight_rounds: int = 5
    only: Sequence[str] = ()
    """Contestants whose name contains one of these; all when empty."""

    def wants(self, who: str) -> bool:
        """Whether a contestant takes part."""
        return not self.only or any(part in who for part in self.only)


def quick() -> Settings:
    """One round each."""
    return Settings(
        rounds=1,
        kills=1,
        ingest_s=1.0,
        warm_s=0.5,
        memory_s=5.0,
        streams_s=20.0,
        slow_s=3.0,
        peer_s=2.0,
        reading_turns=2,
        generations=1,
        turns=3,
        mixed_rounds=1,
        mixed_s=3.0,
        live_rounds=1,
        starts=1,
        idle_s=5.0,
        segments=1000,
        export_rounds=1,
        export_rows=400_000,
        api_s=1.0,
        scrapes=10,
        zoom_rows=50_000_000,
        zooms=15,
        warm_zooms=3,
        flight_bytes=256 << 20,
        flight_rounds=2,
    )
