"""Every contestant runs in a process of its own: its CPU time and its memory are nobody else's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import psutil

TIMEOUT_S = 300.0


class Child:
    """A process that runs `function(connection, *arguments)`."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self.process = context.Process(target=function, args=(there, *arguments), daemon=True)
        self.process.start()
        there.close()
        self._seen = psutil.Process(self.process.pid)

    def hear(self) -> Any:
        """What it says next. Raises `RuntimeError` when it has died: what it died of stands on the console."""
        if not self._here.poll(TIMEOUT_S):
            raise TimeoutError(f"no word for {TIMEOUT_S:.0f} s")
        try:
            return self._here.recv()
        except EOFError:
            raise RuntimeError("the process of a benchmark has died") from None

    def tell(self, word: Any) -> None:
        """Say something to it."""
        self._here.send(word)

    def cpu_s(self) -> float:
        """CPU seconds of all its threads so far, in the kernel too."""
        times = self._seen.cpu_times()
        return times.user + times.system

    def memory_bytes(self) -> int:
        """Its resident memory now."""
        return int(self._seen.memory_info().rss)


@contextmanager
def child(function: Callable[..., None], *arguments: Any) -> Iterator[Child]:
    """Run a process; it has ended on return."""
    one = Child(function, *arguments)
    try:
        yield one
    except BaseException:
        one.process.kill()
        raise
    finally:
        one.process.join(TIMEOUT_S)


def _answer(there: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    there.send(function(*arguments))


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that runs in a process of its own."""
    with child(_answer, function, arguments) as one:
        return one.hear()
