"""The command line: one verb, one function, and every error one clear message."""

from __future__ import annotations

import sys


def main() -> None:
    """The program `scidaq`."""
    from scidaq.cli.app import run

    sys.exit(run(sys.argv[1:]))
