"""`docs/instruments.md`: its configuration is right, and its driver keeps the contract."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from scidaq.clock import SystemClock
from scidaq.instruments import Driver, find_drivers
from scidaq.testing import DriverContract

PAGE = (Path(__file__).parents[2] / "docs" / "instruments.md").read_text()
TOML = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)]
INSTRUMENTS = {name: table for page in TOML for name, table in page.get("instruments", {}).items()}
# By exec, as a reader would paste it into one file. The contract class in it is not collected, but inherited below.
PYTHON: dict[str, Any] = {"__name__": __name__}
for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
    exec(compile(code, "docs/instruments.md", "exec", dont_inherit=True), PYTHON)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_the_configuration_on_the_page_is_right(name):
    pydantic = pytest.importorskip("pydantic")
    table = dict(INSTRUMENTS[name])
    kind = find_drivers()[table.pop("driver")]
    options = pydantic.TypeAdapter(kind.Options).validate_python(table)  # type: ignore[attr-defined]
    driver = kind(name, options, SystemClock())
    assert isinstance(driver, Driver)


def test_the_page_names_every_driver():
    assert {table["driver"] for table in INSTRUMENTS.values()} == set(find_drivers())


class TestDriverOnThePage(DriverContract):
    driver = PYTHON["TestPulses"].driver
