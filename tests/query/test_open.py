"""`scidaq.open`: what there is, and which rows; beside a recorder, behind damage, at the ends of every range."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scidaq
from scidaq.block import NS, Block, Reason
from scidaq.errors import ForeignDirectory, RequestError, UnknownStream
from scidaq.query import Store
from scidaq.store import SegmentName
from scidaq.testing import FakeClock
from tests.query.test_reader import MS, STREAM, Made, ms, simple
from tests.store.makers import CODES, PLAIN, T0, cut, epoch_of, segment_bytes


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "data")


@pytest.fixture(scope="module")
def hundreds(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Rows 0 to 300 in two segments and the journal."""
    made = Made(tmp_path_factory.mktemp("hundreds") / "data")
    simple(made)
    return scidaq.open(made.path)


def rows(found: Any) -> tuple[int, int]:
    """First and one past the last of rows without holes."""
    blocks = found.blocks
    assert all(b.first == a.end for a, b in pairwise(blocks))
    return (blocks[0].first, blocks[-1].end) if blocks else (0, 0)


# ---- what there is ---------------------------------------------------------------------------------------------------


def test_what_there_is(made: Made) -> None:
    simple(made)
    made.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(CODES, "scope/adc"), cut(CODES, [8])), "scope/adc")
    store = scidaq.open(str(made.path))
    assert isinstance(store, Store)
    assert (store.name, list(store), len(store), STREAM in store, "a/b" in store) == (
        *("test", [STREAM, "scope/adc"], 2, True, False),
    )
    stream = store.streams[STREAM]
    assert (stream.id, stream.rows, stream.range_ns, stream.units) == (STREAM, 300, (T0, ms(299)), {"v": "V"})
    assert [epoch.number for epoch in stream.epochs] == [0]
    assert stream.channels == PLAIN.channels
    assert repr(stream).startswith("<stream fake/stream: 300 rows, 2025-06-15T15:06:40.000000000Z to ")
    assert "adc 4 [V]" in repr(store)
    shown = store._repr_html_()
    assert all(f"<td>{cell}</td>" in shown for cell in (STREAM, "300", "v [V]", "scope/adc", "adc 4 [V]"))


def test_nothing_recorded_yet(made: Made) -> None:
    store = scidaq.open(made.path)
    assert repr(store) == f"station test in {made.path}, nothing recorded yet"
    assert (dict(store.streams), len(store)) == ({}, 0)
    assert "<tbody></tbody>" in store._repr_html_()
    with pytest.raises(UnknownStream, match="no stream 'a/b'"):
        store["a/b"]


def test_what_is_shown_is_escaped(tmp_path: Path) -> None:
    made = Made(tmp_path / "<b>")
    assert html.escape(str(made.path)) in scidaq.open(made.path)._repr_html_()


def test_a_name_that_is_nearly_right(made: Made) -> None:
    simple(made)
    with pytest.raises(UnknownStream, match="did you mean 'fake/stream'"):
        scidaq.open(made.path)["fake/steam"]


def test_what_is_no_data_directory(made: Made, tmp_path: Path) -> None:
    simple(made)
    inside = made.path / "streams" / STREAM
    for path, words in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "there is no station.json"),
        (inside, f"it lies in the data directory {made.path}: open that"),
        (next(inside.iterdir()), f"it lies in the data directory {made.path}"),
    ):
        with pytest.raises(ForeignDirectory, match=words):
            scidaq.open(path)
    (made.path / "station.json").write_text("{")
    with pytest.raises(ForeignDirectory, match="cannot be understood"):
        scidaq.open(made.path)


# ---- which rows ------------------------------------------------------------------------------------------------------


