"""The pages that specify the formats: their programs run on the golden files, their tables are what the code says."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from crc32c import crc32c

from scidaq.block import DTYPES, Reason
from scidaq.store import DURABLE_MAP, Mark, Segment, read_marks
from scidaq.store.durable import DurableMap
from scidaq.store.wire import shape_of
from scidaq.testing.strategies import RECORDED
from tests.store.makers import MIXED, SCHEMAS, cut, epoch_of, segment_bytes

ROOT = Path(__file__).parents[2]
PAGES = {p.stem: p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "format").glob("*.md")}


@pytest.mark.parametrize("page", ["segment", "journal"])
def test_the_programs_of_a_page_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
    assert programs
    monkeypatch.chdir(ROOT)
    space: dict[str, object] = {}
    for program in programs:
        program = re.sub(r"open\((.*?), \"rb\"\)\.read\(\)", r"__import__('pathlib').Path(\1).read_bytes()", program)
        exec(compile(program, f"{page}.md", "exec"), space)


def test_the_reader_of_the_page_reads_what_is_written_today(monkeypatch: pytest.MonkeyPatch) -> None:
    program = re.findall(r"^```python\n(.*?)^```$", PAGES["segment"], re.MULTILINE | re.DOTALL)[1]
    space: dict = {}
    exec(program[: program.index("found = list(")], space)
    for schema in SCHEMAS.values():
        data = segment_bytes(epoch_of(schema), cut(schema, [1, 7, 300]))
        segment = Segment(memoryview(data), Path("x"))
        found = list(space["messages"](data))
        assert [(m[0], m[1], m[2], m[3]) for m in found[1:]] == [
            (b.at, b.end, b.rows, b.facts) for b in segment.batches
        ]


def test_the_facts_of_a_batch_stand_where_the_page_says() -> None:
    for nodes, buffers in ((1, 2), (3, 7), (40, 90)):
        assert shape_of(nodes, buffers).json_at == 232 + 16 * (nodes + buffers)
    data = segment_bytes(epoch_of(MIXED), cut(MIXED, [3]))
    batch = Segment(memoryview(data), Path("x")).batches[0]
    (nodes,) = struct.unpack_from("<I", data, batch.at + 92)
    (buffers,) = struct.unpack_from("<I", data, batch.at + 100 + 16 * nodes)
    assert data[batch.at + 232 + 16 * (nodes + buffers) :].startswith(b'{"id":"')
    assert list(batch.facts)[:4] == ["id", "seq", "prev", "synced"]


def test_the_page_names_every_key() -> None:
    data = segment_bytes(epoch_of(MIXED), cut(MIXED, [3]), left_out={0: [(3, 5)]})
    segment = Segment(memoryview(data), Path("x"))
    named = set(re.findall(r"`([a-z0-9_.]+)`", PAGES["segment"]))
    keys = {*segment.facts, *(k for b in segment.batches for k in b.facts), *(segment.seal or {})}
    assert keys - named == set()
    assert set(DTYPES) <= set(re.search(r"one of `(int8 [^`]*)`", PAGES["segment"])[1].split())  # type: ignore[index]
    reasons = re.search(r"Reasons: `([^`]*)`", PAGES["segment"].replace("\n", " "))
    assert reasons is not None
    assert set(reasons[1].split()) == {str(r) for r in RECORDED}
    assert {Reason.POLICY, Reason.UNEXPLAINED}.isdisjoint(RECORDED)


def test_the_sidecar_is_as_the_page_says(tmp_path: Path) -> None:
    path = tmp_path / DURABLE_MAP
    marks = [Mark("a/b", 1, 2, 3, 4, 5, 6, 7, 8), Mark("x" * 64 + "/" + "y" * 64, 0, 1, 1, 1, 0, -1, -1, 9)]
    with_many = [Mark(f"s/{n}", n, 0, 0, 0, 0, 0, 0, 0) for n in range(100)]
    sidecar = DurableMap(path)
    for mark in (*marks, *with_many):
        sidecar.put(mark)
    sidecar.close()
    data = path.read_bytes()
    assert data[:16] == b"scidaq-durable-1"
    slot = data[256:512]
    assert slot[:136].rstrip(b"\0") == b"a/b"
    assert struct.unpack_from("<8q", slot, 136) == (1, 2, 3, 4, 5, 6, 7, 8)
    assert struct.unpack_from("<I", slot, 200) == (crc32c(slot[:200]),)
    assert read_marks(path) == {m.stream: m for m in (*marks, *with_many)}
    hurt = bytearray(data)
    hurt[256 + 150] ^= 1
    path.write_bytes(hurt)
    assert set(read_marks(path)) == {m.stream for m in (*marks[1:], *with_many)}, "a slot that is wrong is left out"
    assert read_marks(tmp_path / "no") == {}
    path.write_bytes(b"short")
    assert read_marks(path) == {}


def test_the_pages_link_to_what_is_there() -> None:
    for name, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (ROOT / "docs" / "format" / target).exists(), f"{name}.md points to {target}"
