"""The configuration: each room's own options, composed from files, environment and command line.

Knows where values come from and how to say what is wrong with them; what an option means is its room's business.
"""

from scidaq.config.default import default_configuration
from scidaq.config.editing import Edit
from scidaq.config.layers import Origin, Override
from scidaq.config.loading import Base, load
from scidaq.config.model import Config, Instrument, InstrumentOptions, StationOptions
from scidaq.config.reference import reference
from scidaq.config.reloading import Again, Changes, Reloader, compare
from scidaq.config.schema import json_schema
from scidaq.config.showing import as_json, show

__all__ = [
    "Again",
    "Base",
    "Changes",
    "Config",
    "Edit",
    "Instrument",
    "InstrumentOptions",
    "Origin",
    "Override",
    "Reloader",
    "StationOptions",
    "as_json",
    "compare",
    "default_configuration",
    "json_schema",
    "load",
    "reference",
    "show",
]
