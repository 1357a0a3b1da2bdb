"""SQL for those outside of a running station: answered by processes beside it, one query each at a time.

A process lives on between queries, for the next one need not wait for it to begin, and is ended when it is idle for
long, when a query takes too long, and when nobody waits for the answer any more.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import structlog

from scidaq.clock import Clock
from scidaq.errors import QueryLimit, QueryRefused, RequestError, StationError, TooMany
from scidaq.query import SqlLimits

log = structlog.get_logger(__name__)

WORKERS = 2
"""Queries at once."""
WAITING = 8
"""Queries that may wait while others are answered."""
_QUERIES = 50
"""That one process answers, lest it grow."""
_IDLE_S = 60.0
_GRACE_S = 3.0
"""How much longer than its limit a query may take before its process is ended."""
_BEGIN_S = 10.0
"""How long a process may take to begin."""
_NOT_ITS = ("SCIDAQ_", "NOTIFY_", "WATCHDOG_")
LIMITS = SqlLimits(seconds=20.0, bytes=32 << 20)
"""Of a query that somebody asks a station."""


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """What came of a query."""

    content: bytes
    """In the form that was asked for."""
    rows: int
    seconds: float


class _Worker:
    """A process that answers queries."""

    def __init__(self, data_dir: Path) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_ITS)}
        command = [sys.executable, "-P", "-m", "scidaq.query.sql_worker", str(data_dir)]
        self.process = subprocess.Popen(
            command,
            env=own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for the station
        )
        self.asked = 0
        self.idle_since_s = 0.0
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, self.process.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.process.pid}/oom_score_adj").write_text("500")

    def ask(self, question: bytes) -> tuple[dict[str, Any], bytes] | None:
        """The answer; None when the process has ended before it gave one."""
        self.asked += 1
        given, taken = self.process.stdin, self.process.stdout
        if given is None or taken is None:
            return None
        try:
            given.write(question + b"\n")
            given.flush()
            line = taken.readline()
            facts = orjson.loads(line) if line.endswith(b"\n") else None
            content = b"" if facts is None else taken.read(facts["bytes"])
        except (OSError, ValueError):
            return None
        return None if facts is None or len(content) != facts["bytes"] else (facts, content)

    def end(self) -> None:
        """At once. Its pipes stay open for a thread that reads, until `close`."""
        self.process.kill()

    def close(self) -> None:
        """End it, and let go of it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class SqlJob:
    """A query that waits for its answer."""

    def __init__(self, queries: Queries, question: bytes, limits: SqlLimits) -> None:
        self._queries, self._question, self._limits = queries, question, limits
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._unwanted = self._late = False

    def cancel(self) -> None:
        """Nobody waits for it any more: end it. From any thread, also when it has ended."""
        with self._lock:
            self._unwanted = True
            if self._worker is not None:
                self._worker.end()

    def result(self) -> SqlAnswer:
        """Wait for the answer. Raises `QueryRefused`, `QueryLimit`, and `TooMany` when too many wait."""
        with self._queries.worker() as worker:
            with self._lock:
                if self._unwanted:
                    raise QueryRefused("nobody waits for this query any more")
                self._worker = worker
            timer = threading.Timer((self._limits.seconds or 0) + _GRACE_S + _BEGIN_S * (not worker.asked), self._over)
            timer.daemon = True
            timer.start()
            try:
                said = worker.ask(self._question)
            finally:
                timer.cancel()
                with self._lock:
                    self._worker = None
        if said is None:
            raise self._why(worker)
        facts, content = said
        if "error" in facts:
            raise (QueryLimit if facts["error"] == "limit" else QueryRefused)(facts["detail"])
        return SqlAnswer(content, facts["rows"], facts["seconds"])

    def _over(self) -> None:
        with self._lock:
            self._late = True
            if self._worker is not None:
                self._worker.end()

    def _why(self, worker: _Worker) -> Exception:
        if self._unwanted:
            return QueryRefused("nobody waits for this query any more")
        if self._late:
            return QueryLimit(f"the query took longer than {self._limits.seconds:g} s, and was ended: ask for less")
        code = worker.process.wait()
        log.warning("the process of a query ended by itself", code=code)
        return QueryLimit(
            "the process that answered the query ended, as one does that needs more memory than it may have: ask for "
            "less at once"
        )


class Queries:
    """Queries over a data directory; those that are under way end with the station."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self._data_dir, self._clock = data_dir, clock
        self._room = threading.Semaphore(WORKERS)
        self._lock = threading.Lock()
        self._waiting = 0
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._stopping = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._stopping = True
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.end()
            if self._timer is not None:
                self._timer.cancel()
        for worker in idle:
            worker.close()

    def ask(self, query: str, form: str, limits: SqlLimits = LIMITS) -> SqlJob:
        """A query whose answer is to be had in one of `scidaq.query.FORMS`. Begins nothing yet."""
        question = {"query": query, "form": form, "limits": asdict(limits)}
        return SqlJob(self, orjson.dumps(question), limits)

    @contextlib.contextmanager
    def worker(self) -> Any:
        """A process for one query, when one is free. Raises `TooMany`."""
        with self._lock:
            if self._waiting >= WORKERS + WAITING:
                raise TooMany(f"{WAITING} queries wait already: ask again when one has been answered")
            self._waiting += 1
        try:
            with self._room:
                worker = self._take()
                try:
                    yield worker
                finally:
                    self._give_back(worker)
        finally:
            with self._lock:
                self._waiting -= 1

    def _take(self) -> _Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    self._busy.add(worker)
                    return worker
                worker.close()
            if self._stopping:
                raise RequestError("the station is stopping, so no query begins")
            try:
                worker = _Worker(self._data_dir)
            except OSError as error:
                raise StationError(f"no process can be begun for the query: {error}") from error
            self._busy.add(worker)
            return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
            worker.idle_since_s = self._clock.monotonic_s()
            alive = worker.process.poll() is None and worker.asked < _QUERIES and not self._stopping
            if alive:
                self._idle.append(worker)
                self._look_later()
        if not alive:
            worker.close()

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(_IDLE_S, self._expire)
            self._timer.daemon = True
            self._timer.name = "queries"
            self._timer.start()

    def _expire(self) -> None:
        """End the processes that were idle for long."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._timer = None
            old = [one for one in self._idle if now_s - one.idle_since_s >= _IDLE_S]
            self._idle = [one for one in self._idle if one not in old]
            if self._idle and not self._stopping:
                self._look_later()
        for worker in old:
            worker.close()
