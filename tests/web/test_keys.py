"""API keys: what they open, for how long, and what is kept of them."""

from __future__ import annotations

import stat
from pathlib import Path

import orjson
import pytest

from scidaq.errors import RequestError, StationError, WriteFailed
from scidaq.testing import FakeClock
from scidaq.web import KeyStore
from scidaq.web.keys import spread

DAY_S = 86_400


def test_a_key_is_found_by_what_was_shown_once_and_kept_as_a_hash(keys: KeyStore, tmp_path: Path) -> None:
    key, given = keys.create("plots", ["read"])
    assert keys.find(given) == key
    content = (tmp_path / "keys.json").read_text()
    assert given not in content
    assert given.split("_", 2)[2] not in content
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert "hash" not in key.told(keys.now_ns)


@pytest.mark.parametrize("wrong", ["", "x", "scidaq_", "scidaq_00000000_" + "A" * 43, "ſcidaq_", "\0", "é" * 60])
def test_anything_else_is_no_key(keys: KeyStore, wrong: str) -> None:
    _, given = keys.create("plots", ["read"])
    assert keys.find(wrong) is None
    assert keys.find(given + "x") is None
    assert keys.find(given[:-1] + ("A" if given[-1] != "A" else "B")) is None


def test_a_key_expires(keys: KeyStore, clock: FakeClock) -> None:
    _, given = keys.create("short", ["read"], days=2)
    clock.advance(2 * DAY_S - 1)
    assert keys.find(given) is not None
    clock.advance(2)
    assert keys.find(given) is None
    assert [k.state(keys.now_ns) for k in keys.all()] == ["expired"]


def test_a_revoked_key_is_none_and_stays_listed(keys: KeyStore) -> None:
    key, given = keys.create("gone", ["read"])
    keys.revoke("gone")
    assert keys.find(given) is None
    assert keys.all()[0].state(keys.now_ns) == "revoked"
    with pytest.raises(RequestError, match="no valid key"):
        keys.revoke(key.id)


def test_rotation_lets_the_old_one_live_for_a_while(keys: KeyStore, clock: FakeClock) -> None:
    old, before = keys.create("station", ["operate"], days=10)
    new, after = keys.rotate("station", grace_hours=1)
    assert new.scopes == old.scopes
    assert new.name == "station"
    assert keys.find(before) is not None
    assert keys.find(after) == new
    clock.advance(3601)
    assert keys.find(before) is None
    assert keys.find(after) == new
    assert new.expires_ns is not None
    assert old.expires_ns is not None
    assert new.expires_ns - new.created_ns == old.expires_ns - old.created_ns


def test_a_change_by_another_process_is_seen(keys: KeyStore, tmp_path: Path, clock: FakeClock) -> None:
    _, given = keys.create("one", ["read"])
    other = KeyStore(tmp_path, clock)
    assert other.find(given) is not None
    keys.revoke("one")
    assert other.find(given) is None


@pytest.mark.parametrize(
    ("name", "scopes", "days", "said"),
    [
        ("", ["read"], 1, "1 to 64 characters"),
        ("a\nb", ["read"], 1, "control character"),
        ("a", [], 1, "at least one scope"),
        ("a", ["root"], 1, "no scope 'root'"),
        ("a", ["read"], 0, "more than 0"),
        ("a", ["read"], 9999, "at most 3650"),
    ],
)
def test_what_no_key_can_be(keys: KeyStore, name: str, scopes: list[str], days: float, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        keys.create(name, scopes, days)


def test_two_valid_keys_have_two_names(keys: KeyStore) -> None:
    keys.create("a", ["read"])
    with pytest.raises(RequestError, match="valid key named 'a'"):
        keys.create("a", ["read"])
    keys.revoke("a")
    keys.create("a", ["read"])


def test_a_key_made_elsewhere_is_adopted_once(keys: KeyStore, clock: FakeClock) -> None:
    given = "scidaq_0badf00d_" + "k" * 43
    keys.adopt("bootstrap", given, hours=24)
    assert keys.find(given) is not None
    clock.advance(23 * 3600)
    keys.adopt("bootstrap", given, hours=24)
    clock.advance(2 * 3600)
    assert keys.find(given) is None
    with pytest.raises(RequestError, match="has the form"):
        keys.adopt("bootstrap", "swordfish", hours=24)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"keys":[{"id":1}]}', b"\xff\xfe"])
def test_a_file_that_is_damaged_opens_nothing(keys: KeyStore, tmp_path: Path, content: bytes) -> None:
    _, given = keys.create("a", ["read"])
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(StationError, match="no key is valid"):
        keys.find(given)


def test_a_directory_that_cannot_be_written_changes_nothing(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(WriteFailed, match="nothing was changed"):
        KeyStore(tmp_path / "gone", clock).create("a", ["read"])


def test_scopes_contain_others() -> None:
    assert spread(["admin"]) == {"admin", "operate", "read", "metrics"}
    assert spread(["metrics"]) == {"metrics"}
    assert spread(["read"]) == {"read", "metrics"}


def test_the_file_is_json_that_a_person_can_read(keys: KeyStore, tmp_path: Path) -> None:
    keys.create("a", ["read"])
    assert orjson.loads((tmp_path / "keys.json").read_bytes())["version"] == 1
