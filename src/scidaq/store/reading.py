"""Finding the segments of a stream on disk, and rows in them, from the files alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scidaq.block import Block
from scidaq.store.files import Files
from scidaq.store.segment import Segment, SegmentName


def segment_files(directory: Path) -> list[tuple[SegmentName, Path]]:
    """The segments in a stream's directory, by epoch, first row and generation; empty when there is none."""
    if not directory.is_dir():
        return []
    found = ((SegmentName.parse(p.name), p) for p in directory.iterdir())
    return sorted((name, path) for name, path in found if name is not None)


def stream_directories(data_dir: Path) -> Iterator[tuple[str, Path]]:
    """Stream ids and their directories, sorted."""
    root = data_dir / "streams"
    if root.is_dir():
        for instrument in sorted(p for p in root.iterdir() if p.is_dir()):
            for stream in sorted(p for p in instrument.iterdir() if p.is_dir()):
                yield f"{instrument.name}/{stream.name}", stream


SUMMARY = "summary"
"""Below a stream's directory: what is derived from its rows for plots."""


def summary_files(directory: Path) -> list[Path]:
    """The summaries of a stream, derived from its rows."""
    return sorted((directory / SUMMARY).glob("[0-9]*.arrows"))


def summary_fault(files: Files, path: Path) -> str:
    """What is wrong with a summary; empty when nothing is, or when it has gone meanwhile: summaries are merged."""
    try:
        segment = Segment(files.map(path), path)
    except FileNotFoundError:
        return ""
    if segment.damage:
        return segment.damage[0].reason
    return "" if segment.sealed else "it is not whole"


def rows_on_disk(files: Files, directory: Path, epoch: int, first: int, end: int) -> Iterator[Block]:
    """The blocks of an epoch that hold any of the rows `[first, end)`, as they lie in its segments."""
    for name, path in segment_files(directory):
        if name.epoch == epoch:  # rows that came late may lie before the first of the name
            segment = Segment(files.map(path), path, check=False)
            for message in segment.batches:
                start = int(message.facts.get("first", 0))
                if message.rows and start < end and first < start + message.rows:
                    yield segment.block(message)
