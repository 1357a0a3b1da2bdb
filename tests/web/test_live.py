"""The live socket, over real connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from scidaq.web.frames import decode
from tests.web.live import Live

WAIT_S = 15.0


class Socket:
    """A client that keeps what it hears."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def hear(self) -> Any:
        """The next message: a dictionary, or a frame as header and arrays."""
        message = self.socket.recv(WAIT_S)
        return json.loads(message) if isinstance(message, str) else decode(message)

    def told(self, op: str) -> dict[str, Any]:
        """The next text message of this kind."""
        while True:
            heard = self.hear()
            if isinstance(heard, dict) and heard["op"] == op:
                return heard

    def frame(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The next frame."""
        while True:
            heard = self.hear()
            if isinstance(heard, tuple):
                return heard

    def closed(self) -> int:
        """The code with which the server ends the connection."""
        while True:
            try:
                self.socket.recv(WAIT_S)
            except ConnectionClosed as error:
                return error.rcvd.code if error.rcvd else 0


@contextmanager
def viewing(live: Live, key: str | None = "read", **headers: str) -> Iterator[Socket]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        given["Authorization"] = f"Bearer {live.keys[key]}"
    address = live.web.address.replace("http", "ws") + "/api/v1/live"
    with connect(address, additional_headers=given, compression=None, max_size=None) as socket:
        yield Socket(socket)


def test_the_newest_rows_come_as_buckets_of_a_grid(live: Live) -> None:
    with viewing(live) as one:
        one.say(op="subscribe", id=7, stream="wave/wave", channels=["adc.ch1"], step_ns="10000000", fps=30)
        told = one.told("subscribed")
        assert (told["id"], told["step_ns"], told["fps"]) == (7, str(1 << 24), 30)
        assert [c["name"] for c in told["channels"]] == ["adc.ch1"]
        seen: dict[int, tuple[float, float]] = {}
        for _ in range(10):
            header, buffers = one.frame()
            assert (header["kind"], header["view"], header["stream"]) == ("view", told["view"], "wave/wave")
            base = int(header["base_ns"])
            for t0, low, high in zip(buffers["t0"], buffers["min:0"], buffers["max:0"], strict=True):
                seen[base + int(t0)] = low, high
        numbers = [t // (1 << 24) for t in sorted(seen)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # each bucket once, and none is missing
        assert all(low <= high for low, high in seen.values())


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("metrics", 403)])
def test_who_may_not_read_may_not_look(live: Live, key: str | None, status: int) -> None:
    with pytest.raises(InvalidStatus) as error, viewing(live, key):
        pass
    assert error.value.response.status_code == status
    assert json.loads(error.value.response.body)["status"] == status


def test_a_page_of_another_site_may_not_look(live: Live) -> None:
    with pytest.raises(InvalidStatus) as error, viewing(live, Origin="https://elsewhere.example"):
        pass
    assert json.loads(error.value.response.body)["type"] == "urn:scidaq:strange-origin"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[1]", "invalid-request"),
        ("{", "invalid-request"),
        ('{"op":"dance"}', "invalid-request"),
        ('{"op":"subscribe","id":1,"stream":"wave/wave","fps":1000}', "invalid-request"),
        ('{"op":"subscribe","id":1,"stream":"wave/wave","colour":"red"}', "invalid-request"),
        ('{"op":"subscribe","id":1,"stream":"wave/nothing"}', "unknown-stream"),
        ('{"op":"subscribe","id":1,"stream":"wave/wave","channels":["nothing"]}', "request-refused"),
        ('{"op":"unsubscribe","id":9}', "unknown"),
        ('{"op":"subscribe","id":1,"events":["log"]}', "scope-missing"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_the_rest_goes_on(live: Live, message: str, kind: str) -> None:
    with viewing(live) as one:
        one.socket.send(message)
        told = one.told("error")
        assert told["kind"] == kind
        assert told["detail"]
        one.say(op="ping")
        assert one.told("pong")
