"""What is logged reaches the file, whatever goes on around it; and nothing secret does."""

from __future__ import annotations

import gzip
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from scidaq.clock import Clock, SystemClock
from scidaq.observe import LoggingOptions, Logs, data_events, instrument_events, logfile, logs
from scidaq.options import HIDDEN
from scidaq.stats import Status
from scidaq.testing.clock import FakeClock

CANARY = 'canary-"7f3a\\é'
DAY_S = 86_400


@contextmanager
def logging_to(
    directory: Path, clock: Clock | None = None, *, secrets: tuple[str, ...] = (), stderr: Any = None, **options: Any
) -> Iterator[Logs]:
    console = io.StringIO() if stderr is None else stderr
    one = Logs(LoggingOptions(**options), directory, clock or SystemClock(), secrets, lambda: console)
    with one:
        one.begin_file()
        yield one


def lines(directory: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (directory / logfile.NAME).read_bytes().splitlines()]


def events(directory: Path) -> list[str]:
    return [line["event"] for line in lines(directory)]


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def until(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_an_event_is_a_line_of_json_with_where_it_came_from(tmp_path):
    with logging_to(tmp_path, FakeClock()), structlog.contextvars.bound_contextvars(request="r-1"):
        structlog.get_logger("scidaq.store").warning("write refused", stream="a/b", free=3, path=Path("x"))
    (line,) = lines(tmp_path)
    assert line.pop("line") > 0
    assert line == {
        "time": "2025-06-15T15:06:40.000000Z",
        "level": "warning",
        "event": "write refused",
        "logger": "scidaq.store",
        "module": __name__,
        "thread": "MainThread",
        "request": "r-1",
        "stream": "a/b",
        "free": 3,
        "path": "PosixPath('x')",
    }


def test_what_libraries_log_goes_the_same_way(tmp_path):
    with logging_to(tmp_path):
        logging.getLogger("uvicorn.error").warning("it is %s", "late")
        logging.getLogger("sqlalchemy.engine").info("SELECT 1")  # only its makers want that
        try:
            raise ZeroDivisionError("oops")
        except ZeroDivisionError:
            logging.getLogger("uvicorn").exception("failed")
    first, second = lines(tmp_path)
    assert (first["event"], first["logger"], first["level"]) == ("it is late", "uvicorn.error", "warning")
    assert "ZeroDivisionError: oops" in second["exception"]


def test_the_helpers_say_once_what_their_events_are_about(tmp_path):
    with logging_to(tmp_path):
        instrument_events("dmm").info("range changed", value=10)
        data_events("dmm/readings", run="r7").info("export finished")
    first, second = lines(tmp_path)
    assert (first["instrument"], first["value"]) == ("dmm", 10)
    assert (second["stream"], second["run"]) == ("dmm/readings", "r7")


def test_levels_are_those_of_the_longest_name_and_change_at_run_time(tmp_path):
    with logging_to(tmp_path, levels={"scidaq.store": "error", "scidaq.store.wire": "debug"}) as one:
        early = structlog.get_logger("scidaq.web").bind(x=1)
        structlog.get_logger("scidaq.store.files").warning("no")
        structlog.get_logger("scidaq.store.wire").debug("one")
        early.debug("no")
        one.set_levels("debug", {"httpx": "info"})
        early.debug("two")
        logging.getLogger("httpx").info("three")
        one.set_levels("error", {})
        early.warning("no")
    assert events(tmp_path) == ["one", "two", "three"]


def test_the_console_says_it_too(tmp_path):
    console = io.StringIO()
    with logging_to(tmp_path, FakeClock(), stderr=console):
        structlog.get_logger("scidaq.x").warning("the disk is full", free=3)
    assert console.getvalue() == "2025-06-15 15:06:40 [warning  ] the disk is full free=3\n"


def test_the_traceback_of_a_log_event_is_plain(tmp_path):
    console = io.StringIO()
    with logging_to(tmp_path, stderr=console):
        try:
            raise ZeroDivisionError("oops")
        except ZeroDivisionError:
            structlog.get_logger().exception("failed")
    assert "Traceback (most recent call last):\n  File" in console.getvalue()
    assert console.getvalue().isascii()


@pytest.mark.parametrize("console", ["closed", "broken"])
def test_a_console_that_nobody_reads_does_no_harm(tmp_path, console):
    reads, writes = os.pipe()
    os.close(reads)
    stream: Any = io.TextIOWrapper(io.FileIO(writes, "w"), write_through=True)
    if console == "closed":
        stream.close()
    with logging_to(tmp_path, stderr=stream):
        structlog.get_logger("scidaq.x").warning("heard")
    assert events(tmp_path) == ["heard"]
    if console == "broken":
        stream.detach().close()


def test_a_console_that_blocks_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "CLOSE_S", 0.05)
    goes_on = threading.Event()

    class Blocked(io.StringIO):
        def write(self, text: str) -> int:
            goes_on.wait(10)
            return len(text)

    with logging_to(tmp_path, stderr=Blocked()) as one:
        for i in range(3000):
            structlog.get_logger("scidaq.x").info("event", i=i)
        until(lambda: one.stats().waiting == 0)
        assert one.stats().dropped == 0
        assert one.stats().dropped_console > 0
    assert len(lines(tmp_path)) == 3000
    goes_on.set()


