"""The page of all settings, made from the options themselves. `python -m scidaq.config` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from scidaq.config.loading import SECTIONS
from scidaq.config.model import InstrumentOptions
from scidaq.config.words import element, expected, field_docs, hints, is_live, value_words
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

## Secrets

A setting whose value is *a secret* may be given by a file instead, whose name is given as `<key>_file`, in TOML as in
the environment (`SCIDAQ_..._FILE`); the end of its last line does not belong to it. A systemd credential of the key's
name (`LoadCredential=<section>.<key>:...`) is taken when neither is given. Secrets are shown nowhere; `scidaq check`
warns of a file with one that everybody on the machine may read.

## What is in force, and what there is

```sh
scidaq config show --origin                   # every value in force, and where it was given
scidaq config default > my.toml               # every setting with its meaning and its default, to begin with
scidaq config schema > scidaq.schema.json     # for editors: `#:schema ./scidaq.schema.json` in the first line of a file
```

[`default.toml`](default.toml) is what the second of these prints.

## Changing it while a station runs

On SIGHUP `scidaq serve` reads its configuration again. Instruments are added, taken out, or taken out and put in again
where any of their settings differs, while all others go on; settings whose meaning ends in *(changes at once)* do that.
Whatever else differs is named in the log, and waits for the next start. A configuration with a mistake changes nothing:
the log tells each mistake.

Over HTTP instruments can be [added, changed and taken out](http-api.md#instruments). They stand in
`<data_dir>/config/local.toml`, each in tables of its own; whatever else is written there stays as it is.

## Is it right?

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
    parts += [f"## `[{name}]`\n\n{_table(kind)}" for name, kind in SECTIONS.items()]
    parts += [INSTRUMENTS, _table(InstrumentOptions)]
    drivers = find_drivers()
    for name in drivers:
        driver: Any = drivers[name]
        if driver.__module__.startswith("scidaq."):  # another package's has a page of its own
            title = (driver.Options.__doc__ or "").partition("\n")[0]
            parts.append(f"### Driver `{name}`\n\n{title}\n\n{_table(driver.Options)}")
    return "\n".join(parts)


def _table(kind: type) -> str:
    rows = [("setting", "value", "default", "meaning"), ("---",) * 4, *_rows(kind)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def _rows(kind: type, around: str = "") -> Iterator[tuple[str, str, str, str]]:
    """A row for each setting, and behind it those of the tables inside it."""
    docs, defaults = field_docs(kind), {f.name: _default(f) for f in fields(kind)}
    for name, annotation in hints(kind).items():
        inner, many = _inside(annotation)
        key = f"{around}{name}{'[]' if many else ''}"
        doc = " ".join([*docs.get(name, "").split(), *(["*(changes at once)*"] if is_live(annotation) else [])])
        yield f"`{key}`", expected(annotation), defaults[name], doc
        if inner is not None:
            yield from _rows(inner, f"{key}.")


def _inside(annotation: Any) -> tuple[type | None, bool]:
    """The dataclass that a setting is, or is an array of, and whether it is an array."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate, False
        inner = element(candidate)
        if isinstance(inner, type) and is_dataclass(inner):
            return inner, True
    return None, False


def _default(one: Field[Any]) -> str:
    """What a setting is when nobody sets it."""
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    if value is MISSING:
        return "*must be set*"
    if value is None or is_dataclass(value) or value in ((), [], {}, ""):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value_words(str(value) if isinstance(value, Path) else value)}`"
