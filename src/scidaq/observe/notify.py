"""Telling somebody: changes of health and losses, by webhook, e-mail or MQTT, without an alert manager.

A thread looks at the last health report and at the counters of gaps every now and then. What has changed and stays so
for `hold_off_s` becomes one message, and the next one comes `group_s` later at the earliest: a switch that takes twenty
instruments with it is one message, and one that flaps is none. Each destination has a thread and a bounded queue of its
own: one that does not answer holds up no other, and is tried again with growing pauses.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import orjson
import structlog
from annotated_types import Ge, Gt, Le

from scidaq.clock import Clock
from scidaq.errors import ConfigError
from scidaq.observe.health import Report, utc
from scidaq.observe.metrics import Sample
from scidaq.options import LIVE, Secret
from scidaq.stats import Status

log = structlog.get_logger(__name__)

LOOK_S = 1.0
RETRY_S, RETRY_MOST_S = 1.0, 60.0
"""The first pause before a message is tried again, and the longest."""
CAPACITY = 100
"""Messages that may wait for a destination; the oldest go first when there are more."""
CLOSE_S = 5.0

Losses = Mapping[tuple[str, str], tuple[int, int]]
"""By stream and reason: how many gaps there have been, and how many rows are known to be in them."""
NOTHING_LOST = ("clock_step", "schema", "reset")
"""Reasons of gaps in which nothing need be missing."""
ON_PURPOSE = "stopped"
"""The reason of gaps that somebody wanted."""


# ---- options ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """An address that messages are sent to as JSON, by POST."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    url: str
    """Its address, http:// or https://."""
    secret: Secret | None = None
    """With it, header `X-Scidaq-Signature` is `sha256=` and the HMAC of `X-Scidaq-Time`, a full stop, and the body."""
    timeout_s: Annotated[float, Gt(0), Le(60)] = 10.0
    """How long it may take."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: {self.url!r} begins with neither http:// nor https://")


@dataclass(frozen=True, slots=True)
class EmailOptions:
    """A mail server, and whom it is to tell."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    host: str
    """The server."""
    sender: str
    """The address that messages come from."""
    recipients: tuple[str, ...]
    """The addresses that they go to."""
    port: Annotated[int, Ge(1), Le(65_535)] = 587
    """Its port."""
    encryption: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is protected; `none` sends everything readable, also the password."""
    ca_file: Path | None = None
    """Certificates to trust in the place of those of the system."""
    user: str = ""
    """Who logs in; nobody when it is empty."""
    password: Secret | None = None
    """The password for it."""
    timeout_s: Annotated[float, Gt(0), Le(120)] = 20.0
    """How long each step may take."""

    def __post_init__(self) -> None:
        if not self.recipients:
            raise ValueError("recipients: there is nobody to be told")
        for address in (self.sender, *self.recipients):
            if "@" not in address or any(c in address for c in "\r\n"):
                raise ValueError(f"recipients: {address!r} is no address")


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """A broker, and the topic that messages are published under as JSON. Needs `pip install scidaq[mqtt]`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    host: str
    """The broker."""
    port: Annotated[int, Ge(1), Le(65_535)] = 1883
    """Its port."""
    topic: str = "scidaq/notify"
    """The topic."""
    tls: bool = False
    """Whether the connection is encrypted."""
    user: str = ""
    """Who logs in; nobody when it is empty."""
    password: Secret | None = None
    """The password for it."""
    timeout_s: Annotated[float, Gt(0), Le(60)] = 10.0
    """How long it may take."""

    def __post_init__(self) -> None:
        if not self.topic or any(c in self.topic for c in "#+\0"):
            raise ValueError(f"topic: {self.topic!r} is no topic that can be published under")


