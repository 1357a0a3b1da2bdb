"""The catalog: opened, upgraded, refused, set aside, rebuilt, and the same whatever the order."""

from __future__ import annotations

import dataclasses
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql

from scidaq.block import Channel, Epoch, Gap, Ledger, Reason, schema
from scidaq.catalog import Catalog, FactsLog, look_up, metadata, register_kind, set_aside, upsert
from scidaq.catalog.database import _MIGRATIONS, REVISIONS, _insert
from scidaq.clock import Anchor
from scidaq.errors import CatalogError
from scidaq.store import tables

NOTE = register_kind("test.note", "Something to write in tests.")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(tmp_path) as it:
        yield it


def epoch(stream: str = "dmm/readings", number: int = 0, backfill: bool = False) -> Epoch:
    channels = [Channel("v", unit="V"), Channel("label", "text", max_bytes=8)]
    return Epoch(stream, number, schema(channels, 10), Anchor(10**18, 5, 1, "boot"), "counter", 2**40, backfill)


def row(uuid: str, stream: str = "dmm/readings", first: int = 0) -> tables.SegmentRow:
    return tables.SegmentRow(
        uuid=uuid,
        stream=stream,
        epoch=0,
        first=first,
        end=first + 2**33,
        generation=1,
        path=f"streams/{stream}/0-{first}-1.arrows",
        state="hot",
        rows=2**33 - 5,
        gap_rows=5,
        first_ns=10**18,
        last_ns=10**18 + 1,
        bytes=2**34,
        ranges=((first, first + 7), (first + 12, first + 2**33)),
        ledger=Ledger(2**33, 2**33 - 5, 5),
        created_ns=10**18,
    )


def gap(first: int = 7, **changes: object) -> Gap:
    return dataclasses.replace(Gap("dmm/readings", 0, first, first + 5, Reason.OVERFLOW, 10), **changes)  # type: ignore[arg-type]


# ---- schema


def test_the_migrations_make_what_the_rooms_have_registered(catalog: Catalog) -> None:
    with catalog.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_revisions_are_those_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    assert tuple(r.revision for r in reversed(list(script.walk_revisions()))) == REVISIONS


def test_names_follow_the_convention_on_both_databases() -> None:
    ddl = "".join(str(sa.schema.CreateTable(t).compile(dialect=postgresql.dialect())) for t in metadata.sorted_tables)
    assert "pk_segment" in ddl
    assert "fk_epoch_stream_stream" in ddl
    assert "SERIAL" not in ddl, "no key is made by the database"


# ---- opening


def test_it_is_new_once(tmp_path: Path) -> None:
    with Catalog.open(tmp_path) as catalog:
        assert catalog.is_new
    with Catalog.open(tmp_path) as catalog:
        assert not catalog.is_new
    (tmp_path / "catalog.sqlite").unlink()
    with Catalog.open(tmp_path) as catalog:
        assert catalog.is_new


def test_it_opens_by_url(tmp_path: Path) -> None:
    with Catalog.open(f"sqlite:///{tmp_path / 'by-url.sqlite'}") as catalog:
        assert catalog.is_new
        assert catalog.dump()["fact"] == []
    with pytest.raises(CatalogError, match="no database URL"):
        Catalog.open("nosuch://user:secret@host/db")


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "50% of #1? ä b"
    path.mkdir()
    with Catalog.open(path):
        assert (path / "catalog.sqlite").exists()


def test_commits_are_synced_and_readers_do_not_wait(catalog: Catalog) -> None:
    with catalog.begin() as writer:
        assert writer.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert writer.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "FULL"
        assert writer.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        tables.put_epoch(writer, epoch(), 1)
        with catalog.read() as reader:
            assert tables.streams(reader) == []
    with catalog.read() as reader:
        assert tables.streams(reader) == ["dmm/readings"]


def test_a_reader_sees_one_state(catalog: Catalog) -> None:
    with catalog.read() as reader:
        assert tables.streams(reader) == []
        with catalog.begin() as writer:
            tables.put_epoch(writer, epoch(), 1)
        assert tables.streams(reader) == []


def test_an_exception_undoes_the_transaction(catalog: Catalog) -> None:
    with pytest.raises(ZeroDivisionError):
        _interrupted(catalog)
    with pytest.raises(CatalogError, match="FOREIGN KEY"), catalog.begin() as conn:
        tables.put_segment(conn, row("a"))
    assert not any(catalog.dump().values())


def _interrupted(catalog: Catalog) -> None:
    with catalog.begin() as conn:
        tables.put_epoch(conn, epoch(), 1)
        raise ZeroDivisionError


def test_threads_wait_for_one_another(catalog: Catalog) -> None:
    def work(name: str) -> None:
        for i in range(10):
            with catalog.begin() as conn:
                tables.put_epoch(conn, epoch(f"{name}/s{i}"), 1)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.dump()["stream"]) == 40


