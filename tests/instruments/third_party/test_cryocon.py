"""The SCPI driver against a Cryo-con 24C temperature controller, simulated by those who wrote `cryocon`.

It is asked for its inputs in a dialect of its own (`INPUT? A,B` is answered with semicolons), answers dots and dashes
for temperatures beyond the range of a sensor, `NACK` for what it does not know, and has no error queue.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from scidaq.clock import SystemClock
from scidaq.errors import GarbledReply, ParameterError
from scidaq.instruments import ScpiChannel, ScpiDriver, ScpiOptions, ScpiParameter, ScpiStream, set_parameter
from scidaq.testing import DriverContract

pytestmark = pytest.mark.requires(
    "cryocon",
    all(find_spec(name) for name in ("cryocon", "sinstruments", "scpi")),
    "pip install cryocon sinstruments scpi-protocol",
)

# In a process of its own: its server is gevent's. A real one takes ten messages a second, this one may take more.
SERVER = """
from cryocon.simulator import CryoCon
from sinstruments.simulator import TCPServer
CryoCon.MIN_TIME = 0.001
device = CryoCon("cryo")
server = TCPServer("cryo", device.get_protocol, url="127.0.0.1:0")
server.start()
print(f"127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""
TEMPERATURES = (11.456, 12.456, 13.456, 14.456)

INPUTS = ScpiStream(
    "inputs",
    (
        ScpiChannel("a", "INPUT? A,B", unit="K", separator=";", index=0),
        ScpiChannel("b", "INPUT? A,B", unit="K", separator=";", index=1),
        ScpiChannel("slope", "INPUT? A:SLOPE"),
        ScpiChannel("control", "CONTROL?", dtype="bool"),
        ScpiChannel("scale", "INPUT? A:UNITS", dtype="text", max_bytes=4),
    ),
    rate_hz=100.0,
)
SETPOINT = ScpiParameter("setpoint", "LOOP? 1:SETPT", "LOOP 1:SETPT {value}", "K", limits=(0, 300))
RANGE = ScpiParameter("range", "LOOP? 1:RANGE", "LOOP 1:RANGE {value}", dtype="text", choices=("LOW", "MID", "HI"))
LOCKED = ScpiParameter("locked", "SYSTEM:LOCKOUT?", "SYSTEM:LOCKOUT {value}", dtype="text", choices=("ON", "OFF"))


@pytest.fixture(scope="module")
def cryo():
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def driver_of(cryo, **more):
    options = ScpiOptions(cryo, (INPUTS,), "Cryo-con,24C", parameters=(SETPOINT, RANGE, LOCKED), **more)
    return ScpiDriver("cryo", options, SystemClock())


@pytest.fixture
def driver(cryo):
    one = driver_of(cryo)
    one.identity()
    one.arm()
    yield one
    one.close()


class TestContract(DriverContract):
    @pytest.fixture
    def driver(self, cryo):
        return lambda: driver_of(cryo)


def test_identity(cryo):
    one = driver_of(cryo)
    identity = one.identity()
    one.close()
    assert (identity.manufacturer, identity.model, identity.serial, identity.firmware) == (
        "Cryo-con", "24C", "204683", "1.01A",
    )  # fmt: skip


def test_temperatures_are_numbers_or_missing(driver):
    seen: set[float] = set()
    missing = 0
    while len(seen) < 4 or not missing:
        for block in driver.read(0.5):
            mask = block.valid[0] if block.valid is not None else None
            good = block.column("a") if mask is None else block.column("a")[mask]
            seen |= set(good.tolist())
            missing += block.rows - len(good)
            assert set(block.column("slope").tolist()) == {0.5}
            assert set(block.column("scale").tolist()) == {b"K"}
            assert not block.column("control").any()
    assert seen == set(TEMPERATURES)
    # Two in six are dots or dashes, in either of two channels: asking again is right each time.
    assert driver.counts.garbled == driver.counts.resyncs > 0
    assert driver.counts.timeouts == 0


def test_parameters(driver):
    assert set_parameter(driver, "setpoint", 77.5) == 77.5
    with pytest.raises(ParameterError, match="outside"):
        set_parameter(driver, "setpoint", 400.0)
    assert set_parameter(driver, "range", "LOW") == "LOW"
    assert set_parameter(driver, "locked", "ON") == "ON"
    assert set_parameter(driver, "locked", "OFF") == "OFF"


def test_what_it_does_not_know_is_no_value(cryo):
    unknown = ScpiParameter("humidity", "HUMIDITY?")
    one = ScpiDriver("cryo", ScpiOptions(cryo, (INPUTS,), parameters=(unknown,)), SystemClock())
    one.identity()
    with pytest.raises(GarbledReply, match="'NACK' is not a number"):
        one.get("humidity")
    one.close()
