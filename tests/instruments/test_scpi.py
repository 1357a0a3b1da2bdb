from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from scidaq.block import Block
from scidaq.clock import SystemClock
from scidaq.errors import (
    InstrumentDisconnected,
    InstrumentError,
    InstrumentTimeout,
    ParameterError,
    WrongIdentity,
)
from scidaq.instruments import (
    Multimeter,
    ScpiChannel,
    ScpiClient,
    ScpiDriver,
    ScpiOptions,
    ScpiParameter,
    ScpiStream,
    State,
    Supervision,
    SupervisionOptions,
    Trouble,
    set_parameter,
)
from scidaq.instruments import scpi_protocol as scpi
from scidaq.instruments.links import parse_address, tcp
from scidaq.testing import DriverContract, ListSink

VOLTS = ScpiChannel("volts", "MEAS:VOLT:DC?", unit="V")
AMPS = ScpiChannel("amps", "MEAS:CURR:DC?", unit="A", scale=1000.0, physical_unit="mA")
OUTPUT = ScpiChannel("output", "OUTP?", dtype="bool")
MODEL = ScpiChannel("model", "*IDN?", dtype="text", max_bytes=20, index=1)
SERIAL = ScpiChannel("serial", "*IDN?", dtype="int32", index=2)
TRACE = ScpiChannel("trace", "FETC:ARR? 100", unit="V", shape=(100,), block="float32 little")
RANGE = ScpiParameter("range", "VOLT:RANG?", "VOLT:RANG {value}", "V", limits=(0.1, 2000.0))
ON = ScpiParameter("on", "OUTP?", "OUTP {value}", dtype="bool")


@pytest.fixture(scope="module")
def meter():
    with Multimeter() as one:
        yield one


@pytest.fixture(autouse=True)
def _well(meter):
    yield
    meter.relax()
    meter.identity, meter.delay_s = "scidaq,Multimeter,0001,1.0", 0.0


def options(meter, *channels, rate_hz=1000.0, combine=False, **more):
    stream = ScpiStream("dmm", channels or (VOLTS, AMPS), rate_hz, combine)
    return ScpiOptions(meter.address, (stream,), **{"timeout_s": 0.05, **more})


@contextmanager
def armed(meter, *channels, **more):
    driver = ScpiDriver("dmm", options(meter, *channels, **more), SystemClock())
    try:
        driver.identity()
        driver.describe()
        driver.arm()
        yield driver
    finally:
        driver.close()


def one_row(driver) -> Block:
    block: Block = driver.read(1.0)[0]
    return block.slice(block.first, block.first + 1)


class TestAgainstTheMultimeter(DriverContract):
    @pytest.fixture
    def driver(self, meter):
        fast = ScpiStream("fast", (VOLTS, AMPS, OUTPUT), 500.0, combine=True)
        slow = ScpiStream("slow", (TRACE, MODEL, SERIAL), 50.0)
        parameters = (RANGE, ON, ScpiParameter("model", "*IDN?", dtype="text"))
        chosen = ScpiOptions(
            meter.address, (fast, slow), "Multimeter", ("*CLS",), ("OUTP OFF",), parameters, check_errors=10
        )
        return lambda: ScpiDriver("dmm", chosen, SystemClock())


def test_each_kind_of_channel(meter):
    with armed(meter, VOLTS, AMPS, OUTPUT, MODEL, SERIAL, TRACE) as driver:
        block = one_row(driver)
        now = SystemClock().now_ns()
    assert block.valid is None
    assert block.column("volts")[0] == pytest.approx(1.5, abs=0.01)
    assert block.physical("amps")[0] == pytest.approx(20, abs=0.1)
    assert block.schema.channels[1].physical_unit == "mA"
    assert not block.column("output")[0]
    assert block.column("model")[0] == b"Multimeter"
    assert block.column("serial")[0] == 1
    np.testing.assert_array_equal(block.column("trace")[0], meter.points(100))
    assert abs(now - block.t0_ns) < 1e9


def test_channels_of_one_query_share_its_reply(meter):
    before = meter.queries
    with armed(meter, MODEL, SERIAL, rate_hz=0.1) as driver:
        one_row(driver)
    assert meter.queries == before + 2  # one to identify it


def test_queries_can_be_combined(meter):
    before = meter.queries
    with armed(meter, VOLTS, AMPS, OUTPUT, combine=True, rate_hz=0.1) as driver:
        block = one_row(driver)
    assert block.valid is None
    assert meter.queries == before + 2


