"""SQL on the command line: over the files, with or without a running station."""

from __future__ import annotations

import sys
from pathlib import Path

from scidaq.query import run_sql, write_sql


def write_query(data_dir: Path, query: str, form: str) -> None:
    """Write the result of a query, as it comes, to standard output."""
    if query == "-":
        query = sys.stdin.read()
    with run_sql(data_dir, query) as result:
        write_sql(result, "objects" if form == "json" else form, sys.stdout.buffer)
    sys.stdout.buffer.flush()
