"""The doors themselves: where they open, TLS, the control socket, and that they close."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from scidaq.errors import RequestError, StationError
from scidaq.station import Station, StationPlan
from scidaq.store import note_control, system_files
from scidaq.testing import FakeClock
from scidaq.web import Control, KeyStore, SecurityOptions, ServerOptions, connect_control, open_doors
from tests.web.conftest import OpenDoors
from tests.web.talk import ask, connected, place, until_closed

openssl = pytest.mark.requires(
    "openssl",
    subprocess.run(["sh", "-c", "command -v openssl"], capture_output=True).returncode == 0,
    "install openssl",
)


def test_a_port_that_is_taken_is_told(doors: OpenDoors) -> None:
    web = doors()
    port = place(web.address)[1]
    with pytest.raises(StationError, match=rf"port {port} at 127.0.0.1 is taken.*server\.port"):
        doors(port=port)
    assert ask(web.address, "/health/live").status == 200


def test_an_address_of_another_machine_is_told(doors: OpenDoors) -> None:
    security = SecurityOptions(open_door="anybody who reaches this port may read and control this station")
    with pytest.raises(StationError, match=r"192\.0\.2\.1.* no address of this machine"):
        doors(security, bind_address="192.0.2.1")


def test_a_door_that_would_be_open_to_all_is_not_opened(doors: OpenDoors) -> None:
    with pytest.raises(StationError, match="without keys and without TLS"):
        doors(SecurityOptions(keys=False), bind_address="0.0.0.0")


def test_without_a_port_there_is_still_the_control_socket(doors: OpenDoors) -> None:
    web = doors(enabled=False)
    assert web.address == ""
    assert Control(web.control).call("GET", "/api/v1/status")["name"] == "station"


# ---- the control socket ----------------------------------------------------------------------------------------------


def test_the_control_socket_is_its_owners_and_asks_for_no_key(doors: OpenDoors, runtime: Path) -> None:
    web = doors(SecurityOptions())
    path = Path(web.control)
    assert path.parent == runtime
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert Control(web.control).call("GET", "/api/v1/status")["name"] == "station"
    web.close()
    assert not path.exists()


def test_a_refusal_over_the_control_socket_is_in_the_stations_words(doors: OpenDoors) -> None:
    web = doors()
    with pytest.raises(RequestError, match="there is nothing at /nothing"):
        Control(web.control).call("GET", "/nothing")


def test_the_control_socket_answers_when_all_connections_are_taken(doors: OpenDoors) -> None:
    web = doors(max_connections=2)
    with connected(web.address), connected(web.address):
        assert Control(web.control).call("GET", "/api/v1/status")["name"] == "station"
        assert web.gate.stats().connections == 2


def test_a_directory_that_others_may_write_to_is_not_used(doors: OpenDoors, runtime: Path) -> None:
    runtime.mkdir(mode=0o777)
    os.chmod(runtime, 0o777)
    web = doors()
    assert web.control == ""
    assert ask(web.address, "/health/live").status == 200


def test_a_running_station_is_found_by_its_data(tmp_path: Path, runtime: Path, clock: FakeClock) -> None:
    data_dir = tmp_path / "data"
    with Station(StationPlan(data_dir)) as station:
        assert connect_control(data_dir) is None
        keys = KeyStore(data_dir, clock)
        server = ServerOptions(port=0)
        with open_doors(station, station.stats().uuid, keys, server, SecurityOptions()) as web:
            found = connect_control(data_dir)
            assert found == Control(web.control)
        assert connect_control(data_dir) is None
        files = system_files()
        note_control(data_dir, files, "/nowhere/it.sock")  # as a station leaves it that was killed
        assert connect_control(data_dir) is None
        note_control(data_dir, files, "")
        assert not (data_dir / "control").exists()


def test_a_socket_of_a_killed_station_is_no_hindrance(doors: OpenDoors, runtime: Path, station: Station) -> None:
    runtime.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(runtime / f"{station.stats().uuid}.sock"))
    keys = KeyStore(runtime, FakeClock())
    with open_doors(station, station.stats().uuid, keys, ServerOptions(port=0), SecurityOptions()) as web:
        assert Control(web.control).call("GET", "/api/v1/status")["name"] == "station"


def test_nobody_at_the_other_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(StationError, match="does not answer"):
        Control(str(tmp_path / "none.sock")).call("GET", "/")


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_it_ends_though_connections_stay_open(doors: OpenDoors) -> None:
    web = doors()
    with connected(web.address) as one:
        one.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        one.recv(100)
        began = time.monotonic()
        web.close()
        assert time.monotonic() - began < 8
        assert web._thread is None or not web._thread.is_alive()


# ---- TLS -------------------------------------------------------------------------------------------------------------


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    directory.mkdir(exist_ok=True)
    cert, key = directory / "cert.pem", directory / "key.pem"
    arguments = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name}"
    made = [
        *arguments.split(),
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        f"{key}.new",
        "-out",
        f"{cert}.new",
    ]
    subprocess.run(["openssl", *made], check=True, capture_output=True)
    os.replace(f"{key}.new", key)
    os.replace(f"{cert}.new", cert)
    return cert, key


def shake_hands(address: str, version: ssl.TLSVersion | None = None) -> tuple[str, str]:
    """The version of TLS and the name in the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(place(address), timeout=10) as plain, context.wrap_socket(plain) as one:
        one.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := one.recv(4096):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b"strict-transport-security" in answer
        return str(one.version()), str(ssl.DER_cert_to_PEM_cert(one.getpeercert(True) or b""))


