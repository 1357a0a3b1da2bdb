"""The live socket, over real connections."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from jsonschema import Draft202012Validator
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from scidaq.block import Block
from scidaq.clock import SystemClock
from scidaq.observe import LoggingOptions, Logs
from scidaq.query import Reader
from scidaq.station import Station, StationPlan
from scidaq.testing import FakeInstrument
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors
from scidaq.web.frames import decode
from tests.web.live import Live, live_station, until
from tests.web.talk import connected, until_closed

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
            assert heard["op"] != "error", heard

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


# ---- who is not as a client should be -------------------------------------------------------------------------------


def test_a_message_that_is_too_long_ends_the_connection_and_no_other(live: Live) -> None:
    with viewing(live) as other, viewing(live) as one:
        one.socket.send("x" * 70_000)
        assert one.closed() == 1009
        other.say(op="ping")
        assert other.told("pong")


def test_bytes_are_no_messages(live: Live) -> None:
    with viewing(live) as one:
        one.socket.send(b"\x00\x01\x02" * 100)
        assert one.told("closing")["reason"]
        assert one.closed() == 1003


def test_a_thousand_subscriptions_are_too_many(live: Live) -> None:
    with viewing(live) as one:
        for number in range(164):
            one.say(op="subscribe", id=number, events=["gap"])
        told = [one.hear() for _ in range(164)]
        assert [m["op"] for m in told].count("subscribed") == 64
        assert {m["kind"] for m in told if m["op"] == "error"} == {"too-many"}
        one.say(op="subscribe", id=3, events=["gap"])
        assert one.told("error")["kind"] in ("too-many", "id-taken")


def test_who_only_talks_nonsense_is_sent_away(live: Live) -> None:
    with viewing(live) as one:
        for _ in range(102):
            one.socket.send("nonsense")
        assert one.told("closing")["reason"]
        assert one.closed() == 1008


def test_who_talks_without_end_is_sent_away(live: Live) -> None:
    with viewing(live) as one:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(100):
                one.socket.send(json.dumps({"op": "ping"}).ljust(60_000))
        assert one.closed() in (0, 1008)


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 200, b"\x81\xfe\xff\xff" + b"\0" * 70_000, b"\x81\x05hello", b"\xc1\x80\0\0\0\0"]
)
def test_what_is_no_websocket_ends_the_connection(live: Live, garbage: bytes) -> None:
    with viewing(live) as other, connected(live.web.address) as one:
        one.sendall(upgrade(live))
        assert one.recv(65536).startswith(b"HTTP/1.1 101")
        with contextlib.suppress(ConnectionError):
            one.sendall(garbage)
        until_closed(one)
        other.say(op="ping")
        assert other.told("pong")


def test_a_flood_of_pings_is_answered_or_ended(live: Live) -> None:
    with connected(live.web.address) as one:
        one.sendall(upgrade(live))
        assert one.recv(65536).startswith(b"HTTP/1.1 101")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                one.sendall(b"\x89\x80\0\0\0\0" * 2000)
        until_closed(one)
    assert live.ask("status").status == 200


def test_a_connection_for_another_path_stays_an_ordinary_one(live: Live) -> None:
    with connected(live.web.address) as one:
        one.sendall(upgrade(live).replace(b"/api/v1/live", b"/api/v1/status"))
        assert one.recv(65536).startswith(b"HTTP/1.1 200")
    assert live.ask("live").status == 426


def upgrade(live: Live) -> bytes:
    return (
        "GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {live.keys['read']}\r\n\r\n"
    ).encode()


def test_only_so_many_may_look(tmp_path: Path) -> None:
    with live_station(tmp_path / "data", max_live_connections=2) as live, viewing(live), viewing(live):
        with pytest.raises(InvalidStatus) as error, viewing(live):
            pass
        assert error.value.response.status_code == 503
        assert live.web.gate.stats().live == 2
        assert live.ask("status").status == 200


def test_a_key_that_is_revoked_ends_its_connections(live: Live) -> None:
    key, given = live.store.create("to be revoked", ["read"])
    address = live.web.address.replace("http", "ws") + "/api/v1/live"
    with connect(address, additional_headers={"Authorization": f"Bearer {given}"}) as socket, viewing(live) as other:
        one = Socket(socket)
        one.say(op="subscribe", id=1, stream="wave/wave")
        assert one.frame()
        live.store.revoke(key.id)
        assert one.closed() == 4401
        other.say(op="ping")
        assert other.told("pong")


def test_who_takes_nothing_holds_nobody_up_is_told_what_was_left_out_and_goes_on(live: Live) -> None:
    with viewing(live) as other, connected(live.web.address) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.sendall(upgrade(live))
        before = live.web.viewers.stats().skipped
        for number in range(60):
            slow.sendall(text_of(op="subscribe", id=number, stream="wave/wave", step_ns="65536", fps=60))
        until(lambda: live.web.viewers.stats().skipped > before + 100, 60)
        other.say(op="subscribe", id=1, stream="wave/wave", step_ns="65536", fps=30)
        seqs = [other.frame()[0]["seq"] for _ in range(5)]
        assert seqs == list(range(seqs[0], seqs[0] + 5))
        skipped = None
        messages = messages_of(slow)
        for kind, payload in messages:
            if kind == 1 and json.loads(payload)["op"] == "skipped":
                skipped = json.loads(payload)
                break
        assert skipped is not None
        assert skipped["frames"] > 0
        assert int(skipped["from_ns"]) <= int(skipped["to_ns"])
        assert any(kind == 2 for kind, _ in messages)  # and it goes on


def test_who_takes_nothing_for_long_is_cut_off(tmp_path: Path) -> None:
    with live_station(tmp_path / "data", live_stall_seconds=0.3) as live, connected(live.web.address) as slow:
        live.until_rows("wave/wave", 200)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(upgrade(live))
        for number in range(60):
            slow.sendall(text_of(op="subscribe", id=number, stream="wave/wave", step_ns="65536", fps=60))
        until(lambda: live.web.viewers.stats().viewers == 1)
        until(lambda: live.web.viewers.stats().viewers == 0, 60)
        assert live.web.gate.stats().late > 0


def text_of(**message: Any) -> bytes:
    """A masked message of a client, by hand."""
    payload = json.dumps(message).encode()
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


def messages_of(one: socket.socket) -> Iterator[tuple[int, bytes]]:
    """What a server sends, by hand; the answer to the upgrade is left out."""
    buffer = b""
    while True:
        buffer += one.recv(65536)
        if buffer.startswith(b"HTTP/1.1") and b"\r\n\r\n" in buffer:
            buffer = buffer.partition(b"\r\n\r\n")[2]
        while len(buffer) >= 10 and not buffer.startswith(b"HTTP"):
            size, head = buffer[1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(buffer[2:head], "big")
            if len(buffer) < head + size:
                break
            yield buffer[0] & 15, buffer[head : head + size]
            buffer = buffer[head + size :]


# ---- going on -------------------------------------------------------------------------------------------------------


def covered(seen: list[tuple[int, int, int]]) -> int:
    """How many rows these buckets have, of which none overlaps another: (first, last, rows)."""
    ordered = sorted(seen)
    for (_, last, _), (first, _, _) in pairwise(ordered):
        assert last < first
    return sum(rows for _, _, rows in ordered)


def keep(seen: dict[int, tuple[int, int, int]], frame: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    """As a client does: a bucket takes the place of the one that begins at the same time."""
    header, buffers = frame
    base = int(header["base_ns"])
    t0 = [base + int(t) for t in buffers["t0"]]
    t1 = t0 if header.get("raw") else [base + int(t) for t in buffers["t1"]]
    n = [1] * len(t0) if header.get("raw") else buffers["n"].tolist()
    seen.update({a: (a, b, c) for a, b, c in zip(t0, t1, n, strict=True)})


@pytest.mark.parametrize("step_ns", ["65536", "20000000", "4000000000"])
def test_who_comes_back_gets_all_that_was_missed_and_nothing_twice(live: Live, step_ns: str) -> None:
    since_ns = live.door.now_ns() - 300_000_000
    seen: dict[int, tuple[int, int, int]] = {}
    with viewing(live) as one:
        one.say(op="subscribe", id=1, stream="wave/wave", step_ns=step_ns, since_ns=str(since_ns))
        frames = [one.frame() for _ in range(8)]
    assert [header.get("history", False) for header, _ in frames] == [True] + [False] * 7
    for frame in frames:
        keep(seen, frame)
    rows = covered(list(seen.values()))
    first, last = min(seen), max(t1 for _, t1, _ in seen.values())
    assert since_ns <= first < since_ns + 10_000_000  # 1,000 rows a second
    assert rows == round((last - first) / 1e6) + 1


def test_who_joins_a_view_of_others_misses_nothing_either(live: Live) -> None:
    with viewing(live) as first, viewing(live) as one:
        asked = {"op": "subscribe", "id": 1, "stream": "wave/wave", "step_ns": "300000000"}
        first.say(**asked)
        view = first.told("subscribed")["view"]
        first.frame()
        since_ns = live.door.now_ns() - 700_000_000
        one.say(**asked, since_ns=str(since_ns))
        assert one.told("subscribed")["view"] == view  # folded once
        seen: dict[int, tuple[int, int, int]] = {}
        for _ in range(6):
            keep(seen, one.frame())
    begin, last = min(seen), max(t1 for _, t1, _ in seen.values())
    assert covered(list(seen.values())) == round((last - begin) / 1e6) + 1


def test_events_come_as_they_happen_and_those_of_before_on_demand(live: Live) -> None:
    with viewing(live) as one:
        one.say(op="subscribe", id=5, events=["run", "note", "instrument"])
        one.told("subscribed")
        run = live.ask("runs", "POST", {"name": "seen live"}).json
        live.ask(f"runs/{run['id']}/stop", "POST")
        heard: list[dict[str, Any]] = []

        def until_heard(*what: str) -> None:
            while not set(what) <= {e.get("what") or e.get("state") for e in heard}:
                heard.append(one.told("event"))

        until_heard("started", "stopped")
        live.ask("instruments/fake/stop", "POST")
        until_heard("ready")
        live.ask("instruments/fake/start", "POST")
        until_heard("acquiring")
        assert all(isinstance(e["at_ns"], str) for e in heard)
        assert {e["id"] for e in heard} == {5}
    with viewing(live) as one:
        one.say(op="subscribe", id=1, events=["run"], recent=2)
        assert [one.told("event")["what"] for _ in range(2)] == ["started", "stopped"]


def test_the_log_is_seen_as_it_grows_by_who_may_operate(tmp_path: Path, runtime: Path) -> None:
    clock = SystemClock()
    with (
        Logs(LoggingOptions(console="never"), tmp_path / "logs", clock, ["a-secret-word"]) as logs,
        Station(StationPlan(tmp_path / "data"), clock) as station,
    ):
        store = KeyStore(tmp_path / "data", clock)
        keys = {scope: store.create(scope, [scope])[1] for scope in ("read", "operate")}
        with open_doors(
            station, station.stats().uuid, store, ServerOptions(port=0), SecurityOptions(), logs=logs
        ) as web:
            live = Live(station, web, keys, store, FakeInstrument())
            assert live.ask("log", key="read").status == 403
            structlog.get_logger("scidaq.x").warning("of before", said="a-secret-word")
            (line,) = live.ask("log?level=warning&limit=1", key="operate").json
            assert (line["event"], line["values"]) == ("of before", {"said": "(hidden)"})
            with viewing(live, "operate") as one:
                one.say(op="subscribe", id=1, events=["log"], level="warning", recent=1)
                assert one.told("event")["message"] == "of before"
                structlog.get_logger("scidaq.x").info("not bad enough")
                structlog.get_logger("scidaq.x").error("now", said="a-secret-word")
                heard = one.told("event")
                assert (heard["message"], heard["level"], heard["values"]) == ("now", "error", {"said": "(hidden)"})


def test_the_schema_says_what_messages_there_are(live: Live) -> None:
    schema = live.ask("live/schema", key="read").json
    Draft202012Validator.check_schema(schema)
    client = Draft202012Validator({**schema["properties"]["client"], "$defs": schema["$defs"]})
    assert client.is_valid({"op": "subscribe", "id": 1, "stream": "a/b", "channels": None, "step_ns": "5", "fps": 60})
    assert not client.is_valid({"op": "subscribe", "id": 1, "stream": "a/b", "fps": 61})
    with viewing(live) as one:
        one.say(op="subscribe", id=1, stream="wave/wave")
        server = Draft202012Validator({**schema["properties"]["server"], "$defs": schema["$defs"]})
        server.validate(one.told("subscribed"))
        one.say(op="dance")
        server.validate(one.told("error"))


def test_nobody_who_looks_leaves_anything_behind(live: Live) -> None:
    with viewing(live) as one:
        one.say(op="subscribe", id=1, stream="wave/wave")
        one.say(op="subscribe", id=2, events=["gap"])
        one.frame()
    until(lambda: live.station.live.stats().views == 0 and live.station.live.stats().listeners == 0)
    assert live.web.viewers.stats().viewers == 0
    assert live.web.gate.stats().live == 0


SERVER = """
import sys, threading
from pathlib import Path
from scidaq.clock import SystemClock
from scidaq.instruments import WaveformDriver, WaveformOptions
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors

