"""Draws `live-table.svg`: the demo's table, some time after it was killed and started again.

    python docs/pictures/live_table.py

What it shows was recorded: a station is started, killed with SIGKILL, started again, and asked for its statistics.
The picture names no outside font, so that it looks the same without a network.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from scidaq.cli.demo import simulated
from scidaq.cli.recording import Rates, table
from scidaq.clock import SystemClock
from scidaq.config import Base, Override, load
from scidaq.station import Station

PICTURE = Path(__file__).with_name("live-table.svg")
KILLED_AFTER_S, AWAY_S, SHOWN_AFTER_S = 20.0, 4.0, 65.0

THEME = TerminalTheme(
    (22, 27, 34),
    (201, 209, 217),
    [
        *((72, 79, 88), (255, 123, 114), (86, 211, 100), (227, 179, 65)),
        *((121, 192, 255), (210, 168, 255), (86, 212, 221), (201, 209, 217)),
    ],
)
COLUMN, LINE, MARGIN = 12.2, 24.4, 18
"""Width and height of a character as rich reckons them, and the room around the table."""
TEXT = re.compile(r'<text class="([^"]+)" x="([^"]+)" y="([^"]+)" [^>]*>([^<]*)</text>')
UP, DOWN = frozenset("┡╇┩│┃└┴┘"), frozenset("┏┳┓┡╇┩│┃")
FORMAT = "STYLES{styles}MATRIX{matrix}SIZE{terminal_width} {terminal_height}"
PAGE = """\
<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg">
<title>The live table of scidaq demo</title>
<style>
text {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
  font-size: 20px; white-space: pre;
}}
{styles}
</style>
<rect x="1" y="1" width="{inner_width:g}" height="{inner_height:g}" rx="10" fill="#161b22" stroke="#57606a"/>
<g transform="translate({margin} {margin})">
<path d="{lines}" fill="none" stroke="#484f58" stroke-width="1.5" stroke-linecap="square"/>
{texts}
</g>
</svg>
"""


def record_and_be_killed(data_dir: Path) -> None:
    """A demo that ends as a machine without power does."""
    demo = [sys.executable, "-m", "scidaq", "demo", "--data-dir", str(data_dir)]
    with subprocess.Popen(demo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(KILLED_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()


def draw(data_dir: Path) -> str:
    """Record into the same directory again; the table of that station as SVG."""
    clock, rates, never = SystemClock(), Rates(), threading.Event()
    with simulated() as configuration:
        base = Base("demo", configuration)
        here = Override("here", ("station", "data_dir"), str(data_dir))
        with Station(load([], [here], base=base).plan(clock), clock) as station:
            for pause_s in (SHOWN_AFTER_S, 10.0):
                clock.wait(never, pause_s)
                stats = station.stats()
                shown = table(stats, rates.of(stats))
    console = Console(record=True, width=console_width(shown), file=StringIO(), force_terminal=True)
    console.print(shown)
    return as_svg(console)


def console_width(shown: object) -> int:
    """As wide as the table is, not as a terminal would be."""
    wide = Console(width=200)
    return wide.measure(shown).maximum  # type: ignore[arg-type]


def as_svg(console: Console) -> str:
    """What was printed, in a frame that stands out on a light page and on a dark one.

    rich says what stands where and in which colour. The lines of the table are drawn as lines, since the characters for
    them meet in few fonts, and each text begins where it does whatever the width of a blank.
    """
    _, styles, matrix, size = re.split("STYLES|MATRIX|SIZE", console.export_svg(theme=THEME, code_format=FORMAT))
    columns, rows = (float(n) for n in size.split())
    texts, strokes = [], []
    for kind, x, y, content in TEXT.findall(matrix):
        content = html.unescape(content).replace("\xa0", " ").rstrip()
        left = float(x) + (len(content) - len(content.lstrip())) * COLUMN
        content = content.lstrip()
        if "─" <= content[:1] <= "╿":
            strokes += ruled(content, left + COLUMN / 2, float(y) - 6)
        elif content:
            words = html.escape(content)
            texts.append(
                f'<text class="{kind}" x="{left:g}" y="{y}" textLength="{len(content) * COLUMN:g}">{words}</text>'
            )
    width, height = columns + 2 * MARGIN, rows - LINE / 2 + 2 * MARGIN
    return PAGE.format(
        width=width,
        height=height,
        inner_width=width - 2,
        inner_height=height - 2,
        margin=MARGIN,
        styles="\n".join(line.strip() for line in styles.splitlines() if line.strip()),
        lines=" ".join(strokes),
        texts="\n".join(texts),
    )


def ruled(border: str, x: float, y: float) -> Iterator[str]:
    """The strokes of a piece of border whose first character has its middle at `x`, `y`."""
    if len(border) > 1:
        yield f"M{x:g} {y:g}H{x + (len(border) - 1) * COLUMN:g}"
    for i, character in enumerate(border):
        if character in UP | DOWN:
            top = y - LINE / 2 if character in UP else y
            bottom = y + LINE / 2 if character in DOWN else y
            yield f"M{x + i * COLUMN:g} {top:g}V{bottom:g}"


def main() -> None:
    """Record, and draw."""
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory) / "scidaq-demo"
        record_and_be_killed(data_dir)
        threading.Event().wait(AWAY_S)
        PICTURE.write_text(draw(data_dir), encoding="utf-8")


if __name__ == "__main__":
    main()
