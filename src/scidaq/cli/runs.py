"""Runs, holds, notes and settings: read from the files, changed through whoever owns the data directory."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from scidaq import __version__
from scidaq.block import Block
from scidaq.catalog import (
    Hold,
    InstrumentState,
    Note,
    Run,
    RunActs,
    RunBook,
    Scalar,
    Snapshot,
    covered,
    read_run_book,
)
from scidaq.cli import control
from scidaq.cli.times import length_ns, moment_ns, shown, to_the_second
from scidaq.clock import SystemClock
from scidaq.errors import RequestError, ScidaqError, StationBusy
from scidaq.query import Reader, snapshot_at
from scidaq.store import read_station, system_files

SHORT = 8
"""Characters of an id that are enough."""


# ---- what was typed --------------------------------------------------------------------------------------------------


def time_ns(text: str | None) -> int | None:
    """A time as it was typed, None for none. Raises `RequestError`."""
    return None if text is None else moment_ns(text, SystemClock().now_ns())


def until_ns(text: str) -> int:
    """A time, or a length from now on such as `30d`. Raises `RequestError`."""
    now_ns = SystemClock().now_ns()
    length = length_ns(text)
    return moment_ns(text, now_ns) if length is None else now_ns + length


def streams_of(text: str | None) -> tuple[str, ...]:
    """`a/b,c/*`, none for all."""
    return tuple(one.strip() for one in text.split(",") if one.strip()) if text else ()


def metadata_of(pairs: Iterable[str]) -> dict[str, Scalar]:
    """`key=value`s; numbers, `true` and `false` are such, all else is text. Raises `RequestError`."""
    out: dict[str, Scalar] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise RequestError(f"--meta {pair!r}: give it as key=value")
        out[key.strip()] = _scalar(value.strip())
    return out


def _scalar(text: str) -> Scalar:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else text


# ---- acts ------------------------------------------------------------------------------------------------------------


@contextmanager
def run_acts(data_dir: Path) -> Iterator[RunActs]:
    """The verbs on the runs of a data directory: of the station that runs on it, else by opening it ourselves.

    Raises `ForeignDirectory` and its kin, and `StationBusy` when there is a station that cannot be reached.
    """
    from scidaq.station import open_runs

    with ExitStack() as stack:
        try:
            acts: RunActs = stack.enter_context(open_runs(data_dir, version=__version__))
        except StationBusy:
            reached = control.acts(data_dir)
            if reached is None:
                busy = (
                    f"{data_dir} is in use, and cannot be reached from here: a script records there, or a station "
                    "without a control socket. Do it again when that has ended, or stop it first"
                )
                raise StationBusy(busy) from None
            acts = reached
        yield acts


def note_unfit(acts: RunActs, data_dir: Path, patterns: Iterable[str], configured: Callable[[], Iterable[str]]) -> None:
    """Say of which of some streams and `instrument/*` nothing is recorded, and no instrument configured.

    `configured` tells the instruments of the configuration, where there is one; a station that runs tells its own.
    """
    recorded = Reader(data_dir).names()
    unfit = [p for p in dict.fromkeys(patterns) if not any(covered((p,), name) for name in recorded)]
    if not unfit:
        return
    with suppress(ScidaqError):  # what was asked for is done: nothing may fail here any more
        instruments = {*configured(), *(acts.instruments() if isinstance(acts, control.FarRuns) else ())}
        unfit = [p for p in unfit if p.partition("/")[0] not in instruments]
        wide = sorted({f"{name.partition('/')[0]}/*" for name in recorded} | {f"{one}/*" for one in instruments})
        for pattern in unfit:
            near = get_close_matches(pattern, wide if pattern.endswith("/*") else [*recorded, *wide], 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            print(f"note: no stream fits {pattern!r}{hint}", file=sys.stderr)


def note_namesakes(data_dir: Path, run: Run) -> None:
    """Say of a run that others have its name at the same time."""
    with suppress(ScidaqError):  # what was asked for is done
        for other in _book(data_dir).namesakes(run):
            span = f"{shown(other.start_ns)} to {shown(other.stop_ns) if other.stop_ns is not None else 'now'}"
            print(
                f"note: another run of that name is {other.id}, {span}: only ids tell which is meant", file=sys.stderr
            )


def release(acts: RunActs, data_dir: Path, wanted: str) -> list[Hold]:
    """End the hold of this id, or all that keep the run of this name or id."""
    book = _book(data_dir)
    if any(h.id.startswith(wanted) for h in book.holds()):
        return [acts.release(wanted)]
    run = book.run(wanted)
    holds = [h for h in book.holds(SystemClock().now_ns()) if h.run == run.id]
    if not holds:
        raise RequestError(f"run {run.name!r} is not held")
    return [acts.release(h.id) for h in holds]


# ---- reading ---------------------------------------------------------------------------------------------------------


def _book(data_dir: Path) -> RunBook:
    read_station(data_dir)
    return read_run_book(data_dir / "facts")


def found_run(data_dir: Path, wanted: str) -> Run:
    """The run of a name or an id. Raises `UnknownRun` and its kin."""
    return _book(data_dir).run(wanted)


def ended_words(run: Run) -> str:
    """What became of a run that ended."""
    return f"run {run.name} ended at {shown(run.stop_ns)}{f' ({run.reason})' if run.reason else ''}"


def list_runs(data_dir: Path, search: str | None, deleted: bool, as_json: bool) -> None:
    """All runs, or those that say what is searched for."""
    runs = [r for r in _book(data_dir).runs(deleted=deleted) if search is None or _says(r, search)]
    if as_json:
        _print_json([_told(r) for r in runs])
        return
    recording = _recording(data_dir, runs)
    rows = [
        (
            r.name,
            r.id[:SHORT],
            to_the_second(r.start_ns),
            _end(r, recording),
            ", ".join(r.streams) or "all",
            r.operator or "-",
        )
        for r in runs
    ]
    _print_table(("run", "id", "from (UTC)", "to (UTC)", "streams", "operator"), rows)


def _says(run: Run, text: str) -> bool:
    told = [run.id, run.name, run.operator, run.sample, run.notes, *run.streams]
    told += [f"{key}={value}" for key, value in run.metadata.items()]
    return any(text.casefold() in one.casefold() for one in told)


def _told(run: Run) -> dict[str, object]:
    """A run as JSON, without its snapshots."""
    return {k: v for k, v in run.as_json().items() if k not in ("started", "ended")}


def _recording(data_dir: Path, runs: Iterable[Run]) -> bool:
    """Whether what is under way is really being recorded; asked only where one is."""
    if not any(r.under_way for r in runs) or not (data_dir / "LOCK").exists():
        return False
    try:
        system_files().lock(data_dir / "LOCK").close()
    except StationBusy:
        return True
    except OSError:  # nobody may tell
        return True
    return False


def _end(run: Run, recording: bool) -> str:
    if run.deleted:
        return "deleted"
    if run.stop_ns is None:
        return "under way" if recording else "interrupted"
    return to_the_second(run.stop_ns)


@dataclass(frozen=True, slots=True)
class Counted:
    """What there is of a stream in a window of time."""

    stream: str
    rows: int
    gap_rows: int
    gaps: int
    unknown: int
    """Gaps of which nobody knows how many rows they hold."""

    def __str__(self) -> str:
        out = f"{self.stream}: {self.rows:,} row{'s' if self.rows != 1 else ''}"
        if self.gaps > self.unknown:
            out += f", {self.gap_rows:,} missing in {_gaps(self.gaps - self.unknown)}"
        return out + (f", {_gaps(self.unknown)} of unknown size" if self.unknown else "")


def _gaps(count: int) -> str:
    return f"{count} gap{'s' if count > 1 else ''}"


def _count(reader: Reader, stream: str, run: Run) -> Counted:
    rows = gap_rows = gaps = unknown = 0
    for item in reader.blocks(stream, run.start_ns, run.stop_ns):
        if isinstance(item, Block):
            rows += item.rows
        else:
            gaps += 1
            gap_rows += item.rows or 0
            unknown += item.rows is None
    return Counted(stream, rows, gap_rows, gaps, unknown)


def show_run(data_dir: Path, wanted: str, as_json: bool) -> None:
    """All that is known of a run."""
    book, reader = _book(data_dir), Reader(data_dir)
    run = book.run(wanted)
    counted = [_count(reader, name, run) for name in reader.names() if run.covers(name)]
    counted = [one for one in counted if one.rows or one.gaps]
    holds = [h for h in book.holds(SystemClock().now_ns()) if h.run == run.id]
    notes = [n for n in book.notes() if n.run == run.id]
    if as_json:
        content: dict[str, object] = run.as_json()
        content["rows"] = {
            c.stream: {"rows": c.rows, "gap_rows": c.gap_rows, "gaps": c.gaps, "unknown": c.unknown} for c in counted
        }
        content |= {"holds": [h.as_json() for h in holds], "remarks": [n.as_json() for n in notes]}
        _print_json(content)
        return
    print("\n".join([*_described(run, _recording(data_dir, [run])), *_listed(counted, holds, notes)]))


def _described(run: Run, recording: bool) -> Iterator[str]:
    yield f"{run.name}  ({run.id}{', deleted' if run.deleted else ''})"
    end = shown(run.stop_ns) if run.stop_ns is not None else _end(run, recording)
    facts = {
        "from": shown(run.start_ns),
        "to": f"{end} ({run.reason})" if run.reason else end,
        "went on": ", ".join(shown(ns) for ns in run.resumed_ns),
        "streams": ", ".join(run.streams) or "all",
        "operator": run.operator,
        "sample": run.sample,
        **{key: _plain(value) for key, value in run.metadata.items()},
        "notes": run.notes.replace("\n", "\n  " + " " * 10),
        "how": "declared for the past" if run.declared else "recorded as a run",
        "scidaq": run.version + (f", configuration {run.config_hash[:12]}" if run.config_hash else ""),
        "edited": shown(run.edited_ns) if run.edited_ns is not None else "",
    }
    width = max(8, *(len(key) for key, value in facts.items() if value))
    for key, value in facts.items():
        if value:
            yield f"  {key:<{width}}  {value}"
    for edge, snapshot in (("start", run.started), ("end", run.ended)):
        if snapshot is not None and snapshot.instruments:
            yield f"  at the {edge}:"
            yield from (f"    {line}" for line in _instruments(snapshot))


def _plain(value: Scalar) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _instruments(snapshot: Snapshot) -> Iterator[str]:
    for name, one in snapshot.instruments.items():
        yield _instrument(name, one)
        for parameter, setting in one.settings.items():
            unit = "" if setting.unit == "1" else f" {setting.unit}"
            yield f"  {parameter} = {setting.value}{unit}  (read {shown(setting.since_ns)})"
    if snapshot.left_out:
        yield f"the settings of {snapshot.left_out} more are in their settings streams alone"


def _instrument(name: str, one: InstrumentState) -> str:
    known = ", ".join(part for part in (one.identity, one.state) if part)
    return f"{name} ({one.driver}){': ' if known else ''}{known}"


def _listed(counted: Sequence[Counted], holds: Iterable[Hold], notes: Iterable[Note]) -> Iterator[str]:
    yield "  rows:" if counted else "  no rows"
    yield from (f"    {one}" for one in counted)
    yield from (f"  {hold_words(one, {})}" for one in holds)
    yield from (f"  {_remark(one)}" for one in notes)


def hold_words(hold: Hold, names: Mapping[str, str]) -> str:
    """A hold in words; `names` are those of the runs by id."""
    what = f"run {names.get(hold.run, hold.run)}" if hold.run else hold.stream or "everything"
    if hold.start_ns is not None or hold.stop_ns is not None:
        what += f" from {shown(hold.start_ns)} to {shown(hold.stop_ns)}"
    why = "".join(f", {word}" for word in (hold.why, f"by {hold.by}" if hold.by else "") if word)
    return f"held until {to_the_second(hold.until_ns)} UTC ({hold.id[:SHORT]}): {what}{why}"


def list_holds(data_dir: Path, as_json: bool) -> None:
    """The holds that are in force."""
    book = _book(data_dir)
    holds = book.holds(SystemClock().now_ns())
    if as_json:
        _print_json([h.as_json() for h in holds])
        return
    names = {r.id: r.name for r in book.runs(deleted=True)}
    print("\n".join(hold_words(h, names) for h in holds) or "nothing is held")


def list_notes(
    data_dir: Path, start_ns: int | None, stop_ns: int | None, streams: Sequence[str], run: str | None, as_json: bool
) -> None:
    """The notes by time."""
    book = _book(data_dir)
    wanted = None if run is None else book.run(run).id
    notes = [n for n in book.notes(start_ns, stop_ns, streams or None) if wanted is None or n.run == wanted]
    if as_json:
        _print_json([n.as_json() for n in notes])
    elif notes:
        print("\n".join(_remark(n) for n in notes))


def _remark(note: Note) -> str:
    when = shown(note.t_ns) + (f" to {shown(note.end_ns)}" if note.end_ns is not None else "")
    about = f" [{', '.join(note.streams)}]" if note.streams else ""
    by = f" ({note.by})" if note.by else ""
    return f"{when} {note.id[:SHORT]}{about} {note.text}{by}".replace("\n", "\n    ")


def list_settings(data_dir: Path, t_ns: int | None, as_json: bool) -> None:
    """The settings of every instrument at a time, the newest without one."""
    snapshot = snapshot_at(Reader(data_dir), SystemClock().now_ns() if t_ns is None else t_ns)
    if as_json:
        _print_json(snapshot.as_json())
    else:
        print("\n".join(_instruments(snapshot)) or "no instrument had delivered by then")


# ---- printing --------------------------------------------------------------------------------------------------------


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(f"{v:<{w}}" for v, w in zip(row, widths, strict=True)).rstrip())
