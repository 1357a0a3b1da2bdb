"""What instruments say otherwise than the book, or than others: the driver against a pipe that answers so."""

from __future__ import annotations

import numpy as np
import pytest

from scidaq.clock import SystemClock
from scidaq.errors import GarbledReply, InstrumentError, InstrumentTimeout
from scidaq.instruments import Multimeter, ScpiChannel, ScpiClient, ScpiDriver, ScpiOptions, ScpiParameter, ScpiStream
from scidaq.instruments import scpi_protocol as scpi
from scidaq.instruments.links import Link, MemoryPipe
from scidaq.instruments.simulators.server import SimulatedInstrument, block

I16 = scpi.BlockFormat.parse("int16 little")
F32 = scpi.BlockFormat.parse("float32 big")
CODES = np.array([0x0A0A, -1, 0x0A, 300], "<i2")  # among them, line feeds


def client(reply: bytes, *, piece: int = 65_536, headers: bool = False) -> ScpiClient:
    return ScpiClient(Link(MemoryPipe(lambda _: reply, piece), 0.1), headers=headers)


@pytest.mark.parametrize("piece", [1, 3, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
class TestBlocks:
    def test_an_indefinite_block_has_the_length_that_was_declared(self, piece, end):
        one = client(b"#0" + CODES.tobytes() + end, piece=piece)
        np.testing.assert_array_equal(one.array(b"CURV?", I16, 4), CODES)
        assert one.link.in_step

    def test_a_longer_one_is_out_of_step(self, piece, end):
        one = client(b"#0" + CODES.tobytes() + end, piece=piece)
        with pytest.raises(GarbledReply, match="behind a block"):
            one.array(b"CURV?", I16, 3)
        assert not one.link.in_step

    def test_a_header_before_it_is_skipped_where_replies_have_one(self, piece, end):
        reply = b":CURVE " + block(CODES.tobytes()) + end
        np.testing.assert_array_equal(client(reply, piece=piece, headers=True).array(b"CURV?", I16, 4), CODES)
        with pytest.raises(GarbledReply, match="does not begin a block"):
            client(reply, piece=piece).array(b"CURV?", I16, 4)

    def test_a_line_where_a_block_belongs_is_no_block(self, piece, end):
        with pytest.raises(GarbledReply, match="does not begin a block"):
            client(b":CURVE none" + end, piece=piece, headers=True).array(b"CURV?", I16, 4)


@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize("ends", [b"\n", b"\n\n", b"\r\n\r\n", b"\n\r\n"])
def test_a_second_line_end_behind_a_block_is_no_reply(piece, ends):
    said = [b"Maker,Model\n", b"1.5\n", block(CODES.tobytes()) + ends, block(CODES.tobytes()) + ends]
    one = ScpiClient(Link(MemoryPipe(lambda _: said.pop(), piece), 0.1))
    for _ in range(2):
        np.testing.assert_array_equal(one.array(b"CURV?", I16, 4), CODES)
    one.link.check_quiet()
    assert one.query(b"V?") == b"1.5"
    assert one.query(b"*IDN?") == b"Maker,Model"


def test_but_anything_else_behind_it_is_out_of_step():
    one = client(block(CODES.tobytes()) + b"\n\n1.5\n")
    one.array(b"CURV?", I16, 4)
    with pytest.raises(GarbledReply, match="without being asked for"):
        one.query(b"V?")
    assert not one.link.in_step


@pytest.mark.parametrize(
    ("options", "reply", "value"),
    [
        ({"suffix": "VDC"}, b"+1.5VDC", 1.5), ({"suffix": "V"}, b"1.5 V ", 1.5), ({"suffix": "V"}, b"1.5 mV", None),
        ({"suffix": "V"}, b"1.5", None), ({"separator": ";", "index": 1}, b"a;1.5;-", 1.5),
        ({"separator": " ", "index": 1}, b" 3   1.5 ", 1.5), ({"index": 1, "suffix": "V"}, b"1V,1.5V", 1.5),
        ({"separator": ";", "index": 1}, b"1.5,2", None),
    ],
)  # fmt: skip
def test_suffixes_and_separators(options, reply, value):
    with Answers({"V?": lambda _: reply}) as instrument:
        row = first_row(instrument, ScpiStream("s", (ScpiChannel("v", "V?", **options),), rate_hz=0.1))
    assert (row.valid is not None) == (value is None)
    if value is not None:
        assert row.column("v")[0] == value


def test_a_list_may_be_an_array_of_numbers_with_suffixes():
    channel = ScpiChannel("v", "V?", shape=(3,), separator=";", suffix="K")
    with Answers({"V?": lambda _: b"1K; 2 K;-3.5K"}) as instrument:
        row = first_row(instrument, ScpiStream("s", (channel,), rate_hz=0.1))
    np.testing.assert_array_equal(row.column("v"), [[1, 2, -3.5]])


@pytest.mark.parametrize(
    ("channel", "combine", "named"),
    [
        (ScpiChannel("v", "V?", dtype="text", max_bytes=8, suffix="V"), False, "suffix"),
        (ScpiChannel("v", "V?", separator=";", index=0), True, "semicolons"),
    ],
)
def test_contradictions_are_named(channel, combine, named):
    with pytest.raises(ValueError, match=named):
        ScpiStream("s", (channel,), combine=combine).spec()


def test_what_scpi_sends_for_nan_and_infinity_is_that_in_blocks_of_floats():
    values = np.array([9.91e37, 1.5, 9.9e37, -9.9e37, np.nan, -9.91e37], ">f4")
    stream = ScpiStream("s", (ScpiChannel("v", "V?", shape=(6,), block="float32 big"),), rate_hz=1000)
    with Answers({"V?": lambda _: block(values.tobytes())}) as instrument:
        row = first_row(instrument, stream)
    np.testing.assert_array_equal(row.column("v")[0], np.array([np.nan, 1.5, np.inf, -np.inf, np.nan, -np.inf], "f4"))


class Answers(SimulatedInstrument):
    """An instrument that says what the test says."""

    def __init__(self, commands, identity="Maker,Model,1,1.0"):
        super().__init__(identity, commands)


def driver_of(instrument, *streams, **more):
    streams = streams or (ScpiStream("s", (ScpiChannel("idn", "*IDN?", dtype="text", max_bytes=40),)),)
    return ScpiDriver("x", ScpiOptions(instrument.address, streams, **{"timeout_s": 2.0, **more}), SystemClock())


def first_row(instrument, stream, **more):
    driver = driver_of(instrument, stream, **more)
    try:
        driver.identity()
        driver.arm()
        return driver.read(1.0)[0]
    finally:
        driver.close()


def test_a_whole_number_that_it_does_not_have_is_missing_and_nothing_is_out_of_step():
    stream = ScpiStream(
        "s",
        (
            ScpiChannel("count", "N?", dtype="int32"),
            ScpiChannel("on", "N?", dtype="bool"),
            ScpiChannel("counts", "NN?", dtype="int64", shape=(2,)),
            ScpiChannel("second", "NN?", dtype="int64", index=1),
            ScpiChannel("level", "N?"),
        ),
        rate_hz=0.1,
    )
    with Answers({"N?": lambda _: b"+9.91000000E+37", "NN?": lambda _: b"9.91E37,7"}) as instrument:
        driver = driver_of(instrument, stream)
        driver.identity()
        driver.arm()
        row = driver.read(1.0)[0]
        driver.close()
    assert row.valid is not None
    assert [mask is not None and not mask[0] for mask in row.valid] == [True, True, True, False, False]
    assert row.column("second")[0] == 7
    assert np.isnan(row.column("level")[0])
    counts = driver.counted()
    assert (counts["undefined_values"], counts["missing_values"]) == (3, 3)
    assert (counts["garbled_replies"], counts["resyncs"]) == (0, 0)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (b" +1.0E+00 ", 1.0), (b"1,2", None), (b'"1.5"', None), (b"+1.0VDC", None), (b"OVERLOAD", None),
        (b"+9.9E37", np.inf), (b"-9.90000000E+37", -np.inf), (b"1.5 E -3", 1.5e-3), (b".5", 0.5), (b"5.", 5.0),
    ],
)  # fmt: skip
def test_numbers_as_they_come(reply, value):
    with Answers({"V?": lambda _: reply}) as instrument:
        row = first_row(instrument, ScpiStream("s", (ScpiChannel("v", "V?"),), rate_hz=0.1))
    assert (row.valid is not None) == (value is None)
    if value is not None:
        assert row.column("v")[0] == value


