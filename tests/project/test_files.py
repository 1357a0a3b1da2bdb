"""What is committed reads the same anywhere: no address of one machine, no link to nowhere."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Put together here, so that this file does not hold what it looks for.
REGISTRIES = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "yarn" + "pkg.com",
    "debian" + ".org/debian",
    "deb." + "debian",
]
MACHINES = ["/work" + "/", "/root" + "/.", "/home" + "/runner", "/opt" + "/py", "file:" + "///"]
MARKS = ["<<<<" + "<<<", ">>>>" + ">>>", "Co-Authored" + "-By", "language" + " model"]
NEEDLES = re.compile("|".join(map(re.escape, REGISTRIES + MACHINES + MARKS)), re.IGNORECASE)

LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)


@pytest.fixture
def tracked(requires: Callable[[str, bool, str], None]) -> list[Path]:
    """The files under version control that are there, as paths."""
    requires("a git checkout", (ROOT / ".git").exists(), "git clone the project")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def needles(path: Path) -> Iterator[str]:
    text = path.read_bytes().decode("utf-8", errors="replace")
    for line, content in enumerate(text.splitlines(), 1):
        if found := NEEDLES.search(content):
            yield f"{path}:{line}: {found.group()}"


def dead_links(page: Path, root: Path) -> Iterator[str]:
    """The links of a Markdown page, relative or from `root`, that lead to no file."""
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path = target.partition("#")[0]
        if not path or re.match(r"[a-z][a-z0-9+.-]*:", path, re.IGNORECASE):
            continue
        if not (root / path[1:] if path.startswith("/") else page.parent / path).exists():
            yield f"{page}: {target}"


def test_no_file_names_a_registry_or_a_machine(tracked: list[Path]) -> None:
    assert [found for path in tracked for found in needles(path)] == []


def test_every_link_of_a_page_leads_somewhere(tracked: list[Path]) -> None:
    pages = [path for path in tracked if path.suffix == ".md"]
    assert [dead for page in pages for dead in dead_links(page, ROOT)] == []


def test_the_looking_finds_what_is_there(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"[a](gone.md) [b](page.md#top) [c](#top) [d](https://example.org/x) ![e](/no.png)\n"
        f"```\n[f](example.md)\n```\nfrom https://{REGISTRIES[0]}/simple\n",
        encoding="utf-8",
    )
    assert list(dead_links(page, tmp_path)) == [f"{page}: gone.md", f"{page}: /no.png"]
    assert list(needles(page)) == [f"{page}:5: {REGISTRIES[0]}"]
