"""Zarr, version 3: a directory with a group per table, an array per channel, a file per chunk. xarray opens it.

Source: Zarr core specification 3.0; CF conventions 1.11 for the units of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scidaq.archive.exports.table import Origin, Table, column, filled, mask, texts, times, unique
from scidaq.block import DESCRIPTION_KEY, Array, Block, Channel, Description
from scidaq.errors import RequestError

CHUNK_BYTES = 4 << 20


class ZarrDirectory:
    """One Zarr directory."""

    def __init__(self, path: Path, compression: str | None, origin: Origin) -> None:
        try:
            import zarr
            from zarr.codecs import GzipCodec, ZstdCodec
        except ImportError:
            raise RequestError("to write Zarr, install the package zarr: pip install 'scidaq[zarr]'") from None
        codecs: dict[str, Any] = {"zstd": ZstdCodec(level=1), "gzip": GzipCodec(level=1)}
        self.compressors = (codecs[compression],) if compression else ()
        attributes: dict[str, Any] = {
            "station": {"name": origin.station, "uuid": origin.station_uuid},
            "software": origin.software,
            "instruments": dict(origin.identities),
        }
        if origin.run is not None:
            attributes["run"] = dict(origin.run)
        self._group = zarr.create_group(path, zarr_format=3, attributes=attributes)

    def table(self, table: Table) -> _ZarrTable:
        return _ZarrTable(self, self._group.create_group(table.name), table)

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def grew(self) -> Path | None:
        return None


class _ZarrTable:
    def __init__(self, directory: ZarrDirectory, group: Any, table: Table) -> None:
        self._directory, self._group, self._table = directory, group, table
        names = [c.name for c in table.schema.channels]
        self._valid = list(unique(["time", *names, *(f"{n}_valid" for n in names)], str, 80))[1 + len(names) :]
        self._arrays: dict[str, Any] = {}
        self._rows = self._chunk = 0

    def write(self, blocks: Sequence[Block]) -> None:
        when = times(blocks)
        self._chunk = self._chunk or len(when)
        units = {"units": "nanoseconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"}
        self._put("time", when, units)
        for i, channel in enumerate(self._table.schema.channels):
            values, valid = column(blocks, i), mask(blocks, i)
            values = filled(values, valid)
            if channel.dtype == "text":
                values = np.array(texts(values), np.dtypes.StringDType())
            self._put(channel.name, values, _attributes(channel, self._table.raw))
            if valid is not None or self._valid[i] in self._arrays:
                if self._valid[i] not in self._arrays:
                    self._table.lose("missing")
                    self._arrays[channel.name].attrs["valid"] = self._valid[i]
                there = np.ones(len(when), np.bool_) if valid is None else valid
                what = {"description": f"false where {channel.name} has no value"}
                self._put(self._valid[i], there, what, fill=True)
        self._rows += len(when)

    def _put(self, name: str, values: Array, attributes: dict[str, Any], fill: bool | None = None) -> None:
        array = self._arrays.get(name)
        end = self._rows + len(values)
        if array is None:
            shape = values.shape[1:]
            text = values.dtype.kind == "T"
            row_bytes = (16 if text else values.dtype.itemsize) * int(np.prod(shape, dtype=np.int64))
            most = max(1, CHUNK_BYTES // row_bytes)
            chunk = self._chunk if self._chunk <= most else 1 << (most.bit_length() - 1)
            extra = [f"{name}_{axis}" for axis in (("element",) if len(shape) == 1 else ("y", "x"))][: len(shape)]
            array = self._arrays[name] = self._group.create_array(
                name,
                shape=(end, *shape),
                dtype="string" if text else values.dtype,
                chunks=(chunk, *shape),
                compressors=self._directory.compressors,
                fill_value="" if text else False if fill is None and values.dtype == np.bool_ else fill or 0,
                attributes=attributes,
                dimension_names=["time", *extra],
                config={"write_empty_chunks": fill is None},  # -0.0 is equal to 0.0, and yet another value
            )
        elif array.shape[0] != end:
            array.resize((end, *values.shape[1:]))
        array[self._rows : end] = values

    def close(self, description: Description) -> None:
        self._group.attrs[DESCRIPTION_KEY] = description.as_json()


def _attributes(channel: Channel, raw: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"units": channel.unit}
    if channel.labels:
        said["labels"] = list(channel.labels)
    if channel.description:
        said["description"] = channel.description
    if raw and (c := channel.calibration):
        # Under names of our own: readers of CF would apply theirs unasked, and these are the raw values.
        said["calibration"] = {"scale": c.scale, "offset": c.offset, "unit": c.unit}
    return said
