"""The outline says what a walk finds; one that is not in order is none; who believes it reads nothing wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Gap, Reason
from scidaq.errors import Corrupt
from scidaq.store import Buffers, Outline, Segment, SegmentName, SegmentWriter, wire
from scidaq.store.outline import LEAST
from tests.store.makers import MIXED, PATH, PLAIN, SCHEMAS, STATION, T0, block_of, cut, epoch_of, segment_bytes
from tests.store.test_damage import flip

HOLE = Gap("fake/stream", 0, 30, 35, Reason.SOURCE)


@pytest.fixture(autouse=True, scope="module")
def with_outlines() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scidaq.store.segment.LEAST", 1)
        yield


def outline_of(data: bytes) -> Outline:
    outline = Outline.of(memoryview(data), PATH)
    assert outline is not None
    return outline


@given(
    st.sampled_from(sorted(SCHEMAS)),
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.sets(st.integers(1, 12)),
    st.sets(st.integers(0, 11)),
    st.randoms(),
)
def test_it_says_what_a_walk_finds(
    name: str, sizes: list[int], commits: set[int], noted: set[int], shuffle: random.Random
) -> None:
    schema = SCHEMAS[name]
    blocks = cut(schema, sizes)
    shuffle.shuffle(blocks)  # rows may come late
    gaps = {n: [HOLE] for n in noted if n % 2 and n < len(blocks)}
    left_out = {n - 1: [(1000 + n, 1005 + n)] for n in commits & noted}
    data = segment_bytes(epoch_of(schema), blocks, sorted(commits), gaps=gaps, left_out=left_out)
    walked, outline = Segment(memoryview(data), PATH), outline_of(data)
    assert outline.entries == walked.entries
    assert (outline.gaps(), outline.left_out()) == (walked.gaps(), walked.left_out())
    assert (outline.id, outline.epoch) == (walked.id, walked.epoch)
    for i, block in enumerate(blocks):
        assert outline.block_at(i).same_rows(block)


def test_short_segments_have_none_and_growing_ones_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scidaq.store.segment.LEAST", LEAST)
    short, long = (segment_bytes(epoch_of(PLAIN), cut(PLAIN, [1] * n)) for n in (LEAST // 2 - 1, LEAST))
    assert Outline.of(memoryview(short), PATH) is None
    assert len(outline_of(long).entries) == LEAST
    growing = segment_bytes(epoch_of(PLAIN), cut(PLAIN, [1] * LEAST), sealed=False)
    assert Outline.of(memoryview(growing), PATH) is None
    for nothing in (b"", wire.EOS, bytes(5000)):
        assert Outline.of(memoryview(nothing), PATH) is None


def test_one_that_would_be_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scidaq.store.outline.MOST", 9)
    assert len(outline_of(segment_bytes(epoch_of(PLAIN), cut(PLAIN, [1] * 9))).entries) == 9
    assert Outline.of(memoryview(segment_bytes(epoch_of(PLAIN), cut(PLAIN, [1] * 10))), PATH) is None


def test_larger_than_a_buffer_it_is_written_all_the_same() -> None:
    writer = SegmentWriter(epoch_of(PLAIN), SegmentName(0, 0, 0), STATION, T0, Buffers(200, 4 * 4096))
    parts = [writer.head]
    for n in range(600):
        assert writer.append(block_of(PLAIN, n, 1))
    from scidaq.block import Ledger

    assert writer.seal(600, Ledger(600, 600), ())
    parts += [chunk.buffer[: chunk.size] for chunk in writer.chunks]
    data = b"".join(parts)
    assert Segment(memoryview(data), PATH).sealed
    assert outline_of(data).entries == Segment(memoryview(data), PATH).entries


def test_whatever_bit_is_wrong_no_row_is() -> None:
    blocks = cut(MIXED, [7, 9, 11])
    data = segment_bytes(epoch_of(MIXED), blocks, gaps={1: [HOLE]})
    for bit in random.Random(4).sample(range(8 * len(data)), 3000):
        outline = Outline.of(memoryview(flip(data, bit)), PATH)
        for i, block in enumerate(blocks if outline is not None else ()):
            try:
                assert outline is not None
                assert outline.block_at(i).same_rows(block)
            except Corrupt:
                assert outline is not None
                entry = outline.entries[i]
                assert entry.at <= bit // 8 < entry.at + entry.size


@pytest.mark.parametrize(
    "wrong",
    [
        {"batches": [[64, 10**6, 0, 5, 0]]},
        {"batches": [[10**12, 64, 0, 5, 0]]},
        {"batches": [[-64, 64, 0, 5, 0]]},
        {"batches": [[4096, 64, 0, 5, 0]]},
        {"batches": [[1, 2]]},
        {"batches": "none"},
        {"batches": [], "noted": [8]},
        {"batches": [], "noted": [10**12]},
        {"noted": []},
        7,
    ],
)
def test_one_that_says_nonsense_gives_no_rows(wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"noted": []} | wrong if isinstance(wrong, dict) and "batches" in wrong else wrong
    monkeypatch.setattr("scidaq.store.segment.outline_json", lambda *_: said)
    outline = Outline.of(memoryview(segment_bytes(epoch_of(PLAIN), cut(PLAIN, [5, 5]))), PATH)
    for i in range(len(outline.entries) if outline is not None else 0):
        assert outline is not None
        with pytest.raises(Corrupt):
            outline.block_at(i)
