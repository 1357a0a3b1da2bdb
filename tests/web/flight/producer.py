"""A producer to be killed: `python -m tests.web.flight.producer ADDRESS COUNTER ROWS`, row n of which holds n."""

from __future__ import annotations

import sys

import numpy as np

import scidaq
from tests.web.flight.pushes import T0

STEP = 100


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(address: str, counter: str, rows: int) -> None:
    with scidaq.push(address, "rig/temps", counter=counter) as out:
        say(str(out.next_row))
        while out.next_row < rows:
            n = np.arange(out.next_row, min(rows, out.next_row + STEP))
            out.add({"inside": n / 2, "count": n}, t=T0 + n * 1_000_000)
    say("done")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
