"""What recovery makes of a data directory that nobody closed: the intact prefix, sealed, and an exact book."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from scidaq.block import Block, Epoch, Gap, Ledger, RangeSet, Reason
from scidaq.query import Reader
from scidaq.store import (
    Buffer,
    File,
    PortableFiles,
    Record,
    Recovered,
    Report,
    Segment,
    SegmentName,
    known_segments,
    open_station,
    recover,
    segment_files,
    system_files,
    verify,
)
from scidaq.testing import FakeClock
from tests.store.makers import (
    MIXED,
    PLAIN,
    STATION,
    block_of,
    cut,
    epoch_of,
    journal_bytes,
    record_of,
    segment_bytes,
)

STREAM = "fake/stream"
FILES = system_files()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    _, lock = open_station(tmp_path / "data", FILES, "test", 1, True)
    lock.close()
    return tmp_path / "data"


def put(data_dir: Path, name: SegmentName, data: bytes, stream: str = STREAM) -> Path:
    path = data_dir / "streams" / stream / str(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_journal(data_dir: Path, data: bytes, number: int = 0) -> Path:
    path = data_dir / "journal" / f"{number:08d}.log"
    path.write_bytes(data)
    return path


def act(data_dir: Path, files: PortableFiles | None = None) -> Recovered:
    return recover(data_dir, files or FILES, FakeClock(), STATION, {})


def rows(data_dir: Path, blocks: Sequence[Block], stream: str = STREAM) -> RangeSet:
    """The rows that a reader gets; each is what was written."""
    found = RangeSet()
    for item in Reader(data_dir).blocks(stream) if Reader(data_dir).names() else ():
        if isinstance(item, Block):
            for truth in blocks:
                a, b = max(truth.first, item.first), min(truth.end, item.end)
                if a < b:
                    assert item.slice(a, b).same_rows(truth.slice(a, b))
            assert not found.within(item.first, item.end), "a row was given twice"
            found.add(item.first, item.end)
    return found


def quarantined(data_dir: Path) -> dict[str, tuple[bytes, dict[str, Any]]]:
    out = {}
    for path in (data_dir / "quarantine").iterdir():
        if path.suffix != ".json":
            out[path.name] = path.read_bytes(), json.loads(path.with_name(path.name + ".json").read_bytes())
    return out


def content(data_dir: Path) -> dict[str, bytes]:
    return {p.relative_to(data_dir).as_posix(): p.read_bytes() for p in data_dir.rglob("*") if p.is_file()}


def clean(data_dir: Path) -> Report:
    report = verify(data_dir)
    assert report.problems == []
    assert all(b.balanced for b in report.balances)
    return report


# ---- segments --------------------------------------------------------------------------------------------------------

BLOCKS = cut(MIXED, [3, 50, 1, 20, 9])
EPOCH = epoch_of(MIXED)
NAME = SegmentName(0, 0, 0)
GROWING = segment_bytes(EPOCH, BLOCKS, commits=[1, 2, 4], sealed=False)
"""Three commits, then a batch without one."""
WHOLE = Segment(memoryview(GROWING), Path(str(NAME)))
SEALED = segment_bytes(EPOCH, BLOCKS)


def cuts() -> list[int]:
    """Places of every class, and some at random."""
    out = {1, 8, 300, WHOLE.head - 1, WHOLE.head, len(GROWING)}
    for m in WHOLE.batches:
        out |= {m.at, m.at + 3, m.at + 64, m.at + m.header - 1, m.at + m.header, (m.at + m.end) // 2, m.end - 1, m.end}
    source = random.Random(3)
    return sorted(out | {source.randrange(WHOLE.head, len(GROWING)) for _ in range(20)})


@pytest.mark.parametrize("size", cuts())
def test_a_growing_segment_that_is_cut_off(data_dir: Path, size: int) -> None:
    path = put(data_dir, NAME, GROWING[:size])
    out = act(data_dir)
    whole = [m for m in WHOLE.batches if m.end <= size]
    if size < WHOLE.head:  # not even its schema was written
        assert not path.exists()
        ((kept, _),) = quarantined(data_dir).values()
        assert kept == GROWING[:size]
        assert out.stands == {}
        clean(data_dir)
        return
    end = whole[-1].end if whole else WHOLE.head
    assert path.read_bytes()[:end] == GROWING[:end]
    segment = Segment(memoryview(path.read_bytes()), path)
    assert segment.sealed
    assert segment.seal is not None
    assert segment.seal["by"] == "recovery"
    expected = RangeSet((m.facts["first"], m.facts["first"] + m.rows) for m in whole if m.rows)
    assert rows(data_dir, BLOCKS) == expected
    assert segment.seal["rows"] == expected.total
    if end < size:
        ((kept, said),) = quarantined(data_dir).values()
        assert kept == GROWING[end:size]
        assert (said["file"], said["offset"], said["bytes"]) == (f"streams/{STREAM}/{NAME}", end, size - end)
        assert said["reason"]
    else:
        assert quarantined(data_dir) == {}
    report = clean(data_dir)
    assert report.notes == ["there is no catalog; the next start makes it again"]
    assert report.rows == expected.total
    book = out.stands[STREAM].book
    assert (book.high, book.recorded) == (expected.end, expected)
    before = content(data_dir)
    again = act(data_dir)
    assert content(data_dir) == before
    assert (again.sealed, again.quarantined) == (0, [])
    assert again.stands[STREAM].book.snapshot(-1).ledger() == book.snapshot(-1).ledger()


@pytest.mark.parametrize(
    "tail",
    [bytes(1), bytes(64), bytes(4096), b"garbage" * 100, GROWING[:4096], b"\xff" * 64, SEALED[-4096:]],
    ids=["zero", "zeros", "page", "garbage", "head", "ones", "seal"],
)
def test_what_stands_behind_the_last_batch_goes_to_the_quarantine(data_dir: Path, tail: bytes) -> None:
    put(data_dir, NAME, GROWING + tail)
    act(data_dir)
    assert rows(data_dir, BLOCKS).total == 83
    assert [kept for kept, _ in quarantined(data_dir).values()] == [tail]
    clean(data_dir)


def test_damage_in_the_tail_costs_what_is_behind_it(data_dir: Path) -> None:
    last = [m for m in WHOLE.batches if m.rows][-1]
    for n, at in enumerate((last.at + 20, last.at + 300, last.end - 1)):
        hurt = bytearray(GROWING)
        hurt[at] ^= 1
        name = SegmentName(n, 0, 0)
        epoch = epoch_of(MIXED, number=n)
        data = segment_bytes(epoch, cut(MIXED, [3, 50, 1, 20, 9]), commits=[1, 2, 4], sealed=False)
        segment = Segment(memoryview(data), Path(str(name)))
        final = [m for m in segment.batches if m.rows][-1]
        hurt = bytearray(data)
        hurt[final.at + (at - last.at) % (final.end - final.at)] ^= 1
        put(data_dir, name, bytes(hurt))
    act(data_dir)
    assert sorted(len(k) for k, _ in quarantined(data_dir).values()) == [last.end - last.at] * 3
    report = clean(data_dir)
    assert report.rows == 3 * 74


def test_a_sealed_segment_that_the_catalog_does_not_know_is_left_alone(data_dir: Path) -> None:
    put(data_dir, NAME, SEALED)
    before = content(data_dir)
    out = act(data_dir)
    assert content(data_dir) == before
    assert [f.ranges for f in out.found] == [RangeSet([(0, 83)])]
    clean(data_dir)


@pytest.mark.parametrize("kind", ["header", "body"])
def test_a_sealed_segment_with_damage_inside_is_left_alone_and_read(data_dir: Path, kind: str) -> None:
    second = [m for m in Segment(memoryview(SEALED), Path(str(NAME))).batches if m.rows][1]
    hurt = bytearray(SEALED)
    hurt[second.at + (40 if kind == "header" else second.header + 9)] ^= 4
    put(data_dir, NAME, bytes(hurt))
    before = content(data_dir)
    for _ in range(2):
        act(data_dir)
        assert content(data_dir) == before
    assert rows(data_dir, BLOCKS) == RangeSet([(0, 3), (53, 83)])
    assert verify(data_dir).problems


def sealed_at_once(number: int) -> tuple[bytes, int]:
    """A segment whose rows and seal were one write, and where the body of its last batch lies."""
    data = segment_bytes(epoch_of(MIXED, number=number), BLOCKS, commits=())
    last = [m for m in Segment(memoryview(data), Path(str(NAME))).batches if m.rows][-1]
    return data, last.at + last.header


def test_a_seal_that_survived_a_power_cut_proves_nothing_of_its_own_write(data_dir: Path) -> None:
    data, body = sealed_at_once(0)
    put(data_dir, NAME, data[:body] + bytes(64) + data[body + 64 :])
    assert act(data_dir).sealed == 1
    assert rows(data_dir, BLOCKS) == RangeSet([(0, BLOCKS[-1].first)])
    clean(data_dir)


def test_the_same_damage_is_told_where_a_later_segment_was_begun(data_dir: Path) -> None:
    data, body = sealed_at_once(0)
    put(data_dir, NAME, data[:body] + bytes(64) + data[body + 64 :])
    put(data_dir, SegmentName(1, 0, 0), segment_bytes(epoch_of(MIXED, number=1), BLOCKS))
    before = content(data_dir)
    act(data_dir)
    assert content(data_dir) == before
    assert verify(data_dir).problems


def test_durable_rows_behind_damage_stay_and_are_read(data_dir: Path) -> None:
    """Only a torn write is cut away: what was durable before it stays, and so does what is behind damage in it."""
    second = [m for m in WHOLE.batches if m.rows][1]
    hurt = bytearray(GROWING)
    hurt[second.at + second.header + 9] ^= 4
    hurt[second.at + 40] ^= 4
    put(data_dir, NAME, bytes(hurt))
    act(data_dir)
    assert rows(data_dir, BLOCKS) == RangeSet([(0, 3), (53, 83)])
    assert verify(data_dir).problems
    before = content(data_dir)
    act(data_dir)
    assert content(data_dir) == before


def test_a_torn_end_of_stream_is_written_again(data_dir: Path) -> None:
    for n, size in enumerate((len(SEALED) - 8, len(SEALED) - 5, len(SEALED) - 100)):
        data = segment_bytes(epoch_of(MIXED, number=n), BLOCKS)
        put(data_dir, SegmentName(n, 0, 0), data[: size - len(SEALED) + len(data)])
    assert act(data_dir).sealed == 3
    assert clean(data_dir).rows == 3 * 83


def test_a_file_that_was_never_named_is_removed(data_dir: Path) -> None:
    path = put(data_dir, NAME, GROWING).with_name(".000000-00000000000083-0000.arrows.tmp")
    path.write_bytes(GROWING[:4096])
    act(data_dir)
    assert not path.exists()


def test_what_the_operator_keeps_is_not_taken_for_a_file_that_was_never_named(data_dir: Path) -> None:
    ours = [data_dir / ".station.json.tmp", data_dir / "facts" / ".x.tmp", data_dir / "quarantine" / ".y.tmp"]
    (data_dir / "config").mkdir()
    others = [data_dir / "config" / ".local.toml.tmp", data_dir / ".notes.tmp"]
    for path in (*ours, *others):
        path.write_bytes(b"x")
    act(data_dir)
    assert not any(p.exists() for p in ours)
    assert all(p.exists() for p in others)


def test_a_segment_that_holds_nothing_yet(data_dir: Path) -> None:
    put(data_dir, NAME, GROWING[: WHOLE.head])
    out = act(data_dir)
    assert out.stands[STREAM].book.high == 0
    assert out.stands[STREAM].generation == 1
    assert clean(data_dir).rows == 0


# ---- books -----------------------------------------------------------------------------------------------------------


def test_rows_behind_the_last_commit_are_booked(data_dir: Path) -> None:
    """A hole among them has its gap record, late rows fill it, and all of it balances."""
    blocks = [block_of(PLAIN, 0, 10), block_of(PLAIN, 15, 5), block_of(PLAIN, 10, 2)]
    gap = Gap(STREAM, 0, 10, 15, Reason.SOURCE, open=True)
    put(data_dir, NAME, segment_bytes(epoch_of(PLAIN), blocks, commits=[1], sealed=False, gaps={1: [gap]}))
    act(data_dir)
    (balance,) = clean(data_dir).balances
    assert balance.ledger == Ledger(20, 17, 3)


def test_a_second_segment_without_a_commit_goes_on_with_the_book_of_the_first(data_dir: Path) -> None:
    epoch = epoch_of(PLAIN)
    put(data_dir, NAME, segment_bytes(epoch, cut(PLAIN, [100])))
    later = [block_of(PLAIN, 100, 50)]
    put(data_dir, SegmentName(0, 100, 0), segment_bytes(epoch, later, commits=[], sealed=False))
    out = act(data_dir)
    (balance,) = clean(data_dir).balances
    assert balance.ledger == Ledger(150, 150)
    assert out.stands[STREAM].book.snapshot(-1).ledger() == Ledger(150, 150)


def test_the_book_of_a_segment_that_the_catalog_knows_goes_on_too(data_dir: Path) -> None:
    from scidaq.catalog import Catalog
    from scidaq.store import catch_up

    epoch = epoch_of(PLAIN)
    put(data_dir, NAME, segment_bytes(epoch, cut(PLAIN, [100])))
    with Catalog.open(data_dir) as catalog:
        catch_up(catalog, act(data_dir).found, data_dir)
        later = [block_of(PLAIN, 100, 50)]
        put(data_dir, SegmentName(0, 100, 0), segment_bytes(epoch, later, commits=[], sealed=False))
        known = known_segments(catalog, data_dir)
        assert list(known[STREAM]) == [str(NAME)]
        out = recover(data_dir, FILES, FakeClock(), STATION, known)
        catch_up(catalog, out.found, data_dir)
    (balance,) = clean(data_dir).balances
    assert balance.ledger == Ledger(150, 150)


def test_rows_left_out_before_rows_without_a_commit_do_not_become_a_hole_that_nobody_explains(data_dir: Path) -> None:
    """The commit that would have said that they were left out is lost; a gap says so instead."""
    put(data_dir, NAME, segment_bytes(epoch_of(PLAIN), [block_of(PLAIN, 100, 50)], commits=[], sealed=False))
    act(data_dir)
    (balance,) = clean(data_dir).balances
    assert balance.ledger == Ledger(150, 50, 100)
    gaps = [i for i in Reader(data_dir).blocks(STREAM) if isinstance(i, Gap)]
    assert [(g.first, g.end, g.reason) for g in gaps] == [(0, 100, Reason.RESTART)]


def test_duplicates_and_rows_left_out_survive(data_dir: Path) -> None:
    base = Ledger(10, 0, 0, 10)
    data = segment_bytes(
        epoch_of(PLAIN), cut(PLAIN, [20]), sealed=False, base=base, left_out={0: [(20, 30), (40, 45)]}, gaps={}
    )
    put(data_dir, NAME, data)
    out = act(data_dir)
    ledger = out.stands[STREAM].book.snapshot(-1).ledger()
    assert (ledger.duplicates, ledger.left_out, ledger.imbalance) == (10, 15, 0)


# ---- the journal -----------------------------------------------------------------------------------------------------

SLOW = epoch_of(PLAIN, "slow/s")


def slow(first: int, count: int) -> Block:
    return block_of(PLAIN, first, count, stream="slow/s")


def slow_journal() -> tuple[bytes, list[Record]]:
    gap = Gap("slow/s", 0, 10, 15, Reason.SOURCE)
    records = [
        record_of(SLOW, slow(0, 10), 10),
        record_of(SLOW, slow(15, 5), 15, [gap]),
        record_of(SLOW, slow(20, 5), 20),
        record_of(SLOW, slow(25, 5), 25),
    ]
    return journal_bytes([[r] for r in records]), records


def test_every_cut_of_a_journal_keeps_its_whole_commits(tmp_path: Path) -> None:
    from scidaq.store import scan

    data, records = slow_journal()
    ends = [m.end for m in scan(memoryview(data), tmp_path)]
    source = random.Random(4)
    sizes = {n for e in ends for n in (e - 1, e, e + 1, e + 100) if 0 < n <= len(data)}
    for size in sorted(sizes | {source.randrange(1, len(data)) for _ in range(10)}):
        place = tmp_path / str(size)
        open_station(place, FILES, "test", 1, True)[1].close()
        put_journal(place, data[:size])
        out = act(place)
        whole = [r for r, e in zip(records, ends[1:], strict=True) if e <= size]
        kept = max((e for e in ends if e <= size), default=0)
        expected = RangeSet((r.block.first, r.block.end) for r in whole if r.block)
        found = rows(place, [r.block for r in records if r.block], "slow/s") if whole else RangeSet()
        assert found == expected, size
        assert [c for c, _ in quarantined(place).values()] == ([data[kept:size]] if kept < size else []), size
        clean(place)
        if whole:
            book = out.stands["slow/s"].book
            assert book.recorded == expected
            assert book.snapshot(-1).ledger() == whole[-1].ledger
        before = content(place)
        act(place)
        assert content(place) == before


def test_damage_in_the_middle_of_a_journal_hides_nothing_behind_it(data_dir: Path) -> None:
    from scidaq.store import scan

    data, records = slow_journal()
    messages = list(scan(memoryview(data), data_dir))
    hurt = bytearray(data)
    hurt[messages[2].at + 900] ^= 8
    put_journal(data_dir, bytes(hurt))
    act(data_dir)
    found = rows(data_dir, [r.block for r in records if r.block], "slow/s")
    assert found.within(0, 10) == [(0, 10)]
    report = verify(data_dir)
    assert report.problems or report.notes


def test_rows_of_the_journal_that_a_segment_has_are_not_taken_twice(data_dir: Path) -> None:
    data, _ = slow_journal()
    put_journal(data_dir, data)
    gap = Gap("slow/s", 0, 10, 15, Reason.SOURCE)
    moved = segment_bytes(SLOW, [slow(0, 10), slow(15, 7)], gaps={1: [gap]})
    put(data_dir, NAME, moved, "slow/s")
    out = act(data_dir)
    stand = out.stands["slow/s"]
    assert [(r.block.first, r.block.end) for r in stand.journalled if r.block] == [(22, 25), (25, 30)]
    assert rows(data_dir, [slow(0, 30)], "slow/s") == RangeSet([(0, 10), (15, 30)])
    clean(data_dir)


def test_a_gap_of_the_journal_is_not_lost_with_the_commit_that_would_have_moved_it(data_dir: Path) -> None:
    """All rows have moved, and the commit behind them, which has the gap record, was torn."""
    data, _ = slow_journal()
    put_journal(data_dir, data)
    moved = segment_bytes(SLOW, [slow(0, 10), slow(15, 15)], commits=[1], sealed=False)
    path = put(data_dir, NAME, moved, "slow/s")
    out = act(data_dir)
    clean(data_dir)
    # Once the journal has served, the record must still be somewhere.
    kept = [g for r in out.stands["slow/s"].journalled for g in r.gaps]
    kept += Segment(memoryview(path.read_bytes()), path).gaps()
    assert any((g.first, g.end) == (10, 15) for g in kept)


def test_several_streams_and_files_of_the_journal(data_dir: Path) -> None:
    other = epoch_of(MIXED, "slow/t")
    a = record_of(SLOW, slow(0, 10), 10)
    b = record_of(other, block_of(MIXED, 0, 4, stream="slow/t"), 4)
    c = record_of(SLOW, slow(10, 5), 15)
    put_journal(data_dir, journal_bytes([[a, b]], 3), 3)
    put_journal(data_dir, journal_bytes([[c]], 4), 4)
    out = act(data_dir)
    assert [n for n, _ in out.journals] == [3, 4]
    assert out.stands["slow/s"].book.recorded == RangeSet([(0, 15)])
    assert out.stands["slow/t"].book.recorded == RangeSet([(0, 4)])
    assert out.stands["slow/s"].oldest_journal == 3
    clean(data_dir)


# ---- interrupted -----------------------------------------------------------------------------------------------------


class Interrupted(PortableFiles):
    """Does `left` more things, then nothing: as a power cut would have it."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("the power is gone")

    def create(self, path: Path, *, direct: bool = False) -> File:
        self._step()
        return super().create(path)

    def append(self, file: File, pieces: Sequence[Buffer]) -> None:
        if self.left == 0:  # half of it gets there
            whole = b"".join(bytes(p) for p in pieces)
            super().append(file, [whole[: len(whole) // 2]])
        self._step()
        super().append(file, pieces)

    def sync(self, file: File) -> None:
        self._step()
        super().sync(file)

    def cut(self, path: Path, size: int) -> None:
        self._step()
        super().cut(path, size)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def sync_dir(self, path: Path) -> None:
        self._step()
        super().sync_dir(path)


TORN_JOURNAL = slow_journal()[0][:-3000]


def torn(data_dir: Path) -> None:
    put(data_dir, NAME, GROWING[:-200])
    put(data_dir, SegmentName(1, 0, 0), b"\0" * 5000)
    put_journal(data_dir, TORN_JOURNAL)


def test_recovery_may_be_interrupted_anywhere(tmp_path: Path) -> None:
    def made(name: str) -> Path:
        place = tmp_path / name
        open_station(place, FILES, "test", 1, True)[1].close()
        torn(place)
        return place

    reference = made("whole")
    expected = act(reference)
    aside = sorted(c for c, _ in quarantined(reference).values())
    for k in range(1000):
        place = made(str(k))
        try:
            act(place, Interrupted(k))
        except OSError:
            out = act(place)
        else:
            break
        assert {s: b.book.recorded for s, b in out.stands.items()} == {
            s: b.book.recorded for s, b in expected.stands.items()
        }
        assert rows(place, BLOCKS) == rows(reference, BLOCKS)
        kept = sorted(c for c, _ in quarantined(place).values())
        assert set(aside) <= set(kept), f"interrupted at {k}: something is not in the quarantine"
        assert len([c for c in kept if c in aside]) == len(aside), f"interrupted at {k}: put aside twice"
        clean(place)
    assert k > 20


def test_the_epoch_of_a_lost_segment_leaves_no_hole_in_the_numbers(data_dir: Path) -> None:
    """A segment without a schema goes whole; its epoch was never durable, so its number is free."""
    put(data_dir, NAME, GROWING)
    put(data_dir, SegmentName(1, 0, 0), b"\0" * 5000)
    out = act(data_dir)
    assert out.stands[STREAM].book.epoch.number == 0
    clean(data_dir)


def test_the_number_of_a_damaged_epoch_that_had_rows_is_not_given_again(data_dir: Path) -> None:
    put(data_dir, NAME, GROWING)
    data = bytearray(segment_bytes(epoch_of(PLAIN, number=1), [block_of(PLAIN, 0, 10, epoch=1)]))
    data[0] ^= 1
    put(data_dir, SegmentName(1, 0, 0), bytes(data))
    for _ in range(2):  # the second time it has been put aside
        out = act(data_dir)
        assert out.stands[STREAM].book.epoch.number == 0
        assert out.next_epochs == {STREAM: 2}


def epochs(count: int) -> Callable[[int], Epoch]:
    return lambda n: epoch_of(PLAIN, number=n % count)


def test_only_the_newest_epoch_is_gone_on_with(data_dir: Path) -> None:
    for n in range(3):
        data = segment_bytes(epochs(3)(n), [block_of(PLAIN, 0, 10 + n, epoch=n)], sealed=n < 2)
        put(data_dir, SegmentName(n, 0, 0), data)
    out = act(data_dir)
    book = out.stands[STREAM].book
    assert (book.epoch.number, book.high) == (2, 12)
    assert len(segment_files(data_dir / "streams" / STREAM)) == 3
    clean(data_dir)
