"""A directory to configure in, and drivers that need no hardware."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from annotated_types import Gt

from scidaq.block import Channel
from scidaq.config import Config, Override, load
from scidaq.errors import ConfigError
from scidaq.instruments import WaveformDriver

Load = Callable[..., Config]


@dataclass(frozen=True)
class Input:
    """An input of a meter."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    unit: str = "V"


@dataclass(frozen=True)
class MeterOptions:
    """A meter at an address."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    host: str
    port: Annotated[int, Gt(0)] = 5025
    range_v: float | None = None
    inputs: tuple[Input, ...] = ()


class MeterDriver:
    """A driver with a resource that two instruments cannot share; only its constructor is called here."""

    Options = MeterOptions

    def __init__(self, instrument_id: str, options: MeterOptions, clock: object) -> None:
        for i, one in enumerate(options.inputs):
            try:
                Channel(one.name, unit=one.unit)
            except ValueError as error:
                raise ValueError(f"inputs[{i}].unit: {error}") from error
        self.resource = f"tcp://{options.host}:{options.port}"

    def close(self) -> None:
        pass


class BuggyDriver:
    """A driver that fails in a way of its own."""

    @dataclass
    class Options:
        """No options."""

    def __init__(self, *_: object) -> None:
        raise KeyError("oops")


class SomeDrivers(dict[str, type]):
    """Three drivers, and one that cannot be imported."""

    def __getitem__(self, name: str) -> type:
        if name == "broken":
            raise ConfigError(["driver 'broken' cannot be used: ImportError: no libnidaq"])
        return super().__getitem__(name)


DRIVERS = SomeDrivers(waveform=WaveformDriver, meter=MeterDriver, buggy=BuggyDriver, broken=object)


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write files below the working directory, then load."""
    monkeypatch.chdir(tmp_path)

    def write_and_load(
        written: Mapping[str, str] | str = "",
        files: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        overrides: Sequence[tuple[str, tuple[str, ...], str]] = (),
        drivers: Mapping[str, Any] = DRIVERS,
    ) -> Config:
        for name, text in ({"config/default.toml": written} if isinstance(written, str) else written).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return load([Path(f) for f in files], [Override(*o) for o in overrides], env or {}, drivers)

    return write_and_load


@pytest.fixture
def problems(loaded: Load) -> Callable[..., list[str]]:
    """The mistakes that loading reports."""

    def of(*args: Any, **options: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            loaded(*args, **options)
        return list(caught.value.problems)

    return of
