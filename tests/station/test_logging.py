"""A flood of log events beside a recording."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import structlog

from scidaq.observe import LoggingOptions, Logs
from scidaq.station import Station
from scidaq.store import verify
from tests.clock.shifted import ShiftedClock
from tests.station.plans import plan, wait_for, waveform

EVENTS = 50_000


@pytest.mark.slow
def test_fifty_thousand_events_in_a_second_cost_no_row_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    clock = ShiftedClock()
    options = LoggingOptions(console="never", queue_events=1000)
    with Logs(options, tmp_path / "logs", clock) as logs:
        with Station(plan(tmp_path / "d", waveform("adc", clock, rate_hz=20_000)), clock) as one:
            logs.begin_file()
            wait_for(lambda: one.stats().recorder.streams and one.stats().recorder.streams[0].durable_rows > 1000)
            before = one.stats().recorder.streams[0].durable_rows

            def flood() -> None:
                log = structlog.get_logger("scidaq.flood")
                for i in range(EVENTS // 2):
                    log.info("event", i=i)

            began = time.monotonic()
            threads = [threading.Thread(target=flood) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.monotonic() - began
            wait_for(lambda: one.stats().recorder.streams[0].durable_rows > before + 10_000 * took)
            stats = one.stats()
            assert stats.rings[0].refused_rows == 0
            assert stats.intakes[0].gaps == {}
        logs.flush()
        said = logs.stats()
    assert said.events["info"] >= EVENTS
    text = (tmp_path / "logs" / "scientific-daq.log").read_text()
    assert text.count('"event":"event"') + said.dropped >= EVENTS
    assert text.count('"event":"event"') + said.dropped <= said.events["info"]
    if said.dropped:
        assert '"event":"log events were dropped"' in text
    assert verify(tmp_path / "d").ok
