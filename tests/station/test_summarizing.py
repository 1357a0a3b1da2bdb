"""Summaries of what lies in a data directory: made at rest, and made again where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import scidaq
from scidaq.errors import Corrupt
from scidaq.query import Position
from scidaq.station.summarizing import EVERYTHING, Summaries
from scidaq.store import system_files
from scidaq.testing import FakeClock

STREAM = "dmm/readings"
ROWS = 20_000


@pytest.fixture
def summaries(tmp_path: Path) -> Summaries:
    with scidaq.record(tmp_path / "data", {"v": "V"}, stream=STREAM) as rec:
        rec.extend({"v": np.arange(ROWS, dtype=np.float64)}, t=1_750_000_000 * 10**9 + np.arange(ROWS) * 10**6)
    return Summaries(tmp_path / "data", system_files(), FakeClock(), "station", dict, dict, lambda: True)


def test_a_stream_at_rest_is_summarized(summaries: Summaries) -> None:
    summaries._at_rest()
    pyramid, pending = summaries.of(STREAM)
    assert pyramid.covered(0).row + sum(int(chunk.n.sum()) for chunk in pending) == ROWS // 512 * 512
    assert summaries.stats().rows == ROWS


def test_what_is_damaged_is_made_again(summaries: Summaries) -> None:
    summaries._at_rest()
    pyramid, _ = summaries.of(STREAM)
    (path,) = pyramid.directory.glob("0-*")
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[len(before) // 2] ^= 1
    path.write_bytes(damaged)
    for part in pyramid.parts()[1]:
        pyramid.forget([part])
    with pytest.raises(Corrupt):
        summaries._flush(STREAM, EVERYTHING, last=True)
    summaries._resting.append(STREAM)
    summaries._at_rest()
    summaries._flush(STREAM, EVERYTHING, last=True)
    assert pyramid.covered(0) == Position(0, ROWS // 512 * 512)
    assert pyramid.covered(1) == Position(0, ROWS // 8192 * 8192)
    (chunk,) = pyramid.read(pyramid.parts()[0][0])
    assert (chunk.most[0] == np.arange(1, len(chunk) + 1) * 512 - 1).all()
