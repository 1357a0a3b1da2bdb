"""What a reload changes, what it leaves for the next start, and that a mistake changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import pytest
import structlog

from scidaq.clock import SystemClock
from scidaq.config import Changes, Config, Edit, Reloader, compare
from scidaq.config.reloading import _merged
from scidaq.errors import ConfigError
from scidaq.options import LIVE, Secret
from tests.config.test_secrets import CANARY, CLOUD, DRIVERS

Load = Callable[..., Config]
ADC = "[instruments.adc]\ndriver = 'waveform'\nrate_hz = {}\n"
DMM = "[instruments.dmm]\ndriver = 'meter'\nhost = '{}'\n"


def changes(loaded: Load, before: str, after: str, **options: Any) -> Changes:
    return compare(loaded(before, **options), loaded(after, **options))


def test_nothing_differs_when_only_the_places_do(loaded: Load) -> None:
    found = changes(loaded, ADC.format(5), "[storage]\nsync_interval_ms = 200\n" + ADC.format("5.0"))
    assert found == Changes()
    assert not found


def test_instruments_come_go_and_change(loaded: Load) -> None:
    found = changes(loaded, ADC.format(5) + DMM.format("a"), ADC.format(6) + DMM.format("b").replace("dmm", "new"))
    assert found == Changes(added=("new",), removed=("dmm",), changed=("adc",))
    patient = ADC.format(5) + "supervision = { stop_timeout_s = 9 }"
    assert changes(loaded, ADC.format(5), patient) == Changes(changed=("adc",))
    assert changes(loaded, ADC.format(5), ADC.format(5) + "record = 'never'") == Changes(changed=("adc",))
    other = ADC.format(5).replace("waveform", "meter").replace("rate_hz = 5", "host = 'h'")
    assert changes(loaded, ADC.format(5), other) == Changes(changed=("adc",))


def test_a_new_secret_is_a_change(loaded: Load) -> None:
    tokens = [CLOUD + f"token = '{CANARY}{n}'" for n in range(2)]
    assert changes(loaded, *tokens, drivers=DRIVERS) == Changes(changed=("c",))
    assert not changes(loaded, tokens[0], tokens[0], drivers=DRIVERS)


def test_options_are_live_or_wait_for_a_restart(loaded: Load) -> None:
    text = "[station]\nname = 'other'\n[storage]\nsync_interval_ms = 100\n[logging]\nlevel = 'debug'"
    found = changes(loaded, "", text)
    assert found == Changes(live=("logging.level",), restart=("station.name", "storage.sync_interval_ms"))
    assert found.as_json()["restart"] == ("station.name", "storage.sync_interval_ms")


@dataclass(frozen=True)
class Inner:
    """Options inside."""

    now: Annotated[int, LIVE] = 1
    later: int = 1


@dataclass(frozen=True)
class Outer:
    """Options around."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    inner: Inner = field(default_factory=Inner)
    token: Annotated[Secret | None, LIVE] = None


def test_only_what_is_live_is_taken_over() -> None:
    new = Outer(Inner(2, 2), Secret("x"))
    assert _merged(Outer(), new) == Outer(Inner(2, 1), Secret("x"))


# ---- reloading ------------------------------------------------------------------------------------------------------


@dataclass
class FakeStation:
    """Keeps what it was told to change."""

    told: list[Any] = field(default_factory=list)
    refuses: Mapping[str, str] = field(default_factory=dict)

    def apply(self, changes: Any) -> Mapping[str, str]:
        self.told.append(changes)
        return {one.id: self.refuses[one.id] for one in changes.add if one.id in self.refuses}


def reloader(loaded: Load, *texts: str, station: FakeStation) -> tuple[Reloader, list[str]]:
    levels: list[str] = []
    coming = iter(texts[1:])
    return (
        Reloader(
            loaded(texts[0]),
            lambda edit=None: loaded(next(coming)),
            station,
            SystemClock(),
            [lambda config: levels.append(config.logging.level)],
        ),
        levels,
    )


def test_a_reload_changes_what_it_can(loaded: Load) -> None:
    station = FakeStation()
    second = "[station]\nname = 'b'\n[logging]\nlevel = 'debug'\n" + ADC.format(6) + DMM.format("h")
    it, levels = reloader(loaded, ADC.format(5), second, second, station=station)
    found = it.reload()
    assert found == Changes(("dmm",), (), ("adc",), ("logging.level",), ("station.name",))
    (told,) = station.told
    assert told.remove == ("adc",)
    assert [one.id for one in told.add] == ["adc", "dmm"]
    assert told.config_hash == it.config.hash
    assert levels == ["debug"]
    assert (it.config.station.name, it.config.logging.level) == ("station", "debug")
    assert it.reload() == Changes(restart=("station.name",)), "it still waits for a restart"
    assert len(station.told) == 1


def test_a_mistake_changes_nothing_and_is_told(loaded: Load) -> None:
    station = FakeStation()
    it, levels = reloader(loaded, ADC.format(5), "[x]\n[y]", "[x]\n[y]", "", station=station)
    with pytest.raises(ConfigError):
        it.reload()
    with structlog.testing.capture_logs() as said:
        assert it.try_reload() is None
    assert [one.get("problem", "")[:25] for one in said] == [
        "",
        "config/default.toml:1: x:",
        "config/default.toml:2: y:",
    ]
    assert (station.told, levels) == ([], [])
    assert it.reload() == Changes(removed=("adc",))


def test_what_cannot_be_put_in_is_tried_again(loaded: Load) -> None:
    station = FakeStation(refuses={"dmm": "it is taken"})
    text = ADC.format(5) + DMM.format("h")
    it, _ = reloader(loaded, ADC.format(5), text, text, station=station)
    assert it.reload() == Changes(added=("dmm",), failed={"dmm": "it is taken"})
    assert list(it.config.instruments) == ["adc"]
    station.refuses = {}
    assert it.reload() == Changes(added=("dmm",))
    assert list(it.config.instruments) == ["adc", "dmm"]


def test_whatever_fails_the_station_goes_on(loaded: Load) -> None:
    def again(edit: Edit | None = None) -> Config:
        raise KeyError("oops")

    it = Reloader(loaded(""), again, FakeStation(), SystemClock())
    with structlog.testing.capture_logs() as said:
        assert it.try_reload() is None
    assert "oops" in said[0]["error"]
    assert replace(it.config) == loaded("")


def test_secrets_are_hidden_before_anything_is_done_that_knows_them(loaded: Load) -> None:
    order: list[Any] = []

    class Says(FakeStation):
        def apply(self, changes: Any) -> Mapping[str, str]:
            order.append("applied")
            return {}

    texts = [CLOUD + f"token = '{CANARY}{n}'" for n in range(2)]
    first, second = (loaded(text, drivers=DRIVERS) for text in texts)
    it = Reloader(first, lambda edit=None: second, Says(), SystemClock(), hide=order.append)
    assert it.reload().changed == ("c",)
    assert order == [[f"{CANARY}1"], "applied"]
