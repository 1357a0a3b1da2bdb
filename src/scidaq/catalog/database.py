"""The catalog: a database projected from segments and facts, made for finding, never the only place of anything.

Lost or damaged, it is made anew and whoever projects into it begins again (`Catalog.is_new`). The rooms above register
their tables on `metadata` at import and write their own statements; the schema itself comes from the migrations beside
this module. SQLite by default, PostgreSQL by URL.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError, SQLAlchemyError

from scidaq.catalog.facts import Fact, FactsLog, canonical
from scidaq.errors import CatalogDamaged, CatalogError, Corrupt

log = structlog.get_logger(__name__)

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Where every room registers the tables that it projects into; a migration makes them."""

fact = sa.Table(
    "fact",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("t_ns", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False, index=True),
    sa.Column("data_json", sa.Text, nullable=False),
)
"""The facts log, for finding."""

REVISIONS = ("0001",)
"""The schema's versions, oldest first; the last one is what this program needs."""

FILE = "catalog.sqlite"
BUSY_MS = 2_000
"""How long a statement waits for another process's transaction: a start must not wait long for a catalog."""
Merge = Callable[[sa.ColumnElement[Any], sa.ColumnElement[Any]], sa.ColumnElement[Any]]
"""The old value of a column and the new one to the one that is kept."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_CHUNK = 500
_NOT_NOW = (OperationalError, sqlite3.OperationalError)
"""What a database raises that may do it another time: no room, no right, an I/O error, a lock."""
_MEND = "it holds nothing of its own: move it away, and the next start makes it again from segments and facts"


@dataclass(frozen=True, slots=True)
class Projected:
    """What `Catalog.project_facts` did."""

    facts: int
    """Facts that the catalog did not have."""
    damage: tuple[Corrupt, ...]
    """Damage of the log that was met on the way."""


class Catalog:
    """One database, open. Its methods may be called from any thread; writing is the station's alone."""

    def __init__(self, engine: sa.Engine, place: str, read_only: bool, look_at_all: bool) -> None:
        self._engine, self._place = engine, place
        self._read_only, self._look_at_all = read_only, look_at_all
        self._lock = threading.Lock()
        self._ready = False
        self.is_new = False
        """Whether its tables were made by this opening: everything is to be projected again."""

    @classmethod
    def open(
        cls, where: Path | str, *, read_only: bool = False, set_aside_damaged: bool = False, later: bool = False
    ) -> Self:
        """The catalog of a data directory, or the one at a database URL, upgraded to the schema of this program.

        With `read_only` nothing is made or upgraded. With `set_aside_damaged` every page is looked at, and a file that
        is no sound database is moved to `quarantine/` and a new one made. With `later` a database that cannot be used
        now (the disk is full, somebody has locked it) is no error: each use tries again, and raises until it can.
        Raises `CatalogError` when it cannot be opened, or belongs to a newer scidaq.
        """
        if isinstance(where, str) and "://" in where:
            return cls._opened(cls(_server(where), sa.make_url(where).render_as_string(), read_only, False), later)
        path = Path(where).absolute() / FILE
        if read_only and not path.exists():
            raise CatalogError(f"there is no catalog at {path}; the station makes it when it starts")
        try:
            return cls._opened(cls(_file(path, read_only), str(path), read_only, set_aside_damaged), later)
        except CatalogDamaged:
            if read_only or not set_aside_damaged:
                raise
            set_aside(path.parent)
            return cls._opened(cls(_file(path, read_only), str(path), read_only, False), later)

    @classmethod
    def _opened(cls, catalog: Self, later: bool) -> Self:
        try:
            catalog._prepare()
        except BaseException as error:
            if not (later and isinstance(error, CatalogError) and isinstance(error.__cause__, _NOT_NOW)):
                catalog.close()
                raise
            log.warning("the catalog cannot be opened; it is tried again when it is used", error=str(error))
        return catalog

    def _prepare(self) -> None:
        """Look whether it is sound and of this version, and upgrade it; once, as soon as that succeeds."""
        with self._lock:
            if self._ready:
                return
            with _explained(self._place):
                if self._look_at_all:
                    _look_at_all(self._engine, self._place)
                version = _version(self._engine)
                _check_version(version, self._place, self._read_only)
                if version != REVISIONS[-1]:
                    _upgrade(self._engine)
            self.is_new, self._ready = version is None, True

    # ---- transactions ----

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction that writes: committed and durable at the end of the `with` block, undone by any exception.

        Raises `CatalogError` where the database does.
        """
        self._prepare()
        with _explained(self._place), self._engine.connect() as conn:
            conn = conn.execution_options(sqlite_begin="BEGIN IMMEDIATE")
            with conn.begin():
                yield conn

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that reads: everything in it sees one state of the catalog."""
        self._prepare()
        with _explained(self._place), self._engine.connect() as conn:
            if self._engine.dialect.name == "postgresql":
                conn = conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with conn.begin() as transaction:
                yield conn
                transaction.rollback()

    # ---- content ----

    def project_facts(self, log: FactsLog) -> Projected:
        """Catch the table `fact` up with the log. Doing it twice changes nothing.

        The log is the truth: when its newest facts are not those that the catalog knows, which happens after a power
        cut or a restore, all of them are projected again.
        """
        with self.begin() as conn:
            known = conn.execute(sa.select(fact).order_by(fact.c.seq.desc()).limit(1)).first()
            if known is not None and _in_log(log, known.seq) != tuple(known):
                conn.execute(fact.delete())
                known = None
            facts, damage, rows = 0, [], []
            for item in log.since(known.seq + 1 if known else 0):
                if isinstance(item, Corrupt):
                    damage.append(item)
                else:
                    rows.append(_row(item))
                if len(rows) == _CHUNK:
                    facts += upsert(conn, fact, rows)
                    rows = []
            facts += upsert(conn, fact, rows)
        return Projected(facts, tuple(damage))

    def facts(self, kind: str, before: int | None = None, limit: int = 100) -> list[Fact]:
        """The newest facts of a kind, newest first, of those that have been projected; with `before` older ones."""
        query = sa.select(fact).where(fact.c.kind == kind)
        if before is not None:
            query = query.where(fact.c.seq < before)
        with self.read() as conn:
            rows = conn.execute(query.order_by(fact.c.seq.desc()).limit(limit)).all()
        return [Fact(row.seq, row.t_ns, row.kind, json.loads(row.data_json)) for row in rows]

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, each table by its primary key: to compare two catalogs of the same data."""
        with self.read() as conn:
            return {
                table.name: [tuple(row) for row in conn.execute(sa.select(table).order_by(*table.primary_key))]
                for table in metadata.sorted_tables
            }

    # ---- life ----

    def close(self) -> None:
        """Give the database back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def upsert(
    conn: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], merge: Mapping[str, Merge] | None = None
) -> int:
    """Insert rows, and where the primary key is there already, update the other columns; how many rows were given.

    `merge` says for a column what becomes of the old value and the new one on such a clash; otherwise the new one wins.
    """
    if not rows:
        return 0
    insert = _insert(conn, table)
    key = [c.name for c in table.primary_key]
    changed = {
        name: merge[name](table.c[name], insert.excluded[name]) if merge and name in merge else insert.excluded[name]
        for name in rows[0]
        if name not in key
    }
    if changed:
        insert = insert.on_conflict_do_update(index_elements=key, set_=changed)
    else:
        insert = insert.on_conflict_do_nothing(index_elements=key)
    conn.execute(insert, list(rows))
    return len(rows)


