"""Opens exported files with the libraries that their users have, and brings all of them into one form."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scidaq.block import Channel, Description


@dataclass
class Opened:
    """A table as some library read it."""

    description: Description
    times: Any
    columns: list[Any]
    """Per channel values of shape `(rows, *shape)`; text as `str`."""
    missing: list[Any]
    """Per channel, per row; None where the library does not say."""
    gaps: dict[str, list[Any]] | None = None


def described(text: Any) -> Description:
    return Description.from_json(json.loads(text))


def one_or_all(path: Path, suffix: str) -> list[Path]:
    return [path] if path.is_file() else sorted(path.glob(f"*{suffix}"))


# ---- Arrow, Parquet, CSV --------------------------------------------------------------------------------------------


def _of_arrow(table: Any, description: Description) -> Opened:
    columns: list[Any] = []
    missing: list[Any] = []
    assert table.column_names == ["time", *description.schema.names]
    for channel in description.schema.channels:
        array = table.column(channel.name).combine_chunks()
        rows = len(array)
        missing.append(array.is_null().to_numpy(zero_copy_only=False))
        assert table.schema.field(channel.name).metadata[b"unit"].decode() == channel.unit
        if channel.dtype == "text":
            columns.append([v or "" for v in array.to_pylist()])
            continue
        if channel.shape and array.null_count:
            nothing = np.zeros(channel.shape, channel.numpy_dtype)
            columns.append(np.array([_numbers(v, channel) if v.is_valid else nothing for v in array]))
            continue
        for _ in channel.shape:
            array = array.flatten()
        if array.null_count:
            array = array.fill_null(False if channel.dtype == "bool" else 0)
        columns.append(array.to_numpy(zero_copy_only=False).reshape(rows, *channel.shape))
    return Opened(description, table.column("time").cast("int64").to_numpy(), columns, missing)


def _numbers(row: Any, channel: Channel) -> Any:
    """One row of an array channel; not by way of Python's numbers, which know no signalling NaN."""
    values = row.values
    for _ in channel.shape[1:]:
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(channel.shape)


def parquet(path: Path) -> list[Opened]:
    import pyarrow.parquet as pq

    files = [pq.ParquetFile(one) for one in one_or_all(path, ".parquet")]
    return [_of_arrow(file.read(), described(file.metadata.metadata[b"scidaq"])) for file in files]


def arrow(path: Path) -> list[Opened]:
    import pyarrow as pa

    out = []
    for one in one_or_all(path, ".arrow"):
        with pa.OSFile(str(one)) as file:
            reader = pa.ipc.open_file(file)
            last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
            assert last.batch.num_rows == 0
            out.append(_of_arrow(reader.read_all(), described(last.custom_metadata[b"scidaq"])))
    return out


def csv_(path: Path) -> list[Opened]:
    out = []
    for one in one_or_all(path, ".csv"):
        said = json.loads(one.with_name(one.name + "-metadata.json").read_bytes())
        assert said["url"] == one.name
        with one.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert [c["titles"] for c in said["tableSchema"]["columns"]] == header
        out.append(_of_cells(described(said["https://w3id.org/scidaq#description"]), rows))
    return out


def _of_cells(description: Description, rows: list[list[str]]) -> Opened:
    times = np.array([r[0].removesuffix("Z") for r in rows], "datetime64[ns]").astype(np.int64)
    columns: list[Any] = []
    missing: list[Any] = []
    at = 1
    for channel in description.schema.channels:
        cells = [r[at : at + channel.elements] for r in rows]
        at += channel.elements
        if channel.dtype == "text":
            columns.append([c[0] for c in cells])
            missing.append(None)  # the csv module does not say what was quoted
            continue
        missing.append(np.array([c[0] == "" for c in cells]))
        kind = channel.numpy_dtype.type if channel.dtype.startswith("float") else int
        read: Callable[[str], Any] = (lambda v: v == "true") if channel.dtype == "bool" else kind
        flat = np.array([[read(v or "0") for v in c] for c in cells], channel.numpy_dtype)
        columns.append(flat.reshape(len(rows), *channel.shape))
    return Opened(description, times, columns, missing)


# ---- HDF5, Zarr, TDMS, MATLAB ---------------------------------------------------------------------------------------


