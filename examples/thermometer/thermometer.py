"""A driver in a package of its own: a thermometer that sends lines such as `23.5` over TCP as it measures."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from scidaq.block import Block, Channel, StreamSpec, schema
from scidaq.clock import Clock
from scidaq.errors import GarbledReply, InstrumentDisconnected
from scidaq.instruments import Identity


@dataclass(frozen=True, slots=True)
class ThermometerOptions:
    """A thermometer that sends lines over TCP."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    host: str
    """Its address."""
    port: int = 7000
    """The port that it sends its lines on."""


class ThermometerDriver:
    """One connection. A row is a line, and its time that of the line's arrival."""

    Options = ThermometerOptions
    STREAM = StreamSpec("temperature", schema([Channel("temperature", unit="Cel")]))  # without a rate: irregular

    def __init__(self, instrument_id: str, options: ThermometerOptions, clock: Clock) -> None:
        self._id, self._o, self._clock = instrument_id, options, clock
        self._socket: socket.socket | None = None
        self._text, self._row, self._closed = b"", 0, False

    @property
    def resource(self) -> str | None:
        return f"tcp://{self._o.host}:{self._o.port}"

    def identity(self) -> Identity:
        if self._closed:
            raise InstrumentDisconnected("closed")
        if self._socket is None:
            try:
                self._socket = socket.create_connection((self._o.host, self._o.port), timeout=3.0)
            except OSError as error:
                raise InstrumentDisconnected(f"{self.resource}: {error}") from error
        return Identity("Example", "Thermometer", self._id)  # it cannot be asked who it is

    def describe(self) -> Sequence[StreamSpec]:
        return (self.STREAM,)

    def arm(self) -> Sequence[StreamSpec]:
        self._row = 0  # it does not number its lines, so rows are counted from here
        return (self.STREAM,)

    def read(self, timeout_s: float) -> Sequence[Block]:
        if self._socket is None:
            raise InstrumentDisconnected("not connected")
        try:
            self._socket.settimeout(max(timeout_s, 0.001))
            piece = self._socket.recv(4096)
        except TimeoutError:
            return ()
        except OSError as error:
            raise InstrumentDisconnected(f"{self.resource}: {error}") from error
        if not piece:
            raise InstrumentDisconnected(f"{self.resource} hung up")
        *lines, self._text = (self._text + piece).split(b"\n")
        return (self._block(lines),) if lines else ()

    def _block(self, lines: list[bytes]) -> Block:
        now_ns = self._clock.now_ns()
        try:
            celsius = [float(line) for line in lines]
        except ValueError as error:  # never a guess: the connection is made anew, and a gap says so
            raise GarbledReply(f"{self.resource}: {error}") from error
        block = Block.of(
            self.STREAM.schema, [celsius], stream="temperature", first=self._row, times=[now_ns] * len(lines)
        )
        self._row = block.end
        return block

    def disarm(self) -> None:
        pass

    def close(self) -> None:
        self._closed = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes a read that waits in another thread
            except OSError:
                pass
            self._socket.close()
