"""A station: one data directory and the process that owns it."""

from scidaq.station.plan import InstrumentPlan, StationPlan
from scidaq.station.station import Run, Station, StationStats

__all__ = ["InstrumentPlan", "Run", "Station", "StationPlan", "StationStats"]
