"""An oscilloscope that is not there: four inputs, a trigger, and records that come as blocks.

Its dialect is that of many bench oscilloscopes. `:WAVeform:DATA? CHANnel1` is a definite length block of signed codes,
`:WAVeform:PREamble? CHANnel1` says what they mean, in ten numbers: format (0 byte, 1 word, 4 ASCII), type, points,
averages, x increment, x origin, x reference, y increment, y origin, y reference. Then
volts = (code - y reference) * y increment + y origin, and seconds = (point - x reference) * x increment + x origin,
with the trigger at 0 s.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from scidaq.errors import GarbledReply
from scidaq.instruments.scpi_protocol import number
from scidaq.instruments.simulators.server import Act, SimulatedInstrument, block

CHANNELS = 4
DIVISIONS_X, DIVISIONS_Y = 10, 8
MAX_POINTS = 1_000_000
_EDGE = 25.0
"""How much steeper than a triangle the edges of a square are."""
_FORMATS = {"BYTE": 0, "WORD": 1, "ASC": 4}

Volts = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Signal:
    """What is connected to an input: a waveform around an offset, with noise on it."""

    shape: Literal["sine", "square", "triangle", "flat"] = "flat"
    frequency_hz: float = 1000.0
    amplitude_v: float = 0.0
    """Half of what lies between its top and its bottom."""
    offset_v: float = 0.0
    noise_v: float = 0.0
    """Standard deviation of the noise."""

    def at(self, cycles: Volts) -> Volts:
        """Its value without noise, where it has gone through so many cycles since it last rose through its offset."""
        wave: Volts
        if self.shape == "flat":
            wave = np.zeros(cycles.shape)
        elif self.shape == "sine":
            wave = np.sin(2 * np.pi * cycles)
        else:
            wave = 1 - 4 * np.abs((cycles + 0.25) % 1 - 0.5)
            if self.shape == "square":
                wave = np.clip(_EDGE * wave, -1, 1)
        wave *= self.amplitude_v
        wave += self.offset_v
        return wave

    def crossing(self, level_v: float, rising: bool) -> float | None:
        """After which part of a cycle it crosses a level; None if it never does."""
        if self.shape == "flat" or abs(level_v - self.offset_v) >= self.amplitude_v:
            return None
        height = (level_v - self.offset_v) / self.amplitude_v
        match self.shape:
            case "sine":
                part = math.asin(height) / (2 * math.pi)
            case "square":
                part = height / (4 * _EDGE)
            case _:
                part = height / 4
        return part if rising else 0.5 - part


SIGNALS = (
    Signal("sine", 1000.0, 1.0, 0.0, 0.005),
    Signal("square", 1000.0, 1.65, 1.65, 0.01),
    Signal("triangle", 250.0, 0.4, 0.1, 0.005),
    Signal("flat", noise_v=0.02),
)
"""What is connected unless something else is: a sine, the clock of some logic, a ramp, and nothing but noise."""


@dataclass(frozen=True, slots=True)
class _Number:
    """A setting with limits."""

    low: float
    high: float
    initial: float
    whole: bool = False

    def read(self, argument: bytes) -> float:
        """Raises `GarbledReply` for what is no number, `ValueError` for one beyond the limits."""
        named = {b"MIN": self.low, b"MAX": self.high, b"DEF": self.initial}
        value = named[argument[:3].upper()] if argument[:3].upper() in named else number(argument)
        if not self.low <= value <= self.high:
            raise ValueError
        return float(round(value)) if self.whole else value

    def said(self, value: object) -> str:
        """As a reply."""
        return f"{value:.0f}" if self.whole else f"{value:+.6E}"


@dataclass(frozen=True, slots=True)
class _Choice:
    """A setting that is one of some words; the first at the beginning."""

    words: tuple[str, ...]
    """Spelled with the short form in capitals."""

    @property
    def initial(self) -> str:
        return self.short(self.words[0])

    @staticmethod
    def short(word: str) -> str:
        return "".join(c for c in word if not c.islower())

    def read(self, argument: bytes) -> str:
        """The short form. Raises `ValueError` for another word."""
        wanted = argument.decode("latin-1").upper()
        for word in self.words:
            if wanted in (word.upper(), self.short(word)):
                return self.short(word)
        raise ValueError

    def said(self, value: object) -> str:
        """As a reply."""
        return str(value)


@dataclass(frozen=True, slots=True)
class _Switch:
    """On or off."""

    initial: bool

    def read(self, argument: bytes) -> bool:
        """Raises `ValueError` for what is neither."""
        known = {b"1": True, b"ON": True, b"0": False, b"OFF": False}
        if argument.upper() not in known:
            raise ValueError
        return known[argument.upper()]

    def said(self, value: object) -> str:
        """As a reply."""
        return "1" if value else "0"


_Kind = _Number | _Choice | _Switch
_SOURCES = tuple(f"CHANnel{n}" for n in range(1, CHANNELS + 1))
_SETTINGS: dict[str, _Kind] = {
    "TIMebase:SCALe": _Number(1e-9, 50.0, 2e-4),
    "TIMebase:POSition": _Number(-500.0, 500.0, 0.0),
    "TRIGger[:EDGE]:SOURce": _Choice(_SOURCES),
    "TRIGger[:EDGE]:LEVel": _Number(-40.0, 40.0, 0.0),
    "TRIGger[:EDGE]:SLOPe": _Choice(("POSitive", "NEGative")),
    "TRIGger:SWEep": _Choice(("AUTO", "NORMal")),
    "ACQuire:POINts": _Number(100, MAX_POINTS, 1000, whole=True),
    "WAVeform:SOURce": _Choice(_SOURCES),
    "WAVeform:FORMat": _Choice(("BYTE", "WORD", "ASCii")),
    "WAVeform:BYTeorder": _Choice(("MSBFirst", "LSBFirst")),
}
for _n in range(1, CHANNELS + 1):
    _SETTINGS[f"CHANnel{_n}:DISPlay"] = _Switch(True)
    _SETTINGS[f"CHANnel{_n}:SCALe"] = _Number(1e-3, 10.0, 0.5)
    _SETTINGS[f"CHANnel{_n}:OFFSet"] = _Number(-40.0, 40.0, 0.0)
    _SETTINGS[f"CHANnel{_n}:COUPling"] = _Choice(("DC", "AC", "GND"))


@dataclass(frozen=True, slots=True)
class _Record:
    """What was acquired after one trigger, with the settings of that moment."""

    volts: Mapping[int, Volts]
    """By channel, those that were on."""
    scale: Mapping[int, float]
    offset: Mapping[int, float]
    x_increment: float
    x_origin: float

    def codes(self, channel: int, dtype: npt.DTypeLike) -> npt.NDArray[np.signedinteger]:
        """As its converter gave them: what lies beyond the screen is cut off."""
        limits = np.iinfo(dtype)
        raw = np.rint((self.volts[channel] - self.offset[channel]) / self.y_increment(channel, dtype))
        codes: npt.NDArray[np.signedinteger] = np.clip(raw, limits.min, limits.max).astype(dtype)
        return codes

    def y_increment(self, channel: int, dtype: npt.DTypeLike) -> float:
        """Volts per code: the screen is as high as all codes of a byte or a word."""
        return DIVISIONS_Y * self.scale[channel] / float(2 ** np.iinfo(dtype).bits)


class Oscilloscope(SimulatedInstrument):
    """A simulated oscilloscope with four channels, at `address` while it is entered. Several clients may connect.

    It runs when it is entered. A record stays until one of its channels is read again, or a setting changes, so that
    channels that are read one after the other belong to one trigger. What it shows depends on the seed and on the order
    of the commands, and not on the time of day.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        port: int = 0,
        identity: str = "scidaq,Oscilloscope,0001,1.0",
        signals: tuple[Signal, ...] = SIGNALS,
    ) -> None:
        if len(signals) != CHANNELS:
            raise ValueError(f"signals: there are {CHANNELS} inputs")
        self.signals = dict(enumerate(signals, 1))
        """What is connected to each input; may be changed."""
        self.acquired = 0
        """How many records it has made."""
        self._random = np.random.default_rng(seed)
        self._now_s = 0.0
        self._acquiring = threading.Lock()
        self._reset(b"")
        commands: dict[str, Act] = {
            "*RST": self._reset,
            "*TRG": self._force,
            "RUN": partial(self._set_state, "RUN"),
            "STOP": partial(self._set_state, "STOP"),
            "SINGle": partial(self._set_state, "SING"),
            "TRIGger:FORCe": self._force,
            "TRIGger:STATus?": self._status,
            "WAVeform:DATA?": partial(self._of_channel, self._data, True),
            "WAVeform:PREamble?": partial(self._of_channel, self._preamble, False),
            "WAVeform:XINCrement?": partial(self._item, 4),
            "WAVeform:XORigin?": partial(self._item, 5),
            "WAVeform:YINCrement?": partial(self._item, 7),
            "WAVeform:YORigin?": partial(self._item, 8),
            "MEASure:FREQuency?": partial(self._measure, _frequency),
            "MEASure:VPP?": partial(self._measure, lambda v, _: float(np.ptp(v))),
            "MEASure:VAVerage?": partial(self._measure, lambda v, _: float(np.mean(v))),
            "MEASure:VRMS?": partial(self._measure, lambda v, _: float(np.sqrt(np.mean(v * v)))),
        }
        for header, kind in _SETTINGS.items():
            commands[header] = partial(self._set, header, kind)
            commands[header + "?"] = partial(self._get, header, kind)
        super().__init__(identity, commands, port)

    # ---- settings ----

    def _reset(self, _: bytes) -> None:
        with self._acquiring:
            self._values: dict[str, float | str | bool] = {header: kind.initial for header, kind in _SETTINGS.items()}
            self._state = "RUN"
            self._forget()

    def _forget(self) -> None:
        """The record belongs to other settings."""
        self._record: _Record | None = None
        self._taken: set[int] = set()

    def _set(self, header: str, kind: _Kind, argument: bytes) -> bytes | None:
        try:
            value = kind.read(argument)
        except GarbledReply:
            return self.fault(-104, "Data type error")
        except ValueError:
            wrong = (-222, "Data out of range") if isinstance(kind, _Number) else (-224, "Illegal parameter value")
            return self.fault(*wrong)
        with self._acquiring:
            self._values[header] = value
            # A record that was stopped is kept, and says itself what it was acquired with.
            if self._state != "STOP" and not header.startswith("WAVeform"):
                self._forget()
        return None

    def _get(self, header: str, kind: _Kind, argument: bytes) -> bytes | None:
        if not argument:
            return kind.said(self._values[header]).encode()
        try:
            return kind.said(kind.read(argument)).encode()  # `? MAX`
        except (GarbledReply, ValueError):
            return self.fault(-224, "Illegal parameter value")

    def _number(self, header: str) -> float:
        return float(self._values[header])

    def _source(self, header: str) -> int:
        return int(str(self._values[header])[-1])

    # ---- acquisition ----

    def _set_state(self, state: str, _: bytes) -> None:
        with self._acquiring:
            if state != "STOP":
                self._forget()
            self._state = state

    def _force(self, _: bytes) -> bytes | None:
        with self._acquiring:
            if self._state == "STOP":
                return self.fault(-211, "Trigger ignored")
            self._acquire(forced=True)
        return None

    def _status(self, _: bytes) -> bytes:
        """`STOP`, `TD` (triggered), `AUTO` (without a trigger), `WAIT` (for one)."""
        with self._acquiring:
            self._run_once()
            if self._state == "STOP":
                return b"STOP"
            if self._crossing() is not None:
                return b"TD"
            return b"AUTO" if self._values["TRIGger:SWEep"] == "AUTO" else b"WAIT"

    def _run_once(self) -> None:
        """Where it waits for a single record, make it if there is a trigger."""
        if self._state == "SING":
            self._acquire()

    def _now(self, channel: int, taken: bool) -> _Record | None:
        """The record that a reader of this channel gets, who may take it; None when nothing has been triggered."""
        self._run_once()
        if self._state == "RUN" and (self._record is None or (taken and channel in self._taken)):
            self._acquire()
        if taken:
            self._taken.add(channel)
        return self._record

    def _seen(self, channel: int) -> Signal:
        """A signal behind the coupling of its input."""
        signal = self.signals[channel]
        match self._values[f"CHANnel{channel}:COUPling"]:
            case "GND":
                return Signal()
            case "AC":
                return replace(signal, offset_v=0.0)
            case _:
                return signal

    def _crossing(self) -> float | None:
        source = self._seen(self._source("TRIGger[:EDGE]:SOURce"))
        rising = self._values["TRIGger[:EDGE]:SLOPe"] == "POS"
        return source.crossing(self._number("TRIGger[:EDGE]:LEVel"), rising)

    def _acquire(self, *, forced: bool = False) -> None:
        """Wait for the next trigger, and keep what lies around it."""
        source, part = self._source("TRIGger[:EDGE]:SOURce"), self._crossing()
        if part is None and not forced and self._values["TRIGger:SWEep"] == "NORM":
            return
        points, scale_s = int(self._number("ACQuire:POINts")), self._number("TIMebase:SCALe")
        span_s = DIVISIONS_X * scale_s
        x_origin = self._number("TIMebase:POSition") - span_s / 2
        # It is away for some time after each record, so that signals that are not locked to the trigger run through.
        self._now_s += span_s + self._random.exponential(max(span_s, 1e-3))
        frequency_hz = self.signals[source].frequency_hz
        if part is not None and not forced:
            self._now_s = (math.ceil(self._now_s * frequency_hz - part) + part) / frequency_hz
        t = x_origin + np.arange(points) * (span_s / points)
        volts = {}
        for channel in self.signals:
            if not self._values[f"CHANnel{channel}:DISPlay"]:
                continue
            signal = self._seen(channel)
            # That of the source is known without the error of a large number of cycles.
            begun = part if channel == source and part is not None and not forced else None
            cycles = self._now_s * signal.frequency_hz % 1 if begun is None else begun
            noise = self._random.normal(0.0, signal.noise_v, points)
            volts[channel] = signal.at(cycles + signal.frequency_hz * t) + noise
        scale = {n: self._number(f"CHANnel{n}:SCALe") for n in volts}
        offset = {n: self._number(f"CHANnel{n}:OFFSet") for n in volts}
        self._record, self._taken = _Record(volts, scale, offset, span_s / points, x_origin), set()
        self.acquired += 1
        if self._state == "SING":
            self._state = "STOP"

    # ---- what is read ----

    def _of_channel(self, act: Callable[[int, _Record], bytes], taken: bool, argument: bytes) -> bytes | None:
        """Answer for a channel: the one that is named, or that of `WAVeform:SOURce`."""
        kind = _SETTINGS["WAVeform:SOURce"]
        try:
            word = str(kind.read(argument)) if argument else str(self._values["WAVeform:SOURce"])
        except ValueError:
            return self.fault(-224, "Illegal parameter value")
        channel = int(word[-1])
        with self._acquiring:
            record = self._now(channel, taken)
            if record is None:
                return self.fault(-230, "Data corrupt or stale")
            if channel not in record.volts:
                return self.fault(-221, "Settings conflict")
            return act(channel, record)

    def _dtype(self) -> str:
        order = ">" if self._values["WAVeform:BYTeorder"] == "MSBF" else "<"
        return "i1" if self._values["WAVeform:FORMat"] == "BYTE" else f"{order}i2"

    def _data(self, channel: int, record: _Record) -> bytes:
        codes = record.codes(channel, self._dtype())
        if self._values["WAVeform:FORMat"] != "ASC":
            return block(codes.tobytes())
        volts = codes * record.y_increment(channel, self._dtype()) + record.offset[channel]
        return b",".join(b"%+.6E" % v for v in volts)

    def _preamble(self, channel: int, record: _Record) -> bytes:
        x = f"{record.x_increment:+.8E},{record.x_origin:+.8E},0"
        y = f"{record.y_increment(channel, self._dtype()):+.8E},{record.offset[channel]:+.8E},0"
        form = _FORMATS[str(self._values["WAVeform:FORMat"])]
        return f"{form},0,{len(record.volts[channel])},1,{x},{y}".encode()

    def _item(self, index: int, argument: bytes) -> bytes | None:
        preamble = self._of_channel(self._preamble, False, argument)
        return None if preamble is None else preamble.split(b",")[index]

    def _measure(self, value: Callable[[Volts, _Record], float], argument: bytes) -> bytes | None:
        def act(channel: int, record: _Record) -> bytes:
            volts = record.codes(channel, "i2") * record.y_increment(channel, "i2") + record.offset[channel]
            return b"%+.6E" % value(volts, record)

        return self._of_channel(act, False, argument)


def _frequency(volts: Volts, record: _Record) -> float:
    """From the first to the last rise through the middle; SCPI's not-a-number where there are no two."""
    middle, band = (volts.max() + volts.min()) / 2, np.ptp(volts) / 4
    # With hysteresis, so that noise on a flank is one rise.
    side = np.where(volts > middle + band, 1, np.where(volts < middle - band, -1, 0))
    there = np.flatnonzero(side)
    rises = there[1:][(side[there[1:]] > 0) & (side[there[:-1]] < 0)]
    if len(rises) < 2:
        return 9.91e37
    return float((len(rises) - 1) / ((rises[-1] - rises[0]) * record.x_increment))
