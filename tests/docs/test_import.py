"""The page about import and replay: what it shows runs as it is written, and gives what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidaq.store import verify
from tests.docs.commands import ROOT, Newcomer, blocks

PAGE = ROOT / "docs" / "import.md"


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path) -> None:
    newcomer, said = Newcomer(tmp_path), ""
    shown = [code.text for code in blocks(PAGE) if code.language == "text"]
    for code in blocks(PAGE):
        if code.language != "text":
            said += newcomer.do(code)
    assert "Traceback" not in said
    for text in shown:
        assert text in said
    assert "logger.csv: 3 rows into freezer/log" in said
    assert "run 'sweep-1'" in said
    assert "all is well" in said
    assert verify(tmp_path / "lab-data").ok
    assert verify(tmp_path / "replayed").ok
