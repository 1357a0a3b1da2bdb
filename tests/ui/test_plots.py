"""Plots in a real browser, of a real station: what was recorded before, and what is being recorded."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import scidaq
from scidaq.block import Channel
from scidaq.clock import SystemClock
from scidaq.instruments import SupervisionOptions, WaveformDriver, WaveformOptions
from scidaq.station import InstrumentPlan, Station, StationPlan
from scidaq.web import KeyStore, SecurityOptions, ServerOptions, open_doors
from scidaq.web.frames import encode

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("SCIDAQ_TEST_CHROMIUM", "/usr/bin/chromium")
pytestmark = [
    pytest.mark.requires("chromium", Path(CHROMIUM).exists(), "install chromium, or name it in SCIDAQ_TEST_CHROMIUM"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SECOND = 1_000_000_000
ROWS = 60_000
"""Of the stream with the spike, a thousand in a second."""
SPIKE = 41_234
MOST_MS = 20_000


@dataclass
class Shown:
    """A station with a past, where its dashboard is, and when its past began."""

    address: str
    begin_ns: int

    def get(self, path: str, accept: str = "application/json") -> Any:
        asked = urllib.request.Request(f"{self.address}/api/v1/{path}", headers={"Accept": accept})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if accept == "application/json" else body

    def post(self, path: str, content: Any) -> Any:
        body = json.dumps(content).encode()
        asked = urllib.request.Request(
            f"{self.address}/api/v1/{path}", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read())

    def link(self, *panes: str, start_s: float = -1.0, stop_s: float = 75.0) -> str:
        """Of a window of the past; times are seconds after its beginning."""
        ends = (f"{name}={self.begin_ns + int(at * SECOND)}" for name, at in (("from", start_s), ("to", stop_s)))
        return f"{self.address}/#/plots?{'&'.join((*ends, *(f'p={pane}' for pane in panes)))}"


def past(data_dir: Path, begin_ns: int) -> None:
    """A minute of a sine with one row that is not of it, ten seconds of nothing, and some more."""
    values = np.sin(np.arange(ROWS) / 700)
    values[SPIKE] = 9.0
    with scidaq.record(data_dir, {"v": "V"}, stream="old/spike") as rec:
        rec.extend(v=values, t=begin_ns, rate_hz=1000)
    with scidaq.record(data_dir, {"v": "V", "w": "A"}, stream="old/spike") as rec:
        rec.extend(v=values[:3000], w=values[:3000], t=begin_ns + 70 * SECOND, rate_hz=1000)
    pressure = 10.0 ** np.linspace(-6, 3, 600)
    pressure[100:110], pressure[300] = 0.0, -1.0
    with scidaq.record(data_dir, {"p": "Pa"}, stream="old/pump") as rec:
        rec.extend(p=pressure, t=begin_ns, rate_hz=10)
    sweep = Channel("sweep", "float32", "V", shape=(64,))
    with scidaq.record(data_dir, {"sweep": sweep}, stream="old/sweeps") as rec:
        for i in range(40):
            rec.add(sweep=np.abs(np.sin(np.arange(64) / 9 + i / 5)).astype("f4"), t=begin_ns + i * SECOND)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    clock, data_dir = SystemClock(), tmp_path_factory.mktemp("plots") / "data"
    begin_ns = clock.now_ns() - 120 * SECOND
    past(data_dir, begin_ns)
    quick = SupervisionOptions(read_timeout_s=0.01)
    wave = InstrumentPlan(
        "wave", lambda: WaveformDriver("wave", WaveformOptions(), clock), "waveform", supervision=quick
    )
    with tempfile.TemporaryDirectory(prefix="scidaq-") as runtime, pytest.MonkeyPatch.context() as patch:
        patch.delenv("RUNTIME_DIRECTORY", raising=False)
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        with Station(StationPlan(data_dir, name="lab", instruments=(wave,)), clock) as station:
            options = ServerOptions(port=0, requests_per_second=0)
            keys = KeyStore(data_dir, clock)
            with open_doors(station, station.stats().uuid, keys, options, SecurityOptions(keys=False)) as web:
                yield Shown(web.address, begin_ns)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that has thrown nothing, and broken no rule about what may run, when its test is over."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, timezone_id="Europe/Berlin")
    context.set_default_timeout(MOST_MS)
    one, wrong = context.new_page(), []
    one.on("pageerror", lambda error: wrong.append(str(error)))
    one.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield one
    context.close()
    assert not wrong


def settled(page: Page) -> None:
    """Wait until everything that the window shows is there."""
    page.wait_for_function(
        "() => window.scidaqPlots && (scidaqPlots.idle || (scidaqPlots.live && scidaqPlots.kept.buckets > 0))"
    )


def window(page: Page) -> tuple[int, int]:
    """Start and length of what is shown, in nanoseconds."""
    start, span = page.evaluate("[String(scidaqPlots.window.start), scidaqPlots.window.span]")
    return int(start), int(span)


def area(page: Page, pane: int = 0) -> dict[str, float]:
    """Where a pane's plot lies on the page."""
    box = page.locator(".u-over").nth(pane).bounding_box()
    assert box is not None
    return {"left": box["x"], "top": box["y"], "width": box["width"], "height": box["height"]}


