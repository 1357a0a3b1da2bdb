"""The one binary form of what is drawn, over the live socket and over HTTP: a JSON header, then arrays as they are.

Little-endian: `u32` length of the header, the header as UTF-8 JSON, zeros up to a multiple of 8, then the buffers, each
beginning at a multiple of 8. The header's `buffers` says where each is (`offset`, counted from the end of the padded
header), its `dtype` and its `shape`. A browser makes typed arrays of it without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from scidaq.errors import RequestError

MEDIA_TYPE = "application/vnd.scidaq.frame"
DTYPES = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "u1": "|u1", "u4": "<u4"}
_NAMES = {np.dtype(long): short for short, long in DTYPES.items()}
_ZEROS = bytes(8)


def encode(header: Mapping[str, Any], buffers: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A frame. Arrays are of one of `DTYPES`; others raise `RequestError`."""
    described, pieces, offset = {}, [], 0
    for name, array in buffers.items():
        dtype = _NAMES.get(array.dtype)
        if dtype is None:
            raise RequestError(f"buffer {name!r}: a frame has no {array.dtype}, only {', '.join(DTYPES)}")
        content = array.tobytes()
        described[name] = {"dtype": dtype, "offset": offset, "shape": list(array.shape)}
        rest = -len(content) % 8
        pieces += [content, _ZEROS[:rest]] if rest else [content]
        offset += len(content) + rest
    head = orjson.dumps({**header, "buffers": described})
    return b"".join((len(head).to_bytes(4, "little"), head, _ZEROS[: -(4 + len(head)) % 8], *pieces))


def decode(frame: bytes | memoryview) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The header and the arrays, which share the frame's memory. Raises `RequestError` for what is no frame."""
    view = memoryview(frame)
    size = int.from_bytes(view[:4], "little")
    if len(view) < 4 or size > len(view) - 4:
        raise RequestError(f"{len(view)} bytes are no frame: the header is not whole")
    try:
        header = orjson.loads(view[4 : 4 + size])
        begin = 4 + size + -(4 + size) % 8
        out = {}
        for name, said in header.pop("buffers").items():
            shape, dtype = tuple(said["shape"]), np.dtype(DTYPES[said["dtype"]])
            count, offset = int(np.prod(shape, dtype=np.int64)), begin + int(said["offset"])
            out[name] = np.frombuffer(view, dtype, count, offset).reshape(shape) if count else np.empty(shape, dtype)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{len(view)} bytes are no frame: {error}") from error
    return header, out
