"""Options that several verbs have, and what most of them begin with: the configuration and the data directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scidaq.errors import RequestError

if TYPE_CHECKING:
    from scidaq.config import Base, Config, Edit

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


def load_config(
    files: list[Path] | None, data_dir: Path | None, base: Base | None = None, edit: Edit | None = None
) -> Config:
    """The configuration that the command line asks for; with `edit`, as it would be then.

    Raises `ConfigError` with every mistake.
    """
    from scidaq.config import Override, load

    overrides = [] if data_dir is None else [Override("--data-dir", ("station", "data_dir"), str(data_dir))]
    return load(files or [], overrides, base=base, edit=edit)


def configured_instruments(files: list[Path] | None, data_dir: Path | None) -> Iterable[str]:
    """The configured instruments; none where the data directory alone was named, which may be another station's."""
    return () if files is None and data_dir is not None else load_config(files, data_dir).instruments


def directory(files: list[Path] | None, data_dir: Path | None) -> Path:
    """The data directory; the configuration is read only when it has to say."""
    return data_dir if data_dir is not None else load_config(files, None).station.data_dir


@contextmanager
def typed() -> Iterator[None]:
    """What is wrong with what was typed is a mistake of the command line."""
    try:
        yield
    except RequestError as error:
        raise typer.BadParameter(str(error)) from None
