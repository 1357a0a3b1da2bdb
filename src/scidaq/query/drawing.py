"""Rows as a small picture for a notebook: an SVG of a few kilobytes, however many rows there are.

Each channel that can be drawn is a band of its own; per column of the picture a line from the least to the greatest of
its rows, so that no spike is lost. Where rows are missing there is nothing.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scidaq.block import Array, Block, Channel, shown

Floats = npt.NDArray[np.float64]
WIDTH, HEIGHT = 640, 72
"""Of a band, in pixels."""
MOST_BANDS = 6
MOST_ROWS = 20_000_000
"""Of more rows no picture is made: it would take longer than looking is worth."""
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


@dataclass(frozen=True, slots=True)
class Band:
    """A channel, or an element of one, as it is drawn: NaN where there is nothing."""

    name: str
    unit: str
    least: Floats
    """For each column of the picture."""
    greatest: Floats


def svg_of_blocks(blocks: Sequence[Block], raw: bool) -> str:
    """The picture of some blocks; empty where there is nothing to be drawn."""
    if not blocks or sum(block.rows for block in blocks) > MOST_ROWS:
        return ""
    start_ns, stop_ns = min(b.t0_ns for b in blocks), max(b.last_ns for b in blocks) + 1
    bands = [
        Band(name, unit, *_extremes(blocks, channel.name, element, raw, start_ns, stop_ns))
        for channel in blocks[-1].schema.channels
        for name, unit, element in _elements(channel, raw)
    ][:MOST_BANDS]
    return svg(bands, start_ns, stop_ns)


def _elements(channel: Channel, raw: bool) -> Iterable[tuple[str, str, int]]:
    """What of a channel is a line: a number, or each of a few labelled elements."""
    unit = channel.unit if raw else channel.physical_unit
    if channel.dtype == "text" or len(channel.shape) > 1:
        return
    if not channel.shape:
        yield channel.name, unit, 0
    elif channel.elements <= MOST_BANDS:
        for i in range(channel.elements):
            yield f"{channel.name}[{channel.labels[i] if channel.labels else i}]", unit, i


def _extremes(
    blocks: Sequence[Block], name: str, element: int, raw: bool, start_ns: int, stop_ns: int
) -> tuple[Floats, Floats]:
    least, greatest = np.full(WIDTH, np.inf), np.full(WIDTH, -np.inf)
    for block in blocks:
        if name not in block.schema.names:
            continue
        i = block.schema.index(name)
        channel = block.schema.channels[i]
        if channel.dtype == "text" or len(channel.shape) > 1 or element >= channel.elements:
            continue
        values = _values(block, i, element, raw)
        columns = ((block.time_ns() - start_ns) / (stop_ns - start_ns) * WIDTH).astype(np.int64).clip(0, WIDTH - 1)
        there = np.isfinite(values)
        if there.all():  # as most: rows of a column lie side by side
            firsts = np.flatnonzero(np.diff(columns, prepend=-1))
            where = columns[firsts]
            low, high = np.minimum.reduceat(values, firsts), np.maximum.reduceat(values, firsts)
            least[where], greatest[where] = np.minimum(least[where], low), np.maximum(greatest[where], high)
        else:
            np.minimum.at(least, columns[there], values[there])
            np.maximum.at(greatest, columns[there], values[there])
    nothing = greatest < least
    least[nothing] = greatest[nothing] = np.nan
    return least, greatest


def _values(block: Block, i: int, element: int, raw: bool) -> Floats:
    channel, column = block.schema.channels[i], block.columns[i]
    flat: Array = column.reshape(block.rows, -1)[:, element]
    with np.errstate(all="ignore"):  # what is no number is the user's own
        values = np.array(flat if raw else channel.physical(flat), np.float64)
    mask = block.valid[i] if block.valid else None
    if mask is not None:
        values[~mask] = np.nan
    return values


def svg(bands: Sequence[Band], start_ns: int, stop_ns: int) -> str:
    """The picture of some bands over a range of time; empty where there is nothing to be drawn."""
    drawn = [band for band in bands if np.isfinite(band.least).any()]
    if not drawn:
        return ""
    height = len(drawn) * (HEIGHT + 18) + 18
    label = html.escape(", ".join(band.name for band in drawn))
    size = f'width="{WIDTH + 8}" height="{height}" font-family="sans-serif" font-size="11" fill="currentColor"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">']
    for i, band in enumerate(drawn):
        parts.append(_drawn(band, i * (HEIGHT + 18), _COLOURS[i % len(_COLOURS)]))
    parts.append(f'<text x="4" y="{height - 4}">{shown(start_ns)}</text>')
    parts.append(f'<text x="{WIDTH + 4}" y="{height - 4}" text-anchor="end">{shown(stop_ns - 1)}</text></svg>')
    return "".join(parts)


def _drawn(band: Band, top: int, colour: str) -> str:
    low, high = float(np.nanmin(band.least)), float(np.nanmax(band.greatest))
    span = high - low or 1.0
    bottom = top + 16 + HEIGHT
    there = np.flatnonzero(np.isfinite(band.least))
    y0 = bottom - (band.least[there] - low) / span * (HEIGHT - 2) - 1
    y1 = bottom - (band.greatest[there] - low) / span * (HEIGHT - 2) - 1
    steps, before = [], -2
    for x, a, b in zip(there.tolist(), y0.tolist(), y1.tolist(), strict=True):
        # Side by side it is one line; after a hole, a new one.
        steps.append(f"{'L' if x == before + 1 else 'M'}{x + 4} {b:.1f}V{max(a, b + 0.6):.1f}")
        before = x
    unit = "" if band.unit == "1" else f" [{html.escape(band.unit)}]"
    return (
        f'<text x="4" y="{top + 12}">{html.escape(band.name)}{unit}: {low:.6g} to {high:.6g}</text>'
        f'<path d="{"".join(steps)}" fill="none" stroke="{colour}" stroke-width="1"/>'
    )
