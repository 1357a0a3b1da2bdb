"""Makes the pages beside it from the code. `python docs/reference/generate.py` writes those that are out of date."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

import scidaq
from scidaq import errors
from scidaq.cli.app import app
from scidaq.observe import CATALOGUE, MAX_LABELLED
from scidaq.stats import describe

HERE = Path(__file__).parent
MADE = "This page is made from the code: `python docs/reference/generate.py`."


def pages() -> dict[str, str]:
    """The content of each page by the name of its file."""
    return {
        "cli.md": cli_page(),
        "statistics.md": statistics_page(),
        "metrics.md": metrics_page(),
        "errors.md": errors_page(),
        "api.md": api_page(),
        "live.md": live_page(),
    }


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def paragraph(thing: Any) -> str:
    """A docstring's first paragraph as one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


# ---- the command line -----------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every verb with its arguments and options."""
    root: Any = typer.main.get_command(app)
    parts = [
        "# The command line",
        f"`scidaq VERB [OPTIONS]`: one verb, one act. {MADE}",
        f"{root.epilog} Errors are one message on standard error; `--debug` before the verb adds where they come from.",
        table(("option", "meaning"), [*_options(root)]),
    ]
    verbs = dict(_verbs(root))
    links = [(f"[`{n}`](#{n.replace(' ', '-')})", c.help or "") for n, c in verbs.items()]
    parts.append(table(("verb", "what it does"), links))
    for name, command in verbs.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["scidaq", name, *(str(a.metavar or a.name.upper()) for a in arguments), "[OPTIONS]"])
        rows = [(f"`{a.metavar or a.name.upper()}`", a.help or "") for a in arguments] + [*_options(command)]
        parts += [f"## {name}", command.help or "", f"`{usage}`", table(("option", "meaning"), rows)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _verbs(group: Any, around: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb by its words: those of a group have two."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _verbs(command, f"{around}{name} ")
        elif not command.hidden:
            yield f"{around}{name}", command


def _options(command: Any) -> Iterator[tuple[str, str]]:
    for one in command.params:
        if one.param_type_name != "option" or one.hidden:
            continue
        choices = "|".join(type(one.default)) if isinstance(one.default, StrEnum) else ""
        value = "" if one.is_flag else f" {choices or one.metavar or 'VALUE'}"
        default = "" if one.is_flag or one.default is None else f" Default: `{one.default}`."
        yield f"`{', '.join(one.opts)}{value}`", f"{one.help or ''}{default}"


# ---- statistics -----------------------------------------------------------------------------------------------------


def statistics() -> list[type[Any]]:
    """Every statistics dataclass there is, from the station down."""
    found: dict[str, type[Any]] = {}
    for module in pkgutil.walk_packages(scidaq.__path__, "scidaq."):
        if module.name.startswith(("scidaq.testing", "scidaq.catalog.migrations")) or module.name.endswith("__main__"):
            continue
        kinds = vars(importlib.import_module(module.name)).values()
        here = [k for k in kinds if is_dataclass(k) and inspect.isclass(k) and k.__module__ == module.name]
        found.update({k.__name__: k for k in here if k.__name__.endswith("Stats")})
    return sorted(found.values(), key=lambda kind: (kind.__name__ != "StationStats", kind.__name__))


def statistics_page() -> str:
    """Every field with its unit and its sentence."""
    about = (
        "What the rooms count, as frozen dataclasses: `Station.stats()` returns a `StationStats`, which holds the "
        "others. The terminal shows nothing else. Units are spelled in UCUM; `1` is a count, or no unit."
    )
    parts = ["# Statistics", f"{about} {MADE}"]
    for kind in statistics():
        module = kind.__module__.split(".")[1]
        rows = [(f"`{f.name}`", f"`{f.unit}`", f.doc) for f in describe(kind)]
        parts += [f"## {kind.__name__}", f"`scidaq.{module}`: {paragraph(kind)}"]
        parts.append(table(("field", "unit", "meaning"), rows))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


# ---- metrics --------------------------------------------------------------------------------------------------------


def metrics_page() -> str:
    """Every metric with its unit, its labels and its sentence."""
    about = (
        "What a scrape gets, in the text format of Prometheus or as OpenMetrics, whichever its `Accept` asks for. The "
        "values are those of the [statistics](statistics.md), read at the moment of the scrape; one that is not known "
        f"is absent. At most {MAX_LABELLED} streams and as many instruments have series of their own "
        "(`monitoring.labelled_streams` chooses the streams); all others are one series, `other`, of their sum, or of "
        "the largest where a sum means nothing."
    )
    rows = [
        (f"`{m.name}`", m.kind, m.unit if m.unit != "1" else "", ", ".join(f"`{n}`" for n in m.labels), m.help)
        for m in CATALOGUE
    ]
    return f"# Metrics\n\n{about} {MADE}\n\n{table(('metric', 'kind', 'unit', 'labels', 'meaning'), rows)}"


# ---- errors ---------------------------------------------------------------------------------------------------------


def errors_page() -> str:
    """The tree of errors, in the order of the module."""
    tree = [k for k in vars(errors).values() if inspect.isclass(k) and issubclass(k, errors.ScidaqError)]
    rows = []
    for kind in tree:
        depth = len([b for b in kind.__mro__ if b in tree]) - 1
        standard = [b.__name__ for b in kind.__bases__ if b not in tree and b is not Exception]
        known = ", ".join(f"`{n}`" for n in _facts(kind))
        rows.append(
            (
                f"{'&nbsp;' * 4 * depth}`{kind.__name__}`",
                paragraph(kind),
                ", ".join(f"`{n}`" for n in standard),
                "yes" if kind.retry else "no",
                known,
            )
        )
    about = (
        "Whatever scidaq raises on purpose is a `scidaq.errors.ScidaqError`. The branch says who can mend it: the "
        "caller (`RequestError`), the operator (`ConfigError`, `StationError`), the instrument (`InstrumentError`), "
        "the disk or the data (`StoreError`). *Also a* names the standard exception that it can be caught as; *retry* "
        "says whether the same act may succeed later without a change."
    )
    heads = ("error", "meaning", "also a", "retry", "attributes")
    return f"# Errors\n\n{about} {MADE}\n\n{table(heads, rows)}"


def _facts(kind: type[Any]) -> list[str]:
    """The attributes that a leaf carries: what its own constructor takes."""
    if "__init__" not in vars(kind):
        return []
    names = list(inspect.signature(kind).parameters)
    return [n for n in names if f"self.{n}" in inspect.getsource(kind)]


# ---- the HTTP interface ---------------------------------------------------------------------------------------------


def api_page() -> str:
    """Every route with its scope, parameters, body and answers, and every kind of problem."""
    from scidaq.web.app import make_interface
    from scidaq.web.openapi import document

    made = document(make_interface())
    about = (
        "What `/api/v1/openapi.json` says, in short; [the HTTP interface](../http-api.md) shows how it is used. Beside the "
        "answers that are listed any route may refuse with 400, 401, 403, 408, 421, 429, 431, 500 or 503, and a change with 409, 413 "
        "or 415. A change may carry an `Idempotency-Key`."
    )
    operations = [(p, m, o) for p, methods in made["paths"].items() for m, o in methods.items()]
    rows = [(f"`{m.upper()} {p}`", o.get("x-scope") or "-", o["summary"]) for p, m, o in operations]
    parts = ["# Routes", f"{about} {MADE}", table(("route", "scope", "what it does"), rows)]
    parts += [_route(path, method, operation, made) for path, method, operation in operations]
    parts += ["## Problems", _problems()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


_ANY = {"400", "401", "403", "408", "409", "413", "415", "421", "429", "431", "500", "503"}


def _route(path: str, method: str, operation: dict[str, Any], made: dict[str, Any]) -> str:
    rows = [
        (f"`{p['name']}`", p["in"], p.get("description", ""))
        for p in operation.get("parameters", ())
        if p["name"] != "Idempotency-Key"
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    for name in _models(body):
        model = made["components"]["schemas"][name]
        needed = model.get("required", ())
        rows += [
            (f"`{key}`", "body, needed" if key in needed else "body", one.get("description", ""))
            for key, one in model.get("properties", {}).items()
        ]
    answers = ", ".join(
        s for s in operation["responses"] if s not in _ANY or (path.startswith("/health") and s == "503")
    )
    said = operation["description"].partition("\n\nNeeds the scope")[0]
    lines = [f"### `{method.upper()} {path}`", said]
    if rows:
        lines.append(table(("parameter", "in", "meaning"), rows).rstrip("\n"))
    return "\n\n".join([*lines, f"Answers: {answers}."])


def _models(schema: dict[str, Any]) -> list[str]:
    """The names of the shapes that a body may have."""
    found = [one["$ref"] for one in (schema, *schema.get("anyOf", ())) if "$ref" in one]
    return [name.rpartition("/")[2] for name in found]


def _problems() -> str:
    """What our errors are over HTTP."""
    from scidaq.web.problem import STATUSES

    rows = [(f"`urn:scidaq:{name}`", str(status), f"`{kind.__name__}`") for kind, status, name in STATUSES]
    return table(("type", "status", "error"), rows)


# ---- the live socket ------------------------------------------------------------------------------------------------

LIVE = """`GET /api/v1/live` is a WebSocket (RFC 6455): a client says what it wants to see, and gets frames of it until it has enough.
[The HTTP interface](../http-api.md#live) shows it at work.

A key is sent, and refused, as with any request; the handshake of who is refused is answered with a problem that says why. Without
compression. Text messages are JSON, in UTF-8, one object each; times in them are nanoseconds since 1970 as text, since browsers
cannot hold them as numbers. A message of a client has 64 KiB at most, a connection 64 subscriptions, and 64 KiB of messages a second
(512 KiB at once). What is not understood is answered with `error`; after 100 of these, with anything binary, and with more than is
allowed, the connection is closed. The JSON Schema of all messages is at `/api/v1/live/schema`."""

FRAMES = """Binary messages are frames, little-endian: `u32` length of a header, the header as JSON, zeros up to a multiple of 8, then
buffers, each beginning at a multiple of 8. `buffers` in the header says of each its `dtype` (`f4`, `f8`, `i4`, `u1`, `u4`), `shape`, and
`offset` from the end of the padded header. `scidaq.web.frames` reads and writes them.

The header of a view (`"kind": "view"`) has

- `view`: which one, as `subscribed` said; `seq`: counts its frames, -1 for what `since_ns` asked for (then also `"history": true`);
- `stream`, `channels` (name, unit, dtype, shape, labels; in the order of the buffers, and as they are in this frame);
- `base_ns`: what the times in the buffers are relative to; `step_ns`: length of the grid's cells;
- `gaps`: holes that were announced: `start_ns`, `stop_ns` (either may be null), `rows` (null where nobody can know), `reason`, `open`;
- `raw`: when true each bucket is a single row, and of the values only `last` is there.

and the buffers, with one element for each bucket: `t0`, `t1` (time of its first and last row, `f8`, ns after `base_ns`), `n` (its rows),
and for channel *i* `min:i`, `max:i`, `mean:i`, `last:i` (`f8`, NaN where there is no value). An array that is shown whole is `array:i` (`f4`).

A bucket has the rows of one cell of the grid, which is the same for everybody: cell *k* begins at *k* · `step_ns` after 1970. It goes
neither over a gap nor into another epoch, so a cell may have several. Its `min` and `max` are exactly those of its rows, calibrated.
Each frame has the buckets that changed since the frame before. The newest is not full yet and comes again with the same `t0`: **a
bucket takes the place of the one with the same `t0`**. Rows that come late (a source that catches up) are buckets in the past.

**Nothing is missing.** With `since_ns` a client that was cut off gets what it missed, as a frame before the first live one, and
nothing twice; its buckets may be longer than those that follow, each frame has its `step_ns`. A client that is too slow gets the newest
frame when it takes some again, and before it `skipped` with the stretch that it can ask for over HTTP. One that takes nothing for
`server.live_stall_seconds` is cut off. A key that is revoked or expires ends its connections within seconds, with the code 4401."""


def live_page() -> str:
    """Every message of the live socket."""
    from scidaq.web.messages import INCOMING, OUTGOING

    parts = ["# The live socket", f"{LIVE} {MADE}", "## What a client says"]
    for kinds, head in ((INCOMING, ""), (OUTGOING, "## What it is told")):
        parts += [head] if head else []
        for kind in kinds:
            made = kind.model_json_schema(mode="validation")
            needed = made.get("required", ())
            rows = [
                (
                    f"`{name}`",
                    _kind_of(one, made),
                    "yes" if name in needed else "",
                    " ".join(one.get("description", "").split()),
                )
                for name, one in made["properties"].items()
            ]
            said = inspect.getdoc(kind) or ""
            parts += [f"### {kind.__name__}", said, table(("field", "is", "needed", "meaning"), rows)]
    parts += ["## Frames", FRAMES]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _kind_of(one: dict[str, Any], whole: dict[str, Any]) -> str:
    """What a field may be, in few words."""
    if "$ref" in one:
        return str(one["$ref"].rpartition("/")[2])
    if "const" in one:
        return f"`{one['const']}`"
    if "enum" in one:
        return ", ".join(f"`{value}`" for value in one["enum"])
    if "anyOf" in one:
        return " or ".join(_kind_of(each, whole) for each in one["anyOf"])
    if one.get("type") == "array":
        return f"list of {_kind_of(one.get('items', {}), whole)}"
    limits = [str(one[name]) for name in ("minimum", "maximum") if name in one]
    return {"string": "text", "null": "null"}.get(one.get("type", ""), one.get("type", "any")) + (
        f" from {limits[0]} to {limits[1]}" if len(limits) == 2 else ""
    )


def main() -> None:
    """Write what has changed."""
    for name, content in pages().items():
        path = HERE / name
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.write_text(content, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
