"""Where the control socket of a station lies."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LONGEST = 100
"""Bytes that the path of a socket may have on any system (104 and 108 are usual, with the zero at its end)."""


def control_path(uuid: str) -> Path:
    """The path of the socket: in the directory that the system gives to a service or a user, else one of our own.

    A socket's path must be short, so it is not put beside the data, however deep that lies.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    places = [Path(tempfile.gettempdir()) / f"scidaq-{user}", Path("/tmp") / f"scidaq-{user}"]
    if named := os.environ.get("XDG_RUNTIME_DIR"):
        places.insert(0, Path(named) / "scidaq")
    if named := os.environ.get("RUNTIME_DIRECTORY"):  # of systemd, several joined by colons
        places.insert(0, Path(named.partition(":")[0]))
    paths = [place / f"{uuid}.sock" for place in places]
    return next((path for path in paths if len(os.fsencode(path)) <= LONGEST), paths[-1])
