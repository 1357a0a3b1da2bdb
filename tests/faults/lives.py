"""What a sweep counts, and what a life must not leave behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scidaq.testing.faults import STRIKES, DiskFault, FaultyFiles, faults_of
from tests import figures

LIFE_S = 30.0
"""No life with a fault may take longer."""
ENOUGH = 20
"""So many lives that went wrong end a sweep."""
KINDS = tuple(kind for kind in STRIKES if kind not in ("slow", "full"))
"""The kinds of which every operation is struck."""


Lead = Callable[[Path, "DiskFault | None", int, "Tally"], FaultyFiles]
"""Lead one life in a directory, with a fault and a seed, and look at what is left; raises when that is wrong."""


@dataclass
class Tally:
    """What all lives of a sweep together showed."""

    lives: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    """Lives by the kind of fault that struck in them."""
    refused: int = 0
    """Starts that were refused with a clear error."""
    rows_compared: int = 0
    to_gaps: int = 0
    """Rows that were never durable and are in a gap with its reason."""
    rows_lost: int = 0
    wrong_values: int = 0
    slowest_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.struck.items()))
        return (
            f"{self.lives} lives, {sum(self.struck.values())} faults ({kinds}), {self.refused} starts refused, "
            f"{self.rows_compared} rows compared, {self.to_gaps} in gaps, {self.rows_lost} durable rows lost, "
            f"{self.wrong_values} wrong values, {len(self.problems)} problems, slowest life {self.slowest_s:.1f} s"
        )

    def count(self, files: FaultyFiles, took_s: float) -> None:
        """One life has ended."""
        self.lives += 1
        self.struck.update({text.partition("@")[0] for text in files.struck})
        self.slowest_s = max(self.slowest_s, took_s)


def sweep(lead: Lead, root: Path, lives: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A life without a fault, then one with each (or with `lives` of them, chosen by chance); says how it went.

    SCIDAQ_FAULT="eio@17 lost@3+" leads these alone, and SCIDAQ_FAULT_SEED makes the same choices again.
    """
    seed = int(os.environ.get("SCIDAQ_FAULT_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
    tally = Tally()
    faulthandler.cancel_dump_traceback_later()  # each life has a time of its own
    sound = lead(root / "sound", None, seed, tally)
    faults = list(faults_of(os.environ.get("SCIDAQ_FAULT", "")))
    if not faults:
        dice = random.Random(seed)
        faults = every_fault({kind: sound.operations(kind) for kind in STRIKES}, sound.used_bytes, dice)
        dice.shuffle(faults)
        faults = faults[: lives or None]
    for n, fault in enumerate(faults):
        try:
            lead(root / str(n), fault, seed, tally)
        except Exception as e:
            where = traceback.extract_tb(e.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            tally.problems.append(f"SCIDAQ_FAULT={fault} SCIDAQ_FAULT_SEED={seed} ({n}): {place} {e!r:.600}")
            say(capsys, tally.problems[-1])
            if len(tally.problems) >= ENOUGH:
                break
        else:
            shutil.rmtree(root / str(n))
        if n % 50 == 49:  # each start of a station freezes what is there
            gc.unfreeze()
            gc.collect()
    say(capsys, str(tally))
    assert (tally.rows_lost, tally.wrong_values, tally.problems) == (0, 0, []), "\n".join([str(tally), *tally.problems])
    struck = f"{sum(tally.struck.values()):,} faults struck, {tally.refused:,} starts refused in words"
    what = f"`make faults`: {what_of(lead)}"
    figures.write(figures.Row(what, tally.lives, tally.rows_compared, 0, 0, 0, struck))


def what_of(lead: Lead) -> str:
    """What a kind of life is, in the words of its own first line."""
    return (lead.__doc__ or "a life").strip().splitlines()[0].rstrip(".:").partition(": ")[0].partition(";")[0]


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Write a line to whoever runs the tests, at once."""
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")
        sys.stdout.flush()


def every_fault(operations: dict[str, int], used_bytes: int, rng: random.Random) -> list[DiskFault]:
    """Each kind at each operation once; lasting for some operations or until they are released, at some; full disks."""
    once = [DiskFault(kind, k) for kind in KINDS for k in range(1, operations[kind] + 1)]
    longer = [
        DiskFault(kind, k, rng.choice((2, 5, 12, 0)))
        for kind in ("eio", "enospc", "lost", "torn")
        for k in range(1, operations[kind] + 1, 3)
    ]
    slow = [DiskFault("slow", k, rng.choice((1, 1, 3))) for k in range(1, operations["slow"] + 1, 4)]
    full = [DiskFault("full", rng.randrange(used_bytes), 0) for _ in range(operations["full"] // 4)]
    return once + longer + slow + full


@contextmanager
def nothing_left(what: str) -> Iterator[None]:
    """Fail when a thread or a descriptor is left over, or it took too long."""
    threads, open_before, started = set(threading.enumerate()), descriptors(), time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < LIFE_S, f"{what}: took {took:.1f} s"
    deadline = time.monotonic() + 5
    while left := [t.name for t in threading.enumerate() if t not in threads]:
        assert time.monotonic() < deadline, f"{what}: threads left over: {left}"
        time.sleep(0.005)
    if descriptors() != open_before:
        gc.unfreeze()  # a station freezes what is there when it starts
        gc.collect()  # a map is given back when nothing refers to it
    left_open = descriptors() - open_before
    assert not left_open, f"{what}: open files left over: {sorted(left_open)}"


def descriptors() -> Counter[str]:
    """What this process has open or mapped, by name, as far as the system tells."""
    out: Counter[str] = Counter()
    here = Path("/proc/self/fd")
    for number in os.listdir(here) if here.is_dir() else ():
        try:
            name = os.readlink(here / number).removesuffix(" (deleted)")
        except OSError:
            continue  # the listing's own
        if name.startswith("/") and not name.startswith(("/proc/", "/dev/")):
            out[name] += 1
    return out


def clear(error: Exception, where: str = "") -> None:
    """An error is one line that says what, where, and behind the semicolon what to do."""
    text = str(error)
    assert "\n" not in text, text
    assert where in text, text
    assert ";" in text, f"it does not say what to do: {text}"