def hover(page: Page, at_ns: int, pane: int = 0) -> None:
    """Put the cursor on a moment."""
    (start, span), box = window(page), area(page, pane)
    page.mouse.move(box["left"] + (at_ns - start) / span * box["width"], box["top"] + box["height"] / 2)


def highest(page: Page) -> list[float]:
    """For each column of pixels of the first plot, how far up (from 0 to 1) something that is coloured reaches."""
    found: list[float] = page.evaluate(
        """() => {
          const over = document.querySelector(".u-over"), canvas = document.querySelector(".uplot canvas");
          const [w, h] = [over.clientWidth, over.clientHeight], out = [];
          const { data } = canvas.getContext("2d").getImageData(over.offsetLeft, over.offsetTop, w, h);
          const colored = ([r, g, b, a]) => a > 40 && Math.max(r, g, b) - Math.min(r, g, b) > 70;
          for (let x = 0; x < w; x++) {
            let y = 0;
            while (y < h && !colored(data.subarray(4 * (y * w + x)))) y++;
            out.push(1 - y / h);
          }
          return out;
        }"""
    )
    return found


def test_the_present_moves(page: Page, shown: Shown) -> None:
    page.goto(f"{shown.address}/#/plots?live=5s&p=wave/wave/adc.ch0")
    settled(page)
    page.wait_for_function("() => scidaqPlots.kept.buckets > 20")
    first = window(page)[0]
    picture = page.evaluate("document.querySelector('.uplot canvas').toDataURL()")
    page.wait_for_function(
        "([at, before]) => String(scidaqPlots.window.start) > at"
        " && document.querySelector('.uplot canvas').toDataURL() !== before",
        arg=[str(first), picture],
    )
    value = page.locator(".legend output").first
    before = value.inner_text()
    page.wait_for_function("before => document.querySelector('.legend output').textContent !== before", arg=before)
    shown.post("instruments/wave/stop", {})
    page.locator(".lane .event").first.wait_for()
    shown.post("instruments/wave/start", {})
    page.keyboard.press("f")
    page.wait_for_function("() => !scidaqPlots.live")
    page.keyboard.press("f")
    page.wait_for_function("() => scidaqPlots.live")


def test_a_zoom_fetches_finer_values_and_shows_a_spike_of_one_row(page: Page, shown: Shown) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/view?" in request.url else None)
    page.goto(shown.link("old/spike/v"))
    settled(page)
    at_ns = shown.begin_ns + SPIKE * SECOND // 1000
    columns = highest(page)
    start, span = window(page)
    column = int((at_ns - start) / span * len(columns))
    before_gap = int((shown.begin_ns + 59 * SECOND - start) / span * len(columns))
    high = [x for x, y in enumerate(columns[:before_gap]) if y > 0.85]
    assert high
    assert all(abs(x - column) <= 3 for x in high), "the spike is seen where it is, and nowhere else"
    coarse = len(asked)
    while window(page)[1] > SECOND // 10:
        hover(page, at_ns)
        page.mouse.wheel(0, -400)
        page.wait_for_function("before => scidaqPlots.window.span < before", arg=span)
        span = window(page)[1]
    settled(page)
    assert len(asked) > coarse
    hover(page, at_ns)
    page.wait_for_function("() => document.querySelector('.legend output').textContent.startsWith('9.0000')")
    assert abs(window(page)[0] + window(page)[1] / 2 - at_ns) < SECOND
    page.keyboard.press("Backspace")
    page.keyboard.press("0")
    page.wait_for_function("() => scidaqPlots.window.span > 7e10")