@dataclass(frozen=True, slots=True)
class NotifyOptions:
    """The section `notify`: who is told of changes of health and of losses, and how."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    hold_off_s: Annotated[float, Ge(0), LIVE] = 30.0
    """How long a change has to stay before it is told."""
    group_s: Annotated[float, Ge(0), LIVE] = 60.0
    """The least time between two messages; what changes meanwhile goes into the next."""
    degraded: Annotated[bool, LIVE] = True
    """Whether components that become degraded are told too, or only those that become unhealthy."""
    gaps: Annotated[bool, LIVE] = True
    """Whether lost rows are told."""
    webhooks: Annotated[tuple[WebhookOptions, ...], LIVE] = ()
    """Addresses that messages are sent to."""
    emails: Annotated[tuple[EmailOptions, ...], LIVE] = ()
    """Mail servers with recipients."""
    mqtt: Annotated[tuple[MqttOptions, ...], LIVE] = ()
    """Brokers."""


# ---- what is told ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A component that is not as it was."""

    component: str
    before: Status
    now: Status
    since_ns: int
    reason: str

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.component} is {self.now}{why} (was {self.before}, since {utc(self.since_ns)})"


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows that went missing since the last message."""

    stream: str
    reason: str
    gaps: int
    rows: int

    def __str__(self) -> str:
        rows = f"{self.rows} rows" if self.rows else "an unknown number of rows"
        return f"{self.stream} lost {rows} in {self.gaps} gap{'s' * (self.gaps != 1)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent."""

    station: str
    at_ns: int
    status: Status
    changes: tuple[Change, ...] = ()
    lost: tuple[Lost, ...] = ()

    @property
    def subject(self) -> str:
        """In one line."""
        worst = max(self.changes, key=lambda c: c.now.rank, default=None)
        what = [f"{worst.component} is {worst.now}"] if worst is not None else []
        if len(self.changes) > 1:
            what.append(f"and {len(self.changes) - 1} more")
        if self.lost:
            what.append(f"{', ' if what else ''}rows were lost in {len({one.stream for one in self.lost})} stream(s)")
        return f"scidaq {self.station}: {' '.join(what).replace(' , ', ', ')}"

    @property
    def text(self) -> str:
        """For people."""
        lines = [f"station {self.station} is {self.status}, {utc(self.at_ns)}", ""]
        return "\n".join([*lines, *map(str, self.changes), *map(str, self.lost)]) + "\n"

    def as_json(self) -> bytes:
        """For programs."""
        changes = [
            {
                "component": c.component,
                "before": c.before,
                "status": c.now,
                "since": utc(c.since_ns),
                "reason": c.reason,
            }
            for c in self.changes
        ]
        lost = [{"stream": one.stream, "reason": one.reason, "gaps": one.gaps, "rows": one.rows} for one in self.lost]
        head = {"station": self.station, "time": utc(self.at_ns), "status": self.status, "subject": self.subject}
        return orjson.dumps({**head, "changes": changes, "lost": lost})


class News:
    """What has changed and was not told yet: a plain state machine, without threads or a clock of its own."""

    def __init__(self, options: NotifyOptions, station: str, losses: Losses) -> None:
        """`losses` are those of before, which are no news."""
        self._options, self._station = options, station
        self._told: dict[str, Status] = {}
        self._seen: dict[str, tuple[Status, float]] = {}
        """Components that are not as was told: how they are, and since when they have been seen so."""
        self._losses = dict(losses)
        self._lost_s: float | None = None
        """Since when rows are lost that were not told."""
        self._next_s = float("-inf")

    @property
    def options(self) -> NotifyOptions:
        """By which it goes."""
        return self._options

    def change(self, options: NotifyOptions) -> None:
        """Go by other options; what was told stays told."""
        self._options = options

    def due(self, report: Report | None, losses: Losses, now_s: float) -> Message | None:
        """The message that has to be sent now, if any."""
        self._look(report, now_s)
        if not self._options.gaps:
            self._losses = dict(losses)  # when they are told again, these are no news
        new = self._new(losses)
        self._lost_s = None if not new else now_s if self._lost_s is None else self._lost_s
        hold_s = self._options.hold_off_s
        names = [name for name, (_, since_s) in self._seen.items() if now_s - since_s >= hold_s]
        lost = new if self._lost_s is not None and now_s - self._lost_s >= hold_s else ()
        if report is None or now_s < self._next_s or not (names or lost):
            return None
        changes = []
        for name in names:
            status, _ = self._seen.pop(name)
            one = report.components.get(name)
            since_ns, reason = (one.since_ns, one.verdict.reason) if one is not None else (report.at_ns, "")
            changes.append(Change(name, self._told.get(name, Status.HEALTHY), status, since_ns, reason))
            self._told[name] = status
        if lost:
            self._losses, self._lost_s = dict(losses), None
        self._next_s = now_s + self._options.group_s
        return Message(self._station, report.at_ns, report.status, tuple(changes), lost)

    def _look(self, report: Report | None, now_s: float) -> None:
        for name, one in report.components.items() if report is not None else ():
            status = one.verdict.status
            if status is Status.DEGRADED and not self._options.degraded:
                status = Status.HEALTHY
            if status is self._told.get(name, Status.HEALTHY):
                self._seen.pop(name, None)  # it went back before anybody was told
            elif name not in self._seen or self._seen[name][0] is not status:
                self._seen[name] = status, now_s

    def _new(self, losses: Losses) -> tuple[Lost, ...]:
        out = []
        for (stream, reason), (gaps, rows) in losses.items():
            gaps_before, rows_before = self._losses.get((stream, reason), (0, 0))
            gaps, rows = gaps - gaps_before, rows - rows_before
            if reason != ON_PURPOSE and (rows > 0 or (gaps > 0 and reason not in NOTHING_LOST)):
                out.append(Lost(stream, reason, gaps, rows))
        return tuple(out)


