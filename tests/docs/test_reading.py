"""The page about reading: what it shows runs as it is written, and so does the notebook."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import scidaq
from tests.docs.commands import ROOT, Code, Newcomer, blocks

PAGE = ROOT / "docs" / "reading.md"


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path) -> None:
    newcomer, said = Newcomer(tmp_path), ""
    record, *others = blocks(PAGE)
    newcomer.do(record)
    newcomer.anew()  # rows are recorded once
    for code in others:
        said += newcomer.do(code)
        assert "Traceback" not in said
    assert "{'v': 'V', 'n': '1'}" in said
    assert "100 rows of 1000" in said
    assert "V {'time': 1000, 'adc_element': 2}" in said
    assert "int16 (5, 2)" in said
    assert "1000 rows in batches" in said
    assert "200 rows in night ['dmm/readings', 'scope/adc']" in said


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    said = Newcomer(tmp_path).do(Code("sh", "python examples/notebook.py\n"))
    assert "<stream bath/cooling: 500 rows, 2025-06-15T15:06:40.000000000Z to " in said
    assert "200 rows, {'temperature': 'Cel', 'step': '1'}" in said
    assert (tmp_path / "cooling.png").exists() == (find_spec("matplotlib") is not None)
    assert len(scidaq.open(tmp_path / "notebook-data").run("steep").read("bath/cooling")) == 200