def test_while_finer_values_are_on_their_way_the_coarse_ones_are_shown(page: Page, shown: Shown) -> None:
    page.goto(shown.link("old/spike/v"))
    settled(page)
    held: list[Any] = []
    page.route("**/view?*", lambda route: held.append(route))
    page.evaluate("scidaqPlots.select(0.3, 0.31)")
    page.wait_for_function("() => scidaqPlots.loading")
    assert max(highest(page)) > 0.1, "what was there is drawn larger"
    for route in held:
        route.continue_()
    page.unroute("**/view?*")
    settled(page)


def test_a_gap_is_a_gap_and_says_why(page: Page, shown: Shown) -> None:
    page.goto(shown.link("old/spike/v"))
    settled(page)
    hover(page, shown.begin_ns + 65 * SECOND)
    page.mouse.move(area(page)["left"] + 5, area(page)["top"] + 5)
    hover(page, shown.begin_ns + 65 * SECOND)
    tip = page.get_by_text("Gap in old/spike")
    tip.wait_for()
    assert "schema" in tip.inner_text()


def test_the_cursor_reads_what_the_interface_says(page: Page, shown: Shown) -> None:
    page.goto(shown.link("old/spike/v", start_s=10.0, stop_s=10.05))
    settled(page)
    at_ns = shown.begin_ns + 10 * SECOND + 20_000_000
    row = shown.get(f"streams/old/spike/data?start={at_ns}&stop={at_ns + 1_000_000}")["items"][0]
    hover(page, at_ns)
    (value,) = row["values"]["v"]
    shown_text = f"{value * 1000:.2f}".replace("-", "−")
    page.wait_for_function(
        "text => document.querySelector('.legend output').textContent.startsWith(text)", arg=shown_text[:6]
    )


def test_a_link_restores_what_was_seen(page: Page, shown: Shown) -> None:
    page.goto(shown.link("old/spike/v;V=-2..4", "old/pump/p;Pa=log"))
    settled(page)
    page.evaluate("scidaqPlots.select(0.25, 0.5)")
    page.wait_for_function("() => location.hash.includes('.25') || scidaqPlots.window.span < 2e10")
    seen = page.evaluate("scidaqPlots.link()")
    page.wait_for_function("link => location.hash === '#/plots?' + link", arg=seen)
    address = page.url
    other = page.context.new_page()
    other.goto(address)
    settled(other)
    assert other.evaluate("scidaqPlots.link()") == seen
    assert window(other) == window(page)
    assert other.locator(".pane").count() == 2


def test_rows_as_csv_are_those_of_the_interface(page: Page, shown: Shown) -> None:
    page.goto(shown.link("old/spike/v", start_s=40.0, stop_s=42.0))
    settled(page)
    page.get_by_role("button", name="Save").click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="Rows (CSV)").click()
    start, span = window(page)
    wanted = shown.get(f"streams/old/spike/data?start={start}&stop={start + span}&channels=v", "text/csv")
    content = saved.value.path().read_bytes()
    assert content == wanted
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert len(rows) == 2001
    assert "9" in {row[1] for row in rows[1:]} or any(float(row[1]) == 9.0 for row in rows[1:])
    page.get_by_role("button", name="Save").click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="Picture (PNG)").click()
    assert saved.value.path().read_bytes().startswith(b"\x89PNG")


