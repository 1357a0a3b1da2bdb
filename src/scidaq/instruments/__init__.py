"""Talking to hardware: the driver contract, the drivers that come with scidaq, the supervision that keeps them going.

Knows neither rings nor disks nor the web: rows leave through a `Sink`.
"""

from scidaq.instruments.driver import (
    Driver,
    DriverFactory,
    HasParameters,
    HasSafeState,
    Identity,
    Parameter,
    Value,
    parameter_named,
    set_parameter,
)
from scidaq.instruments.finding import Drivers, find_drivers
from scidaq.instruments.state import SETTINGS, InstrumentStats, Sink, State, SupervisionOptions
from scidaq.instruments.supervision import Supervision
from scidaq.instruments.supervisor import Supervisor
from scidaq.instruments.waveform import Fault, Truth, WaveformDriver, expected

__all__ = [
    "SETTINGS",
    "Driver",
    "DriverFactory",
    "Drivers",
    "Fault",
    "HasParameters",
    "HasSafeState",
    "Identity",
    "InstrumentStats",
    "Parameter",
    "Sink",
    "State",
    "Supervision",
    "SupervisionOptions",
    "Supervisor",
    "Truth",
    "Value",
    "WaveformDriver",
    "expected",
    "find_drivers",
    "parameter_named",
    "set_parameter",
]
