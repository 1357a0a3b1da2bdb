"""Instruments that are not there: SCPI servers on loopback, with faults to switch on. For demonstrations and tests."""

from scidaq.instruments.simulators.multimeter import Multimeter
from scidaq.instruments.simulators.oscilloscope import Oscilloscope, Signal
from scidaq.instruments.simulators.server import SimulatedInstrument, Trouble

__all__ = ["Multimeter", "Oscilloscope", "Signal", "SimulatedInstrument", "Trouble"]
