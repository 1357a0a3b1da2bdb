"""The pages under `docs/reference` are what the code says."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[2] / "docs" / "reference"
GENERATOR: dict[str, Any] = runpy.run_path(str(HERE / "generate.py"))
pages: Callable[[], dict[str, str]] = GENERATOR["pages"]


@pytest.mark.parametrize("name", ["cli.md", "statistics.md", "metrics.md", "errors.md", "api.md"])
def test_the_page_is_made_from_the_code(name: str) -> None:
    assert (HERE / name).read_text(encoding="utf-8") == pages()[name], "run: python docs/reference/generate.py"


def test_every_statistic_has_a_unit_and_a_sentence() -> None:
    for kind in GENERATOR["statistics"]():
        for one in fields(kind):
            assert one.metadata.get("unit"), f"{kind}: {one.name} has no unit"
            assert one.metadata.get("doc", "").endswith("."), f"{kind}: {one.name} has no sentence"


def test_the_statistics_of_every_room_are_found() -> None:
    names = {kind.__name__ for kind in GENERATOR["statistics"]()}
    assert names >= {"StationStats", "InstrumentStats", "IntakeStats", "RingStats", "RecorderStats", "StreamStats"}
