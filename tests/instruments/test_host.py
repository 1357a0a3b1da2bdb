from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from scidaq.block import Block
from scidaq.clock import SystemClock
from scidaq.instruments import HostDriver
from scidaq.instruments.host import HostOptions
from scidaq.testing import DriverContract, FakeClock


class TestHost(DriverContract):
    @pytest.fixture
    def driver(self):
        clock = SystemClock()
        return lambda: HostDriver("host", HostOptions(cpu_hz=50, rate_hz=50), clock)


def rows_of(driver, clock, seconds=3.0):
    rows: dict[str, list[Block]] = {}
    for _ in range(round(seconds / 0.1)):
        clock.advance(0.1)
        for block in driver.read(0.0):
            rows.setdefault(block.stream, []).append(block)
    return rows


def armed(clock, **options):
    driver = HostDriver("host", HostOptions(**options), clock)
    driver.identity()
    driver.arm()
    return driver


def test_each_stream_has_its_rate():
    clock = FakeClock()
    rows = rows_of(armed(clock), clock)
    assert 29 <= len(rows["cpu"]) <= 30
    assert len(rows["memory"]) == 3


def test_what_there_is_can_be_believed():
    clock = FakeClock()
    rows = rows_of(armed(clock), clock)
    memory = rows["memory"][0]
    assert memory.column("total")[0] == psutil.virtual_memory().total
    for block in rows["cpu"]:
        if block.valid is None:
            usage = block.column("usage")[0]
            assert usage.shape == (psutil.cpu_count(),)
            assert ((usage >= 0) & (usage <= 100)).all()


def test_rates_are_there_from_the_first_row(monkeypatch):
    sent = iter([100, 100, 350, 300])
    monkeypatch.setattr(psutil, "net_io_counters", lambda: SimpleNamespace(bytes_recv=0, bytes_sent=next(sent)))
    clock = FakeClock()
    driver = armed(clock, cpu_hz=1.0)
    first, second = rows_of(driver, clock, 2.0)["network"]
    assert first.column("sent_rate")[0] == pytest.approx(250)
    assert first.valid is None
    assert second.column("sent")[0] == 300
    assert np.isnan(second.physical("sent_rate")[0]), "a counter that went back has no rate"


def test_what_it_does_not_have_is_absent(monkeypatch):
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    names = [spec.name for spec in HostDriver("host", HostOptions(), FakeClock()).describe()]
    assert names == ["cpu", "memory", "network"]


def test_a_sensor_that_goes_is_missing(monkeypatch):
    sensors = {"chip": [SimpleNamespace(label="Core 0", current=41.5), SimpleNamespace(label="", current=42.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    clock = FakeClock()
    driver = armed(clock)
    del sensors["chip"][1]
    block = rows_of(driver, clock, 1.5)["temperature"][0]
    assert block.schema.names == ("chip_Core_0", "chip_1")
    assert block.column("chip_Core_0")[0] == 41.5
    assert np.isnan(block.physical("chip_1")[0])
