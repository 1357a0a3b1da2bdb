"""Files that become past data: exact, once, and again where it was interrupted."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scidaq import record
from scidaq.block import NS, Block, Gap, Reason
from scidaq.catalog import Fact, read_facts, read_run_book
from scidaq.errors import RequestError, StationBusy, UnreadableFile
from scidaq.instruments import Reading, tables
from scidaq.query import Reader
from scidaq.station import Importer, Source, streams_of
from scidaq.store import verify

T0_S = 1_700_000_000
GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "streams" / "scope" / "adc"


def csv(path, rows, start_s=T0_S, column="v"):
    path.write_text(f"time,{column}\n" + "".join(f"{start_s + i},{i}\n" for i in range(rows)))
    return path


def imported(data_dir, *paths, stream=None, reading=None, run=None):
    reading = reading or Reading()
    done = []
    with Importer(data_dir) as importer:
        for path in paths:
            found = streams_of(tables(path, reading), stream)
            source = Source.of(path, reading)
            done += [importer.take(source, name, parts) for name, parts in found.items()]
        if run:
            importer.declare(run, done)
    return done


def rows_of(data_dir, stream):
    return [i for i in Reader(data_dir).blocks(stream) if isinstance(i, Block)]


def gaps_of(data_dir, stream):
    return [i for i in Reader(data_dir).blocks(stream) if isinstance(i, Gap)]


def content(data_dir):
    return {p.relative_to(data_dir): p.read_bytes() for p in sorted(data_dir.glob("streams/**/*")) if p.is_file()}


def alike(items):
    """Rows one by one, and gaps: the same however rows were put into blocks."""
    out: list[tuple[object, ...]] = []
    for item in items:
        if isinstance(item, Gap):
            known = item.reason is not Reason.POLICY and "policy" not in item.detail
            out.append((item.first, item.end, item.reason if known else "", item.start_ns, item.end_ns))
            continue
        times = item.time_ns()
        for i in range(item.rows):
            valid = [m is None or bool(m[i]) for m in item.valid or [None] * len(item.columns)]
            values = [c[i].tobytes() if v else None for c, v in zip(item.columns, valid, strict=True)]
            out.append((item.epoch, item.first + i, int(times[i]), *values))
    return out


def fine(data_dir):
    report = verify(data_dir)
    assert report.ok, report.problems
    return report


def test_rows_have_the_times_of_the_file(tmp_path):
    (one,) = imported(tmp_path / "d", csv(tmp_path / "a.csv", 1000))
    assert (one.stream, one.rows, one.new_rows) == ("import/a", 1000, 1000)
    blocks = rows_of(tmp_path / "d", "import/a")
    assert np.concatenate([b.times for b in blocks]).tolist() == [(T0_S + i) * NS for i in range(1000)]
    assert np.concatenate([b.column("v") for b in blocks]).tolist() == list(range(1000))
    assert not any(b.bounded for b in fine(tmp_path / "d").balances)


def test_done_again_it_changes_nothing(tmp_path):
    path = csv(tmp_path / "a.csv", 100)
    imported(tmp_path / "d", path)
    before = content(tmp_path / "d")
    (again,) = imported(tmp_path / "d", path)
    assert (again.rows, again.new_rows) == (100, 0)
    assert content(tmp_path / "d") == before
    fine(tmp_path / "d")


def test_a_file_that_its_checksum_does_not_know_is_refused(tmp_path):
    path = csv(tmp_path / "a.csv", 100)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for sums in (tmp_path / "a.csv.sha256", tmp_path / "SHA256SUMS"):
        sums.write_text(f"{'0' * 64}  b.csv\n{digest}  a.csv\n", encoding="utf-8")
        imported(tmp_path / f"data-{sums.stem}", path)
        sums.write_text(f"{'0' * 64} *a.csv\n", encoding="utf-8")
        with pytest.raises(UnreadableFile, match=f"a.csv: it has been changed .* {sums.name} says otherwise"):
            imported(tmp_path / "e", path)
        sums.unlink()


def test_a_fact_says_what_was_taken(tmp_path):
    path = csv(tmp_path / "a.csv", 10)
    imported(tmp_path / "d", path)
    (said,) = [f.data for f in read_facts(tmp_path / "d" / "facts") if isinstance(f, Fact) and f.kind == "import.ended"]
    assert said["file"] == "a.csv"
    assert said["bytes"] == path.stat().st_size
    assert said["rows"] == 10
    assert said["stream"] == "import/a"
    assert len(said["sha256"]) == 64


def test_older_rows_are_refused_newer_ones_begin_an_epoch(tmp_path):
    imported(tmp_path / "d", csv(tmp_path / "a.csv", 10), stream="lab/v")
    with pytest.raises(RequestError, match=r"b\.csv begins 5\.000000000 s before the newest row of lab/v.*--stream"):
        imported(tmp_path / "d", csv(tmp_path / "b.csv", 10, T0_S + 4), stream="lab/v")
    imported(tmp_path / "d", csv(tmp_path / "c.csv", 10, T0_S + 100), stream="lab/v")
    assert [b.epoch for b in rows_of(tmp_path / "d", "lab/v")] == [0, 1]
    (gap,) = gaps_of(tmp_path / "d", "lab/v")
    assert (gap.epoch, gap.reason, gap.unknown) == (1, Reason.RESET, True)
    assert "c.csv" in gap.detail
    fine(tmp_path / "d")


def test_everything_that_is_in_the_way_is_named_before_anything_is_taken(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("a", "b", "c", "d"):
        csv(run / f"{name}.csv", 10)
    paths = sorted(run.iterdir())
    imported(tmp_path / "d", paths[0])
    imported(tmp_path / "d", csv(tmp_path / "e.csv", 5, T0_S + 50), stream="import/a")
    for stream in ("import/b", "import/d"):
        imported(tmp_path / "d", tmp_path / "e.csv", stream=stream)
    before = content(tmp_path / "d")

    def files(chosen, below=None):
        return [(Source.of(p, Reading()), streams_of(tables(p, Reading()), below)) for p in chosen]

    with Importer(tmp_path / "d") as importer:
        with pytest.raises(RequestError) as refused:
            importer.check(files(paths))
        importer.check(files([paths[0], paths[2]]))  # taken before, or nothing there
        importer.check(files(paths, "copy"))
    said = str(refused.value)
    assert "b.csv begins 54.000000000 s before the newest row of import/b" in said
    assert "import/d" in said
    assert "--stream" in said
    assert "Nothing was imported" in said
    assert not {"import/a", "import/c"} & set(said.replace(";", " ").split())
    assert content(tmp_path / "d") == before
    done = imported(tmp_path / "d", paths[0], paths[2])
    assert [one.new_rows for one in done] == [0, 10]


def test_several_files_make_one_stream_in_their_order(tmp_path):
    paths = [csv(tmp_path / f"{i}.csv", 10, T0_S + 100 * i) for i in range(3)]
    imported(tmp_path / "d", *paths, stream="lab/v")
    assert sum(b.rows for b in rows_of(tmp_path / "d", "lab/v")) == 30
    again = imported(tmp_path / "d", *paths, stream="lab/v")
    assert [one.new_rows for one in again] == [0, 0, 0]
    fine(tmp_path / "d")


def test_what_is_wrong_farther_on_keeps_what_came_before(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,v\n" + "".join(f"{T0_S + i},{i}\n" for i in range(200_000)) + f"{T0_S},1\n")
    with pytest.raises(UnreadableFile, match=r"a\.csv, line 200002: its time lies 199999 s before"):
        imported(tmp_path / "d", path)
    assert sum(b.rows for b in rows_of(tmp_path / "d", "import/a")) > 100_000
    fine(tmp_path / "d")


def test_a_uniform_file_with_an_odd_rate_keeps_its_times_to_the_nanosecond(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("v\n" + "\n".join(map(str, range(200_000))))
    reading = Reading(rate_hz=44_100, start_ns=T0_S * NS)
    imported(tmp_path / "d", path, reading=reading)
    blocks = rows_of(tmp_path / "d", "import/a")
    times = np.concatenate([b.time_ns() for b in blocks])
    assert blocks[0].schema.rate == Fraction(44_100)
    assert times.tolist() == [T0_S * NS + i * NS // 44_100 for i in range(200_000)]


def test_segments_come_back_with_their_rows_and_gaps(tmp_path):
    imported(tmp_path / "d", GOLDEN)
    source = tmp_path / "source"
    os.symlink(GOLDEN.parents[2], source)
    old, new = (alike(Reader(d).blocks("scope/adc")) for d in (source, tmp_path / "d"))
    assert old == new
    fine(tmp_path / "d")


def test_a_run_is_declared_over_what_came(tmp_path):
    imported(tmp_path / "d", csv(tmp_path / "a.csv", 10), run="night")
    run = read_run_book(tmp_path / "d" / "facts").run("night")
    assert (run.start_ns, run.stop_ns, run.streams) == (T0_S * NS, (T0_S + 9) * NS + 1, ("import/a",))


def test_where_something_records_it_is_refused(tmp_path):
    with record(tmp_path / "d", {"v": "V"}) as rec:
        rec.add(v=1.0)
        with pytest.raises(StationBusy, match="Stop it for the import, or import into a directory of its own"):
            imported(tmp_path / "d", csv(tmp_path / "a.csv", 10))


def test_a_station_goes_on_behind_what_was_imported(tmp_path):
    imported(tmp_path / "d", csv(tmp_path / "a.csv", 10), stream="script/readings")
    with record(tmp_path / "d", {"v": "V"}) as rec:
        rec.add(v=1.0)
    assert [b.epoch for b in rows_of(tmp_path / "d", "script/readings")] == [0, 1]
    fine(tmp_path / "d")


def test_into_which_stream():
    (golden,) = tables(GOLDEN, Reading())
    assert list(streams_of([golden])) == ["scope/adc"]
    assert list(streams_of([golden], "lab")) == ["lab/adc"]
    assert list(streams_of([golden], "lab/x")) == ["lab/x"]


def test_streams_of_one_name_and_several_instruments_stay_apart():
    (one,) = tables(GOLDEN, Reading())
    several = [one, replace(one, stream="dmm/adc"), replace(one, stream="dmm/v")]
    assert list(streams_of(several, "lab")) == ["lab/scope-adc", "lab/dmm-adc", "lab/v"]
    with pytest.raises(RequestError, match="the file has 3 streams"):
        streams_of(several, "lab/x")
    twins = [one, replace(one, stream="dmm/adc"), replace(one, stream="dmm/dmm-adc")]
    with pytest.raises(RequestError, match="two streams of the file would become one"):
        streams_of(twins, "lab")


PROGRAM = """
import sys, time
from pathlib import Path
from scidaq.instruments import Reading, tables
from scidaq.station import Importer, Source, streams_of
from scidaq.store import Options
data_dir, path = map(Path, sys.argv[1:])
reading = Reading()
def told(rows, total):
    print(rows, flush=True)
    time.sleep(0.005)  # so that there is something to interrupt