@pytest.mark.parametrize("trouble", [Trouble.SILENCE, Trouble.PARTIAL, Trouble.GARBAGE])
@pytest.mark.parametrize("combine", [False, True])
def test_a_reply_that_is_lost_is_missing_and_the_next_is_right(meter, trouble, combine):
    with armed(meter, VOLTS, AMPS, combine=combine, rate_hz=0.001) as driver:
        meter.trouble(trouble, only="MEAS:VOLT")
        bad = one_row(driver)
        driver.arm()
        good = one_row(driver)
        counts = driver.counts
    assert bad.valid is not None
    assert bad.valid[0] is not None
    assert not bad.valid[0][0]
    assert (bad.valid[1] is not None) == combine
    assert good.valid is None
    assert good.column("volts")[0] == pytest.approx(1.5, abs=0.01)
    assert good.column("amps")[0] == pytest.approx(0.02, abs=0.001)
    assert counts.timeouts + counts.garbled == 1
    assert counts.resyncs == 1
    assert counts.missing == (2 if combine else 1)


def test_a_late_reply_is_never_taken_for_another(meter):
    with armed(meter, VOLTS, AMPS, rate_hz=500) as driver:
        volts, amps = [], []
        for _ in range(4):
            meter.trouble(Trouble.LATE, seconds=0.07, only="MEAS:VOLT")
            for block in driver.read(0.2):
                volts.append(block.physical("volts"))
                amps.append(block.column("amps"))
        assert driver.counts.timeouts == 4
    seen = np.concatenate(volts)
    assert np.nanmax(np.abs(seen - 1.5)) < 0.01
    assert np.isnan(seen).sum() == 4
    assert np.abs(np.concatenate(amps) - 0.02).max() < 0.001


def test_a_block_that_breaks_off_is_missing(meter):
    with armed(meter, TRACE, VOLTS, rate_hz=0.001) as driver:
        meter.trouble(Trouble.PARTIAL, only="FETC")
        block = one_row(driver)
    assert block.valid is not None
    assert block.valid[0] is not None
    assert block.valid[1] is None


def read_for_ever(driver):
    while True:
        driver.read(1.0)


def test_a_connection_that_is_closed_is_disconnected(meter):
    with armed(meter) as driver:
        meter.trouble(Trouble.DISCONNECT, only="MEAS")
        with pytest.raises(InstrumentDisconnected):
            read_for_ever(driver)
        with pytest.raises(InstrumentDisconnected):
            driver.read(1.0)


def test_rows_in_hand_are_given_before_the_connection_is_given_up(meter):
    with armed(meter, VOLTS) as driver:
        breaking = threading.Timer(0.01, meter.trouble, (Trouble.SILENCE, 1000))
        breaking.start()
        rows = sum(b.rows for b in driver.read(1.0))
        assert rows == driver.counts.polls > 0
        with pytest.raises(InstrumentDisconnected):
            read_for_ever(driver)
        breaking.join()


def test_replies_that_nobody_asked_for_are_thrown_away(meter):
    with armed(meter) as driver:
        meter.trouble(Trouble.FLOOD, only="MEAS:VOLT")
        blocks = list(driver.read(0.2))
        assert driver.counts.garbled >= 1
    volts = np.concatenate([b.physical("volts") for b in blocks])
    amps = np.concatenate([b.physical("amps") for b in blocks])
    assert np.nanmax(np.abs(volts - 1.5)) < 0.01
    assert np.nanmax(np.abs(amps - 20)) < 1
    assert np.isnan(amps).any()


def test_silence_for_good_ends_the_connection(meter):
    with armed(meter) as driver:
        meter.trouble(Trouble.SILENCE, 1000)
        with pytest.raises(InstrumentDisconnected, match="out of step"):
            driver.read(1.0)


def test_a_slow_instrument_is_polled_as_often_as_it_can_be(meter):
    with armed(meter, VOLTS, rate_hz=200) as driver:
        meter.delay_s = 0.012
        rows = sum(b.rows for _ in range(3) for b in driver.read(0.1))
        assert driver.missed_polls >= rows
        assert driver.counts.missing == 0


def test_polls_keep_their_grid(meter):
    with armed(meter, VOLTS, rate_hz=100) as driver:
        times = np.concatenate([b.time_ns() for _ in range(6) for b in driver.read(0.2)])
    offset = (times - times[0]) / 1e7
    assert np.median(np.abs(offset - np.rint(offset))) < 0.2


def test_nothing_due_is_nothing_read(meter):
    with armed(meter, VOLTS, rate_hz=0.1) as driver:
        assert len(driver.read(0.01)) == 1
        start = time.monotonic()
        assert driver.read(0.02) == []
        assert 0.015 < time.monotonic() - start < 0.5


def test_another_instrument_is_refused(meter):
    with pytest.raises(WrongIdentity, match="which is not 'Keysight'"), armed(meter, identity="Keysight"):
        pass


