"""What `scidaq config` prints: values in force with their origins, a file to begin with, a schema for editors."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from scidaq.cli.app import run
from scidaq.cli.demo import CONFIGURATION
from scidaq.config import Config, as_json, default_configuration, json_schema, load, show
from scidaq.config.showing import toml
from scidaq.options import HIDDEN
from tests.config.test_secrets import CANARY, CLOUD, DRIVERS

ROOT = Path(__file__).parents[2]
Load = Callable[..., Config]
DEMO = CONFIGURATION.replace("METER", "127.0.0.1:5025").replace("SCOPE", "127.0.0.1:5026")
LAB = (ROOT / "examples" / "lab.toml").read_text()


def sections(config: Config) -> dict[str, Any]:
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {name: value for name, value in values.items() if is_dataclass(value)}


# ---- values in force ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", LAB, DEMO])
def test_what_is_shown_is_the_same_when_it_is_loaded(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.toml").write_text(text)
    config = load([tmp_path / "lab.toml"], env={"SCIDAQ_CONFIG_PATH": str(tmp_path / "lab.toml")})
    for origins in (False, True):
        (tmp_path / "shown.toml").write_text(show(config, origins=origins))
        again = load([tmp_path / "shown.toml"], env={"SCIDAQ_CONFIG_PATH": str(tmp_path / "shown.toml")})
        assert sections(again) == sections(config)
        assert again.instruments == config.instruments
        assert again.hash == config.hash


def test_each_value_has_its_origin(loaded: Load) -> None:
    env = {
        "SCIDAQ_STORAGE__SYNC_INTERVAL_MS": "100",
        "SCIDAQ_INSTRUMENTS__METER__INPUTS": "[{name = 'a'}, {name = 'b'}]",
    }
    text = "[station]\nname = 'lab'\n[instruments.meter]\ndriver = 'meter'\nhost = 'h'\n"
    config = loaded(
        text + "[instruments.adc]\ndriver = 'waveform'\n[[instruments.adc.faults]]\nkind = 'drop'\nevery_s=1", env=env
    )
    shown = show(config, origins=True).splitlines()
    for line in (
        'name = "lab"  # config/default.toml:2',
        'data_dir = "scidaq-data"  # default',
        "sync_interval_ms = 100  # environment variable SCIDAQ_STORAGE__SYNC_INTERVAL_MS",
        "segment_bytes = 268435456  # default",
        "port = 5025  # default",
        'unit = "V"  # environment variable SCIDAQ_INSTRUMENTS__METER__INPUTS',
        'kind = "drop"  # config/default.toml:9',
        "rows = 100  # default",
    ):
        assert line in shown, "\n".join(shown)
    said = as_json(config)
    assert said["values"]["instruments"]["meter"]["inputs"][1] == {"name": "b", "unit": "V"}
    assert said["origins"]["instruments.adc.faults[0].every_s"] == "config/default.toml:10"
    assert said["origins"]["storage.sync_interval_ms"] == "environment variable SCIDAQ_STORAGE__SYNC_INTERVAL_MS"
    assert said["hash"] == config.hash
    assert said["sources"] == ["config/default.toml"]
    json.dumps(said)


def test_secrets_are_hidden(loaded: Load) -> None:
    text = CLOUD + f"token = '{CANARY}'\n[[instruments.c.others]]\npassword = '{CANARY}'"
    config = loaded(text, drivers=DRIVERS)
    for origins in (False, True):
        shown = show(config, origins=origins)
        assert CANARY not in shown
        assert f"# token: {HIDDEN}" in shown
        tomllib.loads(shown)
    assert CANARY not in json.dumps(as_json(config))
    assert as_json(config)["values"]["instruments"]["c"]["token"] == HIDDEN


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_what_is_written_as_toml_reads_the_same(value: Any) -> None:
    assert tomllib.loads(f"value = {toml(value)}") == {"value": value}


# ---- a file to begin with -------------------------------------------------------------------------------------------


def test_the_file_in_the_documents_is_made_from_the_code() -> None:
    file = ROOT / "docs" / "default.toml"
    assert file.read_text() == default_configuration(), "run: scidaq config default > docs/default.toml"


def test_the_default_configuration_changes_nothing(loaded: Load) -> None:
    config = loaded(default_configuration())
    assert sections(config) == sections(Config())
    assert config.hash == Config().hash
    assert config.instruments == {}


def test_every_setting_stands_in_the_default_configuration() -> None:
    text = default_configuration()
    stands = {line.lstrip("#").partition(" =")[0] for line in text.splitlines() if " =" in line}
    for name, section in sections(Config()).items():
        for one in fields(section):
            nested = is_dataclass(getattr(section, one.name)) or f"[[{name}.{one.name}]]" in text
            assert nested or {one.name, f"{one.name}_file"} & stands, f"{name}.{one.name}"


def test_settings_that_are_not_set_are_toml_once_they_are() -> None:
    lines = default_configuration().splitlines()
    there = [line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in lines]
    tomllib.loads("\n".join(line for line in there if not line.endswith("=")))


# ---- the schema -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("text", ["", LAB, DEMO, default_configuration(), "[monitoring]\nlog_level='info'"])
def test_files_that_are_right_pass_the_schema(validator: Any, text: str) -> None:
    assert [e.message for e in validator.iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "[storge]",
        "[storage]\nsync_interval = 5",
        "[storage]\nsync_interval_ms = 5",
        "[logging]\nlevel = 'loud'",
        "[instruments.adc]\nrate_hz = 1",
        "[instruments.adc]\ndriver = 'wave'",
        "[instruments.adc]\ndriver = 'waveform'\nrate_hx = 1",
        "[instruments.adc]\ndriver = 'waveform'\nchannels = 'many'",
        "[instruments.ADC]\ndriver = 'waveform'",
        "[instruments.adc]\ndriver = 'scpi'\nstreams = []",
        "[[instruments.adc.faults]]\nkind = 'drop'",
    ],
)
def test_mistakes_do_not(validator: Any, text: str) -> None:
    assert list(validator.iter_errors(tomllib.loads(text)))


def test_the_schema_says_what_settings_mean_and_knows_secrets() -> None:
    schema = json_schema(DRIVERS)
    about = schema["properties"]["storage"]["properties"]["sync_interval_ms"]
    assert about["description"].startswith("How often what has come in")
    assert about["default"] == 200
    (instrument,) = schema["properties"]["instruments"]["additionalProperties"]["oneOf"]
    assert {"token", "token_file", "driver", "record"} <= set(instrument["properties"])
    assert instrument["properties"]["pin_file"]["default"] == "its own"
    validator = Draft202012Validator(schema)
    right = "token_file = 'x'\nlogin = { password_file = 'y' }\nothers = [{ password = 'z' }]"
    assert not list(validator.iter_errors(tomllib.loads(CLOUD + right)))
    assert list(validator.iter_errors(tomllib.loads(CLOUD + "login = { passwort = 'z' }")))


# ---- the verbs ------------------------------------------------------------------------------------------------------


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["config", "show", "--data-dir", "d", "--origin"]) == 0
    assert 'data_dir = "d"  # option --data-dir' in capsys.readouterr().out
    assert run(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["station"]["name"] == "station"
    assert run(["config", "default"]) == 0
    assert capsys.readouterr().out == default_configuration()
    assert run(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    (tmp_path / "bad.toml").write_text("[x]")
    assert run(["config", "show", "--config", "bad.toml"]) == 1
