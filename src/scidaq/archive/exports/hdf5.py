"""HDF5 in the layout of NeXus: one file for all tables, opened by h5py, MATLAB, Octave, and the tools for NeXus.

```
/                        NXroot, default = entry
  entry                  NXentry, default = the first table that can be plotted
    <table>              NXdata: time, each channel, <channel>_valid where values are missing
    <table>_gaps         NXcollection: what is missing, where and why
    provenance/<table>   NXnote: the description, from which the table can be imported again
    instrument           NXinstrument: an NXcollection for each instrument with what it said of itself
    run                  NXcollection, and operator and sample: of a run
```

Chunks are compressed here, several at once, and handed over as they are: the library itself would use one core. They
are what its own filters *shuffle* and *deflate* make, so any reader has what it needs.

Source: NeXus manual, NXdata (signal, axes, auxiliary_signals) and NXlog (start); HDF5 file format 3, filters 1 and 2.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from scidaq.archive.exports.table import GAP_COLUMNS, Origin, Table, column, filled, gap_columns, mask, times, unique
from scidaq.block import Array, Block, Channel, Description, shown

if TYPE_CHECKING:
    import h5py

CHUNK_BYTES = 1 << 18
LEVEL = 1
"""Of deflate: the next ones take twice as long for a few percent."""
MOST_NAMES = 1000
"""An attribute has 64 KiB: of a longer list only the description tells."""
EPOCH = "1970-01-01T00:00:00Z"


def spelled(name: str) -> str:
    """A name that NeXus allows for a group or a field (those with dots its own tools refuse)."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


