"""SCPI as pure functions: what the text and the bytes of a reply mean. No I/O.

Sources: SCPI-1999.0 volume 1 (7.2.1 numbers, 7.3 booleans, 21.8 the error queue) and IEEE 488.2-1992 (7.7 and 8.7: the
forms of data, among them strings and blocks). Whatever is none of these raises `GarbledReply`; nothing is guessed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scidaq.errors import GarbledReply

NOT_A_NUMBER = 9.91e37
"""What an instrument sends for NaN (SCPI 7.2.1.5)."""
INFINITY = 9.9e37
"""What it sends for infinity, with its sign (SCPI 7.2.1.4)."""
_NUMBER = re.compile(rb"[ \t]*[+-]?(\d+\.?\d*|\.\d+)([ \t]*[eE][ \t]*[+-]?\d+)?[ \t]*")
_SPECIAL = {b"NAN": math.nan, b"INF": math.inf, b"INFINITY": math.inf, b"+INF": math.inf}
_SPECIAL |= {b"NINF": -math.inf, b"-INF": -math.inf, b"NINFINITY": -math.inf}
_RADIX = {b"H": 16, b"Q": 8, b"B": 2}
_HEADER = re.compile(rb"\s*[:*]?[A-Za-z][A-Za-z0-9_]*(?:\[?:[A-Za-z][A-Za-z0-9_\[\]]*)*\??[ \t]+")
_TRUE, _FALSE = (b"1", b"ON", b"TRUE"), (b"0", b"OFF", b"FALSE")
_ERROR = re.compile(rb'\s*([+-]?\d+)\s*(?:,\s*"((?:[^"]|"")*)"|,\s*([^"]*))?\s*')


def _shown(data: bytes) -> str:
    text = data[:60].decode("latin-1")
    return repr(text) + ("…" if len(data) > 60 else "")


def number(data: bytes) -> float:
    """A decimal number; NaN and infinity where the instrument says so."""
    try:
        value = float(data)
        # The common case. Python also reads 1_000, which is no number here; NaN compares false.
        if -INFINITY < value < INFINITY and b"_" not in data:
            return value
    except ValueError:
        pass  # still it may be a number, as 1.5 E +3
    if _NUMBER.fullmatch(data) is None:
        if (special := _SPECIAL.get(data.strip().upper())) is not None:
            return special
        raise GarbledReply(f"{_shown(data)} is not a number")
    value = float(data.replace(b" ", b"").replace(b"\t", b""))
    if value == NOT_A_NUMBER:
        return math.nan
    if -INFINITY < value < INFINITY:
        return value
    return math.inf if value > 0 else -math.inf


def is_nan(data: bytes) -> bool:
    """Whether it is what an instrument sends where it has no number."""
    try:
        return math.isnan(number(data))
    except GarbledReply:
        return False


def integer(data: bytes) -> int:
    """A whole number: decimal (also written with a point or an exponent), or `#H`, `#Q`, `#B`."""
    text = data.strip()
    if text[:1] == b"#" and (base := _RADIX.get(text[1:2].upper())):
        try:
            return int(text[2:], base)
        except ValueError:
            raise GarbledReply(f"{_shown(data)} is not a number of base {base}") from None
    if text.lstrip(b"+-").isdigit() and _NUMBER.fullmatch(text):
        return int(text)
    value = number(text)
    if not math.isfinite(value) or value != int(value):
        raise GarbledReply(f"{_shown(data)} is not a whole number")
    return int(value)


def boolean(data: bytes) -> bool:
    """`1`, `0`, `ON`, `OFF`, as any number is true that is not zero when it is rounded."""
    text = data.strip().upper()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    try:
        return round(number(text)) != 0
    except (GarbledReply, ValueError, OverflowError):
        raise GarbledReply(f"{_shown(data)} is neither on nor off") from None


def string(data: bytes) -> str:
    """A quoted string, its doubled quotes undone, or characters without quotes as they are."""
    text = data.strip()
    if text[:1] in (b'"', b"'"):
        quote = text[:1]
        inner = text[1:-1]
        if len(text) < 2 or text[-1:] != quote or inner.replace(quote * 2, b"").count(quote):
            raise GarbledReply(f"{_shown(data)}: a quote is missing")
        text = inner.replace(quote * 2, quote)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def same_word(one: str, other: str) -> bool:
    """Whether two words are spellings of one keyword: in any case, `POSITIVE` or `POS`, `CHANNEL1` or `CHAN1`.

    The short form is the first four letters, or three where the fourth is a vowel (SCPI-1999.0, volume 1, 6.2.1).
    """
    (a, number_a), (b, number_b) = (_word(word) for word in (one, other))
    return number_a == number_b and (a == b or a == _short(b) or _short(a) == b)


def _word(text: str) -> tuple[str, str]:
    letters = text.strip().upper()
    stem = letters.rstrip("0123456789")
    return stem, letters[len(stem) :]


def _short(word: str) -> str:
    return word if len(word) <= 4 else word[: 3 if word[3] in "AEIOU" else 4]


def split(data: bytes, by: bytes = b",") -> list[bytes]:
    """The items of a list; separators inside quotes do not count. Raises when a quote is left open."""
    if b'"' not in data and b"'" not in data:
        return data.split(by)
    items, start, quote = [], 0, b""
    for at in range(len(data)):
        char = data[at : at + 1]
        if quote:
            quote = b"" if char == quote else quote
        elif char in (b'"', b"'"):
            quote = char
        elif char == by:
            items.append(data[start:at])
            start = at + 1
    if quote:
        raise GarbledReply(f"{_shown(data)}: a quote is not closed")
    return [*items, data[start:]]


def items(data: bytes, by: bytes) -> list[bytes]:
    """The items of a list with this between them; several blanks in a row are one."""
    return [item for item in split(data, by) if item.strip()] if by == b" " else split(data, by)


def without_header(data: bytes) -> bytes:
    """A reply without the header that some instruments repeat in it (`:VOLT:RANG 10`); without one, as it is."""
    found = _HEADER.match(data)
    return data if found is None else data[found.end() :]


def numbers(data: bytes) -> npt.NDArray[np.float64]:
    """A list of decimal numbers as float64."""
    return np.array([number(item) for item in data.split(b",")], np.float64)


def special_values(values: npt.NDArray[np.floating]) -> None:
    """Put NaN and infinities where a block of numbers holds what SCPI sends for them."""
    kind = values.dtype.type
    # The common case, without memory for a second array; NaN compares false.
    if not values.size or (values.max() < kind(INFINITY) and values.min() > kind(-INFINITY)):
        return
    large = np.abs(values) >= kind(INFINITY)
    if large.any():
        found = values[large]
        found[found == kind(NOT_A_NUMBER)] = np.nan
        values[large] = np.where(np.isnan(found), np.nan, np.copysign(np.inf, found))


# ---- blocks of bytes (IEEE 488.2, 8.7.9 and 8.7.10) -----------------------------------------------------------------


class BlockHeader(NamedTuple):
    """Where the data of a block begin, and how many bytes they are."""

    start: int
    size: int | None
    """None for an indefinite block (`#0`), which ends with the line."""


def block_header(data: bytes | bytearray | memoryview) -> BlockHeader | None:
    """The header at the beginning of `data`, None while it is not complete. Raises `GarbledReply` for anything else."""
    head = bytes(data[:12])
    if not head:
        return None
    if head[:1] != b"#":
        raise GarbledReply(f"{_shown(head)} does not begin a block (#)")
    if len(head) < 2:
        return None
    if not head[1:2].isdigit():
        raise GarbledReply(f"{_shown(head)} does not begin a block: a digit belongs behind #")
    digits = head[1] - ord("0")
    if digits == 0:
        return BlockHeader(2, None)
    size = head[2 : 2 + digits]
    if size and not size.isdigit():
        raise GarbledReply(f"{_shown(head)}: the length of the block is not a number")
    return BlockHeader(2 + digits, int(size)) if len(size) == digits else None


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """What the bytes of a block are."""

    dtype: np.dtype[np.generic]
    """As it is sent, with its byte order."""

    @classmethod
    def parse(cls, text: str) -> BlockFormat:
        """`float32 little`, `int16 big`, `uint8`. Raises `ValueError` with the forms that there are."""
        name, _, order = text.partition(" ")
        known = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
        if name not in known or order not in ("", "little", "big"):
            raise ValueError(f"block: {text!r} is not one of {', '.join(known)}, then 'little' or 'big'")
        return cls(np.dtype(name).newbyteorder(">" if order == "big" else "<"))

    def native(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The same numbers in this machine's byte order; swaps in place."""
        if values.dtype.isnative:
            return values
        return values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))


# ---- the error queue ------------------------------------------------------------------------------------------------


class DeviceError(NamedTuple):
    """An entry of the instrument's error queue; code 0 is none."""

    code: int
    message: str


def device_error(data: bytes) -> DeviceError:
    """An answer to `SYST:ERR?`, as `-113,"Undefined header"`."""
    found = _ERROR.fullmatch(data)
    if found is None:
        raise GarbledReply(f"{_shown(data)} is not an entry of an error queue")
    quoted, bare = found[2], found[3]
    message = quoted.replace(b'""', b'"') if quoted is not None else (bare or b"").strip()
    return DeviceError(int(found[1]), message.decode("utf-8", "replace"))


def joined(queries: list[str]) -> str:
    """Several queries as one message (IEEE 488.2, 7.3.3); each header begins at the root of the command tree."""
    rest = [q if q.startswith((":", "*")) else f":{q}" for q in queries[1:]]
    return ";".join([*queries[:1], *rest])
