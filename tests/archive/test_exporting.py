"""An export is whole or not there: targets, checksums, tables, notes, and what is left of those that were killed."""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scidaq.archive import FORMATS, Exported, Request, Source, export
from scidaq.block import Block, Calibration, Channel, Gap, Reason, schema
from scidaq.errors import RequestError, WriteFailed
from tests.archive.opening import OPENERS
from tests.archive.streams import ORIGIN, STREAM

ONE = schema([Channel("code", "int16", calibration=Calibration(0.5, 1.0, "V")), Channel("x")], rate=1000)
OTHER = schema([Channel("x"), Channel("adc", "int8", shape=(2,))], rate=1000)
T0 = 1_767_268_800_000_000_000


def block(first: int, rows: int = 10, epoch: int = 0, kind: object = ONE) -> Block:
    if kind is ONE:
        made = Block.of(ONE, [np.arange(rows), np.arange(rows) / 3], first=first, t0_ns=T0 + first * 10**6)
    else:
        made = Block.of(OTHER, [np.arange(rows), np.ones((rows, 2))], first=first, t0_ns=T0 + first * 10**6)
    return made.placed(STREAM, epoch, first, made.t0_ns)


def gap(first: int, end: int, epoch: int = 0) -> Gap:
    return Gap(STREAM, epoch, first, end, Reason.OVERFLOW)


