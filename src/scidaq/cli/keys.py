"""`scidaq keys`: who may come in over HTTP. A running station makes the change itself, so that it is in the audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import orjson
import typer

from scidaq.cli.options import AsJson, ConfigFiles, DataDir, directory
from scidaq.errors import RequestError, Unknown

if TYPE_CHECKING:
    from scidaq.web import Control, Key, KeyStore

Told = dict[str, Any]
"""What may be shown of a key."""
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
    _show_new(_keys(config, data_dir).create(name, scope, None if forever else days), as_json)


@app.command(name="list")
def list_keys(as_json: AsJson = False, config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """List the keys, those that are no longer valid too; what they open with is kept nowhere."""
    keys = _keys(config, data_dir).all()
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
    key = _keys(config, data_dir).revoke(which)
    print(f"revoked {key['id']} ({key['name']})")


@app.command()
def rotate(
    which: Which,
    grace_hours: Annotated[float, typer.Option(help="How long the old one stays valid.", metavar="H")] = 24.0,
    as_json: AsJson = False,
    config: ConfigFiles = None,
    data_dir: DataDir = None,
) -> None:
    """Make a new key in the place of one, which stays valid for a while."""
    _show_new(_keys(config, data_dir).rotate(which, grace_hours), as_json)


@app.command()
def link(config: ConfigFiles = None, data_dir: DataDir = None) -> None:
    """Print a link with which a browser logs in at the running station: once, within 15 minutes."""
    from scidaq.web import connect_control

    control = connect_control(directory(config, data_dir))
    if control is None:
        raise RequestError("no station runs there, or it has no control socket; start it with `scidaq serve`")
    print(control.call("POST", "/api/v1/session/link")["link"])


def _show_new(key: Told, as_json: bool) -> None:
    if as_json:
        content = {name: key[name] for name in ("id", "name", "scopes", "key", "expires_ns")}
        print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
        return
    print(f"{key['id']} ({key['name']}), for {', '.join(key['scopes'])}; {SHOWN_ONCE}")
    print(key["key"])


# ---- where they are -------------------------------------------------------------------------------------------------


class Keys(Protocol):
    """The keys of a station. What is told of one is what the HTTP interface tells, a new one with its `key`."""

    def all(self) -> list[Told]:
        """All of them, oldest first."""

    def create(self, name: str, scopes: Sequence[str], days: float | None) -> Told:
        """A new one. Raises `RequestError`."""

    def revoke(self, which: str) -> Told:
        """Make one invalid. Raises `RequestError`."""

    def rotate(self, which: str, grace_hours: float) -> Told:
        """A new one in the place of another. Raises `RequestError`."""


@dataclass(frozen=True, slots=True)
class FarKeys:
    """Those of a station that runs: it makes the change, and notes who did it."""

    control: Control

    def all(self) -> list[Told]:
        found: list[Told] = self._call("GET", "")["items"]
        return found

    def create(self, name: str, scopes: Sequence[str], days: float | None) -> Told:
        return self._call("POST", "", {"name": name, "scopes": list(scopes), "days": days})

    def revoke(self, which: str) -> Told:
        return self._call("DELETE", f"/{self._id(which)}")

    def rotate(self, which: str, grace_hours: float) -> Told:
        return self._call("POST", f"/{self._id(which)}/rotate", {"grace_hours": grace_hours})

    def _id(self, which: str) -> str:
        """Of a valid key, by its id or its name, which need not fit into a path."""
        for key in self.all():
            if which in (key["id"], key["name"]) and key["state"] == "valid":
                return str(key["id"])
        raise Unknown(f"there is no valid key {which!r}; `scidaq keys list` shows those there are")

    def _call(self, method: str, path: str, content: Told | None = None) -> Told:
        said: Told = self.control.call(method, f"/api/v1/keys{path}", content)
        return said


@dataclass(frozen=True, slots=True)
class NearKeys:
    """Those of a data directory that no station runs on, or one that cannot be reached."""

    store: KeyStore

    def all(self) -> list[Told]:
        return [key.told(self.store.now_ns) for key in self.store.all()]

    def create(self, name: str, scopes: Sequence[str], days: float | None) -> Told:
        return self._new(*self.store.create(name, scopes, days))

    def revoke(self, which: str) -> Told:
        return self.store.revoke(which).told(self.store.now_ns)

    def rotate(self, which: str, grace_hours: float) -> Told:
        return self._new(*self.store.rotate(which, grace_hours))

    def _new(self, key: Key, given: str) -> Told:
        return key.told(self.store.now_ns) | {"key": given}


def _keys(config: list[Path] | None, data_dir: Path | None) -> Keys:
    """The keys of a data directory. Raises `ForeignDirectory` for one that is none."""
    from scidaq.clock import SystemClock
    from scidaq.web import KeyStore, connect_control

    path = directory(config, data_dir)
    control = connect_control(path)
    return FarKeys(control) if control is not None else NearKeys(KeyStore(path, SystemClock()))
