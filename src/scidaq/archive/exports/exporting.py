"""The story of an export: streams become tables, tables files, and files get their names when all is on the disk."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from scidaq.archive.exports.formats import FORMATS, LIMITS, Format
from scidaq.archive.exports.places import MANIFEST, SUMS, Following, Workplace, digest, refused, sums
from scidaq.archive.exports.table import Origin, StoreWriter, Table, TableWriter
from scidaq.block import NS, Block, Description, Gap, Pieces, Schema, calibrated, physical_block
from scidaq.errors import RequestError, StoreError


@dataclass(frozen=True, slots=True)
class Source:
    """A stream that is to be exported."""

    stream: str
    items: Iterable[Block | Gap]
    """Its rows and what is missing between them, in the order of reading."""
    rows: int | None = None
    """About how many, for the progress; None when nobody knows."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted of an export."""

    format: str
    """One of `FORMATS`."""
    target: Path
    """The file, or directory, that there is to be."""
    raw: bool = False
    """Leave values as they were stored; else calibrations are applied."""
    compression: str | None = None
    """One of the format's; None for its usual one."""
    force: bool = False
    """Replace what is there."""
    directory: bool = False
    """Make a directory also of a single table, where the format has one in a file."""
    start_ns: int | None = None
    """The range that was asked for, to be noted."""
    stop_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """What has come about, durably."""

    path: Path
    tables: int
    rows: int
    bytes: int
    """Of all files, checksums and descriptions included."""
    notes: tuple[str, ...]
    """What the format could not carry as it is, and what was left out: a sentence each."""
    files: tuple[Path, ...] = ()
    """All of them: the target's own, then those beside it."""


def export(
    sources: Sequence[Source],
    request: Request,
    origin: Origin,
    progress: Callable[[int, int | None], None] = lambda rows, total: None,
) -> Exported:
    """Write streams to the target, whole or not at all.

    The target, and the checksums beside it, are durable on return. After an error, or when the process is killed, there
    is nothing under its name; what a killed one leaves beside it, the next export there removes. Rows are written as
    they are read: memory does not grow with them. Raises `RequestError` for what cannot be (a target that is there, no
    rows, a format that has not the room) and `WriteFailed` when the disk refuses.
    """
    form, compression = _chosen(request)
    with Workplace(request.target.absolute(), request.force) as place:
        payload = place.path / request.target.name
        act = _Act(form, request, origin, payload, progress, sum(s.rows or 0 for s in sources) or None)
        try:
            act.begin(compression)
            for source in sources:
                act.stream(source)
            payload, beside = act.end()
            made = [p for p in (payload, *sorted(payload.rglob("*")), *beside) if p.is_file()]
            written = sum(p.stat().st_size for p in made)
            files = tuple(request.target.parent / p.relative_to(place.path) for p in made)
            place.publish(payload, beside)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise refused(request.target, error) from error
        except RuntimeError as error:  # how h5py says some errors of the disk
            raise refused(request.target, OSError(errno.EIO, str(error))) from error
        finally:
            act.abandon()
    return Exported(request.target, act.tables, act.rows, written, tuple(act.notes), files)


def _chosen(request: Request) -> tuple[Format, str | None]:
    form = FORMATS.get(request.format)
    if form is None:
        raise RequestError(f"no format {request.format!r}; there are {', '.join(FORMATS)}")
    compression = request.compression or form.compressions[0]
    if compression not in form.compressions:
        raise RequestError(f"{form.name} is not compressed by {compression!r}: choose {', '.join(form.compressions)}")
    return form, None if compression == "none" else compression


