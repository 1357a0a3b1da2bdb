"""Rows as pandas, polars and xarray have them. Each is imported only when it is asked for, and may be missing."""

from __future__ import annotations

from collections.abc import Container
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from scidaq.block import Array, Channel, Mask
from scidaq.query.rows import Numbers, Rows, Together, exact

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import xarray as xr


def _library(name: str) -> Any:
    """A library that scidaq does not need. Raises `ImportError` that says how to get it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f"{name} is not installed: pip install 'scidaq[{name}]'", name=name) from None


def _number(values: Array, valid: Mask | None) -> tuple[Array, Mask | None]:
    """The values of a channel; of floats the missing ones are NaN, and then nothing else says so."""
    if valid is None or values.dtype.kind != "f":
        return values, valid
    values = np.array(values)
    values[~valid] = np.nan
    return values, None


# ---- pandas ----------------------------------------------------------------------------------------------------------


def to_pandas(rows: Rows, put: Together) -> pd.DataFrame:
    """See `Rows.to_pandas`."""
    pandas = _library("pandas")
    times, numbers = put.columns(rows.channels)
    # From whole numbers: those are taken for UTC without being looked at one by one.
    index = pandas.DatetimeIndex(times, name="time", dtype=pandas.DatetimeTZDtype("ns", "UTC"))
    parts: list[Any] = []
    units: dict[str, str] = {}
    for channel in rows.channels:
        part = _columns(pandas, channel, put, numbers, index)
        parts.append(part)
        units |= dict.fromkeys(map(str, part.columns), channel.unit)
    frame = parts[0] if len(parts) == 1 else pandas.concat(parts, axis=1) if parts else pandas.DataFrame(index=index)
    frame.attrs = {"stream": rows.stream, "units": units}
    return frame


def _columns(pandas: Any, channel: Channel, put: Together, numbers: Numbers, index: Any) -> Any:
    """The columns of one channel, without copies where it can be."""
    if channel.dtype == "text":
        return put.texts(channel).to_pandas().set_axis(index).to_frame(channel.name)
    values, valid = _number(*numbers[channel.name])
    if len(channel.shape) == 2:
        images = np.empty(len(values), object)
        for row in range(len(values)) if valid is None else np.flatnonzero(valid):
            images[row] = values[row]
        return pandas.DataFrame({channel.name: images}, index=index)
    flat = values.reshape(len(values), channel.elements)
    if valid is None:
        return pandas.DataFrame(flat, index, columns_of(channel), copy=False)
    kind = pandas.arrays.BooleanArray if values.dtype == np.bool_ else pandas.arrays.IntegerArray
    masked = {name: kind(np.array(flat[:, i]), ~valid) for i, name in enumerate(columns_of(channel))}
    return pandas.DataFrame(masked, index, copy=False)


def columns_of(channel: Channel) -> list[str]:
    """A name for each element of a channel: its own, or `adc[label]` for those of an array."""
    if channel.labels:
        return [f"{channel.name}[{label}]" for label in channel.labels]
    if channel.shape:
        return [f"{channel.name}[{','.join(map(str, at))}]" for at in product(*map(range, channel.shape))]
    return [channel.name]


# ---- polars ----------------------------------------------------------------------------------------------------------


def to_polars(table: pa.Table) -> pl.DataFrame:
    """See `Rows.to_polars`."""
    frame: pl.DataFrame = _library("polars").from_arrow(table)
    return frame


# ---- xarray ----------------------------------------------------------------------------------------------------------


def to_xarray(rows: Rows, put: Together) -> xr.Dataset:
    """See `Rows.to_xarray`."""
    xarray = _library("xarray")
    times, numbers = put.columns(rows.channels)
    time = times.view("datetime64[ns]")
    sizes = {channel.shape for channel in rows.channels if len(channel.shape) == 2}
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {"time": ("time", time, {"time_zone": "UTC"})}
    for channel in rows.channels:
        dims = _dims(channel, len(sizes) == 1, rows.units)
        attributes = {"units": channel.unit}
        if channel.description:
            attributes["long_name"] = channel.description
        if channel.dtype == "text":
            values: Array = put.texts(channel).to_numpy()
        else:
            values, valid = _number(*numbers[channel.name])
            if valid is not None:
                attributes["recorded_dtype"] = channel.dtype
                values = _floating(values, valid, channel)
        if channel.labels:
            coordinates[dims[1]] = (dims[1], list(channel.labels))
        variables[channel.name] = (dims, values, attributes)
    dataset: xr.Dataset = xarray.Dataset(variables, coordinates, {"stream": rows.stream})
    return dataset


def _dims(channel: Channel, alone: bool, taken: Container[str]) -> tuple[str, ...]:
    """The dimensions of a channel; `taken` are names that no dimension may have."""
    names = [f"{channel.name}_element"] if len(channel.shape) == 1 else ["y", "x"][: len(channel.shape)]
    if len(channel.shape) == 2 and (not alone or "y" in taken or "x" in taken):
        names = [f"{channel.name}_y", f"{channel.name}_x"]
    while any(name in taken for name in names):
        names = [f"{name}_" for name in names]
    return ("time", *names)


def _floating(values: Array, valid: Mask, channel: Channel) -> Array:
    """Whole numbers with NaN, booleans with None where values are missing, in the dtypes that xarray takes for it."""
    if values.dtype == np.bool_:
        out = values.astype(object)
        out[~valid] = None
        return out
    if values.dtype.itemsize == 8:
        exact(values[valid], channel.name)
    out = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    out[~valid] = np.nan
    return out
