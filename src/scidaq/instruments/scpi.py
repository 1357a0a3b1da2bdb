"""Any instrument that speaks SCPI over TCP, declared in the configuration and not in code.

Streams are polled: a row is one poll, its time the middle of it, its channels the replies to their queries. A reply
that does not come or makes no sense is a *missing* value; the link then gets in step again before it asks anything
else, so that a late reply is never taken for the answer to another question. `docs/instruments.md` shows how to
declare one.
"""

from __future__ import annotations

import ipaddress
import mmap
import re
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import structlog
from annotated_types import Ge, Gt, Le

from scidaq.block import NS, Block, Calibration, Channel, StreamSpec, schema
from scidaq.clock import Clock
from scidaq.errors import (
    GarbledReply,
    InstrumentDisconnected,
    InstrumentError,
    InstrumentTimeout,
    InvalidBlock,
    ParameterError,
    WrongIdentity,
)
from scidaq.instruments import scpi_protocol as scpi
from scidaq.instruments.driver import Identity, Parameter, Value
from scidaq.instruments.links import Link, parse_address, tcp
from scidaq.instruments.schedule import Schedule

log = structlog.get_logger(__name__)

GATHER_S = 0.05
"""Rows of a fast poll are gathered for this long into one block."""
GATHER_BYTES = 1 << 20
"""Or until they are this large: putting large rows together costs more than handing them over one by one."""
MAX_TIMEOUTS = 2
"""A poll ends after so many replies that did not come, so that a read ends in time; the rest of the row is missing."""
MAX_ERRORS = 32
"""Most entries taken out of an error queue at once: some instruments never say that it is empty."""

SLACK_NS = 10_000_000
"""Times of two reads that overlap by less than this are put in order: their clocks were read at different moments."""

_LOOPBACK = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "127.0.0.1", "::1")

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ScpiChannel:
    """One quantity, and how to ask for it."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    query: str
    """What is sent, as `MEAS:VOLT:DC?`; channels of a stream with the same query share its reply."""
    unit: str = "1"
    """UCUM unit of what the instrument answers."""
    dtype: str = "float64"
    """A number type, `bool` or `text`; that of a block is said by `block`."""
    max_bytes: Annotated[int, Ge(0), Le(65_536)] = 0
    """For text: the longest reply in bytes; a longer one is missing, not cut."""
    shape: tuple[int, ...] = ()
    """For replies of several numbers: `[n]`, or `[height, width]`."""
    labels: tuple[str, ...] = ()
    """For shape `[n]`: a name per number."""
    block: str | None = None
    """For replies in an IEEE 488.2 block: the type and byte order of its numbers, as `float32 little`."""
    index: Annotated[int, Ge(0)] | None = None
    """Take only this item, from 0, of a reply that is a list."""
    separator: Literal[",", ";", " "] = ","
    """What stands between the items of a list."""
    suffix: str = ""
    """What stands behind each number, as `VDC`; it is taken off, and a number without it is missing."""
    scale: float | None = None
    """With `offset`: physical value = reply * scale + offset."""
    offset: float = 0.0
    physical_unit: str | None = None
    """UCUM unit of the physical value; that of the reply when left out."""
    description: str = ""

    def channel(self) -> Channel:
        """As it appears in the schema. Raises `InvalidBlock` or `ValueError`."""
        calibration = None
        if self.scale is not None:
            calibration = Calibration(self.scale, self.offset, self.physical_unit or self.unit)
        elif self.offset or self.physical_unit:
            raise ValueError("offset and physical_unit need scale")
        dtype = self.dtype if self.block is None else scpi.BlockFormat.parse(self.block).dtype.name
        if self.block is not None and self.index is not None:
            raise ValueError("index is for replies that are lists, not for a block")
        if self.block is not None and not self.shape:
            raise ValueError("a block needs a shape, as [1000]")
        if self.suffix and (self.block is not None or dtype == "text"):
            raise ValueError("suffix is for numbers in text")
        if self.index is not None and self.shape:
            raise ValueError("index takes one number, so shape must be left out")
        return Channel(
            self.name, dtype, self.unit, self.shape, self.labels, calibration, self.max_bytes, self.description
        )


@dataclass(frozen=True, slots=True)
class ScpiStream:
    """Channels that are polled together."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    channels: tuple[ScpiChannel, ...]
    rate_hz: Annotated[float, Gt(0), Le(1e6)] = 1.0
    """Polls per second; those for which there is no time are left out and counted."""
    combine: bool = False
    """Send all queries as one message, joined by semicolons, for instruments that can take it."""

    def spec(self) -> StreamSpec:
        """As it is announced. Raises `ValueError` with every mistake, each with its place."""
        here = f"streams.{self.name}"
        channels, problems = [], []
        for c in self.channels:
            try:
                channels.append(c.channel())
            except (InvalidBlock, ValueError) as error:
                problems.append(f"{here}.channels.{c.name}: {error}")
        if self.combine and any(c.block is not None for c in self.channels):
            problems.append(f"{here}.combine: a block is asked for on its own")
        if self.combine and any(c.separator == ";" for c in self.channels):
            problems.append(f"{here}.combine: semicolons stand between the replies, and cannot stand between items too")
        if problems and not channels:
            raise ValueError("; ".join(problems))
        try:
            spec = StreamSpec(self.name, schema(channels))
        except InvalidBlock as error:
            raise ValueError("; ".join([*problems, f"{here}: {error}"])) from error
        if problems:
            raise ValueError("; ".join(problems))
        return spec


