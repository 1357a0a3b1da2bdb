from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from scidaq.errors import ConfigError
from scidaq.instruments import HostDriver, PushDriver, ReplayDriver, ScpiDriver, WaveformDriver, find_drivers, finding


def offer(monkeypatch, *points):
    found = [EntryPoint(name, value, finding.GROUP) for name, value in points]
    monkeypatch.setattr(finding, "entry_points", lambda group: found)
    return find_drivers()


def test_the_built_in_ones_are_there_without_metadata(monkeypatch):
    drivers = offer(monkeypatch)
    assert dict(drivers) == {
        "host": HostDriver,
        "push": PushDriver,
        "replay": ReplayDriver,
        "scpi": ScpiDriver,
        "waveform": WaveformDriver,
    }


def test_others_are_added_and_cannot_replace_them(monkeypatch):
    drivers = offer(monkeypatch, ("mine", "scidaq.instruments:HostDriver"), ("scpi", "evil:Driver"))
    assert list(drivers) == ["host", "mine", "push", "replay", "scpi", "waveform"]
    assert drivers["mine"] is HostDriver
    assert drivers["scpi"] is ScpiDriver


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module:Driver", "ModuleNotFoundError"),
        ("scidaq.errors:Nothing", "AttributeError"),
        ("math:pi", "no class"),
    ],
)
def test_a_broken_one_is_named_when_it_is_used(monkeypatch, value, why):
    drivers = offer(monkeypatch, ("broken", value))
    assert "broken" in drivers
    assert drivers["waveform"] is WaveformDriver
    with pytest.raises(ConfigError, match=f"driver 'broken'.*{why}"):
        drivers["broken"]


def test_an_unknown_one_is_a_key_error():
    with pytest.raises(KeyError):
        find_drivers()["nonsense"]
