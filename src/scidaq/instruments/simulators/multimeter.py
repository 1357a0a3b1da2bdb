"""A multimeter that is not there, with an output and a memory of readings."""

from __future__ import annotations

import random

import numpy as np

from scidaq.instruments.simulators.server import Act, SimulatedInstrument, block

MAX_POINTS = 1 << 24
_RANGES = (0.1, 1.0, 10.0, 100.0, 1000.0)


class Multimeter(SimulatedInstrument):
    """A simulated digital multimeter with an output, at `address` while it is entered. Several clients may connect.

    Readings are drawn from a seed: about 1.5 V, 20 mA, 1 kOhm and 23.5 Cel with a little noise.
    """

    def __init__(self, seed: int = 0, *, port: int = 0, identity: str = "scidaq,Multimeter,0001,1.0") -> None:
        self.output = False
        self.range_v = 10.0
        self._random = random.Random(seed)
        self._trace = np.random.default_rng(seed).standard_normal(4096).astype("<f4")
        self._blocks: dict[int, bytes] = {}
        commands: dict[str, Act] = {
            "*RST": self._reset,
            "MEASure:VOLTage[:DC]?": lambda _: self._reading(1.5, 1e-4),
            "MEASure:CURRent[:DC]?": lambda _: self._reading(0.02, 1e-6),
            "MEASure:RESistance?": lambda _: self._reading(1000.0, 0.1),
            "MEASure:TEMPerature?": lambda _: self._reading(23.5, 0.01),
            "CONFigure:VOLTage[:DC]": lambda _: None,
            "CONFigure:CURRent[:DC]": lambda _: None,
            "CONFigure:RESistance": lambda _: None,
            "CONFigure:TEMPerature": lambda _: None,
            "[SENSe:]VOLTage[:DC]:RANGe": self._set_range,
            "[SENSe:]VOLTage[:DC]:RANGe?": lambda _: b"%+.8E" % self.range_v,
            "OUTPut[:STATe]": self._set_output,
            "OUTPut[:STATe]?": lambda _: b"%d" % self.output,
            "FETCh:ARRay?": self._array,
            "TRACe:DATA?": self._array,
        }
        super().__init__(identity, commands, port)

    def _reading(self, value: float, noise: float) -> bytes:
        return b"%+.8E" % self._random.gauss(value, noise)

    def _reset(self, _: bytes) -> None:
        self.output, self.range_v = False, 10.0

    def _set_range(self, argument: bytes) -> bytes | None:
        try:
            wanted = float(argument)
        except ValueError:
            return self.fault(-104, "Data type error")
        if not 0 < wanted <= _RANGES[-1]:
            return self.fault(-222, "Data out of range")
        self.range_v = min(r for r in _RANGES if r >= wanted)
        return None

    def _set_output(self, argument: bytes) -> bytes | None:
        if argument.upper() not in (b"ON", b"OFF", b"1", b"0"):
            return self.fault(-224, "Illegal parameter value")
        self.output = argument.upper() in (b"ON", b"1")
        return None

    def _array(self, argument: bytes) -> bytes | None:
        if not argument.isdigit() or not 0 < int(argument) <= MAX_POINTS:
            return self.fault(-222, "Data out of range")
        points = int(argument)
        if points not in self._blocks:  # kept, so that a benchmark measures the way and not the making
            self._blocks = {points: block(self.points(points).tobytes())}
        return self._blocks[points]

    def points(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """What `FETC:ARR? count` sends, as float32."""
        return np.resize(self._trace, count).astype(np.float32)
