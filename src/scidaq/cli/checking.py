"""`scidaq check`: would a station start with this, and do its instruments answer? Nothing is started or written."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scidaq.clock import Clock
from scidaq.errors import ScidaqError, StationBusy

if TYPE_CHECKING:
    from scidaq.config import Config, Instrument

TIMEOUT_S = 5.0
"""How long an instrument may take to say who it is."""
CLOSE_S = 1.0
"""How long it may take to let go of it; then it is left behind, until the program ends."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer."""

    fine: bool
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{'ok   ' if self.fine else 'WRONG'} {self.subject}: {self.message}"


def check(config: Config, clock: Clock, *, offline: bool, timeout_s: float = TIMEOUT_S) -> Iterator[Finding]:
    """What there is to say of a configuration that was loaded: its files, the data directory, each instrument."""
    files = ", ".join(config.sources) or "no files; defaults, environment and command line"
    yield Finding(True, "configuration", files)
    for warning in config.warnings:
        yield Finding(True, "configuration", f"beware: {warning}")
    busy = yield from _data_directory(config)
    if not config.instruments:
        yield Finding(True, "instruments", "none is configured")
    if not offline and not busy:
        yield from ask(config, clock, timeout_s)
        return
    for one in config.instruments.values():
        why = "a station is running, which talks to it" if busy else "not asked"
        yield Finding(True, _subject(one), f"its options are right; {why}")


def ask(config: Config, clock: Clock, timeout_s: float = TIMEOUT_S) -> Iterator[Finding]:
    """Ask all instruments at once who they are."""
    threads = {one.id: _Asking(one, clock) for one in config.instruments.values()}
    deadline = clock.monotonic_s() + timeout_s
    for one in config.instruments.values():
        yield threads[one.id].answer(_subject(one), max(0.0, deadline - clock.monotonic_s()), timeout_s)


def _subject(one: Instrument) -> str:
    return f"instrument {one.id} ({one.general.driver})"


def in_use(data_dir: Path) -> bool:
    """Whether a station runs on a data directory."""
    from scidaq.store import system_files

    if not (data_dir / "LOCK").exists():
        return False
    try:
        system_files().lock(data_dir / "LOCK").close()
    except StationBusy:
        return True
    return False


def _data_directory(config: Config) -> Generator[Finding, None, bool]:
    """Whether a station could record there; returns whether one does."""
    from scidaq.store import check_directory

    data_dir = config.station.data_dir
    subject = f"data directory {data_dir}"
    try:
        check_directory(data_dir, config.storage.allow_network_filesystem)
        if in_use(data_dir):
            yield Finding(True, subject, "in use by a running station")
            return True
    except ScidaqError as error:
        yield Finding(False, subject, str(error))
    else:
        what = "holds a station's data" if (data_dir / "station.json").exists() else "will be made"
        yield Finding(True, subject, what)
    return False


class _Asking:
    """A thread of its own for each instrument, since a driver that hangs cannot be stopped."""

    def __init__(self, instrument: Instrument, clock: Clock) -> None:
        self._driver = instrument.factory(instrument.id, instrument.options, clock)
        self._said: str | None = None
        self._error: Exception | None = None
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._ask, name=f"check-{instrument.id}", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._said = str(self._driver.identity())
        except Exception as error:  # a third party's driver may raise anything
            self._error = error
        self._answered.set()
        self._close()

    def _close(self) -> None:
        with suppress(Exception):
            self._driver.close()

    def answer(self, subject: str, left_s: float, timeout_s: float) -> Finding:
        """What came of it within the time that is left."""
        if self._answered.wait(left_s):
            self._thread.join(CLOSE_S)
        else:  # from outside, which may end the verb; no close() holds up the others
            closing = threading.Thread(target=self._close, name=f"{self._thread.name}-close", daemon=True)
            closing.start()
            closing.join(CLOSE_S)
            return Finding(False, subject, f"does not answer within {timeout_s:g} s")
        if self._error is not None:
            known = isinstance(self._error, ScidaqError | OSError)
            return Finding(
                False, subject, str(self._error) if known else f"{type(self._error).__name__}: {self._error}"
            )
        return Finding(True, subject, self._said or "answers, without an identity")
