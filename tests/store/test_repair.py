"""Repair: what is readable is kept, what is lost is told to the row, nothing is deleted, and it can be interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from scidaq.block import Block, Gap, Ledger, RangeSet, Reason
from scidaq.catalog import Catalog, Fact, FactsLog, read_facts
from scidaq.errors import ForeignDirectory, StationBusy
from scidaq.query import Reader
from scidaq.store import (
    Buffer,
    Damage,
    File,
    PortableFiles,
    Report,
    Segment,
    SegmentName,
    catch_up,
    open_station,
    recover,
    scan,
    system_files,
    verify,
)
from scidaq.store.directory import STARTED, STOPPED
from scidaq.store.durable import DurableMap, Mark
from scidaq.store.journal import JournalWriter
from scidaq.store.quarantine import quarantined
from scidaq.store.repairing import Repaired, plan_repair, repair
from scidaq.testing import FakeClock
from tests.store.makers import PLAIN, STATION, block_of, epoch_of, record_of, segment_bytes

FAST, SLOW = "fake/stream", "slow/s"
FILES = system_files()
SECOND = SegmentName(0, 100, 0)


def fast(epoch: int, first: int, rows: int = 100) -> bytes:
    """A sealed segment of five batches of equal size, its book that of an epoch without losses."""
    sizes = [rows // 5] * 5
    blocks = [block_of(PLAIN, first + sum(sizes[:i]), n, epoch=epoch) for i, n in enumerate(sizes)]
    return segment_bytes(
        epoch_of(PLAIN, number=epoch), blocks, name=SegmentName(epoch, first, 0), base=Ledger(first, first)
    )


def put(data_dir: Path, stream: str, name: SegmentName, content: bytes) -> Path:
    path = data_dir / "streams" / stream / str(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def build(data_dir: Path, catalog: bool = True, stopped: bool = True) -> None:
    """Three segments in epoch 0 and one in epoch 1, of 100 rows each; a journal with 20 rows; facts; a catalog."""
    _, lock = open_station(data_dir, FILES, "lab", 1, True)
    lock.close()
    said = orjson.loads((data_dir / "station.json").read_bytes())
    (data_dir / "station.json").write_bytes(orjson.dumps(said | {"uuid": STATION}))
    for first in (0, 100, 200):
        put(data_dir, FAST, SegmentName(0, first, 0), fast(0, first))
    put(data_dir, FAST, SegmentName(1, 0, 0), fast(1, 0))
    slow = epoch_of(PLAIN, SLOW)
    records = [record_of(slow, block_of(PLAIN, 5 * n, 5, stream=SLOW), 5 * (n + 1)) for n in range(4)]
    writer = JournalWriter(0, STATION, 1)
    content = writer.head
    for record in records:
        writer.synced = len(content)
        content += writer.encode([record])
    (data_dir / "journal" / "00000000.log").write_bytes(content)
    with FactsLog.open(data_dir / "facts", FakeClock()) as log:
        log.append(STARTED, {"name": "lab"})
        for n in range(5):
            log.append(STARTED, {"name": "lab", "n": n})
        if stopped:
            log.append(STOPPED, {"name": "lab"})
        if catalog:
            with Catalog.open(data_dir) as opened:
                opened.project_facts(log)
                catch_up(opened, recover(data_dir, FILES, FakeClock(), STATION, {}).found, data_dir)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound store, to be copied."""
    place = tmp_path_factory.mktemp("sound") / "data"
    build(place)
    assert not verify(place).problems
    return place


@pytest.fixture
def data_dir(model: Path, tmp_path: Path) -> Path:
    shutil.copytree(model, tmp_path / "data")
    return tmp_path / "data"


def mend(data_dir: Path, files: PortableFiles | None = None, rebuild_catalog: bool = False) -> Repaired:
    return repair(data_dir, files or FILES, FakeClock(), rebuild_catalog)


