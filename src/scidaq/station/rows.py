"""What a script may say of its channels, and what it may give as their values and times: checked, never guessed.

A value that is missing (None, masked, not given) is missing and not a number; one of another kind is refused with the
name of its channel.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import numpy as np

from scidaq.block import DTYPES, NS, Array, Channel, Mask, Schema, Times
from scidaq.errors import RequestError

Channels = Mapping[str, object] | Sequence["str | Channel"]
"""Per name a unit (`"V"`), a dtype (`"int32"`, `int`, `str`) or a channel; or names (of numbers without a unit)."""

TEXT_BYTES = 256
"""The longest text of a channel that says only that it is text."""
_PYTHON = {float: "float64", int: "int64", bool: "bool", str: "text"}
_CODES = dict(
    zip("int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64".split(), "bhiqBHIQfd", strict=True)
)
_YEAR_NS = 365 * 86_400 * NS
_FLOAT32_MAX = float(np.finfo(np.float32).max)
MISSING = object()
"""A value that is not there."""


# ---- channels --------------------------------------------------------------------------------------------------------


def declared(channels: Channels) -> Schema:
    """The schema that a script asks for. Raises `RequestError`."""
    if isinstance(channels, str):
        raise RequestError(f"channels={channels!r}: give names with units, as in {{'v': 'V'}}")
    if isinstance(channels, Mapping):
        return Schema(tuple(_channel(name, what) for name, what in channels.items()))
    return Schema(tuple(c if isinstance(c, Channel) else Channel(c) for c in channels))


def _channel(name: str, what: Any) -> Channel:
    if isinstance(what, Channel):
        if what.name != name:
            raise RequestError(f"channel {name!r} is given as {what.name!r}: one name, please")
        return what
    if isinstance(what, str) and what not in DTYPES:
        return Channel(name, unit=what)
    if isinstance(what, str):
        dtype = what
    elif what in _PYTHON:
        dtype = _PYTHON[what]
    else:
        try:
            dtype = np.dtype(what).name
        except TypeError:
            raise RequestError(f"channel {name!r}: {what!r} is no unit, dtype or channel") from None
    return Channel(name, dtype, max_bytes=TEXT_BYTES if dtype == "text" else 0)


def inferred(values: Mapping[str, Any]) -> tuple[Schema, frozenset[str]]:
    """The schema of a first row, and which of its channels are whole numbers only as far as that row tells."""
    if not values:
        raise RequestError("a row names at least one channel")
    whole = frozenset(n for n, v in values.items() if type(v) is int)
    return Schema(tuple(_like(name, value) for name, value in values.items())), whole


def _like(name: str, value: Any) -> Channel:
    if value is None or value is np.ma.masked:
        raise RequestError(f"{name!r} is missing in the first row, which is to tell what it is: declare the channels")
    if type(value) in _PYTHON:
        return _channel(name, type(value))
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" or array.dtype.name not in DTYPES:
        raise RequestError(f"{name!r} is {_told(value)}, which no channel can hold")
    return Channel(name, array.dtype.name, shape=array.shape)


def promoted(schema: Schema, names: Collection[str]) -> Schema:
    """The same with some channels of float64."""
    if not names:
        return schema
    return Schema(tuple(Channel(c.name, "float64", c.unit) if c.name in names else c for c in schema.channels))


def unknown(name: str, schema: Schema) -> RequestError:
    """What to say of a name that no channel has."""
    near = get_close_matches(name, schema.names, 1)
    meant = f", did you mean {near[0]!r}?" if near else ";"
    return RequestError(f"no channel {name!r}{meant} there are {', '.join(schema.names)}")


def layout_of(schema: Schema) -> tuple[np.dtype[Any], str]:
    """How a row lies in memory, its time first; and the same for `struct`, empty where that would not check enough."""
    fields: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = [("time", np.dtype("<i8"), ())]
    fields += [(f"c{i}", d, c.shape) for i, (c, d) in enumerate(zip(schema.channels, schema.dtypes, strict=True))]
    plain = all(not c.shape and c.dtype in _CODES for c in schema.channels)
    return np.dtype(fields), "=q" + "".join(_CODES[c.dtype] for c in schema.channels) if plain else ""


# ---- values ----------------------------------------------------------------------------------------------------------


def _told(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _wrong(channel: Channel, value: Any, why: str = "") -> RequestError:
    what = f"{channel.dtype}{list(channel.shape) if channel.shape else ''}"
    return RequestError(f"channel {channel.name!r} is {what}, and {_told(value)} is not{why}")


def cell(channel: Channel, value: Any) -> Any:
    """One value as it is kept, or `MISSING`. Raises `RequestError` where it is no value of the channel."""
    if value is None or value is np.ma.masked:
        return MISSING
    if channel.dtype == "text":
        return _text(channel, value)
    if channel.shape:
        return _numbers(channel, value, channel.shape)
    if channel.dtype == "bool":
        if not isinstance(value, (bool, np.bool_)):
            raise _wrong(channel, value)
        return value
    if isinstance(value, (str, bytes, complex)):
        raise _wrong(channel, value)
    if channel.dtype.startswith("float"):
        return _number(channel, value)
    return _whole(channel, value)


def _number(channel: Channel, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(channel, value) from None
    if np.ndim(value):
        raise _wrong(channel, value)
    if channel.dtype == "float32" and _FLOAT32_MAX < abs(number) < np.inf:
        raise _wrong(channel, value, ": it is too large")
    return number


def _whole(channel: Channel, value: Any) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        raise _wrong(channel, value) from None
    limits = np.iinfo(channel.numpy_dtype)
    if not limits.min <= whole <= limits.max:
        raise _wrong(channel, value, f": it holds {limits.min} to {limits.max}")
    return whole


def _text(channel: Channel, value: Any) -> bytes:
    if isinstance(value, str):
        encoded = value.encode()
    else:
        raise _wrong(channel, value)
    if len(encoded) > channel.max_bytes:
        raise _wrong(channel, value, f": it holds {channel.max_bytes} bytes; declare a Channel with more max_bytes")
    if encoded.endswith(b"\0"):
        raise _wrong(channel, value, ": it ends in NUL, which would not be kept")
    return encoded


def _numbers(channel: Channel, value: Any, shape: tuple[int, ...]) -> Array:
    """An array of numbers as the channel has them, a copy of its own."""
    given = np.asarray(value)
    dtype = channel.numpy_dtype
    if given.shape != shape:
        raise _wrong(channel, value, f": {list(given.shape)} instead of {list(shape)}")
    if given.dtype.kind not in {"b": "b", "f": "fiub"}.get(dtype.kind, "iub"):
        raise _wrong(channel, value, f": its dtype is {given.dtype}")
    if dtype.kind in "iu" and given.size:
        limits = np.iinfo(dtype)
        if int(given.min()) < limits.min or int(given.max()) > limits.max:
            raise _wrong(channel, value, f": it holds {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):
        kept = np.array(given, dtype, order="C")
    if dtype == np.float32 and bool((np.isinf(kept) & np.isfinite(given)).any()):
        raise _wrong(channel, value, ": it is too large")
    return kept


def column(channel: Channel, values: Any, rows: int) -> tuple[Array, Mask | None]:
    """The values of many rows, a copy, and which of them there are. Raises `RequestError` on another kind or length."""
    if len(values) != rows:
        raise RequestError(f"channel {channel.name!r} has {len(values)} values, others have {rows}")
    if isinstance(values, np.ma.MaskedArray):
        mask = ~np.ma.getmaskarray(values)
        if mask.ndim > 1:
            raise _wrong(channel, values, ": whole rows may be missing, give None for them")
        return _numbers(channel, values.filled(0), (rows, *channel.shape)), None if mask.all() else mask
    if channel.dtype != "text" and isinstance(values, np.ndarray) and values.dtype.kind != "O":
        return _numbers(channel, values, (rows, *channel.shape)), None
    kept = [cell(channel, v) for v in values]
    out = np.zeros((rows, *channel.shape), channel.numpy_dtype)
    mask = np.ones(rows, np.bool_)
    for i, value in enumerate(kept):
        if value is MISSING:
            mask[i] = False
        else:
            out[i] = value
    return out, None if mask.all() else mask


# ---- times -----------------------------------------------------------------------------------------------------------


def stamp(t: Any) -> int:
    """A time as UTC nanoseconds: nanoseconds as an int, seconds since 1970 as a float, a datetime, a datetime64."""
    if isinstance(t, (bool, np.bool_)):
        raise RequestError(f"t={t!r} is no time")
    if isinstance(t, datetime):
        if t.tzinfo is None:
            raise RequestError(f"t={t!r} does not say of which time zone it is: use an aware datetime, or nanoseconds")
        seconds = t - datetime.fromtimestamp(0, t.tzinfo)
        return (seconds.days * 86_400 + seconds.seconds) * NS + seconds.microseconds * 1000
    if isinstance(t, np.datetime64):
        return _sane(int(t.astype("datetime64[ns]").astype(np.int64)), t)
    if isinstance(t, (float, np.floating)):
        if not np.isfinite(t):
            raise RequestError(f"t={t!r} is no time")
        whole, part = divmod(float(t), 1.0)
        return _sane(int(whole) * NS + round(part * NS), t)
    try:
        return _sane(operator.index(t), t)
    except TypeError:
        raise RequestError(
            f"t={_told(t)} is no time: give UTC nanoseconds, seconds as a float, or a datetime"
        ) from None


def _sane(ns: int, t: Any) -> int:
    """Whole seconds that were taken for nanoseconds would all lie in the first minutes of 1970."""
    if not _YEAR_NS <= ns < 1 << 63:
        raise RequestError(
            f"t={t!r} would be {ns / NS:.3f} s after the beginning of 1970 UTC: an int is taken as nanoseconds, "
            "a float as seconds"
        )
    return ns


def stamps(t: Any, rows: int) -> Times:
    """The times of many rows, as `stamp` takes them. Raises `RequestError` where they go back or are too few."""
    if np.ndim(t) == 0 or len(t) != rows:
        raise RequestError(f"{'one time' if np.ndim(t) == 0 else f'{len(t)} times'} for {rows} rows; give one for each")
    times: Times
    if isinstance(t, np.ndarray) and t.dtype.kind in "iuM":
        times = t.astype("datetime64[ns]").astype(np.int64) if t.dtype.kind == "M" else t.astype(np.int64)
        for end in (times.min(), times.max()):
            _sane(int(end), end)
    else:
        times = np.array([stamp(one) for one in t], np.int64)
    if bool((times[1:] < times[:-1]).any()):
        raise RequestError("the times of the rows go back: sort them, or record the older ones as another stream")
    return times
