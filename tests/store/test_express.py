"""Rows that are durable when `put` returns, in a journal file that was prepared for them."""

from __future__ import annotations

import errno
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.block import Block, Ledger
from scidaq.store import Damage, Express, Record, journal_files, open_station, read_journal, recover, system_files
from scidaq.store import express as express_module
from scidaq.store.files import PAGE, File, PosixFiles
from scidaq.store.journal import JournalWriter
from scidaq.testing import FakeClock
from tests.store.makers import PLAIN, SCHEMAS, T0, block_of, epoch_of

EPOCH = epoch_of(PLAIN, "script/readings")


def record(first: int, rows: int) -> Record:
    block = block_of(PLAIN, first, rows, stream=EPOCH.stream)
    return Record(EPOCH, block, block.end, Ledger(block.end, block.end))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    _, lock = open_station(tmp_path / "data", system_files(), "here", T0, False)
    lock.close()
    return tmp_path / "data"


def opened(data_dir: Path, files: PosixFiles | None = None) -> Express:
    numbers = count(3)
    return Express(data_dir, files or PosixFiles(), FakeClock(T0), "station", lambda: next(numbers))


def rows_in(data_dir: Path) -> list[int]:
    found: list[int] = []
    for _, path in journal_files(data_dir / "journal"):
        for item in read_journal(memoryview(path.read_bytes()), path):
            assert not isinstance(item, Damage), str(item)
            if item.block is not None:
                assert item.block.same_rows(block_of(PLAIN, item.block.first, item.block.rows, stream=EPOCH.stream))
                found += range(item.block.first, item.block.end)
    return found


def test_what_was_put_is_there_after_a_kill_and_zeros_behind_it_are_no_damage(data_dir: Path) -> None:
    express = opened(data_dir)
    for first in range(5):
        assert express.put(record(first, 1), first + 1)
    assert rows_in(data_dir) == [0, 1, 2, 3, 4]
    recovered = recover(data_dir, system_files(), FakeClock(T0), "station", {})
    assert recovered.quarantined == []
    assert recovered.stands[EPOCH.stream].book.recorded.total == 5
    assert [n for n, _ in recovered.journals] == [3]
    assert recovered.journals[0][1].stat().st_size < express_module.FILE_BYTES, "what was prepared is cut off"


def test_any_arrow_reader_opens_it_while_it_grows(data_dir: Path) -> None:
    express = opened(data_dir)
    express.put(record(0, 3), 3)
    express.put(record(3, 1), 4)
    table = pa.ipc.open_stream(pa.OSFile(str(data_dir / "journal" / "00000003.log"))).read_all()
    assert table["rows"].to_pylist() == [-1, 3, 1]