def test_a_flood_is_dropped_counted_and_told(tmp_path):
    with logging_to(tmp_path, console="never", queue_events=100) as one:
        hold = threading.Event()
        write = one._file._write
        one._file._write = lambda batch: (hold.wait(10), write(batch))[1]  # type: ignore[method-assign]
        log = structlog.get_logger("scidaq.x")
        for i in range(50_000):
            log.info("event", i=i)
        dropped = one.stats().dropped
        assert 50_000 - 700 <= dropped <= 50_000 - 100
        assert one.stats().events["info"] == 50_000
        assert one.check().ask().status is Status.DEGRADED  # type: ignore[union-attr]
        hold.set()
        one.flush()
        log.info("after it")
    written = lines(tmp_path)
    assert len(written) == 50_000 - dropped + 2
    (told,) = [line for line in written if line["event"] == "log events were dropped"]
    assert told["count"] == dropped
    assert written[-1]["event"] in ("after it", "log events were dropped")


def test_the_file_begins_anew_at_midnight_and_old_ones_are_compressed_and_go(tmp_path):
    clock = FakeClock()
    log = structlog.get_logger("scidaq.x")
    with logging_to(tmp_path, clock, retention_days=3) as one:
        for day in range(6):
            log.info("event", day=day)
            one.flush()
            clock.advance(DAY_S)
        log.info("event", day=6)
        one.flush()
        until(lambda: not any(p.name.endswith("0.log") or p.suffix == ".tmp" for p in tmp_path.iterdir()))
    logfile.tidy(tmp_path, 3, date(2025, 6, 21))
    assert [line["day"] for line in lines(tmp_path)] == [6]
    packed = sorted(p for p in tmp_path.iterdir() if p.suffix == ".gz")
    assert [p.name for p in packed] == [f"scientific-daq-2025-06-{n}.log.gz" for n in (18, 19, 20)]
    assert orjson.loads(unpacked(packed[0]))["day"] == 3


def test_a_second_before_midnight_is_today(tmp_path):
    clock = FakeClock(wall_ns=1_750_031_999 * 10**9)  # 2025-06-15T23:59:59Z
    log = structlog.get_logger("scidaq.x")
    with logging_to(tmp_path, clock) as one:
        log.info("before")
        clock.advance(0.999)
        log.info("still before")
        clock.advance(0.001)
        log.info("after")
        one.flush()
    assert events(tmp_path) == ["after"]


def test_a_file_of_yesterday_is_put_away_at_the_start(tmp_path):
    (tmp_path / logfile.NAME).write_bytes(b'{"event":"old"}\n{"torn')
    os.utime(tmp_path / logfile.NAME, (1_749_900_000, 1_749_900_000))
    with logging_to(tmp_path, FakeClock()):
        structlog.get_logger("scidaq.x").info("new")
    assert events(tmp_path) == ["new"]
    assert unpacked(tmp_path / "scientific-daq-2025-06-14.log.gz").startswith(b'{"event":"old"}')


def test_a_torn_line_is_ended(tmp_path):
    (tmp_path / logfile.NAME).write_bytes(b'{"torn')
    with logging_to(tmp_path):
        structlog.get_logger("scidaq.x").info("new")
    assert (tmp_path / logfile.NAME).read_bytes().splitlines()[0] == b'{"torn'
    assert orjson.loads((tmp_path / logfile.NAME).read_bytes().splitlines()[1])["event"] == "new"


def test_a_clock_that_jumped_does_not_empty_the_directory(tmp_path):
    for day in (1, 2, 3):
        (tmp_path / f"scientific-daq-2025-06-0{day}.log").write_text("{}\n")
    logfile.tidy(tmp_path, 3, date(2035, 1, 1))
    assert len(list(tmp_path.iterdir())) == 3
    logfile.tidy(tmp_path, 2, date(2035, 1, 1))
    assert sorted(p.name for p in tmp_path.iterdir())[0] == "scientific-daq-2025-06-02.log.gz"


