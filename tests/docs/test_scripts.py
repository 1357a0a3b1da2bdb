"""The page about scripts: what it shows runs as it is written, and so does the example."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidaq.store import verify
from tests.docs.commands import ROOT, Newcomer, blocks

PAGE = ROOT / "docs" / "scripts.md"


@pytest.mark.slow
def test_all_of_it_runs_and_everything_is_recorded(tmp_path: Path) -> None:
    newcomer, said = Newcomer(tmp_path), ""
    for code in blocks(PAGE):
        said += newcomer.do(code)
        assert "Traceback" not in said
    assert "1,000" in said
    assert "all is well" in said
    assert "1003 rows, 1003 of them durable" in said
    assert "readings are on the disk" in said
    for name in ("lab-data", "tea-data", "sweeps", "arrays"):
        assert verify(tmp_path / name).ok
