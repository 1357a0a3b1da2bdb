"""TDMS, as LabVIEW and DIAdem read it: a group per table, a channel per column, written by npTDMS.

Times are whole nanoseconds since 1970 in a channel of 64-bit integers: the time stamps of TDMS count fractions of a
second in powers of two, and what LabVIEW shows of them is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from scidaq.archive.exports.table import Origin, Table, cells, column, filled, gap_columns, mask, texts, times, unique
from scidaq.block import DESCRIPTION_KEY, Array, Block, Channel, Description
from scidaq.errors import RequestError

MOST_CHANNELS = 100_000
_FILL_ROWS = 1 << 20


class TdmsFile:
    """One TDMS file."""

    def __init__(self, path: Path, compression: str | None, origin: Origin) -> None:
        try:
            import nptdms
        except ImportError:
            raise RequestError("to write TDMS, install the package npTDMS: pip install 'scidaq[tdms]'") from None
        self._path = path
        self._file = open(path, "wb+")  # noqa: SIM115 - closed by `close` or `abandon`
        self._writer = nptdms.TdmsWriter(self._file)
        self._writer.open()
        said = {
            "name": (origin.run or {}).get("name") or origin.station,
            "station": origin.station,
            "station_uuid": origin.station_uuid,
            "software": origin.software,
            **{f"instrument {name}": identity for name, identity in origin.identities.items()},
        }
        if origin.run is not None:
            said["run"] = orjson.dumps(dict(origin.run)).decode()
        self._writer.write_segment([nptdms.RootObject(said)])

    def table(self, table: Table) -> _TdmsTable:
        return _TdmsTable(self._writer, table)

    def grew(self) -> Path | None:
        self._file.flush()
        return self._path

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # what it still held goes away all the same


class _TdmsTable:
    def __init__(self, writer: Any, table: Table) -> None:
        self._writer, self._table = writer, table
        channels = table.schema.channels
        if sum(c.elements for c in channels) > MOST_CHANNELS:
            raise RequestError(
                f"{table.stream} has more than {MOST_CHANNELS:,} values in a row, each a channel in TDMS: "
                "use --format hdf5 or zarr, or choose --channels"
            )
        if any(c.shape for c in channels):
            table.lose("arrays")
        names = [cell for c in channels for cell in cells(c)]
        self._valid = list(unique(["time", *names, *(f"{c.name}_valid" for c in channels)], str, 1000))[
            1 + len(names) :
        ]
        self._masked: set[int] = set()
        self._rows = 0

    def write(self, blocks: Sequence[Block]) -> None:
        import nptdms

        group, first = self._table.name, not self._rows
        when = times(blocks)
        objects = [nptdms.ChannelObject(group, "time", when, {"unit_string": "ns", **_SINCE} if first else None)]
        for i, channel in enumerate(self._table.schema.channels):
            valid = mask(blocks, i)
            for name, values in _columns(channel, filled(column(blocks, i), valid)):
                said = _properties(channel, self._table.raw) if first else None
                objects.append(nptdms.ChannelObject(group, name, values, said))
            if valid is not None and i not in self._masked:
                self._table.lose("missing")
                self._masked.add(i)
                self._catch_up(self._valid[i])
            if i in self._masked:
                there = np.ones(len(when), np.bool_) if valid is None else valid
                objects.append(nptdms.ChannelObject(group, self._valid[i], there))
        self._writer.write_segment(objects)
        self._rows += len(when)

    def _catch_up(self, name: str) -> None:
        """A mask that begins late: so far all rows have had values."""
        import nptdms

        for at in range(0, self._rows, _FILL_ROWS):
            there = np.ones(min(_FILL_ROWS, self._rows - at), np.bool_)
            self._writer.write_segment([nptdms.ChannelObject(self._table.name, name, there)])

    def close(self, description: Description) -> None:
        import nptdms

        said: dict[str, Any] = {
            "stream": self._table.stream,
            DESCRIPTION_KEY: orjson.dumps(description.as_json()).decode(),
        }
        if self._table.schema.rate is not None:
            said["rate_hz"] = float(self._table.schema.rate)
        objects: list[Any] = [nptdms.GroupObject(self._table.name, said)]
        for i in sorted(self._masked):
            name = cells(self._table.schema.channels[i])[0]
            objects.append(nptdms.ChannelObject(self._table.name, name, None, {"valid": self._valid[i]}))
        if description.gaps:
            for name, values in gap_columns(description).items():
                data = np.array(values, object if name in ("reason", "detail") else np.int64)
                objects.append(nptdms.ChannelObject(f"{self._table.name} gaps", name, data))
        self._writer.write_segment(objects)


_SINCE = {"description": "nanoseconds since 1970-01-01 in UTC"}


def _columns(channel: Channel, values: Array) -> Iterator[tuple[str, Array]]:
    if channel.dtype == "text":
        yield channel.name, np.array(texts(values), object)
        return
    flat = values.reshape(len(values), -1)
    for i, name in enumerate(cells(channel)):
        yield name, np.ascontiguousarray(flat[:, i])


def _properties(channel: Channel, raw: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"unit_string": channel.unit}
    if channel.description:
        said["description"] = channel.description
    if raw and (c := channel.calibration):
        said |= {"calibration_scale": c.scale, "calibration_offset": c.offset, "calibration_unit": c.unit}
    return said
