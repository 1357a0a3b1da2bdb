"""The configuration: each room's own options, composed from files, environment and command line.

Knows where values come from and how to say what is wrong with them; what an option means is its room's business.
"""

from scidaq.config.layers import Origin, Override
from scidaq.config.loading import Base, load
from scidaq.config.model import Config, Instrument, InstrumentOptions, LoggingOptions, StationOptions
from scidaq.config.reference import reference

__all__ = [
    "Base",
    "Config",
    "Instrument",
    "InstrumentOptions",
    "LoggingOptions",
    "Origin",
    "Override",
    "StationOptions",
    "load",
    "reference",
]
