"""Who is told what, and when; at servers on this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_bytes, policy
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from scidaq.clock import SystemClock
from scidaq.observe import Component, Notifier, NotifyOptions, Report, notify
from scidaq.observe.notify import (
    Change,
    Email,
    EmailOptions,
    Lost,
    Message,
    Mqtt,
    MqttOptions,
    News,
    Webhook,
    WebhookOptions,
)
from scidaq.options import Secret
from scidaq.stats import Status, Verdict

H, D, U = Status.HEALTHY, Status.DEGRADED, Status.UNHEALTHY
T_NS = 1_750_000_000_000_000_000
MESSAGE = Message(
    "lab",
    T_NS,
    U,
    (Change("instrument:dmm", H, U, T_NS, "does not answer"), Change("buffers", H, D, T_NS, "half full")),
    (Lost("adc/wave", "overflow", 2, 300),),
)


def report(**components: Status) -> Report:
    found = {n: Component(Verdict(s, "" if s is H else f"{n} is ill"), T_NS) for n, s in components.items()}
    return Report(max(components.values(), key=lambda s: s.rank), found, T_NS)


def told(message: Message | None) -> list[tuple[str, str]]:
    return [] if message is None else [(c.component, c.now.value) for c in message.changes]


def wait_for(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- what is told, and when -----------------------------------------------------------------------------------------


def test_a_change_is_told_once_it_has_stayed():
    news = News(NotifyOptions(hold_off_s=30, group_s=0), "lab", {})
    assert news.due(report(a=H), {}, 0) is None
    assert news.due(report(a=U), {}, 10) is None
    assert news.due(report(a=U), {}, 39) is None
    message = news.due(report(a=U), {}, 40)
    assert told(message) == [("a", "unhealthy")]
    assert message is not None
    assert message.changes[0].reason == "a is ill"
    assert news.due(report(a=U), {}, 100) is None
    assert news.due(report(a=H), {}, 200) is None
    assert told(news.due(report(a=H), {}, 230)) == [("a", "healthy")]


def test_what_flaps_is_not_told():
    news = News(NotifyOptions(hold_off_s=30, group_s=0), "lab", {})
    for t in range(0, 600, 20):
        assert news.due(report(a=U if t % 40 else H), {}, t) is None


def test_changes_come_together_and_the_next_message_later():
    news = News(NotifyOptions(hold_off_s=10, group_s=60), "lab", {})
    ill = report(a=U, b=U, c=H)
    assert news.due(ill, {}, 0) is None
    assert told(news.due(ill, {}, 10)) == [("a", "unhealthy"), ("b", "unhealthy")]
    assert news.due(report(a=U, b=U, c=U), {}, 20) is None
    assert news.due(report(a=H, b=U, c=U), {}, 40) is None
    assert told(news.due(report(a=H, b=U, c=U), {}, 70)) == [("c", "unhealthy"), ("a", "healthy")]


def test_what_is_only_degraded_may_be_left_out():
    news = News(NotifyOptions(hold_off_s=0, group_s=0, degraded=False), "lab", {})
    assert news.due(report(a=D), {}, 0) is None
    assert told(news.due(report(a=U), {}, 1)) == [("a", "unhealthy")]
    assert told(news.due(report(a=D), {}, 2)) == [("a", "healthy")]


def test_losses_are_told_as_what_came_since():
    news = News(NotifyOptions(hold_off_s=10, group_s=0), "lab", {("a/b", "restart"): (1, 50)})
    fine = report(a=H)
    assert news.due(fine, {("a/b", "restart"): (1, 50)}, 0) is None
    losses = {("a/b", "restart"): (1, 50), ("a/b", "overflow"): (1, 100)}
    losses |= {("a/c", "clock_step"): (1, 0), ("a/c", "stopped"): (1, 5)}  # nothing is lost, or somebody wanted it
    assert news.due(fine, losses, 1) is None
    losses["a/b", "overflow"] = (2, 150)
    message = news.due(fine, losses, 11)
    assert message is not None
    assert message.lost == (Lost("a/b", "overflow", 2, 150),)
    assert news.due(fine, losses, 30) is None
    losses["a/d", "disconnect"] = (1, 0)
    news.due(fine, losses, 31)
    message = news.due(fine, losses, 41)
    assert message is not None
    assert str(message.lost[0]) == "a/d lost an unknown number of rows in 1 gap: disconnect"


def test_a_message_for_people_and_for_programs():
    assert MESSAGE.subject == "scidaq lab: instrument:dmm is unhealthy and 1 more, rows were lost in 1 stream(s)"
    assert "instrument:dmm is unhealthy: does not answer (was healthy, since 2025-06-15T15:06:40.000Z)" in MESSAGE.text
    assert "adc/wave lost 300 rows in 2 gaps: overflow" in MESSAGE.text
    assert json.loads(MESSAGE.as_json())["changes"][0]["status"] == "unhealthy"


# ---- webhook --------------------------------------------------------------------------------------------------------


class Hook(ThreadingHTTPServer):
    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.got: list[tuple[int, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        code = self.server.answers.pop(0) if self.server.answers else 204
        self.server.got.append((code, dict(self.headers), body))
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def hook(*answers: int) -> Iterator[Hook]:
    with Hook(*answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_gets_signed_json():
    with hook() as server:
        Webhook(WebhookOptions(server.url, Secret("s3cret-canary"))).send(MESSAGE)
        ((_, headers, body),) = server.got
    assert json.loads(body)["station"] == "lab"
    assert headers["Content-Type"] == "application/json"
    signed = headers["X-Scidaq-Time"].encode() + b"." + body
    expected = hmac.new(b"s3cret-canary", signed, hashlib.sha256).hexdigest()
    assert headers["X-Scidaq-Signature"] == f"sha256={expected}"


@pytest.mark.parametrize("code", [302, 404, 500])
def test_an_answer_that_is_none_raises_and_no_redirect_is_followed(code: int):
    with hook(code) as server:
        with pytest.raises(OSError, match=str(code)):
            Webhook(WebhookOptions(server.url)).send(MESSAGE)
        assert len(server.got) == 1


def test_a_message_is_tried_again_until_it_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notify, "RETRY_S", 0.01)
    monkeypatch.setattr(notify, "LOOK_S", 0.01)
    now = [report(a=H)]
    with hook(500, 503) as server:
        options = NotifyOptions(hold_off_s=0, group_s=0, webhooks=(WebhookOptions(server.url),))
        with Notifier(options, "lab", SystemClock(), lambda: now[0], dict) as notifier:
            now[0] = report(a=U)
            wait_for(lambda: [code for code, _, _ in server.got] == [500, 503, 204])
            wait_for(lambda: ("webhook", "sent") in {s.labels for s in notifier.samples() if s.value == 1})
        assert len({body for _, _, body in server.got}) == 1


def test_a_destination_that_hangs_holds_up_neither_another_nor_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notify, "LOOK_S", 0.01)
    monkeypatch.setattr(notify, "CLOSE_S", 0.1)
    goes_on, got = threading.Event(), []

    class Hanging:
        name = "hanging"

        def send(self, message: Message) -> None:
            goes_on.wait(20)

    class Good:
        name = "good"

        def send(self, message: Message) -> None:
            got.append(message)

    now = [report(a=H)]
    options = NotifyOptions(hold_off_s=0, group_s=0)
    with Notifier(options, "lab", SystemClock(), lambda: now[0], dict, [Hanging(), Good()]):
        for i in range(5):
            now[0] = report(a=U if i % 2 == 0 else H)
            wait_for(partial(_has, got, i + 1))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    goes_on.set()


def test_others_are_told_from_a_reload_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notify, "LOOK_S", 0.01)
    now = [report(a=H)]
    with hook() as first, hook() as second:
        nobody = NotifyOptions(hold_off_s=0, group_s=0)
        one = replace(nobody, webhooks=(WebhookOptions(first.url),))
        both = replace(one, webhooks=(*one.webhooks, WebhookOptions(second.url)))
        with Notifier(nobody, "lab", SystemClock(), lambda: now[0], dict) as notifier:
            now[0] = report(a=U)
            notifier.change(one)
            wait_for(lambda: len(first.got) == 1)
            notifier.change(both)
            now[0] = report(a=H)
            wait_for(lambda: (len(first.got), len(second.got)) == (2, 1))
            notifier.change(nobody)
            now[0] = report(a=U)
            counts = {s.labels: s.value for s in notifier.samples()}
            assert counts[("webhook", "sent")] == 3, "what was counted stays"
        assert (len(first.got), len(second.got)) == (2, 1)


def test_losses_of_a_time_in_which_they_were_not_told_are_no_news():
    quiet, loud = NotifyOptions(hold_off_s=0, gaps=False), NotifyOptions(hold_off_s=0)
    news = News(quiet, "lab", {})
    assert news.due(report(a=H), {("a/b", "overflow"): (1, 5)}, 0) is None
    news.change(loud)
    assert news.due(report(a=H), {("a/b", "overflow"): (1, 5)}, 1) is None
    message = news.due(report(a=H), {("a/b", "overflow"): (2, 7)}, 2)
    assert message is not None
    assert message.lost == (Lost("a/b", "overflow", 1, 2),)


def _has(got: list[Any], count: int) -> bool:
    return len(got) == count


def test_a_queue_is_bounded(monkeypatch: pytest.MonkeyPatch):
    courier = notify._Courier(Webhook(WebhookOptions("http://127.0.0.1:9/")), SystemClock(), threading.Event())
    for _ in range(notify.CAPACITY + 7):
        courier.put(MESSAGE)
    assert (len(courier.waiting), courier.dropped) == (notify.CAPACITY, 7)


# ---- e-mail ---------------------------------------------------------------------------------------------------------


class Mailbox:
    def __init__(self) -> None:
        self.got: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.got.append((session.ssl is not None, envelope))
        return "250 OK"


def certificate(directory: Path) -> tuple[Path, Path]:
    arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", *arguments.split(), *more], cwd=directory, check=True, capture_output=True)
    return directory / "cert.pem", directory / "key.pem"


@contextmanager
def mail_server(box: Mailbox, **how: Any) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    server = Controller(box, hostname="127.0.0.1", port=port, **how)
    server.start()
    try:
        yield port
    finally:
        server.stop()


def test_an_email_is_sent():
    box = Mailbox()
    with mail_server(box) as port:
        Email(EmailOptions("127.0.0.1", "lab@example.org", ("a@example.org", "b@example.org"), port, "none")).send(
            MESSAGE
        )
    ((_, envelope),) = box.got
    assert envelope.rcpt_tos == ["a@example.org", "b@example.org"]
    mail = message_from_bytes(envelope.content, policy=policy.default)
    assert mail["Subject"] == MESSAGE.subject
    assert "does not answer" in mail.get_content()


@pytest.mark.requires("openssl", shutil.which("openssl") is not None, "install openssl")
def test_an_email_is_encrypted_and_a_server_that_is_not_trusted_gets_nothing(tmp_path: Path):
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    box = Mailbox()
    with mail_server(box, tls_context=context, require_starttls=True) as port:
        options = EmailOptions("localhost", "lab@example.org", ("a@example.org",), port, ca_file=cert)
        Email(options).send(MESSAGE)
        with pytest.raises(ssl.SSLCertVerificationError):
            Email(EmailOptions("localhost", "lab@example.org", ("a@example.org",), port)).send(MESSAGE)
    assert [encrypted for encrypted, _ in box.got] == [True]


def test_no_header_can_be_smuggled_in():
    with pytest.raises(ValueError, match="is no address"):
        EmailOptions("h", "lab@example.org", ("a@example.org\r\nBcc: b@example.org",))


# ---- MQTT -----------------------------------------------------------------------------------------------------------

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@pytest.mark.requires("mosquitto", MOSQUITTO is not None, "apt install mosquitto")
def test_a_broker_gets_the_message(tmp_path: Path):
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    assert MOSQUITTO is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    (tmp_path / "m.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    broker = subprocess.Popen([MOSQUITTO, "-c", str(tmp_path / "m.conf")], stderr=subprocess.DEVNULL)
    try:
        got: list[bytes] = []
        heard = threading.Event()
        client = Client(CallbackAPIVersion.VERSION2)
        client.on_message = lambda c, u, m: got.append(bytes(m.payload))
        client.on_subscribe = lambda *_: heard.set()

        def connected() -> bool:
            try:
                client.connect("127.0.0.1", port)
            except OSError:
                return False
            return True

        wait_for(connected)
        client.loop_start()
        client.subscribe("lab/#", qos=1)
        assert heard.wait(10)
        Mqtt(MqttOptions("127.0.0.1", port, "lab/notify")).send(MESSAGE)
        wait_for(lambda: got)
        assert json.loads(got[0])["station"] == "lab"
        client.disconnect()
        client.loop_stop()
    finally:
        broker.terminate()
        broker.wait(10)


def test_a_broker_that_is_not_there_raises():
    with pytest.raises(OSError, match="refused"):
        Mqtt(MqttOptions("127.0.0.1", 9, timeout_s=1)).send(MESSAGE)