def test_rows_of_zeros_are_rows(data_dir: Path) -> None:
    express = opened(data_dir)
    block = Block.of(PLAIN, [np.zeros(4 * PAGE // 8)], t0_ns=T0).placed(EPOCH.stream, 0, 0, T0)
    assert express.put(Record(EPOCH, block, block.end, Ledger(block.end, block.end)), block.end)
    path = data_dir / "journal" / "00000003.log"
    kept = [r for r in read_journal(memoryview(path.read_bytes()), path) if isinstance(r, Record)]
    assert [r.block.rows for r in kept if r.block] == [block.rows]
    recovered = recover(data_dir, system_files(), FakeClock(T0), "station", {})
    assert recovered.quarantined == []
    assert recovered.stands[EPOCH.stream].book.recorded.total == block.rows


def test_a_torn_commit_is_put_aside_without_the_zeros_behind_it(data_dir: Path) -> None:
    express = opened(data_dir)
    express.put(record(0, 1), 1)
    express.put(record(1, 1), 2)
    path = data_dir / "journal" / "00000003.log"
    content = bytearray(path.read_bytes())
    end = len(bytes(content).rstrip(b"\0"))
    last = (end - 1) // PAGE * PAGE
    content[last + 512 : last + PAGE] = bytes(PAGE - 512)
    path.write_bytes(content)
    recovered = recover(data_dir, system_files(), FakeClock(T0), "station", {})
    assert recovered.stands[EPOCH.stream].book.recorded.total == 1
    assert [p.stat().st_size for p in recovered.quarantined] == [PAGE]


def test_a_file_goes_when_the_recorder_has_its_rows_and_another_is_begun_when_it_is_full(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express_module, "FILE_BYTES", 8 * PAGE)
    monkeypatch.setattr(express_module, "FILES", 2)
    express = opened(data_dir)
    done = 0
    while express.put(record(done, 1), done + 1):
        done += 1
    assert len(journal_files(data_dir / "journal")) == 2, "the recorder is too far behind"
    assert rows_in(data_dir) == list(range(done))
    express.release(done // 2)
    assert len(journal_files(data_dir / "journal")) == 2, "a reader may still want it"
    assert express.put(record(done, 1), done + 1), "there is room again, where it is needed"
    express.release(done)
    clock = express._clock
    assert isinstance(clock, FakeClock)
    clock.advance(express_module.KEPT_S)
    express.release(done)
    assert len(journal_files(data_dir / "journal")) == 1
    express.close(done + 1)
    assert journal_files(data_dir / "journal") == []


def test_what_the_recorder_does_not_have_stays_at_the_end(data_dir: Path) -> None:
    express = opened(data_dir)
    express.put(record(0, 2), 2)
    express.close(1)
    assert rows_in(data_dir) == [0, 1]


class Refusing(PosixFiles):
    """Refuses a verb from some time on."""

    refuses = ""

    def sync(self, file: File) -> None:
        if self.refuses == "sync":
            raise OSError(errno.EIO, "no")
        super().sync(file)

    def append(self, file: File, pieces) -> None:
        if self.refuses == "append":
            raise OSError(errno.ENOSPC, "full")
        super().append(file, pieces)


@pytest.mark.parametrize("verb", ["sync", "append"])
def test_a_disk_that_refuses_is_not_asked_again_for_a_while_and_never_on_the_same_file(
    data_dir: Path, verb: str
) -> None:
    files = Refusing()
    express = opened(data_dir, files)
    assert express.put(record(0, 1), 1)
    files.refuses = verb
    assert not express.put(record(1, 1), 2)
    files.refuses = ""
    assert not express.put(record(1, 1), 2)
    clock = express._clock
    assert isinstance(clock, FakeClock)
    clock.advance(10)
    assert express.put(record(1, 1), 2)
    assert len(journal_files(data_dir / "journal")) == 2
    assert set(rows_in(data_dir)) == {0, 1}


@given(st.lists(st.integers(1, 700), min_size=1, max_size=12), st.sampled_from(sorted(SCHEMAS)))
def test_a_commit_of_one_row_has_the_bytes_that_the_other_way_would_give(sizes: list[int], name: str) -> None:
    with patch("scidaq.store.journal.uuid.uuid4", lambda: "11111111-2222-4333-8444-555555555555"):
        quick, slow = JournalWriter(0, "station", T0), JournalWriter(0, "station", T0)
    epoch = epoch_of(SCHEMAS[name], EPOCH.stream)
    first = 0
    for rows in sizes:
        block = block_of(epoch.schema, first, rows, stream=epoch.stream)
        kept = Record(epoch, block, block.end, Ledger(block.end, block.end))
        with patch.object(slow, "_batch", slow._batch_of_many):
            assert quick.encode([kept]) == slow.encode([kept])
        quick.synced = slow.synced = quick.at
        first = block.end


def test_what_is_too_much_at_once_goes_the_longer_way(data_dir: Path) -> None:
    assert not opened(data_dir).put(record(0, express_module.MOST_BYTES // 8 + 1), 1)


def test_an_interrupted_commit_is_not_gone_on_behind(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = PosixFiles()
    express = opened(data_dir, files)
    express.put(record(0, 1), 1)

    def interrupted(file: File, pieces: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            express.put(record(1, 1), 2)
    assert express.put(record(1, 1), 2)
    assert rows_in(data_dir) == [0, 1]