def test_two_processes_make_one_schema(tmp_path: Path) -> None:
    code = f"from scidaq.catalog import Catalog; Catalog.open({str(tmp_path)!r}).close()"
    children = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        _, errors = child.communicate()
        assert child.returncode == 0, errors
    with Catalog.open(tmp_path) as catalog:
        assert not catalog.is_new


def test_alembic_is_imported_for_upgrades_only(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    code = (
        "import sys; from scidaq.catalog import Catalog\n"
        f"Catalog.open({str(tmp_path)!r}).close(); print('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# ---- refusals


def test_reading_only(tmp_path: Path, catalog: Catalog) -> None:
    with Catalog.open(tmp_path, read_only=True) as other:
        assert other.dump() == catalog.dump()
        with pytest.raises(CatalogError, match="readonly"), other.begin() as conn:
            tables.put_epoch(conn, epoch(), 1)


def test_one_question_is_answered_without_the_rest(tmp_path: Path, catalog: Catalog) -> None:
    with catalog.begin() as conn:
        tables.put_epoch(conn, epoch(), 1)
    assert look_up(tmp_path, "SELECT id FROM stream") == [(epoch().stream,)]
    with pytest.raises(CatalogError, match="readonly"):
        look_up(tmp_path, "DELETE FROM stream")
    with pytest.raises(CatalogError, match="unable to open"):
        look_up(tmp_path / "nowhere", "SELECT id FROM stream")
    with catalog.begin() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CatalogError, match="9999 and belongs to a newer scidaq"):
        look_up(tmp_path, "SELECT id FROM stream")
    (tmp_path / "catalog.sqlite").write_bytes(b"\xff" * 8192)
    with pytest.raises(CatalogError):
        look_up(tmp_path, "SELECT id FROM stream")


def test_reading_only_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="there is no catalog"):
        Catalog.open(tmp_path, read_only=True)
    sqlite3.connect(tmp_path / "catalog.sqlite").close()
    with pytest.raises(CatalogError, match="the station upgrades it"):
        Catalog.open(tmp_path, read_only=True)


def test_a_newer_schema_is_refused(tmp_path: Path, catalog: Catalog) -> None:
    with catalog.begin() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for options in ({}, {"read_only": True}, {"set_aside_damaged": True}):
        with pytest.raises(CatalogError, match="9999 and belongs to a newer scidaq"):
            Catalog.open(tmp_path, **options)


def test_no_directory_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="unable to open"):
        Catalog.open(tmp_path / "nowhere")


@pytest.mark.parametrize("where", [slice(0, 4096), slice(0, 30)])
def test_a_damaged_file_is_set_aside(tmp_path: Path, where: slice) -> None:
    Catalog.open(tmp_path).close()
    path = tmp_path / "catalog.sqlite"
    content = bytearray(path.read_bytes())
    content[where] = b"\xff" * (where.stop - where.start)
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=r"damaged .*; .* the next start makes it again"):
        Catalog.open(tmp_path)
    with Catalog.open(tmp_path, set_aside_damaged=True) as catalog:
        assert catalog.is_new
    assert (tmp_path / "quarantine" / "catalog-0.sqlite").read_bytes() == content
    assert set_aside(tmp_path).name == "catalog-1.sqlite"
    with Catalog.open(tmp_path) as catalog:
        assert catalog.is_new


# ---- projections


def test_facts_are_caught_up_with(tmp_path: Path, catalog: Catalog) -> None:
    with FactsLog.open(tmp_path / "facts") as log:
        for i in range(3):
            log.append(NOTE, {"n": i})
        assert catalog.project_facts(log).facts == 3
        assert catalog.project_facts(log).facts == 0
        log.append(NOTE, {"n": 3})
        assert catalog.project_facts(log).facts == 1
        whole = catalog.dump()["fact"]
        assert [(seq, kind, data) for seq, _, kind, data in whole] == [
            (i, "test.note", f'{{"n":{i}}}') for i in range(4)
        ]
        with Catalog.open(f"sqlite:///{tmp_path / 'other.sqlite'}") as other:
            other.project_facts(log)
            assert other.dump() == catalog.dump()


