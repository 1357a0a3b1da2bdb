"""The configuration as plain values: for showing it, for comparing two, and for its hash.

Tables are dicts, arrays are lists, and secrets stay `Secret`, so that nobody shows one by mistake.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from scidaq.options import Secret

if TYPE_CHECKING:
    from scidaq.config.model import Config


def effective(config: Config) -> dict[str, Any]:
    """Every section and every instrument with all of their values, defaults included."""
    options = {f.name: getattr(config, f.name) for f in fields(config)}
    out = {name: plain(value) for name, value in options.items() if is_dataclass(value)}
    out["instruments"] = {one.id: plain(one.general) | plain(one.options) for one in config.instruments.values()}
    return out


def digest(config: Config) -> str:
    """SHA-256, in hexadecimal, of the effective configuration without secrets.

    Where a value was given, the order of tables, and whether a secret is set make no difference.
    """
    text = json.dumps(_public(effective(config)), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as TOML could say it; None where there is none, and a `Secret` as it is."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str | Secret):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(inner) for inner in value), key=str)
    text = str(value)  # a path, or whatever a third party has; without its address in memory, which changes
    return type(value).__qualname__ if text == object.__repr__(value) else text


def _public(value: Any) -> Any:
    """Without secrets, and without what is not set, so that nobody can tell a secret that is not from one that is."""
    if isinstance(value, dict):
        return {k: _public(v) for k, v in value.items() if v is not None and not isinstance(v, Secret)}
    if isinstance(value, list):
        return [_public(v) for v in value if not isinstance(v, Secret)]
    return value


def secrets_in(value: Any) -> list[Secret]:
    """Every secret inside plain values."""
    if isinstance(value, Secret):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [secret for inner in inside for secret in secrets_in(inner)]
