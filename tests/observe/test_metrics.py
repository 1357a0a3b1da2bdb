"""The text that a scrape gets, and how many series are in it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from scidaq.observe import CATALOGUE, Metrics, Sample
from scidaq.observe.host import Pace, Process, usage
from scidaq.stats import BOUNDS_S, Durations

OPEN = "application/openmetrics-text; version=1.0.0"
REQUIRED = """scidaq_data_points_total scidaq_active_instruments scidaq_buffer_usage_percent scidaq_errors_total
scidaq_processing_duration_seconds scidaq_memory_usage_bytes scidaq_cpu_usage_percent scidaq_disk_usage_bytes""".split()


def text(*samples: Sample, accept: str = "", patterns: tuple[str, ...] = ("*",)) -> str:
    return Metrics(lambda: samples, patterns).render(accept)[0].decode()


def test_the_format_is_what_is_asked_for():
    metrics = Metrics(lambda: [Sample("scidaq_errors_total", ("storage",), 3)])
    body, kind = metrics.render()
    assert kind.startswith("text/plain; version=")
    assert b'scidaq_errors_total{component="storage"} 3.0\n' in body
    body, kind = metrics.render(OPEN)
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert b"# TYPE scidaq_errors counter\n" in body
    assert b"# UNIT scidaq_errors errors\n" in body


def test_both_formats_are_read_by_their_parsers():
    durations = Durations()
    samples = [
        Sample(m.name, ("x",) * len(m.labels), durations.stats() if m.kind == "histogram" else 1.0)
        for m in CATALOGUE
        if m.kind != "info"
    ]
    names = {m.name.removesuffix("_total") for m in CATALOGUE if m.kind != "info"}
    for accept, parse in (("", prometheus_text), (OPEN, open_metrics)):
        families = {f.name: f for f in parse(text(*samples, accept=accept))}
        assert set(families) == names
        assert all(f.documentation.endswith(".") for f in families.values())


def test_every_metric_has_a_help_and_a_unit():
    for metric in CATALOGUE:
        assert metric.name.startswith("scidaq_")
        assert metric.help.endswith(".")
        assert metric.unit
        assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert {m.name for m in CATALOGUE} >= set(REQUIRED)
    assert len({m.name for m in CATALOGUE}) == len(CATALOGUE)


def test_at_most_six_series_for_each_stream():
    assert len([m for m in CATALOGUE if "stream" in m.labels]) <= 6


def test_what_has_no_value_is_absent():
    assert "scidaq" not in text()


def test_durations_are_sorted_into_the_buckets_of_the_guide():
    assert BOUNDS_S == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
    durations = Durations()
    for seconds in (0.0005, 0.001, 0.2, 60.0):
        durations.add(seconds)
    lines = text(Sample("scidaq_processing_duration_seconds", ("record",), durations.stats())).splitlines()
    found = {line.partition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    prefix = 'scidaq_processing_duration_seconds_bucket{le="%s",stage="record"}'
    assert [found[prefix % le] for le in ("0.001", "0.1", "0.5", "30.0", "+Inf")] == [2, 2, 3, 3, 4]
    assert found['scidaq_processing_duration_seconds_sum{stage="record"}'] == pytest.approx(60.2015)
    assert found['scidaq_processing_duration_seconds_count{stage="record"}'] == 4


def streams(count: int) -> Iterable[Sample]:
    for i in range(count):
        yield Sample("scidaq_data_points_total", (f"a/s{i}",), 1)
        yield Sample("scidaq_last_row_age_seconds", (f"a/s{i}",), float(i))


def test_streams_beyond_two_hundred_are_one_series():
    series = [line for line in text(*streams(1000)).splitlines() if not line.startswith("#")]
    assert len(series) == 2 * 201
    assert 'scidaq_data_points_total{stream="other"} 800.0' in series
    assert 'scidaq_last_row_age_seconds{stream="other"} 999.0' in series


def test_which_streams_have_series_of_their_own_is_chosen():
    lines = text(*streams(3), Sample("scidaq_data_points_total", ("b/x",), 5), patterns=("b/*",)).splitlines()
    assert 'scidaq_data_points_total{stream="b/x"} 5.0' in lines
    assert 'scidaq_data_points_total{stream="other"} 3.0' in lines


def test_a_stream_keeps_its_series_as_others_come():
    known = [f"a/s{i}" for i in range(200)]
    metrics = Metrics(lambda: [Sample("scidaq_data_points_total", (s,), 1) for s in known])
    metrics.render()
    known.insert(0, "a/new")
    body = metrics.render()[0].decode()
    assert 'stream="a/s199"' in body
    assert 'stream="a/new"' not in body


def test_a_source_that_fails_takes_no_other_with_it():
    def fail() -> Iterable[Sample]:
        raise RuntimeError("no")

    metrics = Metrics(lambda: [Sample("scidaq_errors_total", ("storage",), 1)])
    metrics.add(fail)
    metrics.add(lambda: [Sample("scidaq_event_loop_lag_seconds", (), 0.25)])
    assert "scidaq_event_loop_lag_seconds 0.25" in metrics.render()[0].decode()


def test_others_run_while_it_renders():
    metrics = Metrics(lambda: streams(200))
    longest, stop = [0.0], threading.Event()

    def watch() -> None:
        before = time.perf_counter()
        while not stop.is_set():
            time.sleep(0)
            now = time.perf_counter()
            longest[0], before = max(longest[0], now - before), now

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # as the station does
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for _ in range(5):
            metrics.render()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert longest[0] < 0.2  # a bound for any machine; bench/scrape says what it is


def test_the_pace_is_that_of_the_window():
    pace = Pace(window_s=100, least_s=10)
    assert pace.per_s() is None
    pace.sample(0, 0)
    pace.sample(5, 50)
    assert pace.per_s() is None
    for i in range(1, 40):
        pace.sample(10 * i, 100 * i)
    assert pace.per_s() == 10
    for i in range(40, 60):
        pace.sample(10 * i, 3900)
    assert pace.per_s() == 0


def test_the_process_has_memory_and_processor_time():
    process = Process()
    process.sample(0.0)
    assert process.cpu_percent is None
    process.sample(1.0)
    assert process.cpu_percent is not None
    assert process.cpu_percent >= 0
    assert (process.memory_bytes() or 0) > 1 << 20


def test_places_are_measured_as_they_occupy_the_disk(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"x" * 10_000)
    (tmp_path / "f").write_bytes(b"x" * 5000)
    found = usage({"tree": tmp_path / "a", "file": tmp_path / "f", "none": tmp_path / "no"})
    assert set(found) == {"tree", "file"}
    assert found["tree"] >= 10_000
    assert found["file"] >= 5000
