"""Figures of the long targets, written by themselves into docs/reliability.md: `make crash KILLS=1000 WRITE=1`.

`WRITE=1` puts a run's row in the place of the one before, `WRITE=add` adds to it what was tried beside it or since. A
run that found a fault never comes here: it fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from bench.machine import described

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
VARIABLE = "SCIDAQ_FIGURES"
_HEADS = {
    "what": "what was done",
    "times": "times",
    "rows": "rows compared",
    "lost": "durable rows lost",
    "wrong": "wrong values",
    "unbalanced": "unbalanced books",
    "remarks": "remarks",
    "on": "on",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What one tool did and found."""

    what: str
    """The command; one row each."""
    times: int
    rows: int
    lost: int
    wrong: int
    unbalanced: int
    remarks: str = ""
    on: str = ""

    def cells(self) -> list[str]:
        return [f"{v:,}" if isinstance(v, int) else v for v in (getattr(self, f.name) for f in fields(self))]

    @classmethod
    def parse(cls, line: str) -> Row:
        what, *numbers, remarks, on = (cell.strip() for cell in line.strip("| \n").split("|"))
        times, rows, lost, wrong, unbalanced = (int(n.replace(",", "")) for n in numbers)
        return cls(what, times, rows, lost, wrong, unbalanced, remarks, on)

    def added(self, other: Row) -> Row:
        """Both together, with the remarks and the date of this one."""
        return replace(
            self,
            times=self.times + other.times,
            rows=self.rows + other.rows,
            lost=self.lost + other.lost,
            wrong=self.wrong + other.wrong,
            unbalanced=self.unbalanced + other.unbalanced,
        )


def with_row(page: str, row: Row, how: str, machine: str) -> str:
    """The page with one more row between its markers. Raises `ValueError` when it has none."""
    head, begin, rest = page.partition(BEGIN)
    old, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    rows = _rows(old)
    before = next((r for r in rows if r.what == row.what), None)
    if before is None:
        rows.append(row)
    else:
        rows[rows.index(before)] = row.added(before) if how == "add" else row
    return f"{head}{BEGIN}\n\n{_table(rows)}\n\n{machine}\n\n{END}{tail}"


def _rows(text: str) -> list[Row]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [Row.parse(line) for line in lines[2:]]


def _table(rows: Sequence[Row]) -> str:
    lines = [list(_HEADS.values()), ["---"] * len(_HEADS), *(r.cells() for r in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def wanted() -> str:
    """How the environment asks for figures: `1`, `add`, or not at all."""
    return os.environ.get(VARIABLE, "")


def write(row: Row) -> None:
    """Put a row into the page, when the environment asks for it."""
    how = wanted()
    if not how:
        return
    row = replace(row, on=time.strftime("%Y-%m-%d"))
    with open(PAGE, "r+") as page:  # several tools may end at the same time
        _lock(page.fileno())
        content = with_row(page.read(), row, how, described(PAGE.parent))
        page.seek(0)
        page.truncate()
        page.write(content)


def _lock(fd: int) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX)
