"""SQL over HTTP: answers in every form, refusals in words, and nobody else disturbed."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scidaq.errors import TooMany
from scidaq.station import querying
from tests.web.live import Live, until
from tests.web.talk import Answer, place

COUNT = 'SELECT count(*) AS n, max(row) + 1 AS rows FROM "wave/wave" WHERE epoch = 0'


def query(live: Live, text: str, form: str = "json", key: str | None = "read") -> Answer:
    return live.ask("sql", "POST", {"query": text, "format": form}, key=key)


def test_a_query_is_answered(live: Live) -> None:
    answer = query(live, COUNT)
    assert answer.status == 200, answer.body
    assert [column["name"] for column in answer.json["columns"]] == ["n", "rows"]
    ((n, rows),) = answer.json["rows"]
    assert n == rows > 400
    assert answer.json["count"] == int(answer.headers["row-count"]) == 1


def test_it_comes_in_every_form(live: Live) -> None:
    text = "SELECT time, row, value FROM fake_fake ORDER BY epoch, row LIMIT 3"
    rows = query(live, text).json["rows"]
    assert rows[0][0].endswith("Z")
    lines = list(csv.reader(io.StringIO(query(live, text, "csv").body.decode())))
    assert lines[0] == ["time", "row", "value"]
    assert [[t, int(r), int(v)] for t, r, v in lines[1:]] == rows
    table = pa.ipc.open_stream(query(live, text, "arrow").body).read_all()
    assert table.schema.field("time").type == pa.timestamp("ns")
    assert pq.read_table(io.BytesIO(query(live, text, "parquet").body)).equals(table)
    assert table["value"].to_pylist() == [row[2] for row in rows]


def test_runs_and_notes_are_tables_too(live: Live) -> None:
    live.ask("runs/past", "POST", {"name": "queried", "start_ns": 10**18, "stop_ns": 10**18 + 5, "metadata": {"a": 1}})
    said = query(live, "SELECT name, start, metadata->>'a' FROM runs WHERE name = 'queried'").json
    assert said["rows"] == [["queried", "2001-09-09T01:46:40.000000000Z", "1"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("COPY (SELECT 1) TO '/tmp/x'", "COPY is not allowed"),
        ("ATTACH '/tmp/x.db'", "ATTACH is not allowed"),
        ("INSTALL httpfs", "LOAD is not allowed"),
        ("PRAGMA version", "PRAGMA is not allowed"),
        ("SET threads = 99", "SET is not allowed"),
        ("DROP VIEW x", "DROP is not allowed"),
        ("SELECT 1; SELECT 2", "not 2 statements"),
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv is not allowed in FROM"),
        ("SELECT * FROM (SELECT * FROM read_text('/etc/passwd'))", "read_text is not allowed in FROM"),
        ("SELECT * FROM query('SELECT 1')", "query is not allowed in FROM"),
        ("SELECT * FROM '/etc/passwd'", "there is no stream or table '/etc/passwd'"),
        ("SELECT * FROM wave_wav", "did you mean wave_wave?"),
        ("SELECT nothing FROM wave_wave", "nothing"),
        ("SELECT", "Parser Error"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "depth"),
    ],
)
def test_what_is_not_one_select_is_refused(live: Live, text: str, says: str) -> None:
    answer = query(live, text)
    assert (answer.status, answer.kind) == (422, "query-refused")
    assert says in answer.json["detail"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT * FROM range(3000000)", "more than 1000000 rows"),
        ("SELECT list(a) FROM range(1000000000) t(a)", "more memory"),
        ("SELECT repeat('x', 1000000) FROM range(100)", "larger than 32 MiB"),
    ],
)
@pytest.mark.slow
def test_what_takes_too_much_is_ended_with_a_reason(live: Live, text: str, says: str) -> None:
    answer = query(live, text, "arrow")
    assert (answer.status, answer.kind) == (422, "query-limit")
    assert says in answer.json["detail"]


ENDLESS = (
    "WITH RECURSIVE t AS (SELECT 1 a UNION ALL SELECT a + 1 FROM t) SELECT max(a) FROM t",
    "SELECT count(*) FROM range(1000000000) a, range(1000000000) b",
)


@pytest.mark.slow
@pytest.mark.parametrize("text", ENDLESS)
def test_what_never_ends_is_ended(live: Live, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scidaq.query import SqlLimits

    monkeypatch.setattr(querying.Queries.ask, "__defaults__", (SqlLimits(seconds=0.5),))
    answer = query(live, text)
    assert (answer.status, answer.kind) == (422, "query-limit")
    assert "took longer than 0.5 s" in answer.json["detail"]
    assert query(live, "SELECT 1").json["rows"] == [[1]]


def test_a_key_without_the_scope_asks_nothing(live: Live) -> None:
    assert query(live, "SELECT 1", key="metrics").status == 403
    assert query(live, "SELECT 1", key=None).status == 401


def test_malformed_questions_are_refused(live: Live) -> None:
    for content in ({}, {"query": ""}, {"query": 1}, {"query": "SELECT 1", "format": "xls"}, {"query": "x" * 100_001}):
        answer = live.ask("sql", "POST", content)
        assert (answer.status, answer.kind) == (422, "invalid-request")


def test_a_question_is_no_change(live: Live) -> None:
    before = len(live.ask("audit?limit=1000").json["items"])
    query(live, "SELECT 1", key="admin")
    assert len(live.ask("audit?limit=1000").json["items"]) == before


@pytest.fixture
def idle(live: Live) -> Iterator[querying.Queries]:
    """Where all processes are idle, before and after."""
    queries = live.station.queries
    until(lambda: not queries._busy)
    yield queries
    until(lambda: not queries._busy)


@pytest.mark.slow
def test_a_query_ends_when_its_client_goes(live: Live, idle: querying.Queries) -> None:
    content = json.dumps({"query": ENDLESS[1]}).encode()
    head = (
        f"POST /api/v1/sql HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {live.keys['read']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(place(live.web.address)) as one:
        one.sendall(head.encode() + content)
        until(lambda: idle._busy)
        (worker,) = idle._busy
    until(lambda: worker.process.poll() is not None)
    assert query(live, "SELECT 1").json["rows"] == [[1]]


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(live: Live, idle: querying.Queries) -> None:
    query(live, "SELECT 1")
    for worker in list(idle._idle):
        worker.process.kill()
        worker.process.wait()
    assert query(live, "SELECT 2").json["rows"] == [[2]]


def test_too_many_that_wait_are_sent_away(idle: querying.Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(querying, "WAITING", -querying.WORKERS)
    with pytest.raises(TooMany, match="wait already"):
        idle.ask("SELECT 1", "json").result()
