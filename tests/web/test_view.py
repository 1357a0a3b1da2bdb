"""Any range of a stream over HTTP, as it is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from scidaq.web.frames import MEDIA_TYPE, decode
from tests.web.live import Live


def test_a_view_is_the_rows_where_they_are_few(live: Live) -> None:
    answer = live.ask("streams/wave/wave/view?start=-1s&width=20000")
    assert (answer.status, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    header, arrays = decode(answer.body)
    assert header["kind"] == "view"
    assert [c["name"] for c in header["channels"]]
    t = arrays["t0"].astype(np.int64) + int(header["base_ns"])
    assert len(t) > 10
    assert (np.diff(t) > 0).all()
    assert int(header["start_ns"]) <= t[0]
    assert t[-1] < int(header["stop_ns"])


def test_a_view_has_the_extremes_of_its_rows(live: Live) -> None:
    items = live.ask("streams/wave/wave/data?last=2000&format=json").json["items"]
    blocks = [item for item in items if item["kind"] == "rows"]
    times = np.concatenate([np.array(item["time_ns"], np.int64) for item in blocks])
    values = np.concatenate([np.array(next(iter(item["values"].values())), np.float64) for item in blocks])
    values = values.reshape(len(times), -1)[:, 0]
    answer = live.ask(f"streams/wave/wave/view?start={times[0]}&stop={times[-1]}&width=20")
    header, arrays = decode(answer.body)
    base = int(header["base_ns"])
    assert 20 <= len(arrays["t0"]) <= 42
    for a, b, least, most in zip(arrays["t0"], arrays["t1"], arrays["min:0"], arrays["max:0"], strict=True):
        mine = values[(times >= base + int(a)) & (times <= base + int(b))]
        assert (mine.min(), mine.max()) == (least, most)


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ("channels=nothing", 422, "no channel"),
        ("start=now&stop=-1s", 422, "stop"),
        ("width=0", 422, "width"),
        ("start=yesterday", 422, "time"),
    ],
)
def test_what_cannot_be_drawn_is_refused(live: Live, query: str, status: int, word: str) -> None:
    answer = live.ask(f"streams/wave/wave/view?{query}")
    assert answer.status == status
    assert word in str(answer.json)


def test_an_unknown_stream_is_not_found(live: Live) -> None:
    assert live.ask("streams/no/such/view").status == 404


def test_rows_of_an_array_come_whole(live: Live) -> None:
    live.until_rows("wave/wave", 2000)
    answer = live.ask("streams/wave/wave/view?kind=arrays&rows=7")
    assert (answer.status, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    header, arrays = decode(answer.body)
    (channel,) = header["channels"]
    assert arrays["array:0"].shape == (len(arrays["t0"]), *channel["shape"])
    assert 5 <= len(arrays["t0"]) <= 7
    assert (np.diff(arrays["t0"]) > 0).all()
    assert int(header["start_ns"]) == int(header["base_ns"])
    steps = np.diff(arrays["t0"][:-1])
    assert steps.max() < 2 * steps.min()
    answer = live.ask("streams/wave/wave/view?kind=arrays&channels=nothing")
    assert answer.status == 422
    assert "no channel" in str(answer.json)
    assert live.ask("streams/no/such/view?kind=arrays").status == 404