MODE = ScpiParameter("mode", "MODE?", "MODE {value}", dtype="text", choices=("VOLTAGE", "CURRENT", "CHANNEL1"))


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        (b"VOLT", "VOLTAGE"), (b'"volt"', "VOLTAGE"), (b"Current", "CURRENT"), (b"CURR", "CURRENT"),
        (b"CHAN1", "CHANNEL1"), (b"CHAN2", "CHAN2"), (b"VOLTA", "VOLTA"), (b"RES", "RES"),
    ],
)  # fmt: skip
def test_a_choice_is_known_in_each_form(reply, read):
    with Answers({"MODE?": lambda _: reply}) as instrument:
        driver = driver_of(instrument, parameters=(MODE,))
        driver.identity()
        assert driver.get("mode") == read
        driver.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("POSITIVE", "POS", True), ("pos", "POSitive", True), ("NORMAL", "NORM", True), ("AUTO", "auto", True),
        ("FREE", "FRE", False), ("POSITIVE", "POSI", False), ("CHAN1", "CHANNEL1", True), ("CHAN1", "CHAN2", False),
        ("CHAN", "CHAN1", False), ("", "", True), ("P6V", "p6v", True),
    ],
)  # fmt: skip
def test_words(one, other, same):
    assert scpi.same_word(one, other) is same
    assert scpi.same_word(other, one) is same


