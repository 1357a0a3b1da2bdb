"""The data directory as a whole: whose it is, and whether a station may record into it."""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import orjson

from scidaq.catalog import register_kind
from scidaq.errors import ForeignDirectory, StationBusy, StationError
from scidaq.store.files import FULL, File, Files, make_directory, publish

FORMAT = 1
STARTED = register_kind("station.started", "The station began to record.")
STOPPED = register_kind("station.stopped", "The station ended: everything is durable, every segment sealed.")
REPAIRED = register_kind("station.repaired", "The data directory was repaired: every segment is sealed.")
DAMAGED = register_kind("facts.damaged", "A place of this log is damaged, and that was told.")
STATION = "station.json"
LOCK = "LOCK"
CONTROL = "control"
CATALOG = "catalog.sqlite"
NETWORK = frozenset(
    "nfs nfs4 cifs smb3 smbfs 9p afs ceph glusterfs lustre fuse.sshfs fuse.s3fs fuse.rclone ncpfs".split()
)
_TRIES, _PAUSE_S = 5, 0.02
_NAME = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class StationFile:
    """What `station.json` says."""

    uuid: str
    name: str
    format: int
    created_ns: int


def read_station(data_dir: Path) -> StationFile:
    """Whose data directory this is. Raises `ForeignDirectory` when it is none, or of a format not known here."""
    path = data_dir / STATION
    try:
        d = orjson.loads(path.read_bytes())
        found = StationFile(str(uuid.UUID(d["uuid"])), str(d["name"]), int(d["format"]), int(d["created_ns"]))
    except FileNotFoundError:
        what = "is empty" if not _entries(data_dir) else "holds other things"
        there = f"there is no {STATION} in it, and it {what}" if data_dir.is_dir() else "it does not exist"
        raise ForeignDirectory(f"{data_dir} is no data directory of scidaq: {there}; check --data-dir") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as e:
        raise ForeignDirectory(
            f"{path} cannot be understood ({e}); `scidaq repair` writes it again; or give another --data-dir"
        ) from e
    if found.format > FORMAT:
        raise ForeignDirectory(
            f"{data_dir} has format {found.format}, this scidaq knows {FORMAT}; use the version that wrote it, or newer"
        )
    return found


def open_station(data_dir: Path, files: Files, name: str, now_ns: int, allow_network: bool) -> tuple[StationFile, File]:
    """Take a data directory into use, made when it is missing or empty; returns whose it is and the lock on it.

    Nothing is touched unless the directory is ours or empty. Raises `StationError` (unwritable, a network file system),
    `ForeignDirectory` or `StationBusy`, each with what to do.
    """
    check_directory(data_dir, allow_network)
    try:
        make_directory(files, data_dir)
        lock = _lock(files, data_dir / LOCK)
    except OSError as e:
        raise refusal(data_dir, e) from e
    try:
        if not (data_dir / STATION).exists():
            if not _NAME.fullmatch(name):
                raise StationError(f"station name {name!r} is not 1 to 64 characters of a-z 0-9 _ -")
            content = {"uuid": str(uuid.uuid4()), "name": name, "format": FORMAT, "created_ns": now_ns}
            publish(files, data_dir / STATION, orjson.dumps(content, option=orjson.OPT_INDENT_2))
        for part in ("facts", "journal", "streams", "quarantine", "retired"):
            make_directory(files, data_dir / part)
        return read_station(data_dir), lock
    except OSError as e:
        lock.close()
        raise refusal(data_dir, e) from e
    except BaseException:
        lock.close()
        raise


def note_control(data_dir: Path, files: Files, address: str) -> None:
    """Leave a note of where the control socket of the running station is; an empty `address` takes it away.

    A file of its own, so that `station.json`, which says whose the data is, is never written again. Raises `OSError`.
    """
    files.remove(data_dir / CONTROL)
    if address:
        publish(files, data_dir / CONTROL, address.encode() + b"\n")


def read_control(data_dir: Path) -> str:
    """Where the control socket of the station is, or was before it was killed; empty when nobody knows."""
    try:
        return (data_dir / CONTROL).read_text().strip()
    except (OSError, ValueError):
        return ""


def refusal(data_dir: Path, error: OSError) -> StationError:
    """What to say when the system refuses something that a start needs: what, where, and what to do."""
    number = error.errno or getattr(error.__cause__, "errno", None)
    if number in FULL:
        return StationError(f"there is no space left where {data_dir} lies; free some, or choose another --data-dir")
    if number in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
        return StationError(f"{data_dir} cannot be written ({error.strerror or error}); choose another --data-dir")
    return StationError(
        f"{data_dir} cannot be used ({error}); nothing that was recorded is touched: look at the disk and at the "
        "system's log, then start again"
    )


def _lock(files: Files, path: Path) -> File:
    """The lock of a station. A reader takes it for an instant to see whether somebody has it: so not only one try."""
    for _ in range(_TRIES - 1):
        try:
            return files.lock(path)
        except StationBusy:
            time.sleep(_PAUSE_S)
    return files.lock(path)


def check_directory(data_dir: Path, allow_network: bool = False) -> None:
    """Whether a station could record here; touches nothing. Raises `StationError` with what to do."""
    existing = data_dir
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise StationError(f"{existing} is a file, so {data_dir} cannot be a directory; choose another --data-dir")
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise StationError(f"{existing} may not be written by this user; choose another --data-dir or its owner")
    if not allow_network and (kind := file_system(existing)) in NETWORK:
        raise StationError(
            f"{data_dir} lies on a network file system ({kind}), whose syncs may promise what they do not keep; "
            "use a local disk, or set storage.allow_network_filesystem = true"
        )
    if data_dir.is_dir() and (data_dir / STATION).exists():
        read_station(data_dir)
    elif data_dir.is_dir() and (others := _entries(data_dir)):
        some = ", ".join(others[:3]) + (", ..." if others[3:] else "")
        raise ForeignDirectory(
            f"{data_dir} holds things that scidaq did not make ({some}); give an empty or a new directory as --data-dir"
        )


def _entries(data_dir: Path) -> list[str]:
    """What lies in a directory besides our own beginnings (a lock, the operator's `config`)."""
    ours = {LOCK, CONTROL, "config", "lost+found", f".{STATION}.tmp"}
    return sorted(p.name for p in data_dir.iterdir() if p.name not in ours) if data_dir.is_dir() else []


def file_system(path: Path) -> str:
    """The type of the file system that a path lies on, as the kernel names it; empty where it does not say."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    here, best, kind = path.resolve().as_posix(), "", ""
    for line in mounts:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = here == point or here.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