@given(
    st.integers(-2 * MS, 302 * MS),
    st.integers(-2 * MS, 302 * MS),
    st.sampled_from([int, lambda ns: np.datetime64(ns, "ns"), str, None]),
)
def test_a_range_holds_its_start_and_not_its_stop(hundreds: Store, a: int, b: int, kind: Any) -> None:
    start, stop = T0 + min(a, b), T0 + max(a, b)
    expected = [n for n in range(300) if start <= ms(n) < stop]
    said: Any = [t if kind is None else kind(t) for t in (start, stop)]
    found = hundreds[STREAM].read(*said)
    assert rows(found) == ((expected[0], expected[-1] + 1) if expected else (0, 0))
    assert len(found) == len(found.to_arrow()) == len(expected)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({}, (0, 300)),
        ({"first": 10}, (10, 300)),
        ({"end": 150}, (0, 150)),
        ({"first": 99, "end": 101, "epoch": 0}, (99, 101)),
        ({"first": 299, "end": 9999}, (299, 300)),
        ({"first": 300}, (0, 0)),
        ({"first": 5, "end": 5}, (0, 0)),
        ({"epoch": 0}, (0, 300)),
        ({"last": 7}, (293, 300)),
        ({"last": 9999}, (0, 300)),
        ({"last": "10ms"}, (289, 300)),
        ({"start": "-10ms"}, (290, 300)),
        ({"start": "-20ms", "stop": "-10ms"}, (280, 290)),
        ({"start": datetime(2025, 6, 15, 15, 6, 40, 290_000, tzinfo=UTC)}, (290, 300)),
        ({"start": T0 / NS + 0.2895}, (290, 300)),
        ({"start": ms(100), "first": 50, "end": 120}, (100, 120)),
        ({"channels": "v", "last": 1}, (299, 300)),
    ],
)
def test_which_rows(made: Made, which: dict[str, Any], expected: tuple[int, int]) -> None:
    simple(made)
    clock = FakeClock(ms(300))
    stream = Store(made.path, clock)[STREAM]
    found = stream.read(**which)
    assert rows(found) == expected
    assert found.gaps == ()
    assert found.to_arrow().schema.names == ["time", "v"]
    assert sum(batch.num_rows for batch in stream.batches(**which)) == len(found)


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ({"start": 5, "stop": 4}, r"ends \(1970-01-01T00:00:00.000000004Z\) before it starts"),
        ({"start": "soon"}, "'soon' is no time"),
        ({"start": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"first": -1}, "are no range"),
        ({"first": 3, "end": 2}, "are no range"),
        ({"epoch": 3}, "has no epoch 3; there is 0"),
        ({"channels": ["w"]}, "no channel w; it has v"),
        ({"channels": []}, "names no channel"),
        ({"channels": ["w"], "last": 1}, "no channel w; it has v"),
        ({"channels": ["v", "v"]}, "two channels are named v"),
        ({"last": 0}, "last=0: give a number of rows"),
        ({"last": True}, "last=True: give a number of rows"),
        ({"last": "soon"}, "last='soon': give a number of rows"),
        ({"last": 3, "first": 1}, "last= goes with channels= only"),
        ({"last": 3, "start": 1}, "last= goes with channels= only"),
    ],
)
def test_which_rows_there_cannot_be(made: Made, which: dict[str, Any], words: str) -> None:
    simple(made)
    with pytest.raises(RequestError, match=words):
        scidaq.open(made.path)[STREAM].read(**which)


def test_rows_are_numbered_within_an_epoch(made: Made) -> None:
    for number in (0, 1):
        made.put(SegmentName(number, 0, 0), segment_bytes(epoch_of(PLAIN, number=number), cut(PLAIN, [10])))
    stream = scidaq.open(made.path)[STREAM]
    with pytest.raises(RequestError, match=r"has the epochs 0, 1, .* say which with epoch="):
        stream.read(first=5)
    assert [(b.epoch, b.first, b.end) for b in stream.read(first=5, epoch=1).blocks] == [(1, 5, 10)]
    assert len(stream.read(epoch=0)) == 10


def test_the_gaps_of_a_range_of_rows(made: Made) -> None:
    first, second = cut(PLAIN, [10])[0], cut(PLAIN, [10], 20)[0]
    made.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(PLAIN), [first, second]))
    stream = scidaq.open(made.path)[STREAM]
    cases: list[tuple[dict[str, Any], list[tuple[int, int]]]] = [
        ({"first": 5, "end": 15}, [(10, 15)]),
        ({"first": 12, "end": 15}, [(12, 15)]),
        ({"first": 15, "end": 25}, [(15, 20)]),
        ({"first": 20}, []),
        ({"end": 10}, []),
    ]
    for which, gap in cases:
        assert [(g.first, g.end) for g in stream.read(**which).gaps] == gap
    assert [(g.first, g.end, g.reason) for g in stream.gaps()] == [(10, 20, Reason.UNEXPLAINED)]
    assert stream.gaps(ms(20)) == []