def test_more_facts_than_one_chunk(tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scidaq.catalog.database._CHUNK", 2)
    with FactsLog.open(tmp_path / "facts") as log:
        for i in range(5):
            log.append(NOTE, {"n": i})
        assert catalog.project_facts(log).facts == 5
    assert len(catalog.dump()["fact"]) == 5


def test_a_log_that_is_another_one_is_projected_anew(tmp_path: Path, catalog: Catalog) -> None:
    for name, count in (("a", 5), ("b", 3)):
        with FactsLog.open(tmp_path / name) as log:
            for i in range(count):
                log.append(NOTE, {"of": name, "n": i})
            assert catalog.project_facts(log).facts == count
            assert len(catalog.dump()["fact"]) == count


def test_damage_of_the_log_is_told(tmp_path: Path, catalog: Catalog) -> None:
    with FactsLog.open(tmp_path / "facts") as log:
        for i in range(3):
            log.append(NOTE, {"n": i})
        path = tmp_path / "facts" / "00000000.jsonl"
        path.write_bytes(path.read_bytes().replace(b'{"n":1}', b'{"n":7}'))
        done = catalog.project_facts(log)
    assert done.facts == 2
    assert [c.reason for c in done.damage] == ["the checksum of a fact is wrong"]


def test_what_is_put_comes_back(catalog: Catalog) -> None:
    with catalog.begin() as conn:
        tables.put_epoch(conn, epoch(), 77)
        tables.put_epoch(conn, epoch("adc/fast"), 78)
        tables.put_segment(conn, row("a"))
        tables.put_segment(conn, row("b", "adc/fast"))
        tables.put_gaps(conn, [gap(), gap(20, unknown=True, end=20)])
        tables.put_gaps(conn, [])
    with catalog.read() as conn:
        assert tables.streams(conn) == ["adc/fast", "dmm/readings"]
        assert tables.epochs(conn, "dmm/readings") == [(epoch(), 77)]
        assert [e.epoch.stream for e in tables.epochs(conn)] == ["adc/fast", "dmm/readings"]
        assert tables.segments(conn, "dmm/readings") == [row("a")]
        assert tables.segments(conn) == [row("b", "adc/fast"), row("a")]
        assert tables.gaps(conn, "dmm/readings") == [gap(), gap(20, unknown=True, end=20)]
        assert tables.gaps(conn, "adc/fast") == []


def test_segments_are_updated_and_forgotten(catalog: Catalog) -> None:
    sealed = dataclasses.replace(row("a"), state="sealed", sealed_ns=5)
    with catalog.begin() as conn:
        tables.put_epoch(conn, epoch(), 77)
        tables.put_segment(conn, row("a"))
        tables.put_segment(conn, sealed)
        assert tables.segments(conn) == [sealed]
        tables.forget_segment(conn, "a")
        tables.forget_segment(conn, "a")
        assert tables.segments(conn) == []
        tables.put_segment(conn, sealed)
        tables.forget_all(conn)
    assert not any(catalog.dump().values())


def test_gaps_become_final_and_keep_their_bounds(catalog: Catalog) -> None:
    with catalog.begin() as conn:
        tables.put_epoch(conn, epoch(), 77)
        for one in (gap(open=True), gap(end_ns=20, detail="late"), gap(open=True, detail="late")):
            tables.put_gaps(conn, [one])
        assert tables.gaps(conn) == [gap(end_ns=20, detail="late")]


def test_any_order_gives_the_same_answers(tmp_path: Path) -> None:
    acts = [
        *((tables.put_segment, row(f"s{i}", first=i)) for i in range(5)),
        *((tables.put_gaps, [gap(i), gap(i, open=True)]) for i in range(5)),
        *((tables.put_epoch, epoch(), began) for began in (7, 7)),
        (tables.put_epoch, epoch(number=1), 5),
    ]
    dumps = []
    for seed in range(5):
        random.Random(seed).shuffle(acts)
        with Catalog.open(f"sqlite:///{tmp_path / str(seed)}") as catalog:
            with catalog.begin() as conn:
                tables.put_epoch(conn, epoch(), 7)
                for act, *values in acts:
                    act(conn, *values)  # type: ignore[operator]
            dumps.append(catalog.dump())
    assert all(dump == dumps[0] for dump in dumps)
    assert dumps[0]["stream"] == [("dmm/readings", 5)]


def test_upserts_are_spelled_for_postgresql_too(catalog: Catalog) -> None:
    class Postgres:
        dialect = postgresql.dialect()

        def execute(self, statement: sa.Executable, rows: object) -> None:
            self.sql = str(statement.compile(dialect=self.dialect))  # type: ignore[attr-defined]

    conn = Postgres()
    upsert(conn, tables.stream, [{"id": "a/b", "first_seen_ns": 1}], {"first_seen_ns": tables._earlier})  # type: ignore[arg-type]
    assert "ON CONFLICT (id) DO UPDATE SET first_seen_ns = CASE WHEN" in conn.sql
    upsert(conn, tables.stream, [{"id": "a/b"}])  # type: ignore[arg-type]
    assert "ON CONFLICT (id) DO NOTHING" in conn.sql
    assert _insert(conn, tables.stream).__module__ == "sqlalchemy.dialects.postgresql.dml"  # type: ignore[arg-type]
