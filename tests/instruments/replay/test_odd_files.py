"""Odd files: read correctly, or refused with a line, a column or a byte; never a hang, never anything else."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import h5py
import nptdms
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scidaq.block import NS, Block
from scidaq.errors import UnreadableFile
from scidaq.instruments import Reading, Table, tables

T = 1_700_000_000


def only(path: Path, **reading) -> Table:
    (table,) = tables(path, Reading(**reading))
    return table


def rows_of(table: Table) -> dict[str, list]:
    blocks = [b for b in table.read() if isinstance(b, Block)]
    out = {n: [v for b in blocks for v in b.column(n).tolist()] for n in table.schema.names}
    out["time"] = [v for b in blocks for v in b.time_ns().tolist()]
    return out


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TWO = [T * NS, (T + 1) * NS]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (f"time,v\n{T},1\n{T + 1},2\n", [1, 2]),
        (f"\ufefftime,v\r\n{T},1\r\n{T + 1},2", [1, 2]),
        (f"time,v\r{T},1\r{T + 1},2\r", [1, 2]),
        (f"time;v\n{T};1,5\n{T + 1};2,5\n", [1.5, 2.5]),
        (f"time\tv\n{T}\t1,5\n{T + 1}\t2\n", [1.5, 2.0]),
        (f"time|v\n{T}|1\n{T + 1}|2\n", [1, 2]),
        (f"time v\n {T}   1\n {T + 1}   2\n", [1, 2]),
        (f"# by hand\n\ntime,v\n# again\n{T},1\n#\n{T + 1},2\n", [1, 2]),
        (f"Model,X1\nSerial,7,8\n\ntime,v\n{T},1\n{T + 1},2\n", [1, 2]),
        (f"v,time [ms]\n1,{T}000\n2,{T + 1}000\n", [1, 2]),
        ("time,v\n2023-11-14T22:13:20Z,1\n2023-11-14T22:13:21.000Z,2\n", [1, 2]),
        ("time,v\n2023-11-15 00:13:20+02:00,1\n2023-11-15 00:13:21+02:00,2\n", [1, 2]),
        (f'"time","v"\n"{T}","1"\n"{T + 1}","2"\n', [1, 2]),
        (f"time,v\n{T},+1e0\n{T + 1},2.\n", [1.0, 2.0]),
        (f"time,v\n{T},18446744073709551615\n{T + 1},2\n", [18446744073709551615, 2]),
    ],
)
def test_dialects(tmp_path, text, values):
    found = rows_of(only(written(tmp_path / "a.csv", text)))
    assert found["v"] == values
    assert found["time"] == TWO


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_encodings(tmp_path, encoding):
    table = only(written(tmp_path / "a.csv", f"time,T (°C)\n{T},1\n{T + 1},2\n".encode(encoding)))
    assert [(c.name, c.unit) for c in table.schema.channels] == [("T", "Cel")]
    assert rows_of(table)["T"] == [1, 2]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it is empty"),
        ('{"a": 1}\n{"a": 2}\n', "line 1: it looks like JSON, and no table"),
        ("\n[[1, 2],\n [3, 4]]\n", "line 2: it looks like JSON, and no table"),
        ("<!doctype html>\n<html></html>\n", "line 1: it looks like XML or HTML, and no table"),
        ("\n# x\n\n", "nothing in it but blank lines and comments"),
        (f"time,v\n{T},1\n{T + 1},oops\n", "line 3, column 'v': 'oops' is no number"),
        (f"# x\ntime,v\n{T},1\n# y\n{T + 1},2,3\n", "line 5: it has 3 cells where the header has 2"),
        (f"time,v\n{T},1\n{T - 1},2\n", "line 3: its time lies 1 s before that of the row before"),
        (f"time,v\n{T},1\n,2\n", "line 3, column 'time': '' is no time"),
        (f"time,v\n{T},1\nsoon,2\n", "line 3, column 'time': 'soon' is no number"),
        ("time,v\n2026-01-01T00:00:00Z,1\n2026-13-01T00:00:00Z,2\n", "line 3, column 'time': '2026-13-01T00:"),
        ("a,b\n1,2\n", "none of its columns is a time (a, b)"),
        (f"time\n{T}\n", "it has no column but the time"),
        ("x" * (17 << 20), "line 1: it is longer than 16 MiB"),
        (b"\x00\x01\x02\x03" * 100, "it is no text"),
    ],
)  # fmt: skip
def test_what_is_refused_says_where(tmp_path, text, what):
    with pytest.raises(UnreadableFile) as refused:
        rows_of(only(written(tmp_path / "a.csv", text)))
    assert what in str(refused.value)
    assert "a.csv" in str(refused.value)


def test_not_utf8_in_the_middle(tmp_path):
    path = written(
        tmp_path / "a.csv", b"time,v\n" + b"".join(b"%d,1\n" % (T + i) for i in range(100_000)) + b"\xff,1\n"
    )
    with pytest.raises(UnreadableFile, match=f"line 100002: byte {path.stat().st_size - 4} of the file is no utf-8"):
        rows_of(only(path))


def test_missing_nan_and_infinity_are_three_things(tmp_path):
    table = only(written(tmp_path / "a.csv", f"time,v\n{T},NaN\n{T},-inf\n{T},NA\n{T},\n{T},OVLD\n"), missing=("OVLD",))
    (block,) = table.read()
    assert isinstance(block, Block)
    assert np.isnan(block.columns[0][0])
    assert block.columns[0][1] == -np.inf
    assert block.valid is not None
    assert block.valid[0] is not None
    assert block.valid[0].tolist() == [True, True, False, False, False]


def test_names_that_no_channel_may_have(tmp_path):
    table = only(written(tmp_path / "a.csv", f"time,U 1 (mV),U 1,,5%,time\n{T},1,2,3,4,5\n"))
    assert [c.name for c in table.schema.channels] == ["U_1", "U_1_2", "column_4", "_5", "time__2"]
    assert table.schema.channels[0].unit == "mV"
    assert table.schema.channels[1].description == "column 'U 1'"


def test_ten_thousand_columns(tmp_path):
    names = ["time", *(f"c{i}" for i in range(10_000))]
    lines = [",".join([str(T + i), *["1.5"] * 10_000]) for i in range(3)]
    table = only(written(tmp_path / "a.csv", ",".join(names) + "\n" + "\n".join(lines)))
    assert len(table.schema.channels) == 10_000
    assert rows_of(table)["c9999"] == [1.5] * 3


def test_header_only(tmp_path):
    assert rows_of(only(written(tmp_path / "a.csv", "time,v\n")))["time"] == []


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), os.mkfifo, lambda p: None, lambda p: p.symlink_to("/dev/zero")])
def test_what_is_no_file(tmp_path, make):
    make(tmp_path / "a.csv")
    with pytest.raises(UnreadableFile, match=r"a\.csv: it (is|cannot)"):
        tables(tmp_path / "a.csv", Reading())


# ---- binary formats --------------------------------------------------------------------------------------------------


def wav(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(3)
        file.setframerate(44_100)
        file.writeframes(b"".join(i.to_bytes(3, "little", signed=True) for i in range(-100, 100)))
    return path


def parquet(path: Path) -> Path:
    pq.write_table(pa.table({"time": pa.array(TWO, pa.timestamp("ns", "UTC")), "v": [1, None], "x": [[1], [2]]}), path)
    return path


def arrow(path: Path) -> Path:
    table = pa.table({"time": pa.array(TWO, pa.timestamp("ns", "UTC")), "v": [1.0, 2.0]})
    with pa.ipc.new_stream(str(path), table.schema) as out:
        out.write_table(table)
    return path


def hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["time"] = np.array(TWO) / NS
        file["v"] = [1.0, 2.0]
        file["mixed"] = np.arange(7)
    return path


def tdms(path: Path) -> Path:
    with nptdms.TdmsWriter(str(path)) as out:
        said = {"wf_increment": 1.0, "wf_start_time": np.datetime64(T, "s").astype("M8[us]"), "unit_string": "V"}
        out.write_segment([nptdms.ChannelObject("g", "v", np.array([1.0, 2.0]), said)])
        out.write_segment([nptdms.ChannelObject("g", "w", np.arange(9.0), {"wf_increment": 0.5})])
    return path


GOLDEN = Path(__file__).parents[2] / "golden" / "v1" / "streams" / "scope" / "adc" / "000000-00000000000000-0000.arrows"


def segment(path: Path) -> Path:
    path.write_bytes(GOLDEN.read_bytes())
    return path


MAKERS = {"a.wav": wav, "a.parquet": parquet, "a.arrow": arrow, "a.h5": hdf5, "a.tdms": tdms, "a.arrows": segment}


def test_binary_formats_as_they_are(tmp_path):
    assert rows_of(only(wav(tmp_path / "a.wav")))["audio"][0] == [-100, -99]
    table = only(parquet(tmp_path / "a.parquet"))
    assert table.notes == ("column 'x' is left out: no channel can hold list<element: int64>",)
    assert rows_of(table)["time"] == TWO
    assert rows_of(only(arrow(tmp_path / "a.arrow"))) == {"time": TWO, "v": [1.0, 2.0]}
    assert rows_of(only(hdf5(tmp_path / "a.h5"))) == {"time": TWO, "v": [1.0, 2.0]}
    one, other = tables(tdms(tmp_path / "a.tdms"), Reading())
    assert rows_of(one) == {"time": TWO, "v": [1.0, 2.0]}
    assert (one.schema.channels[0].unit, one.timed, other.timed, other.rows) == ("V", True, False, 9)


def refusal_of(path: Path) -> str:
    """Why a file is refused; its path where it is read to the end."""
    try:
        for table in tables(path, Reading()):
            for item in table.read():
                assert item.end >= item.first
    except UnreadableFile as error:
        return str(error)
    return str(path)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_off_or_damaged_anywhere(tmp_path, name, data):
    path = MAKERS[name](tmp_path / name)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert refusal_of(path).startswith(str(path))


@given(st.text(st.sampled_from('time,;\t"\n\r#0123456789.-+eE abT:Z'), max_size=200))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text(tmp_path, text):
    path = written(tmp_path / "a.csv", text)
    assert refusal_of(path).startswith(str(path))
