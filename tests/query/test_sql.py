"""SQL gives what is recorded, reads no more than it has to, and opens nothing else."""

from __future__ import annotations

import io
import json
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scidaq
from scidaq.block import Calibration, Channel
from scidaq.errors import QueryLimit, QueryRefused
from scidaq.query import Reader, SqlLimits, run_sql, write_sql

T0 = 1_750_000_000 * 10**9
"""2025-06-15T15:06:40"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two streams, of which one changes its channels, and a run."""
    where = tmp_path_factory.mktemp("sql") / "data"
    with scidaq.record(where, {"v": "V", "n": "int32"}, stream="dmm/readings") as rec:
        rec.extend(v=np.arange(1000) / 2, n=np.arange(1000), t=T0, rate_hz=100)
    codes = Channel("adc", "int16", "1", (2,), ("left", "right"), Calibration(0.5, 1.0, "V"))
    with scidaq.record(where, {"adc": codes, "V": "V", "v": "A", "note": str}, stream="scope/adc-1") as rec:
        rec.add(adc=[1, 2], V=1.0, v=2.0, note="µ", t=T0)
        rec.add(adc=[3, 4], V=1.5, v=None, t=T0 + 1)
    with scidaq.record(where, {"V": "mV", "row": "int64"}, stream="scope/adc-1") as rec:
        rec.add(V=7.0, row=9, t=T0 + 10**9)
    return where


def rows(where: Path, query: str, **limits: Any) -> list[tuple]:
    with run_sql(where, query, SqlLimits(**limits)) as result:
        table = pa.Table.from_batches(result.batches, result.schema)
    columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in table.columns]
    return list(zip(*[column.to_pylist() for column in columns], strict=True))


# ---- what is there ---------------------------------------------------------------------------------------------------


def test_a_stream_is_a_table_by_its_id_and_by_its_alias(lab: Path) -> None:
    for name in ('"dmm/readings"', "dmm_readings", "DMM_Readings"):
        assert rows(lab, f"SELECT count(*), sum(n), max(v), min(row), max(epoch) FROM {name}") == [
            (1000, 499_500, 499.5, 0, 0)
        ]


def test_time_is_in_nanoseconds(lab: Path) -> None:
    found = rows(lab, "SELECT time FROM scope_adc_1 ORDER BY time")
    assert found == [(T0,), (T0 + 1,), (T0 + 10**9,)]


def test_values_are_calibrated_and_missing_ones_null(lab: Path) -> None:
    found = rows(lab, "SELECT adc, v_1, note FROM scope_adc_1 WHERE epoch = 0 ORDER BY row_1, time")
    assert found == [([1.5, 2.0], 2.0, "µ"), ([2.5, 3.0], None, None)]


def test_channels_that_change_or_sound_alike_are_columns_of_their_own(lab: Path) -> None:
    found = rows(lab, "SELECT \"column\", unit FROM channels WHERE stream = 'scope/adc-1' ORDER BY 1")
    assert found == [("V", "mV"), ("V@0", "V"), ("adc", "V"), ("note", "1"), ("row_1", "1"), ("v_1", "A")]
    said = rows(lab, 'SELECT epoch, "row", "V", "V@0", row_1, adc[2] FROM scope_adc_1 ORDER BY epoch, "row"')
    assert said == [(0, 0, None, 1.0, None, 2.0), (0, 1, None, 1.5, None, 3.0), (1, 0, 7.0, None, 9, None)]


def test_streams_are_listed(lab: Path) -> None:
    found = rows(lab, "SELECT id, alias, rows, epochs, start FROM streams ORDER BY id")
    assert found == [("dmm/readings", "dmm_readings", 1000, 1, T0), ("scope/adc-1", "scope_adc_1", 3, 2, T0)]


def test_streams_are_joined(lab: Path) -> None:
    found = rows(lab, "SELECT count(*) FROM dmm_readings a JOIN scope_adc_1 b USING (time)")
    assert found == [(2,)]


