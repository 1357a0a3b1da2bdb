"""Rows that a program elsewhere pushes: each recorded once, whatever breaks between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

import scidaq
from scidaq.block import Block, Gap
from scidaq.errors import NotAllowed, RequestError, StationUnreachable
from scidaq.query import Reader
from scidaq.web import KeyStore, SecurityOptions
from tests.web.flight.pushes import T0, Rig, rig
from tests.web.flight.test_reading import problem
from tests.web.live import until

MS = 1_000_000
TEMPS = pa.schema([("time", pa.timestamp("ns", "UTC")), ("inside", pa.float64()), ("count", pa.int64())])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("push") / "data") as one:
        yield one


def temps(first: int, rows: int) -> tuple[dict[str, Any], Any]:
    n = np.arange(first, first + rows)
    return {"inside": n / 2, "count": n}, T0 + n * MS


def batch(first: int, rows: int) -> pa.RecordBatch:
    values, times = temps(first, rows)
    return pa.record_batch([pa.array(times).cast(TEMPS.types[0]), *map(pa.array, values.values())], schema=TEMPS)


def stored(data_dir: Path, stream: str, last_epoch: bool = True) -> list[Block | Gap]:
    reader = Reader(data_dir)
    epoch = reader.summary(stream)[-1].epoch if last_epoch else None
    return list(reader.blocks(stream, epoch=epoch, held=True))


class Raw:
    """A producer that does what it is told, without the client's manners."""

    def __init__(self, address: str, descriptor: bytes, schema: pa.Schema = TEMPS, options: Any = None) -> None:
        self.client = flight.connect(address)
        command = flight.FlightDescriptor.for_command(descriptor)
        self.writer, self.reader = self.client.do_put(command, schema, options or flight.FlightCallOptions(timeout=30))

    def durable(self) -> Any:
        ack = self.reader.read()
        said = {"ended": True} if ack is None else json.loads(ack.to_pybytes())
        if "ended" in said:
            self.writer.close()  # raises what it was
        return said["durable"]

    def send(self, one: pa.RecordBatch, said: Any) -> None:
        self.writer.write_with_metadata(one, said if isinstance(said, bytes) else json.dumps(said).encode())

    def end(self) -> list[int]:
        """Say that this was all; the acknowledgements that were left."""
        self.writer.done_writing()
        acks = []
        while (ack := self.reader.read()) is not None:
            acks.append(json.loads(ack.to_pybytes())["durable"])
        self.writer.close()
        self.client.close()
        return acks

    def _until_told(self) -> None:
        while True:
            self.durable()

    def refused(self) -> str:
        with pytest.raises(flight.FlightError) as caught:
            self._until_told()
        self.client.close()
        return problem(caught.value)


def offer(counter: str, stream: str = "rig/temps") -> bytes:
    return json.dumps({"stream": stream, "counter": counter}).encode()


# ---- what is recorded ------------------------------------------------------------------------------------------------


