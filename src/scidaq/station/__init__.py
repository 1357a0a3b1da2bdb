"""A station: one data directory and the process that owns it; and `record`, the same for a script."""

from scidaq.station.plan import InstrumentPlan, StationPlan
from scidaq.station.script import Recording, record
from scidaq.station.station import Station, StationStats

__all__ = ["InstrumentPlan", "Recording", "Station", "StationPlan", "StationStats", "record"]
