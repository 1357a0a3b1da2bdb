"""Damage is found, whatever it is; nothing wrong is ever read; what is intact before and behind it still is."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from scidaq.block import Block, Epoch, Ledger, RangeSet
from scidaq.errors import Corrupt
from scidaq.store import Damage, Record, Segment, read_journal, scan, wire
from tests.store.makers import (
    IMAGE,
    MIXED,
    PATH,
    PLAIN,
    SCHEMAS,
    block_of,
    cut,
    epoch_of,
    journal_bytes,
    journal_of,
    record_of,
    segment_bytes,
)


def damages(data: bytes) -> list[Damage]:
    return [i for i in scan(memoryview(data), PATH) if isinstance(i, Damage)]


def messages(data: bytes) -> list[wire.Message]:
    return [i for i in scan(memoryview(data), PATH) if not isinstance(i, Damage)]


def rows_of(data: bytes, blocks: list[Block], epoch: Epoch, check: bool) -> RangeSet:
    """The rows that can be decoded; every one of them has the value that was written."""
    segment = Segment(memoryview(data), PATH, epoch, check)
    found = RangeSet()
    for message in segment.batches:
        if message.rows == 0:
            continue
        try:
            block = segment.block(message)
        except Corrupt:
            continue
        truth = next(b for b in blocks if b.first <= block.first and block.end <= b.end)
        assert block.same_rows(truth.slice(block.first, block.end)), "a wrong value was read"
        assert (block.time_ns() == truth.slice(block.first, block.end).time_ns()).all(), "a wrong time was read"
        found.add(block.first, block.end)
    return found


def flip(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << (bit % 8)
    return bytes(out)


SIZES = {
    "plain": [1, 2, 10_000, 100, 1],
    "codes": [1, 3000, 1, 17],
    "mixed": [1, 1, 40, 700, 3, 2],
    "image": [1, 5, 60, 2],
}


@pytest.mark.parametrize("kind", SCHEMAS)
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "growing"])
def test_every_flipped_bit_is_found(kind: str, sealed: bool) -> None:
    schema = SCHEMAS[kind]
    blocks, epoch = cut(schema, SIZES[kind]), epoch_of(schema)
    data = segment_bytes(epoch, blocks, sealed=sealed)
    source = random.Random(f"{kind}{sealed}")
    spans = [(m.at, m.end) for m in messages(data)]
    if sealed:
        spans.append((len(data) - 8, len(data)))
    assert not damages(data)
    intact = [(b, m) for b, m in zip(blocks, (m for m in messages(data) if m.rows), strict=True)]
    for n in range(160):
        # Every second one in a message chosen at random, so that small ones and the marker at the end get their share.
        first, end = spans[n // 2 % len(spans)] if n % 2 else (0, len(data))
        bit = source.randrange(8 * first, 8 * end)
        hurt = flip(data, bit)
        found = damages(hurt)
        assert found, f"bit {bit % 8} of byte {bit // 8} flipped, and nobody saw it"
        assert any(d.at <= bit // 8 < d.end for d in found), f"byte {bit // 8} is not in {found}"
        expected = RangeSet((b.first, b.end) for b in blocks)
        for b, m in intact:
            if m.at <= bit // 8 < m.end:
                expected.remove(b.first, b.end)
        for check in (True, False):
            assert rows_of(hurt, blocks, epoch, check) == expected, f"byte {bit // 8}, check={check}"


def test_every_bit_of_a_small_segment_matters() -> None:
    """All of them, in the headers: the texts, the tables of the flatbuffer, the padding, the digits of the checksum."""
    blocks, epoch = cut(PLAIN, [1]), epoch_of(PLAIN)
    data = segment_bytes(epoch, blocks)
    batch = messages(data)[1]
    for byte in (*range(batch.at, batch.end), *range(len(data) - 8, len(data))):
        for bit in range(8):
            assert damages(flip(data, 8 * byte + bit)), f"bit {bit} of byte {byte} flipped, and nobody saw it"
    head = messages(data)[0]
    digits = head.at + head.crc_at
    for byte in (*range(400), *range(digits, digits + 8), *range(head.end - 64, head.end)):
        assert damages(flip(data, 8 * byte + byte % 8)), f"byte {byte} was changed, and nobody saw it"


def test_the_digits_of_a_checksum_are_what_they_were_written_as() -> None:
    """A capital letter, or a blank for a leading zero, is the same number and another byte."""
    for seed in range(4):
        data = segment_bytes(epoch_of(PLAIN), cut(PLAIN, [2], seed=seed))
        for m in messages(data):
            for k in range(m.at + m.crc_at, m.at + m.crc_at + 8):
                for bit in range(8):
                    assert damages(flip(data, 8 * k + bit))


# ---- cut off ---------------------------------------------------------------------------------------------------------

BLOCKS = cut(MIXED, [3, 50, 1, 20])
EPOCH = epoch_of(MIXED)
GROWING = segment_bytes(EPOCH, BLOCKS, sealed=False)
SEALED = segment_bytes(EPOCH, BLOCKS)


def places(data: bytes) -> dict[str, int]:
    """A place of every class at which a file may have been cut off."""
    head, *batches = messages(data)
    third = [b for b in batches if b.rows][2]
    commit = batches[batches.index(third) + 1]
    return {
        "nothing": 0,
        "first byte": 1,
        "marker": 4,
        "size of the schema": 8,
        "inside the schema": 200,
        "last byte of the schema": head.end - 1,
        "behind the schema": head.end,
        "marker of a batch": third.at + 3,
        "header of a batch": third.at + 100,
        "end of a header": third.at + third.header,
        "body of a batch": third.at + third.header + 5,
        "last byte of a body": third.end - 1,
        "behind a batch": third.end,
        "inside a commit": commit.at + 300,
        "last byte of a commit": commit.end - 1,
        "behind a commit": commit.end,
    }


@pytest.mark.parametrize("place", places(GROWING))
def test_a_growing_file_that_is_cut_off_keeps_its_intact_prefix(place: str) -> None:
    size = places(GROWING)[place]
    whole = [m for m in messages(GROWING) if m.end <= size]
    segment = Segment(memoryview(GROWING[:size]), PATH)
    assert segment.batches == whole[1:]
    assert segment.keep == (whole[-1].end if whole else 0)
    assert bool(segment.damage) == (segment.keep < size or size == 0)
    assert not segment.sealed
    assert segment.epoch == (EPOCH if whole else None)


@pytest.mark.parametrize("back", [1, 4, 7, 8, 9, 100, 4096])
def test_a_sealed_file_that_is_cut_off_is_no_longer_sealed(back: int) -> None:
    segment = Segment(memoryview(SEALED[:-back]), PATH)
    assert not segment.sealed
    assert rows_of(SEALED[:-back], BLOCKS, EPOCH, check=True).total == 74


# ---- put in another order --------------------------------------------------------------------------------------------


def pieces(data: bytes) -> list[bytes]:
    return [data[m.at : m.end] for m in messages(data)]


def swapped(parts: list[bytes]) -> list[bytes]:
    return [*parts[:1], parts[3], parts[2], parts[1], *parts[4:]]


def repeated(parts: list[bytes]) -> list[bytes]:
    return [*parts[:4], parts[3], *parts[4:]]


def removed(parts: list[bytes]) -> list[bytes]:
    return [*parts[:3], *parts[4:]]


def first_removed(parts: list[bytes]) -> list[bytes]:
    return [parts[0], *parts[2:]]


@pytest.mark.parametrize("act", [swapped, repeated, removed, first_removed])
def test_batches_in_another_order_are_found_and_still_read(act: Callable[[list[bytes]], list[bytes]]) -> None:
    parts = act(pieces(SEALED))
    hurt = b"".join(parts) + wire.EOS
    assert any("swapped, repeated or missing" in d.reason for d in damages(hurt))
    there = RangeSet((b.first, b.end) for b, p in zip(BLOCKS, pieces(SEALED)[1::2], strict=False) if p in parts)
    assert rows_of(hurt, BLOCKS, EPOCH, check=True) == there
    assert not Segment(memoryview(hurt), PATH).sealed


def test_a_batch_of_another_segment_is_not_taken() -> None:
    other = pieces(segment_bytes(EPOCH, cut(MIXED, [3, 50, 1, 20], seed=9)))
    for at in range(1, len(other)):
        parts = pieces(SEALED)
        parts[at] = other[at]
        hurt = b"".join(parts) + wire.EOS
        assert damages(hurt)
        intact = RangeSet((b.first, b.end) for i, b in enumerate(BLOCKS) if 2 * i + 1 != at)
        assert rows_of(hurt, BLOCKS, EPOCH, check=True) == intact
        assert rows_of(hurt, BLOCKS, EPOCH, check=False) == intact


def test_a_schema_of_another_segment_does_not_lend_its_name() -> None:
    other = pieces(segment_bytes(EPOCH, BLOCKS))
    hurt = b"".join([other[0], *pieces(SEALED)[1:]]) + wire.EOS
    assert damages(hurt)


@pytest.mark.parametrize("at", [1, 4, 8])
def test_an_early_end_of_stream_hides_nothing(at: int) -> None:
    parts = pieces(SEALED)
    hurt = b"".join([*parts[:at], wire.EOS.ljust(64, b"\0"), *parts[at:]]) + wire.EOS
    assert damages(hurt)
    assert rows_of(hurt, BLOCKS, EPOCH, check=True).total == 74


@pytest.mark.parametrize("size", [8, 64, 100, 4096, 8192])
@pytest.mark.parametrize("check", [True, False])
def test_zeros_in_the_middle_cost_what_they_cover(size: int, check: bool) -> None:
    second = [m for m in messages(SEALED) if m.rows][1]
    for at in (second.at, second.at + second.header - 4, second.end - 64):
        hurt = SEALED[:at] + bytes(size) + SEALED[at + size :]
        lost = RangeSet(
            (b.first, b.end)
            for b, m in zip(BLOCKS, (m for m in messages(SEALED) if m.rows), strict=True)
            if m.at < at + size and at < m.end and hurt[m.at : m.end] != SEALED[m.at : m.end]
        )
        assert damages(hurt)
        expected = RangeSet([(0, 74)])
        for first, end in lost:
            expected.remove(first, end)
        assert rows_of(hurt, BLOCKS, EPOCH, check) == expected


@pytest.mark.parametrize("garbage", [b"\0", bytes(4096), b"garbage!" * 20, wire.EOS, SEALED[4096:8192]])
def test_bytes_behind_the_end_are_damage(garbage: bytes) -> None:
    assert damages(SEALED + garbage)
    assert not Segment(memoryview(SEALED + garbage), PATH).sealed
    assert rows_of(SEALED + garbage, BLOCKS, EPOCH, check=True).total == 74


def test_a_page_that_was_never_written_is_found() -> None:
    """A page of zeros, or of an older file, anywhere."""
    old = segment_bytes(EPOCH, cut(MIXED, [3, 50, 1, 20], seed=5))
    for at in range(0, len(SEALED), 4096):
        for page in (bytes(4096), old[at : at + 4096]):
            hurt = SEALED[:at] + page + SEALED[at + 4096 :]
            assert damages(hurt)
            rows_of(hurt, BLOCKS, EPOCH, check=True)
            rows_of(hurt, BLOCKS, EPOCH, check=False)


def test_a_lost_schema_can_be_lent() -> None:
    """Where another segment of the epoch has the schema, the rows behind a damaged one are read all the same."""
    hurt = flip(SEALED, 8 * 700)
    assert rows_of(hurt, BLOCKS, EPOCH, check=True).total == 74
    assert rows_of(hurt, BLOCKS, EPOCH, check=False).total == 74
    segment = Segment(memoryview(hurt), PATH)
    assert segment.epoch is None
    assert segment.damage[0].at == 0


# ---- the journal -----------------------------------------------------------------------------------------------------


def same(record: Record, other: Record) -> bool:
    plain = (record.epoch, record.high, record.ledger, record.gaps, record.left_out)
    if plain != (other.epoch, other.high, other.ledger, other.gaps, other.left_out):
        return False
    if record.block is None or other.block is None:
        return record.block is other.block
    return record.block.same_rows(other.block) and bool((record.block.time_ns() == other.block.time_ns()).all())


def read(data: bytes) -> tuple[list[Record], list[Damage]]:
    items = list(read_journal(memoryview(data), PATH))
    return [i for i in items if not isinstance(i, Damage)], [i for i in items if isinstance(i, Damage)]


def test_a_journal_reads_back() -> None:
    data, commits = journal_of()
    records, damage = read(data)
    assert not damage
    assert all(same(a, b) for a, b in zip(records, [r for c in commits for r in c], strict=True))


def test_every_flipped_bit_of_a_journal_is_found() -> None:
    data, commits = journal_of()
    source = random.Random(1)
    spans = [(m.at, m.end) for m in messages(data)]
    for n in range(140):
        first, end = spans[n // 2 % len(spans)] if n % 2 else (0, len(data))
        bit = source.randrange(8 * first, 8 * end)
        records, damage = read(flip(data, bit))
        assert any(d.at <= bit // 8 < d.end for d in damage), f"byte {bit // 8} is not in {damage}"
        hurt = next(i for i, m in enumerate(messages(data)) if m.at <= bit // 8 < m.end)
        if hurt >= 2:  # neither the schema nor the commit that announces the streams
            intact = [r for i, c in enumerate(commits) if i + 1 != hurt for r in c]
            assert len(records) == len(intact)
            assert all(same(a, b) for a, b in zip(records, intact, strict=True))
        for record in records:
            assert any(same(record, r) for c in commits for r in c)


def test_a_lost_announcement_costs_its_own_stream_only() -> None:
    early, late = epoch_of(PLAIN, "slow/early"), epoch_of(PLAIN, "slow/late")
    a = [record_of(early, block_of(PLAIN, 4 * n, 4, stream="slow/early"), 4 * (n + 1)) for n in range(4)]
    b = [record_of(late, block_of(PLAIN, 4 * n, 4, stream="slow/late"), 4 * (n + 1)) for n in range(3)]
    data = journal_bytes([[a[0]], [b[0]], [b[1], a[1]], [a[2], b[2]], [a[3]]])
    second = messages(data)[2]
    records, damage = read(flip(data, 8 * (second.end - 2000)))
    assert damage
    assert [r.epoch.stream for r in records] == ["slow/early"] * 4


@pytest.mark.parametrize("kept", range(6))
def test_a_journal_that_is_cut_off_keeps_its_whole_commits(kept: int) -> None:
    data, _ = journal_of()
    found = messages(data)
    for size in (found[kept + 1].at + 1, found[kept + 1].at + 500, found[kept + 1].end - 1):
        records, damage = read(data[:size])
        assert len(damage) == 1
        assert len(records) == 3 * kept
    assert not read(data[: found[kept].end])[1]


def test_commits_of_a_journal_in_another_order_are_found() -> None:
    data, _ = journal_of()
    for act in (swapped, repeated, removed):
        assert read(b"".join(act(pieces(data))))[1]
    other, _ = journal_of(schema=IMAGE)
    parts = pieces(data)
    parts[3] = pieces(other)[3]
    assert read(b"".join(parts))[1]


def test_a_book_that_lost_rows_to_damage_is_newer_than_that_of_before_and_says_so_in_a_journal() -> None:
    before, after = Ledger(300, 280, 20), Ledger(300, 230, 70, lost=50)
    later = Ledger(300, 250, 50, lost=50)  # some rows of the gap came late
    assert before.age < after.age < later.age
    assert Ledger(*after.as_list()) == after
    assert len(before.as_list()) == 6, "as it was always written"
    records = [Record(EPOCH, None, 300, book) for book in (before, after)]
    found, damage = read(journal_bytes([records]))
    assert not damage
    assert [r.ledger for r in found] == [before, after]