@openssl
def test_tls_of_today_and_a_new_certificate_under_load(doors: OpenDoors, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls", "one")
    web = doors(SecurityOptions(keys=False, tls_enabled=True, cert_path=cert, key_path=key))
    assert web.address.startswith("https://")
    version, before = shake_hands(web.address)
    assert version == "TLSv1.3"
    assert before == cert.read_text()
    stop, failed, served = threading.Event(), [], [0]

    def load() -> None:
        while not stop.is_set():
            try:
                shake_hands(web.address)
                served[0] += 1
            except Exception as error:
                failed.append(error)

    with_load = [threading.Thread(target=load) for _ in range(3)]
    for one in with_load:
        one.start()
    certificate(tmp_path / "tls", "two")
    deadline = time.monotonic() + 15
    while shake_hands(web.address)[1] == before:
        assert time.monotonic() < deadline
    stop.set()
    for one in with_load:
        one.join()
    assert failed == []
    assert served[0] > 3


@openssl
def test_who_never_shakes_hands_keeps_nobody_out(doors: OpenDoors, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls", "one")
    security = SecurityOptions(keys=False, tls_enabled=True, cert_path=cert, key_path=key)
    web = doors(security, max_connections=10, max_connections_per_peer=8)
    knocking = [socket.create_connection(place(web.address), timeout=10) for _ in range(40)]
    try:
        assert shake_hands(web.address)[0] == "TLSv1.3"
        assert len(web.gate.shaking) <= 8
        assert web.gate.stats().evicted >= 32
        assert is_closed(knocking[0])
        web.close()
        assert all(map(is_closed, knocking))
    finally:
        for one in knocking:
            one.close()


def is_closed(one: socket.socket) -> bool:
    """Whether the other end has ended the connection, politely or not."""
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


@openssl
def test_what_is_no_tls_is_closed(doors: OpenDoors, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls", "one")
    web = doors(SecurityOptions(keys=False, tls_enabled=True, cert_path=cert, key_path=key))
    with connected(web.address) as one:
        one.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200" not in until_closed(one)
    assert shake_hands(web.address)[0] == "TLSv1.3"
    assert not web.gate.shaking


@openssl
def test_a_certificate_that_does_not_fit_its_key_changes_nothing(doors: OpenDoors, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls", "one")
    other, _ = certificate(tmp_path / "other", "two")
    web = doors(SecurityOptions(keys=False, tls_enabled=True, cert_path=cert, key_path=key))
    before = cert.read_text()
    os.replace(other, cert)
    assert web.renew_certificate() is False
    assert shake_hands(web.address)[1] == before


@openssl
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_of_yesterday_is_refused(doors: OpenDoors, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls", "one")
    web = doors(SecurityOptions(keys=False, tls_enabled=True, cert_path=cert, key_path=key))
    assert shake_hands(web.address, ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake_hands(web.address, ssl.TLSVersion.TLSv1_1)


def test_a_certificate_that_is_none_is_told(doors: OpenDoors, tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("nonsense")
    security = SecurityOptions(keys=False, tls_enabled=True, cert_path=tmp_path / "c.pem", key_path=tmp_path / "k.pem")
    with pytest.raises(StationError, match="cert_path, key_path"):
        doors(security)
