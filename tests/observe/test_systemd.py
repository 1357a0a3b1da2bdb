"""What systemd hears, on a socket in its place."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scidaq.observe import Service
from tests.cli.conftest import environment


class Listener:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(20)

    def hear(self) -> list[str]:
        return self._sock.recv(65536).decode().split("\n")

    def until(self, word: str) -> list[list[str]]:
        heard = [self.hear()]
        while word not in heard[-1]:
            heard.append(self.hear())
        return heard


@contextmanager
def listening(address: str) -> Iterator[Listener]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        yield Listener(sock)


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_watchdog_and_stopping(tmp_path: Path, abstract: bool) -> None:
    name = f"@scidaq-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    with listening(name.replace("@", "\0")) as systemd:
        env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": "7"}
        with Service(env, pid=7) as service:
            service.ready(lambda: "", lambda: "3 instruments\nall well")
            assert systemd.hear() == ["READY=1", "STATUS=3 instruments all well"]
            assert systemd.hear() == ["WATCHDOG=1", "STATUS=3 instruments all well"]
            service.stopping()
            assert systemd.until("STOPPING=1")[-1][1].startswith("STATUS=stopping")
            assert systemd.until("WATCHDOG=1")


def test_a_recorder_that_stands_still_is_not_said_to_be_well(tmp_path: Path) -> None:
    why = ["the recorder has not come round for 12 s"]
    env = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "6000"}
    with listening(str(tmp_path / "n")) as systemd, Service(env) as service:
        service.ready(lambda: why[0], lambda: "")
        systemd.hear()
        for _ in range(3):
            assert systemd.hear() == ["STATUS=the recorder has not come round for 12 s"]
        why[0] = ""
        systemd.until("WATCHDOG=1")


@pytest.mark.parametrize(
    "env",
    [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "/x" * 200}, {"WATCHDOG_USEC": "soon"}],
)
def test_where_nobody_listens_nothing_happens(env: dict[str, str]) -> None:
    with Service(env) as service:
        service.ready(lambda: "", lambda: "")
        service.stopping()


def test_the_watchdog_of_another_process_is_not_ours(tmp_path: Path) -> None:
    with listening(str(tmp_path / "n")) as systemd:
        env = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
        with Service(env, pid=2) as service:
            service.ready(lambda: "", lambda: "")
            service.stopping()
        assert systemd.hear()[0] == "READY=1"
        assert systemd.hear()[0] == "STOPPING=1"


@pytest.mark.slow
def test_serve_tells_systemd(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text('[instruments.adc]\ndriver = "waveform"\nrate_hz = 1000\n')
    with listening(str(tmp_path / "n")) as systemd:
        process = subprocess.Popen(
            [sys.executable, "-m", "scidaq", "serve", "--config", "lab.toml", "--data-dir", "d"],
            cwd=tmp_path,
            env=environment() | {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "300000"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert systemd.hear()[0] == "READY=1"
            assert systemd.hear()[0] == "WATCHDOG=1"
            process.send_signal(signal.SIGTERM)
            systemd.until("STOPPING=1")
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
