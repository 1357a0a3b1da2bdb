"""A station: one data directory and its owner; `record`, the same for a script, and `Importer`, for files."""

from scidaq.station.exporting import Export, ExportFile, Exports, ExportWanted
from scidaq.station.importing import Imported, Importer, Source, compare, streams_of
from scidaq.station.live import Happening, Live, LiveStats, ViewWanted, Watch, grid_step_ns
from scidaq.station.plan import InstrumentPlan, PlanChanges, StationPlan
from scidaq.station.pushing import Follower, Pushing
from scidaq.station.querying import Queries, SqlAnswer, SqlJob
from scidaq.station.runs import open_runs
from scidaq.station.script import Recording, record
from scidaq.station.serving import AUDIT, Audited, Instrument, Page, Serving, Stream, Wanted
from scidaq.station.station import Station, StationStats

__all__ = [
    "AUDIT",
    "Audited",
    "Export",
    "ExportFile",
    "ExportWanted",
    "Exports",
    "Follower",
    "Happening",
    "Imported",
    "Importer",
    "Instrument",
    "InstrumentPlan",
    "Live",
    "LiveStats",
    "Page",
    "PlanChanges",
    "Pushing",
    "Queries",
    "Recording",
    "Serving",
    "Source",
    "SqlAnswer",
    "SqlJob",
    "Station",
    "StationPlan",
    "StationStats",
    "Stream",
    "ViewWanted",
    "Wanted",
    "Watch",
    "compare",
    "grid_step_ns",
    "open_runs",
    "record",
    "streams_of",
]
