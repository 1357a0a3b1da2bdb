"""The wrong data directory: one clear message, and nothing in it touched."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from scidaq.clock import SystemClock
from scidaq.errors import ForeignDirectory, StationBusy, StationError
from scidaq.station import Station
from scidaq.testing.crashing import WatchedFiles
from tests.station.plans import plan, tree, wait_for, waveform


def refused(data_dir: Path, kind: type[StationError], words: str, look_at: Path | None = None) -> None:
    """Starting here fails with one line that says what to do, and changes nothing."""
    before = tree(look_at or data_dir)
    with pytest.raises(kind, match=words) as caught, Station(plan(data_dir)):
        pass
    assert "\n" not in str(caught.value)
    assert tree(look_at or data_dir) == before


def test_someone_elses_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("\\documentclass")
    refused(tmp_path, ForeignDirectory, "thesis.tex")


@pytest.mark.parametrize("name", ["streams", "journal", "catalog.sqlite", ".git"])
def test_a_name_of_ours_makes_no_directory_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    refused(tmp_path, ForeignDirectory, "did not make")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    refused(tmp_path / "data", StationError, "is a file", tmp_path)
    refused(tmp_path / "data" / "below", StationError, "is a file", tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"uuid": 3}', b"\xff\xfe", json.dumps({"uuid": "x", "name": "n", "format": 1}).encode()],
)
def test_a_station_file_that_makes_no_sense(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "station.json").write_bytes(content)
    refused(tmp_path, ForeignDirectory, "station.json")


def test_a_newer_format(tmp_path: Path) -> None:
    with Station(plan(tmp_path / "d")):
        pass
    path = tmp_path / "d" / "station.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    refused(tmp_path / "d", ForeignDirectory, "99|newer|format")


def _own(data_dir: str, tell: Connection) -> None:
    clock = SystemClock()
    with Station(plan(Path(data_dir), waveform("w", clock)), clock) as station:
        wait_for(lambda: any(s.durable_rows for s in station.stats().recorder.streams))
        tell.send("recording")
        tell.recv()


def test_a_second_station_on_the_same_data(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    other = context.Process(target=_own, args=(str(tmp_path / "d"), theirs))
    other.start()
    try:
        assert ours.poll(30)
        assert ours.recv() == "recording"
        with pytest.raises(StationBusy, match="another station"), Station(plan(tmp_path / "d")):
            pass
        ours.send("enough")
        other.join(20)
        assert other.exitcode == 0
    finally:
        other.kill()
    with Station(plan(tmp_path / "d")) as station:
        assert station.recovered.quarantined == []


@contextmanager
def plain_user() -> Iterator[None]:
    """As somebody whom permissions bind: root becomes nobody for the time."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_may_not_be_written(requires: Callable[[str, bool, str], None]) -> None:
    requires("POSIX permissions", os.name == "posix", "run the tests on Linux")
    with tempfile.TemporaryDirectory() as where:
        os.chmod(where, 0o755)
        (Path(where) / "d").mkdir(mode=0o555)
        with plain_user():
            refused(Path(where) / "d", StationError, "may not be written")


def test_a_read_only_file_system(tmp_path: Path, requires: Callable[[str, bool, str], None]) -> None:
    read_only = Path("/proc/self") if Path("/proc/self").is_dir() else None
    requires("a read-only file system", read_only is not None, "mount /proc")
    assert read_only is not None
    with (
        pytest.raises(StationError, match=r"choose another|cannot be|may not be|holds things"),
        Station(plan(read_only / "scidaq")),
    ):
        pass


def test_a_full_disk(tmp_path: Path) -> None:
    def full(verb: str, kind: str, n: int, path: Path) -> None:
        if verb == "append":
            raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(StationError, match=r"no space left where .* lies; free some"),
        Station(plan(tmp_path / "d"), files=WatchedFiles(full)),
    ):
        pass
    with Station(plan(tmp_path / "d")) as station:  # and when there is room again
        assert station.recovered.quarantined == []
