from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.errors import GarbledReply, InstrumentTimeout
from scidaq.instruments import scpi_protocol as scpi
from scidaq.instruments.links import Link, MemoryPipe, parse_address


def link_to(reply: bytes, piece: int = 65_536) -> Link:
    return Link(MemoryPipe(lambda _: reply, piece), 0.1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"1", 1.0),
        (b"+1.50000000E+00", 1.5),
        (b"-.5", -0.5),
        (b"5.", 5.0),
        (b" 1.5 E +3 ", 1500.0),
        (b"+9.9E37", math.inf),
        (b"-9.9E+37", -math.inf),
        (b"INF", math.inf),
        (b"NINF", -math.inf),
        (b"9.8E37", 9.8e37),
    ],
)
def test_numbers(text, value):
    assert scpi.number(text) == value


@pytest.mark.parametrize("text", [b"9.91E37", b"+9.910000E+37", b"NAN", b"nan"])
def test_not_a_number(text):
    assert math.isnan(scpi.number(text))


@pytest.mark.parametrize("text", [b"", b" ", b"1_000", b"1.5V", b"0x10", b"1,2", b"infinite", b"1.2.3", b"--1"])
def test_what_is_no_number_is_garbled(text):
    with pytest.raises(GarbledReply):
        scpi.number(text)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-9.8e37, max_value=9.8e37))
def test_every_number_survives(value):
    assert scpi.number(repr(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "value"), [(b"7", 7), (b"-7", -7), (b"+7.00E+00", 7), (b"#HFF", 255), (b"#Q17", 15), (b"#B101", 5)]
)
def test_integers(text, value):
    assert scpi.integer(text) == value


@given(st.integers())
def test_every_integer_survives(value):
    assert scpi.integer(str(value).encode()) == value


@pytest.mark.parametrize("text", [b"1.5", b"#HXY", b"#H", b"9.91E37", b"", b"1_0"])
def test_what_is_no_integer_is_garbled(text):
    with pytest.raises(GarbledReply):
        scpi.integer(text)


@pytest.mark.parametrize(
    ("text", "value"), [(b"1", True), (b"0", False), (b"ON", True), (b"off", False), (b"0.4", False), (b"2", True)]
)
def test_booleans(text, value):
    assert scpi.boolean(text) is value


@pytest.mark.parametrize("text", [b"", b"maybe", b"NAN", b"INF"])
def test_what_is_no_boolean_is_garbled(text):
    with pytest.raises(GarbledReply):
        scpi.boolean(text)


@pytest.mark.parametrize(
    ("text", "value"), [(b'"a ""b"""', 'a "b"'), (b"'it''s'", "it's"), (b" VOLT ", "VOLT"), (b'""', ""), (b"\xb5", "µ")]
)
def test_strings(text, value):
    assert scpi.string(text) == value


@pytest.mark.parametrize("text", [b'"', b'"a', b'"a"b"'])
def test_a_string_whose_quote_is_missing_is_garbled(text):
    with pytest.raises(GarbledReply):
        scpi.string(text)


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n\r")), min_size=1))
def test_quoted_lists_survive(items):
    line = ",".join('"' + item.replace('"', '""') + '"' for item in items)
    assert [scpi.string(part) for part in scpi.split(line.encode())] == items


def test_lists():
    assert scpi.split(b"1,2,3") == [b"1", b"2", b"3"]
    assert scpi.split(b'"a,b",c') == [b'"a,b"', b"c"]
    np.testing.assert_array_equal(scpi.numbers(b"1,9.91E37,-9.9E37"), [1, np.nan, -np.inf])
    with pytest.raises(GarbledReply):
        scpi.split(b'"a,b')


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (b'-113,"Undefined header"', -113, "Undefined header"),
        (b'+0,"No error"', 0, "No error"),
        (b'-113,"Undefined ""header"";x"', -113, 'Undefined "header";x'),
        (b"0", 0, ""),
        (b"-100, Command error", -100, "Command error"),
    ],
)
def test_entries_of_the_error_queue(line, code, message):
    assert scpi.device_error(line) == (code, message)


def test_what_is_no_entry_is_garbled():
    with pytest.raises(GarbledReply):
        scpi.device_error(b"what?")


@pytest.mark.parametrize(
    ("data", "header"),
    [(b"#15hello", (3, 5)), (b"#0abc", (2, None)), (b"#3100", (5, 100)), (b"#", None), (b"#31", None), (b"", None)],
)
def test_headers_of_blocks(data, header):
    assert scpi.block_header(data) == header