def everything(data_dir: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every entry: kind, time of change, content."""
    out = {}
    for path in (data_dir, *data_dir.rglob("*")):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        out[path.relative_to(data_dir).as_posix()] = (stat.st_mode, stat.st_mtime_ns, content)
    return out


def in_order(data_dir: Path) -> Report:
    """Nothing is left to do, nothing is wrong, every book balances."""
    assert plan_repair(data_dir, FILES).steps == ()
    report = verify(data_dir)
    assert report.problems == []
    assert all(b.balanced for b in report.balances)
    return report


def rows(data_dir: Path, stream: str = FAST, epoch: int = 0) -> RangeSet:
    """The rows that a reader gets, each as it was written."""
    found = RangeSet()
    for item in Reader(data_dir).blocks(stream):
        if isinstance(item, Block) and item.epoch == epoch:
            assert item.same_rows(block_of(PLAIN, item.first, item.rows, stream=stream, epoch=epoch))
            found.add(item.first, item.end)
    return found


def gaps(data_dir: Path, stream: str = FAST) -> list[tuple[int, int, int, Reason]]:
    return [(g.epoch, g.first, g.end, g.reason) for g in Reader(data_dir).blocks(stream) if isinstance(g, Gap)]


def change(path: Path, at: int, by: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= by
    path.write_bytes(content)


def batch(path: Path, n: int) -> tuple[int, int]:
    """Where batch `n` with rows begins in a segment, and where its body does."""
    message = [m for m in Segment(memoryview(path.read_bytes()), path).batches if m.rows][n]
    return message.at, message.at + message.header


# ---- damage, one kind each -------------------------------------------------------------------------------------------


def segment(data_dir: Path, name: SegmentName = SECOND) -> Path:
    return data_dir / "streams" / FAST / str(name)


def damaged_batch(data_dir: Path) -> None:
    change(segment(data_dir), batch(segment(data_dir), 2)[1] + 5)


def damaged_batch_of_the_newest(data_dir: Path) -> None:
    path = segment(data_dir, SegmentName(1, 0, 0))
    change(path, batch(path, 1)[1] + 5)


def damaged_schema(data_dir: Path) -> None:
    change(segment(data_dir), 700)


def damaged_schema_alone(data_dir: Path) -> None:
    change(segment(data_dir, SegmentName(1, 0, 0)), 700)


def damaged_schema_everywhere(data_dir: Path) -> None:
    remove_catalog(data_dir)
    damaged_schema_alone(data_dir)


def schema_of_the_middle_epoch(data_dir: Path) -> None:
    put(data_dir, FAST, SegmentName(2, 0, 0), fast(2, 0))
    damaged_schema_everywhere(data_dir)


def missing_segment(data_dir: Path) -> None:
    segment(data_dir).unlink()


def missing_newest_segment(data_dir: Path) -> None:
    segment(data_dir, SegmentName(1, 0, 0)).unlink()


def cut_off_segment(data_dir: Path) -> None:
    path = segment(data_dir, SegmentName(1, 0, 0))
    path.write_bytes(path.read_bytes()[: batch(path, 3)[1] + 10])


def empty_segment(data_dir: Path) -> None:
    segment(data_dir).write_bytes(b"")


def copied_segment(data_dir: Path) -> None:
    shutil.copy(segment(data_dir), segment(data_dir, SegmentName(0, 100, 7)))


def misplaced_segment(data_dir: Path) -> None:
    other = data_dir / "streams" / "fake" / "elsewhere"
    other.mkdir()
    segment(data_dir).rename(other / str(SegmentName(3, 0, 0)))


def no_station_file(data_dir: Path) -> None:
    (data_dir / "station.json").unlink()


def damaged_station_file(data_dir: Path) -> None:
    (data_dir / "station.json").write_bytes(b'{"uuid": 5')


def damaged_fact(data_dir: Path) -> None:
    path = data_dir / "facts" / "00000000.jsonl"
    change(path, path.read_bytes().index(b'"n":2') + 4, 7)


def missing_facts(data_dir: Path) -> None:
    path = data_dir / "facts" / "00000000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[4:]))


def damaged_journal(data_dir: Path) -> None:
    path = data_dir / "journal" / "00000000.log"
    third = list(scan(memoryview(path.read_bytes()), path))[3]
    assert not isinstance(third, Damage)
    change(path, third.end - 100)


def strangers(data_dir: Path) -> None:
    for place in ("streams/README", "streams/fake/stream/notes.txt", "journal/x.bak", "facts/old"):
        (data_dir / place).write_bytes(b"what is this?")


def unfinished_files(data_dir: Path) -> None:
    for place in (".station.json.tmp", "streams/fake/stream/.x.arrows.tmp", "quarantine/.y.tmp"):
        (data_dir / place).write_bytes(b"half")


def remove_catalog(data_dir: Path) -> None:
    for path in data_dir.glob("catalog.sqlite*"):
        path.unlink()


def damaged_catalog(data_dir: Path) -> None:
    content = bytearray((data_dir / "catalog.sqlite").read_bytes())
    content[4096:12288] = os.urandom(8192)
    (data_dir / "catalog.sqlite").write_bytes(content)


def promised_rows(data_dir: Path) -> None:
    """The end of a segment is gone, and only the map says that it was durable."""
    remove_catalog(data_dir)
    path = segment(data_dir, SegmentName(1, 0, 0))
    marks = DurableMap(data_dir / "durable.map")
    marks.put(Mark(FAST, 1, 100, 100, 100, 0, -1, -1, path.stat().st_size))
    marks.close()
    path.write_bytes(path.read_bytes()[: batch(path, 3)[0]])


DAMAGE: dict[Callable[[Path], None], tuple[bool, int, int]] = {
    # whether anything is lost, rows of epoch 0, rows of epoch 1
    damaged_batch: (True, 280, 100),
    damaged_batch_of_the_newest: (True, 300, 80),
    damaged_schema: (False, 300, 100),
    damaged_schema_alone: (False, 300, 100),
    damaged_schema_everywhere: (True, 300, 0),
    schema_of_the_middle_epoch: (True, 300, 0),
    missing_segment: (True, 200, 100),
    missing_newest_segment: (True, 300, 0),
    cut_off_segment: (True, 300, 60),
    empty_segment: (True, 200, 100),
    copied_segment: (False, 300, 100),
    misplaced_segment: (False, 300, 100),
    no_station_file: (False, 300, 100),
    damaged_station_file: (False, 300, 100),
    damaged_fact: (True, 300, 100),
    missing_facts: (True, 300, 100),
    damaged_journal: (True, 300, 100),
    strangers: (False, 300, 100),
    unfinished_files: (False, 300, 100),
    remove_catalog: (False, 300, 100),
    damaged_catalog: (False, 300, 100),
    promised_rows: (True, 300, 60),
}


@pytest.mark.parametrize("hurt", DAMAGE, ids=lambda f: f.__name__)
def test_what_is_damaged_is_brought_into_order_and_what_is_lost_is_told(
    data_dir: Path, hurt: Callable[[Path], None]
) -> None:
    loss, first_epoch, second_epoch = DAMAGE[hurt]
    hurt(data_dir)
    before = everything(data_dir)
    plan = plan_repair(data_dir, FILES)
    assert plan.steps
    assert everything(data_dir) == before, "a plan touches nothing"
    done = mend(data_dir)
    assert list(map(str, done.steps)) == list(map(str, plan.steps)), "what was planned is what was done"
    assert done.loss == loss
    in_order(data_dir)
    assert rows(data_dir).total == first_epoch
    assert rows(data_dir, epoch=1).total == second_epoch
    assert Reason.UNEXPLAINED not in {g[3] for g in gaps(data_dir)}
    kept = {path.read_bytes() for path in (data_dir / "quarantine").iterdir()}
    for name, (_, _, content) in before.items():
        if content and not name.startswith(("catalog", "LOCK")) and not _still(data_dir / name, content):
            assert any(content in k or (k and k in content) for k in kept), f"{name} was deleted"
    after = everything(data_dir)
    assert mend(data_dir).steps == []
    assert {k: v[2] for k, v in everything(data_dir).items()} == {k: v[2] for k, v in after.items()}


def _still(path: Path, content: bytes) -> bool:
    """Whether a file is where it was, or its content anywhere under another name."""
    if path.exists() and path.read_bytes().startswith(content):
        return True
    root = next(p for p in path.parents if (p / "station.json").exists())
    return any(p.is_file() and p.read_bytes() == content for p in root.rglob("*"))


def test_a_sound_directory_is_left_as_it_is(data_dir: Path) -> None:
    before = everything(data_dir)
    assert plan_repair(data_dir, FILES).steps == ()
    assert mend(data_dir) == Repaired()
    assert everything(data_dir) == before


def test_lost_rows_are_a_gap_between_the_times_of_their_neighbours_and_the_book_balances(data_dir: Path) -> None:
    damaged_batch(data_dir)
    mend(data_dir)
    (gap,) = [g for g in Reader(data_dir).blocks(FAST) if isinstance(g, Gap) and g.reason is Reason.CORRUPTION]
    assert (gap.first, gap.end) == (140, 160)
    assert (gap.start_ns, gap.end_ns) == (block_of(PLAIN, 139, 1).t0_ns, block_of(PLAIN, 160, 1).t0_ns)
    report = in_order(data_dir)
    (balance,) = [b for b in report.balances if (b.stream, b.epoch) == (FAST, 0)]
    assert balance.ledger == Ledger(300, 280, 20, lost=20)
    assert "20 rows were lost to damage" in "".join(report.notes)
    (kept,) = [q for q in report.quarantine if q.name.endswith(".arrows.0.0")]
    assert (kept.file, kept.rows) == (f"streams/{FAST}/{SECOND}", 20)
    assert kept.reason == "the checksum of a batch is wrong"


def test_a_hole_whose_record_was_damaged_keeps_the_reason_that_the_catalog_has(data_dir: Path, tmp_path: Path) -> None:
    gap = Gap("other/s", 0, 20, 30, Reason.OVERFLOW)
    blocks = [block_of(PLAIN, 0, 20, stream="other/s"), block_of(PLAIN, 30, 20, stream="other/s")]
    content = segment_bytes(epoch_of(PLAIN, "other/s"), [*blocks], gaps={1: [gap]})
    path = put(data_dir, "other/s", SegmentName(0, 0, 0), content)
    mend(data_dir, rebuild_catalog=True)
    change(path, batch(path, 1)[0] + 300)
    mend(data_dir)
    in_order(data_dir)
    assert gaps(data_dir, "other/s") == [(0, 20, 30, Reason.OVERFLOW), (0, 30, 50, Reason.CORRUPTION)]


def test_what_is_lost_stays_told_when_recording_goes_on(data_dir: Path) -> None:
    """A station's own book takes the correction over, also where it has nothing new to count."""
    damaged_batch_of_the_newest(data_dir)
    mend(data_dir)
    stand = recover(data_dir, FILES, FakeClock(), STATION, {}).stands[FAST]
    assert stand.book.snapshot(-1).ledger() == Ledger(100, 80, 20, lost=20)
    assert stand.book.recorded.total == 80


def test_intact_rows_of_a_damaged_journal_move_to_a_segment(data_dir: Path) -> None:
    damaged_journal(data_dir)
    mend(data_dir)
    assert rows(data_dir, SLOW) == RangeSet([(0, 10), (15, 20)])
    assert (0, 10, 15, Reason.CORRUPTION) in gaps(data_dir, SLOW)
    assert not list((data_dir / "journal").iterdir())


def test_a_station_file_is_written_again_from_what_the_others_say(data_dir: Path) -> None:
    no_station_file(data_dir)
    with pytest.raises(ForeignDirectory):
        open_station(data_dir, FILES, "lab", 1, True)
    mend(data_dir)
    said = orjson.loads((data_dir / "station.json").read_bytes())
    assert (said["uuid"], said["name"], said["format"]) == (STATION, "lab", 1)


def test_a_damaged_fact_is_noted_and_the_others_are_there(data_dir: Path) -> None:
    damaged_fact(data_dir)
    mend(data_dir)
    facts = [f for f in read_facts(data_dir / "facts") if isinstance(f, Fact)]
    assert [f.data["n"] for f in facts if "n" in f.data] == [0, 1, 3, 4]
    assert [f.data["file"] for f in facts if f.kind == "facts.damaged"] == ["00000000.jsonl"]
    assert facts[-1].kind != STOPPED


def test_the_catalog_is_made_anew_when_asked_and_the_old_one_is_kept(data_dir: Path) -> None:
    with Catalog.open(data_dir) as catalog:
        before = catalog.dump()
    done = mend(data_dir, rebuild_catalog=True)
    assert not done.loss
    with Catalog.open(data_dir) as catalog:
        after = catalog.dump()
    assert {t: r for t, r in after.items() if t != "fact"} == {t: r for t, r in before.items() if t != "fact"}
    assert "catalog.sqlite" in [q.file for q in quarantined(data_dir)]


def test_a_directory_that_a_station_owns_is_left_alone(data_dir: Path) -> None:
    _, lock = open_station(data_dir, FILES, "lab", 1, True)
    with lock:
        for act in (lambda: plan_repair(data_dir, FILES), lambda: mend(data_dir)):
            with pytest.raises(StationBusy):
                act()


def test_what_is_no_data_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    before = everything(tmp_path)
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "thesis.tex"):
        with pytest.raises(ForeignDirectory):
            plan_repair(place, FILES)
        with pytest.raises(ForeignDirectory):
            mend(place)
    assert everything(tmp_path) == before


