"""Rows over HTTP: the same in every form, in pages that add up, and not sent twice."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scidaq.block import Block, Channel, Gap, Reason, schema
from scidaq.query import Reader
from scidaq.web import rows
from scidaq.web.door import Page
from tests.web.live import Live

KIND = schema(
    [
        Channel("x", "float64", "V"),
        Channel("n", "int64"),
        Channel("on", "bool"),
        Channel("word", "text", max_bytes=16),
        Channel("pair", "float32", "A", shape=(2,), labels=("a,1", "b")),
    ]
)
ROWS = Block.of(
    KIND,
    {
        "x": [1.5, float("nan"), float("inf"), 0.1],
        "n": [1, 2, 1 << 60, -4],
        "on": [True, False, True, True],
        "word": ["plain", 'say "µ"', "a,b", ""],
        "pair": [[1, 2], [3, 4], [5, 6], [7, 8]],
    },
    stream="a/b",
    times=[10, 20, 30, 1_700_000_000_123_456_789],
    valid={"n": [True, False, True, True], "word": [True, True, False, True]},
)
HOLE = Gap("a/b", 0, 4, 9, Reason.OVERFLOW, 1, 2, detail="too slow")
PAGE = Page((ROWS, HOLE), None)


def test_json_says_everything() -> None:
    said = json.loads(b"".join(rows.json_pieces("a/b", PAGE, KIND, False, "next")))
    assert [c["name"] for c in said["channels"]] == ["x", "n", "on", "word", "pair"]
    one, gap = said["items"]
    assert one["time_ns"] == [10, 20, 30, 1_700_000_000_123_456_789]
    assert one["values"]["x"] == [1.5, None, None, 0.1]
    assert one["values"]["n"] == [1, None, 1 << 60, -4]
    assert one["values"]["on"] == [True, False, True, True]
    assert one["values"]["word"] == ["plain", 'say "µ"', None, ""]
    assert one["values"]["pair"] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert (gap["kind"], gap["rows"], gap["reason"], gap["detail"]) == ("gap", 5, "overflow", "too slow")
    assert said["next"] == "next"


def test_csv_has_a_column_for_each_element() -> None:
    text = b"".join(rows.csv_pieces(PAGE, KIND, False)).decode()
    header, *lines = csv.reader(io.StringIO(text))
    assert header == ["time", "x", "n", "on", "word", "pair[a,1]", "pair[b]"]
    assert lines[0] == ["1970-01-01T00:00:00.000000010Z", "1.5", "1", "true", "plain", "1", "2"]
    assert lines[1][1:5] == ["nan", "", "false", 'say "µ"']
    assert lines[2][4] == ""
    assert lines[3][0] == "2023-11-14T22:13:20.123456789Z"


def test_arrow_keeps_gaps_in_its_metadata() -> None:
    data = b"".join(rows.arrow_pieces("a/b", PAGE, KIND, False))
    reader = pa.ipc.open_stream(data)
    first, facts = reader.read_next_batch_with_custom_metadata()
    assert first.num_rows == 4
    assert first.column("n").to_pylist() == [1, None, 1 << 60, -4]
    assert facts[b"epoch"] == b"0"
    last, facts = reader.read_next_batch_with_custom_metadata()
    assert last.num_rows == 0
    assert json.loads(facts[b"gaps"])[0]["rows"] == 5
    assert reader.schema.field("x").metadata[b"unit"] == b"V"


@pytest.mark.parametrize("form", ["json", "csv", "arrow"])
def test_pieces_are_small_and_all_there(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = schema([Channel("x", "float64"), Channel("y", "int32", shape=(3,))], rate=1000)
    n = 50_000
    big = Block.of(kind, [np.arange(n, dtype=float), np.arange(3 * n).reshape(n, 3)], stream="a/b")
    page = Page((big,), None)
    if form == "json":
        pieces = list(rows.json_pieces("a/b", page, kind, False, None))
        got = [v for i in json.loads(b"".join(pieces))["items"] for v in i["values"]["x"]]
    elif form == "csv":
        pieces = list(rows.csv_pieces(page, kind, False))
        got = [float(line[1]) for line in list(csv.reader(io.StringIO(b"".join(pieces).decode())))[1:]]
    else:
        monkeypatch.setattr(rows, "_ARROW_ROWS", 5000)
        pieces = list(rows.arrow_pieces("a/b", page, kind, False))
        got = pa.ipc.open_stream(b"".join(pieces)).read_all().column("x").to_pylist()
    assert got == list(range(n))
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 4 << 20


# ---- over HTTP ------------------------------------------------------------------------------------------------------

DATA = "streams/wave/wave/data"


def times_of(items: list[dict[str, Any]]) -> list[int]:
    return [t for i in items if i["kind"] == "rows" for t in i["time_ns"]]


def window(live: Live) -> tuple[int, int]:
    """A stretch of 400 rows that are durable."""
    found = [b for b in Reader(live.station.plan.data_dir).last("wave/wave", 450) if isinstance(b, Block)]
    times = np.concatenate([b.time_ns() for b in found])
    return int(times[10]), int(times[410])


def test_pages_lead_to_one_another(live: Live) -> None:
    start, stop = window(live)
    whole = live.ask(f"{DATA}?start={start}&stop={stop}", key="read").json
    assert len(times_of(whole["items"])) == 400
    assert whole["next"] is None
    found: list[int] = []
    path, pages = f"/api/v1/{DATA}?start={start}&stop={stop}&limit=150", 0
    while path:
        page = live.ask(path, key="read")
        found += times_of(page.json["items"])
        link = page.headers.get("link", "")
        assert bool(link) == (page.json["next"] is not None)
        path, pages = link.partition(">")[0].removeprefix("<"), pages + 1
    assert pages == 3
    assert found == times_of(whole["items"])


def test_every_form_has_the_same_rows(live: Live) -> None:
    start, stop = window(live)
    query = f"{DATA}?start={start}&stop={stop}"
    (channel,) = live.ask(query).json["channels"]
    assert (channel["unit"], channel["labels"]) == ("V", ["ch0", "ch1", "ch2", "ch3"])
    plain = [row for i in live.ask(query).json["items"] for row in i["values"]["adc"]]
    arrow = live.ask(query, Accept="application/vnd.apache.arrow.stream")
    assert arrow.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert pa.ipc.open_stream(arrow.body).read_all().column("adc").to_pylist() == plain
    text = live.ask(query, Accept="text/csv;q=0.9, text/html;q=0.1")
    assert text.headers["content-type"].startswith("text/csv")
    lines = list(csv.reader(io.StringIO(text.body.decode())))
    assert lines[0] == ["time", "adc[ch0]", "adc[ch1]", "adc[ch2]", "adc[ch3]"]
    assert [[float(v) for v in line[1:]] for line in lines[1:]] == plain
    raw = live.ask(f"{query}&raw=true").json
    assert raw["channels"][0]["dtype"] == "int16"
    assert raw["items"][0]["values"]["adc"][0] != plain[0]


def test_what_is_known_already_is_not_sent_again(live: Live) -> None:
    start, stop = window(live)
    query = f"{DATA}?start={start}&stop={stop}"
    first = live.ask(query)
    again = live.ask(query, If_None_Match=first.headers["etag"])
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert live.ask(f"{query}&raw=true").headers["etag"] != first.headers["etag"]
    assert live.ask(query, Accept="text/csv").headers["etag"] != first.headers["etag"]
    other = live.ask(f"{DATA}?start={start}&stop={stop + 10**7}", If_None_Match=first.headers["etag"])
    assert other.status == 200


def test_a_long_range_is_reduced_to_buckets(live: Live) -> None:
    start, stop = window(live)
    query = f"{DATA}?start={start}&stop={stop}"
    plain = np.array([row for i in live.ask(query).json["items"] for row in i["values"]["adc"]])
    reduced = live.ask(f"{query}&max_points=1").json
    (bucket,) = reduced["items"]
    assert bucket["values"]["rows"] == [400]
    assert bucket["values"]["adc.max"][0] == plain.max(axis=0).tolist()
    assert bucket["values"]["adc.min"][0] == plain.min(axis=0).tolist()
    assert bucket["time_ns"] == [start]
    many = live.ask(f"{query}&max_points=50").json
    assert sum(sum(i["values"]["rows"]) for i in many["items"]) == 400
    assert sum(i["count"] for i in many["items"]) <= 50
    assert live.ask(f"{DATA}?max_points=100").status == 200


def test_the_newest_rows(live: Live) -> None:
    said = live.ask(f"{DATA}?last=7", key="read").json
    assert len(times_of(said["items"])) == 7
    assert live.ask(f"{DATA}?last=7&start=now").kind == "request-refused"


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ("start=yesterday", 422, "request-refused"),
        ("start=20&stop=10", 422, "request-refused"),
        ("channels=nope", 422, "request-refused"),
        ("cursor=nonsense", 422, "request-refused"),
        ("cursor=WzEsMl0", 422, "request-refused"),
        ("limit=0", 422, "invalid-request"),
        ("limit=1000001", 422, "invalid-request"),
        ("max_points=0", 422, "invalid-request"),
        ("format=xml", 422, "invalid-request"),
        ("strat=-5s", 400, "unknown-parameter"),
        ("start=-4611686018427387904&stop=4611686018427387904&max_points=5", 422, "request-refused"),
    ],
)
def test_questions_that_cannot_be_answered(live: Live, query: str, status: int, kind: str) -> None:
    answer = live.ask(f"{DATA}?{query}")
    assert (answer.status, answer.kind) == (status, kind)


def test_a_misspelled_parameter_is_not_ignored(live: Live) -> None:
    assert "(did you mean 'start'?)" in live.ask(f"{DATA}?strat=-5s").json["detail"]
    said = live.ask("status?at=-1h")  # it would be answered with those of now
    assert (said.status, said.json["detail"]) == (400, "there is no query parameter 'at'; there are none here")


def test_streams_that_are_not_there(live: Live) -> None:
    near = live.ask("streams/wave/wav/data")
    assert (near.status, near.kind) == (404, "unknown-stream")
    assert "did you mean 'wave/wave'" in near.json["detail"]
    for path in (
        "streams/../facts",
        "streams/%2e%2e/facts",
        "streams/wave/..%2fwave",
        "streams/wave/WAVE",
        "streams/a/*",
    ):
        assert live.ask(path).status == 404
        assert live.ask(f"{path}/data").status == 404
    assert live.ask(DATA, Accept="application/xml").kind == "not-acceptable"


def test_streams_are_listed_in_pages(live: Live) -> None:
    names = [one["id"] for one in live.ask("streams", key="read").json["items"]]
    assert names == sorted(names)
    assert {"fake/fake", "fake/settings", "wave/wave"} <= set(names)
    first = live.ask("streams?limit=1").json
    second = live.ask(f"streams?limit=1&cursor={first['next']}").json
    assert [first["items"][0]["id"], second["items"][0]["id"]] == names[:2]
    assert [one["id"] for one in live.ask("streams?search=wav").json["items"]] == ["wave/wave"]
    assert live.ask("streams?cursor=WzFd").status == 422
    one = live.ask("streams/wave/wave").json
    assert one["live"]
    assert one["epochs"][0]["rate_hz"] == 1000.0
    assert one["epochs"][0]["channels"][0]["unit"] == "V"
    assert one["rows"] >= one["durable_rows"] > 0
