"""Instruments that are added, changed and taken out over HTTP, with a configuration and a station that records."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Iterator

import pytest

from scidaq.clock import SystemClock
from scidaq.config import Config, Edit, Reloader, load
from scidaq.station import Station
from scidaq.web import KeyStore, open_doors
from tests.web.live import SCOPES, Live, until

WAVE = {"driver": "waveform", "rate_hz": 500, "channels": 1}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A station with one instrument, from a file."""
    root, clock = tmp_path_factory.mktemp("lab"), SystemClock()
    file = root / "lab.toml"
    file.write_text(
        f'[station]\ndata_dir = "{root}/data"\n[server]\nport = 0\nrequests_per_second = 0\n'
        '[security]\ninstrument_addresses = ["10.9.0.0/16:5025"]\n'
        '[instruments.first]\ndriver = "waveform"\nrate_hz = 100\n'
    )

    def again(edit: Edit | None = None) -> Config:
        return load([file], env={}, edit=edit)

    config = again()
    with tempfile.TemporaryDirectory(prefix="scidaq-") as runtime, pytest.MonkeyPatch.context() as patch:
        patch.delenv("RUNTIME_DIRECTORY", raising=False)
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        with Station(config.plan(clock), clock) as station:
            store = KeyStore(config.station.data_dir, clock)
            keys = {scope: store.create(f"{scope} key", [scope])[1] for scope in SCOPES}
            reloader = Reloader(config, again, station, clock)
            uuid = station.stats().uuid
            with open_doors(station, uuid, store, config.server, config.security, config=reloader) as web:
                yield Live(station, web, keys, store, None, reloader)


def test_one_is_added_changed_and_taken_out_while_others_go_on(lab: Live) -> None:
    answer = lab.ask("instruments/second", "PUT", WAVE)
    assert (answer.status, answer.json["added"]) == (200, ["second"])
    lab.until_rows("second/wave", 100)
    file = lab.config.config.station.data_dir / "config" / "local.toml"
    assert tomllib.loads(file.read_text()) == {"instruments": {"second": WAVE}}
    assert lab.ask("config").json["values"]["instruments"]["second"]["rate_hz"] == 500

    again = lab.ask("instruments/second", "PUT", WAVE | {"rate_hz": 1000}, Idempotency_Key="faster")
    assert again.json["changed"] == ["second"]
    assert lab.ask("instruments/second", "PUT", WAVE | {"rate_hz": 1000}, Idempotency_Key="faster").json == again.json
    until(lambda: lab.ask("instruments/second").json["state"] == "acquiring")

    token = lab.ask("instruments/second/lease", "POST", {"ttl_s": 60}).json["token"]
    assert lab.ask("instruments/second", "DELETE").status == 423
    assert lab.ask("instruments/second", "DELETE", Lease=token).json["removed"] == ["second"]
    assert lab.ask("instruments/second").status == 404
    assert lab.ask("instruments/second", "DELETE").status == 404
    assert lab.ask("streams/second/wave/data?last=1").status == 200, "what was recorded stays"
    assert lab.ask("instruments/first").json["reconnects"] == 0
    acts = [(e["who"], e["act"], e["status"]) for e in lab.ask("audit?limit=4").json["items"]]
    assert ("admin key", "DELETE /api/v1/instruments/second", 200) in acts
    assert ("admin key", "DELETE /api/v1/instruments/second", 404) in acts


def test_what_may_not_be_says_why(lab: Live) -> None:
    refused = lab.ask("instruments/x", "PUT", {"driver": "waveform", "rate_hz": "5", "rats_hz": 5, "critical": 1})
    assert (refused.status, refused.kind) == (422, "configuration-refused")
    assert len(refused.json["problems"]) == 3
    foreign = lab.ask("instruments/first", "DELETE")
    assert (foreign.status, foreign.kind) == (409, "defined-elsewhere")
    assert "lab.toml:8 has instruments.first" in foreign.json["detail"]
    assert lab.ask("instruments/first", "PUT", WAVE).status == 409
    for table in (
        {"driver": "replay", "path": "/etc/passwd"},
        {
            "driver": "scpi",
            "address": "127.0.0.1:22",
            "streams": [{"name": "s", "channels": [{"name": "v", "query": "READ?"}]}],
        },
    ):
        answer = lab.ask("instruments/x", "PUT", table)
        assert (answer.status, answer.kind) == (403, "not-allowed"), answer.json
    assert lab.ask("instruments/x", "PUT", WAVE, key="operate").status == 403
    assert lab.ask("instruments/X%2F..", "PUT", WAVE).status in (404, 422)
    assert lab.ask("instruments/x", "PUT", [WAVE]).status == 422
    assert [one["id"] for one in lab.ask("instruments").json["items"]] == ["first"]
    assert not lab.config.reload()
