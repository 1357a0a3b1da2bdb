"""The settings of every instrument at any moment: out of the rows that each set and each read-back has left.

A parameter is what the newest row before the moment says, be it of a recording long before: a parameter that is read
no more keeps its last value, with the time at which that was read.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scidaq.block import Block
from scidaq.catalog import ARMED, Fact, InstrumentState, Setting, Snapshot, read_facts
from scidaq.query.reader import Reader

STREAM = "settings"
"""The stream of an instrument in which they are."""
_TEXTS = {"parameter", "value", "unit"}


def settings_at(reader: Reader, t_ns: int, instrument: str | None = None) -> dict[str, dict[str, Setting]]:
    """Per instrument each parameter as it was last read at `t_ns` or before, by names; those never read are absent.

    With `instrument` of that one only. Rows of a later epoch count as newer, whatever the clock said.
    """
    wanted = {f"{instrument}/{STREAM}"} if instrument is not None else None
    streams = [one for one in reader.names() if (one in wanted if wanted else one.partition("/")[2] == STREAM)]
    found = {name.partition("/")[0]: _newest(reader, name, t_ns) for name in streams}
    return {instrument: dict(sorted(settings.items())) for instrument, settings in found.items() if settings}


def snapshot_at(reader: Reader, t_ns: int) -> Snapshot:
    """Every instrument that had delivered by `t_ns`: who it was, and its settings. How it was then, nobody knows."""
    settings = settings_at(reader, t_ns)
    said: dict[str, tuple[str, str]] = {}
    for fact in read_facts(reader.data_dir / "facts"):
        if isinstance(fact, Fact) and fact.kind == ARMED and fact.t_ns <= t_ns:
            driver, identity = str(fact.data.get("driver", "")), str(fact.data.get("identity", ""))
            said[str(fact.data.get("instrument", ""))] = driver, identity
    return Snapshot(
        t_ns,
        {
            name: InstrumentState(*said.get(name, ("", "")), "", settings.get(name, {}))
            for name in sorted(said.keys() | settings.keys())
        },
    )


def _newest(reader: Reader, stream: str, t_ns: int) -> dict[str, Setting]:
    out: dict[str, Setting] = {}
    for block in _blocks(reader, stream, t_ns):
        values, units = block.column("value"), block.column("unit")
        mask = block.valid[block.schema.index("value")] if block.valid else None
        times = block.time_ns()
        # The last row of each parameter: the first from behind.
        names, behind = np.unique(block.column("parameter")[::-1], return_index=True)
        for name, i in zip(names.tolist(), (block.rows - 1 - behind).tolist(), strict=True):
            if mask is not None and not mask[i]:
                out.pop(name.decode(), None)  # it was read, and nobody knows as what
            else:
                out[name.decode()] = Setting(values[i].decode(), units[i].decode(), int(times[i]))
    return out


def _blocks(reader: Reader, stream: str, t_ns: int) -> Iterator[Block]:
    """The rows up to `t_ns`, of those epochs in which they are settings: somebody may call another stream so."""
    for item in reader.blocks(stream, None, t_ns + 1):
        if isinstance(item, Block) and {c.name for c in item.schema.channels if c.dtype == "text"} >= _TEXTS:
            yield item
