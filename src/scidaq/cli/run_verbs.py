"""`scidaq run`: its verbs and their options; what they do is in `scidaq.cli.runs`, imported when one is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scidaq.cli.options import (
    AsJson,
    By,
    ConfigFiles,
    DataDir,
    From,
    Meta,
    Operator,
    Remarks,
    RunArgument,
    Sample,
    Streams,
    To,
    configured_instruments,
    directory,
    typed,
)

if TYPE_CHECKING:
    from scidaq.catalog import NewRun

runs = typer.Typer(no_args_is_help=True)


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
    from scidaq.cli.runs import note_namesakes, note_unfit, run_acts, time_ns

    with typed():
        new = run_of(name, operator, sample, notes, meta, streams, time_ns(start), time_ns(stop))
    with run_acts(where := directory(config, data_dir)) as acts:
        made = acts.add(new)
        print(f"run {name}: {made.id}")
        note_namesakes(where, made)
        note_unfit(acts, where, new.streams, lambda: configured_instruments(config, data_dir))


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
    from scidaq.cli.runs import note_namesakes, note_unfit, run_acts

    with typed():
        new = run_of(name, operator, sample, notes, meta, streams)
    with run_acts(where := directory(config, data_dir)) as acts:
        made = acts.start(new)
        print(f"run {name}: {made.id}")
        note_namesakes(where, made)
        note_unfit(acts, where, new.streams, lambda: configured_instruments(config, data_dir))


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
    from scidaq.cli.runs import metadata_of, note_namesakes, note_unfit, run_acts, streams_of, time_ns

    with typed():
        changed = {**metadata_of(meta or ()), **dict.fromkeys(unmeta or ())} or None
        chosen = None if streams is None else () if streams == "all" else streams_of(streams)
        changes = RunChanges(name, time_ns(start), time_ns(stop), chosen, operator, sample, notes, changed)
    with run_acts(where := directory(config, data_dir)) as acts:
        edited = acts.edit(run, changes)
        print(f"run {edited.name} is changed")
        note_namesakes(where, edited)
        note_unfit(acts, where, chosen or (), lambda: configured_instruments(config, data_dir))


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

    with typed():
        new = NewHold(until_ns(until), run, stream, time_ns(start), time_ns(stop), why or "", by or "")
    with run_acts(where := directory(config, data_dir)) as acts:
        hold = acts.hold(new)
        print(hold_words(hold, {hold.run or "": run or ""}))
        note_unfit(acts, where, [stream] if stream else [], lambda: configured_instruments(config, data_dir))


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


def run_of(
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


def run_to_record(
    name: str | None, operator: str | None, sample: str | None, notes: str | None, meta: list[str] | None
) -> NewRun | None:
    """The run that the recording is to be, if any."""
    if name is None:
        if operator or sample or notes or meta:
            raise typer.BadParameter("what is said of a run needs one: give --run NAME as well")
        return None
    with typed():
        return run_of(name, operator, sample, notes, meta)