def _insert(conn: sa.Connection, table: sa.Table) -> Any:
    """`INSERT ... ON CONFLICT` is not in SQLAlchemy's common language; both databases spell it alike."""
    if conn.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def _row(item: Fact) -> dict[str, Any]:
    return {"seq": item.seq, "t_ns": item.t_ns, "kind": item.kind, "data_json": canonical(item.data)}


def _in_log(log: FactsLog, seq: int) -> tuple[Any, ...] | None:
    """The row of a fact as the log has it, None where it has not."""
    found = next(log.since(seq), None)
    return tuple(_row(found).values()) if isinstance(found, Fact) and found.seq == seq else None


def look_up(data_dir: Path, query: str) -> list[tuple[Any, ...]]:
    """The rows of one SELECT on the catalog of a data directory, in a tenth of the time that `Catalog.open` takes.

    For who asks once and is gone, as a script that reads a range does. Raises `CatalogError`.
    """
    path = data_dir.absolute() / FILE
    with _explained(str(path)), closing(_connected(path, read_only=True)) as connection:
        connection.execute("BEGIN")
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        _check_version(found and found[0], str(path), read_only=True)
        return connection.execute(query).fetchall()


# ---- opening ---------------------------------------------------------------------------------------------------------


def set_aside(data_dir: Path) -> Path:
    """Move the catalog of a data directory, which must be closed, to `quarantine/`; where it is now.

    For a file that proved damaged: what could not be trusted is kept, and the next `Catalog.open` makes a new one.
    """
    quarantine = data_dir / "quarantine"
    quarantine.mkdir(exist_ok=True)
    taken = {p.name for p in quarantine.iterdir()}
    stem = next(name for n in count() if (name := f"catalog-{n}.sqlite") not in taken)
    # The log of the old file must never be replayed into a new one, so it goes first.
    for suffix in ("-wal", "-shm", ""):
        source = data_dir / (FILE + suffix)
        if source.exists():
            source.rename(quarantine / (stem + suffix))
    return quarantine / stem


