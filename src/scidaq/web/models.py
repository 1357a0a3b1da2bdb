"""The shapes of what goes in and out over HTTP, for its documentation and for looking over what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictBool, StrictFloat, StrictInt, StrictStr

T = TypeVar("T")
Ns = Annotated[int, Field(ge=0, lt=1 << 63, examples=[1_764_000_000_000_000_000])]
"""UTC nanoseconds since 1970."""
Integer = Annotated[StrictInt, Field(ge=-(1 << 63), lt=1 << 63)]
Scalar = StrictBool | Integer | StrictFloat | StrictStr
Name = Annotated[str, Field(min_length=1, max_length=200)]
Line = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=20_000)]
StreamId = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}/([a-z0-9_-]{1,64}|\*)$", examples=["dmm/readings"])]

OneStreamId = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}/[a-z0-9_-]{1,64}$", examples=["dmm/readings"])]
ChannelName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.:-]{0,63}$", examples=["voltage"])]


class _Out(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class _In(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", strict=True)


class ListOf(_Out, Generic[T]):
    """Some of a list."""

    items: list[T]
    next: str | None
    """The `cursor` of the next page; null at the end."""


class ProblemBody(_Out):
    """What every answer says that is no success (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:scidaq:unknown-stream"])
    """Which kind of problem, for programs."""
    title: str
    status: int
    detail: str
    """What happened, where, and what to do next."""
    request_id: str = ""
    """Under which the log tells more."""


class LogLine(_Out):
    """An event of the log."""

    seq: int
    """Its number since the start."""
    at_ns: int
    """UTC nanoseconds since 1970."""
    level: str
    event: str
    """What happened: a short phrase that stays the same."""
    logger: str
    values: dict[str, Any]
    """Facts, by name."""


# ---- station --------------------------------------------------------------------------------------------------------


class Status(_Out):
    """How the station is, in short."""

    name: str
    uuid: str
    version: str
    process: int
    """Number of its process on its machine."""
    started_ns: int
    """UTC nanoseconds since 1970."""
    now_ns: int
    ready: bool
    """Whether it accepts data."""
    why_not: str
    """Why it does not; empty while it does."""
    instruments: dict[str, str]
    """State of each, by id."""
    streams: int
    """How many are being recorded."""
    rows: int
    """Recorded since the present epochs began."""
    durable_rows: int
    """Of these, those that survive a power cut."""
    free_bytes: int


class Alive(_Out):
    """That somebody answers."""

    status: Literal["alive"]


class Ready(_Out):
    """Whether data is accepted."""

    status: Literal["ready", "not ready"]
    reason: str


class ComponentHealth(_Out):
    """How one component is."""

    model_config = ConfigDict(extra="allow")

    status: Literal["healthy", "degraded", "unhealthy"]


class HealthReport(_Out):
    """How everything is."""

    model_config = ConfigDict(extra="allow")

    status: Literal["healthy", "degraded", "unhealthy"]
    components: dict[str, ComponentHealth]


# ---- instruments ----------------------------------------------------------------------------------------------------


class LeaseView(_Out):
    """Who has an instrument."""

    holder: str
    seconds_left: float


class LeaseGrant(LeaseView):
    """A lease, for who has it."""

    token: str
    """To be sent as the header `Lease` with every change."""


class LeaseRequest(_In):
    """For how long."""

    ttl_s: Annotated[float, Field(strict=False, ge=1, le=3600)] = 60.0


class InstrumentView(_Out):
    """An instrument as it is."""

    id: str
    driver: str
    identity: str
    """Manufacturer, model, serial number and firmware, once it has said so."""
    state: Literal["connecting", "ready", "acquiring", "degraded", "failed", "stopped"]
    wanted: Literal["disconnected", "ready", "acquiring"]
    """How far it is to go."""
    since_ns: int
    """UTC nanoseconds since which it is in this state."""
    reason: str
    """Why it is degraded or failed."""
    streams: list[str]
    """Ids of the streams that it announced last."""
    rows: int
    errors: int
    reconnects: int
    last_row_ns: int
    """When rows last arrived; 0 before the first."""
    lease: LeaseView | None


class FailureView(_Out):
    """Something that went wrong, once or again and again."""

    kind: str
    message: str
    advice: str
    first_ns: int
    last_ns: int
    count: int


class ParameterView(_Out):
    """A setting of an instrument, as it is now or was at a time."""

    name: str
    unit: str
    """UCUM unit of a number."""
    dtype: Literal["float64", "int64", "bool", "text"] | None
    """Null of a time in the past: then the value is text, as it was recorded."""
    limits: list[float] | None
    """Lowest and highest value of a number, both allowed."""
    choices: list[Any]
    settable: bool | None
    """Null of a time in the past."""
    resolution: float
    description: str
    value: Any = None
    """What the instrument said that it is; null where it was not asked."""
    read_ns: int | None = None
    """When it was read."""


class InstrumentTable(RootModel[dict[str, Any]]):
    """The whole table of an instrument: `driver`, what every instrument has, and the options of its driver."""

    model_config = ConfigDict(
        json_schema_extra={
            "properties": {"driver": {"type": "string", "description": "Name of its driver."}},
            "required": ["driver"],
            "examples": [{"driver": "waveform", "rate_hz": 1000}],
        }
    )


class ParameterSetting(_In):
    """What a parameter is to be."""

    value: Scalar
    unit: str | None = None
    """The UCUM unit of the value: refused when the parameter has another."""


class NewestValue(_Out):
    """A channel's newest value."""

    value: Any
    """Calibrated; null where it is missing or no number, and for arrays of more than 4096 elements."""
    unit: str


class NewestRow(_Out):
    """The newest row of a stream."""

    stream: str
    t_ns: int
    values: dict[str, NewestValue]


# ---- streams --------------------------------------------------------------------------------------------------------


class ChannelView(_Out):
    """A channel of a stream."""

    name: str
    dtype: str
    unit: str
    shape: list[int]
    labels: list[str]
    description: str


class EpochView(_Out):
    """A stretch of a stream with one schema and one numbering."""

    epoch: int
    rows: int
    durable_rows: int
    gap_rows: int
    first_ns: int | None
    last_ns: int | None
    bytes: int
    rate_hz: float | None
    """Null where rows come irregularly, or the schema is lost."""
    channels: list[ChannelView]


class StreamView(_Out):
    """What is recorded of a stream."""

    id: str
    live: bool
    """Whether this station has recorded it since its start."""
    rows: int
    durable_rows: int
    gap_rows: int
    first_ns: int | None
    last_ns: int | None
    bytes: int


class StreamDetail(StreamView):
    """The same with its epochs."""

    epochs: list[EpochView]


class RowsItem(_Out):
    """Consecutive rows."""

    kind: Literal["rows"]
    epoch: int
    first: int
    """Index of the first row within the epoch."""
    count: int
    time_ns: list[int]
    """UTC nanoseconds of each row. Larger than what a JavaScript number holds exactly."""
    values: dict[str, list[Any]]
    """By channel."""


class GapItem(_Out):
    """Rows that are missing."""

    kind: Literal["gap"]
    epoch: int
    first: int
    end: int
    rows: int | None
    """How many; null when nobody can know."""
    reason: str
    start_ns: int | None
    """Time of the last row before it."""
    end_ns: int | None
    """Time of the first row behind it."""
    open: bool
    """Whether the rows may still come."""
    detail: str


class RowsPage(_Out):
    """Rows and the gaps between them, in order."""

    stream: str
    channels: list[ChannelView]
    items: list[RowsItem | GapItem]
    next: str | None


# ---- SQL ------------------------------------------------------------------------------------------------------------


class SqlQuery(_In):
    """One SELECT over what is recorded."""

    query: Annotated[str, Field(min_length=1, max_length=100_000, examples=["SELECT id, rows FROM streams"])]
    format: Literal["json", "csv", "arrow", "parquet"] = "json"


class SqlColumn(_Out):
    """A column of a result."""

    name: str
    type: str
    """As Arrow calls it."""


class SqlRows(_Out):
    """The result of a query."""

    columns: list[SqlColumn]
    rows: list[list[Any]]
    """A list of values for each row; times in ISO 8601 (UTC), null for what is missing or no number."""
    count: int


# ---- runs -----------------------------------------------------------------------------------------------------------


class RunStart(_In):
    """A run that is to begin now."""

    name: Name = Field(examples=["night 12"])
    streams: list[StreamId] = []
    """Ids of streams, or `instrument/*`; none stands for all."""
    operator: Line = ""
    sample: Line = ""
    notes: Text = ""
    metadata: dict[str, Scalar] = {}


class RunPast(RunStart):
    """A run that is declared for the past."""

    start_ns: Ns
    stop_ns: Ns


class RunEdit(_In):
    """What is to be said of a run instead; what is left out stays."""

    name: Name | None = None
    start_ns: Ns | None = None
    stop_ns: Ns | None = None
    streams: list[StreamId] | None = None
    operator: Line | None = None
    sample: Line | None = None
    notes: Text | None = None
    metadata: dict[str, Scalar | None] | None = None
    """What these keys are to say, the others stay; null takes a key away."""


class HoldRequest(_In):
    """What is to be kept from retention: a run, or a stream or everything in a range of time."""

    until_ns: Ns
    run: Line | None = None
    stream: StreamId | None = None
    start_ns: Ns | None = None
    stop_ns: Ns | None = None
    why: Line = ""
    by: Line = ""
    """Who it is for; the name of the key when it is left out."""


class NoteRequest(_In):
    """A remark about a moment, now if none is given, or about a range of time."""

    text: Text
    t_ns: Ns | None = None
    end_ns: Ns | None = None
    streams: list[StreamId] = []
    run: Line | None = None
    by: Line = ""
    """Who remarks it; the name of the key when it is left out."""


class NoteEdit(_In):
    """What a note is to say instead."""

    text: Text | None = None
    t_ns: Ns | None = None
    end_ns: Ns | None = None
    streams: list[StreamId] | None = None


# ---- administration -------------------------------------------------------------------------------------------------


class ExportOptions(_In):
    """As what rows are exported."""

    format: Literal["csv", "parquet", "arrow", "hdf5", "zarr", "tdms", "mat"] = Field(examples=["parquet"])
    start: Annotated[str, Field(max_length=64)] | None = None
    """From this time on: ISO 8601 (UTC unless it says otherwise), nanoseconds since 1970, `now`, or a length before now
    such as `-10s`."""
    stop: Annotated[str, Field(max_length=64)] | None = None
    """Before this time, said likewise."""
    channels: Annotated[list[ChannelName], Field(min_length=1, max_length=1000)] | None = None
    """Only these."""
    raw: bool = False
    """Values as they were stored, without calibration."""
    compression: Literal["none", "gzip", "zstd", "snappy", "lz4"] | None = None
    """As far as the format has it; by default its usual one."""


class ExportRequest(ExportOptions):
    """Which rows of a stream are exported, and as what."""

    stream: OneStreamId
    run: Name | None = None
    """Name or id of a run, whose window is not left."""
    last: Annotated[StrictInt, Field(ge=1, le=10**15)] | None = None
    """Instead of start, stop and run: the newest rows."""


class ExportWantedView(_Out):
    """What an export is of."""

    format: str
    stream: str
    """Id of a stream; empty for all streams of the run."""
    run: str
    """Id of a run; empty for none."""
    start_ns: int | None
    stop_ns: int | None
    last: int | None
    channels: list[str] | None
    raw: bool
    compression: str | None


class ExportFileView(_Out):
    """A file of an export."""

    name: str
    """To be asked for below the export."""
    bytes: int
    sha256: str


class ExportView(_Out):
    """An export as it is."""

    id: str
    state: Literal["queued", "running", "done", "failed"]
    wanted: ExportWantedView
    by: str
    """Who asked for it."""
    created_ns: int
    ended_ns: int | None
    expires_ns: int | None
    """When it is removed; null before it has ended."""
    rows: int
    """Written so far."""
    of_rows: int | None
    """About how many there are; null when nobody knows."""
    error: str
    """Why it failed; empty unless it has."""
    notes: list[str]
    """What the format could not carry as it is."""
    files: list[ExportFileView]


class ConfigView(_Out):
    """The configuration in force, secrets hidden."""

    model_config = ConfigDict(extra="allow")

    values: dict[str, Any]
    origins: dict[str, str]
    """Where each value was given, by dotted key; what is not named is a default."""


class ReloadView(_Out):
    """What has become different with a configuration that was read again."""

    added: list[str]
    """Instruments, by id."""
    removed: list[str]
    changed: list[str]
    """Instruments with other options: taken out and put in again."""
    live: list[str]
    """Options that changed at once, by dotted key."""
    restart: list[str]
    """Options that stay as they are until the station is started again."""
    failed: dict[str, str]
    """Instruments that could not be put in, and why."""


class AuditEntry(_Out):
    """Who changed what."""

    seq: int
    t_ns: int
    who: str
    via: Literal["key", "session", "control", "open"]
    peer: str
    act: str
    """Method and path."""
    status: int
    """Of the answer."""
    problem: str
    """Kind of the problem, where it was refused."""
    request: str


class KeyView(_Out):
    """What may be shown of a key."""

    id: str
    name: str
    scopes: list[str]
    created_ns: int
    expires_ns: int | None
    revoked_ns: int | None
    state: Literal["valid", "expired", "revoked"]


class NewKeyView(KeyView):
    """A key that was just made."""

    key: str
    """What its owner has to present. It is told only here."""


class KeyRequest(_In):
    """A key that is to be made."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    scopes: Annotated[list[Literal["read", "operate", "admin", "metrics"]], Field(min_length=1, max_length=4)]
    days: Annotated[float, Field(strict=False, gt=0, le=3650)] | None = 365.0
    """How long it is valid; null for as long as nobody revokes it."""


class RotateRequest(_In):
    """How a key is to be replaced."""

    grace_hours: Annotated[float, Field(strict=False, ge=0, le=720)] = 24.0
    """How long the old one stays valid."""


class LoginRequest(_In):
    """A key, or the token of a one-time link."""

    key: Annotated[str, Field(max_length=200)] | None = None
    link: Annotated[str, Field(max_length=200)] | None = None


class LinkView(_Out):
    """A link with which a browser logs in once."""

    link: str


class SessionView(_Out):
    """Who asks."""

    name: str
    scopes: list[str]
    via: str
