"""Logs: every event as a line of JSON in a file that begins anew each day, and for people on the console.

Whoever logs only puts an event into a queue; threads of their own write. A queue that is full drops events and counts
them, so that a flood, a full disk or a terminal that nobody reads holds nothing up. What the libraries log goes the
same way. Secrets are taken out of the written line, whatever part of the event they were in.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
import structlog

from scidaq.clock import Clock
from scidaq.observe.health import Check
from scidaq.observe.logfile import DayFile
from scidaq.observe.metrics import Sample
from scidaq.observe.options import LoggingOptions
from scidaq.observe.redaction import Redactor
from scidaq.stats import Status, Verdict, field_of

RETRY_S = 5.0
"""How long after a failure the file is tried again."""
TOLD_S = 60.0
"""For how long dropped events make the log degraded."""
CLOSE_S = 5.0
_BATCH = 500
KEPT = 1000
"""Events that are kept for those who want to see the newest."""
_LEVELS = {
    "debug": 10,
    "info": 20,
    "warning": 30,
    "warn": 30,
    "error": 40,
    "exception": 40,
    "critical": 50,
    "fatal": 50,
}
_NAMES = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
_OURS = "scidaq"
_STEPS = ("structlog", "logging", __name__)
"""Modules that an event passes on its way here: none of them is where it comes from."""


class Event(NamedTuple):
    """Something that was logged, before it is written."""

    t_ns: int
    level: int
    module: str
    line: int
    thread: str
    logger: str
    values: Mapping[str, Any]
    """Facts by name; `event` is what happened, `exception` a traceback."""


@dataclass(frozen=True, slots=True)
class LogStats:
    """What the log has done."""

    events: Mapping[str, int] = field_of("1", "Events that were logged, by level.")
    dropped: int = field_of("1", "Events for the file that found no room to wait.")
    dropped_console: int = field_of("1", "Events that the console did not show because it was too slow.")
    waiting: int = field_of("1", "Events that wait to be written to the file.")
    unwritten: int = field_of("1", "Events that the file refused.")
    refused: str = field_of("1", "What the system said when it last refused the file; empty while it takes lines.")
    trouble_age_s: float | None = field_of("s", "Time since an event for the file was last lost; None if none was.")


class Logs:
    """The logging of the process, from entering to leaving; a context manager, one at a time."""

    def __init__(
        self,
        options: LoggingOptions,
        directory: Path,
        clock: Clock,
        secrets: Iterable[str] = (),
        stderr: Callable[[], Any] = lambda: sys.stderr,
    ) -> None:
        """`directory` is where the file goes unless the options say otherwise."""
        self._clock, self._options = clock, options
        self._directory = options.directory or directory
        self._redactor = Redactor(secrets)
        self._counting = threading.Lock()
        self._counts = dict.fromkeys(_NAMES.values(), 0)
        self._levels = _Levels(options.level, options.levels)
        self._file = _File(self._directory, options, clock, self._redactor)
        self._sinks: list[_Sink] = [self._file] if options.file else []
        self._console = None if options.console == "never" else _Console(options, self._redactor, stderr)
        if self._console is not None:
            self._sinks.append(self._console)
            self._file.tell = self._console.say
        self._tail: deque[tuple[int, Event]] = deque(maxlen=KEPT)
        self._before: dict[str, Any] = {}
        self._handler = _Handler(self._take_record)

    def __enter__(self) -> Self:
        self._before = structlog.get_config()
        structlog.configure(
            processors=[self._take],
            # Everything passes, since loggers that were bound before a change of level must follow it too.
            wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
            logger_factory=_Named,
            cache_logger_on_first_use=False,
        )
        root = logging.getLogger()
        self._root = root.level, list(root.handlers)
        root.handlers[:] = [self._handler]
        self._set_libraries()
        for sink in self._sinks:
            sink.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        root = logging.getLogger()
        root.setLevel(self._root[0])
        root.handlers[:] = self._root[1]
        structlog.configure(**self._before)
        for sink in self._sinks:
            sink.close(CLOSE_S)

    def begin_file(self) -> None:
        """The directory of the file may be made from now on; what was logged before is written then."""
        self._file.ready.set()

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until what has been logged is written; False when that takes longer."""
        return all(sink.flush(timeout_s) for sink in self._sinks)

    def hide(self, secrets: Iterable[str]) -> None:
        """What else must never be in a log, from now on, beside what must not already."""
        self._redactor.hide(secrets)

    def set_levels(self, level: str, levels: Mapping[str, str]) -> None:
        """Other levels from now on, for all and for single loggers."""
        self._levels = _Levels(level, levels)
        self._set_libraries()

    def _set_libraries(self) -> None:
        """The standard library's loggers ask before they make a record at all."""
        logging.getLogger().setLevel(max(logging.WARNING, self._levels.of("")))
        for name, level in self._levels.single.items():
            logging.getLogger(name).setLevel(level)

    # ---- events ----

    def _take(self, logger: Any, method: str, values: MutableMapping[str, Any]) -> Any:
        """The one processor: structlog's way ends here."""
        level = _LEVELS.get(method, 20)
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_STEPS):
            frame = frame.f_back
        module = frame.f_globals.get("__name__", "")
        name = getattr(logger, "name", "") or module
        if level < self._levels.of(name) or not (sinks := self._with_room(level)):
            raise structlog.DropEvent
        if error := values.pop("exc_info", None):
            values["exception"] = _traceback(error)
        if bound := structlog.contextvars.get_contextvars():
            values = {**bound, **values}
        thread = threading.current_thread().name
        event = Event(self._clock.now_ns(), level, module, frame.f_lineno, thread, name, values)
        self._put(event, sinks)
        raise structlog.DropEvent

    def _take_record(self, record: logging.LogRecord) -> None:
        """The same for what a library logs."""
        level = max(10, min(50, record.levelno // 10 * 10))
        if level < self._levels.of(record.name) or not (sinks := self._with_room(level)):
            return
        values: dict[str, Any] = {"event": record.getMessage(), **structlog.contextvars.get_contextvars()}
        if record.exc_info:
            values["exception"] = _traceback(record.exc_info)
        where = record.module, record.lineno, record.threadName or ""
        self._put(Event(self._clock.now_ns(), level, *where, record.name, values), sinks)

    def _put(self, event: Event, sinks: list[_Sink]) -> None:
        with self._counting:
            self._tail.append((self._tail[-1][0] + 1 if self._tail else 1, event))
        for sink in sinks:
            sink.put(event)

    def _with_room(self, level: int) -> list[_Sink]:
        """Where an event fits; looked at first, since a flood must cost as little as can be."""
        with self._counting:
            self._counts[_NAMES[level]] += 1
        return [sink for sink in self._sinks if sink.room()]

    # ---- what others ask ----

    def newest(self) -> int:
        """Number of the newest event; 0 before the first."""
        tail = self._tail
        return tail[-1][0] if tail else 0

    def lines(self, level: int, limit: int, after: int | None = None) -> list[dict[str, Any]]:
        """The newest events of at least this level, without secrets, oldest first; with `after`, the first ones behind
        that number. Each has `seq`, `at_ns`, `level`, `event`, `logger` and `values`. The last thousand are kept."""
        with self._counting:
            found = [one for one in self._tail if one[1].level >= level and (after is None or one[0] > after)]
        found = found[-limit:] if after is None else found[:limit]
        return [self._told(seq, event) for seq, event in found]

    def _told(self, seq: int, event: Event) -> dict[str, Any]:
        hidden = self._redactor.values({k: v for k, v in event.values.items() if k != "event"})
        said = {
            "seq": seq,
            "at_ns": event.t_ns,
            "level": _NAMES[event.level],
            "event": str(event.values.get("event", "")),
            "logger": event.logger,
            "values": hidden,
        }
        line = orjson.dumps(said, default=repr, option=_OPTIONS)
        out: dict[str, Any] = orjson.loads(self._redactor.text(line.decode()))
        return out

    def stats(self) -> LogStats:
        """A snapshot."""
        file, console = self._file, self._console
        lost_s = file.lost_s
        return LogStats(
            dict(self._counts),
            file.dropped,
            console.dropped if console is not None else 0,
            file.waiting,
            file.unwritten,
            file.refused,
            None if lost_s is None else max(0.0, self._clock.monotonic_s() - lost_s),
        )

    def check(self) -> Check:
        """What health asks of it."""
        return Check("log", lambda: judge(self.stats()), critical=False)

    def samples(self) -> Iterator[Sample]:
        """Its metrics."""
        stats = self.stats()
        for level, count in stats.events.items():
            yield Sample("scidaq_log_events_total", (level,), count)
        yield Sample("scidaq_log_dropped_events_total", (), stats.dropped + stats.unwritten)
        yield Sample("scidaq_queue_depth", ("log",), stats.waiting)
        yield Sample("scidaq_errors_total", ("log",), stats.unwritten)


def judge(stats: LogStats) -> Verdict:
    """Whether events reach the file. That recording goes on without is why it is never critical."""
    details: dict[str, str | int | float | None] = {
        "dropped": stats.dropped,
        "unwritten": stats.unwritten,
        "waiting": stats.waiting,
    }
    if stats.refused:
        return Verdict(Status.UNHEALTHY, f"the log cannot be written: {stats.refused}", details, critical=False)
    if stats.trouble_age_s is not None and stats.trouble_age_s < TOLD_S:
        why = f"events of the log were lost {stats.trouble_age_s:.0f} s ago: there were too many at once"
        return Verdict(Status.DEGRADED, why, details, critical=False)
    return Verdict(Status.HEALTHY, "", details, critical=False)


class _Levels:
    """Which level each logger has: that of the longest name that it is, or lies below."""

    def __init__(self, level: str, levels: Mapping[str, str]) -> None:
        self.single = {name: _LEVELS[one] for name, one in levels.items()}
        self._all = _LEVELS[level]
        self._known: dict[str, int] = {}

    def of(self, name: str) -> int:
        level = self._known.get(name)
        if level is None:
            level = self._known[name] = self._find(name)
        return level

    def _find(self, name: str) -> int:
        part = name
        while part:
            if part in self.single:
                return self.single[part]
            part = part.rpartition(".")[0]
        # A library says much at `info` that only its makers want, such as every SQL statement.
        ours = not name or name == _OURS or name.startswith((f"{_OURS}.", "__main__"))
        return self._all if ours else max(self._all, logging.WARNING)


class _Named:
    """A logger that knows its name; nothing is left for it to do."""

    def __init__(self, name: str = "", *_: Any) -> None:
        self.name = name

    def __getattr__(self, method: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _Handler(logging.Handler):
    """Where the standard library's records go."""

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises into a library."""
        try:
            self._take(record)
        except Exception:
            self.handleError(record)


def _traceback(error: Any) -> str:
    if error is True:
        error = sys.exc_info()
    if isinstance(error, BaseException):
        error = (type(error), error, error.__traceback__)
    if isinstance(error, tuple) and error[0] is not None:
        return "".join(traceback.format_exception(*error)).rstrip()
    return ""


# ---- where events go -------------------------------------------------------------------------------------------------


class _Sink(ABC):
    """A bounded queue, and the thread that writes what is in it."""

    def __init__(self, name: str, capacity: int) -> None:
        self._queue: queue.SimpleQueue[Event | threading.Event | None] = queue.SimpleQueue()
        self._capacity = capacity
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._counting = threading.Lock()
        self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def room(self) -> bool:
        """Whether an event fits; one that does not is counted."""
        room = self._queue.qsize() < self._capacity  # racy on purpose: a queue may hold one more for each thread
        if not room:
            with self._counting:
                self.dropped += 1
            self._lost()
        return room

    def put(self, event: Event) -> None:
        self._queue.put(event)

    def flush(self, timeout_s: float) -> bool:
        """Wait until what is in the queue now is written."""
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write what waits, then stop."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        told = 0
        while True:
            batch, done, last = self._next()
            if batch:
                self._guarded(batch)
            if self.dropped > told and self._queue.qsize() < self._capacity // 2:
                count, told = self.dropped - told, self.dropped
                self._guarded([self._note("log events were dropped", count)])
            for one in done:
                one.set()
            if last:
                self._end()
                return

    def _next(self) -> tuple[list[Event], list[threading.Event], bool]:
        """What waits, up to a batch; who waits for it to be written; whether it is the last."""
        batch: list[Event] = []
        item = self._queue.get()
        while True:
            if item is None:
                return batch, [], True
            if isinstance(item, threading.Event):
                return batch, [item], False
            batch.append(item)
            if len(batch) >= _BATCH:
                return batch, [], False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, [], False

    def _guarded(self, batch: list[Event]) -> None:
        try:
            self._write(batch)
        except Exception:  # the thread outlives an event that cannot be written
            for event in batch:
                with suppress(Exception):
                    self._write([event._replace(values={"event": str(event.values.get("event")), "unreadable": True})])

    def _note(self, what: str, count: int) -> Event:
        return Event(self._now_ns(), 30, __name__, 0, threading.current_thread().name, __name__, _noted(what, count))

    @abstractmethod
    def _now_ns(self) -> int:
        """UTC nanoseconds of an event of its own."""

    @abstractmethod
    def _lost(self) -> None:
        """An event was dropped."""

    @abstractmethod
    def _write(self, batch: list[Event]) -> None:
        """Bring events to where they belong, in order."""

    @abstractmethod
    def _end(self) -> None:
        """Nothing more will come."""


def _noted(what: str, count: int) -> dict[str, Any]:
    return {"event": what, "count": count}


class _File(_Sink):
    """The file of the day."""

    def __init__(self, directory: Path, options: LoggingOptions, clock: Clock, redactor: Redactor) -> None:
        super().__init__("log-file", options.queue_events)
        self._file = DayFile(directory, options.retention_days)
        self._directory, self._clock, self._redactor = directory, clock, redactor
        self.tell: Callable[[str], None] = lambda text: None
        self.ready = threading.Event()
        """Set once the directory may be made."""
        self.refused = ""
        self.unwritten = 0
        self.lost_s: float | None = None
        self._again_s = 0.0
        self._told_unwritten = 0
        self._ending = False

    def close(self, timeout_s: float) -> None:
        self._ending = True
        if self._directory.exists():
            self.ready.set()
        super().close(timeout_s)

    def _now_ns(self) -> int:
        return self._clock.now_ns()

    def _lost(self) -> None:
        self.lost_s = self._clock.monotonic_s()

    def _write(self, batch: list[Event]) -> None:
        while not self.ready.wait(0.2):
            if self._ending:
                return  # there never was a station: what was said stands on the console
        lines = [(event.t_ns, self._line(event)) for event in batch]
        if self.refused and self._clock.monotonic_s() < self._again_s and not self._ending:
            self._refuse(len(batch), self.refused)
            return
        written = 0
        try:
            begin = 0
            for i in range(1, len(lines) + 1):  # one write for all lines of a day
                if i == len(lines) or lines[i][0] // 86_400_000_000_000 != lines[begin][0] // 86_400_000_000_000:
                    self._file.write(b"".join(line for _, line in lines[begin:i]), lines[begin][0])
                    begin = written = i
            self._accepted(lines[-1][0])
        except OSError as error:
            self._file.give_up()
            self._again_s = self._clock.monotonic_s() + RETRY_S
            self._refuse(len(batch) - written, f"{self._directory}: {error.strerror or error}")

    def _accepted(self, t_ns: int) -> None:
        if not self.refused:
            return
        self.refused = ""
        count, self._told_unwritten = self.unwritten - self._told_unwritten, self.unwritten
        self._file.write(self._line(self._note("log events could not be written", count)), t_ns)
        self.tell("the log is written again")

    def _refuse(self, count: int, why: str) -> None:
        if not self.refused:
            self.tell(f"the log cannot be written; recording goes on, and it is tried again: {why}")
        self.refused = why
        self.unwritten += count
        self._lost()

    def _line(self, event: Event) -> bytes:
        seconds, rest = divmod(event.t_ns, 1_000_000_000)
        head = {
            "time": f"{_second(seconds)}.{rest // 1000:06d}Z",
            "level": _NAMES[event.level],
            "event": event.values.get("event", ""),
            "logger": event.logger,
            "module": event.module,
            "line": event.line,
            "thread": event.thread,
        }
        values = self._redactor.values({k: v for k, v in event.values.items() if k != "event"})
        values = {f"{k}_" if k in head else k: v for k, v in values.items()}
        line = orjson.dumps({**head, **values}, default=repr, option=_OPTIONS)
        return self._redactor.text(line.decode()).encode() + b"\n"

    def _end(self) -> None:
        with suppress(OSError):
            self._file.close()


_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z
_seconds: dict[int, str] = {}


def _second(seconds: int) -> str:
    """ISO 8601; the newest is remembered, since many events have the same."""
    if seconds not in _seconds:
        from datetime import UTC, datetime

        _seconds.clear()
        _seconds[seconds] = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
    return _seconds[seconds]


class _Console(_Sink):
    """Lines for people on standard error, wherever that is when they come."""

    CAPACITY = 1000
    """A flood is for the file: nobody reads that many lines."""

    def __init__(self, options: LoggingOptions, redactor: Redactor, stderr: Callable[[], Any]) -> None:
        super().__init__("log-console", min(self.CAPACITY, options.queue_events))
        self._stderr, self._redactor, self._newest_ns = stderr, redactor, 0
        stream = stderr()
        colours = options.console == "always" or (stream is not None and _is_terminal(stream))
        self._render = structlog.dev.ConsoleRenderer(
            colors=colours, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )

    def say(self, text: str) -> None:
        """Tell something about the log itself."""
        self.put(Event(self._newest_ns, 40, __name__, 0, "", __name__, {"event": text}))

    def _now_ns(self) -> int:
        return self._newest_ns

    def _write(self, batch: list[Event]) -> None:
        self._newest_ns = batch[-1].t_ns or self._newest_ns
        text = "".join(self._line(event) for event in batch)
        with suppress(OSError, ValueError):  # nobody reads it any more: recording goes on all the same
            stream = self._stderr()
            if stream is not None:
                stream.write(text)
                stream.flush()

    def _lost(self) -> None:
        pass  # the queue counts it

    def _end(self) -> None:
        pass  # standard error is not ours to close

    def _line(self, event: Event) -> str:
        values = self._redactor.values(event.values)
        t_ns = event.t_ns or self._newest_ns
        shown = {"timestamp": _second(t_ns // 1_000_000_000).replace("T", " "), "level": _NAMES[event.level], **values}
        if not event.logger.startswith(_OURS):
            shown["logger"] = event.logger
        return self._redactor.text(str(self._render(None, _NAMES[event.level], shown))) + "\n"


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (OSError, ValueError, AttributeError):
        return False
