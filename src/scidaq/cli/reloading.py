"""SIGHUP: a station that serves reads its configuration again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue


class HangUps:
    """The SIGHUPs that have come and have not been answered yet."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[bool] = SimpleQueue()  # whose `put` may be called by a signal's handler at any time

    @contextmanager
    def answered(self, act: Callable[[], object]) -> Iterator[None]:
        """Inside, each is answered by `act`, in a thread of its own; one that comes meanwhile, by one more."""

        def serve() -> None:
            while self._asked.get():
                act()

        thread = threading.Thread(target=serve, name="reload", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._asked.put(False)
            thread.join()

    def _ask(self, number: int, frame: object) -> None:
        self._asked.put(True)


@contextmanager
def hang_ups() -> Iterator[HangUps]:
    """From the beginning, so that a SIGHUP ends no program that is starting; one that was ignored before stays so.

    For the main thread.
    """
    found = HangUps()
    number = getattr(signal, "SIGHUP", None)
    if number is None or signal.getsignal(number) is signal.SIG_IGN:  # no Unix, or started by nohup
        yield found
        return
    before = signal.signal(number, found._ask)
    try:
        yield found
    finally:
        signal.signal(number, before)
