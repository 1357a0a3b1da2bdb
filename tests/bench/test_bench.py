from __future__ import annotations

import multiprocessing

import pytest

from bench.__main__ import BENCHMARKS, PAGE, main, marks, run, with_figures
from bench.machine import described, warm
from bench.places import BASE, fresh, on_disk
from bench.results import HEAD, Row, table
from bench.settings import Settings
from bench.surviving import READERS, SURVIVES, UNREADABLE, after_a_kill
from bench.writers import NEEDS, RAW, WRITERS, Outcome, Work, missing, pump, samples

TINY = Settings(
    rounds=1,
    kills=1,
    ingest_s=0.2,
    warm_s=0.2,
    memory_s=0.0,
    table_bytes=8 << 20,
    slow_s=0.5,
    streams_s=1.5,
    instruments=2,
    streams=3,
    peer_s=0.1,
    reading_turns=1,
    generations=1,
    turns=1,
    turn_s=0.05,
    mixed_rounds=1,
    mixed_s=0.5,
    live_rounds=1,
    starts=1,
    idle_s=0.5,
    segments=20,
    export_rounds=1,
    export_rows=200_000,
    api_s=0.2,
    scrapes=2,
    zoom_rows=3_000_000,
    zooms=3,
    warm_zooms=1,
    flight_bytes=16 << 20,
    flight_rounds=1,
    only=("scidaq", "Arrow", "SQLite", "PyVISA"),
)


def test_a_table_has_a_line_per_row_and_aligned_columns():
    lines = table([Row("ingest", "scidaq", "1 MB/s"), Row("ingest", "another that is longer")]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[0].strip("| ").split("|")] == list(HEAD)


def test_figures_replace_those_of_before():
    (begin, end), (own, own_end) = marks(), marks("read")
    page = f"a\n{begin}\n\nold\n{end}\nb\n{own}\n{own_end}\n"
    assert with_figures(page, "new\n") == f"a\n{begin}\n\nnew\n\n{end}\nb\n{own}\n{own_end}\n"
    assert with_figures(page, "new\n", "read") == f"a\n{begin}\n\nold\n{end}\nb\n{own}\n\nnew\n\n{own_end}\n"
    assert with_figures(with_figures(page, "new\n"), "new\n") == with_figures(page, "new\n")
    with pytest.raises(ValueError, match="figures"):
        with_figures("a page without markers", "new")


def test_the_page_has_its_markers():
    for name in ("", "api", "mixed", "read", "scrape"):
        with_figures(PAGE.read_text(), "", name)


def test_the_machine_is_described_without_its_name():
    import platform

    text = described(BASE.parent.parent)
    assert platform.python_version() in text
    assert "numpy" in text
    assert str(BASE.parent.parent) not in text
    assert platform.node() not in text or len(platform.node()) < 6  # a short name may be part of a word


def test_memory_is_touched_for_as_long_as_it_is_told():
    assert 0 < warm(0.0) <= 256 << 20


def test_a_fresh_directory_is_gone_afterwards():
    with fresh() as directory:
        (directory / "a").write_bytes(b"x" * 10_000)
        assert on_disk(directory) >= 10_000
    assert not directory.exists()


def test_pumping_counts_what_lies_between_two_syncs():
    calls = []

    def write(n: int) -> int:
        calls.append(n)
        return 100

    outcome = pump((write, lambda: None), Work("int16", 1 << 20, 0.0, 0.0))
    assert 0 < outcome.bytes < 100 * len(calls)
    assert outcome.seconds > 0


def test_an_outcome_is_told_in_megabytes_and_seconds_per_gigabyte():
    outcome = Outcome(2_000_000_000, 4.0, 1.0)
    assert (outcome.speed, outcome.cpu_s_per_gb) == (5e8, 0.5)


def test_samples_fill_their_memory():
    memory, values = samples(Work("float64", 2 << 20, 0, 0))
    assert values.shape == (len(memory) // 64, 8)
    assert values.std() > 0.5


@pytest.mark.parametrize("name", [name for name in WRITERS if not missing(name)])
def test_every_writer_writes(name):
    work = Work("int16", 8 << 20, 0.0, 0.0)
    with fresh() as directory, WRITERS[name](work, directory) as (write, sync):
        size = write(0) + write(1)
        sync()
        assert on_disk(directory) >= size or "gzip" in name


@pytest.mark.slow
def test_a_killed_stream_is_read_up_to_its_torn_end_and_a_file_without_its_end_is_not():
    work = Work("float64", 8 << 20, 0.0, 0.0)
    assert after_a_kill("Arrow IPC stream", work) == SURVIVES
    assert after_a_kill("Parquet", work) == UNREADABLE


def test_every_writer_has_a_reader():
    assert READERS.keys() == WRITERS.keys() - {RAW}


@pytest.mark.parametrize("name", NEEDS)
def test_a_peer_that_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setitem(NEEDS, name, "a_module_that_nobody_has")
    assert missing(name)


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["no_such_benchmark"])
    assert "many_streams" in capsys.readouterr().err


@pytest.mark.tiny
@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_tiny_run_prints_the_table(name):
    said: list[str] = []
    text = run([name], TINY, said.append)
    assert "| scidaq" in text
    assert "IMBALANCE" not in text
    assert said
    assert not multiprocessing.active_children()
