"""The verbs and their options. What a verb does is imported when it is called, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidaq import __version__
from scidaq.cli import keys
from scidaq.errors import ConfigError, RequestError, ScidaqError

if TYPE_CHECKING:
    from scidaq.catalog import NewRun
    from scidaq.config import Base, Config
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

ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--config", help="A TOML file on top of those of ./config; may be given several times.", metavar="FILE"
    ),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Directory of the data.", metavar="DIR")]
Seconds = Annotated[float | None, typer.Option("--for", help="Stop after so many seconds.", metavar="S", min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
From = Annotated[str | None, typer.Option("--from", help="From this time on, as --start of `read`.", metavar="TIME")]
To = Annotated[str | None, typer.Option("--to", help="Before this time.", metavar="TIME")]
Streams = Annotated[
    str | None, typer.Option("--streams", help="Only these, as `dmm/readings,cam/*`.", metavar="A/B,C/*")
]
Operator = Annotated[str | None, typer.Option("--operator", help="Who does it.", metavar="NAME")]
Sample = Annotated[str | None, typer.Option("--sample", help="What is measured.", metavar="NAME")]
Remarks = Annotated[str | None, typer.Option("--notes", help="Whatever there is to say.", metavar="TEXT")]
Meta = Annotated[
    list[str] | None,
    typer.Option("--meta", help="Something else about it; may be given several times.", metavar="KEY=VALUE"),
]
RunArgument = Annotated[str, typer.Argument(help="A run, by its name or id.", metavar="RUN")]
By = Annotated[str | None, typer.Option("--by", help="Who says so.", metavar="NAME")]


RunName = Annotated[
    str | None,
    typer.Option(
        "--run", help="Record it as a run of this name; one that a kill has interrupted goes on.", metavar="NAME"
    ),
]


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

    run = _run_to_record(run_name, operator, sample, notes, meta)
    with simulated() as configuration:
        loaded = _load(config, data_dir, Base("demo", configuration))
        stats = _record(
            loaded, seconds, f"recording into {loaded.station.data_dir}; Ctrl-C ends it", demo=True, run=run
        )
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

    run = _run_to_record(run_name, operator, sample, notes, meta)
    loaded = _load(config, data_dir)
    names = ", ".join(loaded.instruments) or "nothing, since no instrument is configured,"
    greeting = f"recording {names} into {loaded.station.data_dir}"
    stats = _record(loaded, seconds, greeting, run=run, again=lambda: _load(config, data_dir))
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
    for finding in findings(_load(config, data_dir), SystemClock(), offline=offline):
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
        loaded = _load(config, data_dir)
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
        loaded = _load(config, None)
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

runs = typer.Typer(no_args_is_help=True)
app.add_typer(runs, name="run", help="Runs: named windows of time over streams, for the past or for what is recorded.")


@runs.command("add")
def run_add(
    name: Annotated[str, typer.Argument(help="What it is to be called.", metavar="NAME")],
    start: Annotated[str, typer.Option("--from", help="Its beginning, as --start of `read`.", metavar="TIME")],
    stop: Annotated[str, typer.Option("--to", help="Its end: `now`, or a time in the past.", metavar="TIME")],
    streams: Streams = None,
    operator: Operator = None,
    sample: Sample = None,
    notes: Remarks = None,
    meta: Meta = None,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Declare a run for the past, over what has been recorded."""
    from scidaq.cli.runs import note_unfit, run_acts, time_ns

    with _typed():
        new = _run_of(name, operator, sample, notes, meta, streams, time_ns(start), time_ns(stop))
    with run_acts(where := directory(config, data_dir)) as acts:
        print(f"run {name}: {acts.add(new).id}")
        note_unfit(acts, where, new.streams, lambda: _instruments(config, data_dir))


