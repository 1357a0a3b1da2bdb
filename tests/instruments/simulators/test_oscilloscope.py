from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scidaq.clock import SystemClock
from scidaq.errors import InstrumentError, ParameterError
from scidaq.instruments import (
    Oscilloscope,
    ScpiChannel,
    ScpiClient,
    ScpiDriver,
    ScpiOptions,
    ScpiParameter,
    ScpiStream,
    Signal,
    Trouble,
    set_parameter,
)
from scidaq.instruments import scpi_protocol as scpi
from scidaq.testing import DriverContract

SINE = Signal("sine", 1000.0, 1.0, 0.25)
QUIET = (SINE, Signal("square", 1000.0, 1.65, 1.65), Signal("triangle", 250.0, 0.4, 0.1), Signal())


@pytest.fixture
def scope():
    return Oscilloscope(signals=QUIET)


def ask(scope: Oscilloscope, query: str) -> str:
    reply = scope.answer(query.encode())
    assert reply is not None, f"{query}: no reply; {scope.answer(b'SYST:ERR?')!r}"
    return reply.decode("latin-1")


def say(scope: Oscilloscope, *commands: str) -> None:
    for command in commands:
        assert scope.answer(command.encode()) is None
    assert ask(scope, "SYST:ERR?") == '+0,"No error"'


def codes(scope: Oscilloscope, channel: int) -> np.ndarray:
    reply = scope.answer(f"WAV:DATA? CHAN{channel}".encode())
    assert reply is not None
    header = scpi.block_header(reply)
    assert header is not None
    assert header.size == len(reply) - header.start
    form = {"BYTE": "i1", "WORD": {"MSBF": ">i2", "LSBF": "<i2"}[ask(scope, "WAV:BYT?")]}[ask(scope, "WAV:FORM?")]
    return np.frombuffer(reply, form, offset=header.start)


