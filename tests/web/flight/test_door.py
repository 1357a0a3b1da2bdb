"""The Flight door: who may open it, what strangers can do to it, and how it comes back."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from pyarrow import flight

from scidaq.errors import StationError
from scidaq.web import FlightDoor, FlightOptions, SecurityOptions
from tests.web.flight.conftest import Bulk, with_key
from tests.web.flight.pushes import rig
from tests.web.flight.test_reading import problem
from tests.web.live import until
from tests.web.test_server import certificate, openssl

LIVE = flight.Ticket(b'{"stream": "wave/wave", "live": true}')


def another(bulk: Bulk, **more: Any) -> FlightDoor:
    """A second door of the same station."""
    options = FlightOptions(**{"port": 0, "calls_per_second": 0} | more)
    return FlightDoor(bulk.live.station, bulk.live.station.plan.data_dir, options, SecurityOptions())


# ---- opening ---------------------------------------------------------------------------------------------------------


class TestOpening:
    def test_a_door_that_would_be_open_to_all_is_not_opened(self, bulk: Bulk) -> None:
        options = FlightOptions(bind_address="0.0.0.0", port=0)
        with pytest.raises(StationError, match="without TLS"):
            FlightDoor(bulk.live.station, Path(), options, SecurityOptions()).__enter__()

    def test_a_port_that_is_taken_is_told(self, bulk: Bulk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("scidaq.web.flight.process.PORT_S", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(StationError, match=rf"port {port} .* is taken .* flight\.port"):
                another(bulk, port=port).__enter__()

    def test_one_that_is_about_to_be_free_is_waited_for(self, bulk: Bulk) -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        threading.Timer(0.2, taken.close).start()
        with another(bulk, port=port) as door:
            assert door.address.endswith(f":{port}")

    def test_one_that_is_off_is_none(self, bulk: Bulk) -> None:
        with another(bulk, enabled=False) as door:
            assert door.address == ""
            assert door.stats().running is False

    def test_a_certificate_that_cannot_be_used_is_told(self, bulk: Bulk, tmp_path: Path) -> None:
        (tmp_path / "cert.pem").write_text("nonsense")
        security = SecurityOptions(tls_enabled=True, cert_path=tmp_path / "cert.pem", key_path=tmp_path / "key.pem")
        with pytest.raises(StationError, match=r"security\.cert_path"):
            FlightDoor(bulk.live.station, tmp_path, FlightOptions(port=0), security).__enter__()


# ---- strangers -------------------------------------------------------------------------------------------------------


class TestStrangers:
    def test_wrong_keys_make_an_address_wait(self, bulk: Bulk) -> None:
        with another(bulk) as door, flight.connect(door.address) as client:
            for _ in range(5):
                with pytest.raises(flight.FlightUnauthenticatedError):
                    list(client.list_flights(b"", with_key("scidaq_aaaaaaaa_" + "b" * 43)))
            with pytest.raises(flight.FlightUnavailableError) as caught:
                list(client.list_flights(b"", bulk.key()))
            assert problem(caught.value) == "too-many-failures"

    def test_a_key_may_have_so_many_calls_at_once(self, bulk: Bulk) -> None:
        with another(bulk, max_calls=3, max_calls_per_key=2) as door, flight.connect(door.address) as client:
            readers = [client.do_get(LIVE, bulk.key()) for _ in range(2)]
            with pytest.raises(flight.FlightUnavailableError) as caught:
                client.do_get(LIVE, bulk.key()).read_chunk()
            assert problem(caught.value) == "too-many-calls"
            assert list(client.list_flights(b"", bulk.key("operate")))  # another key's turn
            for reader in readers:
                reader.cancel()
            until(lambda: _answers(client, bulk.key()))

    def test_calls_have_a_rate(self, bulk: Bulk) -> None:
        with another(bulk, calls_per_second=1.0) as door, flight.connect(door.address) as client:
            with pytest.raises(flight.FlightUnavailableError) as caught:
                [list(client.list_flights(b"", bulk.key())) for _ in range(20)]
            assert problem(caught.value) == "too-fast"

    def test_what_is_no_http2_ends_nothing(self, bulk: Bulk) -> None:
        host, port = bulk.door.address.removeprefix("grpc://").split(":")
        for rubbish in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01" + b"\0" * 500,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
        ):
            with socket.create_connection((host, int(port)), timeout=10) as one:
                one.sendall(rubbish)
        assert list(bulk.client.list_flights(b"", bulk.key()))

    @pytest.mark.slow
    def test_who_sends_more_than_memory_ends_the_process_and_not_the_station(self, bulk: Bulk) -> None:
        with another(bulk, memory_bytes=256 << 20) as door, flight.connect(door.address) as client:
            assert list(client.list_flights(b"", bulk.key()))
            rows = bulk.live.station.stats().intakes
            with pytest.raises((flight.FlightError, OSError)):
                client.do_get(flight.Ticket(bytes(400 << 20))).read_chunk()  # without a key
            until(lambda: door.stats().restarts == 1 and door.stats().running, 30)
            until(lambda: _answers(flight.connect(door.address), bulk.key()))
            until(lambda: sum(i.delivered for i in bulk.live.station.stats().intakes) > sum(i.delivered for i in rows))

    def test_a_ticket_that_is_long_is_refused_and_others_go_on(self, bulk: Bulk) -> None:
        reader = bulk.client.do_get(LIVE, bulk.key())
        with pytest.raises(flight.FlightError) as caught:
            bulk.rows(bytes(30 << 20))
        assert problem(caught.value) == "request-refused"
        assert reader.read_chunk().data.num_rows
        reader.cancel()


def _answers(client: Any, options: Any) -> bool:
    try:
        return bool(list(client.list_flights(b"", options)))
    except flight.FlightError:
        return False


# ---- coming back -----------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_is_begun_again(bulk: Bulk) -> None:
    with another(bulk) as door, flight.connect(door.address) as client:
        reader = client.do_get(LIVE, bulk.key())
        assert reader.read_chunk().data.num_rows
        assert door._process is not None
        door._process.kill()
        with pytest.raises(flight.FlightUnavailableError):
            reader.read_all()
        until(lambda: door.stats().restarts == 1)
        until(lambda: _answers(client, bulk.key()), 30)
        assert door.judge().status == "healthy"


@openssl
def test_tls_and_a_new_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls", "one")
    security = SecurityOptions(keys=False, tls_enabled=True, cert_path=cert, key_path=key)
    with rig(tmp_path / "data", security=security) as one:
        port = one.door.address.removeprefix("grpc+tls://127.0.0.1:")
        first = cert.read_bytes()

        def client(root: bytes) -> Any:
            return flight.connect(f"grpc+tls://localhost:{port}", tls_root_certs=root)

        held = client(first)
        assert list(held.list_actions())
        with pytest.raises(flight.FlightError):
            list(flight.connect(f"grpc://localhost:{port}").list_flights())
        certificate(tmp_path / "tls", "two")
        until(lambda: _answers_actions(client(cert.read_bytes())), 30)
        assert one.door.stats().restarts == 0
        with pytest.raises(flight.FlightUnavailableError):  # whom it does not trust any more
            list(client(first).list_actions())


def _answers_actions(client: Any) -> bool:
    try:
        return bool(list(client.list_actions()))
    except flight.FlightError:
        return False