class Hdf5File:
    """One HDF5 file."""

    def __init__(self, path: Path, compression: str | None, origin: Origin) -> None:
        import h5py

        self._origin, self._compression = origin, compression
        # Whole chunks are written once: a cache of them would only take memory, a mebibyte for each channel.
        self._file = h5py.File(path, "w", rdcc_nbytes=0, libver=("earliest", "v110"))
        self._entry = self._begin()
        self._names: list[str] = []
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "export deflate")
        self._first_ns: int | None = None
        self._last_ns: int | None = None

    def _begin(self) -> h5py.Group:
        import h5py

        file, origin = self._file, self._origin
        now = shown(origin.exported_ns)
        file.attrs.update(
            {
                "NX_class": "NXroot",
                "default": "entry",
                "file_time": now,
                "creator": origin.software,
                "HDF5_Version": h5py.version.hdf5_version,
                "h5py_version": h5py.__version__,
            }
        )
        entry = _group(file, "entry", "NXentry")
        _say(entry, "title", (origin.run or {}).get("name") or f"rows of station {origin.station}")
        _say(entry, "program_name", origin.software.partition(" ")[0])
        entry["program_name"].attrs["version"] = origin.software.partition(" ")[2]
        station = _group(entry, "station", "NXcollection")
        _say(station, "name", origin.station)
        _say(station, "uuid", origin.station_uuid)
        if origin.identities:
            instruments = _group(entry, "instrument", "NXinstrument")
            spelling = unique(origin.identities, spelled)
            for (name, said), group in zip(origin.identities.items(), spelling, strict=True):
                one = _group(instruments, group, "NXcollection")
                _say(one, "id", name)
                _say(one, "identity", said)
        if origin.run is not None:
            self._run(entry, origin.run)
        _group(entry, "provenance", "NXcollection")
        return entry

    def _run(self, entry: h5py.Group, run: Any) -> None:
        group = _group(entry, "run", "NXcollection")
        for key, value in run.items():
            if value in (None, "", (), [], {}):
                continue
            if isinstance(value, int | float):
                group[spelled(key)] = value
            else:
                _say(group, spelled(key), value if isinstance(value, str) else orjson.dumps(value).decode())
        if identifier := run.get("id"):
            _say(entry, "entry_identifier", str(identifier))
        if sample := run.get("sample"):
            _say(_group(entry, "sample", "NXsample"), "name", str(sample))
        if operator := run.get("operator"):
            _say(_group(entry, "user", "NXuser"), "name", str(operator))

    def table(self, table: Table) -> Hdf5Table:
        *_, name = unique([*self._names, table.name], spelled)
        self._names.append(name)
        return Hdf5Table(self, name, table)

    # ---- for the tables ----

    def data(self, name: str) -> h5py.Group:
        """The group of a table."""
        return _group(self._entry, name, "NXdata")

    @property
    def compressed(self) -> bool:
        """Whether chunks are deflated."""
        return self._compression is not None

    def soon(self, function: Callable[..., bytes], *arguments: Any) -> Future[bytes]:
        """A result that comes about in another thread."""
        return self._threads.submit(function, *arguments)

    def finish(self, name: str, table: Table, description: Description, plots: bool) -> None:
        """Write what is known of a table that has ended."""
        gaps = gap_columns(description)
        if description.gaps:
            group = _group(self._entry, f"{name}_gaps", "NXcollection")
            for key, values in gaps.items():
                if key in ("reason", "detail"):
                    _say(group, key, values)
                else:
                    group[key] = np.array(values, np.int64)
                group[key].attrs["description"] = GAP_COLUMNS[key]
        note = _group(self._entry["provenance"], name, "NXnote")
        _say(note, "type", "application/json")
        _say(note, "description", f"what {table.stream} is, for scidaq import")
        _say(note, "data", orjson.dumps(description.as_json()).decode())
        if plots and "default" not in self._entry.attrs:
            self._entry.attrs["default"] = name

    def saw(self, first_ns: int, last_ns: int) -> None:
        """Rows of these times were written."""
        self._first_ns = first_ns if self._first_ns is None else min(self._first_ns, first_ns)
        self._last_ns = last_ns if self._last_ns is None else max(self._last_ns, last_ns)

    # ---- the end ----

    def close(self) -> None:
        if self._first_ns is not None and self._last_ns is not None:
            _say(self._entry, "start_time", shown(self._first_ns))
            _say(self._entry, "end_time", shown(self._last_ns))
        self._threads.shutdown()
        self._file.close()

    def abandon(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        try:
            self._file.close()
        except (OSError, RuntimeError, ValueError):
            pass  # it goes away all the same

    def grew(self) -> Path | None:
        return None  # the library goes back in it


class Hdf5Table:
    """A group of the file."""

    def __init__(self, file: Hdf5File, name: str, table: Table) -> None:
        self._file, self._name, self._table = file, name, table
        self._group = file.data(name)
        channels = table.schema.channels
        self._fields = list(unique(["time", *(c.name for c in channels)], spelled))[1:]
        self._valid = list(unique(["time", *self._fields, *(f"{f}_valid" for f in self._fields)], str))[
            1 + len(channels) :
        ]
        self._sets: dict[str, _Column] = {}
        self._rows = 0
        self._chunk = 0
        if any(f != c.name for f, c in zip(self._fields, channels, strict=True)):
            table.lose("names")
        self._describe()

    def _describe(self) -> None:
        """The attributes of the group: what is to be plotted over what."""
        group, schema = self._group, self._table.schema
        group.attrs["stream"] = self._table.stream
        if schema.rate is not None:
            group.attrs["rate_hz"] = float(schema.rate)
        numbers = [(f, c) for f, c in zip(self._fields, schema.channels, strict=True) if c.dtype != "text"]
        if not numbers:
            return
        signal, first = numbers[0]
        group.attrs["signal"] = signal
        group.attrs["axes"] = ["time", *("." for _ in first.shape)]
        group.attrs["time_indices"] = 0
        others = [field for field, c in numbers[1:] if c.shape == first.shape]
        if 0 < len(others) <= MOST_NAMES:
            group.attrs["auxiliary_signals"] = others

    def write(self, blocks: Sequence[Block]) -> None:
        when = times(blocks)
        if not self._chunk:
            self._chunk = len(when)
        self._file.saw(int(when.min()), int(when.max()))
        self._put("time", when, {"units": "ns", "start": EPOCH, "long_name": "time (UTC)"})
        for i, channel in enumerate(self._table.schema.channels):
            values, valid = column(blocks, i), mask(blocks, i)
            self._put(self._fields[i], _storable(filled(values, valid)), _attributes(channel, self._table.raw))
            if valid is not None or self._valid[i] in self._sets:
                there = np.ones(len(when), np.uint8) if valid is None else valid.view(np.uint8)
                what = {"description": f"1 where {self._fields[i]} has a value, 0 where it is missing"}
                if self._valid[i] not in self._sets:
                    self._table.lose("missing")
                    self._sets[self._fields[i]].attributes({"valid": self._valid[i]})
                self._put(self._valid[i], there, what, fill=1)
        self._rows += len(when)

    def _put(self, name: str, values: Array, attributes: dict[str, Any], fill: int | None = None) -> None:
        found = self._sets.get(name)
        if found is None:
            found = self._sets[name] = _Column(self._file, self._group, name, values, self._chunk, fill)
            found.attributes(attributes)
        found.write(self._rows, values)

    def close(self, description: Description) -> None:
        for one in self._sets.values():
            one.flush()
            one.resize(self._rows)
        plots = "signal" in self._group.attrs
        self._file.finish(self._name, self._table, description, plots)


class _Column:
    """A dataset that grows by whole chunks; the last may be shorter."""

    def __init__(
        self, file: Hdf5File, group: h5py.Group, name: str, values: Array, rows: int, fill: int | None
    ) -> None:
        self._file = file
        row_bytes = max(1, values.dtype.itemsize * values[0].size)
        most = max(1, CHUNK_BYTES // row_bytes)
        # What is written at once is a power of two, unless it is all there is: so chunks end where it ends.
        self._chunk = chunk = rows if rows <= most else 1 << (most.bit_length() - 1)
        kind: Any = values.dtype
        if values.dtype.kind == "S":
            import h5py

            kind = h5py.string_dtype("utf-8", values.dtype.itemsize)
        options: dict[str, Any] = {"shuffle": True, "compression": "gzip", "compression_opts": LEVEL}
        self._set = group.create_dataset(
            name,
            shape=(0, *values.shape[1:]),
            maxshape=(None, *values.shape[1:]),
            dtype=kind,
            chunks=(chunk, *values.shape[1:]),
            fillvalue=fill,
            **(options if file.compressed else {}),
        )
        self._waiting: list[tuple[int, Future[bytes]]] = []

    def attributes(self, attributes: dict[str, Any]) -> None:
        """Say what it is."""
        self._set.attrs.update(attributes)

    def resize(self, rows: int) -> None:
        """A mask may have ended before the rows do, and has begun behind the first: its fill value says the rest."""
        if self._set.shape[0] != rows:
            self._set.resize(rows, axis=0)

    def write(self, at: int, values: Array) -> None:
        """Rows from `at` on, which is where a chunk begins."""
        self.flush()
        self._set.resize(at + len(values), axis=0)
        if not self._file.compressed:
            self._set.write_direct(np.ascontiguousarray(values), dest_sel=np.s_[at : at + len(values)])
            return
        for begin in range(0, len(values), self._chunk):
            piece = values[begin : begin + self._chunk]
            self._waiting.append((at + begin, self._file.soon(_deflated, piece, self._chunk)))

    def flush(self) -> None:
        """Hand over the chunks that have been compressed since."""
        for at, data in self._waiting:
            self._set.id.write_direct_chunk((at, *(0 for _ in self._set.shape[1:])), data.result())
        self._waiting.clear()


def _deflated(values: Array, rows: int) -> bytes:
    """A chunk as the filters shuffle and deflate leave it; one that is not full is filled with zeros."""
    if len(values) < rows:
        values = np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])
    flat = np.ascontiguousarray(values).reshape(-1)
    size = flat.dtype.itemsize
    data = flat.view(np.uint8)
    if size > 1:
        data = np.ascontiguousarray(data.reshape(-1, size).T)
    return zlib.compress(data.data, LEVEL)


