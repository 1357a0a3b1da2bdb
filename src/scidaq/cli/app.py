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
from scidaq.errors import ConfigError, RequestError, ScidaqError

if TYPE_CHECKING:
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
def demo(seconds: Seconds = None, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """Record simulated instruments and this machine, and show how it goes."""
    from scidaq.cli.demo import simulated
    from scidaq.cli.recording import report_end
    from scidaq.config import Base

    with simulated() as configuration:
        loaded = _load(config, data_dir, Base("demo", configuration))
        stats = _record(loaded, seconds, f"recording into {loaded.station.data_dir}; Ctrl-C ends it", show=True)
    report_end(stats, loaded.station.data_dir)


@app.command()
def serve(seconds: Seconds = None, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """Record the configured instruments until a signal comes."""
    from scidaq.cli.recording import report_end

    loaded = _load(config, data_dir)
    names = ", ".join(loaded.instruments) or "nothing, since no instrument is configured,"
    stats = _record(loaded, seconds, f"recording {names} into {loaded.station.data_dir}", show=False)
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


# ---- reading --------------------------------------------------------------------------------------------------------


@app.command()
def streams(as_json: AsJson = False, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """List what is recorded, by stream and epoch."""
    from scidaq.cli.reading import list_streams

    list_streams(_directory(config, data_dir), as_json)


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
        write_rows(_directory(config, data_dir), selection, form.value, raw)
    except BrokenPipeError:
        hang_up()


@app.command()
def verify(as_json: AsJson = False, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """Read everything that is recorded, and check every checksum and every balance."""
    from scidaq.cli.reading import report_verification

    raise typer.Exit(0 if report_verification(_directory(config, data_dir), as_json) else 1)


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

    where = _directory(config, data_dir)
    try:
        code = run_repair(where.absolute(), rebuild_catalog=rebuild_catalog, dry_run=dry_run, as_json=as_json)
    except (ScidaqError, OSError) as error:
        _complain(error)
        code = 2
    raise typer.Exit(code)


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


def _directory(files: list[Path] | None, data_dir: Path | None) -> Path:
    """The data directory; the configuration is read only when it has to say."""
    return data_dir if data_dir is not None else _load(files, None).station.data_dir


def _record(config: Config, seconds: float | None, greeting: str, *, show: bool) -> StationStats:
    from scidaq.cli.recording import record
    from scidaq.clock import SystemClock

    return record(config, SystemClock(), seconds, greeting, show=show)
