"""The SCPI driver against an instrument that others have simulated: a GE PACE5000 pressure controller, by `gepace`."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from scidaq.clock import SystemClock
from scidaq.errors import ParameterError
from scidaq.instruments import ScpiChannel, ScpiDriver, ScpiOptions, ScpiParameter, ScpiStream, set_parameter
from scidaq.testing import DriverContract

pytestmark = pytest.mark.requires(
    "gepace",
    all(find_spec(name) for name in ("gepace", "sinstruments", "scpi")),
    "pip install gepace sinstruments scpi-protocol",
)

# In a process of its own: its server is gevent's, which is not for the process of these tests.
SERVER = """
import sys
import gepace.simulator
from sinstruments.simulator import TCPServer
device = gepace.simulator.Pace("pace")
server = TCPServer("pace", device.get_protocol, url="127.0.0.1:0")
server.start()
print(f"127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""

PRESSURE = ScpiStream(
    "pressure",
    (
        ScpiChannel("sensor", "SENS1:PRES?", unit="mbar"),
        ScpiChannel("source", "SOUR1:PRES:COMP1?", unit="mbar"),
        ScpiChannel("slewing", "SOUR1:PRES:SLEW:MODE?", dtype="text", max_bytes=8),
    ),
    rate_hz=200.0,
)
SLEW = ScpiParameter("slew", "SOUR1:PRES:SLEW?", "SOUR1:PRES:SLEW {value}", "mbar/s", limits=(0.1, 10.0))


@pytest.fixture(scope="module")
def pace():
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def driver_of(pace, **more):
    options = ScpiOptions(pace, (PRESSURE,), "PACE5000", parameters=(SLEW,), headers=True, **more)
    return ScpiDriver("pace", options, SystemClock())


class TestContract(DriverContract):
    @pytest.fixture
    def driver(self, pace):
        return lambda: driver_of(pace)


def test_identity_and_rows(pace):
    driver = driver_of(pace, check_errors=1)
    try:
        identity = driver.identity()
        assert (identity.manufacturer, identity.model, identity.serial) == ("GE Druck", "PACE5000", "10388796")
        driver.arm()
        block = driver.read(1.0)[0]
    finally:
        driver.close()
    assert block.valid is None
    assert 34.567 <= block.column("sensor")[0] < 35.567
    assert 12.464 <= block.column("source")[0] < 13.464
    assert block.column("slewing")[0] == b"LIN"
    assert driver.counts.device_errors == {}


def test_parameters(pace):
    driver = driver_of(pace)
    try:
        driver.identity()
        assert set_parameter(driver, "slew", 3.5) == 3.5
        with pytest.raises(ParameterError, match="outside"):
            set_parameter(driver, "slew", 11.0)
    finally:
        driver.close()
