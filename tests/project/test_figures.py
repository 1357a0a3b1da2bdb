from __future__ import annotations

import pytest

from tests import figures
from tests.figures import BEGIN, END, PAGE, Row, with_row

CRASH = Row("`make crash`", 500, 1_000_000, 0, 0, 0, "at random", "2026-01-02")
CUT = Row("`make powercut`", 20, 3, 0, 0, 0, "", "2026-01-03")


def test_a_row_is_put_in_the_place_of_the_one_before():
    page = with_row(f"a\n{BEGIN}\n{END}\nb\n", CRASH, "1", "A machine.")
    page = with_row(page, CUT, "1", "A machine.")
    other = Row("`make crash`", 7, 8, 0, 0, 0, "in recovery", "2026-02-02")
    page = with_row(page, other, "1", "Another machine.")
    assert page.startswith(f"a\n{BEGIN}")
    assert page.endswith(f"{END}\nb\n")
    assert "Another machine." in page
    assert "A machine." not in page
    assert figures._rows(page) == [other, CUT]


def test_a_row_is_added_to_the_one_before():
    page = with_row(f"{BEGIN}\n{END}", CRASH, "1", "A machine.")
    page = with_row(page, CRASH, "add", "A machine.")
    (both,) = figures._rows(page)
    assert (both.times, both.rows, both.remarks) == (1000, 2_000_000, "at random")


def test_the_page_has_its_markers():
    with_row(PAGE.read_text(), CRASH, "1", "A machine.")
    with pytest.raises(ValueError, match="figures"):
        with_row("a page without", CRASH, "1", "A machine.")


def test_nothing_is_written_unless_it_is_asked_for(monkeypatch):
    before = PAGE.read_text()
    monkeypatch.delenv(figures.VARIABLE, raising=False)
    figures.write(CRASH)
    assert PAGE.read_text() == before