@pytest.mark.parametrize("data", [b"1.5", b"#x", b"#2a0", b"\n"])
def test_what_is_no_block_is_garbled(data):
    with pytest.raises(GarbledReply):
        scpi.block_header(data)


@pytest.mark.parametrize("text", ["float32 middle", "float16 little", "", "big"])
def test_formats_of_blocks_are_checked(text):
    with pytest.raises(ValueError, match="block"):
        scpi.BlockFormat.parse(text)


@pytest.mark.parametrize("text", ["float32 little", "int16 big", "uint8"])
def test_blocks_become_native(text):
    form = scpi.BlockFormat.parse(text)
    native = form.native(np.array([1, 2, 3], form.dtype))
    assert native.dtype.isnative
    assert native.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (b":VOLT:RANG 10", b"10"),
        (b"SOUR1:PRES:SLEW? 2.0", b"2.0"),
        (b"SYST:ERR 0, No error", b"0, No error"),
        (b"1.5", b"1.5"),
        (b"-1 ", b"-1 "),
    ],
)
def test_headers_are_taken_off(reply, value):
    assert scpi.without_header(reply) == value


def test_queries_are_joined_from_the_root():
    assert scpi.joined(["MEAS:VOLT?", "MEAS:CURR?", "*OPC?", ":OUTP?"]) == "MEAS:VOLT?;:MEAS:CURR?;*OPC?;:OUTP?"


# ---- lines and blocks, however they are cut into pieces ----


@given(st.binary(max_size=200).map(lambda b: b.replace(b"\n", b"")), st.integers(1, 30), st.booleans())
def test_a_line_is_the_same_in_any_pieces(line, piece, with_cr):
    line = line.removesuffix(b"\r")
    assert link_to(line + (b"\r\n" if with_cr else b"\n"), piece).query(b"Q?") == line


@given(st.binary(max_size=300), st.integers(1, 80), st.booleans(), st.booleans())
def test_a_block_is_the_same_in_any_pieces(data, piece, definite, with_cr):
    if not definite:
        data = data.replace(b"\n", b"").removesuffix(b"\r")
    size = str(len(data)).encode()
    header = b"#%d%s" % (len(size), size) if definite else b"#0"
    link = link_to(header + data + (b"\r\n" if with_cr else b"\n"), piece)
    assert bytes(link.query_block(b"Q?", lambda n: memoryview(bytearray(n)))) == data
    assert link.in_step


@given(st.integers(1, 9))
def test_what_was_not_asked_for_is_refused(piece):
    link = Link(MemoryPipe({b"Q?\n": b"1\n2\n", b"*IDN?\n": b"me\n"}.__getitem__, piece), 0.1)
    assert link.query(b"Q?") == b"1"
    with pytest.raises(GarbledReply, match="without being asked"):
        link.check_quiet()
    assert not link.in_step
    assert link.resync(b"*IDN?", b"me") == 2
    assert link.query(b"Q?") == b"1"


def test_half_a_line_is_a_timeout():
    link = link_to(b"1.2")
    with pytest.raises(InstrumentTimeout, match=r"1\.2"):
        link.query(b"Q?")
    assert not link.in_step


@pytest.mark.parametrize("reply", [b"#15hellox\n", b"#15hello!!\n", b"oops\n", b"#9999999999x"])
def test_a_block_with_something_behind_it_is_garbled(reply):
    with pytest.raises(GarbledReply):
        link_to(reply).query_block(b"Q?", lambda n: memoryview(bytearray(n)))


def test_a_late_reply_is_not_taken_for_another():
    queued: list[bytes] = []

    def slow(message: bytes) -> bytes:
        queued.append({b"A?\n": b"1\n", b"B?\n": b"2\n", b"*IDN?\n": b"me,too\n"}[message])
        if message == b"A?\n":
            return b""
        out = b"".join(queued)
        queued.clear()
        return out

    link = Link(MemoryPipe(slow), 0.1)
    with pytest.raises(InstrumentTimeout):
        link.query(b"A?")
    assert link.resync(b"*IDN?", b"me,too") == 2
    assert link.query(b"B?") == b"2"


@pytest.mark.parametrize(("text", "parsed"), [("Host:5025", ("host", 5025)), ("[::1]:1", ("::1", 1))])
def test_addresses(text, parsed):
    assert parse_address(text) == parsed


@pytest.mark.parametrize("text", ["host", "host:", ":5", "host:x", "host:0", "host:70000"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)
