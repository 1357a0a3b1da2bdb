"""`python -m tests.soak --minutes 30`: a station at the rated load, with faults, watched from outside.

It ends with 1 when rows are lost without a word, the books do not balance, or memory, descriptors or threads grow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests import figures
from tests.soak.plot import drawn
from tests.soak.watching import soak

PLOT = figures.PAGE.with_name("soak.svg")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--place", type=Path, default=figures.PAGE.parents[1] / ".soak", help="where to record")
    parser.add_argument("--samples", type=Path, help="write the samples there, as CSV")
    chosen = parser.parse_args(arguments)
    outcome = soak(chosen.minutes * 60, chosen.place, _say)
    if chosen.samples:
        chosen.samples.write_text(outcome.csv())
    sys.stdout.write(f"{outcome}\n")
    if outcome.problems:
        return 1
    if figures.wanted():
        PLOT.write_text(drawn(outcome.samples))
        what = f"`make soak MINUTES={chosen.minutes:g}`"
        figures.write(figures.Row(what, 1, outcome.rows, 0, 0, 0, outcome.remarks()))
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
