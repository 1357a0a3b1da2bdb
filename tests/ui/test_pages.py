"""Every page of the dashboard, as somebody uses it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scidaq.web.assets import HERE, assets
from tests.ui.conftest import CHROMIUM, MOST_MS, PHONE, OpenPage, another_door
from tests.web.live import Live, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

AXE = Path(__file__).parents[2] / "ui/node_modules/axe-core/axe.min.js"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.requires("chromium", Path(CHROMIUM).exists(), "install chromium, or name it in SCIDAQ_TEST_CHROMIUM"),
    pytest.mark.requires("the dashboard", (HERE / "index.html").is_file(), "make ui"),
]
PAGES = ("", "instruments", "instruments/fake", "runs", "runs/{run}", "health")


@pytest.fixture(scope="module")
def run(lab: Live) -> str:
    """A run that has ended."""
    words = {"name": "cooldown", "operator": "kim", "metadata": {"load_ohm": 50}}
    made = str(lab.ask("runs", "POST", words).json["id"])
    lab.ask("notes", "POST", {"text": "helium refilled", "run": made})
    assert lab.ask(f"runs/{made}/stop", "POST").status == 200
    return made


def expect(what: Any) -> Any:
    from playwright.sync_api import expect as wait_for

    wait_for.set_options(timeout=MOST_MS)
    return wait_for(what)


def is_there(page: Page) -> None:
    """The page has what it shows."""
    expect(page.locator("main h1")).to_be_attached()
    expect(page.get_by_text("Loading", exact=True)).to_have_count(0)


# ---- all pages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_on_any_page(open_page: OpenPage, run: str, theme: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not there: python tools/dashboard.py --dev")
    page = open_page(color_scheme=theme)
    is_there(page)
    for path in PAGES:
        page.evaluate("path => { location.hash = path }", f"#/{path.format(run=run)}")
        is_there(page)
        page.evaluate(AXE.read_text() + ";0")
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
        told = [f"{v['id']}: {[n['target'] for n in v['nodes']][:3]}" for v in serious]
        assert told == [], path or "overview"


def test_on_a_phone_nothing_is_wider_than_the_screen(open_page: OpenPage, run: str) -> None:
    page = open_page(viewport=PHONE)
    for path in PAGES:
        page.evaluate("path => { location.hash = path }", f"#/{path.format(run=run)}")
        is_there(page)
        wide = page.evaluate(
            "Math.max(document.documentElement.scrollWidth, document.querySelector('main').scrollWidth)"
        )
        assert wide <= PHONE["width"], path or "overview"


def test_scripts_stay_small() -> None:
    scripts = [one.content for path, one in assets().items() if path.endswith(".js")]
    assert scripts
    assert sum(len(gzip.compress(script, 9)) for script in scripts) <= 120_000


def test_nothing_is_inline_that_the_policy_would_not_run(open_page: OpenPage) -> None:
    page = open_page()
    is_there(page)
    assert page.evaluate("document.querySelectorAll('script:not([src]), style').length") == 0


def test_keys_lead_everywhere(open_page: OpenPage) -> None:
    page = open_page()
    is_there(page)
    for key, shown in (("i", "Instruments"), ("r", "Runs"), ("h", "Health and log")):
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page.get_by_role("heading", level=1, name=shown)).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("o")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_the_theme_is_what_somebody_chose(open_page: OpenPage) -> None:
    page = open_page(color_scheme="dark")
    is_there(page)
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.get_by_role("button", name="Theme: system").click()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    assert page.evaluate(colour) != dark
    page.reload()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()


# ---- overview ------------------------------------------------------------------------------------------------------


def test_the_overview_shows_values_that_move(open_page: OpenPage) -> None:
    page = open_page()
    wave = page.get_by_role("region", name="wave")
    value = wave.get_by_role("link", name=re.compile("ch0")).locator(".value")
    expect(value).to_have_text(re.compile(r"[\d.]+.*V"))
    before = value.inner_text()
    expect(value).not_to_have_text(before)
    expect(page.get_by_role("region", name="Station")).to_contain_text("healthy")
    expect(page.get_by_role("region", name="Station")).to_contain_text("rows/s")
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v)"
    page.wait_for_function(f"Array.from(document.querySelectorAll('.spark canvas')).some({drawn})")


def test_a_server_that_was_gone_is_found_again(open_page: OpenPage, lab: Live) -> None:
    with another_door(lab) as web:
        port = int(web.address.rpartition(":")[2])
        page = open_page(scope=None, address=web.address, allowed="ERR_")
        value = page.get_by_role("region", name="wave").locator(".value").first
        expect(value).to_have_text(re.compile(r"\d"))
    expect(page.get_by_text("The connection to the station is lost")).to_be_visible()
    with another_door(lab, port):
        expect(page.get_by_text("The connection to the station is lost")).to_have_count(0)
        before = value.inner_text()
        expect(value).not_to_have_text(before)


# ---- instruments ---------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_as_found(lab: Live) -> Iterator[None]:
    yield
    lab.fake.stuck = None
    lab.ask("instruments/fake/start", "POST")
    until(lambda: lab.door.instrument("fake").stats.state == "acquiring")
    lab.ask("instruments/fake/parameters/level", "PUT", {"value": 1.0})


def test_a_wrong_parameter_is_refused_in_words(open_page: OpenPage, lab: Live, fake_as_found: None) -> None:
    page = open_page("instruments/fake", scope="operate", allowed="422")
    level = page.get_by_role("group", name="level")
    field = level.get_by_label("level", exact=True)
    for typed, words in (
        ("11", "is above the highest that is allowed, 10"),
        ("-1 mV", "is below the lowest that is allowed, 0"),
        ("much", "is no number"),
        ("2 A", "the unit is V"),
    ):
        field.fill(typed)
        expect(level.get_by_role("alert")).to_contain_text(words)
        expect(level.get_by_role("button", name="Set")).to_be_disabled()
    field.press("Enter")
    assert lab.fake.values["level"] == 1.0
    field.fill("2500 mV")
    field.press("Enter")
    expect(level.locator(".value")).to_have_text(re.compile(r"2\.5.*V"))
    assert lab.fake.values["level"] == 2.5
    lab.fake.stuck = 3.0
    field.fill("4")
    field.press("Enter")
    expect(level.get_by_role("alert")).to_contain_text("reads back")
    field.press("Escape")


def test_an_instrument_is_stopped_started_and_leased(open_page: OpenPage, lab: Live, fake_as_found: None) -> None:
    page = open_page("instruments/fake", allowed="409")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("ready")
    page.get_by_role("button", name="Safe state").click()
    expect(page.get_by_text("fake is in its safe state.")).to_be_visible()
    assert "safe" in lab.fake.calls
    page.get_by_role("button", name="Disconnect").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("stopped")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("acquiring")
    page.get_by_role("button", name="Take for 10 min").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("you,")
    other = open_page("instruments/fake", scope="operate", allowed="409")
    expect(other.get_by_text("admin key drives it")).to_be_visible()
    expect(other.get_by_role("button", name="Stop")).to_be_disabled()
    page.get_by_role("button", name="Give back").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("nobody")


def test_what_went_wrong_is_told_with_advice(open_page: OpenPage, lab: Live, fake_as_found: None) -> None:
    lab.fake.fail["read"] = [OSError("the cable was pulled")]
    page = open_page("instruments/fake", allowed="409 (Conflict)")  # its parameters, while it is not connected
    expect(page.get_by_role("region", name="What went wrong of late")).to_contain_text("the cable was pulled")


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_from_its_beginning_to_its_export(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page("runs")
    page.get_by_role("button", name="Begin a run").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name", exact=True).fill("night 12")
    form.get_by_label("Operator").fill("kim")
    form.get_by_role("button", name="Add a key").click()
    form.get_by_label("Key 1", exact=True).fill("load_ohm")
    form.get_by_label("Value of load_ohm").fill("50")
    form.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("region", name="Runs under way")).to_contain_text("night 12")
    page.get_by_role("region", name="All runs").get_by_role("link", name="night 12").click()
    expect(page.get_by_role("heading", level=1, name="night 12")).to_be_visible()
    expect(page.get_by_text("load_ohm")).to_be_visible()
    page.get_by_label("A note about this run").fill("the fan was on")
    page.get_by_role("button", name="Note", exact=True).click()
    expect(page.get_by_text("the fan was on")).to_be_visible()
    page.get_by_role("button", name="End run").click()
    expect(page.get_by_role("button", name="Delete")).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    form.get_by_label("Sample").fill("Nb 17")
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Nb 17")).to_be_visible()
    page.get_by_role("button", name="Keep it").click()
    form.get_by_label("Why").fill("for the paper")
    form.get_by_role("button", name="Keep it").click()
    expect(page.get_by_text("for the paper")).to_be_visible()
    page.get_by_role("button", name="Release").click()
    expect(page.get_by_text("Nothing keeps it.")).to_be_visible()
    page.get_by_label("Format").select_option("csv")
    page.get_by_role("button", name="Export").click()
    made = page.get_by_role("link", name="fake.fake.csv", exact=True)
    made.wait_for(timeout=60_000)  # in a process of low priority, which has to come to its turn
    with page.expect_download() as download:
        made.click()
    download.value.save_as(tmp_path / "fake.csv")
    assert (tmp_path / "fake.csv").stat().st_size > 0
    page.get_by_role("button", name="Delete").click()
    form.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", level=1, name="Runs")).to_be_visible()
    expect(page.get_by_role("link", name="night 12")).to_have_count(0)


def test_a_run_is_declared_over_a_range_and_found(open_page: OpenPage, lab: Live, run: str) -> None:
    stop_ns = lab.door.now_ns()
    page = open_page(f"runs?start={stop_ns - 3_000_000_000}&stop={stop_ns}")
    form = page.get_by_role("dialog", name="Declare a run for the past")
    form.get_by_label("Name", exact=True).fill("the last seconds")
    form.get_by_role("button", name="Declare").click()
    expect(page.get_by_role("heading", level=1, name="the last seconds")).to_be_visible()
    declared = next(one for one in lab.ask("runs").json["items"] if one["name"] == "the last seconds")
    assert (declared["start_ns"], declared["stop_ns"]) == (stop_ns - 3_000_000_000, stop_ns)  # to the nanosecond
    page.get_by_role("link", name="All runs").click()
    search = page.get_by_label("Search runs")
    search.fill("load_ohm")
    expect(page.get_by_role("link", name="the last seconds")).to_have_count(0)
    expect(page.get_by_role("link", name="cooldown")).to_be_visible()
    search.fill("nothing like this")
    expect(page.get_by_text("No run says that")).to_be_visible()


# ---- health --------------------------------------------------------------------------------------------------------


def test_health_has_reasons_and_events_come_by_themselves(open_page: OpenPage, lab: Live, fake_as_found: None) -> None:
    page = open_page("health", scope="read")
    expect(page.get_by_role("region", name="Components")).to_contain_text("storage")
    expect(page.get_by_text("need a key of the scope operate")).to_be_visible()
    lab.ask("instruments/fake/stop", "POST")
    events = page.get_by_role("log")
    expect(events).to_contain_text("fake is ready")
    page.get_by_label("Search the log").fill("no such thing")
    expect(events).to_contain_text("Nothing like that.")


# ---- logging in ----------------------------------------------------------------------------------------------------


def test_a_key_logs_in_and_out(open_page: OpenPage, lab: Live) -> None:
    page = open_page(scope=None, allowed="401")
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    field.fill("scidaq_00000000_" + "A" * 43)
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("this is no valid key")
    field.fill(lab.keys["admin"])
    field.press("Enter")
    expect(page.get_by_role("region", name="Station")).to_be_visible()
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_link_logs_in_once_and_leaves_no_trace(open_page: OpenPage, lab: Live) -> None:
    page = open_page(scope=None, allowed="401")
    link = f"{lab.web.address}/login#{lab.web.new_link()}"
    page.goto(link)
    expect(page.get_by_role("region", name="Station")).to_be_visible()
    assert page.url == f"{lab.web.address}/#/"
    again = open_page(scope=None, allowed="401")
    again.goto(link)
    expect(again.get_by_role("alert")).to_contain_text("no valid key or link")


def test_what_a_key_may_not_do_is_not_offered(open_page: OpenPage, run: str) -> None:
    page = open_page(scope="read")
    is_there(page)
    for path in PAGES:
        page.evaluate("path => { location.hash = path }", f"#/{path.format(run=run)}")
        is_there(page)
        for name in ("Begin a run", "Stop", "Safe state", "Set", "Edit", "Delete", "Note", "Export", "Keep it"):
            assert page.get_by_role("button", name=name, exact=True).count() == 0, (path, name)


def test_a_session_that_ends_leads_to_the_login(open_page: OpenPage, lab: Live) -> None:
    page = open_page("runs", allowed="401")
    is_there(page)
    page.context.clear_cookies()
    expect(page.get_by_label("API key")).to_be_visible()