def _column(channel: Channel, values: Any) -> Any:
    if channel.dtype == "text":
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values]
    return values.astype(bool) if channel.dtype == "bool" else values


def hdf5(path: Path) -> list[Opened]:
    import h5py

    out = []
    with h5py.File(path) as file:
        entry = file["entry"]
        for name, note in entry["provenance"].items():
            description = described(note["data"][()])
            group = entry[name]
            fields = {d.attrs["channel"]: d for d in group.values() if "channel" in d.attrs}
            columns: list[Any] = []
            missing: list[Any] = []
            for channel in description.schema.channels:
                one = fields[channel.name]
                assert one.attrs["units"] == channel.unit
                columns.append(_column(channel, one[:]))
                mask = one.attrs.get("valid")
                missing.append(np.zeros(len(one), bool) if mask is None else group[mask][:] == 0)
            gaps = entry.get(f"{name}_gaps")
            found = None if gaps is None else {k: v[:].tolist() for k, v in gaps.items()}
            out.append(Opened(description, group["time"][:], columns, missing, found))
    return out


def zarr_(path: Path) -> list[Opened]:
    import zarr

    out = []
    groups: list[tuple[str, Any]] = sorted(zarr.open_group(path, mode="r").groups())
    for _, group in groups:
        description = Description.from_json(group.attrs["scidaq"])
        columns: list[Any] = []
        missing: list[Any] = []
        for channel in description.schema.channels:
            array = group[channel.name]
            assert array.attrs["units"] == channel.unit
            columns.append(_column(channel, array[:]))
            there = array.attrs.get("valid")
            missing.append(np.zeros(array.shape[0], bool) if there is None else ~group[there][:])
        out.append(Opened(description, group["time"][:], columns, missing))
    return out


def tdms(path: Path) -> list[Opened]:
    import nptdms

    from scidaq.archive.exports.table import cells

    out = []
    for group in nptdms.TdmsFile.read(path).groups():
        if "scidaq" not in group.properties:
            continue
        description = described(group.properties["scidaq"])
        columns: list[Any] = []
        missing: list[Any] = []
        for channel in description.schema.channels:
            parts = [group[cell] for cell in cells(channel)]
            assert parts[0].properties["unit_string"] == channel.unit
            flat = np.stack([p[:] for p in parts], axis=1)
            columns.append(_column(channel, flat.reshape(len(flat), *channel.shape)))
            there = parts[0].properties.get("valid")
            missing.append(np.zeros(len(flat), bool) if there is None else ~group[there][:])
        out.append(Opened(description, group["time"][:], columns, missing))
    return out


def mat(path: Path) -> list[Opened]:
    import scipy.io

    out = []
    for found in scipy.io.loadmat(path).values():
        if not isinstance(found, np.ndarray) or "description" not in (found.dtype.names or ()):
            continue
        one = found[0, 0]
        description = Description.from_json(json.loads(str(one["description"].item()))["scidaq"])
        said = [json.loads(str(text.item())) for text in one["channels"][:, 0]]
        columns: list[Any] = []
        missing: list[Any] = []
        for channel, facts in zip(description.schema.channels, said, strict=True):
            values = one[facts["field"]]
            if channel.dtype == "text":
                columns.append([str(v.item()) if v.size else "" for v in values[:, 0]])
            else:
                # MATLAB has the first dimension go fastest: as memory lies, the row goes slowest.
                rows = values.shape[-1] if channel.shape else values.shape[0]
                columns.append(_column(channel, values.reshape(-1, order="F").reshape(rows, *channel.shape)))
            there = facts.get("valid")
            missing.append(np.zeros(len(columns[-1]), bool) if there is None else one[there][:, 0] == 0)
        gaps = one["gaps"][0, 0]
        found_gaps = {n: [v.item() if v.size else "" for v in gaps[n][:, 0]] for n in gaps.dtype.names}
        out.append(Opened(description, one["time"][:, 0], columns, missing, found_gaps))
    return out


OPENERS: dict[str, Callable[[Path], list[Opened]]] = {
    "csv": csv_,
    "parquet": parquet,
    "arrow": arrow,
    "hdf5": hdf5,
    "zarr": zarr_,
    "tdms": tdms,
    "mat": mat,
}
"""By format."""


def by_part(opened: list[Opened]) -> list[Opened]:
    return sorted(opened, key=lambda o: (o.description.stream, o.description.part))