with Importer(data_dir, storage=Options(sync_interval_ms=10)) as importer:
    for name, parts in streams_of(tables(path, reading)).items():
        importer.take(Source.of(path, reading), name, parts, told)
"""


@pytest.mark.crash
@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(tmp_path, kills):
    rows = 2_000_000
    times = pa.array(np.arange(rows) * 1000 + T0_S * NS, pa.timestamp("ns", "UTC"))
    values = np.random.default_rng(1).standard_normal(rows)
    path, data_dir = tmp_path / "a.parquet", tmp_path / "d"
    pq.write_table(pa.table({"time": times, "v": values}), path)
    kills = max(4, kills // 4)
    found = []
    for i in range(kills):
        command = [sys.executable, "-c", PROGRAM, str(data_dir), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            limit = rows * (i + 1) // (kills + 1)
            for line in process.stdout:
                if line.strip().isdigit() and int(line) >= limit:  # others are of the log
                    process.kill()
        assert process.returncode == -signal.SIGKILL
        if Reader(data_dir).names():
            found.append(sum(b.rows for b in rows_of(data_dir, "import/a")))
    (one,) = imported(data_dir, path)
    assert one.rows == rows
    assert 0 < one.new_rows < rows
    assert found == sorted(found)
    assert 0 < found[-1] < rows
    blocks = rows_of(data_dir, "import/a")
    assert np.concatenate([b.column("v") for b in blocks]).tobytes() == values.tobytes()
    assert (np.concatenate([b.time_ns() for b in blocks]) == np.arange(rows) * 1000 + T0_S * NS).all()
    assert {b.epoch for b in blocks} == {0}
    (balance,) = fine(data_dir).balances
    assert balance.ledger.delivered == balance.ledger.recorded == rows
