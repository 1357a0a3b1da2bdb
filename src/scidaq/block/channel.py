"""What is measured: channels, their calibration, and the schema that channels sampled together make up."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from scidaq.block.units import unit_problem
from scidaq.errors import InvalidBlock

NS = 1_000_000_000
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:\-]{0,63}")
INSTRUMENT_ID = re.compile(r"[a-z0-9_-]{1,64}")
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
DTYPES = (*NUMBERS, "bool", "text")
MAX_TEXT_BYTES = 65_536
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a raw code becomes a physical value: `physical = raw * scale + offset`, in `unit`."""

    scale: float
    offset: float
    unit: str
    """UCUM unit of the physical value."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale == 0:
            raise InvalidBlock(f"calibration {self.scale} * raw + {self.offset}: must be finite, scale not zero")
        if problem := unit_problem(self.unit):
            raise InvalidBlock(f"calibration: {problem}")


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured quantity."""

    name: str
    dtype: str = "float64"
    """One of `DTYPES`; `text` is UTF-8 of at most `max_bytes` bytes."""
    unit: str = "1"
    """UCUM unit of what is stored (of the raw code where there is a calibration)."""
    shape: tuple[int, ...] = ()
    """`()` for a scalar, `(n,)` for labelled elements or a spectrum, `(height, width)` for an image."""
    labels: tuple[str, ...] = ()
    """For shape `(n,)`: a name per element, or nothing."""
    calibration: Calibration | None = None
    max_bytes: int = 0
    """For `text`: the longest value in UTF-8 bytes; 0 otherwise."""
    description: str = ""

    def __post_init__(self) -> None:
        say = f"channel {self.name!r}: "
        if not NAME.fullmatch(self.name) or self.name == "time":
            raise InvalidBlock(say + "a name is a letter, then up to 63 of letters, digits, _ . : - (and not 'time')")
        if self.dtype not in DTYPES:
            raise InvalidBlock(say + f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if problem := unit_problem(self.unit):
            raise InvalidBlock(say + problem)
        if len(self.shape) > 2 or any(n < 1 for n in self.shape) or math.prod(self.shape) > MAX_ELEMENTS:
            raise InvalidBlock(say + f"shape {self.shape} is not (), (n,) or (height, width)")
        if self.labels and (len(self.shape) != 1 or len(self.labels) != self.shape[0]):
            raise InvalidBlock(say + f"{len(self.labels)} labels for shape {self.shape}: one per element of (n,)")
        if len(set(self.labels)) != len(self.labels):
            raise InvalidBlock(say + "two elements have the same label")
        if self.dtype == "text":
            if self.shape or self.calibration or not 1 <= self.max_bytes <= MAX_TEXT_BYTES:
                raise InvalidBlock(say + f"text is a scalar without calibration, with max_bytes 1 to {MAX_TEXT_BYTES}")
        elif self.max_bytes:
            raise InvalidBlock(say + "max_bytes is for text")
        if self.calibration and self.dtype == "bool":
            raise InvalidBlock(say + "a boolean has no calibration")

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """dtype of the array that holds this channel in a block (`S<max_bytes>`, UTF-8, for text)."""
        return np.dtype(f"S{self.max_bytes}") if self.dtype == "text" else np.dtype(self.dtype)

    @property
    def elements(self) -> int:
        """Numbers per row."""
        return math.prod(self.shape)

    @property
    def physical_unit(self) -> str:
        """Unit of the values that readers get."""
        return self.calibration.unit if self.calibration else self.unit

    def physical(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Physical values of raw ones (any shape): float64 where there is a calibration, else the raw array itself."""
        if self.calibration is None:
            return raw
        with np.errstate(all="ignore"):  # a code beyond what a float64 holds is infinite, and no cause for a warning
            return raw.astype(np.float64) * self.calibration.scale + self.calibration.offset

    def as_json(self) -> dict[str, Any]:
        """What goes into files; fields at their default are left out."""
        out: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "unit": self.unit}
        if self.shape:
            out["shape"] = list(self.shape)
        if self.labels:
            out["labels"] = list(self.labels)
        if self.calibration:
            c = self.calibration
            out["calibration"] = {"scale": c.scale, "offset": c.offset, "unit": c.unit}
        if self.max_bytes:
            out["max_bytes"] = self.max_bytes
        if self.description:
            out["description"] = self.description
        return out

    @classmethod
    def from_json(cls, d: dict[str, Any]) -> Channel:
        """The inverse of `as_json`. Raises `InvalidBlock`, `KeyError` or `TypeError` on anything else."""
        c = d.get("calibration")
        return cls(
            d["name"],
            d["dtype"],
            d["unit"],
            tuple(d.get("shape", ())),
            tuple(d.get("labels", ())),
            Calibration(c["scale"], c["offset"], c["unit"]) if c else None,
            d.get("max_bytes", 0),
            d.get("description", ""),
        )


@dataclass(frozen=True)
class Schema:
    """Channels sampled together: at a fixed `rate`, or each row with its own time."""

    channels: tuple[Channel, ...]
    rate: Fraction | None = None
    """Rows per second of a uniform stream; None for an irregular one."""

    def __post_init__(self) -> None:
        if not self.channels:
            raise InvalidBlock("a stream has at least one channel")
        names = [c.name for c in self.channels]
        if len(set(names)) != len(names):
            twice = sorted(n for n, count in Counter(names).items() if count > 1)
            raise InvalidBlock(f"two channels are named {', '.join(twice)}")
        if self.rate is not None and not 0 < self.rate <= 10 * NS:
            raise InvalidBlock(f"rate {self.rate} Hz is not above 0 and at most 10^10")

    def __hash__(self) -> int:
        return hash((self.channels, self.rate))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Channel names in order."""
        return tuple(c.name for c in self.channels)

    @cached_property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        """NumPy dtypes of the columns, in order."""
        return tuple(c.numpy_dtype for c in self.channels)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row in memory, its time included where it is irregular."""
        return sum(d.itemsize * c.elements for c, d in zip(self.channels, self.dtypes, strict=True)) + (
            8 if self.rate is None else 0
        )

    def index(self, name: str) -> int:
        """Position of a channel. Raises `InvalidBlock` with the names there are."""
        try:
            return self.names.index(name)
        except ValueError:
            raise InvalidBlock(f"no channel {name!r}; there are {', '.join(self.names)}") from None

    def span_ns(self, rows: int) -> int:
        """Nanoseconds from a row of a uniform stream to the one `rows` later (rounded down)."""
        if self.rate is None:
            raise InvalidBlock("an irregular stream has no period")
        return rows * NS * self.rate.denominator // self.rate.numerator

    def as_json(self) -> dict[str, Any]:
        """What goes into files."""
        return {
            "channels": [c.as_json() for c in self.channels],
            "rate": [self.rate.numerator, self.rate.denominator] if self.rate is not None else None,
        }

    @classmethod
    def from_json(cls, d: dict[str, Any]) -> Schema:
        """The inverse of `as_json`."""
        return schema(
            [Channel.from_json(c) for c in d["channels"]],
            Fraction(*d["rate"]) if d["rate"] is not None else None,
        )


def schema(channels: Iterable[Channel], rate: Fraction | int | float | None = None) -> Schema:
    """A schema; a rate given as a float becomes the nearest fraction with a denominator of at most 10^6."""
    if isinstance(rate, float):
        rate = Fraction(rate).limit_denominator(1_000_000)
    return Schema(tuple(channels), Fraction(rate) if rate is not None else None)