# ---- destinations ----------------------------------------------------------------------------------------------------


class Destination(Protocol):
    """Somewhere that messages go."""

    name: str

    def send(self, message: Message) -> None:
        """Deliver it, within a bounded time; raises whatever went wrong."""


class Webhook:
    """POST to an address."""

    def __init__(self, options: WebhookOptions) -> None:
        self.options, self.name = options, "webhook"

    def send(self, message: Message) -> None:
        """Delivered when the answer is a 2xx; another address in the answer is not followed."""
        import hashlib  # these here and below: a station that tells nobody starts without them
        import hmac
        import urllib.request

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                return None

        body, o = message.as_json(), self.options
        headers = {"Content-Type": "application/json", "User-Agent": "scidaq", "X-Scidaq-Time": utc(message.at_ns)}
        if o.secret:
            signed = headers["X-Scidaq-Time"].encode() + b"." + body
            digest = hmac.new(o.secret.reveal().encode(), signed, hashlib.sha256).hexdigest()
            headers["X-Scidaq-Signature"] = f"sha256={digest}"
        request = urllib.request.Request(o.url, body, headers, method="POST")
        with urllib.request.build_opener(NoRedirect()).open(request, timeout=o.timeout_s) as answer:
            answer.read(1024)


class Email:
    """A message by SMTP."""

    def __init__(self, options: EmailOptions) -> None:
        self.options, self.name = options, "email"

    def send(self, message: Message) -> None:
        """Delivered when the server has taken it for everybody."""
        import smtplib
        import ssl
        from email.message import EmailMessage

        o = self.options
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.subject, o.sender, ", ".join(o.recipients)
        mail.set_content(message.text)
        context = ssl.create_default_context(cafile=str(o.ca_file) if o.ca_file else None)
        if o.encryption == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(o.host, o.port, timeout=o.timeout_s, context=context)
        else:
            server = smtplib.SMTP(o.host, o.port, timeout=o.timeout_s)
        with server:
            if o.encryption == "starttls":
                server.starttls(context=context)
            if o.user:
                server.login(o.user, o.password.reveal() if o.password else "")
            refused = server.send_message(mail)
        if refused:
            raise OSError(f"the mail server refused {', '.join(refused)}")


class Mqtt:
    """A message to a broker, confirmed by it."""

    def __init__(self, options: MqttOptions) -> None:
        self.options, self.name = options, "mqtt"
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError:
            raise ConfigError(["notify.mqtt: needs paho-mqtt; pip install 'scidaq[mqtt]'"]) from None

    def send(self, message: Message) -> None:
        """Delivered when the broker has confirmed it (quality of service 1)."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        o = self.options
        client = Client(CallbackAPIVersion.VERSION2)
        client.connect_timeout = o.timeout_s
        if o.tls:
            import ssl

            client.tls_set_context(ssl.create_default_context())
        if o.user:
            client.username_pw_set(o.user, o.password.reveal() if o.password else None)
        client.connect(o.host, o.port, keepalive=30)
        client.loop_start()
        try:
            sent = client.publish(o.topic, message.as_json(), qos=1)
            sent.wait_for_publish(o.timeout_s)
            if not sent.is_published():
                raise TimeoutError(f"the broker at {o.host}:{o.port} has not confirmed it within {o.timeout_s:g} s")
        finally:
            client.disconnect()
            client.loop_stop()


def destinations(options: NotifyOptions) -> tuple[Destination, ...]:
    """All that are configured. Raises `ConfigError` where a library is missing."""
    return (
        *(Webhook(one) for one in options.webhooks),
        *(Email(one) for one in options.emails),
        *(Mqtt(one) for one in options.mqtt),
    )


# ---- sending ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Courier:
    """Brings messages to one destination, in order, in a thread of its own."""

    destination: Destination
    clock: Clock
    stop: threading.Event = field(default_factory=threading.Event)
    waiting: deque[Message] = field(default_factory=deque)
    come: threading.Event = field(default_factory=threading.Event)
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, name=f"notify-{self.destination.name}", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Try what waits once more, then end."""
        self.stop.set()
        self.come.set()

    def counts(self) -> dict[tuple[str, str], int]:
        """Of messages, by destination and what became of them."""
        name = self.destination.name
        return {(name, "sent"): self.sent, (name, "failed"): self.failed, (name, "dropped"): self.dropped}

    def put(self, message: Message) -> None:
        if len(self.waiting) >= CAPACITY:
            self.waiting.popleft()
            self.dropped += 1
        self.waiting.append(message)
        self.come.set()

    def _run(self) -> None:
        pause_s = RETRY_S
        while True:
            self.come.wait()
            self.come.clear()
            while self.waiting:
                message = self.waiting[0]
                if self._try(message, first=pause_s == RETRY_S):
                    pause_s = RETRY_S
                    if self.waiting and self.waiting[0] is message:  # it may have been dropped meanwhile
                        self.waiting.popleft()
                elif self.stop.is_set() or self.clock.wait(self.stop, pause_s):
                    return
                else:
                    pause_s = min(2 * pause_s, RETRY_MOST_S)
            if self.stop.is_set():
                return

    def _try(self, message: Message, first: bool) -> bool:
        try:
            self.destination.send(message)
        except Exception as error:  # whatever a network can do
            self.failed += 1
            if first:
                why = f"{type(error).__name__}: {error}"
                log.warning("a message cannot be delivered; it is tried again", to=self.destination.name, error=why)
            return False
        self.sent += 1
        return True


