"""Rows in every format: what is missing stays missing, gaps are told, changes of the channels are refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Calibration, Channel, Gap, Reason, schema
from scidaq.cli.formats import gap_words, write_arrow, write_csv, write_json, write_table
from scidaq.errors import RequestError

T0 = 1_767_268_800_000_000_000

MIXED = schema(
    [
        Channel("code", "int16", calibration=Calibration(0.5, 1.0, "V")),
        Channel("big", "uint64"),
        Channel("on", "bool"),
        Channel("note", "text", max_bytes=8),
        Channel("adc", "float32", "mV", (2,), ("left", "right")),
        Channel("image", "int8", shape=(1, 2)),
    ],
    rate=10,
)
ROWS = Block.of(
    MIXED,
    {
        "code": [1, 2],
        "big": [2**64 - 1, 0],
        "on": [True, False],
        "note": ["a,b", "µ"],
        "adc": [[1.5, np.nan], [np.inf, 2.0]],
        "image": [[[1, 2]], [[3, 4]]],
    },
    valid={"code": [True, False], "note": [True, False], "adc": [True, True]},
    stream="a/b",
    t0_ns=T0,
)
WIDE = Block.of(schema([Channel("trace", "float64", "V", (20,))], rate=1), [[np.arange(20.0)]], stream="a/b", t0_ns=T0)
GAP = Gap("a/b", 0, 2, 7, Reason.OVERFLOW, T0, T0 + 5 * 10**8)


def text(write: Callable[..., None], items: Sequence[Block | Gap], **options: Any) -> tuple[str, list[str]]:
    out, notes = io.StringIO(), list[str]()
    write(items, out, notes.append, **options)
    return out.getvalue(), notes


def binary(write: Callable[..., None], items: Sequence[Block | Gap], **options: Any) -> tuple[bytes, list[str]]:
    out, notes = io.BytesIO(), list[str]()
    write(items, out, notes.append, **options)
    return out.getvalue(), notes


def test_csv() -> None:
    out, notes = text(write_csv, [ROWS, GAP])
    assert out == (
        'time,code,big,on,note,adc[left],adc[right],"image[0,0]","image[0,1]"\n'
        '2026-01-01T12:00:00.000000000Z,1.5,18446744073709551615,true,"a,b",1.5,nan,1,2\n'
        "2026-01-01T12:00:00.100000000Z,,0,false,,inf,2.0,3,4\n"
    )
    assert notes == [gap_words(GAP)]


def test_csv_of_raw_values() -> None:
    rows = list(csv.DictReader(io.StringIO(text(write_csv, [ROWS], raw=True)[0])))
    assert rows[0]["code"] == "1"


def test_json() -> None:
    out, notes = binary(write_json, [ROWS, GAP, ROWS])
    assert len(out.splitlines()) == 6, "a row a line"
    rows = json.loads(out)
    assert rows[0] == {
        "time": "2026-01-01T12:00:00.000000000Z",
        "code": 1.5,
        "big": 2**64 - 1,
        "on": True,
        "note": "a,b",
        "adc": [1.5, None],
        "image": [[1, 2]],
    }
    assert (rows[1]["code"], rows[1]["note"], rows[1]["adc"]) == (None, None, [None, 2.0])
    assert rows[2:] == rows[:2]
    assert notes == [gap_words(GAP)]


def test_arrow() -> None:
    out, notes = binary(write_arrow, [ROWS, GAP, ROWS])
    table = pa.ipc.open_stream(out).read_all()
    assert table.num_rows == 4
    assert table.schema.field("time").type == pa.timestamp("ns", "UTC")
    assert table.schema.field("code").metadata[b"unit"] == b"V"
    assert table.schema.field("adc").metadata == {b"unit": b"mV", b"labels": b'["left","right"]'}
    assert table.schema.metadata == {b"stream": b"a/b"}
    assert table["code"].to_pylist() == [1.5, None] * 2
    assert table["note"].to_pylist() == ["a,b", None] * 2
    assert table["image"].to_pylist() == [[[1, 2]], [[3, 4]]] * 2
    assert table["time"].cast(pa.int64()).to_pylist()[:2] == [T0, T0 + 10**8]
    assert notes == [gap_words(GAP)]


def test_table() -> None:
    out = io.StringIO()
    write_table([ROWS.slice(0, 1), GAP, ROWS.slice(1, 2), WIDE], out)
    lines = out.getvalue().splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["time", "code", "big", "on", "note", "adc[left]", "adc[right]", "image[0,0]", "image[0,1]"],
        ["UTC", "V", "1", "1", "1", "mV", "mV", "1", "1"],
        ["2026-01-01T12:00:00.000000000Z", "1.5", str(2**64 - 1), "true", "a,b", "1.5", "nan", "1", "2"],
    ]
    assert lines[3] == f"-- {gap_words(GAP)}"
    assert lines[4].split()[1:] == ["-", "0", "false", "-", "inf", "2", "3", "4"]
    assert lines[5].split() == ["time", "trace:", "least", "trace:", "most"], "a new header where the channels change"
    assert lines[7].split()[1:] == ["0", "19"]


@pytest.mark.parametrize("write", [write_csv, write_arrow])
def test_channels_that_change_are_refused_where_there_is_one_header(write: Callable[..., None]) -> None:
    with pytest.raises(RequestError, match=r"the channels change at 2026-.* \(epoch 0\)"):
        (text if write is write_csv else binary)(write, [ROWS, WIDE])
    assert len(json.loads(binary(write_json, [ROWS, WIDE])[0])) == 3


def test_no_rows_at_all() -> None:
    assert text(write_csv, []) == ("", [])
    assert json.loads(binary(write_json, [])[0]) == []
    assert pa.ipc.open_stream(binary(write_arrow, [])[0]).read_all().num_rows == 0


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (
            GAP,
            "gap at epoch 0 row 2: 5 rows missing: overflow, 2026-01-01T12:00:00.000000000Z to 2026-01-01T12:00:00.5",
        ),
        (Gap("a/b", 1, 2, 3, Reason.LATE, open=True, detail="slow"), "1 row missing: late (slow), may still come"),
        (Gap("a/b", 1, 2, 2, Reason.CLOCK_STEP), "interrupted, nothing is missing: clock_step"),
        (Gap("a/b", 1, 2, 2, Reason.DISCONNECT, T0, unknown=True), "an unknown number of rows missing: disconnect"),
    ],
)
def test_a_gap_in_words(gap: Gap, words: str) -> None:
    assert words in gap_words(gap)


@given(st.lists(st.floats(width=64) | st.none(), min_size=1, max_size=20))
def test_numbers_survive_text(values: list[float | None]) -> None:
    block = Block.of(
        schema([Channel("v")], rate=1),
        [[0.0 if v is None else v for v in values]],
        valid={"v": [v is not None for v in values]},
        stream="a/b",
    )
    cells = [row["v"] for row in csv.DictReader(io.StringIO(text(write_csv, [block])[0]))]
    read = [None if cell == "" else float(cell) for cell in cells]
    assert str(read) == str(values)