# ---- what is read ----------------------------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Which ranges and channels were read."""
    asked: list[tuple] = []
    blocks = Reader.blocks

    def noted(self: Any, stream: str, start_ns: Any, stop_ns: Any, channels: Any, **how: Any) -> Any:
        asked.append((stream, start_ns, stop_ns, channels, how["epoch"]))
        return blocks(self, stream, start_ns, stop_ns, channels, **how)

    monkeypatch.setattr(Reader, "blocks", noted)
    return asked


SECOND = 10**9


@pytest.mark.parametrize(
    ("where", "start", "stop"),
    [
        ("time >= '2025-06-15T15:06:42' AND time < '2025-06-15T15:06:43'", T0 + 2 * SECOND, T0 + 3 * SECOND),
        (
            "time BETWEEN '2025-06-15T15:06:42' AND TIMESTAMP '2025-06-15 15:06:43'",
            T0 + 2 * SECOND,
            T0 + 3 * SECOND + 1,
        ),
        ("'2025-06-15T15:06:42' < r.time AND n > 3", T0 + 2 * SECOND, None),
        ("time = '2025-06-15T15:06:42'", T0 + 2 * SECOND, T0 + 2 * SECOND + 1),
        ("time <= make_timestamp(2025, 6, 15, 15, 6, 42) AND (n = 1 OR v > 2)", None, T0 + 2 * SECOND + 1),
        ("time > '2025-06-15T15:06:42' OR n = 1", None, None),
        ("NOT time > '2025-06-15T15:06:42'", None, None),
        ("time > '2025-06-15T15:06:42'::TIMESTAMP + to_seconds(random())", None, None),
        ("time - INTERVAL 1 HOUR > '2025-06-15T15:06:42'", None, None),
    ],
)
def test_only_the_time_that_where_leaves_is_read(
    lab: Path, read: list[tuple], where: str, start: int | None, stop: int | None
) -> None:
    found = rows(lab, f"SELECT n FROM dmm_readings r WHERE {where}")
    assert read == [("dmm/readings", start, stop, ["n"], 0)] or "v >" in where
    assert {(one[1], one[2]) for one in read} == {(start, stop)}
    everything = rows(lab, f"SELECT n FROM (SELECT * FROM dmm_readings) r WHERE {where}")
    assert sorted(found) == sorted(everything) or "random" in where


def test_every_use_of_a_table_is_served(lab: Path, read: list[tuple]) -> None:
    one = "SELECT n FROM dmm_readings WHERE time < '2025-06-15T15:06:41'"
    other = "SELECT n FROM dmm_readings WHERE time >= '2025-06-15T15:06:49'"
    assert len(rows(lab, f"{one} UNION ALL {other}")) == 200
    assert {item[1:3] for item in read} == {(None, None)}
    read.clear()
    assert rows(lab, f"SELECT (SELECT count(*) FROM dmm_readings), count(*) FROM ({one})") == [(1000, 100)]


def test_epochs_that_are_not_asked_for_are_not_read(lab: Path, read: list[tuple]) -> None:
    assert rows(lab, 'SELECT "V" FROM scope_adc_1 WHERE epoch = 1') == [(7.0,)]
    assert [one[4] for one in read] == [1]


