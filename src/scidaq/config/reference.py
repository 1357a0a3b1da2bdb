"""The page of all settings, made from the options themselves. `python -m scidaq.config` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from scidaq.config.layers import PREFIX
from scidaq.config.loading import SECTIONS
from scidaq.config.model import InstrumentOptions
from scidaq.config.words import element, expected, field_docs, hints, value_words
from scidaq.instruments import find_drivers

INTRODUCTION = """\
# Configuration

scidaq reads [TOML](https://toml.io) files, environment variables and options of the command line. Whatever is not set
has a default, so an empty configuration is valid; it has no instruments.

This page is made from the code: `python -m scidaq.config > docs/configuration.md`.

## Where values come from

Later ones win:

1. the defaults below
2. `config/default.toml`
3. `config/production.toml`, or the file of another environment, which `SCIDAQ_ENV` names
4. `config/local.toml`
5. `<data_dir>/config/local.toml`: what is changed while the station runs; it cannot move the data directory
6. environment variables: `SCIDAQ_`, then the key in capitals with `__` between its levels
7. the files of `--config`, in their order
8. options of the command line

`SCIDAQ_CONFIG_PATH` names another directory than `./config` for 2 to 4, or one file that takes their place. Files that
are not there are left out, but those named by `--config` or `SCIDAQ_CONFIG_PATH` must be. Tables of several files are
merged key by key; any other value, an array too, is replaced as a whole.

```sh
SCIDAQ_STORAGE__SYNC_INTERVAL_MS=100 SCIDAQ_INSTRUMENTS__ADC__RATE_HZ=50000 scidaq serve --config lab.toml
```

A variable that is asked for a string is taken as it is; otherwise it is read as TOML (`true`, `12.5`, `[1, 2]`).

`scidaq check` says whether all of it is right, and names every mistake at once:

```text
environment variable SCIDAQ_LOGGING__LEVEL: logging.level: found "loud", expected "debug", "info", "warning" or "error"
lab.toml:2: storage.sync_interval_ms: found "fast", expected an integer from 10 to 10000
lab.toml:5: instruments.adc.rate_hx: unknown key; did you mean rate_hz?
```
"""

INSTRUMENTS = """\
## `[instruments.<id>]`

One table for each instrument. Its id has 1 to 64 characters of `a-z 0-9 _ -` and is the first part of the ids of its
streams, `<id>/<stream>`. Beside the settings here, which every instrument has, the table holds those of its driver.

```toml
[instruments.adc]
driver = "waveform"
rate_hz = 10_000
record = "always"

[instruments.adc.supervision]
hang_after_s = 5
```
"""


def reference() -> str:
    """The page, in Markdown."""
    parts = [INTRODUCTION]
    for name, kind in SECTIONS.items():
        parts.append(f"## `[{name}]`\n\n{_lines((name,), kind)}")
    parts += [INSTRUMENTS, _lines(("instruments", "<id>"), InstrumentOptions)]
    drivers = find_drivers()
    for name in drivers:
        driver: Any = drivers[name]
        if not driver.__module__.startswith("scidaq."):
            continue  # another package's, which has a page of its own
        title = (driver.Options.__doc__ or "").partition("\n")[0]
        parts.append(f"### Driver `{name}`\n\n{title}\n\n{_lines(('instruments', '<id>'), driver.Options)}")
    return "\n".join(parts)


def _lines(path: tuple[str, ...], kind: type) -> str:
    return "".join(_entries(path, kind))


def _entries(path: tuple[str, ...], kind: type) -> Iterator[str]:
    """An entry for each setting, and behind it those of the tables inside it."""
    docs, default = field_docs(kind), {f.name: _default(f) for f in fields(kind)}
    for name, annotation in hints(kind).items():
        key = ".".join((*path, name))
        inner, many = _table_inside(annotation)
        words = expected(annotation)
        facts = words[:1].upper() + words[1:] + default[name]
        yield f"- **`{key}{'[]' if many else ''}`** ({facts}). {docs.get(name, '')}"
        variable = PREFIX + "__".join((*path, name)).upper()
        yield "\n" if inner else f"\n  `{variable}`\n"
        if inner is not None:
            yield from _entries((*path, name + ("[]" if many else "")), inner)


def _table_inside(annotation: Any) -> tuple[type | None, bool]:
    """The dataclass that a setting is, or is an array of."""
    for candidate in (annotation, *_members(annotation)):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate, False
        inner = element(candidate)
        if isinstance(inner, type) and is_dataclass(inner):
            return inner, True
    return None, False


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) not in (Union, UnionType):
        return ()
    return tuple(m for m in get_args(annotation) if m is not NoneType)


def _default(one: Any) -> str:
    """What a setting is when nobody sets it, in words that follow its type."""
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    if value is MISSING:
        return "; must be set"
    if value is None or is_dataclass(value) or value in ((), [], {}, ""):
        return ""
    return f"; default `{value_words(str(value) if isinstance(value, Path) else value)}`"
