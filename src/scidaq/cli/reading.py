"""What is recorded: listed, read and verified, with or without a running station."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from scidaq.block import Block, Gap
from scidaq.cli import formats
from scidaq.cli.times import length_ns, moment_ns, size, to_the_second
from scidaq.errors import RequestError
from scidaq.query import Reader, Store, open_store

if TYPE_CHECKING:
    from scidaq.store import Report

_ROWS = re.compile("0*[1-9][0-9]{0,17}")
_INDEX = re.compile("([0-9]{0,18}):([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows, as they were asked for on the command line."""

    stream: str
    start: str | None = None
    stop: str | None = None
    last: str | None = None
    channels: Sequence[str] | None = None
    run: str | None = None
    index: str | None = None
    """Rows of an epoch, as `100:200`."""
    epoch: int | None = None

    def __post_init__(self) -> None:
        """Raises `RequestError` for a time or a length that is none."""
        if self.last is not None and length_ns(self.last) is None and not _ROWS.fullmatch(self.last):
            raise RequestError(f"--last {_short(self.last)!r}: give a number of rows, as 100, or a length, as 10s")
        for text in (self.start, self.stop):
            if text is not None:
                moment_ns(text, 0)
        if self.index is not None and not _INDEX.fullmatch(self.index):
            raise RequestError(f"--index {_short(self.index)!r}: give rows as 100:200, 100: or :200")

    def items(self, store: Store) -> Iterable[Block | Gap]:
        """The rows and the gaps between them."""
        found = _INDEX.fullmatch(self.index or "")
        first, end = (int(text) if text else None for text in found.groups()) if found else (None, None)
        if self.index is not None and first is None and end is None:
            first = 0
        last = int(self.last) if self.last is not None and _ROWS.fullmatch(self.last) else self.last
        return store[self.stream].blocks(
            *(self.start, self.stop, self.channels),
            run=self.run,
            epoch=self.epoch,
            first=first,
            end=end,
            last=last,
        )


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def write_rows(data_dir: Path, selection: Selection, form: str, raw: bool) -> None:
    """Write what is selected to standard output; gaps inside a table, on standard error otherwise."""

    def note(line: str) -> None:
        print(line, file=sys.stderr)

    items = selection.items(open_store(data_dir))
    if form == "table":
        formats.write_table(items, sys.stdout, raw)
    elif form == "csv":
        formats.write_csv(items, sys.stdout, note, raw)
    elif form == "json":
        formats.write_json(items, sys.stdout.buffer, note, raw)
    else:
        formats.write_arrow(items, sys.stdout.buffer, note, raw)
    sys.stdout.flush()


def list_streams(data_dir: Path, as_json: bool) -> None:
    """Every epoch of every stream, as a table or as one JSON array."""
    found = Reader(data_dir).streams()
    if as_json:
        print(orjson.dumps([asdict(one) for one in found], option=orjson.OPT_INDENT_2).decode())
        return
    heads = ("stream", "epoch", "rows", "durable rows", "gap rows", "size", "first (UTC)", "last (UTC)")
    rows = [
        (
            s.stream,
            str(s.epoch),
            *(f"{n:,}" for n in (s.rows, s.durable_rows, s.gap_rows)),
            size(s.bytes),
            to_the_second(s.first_ns),
            to_the_second(s.last_ns),
        )
        for s in found
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join([f"{row[0]:<{widths[0]}}", *(f"{v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))]))


def report_verification(data_dir: Path, as_json: bool) -> bool:
    """Verify a data directory and say what was found; whether all is well."""
    from scidaq.store import verify

    report = verify(data_dir)
    print(_as_json(report) if as_json else _as_text(data_dir, report))
    return report.ok


def _as_json(report: Report) -> str:
    parts = ("delivered", "recorded", "gaps", "duplicates", "left_out", "expired")
    balances = [
        {"stream": b.stream, "epoch": b.epoch}
        | {part: getattr(b.ledger, part) for part in parts}
        | {"balanced": b.balanced and not b.bounded, "bounded": b.bounded}
        for b in report.balances
    ]
    facts = {name: getattr(report, name) for name in ("ok", "segments", "sealed", "journals", "facts", "rows", "bytes")}
    content = {**facts, "balances": balances, "problems": list(map(asdict, report.problems)), "notes": report.notes}
    content["quarantine"] = list(map(asdict, report.quarantine))
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()


def _as_text(data_dir: Path, report: Report) -> str:
    lines = [f"WRONG {problem}" for problem in report.problems]
    lines += [f"note  {note}" for note in report.notes]
    lines += [f"kept  quarantine/{one}" for one in report.quarantine]
    for b in report.balances:
        ledger = b.ledger
        sum_ = f"{ledger.recorded} recorded + {ledger.gaps} in gaps + {ledger.duplicates} duplicates"
        sum_ += f" + {ledger.left_out} left out + {ledger.expired} expired"
        word = "NOT BALANCED" if not b.balanced else "bounded" if b.bounded else "balanced"
        lines.append(f"{word}: {b.stream} epoch {b.epoch}: {ledger.delivered} delivered = {sum_}")
    verdict = "all is well" if report.ok else f"{len(report.problems)} problems"
    lines.append(
        f"{data_dir}: {report.segments} segments ({report.sealed} sealed), {report.rows} rows, {report.facts} facts, "
        f"{size(report.bytes)}: {verdict}"
    )
    return "\n".join(lines)
