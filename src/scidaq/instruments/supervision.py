"""All instruments of a station: one supervisor each, one watchdog for all, no two at one address, stopped in parallel.

This room moves blocks from drivers into a `Sink`; it knows neither rings nor disks.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from scidaq.clock import Clock
from scidaq.errors import ConfigError
from scidaq.instruments.driver import Driver
from scidaq.instruments.state import InstrumentStats, Sink, SupervisionOptions
from scidaq.instruments.supervisor import Supervisor

log = structlog.get_logger(__name__)

WATCH_S = 0.05
"""How often the watchdog looks: a hang is noticed this much after its deadline."""


class Supervision:
    """All instruments of a station, with the watchdog that they share. A context manager; stops them in parallel."""

    def __init__(
        self, clock: Clock, options: SupervisionOptions | None = None, clean: Callable[[str], str] = str
    ) -> None:
        """`clean` takes out of what drivers say what nobody may read."""
        self._clock, self._clean = clock, clean
        self._options = options or SupervisionOptions()
        self._lock = threading.Lock()
        self._instruments: dict[str, Supervisor] = {}
        self._resources: dict[str, str] = {}
        self._ended = threading.Event()
        self._watchdog: threading.Thread | None = None

    def add(
        self,
        instrument_id: str,
        make: Callable[[], Driver],
        sink: Sink,
        *,
        options: SupervisionOptions | None = None,
        rng: random.Random | None = None,
        driver_name: str = "",
    ) -> Supervisor:
        """Put an instrument under supervision and start it.

        Raises `ConfigError` when the id is taken, when another instrument has the same `resource`, or when the driver
        refuses its options.
        """
        try:
            resource = make().resource
        except ValueError as error:
            raise ConfigError([f"instrument {instrument_id!r}: {error}"]) from error
        supervisor = Supervisor(
            instrument_id, make, sink, self._clock, options or self._options, rng, driver_name, self._clean
        )
        with self._lock:
            if instrument_id in self._instruments:
                raise ConfigError([f"instrument {instrument_id!r} is there already"])
            if resource is not None and resource in self._resources:
                taken = self._resources[resource]
                raise ConfigError([f"instrument {instrument_id!r}: {resource} belongs to instrument {taken!r}"])
            self._instruments[instrument_id] = supervisor
            if resource is not None:
                self._resources[resource] = instrument_id
        supervisor.start()
        return supervisor

    def remove(self, instrument_id: str) -> bool:
        """Stop an instrument and forget it. True when it stopped of itself in time. Raises `KeyError`."""
        ended = self._instruments[instrument_id].stop()
        with self._lock:
            del self._instruments[instrument_id]
            self._resources = {r: i for r, i in self._resources.items() if i != instrument_id}
        return ended

    @property
    def instruments(self) -> Mapping[str, Supervisor]:
        """The instruments by id."""
        with self._lock:
            return dict(self._instruments)

    def stats(self) -> tuple[InstrumentStats, ...]:
        """A snapshot of each instrument."""
        return tuple(supervisor.stats() for supervisor in self.instruments.values())

    def stop(self) -> bool:
        """Stop all at once, within the longest of their `stop_timeout_s`. True when none had to be left behind."""
        supervisors = list(self.instruments.values())
        for supervisor in supervisors:
            supervisor.request_stop()
        # One thread each, so that the last of many hanging instruments is not closed after the time of all others.
        outcomes: list[bool] = []
        threads = [
            threading.Thread(target=lambda s=s: outcomes.append(s.stop()), name=f"scidaq-stop-{s.instrument_id}")
            for s in supervisors
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return all(outcomes)

    def __enter__(self) -> Self:
        self._ended.clear()
        self._watchdog = threading.Thread(target=self._watch, name="scidaq-watchdog", daemon=True)
        self._watchdog.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        self._ended.set()
        if self._watchdog is not None:
            self._watchdog.join()
            self._watchdog = None

    def _watch(self) -> None:
        while not self._clock.wait(self._ended, WATCH_S):
            for supervisor in self.instruments.values():
                try:
                    supervisor.check()
                except Exception:  # the watchdog outlives every mistake, its own included
                    with suppress(Exception):
                        log.exception("watchdog failed", instrument=supervisor.instrument_id)
