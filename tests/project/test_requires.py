"""An outside program that is missing: skipped by name for a user, a failure where all is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

TESTS = """
import pytest

@pytest.mark.requires("a sextant", available=False, how="ask a sailor")
def test_marked(): raise AssertionError("ran")

def test_asked(requires):
    requires("a compass", True, "look north")
    requires("a sextant", False, "ask a sailor")

@pytest.mark.requires("a compass", True, "look north")
def test_runs(kills): assert kills == 3
"""


@pytest.fixture
def journey(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = requires")
    pytester.makepyfile(TESTS)
    return pytester


def test_what_is_missing_is_skipped_by_name(journey: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCIDAQ_TEST_REQUIRE", raising=False)
    result = journey.runpytest("-rs", "--kills=3")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*needs a sextant: ask a sailor*"])


def test_what_is_missing_fails_where_all_is_required(journey: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIDAQ_TEST_REQUIRE", "all")
    result = journey.runpytest("--kills=3")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 1
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == 2
    assert "skipped" not in outcomes
