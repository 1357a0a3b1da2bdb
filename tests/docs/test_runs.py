"""The page about runs: what it shows runs as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidaq.catalog import kinds
from scidaq.store import verify
from tests.docs.commands import ROOT, Newcomer, blocks

PAGE = ROOT / "docs" / "runs.md"


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path) -> None:
    newcomer, said = Newcomer(tmp_path), ""
    for code in blocks(PAGE):
        said += newcomer.do(code)
        assert "Traceback" not in said
    for words in ("cooldown", "first night", "range = 10.0 V", "held until", "is released", "helium refilled"):
        assert words in said
    assert "{'pump': 'off'}" in said
    assert verify(tmp_path / "lab-data").ok


def test_the_format_names_every_kind_of_runs_holds_and_notes() -> None:
    page = (ROOT / "docs/format/facts.md").read_text(encoding="utf-8")
    said = [kind for kind in kinds() if kind.partition(".")[0] in ("run", "hold", "note", "instrument")]
    assert len(said) >= 12
    assert [kind for kind in said if f"| `{kind}` |" not in page] == []