class TestRows:
    def test_numbers_and_times_are_the_producers(self, shared: Rig) -> None:
        with scidaq.push(shared.door.address, "rig/temps", counter="numbers", first=1000) as out:
            values, times = temps(1000, 50)
            assert out.add(values, times) == 1000
        assert out.durable == 1050
        (block,) = stored(shared.station.plan.data_dir, "rig/temps")
        assert isinstance(block, Block)
        assert np.array_equal(block.column("count"), np.arange(1000, 1050))
        assert np.array_equal(block.time_ns(), times)
        assert shared.station._recorder.durable("rig/temps")[0].origin == 1000  # type: ignore[index]

    def test_every_kind_of_value(self, shared: Rig) -> None:
        images = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
        given = {"f": [1.5, None, 3.0], "b": [True, False, None], "s": ["ü", None, ""], "v": images}
        with scidaq.push(shared.door.address, "rig/all") as out:
            out.add(given, [T0, T0 + 1, T0 + 1])
        (block,) = stored(shared.station.plan.data_dir, "rig/all")
        assert isinstance(block, Block)
        f, b, s = (np.ma.masked_array(block.columns[i], ~block.valid[i]) for i in range(3))  # type: ignore[index, operator]
        assert f.tolist() == [1.5, None, 3.0]
        assert b.tolist() == [True, False, None]
        assert s.tolist() == ["ü".encode(), None, b""]
        assert np.array_equal(block.column("v"), images)
        assert block.physical("f")[0] == 4.0

    def test_rows_of_a_rate_follow_one_another(self, shared: Rig) -> None:
        adc = np.arange(4000, dtype=np.int16).reshape(1000, 4)
        with scidaq.push(shared.door.address, "rig/wave") as out:
            out.add({"adc": adc}, T0)
            out.add({"adc": adc})
        items = stored(shared.station.plan.data_dir, "rig/wave")
        blocks = [item for item in items if isinstance(item, Block)]
        assert sum(block.rows for block in blocks) == 2000
        assert blocks[0].t0_ns == T0
        assert blocks[-1].last_ns == T0 + 1999 * 100_000

    def test_a_pause_of_a_stream_with_a_rate_begins_an_epoch_and_no_time_is_made_up(self, shared: Rig) -> None:
        adc = np.zeros((100, 4), np.int16)
        with scidaq.push(shared.door.address, "rig/wave") as out:
            out.add({"adc": adc}, T0)
            out.add({"adc": adc}, T0 + 600 * 10**9)
        gap, block = stored(shared.station.plan.data_dir, "rig/wave")
        assert isinstance(gap, Gap)
        assert gap.reason == "clock_step"
        assert isinstance(block, Block)
        assert (block.t0_ns, block.rows) == (T0 + 600 * 10**9, 100)
        assert shared.ledger("rig/wave").gap_rows == 0

    def test_rows_that_come_again_are_counted_and_dropped(self, shared: Rig) -> None:
        one = Raw(shared.door.address, offer("again"))
        assert one.durable() is None
        one.send(batch(0, 100), {"first": 0})
        one.send(batch(50, 100), {"first": 50})
        assert one.end()[-1] == 150
        ledger = shared.ledger("rig/temps")
        assert (ledger.durable_rows, ledger.duplicates, ledger.gap_rows, ledger.imbalance) == (150, 50, 0, 0)

    def test_numbers_that_are_skipped_are_a_gap(self, shared: Rig) -> None:
        one = Raw(shared.door.address, offer("skips"))
        one.durable()
        one.send(batch(0, 10), {"first": 0})
        one.send(batch(25, 10), {"first": 25})
        one.end()
        ledger = shared.ledger("rig/temps")
        assert (ledger.durable_rows, ledger.gap_rows, ledger.imbalance) == (20, 15, 0)

    def test_whoever_comes_back_is_told_where_to_go_on(self, shared: Rig) -> None:
        for begins in (0, 10, 20):
            with scidaq.push(shared.door.address, "rig/temps", counter="comes back") as out:
                assert out.next_row == begins
                out.add(*temps(begins, 10))
        assert [type(item) for item in stored(shared.station.plan.data_dir, "rig/temps")].count(Block) >= 1
        assert shared.ledger("rig/temps").durable_rows == 30

    def test_it_is_noted_who_pushed(self, shared: Rig) -> None:
        from scidaq.station import Serving

        with scidaq.push(shared.door.address, "rig/temps") as out:
            out.add(*temps(0, 1))
        said = [fact.data for fact in Serving(shared.station).audited(None, 5)]
        assert any(one["act"] == "PUSH rig/temps" and one["peer"] == "127.0.0.1" for one in said)


@pytest.mark.slow
def test_more_than_the_ring_holds_waits_and_loses_nothing(tmp_path: Path) -> None:
    adc = np.zeros((1 << 17, 4), np.int16)  # 1 MiB
    with rig(tmp_path / "data", ring_bytes=1 << 22) as one, scidaq.push(one.door.address, "rig/wave") as out:
        for _ in range(24):
            out.add({"adc": adc})
        assert out.flush() == 24 << 17
        ledger = one.ledger("rig/wave")
        assert (ledger.durable_rows, ledger.gap_rows, ledger.imbalance) == (24 << 17, 0, 0)


# ---- what breaks -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_flight_process_may_die_while_rows_are_pushed(tmp_path: Path) -> None:
    with rig(tmp_path / "data") as one, scidaq.push(one.door.address, "rig/temps") as out:
        for n in range(40):
            out.add(*temps(n * 10, 10))
            if n in (10, 25):
                until(lambda: one.door.stats().running)
                before = one.door._process
                assert before is not None
                before.kill()
                until(lambda gone=before: one.door._process is not gone)
        out.flush(60)
        assert out.connections >= 2
        assert one.door.stats().restarts == 2
        ledger = one.ledger("rig/temps")
        assert (ledger.durable_rows, ledger.gap_rows, ledger.imbalance) == (400, 0, 0)


