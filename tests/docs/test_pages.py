"""No page speaks of a verb, an option, a file, a module or a name that is not there; doctests run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import scidaq
from scidaq.cli.app import app
from tests.docs.commands import ROOT, blocks

WRITTEN = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples/README.md",
]
TOUR = ROOT / "docs" / "tour.md"
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ROOT_COMMAND: Any = typer.main.get_command(app)


def options_of(command: Any) -> set[str]:
    """The options of a verb; of a group, those of all its verbs."""
    found = {option for one in command.params for option in one.opts} | {"-h", "--help"}
    return found.union(*map(options_of, getattr(command, "commands", {}).values()))


VERBS: dict[str, set[str]] = {name: options_of(command) for name, command in ROOT_COMMAND.commands.items()}


def module_names() -> list[str]:
    found = [m.name for m in pkgutil.walk_packages(scidaq.__path__, "scidaq.")]
    return [name for name in found if not name.endswith("__main__") and ".migrations" not in name]


def said(page: Path) -> Iterator[str]:
    """Whatever a page says in code: blocks of commands, and words between backquotes."""
    for code in blocks(page):
        if code.language == "sh":
            yield from code.text.splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text(encoding="utf-8")))


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: path.name)
def test_commands_have_verbs_and_options_that_exist(page: Path) -> None:
    for text in said(page):
        for verb, rest in re.findall(r"(?:^|[ /])scidaq ([a-z]+)([^|;&>#]*)", text):
            assert verb in VERBS, f"{page.name}: {text!r}: there is no verb {verb!r}"
            unknown = set(re.findall(r"(?<!\S)--[a-z-]+", rest)) - VERBS[verb]
            assert not unknown, f"{page.name}: {text!r}: {verb} has no {unknown}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: path.name)
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {target for text in said(page) for target in re.findall(r"(?:^|[ ;])make ([a-z]+)", text)}
    assert asked <= targets


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: path.name)
def test_dotted_names_lead_somewhere(page: Path) -> None:
    for text in said(page):
        for name in re.findall(r"^(?:from |import )?(scidaq(?:\.\w+)+)", text):
            importable(name)


def importable(name: str) -> object:
    """What a dotted name means. Raises `AttributeError` where there is nothing."""
    parts = name.split(".")
    found: object = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                found = importlib.import_module(".".join(parts[:i]))
                continue
            except ModuleNotFoundError:
                pass
        found = getattr(found, part)
    return found


def test_the_tour_names_what_is_there() -> None:
    """Modules by their path, classes and functions by their name."""
    sources = {p.relative_to(ROOT / "src/scidaq").as_posix(): p.read_text() for p in (ROOT / "src").rglob("*.py")}
    everything = "\n".join(sources.values())
    defined = set(re.findall(r"^ *(?:class|def) (\w+)", everything, re.MULTILINE))
    known = defined | set(re.findall(r"\b\w+\b", everything))
    for text in said(TOUR):
        if re.fullmatch(r"[\w/]+\.py", text):
            assert any(path == text or path.endswith(f"/{text}") for path in sources), f"no module {text}"
        elif found := re.fullmatch(r"([A-Z]\w+)(?:\.(\w+))?(?:\(\))?", text):
            assert found[1] in defined, f"no class {found[1]}"
            assert found[2] is None or found[2] in defined, f"{found[1]} has no {found[2]}"
        elif re.fullmatch(r"_?[a-z]\w*(\.\w+)?", text):
            assert (ROOT / text).exists() or set(text.split(".")) <= known, text
    assert len(TOUR.read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: path.name)
def test_paths_of_the_checkout_exist(page: Path) -> None:
    """Also those that are no links."""
    for text in said(page):
        for path in re.findall(r"(?<!\S)(?:docs|examples|tests|src|bench|tools)/[\w./-]*\w", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: path.name)
def test_toml_is_toml(page: Path) -> None:
    for code in blocks(page):
        if code.language == "toml":
            tomllib.loads(code.text)


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_pictures_need_nothing_from_elsewhere() -> None:
    pictures = list((ROOT / "docs/pictures").glob("*.svg"))
    assert pictures
    for picture in pictures:
        text = picture.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert re.findall(r"https?://[^\"' )]+", text) == ["http://www.w3.org/2000/svg"]
        assert not re.search(r"@import|@font-face|<image|<script|<foreignObject", text)


# ---- doctests -------------------------------------------------------------------------------------------------------


def test_doctests_run() -> None:
    failed = {}
    for name in module_names():
        result = doctest.testmod(importlib.import_module(name))
        if result.failed:
            failed[name] = result.failed
    assert not failed
