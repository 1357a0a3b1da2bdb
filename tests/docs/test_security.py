"""`docs/security.md` names tests that there are."""

from __future__ import annotations

import re

from tests.docs.commands import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and ".py::" in line]
CHAPTERS = {1: 5, 2: 4, 3: 7, 4: 4, 6: 8, 7: 6, 8: 4, 11: 7, 12: 3, 13: 4, 14: 3, 16: 5}
"""Sections of the chapters of ASVS 5.0 that the page speaks of."""


def test_every_promise_is_shown_by_tests_that_there_are() -> None:
    assert len(ROWS) > 25
    for row in ROWS:
        tests = re.findall(r"`([\w/]+\.py)::(?:\w+::)?(\w+)`", row)
        assert tests, row
        for file, name in tests:
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^(?: {{4}})?(?:async def|def|class) {name}\b", text, re.MULTILINE), (file, name)


def test_numbers_are_of_requirements_that_there_can_be() -> None:
    for row in ROWS:
        numbers = row.split(" | ")[1]
        for number in numbers.split(", ") if numbers != "none" else ():
            chapter, section, requirement = map(int, number.split("."))
            assert 1 <= section <= CHAPTERS[chapter], number
            assert 1 <= requirement <= 12, number
