"""Instruments that are added, changed and taken out while a station runs, and the file that they stand in."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.clock import SystemClock
from scidaq.config import Config, Edit, Reloader, load
from scidaq.config.editing import local_file
from scidaq.errors import ConfigError, DefinedElsewhere, NotAllowed, RequestError, UnknownInstrument, WriteFailed
from scidaq.instruments import WaveformDriver
from tests.config.conftest import MeterDriver
from tests.config.test_secrets import CANARY, CloudDriver

WAVE = {"driver": "waveform", "rate_hz": 5}
METER = {"driver": "meter", "host": "10.0.0.7"}
DRIVERS = {"waveform": WaveformDriver, "meter": MeterDriver, "cloud": CloudDriver}
SAFE = """
[security]
instrument_addresses = ["10.0.0.0/24:5025", "127.0.0.1:5025"]
instrument_drivers = ["waveform", "meter", "cloud"]
"""


# ---- the file -------------------------------------------------------------------------------------------------------

SCALARS = (
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=12
)
BY_HAND = """# mine
[logging]
level = "debug"  # while we look for it

# the one in the corner
[instruments.corner]
driver = "waveform"
text = '''
no [table] at all
'''

[[instruments.corner.faults]]
kind = "drop"

# about the door
[server]
port = 0
"""


def edit(file: Path, instrument: str, values: Mapping[str, Any] | None) -> str:
    text = Edit.of(file, instrument, values).text
    file.write_text(text, encoding="utf-8", newline="")
    return text


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from(["", BY_HAND]))
def test_whatever_a_table_holds_is_written_and_taken_out_again(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], before: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "edited.toml"
    file.write_text(before)
    written = tomllib.loads(edit(file, "new", values))
    assert written["instruments"].pop("new") == values
    assert written == tomllib.loads(before) | {"instruments": tomllib.loads(before).get("instruments", {})}
    edit(file, "new", {"driver": "another"})
    assert tomllib.loads(file.read_text())["instruments"]["new"] == {"driver": "another"}
    after = edit(file, "new", None)
    assert tomllib.loads(after) == tomllib.loads(before)
    assert after.startswith(before)


def test_what_others_wrote_stays_with_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "local.toml"
    file.write_text(BY_HAND)
    after = edit(file, "corner", None)
    assert after == (
        '# mine\n[logging]\nlevel = "debug"  # while we look for it\n\n# the one in the corner\n'
        "\n# about the door\n[server]\nport = 0\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "instruments.adc.driver = 'waveform'\n",
        "instruments = { adc = { driver = 'waveform' } }\n",
        "[instruments]\nadc = { driver = 'waveform' }\n",
        "[instruments.adc]\ndriver = 'waveform'\ntext = '''\n[x]\n'''\n",
        "[instruments.adc]\nfaults = [\n['x']\n]\n",
    ],
)
def test_what_cannot_be_told_apart_is_left_to_a_hand(tmp_path: Path, text: str) -> None:
    file = tmp_path / "local.toml"
    file.write_text(text)
    with pytest.raises(RequestError, match="only a hand can change"):
        Edit.of(file, "adc", None)
    if "adc = {" in text and text.startswith("instruments"):
        with pytest.raises(RequestError, match="write it by hand"):
            edit(file, "new", WAVE)


def test_what_toml_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(ConfigError) as caught:
        Edit.of(tmp_path / "x", "adc", {"a": None, "b": {"c": [1, None]}, "deep": deep})
    assert caught.value.problems == (
        "request: a: found null, which TOML has not: leave it out",
        "request: b.c[1]: found null, which TOML has not: leave it out",
        "request: deep[0]: is nested too deeply",
    )
    (tmp_path / "local.toml").write_text("[x\n")
    with pytest.raises(ConfigError, match="is no valid TOML"):
        Edit.of(tmp_path / "local.toml", "adc", WAVE)


# ---- with a station -------------------------------------------------------------------------------------------------


@dataclass
class Rig:
    """A configuration in a directory, and a station that only notes what it is told."""

    root: Path
    told: list[tuple[tuple[str, ...], list[str]]] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    fails: type[Exception] | None = None
    reloader: Reloader = field(init=False)

    def start(self, text: str = SAFE, env: Mapping[str, str] | None = None) -> Rig:
        (self.root / "lab.toml").write_text(f'[station]\ndata_dir = "{self.root}/data"\n' + text)

        def again(edit: Edit | None = None) -> Config:
            return load([self.root / "lab.toml"], env=env or {}, drivers=DRIVERS, edit=edit)

        self.reloader = Reloader(again(), again, self, SystemClock(), hide=self.hidden.extend)
        return self

    def apply(self, changes: Any) -> Mapping[str, str]:
        if self.fails is not None:
            raise self.fails("the station is stopping")
        self.told.append((changes.remove, [one.id for one in changes.add]))
        return {one.id: self.refuses[one.id] for one in changes.add if one.id in self.refuses}

    @property
    def file(self) -> Path:
        return local_file(self.root / "data")

    @property
    def there(self) -> dict[str, Any]:
        return tomllib.loads(self.file.read_text()).get("instruments", {}) if self.file.exists() else {}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.chdir(tmp_path)
    return Rig(tmp_path)


def test_an_instrument_is_added_changed_and_taken_out(rig: Rig) -> None:
    it = rig.start().reloader
    assert it.put_instrument("adc", WAVE).added == ("adc",)
    assert rig.there == {"adc": WAVE}
    assert stat.S_IMODE(rig.file.stat().st_mode) == 0o600
    assert str(it.config.origin("instruments.adc.rate_hz")) == f"{rig.file}:5"
    assert not it.put_instrument("adc", WAVE)
    assert it.put_instrument("adc", WAVE | {"rate_hz": 6}).changed == ("adc",)
    assert it.put_instrument("dmm", METER).added == ("dmm",)
    assert it.remove_instrument("adc").removed == ("adc",)
    assert rig.there == {"dmm": METER}
    assert rig.told == [((), ["adc"]), (("adc",), ["adc"]), ((), ["dmm"]), (("adc",), [])]
    with pytest.raises(UnknownInstrument, match="did you mean 'dmm'"):
        it.remove_instrument("dmn")


def test_all_mistakes_are_told_and_nothing_is_written(rig: Rig) -> None:
    it = rig.start().reloader
    wanted = {"driver": "waveform", "rate_hz": "5", "rows": 1, "critical": 1, "supervision": {"stop": 1}}
    with pytest.raises(ConfigError) as caught:
        it.put_instrument("adc", wanted)
    assert [one.partition(", expected")[0] for one in sorted(caught.value.problems)] == [
        "request: instruments.adc.critical: found 1",
        'request: instruments.adc.rate_hz: found "5"',
        "request: instruments.adc.rows: unknown key",
        "request: instruments.adc.supervision.stop: unknown key (did you mean 'stop_timeout_s'?)",
    ] or len(caught.value.problems) == 4
    for bad in ({}, {"driver": 5}, {"driver": "waveform", "rate_hz": float("inf")}):
        with pytest.raises(ConfigError):
            it.put_instrument("adc", bad)
    with pytest.raises(ConfigError, match="no id for an instrument"):
        it.put_instrument("A/../C", WAVE)
    it.put_instrument("dmm", METER)
    with pytest.raises(ConfigError, match="uses already"):
        it.put_instrument("dmm2", METER)
    assert rig.there == {"dmm": METER}


def test_drivers_and_addresses_have_to_be_allowed(rig: Rig) -> None:
    it = rig.start().reloader
    with pytest.raises(NotAllowed, match=r"driver 'replay' may not.*instrument_drivers has waveform, meter, cloud"):
        it.put_instrument("x", {"driver": "replay", "path": "/etc/passwd"})
    for host in ("10.0.1.7", "metadata.internal", "10.0.0.7.evil"):
        with pytest.raises(NotAllowed, match=r"may not be used.*10\.0\.0\.0/24:5025"):
            it.put_instrument("x", METER | {"host": host})
    with pytest.raises(NotAllowed):
        it.put_instrument("x", METER | {"port": 22})
    assert it.put_instrument("near", METER | {"host": "localhost"}).added == ("near",), "as 127.0.0.1"
    assert list(rig.there) == ["near"]


def test_without_a_list_no_address_is_allowed(rig: Rig) -> None:
    it = rig.start('[security]\ninstrument_drivers = ["meter"]\n').reloader
    with pytest.raises(NotAllowed, match="instrument_addresses has none"):
        it.put_instrument("x", METER)
    assert not rig.file.exists()


ELSEWHERE: list[tuple[str, dict[str, str], str]] = [
    ("[instruments.adc]\ndriver = 'waveform'\nrate_hz = 4\n", {}, r"lab\.toml:\d+ has instruments\.adc"),
    ("", {"SCIDAQ_INSTRUMENTS__ADC__DRIVER": "waveform"}, "environment variable SCIDAQ_INSTRUMENTS__ADC__DRIVER has"),
]


@pytest.mark.parametrize(("text", "env", "where"), ELSEWHERE)
def test_what_stands_elsewhere_is_changed_there(rig: Rig, text: str, env: dict[str, str], where: str) -> None:
    it = rig.start(SAFE + text, env).reloader
    with pytest.raises(DefinedElsewhere, match=where):
        it.put_instrument("adc", WAVE)
    with pytest.raises(DefinedElsewhere, match=where):
        it.remove_instrument("adc")
    assert rig.told == []


def test_what_came_elsewhere_since_is_found(rig: Rig) -> None:
    it = rig.start().reloader
    with (rig.root / "lab.toml").open("a") as file:
        file.write("[instruments.adc]\nrate_hz = 4\n")
    with pytest.raises(DefinedElsewhere, match=r"lab\.toml:\d+ has instruments.adc"):
        it.put_instrument("adc", WAVE)


def test_a_request_names_no_file_with_a_secret_and_its_own_are_hidden(rig: Rig) -> None:
    it = rig.start().reloader
    secret = rig.root / "secret"
    secret.write_text(CANARY)
    with pytest.raises(ConfigError, match="token_file: names a file of this machine"):
        it.put_instrument("c", {"driver": "cloud", "token_file": str(secret)})
    with pytest.raises(ConfigError) as caught:
        it.put_instrument("c", {"driver": "cloud", "token": f"{CANARY}!"})
    assert CANARY not in str(caught.value)
    it.put_instrument("c", {"driver": "cloud", "token": CANARY})
    assert CANARY in rig.hidden
    assert it.remove_instrument("c").removed == ("c",)


def test_what_cannot_be_put_in_is_taken_back(rig: Rig) -> None:
    it = rig.start().reloader
    it.put_instrument("adc", WAVE)
    rig.refuses = {"dmm": "it is taken"}
    with pytest.raises(ConfigError, match=r"request: instruments\.dmm: it is taken"):
        it.put_instrument("dmm", METER)
    rig.fails = RequestError
    with pytest.raises(RequestError, match="stopping"):
        it.remove_instrument("adc")
    assert rig.there == {"adc": WAVE}
    assert list(it.config.instruments) == ["adc"]


def test_a_disk_that_refuses_changes_nothing(rig: Rig) -> None:
    it = rig.start().reloader
    rig.file.with_name(".local.toml.tmp").mkdir(parents=True)
    with pytest.raises(WriteFailed, match="nothing was changed"):
        it.put_instrument("adc", WAVE)
    assert rig.told == []


def test_a_file_of_other_people_keeps_its_mode_and_its_name(rig: Rig) -> None:
    it = rig.start().reloader
    real = rig.root / "elsewhere.toml"
    real.write_text("# mine\n")
    real.chmod(0o640)
    rig.file.parent.mkdir(parents=True)
    rig.file.symlink_to(real)
    it.put_instrument("adc", WAVE)
    assert rig.file.is_symlink()
    assert real.read_text().startswith("# mine\n\n[instruments.adc]\n")
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
