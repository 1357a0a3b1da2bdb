"""The verbs and their options. What a verb does is imported when it is called, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidaq import __version__
from scidaq.cli import keys
from scidaq.cli.options import (
    AsJson,
    By,
    ConfigFiles,
    DataDir,
    From,
    Meta,
    Operator,
    Remarks,
    RunName,
    Sample,
    Seconds,
    Streams,
    To,
    directory,
    load_config,
    typed,
)
from scidaq.cli.run_verbs import run_to_record, runs
from scidaq.errors import ConfigError, RequestError, ScidaqError

if TYPE_CHECKING:
    from scidaq.catalog import NewRun
    from scidaq.config import Again, Config, Edit
    from scidaq.station import StationStats

app = typer.Typer(
    name="scidaq",
    help="A data-acquisition server that a laboratory can leave running.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 fine, 1 something is wrong, 2 the command line is.",
)


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"


def run(arguments: Sequence[str]) -> int:
    """Run one verb; the exit code. Errors are one message on standard error, with `--debug` the traceback too."""
    if sys.stdout is None:  # it was closed before the program began
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    code = 0
    try:
        app(list(arguments))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except Exception as error:
        if "--debug" in arguments:
            raise
        _complain(error)
        code = 1
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        hang_up()
    return code


def hang_up() -> None:
    """Whoever reads has had enough; what is left in the buffer must not be complained about at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: Exception) -> None:
    if isinstance(error, ConfigError):
        count = len(error.problems)
        print(f"scidaq: the configuration has {count} mistake{'s' if count > 1 else ''}:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
    elif isinstance(error, ScidaqError | OSError):
        print(f"scidaq: {error}", file=sys.stderr)
    else:
        what = f"{type(error).__name__}: {error}"
        print(f"scidaq: a fault of the program: {what}; `scidaq --debug ...` shows where", file=sys.stderr)


def _version(asked: bool) -> None:
    if asked:
        print(f"scidaq {__version__}")
        raise typer.Exit


@app.callback()
def everything(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """A data-acquisition server that a laboratory can leave running."""


# ---- recording ------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    seconds: Seconds = None,
    run_name: RunName = None,
    operator: Operator = None,
    sample: Sample = None,
    notes: Remarks = None,
    meta: Meta = None,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Record simulated instruments and this machine, and show how it goes."""
    from scidaq.cli.demo import simulated
    from scidaq.cli.recording import report_end
    from scidaq.config import Base

    run = run_to_record(run_name, operator, sample, notes, meta)
    with simulated() as configuration:

        def load(edit: Edit | None = None) -> Config:
            return load_config(config, data_dir, Base("demo", configuration), edit)

        loaded = load()
        greeting = f"recording into {loaded.station.data_dir}; Ctrl-C ends it"
        stats = _record(loaded, load, seconds, greeting, demo=True, run=run)
    report_end(stats, loaded.station.data_dir)


@app.command()
def serve(
    seconds: Seconds = None,
    run_name: RunName = None,
    operator: Operator = None,
    sample: Sample = None,
    notes: Remarks = None,
    meta: Meta = None,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Record the configured instruments until a signal comes; SIGHUP has the configuration read again."""
    from scidaq.cli.recording import report_end

    run = run_to_record(run_name, operator, sample, notes, meta)

    def load(edit: Edit | None = None) -> Config:
        return load_config(config, data_dir, edit=edit)

    loaded = load()
    names = ", ".join(loaded.instruments) or "nothing, since no instrument is configured,"
    greeting = f"recording {names} into {loaded.station.data_dir}"
    stats = _record(loaded, load, seconds, greeting, run=run)
    report_end(stats, loaded.station.data_dir)


@app.command()
def check(
    offline: Annotated[bool, typer.Option("--offline", help="Do not talk to the instruments.")] = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Validate the configuration without starting, and ask the instruments who they are."""
    from scidaq.cli.checking import check as findings
    from scidaq.clock import SystemClock

    fine = True
    for finding in findings(load_config(config, data_dir), SystemClock(), offline=offline):
        print(finding, flush=True)
        fine = fine and finding.fine
    raise typer.Exit(0 if fine else 1)


@app.command()
def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Do not talk to the instruments.")] = False,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Look at whatever could keep a station from recording well, and say what to do, within ten seconds."""
    import json

    from scidaq.cli.doctor import Grade, all_checks, examine
    from scidaq.cli.doctor import as_json as for_programs
    from scidaq.clock import SystemClock

    clock = SystemClock()
    loaded: Config | None = None
    problems: Sequence[str] = ()
    try:
        loaded = load_config(config, data_dir)
    except ConfigError as error:
        problems = error.problems
    findings = []
    for finding in examine(all_checks(loaded, problems, clock, offline=offline), clock):
        findings.append(finding)
        if not as_json:
            print(finding, flush=True)
    if as_json:
        print(json.dumps(for_programs(findings), indent=2))
    raise typer.Exit(1 if any(one.grade is Grade.WRONG for one in findings) else 0)


# ---- reading --------------------------------------------------------------------------------------------------------


@app.command()
def streams(as_json: AsJson = False, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """List what is recorded, by stream and epoch."""
    from scidaq.cli.reading import list_streams

    list_streams(directory(config, data_dir), as_json)


@app.command()
def read(
    stream: Annotated[str, typer.Argument(help="A stream, such as `dmm/readings`.", metavar="STREAM")],
    start: Annotated[
        str | None, typer.Option(help="From this time on: ISO 8601 (UTC), nanoseconds, or -10s.", metavar="TIME")
    ] = None,
    stop: Annotated[str | None, typer.Option(help="Before this time.", metavar="TIME")] = None,
    last: Annotated[str | None, typer.Option(help="The last 100 (rows), or 10s.", metavar="N")] = None,
    channels: Annotated[str | None, typer.Option(help="Only these, joined by commas.", metavar="A,B")] = None,
    run: Annotated[str | None, typer.Option(help="Only rows of this run, by its name or id.", metavar="RUN")] = None,
    index: Annotated[str | None, typer.Option(help="Only these rows of an epoch: 100:200.", metavar="A:B")] = None,
    epoch: Annotated[int | None, typer.Option(help="Only rows of this epoch.", metavar="N", min=0)] = None,
    form: Annotated[Format, typer.Option("--format", help="How rows are written.")] = Format.TABLE,
    raw: Annotated[bool, typer.Option("--raw", help="As they were stored, without calibration.")] = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Write the rows of a stream to standard output."""
    from scidaq.cli.reading import Selection, write_rows

    if last is not None and any(one is not None for one in (start, stop, run, index, epoch)):
        raise typer.BadParameter(
            "--last says itself which rows: give it without --start, --stop, --run, --index, --epoch"
        )
    if form is Format.ARROW and sys.stdout.isatty():
        raise typer.BadParameter("an Arrow stream is no text: send it to a file or a program", param_hint="--format")
    chosen = None if channels is None else [name.strip() for name in channels.split(",")]
    try:
        selection = Selection(stream, start, stop, last, chosen, run, index, epoch)
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        write_rows(directory(config, data_dir), selection, form.value, raw)
    except BrokenPipeError:
        hang_up()


class SqlFormat(StrEnum):
    """How the result of a query is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    PARQUET = "parquet"


@app.command()
def sql(
    query: Annotated[
        str, typer.Argument(help="One SELECT over streams, runs and notes; - reads it from the input.", metavar="QUERY")
    ],
    form: Annotated[SqlFormat, typer.Option("--format", help="How the result is written.")] = SqlFormat.TABLE,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Ask for what is recorded in SQL, with or without a running station. Nothing can be changed by it."""
    from scidaq.cli.querying import write_query

    chosen = SqlFormat.JSON if as_json else form
    if chosen in (SqlFormat.ARROW, SqlFormat.PARQUET) and sys.stdout.isatty():
        raise typer.BadParameter(f"{chosen.value} is no text: send it to a file or a program", param_hint="--format")
    try:
        write_query(directory(config, data_dir), query, chosen.value)
    except BrokenPipeError:
        hang_up()


class ExportFormat(StrEnum):
    """What a file can be exported as; `scidaq.archive.FORMATS` has the same names."""

    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    HDF5 = "hdf5"
    ZARR = "zarr"
    TDMS = "tdms"
    MAT = "mat"


@app.command()
def export(
    name: Annotated[
        str,
        typer.Argument(help="A stream, such as `dmm/readings`, or a run with all its streams.", metavar="STREAM|RUN"),
    ],
    form: Annotated[ExportFormat, typer.Option("--format", help="The format of the file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file to be; the name of the stream or run by default.", metavar="PATH"),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="From this time on: ISO 8601 (UTC), nanoseconds, or -10s.", metavar="TIME")
    ] = None,
    stop: Annotated[str | None, typer.Option(help="Before this time.", metavar="TIME")] = None,
    last: Annotated[str | None, typer.Option(help="The last 100 (rows), or 10s.", metavar="N")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Of a stream, what a run covers.", metavar="RUN")] = None,
    channels: Annotated[str | None, typer.Option(help="Only these, joined by commas.", metavar="A,B")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="As they were stored, without calibration.")] = False,
    compression: Annotated[
        str | None, typer.Option(help="none, gzip, zstd, snappy or lz4, as far as the format has it.", metavar="NAME")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: a line as it goes on, and one with all files at the end.")
    ] = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Write rows into a file for other programs, whole or not at all, with a checksum beside it."""
    from scidaq.archive import Request
    from scidaq.cli.exporting import Wanted, run_export

    if last is not None and (start is not None or stop is not None or run is not None or "/" not in name):
        raise typer.BadParameter("give either --last (of a stream) or --start, --stop and a run")
    if run is not None and "/" not in name:
        raise typer.BadParameter(f"{name} is a run itself; give --run with a stream", param_hint="--run")
    chosen = None if channels is None else [one.strip() for one in channels.split(",")]
    request = Request(form.value, Path(), raw, compression, force)
    wanted = Wanted(name, start, stop, last, run, chosen)
    run_export(directory(config, data_dir), wanted, request, out, as_json=as_json)


@app.command("import")
def import_(
    paths: Annotated[
        list[Path], typer.Argument(help="Files, or directories of the segments of a stream.", metavar="FILE...")
    ],
    stream: Annotated[
        str | None,
        typer.Option(
            help="The stream that they become; or an instrument, below which each has its name.", metavar="ID"
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Declare a run of this name over what came in.", metavar="NAME")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="What the files are, where they do not tell themselves.", metavar="F")
    ] = "",
    start: Annotated[
        str | None, typer.Option(help="Time of the first row, for files that do not say it.", metavar="TIME")
    ] = None,
    rate_hz: Annotated[
        float | None, typer.Option("--rate-hz", help="Rows per second, for files without times.", metavar="HZ")
    ] = None,
    time_column: Annotated[str, typer.Option("--time-column", help="Which column is the time.", metavar="NAME")] = "",
    unit: Annotated[
        list[str] | None, typer.Option("--unit", help="Unit (UCUM) of a column, as v=mV.", metavar="COLUMN=UNIT")
    ] = None,
    missing: Annotated[
        list[str] | None, typer.Option("--missing", help="A text that stands for a missing value.", metavar="TEXT")
    ] = None,
    skip_lines: Annotated[
        int, typer.Option("--skip-lines", help="Lines of a text file before its header.", metavar="N", min=0)
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken, and take nothing.")] = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Take files into the data directory as past data: CSV, WAV, Parquet, Arrow, HDF5, TDMS, segments.

    Done again, it goes on where it was, or changes nothing. No station may record there meanwhile.
    """
    from scidaq.cli.importing import import_files, units
    from scidaq.cli.times import moment_ns
    from scidaq.clock import SystemClock
    from scidaq.instruments import Reading

    if rate_hz is not None and not 0 < rate_hz <= 1e10:
        raise typer.BadParameter("rows per second are above 0 and at most 10^10", param_hint="--rate-hz")
    try:
        begins = None if start is None else moment_ns(start, SystemClock().now_ns())
        known = units(unit or ())
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None
    reading = Reading(form, time_column, rate_hz, begins, known, tuple(missing or ()), skip_lines)
    where, name = data_dir, "station"
    if where is None:
        loaded = load_config(config, None)
        where, name = loaded.station.data_dir, loaded.station.name
    import_files(where, paths, reading, stream=stream, run=run, dry_run=dry_run, station=name)


@app.command()
def verify(as_json: AsJson = False, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """Read everything that is recorded, and check every checksum and every balance."""
    from scidaq.cli.reading import report_verification

    raise typer.Exit(0 if report_verification(directory(config, data_dir), as_json) else 1)


@app.command()
def repair(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and touch nothing.")] = False,
    rebuild_catalog: Annotated[
        bool, typer.Option("--rebuild-catalog", help="Make the catalog anew, be it sound; the old one is kept.")
    ] = False,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Bring a damaged data directory, on which no station runs, into order. Nothing is deleted.

    Exit codes: 0 in order and nothing lost, 1 in order and what is lost is told (with --dry-run: something is to be
    done), 2 it cannot be brought into order.
    """
    from scidaq.cli.repair import run_repair

    where = directory(config, data_dir)
    try:
        code = run_repair(where.absolute(), rebuild_catalog=rebuild_catalog, dry_run=dry_run, as_json=as_json)
    except (ScidaqError, OSError) as error:
        _complain(error)
        code = 2
    raise typer.Exit(code)


# ---- runs -----------------------------------------------------------------------------------------------------------

app.add_typer(runs, name="run", help="Runs: named windows of time over streams, for the past or for what is recorded.")


@app.command()
def note(
    text: Annotated[str | None, typer.Argument(help="What there is to remark.", metavar="[TEXT]")] = None,
    at: Annotated[str | None, typer.Option("--at", help="When; now unless given.", metavar="TIME")] = None,
    until: Annotated[str | None, typer.Option("--until", help="For a range: its end.", metavar="TIME")] = None,
    streams: Streams = None,
    run: Annotated[str | None, typer.Option("--run", help="The run that it belongs to.", metavar="RUN")] = None,
    by: By = None,
    edit: Annotated[str | None, typer.Option("--edit", help="Change the note of this id.", metavar="ID")] = None,
    remove: Annotated[
        str | None, typer.Option("--remove", help="Show the note of this id no more.", metavar="ID")
    ] = None,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Remark something about a moment or a range of time."""
    from scidaq.catalog import NewNote, NoteChanges
    from scidaq.cli.runs import run_acts, streams_of, time_ns

    if (edit is not None) + (remove is not None) + (text is not None and edit is None) != 1:
        raise typer.BadParameter("give a text, or --edit ID with what changes, or --remove ID")
    with typed():
        begin, end = time_ns(at), time_ns(until)
        chosen = None if streams is None else streams_of(streams)
        changes = NoteChanges(text, begin, end, chosen) if edit is not None else None
        new = NewNote(text, begin, end, chosen or (), run, by or "") if text is not None and edit is None else None
    with run_acts(directory(config, data_dir)) as acts:
        if changes is not None and edit is not None:
            print(f"note {acts.edit_note(edit, changes).id} is changed")
        elif new is not None:
            print(f"note {acts.note(new).id}")
        else:
            print(f"note {acts.remove_note(remove or '').id} is removed")


@app.command()
def notes(
    start: From = None,
    stop: To = None,
    streams: Streams = None,
    run: Annotated[str | None, typer.Option("--run", help="Only those of this run.", metavar="RUN")] = None,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """List the notes."""
    from scidaq.cli.runs import list_notes, streams_of, time_ns

    with typed():
        begin, end = time_ns(start), time_ns(stop)
    list_notes(directory(config, data_dir), begin, end, streams_of(streams), run, as_json)


@app.command()
def settings(
    at: Annotated[str | None, typer.Option("--at", help="When; now unless given.", metavar="TIME")] = None,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Show who the instruments were and how they were set, at any time that was recorded."""
    from scidaq.cli.runs import list_settings, time_ns

    with typed():
        t_ns = time_ns(at)
    list_settings(directory(config, data_dir), t_ns, as_json)


# ---- who may come in ------------------------------------------------------------------------------------------------

app.add_typer(keys.app, name="keys")

# ---- configuration --------------------------------------------------------------------------------------------------

configuration = typer.Typer(
    name="config", help="Show the configuration: what is in force, what there is to set.", no_args_is_help=True
)
app.add_typer(configuration)


@configuration.command("show")
def config_show(
    origin: Annotated[bool, typer.Option("--origin", help="With the place that each value comes from.")] = False,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Print all values in force, defaults included, as TOML; secrets are hidden."""
    import json

    from scidaq.config import as_json as for_programs
    from scidaq.config import show

    loaded = load_config(config, data_dir)
    for warning in loaded.warnings:
        print(f"beware: {warning}", file=sys.stderr)
    print(json.dumps(for_programs(loaded), indent=2) if as_json else show(loaded, origins=origin).rstrip("\n"))


@configuration.command("default")
def config_default() -> None:
    """Print every setting with its meaning and its default, as a file to begin with."""
    from scidaq.config import default_configuration

    print(default_configuration(), end="")


@configuration.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of a configuration file, for editors that check and complete TOML."""
    import json

    from scidaq.config import json_schema

    print(json.dumps(json_schema(), indent=2))


def _record(
    config: Config,
    again: Again,
    seconds: float | None,
    greeting: str,
    *,
    run: NewRun | None,
    demo: bool = False,
) -> StationStats:
    from scidaq.cli.recording import record
    from scidaq.clock import SystemClock

    return record(config, again, SystemClock(), seconds, greeting, demo=demo, run=run)
