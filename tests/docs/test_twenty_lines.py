"""The page about an instrument in twenty lines: its scripts run as they are written, its driver keeps the contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from scidaq.clock import SystemClock
from scidaq.instruments import Multimeter
from scidaq.store import verify
from scidaq.testing import DriverContract
from tests.docs.commands import ROOT, Code, Newcomer, blocks

PAGE = ROOT / "docs" / "instrument-in-twenty-lines.md"
FILES = {
    re.findall(r"^# (\w+\.py)$", code.text, re.M)[0]: code.text for code in blocks(PAGE) if code.language == "python"
}
DRIVER: dict[str, Any] = {"__name__": __name__}
exec(compile(FILES["meter_driver.py"], str(PAGE), "exec", dont_inherit=True), DRIVER)


@pytest.mark.parametrize("name", ["meter.py", "traces.py"])
def test_twenty_lines_are_twenty_lines(name: str) -> None:
    lines = [line for line in FILES[name].splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 20


@pytest.mark.slow
def test_the_scripts_record(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path)
    said = []
    for code in blocks(PAGE):
        text = code.text.replace("5026", "5025")  # one free port is enough: the two do not run at once
        if code.language == "python":
            newcomer.write(FILES_OF[code.text], text)
        else:
            said.append(newcomer.do(Code(code.language, text)))
    meter, scope = said
    assert "recording scidaq,Multimeter,0001,1.0" in meter
    assert "20 rows" in meter
    assert "10 traces from scidaq, Oscilloscope" in scope
    for one, name in zip(said, ("meter-data", "trace-data"), strict=True):
        assert "Traceback" not in one
        assert "all is well" in one
        assert verify(tmp_path / name).ok


FILES_OF = {text: name for name, text in FILES.items()}


class TestMeterDriver(DriverContract):
    @pytest.fixture
    def driver(self):
        with Multimeter() as meter:
            options = DRIVER["MeterOptions"](meter.address, every_s=0.01)
            yield lambda: DRIVER["MeterDriver"]("meter", options, SystemClock())