@runs.command("start")
def run_start(
    name: Annotated[str, typer.Argument(help="What it is to be called.", metavar="NAME")],
    streams: Streams = None,
    operator: Operator = None,
    sample: Sample = None,
    notes: Remarks = None,
    meta: Meta = None,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Begin a run on the station that records now."""
    from scidaq.cli.runs import note_unfit, run_acts

    with _typed():
        new = _run_of(name, operator, sample, notes, meta, streams)
    with run_acts(where := directory(config, data_dir)) as acts:
        print(f"run {name}: {acts.start(new).id}")
        note_unfit(acts, where, new.streams, lambda: _instruments(config, data_dir))


@runs.command("end", hidden=True)
@runs.command("stop")
def run_stop(run: RunArgument, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """End a run that is under way, or one that a kill has interrupted: with its newest row."""
    from scidaq.cli.runs import ended_words, run_acts

    with run_acts(directory(config, data_dir)) as acts:
        print(ended_words(acts.stop(run)))


@runs.command("list")
def run_list(
    search: Annotated[str | None, typer.Option(help="Only those that say this.", metavar="TEXT")] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Also those that were deleted.")] = False,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """List the runs."""
    from scidaq.cli.runs import list_runs

    list_runs(directory(config, data_dir), search, deleted, as_json)


@runs.command("show")
def run_show(run: RunArgument, as_json: AsJson = False, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """Show all that is known of a run: what is said of it, the instruments, its rows and gaps."""
    from scidaq.cli.runs import show_run

    show_run(directory(config, data_dir), run, as_json)


@runs.command("edit")
def run_edit(
    run: RunArgument,
    name: Annotated[str | None, typer.Option("--name", help="What it is to be called.", metavar="NAME")] = None,
    start: From = None,
    stop: To = None,
    streams: Annotated[
        str | None, typer.Option("--streams", help="Only these, as `dmm/readings,cam/*`; `all`.", metavar="A/B,C/*")
    ] = None,
    operator: Operator = None,
    sample: Sample = None,
    notes: Remarks = None,
    meta: Meta = None,
    unmeta: Annotated[
        list[str] | None, typer.Option("--unmeta", help="What is no longer to be said about it.", metavar="KEY")
    ] = None,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Say something else of a run; what is not given stays. The snapshots of the instruments stay as they were."""
    from scidaq.catalog import RunChanges
    from scidaq.cli.runs import metadata_of, note_unfit, run_acts, streams_of, time_ns

    with _typed():
        changed = {**metadata_of(meta or ()), **dict.fromkeys(unmeta or ())} or None
        chosen = None if streams is None else () if streams == "all" else streams_of(streams)
        changes = RunChanges(name, time_ns(start), time_ns(stop), chosen, operator, sample, notes, changed)
    with run_acts(where := directory(config, data_dir)) as acts:
        print(f"run {acts.edit(run, changes).name} is changed")
        note_unfit(acts, where, chosen or (), lambda: _instruments(config, data_dir))


@runs.command("delete")
def run_delete(
    run: RunArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Show a run no more. Its rows stay."""
    from scidaq.cli.runs import found_run, run_acts

    where = directory(config, data_dir)
    one = found_run(where, run)
    if not yes:
        typer.confirm(f"delete run {one.name} ({one.id})? Its rows stay", abort=True)
        typer.confirm("really? What is said of it will be shown no more", abort=True)
    with run_acts(where) as acts:
        acts.delete(one.id)
    print(f"run {one.name} is deleted; its rows stay")


@runs.command("hold")
def run_hold(
    until: Annotated[str, typer.Option("--until", help="A time, or a length from now on, as 30d.", metavar="TIME")],
    run: Annotated[str | None, typer.Argument(help="A run, by its name or id.", metavar="[RUN]")] = None,
    stream: Annotated[str | None, typer.Option(help="Instead of a run: a stream, or dmm/*.", metavar="STREAM")] = None,
    start: From = None,
    stop: To = None,
    why: Annotated[str | None, typer.Option("--why", help="What it is kept for.", metavar="TEXT")] = None,
    by: By = None,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Keep the rows of a run from retention, or those of a stream or a range of time, until a time."""
    from scidaq.catalog import NewHold
    from scidaq.cli.runs import hold_words, note_unfit, run_acts, time_ns, until_ns

    with _typed():
        new = NewHold(until_ns(until), run, stream, time_ns(start), time_ns(stop), why or "", by or "")
    with run_acts(where := directory(config, data_dir)) as acts:
        hold = acts.hold(new)
        print(hold_words(hold, {hold.run or "": run or ""}))
        note_unfit(acts, where, [stream] if stream else [], lambda: _instruments(config, data_dir))


@runs.command("holds")
def run_holds(as_json: AsJson = False, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """List what is kept from retention now."""
    from scidaq.cli.runs import list_holds

    list_holds(directory(config, data_dir), as_json)


@runs.command("release")
def run_release(
    held: Annotated[str, typer.Argument(help="A run, or the id of a hold.", metavar="RUN|HOLD")],
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """End the holds of a run, or one hold, before their time."""
    from scidaq.cli.runs import release, run_acts

    where = directory(config, data_dir)
    with run_acts(where) as acts:
        for hold in release(acts, where, held):
            print(f"hold {hold.id} is released")


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
    with _typed():
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

    with _typed():
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

    with _typed():
        t_ns = time_ns(at)
    list_settings(directory(config, data_dir), t_ns, as_json)


@contextmanager
def _typed() -> Iterator[None]:
    """What is wrong with what was typed is a mistake of the command line."""
    try:
        yield
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None


def _run_of(
    name: str,
    operator: str | None,
    sample: str | None,
    notes: str | None,
    meta: list[str] | None,
    streams: str | None = None,
    start_ns: int | None = None,
    stop_ns: int | None = None,
) -> NewRun:
    """The run that was typed. Raises `RequestError`."""
    from scidaq.catalog import NewRun
    from scidaq.cli.runs import metadata_of, streams_of

    said = (operator or "", sample or "", notes or "", metadata_of(meta or ()))
    return NewRun(name, start_ns, stop_ns, streams_of(streams), *said)


def _run_to_record(
    name: str | None, operator: str | None, sample: str | None, notes: str | None, meta: list[str] | None
) -> NewRun | None:
    """The run that the recording is to be, if any."""
    if name is None:
        if operator or sample or notes or meta:
            raise typer.BadParameter("what is said of a run needs one: give --run NAME as well")
        return None
    with _typed():
        return _run_of(name, operator, sample, notes, meta)


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

    loaded = _load(config, data_dir)
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


def _load(files: list[Path] | None, data_dir: Path | None, base: Base | None = None) -> Config:
    from scidaq.config import Override, load

    overrides = [] if data_dir is None else [Override("--data-dir", ("station", "data_dir"), str(data_dir))]
    return load(files or [], overrides, base=base)


def _instruments(files: list[Path] | None, data_dir: Path | None) -> Iterable[str]:
    """The configured instruments; none where the data directory alone was named, which may be another station's."""
    return () if files is None and data_dir is not None else _load(files, data_dir).instruments


def directory(files: list[Path] | None, data_dir: Path | None) -> Path:
    """The data directory; the configuration is read only when it has to say."""
    return data_dir if data_dir is not None else _load(files, None).station.data_dir


def _record(
    config: Config,
    seconds: float | None,
    greeting: str,
    *,
    run: NewRun | None,
    demo: bool = False,
    again: Callable[[], Config] | None = None,
) -> StationStats:
    from scidaq.cli.recording import record
    from scidaq.clock import SystemClock

    return record(config, SystemClock(), seconds, greeting, demo=demo, run=run, again=again)
