"""The facts log: confirmed means durable, torn ends are ignored, damage is reported once and hides nothing else."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from scidaq.catalog import Fact, FactsLog, kinds, read_facts, register_kind
from scidaq.catalog.facts import ROLL_BYTES, _OsFiles
from scidaq.errors import Corrupt, RequestError, WriteFailed

T = TypeVar("T")
NOTE = register_kind("test.note", "Something to write in tests.")
SPECIFICATION = Path(__file__).parents[2] / "docs/format/facts.md"


class TickingClock:
    """Each look at it is one nanosecond later."""

    def __init__(self) -> None:
        self.t_ns = 1_700_000_000_000_000_000

    def now_ns(self) -> int:
        self.t_ns += 1
        return self.t_ns


class UnsyncedFiles(_OsFiles):
    """Quick, where nothing is asked of the disk."""

    def sync(self, file: io.FileIO) -> None:
        pass

    def sync_dir(self, path: Path) -> None:
        pass


def opened(path: Path, files: Any = None) -> FactsLog:
    return FactsLog.open(path, TickingClock(), files)  # type: ignore[arg-type]


def written(path: Path, count: int) -> None:
    with opened(path) as log:
        for i in range(log.next_seq, log.next_seq + count):
            log.append(NOTE, {"n": i})


def seqs(path: Path, since: int = 0) -> list[int]:
    return [f.seq for f in read_facts(path, since) if isinstance(f, Fact)]


def damage(path: Path, since: int = 0) -> list[Corrupt]:
    return [c for c in read_facts(path, since) if isinstance(c, Corrupt)]


def lines(path: Path, number: int = 0) -> list[bytes]:
    return (path / f"{number:08d}.jsonl").read_bytes().splitlines(keepends=True)


def rewrite(path: Path, content: list[bytes], number: int = 0) -> None:
    (path / f"{number:08d}.jsonl").write_bytes(b"".join(content))


# ---- writing and reading


def test_facts_come_back_as_they_were_confirmed(tmp_path: Path) -> None:
    with opened(tmp_path / "facts") as log:
        confirmed = [
            log.append(NOTE, {"text": "Größe µ \u2028\n", "list": [1, 2.5, None]}),
            log.append(NOTE, {}),
        ]
        assert list(log) == confirmed
        assert [f.seq for f in confirmed] == [0, 1]
    with opened(tmp_path / "facts") as log:
        assert log.next_seq == 2
        confirmed.append(log.append(NOTE, {"huge": 2**70, "tuple": (1, 2)}))
        assert list(log) == confirmed
    assert confirmed[2].data["tuple"] == [1, 2], "what is handed out is what was written"
    assert [p.name for p in (tmp_path / "facts").iterdir()] == ["00000000.jsonl"]


def test_the_specification_shows_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = SPECIFICATION.read_text().split("```json\n")[1].split("```")[0]
    (tmp_path / "00000000.jsonl").write_text(example)
    facts = list(read_facts(tmp_path))
    assert all(isinstance(f, Fact) for f in facts), facts
    monkeypatch.setattr("scidaq.catalog.facts._kinds", {f.kind: "" for f in facts if isinstance(f, Fact)})
    clock = TickingClock()
    with FactsLog.open(tmp_path / "again", clock) as log:  # type: ignore[arg-type]
        for one in facts:
            assert isinstance(one, Fact)
            clock.t_ns = one.t_ns - 1
            log.append(one.kind, one.data)
    assert "".join(line.decode() for line in lines(tmp_path / "again")) == example


def test_a_line_is_what_the_specification_says(tmp_path: Path) -> None:
    written(tmp_path, 2)
    first, second = lines(tmp_path)
    assert json.loads(second)["prev"] == json.loads(first)["crc"]
    assert json.loads(first)["prev"] == "00000000"
    assert first.endswith(b'"}\n')
    assert f"{crc32c(first[:-19]):08x}" == json.loads(first)["crc"]


TEXT = st.text(st.characters(codec="utf-8"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)


@given(st.dictionaries(TEXT, JSON))
def test_any_json_survives(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("facts")
    with opened(path, UnsyncedFiles()) as log:
        fact = log.append(NOTE, data)
        assert [fact] == list(log)
        assert fact.data == data


@pytest.mark.parametrize("data", [{"x": float("nan")}, {"x": b"bytes"}, {"x": object()}, {"x": "\ud800"}])
def test_what_json_cannot_say_is_refused(tmp_path: Path, data: dict[str, Any]) -> None:
    with opened(tmp_path) as log:
        with pytest.raises(RequestError, match="JSON"):
            log.append(NOTE, data)
        with pytest.raises(RequestError, match="too long"):
            log.append(NOTE, {"x": "x" * ROLL_BYTES})
        assert log.append(NOTE, {}).seq == 0


def test_kinds_are_registered_once(tmp_path: Path) -> None:
    assert register_kind("test.note", "Something to write in tests.") == NOTE
    assert kinds()[NOTE] == "Something to write in tests."
    with pytest.raises(ValueError, match="another meaning"):
        register_kind("test.note", "Something else.")
    with pytest.raises(ValueError, match="lower-case"):
        register_kind("Test Note", "A bad name.")
    with opened(tmp_path) as log, pytest.raises(RequestError, match="unknown kind"):
        log.append("test.unknown", {})


def test_a_kind_that_this_version_does_not_know_is_kept(tmp_path: Path) -> None:
    head = b'{"seq":0,"t_ns":1,"kind":"future.kind","data":{},"prev":"00000000"'
    (tmp_path / "00000000.jsonl").write_bytes(head + f',"crc":"{crc32c(head):08x}"}}\n'.encode())
    assert list(read_facts(tmp_path)) == [Fact(0, 1, "future.kind", {})]


def test_a_new_file_is_begun_at_the_limit(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for _ in range(5):
            log.append(NOTE, {"x": "x" * (ROLL_BYTES // 3)})
    files = sorted(tmp_path.iterdir())
    assert [len(p.read_bytes().splitlines()) for p in files] == [2, 2, 1]
    assert all(p.stat().st_size <= ROLL_BYTES for p in files)
    assert seqs(tmp_path) == [0, 1, 2, 3, 4]
    assert not damage(tmp_path)
    for since in range(7):
        assert seqs(tmp_path, since) == list(range(since, 5))


def test_nothing_is_written_until_there_is_something_to_say(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "facts") as log:
        assert list(log) == []
    assert list((tmp_path / "a" / "facts").iterdir()) == []
    assert list(read_facts(tmp_path / "nowhere")) == []


def test_many_threads_make_one_chain(tmp_path: Path) -> None:
    with opened(tmp_path, UnsyncedFiles()) as log:
        threads = [threading.Thread(target=lambda: [log.append(NOTE, {}) for _ in range(10)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seqs(tmp_path) == list(range(40))
    assert not damage(tmp_path)


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.close()
    with pytest.raises(RequestError, match="closed"):
        log.append(NOTE, {})


# ---- torn ends


def test_a_torn_end_is_ignored_wherever_it_was_torn(tmp_path: Path) -> None:
    written(tmp_path / "whole", 3)
    *before, last = lines(tmp_path / "whole")
    for cut in range(len(last)):
        path = tmp_path / str(cut)
        path.mkdir()
        rewrite(path, [*before, last[:cut]])
        assert seqs(path) == [0, 1]
        assert not damage(path)
        written(path, 2)
        assert seqs(path) == [0, 1, 2, 3], f"torn after {cut} bytes"
        assert not damage(path)
        assert lines(path)[: len(before)] == before
        assert len(list(path.iterdir())) == (1 if cut == 0 else 2), "a torn file is left as it is"


def test_a_torn_end_of_zeros_is_ignored(tmp_path: Path) -> None:
    written(tmp_path, 3)
    *before, last = lines(tmp_path)
    rewrite(tmp_path, [*before, bytes(len(last) - 5) + last[-5:]])  # pages reach the disk in any order
    written(tmp_path, 1)
    assert seqs(tmp_path) == [0, 1, 2]
    assert not damage(tmp_path)


def test_torn_files_behind_one_another(tmp_path: Path) -> None:
    written(tmp_path, 2)
    for number in (1, 2):
        rewrite(tmp_path, [b'{"seq":2,'], number)
    rewrite(tmp_path, [], 3)
    written(tmp_path, 1)
    assert seqs(tmp_path) == [0, 1, 2]
    assert not damage(tmp_path)
    assert len(lines(tmp_path, 3)) == 1, "an empty file is gone on with"


# ---- damage


def test_a_flipped_bit_is_reported_once_and_hides_one_fact(tmp_path: Path) -> None:
    written(tmp_path / "whole", 4)
    whole = lines(tmp_path / "whole")
    for at in range(len(whole[1])):
        for bit in (0, 5):
            line = bytearray(whole[1])
            line[at] ^= 1 << bit
            path = tmp_path / f"{at}-{bit}"
            path.mkdir()
            rewrite(path, [whole[0], bytes(line), *whole[2:]])
            found = damage(path)
            assert found[0].path == path / "00000000.jsonl"
            assert found[0].offset == len(whole[0])
            merged = line.count(b"\n") == 0  # the newline itself was hit: two lines are one
            assert seqs(path) == ([0, 3] if merged else [0, 2, 3])
            assert len(found) == 1 + (line.count(b"\n") > 1)


def test_damage_in_the_first_and_in_the_middle_of_several_files(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for _ in range(6):
            log.append(NOTE, {"x": "x" * (ROLL_BYTES // 3)})
    for number in (0, 1):
        one, two = lines(tmp_path, number)
        rewrite(tmp_path, [one.replace(b"x", b"y", 7), two], number)
    assert seqs(tmp_path) == [1, 3, 4, 5]
    assert [(c.path.name, c.offset) for c in damage(tmp_path)] == [("00000000.jsonl", 0), ("00000001.jsonl", 0)]
    assert damage(tmp_path, since=4) == []


def test_missing_lines_break_the_chain(tmp_path: Path) -> None:
    written(tmp_path, 6)
    a, _, _, d, _, f = lines(tmp_path)
    rewrite(tmp_path, [a, d, f])
    assert seqs(tmp_path) == [0, 3, 5]
    assert [c.reason for c in damage(tmp_path)] == ["facts 1 to 2 are missing", "fact 4 is missing"]


def test_lines_of_another_log_are_noticed(tmp_path: Path) -> None:
    written(tmp_path / "a", 3)
    with opened(tmp_path / "b") as log:
        for _ in range(3):
            log.append(NOTE, {"other": True})
    rewrite(tmp_path / "a", [*lines(tmp_path / "a")[:2], lines(tmp_path / "b")[2]])
    assert [c.reason for c in damage(tmp_path / "a")] == ["fact 2 does not belong behind the one before it"]
    rewrite(tmp_path / "b", [lines(tmp_path / "b")[0], *lines(tmp_path / "b")])
    assert [c.reason for c in damage(tmp_path / "b")] == ["fact 0 stands here a second time"]
    assert seqs(tmp_path / "b") == [0, 1, 2]


def test_a_confirmed_fact_at_the_end_of_a_file_is_missed_when_the_log_went_on(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for _ in range(3):
            log.append(NOTE, {"x": "x" * (ROLL_BYTES // 3)})
    one, two = lines(tmp_path)
    rewrite(tmp_path, [one, two[:-9]])
    assert seqs(tmp_path) == [0, 2]
    assert [c.offset for c in damage(tmp_path)] == [len(one)]


def test_junk_between_lines_that_still_chain_is_reported(tmp_path: Path) -> None:
    written(tmp_path, 2)
    a, b = lines(tmp_path)
    rewrite(tmp_path, [a, b"junk\n", b])
    assert seqs(tmp_path) == [0, 1]
    assert [c.offset for c in damage(tmp_path)] == [len(a)]


def test_a_line_with_a_right_checksum_that_is_no_fact(tmp_path: Path) -> None:
    head = b'["seq",0'
    rewrite(tmp_path, [head + f',"crc":"{crc32c(head):08x}"}}\n'.encode(), b"\n"])
    assert ["no fact" in c.reason for c in damage(tmp_path)] == [True, False]


# ---- a disk that refuses


class FailingFiles(_OsFiles):
    """Fails at operation `k`, in one of two ways: before anything is done, or after."""

    def __init__(self, k: int, after: bool) -> None:
        self.left, self.after, self.failed = k, after, False

    def _count(self, act: Callable[[], T]) -> T:
        self.left -= 1
        if self.left or self.after:
            result = act()
            if self.left:
                return result
            if isinstance(result, io.FileIO):
                result.close()
        self.failed = True
        raise OSError(5, "the disk refuses")

    def create(self, path: Path) -> io.FileIO:
        return self._count(lambda: _OsFiles.create(self, path))

    def reopen(self, path: Path) -> io.FileIO:
        return self._count(lambda: _OsFiles.reopen(self, path))

    def append(self, file: io.FileIO, pieces: Any) -> None:
        half = pieces if self.after else [pieces[0][: len(pieces[0]) // 2]]
        if self.left == 1:
            super().append(file, half)
        self._count(lambda: None if self.left == 0 else _OsFiles.append(self, file, pieces))

    def sync(self, file: io.FileIO) -> None:
        self._count(lambda: _OsFiles.sync(self, file))

    def sync_dir(self, path: Path) -> None:
        self._count(lambda: _OsFiles.sync_dir(self, path))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_every_operation_may_fail_and_no_confirmed_fact_is_lost(tmp_path: Path, after: bool, again: bool) -> None:
    for k in range(1, 40):
        path = tmp_path / str(k)
        written(path, 1)
        rewrite(path, [*lines(path), b'{"torn'])
        files, confirmed = FailingFiles(k, after), [0]
        try:
            with opened(path, files) as log:
                for i in range(1, 4):
                    for _ in range(2 if again else 1):
                        try:
                            confirmed.append(log.append(NOTE, {"n": i}).seq)
                            break
                        except WriteFailed:
                            assert files.failed
        except WriteFailed:  # at opening
            assert files.failed
        written(path, 1)
        found = seqs(path)
        assert found == list(range(len(found)))
        assert set(confirmed) <= set(found)
        assert not damage(path)
        if not files.failed:
            return
    pytest.fail("there is no end of operations")


def test_a_fact_whose_sync_failed_gives_way_to_the_one_that_was_confirmed(tmp_path: Path) -> None:
    with opened(tmp_path, FailingFiles(6, after=True)) as log:  # sync_dir x2, create, append, sync, append
        log.append(NOTE, {"n": 0})
        with pytest.raises(WriteFailed):
            log.append(NOTE, {"n": "refused"})
        assert log.append(NOTE, {"n": 1}).seq == 1
    assert [f.data["n"] for f in read_facts(tmp_path) if isinstance(f, Fact)] == [0, 1]
    assert not damage(tmp_path)


# ---- a process that dies


@pytest.mark.crash
@pytest.mark.slow
def test_what_was_confirmed_survives_kill_9(tmp_path: Path, kills: int) -> None:
    program = (
        "import sys; from pathlib import Path; from scidaq.catalog import FactsLog, register_kind\n"
        "k = register_kind('test.note', 'Something to write in tests.')\n"
        "log = FactsLog.open(Path(sys.argv[1]))\n"
        "while True: print(log.append(k, {'x': 'x' * 3000}).seq, flush=True)\n"
    )
    confirmed = -1
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            for _ in range(20):
                confirmed = int(child.stdout.readline())
            child.kill()
            for line in child.stdout:
                confirmed = int(line) if line.endswith("\n") else confirmed
        found = seqs(tmp_path)
        assert found == list(range(len(found)))
        assert len(found) > confirmed
        assert not damage(tmp_path)


def test_the_log_needs_no_database_library() -> None:
    code = "import sys, scidaq.catalog; scidaq.catalog.FactsLog; print('sqlalchemy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "False\n"
