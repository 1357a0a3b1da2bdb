"""The page about SQL: what it shows runs as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.commands import ROOT, Newcomer, blocks


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path) -> None:
    newcomer, said = Newcomer(tmp_path), ""
    for code in blocks(ROOT / "docs" / "sql.md"):
        if code.language != "json":
            said += newcomer.do(code)
    assert "1000" in said
    assert "2025-06-15T15:06:45.010000000Z" in said
    assert '{"id":"bath/probe","rows":11}' in said
    assert (tmp_path / "readings.parquet").stat().st_size > 1000
    assert "temperature" in said