def test_a_log_that_cannot_be_written_is_told_and_tried_again(tmp_path, monkeypatch):
    clock, console = FakeClock(), io.StringIO()
    full = [True]
    write = os.write

    def refuse(fd: int, data: Any) -> int:
        if full[0] and threading.current_thread().name == "log-file":
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", refuse)
    log = structlog.get_logger("scidaq.x")
    with logging_to(tmp_path, clock, stderr=console) as one:
        log.info("lost")
        one.flush()
        verdict = one.check().ask()
        assert verdict.status is Status.UNHEALTHY  # type: ignore[union-attr]
        assert "No space left on device" in verdict.reason  # type: ignore[union-attr]
        log.info("lost too")
        one.flush()
        assert one.stats().unwritten == 2
        full[0] = False
        clock.advance(logs.RETRY_S + 1)
        log.info("written")
        one.flush()
        assert one.stats().refused == ""
        clock.advance(logs.TOLD_S + 1)
        assert one.check().ask().status is Status.HEALTHY  # type: ignore[union-attr]
    assert events(tmp_path) == ["written", "log events could not be written"]
    assert lines(tmp_path)[1]["count"] == 2
    assert console.getvalue().count("the log cannot be written") == 1


def test_a_directory_that_cannot_be_made_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    with logging_to(tmp_path / "file" / "logs") as one:
        structlog.get_logger("scidaq.x").info("lost")
        one.flush()
        assert one.stats().unwritten == 1


def test_before_the_station_is_there_nothing_is_made(tmp_path):
    one = Logs(LoggingOptions(console="never"), tmp_path / "d" / "logs", SystemClock())
    with one:
        structlog.get_logger("scidaq.x").info("early")
        assert not (tmp_path / "d").exists()
        one.begin_file()
    assert events(tmp_path / "d" / "logs") == ["early"]
    with Logs(LoggingOptions(console="never"), tmp_path / "e" / "logs", SystemClock()):
        structlog.get_logger("scidaq.x").error("there was no station")
    assert not (tmp_path / "e").exists()


def test_what_becomes_a_secret_later_is_hidden_from_then_on_and_what_was_one_stays_hidden(tmp_path):
    with Logs(LoggingOptions(console="never"), tmp_path, SystemClock(), ["canary-first"]) as one:
        one.begin_file()
        one.hide(["canary-second"])
        structlog.get_logger("scidaq.x").info("said", text="canary-first and canary-second")
        one.flush()
    written = (tmp_path / logfile.NAME).read_text()
    assert "canary" not in written
    assert written.count(HIDDEN) == 2


@pytest.mark.parametrize("key", ["password", "api_key", "token", "smtp_password", "secret", "Authorization"])
def test_no_secret_reaches_a_log(tmp_path, key):
    console = io.StringIO()
    log = structlog.get_logger("scidaq.x")
    with logging_to(tmp_path, secrets=(CANARY, "plain-canary"), stderr=console) as log_:
        log.info("login", said=CANARY)
        log.info("nested", options={key: "unknown-canary", "deep": [{key: "unknown-canary"}]}, text=f"<{CANARY}>")
        log.info("url", address="postgresql://me:unknown-canary@host/db")
        log.info("header", value="Bearer unknown-canary")
        log.bind(**{key: "unknown-canary"}).info("bound", x=f"{key}=unknown-canary")
        logging.getLogger("uvicorn").warning("a %s", CANARY)
        try:
            raise RuntimeError(f"refused: {CANARY} plain-canary")
        except RuntimeError:
            log.exception("failed")
    newest = orjson.dumps(log_.lines(10, 100)).decode()
    for text in ((tmp_path / logfile.NAME).read_text(), console.getvalue(), newest):
        assert "canary" not in text
        assert text.count("(hidden)") >= 8
    assert len(lines(tmp_path)) == 7


def test_the_newest_events_are_kept_for_who_wants_to_see_them(tmp_path):
    log = structlog.get_logger("scidaq.x")
    with logging_to(tmp_path) as one:
        assert (one.newest(), one.lines(10, 5)) == (0, [])
        for i in range(1500):
            log.info("ordinary", i=i)
        log.warning("worse", array=[1, 2])
        assert one.newest() == 1501
        assert [line["values"]["i"] for line in one.lines(20, 3)[:2]] == [1498, 1499]
        (worse,) = one.lines(30, 1000)
        assert (worse["event"], worse["level"], worse["values"]) == ("worse", "warning", {"array": [1, 2]})
        assert [line["seq"] for line in one.lines(10, 2, after=1490)] == [1491, 1492]
        assert len(one.lines(10, 5000)) == 1000


def test_logging_is_as_before_afterwards(tmp_path):
    before, handlers = structlog.get_config(), list(logging.getLogger().handlers)
    with logging_to(tmp_path):
        pass
    assert structlog.get_config() == before
    assert logging.getLogger().handlers == handlers
