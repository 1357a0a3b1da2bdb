"""What is read is what was recorded, in whatever form it is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import scidaq
from scidaq.block import NS, Block, Calibration, Channel, Gap, Reason, Schema
from scidaq.errors import RequestError
from scidaq.query import Rows
from scidaq.store import SegmentName
from scidaq.testing import strategies
from tests.query.test_reader import STREAM, Made
from tests.store.makers import T0, epoch_of, journal_bytes, record_of, segment_bytes


@dataclass(frozen=True)
class Row:
    """One row as it was recorded."""

    time_ns: int
    values: dict[str, Any]
    """Calibrated; None where there is none."""
    codes: dict[str, Any]


def rows_of(block: Block) -> Iterator[Row]:
    for row, time_ns in enumerate(block.time_ns().tolist()):
        values: dict[str, Any] = {}
        codes: dict[str, Any] = {}
        for i, channel in enumerate(block.schema.channels):
            code = block.columns[i][row : row + 1]
            mask = block.valid[i] if block.valid else None
            if mask is not None and not mask[row]:
                values[channel.name] = codes[channel.name] = None
            elif channel.dtype == "text":
                values[channel.name] = codes[channel.name] = code[0].decode()
            else:
                values[channel.name], codes[channel.name] = channel.physical(code)[0].tolist(), code[0].tolist()
        yield Row(time_ns, values, codes)


@st.composite
def recordings(draw: st.DrawFn) -> list[list[Block]]:
    """Epochs with the same channels, whose calibration changes, each with holes and missing values."""
    schema = draw(strategies.schemas())
    out = []
    for number in range(draw(st.integers(1, 3))):
        channels = tuple(
            replace(c, calibration=replace(draw(strategies.calibrations()), unit=c.calibration.unit))
            if c.calibration and number
            else c
            for c in schema.channels
        )
        blocks = draw(strategies.runs(replace(schema, channels=channels), max_blocks=4, max_rows=12))
        out.append([b.placed(STREAM, number, b.first, b.t0_ns) for b in blocks])
    return out


def holes(blocks: Sequence[Block]) -> list[Gap]:
    """What is missing in an epoch; every other hole has a record that says why."""
    out, at = [], 0
    for i, block in enumerate(blocks):
        if at < block.first:
            reason = Reason.OVERFLOW if i % 2 else Reason.UNEXPLAINED
            out.append(Gap(STREAM, block.epoch, at, block.first, reason))
        at = block.end
    return out


def put(made: Made, epochs: Sequence[Sequence[Block]]) -> None:
    """The second half of the last epoch is still in the journal."""
    for number, blocks in enumerate(epochs):
        epoch = epoch_of(blocks[0].schema, number=number)
        known = {gap.end: [gap] for gap in holes(blocks) if gap.reason is Reason.OVERFLOW}
        there = len(blocks) // 2 if number == len(epochs) - 1 else len(blocks)
        if there:
            gaps = {i: known[b.first] for i, b in enumerate(blocks[:there]) if b.first in known}
            made.put(SegmentName(number, blocks[0].first, 0), segment_bytes(epoch, blocks[:there], gaps=gaps))
        records = [record_of(epoch, b, b.end, known.get(b.first, ())) for b in blocks[there:]]
        if records:
            made.journal(journal_bytes([[record] for record in records]))


def read(epochs: Sequence[Sequence[Block]], **which: Any) -> Rows:
    with tempfile.TemporaryDirectory() as directory:
        made = Made(Path(directory))
        put(made, epochs)
        return scidaq.open(directory)[STREAM].read(**which)


def names(epochs: Sequence[Sequence[Block]]) -> tuple[str, ...]:
    return epochs[0][0].schema.names


# ---- the same in every form ------------------------------------------------------------------------------------------


@given(recordings())
def test_arrow(epochs: list[list[Block]]) -> None:
    truth = [row for blocks in epochs for block in blocks for row in rows_of(block)]
    rows = read(epochs)
    table = rows.to_arrow()
    table.validate(full=True)
    assert len(rows) == table.num_rows == len(truth)
    assert table["time"].cast(pa.int64()).to_pylist() == [row.time_ns for row in truth]
    for name in names(epochs):
        np.testing.assert_equal(table[name].to_pylist(), [row.values[name] for row in truth])
        assert table.schema.field(name).metadata[b"unit"].decode() == rows.units[name]
    tables = read(epochs, raw=True).tables()
    for name in names(epochs):
        np.testing.assert_equal(
            [v for table in tables for v in table[name].to_pylist()], [row.codes[name] for row in truth]
        )


@given(recordings())
def test_numpy(epochs: list[list[Block]]) -> None:
    truth = [row for blocks in epochs for block in blocks for row in rows_of(block)]
    arrays = read(epochs).to_numpy()
    assert list(arrays) == ["time", *names(epochs)]
    assert arrays["time"].astype(np.int64).tolist() == [row.time_ns for row in truth]
    for channel in epochs[0][0].schema.channels:
        values = arrays[channel.name]
        assert values.shape == (len(truth), *channel.shape)
        if channel.dtype != "text":
            assert values.dtype == (np.float64 if channel.calibration else channel.numpy_dtype)
        missing = [row.values[channel.name] is None for row in truth]
        assert isinstance(values, np.ma.MaskedArray) == any(missing)
        for value, row, lacks in zip(values, truth, missing, strict=True):
            if lacks:
                assert np.ma.getmaskarray(value).all() if channel.shape else value is np.ma.masked
            else:
                np.testing.assert_equal(np.ma.getdata(value).tolist(), row.values[channel.name])


@given(recordings())
@settings(max_examples=30)
def test_pandas_without_breaks(epochs: list[list[Block]]) -> None:
    truth = [row for blocks in epochs for block in blocks for row in rows_of(block)]
    frame = read(epochs).to_pandas(gaps="drop")
    assert frame.index.name == "time"
    assert str(frame.index.tz) == "UTC"
    assert frame.index.as_unit("ns").asi8.tolist() == [row.time_ns for row in truth]
    at = 0
    for channel in epochs[0][0].schema.channels:
        width = channel.elements if len(channel.shape) < 2 else 1
        columns = frame.iloc[:, at : at + width]
        at += width
        for i, row in enumerate(truth):
            expected = row.values[channel.name]
            cells = columns.iloc[i].tolist()
            if expected is None:
                assert all(np.all(pd.isna(cell)) for cell in cells)
            elif len(channel.shape) == 2:
                np.testing.assert_equal(cells[0].tolist(), expected)
            else:
                np.testing.assert_equal(cells, expected if channel.shape else [expected])
    assert at == frame.shape[1]


@given(recordings())
@settings(max_examples=20)
def test_polars_and_xarray(epochs: list[list[Block]]) -> None:
    truth = [row for blocks in epochs for block in blocks for row in rows_of(block)]
    rows = read(epochs)
    frame = rows.to_polars(gaps="drop")
    assert frame["time"].cast(pl.Int64).to_list() == [row.time_ns for row in truth]
    for name in names(epochs):
        np.testing.assert_equal(frame[name].to_list(), [row.values[name] for row in truth])
    wide = [c.name for c in epochs[0][0].schema.channels if c.dtype in ("int64", "uint64") and not c.calibration]
    if any(row.values[name] is None for row in truth for name in wide):
        return  # see test_whole_numbers_that_xarray_cannot_have_missing
    data = rows.to_xarray(gaps="drop")
    for channel in epochs[0][0].schema.channels:
        found = data[channel.name]
        assert found.dims[0] == "time"
        assert found.shape == (len(truth), *channel.shape)
        assert found.attrs["units"] == rows.units[channel.name]
        for value, row in zip(found.values, truth, strict=True):
            if (expected := row.values[channel.name]) is None:
                assert np.all(pd.isna(value))
            else:
                np.testing.assert_equal(np.asarray(value).tolist(), expected)


# ---- gaps ------------------------------------------------------------------------------------------------------------


@given(recordings())
@settings(max_examples=30)
def test_what_is_missing_is_told_with_its_reason(epochs: list[list[Block]]) -> None:
    expected = [gap for blocks in epochs for gap in holes(blocks)]
    found = [(gap.epoch, gap.first, gap.end, gap.reason) for gap in read(epochs).gaps]
    assert found == [(gap.epoch, gap.first, gap.end, gap.reason) for gap in expected]


LAB = Schema(
    (
        Channel("v", "float64", "V"),
        Channel("n", "int16", "{count}"),
        Channel("on", "bool"),
        Channel("note", "text", max_bytes=4),
        Channel("adc", "int16", "1", (2,), ("a", "b"), Calibration(0.5, 0.0, "mV")),
        Channel("frame", "uint8", shape=(1, 2)),
    ),
    Fraction(10),
)


def lab(first: int, rows: int, epoch: int = 0, schema: Schema = LAB, t0_ns: int | None = None) -> Block:
    index = np.arange(first, first + rows)
    values = {
        "v": index / 2,
        "n": index,
        "on": index % 2 == 0,
        "note": [str(i) for i in index],
        "adc": np.stack([index, -index], axis=1),
        "frame": np.stack([index, index], axis=1)[:, None],
    }
    times = T0 + index * 7 if schema.rate is None else None
    t0_ns = T0 + (schema.span_ns(first) if schema.rate else 0) if t0_ns is None else t0_ns
    return Block.of(schema, values, first=first, t0_ns=t0_ns, times=times).placed(STREAM, epoch, first, t0_ns)


def items(*found: Block | Gap) -> Rows:
    return Rows(STREAM, found)


HOLE = Gap(STREAM, 0, 3, 5, Reason.OVERFLOW, T0, T0)
UNKNOWN = Gap(STREAM, 1, 0, 0, Reason.RESTART, unknown=True)
STEP = Gap(STREAM, 1, 0, 0, Reason.SCHEMA)


def test_a_line_breaks_where_rows_are_missing() -> None:
    frame = items(lab(0, 3), HOLE, lab(5, 2)).to_pandas()
    assert frame["v"].isna().tolist() == [False] * 3 + [True] + [False] * 2
    assert frame.index[3] == pd.Timestamp(T0 + 3 * NS // 10, tz="UTC"), "when the first missing row was"
    assert frame["n"].dtype == "Int16", "no float"
    assert frame["n"].isna().tolist() == frame["v"].isna().tolist()
    assert frame["on"].dtype == "boolean"
    assert frame["note"].isna().tolist() == frame["v"].isna().tolist()
    assert frame["adc[a]"].tolist()[4:] == [2.5, 3.0]
    assert frame["frame"].tolist()[3] is None
    assert frame.attrs["units"] == {
        "v": "V",
        "n": "{count}",
        "on": "1",
        "note": "1",
        "adc[a]": "mV",
        "adc[b]": "mV",
        "frame": "1",
    }


def test_without_breaks_whole_numbers_are_those_of_numpy() -> None:
    frame = items(lab(0, 3), HOLE, lab(5, 2)).to_pandas(gaps="drop")
    assert frame["n"].tolist() == [0, 1, 2, 5, 6]
    assert (frame["n"].dtype, frame["on"].dtype) == (np.int16, np.bool_)
    assert items(lab(0, 3)).to_pandas()["n"].dtype == np.int16


@pytest.mark.parametrize(
    ("found", "breaks"),
    [
        ([HOLE, lab(5, 1)], []),
        ([lab(0, 3), HOLE], [3]),
        ([lab(0, 3), HOLE, UNKNOWN, lab(0, 1, 1)], [3]),
        ([lab(0, 3), UNKNOWN, lab(0, 1, 1)], [3]),
        ([lab(0, 3), STEP, lab(0, 1, 1)], []),
        ([lab(0, 3), lab(3, 1)], []),
        ([lab(0, 1), HOLE, lab(5, 1), HOLE, lab(9, 1)], [1, 3]),
    ],
)
def test_where_breaks_are(found: list[Block | Gap], breaks: list[int]) -> None:
    rows = items(*found)
    assert np.flatnonzero(rows.to_pandas()["v"].isna()).tolist() == breaks
    assert np.flatnonzero(rows.to_polars()["v"].is_null()).tolist() == breaks
    assert np.flatnonzero(rows.to_xarray()["v"].isnull()).tolist() == breaks
    assert len(rows.to_arrow()) == len(rows.to_numpy()["v"]) == len(rows)
    times = rows.to_pandas().index.as_unit("ns").asi8
    assert (times == rows.to_xarray()["time"].values.astype(np.int64)).all()
    assert rows.to_polars()["time"].to_list() == rows.to_arrow("nan")["time"].to_pylist()


def test_the_break_of_an_irregular_stream_lies_behind_the_row_before() -> None:
    irregular = replace(LAB, rate=None)
    frame = items(lab(0, 3, schema=irregular), HOLE, lab(5, 2, schema=irregular)).to_pandas()
    assert frame.index.as_unit("ns").asi8.tolist() == [T0, T0 + 7, T0 + 14, T0 + 15, T0 + 35, T0 + 42]


def test_a_clock_that_was_set_back_is_no_reason_to_fail() -> None:
    back = lab(0, 2, 1, t0_ns=T0 - NS)
    frame = items(lab(0, 3), UNKNOWN, back).to_pandas()
    assert frame["v"].isna().tolist() == [False] * 3 + [True] + [False] * 2


def test_xarray_says_what_became_a_float() -> None:
    data = items(lab(0, 3), HOLE, lab(5, 2)).to_xarray()
    assert data["n"].attrs == {"units": "{count}", "recorded_dtype": "int16"}
    assert data["n"].dtype == np.float32
    assert data["adc"].dims == ("time", "adc_element")
    assert data["adc"].sel(adc_element="b").values.tolist()[:3] == [0.0, -0.5, -1.0]
    assert data["frame"].dims == ("time", "y", "x")
    assert data["on"].values.tolist() == [True, False, True, None, False, True]
    assert isinstance(data, xr.Dataset)
    whole = items(lab(0, 3), HOLE, lab(5, 2)).to_xarray(gaps="drop")
    assert whole["n"].dtype == np.int16
    assert "recorded_dtype" not in whole["n"].attrs


def test_dimensions_do_not_meet_names_of_channels() -> None:
    schema = Schema(
        (
            *(Channel("y"), Channel("p", "uint8", shape=(1, 2)), Channel("q", "uint8", shape=(2, 1))),
            *(Channel("s", shape=(2,)), Channel("s_element")),
        )
    )
    block = Block.of(schema, [[1.0], [[[1, 2]]], [[[1], [2]]], [[1.0, 2.0]], [3.0]], times=[5])
    data = Rows(STREAM, (block,)).to_xarray()
    assert {name: data[name].dims[1:] for name in ("p", "q", "s")} == {
        "p": ("p_y", "p_x"),
        "q": ("q_y", "q_x"),
        "s": ("s_element_",),
    }


# ---- epochs that differ ----------------------------------------------------------------------------------------------


def one(epoch: int, *channels: Channel, value: Any = 1) -> Block:
    return Block.of(Schema(channels), [[value] for _ in channels], times=[epoch]).placed(STREAM, epoch, 0, epoch)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (Channel("v"), Channel("w"), "v, w are not always there"),
        (Channel("v", unit="V"), Channel("v", unit="mV"), r"the unit of v changes \(V, then mV\)"),
        (Channel("v", shape=(1,)), Channel("v"), "the shape of v changes"),
        (Channel("v", "bool"), Channel("v"), "v is bool, then float64"),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(before: Channel, after: Channel, words: str) -> None:
    value = [1] if before.shape else 1
    rows = items(one(0, before, value=value), one(1, after))
    for convert in (rows.to_arrow, rows.to_numpy, rows.to_pandas, rows.to_polars, rows.to_xarray):
        with pytest.raises(RequestError, match=words):
            convert()
    assert [table.num_rows for table in rows.tables()] == [1, 1]
    assert "2 rows" in repr(rows)
    assert before.name in rows._repr_html_()


def test_numbers_of_other_dtypes_become_what_holds_both() -> None:
    rows = items(one(0, Channel("v", "int64"), value=3), one(1, Channel("v"), value=0.5))
    assert rows.to_arrow()["v"].to_pylist() == [3.0, 0.5]
    assert rows.to_numpy()["v"].tolist() == [3.0, 0.5]
    assert rows.channels[0].dtype == "float64"
    wide = items(one(0, Channel("v", "int64"), value=2**53 + 1), one(1, Channel("v"), value=0.5))
    for convert in (wide.to_arrow, wide.to_numpy, wide.to_pandas):
        with pytest.raises(RequestError, match="channel v has whole numbers that a float64 cannot hold"):
            convert()


def test_raw_codes_of_another_calibration_are_other_values() -> None:
    blocks = [one(n, Channel("v", "int16", calibration=Calibration(n + 1.0, 0.0, "V"))) for n in (0, 1)]
    assert items(*blocks).to_numpy()["v"].tolist() == [1.0, 2.0]
    with pytest.raises(RequestError, match="the calibration of v changes"):
        Rows(STREAM, tuple(blocks), raw=True).to_numpy()


def test_whole_numbers_that_xarray_cannot_have_missing() -> None:
    block = Block.of(Schema((Channel("v", "int64"),)), [[2**53 + 1, 1]], times=[1, 2], valid={"v": [True, False]})
    rows = Rows(STREAM, (block,))
    with pytest.raises(RequestError, match="cannot hold"):
        rows.to_xarray()
    assert rows.to_pandas()["v"].tolist() == [2**53 + 1, pd.NA]


# ---- nothing, and what is not there ----------------------------------------------------------------------------------


def test_no_rows_have_columns_all_the_same() -> None:
    rows = Rows(STREAM, (), schema=LAB)
    assert rows.to_arrow().schema.names == ["time", *LAB.names]
    assert rows.to_arrow("nan").num_rows == 0
    assert {name: len(values) for name, values in rows.to_numpy().items()} == dict.fromkeys(["time", *LAB.names], 0)
    assert rows.to_pandas().columns.tolist() == ["v", "n", "on", "note", "adc[a]", "adc[b]", "frame"]
    assert rows.to_polars().height == rows.to_xarray().sizes["time"] == 0
    assert rows.tables() == []
    assert repr(rows) == "<0 rows of fake/stream>"
    nothing = Rows(STREAM, ())
    assert nothing.to_arrow().num_rows == len(nothing.to_pandas()) == len(nothing.to_numpy()["time"]) == 0


def test_another_word_for_gaps() -> None:
    with pytest.raises(RequestError, match="gaps='fill'"):
        items(lab(0, 1)).to_pandas(gaps="fill")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["pandas", "polars", "xarray"])
def test_a_library_that_is_not_installed_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'scidaq\[{name}\]'"):
        getattr(items(lab(0, 1)), f"to_{name}")()
