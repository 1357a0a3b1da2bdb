from __future__ import annotations

import socket

import pytest

from scidaq.instruments import Multimeter, Trouble
from scidaq.instruments.links import parse_address
from scidaq.instruments.simulators.server import QUEUE, block, spellings


@pytest.fixture
def meter():
    return Multimeter()


def test_spellings_are_short_and_long_forms_and_what_may_be_left_out():
    assert set(spellings("CHANnel1:SCALe?")) == {
        f"{a}:{b}?".encode() for a in ("CHANNEL1", "CHAN1", "CHANNEL", "CHAN") for b in ("SCALE", "SCAL")
    }
    assert set(spellings("[SENSe:]VOLTage[:DC]")) == {
        b"VOLT", b"VOLTAGE", b"VOLT:DC", b"VOLTAGE:DC", b"SENS:VOLT", b"SENSE:VOLT", b"SENS:VOLTAGE", b"SENSE:VOLTAGE",
        b"SENS:VOLT:DC", b"SENSE:VOLT:DC", b"SENS:VOLTAGE:DC", b"SENSE:VOLTAGE:DC",
    }  # fmt: skip
    assert set(spellings("*IDN?")) == {b"*IDN?"}


@pytest.mark.parametrize("query", [b"VOLT:RANG?", b":volt:rang?", b"Sense:Voltage:DC:Range?", b" SENS:VOLT:RANG? "])
def test_a_header_is_known_in_every_form(meter, query):
    assert meter.answer(query) == b"+1.00000000E+01"


@pytest.mark.parametrize("query", [b"VOLTA:RANG?", b"VOLT:RAN?", b"VOLT:RANG", b"VOLT"])
def test_and_in_no_other(meter, query):
    meter.answer(query)
    assert not meter.answer(b"SYST:ERR:NEXT?").startswith(b"+0")


def test_the_error_queue_says_when_it_was_full(meter):
    for _ in range(QUEUE + 5):
        meter.answer(b"NONSENSE")
    errors = [meter.answer(b"SYST:ERR?") for _ in range(QUEUE + 1)]
    assert errors[0] == b'-113,"Undefined header"'
    assert errors[-2] == b'-350,"Queue overflow"'
    assert errors[-1] == b'+0,"No error"'


@pytest.fixture
def talk():
    with Multimeter() as meter, socket.create_connection(parse_address(meter.address), 2.0) as link:
        lines = link.makefile("rb")

        def ask(message: bytes) -> bytes:
            link.sendall(message + b"\n")
            return lines.readline().rstrip(b"\n")

        yield meter, ask
        lines.close()


def test_a_header_behind_a_semicolon_goes_on_where_the_one_before_ended(talk):
    meter, ask = talk
    assert ask(b"VOLT:RANG 1;RANG?;*OPC?;RANG?;:OUTP?") == b"+1.00000000E+00;1;+1.00000000E+00;0"
    assert ask(b"VOLT:RANG?;OUTP?;:SYST:ERR?") == b'+1.00000000E+00;-113,"Undefined header"'
    assert ask(b'DISP:TEXT "half;:SYST:ERR?;*IDN?\nSYST:ERR?') == b'-151,"Invalid string data"'
    assert meter.range_v == 1.0


@pytest.mark.parametrize(
    ("trouble", "reply"),
    [(Trouble.SHORT_BLOCK, block(bytes(8))), (Trouble.BROKEN_BLOCK, b"#216" + bytes(8))],
)
def test_a_block_can_be_short_or_broken(talk, trouble, reply):
    meter, ask = talk
    meter._trace[:] = 0
    meter.trouble(trouble, 2)
    assert ask(b"*OPC?") == b"1"
    assert ask(b"FETC:ARR? 4") == reply
    assert ask(b"FETC:ARR? 4") == block(bytes(16))
