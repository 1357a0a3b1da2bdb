"""A producer's way into a stream, and a reader's along it: what the doors for bulk data need of a station.

Blocks go through the driver `push` and the intake as those of every instrument do. Here they wait until the ring has
room, so that nothing of a producer becomes a gap because the disk is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from scidaq.block import Block, Entry, Schema
from scidaq.errors import InstrumentDisconnected, RequestError, UnknownInstrument, UnknownStream
from scidaq.instruments import TakesRows

if TYPE_CHECKING:
    from scidaq.instruments import Producer
    from scidaq.pipeline import Ring
    from scidaq.station.station import Station

ROOM_S = 0.1
"""How long the ring is waited for before whoever pushes is asked whether that is still there."""


class Follower:
    """What a stream gets from now on, durable or not, for one thread."""

    def __init__(self, ring: Ring, buffer_bytes: int) -> None:
        self._budget = ring.budget(buffer_bytes)

    @property
    def before(self) -> Block | None:
        """The newest block that does not come any more."""
        return self._budget.before

    def take(self, timeout_s: float) -> list[Entry]:
        """Epochs, gaps and blocks since the last call, in order; waits up to `timeout_s` for something.

        What was more than the buffer holds is a gap of reason *late*.
        """
        return self._budget.take(timeout_s)

    def close(self) -> None:
        """Look no more."""
        self._budget.close()


class Pushing:
    """One producer that pushes rows of one stream. For one thread."""

    def __init__(self, station: Station, stream: str, producer: Producer) -> None:
        self._station, self._stream, self._producer = station, stream, producer

    @property
    def schema(self) -> Schema:
        """What the rows are made of."""
        return self._producer.spec.schema

    def durable(self) -> int | None:
        """Before which row number of this producer everything is durable; None when nothing of it is known."""
        found = self._station._recorder.durable(self._stream)
        if found is None or found[0].counter != self._producer.spec.counter:
            return None
        return found[0].origin + found[1]

    def heard(self) -> None:
        """The producer has given a sign of life."""
        self._producer.heard()

    def push(self, block: Block, waited: Callable[[], None]) -> None:
        """Take a block in the producer's numbering; returns when it lies in the ring, which may take its time.

        `waited` is called now and then meanwhile, and may raise to give up. Raises `InstrumentDisconnected` when the
        instrument was taken out or stopped, or another connection took the place of this one.
        """
        while (ring := self._station._rings.get(self._stream)) is not None and not ring.fits(block):
            if not ring.wait_for_room(block, ROOM_S):
                waited()
        self._producer.hand_over(block, waited)

    def close(self, *, clean: bool) -> None:
        """The producer has gone; `clean` when it said so."""
        self._producer.close(clean=clean)


def follow(station: Station, stream: str, buffer_bytes: int) -> Follower:
    """Look at a stream from now on. Raises `UnknownStream` for one that this station does not record now."""
    ring = station._rings.get(stream)
    if ring is None:
        raise UnknownStream(stream, hint=" is recorded now")
    return Follower(ring, buffer_bytes)


def takes(station: Station, stream: str) -> Schema:
    """What the rows have to be that are pushed to a stream. Raises as `push`, but for `TooMany`."""
    return _driver(station, stream).takes(stream.partition("/")[2])


def push(station: Station, stream: str, counter: str, holder: str) -> Pushing:
    """Let a producer push rows of a stream, numbered by its `counter`.

    Raises `UnknownInstrument`, `InstrumentDisconnected` (try again) while its driver is not open, `TooMany` (try again)
    while another producer has the stream, and `RequestError` when nothing can be pushed to it.
    """
    producer = _driver(station, stream).producer(stream.partition("/")[2], counter, holder)
    return Pushing(station, stream, producer)


def _driver(station: Station, stream: str) -> TakesRows:
    """The driver that is open, of an instrument to which rows can be pushed."""
    instrument = stream.partition("/")[0]
    known = station._supervision.instruments
    supervisor = known.get(instrument)
    if supervisor is None:
        raise UnknownInstrument(instrument, sorted(known))
    driver = supervisor.driver
    if driver is None:
        raise InstrumentDisconnected(f"{instrument} is {supervisor.state}: try again when it is open")
    if not isinstance(driver, TakesRows):
        raise RequestError(
            f"nothing can be pushed to {instrument}: its driver is {supervisor.driver_name!r}, not `push`"
        )
    return driver
