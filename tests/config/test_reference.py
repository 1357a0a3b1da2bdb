"""`docs/configuration.md` is what the code says."""

from __future__ import annotations

import tomllib
from pathlib import Path

from scidaq.config import reference
from scidaq.config.words import field_docs, hints
from scidaq.instruments import find_drivers

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_made_from_the_code() -> None:
    assert PAGE.read_text() == reference(), "run: python -m scidaq.config > docs/configuration.md"


def test_the_examples_are_toml() -> None:
    examples = PAGE.read_text().split("```toml\n")[1:]
    assert [list(tomllib.loads(e.split("```")[0])) for e in examples] == [["instruments"]]


def test_every_setting_of_a_driver_is_on_the_page() -> None:
    drivers = find_drivers()
    for name in ("host", "replay", "scpi", "waveform"):
        options = drivers[name].Options  # type: ignore[attr-defined]
        page = reference().split(f"### Driver `{name}`")[1].split("### ")[0]
        for setting in hints(options):
            assert f"`{setting}" in page
            assert " ".join(field_docs(options)[setting].split()) in page
