"""What a browser sees first."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scidaq.web import KeyStore, SecurityOptions, assets
from scidaq.web.overview import LOGIN_SCRIPT
from tests.web.conftest import OpenDoors
from tests.web.talk import ask


class Seen(HTMLParser):
    """Every tag and attribute of a page, and what it loads."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [str(given[a]) for a in ("src", "href") if a in given and tag != "a"]
        self.inline += [a for a in given if a.startswith("on") or a == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def nothing_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "assets", dict)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard of one page and one script."""
    (tmp_path / "assets").mkdir()
    page = b'<!doctype html><title>dashboard</title><script type="module" src="/assets/index-abc.js"></script>'
    for name, content in (("index.html", page), ("assets/index-abc.js", b"42"), ("assets/odd.bin", b"")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    found = assets.assets(tmp_path)
    monkeypatch.setattr(assets, "assets", lambda: found)


def test_the_dashboard_is_the_page_of_whoever_asks(doors: OpenDoors, built: None) -> None:
    web = doors(SecurityOptions())
    for path in ("/", "/login"):
        page = ask(web.address, path)
        seen = Seen(page.body)
        assert (page.status, page.headers["cache-control"], seen.inline) == (200, "no-cache", [])
        assert ask(web.address, path, headers={"If-None-Match": page.headers["etag"]}).status == 304
        for loaded in seen.loads:
            script = ask(web.address, loaded)
            assert (script.status, script.body) == (200, b"42")
            assert "immutable" in script.headers["cache-control"]


def test_files_of_the_dashboard_are_sent_as_they_were_compressed(doors: OpenDoors, built: None) -> None:
    web = doors(SecurityOptions())
    plain = ask(web.address, "/assets/index-abc.js")
    short = ask(web.address, "/assets/index-abc.js", headers={"Accept-Encoding": "br;q=1, gzip"})
    assert (plain.headers.get("content-encoding"), short.headers["content-encoding"]) == (None, "gzip")
    assert gzip.decompress(short.body) == plain.body
    assert plain.headers["vary"] == short.headers["vary"] == "Accept-Encoding"
    assert plain.headers["etag"] != short.headers["etag"]
    for tag in (plain.headers["etag"], short.headers["etag"]):
        assert ask(web.address, "/assets/index-abc.js", headers={"If-None-Match": tag}).status == 304


@pytest.mark.parametrize(
    "path", ["index.html", "odd.bin", "index-abc.js.gz", "..%2f..%2f__init__.py", "%2e%2e/__init__.py", "x" * 300, ""]
)
def test_what_is_no_file_of_the_dashboard_is_not_there(doors: OpenDoors, built: None, path: str) -> None:
    refused = ask(doors(SecurityOptions()).address, f"/assets/{path}")
    assert refused.status in (401, 404, 422)


def test_where_no_key_is_asked_for_the_overview_is_there_at_once(doors: OpenDoors) -> None:
    answer = ask(doors().address, "/plain")
    seen = Seen(answer.body)
    assert answer.status == 200
    for said in ("station", "Health", "storage", "Instruments", "Streams", "none yet"):
        assert said in seen.text
    assert seen.inline == []  # the policy of the page would not run it


def test_a_stranger_is_sent_to_log_in(doors: OpenDoors) -> None:
    web = doors(SecurityOptions())
    answer = ask(web.address, "/plain")
    assert (answer.status, answer.headers["location"]) == (303, "/login")


def test_without_a_dashboard_the_small_pages_take_its_place(doors: OpenDoors, nothing_built: None) -> None:
    web = doors(SecurityOptions())
    answer = ask(web.address, "/")
    assert (answer.status, answer.headers["location"]) == (303, "/plain")
    page = ask(web.address, "/login")
    seen = Seen(page.body)
    assert page.status == 200
    assert seen.inline == []
    for path in seen.loads:
        assert ask(web.address, path).status == 200, path


def test_a_key_makes_a_session_that_sees_the_overview(doors: OpenDoors, keys: KeyStore) -> None:
    web = doors(SecurityOptions())
    _, given = keys.create("plots", ["read"])
    json = {"Content-Type": "application/json", "Origin": web.address}
    answer = ask(web.address, "/api/v1/session", "POST", b'{"key":"%s"}' % given.encode(), json)
    assert answer.status == 201
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    session = {"Cookie": cookie.partition(";")[0]}
    page = ask(web.address, "/plain", headers=session)
    assert page.status == 200
    assert b"plots" in page.body
    keys.revoke("plots")
    assert ask(web.address, "/plain", headers=session).status == 303


def test_a_link_logs_in_once(doors: OpenDoors) -> None:
    web = doors(SecurityOptions())
    body = b'{"link":"%s"}' % web.new_link().encode()
    json = {"Content-Type": "application/json"}
    assert ask(web.address, "/api/v1/session", "POST", body, json).status == 201
    assert ask(web.address, "/api/v1/session", "POST", body, json).status == 401


def test_names_of_others_are_no_markup(doors: OpenDoors, monkeypatch: pytest.MonkeyPatch) -> None:
    from scidaq.web import overview

    monkeypatch.setattr(overview, "_moment", lambda ns: "")
    page = overview._section("x", ("a",), [(overview._mark("<b>x"),)])
    assert "<b>x" not in page


def test_the_script_uses_what_there_is() -> None:
    assert set(re.findall(r"getElementById\(\"(\w+)\"", LOGIN_SCRIPT)) == {"said", "login", "key"}
