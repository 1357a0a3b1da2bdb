"""The page about exports says what the code says."""

from __future__ import annotations

from pathlib import Path

from scidaq.archive import FORMATS, LIMITS
from scidaq.cli.app import ExportFormat

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def limits() -> str:
    """The table of what formats cannot carry."""
    rows = (f"| {', '.join(one.formats)} | {one.says} | {'yes' if one.lossless else 'no'} |" for one in LIMITS)
    return "\n".join(["| format | what | comes back |", "|---|---|---|", *rows])


def test_the_limits_of_formats_stand_in_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = page.partition("<!-- limits: begin -->")[2].partition("<!-- limits: end -->")[0].strip()
    assert found == limits(), limits()


def test_every_format_stands_in_the_page_and_on_the_command_line() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for form in FORMATS.values():
        line = next(line for line in page.splitlines() if line.startswith(f"| {form.name} |"))
        assert f"`{form.suffix}`" in line
        assert ", ".join(form.compressions) in line
        assert not form.extra or f"scidaq[{form.extra}]" in line
    assert [one.value for one in ExportFormat] == list(FORMATS)