@dataclass(frozen=True, slots=True)
class ScpiParameter:
    """A setting, and how to ask for it and change it."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    get: str
    """The query, as `VOLT?`."""
    set: str | None = None
    """The command, with `{value}` where the value goes, as `VOLT {value}`; left out, it can only be read."""
    unit: str = "1"
    dtype: Literal["float64", "int64", "bool", "text"] = "float64"
    limits: tuple[float, float] | None = None
    """Lowest and highest value allowed."""
    choices: tuple[float | int | str, ...] = ()
    """The values allowed, when they can be listed."""
    resolution: Annotated[float, Ge(0)] = 0.0
    """How far the value read back may be from the one that was set."""
    description: str = ""

    def parameter(self) -> Parameter:
        """As others see it."""
        return Parameter(
            self.name,
            self.unit,
            self.dtype,
            self.limits,
            self.choices,
            self.set is not None,
            self.resolution,
            self.description,
        )


@dataclass(frozen=True, slots=True)
class ScpiOptions:
    """An instrument that speaks SCPI over TCP."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    address: str
    """`host:port`; raw SCPI sockets are usually port 5025."""
    streams: tuple[ScpiStream, ...]
    """What is polled."""
    identity: str = ""
    """A regular expression that the reply to `*IDN?` must contain, as `34465A,MY54`; asked at each connection."""
    init: tuple[str, ...] = ()
    """Commands sent before acquisition begins."""
    safe: tuple[str, ...] = ()
    """Commands that bring it to a state in which it may be left alone."""
    parameters: tuple[ScpiParameter, ...] = ()
    """Settings that can be read and changed."""
    headers: bool = False
    """Its replies repeat the header of the query, as `:VOLT:RANG 10`; it is taken off."""
    terminator: str = "\n"
    """What ends a message to the instrument; its replies may end in LF or CR LF."""
    timeout_s: Annotated[float, Gt(0), Le(60)] = 2.0
    """How long a reply may take."""
    connect_timeout_s: Annotated[float, Gt(0), Le(60)] = 3.0
    """How long a connection may take."""
    check_errors: Annotated[int, Ge(0)] = 0
    """Ask for its error queue after the commands of `init` and after every so many polls; 0 is never."""
    error_query: str = "SYST:ERR?"
    """How to ask for it, one entry at a time."""


@dataclass(slots=True)
class ScpiCounts:
    """What happened on this connection."""

    polls: int = 0
    missing: int = 0
    """Values that are missing in rows."""
    timeouts: int = 0
    garbled: int = 0
    """Replies that made no sense."""
    undefined: int = 0
    """Whole numbers or switches for which it answered that there is no number."""
    resyncs: int = 0
    device_errors: Counter[int] = field(default_factory=Counter)
    """Entries of the instrument's own error queue, by code."""


