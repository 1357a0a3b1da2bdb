"""The dashboard in a real browser, in front of a station that records two instruments."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from scidaq.web import SecurityOptions, ServerOptions, WebServer, open_doors
from tests.web.live import Live, live_station

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = os.environ.get("SCIDAQ_TEST_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
MOST_MS = 30_000
"""How long anything may take on a machine that does other things too."""
DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}

OpenPage = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; for one module, as the loop that it runs in would be in the way of tests with loops of their own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A station that asks for keys."""
    with live_station(tmp_path_factory.mktemp("ui") / "data") as one:
        one.until_rows("wave/wave", 500)
        one.until_rows("fake/fake", 5)
        yield one


@contextmanager
def another_door(lab: Live, port: int = 0) -> Iterator[WebServer]:
    """A second server of the same station, without keys."""
    options = ServerOptions(port=port, requests_per_second=0)
    with open_doors(lab.station, str(uuid.uuid4()), lab.store, options, SecurityOptions(keys=False)) as web:
        yield web


@pytest.fixture
def open_page(browser: Browser, lab: Live) -> Iterator[OpenPage]:
    """Opens a page, logged in with the key of a scope (None: not at all). What it should not do fails the test: errors
    on its console, what its policy forbids, and requests to anywhere but the station."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def opened(path: str = "", scope: str | None = "admin", address: str = "", allowed: str = "", **given: Any) -> Page:
        origin = address or lab.web.address
        context = browser.new_context(viewport=given.pop("viewport", DESK), **given)
        contexts.append(context)
        context.set_default_timeout(MOST_MS)
        if scope is not None:
            context.request.post(f"{origin}/api/v1/session", data={"key": lab.keys[scope]})
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"{path}: {error}"))
        page.on(
            "console",
            lambda said: (
                wrong.append(f"{path}: {said.text}")
                if said.type == "error" and not (allowed and allowed in said.text)
                else None
            ),
        )
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((origin, "blob:", "data:")) else wrong.append(f"{path}: {asked.url}")
            ),
        )
        page.on(
            "websocket",
            lambda asked: (
                None if asked.url.startswith(origin.replace("http", "ws", 1)) else wrong.append(f"{path}: {asked.url}")
            ),
        )
        page.goto(f"{origin}/#/{path}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
