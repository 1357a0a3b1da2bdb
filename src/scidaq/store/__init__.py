"""Keeping blocks safe: segments, journal, commit, recovery, verification, and the seam to the operating system.

A row is *durable* when its commit has been synced; `Recorder` publishes how far each stream is. Knows nothing of who
made the blocks. `docs/format/` specifies every byte.
"""

from typing import TYPE_CHECKING, Any

from scidaq.store.directory import (
    CATALOG,
    STARTED,
    STATION,
    STOPPED,
    StationFile,
    check_directory,
    file_system,
    note_control,
    open_station,
    read_control,
    read_station,
    refusal,
)
from scidaq.store.durable import NAME as DURABLE_MAP
from scidaq.store.durable import Mark, read_marks
from scidaq.store.express import Express
from scidaq.store.files import (
    Buffer,
    File,
    Files,
    PortableFiles,
    PosixFiles,
    make_directory,
    overwrite,
    publish,
    system_files,
)
from scidaq.store.journal import Record, journal_files, read_journal
from scidaq.store.judging import judge, judge_catalog, moves
from scidaq.store.options import Options
from scidaq.store.outline import Entry, Outline
from scidaq.store.quarantine import Quarantined, quarantined
from scidaq.store.reading import SUMMARY, segment_files, stream_directories
from scidaq.store.recorder import Recorder
from scidaq.store.recovery import Found, Known, Recovered, found_segment, recover
from scidaq.store.reports import Projection, RecorderStats, SegmentFacts, StreamStats
from scidaq.store.segment import Buffers, Damage, Segment, SegmentName, SegmentWriter, scan, whole_segment
from scidaq.store.space import BALLAST, Space, SpaceStats
from scidaq.store.track import Policy, Stand
from scidaq.store.verifying import Balance, Problem, Report, verify
from scidaq.store.writing import WritingStats

if TYPE_CHECKING:
    from scidaq.store.projector import Projector, ProjectorStats, catch_up, known_segments
    from scidaq.store.repairing import Plan, Repaired, RepairStep, plan_repair, repair
    from scidaq.store.tables import SegmentRow, epochs, gaps, sealed_segments, segments, streams

_LATER = {  # these need SQLAlchemy, which takes half a second to import, or are wanted seldom
    "Plan": "repairing",
    "RepairStep": "repairing",
    "Repaired": "repairing",
    "plan_repair": "repairing",
    "repair": "repairing",
    "Projector": "projector",
    "ProjectorStats": "projector",
    "catch_up": "projector",
    "known_segments": "projector",
    "SegmentRow": "tables",
    "epochs": "tables",
    "gaps": "tables",
    "sealed_segments": "tables",
    "segments": "tables",
    "streams": "tables",
}

__all__ = [
    "BALLAST",
    "CATALOG",
    "DURABLE_MAP",
    "STARTED",
    "STATION",
    "STOPPED",
    "SUMMARY",
    "Balance",
    "Buffer",
    "Buffers",
    "Damage",
    "Entry",
    "Express",
    "File",
    "Files",
    "Found",
    "Known",
    "Mark",
    "Options",
    "Outline",
    "Plan",
    "Policy",
    "PortableFiles",
    "PosixFiles",
    "Problem",
    "Projection",
    "Projector",
    "ProjectorStats",
    "Quarantined",
    "Record",
    "Recorder",
    "RecorderStats",
    "Recovered",
    "RepairStep",
    "Repaired",
    "Report",
    "Segment",
    "SegmentFacts",
    "SegmentName",
    "SegmentRow",
    "SegmentWriter",
    "Space",
    "SpaceStats",
    "Stand",
    "StationFile",
    "StreamStats",
    "WritingStats",
    "catch_up",
    "check_directory",
    "epochs",
    "file_system",
    "found_segment",
    "gaps",
    "journal_files",
    "judge",
    "judge_catalog",
    "known_segments",
    "make_directory",
    "moves",
    "note_control",
    "open_station",
    "overwrite",
    "plan_repair",
    "publish",
    "quarantined",
    "read_control",
    "read_journal",
    "read_marks",
    "read_station",
    "recover",
    "refusal",
    "repair",
    "scan",
    "sealed_segments",
    "segment_files",
    "segments",
    "stream_directories",
    "streams",
    "system_files",
    "verify",
    "whole_segment",
]


def __getattr__(name: str) -> Any:
    if (module := _LATER.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{module}"), name)
