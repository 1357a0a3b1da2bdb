"""What was exported and is imported again is the same: rows, times, units, calibrations, missing values and gaps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from scidaq.archive import Origin, Request, Source, export
from scidaq.block import Block, Channel, Gap, Reason, Schema
from scidaq.instruments import Reading, tables
from scidaq.query import Reader
from scidaq.station import Importer, streams_of
from scidaq.station import Source as File
from scidaq.store import verify
from scidaq.testing import strategies

ORIGIN = Origin("lab", "00000000-0000-0000-0000-000000000000", "scidaq 0", 1)
STREAM = "fake/stream"
SUFFIXES = {"csv": ".csv", "parquet": ".parquet", "arrow": ".arrow", "hdf5": ".h5", "tdms": ".tdms"}
REASONS = [r for r in Reason if r not in (Reason.POLICY, Reason.UNEXPLAINED)]


@st.composite
def recordings(draw: st.DrawFn, lossless: bool = True) -> list[Block | Gap]:
    """Rows of some epochs in the order of reading, with a gap where some are missing."""
    out: list[Block | Gap] = []
    schema = draw(strategies.schemas(max_channels=3))
    for epoch in range(draw(st.integers(1, 3))):
        if epoch and draw(st.booleans()):
            schema = draw(strategies.schemas(max_channels=3))
        blocks = draw(strategies.runs(schema, max_blocks=4, max_rows=12))
        if epoch and not blocks[0].first:
            unknown = draw(st.booleans())
            out.append(Gap(STREAM, epoch, 0, 0, draw(st.sampled_from(REASONS)), 5, 7, unknown, detail="π"))
        at, last_ns = 0, None
        for block in blocks:
            if block.first > at:
                reason = draw(st.sampled_from(REASONS))
                out.append(
                    Gap(STREAM, epoch, at, block.first, reason, last_ns, block.t0_ns, detail=draw(st.text(max_size=5)))
                )
            out.append(replace(block, stream=STREAM, epoch=epoch))
            at, last_ns = block.end, block.last_ns
        if draw(st.booleans()):
            out.append(Gap(STREAM, epoch, at, at + 3, Reason.DISK, last_ns))
    return out


def told(items: Iterable[Block | Gap], nan_bits: bool = True, texts: bool = True) -> list[tuple[Any, ...]]:
    """Rows one by one, and gaps: the same however rows were put into blocks."""
    out: list[tuple[Any, ...]] = []
    schema = None
    for item in items:
        if isinstance(item, Gap):
            out.append(
                (item.epoch, item.first, item.end, item.reason, item.start_ns, item.end_ns, item.unknown, item.detail)
            )
            continue
        if item.schema != schema:
            schema = item.schema
            out.append((schema,))
        times = item.time_ns()
        for i in range(item.rows):
            valid = [m is None or bool(m[i]) for m in item.valid or [None] * len(item.columns)]
            values = [_bits(c[i : i + 1], nan_bits) if v else None for c, v in zip(item.columns, valid, strict=True)]
            out.append((item.epoch, item.first + i, int(times[i]), *values))
    return out


def _bits(values: np.ndarray[Any, Any], nan_bits: bool) -> bytes:
    if values.dtype.kind == "f" and not nan_bits:
        values = values.copy()
        values[np.isnan(values)] = np.nan
    return values.tobytes()


def exported(directory: Path, form: str, items: Iterable[Block | Gap], raw: bool = True) -> Path:
    target = directory / f"rows{SUFFIXES[form]}"
    export([Source(STREAM, items)], Request(form, target, raw), ORIGIN)
    return target


def carried(form: str, items: list[Block | Gap]) -> bool:
    """Whether the format can carry the rows: no text with NUL goes into HDF5 and TDMS."""
    for item in items:
        if isinstance(item, Block):
            for channel, column in zip(item.schema.channels, item.columns, strict=True):
                if channel.dtype == "text" and form in ("hdf5", "tdms") and any(b"\0" in t for t in column.tolist()):
                    return False
    return True


@pytest.mark.parametrize("form", SUFFIXES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_what_is_read_is_what_was_exported(form: str, data: st.DataObject) -> None:
    items = data.draw(recordings().filter(lambda items: carried(form, items)))
    with tempfile.TemporaryDirectory() as directory:
        path = exported(Path(directory), form, items)
        found = tables(path, Reading())
        assert {t.stream for t in found} == {STREAM}
        back = [item for table in found for item in table.read()]
    bits = form != "csv"
    assert told(back, bits) == told(items, bits)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "hdf5"])
@settings(
    max_examples=10,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_what_is_imported_is_what_was_exported(form: str, data: st.DataObject) -> None:
    items = data.draw(recordings().filter(lambda items: carried(form, items)))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = exported(directory, form, items)
        for _ in range(2):  # the second changes nothing
            with Importer(directory / "d") as importer:
                for stream, parts in streams_of(tables(path, Reading())).items():
                    importer.take(File.of(path, Reading()), stream, parts)
        assert told(Reader(directory / "d").blocks(STREAM)) == told(items)
        assert verify(directory / "d").ok


@pytest.mark.parametrize("form", SUFFIXES)
def test_many_rows_at_an_odd_rate_keep_their_nanoseconds(form: str, tmp_path: Path) -> None:
    schema = Schema((Channel("v", "int32", "V"), Channel("w", "float64", "mA")), Fraction(44_100, 7))
    rows = 50_000
    values = np.arange(rows, dtype=np.int32), np.arange(rows) / 3
    items: list[Block | Gap] = []
    for a in range(0, rows, 999):
        b = min(rows, a + 999)
        items.append(Block(STREAM, 0, a, schema, (values[0][a:b], values[1][a:b]), 10**18 + schema.span_ns(a)))
    path = exported(tmp_path, form, items)
    with Importer(tmp_path / "d") as importer:
        importer.take(File.of(path, Reading()), STREAM, tables(path, Reading()))
    assert told(Reader(tmp_path / "d").blocks(STREAM)) == told(items)


def test_a_csv_file_may_be_renamed_with_what_lies_beside_it(tmp_path: Path) -> None:
    schema = Schema((Channel("v", "int32", "mV"),), Fraction(10))
    items: list[Block | Gap] = [Block(STREAM, 0, 0, schema, (np.arange(5, dtype=np.int32),), 10**18)]
    old = exported(tmp_path, "csv", items)
    old.with_name(f"{old.name}-metadata.json").rename(tmp_path / "new.csv-metadata.json")
    (table,) = tables(old.rename(tmp_path / "new.csv"), Reading())
    assert table.stream == STREAM
    assert told(table.read()) == told(items)
