"""Where the control socket of a station lies."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def control_path(uuid: str) -> Path:
    """The path of the socket: in the directory that the system gives to a service or a user, else one of our own.

    A socket's path has about 100 bytes, so it is not put beside the data, however deep that lies.
    """
    if named := os.environ.get("RUNTIME_DIRECTORY"):  # of systemd, several joined by colons
        return Path(named.partition(":")[0]) / f"{uuid}.sock"
    if named := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(named) / "scidaq" / f"{uuid}.sock"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"scidaq-{user}" / f"{uuid}.sock"
