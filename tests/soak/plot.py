"""Draws the samples of a soak as an SVG that reads in light and dark. No library: six lines of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from tests.soak.watching import Sample

WIDTH, HEIGHT, LEFT, TOP, STEP = 860, 96, 150, 30, 112
PANELS: list[tuple[str, Callable[[Sample], float], str]] = [
    ("memory", lambda s: s.memory_bytes / (1 << 20), "MiB"),
    ("open files", lambda s: s.descriptors, ""),
    ("threads", lambda s: s.threads, ""),
    ("processor", lambda s: s.cpu, "cores"),
    ("waiting in rings", lambda s: s.waiting_bytes / (1 << 20), "MiB"),
    ("refused by the disk", lambda s: s.failures, "in all"),
]
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #333 } .small { font-size: 11px; fill: #666 }
  .line { fill: none; stroke: #1f6fb2; stroke-width: 1.4 } .axis { stroke: #bbb; stroke-width: 1 }
  .back { fill: #fff }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .small { fill: #999 } .line { stroke: #6cb4f0 } .axis { stroke: #555 } .back { fill: #16181c }
  }
"""


def drawn(samples: Sequence[Sample]) -> str:
    """The picture."""
    height = TOP + STEP * len(PANELS) + 20
    end_s = samples[-1].t_s or 1.0
    label = f"Memory, files, threads and processor of a station over {end_s / 60:.0f} minutes"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">',
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{height}"/>',
    ]
    for i, (name, value, unit) in enumerate(PANELS):
        out += _panel(samples, end_s, name, value, unit, TOP + i * STEP)
    bottom = height - 14
    for minutes in _ticks(end_s / 60):
        x = LEFT + minutes * 60 / end_s * (WIDTH - LEFT - 20)
        out.append(f'<text class="small" x="{x:.0f}" y="{bottom}" text-anchor="middle">{minutes:g} min</text>')
    return "\n".join([*out, "</svg>\n"])


def _panel(
    samples: Sequence[Sample], end_s: float, name: str, value: Callable[[Sample], float], unit: str, top: int
) -> list[str]:
    values = [value(s) for s in samples]
    most = max(values) or 1.0
    floor, scale = top + HEIGHT - 16, (HEIGHT - 24) / (1.08 * most)
    width = WIDTH - LEFT - 20
    points = " ".join(
        f"{LEFT + s.t_s / end_s * width:.1f},{floor - v * scale:.1f}" for s, v in zip(samples, values, strict=True)
    )
    return [
        f'<text x="12" y="{top + 22}">{escape(name)}</text>',
        f'<text class="small" x="12" y="{top + 40}">at most {most:,.4g} {unit}</text>',
        f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{LEFT + width}" y2="{floor}"/>',
        f'<text class="small" x="{LEFT - 6}" y="{floor + 4}" text-anchor="end">0</text>',
        f'<polyline class="line" points="{points}"/>',
    ]


def _ticks(minutes: float) -> list[float]:
    step = next((s for s in (0.1, 0.5, 1, 2, 5, 10, 30, 60, 240) if minutes / s <= 8), 1440)
    return [step * i for i in range(int(minutes / step + 1e-9) + 1)]