def test_powers_of_ten_leave_out_what_has_none(page: Page, shown: Shown) -> None:
    page.goto(shown.link("old/pump/p"))
    settled(page)
    page.get_by_role("button", name="Axes and order of pane 1").click()
    page.get_by_label("powers of ten").check()
    page.get_by_text("values of zero and below are not shown").wait_for()
    page.get_by_label("follows what is shown").uncheck()
    low = page.get_by_label("from", exact=True)
    low.fill("-5")
    low.press("Enter")
    page.get_by_text("ends above zero").wait_for()
    columns = highest(page)
    assert columns[len(columns) // 20] < 0.5 < max(columns), "it rises through nine decades"


@pytest.mark.slow
def test_an_hour_of_the_present_does_not_grow(page: Page, shown: Shown) -> None:
    """The clock of the page runs ahead, and a station of its own sends what would have come."""
    base_ns = 1_764_100_000 * SECOND
    page.clock.install(time=base_ns / SECOND)
    sockets: list[Any] = []
    views: dict[str, Any] = {}

    def answer(socket: Any) -> None:
        sockets.append(socket)

        def hear(message: Any) -> None:
            said = json.loads(message)
            if said["op"] == "subscribe" and "stream" in said:
                views[said["stream"]] = said
                more = {"view": "k", "step_ns": said["step_ns"], "fps": 30, "channels": None, "live_from_ns": None}
                socket.send(json.dumps({"op": "subscribed", "id": said["id"], **more}))

        socket.on_message(hear)

    page.route_web_socket("**/api/v1/live", answer)
    page.goto(f"{shown.address}/#/plots?live=1m&p=wave/wave/adc.ch0")
    page.wait_for_function("() => window.scidaqPlots && scidaqPlots.panes.length > 0")
    while not views:
        page.wait_for_timeout(20)
    cdp = page.context.new_cdp_session(page)

    def minutes(first: int, last: int) -> int:
        """Play some minutes; gives how much memory the page then uses."""
        for step in range(5 * first, 5 * last):
            page.clock.fast_forward(12_000)  # a longer silence would look like a lost connection
            header = {
                "kind": "view", "view": "k", "seq": step, "stream": "wave/wave", "step_ns": "67108864", "gaps": [],
                "base_ns": str(base_ns + step * 12 * SECOND),
                "channels": [{"name": "adc.ch0", "unit": "V", "dtype": "float64", "shape": [], "labels": None}],
            }  # fmt: skip
            t0, values = np.arange(176) * (12e9 / 176), np.sin(np.arange(176.0))
            more = {f"{kind}:0": values for kind in ("min", "max", "mean", "last")}
            sockets[-1].send(encode(header, {"t0": t0, "t1": t0 + 60e6, "n": np.full(176, 67, "u4"), **more}))
        wanted = str(base_ns + last * 60 * SECOND - 35 * SECOND)
        page.wait_for_function(
            "at => (scidaqPlots.touch(), String(scidaqPlots.window.start) > at || scidaqPlots.kept.buckets > 400)",
            arg=wanted,
        )
        cdp.send("HeapProfiler.collectGarbage")
        return int(cdp.send("Runtime.getHeapUsage")["usedSize"])

    early = minutes(0, 10)
    buckets = page.evaluate("scidaqPlots.kept.buckets")
    late = minutes(10, 60)
    assert 100 < buckets < 4000
    assert page.evaluate("scidaqPlots.kept.buckets") < 4000
    assert late < early + 3_000_000, f"{early} bytes after 10 minutes, {late} after an hour"


def test_two_runs_in_one_plot_begin_together(page: Page, shown: Shown) -> None:
    runs = []
    for name, begin_s in (("first", 0), ("second", 25)):
        ends = {"start_ns": shown.begin_ns + begin_s * SECOND, "stop_ns": shown.begin_ns + (begin_s + 20) * SECOND}
        runs.append(shown.post("runs/past", {"name": name, "streams": ["old/spike"], **ends}))
    page.goto(f"{shown.address}/#/runs")
    for run in runs:
        page.get_by_label(f"Compare {run['name']}").check()
    page.get_by_role("link", name="Compare 2 runs").click()
    settled(page)
    legend = page.locator(".legend").first
    assert "first" in legend.inner_text()
    assert "second" in legend.inner_text()
    assert window(page)[0] < 0
    hover(page, 5 * SECOND)
    page.wait_for_function("() => scidaqPlots.cursor !== null")
    span = window(page)[1]
    assert span == pytest.approx(21 * SECOND, rel=0.01)
    address = page.url
    assert "~r" in address
    other = page.context.new_page()
    other.goto(address)
    settled(other)
    assert other.evaluate("scidaqPlots.compared.length") == 2


def test_a_comment_is_made_with_a_click(page: Page, shown: Shown) -> None:
    page.goto(shown.link("old/spike/v"))
    settled(page)
    box = area(page)
    page.mouse.click(box["left"] + box["width"] * 0.5, box["top"] + box["height"] * 0.6)
    page.get_by_label("Comment on this moment").fill("a lorry went by")
    page.get_by_role("button", name="Comment", exact=True).click()
    flag = page.get_by_role("button", name="Comment: a lorry went by")
    flag.wait_for()
    (note,) = [one for one in shown.get("notes")["items"] if one["text"] == "a lorry went by"]
    start, span = window(page)
    assert note["t_ns"] == pytest.approx(start + span / 2, abs=span / 200)
    assert note["streams"] == ["old/spike"]


def test_channels_are_found_with_keys_and_layouts_are_kept(page: Page, shown: Shown, tmp_path: Path) -> None:
    page.goto(shown.link("old/spike/v"))
    settled(page)
    page.keyboard.press("/")
    page.keyboard.type("pump")
    page.get_by_role("option", name="old/pump").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function("() => scidaqPlots.panes.length === 2")
    page.get_by_role("button", name="Layouts").click()
    page.get_by_label("Name of the layout").fill("both")
    page.get_by_role("button", name="Save this").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save to a file").click()
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("() => scidaqPlots.panes.length === 0")
    page.get_by_role("button", name="both", exact=True).click()
    page.wait_for_function("() => scidaqPlots.panes.length === 2")
    page.evaluate("localStorage.clear()")
    page.reload()
    page.get_by_role("button", name="Layouts").click()
    page.locator("input[type=file]").set_input_files(saved.value.path())
    page.get_by_role("button", name="both", exact=True).wait_for()
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    page.locator("input[type=file]").set_input_files(wrong)
    page.get_by_text("no file of saved layouts").wait_for()


def test_spectra_are_a_waterfall_or_a_line(page: Page, shown: Shown) -> None:
    page.goto(shown.link("waterfall!old/sweeps/sweep"))
    painted = """(() => {
      const canvas = document.querySelector("section.pane canvas"), colors = new Set();
      if (!canvas?.width) return 0;
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      for (let i = 0; i < data.length; i += 40) if (data[i + 3] > 200) colors.add(data.slice(i, i + 3).join());
      return colors.size;
    })()"""
    page.wait_for_function(f"() => {painted} > 60")
    page.get_by_label("Shown as").select_option("spectrum")
    page.wait_for_function(f"() => {painted} < 60 && {painted} > 1")


def test_one_finger_moves_and_two_zoom(browser: Browser, shown: Shown) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    context.set_default_timeout(MOST_MS)
    page = context.new_page()
    page.goto(shown.link("old/spike/v"))
    settled(page)
    cdp, box = context.new_cdp_session(page), area(page)
    x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2

    def touch(kind: str, *points: float) -> None:
        cdp.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": p, "y": y, "id": i} for i, p in enumerate(points)]},
        )

    start, span = window(page)
    touch("touchStart", x)
    for moved in (10, 30, 60):
        touch("touchMove", x + moved)
    touch("touchEnd")
    page.wait_for_function("at => String(scidaqPlots.window.start) < at", arg=str(start))
    assert window(page)[1] == span
    touch("touchStart", x - 30, x + 30)
    for apart in (40, 60, 90):
        touch("touchMove", x - apart, x + apart)
    touch("touchEnd")
    page.wait_for_function("before => scidaqPlots.window.span < before", arg=span / 2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"
    context.close()