def test_a_catalog_that_is_half_made_or_says_nonsense_is_no_damage_to_the_data(data_dir: Path) -> None:
    """Its file is there before its tables are; and a value that no segment has is met while reading."""
    remove_catalog(data_dir)
    (data_dir / "catalog.sqlite").write_bytes(b"")
    assert verify(data_dir).problems == []
    assert rows(data_dir).total == 300
    mend(data_dir, rebuild_catalog=True)
    with Catalog.open(data_dir) as catalog, catalog.begin() as conn:
        conn.exec_driver_sql("UPDATE segment SET ranges_json = 'x'")
    assert rows(data_dir).total == 300
    assert [p.where for p in verify(data_dir).problems] == ["catalog.sqlite"]
    assert [str(s) for s in mend(data_dir).steps] == ["make the catalog anew: it says what no segment can be"]
    in_order(data_dir)


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

    def append(self, file: File, pieces: list[Buffer]) -> None:  # type: ignore[override]
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


def much_damage(data_dir: Path) -> None:
    put(data_dir, FAST, SegmentName(2, 0, 0), fast(2, 0))
    put(data_dir, FAST, SegmentName(3, 0, 0), fast(3, 0))
    for hurt in (damaged_batch, damaged_journal, damaged_fact, strangers, unfinished_files, damaged_station_file):
        hurt(data_dir)
    remove_catalog(data_dir)
    change(segment(data_dir, SegmentName(2, 0, 0)), 700)
    path = segment(data_dir, SegmentName(3, 0, 0))
    path.write_bytes(path.read_bytes()[: batch(path, 3)[1] + 10])


