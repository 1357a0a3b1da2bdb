"""Talking to hardware: the driver contract, the drivers that come with scidaq, the supervision that keeps them going.

Knows neither rings nor disks nor the web: rows leave through a `Sink`.
"""

from scidaq.instruments.driver import (
    Driver,
    DriverFactory,
    HasCounts,
    HasParameters,
    HasSafeState,
    Identity,
    Parameter,
    Value,
    parameter_named,
    set_parameter,
)
from scidaq.instruments.finding import Drivers, find_drivers
from scidaq.instruments.host import HostDriver, HostOptions
from scidaq.instruments.scpi import (
    ScpiChannel,
    ScpiClient,
    ScpiCounts,
    ScpiDriver,
    ScpiOptions,
    ScpiParameter,
    ScpiStream,
)
from scidaq.instruments.simulators import Multimeter, Oscilloscope, Signal, Trouble
from scidaq.instruments.state import SETTINGS, InstrumentStats, Sink, State, SupervisionOptions
from scidaq.instruments.supervision import Supervision
from scidaq.instruments.supervisor import Supervisor
from scidaq.instruments.waveform import Fault, Truth, WaveformDriver, WaveformOptions, expected

__all__ = [
    "SETTINGS",
    "Driver",
    "DriverFactory",
    "Drivers",
    "Fault",
    "HasCounts",
    "HasParameters",
    "HasSafeState",
    "HostDriver",
    "HostOptions",
    "Identity",
    "InstrumentStats",
    "Multimeter",
    "Oscilloscope",
    "Parameter",
    "ScpiChannel",
    "ScpiClient",
    "ScpiCounts",
    "ScpiDriver",
    "ScpiOptions",
    "ScpiParameter",
    "ScpiStream",
    "Signal",
    "Sink",
    "State",
    "Supervision",
    "SupervisionOptions",
    "Supervisor",
    "Trouble",
    "Truth",
    "Value",
    "WaveformDriver",
    "WaveformOptions",
    "expected",
    "find_drivers",
    "parameter_named",
    "set_parameter",
]