class Notifier:
    """Looks and tells, from entering to leaving; a context manager."""

    def __init__(
        self,
        options: NotifyOptions,
        station: str,
        clock: Clock,
        report: Callable[[], Report | None],
        losses: Callable[[], Losses],
        to: Sequence[Destination] | None = None,
    ) -> None:
        """`report` and `losses` are asked every second, and must not wait."""
        self._clock, self._station, self._report, self._losses = clock, station, report, losses
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._news = News(options, station, losses())
        self._couriers = [_Courier(d, clock) for d in (destinations(options) if to is None else to)]
        self._before: Counter[tuple[str, str]] = Counter()
        """What those have counted that are no longer there."""
        self._entered = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        with self._lock:
            self._entered = True
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._entered = False
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        deadline = self._clock.monotonic_s() + CLOSE_S
        for courier in self._couriers:
            courier.end()
        for courier in self._couriers:
            if courier.thread is not None:
                courier.thread.join(max(0.0, deadline - self._clock.monotonic_s()))

    def change(self, options: NotifyOptions) -> None:
        """Go by other options from now on. Destinations that stay keep what waits for them; others try that once more.

        Raises `ConfigError` where a library is missing, and then goes on as before.
        """
        wanted = list(destinations(options))
        with self._lock:
            self._news.change(options)
            stay: list[_Courier] = []
            leave: list[_Courier] = []
            for courier in self._couriers:
                same = [one for one in wanted if _same(one, courier.destination)]
                (stay if same else leave).append(courier)
                wanted = [one for one in wanted if one is not (same[0] if same else None)]
            for courier in leave:
                self._before.update(courier.counts())
                courier.end()
            self._couriers = [*stay, *(_Courier(one, self._clock) for one in wanted)]
            if self._entered:
                self._start()

    def _start(self) -> None:
        for courier in self._couriers:
            if courier.thread is None:
                courier.start()
        if self._couriers and self._thread is None:
            self._news = News(self._news.options, self._station, self._losses())
            self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                message = self._news.due(self._report(), self._losses(), self._clock.monotonic_s())
                if message is not None:
                    for courier in self._couriers:
                        courier.put(message)
            except Exception:
                log.exception("looking for news failed")
            if self._clock.wait(self._stop, LOOK_S):
                return

    def samples(self) -> Iterator[Sample]:
        """Its metrics."""
        with self._lock:
            couriers, counts = self._couriers, Counter(self._before)
        waiting = 0
        for one in couriers:
            counts.update(one.counts())
            waiting += len(one.waiting)
        for labels, count in counts.items():
            yield Sample("scidaq_notifications_total", labels, count)
        if couriers:
            yield Sample("scidaq_queue_depth", ("notify",), waiting)


def _same(one: Destination, other: Destination) -> bool:
    """Whether both are one destination with the same options."""
    return type(one) is type(other) and getattr(one, "options", one) == getattr(other, "options", other)
