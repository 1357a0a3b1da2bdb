"""A measurement as a script: a cup of tea cools down, and every reading is on the disk before the next is taken.

python examples/cooling.py DIRECTORY
"""

from __future__ import annotations

import math
import random
import sys
import time

import scidaq

ROOM, TEA, SECONDS = 21.0, 88.0, 1.5
"""Cel, Cel, and how long the cup takes to lose most of the difference: it is a small one."""


def temperature(after_s: float) -> float:
    """What a thermometer would say; yours asks one here."""
    return ROOM + (TEA - ROOM) * math.exp(-after_s / SECONDS) + random.gauss(0.0, 0.05)


def main(data_dir: str) -> None:
    channels = {"temperature": "Cel", "stirred": bool, "note": str}
    with scidaq.record(data_dir, channels, stream="tea/cooling") as rec:
        begin = time.monotonic()
        rec.add(temperature=temperature(0.0), stirred=False, note="poured")
        while (after_s := time.monotonic() - begin) < SECONDS:
            rec.add(temperature=temperature(after_s), stirred=after_s > 1.0, sync=True)
            time.sleep(0.05)
        print(f"{rec.durable} readings are on the disk in {rec.path.name}")


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["tea-data"])