def exported(target: Path, form: str, *items: Block | Gap, **wanted: object) -> Exported:
    return export([Source(STREAM, items)], Request(form, target, **wanted), ORIGIN)  # type: ignore[arg-type]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def checked(directory: Path, sums: str) -> None:
    done = subprocess.run(["sha256sum", "-c", sums], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_but_the_target_and_its_checksum_is_left(form: str, tmp_path: Path) -> None:
    target = tmp_path / f"a b{FORMATS[form].suffix}"
    done = exported(target, form, block(0), gap(10, 12), block(12))
    beside = [f"{target.name}-metadata.json"] if form == "csv" else []
    assert names(tmp_path) == sorted([target.name, f"{target.name}.sha256", *beside])
    checked(tmp_path, f"{target.name}.sha256")
    assert (done.rows, done.tables) == (20, 1)
    assert done.bytes == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("form", ["csv", "zarr", "hdf5"])
def test_what_is_there_is_replaced_only_by_force(form: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    exported(target, form, block(0))
    before = names(tmp_path)
    with pytest.raises(RequestError, match="--force"):
        exported(target, form, block(0), block(10))
    assert exported(target, form, block(0), block(10), force=True).rows == 20
    assert OPENERS[form](target)[0].description.rows == 20
    assert names(tmp_path) == before
    checked(tmp_path, "out.sha256")


def test_a_directory_that_no_export_made_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(RequestError, match="no export made"):
        exported(tmp_path / "out", "csv", block(0), force=True)
    assert names(tmp_path / "out") == ["thesis.tex"]


def test_a_file_and_a_directory_replace_each_other_by_force(tmp_path: Path) -> None:
    target = tmp_path / "out"
    exported(target, "csv", block(0))
    exported(target, "csv", block(0), block(0, epoch=1, kind=OTHER), force=True)
    assert target.is_dir()
    exported(target, "csv", block(0), force=True)
    assert target.is_file()


def test_a_target_that_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no directory"):
        exported(tmp_path / "gone" / "out.csv", "csv", block(0))
    with pytest.raises(RequestError, match="no format 'xls'"):
        exported(tmp_path / "out", "xls", block(0))
    with pytest.raises(RequestError, match="gzip, none"):
        exported(tmp_path / "out", "hdf5", block(0), compression="lzma")
    assert names(tmp_path) == []


def test_a_directory_that_is_not_to_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match=r"cannot export to /proc/out\.csv"):
        exported(Path("/proc/out.csv"), "csv", block(0))


def test_a_target_that_somebody_else_made_meanwhile_stays(tmp_path: Path) -> None:
    def items() -> Iterator[Block]:
        yield block(0)
        (tmp_path / "out.csv").write_text("mine")

    with pytest.raises(RequestError, match="meanwhile"):
        export([Source(STREAM, items())], Request("csv", tmp_path / "out.csv"), ORIGIN)
    assert (tmp_path / "out.csv").read_text() == "mine"


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows_are_no_file(form: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no rows"):
        exported(tmp_path / "out", form, gap(0, 5))
    assert names(tmp_path) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_reader_that_fails_leaves_nothing(form: str, tmp_path: Path) -> None:
    def items() -> Iterator[Block]:
        yield block(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export([Source(STREAM, items())], Request(form, tmp_path / "out"), ORIGIN)
    assert names(tmp_path) == []


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_a_stream_that_changes_becomes_a_directory(tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    items: list[Block | Gap] = [
        gap(0, 3),
        block(3),
        gap(13, 15),
        gap(0, 2, 1),
        block(2, epoch=1, kind=OTHER),
        gap(12, 13, 1),
    ]
    done = exported(target, "parquet", *items)
    assert any("directory" in note for note in done.notes)
    assert names(target) == ["SHA256SUMS", "fake.stream.2.parquet", "fake.stream.parquet", "manifest.json"]
    checked(target, "SHA256SUMS")
    first, second = sorted((one.description for one in OPENERS["parquet"](target)), key=lambda d: d.part)
    assert [g.first for g in first.gaps] == [0]
    assert [g.first for g in second.gaps] == [13, 0, 12]
    manifest = json.loads((target / "manifest.json").read_bytes())
    assert [table["file"] for table in manifest["tables"]] == ["fake.stream.parquet", "fake.stream.2.parquet"]


def test_a_new_calibration_makes_a_table_of_raw_values_only(tmp_path: Path) -> None:
    other = schema([Channel("code", "int16", calibration=Calibration(2.0, 0.0, "V")), Channel("x")], rate=1000)
    later = Block.of(other, [[1], [2]]).placed(STREAM, 1, 0, T0)
    assert exported(tmp_path / "a.h5", "hdf5", block(0), later).tables == 1
    assert exported(tmp_path / "b.h5", "hdf5", block(0), later, raw=True).tables == 2


@pytest.mark.parametrize("form", FORMATS)
def test_several_streams_go_together(form: str, tmp_path: Path) -> None:
    sources = [Source(STREAM, [block(0)]), Source("fake/none", []), Source("other/one", [block(0, kind=OTHER)])]
    done = export(sources, Request(form, tmp_path / "night", directory=True), ORIGIN)
    assert done.tables == 2
    assert "fake/none has no rows in the range" in done.notes
    assert [one.description.stream for one in OPENERS[form](tmp_path / "night")] == [STREAM, "other/one"]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    export([Source(STREAM, [block(0)], 12)], Request("csv", tmp_path / "o"), ORIGIN, lambda a, b: told.append((a, b)))
    assert told == [(10, 12)]


def test_notes_say_what_does_not_go_in(tmp_path: Path) -> None:
    odd = np.array([0x7FF8000000000001, 0], np.uint64).view(np.float64)
    rows = Block.of(schema([Channel("x")]), [odd], times=[1, 2]).placed(STREAM, 0, 0, 1)
    assert "NaN" in exported(tmp_path / "o.csv", "csv", rows).notes[0]
    assert exported(tmp_path / "o.parquet", "parquet", rows).notes == ()


@pytest.mark.parametrize("text", [False, True])
def test_csv_spells_what_is_not_finite_as_the_w3c_does(text: bool, tmp_path: Path) -> None:
    channels = [Channel("x"), Channel("f", "float32"), *([Channel("note", "text", max_bytes=8)] if text else [])]
    odd = [np.nan, np.inf, -np.inf, 0.1, 5.0]
    columns = [odd, odd, *([["nan"] * 5] if text else [])]
    rows = Block.of(schema(channels), columns, valid={"x": np.arange(5) != 4}, times=[1, 2, 3, 4, 5]).placed(
        STREAM, 0, 0, 1
    )
    exported(tmp_path / "o.csv", "csv", rows)
    with (tmp_path / "o.csv").open(newline="") as file:
        lines = list(csv.reader(file))[1:]
    assert [line[1] for line in lines] == ["NaN", "INF", "-INF", "0.1", ""]
    assert [line[2] for line in lines] == ["NaN", "INF", "-INF", "0.1", "5"]


# ---- trouble --------------------------------------------------------------------------------------------------------

ENDLESS = """
import sys
from pathlib import Path
from scidaq.archive import Request, Source, export
from tests.archive.streams import ORIGIN, STREAM
from tests.archive.test_exporting import block

def items():
    print("begun", flush=True)
    for i in range(int(sys.argv[3])):
        yield block(i * 4096, 4096)

export([Source(STREAM, items())], Request(sys.argv[1], Path(sys.argv[2])), ORIGIN)
"""


def exporting(form: str, target: Path, blocks: int, limit: int | None = None) -> subprocess.Popen[str]:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-c", ENDLESS, form, str(target), str(blocks)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited,
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_one_that_is_killed_leaves_no_file_and_the_next_cleans_up(form: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    for attempt in range(2):
        process = exporting(form, target, 1_000_000)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.Random(attempt).random() / 4)  # at any moment
            process.send_signal(signal.SIGKILL)
        assert not target.exists()
    assert len(names(tmp_path)) == 1, "the second took away what the first had left"
    exported(target, form, block(0))
    assert not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_no_room_is_told_and_leaves_nothing(form: str, tmp_path: Path) -> None:
    """The system refuses to let files grow, as a full disk does."""
    with exporting(form, tmp_path / "out", 2000, limit=200_000) as process:
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "WriteFailed: cannot export to" in said, said
    assert names(tmp_path) == []


def test_one_that_is_under_way_is_left_alone(tmp_path: Path) -> None:
    def items() -> Iterator[Block]:
        yield block(0)
        exported(tmp_path / "b.csv", "csv", block(0))

    export([Source(STREAM, items())], Request("csv", tmp_path / "a.csv"), ORIGIN)
    assert (tmp_path / "a.csv").exists()
    assert (tmp_path / "b.csv").exists()


def test_what_a_killed_one_had_moved_away_comes_back(tmp_path: Path) -> None:
    left = tmp_path / ".old.abc.scidaq-export" / "replaced"
    left.mkdir(parents=True)
    (left / "old").write_text("rows")
    exported(tmp_path / "new.csv", "csv", block(0))
    assert (tmp_path / "old").read_text() == "rows"
