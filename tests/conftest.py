"""What all tests share: programs asked for by name, `--kills`, how hard hypothesis looks."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import settings

os.environ.setdefault("SCIDAQ_SERVER__PORT", "0")
"""Stations of tests take any free port: several may run at once, and beside one that is none of theirs."""
os.environ.setdefault("SCIDAQ_FLIGHT__ENABLED", "false")
"""And begin no second process, save where a test is about it."""

settings.register_profile("default", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


def demand(name: str, available: bool, how: str) -> None:
    """Skip the test by name where `name` is not available; fail where all tests were asked for.

    `how` tells how to get it. A user's machine may lack an outside program or a privilege; with
    SCIDAQ_TEST_REQUIRE=all a skip would hide that something was never tested.
    """
    if available:
        return
    message = f"needs {name}: {how}"
    if os.environ.get("SCIDAQ_TEST_REQUIRE") == "all":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture
def requires() -> Callable[[str, bool, str], None]:
    """`requires(name, available, how)` inside a test; as a marker it is asked before fixtures."""
    return demand


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        demand(*marker.args, **marker.kwargs)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=25, help="kill -9 per crash test (default: 25)")
    parser.addoption("--lives", type=int, default=30, help="lives per sweep of disk faults (default: 30; 0: all)")


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often a crash test kills its process."""
    return int(request.config.getoption("--kills"))


@pytest.fixture
def lives(request: pytest.FixtureRequest) -> int:
    """How many lives a sweep of disk faults leads; 0 for every operation and every kind of fault."""
    return int(request.config.getoption("--lives"))