def test_nobody_there_is_disconnected():
    with Multimeter() as gone:
        pass
    with pytest.raises(InstrumentDisconnected, match="cannot connect"), armed(gone):
        pass


def test_no_answer_is_a_timeout(meter):
    meter.trouble(Trouble.SILENCE)
    with pytest.raises(InstrumentTimeout), armed(meter):
        pass


def test_a_refused_command_of_init_is_an_error(meter):
    with (
        pytest.raises(InstrumentError, match="-113 Undefined header"),
        armed(meter, init=("NONSENSE",), check_errors=1),
    ):
        pass


def test_the_error_queue_is_watched(meter):
    with armed(meter, VOLTS, check_errors=1, rate_hz=0.001) as driver:
        assert meter.answer(b"NONSENSE") is None
        one_row(driver)
        assert driver.counts.device_errors == {-113: 1}


def test_parameters(meter):
    with armed(meter, parameters=(RANGE, ON), safe=("OUTP OFF",), check_errors=1) as driver:
        with pytest.raises(ParameterError, match="reads back 10"):
            set_parameter(driver, "range", 5.0)  # it has no range of 5 V
        assert set_parameter(driver, "range", 100.0) == 100.0
        assert driver.get("range") == 100.0
        with pytest.raises(ParameterError, match="out of range"):
            set_parameter(driver, "range", 1500.0)
        with pytest.raises(ParameterError, match="outside"):
            set_parameter(driver, "range", 5000.0)
        assert set_parameter(driver, "on", True) is True
        assert meter.output
        driver.safe()
        assert not meter.output
        with pytest.raises(ParameterError, match="no parameter"):
            driver.get("volume")


def test_a_value_cannot_smuggle_a_second_command(meter):
    label = ScpiParameter("label", "*IDN?", "DISP {value}", dtype="text")
    with armed(meter, parameters=(label,)) as driver, pytest.raises(ParameterError, match="cannot be sent"):
        driver.set("label", "x\nOUTP ON")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"address": "nowhere"}, "address"),
        ({"streams": ()}, "streams"),
        ({"identity": "("}, "identity"),
        ({"terminator": ""}, "terminator"),
        ({"streams": (ScpiStream("Bad Name", (VOLTS,)),)}, "streams.Bad Name"),
        ({"streams": (ScpiStream("a", (VOLTS,)), ScpiStream("a", (VOLTS,)))}, "same name"),
        ({"streams": (ScpiStream("a", (ScpiChannel("v", "Q?", unit="volts"),)),)}, r"channels\.v.*did you mean 'V'"),
        ({"streams": (ScpiStream("a", (ScpiChannel("v", "Q?", block="x"),)),)}, "block"),
        ({"streams": (ScpiStream("a", (ScpiChannel("v", "Q?", block="uint8"),)),)}, "shape"),
        ({"streams": (ScpiStream("a", (ScpiChannel("v", "Q?", offset=1.0),)),)}, "scale"),
        ({"streams": (ScpiStream("a", (ScpiChannel("v", "Q?", index=1, shape=(2,)),)),)}, "index"),
        ({"streams": (ScpiStream("a", (TRACE,), combine=True),)}, "combine"),
        ({"parameters": (RANGE, RANGE)}, "parameters"),
    ],
)
def test_contradictions_are_named(change, named):
    fields = {"address": "127.0.0.1:5025", "streams": (ScpiStream("a", (VOLTS,)),), **change}
    with pytest.raises(ValueError, match=named):
        ScpiDriver("x", ScpiOptions(**fields), SystemClock())


def test_every_contradiction_is_named_at_once():
    bad = tuple(ScpiChannel(name, "Q?", unit="Voltz") for name in ("v", "w"))
    wrong = ScpiOptions(
        "nowhere", (ScpiStream("a", (*bad, VOLTS)), ScpiStream("b", bad[:1])), identity="(", terminator=""
    )
    with pytest.raises(ValueError, match="nowhere") as said:
        ScpiDriver("x", wrong, SystemClock())
    for place in ("address: ", "streams.a.channels.v: ", "streams.a.channels.w: ", "streams.b.channels.v: "):
        assert place in str(said.value)
    assert "identity: " in str(said.value)
    assert "terminator: " in str(said.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("localhost:5999", "127.0.0.1:5999", True),
        ("LocalHost:5999", "[::1]:5999", True),
        ("[0:0:0:0:0:0:0:1]:5999", "localhost.:5999", True),
        ("[::ffff:127.0.0.1]:5999", "localhost:5999", True),
        ("Meter.lab:5999", "meter.LAB:5999", True),
        ("[FE80::1]:5999", "[fe80:0::1]:5999", True),
        ("localhost:5999", "localhost:5998", False),
        ("127.0.0.2:5999", "127.0.0.1:5999", False),
    ],
)
def test_one_address_has_one_resource(one, other, same):
    drivers = [ScpiDriver("x", ScpiOptions(a, (ScpiStream("a", (VOLTS,)),)), SystemClock()) for a in (one, other)]
    assert (drivers[0].resource == drivers[1].resource) is same


