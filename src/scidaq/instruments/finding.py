"""Which drivers there are: the built-in ones, and those that other packages offer by entry point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from scidaq.errors import ConfigError

GROUP = "scidaq.drivers"
"""The entry point group in which a package names its driver classes."""

BUILT_IN = {
    "host": "scidaq.instruments.host:HostDriver",
    "push": "scidaq.instruments.push:PushDriver",
    "replay": "scidaq.instruments.replay:ReplayDriver",
    "scpi": "scidaq.instruments.scpi:ScpiDriver",
    "waveform": "scidaq.instruments.waveform:WaveformDriver",
}
"""Always there, also where the package's metadata is not (a checkout, a frozen program), and never overridden."""


class Drivers(Mapping[str, type]):
    """Driver classes by name. A class is imported when it is asked for, so that a broken one harms only its users."""

    def __init__(self, points: Mapping[str, EntryPoint]) -> None:
        self._points = dict(points)

    def __getitem__(self, name: str) -> type:
        """The class. Raises `KeyError` for an unknown name, `ConfigError` for one that cannot be imported."""
        point = self._points[name]
        try:
            found = point.load()
        except Exception as error:  # a third party's module may raise anything while it is imported
            raise self._broken(point, f"{type(error).__name__}: {error}") from error
        if not isinstance(found, type) or not isinstance(getattr(found, "Options", None), type):
            raise self._broken(point, "it is no class with an Options class inside")
        return found

    def _broken(self, point: EntryPoint, why: str) -> ConfigError:
        owner = f" of package {point.dist.name!r}" if point.dist is not None else ""
        return ConfigError([f"driver {point.name!r}{owner} ({point.value}) cannot be used: {why}"])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._points))

    def __len__(self) -> int:
        return len(self._points)

    def __contains__(self, name: object) -> bool:
        return name in self._points  # without importing it


def find_drivers() -> Drivers:
    """The drivers that are installed, by name; nothing is imported yet."""
    built_in = {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    return Drivers({point.name: point for point in entry_points(group=GROUP)} | built_in)
