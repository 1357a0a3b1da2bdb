"""Exports over HTTP of a station that records: asked for, followed, fetched, removed."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import pyarrow.parquet as pq
import pytest

from scidaq.archive import FORMATS
from scidaq.web.models import ExportOptions
from tests.web.live import Live, until


def ended(live: Live, export: str) -> Any:
    until(lambda: live.ask(f"exports/{export}").json["state"] in ("done", "failed"), 60)
    return live.ask(f"exports/{export}").json


def test_the_formats_are_those_there_are() -> None:
    assert set(ExportOptions.model_json_schema()["properties"]["format"]["enum"]) == set(FORMATS)


def test_a_stream_is_exported_fetched_and_removed(live: Live) -> None:
    asked = {"stream": "wave/wave", "format": "parquet", "last": 100}
    begun = live.ask("exports", "POST", asked, key="operate", Idempotency_Key="export-1")
    assert begun.status == 202, begun.body
    assert begun.headers["location"] == f"/api/v1/exports/{begun.json['id']}"
    again = live.ask("exports", "POST", asked, key="operate", Idempotency_Key="export-1")
    assert (again.json["id"], again.headers["idempotency-replayed"]) == (begun.json["id"], "true")
    done = ended(live, begun.json["id"])
    assert (done["state"], done["error"], done["rows"], done["by"]) == ("done", "", 100, "operate key")
    assert done["expires_ns"] == done["ended_ns"] + 86_400 * 10**9
    assert [one["name"] for one in done["files"]] == ["wave.wave.parquet", "wave.wave.parquet.sha256"]
    for one in done["files"]:
        whole = live.ask(f"exports/{done['id']}/{one['name']}", key="read")
        assert whole.headers["etag"] == f'"{one["sha256"]}"'
        assert int(whole.headers["content-length"]) == len(whole.body) == one["bytes"]
        assert hashlib.sha256(whole.body).hexdigest() == one["sha256"]
        assert one["name"] in whole.headers["content-disposition"]
    table = pq.read_table(io.BytesIO(live.ask(f"exports/{done['id']}/wave.wave.parquet").body))
    assert table.num_rows == 100
    assert done["id"] in [one["id"] for one in live.ask("exports", key="read").json["items"]]
    acts = [one["act"] for one in live.ask("audit").json["items"]]
    assert "POST /api/v1/exports" in acts
    removed = live.ask(f"exports/{done['id']}", "DELETE", key="operate")
    assert removed.status == 200
    assert not (live.station.plan.data_dir / "exports" / done["id"]).exists()
    gone = live.ask(f"exports/{done['id']}/wave.wave.parquet")
    assert (gone.status, gone.kind) == (404, "unknown")


@pytest.mark.slow
def test_parts_of_a_file(live: Live) -> None:
    begun = live.ask("exports", "POST", {"stream": "wave/wave", "format": "csv", "last": 10})
    done = ended(live, begun.json["id"])
    path = f"exports/{done['id']}/wave.wave.csv"
    whole = live.ask(path)
    size, etag = len(whole.body), whole.headers["etag"]
    for asked, start, stop in (("bytes=3-9", 3, 10), ("bytes=5-", 5, size), ("bytes=-4", size - 4, size)):
        part = live.ask(path, Range=asked, If_Range=etag)
        assert (part.status, part.body) == (206, whole.body[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    for asked in ("bytes=1-2,4-5", "lines=1-2", "bytes=9-3", "bytes=x"):
        assert (live.ask(path, Range=asked).status, live.ask(path, Range=asked).body) == (200, whole.body)
    assert live.ask(path, Range="bytes=0-1", If_Range='"other"').status == 200
    beyond = live.ask(path, Range=f"bytes={size}-")
    assert (beyond.status, beyond.kind, beyond.headers["content-range"]) == (416, "no-such-part", f"bytes */{size}")
    same = live.ask(path, If_None_Match=etag)
    assert (same.status, same.body) == (304, b"")
    live.ask(f"exports/{done['id']}", "DELETE")


@pytest.mark.slow
def test_a_run_becomes_a_table_for_each_stream(live: Live) -> None:
    view = live.ask("streams/wave/wave").json
    window = {"start_ns": view["first_ns"], "stop_ns": view["last_ns"]}
    run = live.ask("runs/past", "POST", {"name": "x --force .. $(id)", **window}).json
    begun = live.ask(f"runs/{run['id']}/export", "POST", {"format": "arrow", "compression": "zstd"})
    assert begun.status == 202, begun.body
    done = ended(live, begun.json["id"])
    assert done["state"] == "done", done["error"]
    base = f"run-{run['id'][:8]}.arrow"
    names = {one["name"] for one in done["files"]}
    assert {f"{base}/wave.wave.arrow", f"{base}/manifest.json", f"{base}/SHA256SUMS"} <= names
    manifest = live.ask(f"exports/{done['id']}/{base}/manifest.json").json
    assert manifest["run"]["name"] == "x --force .. $(id)"
    live.ask(f"exports/{done['id']}", "DELETE")
    live.ask(f"runs/{run['id']}", "DELETE")


@pytest.mark.slow
def test_what_a_worker_says_is_kept(live: Live) -> None:
    begun = live.ask("exports", "POST", {"stream": "wave/wave", "format": "csv", "stop": "1"})
    failed = ended(live, begun.json["id"])
    assert failed["state"] == "failed"
    assert "no rows in this range" in failed["error"]
    assert failed["files"] == []
    live.ask(f"exports/{failed['id']}", "DELETE")


@pytest.mark.parametrize(
    ("asked", "status", "kind"),
    [
        ({"stream": "no/such", "format": "csv"}, 404, "unknown-stream"),
        ({"stream": "wave/wave", "format": "csv", "run": "nightmare"}, 404, "unknown-run"),
        ({"stream": "../..", "format": "csv"}, 422, "invalid-request"),
        ({"stream": "wave/wave", "format": "xls"}, 422, "invalid-request"),
        ({"stream": "wave/wave", "format": "csv", "compression": "zstd"}, 422, "request-refused"),
        ({"stream": "wave/wave", "format": "csv", "start": "soon"}, 422, "request-refused"),
        ({"stream": "wave/wave", "format": "csv", "start": "5", "stop": "3"}, 422, "request-refused"),
        ({"stream": "wave/wave", "format": "csv", "start": "5", "last": 3}, 422, "request-refused"),
        ({"stream": "wave/wave", "format": "csv", "channels": ["a,b"]}, 422, "invalid-request"),
        ({"stream": "wave/wave", "format": "csv", "out": "/tmp/x"}, 422, "invalid-request"),
    ],
)
def test_what_cannot_be_is_said_at_once(live: Live, asked: dict[str, Any], status: int, kind: str) -> None:
    refused = live.ask("exports", "POST", asked)
    assert (refused.status, refused.kind) == (status, kind), refused.body
    assert live.ask("exports").json["items"] == []


def test_too_many_and_too_little_room(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"stream": "wave/wave", "format": "csv"}
    monkeypatch.setattr("scidaq.station.exporting.WAITING", 0)
    refused = live.ask("exports", "POST", asked)
    assert (refused.status, refused.kind, refused.headers["retry-after"]) == (429, "too-many", "1")
    free = live.station._free_bytes()
    monkeypatch.setattr(live.station._space, "low_bytes", free)
    refused = live.ask("exports", "POST", asked)
    assert (refused.status, refused.kind) == (503, "disk-refused")
    assert "storage.low_space_bytes" in refused.json["detail"]
    assert live.ask("exports").json["items"] == []


def test_nothing_else_is_reached(live: Live) -> None:
    for path in ("exports/nothing", "exports/..%2f..%2fkeys.json", "exports/x/..%2f..%2fkeys.json"):
        assert live.ask(path).status == 404
