"""Which format a file has, and what tables it holds."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from scidaq.errors import UnreadableFile
from scidaq.instruments.replay import columnar, segments, text, wav
from scidaq.instruments.replay.foreign import Reading, Table

_READERS: dict[str, Callable[[Path, Reading], Sequence[Table]]] = {
    "arrow": partial(columnar.tables, form="arrow"),
    "csv": text.tables,
    "parquet": partial(columnar.tables, form="parquet"),
    "segment": segments.tables,
    "wav": wav.tables,
}
FORMATS = tuple(_READERS)
"""What can be read, by the names that `Reading.format` knows."""
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"RIFF", "wav"),
    (b"RF64", "wav"),
    (b"BW64", "wav"),
)


def tables(path: Path, reading: Reading) -> list[Table]:
    """The tables of a file, or of a directory of the segments of a stream; at least one.

    Only the beginning of the file is read, but for a text file that is to be read `thorough`. Raises `UnreadableFile`,
    which says where and why.
    """
    form = reading.format or guess(path)
    if form not in _READERS:
        raise UnreadableFile(path, "", f"there is no format {form!r}; there are {', '.join(FORMATS)}")
    _check(path)
    if path.is_dir() and form != "segment":
        raise UnreadableFile(path, "", f"it is a directory, and a {form} file is one file")
    try:
        return list(_READERS[form](path, reading))
    except OSError as error:
        raise UnreadableFile(path, "", f"it cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise UnreadableFile(path, "", "a part of it says that it is larger than memory") from error


def _check(path: Path) -> None:
    """Nothing but files and directories is opened: a pipe or a device could be waited for without end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UnreadableFile(path, "", f"it cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UnreadableFile(path, "", "it is no file, but a pipe, a socket or a device")


def guess(path: Path) -> str:
    """The format that a file's first bytes, or its name, tell. Raises `UnreadableFile`."""
    _check(path)
    if path.is_dir():
        if segments.segment_names(path):
            return "segment"
        raise UnreadableFile(path, "", "it is a directory without segments of a stream (*.arrows)")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UnreadableFile(path, "", f"it cannot be read: {error.strerror or error}") from error
    if not head:
        raise UnreadableFile(path, "", "it is empty")
    for magic, form in _MAGIC:
        if head.startswith(magic):
            return form
    if head.startswith(b"\xff\xff\xff\xff"):
        return "segment" if segments.is_segment(path) else "arrow"
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".wav", ".arrow", ".feather"):
        form = {".arrow": "arrow", ".feather": "arrow"}.get(suffix, suffix[1:])
        raise UnreadableFile(path, "byte 0", f"its name says {form}, and its first bytes say that it is none")
    return "csv"
