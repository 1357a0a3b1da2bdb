"""Takes the pictures of the dashboard: every page, wide and on a phone, light and dark. `make pictures` does it.

    python docs/pictures/dashboard.py

What they show was recorded: a demo is started, killed and started again, has a run, a note, an export and an instrument
that was stopped, and Chromium looks at it. The picture's name says the page, the width and the theme.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("SCIDAQ_TEST_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
SIZES = {1440: 900, 390: 844}
KILLED_AFTER_S, SHOWN_AFTER_S, SETTLED_MS = 25.0, 62.0, 4000
MOST_MS = 60_000
TITLES = {"instrument": "Instruments", "run": "Runs", "login": "scidaq"}
PLOTS = (
    "plots?live=60s&p=dmm/readings/voltage&p=slow/wave/ch0,slow/wave/ch1"
    "&p=fast/wave/adc.ch0&p=spectrum!scope/traces/ch1"
)


def wait(seconds: float) -> None:
    """Let it record."""
    threading.Event().wait(seconds)


@contextmanager
def demo(directory: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`scidaq demo` in a directory, until the end of the block."""
    environment = {**os.environ, "SCIDAQ_SERVER__PORT": str(port)}
    command = [sys.executable, "-m", "scidaq", "demo"]
    with subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)


def free_port() -> int:
    """One that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ask(base: str, method: str, path: str, content: Any = None) -> Any:
    """An answer of the station, which may still be on its way."""
    body = None if content is None else json.dumps(content).encode()
    for _ in range(100):
        try:
            asked = urllib.request.Request(
                f"{base}/api/v1/{path}", body, {"Content-Type": "application/json"}, method=method
            )
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            wait(0.2)
    raise SystemExit(f"no station at {base}")


def story(base: str) -> str:
    """Something to look at; the id of the run that ended."""
    past = ask(
        base, "POST", "runs", {"name": "cooldown 4", "sample": "Nb 17", "metadata": {"t_k": 4.2, "shielded": True}}
    )
    ask(base, "POST", "notes", {"text": "helium refilled", "run": past["id"]})
    ask(base, "PUT", "instruments/scope/parameters/timebase", {"value": 5e-4, "unit": "s"})
    wait(8)
    ask(base, "POST", f"runs/{past['id']}/stop")
    ask(base, "POST", f"runs/{past['id']}/export", {"format": "hdf5"})
    ask(
        base,
        "POST",
        "holds",
        {"run": past["id"], "until_ns": past["start_ns"] + 365 * 86_400 * 10**9, "why": "for the paper"},
    )
    ask(base, "POST", "runs", {"name": "warm-up", "sample": "Nb 17", "metadata": {"t_k": 77}})
    return str(past["id"])


def take(base: str, run: str, into: Path) -> None:
    """All pictures."""
    from playwright.sync_api import sync_playwright

    pages = {
        "overview": "",
        "plots": PLOTS,
        "instruments": "instruments",
        "instrument": "instruments/scope",
        "runs": "runs",
        "run": f"runs/{run}",
        "health": "health",
        "login": "login",
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, height in SIZES.items():
            for theme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
                page = context.new_page()
                for name, path in pages.items():
                    page.goto(f"{base}/#/{path}")
                    title = TITLES.get(name, name.capitalize())
                    page.wait_for_function(f"document.title.startsWith('{title}')", timeout=MOST_MS)
                    page.wait_for_timeout(SETTLED_MS)
                    page.get_by_text("Loading", exact=True).first.wait_for(state="detached", timeout=MOST_MS)
                    where = into / f"{name}-{width}-{theme}.png"
                    page.screenshot(path=where)
                    smaller(where)
                context.close()
        browser.close()


def smaller(picture: Path) -> None:
    """With 256 colours, which is all that a page has but for the edges of its letters."""
    from PIL import Image

    with Image.open(picture) as whole:
        whole.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


def main() -> None:
    """Record, look, and take the pictures."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as directory:
        with demo(directory, port) as first:
            ask(base, "GET", "status")
            wait(KILLED_AFTER_S)
            first.kill()
        with demo(directory, port):
            run = story(base)
            wait(SHOWN_AFTER_S - KILLED_AFTER_S - 20)
            ask(base, "POST", "instruments/dmm/stop")
            wait(3)
            ask(base, "POST", "instruments/dmm/start")
            wait(6)
            take(base, run, HERE)


if __name__ == "__main__":
    main()