@pytest.mark.slow
@pytest.mark.crash
def test_a_producer_is_killed_again_and_again(tmp_path: Path) -> None:
    rows = 20_000
    with rig(tmp_path / "data") as one:
        command = [sys.executable, "-m", "tests.web.flight.producer", one.door.address, "daq", str(rows)]
        for part in range(1, 3):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                process.stdout.readline()

                def far() -> bool:
                    found = one.station._recorder.durable("rig/temps")
                    return found is not None and found[1] >= part * 2000  # noqa: B023

                until(far, 60)
                process.send_signal(signal.SIGKILL)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            said = process.communicate(timeout=60)[0].split()
            assert int(said[0]) >= 4000
            assert said[-1] == "done"
        ledger = one.ledger("rig/temps")
        assert (ledger.durable_rows, ledger.gap_rows, ledger.imbalance) == (rows, 0, 0)
    _is_whole(tmp_path / "data", rows)


@pytest.mark.slow
@pytest.mark.crash
def test_the_station_is_killed_again_and_again(tmp_path: Path) -> None:
    data_dir, port = tmp_path / "data", "0"
    out: Any = None
    total = 0
    for _ in range(2):
        command = [sys.executable, "-m", "tests.web.flight.pushes", str(data_dir), port]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            address = next(line for line in process.stdout if line.startswith("grpc")).strip()
            port = address.rpartition(":")[2]
            if out is None:
                out = scidaq.push(address, "rig/temps", timeout_s=60)
            durable = out.durable
            while out.durable < durable + 500:
                out.add(*temps(total, 10))
                total += 10
                until(lambda one=out: one.waiting_rows < 300, 60)
            process.send_signal(signal.SIGKILL)
    with rig(data_dir, int(port)) as one:
        out.close(60)
        ledger = one.ledger("rig/temps")
        assert (ledger.durable_rows, ledger.gap_rows, ledger.imbalance) == (total, 0, 0)
    assert out.connections >= 2
    _is_whole(data_dir, total)


def _is_whole(data_dir: Path, rows: int) -> None:
    blocks = [item for item in stored(data_dir, "rig/temps") if isinstance(item, Block)]
    assert np.array_equal(np.concatenate([block.column("count") for block in blocks]), np.arange(rows))
    assert np.array_equal(np.concatenate([block.time_ns() for block in blocks]), T0 + np.arange(rows) * MS)


# ---- what is refused -------------------------------------------------------------------------------------------------


