"""Layers win in their order, and every mistake is told at once, with its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from scidaq.clock import SystemClock
from scidaq.config import Base, Config, Origin, load
from scidaq.config.layers import Tree
from scidaq.config.validation import refused
from scidaq.instruments import find_drivers

Load = Callable[..., Config]
Problems = Callable[..., list[str]]

# ---- what comes out


def test_nothing_is_a_valid_configuration(loaded: Load) -> None:
    config = loaded({})
    assert config == Config()
    assert config.station.data_dir == Path("scidaq-data")
    assert config.storage.sync_interval_ms == 200
    assert config.instruments == {}
    assert str(config.origin("storage.sync_interval_ms")) == "default"


LAYERS = [
    "config/default.toml",
    "config/production.toml",
    "config/local.toml",
    "data/config/local.toml",
    "environment variable SCIDAQ_STORAGE__SEGMENT_AGE_S",
    "first.toml",
    "second.toml",
    "option --age",
]


@pytest.mark.parametrize("top", range(len(LAYERS)))
def test_later_layers_win(loaded: Load, top: int) -> None:
    given = {name: 100 + i for i, name in enumerate(LAYERS) if i <= top}
    files = {name: f"\nstorage.segment_age_s = {age}" for name, age in given.items() if name.endswith(".toml")}
    config = loaded(
        files,
        files=[name for name in ("first.toml", "second.toml") if name in given],
        env={"SCIDAQ_STATION__DATA_DIR": "data"}
        | {n.removeprefix("environment variable "): str(age) for n, age in given.items() if n.startswith("env")},
        overrides=[("--age", ("storage", "segment_age_s"), str(a)) for n, a in given.items() if n.startswith("opt")],
    )
    assert config.storage.segment_age_s == 100 + top
    origin = config.origin("storage.segment_age_s")
    assert (origin.name, origin.line) == (LAYERS[top], 2 if LAYERS[top].endswith(".toml") else None)
    assert config.sources == tuple(files)


def test_tables_merge_and_arrays_are_replaced(loaded: Load) -> None:
    config = loaded(
        {
            "config/default.toml": """
                [instruments.a]
                driver = "meter"
                host = "one"
                inputs = [{ name = "x" }, { name = "y", unit = "A" }]
                """,
            "config/production.toml": """
                instruments.a.inputs = [{ name = "z" }]
                [instruments.b]
                driver = "meter"
                host = "two"
                """,
        }
    )
    assert list(config.instruments) == ["a", "b"]
    assert [i.name for i in config.instruments["a"].options.inputs] == ["z"]
    assert config.instruments["a"].options.host == "one"
    assert config.origin("instruments.a.inputs[0].name") == Origin("config/production.toml", 2)
    assert "instruments.a.inputs[1].name" not in config.origins


def test_the_environment_has_its_own_file(loaded: Load) -> None:
    files = {f"config/{name}.toml": f'station.name = "{name}"' for name in ("production", "bench")}
    assert loaded(files).station.name == "production"
    assert loaded(files, env={"SCIDAQ_ENV": "bench"}).station.name == "bench"
    assert loaded(files, env={"SCIDAQ_ENV": "elsewhere"}).station.name == "station"


def test_the_path_names_a_directory_or_a_file(loaded: Load, problems: Problems) -> None:
    files = {"config/local.toml": 'station.name = "here"', "etc/local.toml": 'station.name = "there"'}
    assert loaded(files, env={"SCIDAQ_CONFIG_PATH": "etc"}).station.name == "there"
    assert loaded(files, env={"SCIDAQ_CONFIG_PATH": "etc/local.toml"}).sources == ("etc/local.toml",)
    assert problems(env={"SCIDAQ_CONFIG_PATH": "nowhere"}) == [
        "environment variable SCIDAQ_CONFIG_PATH: there is no nowhere"
    ]


def test_the_data_directory_has_a_file_but_cannot_be_moved_by_it(loaded: Load, problems: Problems) -> None:
    moved = {"scidaq-data/config/local.toml": "[station]\nname = 'x'\ndata_dir = 'elsewhere'"}
    assert problems(moved) == [
        "scidaq-data/config/local.toml:3: station.data_dir: cannot be set by a file that is found through it"
    ]
    fine = {"scidaq-data/config/local.toml": "station.name = 'x'"}
    assert loaded(fine).station.name == "x"
    assert loaded(fine, overrides=[("--data-dir", ("station", "data_dir"), "other")]).station.name == "station"


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("STATION__NAME", "2024", "station.name", "2024"),
        ("STORAGE__SYNC_INTERVAL_MS", "50", "storage.sync_interval_ms", 50),
        ("STORAGE__JOURNAL_MOVE_S", "2.5", "storage.journal_move_s", 2.5),
        ("STORAGE__ALLOW_NETWORK_FILESYSTEM", "true", "storage.allow_network_filesystem", True),
        ("INSTRUMENTS__N", '{ driver = "waveform" }', "instruments.n.general.driver", "waveform"),
        ("INSTRUMENTS__M__RANGE_V", "10", "instruments.m.options.range_v", 10.0),
        ("INSTRUMENTS__M__INPUTS", '[{ name = "q" }]', "instruments.m.options.inputs.0.name", "q"),
        ("INSTRUMENTS__M__RECORD", "runs", "instruments.m.general.record", "runs"),
        ("INSTRUMENTS__M__RECORD__WAVE", "never", "instruments.m.general.record.wave", "never"),
        ("INSTRUMENTS__M__SUPERVISION__HANG_AFTER_S", "3", "instruments.m.general.supervision.hang_after_s", 3.0),
    ],
)
def test_text_becomes_what_is_asked(loaded: Load, variable: str, text: str, key: str, value: object) -> None:
    config = loaded("[instruments.m]\ndriver = 'meter'\nhost = 'h'", env={f"SCIDAQ_{variable}": text})
    found: object = config
    for part in key.split("."):
        if isinstance(found, tuple):
            found = found[int(part)]
        else:
            found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value) or isinstance(value, str)


def test_a_station_is_planned(loaded: Load) -> None:
    config = loaded("""
        [station]
        name = "lab"
        data_dir = "here"
        [pipeline]
        ring_seconds = 3
        [instruments.a]
        driver = "waveform"
        record = { wave0 = "runs", settings = "never" }
        streams = 2
        pre_trigger_s = 2
        supervision = { hang_after_s = 3 }
        [instruments.b]
        driver = "waveform"
        record = "never"
        """)
    plan = config.plan(SystemClock())
    assert (plan.name, plan.data_dir, plan.pipeline.ring_seconds) == ("lab", Path("here"), 3.0)
    a, b = plan.instruments
    assert [a.policy(s) for s in ("wave0", "wave1", "settings")] == ["runs", "always", "never"]
    assert b.policy("wave") == "never"
    assert (a.driver, a.pre_trigger_s, a.supervision.hang_after_s) == ("waveform", 2.0, 3.0)
    assert [s.name for s in a.make().describe()] == ["wave0", "wave1"]


def test_a_base_takes_the_place_of_the_directory(loaded: Load, tmp_path: Path) -> None:
    loaded("station.name = 'real'")
    base = Base("demo", "\nstation.name = 'demo'\nstorage.sync_interval_ms = 50")
    config = load(base=base, env={"SCIDAQ_STORAGE__SYNC_INTERVAL_MS": "70"})
    assert (config.station.name, config.storage.sync_interval_ms) == ("demo", 70)
    assert str(config.origin("station.name")) == "demo:2"


def test_a_configuration_is_frozen(loaded: Load) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded().station.name = "other"  # type: ignore[misc]


# ---- what is refused

WRONG = """\
stray = 1
[station]
name = "No Good"
data_dir = 5
[storage]
sync_interval_ms = "fast"
segment_bytes = 12
direct_io = "sometimes"
journal_move_s = nan
segment_age_s = inf
allow_network_filesystem = 1
sync_intervall_ms = 100
[storrage]
x = 1
[logging]
level = true
[instruments.adc]
driver = "waveform"
rate_hx = 5
channels = 0
record = "alway"
faults = [
  { kind = "drop", every_s = 1 },
  { kind = "explode", every_s = 0, sometimes = 1 },
  { every_s = 1 },
]
[instruments.adc.supervision]
hang_after_s = -1
hang_afer_s = 1
[instruments.records]
driver = "waveform"
record = { wave = "alway", "settings" = "never" }
[instruments.contradiction]
driver = "waveform"
status = true
backfill = false
faults = [{ kind = "late", every_s = 1 }]
[instruments."Big One"]
driver = "waveform"
[instruments.nodriver]
pre_trigger_s = "yes"
[instruments.typo]
driver = "wavefrom"
rate_hz = -5
[instruments.broken]
driver = "broken"
[instruments.buggy]
driver = "buggy"
[instruments.meter1]
driver = "meter"
host = "lab"
[instruments.meter2]
driver = "meter"
host = "lab"
port = 5025
[instruments.meter3]
driver = "meter"
host = "lab3"
[[instruments.meter3.inputs]]
name = "x"
[[instruments.meter3.inputs]]
name = "y"
unit = "Volt"
[instruments.meter4]
driver = "meter"
port = "5025"
[instruments]
flat = 3
"""

SAID = """\
config/default.toml:1: stray: unknown section; there are flight, instruments, logging, monitoring, notify, \
pipeline, security, server, station, storage
config/default.toml:4: station.data_dir: found 5, expected a path
config/default.toml:6: storage.sync_interval_ms: found "fast", expected an integer from 10 to 10000
config/default.toml:7: storage.segment_bytes: found 12, expected an integer of at least 1048576
config/default.toml:8: storage.direct_io: found "sometimes", expected "auto" or "never"
config/default.toml:9: storage.journal_move_s: found nan, expected a number of at least 1
config/default.toml:10: storage.segment_age_s: found inf, expected a finite number
config/default.toml:11: storage.allow_network_filesystem: found 1, expected true or false
config/default.toml:12: storage.sync_intervall_ms: unknown key; did you mean sync_interval_ms?
config/default.toml:13: storrage: unknown section; did you mean storage?
config/default.toml:16: logging.level: found true, expected "debug", "info", "warning" or "error"
config/default.toml:19: instruments.adc.rate_hx: unknown key; did you mean rate_hz?
config/default.toml:20: instruments.adc.channels: found 0, expected an integer from 1 to 4096
config/default.toml:21: instruments.adc.record: found "alway", expected "always", "runs" or "never" or a table \
of "always", "runs" or "never"
config/default.toml:24: instruments.adc.faults[1].kind: found "explode", expected "drop", "duplicate", "conflict", \
"late", "lag", "disconnect" or "hang"
config/default.toml:24: instruments.adc.faults[1].every_s: found 0, expected a number above 0
config/default.toml:24: instruments.adc.faults[1].sometimes: unknown key; there are every_s, kind, rows, seconds
config/default.toml:25: instruments.adc.faults[2]: kind is missing, expected "drop", "duplicate", "conflict", \
"late", "lag", "disconnect" or "hang"
config/default.toml:28: instruments.adc.supervision.hang_after_s: found -1, expected a number above 0
config/default.toml:29: instruments.adc.supervision.hang_afer_s: unknown key; did you mean hang_after_s?
config/default.toml:32: instruments.records.record.wave: found "alway", expected "always", "runs" or "never"
config/default.toml:35: instruments.contradiction.status: needs layout = 'columns'
config/default.toml:37: instruments.contradiction.faults: late needs backfill = true
config/default.toml:38: instruments."Big One": 'Big One' is no id for an instrument, which is 1 to 64 characters of \
a-z 0-9 _ -
config/default.toml:40: instruments.nodriver: driver is missing, expected a string
config/default.toml:41: instruments.nodriver.pre_trigger_s: found "yes", expected a number of at least 0
config/default.toml:43: instruments.typo.driver: there is no driver 'wavefrom'; did you mean waveform?
config/default.toml:44: instruments.typo.rate_hz: found -5, expected a number above 0 \
and at most 1000000000
config/default.toml:46: instruments.broken.driver: driver 'broken' cannot be used: ImportError: no libnidaq
config/default.toml:47: instruments.buggy: driver 'buggy' failed at its options: KeyError: 'oops'
config/default.toml:52: instruments.meter2: uses tcp://lab:5025, which instruments.meter1 (config/default.toml:49) \
uses already
config/default.toml:63: instruments.meter3.inputs[1].unit: channel 'y': 'Volt' is not a unit: 'Volt' is no UCUM unit; \
units are spelled in UCUM, for example V, mA, Cel, Ohm, m/s2, %
config/default.toml:64: instruments.meter4: host is missing, expected a string
config/default.toml:66: instruments.meter4.port: found "5025", expected an integer above 0
config/default.toml:68: instruments.flat: found 3, expected a table
"""


def test_every_mistake_is_told_at_once(problems: Problems) -> None:
    assert problems(WRONG) == SAID.splitlines()


def test_a_section_that_contradicts_itself(problems: Problems) -> None:
    assert problems("[station]\nname = 'No Good'") == [
        "config/default.toml:2: station.name: 'No Good' is not 1 to 64 characters of a-z 0-9 _ -"
    ]


SCPI = """
[instruments.dmm]
driver = "scpi"
address = "lab:5025"
[[instruments.dmm.streams]]
name = "dc"
channels = [{ name = "v", query = "V?" }]
[[instruments.dmm.streams]]
name = "ac"
[[instruments.dmm.streams.channels]]
name = "v"
query = "V?"
unit = "volts"
"""

SAID_OF_SCPI = """\
config/default.toml:10: instruments.dmm.streams[1].channels[0]: channel 'v': 'volts' is not a unit: \
'volts' is no UCUM unit; did you mean 'V'?
"""


def test_a_driver_names_the_place_of_a_mistake(problems: Problems) -> None:
    assert problems(SCPI, drivers=find_drivers()) == SAID_OF_SCPI.splitlines()


SCPI_WRONG = """
[instruments.dmm]
driver = "scpi"
record = "alway"
address = "lab:5025"
identity = "("
timeout_s = -1
[[instruments.dmm.streams]]
name = "dc"
rate_hz = -1
[[instruments.dmm.streams.channels]]
name = "v"
query = "V?"
unit = "Voltz"
[[instruments.dmm.streams.channels]]
name = "w"
query = "V?"
unit = "Voltz"
[[instruments.dmm.streams.channels]]
name = "x"
query = "V?"
offset = 1
scale = "one"
"""


def test_no_mistake_hides_another(problems: Problems) -> None:
    said = problems(SCPI_WRONG, drivers=find_drivers())
    places = [(int(line.split(":")[1]), line.split(": ")[1].removeprefix("instruments.dmm.")) for line in said]
    assert places == [
        (4, "record"),
        (6, "identity"),
        (7, "timeout_s"),
        (10, "streams[0].rate_hz"),
        (11, "streams[0].channels[0]"),
        (15, "streams[0].channels[1]"),
        (23, "streams[0].channels[2].scale"),
    ], "and none that is one only since another value was left out"


def test_a_message_of_a_driver_is_split_at_the_fields_that_it_names() -> None:
    tree = Tree({"i": {"a": 1, "list": [{"name": "x", "b": 2}]}}, {("i",): Origin("f", 1), ("i", "a"): Origin("f", 2)})
    said = "a: too low; maybe; list.x.b: wrong; list[0].c: missing; z: no such; list.y: odd"
    assert [(p.origin.line, p.key, p.message) for p in refused(said, ("i",), tree)] == [
        (2, "i.a", "too low; maybe"),
        (1, "i.list[0].b", "wrong"),
        (1, "i.list[0]", "c: missing"),
        (1, "i", "z: no such"),
        (1, "i.list", "y: odd"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\nb = = 2\n", "bad.toml:2: is no valid TOML: Invalid value at column 5"),
        ("a = [1,\n2", "bad.toml:2: is no valid TOML: Unclosed array"),
        ("a = 1\na = 2", "bad.toml:2: is no valid TOML: Cannot overwrite a value"),
        ("a = 1\n# \xff", "bad.toml:2: is not UTF-8, which TOML files are"),
    ],
)
def test_a_file_that_is_no_toml(problems: Problems, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.toml").write_bytes(text.encode("latin-1"))
    found = problems("[instruments.a]\nrate_hz = 0", files=["bad.toml"])
    assert found == [said]


def test_a_byte_order_mark_is_no_mistake(loaded: Load, tmp_path: Path) -> None:
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf[station]\r\nname = 'bom'\r\n")
    assert loaded(files=["bom.toml"]).origin("station.name") == Origin("bom.toml", 2)


def test_files_that_were_named_must_be_there(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "dir.toml").mkdir()
    assert problems(files=["missing.toml", "dir.toml"]) == [
        "dir.toml: cannot be read: Is a directory",
        "missing.toml: cannot be read: No such file or directory",
    ]


SAID_OF_ENV = """\
environment variable SCIDAQ_INSTRUMENTS__ADC__CHANNELS: instruments.adc.channels: found 3.5, \
expected an integer from 1 to 4096
environment variable SCIDAQ_LOGGING__LEVEL__CONSOLE: logging.level.console: \
environment variable SCIDAQ_LOGGING__LEVEL gives it a value
environment variable SCIDAQ_SERVER__PORT: server.port: found 90000, expected an integer from 0 to 65535
environment variable SCIDAQ_STATION__: a name between __ is empty
environment variable SCIDAQ_STORAGE: levels are joined by __; did you mean SCIDAQ_STORAGE__<KEY>?
environment variable SCIDAQ_STORAGE_SEGMENT_BYTES: levels are joined by __; did you mean SCIDAQ_STORAGE__SEGMENT_BYTES?
environment variable SCIDAQ_STORAGE__SYNC_INTERVAL: storage.sync_interval: unknown key; did you mean sync_interval_ms?
environment variable SCIDAQ_STORAGE__SYNC_INTERVAL_MS: storage.sync_interval_ms: found "soon", \
expected an integer from 10 to 10000
option --data-dir: station.data_dirr: unknown key; did you mean data_dir?
option --set: logging: found 3, expected a table
"""


def test_mistakes_of_the_environment_and_of_options_name_them(problems: Problems) -> None:
    env = {
        "SCIDAQ_STORAGE__SYNC_INTERVAL_MS": "soon",
        "SCIDAQ_STORAGE__SYNC_INTERVAL": "100",
        "SCIDAQ_STORAGE_SEGMENT_BYTES": "100",
        "SCIDAQ_STORAGE": "{}",
        "SCIDAQ_LOGGING__LEVEL": "loud",
        "SCIDAQ_LOGGING__LEVEL__CONSOLE": "info",
        "SCIDAQ_SERVER__PORT": "90000",
        "SCIDAQ_STATION__": "x",
        "SCIDAQ_INSTRUMENTS__ADC__CHANNELS": "3.5",
        "SCIDAQ_SERVICE_HOST": "somebody else's",
        "PATH": "/bin",
    }
    overrides = [("--data-dir", ("station", "data_dirr"), "x"), ("--set", ("logging",), "3")]
    assert problems("[instruments.adc]\ndriver = 'waveform'", env=env, overrides=overrides) == SAID_OF_ENV.splitlines()


def test_a_value_that_is_not_utf_8(problems: Problems) -> None:
    overrides = [("--data-dir", ("station", "data_dir"), "data\udcff")]
    assert problems(overrides=overrides) == ["option --data-dir: station.data_dir: is not UTF-8"]
    env = {"SCIDAQ_INSTRUMENTS__ADC__DRIVER": "wave\udcff"}
    assert "environment variable SCIDAQ_INSTRUMENTS__ADC__DRIVER: instruments.adc.driver: is not UTF-8" in problems(
        env=env
    )


def test_what_may_stand_in_an_unreadable_file_is_not_called_missing(problems: Problems) -> None:
    found = problems({"config/default.toml": "[instruments.a]\nhost = 'x'\nport = 0", "config/local.toml": "["})
    assert len(found) == 1
    assert found[0].startswith("config/local.toml:1: is no valid TOML")


# ---- other names, and what is not yet ------------------------------------------------------------------------------


def test_another_name_of_a_key(loaded: Load, problems: Problems) -> None:
    config = loaded("[monitoring]\nlog_level = 'debug'")
    assert config.logging.level == "debug"
    assert config.origin("logging.level") == Origin("config/default.toml", 2)
    agreed = loaded("[monitoring]\nlog_level = 'debug'\n[logging]\nlevel = 'debug'")
    assert agreed.logging.level == "debug"
    (said,) = problems("[monitoring]\nlog_level = 'debug'\n[logging]\nlevel = 'info'")
    assert said == (
        "config/default.toml:2: monitoring.log_level: is another name of logging.level, which config/default.toml:4 "
        'says is "info", not "debug"; leave one of them out'
    )
    (wrong,) = problems(env={"SCIDAQ_MONITORING__LOG_LEVEL": "loud"})
    assert wrong.startswith("environment variable SCIDAQ_MONITORING__LOG_LEVEL: logging.level: found")


@pytest.mark.parametrize("section", ["data_retention", "backup", "database"])
def test_what_nobody_would_keep_is_refused(problems: Problems, section: str) -> None:
    (said,) = problems(f"[{section}]\nx = 1")
    assert said.startswith(f"config/default.toml:1: {section}: this version ")
    (said,) = problems(env={f"SCIDAQ_{section.upper()}__X": "1"})
    assert f": {section}: this version " in said


@pytest.mark.parametrize("path", ["metrics", "/", "/a b", "/a?b", " /a"])
def test_the_path_of_the_metrics_is_a_path(problems: Problems, path: str) -> None:
    (said,) = problems(f"[monitoring]\nprometheus_endpoint = '{path}'")
    assert "is no path of an address" in said
