"""Which format a file has, and what tables it holds."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from scidaq.errors import UnreadableFile
from scidaq.instruments.replay import columnar, hdf5, segments, tdms, text, wav
from scidaq.instruments.replay.foreign import Reading, Table, apart

_READERS: dict[str, Callable[[Path, Reading], Sequence[Table]]] = {
    "arrow": partial(columnar.tables, form="arrow"),
    "csv": text.tables,
    "hdf5": hdf5.tables,
    "parquet": partial(columnar.tables, form="parquet"),
    "segment": segments.tables,
    "tdms": tdms.tables,
    "wav": wav.tables,
}
MANIFEST = "manifest.json"
"""What lists the tables in a directory that scidaq exported."""
FORMATS = tuple(_READERS)
"""What can be read, by the names that `Reading.format` knows."""
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"TDSm", "tdms"),
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
    form = guess(path) if not reading.format or path.is_dir() else reading.format
    if form not in _READERS and form != MANIFEST:
        raise UnreadableFile(path, "", f"there is no format {form!r}; there are {', '.join(FORMATS)}")
    _check(path)
    if form == MANIFEST:
        return _listed(path, reading)
    if path.is_dir() and form != "segment":
        raise UnreadableFile(path, "", f"it is a directory, and a {form} file is one file")
    try:
        return list(_READERS[form](path, reading))
    except OSError as error:
        raise UnreadableFile(path, "", f"it cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise UnreadableFile(path, "", "a part of it says that it is larger than memory") from error


def _listed(path: Path, reading: Reading) -> list[Table]:
    """The tables of a directory that scidaq exported, in the order of its manifest."""
    try:
        said = json.loads((path / MANIFEST).read_bytes())
        names = [str(table["file"]) for table in said["tables"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UnreadableFile(path / MANIFEST, "", f"it cannot be understood: {error}") from error
    out = []
    for name in dict.fromkeys(names):
        if Path(name).name != name or name in ("", ".", ".."):
            raise UnreadableFile(path / MANIFEST, "", f"{name!r} is no file of the directory")
        out += tables(path / name, reading)
    return apart(out)


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
        if (path / MANIFEST).is_file():
            return MANIFEST
        if segments.segment_names(path):
            return "segment"
        if (path / "zarr.json").exists():
            raise UnreadableFile(
                path, "", "it is a zarr store, which is not read: export it as hdf5 or parquet instead"
            )
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
    if head.startswith(b"MATLAB 5.0"):
        raise UnreadableFile(
            path, "", "MATLAB files of version 7 and before are not read: save it with -v7.3, or as CSV"
        )
    suffix = path.suffix.lower()
    named = {".feather": "arrow", ".h5": "hdf5", ".nxs": "hdf5"}.get(suffix, suffix[1:])
    if named in _READERS and named not in ("csv", "segment"):
        raise UnreadableFile(path, "byte 0", f"its name says {named}, and its first bytes say that it is none")
    return "csv"