class _Act:
    """One export under way."""

    def __init__(
        self,
        form: Format,
        request: Request,
        origin: Origin,
        payload: Path,
        progress: Callable[[int, int | None], None],
        total: int | None,
    ) -> None:
        self._format, self._request, self._origin, self._payload = form, request, origin, payload
        self._progress, self._total = progress, total
        self._store: StoreWriter | None = None
        self._following: dict[Path, Following] = {}
        self._described: list[dict[str, object]] = []
        self._files: dict[str, str] = {}
        """Of a directory, name and digest of each file."""
        self.notes: dict[str, None] = {}
        self.rows = self.tables = 0

    def begin(self, compression: str | None) -> None:
        """Open the format."""
        self._store = self._format.open(self._payload, compression, self._origin)

    def stream(self, source: Source) -> None:
        """Write a stream as one table, or several where its channels change."""
        waiting: list[Gap] = []
        table: _Filling | None = None
        before: tuple[Schema, Schema] | None = None
        part = 0
        for item in source.items:
            if isinstance(item, Gap):
                (waiting if table is None else table.gaps).append(item)
                continue
            if before is None or (item.schema is not before[0] and item.schema != before[0]):
                schema = item.schema if self._request.raw else calibrated(item.schema)
                if table is not None and table.schema != schema:
                    # A gap between two tables stands before the rows that come after it.
                    waiting = table.let_go()
                    self._finish(table)
                    table = None
                before = (item.schema, schema)
            if table is None:
                part += 1
                table = self._table(source.stream, before[1], part)
                table.gaps += waiting
                waiting = []
            table.take(item if self._request.raw else physical_block(item, table.schema))
        if table is not None:
            self._finish(table)
        else:
            self.notes[f"{source.stream} has no rows in the range"] = None

    def _table(self, stream: str, schema: Schema, part: int) -> _Filling:
        name = stream.replace("/", ".") + (f".{part}" if part > 1 else "")
        if self._store is None:
            raise RequestError("the export has not begun")
        writer = self._store.table(Table(name, stream, schema, self._request.raw, self._lose))
        return _Filling(name, stream, schema, part, writer, self._format.rows(schema), self._wrote)

    def _wrote(self, rows: int) -> None:
        self.rows += rows
        self._progress(self.rows, self._total)
        self._follow()

    def _follow(self) -> None:
        """Let the checksum of what is written from front to back come about meanwhile."""
        path = None if self._store is None else self._store.grew()
        if path is not None:
            if path not in self._following:
                self._following[path] = Following(path)
            self._following[path].grew()

    def _finish(self, table: _Filling) -> None:
        request, origin = self._request, self._origin
        description = Description(
            origin.station,
            origin.station_uuid,
            table.stream,
            request.raw,
            table.schema,
            tuple(table.pieces),
            tuple(table.gaps),
            request.start_ns,
            request.stop_ns,
            origin.run,
            origin.software,
            origin.exported_ns,
            table.part,
        )
        table.end(description)
        self._follow()
        self.tables += 1
        self._described.append(
            {"file": f"{table.name}{self._format.suffix}", "stream": table.stream, "part": table.part}
            | {"rows": description.rows, "gaps": len(description.gaps), "schema": table.schema.as_json()}
        )

    def _lose(self, key: str) -> None:
        says = next(limit.says for limit in LIMITS if limit.key == key and self._format.name in limit.formats)
        self.notes[says] = None

    def end(self) -> tuple[Path, list[Path]]:
        """Close the files; what is to be published, and what beside it."""
        if not self.tables:
            raise RequestError(
                "there are no rows in this range, so nothing was exported; `scidaq streams` lists what is there"
            )
        if self._store is not None:
            self._store.close()
        self._store = None
        if self._format.single and self.tables == 1 and not self._request.directory:
            return self._one_file()
        if self._format.single:
            return self._directory()
        return self._payload, [self._sums_beside(self._payload)]

    def _one_file(self) -> tuple[Path, list[Path]]:
        """The only table is the result; what lies beside it takes its name."""
        name = self._described[0]["file"]
        made = sorted(self._payload.iterdir(), key=lambda path: len(path.name))
        holder, beside = self._payload.with_name(".tables"), []
        self._payload.rename(holder)
        for path in made:
            suffix = path.name.removeprefix(str(name))
            found = self._payload.with_name(self._payload.name + suffix)
            (holder / path.name).rename(found)
            if suffix:
                _renamed(found, str(name), self._payload.name)
                beside.append(found)
        digested = self._digest(self._payload, made[0])
        return self._payload, [*beside, self._write_sums(self._payload, [(digested, self._payload.name)])]

    def _directory(self) -> tuple[Path, list[Path]]:
        if self.tables > 1 and not self._request.directory:
            self.notes[f"the channels change, so {self._request.target.name} is a directory with a file for each"] = (
                None
            )
        manifest = {
            "manifest": 1,
            "station": {"name": self._origin.station, "uuid": self._origin.station_uuid},
            "software": self._origin.software,
            "exported_ns": self._origin.exported_ns,
            "format": self._format.name,
            "range": {"start_ns": self._request.start_ns, "stop_ns": self._request.stop_ns},
            "run": dict(self._origin.run) if self._origin.run is not None else None,
            "instruments": dict(self._origin.identities),
            "tables": self._described,
            "notes": list(self.notes),
        }
        (self._payload / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        named = [(self._digest(path), path.name) for path in sorted(self._payload.iterdir())]
        (self._payload / SUMS).write_text(sums(named), encoding="utf-8")
        return self._payload, []

    def _sums_beside(self, payload: Path) -> Path:
        if payload.is_file():
            return self._write_sums(payload, [(self._digest(payload), payload.name)])
        files = sorted(path for path in payload.rglob("*") if path.is_file())
        named = [(digest(path), path.relative_to(payload.parent).as_posix()) for path in files]
        return self._write_sums(payload, named)

    def _write_sums(self, payload: Path, named: Sequence[tuple[str, str]]) -> Path:
        path = payload.with_name(payload.name + ".sha256")
        path.write_text(sums(named), encoding="utf-8")
        return path

    def _digest(self, path: Path, written_as: Path | None = None) -> str:
        following = self._following.pop(written_as or path, None)
        return digest(path) if following is None else following.end()

    def abandon(self) -> None:
        """Let go of everything, also in the middle."""
        if self._store is not None:
            self._store.abandon()
            self._store = None
        for one in self._following.values():
            one.stop()
        self._following.clear()


def _renamed(sidecar: Path, before: str, after: str) -> None:
    """Let what stands in a sidecar name the file that it lies beside."""
    said = orjson.loads(sidecar.read_bytes())
    if said.get("url") == before:
        sidecar.write_bytes(orjson.dumps(said | {"url": after}, option=orjson.OPT_INDENT_2))


def _divisible(block: Block) -> Block:
    """The same rows, each keeping its time where they are divided: rounded down from another first row, it may not."""
    rate = block.schema.rate
    if rate is None or NS * rate.denominator % rate.numerator == 0:
        return block
    return replace(block, schema=replace(block.schema, rate=None), times=block.time_ns())


class _Filling:
    """A table that rows go into, a fixed number at once."""

    def __init__(
        self,
        name: str,
        stream: str,
        schema: Schema,
        part: int,
        writer: TableWriter,
        at_once: int,
        wrote: Callable[[int], None],
    ) -> None:
        self.name, self.stream, self.schema, self.part = name, stream, schema, part
        self._writer, self._at_once, self._wrote = writer, at_once, wrote
        self._waiting: list[Block] = []
        self._rows = 0
        self.pieces, self.gaps = Pieces(), list[Gap]()
        self._seen = 0

    def take(self, block: Block) -> None:
        """The next rows."""
        self._seen = len(self.gaps)
        self.pieces.take(block)
        if self._rows + block.rows > self._at_once:
            block = _divisible(block)
        while self._rows + block.rows >= self._at_once:
            at = block.first + self._at_once - self._rows
            if at == block.end:
                self._waiting.append(block)
                self._write()
                return
            head, block = block.split(at)
            self._waiting.append(head)
            self._write()
        self._waiting.append(block)
        self._rows += block.rows

    def let_go(self) -> list[Gap]:
        """The gaps that no rows of this table follow; they are not its own any more."""
        behind = self.gaps[self._seen :]
        del self.gaps[self._seen :]
        return behind

    def _write(self) -> None:
        blocks, self._waiting, self._rows = self._waiting, [], 0
        self._writer.write(blocks)
        self._wrote(sum(block.rows for block in blocks))

    def end(self, description: Description) -> None:
        """No more rows."""
        if self._waiting:
            self._write()
        self._writer.close(description)