PARTS = 8


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_repair_may_be_interrupted_anywhere_and_done_again(model: Path, tmp_path: Path, part: int) -> None:
    def made(name: str) -> Path:
        place = tmp_path / name
        shutil.copytree(model, place)
        much_damage(place)
        return place

    reference = made("whole")
    mend(reference)
    expected = in_order(reference)
    balances = [(b.stream, b.epoch, b.ledger) for b in expected.balances]
    for k in range(part, 1000, PARTS):
        place = made(str(k))
        before = {v[2] for name, v in everything(place).items() if v[2] and name != "LOCK"}
        try:
            mend(place, Interrupted(k))
        except OSError:
            mend(place)
        else:
            break
        report = in_order(place)
        assert [(b.stream, b.epoch, b.ledger) for b in report.balances] == balances, f"interrupted at {k}"
        assert gaps(place) == gaps(reference), f"interrupted at {k}"
        now = [v[2] for v in everything(place).values()]
        assert all(any(c in n for n in now) or any(n and n in c for n in now) for c in before), f"{k}: deleted"
        shutil.rmtree(place)
    assert k > 60


# ---- summaries, which are derived ------------------------------------------------------------------------------------


def put_summary(data_dir: Path) -> Path:
    """A sealed segment under the name of a summary."""
    path = data_dir / "streams" / FAST / "summary" / "0-000000-00000000000000-000000-00000000000100-1-2.arrows"
    path.parent.mkdir()
    path.write_bytes(fast(0, 0))
    return path


def test_sound_summaries_are_left_as_they_are(data_dir: Path) -> None:
    path = put_summary(data_dir)
    before = len(verify(data_dir).notes)
    in_order(data_dir)
    path.unlink()
    assert len(verify(data_dir).notes) == before


@pytest.mark.parametrize("at", [5000, -9])
def test_a_damaged_summary_is_no_problem_and_is_forgotten(data_dir: Path, at: int) -> None:
    path = put_summary(data_dir)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    report = verify(data_dir)
    assert report.ok
    assert [note for note in report.notes if path.name in note]
    (step,) = plan_repair(data_dir, FILES).steps
    assert "forget the summaries" in str(step)
    assert path.exists()
    done = mend(data_dir)
    assert not path.exists()
    assert not done.loss
    in_order(data_dir)


def test_summaries_of_rows_that_are_lost_are_forgotten_before_all(data_dir: Path) -> None:
    path = put_summary(data_dir)
    segment = data_dir / "streams" / FAST / str(SECOND)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    assert "forget the summaries" in str(plan_repair(data_dir, FILES).steps[0])
    mend(data_dir)
    assert not path.exists()
    in_order(data_dir)