def trace(scope: Oscilloscope, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and volts, as the preamble says."""
    raw = codes(scope, channel)
    said = [float(item) for item in ask(scope, f"WAV:PRE? CHAN{channel}").split(",")]
    points, x_step, x_origin, x_reference, y_step, y_origin, y_reference = said[2], *said[4:]
    assert len(raw) == points
    return (np.arange(points) - x_reference) * x_step + x_origin, (raw - y_reference) * y_step + y_origin


@pytest.mark.parametrize("form", ["BYTE", "WORD;BYT LSBF", "WORD;BYT MSBF"])
def test_codes_become_volts_by_the_preamble(scope, form):
    say(scope, *(f"WAV:{part}" for part in f"FORM {form}".split(";")[:1]))
    if "BYT " in form:
        say(scope, "WAV:" + form.split(";")[1])
    seconds, volts = trace(scope, 1)
    at_trigger = np.arcsin(-0.25) / (2 * np.pi)
    expected = 0.25 + np.sin(2 * np.pi * (1000 * seconds + at_trigger))
    resolution = 8 * 0.5 / (256 if form == "BYTE" else 65536)
    assert np.abs(volts - expected).max() <= resolution / 2 + 1e-6


def test_ascii_is_volts(scope):
    say(scope, "WAV:FORM ASC", "WAV:SOUR CHAN2", "ACQ:POIN 100")
    volts = scpi.numbers(ask(scope, "WAV:DATA?").encode())
    assert len(volts) == 100
    assert volts.max() <= 2.0  # the screen ends there
    assert ask(scope, "WAV:PRE?").startswith("4,0,100,1,")


@pytest.mark.parametrize("channel", [1, 2, 3])
@pytest.mark.parametrize("slope", ["POS", "NEG"])
@pytest.mark.parametrize("level", [0.0, 0.2, 0.45])
def test_records_are_aligned_to_the_trigger(scope, channel, slope, level):
    say(scope, f"TRIG:SOUR CHAN{channel}", f"TRIG:SLOP {slope}", f"TRIG:LEV {level}", "WAV:FORM WORD")
    say(scope, f"CHAN{channel}:SCAL 1")
    if channel == 2 and level == 0.0:
        assert ask(scope, "TRIG:STAT?") == "AUTO"  # its bottom is no crossing
        return
    assert ask(scope, "TRIG:STAT?") == "TD"
    for _ in range(3):
        seconds, volts = trace(scope, channel)
        middle = int(np.argmin(np.abs(seconds)))
        # Where the edge of a square is steep, one point is far.
        near = abs(volts[middle] - level) <= 8 / 65536 + np.abs(np.diff(volts)[middle - 1 : middle + 1]).max()
        assert near
        rises = volts[middle + 1] > volts[middle - 1]
        assert rises == (slope == "POS")


def test_channels_read_one_after_the_other_belong_to_one_trigger():
    scope = Oscilloscope(signals=(replace(SINE, noise_v=0.1), *QUIET[1:]))
    first, other = codes(scope, 1), codes(scope, 2)
    assert scope.acquired == 1
    assert not np.array_equal(first, codes(scope, 1))
    assert scope.acquired == 2
    assert np.array_equal(other, codes(scope, 2))  # without noise, and locked to the trigger
    assert scope.acquired == 2


def test_the_same_seed_shows_the_same():
    one, same, other = (Oscilloscope(seed) for seed in (3, 3, 4))
    assert np.array_equal(codes(one, 4), codes(same, 4))
    assert not np.array_equal(codes(one, 4), codes(other, 4))


def test_stop_keeps_the_record_and_what_it_was_made_with(scope):
    before = trace(scope, 1)
    say(scope, "STOP", "CHAN1:SCAL 5", "TIM:SCAL 1")
    np.testing.assert_array_equal(trace(scope, 1), before)
    assert scope.answer(b"*TRG") is None
    assert ask(scope, "SYST:ERR?").startswith("-211")
    say(scope, "RUN")
    assert trace(scope, 1)[0][0] == -5.0


def test_single_waits_for_its_trigger(scope):
    say(scope, "TRIG:SWE NORM", "TRIG:LEV 10", "SING")
    assert ask(scope, "TRIG:STAT?") == "WAIT"
    assert scope.answer(b"WAV:DATA?") is None
    assert ask(scope, "SYST:ERR?").startswith("-230")
    say(scope, "TRIG:LEV 0")
    assert ask(scope, "TRIG:STAT?") == "STOP"
    assert np.array_equal(codes(scope, 1), codes(scope, 1))
    assert scope.acquired == 1
    say(scope, "TRIG:LEV 10", "SING", "TRIG:FORC")
    assert ask(scope, "TRIG:STAT?") == "STOP"
    assert scope.acquired == 2


def test_inputs_are_coupled_cut_off_and_switched_off(scope):
    say(scope, "WAV:FORM WORD", "CHAN1:COUP AC")
    assert trace(scope, 1)[1].mean() == pytest.approx(0.0, abs=0.01)
    say(scope, "CHAN1:COUP GND")
    assert not codes(scope, 1).any()
    say(scope, "CHAN1:COUP DC", "CHAN1:SCAL 0.1")
    assert (codes(scope, 1).min(), codes(scope, 1).max()) == (-32768, 32767)
    say(scope, "CHAN1:DISP OFF")
    assert scope.answer(b"WAV:DATA? CHAN1") is None
    assert ask(scope, "SYST:ERR?").startswith("-221")


def test_it_measures(scope):
    say(scope, "TIM:SCAL 1e-3")
    assert float(ask(scope, "MEAS:FREQ? CHAN1")) == pytest.approx(1000, rel=0.01)
    assert float(ask(scope, "MEAS:VPP? CHAN1")) == pytest.approx(2, rel=0.02)
    assert float(ask(scope, "MEAS:VAV? CHAN1")) == pytest.approx(0.25, abs=0.01)
    assert float(ask(scope, "MEAS:VRMS? CHAN2")) > 1
    assert ask(scope, "MEAS:FREQ? CHAN4") == "+9.910000E+37"


@pytest.mark.parametrize(
    ("setting", "given", "read"),
    [
        ("TIMEBASE:SCALE", "2E-3", "+2.000000E-03"),
        ("tim:pos", "-0.5", "-5.000000E-01"),
        ("CHANnel3:OFFSet", "MAX", "+4.000000E+01"),
        ("CHAN:SCAL", "minimum", "+1.000000E-03"),
        ("CHAN2:DISP", "off", "0"),
        ("CHAN2:COUP", "ac", "AC"),
        ("TRIG:EDGE:SOUR", "channel2", "CHAN2"),
        ("TRIG:SLOPE", "NEGATIVE", "NEG"),
        ("ACQ:POIN", "1E3", "1000"),
    ],
)
def test_settings_are_read_back_until_reset(scope, setting, given, read):
    initial = ask(scope, f"{setting}?")
    say(scope, f"{setting} {given}")
    assert ask(scope, f"{setting}?") == read
    say(scope, "*RST")
    assert ask(scope, f"{setting}?") == initial


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("TIM:SCAL 51", -222),
        ("ACQ:POIN 99", -222),
        ("TIM:SCAL fast", -104),
        ("TRIG:SLOP UP", -224),
        ("CHAN1:DISP 2", -224),
        ("CHAN5:SCAL 1", -113),
        ("WAV:SOUR CHAN5", -224),
        ("TIM:SCAL? HIGHEST", -224),
        ("WAV:DATA? CHAN9", -224),
    ],
)
def test_what_it_cannot_do_is_in_its_error_queue(scope, command, code):
    before = {key: ask(scope, key) for key in ("TIM:SCAL?", "ACQ:POIN?", "TRIG:SLOP?", "WAV:SOUR?")}
    assert scope.answer(command.encode()) is None
    assert ask(scope, "SYST:ERR?").startswith(f'{code},"')
    assert before == {key: ask(scope, key) for key in before}
    assert ask(scope, "TIM:SCAL? MAX") == "+5.000000E+01"


def test_it_has_four_inputs():
    with pytest.raises(ValueError, match="4 inputs"):
        Oscilloscope(signals=(SINE,))


# ---- polled by the driver, over a socket ----------------------------------------------------------------------------

TRACES = ScpiStream(
    "traces",
    (
        ScpiChannel("ch1", "WAV:DATA? CHAN1", shape=(500,), block="int8", scale=1 / 64, physical_unit="V"),
        ScpiChannel("ch2", "WAV:DATA? CHAN2", shape=(500,), block="int8", scale=1 / 64, offset=1.65, physical_unit="V"),
        ScpiChannel("step", "WAV:PRE? CHAN1", unit="s", index=4),
    ),
    rate_hz=100.0,
)
INIT = ("*RST", "*CLS", "ACQ:POIN 500", "CHAN1:SCAL 0.5", "CHAN2:SCAL 0.5", "CHAN2:OFFS 1.65", "WAV:FORM BYTE")
TIMEBASE = ScpiParameter("timebase", "TIM:SCAL?", "TIM:SCAL {value}", "s", limits=(1e-9, 50.0))
SLOPE = ScpiParameter(
    "slope", "TRIG:SLOP?", "TRIG:SLOP {value}", dtype="text", choices=("Positive", "Negative"), description="edge"
)


@pytest.fixture(scope="module")
def served():
    with Oscilloscope() as one:
        yield one


def driver_of(scope, **more):
    chosen = {"identity": "Oscilloscope", "init": INIT, "parameters": (TIMEBASE, SLOPE), "timeout_s": 0.5, **more}
    return ScpiDriver("scope", ScpiOptions(scope.address, (TRACES,), **chosen), SystemClock())


class TestAgainstTheOscilloscope(DriverContract):
    @pytest.fixture
    def driver(self, served):
        return lambda: driver_of(served, check_errors=10)


@pytest.fixture
def driver(served):
    one = driver_of(served, check_errors=1)
    one.identity()
    one.arm()
    yield one
    served.relax()
    one.close()


def test_rows_are_traces_in_volts(driver):
    block = driver.read(1.0)[0]
    assert block.valid is None
    ch1, ch2 = block.physical("ch1")[0], block.physical("ch2")[0]
    assert ch1[250] == pytest.approx(0.0, abs=0.04)
    assert np.ptp(ch1) == pytest.approx(2, abs=0.1)
    assert ch2[:240].std() + ch2[260:].std() > 0
    assert (ch2.min(), ch2.max()) == pytest.approx((0.0, 3.3), abs=0.1)
    assert block.column("step")[0] == pytest.approx(10 * 2e-4 / 500)
    assert driver.counts.device_errors == {}


def test_settings_keep_their_limits(driver):
    assert set_parameter(driver, "timebase", 1e-3) == 1e-3
    with pytest.raises(ParameterError, match="outside"):
        set_parameter(driver, "timebase", 100.0)
    assert set_parameter(driver, "slope", "Negative") == "Negative"  # it says NEG
    with pytest.raises(ParameterError, match="not one of Positive, Negative"):
        set_parameter(driver, "slope", "NEG")
    assert driver.read(1.0)[0].column("step")[0] == pytest.approx(10 * 1e-3 / 500)


@pytest.mark.parametrize("trouble", [Trouble.SHORT_BLOCK, Trouble.BROKEN_BLOCK, Trouble.PARTIAL, Trouble.SILENCE])
def test_a_trace_that_is_not_whole_is_missing(served, driver, trouble):
    driver.read(1.0)
    served.trouble(trouble, only="WAV:DATA? CHAN1")
    block = next(b for b in iter(lambda: driver.read(1.0)[0], None) if b.valid is not None)
    missing = block.valid[0]
    assert missing is not None
    assert (~missing).sum() == 1
    assert block.valid[1] is None
    assert block.valid[2] is None
    assert driver.read(1.0)[0].valid is None
    assert driver.counts.missing == 1


def test_a_channel_that_is_off_is_missing_and_the_reason_is_counted(served, driver):
    served.answer(b"CHAN2:DISP 0")
    block = driver.read(1.0)[0]
    assert block.valid is not None
    assert block.valid[1] is not None
    assert driver.counts.device_errors[-221] >= 1


def test_wrong_settings_are_refused_before_acquisition(served):
    one = driver_of(served, init=(*INIT, "TIM:SCAL 100"), check_errors=1)
    one.identity()
    with pytest.raises(InstrumentError, match="-222 Data out of range"):
        one.arm()
    one.close()


def test_a_program_may_ask_it(served):
    with ScpiClient.open(served.address) as client:
        client.tell("*RST")
        client.tell("WAV:FORM WORD")
        client.tell("WAV:BYT LSBF")
        assert client.ask("TRIG:SLOP?") == "POS"
        raw = client.array(b"WAV:DATA? CHAN1", scpi.BlockFormat.parse("int16 little"))
        volts = raw * client.number("WAV:YINC? CHAN1") + client.number("WAV:YOR? CHAN1")
    assert np.ptp(volts) == pytest.approx(2, abs=0.1)