def test_one_that_echoes_is_told_from_one_that_answers():
    with Answers({}, identity="*IDN?") as instrument, pytest.raises(GarbledReply, match="it echoes"):
        ScpiClient.open(instrument.address)


def test_the_error_queue_is_asked_for_as_it_wants():
    queue = [b"0,No error", b'100,"Trip; ""over"" limit"']
    with Answers({"STATus:QUEue?": lambda _: queue.pop()}) as instrument:
        driver = driver_of(instrument, check_errors=1, error_query="STAT:QUE?")
        driver.identity()
        with pytest.raises(InstrumentError, match='100 Trip; "over" limit'):
            driver.arm()
        driver.close()


class TestClient:
    def test_it_goes_on_after_a_reply_that_came_late(self):
        with Multimeter() as meter, ScpiClient.open(meter.address, timeout_s=0.05) as one:
            meter.trouble("late", seconds=0.08)
            with pytest.raises(InstrumentTimeout, match="did not answer"):
                one.number("MEAS:VOLT?")
            assert one.ask("SYST:ERR?") == '+0,"No error"'
            assert one.number("MEAS:CURR?") == pytest.approx(0.02, abs=1e-3)

    def test_it_tells_and_asks(self):
        with Multimeter() as meter, ScpiClient.open(meter.address) as one:
            assert one.identify().model == "Multimeter"
            one.tell("VOLT:RANG 1")
            assert one.number("VOLT:RANG?") == 1.0
            one.close()

    def test_only_what_is_one_string_loses_its_quotes(self):
        said = [b'"a","b"', b'"say ""a"""', b"'b'", b"plain"]
        one = client(b"")
        one.query = lambda _: said.pop(0)
        assert [one.ask("?") for _ in range(4)] == ['"a","b"', 'say "a"', "b", "plain"]

    def test_what_does_not_identify_itself_is_left(self):
        with Multimeter() as meter:
            meter.trouble("silence")
            with pytest.raises(InstrumentTimeout, match="did not answer"):
                ScpiClient.open(meter.address, timeout_s=0.05)