class _Memory:
    """Memory for large blocks, given out again when nobody looks at it any more.

    The system hands out fresh memory page by page, which takes longer than receiving a block into it. It begins on a
    page: a destination a few bytes behind its source, counted from the beginning of a page, is copied to at a third of
    the speed, and that is where `malloc` and the header of a block would put it.
    """

    SMALL, LARGE, KEPT = 1 << 17, 1 << 25, 4
    """Sizes for which it pays, and how many are kept at most."""

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque(maxlen=self.KEPT)

    def array(self, size: int) -> npt.NDArray[np.uint8]:
        """So many bytes, which hold anything. For one thread; the array may end in any."""
        if not self.SMALL <= size <= self.LARGE:
            return np.empty(size, np.uint8)
        memory = self._kept(size) or mmap.mmap(-1, size)
        array = np.frombuffer(memory, np.uint8)
        # Every view of the array keeps it alive, whoever has it, so its end is the end of the last of them.
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array

    def _kept(self, size: int) -> mmap.mmap | None:
        for _ in range(len(self._free)):
            memory = self._free.pop()
            if len(memory) == size:
                return memory
            self._free.appendleft(memory)
        return None


class ScpiClient:
    """Questions and answers with one instrument: what the driver polls with, and programs may use alone."""

    def __init__(self, link: Link, *, headers: bool = False, error_query: str = "SYST:ERR?") -> None:
        self.link = link
        self._headers, self._error_query = headers, error_query.encode()
        self.query: Callable[[bytes], bytes] = self._query_with_header if headers else link.query
        """Send a query (without its end) and return the reply; raises as `Link.query` does."""
        self.write = link.write
        self.identity: Identity | None = None
        """Who answered last, once it was asked."""
        self._idn = b""
        self._memory = _Memory()

    @classmethod
    def open(cls, address: str, *, timeout_s: float = 2.0, terminator: str = "\n", headers: bool = False) -> Self:
        """Connect to `host:port` and ask who is there; a context manager.

        Raises `ValueError` for the address, or a leaf of `InstrumentError`.
        """
        client = cls(tcp(*parse_address(address), timeout_s, timeout_s, terminator.encode()), headers=headers)
        try:
            client.identify()
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. Idempotent, from any thread."""
        self.link.close()

    def ask(self, query: str) -> str:
        """A reply as text, a string without its quotes. After a query that went wrong it gets in step first."""
        reply = self._in_step().query(query.encode())
        try:
            return scpi.string(reply)
        except GarbledReply:  # several strings, or half of one
            return reply.decode("latin-1")

    def number(self, query: str) -> float:
        """A reply as a number. Raises `GarbledReply` for anything else."""
        return scpi.number(self._in_step().query(query.encode()))

    def block(self, query: str, form: str, count: int | None = None) -> Array:
        """The numbers of a block, as `array` gives them; `form` is their type and byte order, as `int16 little`."""
        return self._in_step().array(query.encode(), scpi.BlockFormat.parse(form), count)

    def tell(self, command: str) -> None:
        """Send a command, which has no reply."""
        self.write(command.encode())

    def _in_step(self) -> ScpiClient:
        if not self.link.in_step:
            self.resync()
        return self

    def _query_with_header(self, query: bytes) -> bytes:
        reply = self.link.query(query)
        if b";" not in query:
            return scpi.without_header(reply)
        return b";".join(scpi.without_header(part) for part in scpi.split(reply, b";"))

    def identify(self) -> Identity:
        """Ask `*IDN?`. Raises `GarbledReply` when that is no identity."""
        reply = self.link.query(b"*IDN?").strip()
        if not reply:
            raise GarbledReply("*IDN? was answered with nothing")
        if reply.upper() == b"*IDN?":
            raise GarbledReply("*IDN? was answered with itself: it echoes; use its port for programs, usually 5025")
        self._idn = reply
        text = reply.decode("latin-1").removeprefix("*IDN ")  # where headers are on
        fields = [part.strip() for part in text.split(",", 3)]
        self.identity = Identity(*(fields + [""] * (4 - len(fields))))
        return self.identity

    def array(self, query: bytes, block: scpi.BlockFormat, count: int | None = None) -> Array:
        """The numbers of a block, in this machine's byte order, where they were received: nothing is copied.

        With `count`, a block of another length is `GarbledReply` before memory is taken for it.
        """
        held: list[npt.NDArray[np.uint8]] = []

        def make(size: int) -> memoryview:
            if size % block.dtype.itemsize:
                raise GarbledReply(f"a block of {size} bytes does not hold whole {block.dtype} numbers")
            if count is not None and size != count * block.dtype.itemsize:
                raise GarbledReply(f"a block of {size} bytes, where {count} {block.dtype} numbers belong")
            held.append(self._memory.array(size))
            return held[-1].data

        expected = None if count is None else count * block.dtype.itemsize
        size = len(self.link.query_block(query, make, size=expected, headed=self._headers))
        return block.native(held[-1][:size].view(block.dtype))

    def errors(self) -> list[scpi.DeviceError]:
        """Empty the instrument's error queue."""
        found: list[scpi.DeviceError] = []
        while len(found) < MAX_ERRORS:
            error = scpi.device_error(self.query(self._error_query))
            if error.code == 0:
                break
            found.append(error)
        return found

    def resync(self) -> None:
        """Get in step again after a timeout or nonsense. Raises `InstrumentDisconnected` when that fails."""
        try:
            self.link.resync(b"*IDN?", self._idn)
        except InstrumentError as error:
            raise InstrumentDisconnected(f"it is out of step and cannot be brought back: {error}") from error


