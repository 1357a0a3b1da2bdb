"""`scidaq import`: files into a data directory, as past data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scidaq.block import Channel
from scidaq.cli.times import shown
from scidaq.errors import RequestError
from scidaq.instruments import Reading, Table, tables
from scidaq.station import Imported, Importer, Source, compare, streams_of

Told = Callable[[int, int | None], object]
_MANY = 12


def units(said: Sequence[str]) -> dict[str, str]:
    """`["v=mV", ...]` as a mapping. Raises `RequestError`."""
    out = {}
    for one in said:
        name, equals, unit = one.rpartition("=")
        if not equals or not name or not unit:
            raise RequestError(f"--unit {one!r}: give a column and its unit, as v=mV")
        out[name] = unit
    return out


def import_files(
    data_dir: Path,
    paths: Sequence[Path],
    reading: Reading,
    *,
    stream: str | None,
    run: str | None,
    dry_run: bool,
    station: str,
) -> None:
    """Take files into a data directory one after the other, and say what became of each; or only what would."""
    found = [(path, streams_of(tables(path, reading), stream)) for path in paths]
    for path, streams in found:
        for name, parts in streams.items():
            if dry_run:
                print(_described(path, name, parts))
            for note in dict.fromkeys(note for part in parts for note in part.notes):
                print(f"note: {path.name}: {note}", file=sys.stderr)
            _check_times(path, parts)
    if dry_run:
        compared = []
        for path, streams in found:
            with _bar(f"reading {path.name}", "bytes") as told:
                compared.append((Source.of(path, reading, told), streams))
        for line in compare(data_dir, compared):
            print(line)
        return
    done: list[Imported] = []
    with Importer(data_dir, station) as importer:
        files: list[tuple[Source, dict[str, list[Table]]]] = []
        for path, streams in found:
            with _bar(f"reading {path.name}", "bytes") as told:
                files.append((Source.of(path, reading, told), streams))
        importer.check(files)
        for source, streams in files:
            path = source.path
            for name, parts in streams.items():
                with _bar(f"{path.name} → {name}", "rows") as told:
                    one = importer.take(source, name, parts, told)
                print(_outcome(path, one), flush=True)
                done.append(one)
        if run is not None:
            importer.declare(run, done)
            print(f"run {run!r}: {shown(min(d.first_ns for d in done if d.first_ns is not None))} to "
                  f"{shown(max(d.last_ns for d in done if d.last_ns is not None))}")  # fmt: skip


def _check_times(path: Path, parts: Sequence[Table]) -> None:
    if not all(part.timed for part in parts):
        raise RequestError(
            f"{path} does not say when it was recorded: give the time of its first row, as --start 2026-01-31T12:00:00Z"
        )


def _outcome(path: Path, one: Imported) -> str:
    if not one.rows:
        return f"{path.name}: no rows"
    gaps = f", {one.gap_rows} rows in gaps" if one.gap_rows else ""
    span = f"{shown(one.first_ns)} to {shown(one.last_ns)}"
    if not one.changed:
        return f"{path.name}: nothing to do, its {one.rows} rows are in {one.stream} already"
    before = f" ({one.rows - one.new_rows} were there)" if one.new_rows < one.rows else ""
    return f"{path.name}: {one.new_rows} rows{before} into {one.stream}{gaps}, {span}"


def _described(path: Path, stream: str, parts: Sequence[Table]) -> str:
    lines = []
    for part in parts:
        rate = "irregular" if part.schema.rate is None else f"{float(part.schema.rate):g} Hz"
        rows = "rows" if part.rows is None else f"{part.rows} rows"
        lines.append(f"{path.name} → {stream}: {rows}, {rate}")
        lines += [f"  {_channel(c)}" for c in part.schema.channels[:_MANY]]
        if (more := len(part.schema.channels) - _MANY) > 0:
            lines.append(f"  and {more} more channels")
    return "\n".join(lines)


def _channel(channel: Channel) -> str:
    shape = str(list(channel.shape)) if channel.shape else ""
    calibrated = f", {channel.calibration.unit} calibrated" if channel.calibration else ""
    description = f" ({channel.description})" if channel.description else ""
    unit = "" if channel.unit == "1" else f" in {channel.unit}"
    return f"{channel.name}: {channel.dtype}{shape}{unit}{calibrated}{description}"


@contextmanager
def _bar(what: str, of: str) -> Iterator[Told | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} " + of),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)

        def told(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield told
