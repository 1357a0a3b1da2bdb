"""One reader, asked again and again while others write: it remembers what it has read, and misses nothing."""

from __future__ import annotations

from pathlib import Path

import scidaq
from scidaq.block import Block
from scidaq.query import Reader


def values(reader: Reader) -> list[float]:
    blocks = [b for b in reader.blocks("dmm/readings") if isinstance(b, Block)]
    return [float(v) for b in blocks for v in b.column("v")]


def test_each_reading_of_a_script_is_seen_at_once(tmp_path: Path) -> None:
    written: list[float] = []
    with scidaq.record(tmp_path / "data", {"v": "V"}, stream="dmm/readings") as rec:
        reader: Reader | None = None
        for n in range(25):
            rec.add(v=float(n))
            rec.sync()
            written.append(float(n))
            reader = reader or Reader(tmp_path / "data")
            assert values(reader) == written
            assert values(reader) == written
    assert reader is not None
    assert values(reader) == written
