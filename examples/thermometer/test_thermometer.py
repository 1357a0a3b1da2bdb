"""The driver against a thermometer that is not there, by the contract that every driver of scidaq keeps."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from examples.thermometer.thermometer import ThermometerDriver, ThermometerOptions
from scidaq.clock import SystemClock
from scidaq.testing import DriverContract


@contextmanager
def simulated_thermometer(every_s: float = 0.01) -> Iterator[int]:
    """Sends 23.5 to whoever is connected; its port."""
    ended = threading.Event()
    clients: list[socket.socket] = []

    def accept() -> None:
        while not ended.is_set():
            try:
                clients.append(server.accept()[0])
            except OSError:
                return

    def send() -> None:
        while not ended.wait(every_s):
            for client in list(clients):
                try:
                    client.sendall(b"23.5\n")
                except OSError:
                    clients.remove(client)
                    client.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threads = [threading.Thread(target=act, daemon=True) for act in (accept, send)]
        for thread in threads:
            thread.start()
        yield server.getsockname()[1]
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    for client in clients:
        client.close()


class TestThermometer(DriverContract):
    """Inherits every test of the contract."""

    @pytest.fixture
    def driver(self) -> Iterator[Callable[[], ThermometerDriver]]:
        with simulated_thermometer() as port:
            yield lambda: ThermometerDriver("room", ThermometerOptions("127.0.0.1", port), SystemClock())