def test_options_can_be_checked_by_pydantic():
    pydantic = pytest.importorskip("pydantic")
    channel: dict[str, object] = {"name": "v", "query": "MEAS:VOLT?", "unit": "V", "shape": [3], "block": "float32 big"}
    raw = {
        "address": "h:1",
        "streams": [{"name": "a", "channels": [channel]}],
        "parameters": [{"name": "p", "get": "P?"}],
    }
    checked = pydantic.TypeAdapter(ScpiOptions).validate_python(raw)
    assert checked.streams[0].channels[0].shape == (3,)
    channel["querry"] = "x"
    with pytest.raises(pydantic.ValidationError, match=r"streams\.0\.channels\.0\.querry"):
        pydantic.TypeAdapter(ScpiOptions).validate_python(raw)


def test_text_longer_than_announced_is_missing_not_cut(meter):
    short = ScpiChannel("model", "*IDN?", dtype="text", max_bytes=5)
    with armed(meter, short, VOLTS, rate_hz=0.001) as driver:
        block = one_row(driver)
    assert block.valid is not None
    assert block.valid[0] is not None
    assert block.column("model")[0] == b""


@pytest.mark.parametrize("reply", ["float32 little", "float32 big"])
def test_arrays_are_received_in_place(meter, reply):
    client = ScpiClient(tcp(*parse_address(meter.address), 1.0, 1.0))
    try:
        values = client.array(b"FETC:ARR? 100000", scpi.BlockFormat.parse(reply))
        want = meter.points(100_000)
        np.testing.assert_array_equal(values, want if reply.endswith("little") else want.byteswap())
    finally:
        client.link.close()


def test_memory_of_a_block_is_used_again_only_when_nobody_looks_at_it(meter):
    form = scpi.BlockFormat.parse("float32 little")
    client = ScpiClient(tcp(*parse_address(meter.address), 1.0, 1.0))
    try:
        first = client.array(b"FETC:ARR? 100000", form)
        kept = first[10:20][::2]
        second = client.array(b"FETC:ARR? 100000", form)
        assert not np.shares_memory(first, second)
        address = second.ctypes.data
        assert address % 4096 == 0
        del first, second
        client.array(b"FETC:ARR? 50000", form)[:] = 0  # another size
        third = client.array(b"FETC:ARR? 100000", form)
        third[:] = 0
        assert third.ctypes.data == address
        np.testing.assert_array_equal(kept, meter.points(20)[10::2])
        np.testing.assert_array_equal(client.array(b"FETC:ARR? 100000", form), meter.points(100_000))
    finally:
        client.link.close()


def test_large_rows_are_handed_over_as_they_were_received(meter):
    trace = ScpiChannel("trace", "FETC:ARR? 300000", unit="V", shape=(300_000,), block="float32 little")
    with armed(meter, trace, rate_hz=1e6) as driver:
        blocks = [driver.read(1.0) for _ in range(3)]
    assert [[block.rows for block in some] for some in blocks] == [[1], [1], [1]]
    assert [some[0].first for some in blocks] == [0, 1, 2]
    for some in blocks:
        np.testing.assert_array_equal(some[0].column("trace")[0], meter.points(300_000))


def test_supervision_reconnects_it_and_refuses_another(meter):
    clock, sink = SystemClock(), ListSink()
    quick = SupervisionOptions(read_timeout_s=0.01, reconnect_initial_s=0.01, reconnect_max_s=0.02)
    with Supervision(clock, quick) as one_of_them:
        one = one_of_them.add("dmm", lambda: ScpiDriver("dmm", options(meter), clock), sink)
        sink.wait_for(lambda s: bool(s.blocks))
        polls = one.stats().counts["polls"]
        assert polls > 0
        meter.disconnect()
        sink.wait_for(lambda s: len(s.specs) == 2)
        counts = one.stats().counts
        assert counts["polls"] >= polls, "what the connection before has counted is lost"
        assert {"missed_polls", "missing_values", "garbled_replies", "resyncs", "device_errors"} < set(counts)
        meter.identity = "scidaq,Multimeter,0002,1.0"
        meter.disconnect()
        sink.wait_for(lambda s: len(s.interruptions) == 2)
        deadline = time.monotonic() + 5
        while "answers where" not in one.stats().reason and time.monotonic() < deadline:
            time.sleep(0.001)
        assert one.state is State.FAILED
        meter.identity = "scidaq,Multimeter,0001,1.0"
        sink.wait_for(lambda s: len(s.specs) == 3)
