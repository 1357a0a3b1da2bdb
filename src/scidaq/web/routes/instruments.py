"""Instruments: how they are, their parameters, what they are to do, and who drives them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Path, Query, Request
from fastapi.responses import Response

from scidaq.block import INSTRUMENT_ID, Block
from scidaq.catalog import Setting
from scidaq.instruments import Level, Parameter, Value
from scidaq.web.answers import SPELLING, Json, Routes, actor, configuration, door, time_ns
from scidaq.web.door import Instrument
from scidaq.web.leases import Lease, Leases
from scidaq.web.models import (
    FailureView,
    InstrumentTable,
    InstrumentView,
    LeaseGrant,
    LeaseRequest,
    LeaseView,
    ListOf,
    NewestRow,
    ParameterSetting,
    ParameterView,
    ReloadView,
)
from scidaq.web.problem import Problem
from scidaq.web.rows import plain_values

routes = Routes("/api/v1/instruments", "instruments")
ROUTES = (routes,)

Id = Annotated[str, Path(description="Id of the instrument.", examples=["dmm"])]
NewId = Annotated[
    str, Path(description="Id of the instrument.", examples=["dmm2"], pattern=f"^{INSTRUMENT_ID.pattern}$")
]
Name = Annotated[str, Path(description="Name of the parameter.")]
LeaseToken = Annotated[str, Header(alias="Lease", description="Token of the lease, where there is one.", max_length=64)]
_ASKED = (404, 409, 502, 504)
"""What may go wrong where the instrument itself is asked."""
_MOST = 4096
AT = f"As they were at this time, out of what was recorded; the instrument is not asked. {SPELLING}"


def _leases(request: Request) -> Leases:
    found: Leases = request.app.state.leases
    return found


def _view(request: Request, one: Instrument) -> dict[str, Any]:
    stats, lease = one.stats, _leases(request).of(one.stats.instrument)
    return {
        "id": stats.instrument,
        "driver": stats.driver,
        "identity": stats.identity,
        "state": str(stats.state),
        "wanted": str(stats.wanted),
        "since_ns": stats.since_ns,
        "reason": stats.reason,
        "streams": list(one.streams),
        "rows": stats.rows,
        "errors": stats.errors,
        "reconnects": stats.reconnects,
        "last_row_ns": stats.last_row_ns,
        "lease": None if lease is None else _lease(lease),
    }


@routes.add("GET", "", "read", ListOf[InstrumentView])
def list_instruments(request: Request) -> Response:
    """All instruments."""
    items = [_view(request, one) for one in door(request).instruments()]
    return Json({"items": items, "next": None})


@routes.add("GET", "/{instrument}", "read", InstrumentView, (404,))
def get_instrument(request: Request, instrument: Id) -> Response:
    """One instrument."""
    return Json(_view(request, door(request).instrument(instrument)))


@routes.add("PUT", "/{instrument}", "admin", ReloadView, (404, 409, 423))
def put_instrument(request: Request, instrument: NewId, wanted: InstrumentTable, lease: LeaseToken = "") -> Response:
    """Add an instrument, or give it other options: the body is its whole table of the configuration. All mistakes are
    told at once, and then nothing is changed. Drivers and addresses have to be allowed by `security`; one that
    stands in another file than `<data_dir>/config/local.toml` is changed there (409)."""
    _leases(request).check(instrument, lease)
    return Json(configuration(request).put_instrument(instrument, wanted.root).as_json())


@routes.add("DELETE", "/{instrument}", "admin", ReloadView, (404, 409, 423))
def remove_instrument(request: Request, instrument: Id, lease: LeaseToken = "") -> Response:
    """Take an instrument out that was added here, after its safe state. What it has recorded stays."""
    _leases(request).check(instrument, lease)
    changes = configuration(request).remove_instrument(instrument)
    _leases(request).end(instrument, lease, force=True)
    return Json(changes.as_json())


@routes.add("GET", "/{instrument}/failures", "read", ListOf[FailureView], (404,))
def list_failures(request: Request, instrument: Id) -> Response:
    """What went wrong with it of late, newest first, with advice."""
    return Json({"items": list(door(request).failures(instrument)), "next": None})


@routes.add("GET", "/{instrument}/last", "read", ListOf[NewestRow], (404,))
def last_values(request: Request, instrument: Id) -> Response:
    """The newest row of each of its streams, calibrated. It need not be durable yet."""
    return Json({"items": [_row(block) for block in door(request).newest(instrument)], "next": None})


def _row(block: Block) -> dict[str, Any]:
    values = plain_values(block, raw=False)
    shown = {
        channel.name: {
            "value": None if channel.elements > _MOST else values[channel.name][0],
            "unit": channel.physical_unit,
        }
        for channel in block.schema.channels
    }
    return {"stream": block.stream, "t_ns": block.last_ns, "values": shown}


# ---- parameters -----------------------------------------------------------------------------------------------------


def _parameter(one: Parameter, value: Value | None, read_ns: int | None) -> dict[str, Any]:
    return {
        "name": one.name,
        "unit": one.unit,
        "dtype": one.dtype,
        "limits": None if one.limits is None else list(one.limits),
        "choices": list(one.choices),
        "settable": one.settable,
        "resolution": one.resolution,
        "description": one.description,
        "value": value,
        "read_ns": read_ns,
    }


def _past(name: str, one: Setting) -> dict[str, Any]:
    """What is known of a parameter of long ago: its value, as text, and its unit."""
    parameter = Parameter(name, one.unit, "text", settable=False)
    return _parameter(parameter, one.value, one.since_ns) | {"dtype": None, "settable": None}


def _typed(one: Parameter, text: str) -> Value:
    """What a setting says, in the type of its parameter."""
    try:
        if one.dtype == "float64":
            return float(text)
        if one.dtype == "int64":
            return int(float(text))
    except (ValueError, OverflowError):
        return text
    return text == "true" if one.dtype == "bool" else text


@routes.add("GET", "/{instrument}/parameters", "read", ListOf[ParameterView], _ASKED)
def list_parameters(
    request: Request, instrument: Id, at: Annotated[str | None, Query(max_length=64, description=AT)] = None
) -> Response:
    """Its parameters with limits, choices and units, and their values as they were read last."""
    if (at_ns := time_ns(request, "at", at)) is not None:
        past = door(request).settings_at(instrument, at_ns)
        return Json({"items": [_past(name, one) for name, one in past.items()], "next": None})
    known = door(request).settings(instrument)
    items = []
    for one in door(request).parameters(instrument):
        setting = known.get(one.name)
        read = (None, None) if setting is None else (_typed(one, setting.value), setting.since_ns)
        items.append(_parameter(one, *read))
    return Json({"items": items, "next": None})


@routes.add("GET", "/{instrument}/parameters/{parameter}", "read", ParameterView, _ASKED)
def get_parameter(request: Request, instrument: Id, parameter: Name) -> Response:
    """Ask the instrument for a parameter. What it says becomes a row of its stream of settings."""
    one, value = door(request).get(instrument, parameter)
    return Json(_parameter(one, value, door(request).now_ns()))


@routes.add("PUT", "/{instrument}/parameters/{parameter}", "operate", ParameterView, (*_ASKED, 423))
def set_parameter(
    request: Request, instrument: Id, parameter: Name, setting: ParameterSetting, lease: LeaseToken = ""
) -> Response:
    """Set a parameter, and read it back. The answer says what the instrument made of it; a value that is not allowed,
    or reads back otherwise, is refused in words. Each set is a row of the stream of settings."""
    door(request).instrument(instrument)
    _leases(request).check(instrument, lease)
    one, value = door(request).set(instrument, parameter, setting.value, setting.unit)
    return Json(_parameter(one, value, door(request).now_ns()))


# ---- what it is to do -----------------------------------------------------------------------------------------------


def _want(request: Request, instrument: str, level: Level, lease: str, verb: str) -> Response:
    door(request).instrument(instrument)
    _leases(request).check(instrument, lease)
    return Json(_view(request, door(request).want(instrument, level, f"{verb} by {actor(request).name}")))


_CHANGED = (404, 423)


@routes.add("POST", "/{instrument}/connect", "operate", InstrumentView, _CHANGED)
def connect_instrument(request: Request, instrument: Id, lease: LeaseToken = "") -> Response:
    """Connect to it, and acquire nothing. One that acquires stops. Waits a few seconds for it; `state` says how far
    it came."""
    return _want(request, instrument, Level.READY, lease, "stopped")


@routes.add("POST", "/{instrument}/disconnect", "operate", InstrumentView, _CHANGED)
def disconnect_instrument(request: Request, instrument: Id, lease: LeaseToken = "") -> Response:
    """Let go of it, after its safe state where it acquires. Others can use it then."""
    return _want(request, instrument, Level.DISCONNECTED, lease, "disconnected")


@routes.add("POST", "/{instrument}/start", "operate", InstrumentView, _CHANGED)
def start_instrument(request: Request, instrument: Id, lease: LeaseToken = "") -> Response:
    """Acquire and record, connecting first where that is needed. One that has failed tries again at once."""
    return _want(request, instrument, Level.ACQUIRING, lease, "started")


@routes.add("POST", "/{instrument}/stop", "operate", InstrumentView, _CHANGED)
def stop_instrument(request: Request, instrument: Id, lease: LeaseToken = "") -> Response:
    """Stop acquiring, after its safe state, and stay connected. The rows that are missed lie in a gap of the reason
    `stopped`. Holds until it is started, or the station starts anew."""
    return _want(request, instrument, Level.READY, lease, "stopped")


@routes.add("POST", "/{instrument}/safe", "operate", InstrumentView, (*_ASKED, 423))
def bring_to_safe_state(request: Request, instrument: Id, lease: LeaseToken = "") -> Response:
    """Bring it to its safe state now. What it acquires goes on."""
    door(request).instrument(instrument)
    _leases(request).check(instrument, lease)
    door(request).safe(instrument)
    return Json(_view(request, door(request).instrument(instrument)))


# ---- who drives it --------------------------------------------------------------------------------------------------


def _lease(lease: Lease) -> dict[str, Any]:
    return {"holder": lease.holder, "seconds_left": round(lease.left_s, 3)}


@routes.add("GET", "/{instrument}/lease", "read", LeaseView, (404,))
def get_lease(request: Request, instrument: Id) -> Response:
    """Who has it leased. 404 when nobody has."""
    door(request).instrument(instrument)
    lease = _leases(request).of(instrument)
    if lease is None:
        raise Problem(404, "no-lease", f"nobody has {instrument} leased")
    return Json(_lease(lease))


@routes.add("POST", "/{instrument}/lease", "operate", LeaseGrant, (404, 423), 201)
def take_lease(
    request: Request, instrument: Id, wanted: LeaseRequest | None = None, lease: LeaseToken = ""
) -> Response:
    """Take a lease, or renew it with its token in the header `Lease`. While it is held, changes without the token are
    refused with 423."""
    door(request).instrument(instrument)
    ttl_s = (wanted or LeaseRequest()).ttl_s
    taken = _leases(request).take(instrument, actor(request).name, ttl_s, lease)
    return Json(_lease(taken) | {"token": taken.token}, 201)


@routes.add("DELETE", "/{instrument}/lease", "operate", None, (404, 423), 204, response_class=Response)
def end_lease(
    request: Request,
    instrument: Id,
    lease: LeaseToken = "",
    force: Annotated[bool, Query(description="Take it from whoever has it; over the control socket only.")] = False,
) -> Response:
    """Give a lease back."""
    door(request).instrument(instrument)
    if force and actor(request).via != "control":
        raise Problem(403, "console-only", "a lease is broken on the station's machine, over the control socket, only")
    _leases(request).end(instrument, lease, force=force)
    return Response(status_code=204)
