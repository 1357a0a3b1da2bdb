"""Loggers that say once which instrument or which data their events are about."""

from __future__ import annotations

from typing import Any

import structlog


def instrument_events(instrument: str, **facts: Any) -> Any:
    """A logger for events of an instrument: every one has `instrument`, and whatever `facts` are given."""
    return structlog.get_logger("scidaq.instruments").bind(instrument=instrument, **facts)


def data_events(stream: str, **facts: Any) -> Any:
    """A logger for events of a stream: every one has `stream`, and whatever `facts` are given, such as `run`."""
    return structlog.get_logger("scidaq.data").bind(stream=stream, **facts)