clock, data_dir = SystemClock(), Path(sys.argv[1])
options = WaveformOptions(channels=1, rate_hz=1000, block_s=0.01)
plan = InstrumentPlan("wave", lambda: WaveformDriver("wave", options, clock), "waveform")
with Station(StationPlan(data_dir, "lab", (plan,)), clock) as station:
    server, security = ServerOptions(port=int(sys.argv[2])), SecurityOptions(keys=False)
    with open_doors(station, station.stats().uuid, KeyStore(data_dir, clock), server, security) as web:
        while not station.stats().rings:  # unknown as long as nobody has announced it
            threading.Event().wait(0.01)
        print(web.address, file=sys.__stderr__, flush=True)
        threading.Event().wait()
"""


@contextmanager
def serving(data_dir: Path, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A station in a process of its own, which is killed in the end."""
    command = [sys.executable, "-c", SERVER, str(data_dir), str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        try:
            yield process.stderr.readline().strip(), process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.crash
def test_who_comes_back_to_a_station_that_was_killed_has_no_hole(tmp_path: Path, runtime: Path) -> None:
    """Whatever the store has at the end, the client has: before the kill, over it, and after it."""
    seen: dict[int, tuple[int, int, int]] = {}
    gaps: list[dict[str, Any]] = []
    since_ns, rounds = 0, 3
    for number in range(rounds):
        with serving(tmp_path / "data") as (address, process):
            with connect(address.replace("http", "ws") + "/api/v1/live", max_size=None, close_timeout=1) as socket_:
                one = Socket(socket_)
                asked = {"op": "subscribe", "id": 1, "stream": "wave/wave", "step_ns": "16777216"}
                one.say(**asked, since_ns=str(since_ns))
                for _ in range(12):
                    frame = one.frame()
                    keep(seen, frame)
                    gaps += frame[0]["gaps"]
                if number < rounds - 1:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            since_ns = max(last for _, last, _ in seen.values()) + 1
    reader = Reader(tmp_path / "data")
    until_ns = max(last for _, last, _ in seen.values())
    stored = [item for item in reader.blocks("wave/wave", min(seen), until_ns + 1) if isinstance(item, Block)]
    buckets = sorted(seen.values())
    covered(buckets)
    firsts = np.array([first for first, _, _ in buckets])
    lasts = np.array([last for _, last, _ in buckets])
    times = np.concatenate([block.time_ns() for block in stored])
    which = firsts.searchsorted(times, "right") - 1
    assert (which >= 0).all()
    assert (times <= lasts[which]).all()  # every row of the store lies in a bucket that the client has
    assert sum(1 for gap in gaps if gap["reason"] == "restart") >= rounds - 1
