"""`scidaq export`: which rows of which streams are wanted, where they go, and how it goes on."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from scidaq import __version__
from scidaq.archive import FORMATS, Exported, Origin, Request, Source, export
from scidaq.block import length_ns, moment_ns, shown
from scidaq.catalog import ARMED, Fact, Run, read_facts, read_run_book
from scidaq.cli.times import size
from scidaq.clock import SystemClock
from scidaq.errors import RequestError
from scidaq.query import Reader


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows, as they were asked for on the command line."""

    name: str
    """A stream (`instrument/stream`) or a run."""
    start: str | None = None
    stop: str | None = None
    last: str | None = None
    run: str | None = None
    """The run whose window is exported of a stream."""
    channels: Sequence[str] | None = None


def run_export(data_dir: Path, wanted: Wanted, request: Request, out: Path | None, *, as_json: bool = False) -> None:
    """Export, say on standard error how it goes, and print where it is; `as_json` all of that as lines of JSON."""
    if as_json:
        _write_line(_told(exported(data_dir, wanted, request, out, _lines)))
        return
    done = exported(data_dir, wanted, request, out)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    tables = "" if done.tables == 1 else f" in {done.tables} tables"
    print(f"{done.path}: {done.rows:,} rows{tables}, {size(done.bytes)}")


Progress = Callable[[int, int | None], None]
"""Takes how many rows are written, and about how many there are."""


def exported(
    data_dir: Path,
    wanted: Wanted,
    request: Request,
    out: Path | None,
    following: Callable[[str], AbstractContextManager[Progress]] | None = None,
) -> Exported:
    """Export; what has come about. Raises `UnknownStream`, `UnknownRun` and whatever `export` does."""
    reader = Reader(data_dir)
    now_ns = SystemClock().now_ns()
    whole = None if "/" in wanted.name else wanted.name
    named = whole or wanted.run
    run = None if named is None else read_run_book(data_dir / "facts").run(named)
    streams = [wanted.name] if whole is None else _streams(reader, run)
    start_ns, stop_ns = _range(wanted, run, now_ns)
    sources = _sources(reader, streams, start_ns, stop_ns, wanted)
    suffix = FORMATS[request.format].suffix
    target = out if out is not None else Path(re.sub(r"[^\w. -]", "_", wanted.name.replace("/", ".")) + suffix)
    request = replace(request, target=target, directory=whole is not None, start_ns=start_ns, stop_ns=stop_ns)
    origin = Origin(
        reader.station.name,
        reader.station.uuid,
        f"scidaq {__version__}",
        now_ns,
        None if run is None else run.as_json(),
        _identities(data_dir, {stream.partition("/")[0] for stream in streams}),
    )
    with (following or _progress)(str(target)) as progress:
        return export(sources, request, origin, progress)


def _streams(reader: Reader, run: Run | None) -> list[str]:
    """The streams of a run that there are."""
    found = [name for name in reader.names() if run is not None and run.covers(name)]
    if not found:
        raise RequestError("the run has no stream that is recorded here; `scidaq streams` lists those there are")
    return found


def _range(wanted: Wanted, run: Run | None, now_ns: int) -> tuple[int | None, int | None]:
    """From when, and before when; None for no end. A run's window is not left."""
    start_ns = None if wanted.start is None else moment_ns(wanted.start, now_ns)
    stop_ns = None if wanted.stop is None else moment_ns(wanted.stop, now_ns)
    if run is not None:
        start_ns = run.start_ns if start_ns is None else max(start_ns, run.start_ns)
        if run.stop_ns is not None:
            stop_ns = run.stop_ns if stop_ns is None else min(stop_ns, run.stop_ns)
    if start_ns is not None and stop_ns is not None and stop_ns < start_ns:
        raise RequestError(f"the range ends ({shown(stop_ns)}) before it starts ({shown(start_ns)})")
    return start_ns, stop_ns


def _sources(
    reader: Reader, streams: Sequence[str], start_ns: int | None, stop_ns: int | None, wanted: Wanted
) -> list[Source]:
    summaries = reader.streams()
    out = []
    for stream in streams:
        rows = 0
        for one in summaries:
            if one.stream == stream and one.first_ns is not None and one.last_ns is not None:
                a, b = max(one.first_ns, start_ns or one.first_ns), min(one.last_ns, stop_ns or one.last_ns)
                span = one.last_ns - one.first_ns + 1
                rows += one.rows * max(0, b - a + 1) // span
        out.append(_source(reader, stream, start_ns, stop_ns, wanted, rows))
    return out


def _source(
    reader: Reader, stream: str, start_ns: int | None, stop_ns: int | None, wanted: Wanted, rows: int
) -> Source:
    if wanted.last is None:
        return Source(stream, reader.blocks(stream, start_ns, stop_ns, wanted.channels), rows or None)
    if (length := length_ns(wanted.last)) is not None:
        return Source(stream, reader.newest(stream, seconds=length / 1e9, channels=wanted.channels))
    if not re.fullmatch("0*[1-9][0-9]{0,17}", wanted.last):
        raise RequestError(f"--last {wanted.last[:40]!r}: give a number of rows, as 100, or a length, as 10s")
    count = int(wanted.last)
    return Source(stream, reader.newest(stream, count, channels=wanted.channels), min(count, rows or count))


def _identities(data_dir: Path, instruments: set[str]) -> dict[str, str]:
    """What the instruments said of themselves when they were last armed."""
    found = {}
    for fact in read_facts(data_dir / "facts"):
        if isinstance(fact, Fact) and fact.kind == ARMED and fact.data.get("instrument") in instruments:
            found[str(fact.data["instrument"])] = str(fact.data.get("identity") or "")
    return {instrument: identity for instrument, identity in found.items() if identity}


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda rows, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} rows"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda rows, total: bar.update(task, completed=rows, total=None if total is None else max(rows, total))


# ---- for programs ---------------------------------------------------------------------------------------------------


@contextmanager
def _lines(what: str) -> Iterator[Progress]:
    """A line for every step. When nobody reads them any more, the export ends."""
    _write_line({"rows": 0, "of": None})
    yield lambda rows, total: _write_line({"rows": rows, "of": None if total is None else max(rows, total)})


def _write_line(content: dict[str, Any]) -> None:
    print(orjson.dumps(content).decode(), flush=True)


def _told(done: Exported) -> dict[str, Any]:
    """What has come about, with every file: its name from the directory of the result on, its size and its digest."""
    known = _known_digests(done.path)
    files = [
        {
            "name": path.relative_to(done.path.parent).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": known.get(path) or _digest(path),
        }
        for path in done.files
    ]
    return {
        "path": str(done.path),
        "tables": done.tables,
        "rows": done.rows,
        "bytes": done.bytes,
        "notes": list(done.notes),
        "files": files,
    }


def _known_digests(whole: Path) -> dict[Path, str]:
    """What the checksums of the export say, so that nothing large is read again."""
    found = {}
    for sums in (whole.with_name(f"{whole.name}.sha256"), whole / "SHA256SUMS"):
        for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else ():
            digest, _, name = line.partition("  ")
            if not digest.startswith("\\"):  # a name with escapes is looked at itself
                found[sums.parent / name] = digest
    return found


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
