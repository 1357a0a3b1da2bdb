"""What a producer pushes, as blocks: each batch checked against what the station expects, refused in words.

Nothing that comes from a client is believed: buffers are validated before they are looked into, sizes before that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from scidaq.block import Array, Block, Channel, Mask, Schema, arrow_schema, shown
from scidaq.errors import RequestError
from scidaq.web.flight.tickets import content, stream_of

_MOST_ROW = 1 << 62
_FIRST_NS, _LAST_NS = 315_532_800 * 10**9, 7_258_118_400 * 10**9
"""1980 and 2200: times before and after are mistakes of a unit, or of a clock that was never set."""
_COUNTER = 200


@dataclass(frozen=True, slots=True)
class Offer:
    """What a producer says that it is going to push."""

    stream: str
    counter: str
    """What numbers its rows: the same for as long as the numbers go on, another when they begin again."""


def offered(descriptor: bytes) -> Offer:
    """The offer in a descriptor. Raises `RequestError`."""
    said = content(descriptor, "the descriptor of a push")
    if not isinstance(said, dict):
        raise RequestError('the descriptor of a push is JSON: {"stream": "rig/temps", "counter": "..."}')
    if strange := sorted(set(said) - {"stream", "counter"}):
        raise RequestError(f"the descriptor of a push has no {strange[0][:64]!r}; it has stream and counter")
    counter = said.get("counter")
    if not isinstance(counter, str) or not 0 < len(counter) <= _COUNTER or not counter.isprintable():
        raise RequestError(
            f"counter: a text of 1 to {_COUNTER} characters that names the numbering of the rows, such as a UUID that "
            "the producer makes when it begins at 0"
        )
    return Offer(stream_of(said), counter)


def expected(schema: Schema) -> pa.Schema:
    """The schema of the batches: the channels as they are stored, and `time` where each row has its own."""
    whole = arrow_schema(schema, raw=True)
    return whole if schema.rate is None else pa.schema(list(whole)[1:])


def check_schema(stream: str, schema: Schema, given: pa.Schema) -> None:
    """Raises `RequestError` that says every difference; fields may come in any order, units may be left out."""
    want = expected(schema)
    wrong: list[str] = []
    for field in want:
        at = given.get_all_field_indices(field.name)
        if len(at) != 1:
            wrong.append(f"{field.name!r} is {'missing' if not at else 'there twice'}")
            continue
        got = given.field(at[0])
        if got.type != field.type:
            wrong.append(f"{field.name!r} is {field.type}, not {got.type}")
        unit, theirs = ((f.metadata or {}).get(b"unit") for f in (field, got))
        if theirs is not None and unit is not None and theirs != unit:
            wrong.append(f"{field.name!r} is in {unit.decode()}, not in {theirs.decode('utf-8', 'replace')[:40]}")
    strange = [name for name in given.names if name not in want.names]
    if "time" in strange and schema.rate is not None:
        strange.remove("time")
        wrong.append("'time' does not belong to a stream with a rate: give `t0_ns` with each batch")
    wrong += [f"there is no channel {name[:64]!r}" for name in strange]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise RequestError(f"the batches do not fit {stream}: {'; '.join(wrong[:5])}{more}")


def block_of_batch(stream: str, schema: Schema, batch: pa.RecordBatch, said: Any) -> Block | None:
    """The block of a batch with its metadata; None for one without rows. Raises `RequestError`."""
    if not batch.num_rows:
        return None
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise RequestError(f"a batch of {stream} is damaged: {str(error)[:200]}") from error
    facts = _facts(stream, said, schema)
    columns: list[Array] = []
    masks: list[Mask | None] = []
    for channel in schema.channels:
        column, mask = _column(channel, batch.column(channel.name))
        columns.append(column)
        masks.append(mask)
    times = None
    t0_ns = facts.get("t0_ns", 0)
    if schema.rate is None:
        stamps = batch.column("time")
        if stamps.null_count:
            raise RequestError(f"{stream}: a row has no time")
        times = stamps.cast(pa.int64()).to_numpy(zero_copy_only=False)
        t0_ns = int(times[0])
    last_ns = t0_ns + schema.span_ns(batch.num_rows - 1) if times is None else int(times[-1])
    for t_ns in (t0_ns, last_ns):
        if not _FIRST_NS <= t_ns < _LAST_NS:
            raise RequestError(f"{stream}: {shown(t_ns)} is no time of a row: give UTC nanoseconds since 1970")
    valid = tuple(masks) if any(mask is not None for mask in masks) else None
    name = stream.partition("/")[2]
    return Block(name, 0, facts["first"], schema, tuple(columns), t0_ns, times, valid)


def _facts(stream: str, said: Any, schema: Schema) -> dict[str, int]:
    """The numbers in the metadata of a batch."""
    needs = ["first"] if schema.rate is None else ["first", "t0_ns"]
    form = ", ".join(f'"{name}": ...' for name in needs)
    try:
        facts = orjson.loads(said.to_pybytes() if said is not None else b"")
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or sorted(facts) != needs:
        raise RequestError(f"{stream}: the metadata of each batch is JSON with {' and '.join(needs)}: {{{form}}}")
    for name in needs:
        if type(facts[name]) is not int or not 0 <= facts[name] < _MOST_ROW:
            raise RequestError(f"{stream}: {name} is a whole number from 0 on, not {str(facts[name])[:40]!r}")
    return facts


def _column(channel: Channel, array: Any) -> tuple[Array, Mask | None]:
    """An array as a column of a block, and which values there are."""
    mask: Mask | None = None
    if array.null_count:
        mask = array.is_valid().to_numpy(zero_copy_only=False)
    if channel.dtype == "text":
        texts = [(one or "").encode() for one in array.to_pylist()]
        if any(len(one) > channel.max_bytes for one in texts):
            raise RequestError(f"channel {channel.name!r}: a text is longer than {channel.max_bytes} bytes")
        if any(one.endswith(b"\0") for one in texts):
            raise RequestError(f"channel {channel.name!r}: a text ends in NUL, which would not be kept")
        return np.array(texts, channel.numpy_dtype), mask
    while pa.types.is_fixed_size_list(array.type):
        n = array.type.list_size
        array = array.values.slice(array.offset * n, len(array) * n)
    if array.null_count:
        if channel.shape and mask is not None:
            there = array.is_valid().to_numpy(zero_copy_only=False).reshape(len(mask), -1).all(axis=1)
            if not there[mask].all():
                raise RequestError(f"channel {channel.name!r}: an element is missing, where only whole rows can be")
        elif channel.shape:
            raise RequestError(f"channel {channel.name!r}: an element is missing, where only whole rows can be")
        array = array.fill_null(pa.scalar(0, array.type) if channel.dtype != "bool" else False)
    values = array.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.reshape(-1, *channel.shape), channel.numpy_dtype), mask
