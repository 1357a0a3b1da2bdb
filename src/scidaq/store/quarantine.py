"""`quarantine/`: what could not be trusted, each with a report beside it. No software removes anything from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from scidaq.store.files import Files, make_directory, publish

DIRECTORY = "quarantine"
REPORT = ".json"
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One thing that lies in quarantine, as its report says."""

    name: str
    """Of the file below `quarantine/`."""
    bytes: int
    file: str | None
    """Where it was, relative to the data directory; None without a report."""
    offset: int | None
    """The byte of that file at which it stood."""
    reason: str
    t_ns: int | None
    """When it was put here, in UTC nanoseconds."""
    rows: int | None
    """Rows that were in it and stand nowhere else; None where nobody can tell."""

    def __str__(self) -> str:
        if self.file is None:
            return f"{self.name}: {self.bytes} bytes, {self.reason}"
        return f"{self.name}: {self.bytes} bytes of {self.file} from byte {self.offset or 0}: {self.reason}"


def quarantined(data_dir: Path) -> list[Quarantined]:
    """What lies in the quarantine of a data directory, by name. Touches nothing."""
    directory = data_dir / DIRECTORY
    if not directory.is_dir():
        return []
    names = sorted(p.name for p in directory.iterdir() if not p.name.startswith("."))
    return [_with_report(directory / name) for name in names if not name.endswith(REPORT)]


def _with_report(path: Path) -> Quarantined:
    size = path.stat().st_size
    said = _read(path.with_name(path.name + REPORT))
    if said is None:
        return Quarantined(path.name, size, None, None, "without a report", None, None)
    places = {key: v if isinstance(v := said.get(key), int) else None for key in ("offset", "t_ns", "rows")}
    return Quarantined(path.name, size, str(said.get("file")), reason=str(said.get("reason")), **places)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        said = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def put_whole(
    files: Files, data_dir: Path, path: Path, reason: str, now_ns: int, more: Mapping[str, Any] | None = None
) -> Path:
    """Move a whole file to the quarantine; where it is now. Durable on return, and may be interrupted and done again.

    The report is written first: at no moment does anything lie there that nothing explains.
    """
    directory = data_dir / DIRECTORY
    make_directory(files, directory)
    file, size = path.relative_to(data_dir).as_posix(), path.lstat().st_size
    stem, n = file.replace("/", ".")[-_LONGEST:], 0
    while not _free(target := directory / f"{stem}.0.{n}", file, size):
        n += 1
    report = target.with_name(target.name + REPORT)
    if not report.exists():
        said = {"file": file, "offset": 0, "bytes": size, "reason": reason, "t_ns": now_ns, **(more or {})}
        publish(files, report, orjson.dumps(said))
    files.rename(path, target)
    files.sync_dir(directory)
    files.sync_dir(path.parent)
    return target


def _free(target: Path, file: str, size: int) -> bool:
    """Whether a name can be had: nobody has it, or a move that was interrupted has announced the same file."""
    if target.exists():
        return False
    report = target.with_name(target.name + REPORT)
    if not report.exists():
        return True
    said = _read(report) or {}
    return (said.get("file"), said.get("bytes")) == (file, size)
