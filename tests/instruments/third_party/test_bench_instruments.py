"""The SCPI driver against oscilloscopes and a supply that `scpi-instrument-control` simulates for its own tests.

They are objects that answer strings. What puts them on a socket is a few lines here, which add nothing to their replies
but the end of line: each oscilloscope sends its waveforms as the real one was seen to, Siglent's with two line ends
behind.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from scidaq.clock import SystemClock
from scidaq.errors import InstrumentError, ParameterError
from scidaq.instruments import (
    ScpiChannel,
    ScpiClient,
    ScpiDriver,
    ScpiOptions,
    ScpiParameter,
    ScpiStream,
    set_parameter,
)
from scidaq.testing import DriverContract

pytestmark = [
    pytest.mark.slow,
    pytest.mark.requires("scpi-instrument-control", find_spec("scpi_control"), "pip install scpi-instrument-control"),
]

# In a process of its own, since it loads SciPy and Matplotlib.
SERVER = """
import socketserver
from scpi_control.connection.mock import MockConnection
from scpi_control.exceptions import SiglentError

WAVEFORM = ("CURVE?", ":WAVEFORM:DATA?", "WF? DAT2")

class Talk(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            replies = [r for r in map(self.answer, line.decode().strip().split(";")) if r is not None]
            for reply in replies:
                self.wfile.write(reply)

    def answer(self, message):
        mock, message = self.server.mock, message.strip()
        if "?" not in message:
            return mock.write(message)
        try:
            if message.upper().endswith(WAVEFORM):
                mock.write(message)
                return mock.read_raw() + self.server.end
            return mock.query(message).encode() + b"\\n"
        except SiglentError:  # no reply at all, as theirs
            return None

def serve(end=b"\\n", **options):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talk)
    server.daemon_threads, server.end, server.mock = True, end, MockConnection(**options)
    server.mock.connect()
    print(f"127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()

"""
MAKERS = {
    "tektronix": 'idn="TEKTRONIX,MSO44,C012345,CF:91.1CT FV:1.28", sample_rate=1e6, timebase=1e-4',
    "siglent": 'end=b"", idn="Siglent Technologies,SDS824X HD,SDS0001,3.8.12", sample_rate=1e6, timebase=1e-4',
    "lecroy": 'idn="LECROY,WAVESURFER3024,LCRY0001,8.5", sample_rate=1e6, timebase=1e-4',
    "supply": "psu_mode=True",
}
POINTS = 1400
"""14 divisions of 0.1 ms at 1 MHz."""


@pytest.fixture(scope="module")
def at():
    """The address of each, in a process that begins when somebody asks for it."""
    processes: dict[str, tuple[subprocess.Popen[str], str]] = {}

    def address(maker: str) -> str:
        if maker not in processes:
            command = [sys.executable, "-W", "ignore", "-c", f"{SERVER}serve({MAKERS[maker]})"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            processes[maker] = process, process.stdout.readline().strip()
        return processes[maker][1]

    yield address
    for process, _ in processes.values():
        process.terminate()
        process.communicate()


def traces(*channels: ScpiChannel) -> ScpiStream:
    return ScpiStream("traces", channels, rate_hz=50.0)


def trace(name: str, query: str, scale: float, points: int = POINTS, block: str = "int8") -> ScpiChannel:
    return ScpiChannel(name, query, shape=(points,), block=block, scale=scale, physical_unit="V")


OPTIONS: dict[str, dict[str, Any]] = {
    "tektronix": {
        "streams": (
            traces(
                trace("ch1", "DATA:SOURCE CH1;:CURVE?", 1 / 25),
                ScpiChannel("step", "WFMOUTPRE:XINCR?", unit="s"),
                trace("ch2", "DATA:SOURCE CH2;:CURVE?", 1 / 25),
            ),
        ),
        "identity": "TEKTRONIX,MSO44",
        "init": ("HEADER OFF", "DATA:WIDTH 1"),
        "parameters": (
            ScpiParameter("timebase", "HORIZONTAL:SCALE?", "HORIZONTAL:SCALE {value}", "s", limits=(1e-9, 10)),
            ScpiParameter(
                "slope", "TRIGGER:A:EDGE:SLOPE?", "TRIGGER:A:EDGE:SLOPE {value}", dtype="text", choices=("RISE", "FALL")
            ),
        ),
    },
    "siglent": {
        "streams": (
            traces(
                trace("ch1", ":WAVEFORM:SOURCE C1;:WAVEFORM:DATA?", 1 / 7680, block="int16 little"),
                ScpiChannel("points", ":WAVEFORM:POINT?", dtype="int64"),
                trace("ch2", ":WAVEFORM:SOURCE C2;:WAVEFORM:DATA?", 1 / 7680, block="int16 little"),
            ),
        ),
        "identity": "SDS824X",
        "init": (":WAVEFORM:WIDTH WORD",),
        "parameters": (ScpiParameter("width", ":WAVEFORM:WIDTH?", None, dtype="text"),),
    },
    "lecroy": {
        "streams": (
            # 346 bytes of description come first in the same block.
            traces(trace("ch1", "C1:WF? DAT2", 1 / 25, 346 + POINTS), ScpiChannel("scale", "C1:VDIV?", unit="V")),
        ),
        "identity": "LECROY",
        "init": ("CHDR OFF",),
        "parameters": (ScpiParameter("timebase", "TDIV?", "TDIV {value}", "s", limits=(1e-9, 10)),),
    },
    "supply": {
        "streams": (
            ScpiStream(
                "output",
                (
                    ScpiChannel("voltage", "MEAS:VOLT? CH1", unit="V"),
                    ScpiChannel("current", "MEAS:CURR? CH1", unit="A"),
                    ScpiChannel("mode", "OUTP1:MODE?", dtype="text", max_bytes=2),
                ),
                rate_hz=200.0,
            ),
        ),
        "identity": "SPD3303X",
        "check_errors": 10,
        "parameters": (
            ScpiParameter("voltage", "CH1:VOLT?", "CH1:VOLT {value}", "V", limits=(0, 30), resolution=1e-3),
        ),
    },
}


def driver_of(at, maker, **more):
    return ScpiDriver(maker, ScpiOptions(at(maker), **{"timeout_s": 2.0, **OPTIONS[maker], **more}), SystemClock())


@pytest.fixture
def armed(at):
    drivers = []

    def make(maker, **more):
        drivers.append(driver_of(at, maker, **more))
        drivers[-1].identity()
        drivers[-1].arm()
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.close()


class TestTektronix(DriverContract):
    @pytest.fixture
    def driver(self, at):
        return lambda: driver_of(at, "tektronix")


class TestSiglent(DriverContract):
    @pytest.fixture
    def driver(self, at):
        return lambda: driver_of(at, "siglent")


class TestLeCroy(DriverContract):
    @pytest.fixture
    def driver(self, at):
        return lambda: driver_of(at, "lecroy")


class TestSupply(DriverContract):
    @pytest.fixture
    def driver(self, at):
        return lambda: driver_of(at, "supply")


@pytest.mark.parametrize("maker", ["tektronix", "siglent"])
def test_waveforms_are_volts(armed, maker):
    driver = armed(maker)
    rows = 0
    while rows < 5:
        for block in driver.read(1.0):
            assert block.valid is None, "of two line ends, one was taken for a reply"
            square, sine = block.physical("ch1"), block.physical("ch2")
            rows += block.rows
            assert np.abs(np.abs(square) - 1.0).max() < 0.1
            assert sine.max() == pytest.approx(0.5, abs=0.08)
            assert sine.min() == pytest.approx(-0.5, abs=0.08)
    assert driver.counts.garbled == driver.counts.timeouts == 0


def test_a_block_with_a_description_in_it(armed):
    block = armed("lecroy").read(1.0)[0]
    assert block.valid is None
    assert bytes(block.column("ch1")[0][:8]) == b"WAVEDESC"
    assert np.abs(np.abs(block.physical("ch1")[:, 346:]) - 1.0).max() < 0.1


def test_settings_change_what_is_seen(armed):
    driver = armed("tektronix")
    assert set_parameter(driver, "slope", "FALL") == "FALL"
    falling = driver.read(1.0)[0].physical("ch1")[0]
    assert falling[POINTS // 2 - 20] > falling[POINTS // 2 + 20]
    assert set_parameter(driver, "slope", "RISE") == "RISE"
    assert set_parameter(driver, "timebase", 2e-4) == 2e-4
    assert driver.read(1.0)[0].valid is not None  # twice as many points: not what was declared
    assert set_parameter(driver, "timebase", 1e-4) == 1e-4
    assert driver.read(1.0)[0].valid is None


def test_the_supply_is_set_and_measured(armed):
    driver = armed("supply")
    assert set_parameter(driver, "voltage", 12.5) == 12.5
    assert driver.get("voltage") == 12.5
    with pytest.raises(ParameterError, match="outside"):
        set_parameter(driver, "voltage", 31.0)
    block = driver.read(1.0)[0]
    assert block.valid is None
    assert block.column("mode")[0] == b"CV"
    assert driver.counts.device_errors == {}


def test_its_error_queue(at, armed):
    with ScpiClient.open(at("supply")) as client:
        client.tell("CH1:VOLT -5")
        assert [error.code for error in client.errors()] == [-222]
        assert client.errors() == []
    with pytest.raises(InstrumentError, match="-222"):
        armed("supply", init=("CH1:VOLT -5",))


def test_a_query_that_it_never_answers_is_missing_and_the_next_is_right(armed):
    wrong = traces(ScpiChannel("none", "NONSENSE?"), ScpiChannel("step", "WFMOUTPRE:XINCR?", unit="s"))
    block = armed("tektronix", streams=(wrong,), timeout_s=0.4).read(1.0)[0]
    assert block.valid is not None
    assert block.valid[1] is None
    assert block.column("step")[0] == pytest.approx(1e-6)
