"""Other disks: one in memory, one without O_DIRECT, and one that is too slow for what is delivered.

The slow one is not a device: it is the usual implementation of `Files` that waits in `append`, so that no more than so
many bytes a second go through, and in `sync`, every now and then for long. The station cannot tell the difference. What
counts there is not the speed, it is that rows that find no room become gaps which are told, to the row, and that
`verify` agrees afterwards.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import writers
from bench.ingest import NOMINAL_BYTES_S, record
from bench.places import BASE, fresh
from bench.processes import call
from bench.recording import digitizer
from bench.results import Row, judged, rate, size
from bench.settings import Settings
from bench.writers import RAW, Outcome, Work
from scidaq.station import StationStats
from scidaq.store import Buffer, File, Options, PosixFiles, verify

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 8 << 30
"""What must be free there."""
BALANCED = "balanced"
SLOW_BYTES_S, SLOW_SYNC_S, HANG_SYNC_S, HANG_ONE_IN = 100e6, 0.02, 0.5, 20


class SlowFiles(PosixFiles):
    """A disk that takes 100 MB/s, syncs in 20 ms, and hangs for half a second in one sync of twenty."""

    def __init__(self) -> None:
        self._free_s = 0.0
        self._random = random.Random(1)

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        """As ever, but later."""
        super().append(file, pieces)
        now = time.monotonic()
        self._free_s = max(self._free_s, now) + sum(memoryview(piece).nbytes for piece in pieces) / SLOW_BYTES_S
        time.sleep(max(0.0, self._free_s - now))

    def sync(self, file: File) -> None:
        """As ever, but later."""
        super().sync(file)
        time.sleep(HANG_SYNC_S if self._random.randrange(HANG_ONE_IN) == 0 else SLOW_SYNC_S)


def disks(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Each once: what happens there, not how fast to the last percent."""
    work = Work("float64", settings.table_bytes, settings.warm_s, settings.ingest_s)
    rows = [_fast("in memory (tmpfs)", MEMORY, Options(allow_network_filesystem=True), work)] if _room() else []
    rows.append(_fast("without O_DIRECT", BASE, Options(direct_io="never"), work))
    longer = Work("float64", settings.table_bytes, settings.warm_s, settings.slow_s)
    rows += [_slow(factor, longer) for factor in (0.5, 2.0)]
    for row in rows:
        say(f"{row.benchmark}: {row.who} {row.speed}")
    return rows


def _room() -> bool:
    return MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES


def _fast(name: str, base: Path, storage: Options, work: Work) -> Row:
    with fresh(base) as directory:
        limit: Outcome = call(writers.run, RAW, work, directory)
    options = digitizer(work.dtype, unpaced=True, rate_hz=NOMINAL_BYTES_S / work.row_bytes)
    with fresh(base) as directory:
        outcome, stats = record(work, directory / "data", options, storage=storage)
        told = _told(directory / "data", stats)
    return Row(
        "disks",
        f"scidaq, {name}",
        rate(outcome.speed),
        f"{outcome.cpu_s_per_gb:.2f} s/GB",
        f"{outcome.speed / limit.speed:.2f} × {RAW} there, which took {rate(limit.speed)}",
        remarks=told,
    )


def _slow(factor: float, work: Work) -> Row:
    delivered = factor * SLOW_BYTES_S
    options = digitizer(work.dtype, free_running=False, rate_hz=round(delivered / work.row_bytes))
    with fresh() as directory:
        data_dir = directory / "data"
        outcome, stats = record(work, data_dir, options, files=SlowFiles)
        told, book = _told(data_dir, stats), stats.recorder.streams[0]
    if factor < 1:
        target = judged("no row lost, balanced", not book.gap_rows and told.endswith(BALANCED))
    else:
        target = judged("loss told, balanced", book.gap_rows > 0 and told.endswith(BALANCED))
    return Row(
        "disks",
        f"scidaq, {rate(SLOW_BYTES_S)} disk, {rate(delivered)} delivered",
        rate(outcome.speed),
        f"{outcome.cpu_s_per_gb:.2f} s/GB",
        f"{outcome.speed / SLOW_BYTES_S:.2f} × what it takes",
        target,
        f"{told}; worst sync {stats.recorder.writing.worst_sync_s * 1e3:.0f} ms",
    )


def _told(data_dir: Path, stats: StationStats) -> str:
    """What the station says of its losses, and whether `verify` agrees."""
    ring, book = stats.rings[0], stats.recorder.streams[0]
    agrees: str = call(partial(_verified, data_dir))
    return (
        f"ring ≤ {size(ring.peak_bytes)} of {size(ring.capacity_bytes)}, {book.rows:,} rows, "
        f"{book.gap_rows:,} in gaps, {agrees}"
    )


def _verified(data_dir: Path) -> str:
    report = verify(data_dir)
    good = report.ok and all(balance.balanced and not balance.bounded for balance in report.balances)
    return BALANCED if good else "IMBALANCE"