# ---- a stream, ready to be polled -----------------------------------------------------------------------------------

Parse = Callable[[Any], Any]
"""Makes a value, or None where the instrument says that there is none."""


def _parser(c: ScpiChannel) -> Parse:
    """What makes a value of one reply (or item of one)."""
    if c.block is not None:
        return partial(_shaped, shape=c.shape)
    if c.dtype == "text":
        return partial(_text, max_bytes=c.max_bytes)
    one = _with_suffix(c, _number_parser(c))
    if not c.shape:
        return one
    count, dtype = int(np.prod(c.shape)), np.dtype(c.dtype)
    return partial(_list, one=one, by=c.separator.encode(), count=count, shape=c.shape, dtype=dtype)


def _number_parser(c: ScpiChannel) -> Parse:
    if c.dtype in ("float64", "float32"):
        return scpi.number
    if c.dtype == "bool":
        return partial(_defined, one=scpi.boolean)
    return partial(_defined, one=partial(_integer, limits=np.iinfo(c.dtype)))


def _with_suffix(c: ScpiChannel, one: Parse) -> Parse:
    suffix = c.suffix.strip().encode()
    if not suffix:
        return one

    def parse(data: bytes) -> Any:
        data = data.rstrip()
        if not data.endswith(suffix):
            raise GarbledReply(f"{data[:60]!r} does not end in {c.suffix!r}")
        return one(data.removesuffix(suffix))

    return parse


def _shaped(array: Array, shape: tuple[int, ...]) -> Array:
    if array.size != np.prod(shape):
        raise GarbledReply(f"a block of {array.size} numbers, where the shape is {shape}")
    if array.dtype.kind == "f":
        scpi.special_values(array)
    return array.reshape(shape)


def _text(data: bytes, max_bytes: int) -> bytes:
    encoded = scpi.string(data).encode()
    if len(encoded) > max_bytes or encoded.endswith(b"\0"):
        raise GarbledReply(f"a text of {len(encoded)} bytes, where max_bytes is {max_bytes}")
    return encoded


def _defined(data: bytes, one: Parse) -> Any:
    """None for SCPI's not-a-number: a float can be NaN, a whole number or a switch cannot."""
    try:
        return one(data)
    except GarbledReply:
        if scpi.is_nan(data):
            return None
        raise


def _integer(data: bytes, limits: np.iinfo[Any]) -> int:
    value = scpi.integer(data)
    if not limits.min <= value <= limits.max:
        raise GarbledReply(f"{value} does not fit {limits.dtype}")
    return value