class TestRefused:
    @pytest.mark.parametrize(
        ("descriptor", "kind"),
        [
            (b"rig/temps", "request-refused"),
            (b"{", "request-refused"),
            (b'{"stream": "rig/temps"}', "request-refused"),
            (b'{"stream": "rig/temps", "counter": ""}', "request-refused"),
            (b'{"stream": "rig/temps", "counter": "a\\u0000"}', "request-refused"),
            (b'{"stream": "rig/temps", "counter": "a", "more": 1}', "request-refused"),
            (offer("a", "rig/other"), "request-refused"),
            (offer("a", "other/temps"), "unknown-instrument"),
            (offer("a", "../x"), "unknown-stream"),
        ],
    )
    def test_an_offer_that_cannot_be(self, shared: Rig, descriptor: bytes, kind: str) -> None:
        assert Raw(shared.door.address, descriptor).refused() == kind

    @pytest.mark.parametrize(
        "schema",
        [
            pa.schema([TEMPS.field(0), TEMPS.field(1)]),
            pa.schema([*TEMPS, pa.field("more", pa.int8())]),
            pa.schema([TEMPS.field(0), pa.field("inside", pa.float32()), TEMPS.field(2)]),
            pa.schema([TEMPS.field(0), TEMPS.field(1).with_metadata({"unit": "K"}), TEMPS.field(2)]),
            pa.schema([*TEMPS, TEMPS.field(1)]),
            pa.schema([]),
        ],
    )
    def test_another_schema(self, shared: Rig, schema: pa.Schema) -> None:
        assert Raw(shared.door.address, offer("a"), schema).refused() == "request-refused"
        assert shared.station.stats().instruments[0].state == "acquiring"

    @pytest.mark.parametrize(
        "said", [b"", b"{", b"[]", {}, {"first": -1}, {"first": 1.5}, {"first": 1 << 63}, {"first": 0, "t0_ns": 3}]
    )
    def test_rows_without_proper_numbers(self, shared: Rig, said: Any) -> None:
        one = Raw(shared.door.address, offer("a"))
        one.durable()
        one.send(batch(0, 10), said)
        assert one.refused() == "request-refused"

    def test_times_that_go_back_are_missing_or_are_none(self, shared: Rig) -> None:
        good = batch(0, 3)
        for times in ([T0 + 2, T0 + 1, T0], [T0, None, T0], [1, 2, 3]):
            one = Raw(shared.door.address, offer("a"))
            one.durable()
            bad = good.set_column(0, TEMPS.field(0), pa.array(times, pa.int64()).cast(TEMPS.types[0]))
            one.send(bad, {"first": 0})
            assert one.refused() == "request-refused"

    def test_a_second_producer_waits_for_the_first(self, shared: Rig) -> None:
        one = Raw(shared.door.address, offer("one"))
        one.durable()
        other = Raw(shared.door.address, offer("other"))
        assert other.refused() == "too-many"
        one.end()
        again = Raw(shared.door.address, offer("other"))
        again.durable()
        again.end()

    def test_the_same_producer_takes_the_place_of_its_dead_connection(self, shared: Rig) -> None:
        dead = Raw(shared.door.address, offer("same"))
        dead.durable()
        alive = Raw(shared.door.address, offer("same"))
        alive.durable()
        alive.send(batch(0, 10), {"first": 0})
        assert alive.end()[-1] == 10
        dead.send(batch(10, 10), {"first": 10})
        assert dead.refused() == "instrument-not-connected"

    def test_what_takes_no_rows_says_so(self, shared: Rig) -> None:
        with pytest.raises(RequestError, match="takes no stream"):
            scidaq.push(shared.door.address, "rig/other")
        with pytest.raises(RequestError, match="no address"):
            scidaq.push("http://127.0.0.1", "rig/temps")
        with pytest.raises(StationUnreachable, match="no station answers"):
            scidaq.push("grpc://127.0.0.1:1", "rig/temps", timeout_s=5)

    def test_values_that_do_not_fit_are_refused_before_they_are_sent(self, shared: Rig) -> None:
        with scidaq.push(shared.door.address, "rig/temps") as out:
            for values, t in (
                ({"inside": [1.0]}, [T0]),
                ({"inside": [1.0], "count": [1], "x": [1]}, [T0]),
                ({"inside": [1.0], "count": [1]}, None),
                ({"inside": [1.0], "count": ["a"]}, [T0]),
                ({"inside": [1.0, 2.0], "count": [1]}, [T0]),
                ({"inside": [1.0], "count": [1]}, [T0 / 1e9]),
            ):
                with pytest.raises(RequestError):
                    out.add(values, t)
            assert out.next_row == 0


def test_a_batch_may_not_be_huge(tmp_path: Path) -> None:
    with rig(tmp_path / "data", max_batch_bytes=4096) as one:
        raw = Raw(one.door.address, offer("a"))
        raw.durable()
        raw.send(batch(0, 1000), {"first": 0})
        assert raw.refused() == "request-refused"


def test_a_key_needs_the_scope_operate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scidaq.clock import SystemClock

    monkeypatch.delenv("SCIDAQ_KEY", raising=False)
    data_dir = tmp_path / "data"
    with rig(data_dir, security=SecurityOptions()) as one:
        store = KeyStore(data_dir, SystemClock())
        read, operate = (store.create(scope, [scope])[1] for scope in ("read", "operate"))
        with pytest.raises(NotAllowed):
            scidaq.push(one.door.address, "rig/temps")
        with pytest.raises(NotAllowed, match="operate"):
            scidaq.push(one.door.address, "rig/temps", key=read)
        with scidaq.push(one.door.address, "rig/temps", key=operate) as out:
            out.add(*temps(0, 10))
        assert out.durable == 10
    assert os.stat(data_dir / "keys.json").st_mode & 0o077 == 0
