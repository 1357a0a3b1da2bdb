"""`python -m bench [names] [--quick] [--write-docs]`: run benchmarks and print one table."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from bench.places import BASE
from bench.results import Row, table
from bench.settings import Settings, quick

Benchmark = Callable[[Settings, Callable[[str], None]], list[Row]]
BENCHMARKS = (
    "ingest",
    "disks",
    "many_streams",
    "scpi",
    "readings",
    "read",
    "start",
    "mixed",
    "live",
    "api",
    "scrape",
    "export",
    "importing",
    "zoom",
    "flight",
)
"""Modules of this package, each with a function of the same name."""
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def run(names: Sequence[str], settings: Settings, say: Callable[[str], None]) -> str:
    """Run benchmarks; what they found, as Markdown."""
    from bench.machine import described, load

    BASE.mkdir(parents=True, exist_ok=True)
    before, rows = load(), []
    for name in names:
        begin = time.monotonic()
        rows += benchmark(name)(settings, say)
        say(f"{name} took {time.monotonic() - begin:.0f} s")
    rounds = f"{settings.rounds} rounds of {settings.ingest_s:g} s, {settings.streams_s:g} s of slow streams"
    return f"{table(rows)}\n\n{described(BASE)} {rounds}; load {before:.1f} before the run, {load():.1f} after it.\n"


def benchmark(name: str) -> Benchmark:
    """One of `BENCHMARKS`. Imported when it is its turn: every process of a contestant imports this module first."""
    found: Benchmark = getattr(import_module(f"bench.{name}"), name)
    return found


def marks(name: str = "") -> tuple[str, str]:
    """What the figures of a benchmark that has a place of its own in the page lie between, or those of all others."""
    figures = f"figures of {name}" if name else "figures"
    return f"<!-- {figures}: begin -->", f"<!-- {figures}: end -->"


def with_figures(page: str, figures: str, name: str = "") -> str:
    """The page with new figures between its markers. Raises `ValueError` when it has none."""
    first, last = marks(name)
    head, begin, rest = page.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page has no {first} ... {last}")
    return f"{head}{first}\n\n{figures}\n{last}{tail}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which ({', '.join(BENCHMARKS)}; default: all)")
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works")
    parser.add_argument("--write-docs", action="store_true", help=f"write the figures into docs/{PAGE.name}")
    parser.add_argument("--rounds", type=int, help="rounds of ingest")
    parser.add_argument("--seconds", type=float, help="length of one round of ingest")
    parser.add_argument("--streams-seconds", type=float, help="how long many_streams records")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PART", help="contestants with this in their name"
    )
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    settings = quick() if chosen.quick else Settings()
    settings = replace(
        settings,
        rounds=chosen.rounds or settings.rounds,
        ingest_s=chosen.seconds or settings.ingest_s,
        streams_s=chosen.streams_seconds or settings.streams_s,
        only=tuple(chosen.only),
    )
    names = chosen.names or list(BENCHMARKS)
    alone = [name for name in names if marks(name)[0] in PAGE.read_text()]
    together = [name for name in names if name not in alone]
    for place, group in [("", together), *((name, [name]) for name in alone)]:
        if group:
            figures = run(group, settings, lambda line: print(line, file=sys.stderr, flush=True))
            print(figures)
            if chosen.write_docs:
                PAGE.write_text(with_figures(PAGE.read_text(), figures, place))
    return 0


if __name__ == "__main__":
    sys.exit(main())
