"""The process in which a station has its queries answered: `python -m scidaq.query.sql_worker DATA_DIR`.

A line of JSON on standard input asks, a line of JSON on standard output answers, and behind it come as many bytes as
it says. The end of the input ends the process at once, whatever it is doing.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from scidaq.errors import QueryLimit, ScidaqError
from scidaq.query.sql import SqlLimits, run_sql
from scidaq.query.sql_forms import write_sql

_SPARE_BYTES = 3 << 30
"""Of memory beyond what DuckDB may take: for the interpreter, Arrow, and results."""


def answer(data_dir: Path, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """What comes of a query: facts, and its result in the form that was asked for."""
    began_s = time.monotonic()
    limits = SqlLimits(**asked["limits"])
    try:
        with run_sql(data_dir, asked["query"], limits) as result:
            out = _Bounded(limits.bytes)
            rows = write_sql(result, asked["form"], out)
    except ScidaqError as error:
        kind = "limit" if isinstance(error, QueryLimit) else "refused"
        return {"error": kind, "detail": str(error), "bytes": 0}, b""
    except MemoryError:
        most = limits.memory_bytes >> 20
        return {"error": "limit", "detail": f"the query needs more memory than {most} MiB", "bytes": 0}, b""
    content = out.getvalue()
    return {"rows": rows, "seconds": round(time.monotonic() - began_s, 4), "bytes": len(content)}, content


class _Bounded(io.BytesIO):
    """Takes so many bytes and no more. Raises `QueryLimit`."""

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self._most is not None and self.tell() + memoryview(data).nbytes > self._most:
            raise QueryLimit(f"the result is larger than {self._most >> 20} MiB: add a LIMIT, or ask for less")
        return super().write(data)


def _confine(memory_bytes: int) -> None:
    """Take from this process what a query needs least: files to write, memory without end."""
    try:
        import resource
    except ImportError:  # Windows has none of these
        return
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_DATA, memory_bytes + _SPARE_BYTES),
    ):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main(data_dir: Path) -> None:
    """Answer until the input ends."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)  # whoever asked is gone: nobody waits for what is under way

    _confine(SqlLimits().memory_bytes)
    threading.Thread(target=listen, name="listen", daemon=True).start()
    while True:
        facts, content = answer(data_dir, orjson.loads(lines.get()))
        try:
            sys.stdout.buffer.write(orjson.dumps(facts) + b"\n" + content)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