def _list(data: bytes, one: Parse, by: bytes, count: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    items = scpi.items(data, by)
    if len(items) != count:
        raise GarbledReply(f"{len(items)} numbers, where {count} belong")
    values = [one(item) for item in items]
    return None if None in values else np.array(values, dtype).reshape(shape)


class _Group:
    """Channels that one query answers."""

    def __init__(self, query: str, block: str | None, separator: str) -> None:
        self.query = query.encode()
        self.by = separator.encode()
        self.block = scpi.BlockFormat.parse(block) if block else None
        self.members: list[tuple[int, int | None, Parse]] = []
        """Position of the channel, item of the reply, what makes a value of it."""
        self.at = 0
        """Position of the first channel."""
        self.count: int | None = None
        """How many numbers a block has, where there is one channel."""
        self.only: Parse | None = None
        """The parser, where there is one channel that takes the whole reply."""


class _Poll:
    """One stream and the rows gathered so far."""

    def __init__(self, o: ScpiStream) -> None:
        self.spec = o.spec()
        self.period_s = 1 / o.rate_hz
        self.most_rows = max(1, GATHER_BYTES // self.spec.schema.row_bytes)
        self.next_row = 0
        self.last_ns = 0
        groups: dict[tuple[str, str | None, str], _Group] = {}
        for i, c in enumerate(o.channels):
            key = (c.query, c.block, c.separator)
            group = groups.setdefault(key, _Group(*key))
            group.members.append((i, c.index, _parser(c)))
        for group in groups.values():
            (group.at, index, parse), *more = group.members
            group.only = parse if index is None and not more else None
            group.count = None if more else self.spec.schema.channels[group.at].elements
        self.groups = list(groups.values())
        self.combined = scpi.joined([query for query, *_ in groups]).encode() if o.combine and len(groups) > 1 else None
        channels = self.spec.schema.channels
        self.blanks = [b"" if c.dtype == "text" else np.zeros(c.shape, c.numpy_dtype)[()] for c in channels]
        self.clear()

    def clear(self) -> None:
        """No rows are gathered."""
        self.times: list[int] = []
        self.rows: list[list[Any]] = []
        self.holes: list[tuple[int, int]] = []
        """(row, channel) of what is missing."""

    def fill(self, row: list[Any]) -> int:
        """Note what is missing (None) in the row that comes next; how many values that is."""
        missing = [i for i, value in enumerate(row) if value is None]
        for i in missing:
            row[i] = self.blanks[i]
            self.holes.append((len(self.rows), i))
        return len(missing)

    def block(self, now_ns: int) -> Block | None:
        """The rows gathered, and forgets them."""
        if not self.times:
            return None
        s, rows = self.spec.schema, len(self.times)
        columns = tuple(_column(v, d) for v, d in zip(zip(*self.rows, strict=True), s.dtypes, strict=True))
        valid: list[npt.NDArray[np.bool_] | None] | None = None
        if self.holes:
            valid = [None] * len(columns)
            for row, i in self.holes:
                mask = valid[i]
                if mask is None:
                    mask = valid[i] = np.ones(rows, np.bool_)
                mask[row] = False
        times = np.array(self.times, np.int64)
        if 0 < self.last_ns - self.times[0] < SLACK_NS:
            times = np.maximum(times, self.last_ns)
        self.last_ns = int(times[-1])
        masks = tuple(valid) if valid else None
        block = Block(self.spec.name, 0, self.next_row, s, columns, int(times[0]), times, masks, now_ns)
        self.next_row += rows
        self.clear()
        return block


def _column(values: tuple[Any, ...], dtype: np.dtype[Any]) -> Array:
    """The values of one channel; a large array that came alone stays where it was received."""
    if len(values) == 1 and isinstance(values[0], np.ndarray) and values[0].dtype == dtype:
        return values[0][np.newaxis]
    return np.array(values, dtype)


def _wall_of_monotonic(clock: Clock) -> int:
    """UTC nanoseconds at which `monotonic_s` was 0: the least of a few readings, since a pause in one adds to it."""
    pairs = [(clock.monotonic_s(), clock.now_ns()) for _ in range(3)]
    return min(now_ns - round(monotonic * NS) for monotonic, now_ns in pairs)


# ---- the driver -----------------------------------------------------------------------------------------------------


def _one_spelling(host: str) -> str:
    """A host's name or address as it is compared with others; no name is looked up."""
    host = host.lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "localhost" if host in _LOOPBACK else host
    address = getattr(address, "ipv4_mapped", None) or address
    return "localhost" if str(address) in _LOOPBACK else str(address)


class ScpiDriver:
    """Polls what the options say. Rows have no source numbers: they are counted from 0 at each arm."""

    Options = ScpiOptions

    def __init__(self, instrument_id: str, options: ScpiOptions, clock: Clock) -> None:
        self._id, self._o, self._clock = instrument_id, options, clock
        problems: list[str] = []
        try:
            self._host, self._port = parse_address(options.address)
        except ValueError as error:
            problems.append(str(error))
        if not options.streams:
            problems.append("streams: there is none")
        self._polls: list[_Poll] = []
        for stream in options.streams:
            try:
                self._polls.append(_Poll(stream))
            except ValueError as error:
                problems.append(str(error))
        if len({stream.name for stream in options.streams}) != len(options.streams):
            problems.append("streams: two have the same name")
        try:
            self._identity = re.compile(options.identity)
        except re.error as error:
            problems.append(f"identity: {options.identity!r} is not a regular expression: {error}")
        self._parameters = {p.name: p for p in options.parameters}
        if len(self._parameters) != len(options.parameters):
            problems.append("parameters: two have the same name")
        if not set(options.terminator) <= {"\r", "\n"} or not options.terminator:
            problems.append("terminator: is made of CR and LF")
        if problems:
            raise ValueError("; ".join(problems))
        self._client: ScpiClient | None = None
        self._closed = threading.Event()
        self._opening = threading.Lock()
        self._broken: InstrumentError | None = None
        self._schedule = Schedule([poll.period_s for poll in self._polls])
        self.counts = ScpiCounts()
        """What happened so far, written by the thread that reads."""

    @property
    def resource(self) -> str | None:
        """`tcp://host:port`, the same for every spelling of an address of this machine."""
        return f"tcp://{_one_spelling(self._host)}:{self._port}"

    @property
    def missed_polls(self) -> int:
        """Polls for which there was no time."""
        return self._schedule.missed

    # ---- the verbs ----

    def identity(self) -> Identity:
        """Connect, ask `*IDN?`, compare it with `identity` of the options. Raises `WrongIdentity`."""
        client = self._connected()
        found = client.identify()
        if not self._identity.search(",".join((found.manufacturer, found.model, found.serial, found.firmware))):
            raise WrongIdentity(f"at {self._o.address} answers {found}, which is not {self._o.identity!r}")
        return found

    def describe(self) -> Sequence[StreamSpec]:
        """As declared."""
        return tuple(poll.spec for poll in self._polls)

    def arm(self) -> Sequence[StreamSpec]:
        """Send the commands of `init`, ask whether it took them, and begin to poll."""
        client = self._open()
        self._say(self._o.init)
        if self._o.check_errors and (errors := client.errors()):
            shown = "; ".join(f"{e.code} {e.message}" for e in errors)
            raise InstrumentError(f"{self._o.address} refused a command of init: {shown}")
        for poll in self._polls:
            poll.next_row = 0
            poll.clear()
        self._schedule.start(self._clock.monotonic_s())
        return self.describe()

    def read(self, timeout_s: float) -> Sequence[Block]:
        """Poll what is due until the time is over, or rows have been gathered for a while.

        When the connection breaks with rows in hand, they are returned first; the next read raises.
        """
        if self._broken is None:
            try:
                self._poll_until(self._clock.monotonic_s() + timeout_s)
                self._open()
            except InstrumentError as error:
                self._broken = error
        arrived = self._clock.now_ns()
        blocks = [block for poll in self._polls if (block := poll.block(arrived)) is not None]
        if self._broken is not None and not blocks:
            raise self._broken
        return blocks

    def _poll_until(self, end: float) -> None:
        clock, schedule = self._clock, self._schedule
        gathered = False
        self._check_quiet()
        client = self._open()
        # Polls are timed by the clock that schedules them; wall time is read once, and not twice a poll.
        wall_ns = _wall_of_monotonic(clock)
        now = clock.monotonic_s()
        while True:
            index = schedule.due(now)
            if index is not None:
                poll, row = self._polls[index], self._row(client, self._polls[index])
                began, now = now, clock.monotonic_s()
                poll.times.append(wall_ns + int((began + now) * (NS / 2)))
                poll.rows.append(row)
                end = end if gathered else min(end, now + GATHER_S)
                gathered = True
                if now < end and len(poll.rows) < poll.most_rows:
                    continue
                break
            pause = schedule.next_s() - now
            if now + pause >= end:
                # Nothing more is due in this read: do not let rows wait for it.
                if not gathered and end > now:
                    clock.wait(self._closed, end - now)
                break
            if clock.wait(self._closed, pause):
                break
            self._check_quiet()
            now = clock.monotonic_s()

    def disarm(self) -> None:
        """Nothing: it is only polled."""

    def close(self) -> None:
        """End the connection."""
        with self._opening:
            self._closed.set()
            client = self._client
        if client is not None:
            client.link.close()

    # ---- capabilities ----

    def safe(self) -> None:
        """Send the commands of `safe`, none where none are declared; returns when the instrument has read them."""
        if self._o.safe:
            self._say(self._o.safe)
            self._ask("*IDN?")  # it answers in order

    def parameters(self) -> Sequence[Parameter]:
        """As declared."""
        return tuple(p.parameter() for p in self._o.parameters)

    def get(self, name: str) -> Value:
        """Ask for one."""
        declared = self._declared(name)
        reply = self._ask(declared.get)
        if declared.dtype == "text":
            text = scpi.string(reply)
            # Whatever the case and the form in which it says one of the words that there are.
            same = (str(c) for c in declared.choices if scpi.same_word(str(c), text))
            return text if text in declared.choices else next(same, text)
        if declared.dtype == "bool":
            return scpi.boolean(reply)
        return scpi.integer(reply) if declared.dtype == "int64" else scpi.number(reply)

    def set(self, name: str, value: Value) -> Value:
        """Send it and ask for it."""
        declared = self._declared(name)
        if declared.set is None:
            raise ParameterError(f"parameter {name!r} can only be read")
        # A line end in a value would be a second command.
        text = str(int(value)) if isinstance(value, bool) else str(value)
        if not text.isprintable():
            raise ParameterError(f"parameter {name!r}: {value!r} holds characters that cannot be sent")
        self._say([declared.set.replace("{value}", text)])
        if self._o.check_errors and (errors := self._open().errors()):
            raise ParameterError(f"parameter {name!r}: the instrument refused {value!r}: {errors[0].message}")
        return self.get(name)

    def _declared(self, name: str) -> ScpiParameter:
        try:
            return self._parameters[name]
        except KeyError:
            known = ", ".join(self._parameters) or "none"
            raise ParameterError(f"no parameter {name!r}; there are {known}") from None

    def counted(self) -> Mapping[str, int]:
        """What happened on this connection, with all entries of the error queue together."""
        c = self.counts
        return {
            "polls": c.polls,
            "missed_polls": self.missed_polls,
            "missing_values": c.missing,
            "reply_timeouts": c.timeouts,
            "garbled_replies": c.garbled,
            "undefined_values": c.undefined,
            "resyncs": c.resyncs,
            "device_errors": sum(tuple(c.device_errors.values())),
        }

    # ---- inside ----

    def _connected(self) -> ScpiClient:
        if self._client is not None:
            return self._open()
        if self._closed.is_set():
            raise InstrumentDisconnected(f"{self._o.address} is closed")
        o = self._o
        link = tcp(self._host, self._port, o.timeout_s, o.connect_timeout_s, o.terminator.encode())
        with self._opening:
            if self._closed.is_set():  # while it was being connected
                link.close()
                raise InstrumentDisconnected(f"{self._o.address} is closed")
            self._client = ScpiClient(link, headers=o.headers, error_query=o.error_query)
        return self._client

    def _open(self) -> ScpiClient:
        if self._client is None or self._closed.is_set():
            raise InstrumentDisconnected(f"{self._o.address} is not connected")
        return self._client

    def _say(self, commands: Sequence[str]) -> None:
        client = self._open()
        for command in commands:
            if "?" in command.split(" ", 1)[0]:
                self._ask(command)  # its reply must not be taken for another's
            else:
                client.write(command.encode())

    def _ask(self, query: str) -> bytes:
        client = self._open()
        if not client.link.in_step:
            client.resync()
        return client.query(query.encode())

    def _row(self, client: ScpiClient, poll: _Poll) -> list[Any]:
        """Ask all queries of a stream once; what cannot be had is missing."""
        counts, row = self.counts, [None] * len(poll.blanks)
        timeouts, garbled, undefined = counts.timeouts, counts.garbled, counts.undefined
        if poll.combined is not None:
            self._take_combined(client, poll, row)
        else:
            for group in poll.groups:
                self._take(client, group, row)
                if counts.timeouts - timeouts == MAX_TIMEOUTS:
                    break
        counts.polls += 1
        if counts.timeouts != timeouts or counts.garbled != garbled or counts.undefined != undefined:
            counts.missing += poll.fill(row)
        every = self._o.check_errors
        if every and counts.polls % every == 0:
            self._note_errors(client)
        return row

    def _check_quiet(self) -> None:
        """After a pause: see to it that the next reply is the answer to the next query."""
        client = self._open()
        try:
            client.link.check_quiet()
        except GarbledReply as error:
            self._unheard(client, b"", error)

    def _take(self, client: ScpiClient, group: _Group, row: list[Any]) -> None:
        """Ask one query and put its values into the row; what does not come stays None."""
        try:
            if group.block is not None:
                reply: Any = client.array(group.query, group.block, group.count)
            else:
                reply = client.query(group.query)
            if group.only is not None:
                value = row[group.at] = group.only(reply)
                if value is None:
                    self.counts.undefined += 1
            else:
                self._spread(group, reply, row)
        except (InstrumentTimeout, GarbledReply) as error:
            self._unheard(client, group.query, error)

    def _spread(self, group: _Group, reply: Any, row: list[Any]) -> None:
        """Values of all channels of a reply. Raises `GarbledReply` for one of them when it has taken the others."""
        items = scpi.items(reply, group.by) if any(index is not None for _, index, _ in group.members) else []
        problem: GarbledReply | None = None
        for i, index, parse in group.members:
            if index is not None and index >= len(items):
                problem = GarbledReply(f"{len(items)} items, where number {index} is asked for")
                continue
            try:
                value = row[i] = parse(reply if index is None else items[index])
                if value is None:
                    self.counts.undefined += 1
            except GarbledReply as error:
                problem = error
        if problem is not None:
            raise problem

    def _take_combined(self, client: ScpiClient, poll: _Poll, row: list[Any]) -> None:
        message = poll.combined or b""
        try:
            replies = scpi.split(client.query(message), b";")
            if len(replies) != len(poll.groups):
                raise GarbledReply(f"{len(replies)} replies to {len(poll.groups)} queries")
        except (InstrumentTimeout, GarbledReply) as error:
            self._unheard(client, message, error)
            return
        for group, reply in zip(poll.groups, replies, strict=True):
            try:
                self._spread(group, reply, row)
            except GarbledReply as error:
                self._unheard(client, group.query, error)

    def _unheard(self, client: ScpiClient, query: bytes, error: Exception) -> None:
        """Count a reply that is missing, and get in step. Raises `InstrumentDisconnected` when that fails."""
        counts = self.counts
        if isinstance(error, InstrumentTimeout):
            counts.timeouts += 1
        else:
            counts.garbled += 1
        if counts.timeouts + counts.garbled == 1:
            log.warning("reply missing", instrument=self._id, query=query.decode(), error=str(error))
        if not client.link.in_step or isinstance(error, GarbledReply):
            counts.resyncs += 1
            client.resync()

    def _note_errors(self, client: ScpiClient) -> None:
        try:
            errors = client.errors()
        except (InstrumentTimeout, GarbledReply) as error:
            self._unheard(client, self._o.error_query.encode(), error)
            return
        for code, message in errors:
            if not self.counts.device_errors[code]:
                log.warning("instrument reports an error", instrument=self._id, code=code, message=message)
            self.counts.device_errors[code] += 1
