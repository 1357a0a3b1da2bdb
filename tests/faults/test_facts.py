"""One fault at every operation of the facts log: what was confirmed is there, once, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidaq.catalog import Fact, FactsLog, read_facts, register_kind
from scidaq.errors import WriteFailed
from scidaq.testing import FakeClock
from scidaq.testing.faults import DiskFault, FaultyFiles
from tests.faults.lives import KINDS, clear

SAID = register_kind("test.said", "For tests.")
OPENINGS, EACH = 3, 4


def live(directory: Path, files: FaultyFiles) -> tuple[list[int], int]:
    """Open, append, close, some times over; what was confirmed, and how often the disk refused."""
    confirmed: list[int] = []
    refused = n = 0
    for _ in range(OPENINGS):
        log = None
        while log is None:
            try:
                log = FactsLog.open(directory, FakeClock(), files)
            except WriteFailed:
                refused += 1
        with log:
            for _ in range(EACH):
                try:
                    log.append(SAID, {"n": n, "text": "x" * 3000})
                except WriteFailed as error:
                    clear(error, str(directory))
                    refused += 1
                else:
                    confirmed.append(n)
                n += 1
    return confirmed, refused


@pytest.mark.parametrize("lasting", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_any_operation(tmp_path: Path, kind: str, lasting: int) -> None:
    sound = FaultyFiles()
    assert live(tmp_path / "sound", sound) == (list(range(OPENINGS * EACH)), 0)
    for k in range(1, sound.operations(kind) + 1):
        files = FaultyFiles(DiskFault(kind, k, lasting), seed=k)
        directory = tmp_path / str(k)
        confirmed, refused = live(directory, files)
        assert files.struck
        assert refused
        found = list(read_facts(directory))
        assert all(isinstance(f, Fact) for f in found), (k, found)
        facts = [f for f in found if isinstance(f, Fact)]
        assert [f.seq for f in facts] == list(range(len(facts))), k
        told = [f.data["n"] for f in facts]
        assert sorted(set(told)) == told, f"{k}: once, in order: {told}"
        assert set(confirmed) <= set(told), k
        assert all(f.data["text"] == "x" * 3000 for f in facts)