COMPARISONS: dict[str, Any] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(["time", "r.time"]), st.sampled_from(list(COMPARISONS)), st.integers(-5, 1010)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([" AND ", " OR "]),
)
def test_no_row_is_lost_by_reading_less(lab: Path, conditions: list[tuple[str, str, int]], word: str) -> None:
    times = T0 + np.arange(1000) * 10_000_000
    masks = []
    said = []
    for column, comparison, step in conditions:
        at = T0 + step * 10_000_000
        text = f"make_timestamp_ns({at})" if step % 2 else f"'{np.datetime64(at, 'ns')}'"
        said.append(f"{column} {comparison} {text}")
        masks.append(COMPARISONS[comparison](times, at))
    expected = np.logical_and.reduce(masks) if word == " AND " else np.logical_or.reduce(masks)
    found = rows(lab, f"SELECT n FROM dmm_readings r WHERE {word.join(said)}")
    assert sorted(n for (n,) in found) == np.flatnonzero(expected).tolist()


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "",
        ";",
        "CALL pragma_version()",
        "EXPORT DATABASE '/tmp/x'",
        "IMPORT DATABASE '/tmp/x'",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO dmm_readings VALUES (1)",
        "DELETE FROM dmm_readings",
        "CHECKPOINT",
        "VACUUM",
        "LOAD json",
        "DETACH memory",
        "USE main",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('http://127.0.0.1/x.parquet')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM enable_logging()",
        "SELECT * FROM query_table('streams')",
        "SELECT * FROM pandas_scan(0)",
        "SELECT * FROM arrow_scan(0, 0, 0)",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM duckdb_tables",
        "SELECT * FROM memory.main.streams",
        "WITH x AS (SELECT * FROM read_csv('/etc/passwd')) SELECT 1",
        "SELECT (SELECT content FROM read_text('/etc/passwd'))",
        'SELECT * FROM "/etc/passwd"',
        "SELECT \0",
        "SELECT getenv('HOME')",
    ],
)
def test_nothing_but_one_select_over_streams(lab: Path, query: str) -> None:
    with pytest.raises(QueryRefused):
        rows(lab, query)


def test_the_query_may_not_be_endless(lab: Path) -> None:
    with pytest.raises(QueryRefused, match="at most 100000 characters"):
        rows(lab, "SELECT '" + "x" * 100_000 + "'")


def test_limits_are_kept(lab: Path) -> None:
    with pytest.raises(QueryLimit, match="more than 10 rows"):
        rows(lab, "SELECT * FROM dmm_readings", rows=10)
    with pytest.raises(QueryLimit, match="larger than 1 MiB"):
        rows(lab, "SELECT repeat('x', 1000000) FROM range(3)", bytes=1 << 20)
    with pytest.raises(QueryLimit, match="more memory than the 64 MiB"):
        rows(lab, "SELECT list(a) FROM range(100000000) t(a)", memory_bytes=64 << 20)
    with pytest.raises(QueryLimit, match=r"took longer than 0.2 s"):
        rows(lab, "SELECT count(*) FROM range(1000000000) a, range(1000000000) b", seconds=0.2)


def test_the_settings_cannot_be_changed_from_within(lab: Path) -> None:
    assert rows(lab, "SELECT current_setting('enable_external_access'), current_setting('lock_configuration')") == [
        (False, True)
    ]


# ---- how it is written -----------------------------------------------------------------------------------------------

ODD = "SELECT *, INTERVAL 1 DAY AS d, NULL AS nothing, 'a,\"b' AS text, 'x'::BLOB AS b FROM scope_adc_1 WHERE epoch = 0"


def written(where: Path, query: str, form: str) -> bytes:
    out = io.BytesIO()
    with run_sql(where, query) as result:
        write_sql(result, form, out)
    return out.getvalue()


def test_every_form_writes_every_kind_of_value(lab: Path) -> None:
    said = json.loads(written(lab, ODD, "json"))
    assert said["count"] == len(said["rows"]) == 2
    assert said["columns"][0] == {"name": "time", "type": "timestamp[ns]"}
    assert said["rows"][0][0] == "2025-06-15T15:06:40.000000000Z"
    assert json.loads(written(lab, ODD, "objects"))[0]["adc"] == [1.5, 2.0]
    assert written(lab, ODD, "csv").decode().splitlines()[1].startswith('"2025-06-15T15:06:40.000000000Z",0,0')
    assert pa.ipc.open_stream(written(lab, ODD, "arrow")).read_all().num_rows == 2
    assert pq.read_table(io.BytesIO(written(lab, ODD, "parquet"))).num_rows == 2
    assert "2025-06-15T15:06:40.000000001Z" in written(lab, ODD, "table").decode()


def test_nothing_is_written_as_nothing(lab: Path) -> None:
    nothing = "SELECT n FROM dmm_readings WHERE false"
    assert json.loads(written(lab, nothing, "json")) == {
        "columns": [{"name": "n", "type": "int32"}],
        "rows": [],
        "count": 0,
    }
    assert written(lab, nothing, "objects") == b"[]\n"
    assert written(lab, nothing, "csv") == written(lab, nothing, "table") == b"n\n"
