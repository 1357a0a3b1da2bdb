"""The metrics of a station that records."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from scidaq.block import Reason
from scidaq.station import Station, watching
from tests.clock.shifted import ShiftedClock
from tests.station.plans import plan, wait_for, waveform

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(one: Station) -> Values:
    text = one.metrics.render()[0].decode()
    return {
        (s.name, frozenset(s.labels.items())): s.value for f in text_string_to_metric_families(text) for s in f.samples
    }


def value(values: Values, name: str, **labels: str) -> float:
    return values[f"scidaq_{name}", frozenset(labels.items())]


def test_a_station_that_records_has_values_that_move(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(watching, "SAMPLE_S", 0.02)
    clock = ShiftedClock()
    with Station(plan(tmp_path / "d", waveform("adc", clock)), clock) as one:
        wait_for(lambda: one.stats().recorder.streams and one.stats().recorder.streams[0].durable_rows > 100)
        wait_for(lambda: one.health.last)
        before = scraped(one)
        rows = value(before, "durable_rows_total", stream="adc/wave")
        assert rows > 0
        wait_for(lambda: value(scraped(one), "durable_rows_total", stream="adc/wave") > rows)
        wait_for(lambda: ("scidaq_cpu_usage_percent", frozenset()) in scraped(one))
        wait_for(lambda: ("scidaq_disk_usage_bytes", frozenset({("tier", "raw")})) in scraped(one))
        now = scraped(one)
        assert value(now, "data_points_total", stream="adc/wave") >= value(now, "durable_rows_total", stream="adc/wave")
        assert value(now, "active_instruments") == 1
        assert value(now, "instrument_up", instrument="adc") == 1
        assert value(now, "component_health", component="storage") == 0
        assert 0 <= value(now, "buffer_usage_percent", stream="adc/wave") <= 100
        assert 0 <= value(now, "last_row_age_seconds", stream="adc/wave") < 5
        assert value(now, "memory_usage_bytes") > 1 << 20
        assert value(now, "unbalanced_rows") == 0
        assert value(now, "lost_rows_total", reason="overflow") == 0
        stats = one.stats()
        assert sum(stats.recorder.delays.counts) > 0
        assert sum(stats.recorder.delays.counts) <= stats.rings[0].blocks
        assert value(now, "processing_duration_seconds_count", stage="record") > 0
        mean_s = stats.recorder.delays.sum_s / sum(stats.recorder.delays.counts)
        assert 0 < mean_s < 5


def test_a_gap_is_counted_by_its_reason(tmp_path: Path) -> None:
    clock = ShiftedClock()
    with Station(plan(tmp_path / "d", waveform("adc", clock)), clock) as one:
        wait_for(lambda: one.stats().recorder.streams and one.stats().recorder.streams[0].durable_rows > 100)
        driver = one._supervision.instruments["adc"].driver
        assert driver is not None
        driver.disconnect(0.2)  # type: ignore[attr-defined]
        wait_for(lambda: value(scraped(one), "lost_rows_total", reason=Reason.DISCONNECT.value) > 0)
        now = scraped(one)
        assert value(now, "gaps_total", reason="disconnect") == 1
        lost = value(now, "stream_lost_rows_total", stream="adc/wave")
        assert lost == value(now, "lost_rows_total", reason="disconnect")
        wait_for(lambda: one.stats().recorder.streams[0].gap_rows == lost)
        assert value(scraped(one), "reconnects_total", instrument="adc") == 1
