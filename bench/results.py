"""Rows of the one table that a run prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

HEAD = ("benchmark", "who", "speed", "CPU", "compared", "target", "remarks")


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant's figures, ready to be read."""

    benchmark: str
    who: str
    speed: str = ""
    cpu: str = ""
    compared: str = ""
    target: str = ""
    """What we are to reach, and whether we did."""
    remarks: str = ""


def judged(target: str, reached: bool) -> str:
    """A target with its outcome."""
    return f"{target}: {'reached' if reached else 'missed'}"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table with aligned columns: the same on the console and in the documentation."""
    cells = [HEAD, *(astuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def rate(bytes_per_s: float) -> str:
    """In millions of bytes, as disks are sold."""
    return f"{bytes_per_s / 1e6:,.0f} MB/s"


def size(count: float) -> str:
    """In MiB."""
    return f"{count / (1 << 20):,.0f} MiB"