# ---- beside a recorder, and behind damage ----------------------------------------------------------------------------


def test_a_file_that_grows_is_seen_to_grow(made: Made) -> None:
    whole = segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10] * 5), sealed=False)
    lengths = [len(segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10] * n), sealed=False)) for n in (1, 3, 5)]
    path = made.put(SegmentName(0, 0, 0), whole[: lengths[0]])
    stream = scidaq.open(made.path)[STREAM]
    early = stream.read()
    for length, expected in zip(lengths, (10, 30, 50), strict=True):
        with open(path, "r+b") as file:
            file.write(whole[:length])
        assert rows(stream.read()) == (0, expected)
        assert stream.rows == expected
    assert rows(early) == (0, 10), "what was read stays as it was"
    assert early.to_numpy()["v"].shape == (10,)


@pytest.mark.parametrize("which", [{}, {"start": ms(15)}, {"stop": ms(45)}, {"first": 12, "end": 40}])
def test_damage_shows_as_a_gap(made: Made, which: dict[str, Any]) -> None:
    blocks = cut(PLAIN, [10] * 5)
    data = bytearray(segment_bytes(epoch_of(PLAIN), blocks))
    at = data.index(blocks[2].columns[0].tobytes())
    data[at + 7] ^= 0x10
    made.put(SegmentName(0, 0, 0), bytes(data))
    found = scidaq.open(made.path)[STREAM].read(**which)
    assert [(g.first, g.end, g.reason) for g in found.gaps] == [(20, 30, Reason.UNEXPLAINED)]
    assert len(found) == len(scidaq.open(made.path)[STREAM].read(**which).to_numpy()["v"])
    frame = found.to_pandas()
    assert frame["v"].isna().sum() == 1


@pytest.mark.parametrize("wrong", range(8))
def test_a_header_that_lies_about_its_time_hides_no_rows(made: Made, wrong: int) -> None:
    """What is skipped before a range is skipped because a batch whose checksum is right says so."""
    blocks = cut(PLAIN, [10] * 8)
    data = bytearray(segment_bytes(epoch_of(PLAIN), blocks))
    said = b'"t0":%d' % blocks[wrong].t0_ns
    at = data.index(said)
    for digits in (b"1000000000000000000", b"1750000000000000001", b"9000000000000000000"):
        data[at + 5 : at + len(said)] = digits
        made.put(SegmentName(0, 0, 0), bytes(data))
        stream = scidaq.open(made.path)[STREAM]
        for start in range(0, 80, 7):
            found = stream.read(ms(start))
            expected = [n for n in range(start, 80) if n // 10 != wrong]
            assert [n for b in found.blocks for n in range(b.first, b.end)] == expected


def test_a_short_range_of_a_long_segment_reads_little(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from scidaq.store import Segment

    made.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(PLAIN), cut(PLAIN, [10] * 50)))
    stream, seen = scidaq.open(made.path)[STREAM], []
    whole = Segment.block

    def counted(self: Segment, message: Any) -> Block:
        seen.append(message)
        return whole(self, message)

    monkeypatch.setattr(Segment, "block", counted)
    assert rows(stream.read(ms(250), ms(255))) == (250, 255)
    assert len(seen) <= 4


def test_more_than_the_memory_holds_comes_in_batches(made: Made) -> None:
    made.put(SegmentName(0, 0, 0), segment_bytes(epoch_of(CODES), cut(CODES, [5] * 4)))
    stream = scidaq.open(made.path)[STREAM]
    batches = stream.batches()
    assert next(batches).num_rows == 5
    assert pa.Table.from_batches(batches).num_rows == 15
    assert next(stream.batches(raw=True)).schema.field("adc").type == pa.list_(pa.int16(), 4)
