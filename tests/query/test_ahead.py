"""Checking ahead on other threads changes nothing but the time that it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from scidaq.block import Block, Channel, Schema
from scidaq.query import Reader, ahead
from scidaq.store import Buffers, Segment, SegmentName, system_files
from tests.query.test_reader import STREAM, Made, spans, values
from tests.store.makers import T0, epoch_of, segment_bytes

WIDE = Schema((Channel("v", "int64"),))
ROWS = 1 << 14  # 256 KiB with their times


def blocks(count: int, first: int = 0) -> list[Block]:
    out = []
    for at in range(first, first + count * ROWS, ROWS):
        n = np.arange(at, at + ROWS)
        out.append(Block.of(WIDE, [n], stream=STREAM, first=at, times=T0 + n))
    return out


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    yield Made(tmp_path / "data")
    assert not [t for t in threading.enumerate() if t.name.startswith("scidaq-check")], "all have been joined"


def put(made: Made, count: int = 48) -> Path:
    return made.put(
        SegmentName(0, 0, 0), segment_bytes(epoch_of(WIDE), blocks(count), buffers=Buffers(count + 8, 1 << 19))
    )


def test_the_same_comes_with_and_without(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    put(made)
    check = Mock(wraps=ahead._checked)
    monkeypatch.setattr(ahead, "_checked", check)
    alone, together = (list(Reader(made.path, threads=n).blocks(STREAM)) for n in (1, 2))
    assert check.call_count > 1
    assert spans(together) == spans(alone) == [(0, 48 * ROWS, "rows")]
    assert np.array_equal(values(together), np.arange(48 * ROWS))


@pytest.mark.parametrize("bad", [0, 1, 20, 21, 47])
def test_what_is_damaged_is_a_gap_whoever_finds_it(made: Made, bad: int) -> None:
    path = put(made)
    data = bytearray(path.read_bytes())
    rows = [m for m in Segment(system_files().map(path), path, check=False).batches if m.rows]
    data[rows[bad].end - 3] ^= 1
    path.write_bytes(data)
    alone, together = (list(Reader(made.path, threads=n).blocks(STREAM, held=True)) for n in (1, 2))
    assert spans(together) == spans(alone)
    lost = (bad * ROWS, (bad + 1) * ROWS, "unexplained")
    assert (lost in spans(together)) == (bad != 47), "what nothing follows is not known to be missing"
    assert np.array_equal(values(together), np.delete(np.arange(48 * ROWS), slice(*lost[:2])))


def test_who_stops_early_leaves_no_thread_behind(made: Made) -> None:
    put(made)
    found = Reader(made.path, threads=2).blocks(STREAM)
    assert len(list(islice(found, 30))) == 30
    found.close()  # type: ignore[attr-defined]


def test_little_is_read_without_threads(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    put(made)
    check = Mock(wraps=ahead._checked)
    monkeypatch.setattr(ahead, "_checked", check)
    found = list(Reader(made.path, threads=2).blocks(STREAM, T0 + 20 * ROWS, T0 + 24 * ROWS))
    assert spans(found) == [(20 * ROWS, 24 * ROWS, "rows")]
    assert not check.called
