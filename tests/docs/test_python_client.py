"""The page about the Python client: what it shows runs as it is written, against the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidaq.web import WebServer
from tests.docs.commands import ROOT, Code, Newcomer, blocks
from tests.docs.test_http_api import demo  # noqa: F401

PAGE = ROOT / "docs" / "python-client.md"


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, demo: WebServer) -> None:  # noqa: F811
    (tmp_path / "somewhere").mkdir()
    newcomer = Newcomer(tmp_path / "somewhere")
    said = newcomer.do(Code("sh", f"python examples/steer.py {demo.address}\n"))
    assert "trigger_level = 0.3 V" in said
    assert "rows of dmm/readings" in said
    assert "trigger_level is 0.1 V" in said.splitlines()[-1]


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path, demo: WebServer) -> None:  # noqa: F811
    (tmp_path / "somewhere").mkdir()
    newcomer = Newcomer(tmp_path / "somewhere")
    text = "".join(code.text for code in blocks(PAGE) if code.language == "python")
    said = newcomer.do(type(blocks(PAGE)[0])("python", text.replace("http://127.0.0.1:8080", demo.address)))
    assert "'voltage': 'V'" in said
    assert "rows in batches" in said
    assert "['adc.min', 'adc.max']" in said or "adc" in said
    assert "refused: parameter 'timebase': 100.0 is outside" in said
    assert "{'load_ohm': 50}" in said
    assert "the fan was on" in said
