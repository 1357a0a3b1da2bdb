"""The formats: what each one is called, how it is opened, and what of the rows it cannot carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scidaq.archive.exports.table import Origin, StoreWriter
from scidaq.block import Schema

_MOST_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Format:
    """A format of other programs."""

    name: str
    suffix: str
    single: bool
    """One table in a file: several become a directory."""
    compressions: tuple[str, ...]
    """What may be chosen, the usual one first; `none` among them where nothing need be compressed."""
    open: Callable[[Path, str | None, Origin], StoreWriter]
    """Begin below a path that is not there yet; the compression is None for none."""
    write_bytes: int
    """About how much is written at once."""
    extra: str = ""
    """The extra of the package that it needs."""

    def rows(self, schema: Schema) -> int:
        """How many rows are written at once: a power of two, so that chunks end where they end."""
        return min(_MOST_ROWS, 1 << (max(1, self.write_bytes // (schema.row_bytes + 8)).bit_length() - 1))


def _csv(path: Path, compression: str | None, origin: Origin) -> StoreWriter:
    from scidaq.archive.exports.text import CsvFiles

    return CsvFiles(path, compression)


def _parquet(path: Path, compression: str | None, origin: Origin) -> StoreWriter:
    from scidaq.archive.exports.columnar import ParquetFiles

    return ParquetFiles(path, compression)


def _arrow(path: Path, compression: str | None, origin: Origin) -> StoreWriter:
    from scidaq.archive.exports.columnar import ArrowFiles

    return ArrowFiles(path, compression)


def _hdf5(path: Path, compression: str | None, origin: Origin) -> StoreWriter:
    from scidaq.archive.exports.hdf5 import Hdf5File

    return Hdf5File(path, compression, origin)


def _zarr(path: Path, compression: str | None, origin: Origin) -> StoreWriter:
    from scidaq.archive.exports.chunks import ZarrDirectory

    return ZarrDirectory(path, compression, origin)


def _tdms(path: Path, compression: str | None, origin: Origin) -> StoreWriter:
    from scidaq.archive.exports.tdms import TdmsFile

    return TdmsFile(path, compression, origin)


def _mat(path: Path, compression: str | None, origin: Origin) -> StoreWriter:
    from scidaq.archive.exports.mat import MatFile

    return MatFile(path, compression, origin)


_MB = 1 << 20
FORMATS = {
    one.name: one
    for one in (
        Format("csv", ".csv", True, ("none",), _csv, 4 * _MB),
        Format("parquet", ".parquet", True, ("zstd", "snappy", "gzip", "lz4", "none"), _parquet, 32 * _MB),
        Format("arrow", ".arrow", True, ("none", "zstd", "lz4"), _arrow, 4 * _MB),
        Format("hdf5", ".h5", False, ("gzip", "none"), _hdf5, 16 * _MB),
        Format("zarr", ".zarr", False, ("zstd", "gzip", "none"), _zarr, 16 * _MB, "zarr"),
        Format("tdms", ".tdms", False, ("none",), _tdms, 8 * _MB, "tdms"),
        Format("mat", ".mat", False, ("none",), _mat, 16 * _MB),
    )
}
"""By the name that `--format` takes."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Something of the rows that a format does not carry as it is."""

    key: str
    formats: tuple[str, ...]
    says: str
    """A sentence for the user; `{format}` stands for the name of the format."""
    lossless: bool
    """Whether the description makes up for it, so that an import gives the same rows."""


LIMITS = (
    Limit("nan", ("csv",), "NaNs that carry other bits than the usual ones are written as NaN like all others", False),
    Limit(
        "arrays",
        ("csv", "tdms"),
        "each element of an array or image channel is a column of its own, named channel[element]",
        True,
    ),
    Limit(
        "missing",
        ("hdf5", "zarr", "tdms", "mat"),
        "a missing value is NaN (0 or empty where there is no NaN), and channel_valid is 0 there",
        True,
    ),
    Limit("names", ("hdf5", "mat"), "names of channels that the format does not allow are spelled otherwise", True),
    Limit("text", ("mat",), "characters above U+FFFF are written as U+FFFD", False),
    Limit(
        "dimensions",
        ("mat",),
        "the rows of array and image channels are along the last dimension, as in MATLAB's h5read",
        True,
    ),
)
"""What is said as a note when it happens, and in the documentation."""
