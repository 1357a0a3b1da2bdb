"""The way to a station that runs: none yet, so that what is to be changed has to wait until it has stopped."""

from __future__ import annotations

from pathlib import Path

from scidaq.catalog import RunActs


def acts(data_dir: Path) -> RunActs | None:
    """The verbs on runs of the station that records into a data directory; None when it cannot be reached."""
    return None