def _connected(path: Path, read_only: bool) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    return connection


def _file(path: Path, read_only: bool) -> sa.Engine:
    """An engine for a SQLite file."""
    engine = sa.create_engine("sqlite://", creator=lambda: _connected(path, read_only), poolclass=sa.QueuePool)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    # The driver would begin transactions at the first change only, and let DDL slip out of them: they begin here.
    @sa.event.listens_for(engine, "begin")
    def begin(conn: sa.Connection) -> None:
        conn.exec_driver_sql(conn.get_execution_options().get("sqlite_begin", "BEGIN"))

    return engine


def _server(url: str) -> sa.Engine:
    """An engine for a database server."""
    try:
        return sa.create_engine(url, pool_pre_ping=True)
    except (SQLAlchemyError, ImportError) as error:
        raise CatalogError(f"catalog: this is no database URL that can be used: {error}") from error


def _version(engine: sa.Engine) -> str | None:
    """The schema's version by one plain SELECT, since Alembic takes longer to import than all else; None without."""
    with engine.connect() as conn:
        try:
            return conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        except (OperationalError, ProgrammingError):
            conn.rollback()
            if sa.inspect(conn).has_table("alembic_version"):
                raise
            return None


def _look_at_all(engine: sa.Engine, place: str) -> None:
    """Raise `CatalogDamaged` when a page of a SQLite file is unsound: a query that does not meet it would not tell."""
    with engine.connect() as conn:
        found = conn.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if found != "ok":
        raise CatalogDamaged(f"the catalog at {place} is damaged ({found}); {_MEND}")


def _check_version(version: str | None, place: str, read_only: bool) -> None:
    if version is not None and version not in REVISIONS:
        raise CatalogError(
            f"the catalog at {place} has version {version} and belongs to a newer scidaq (this one knows up to "
            f"{REVISIONS[-1]}): run that one, or set the catalog aside, and it is rebuilt"
        )
    if read_only and version != REVISIONS[-1]:
        raise CatalogError(f"the catalog at {place} is not of this version; the station upgrades it when it starts")


def _upgrade(engine: sa.Engine) -> None:
    """Bring the schema to the newest version, in one transaction; of two processes one waits and finds it done."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.connect() as conn:
        conn = conn.execution_options(sqlite_begin="BEGIN IMMEDIATE")
        with conn.begin():
            config.attributes["connection"] = conn
            command.upgrade(config, "head")


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """What the database says, as a `CatalogError` with the place and what to do."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:  # the latter while a connection is being prepared
        said = error.orig if isinstance(error, DBAPIError) else error
        # sqlite3 raises its DatabaseError itself, not one of its heirs, for "malformed" and "not a database".
        if type(said) is sqlite3.DatabaseError:
            raise CatalogDamaged(f"the catalog at {place} is damaged ({said}); {_MEND}") from error
        raise CatalogError(f"catalog at {place}: {said}") from error
    except SQLAlchemyError as error:
        raise CatalogError(f"catalog at {place}: {error}") from error
