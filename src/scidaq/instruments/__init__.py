"""Talking to hardware: the driver contract, the drivers that come with scidaq, the supervision that keeps them going.

Knows neither rings nor disks nor the web: rows leave through a `Sink`.
"""

from scidaq.instruments.addresses import AddressRule, address_rule, allowed
from scidaq.instruments.driver import (
    Driver,
    DriverFactory,
    HasCounts,
    HasEnd,
    HasParameters,
    HasSafeState,
    Identity,
    Parameter,
    Rearm,
    Value,
    parameter_named,
    set_parameter,
)
from scidaq.instruments.finding import Drivers, find_drivers
from scidaq.instruments.host import HostDriver, HostOptions
from scidaq.instruments.judging import judge
from scidaq.instruments.push import LEASE_S, Producer, PushChannel, PushDriver, PushOptions, PushStream, TakesRows
from scidaq.instruments.replay import FORMATS, Reading, ReplayDriver, ReplayOptions, Table, guess, tables
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
from scidaq.instruments.state import SETTINGS, Failure, InstrumentStats, Level, Sink, State, SupervisionOptions
from scidaq.instruments.supervision import Supervision
from scidaq.instruments.supervisor import Supervisor
from scidaq.instruments.waveform import Fault, Truth, WaveformDriver, WaveformOptions, expected

__all__ = [
    "FORMATS",
    "LEASE_S",
    "SETTINGS",
    "AddressRule",
    "Driver",
    "DriverFactory",
    "Drivers",
    "Failure",
    "Fault",
    "HasCounts",
    "HasEnd",
    "HasParameters",
    "HasSafeState",
    "HostDriver",
    "HostOptions",
    "Identity",
    "InstrumentStats",
    "Level",
    "Multimeter",
    "Oscilloscope",
    "Parameter",
    "Producer",
    "PushChannel",
    "PushDriver",
    "PushOptions",
    "PushStream",
    "Reading",
    "Rearm",
    "ReplayDriver",
    "ReplayOptions",
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
    "Table",
    "TakesRows",
    "Trouble",
    "Truth",
    "Value",
    "WaveformDriver",
    "WaveformOptions",
    "address_rule",
    "allowed",
    "expected",
    "find_drivers",
    "guess",
    "judge",
    "parameter_named",
    "set_parameter",
    "tables",
]
