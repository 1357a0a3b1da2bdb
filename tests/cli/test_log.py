"""Where log events go, and what happens when nobody is there to read them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator

import pytest
import structlog

from scidaq.cli.recording import _log_to_stderr


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_events_are_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    _log_to_stderr("info")
    structlog.get_logger("x").warning("the disk is full", free=3)
    assert "the disk is full" in capsys.readouterr().err


def test_a_standard_error_that_was_closed_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    _log_to_stderr("info")
    stderr.close()
    structlog.get_logger("x").error("nobody reads this")


def test_a_pipe_without_a_reader_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    raw = io.FileIO(writes, "w")
    with io.TextIOWrapper(raw, write_through=True) as stderr:  # unbuffered, so that nothing is left for its end
        monkeypatch.setattr(sys, "stderr", stderr)
        _log_to_stderr("info")
        structlog.get_logger("x").error("nobody reads this")