def _storable(values: Array) -> Array:
    """Truth as 0 and 1: what HDF5 has for it, an enumeration, is text in MATLAB."""
    return values.view(np.uint8) if values.dtype == np.bool_ else values


def _attributes(channel: Channel, raw: bool) -> dict[str, Any]:
    said: dict[str, Any] = {
        "units": channel.unit,
        "channel": channel.name,
        "long_name": f"{channel.name} ({channel.unit})",
    }
    if channel.dtype == "bool":
        said["values"] = "0 false, 1 true"
    if channel.labels and len(channel.labels) <= MOST_NAMES and sum(map(len, channel.labels)) < 32_768:
        said["labels"] = list(map(_text, channel.labels))
    if channel.description:
        said["description"] = _text(channel.description[:8192])
    if raw and (c := channel.calibration):
        said |= {"scaling_factor": c.scale, "offset": c.offset, "calibrated_units": c.unit}
        said["calibration"] = "calibrated = stored * scaling_factor + offset"
    return said


def _group(parent: h5py.Group, name: str, kind: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _say(group: h5py.Group, name: str, text: str | Sequence[str]) -> None:
    """A text, or a column of them, as a field of a fixed length: Octave stops at those of a variable one."""
    import h5py

    said = [_text(one).encode() for one in ([text] if isinstance(text, str) else text)]
    characters = "ascii" if all(map(bytes.isascii, said)) else "utf-8"
    kind = h5py.string_dtype(characters, max([1, *map(len, said)]))
    group.create_dataset(name, data=np.array(said[0] if isinstance(text, str) else said, kind))


def _text(text: str) -> str:
    """A text as HDF5 takes it: it knows none with NUL inside."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}")
