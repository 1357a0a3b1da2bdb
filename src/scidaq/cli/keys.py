"""`scidaq keys`: who may come in over HTTP. Works beside a running station, and without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from scidaq.cli.options import AsJson, ConfigFiles, DataDir, directory
from scidaq.errors import RequestError

if TYPE_CHECKING:
    from scidaq.web import Key, KeyStore

SHOWN_ONCE = "this is the only time that the key is shown:"

app = typer.Typer(
    name="keys",
    help="API keys: who may come in over HTTP.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Which = Annotated[str, typer.Argument(help="Its name or id.", metavar="KEY")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for, as `plots in room 12`.")],
    scope: Annotated[list[str], typer.Option(help="read, operate, admin or metrics; may be given several times.")],
    days: Annotated[float | None, typer.Option(help="How long it is valid.", metavar="N")] = 365.0,
    forever: Annotated[bool, typer.Option("--forever", help="Valid until it is revoked.")] = False,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key, and show it: once."""
    key, given = _store(config, data_dir).create(name, scope, None if forever else days)
    _show_new(key, given, as_json)


@app.command(name="list")
def list_keys(as_json: AsJson = False, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """List the keys, those that are no longer valid too; what they open with is kept nowhere."""
    store = _store(config, data_dir)
    keys = [key.told(store.now_ns) for key in store.all()]
    if as_json:
        print(orjson.dumps(keys, option=orjson.OPT_INDENT_2).decode())
        return
    from scidaq.cli.times import to_the_second

    heads = ("id", "name", "scopes", "state", "made (UTC)", "expires (UTC)")
    rows = [
        (
            k["id"],
            k["name"],
            ",".join(k["scopes"]),
            k["state"],
            to_the_second(k["created_ns"]),
            to_the_second(k["expires_ns"]),
        )
        for k in keys
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(f"{v:<{w}}" for v, w in zip(row, widths, strict=True)).rstrip())


@app.command()
def revoke(which: Which, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """Make a key invalid at once."""
    key = _store(config, data_dir).revoke(which)
    print(f"revoked {key.id} ({key.name})")


@app.command()
def rotate(
    which: Which,
    grace_hours: Annotated[float, typer.Option(help="How long the old one stays valid.", metavar="H")] = 24.0,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Make a new key in the place of one, which stays valid for a while."""
    key, given = _store(config, data_dir).rotate(which, grace_hours)
    _show_new(key, given, as_json)


@app.command()
def link(config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """Print a link with which a browser logs in at the running station: once, within 15 minutes."""
    from scidaq.web import connect_control

    control = connect_control(directory(config, data_dir))
    if control is None:
        raise RequestError("no station runs there, or it has no control socket; start it with `scidaq serve`")
    print(control.call("POST", "/api/v1/session/link")["link"])


def _show_new(key: Key, given: str, as_json: bool) -> None:
    if as_json:
        content: dict[str, Any] = {"id": key.id, "name": key.name, "scopes": list(key.scopes), "key": given}
        print(orjson.dumps(content | {"expires_ns": key.expires_ns}, option=orjson.OPT_INDENT_2).decode())
        return
    print(f"{key.id} ({key.name}), for {', '.join(key.scopes)}; {SHOWN_ONCE}")
    print(given)


def _store(config: list[Path] | None, data_dir: Path | None) -> KeyStore:
    """The keys of a data directory. Raises `ForeignDirectory` for one that is none."""
    from scidaq.clock import SystemClock
    from scidaq.store import read_station
    from scidaq.web import KeyStore

    path = directory(config, data_dir)
    read_station(path)
    return KeyStore(path, SystemClock())
