"""Nothing secret in what others read: the values of secrets, and what looks like one by its key or its form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from scidaq.options import HIDDEN

SHORTEST = 6
"""A value shorter than this is not looked for inside texts: it would be found by chance everywhere."""
_KEYS = re.compile(
    r"(?:^|[_.\-])(?:passw(?:or)?d|passphrase|secret|token|api_?key|private_?key|key|credentials?|authorization|cookie)s?$",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"(?<=://)[^/\s@'\"]+(?=@)")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/\-]{6,}=*")
_ASSIGNED = re.compile(
    r"(?i)(password|passwd|secret|token|api[_-]?key|authorization)(['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,;}]+"
)


def hides(key: str) -> bool:
    """Whether the value under this key is never shown."""
    return _KEYS.search(key) is not None


class Redactor:
    """Takes secrets out of texts. `secrets` are values that must never appear, in whatever form."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: frozenset[str] = frozenset()
        self._secrets: re.Pattern[str] | None = None
        self.hide(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        """Take these out too, from now on. Those of before stay secret: they may turn up late."""
        self._forms |= {
            form for s in secrets if len(s) >= SHORTEST for form in (s, json.dumps(s)[1:-1], _escaped(s), repr(s)[1:-1])
        }
        if self._forms:
            self._secrets = re.compile("|".join(map(re.escape, sorted(self._forms, key=len, reverse=True))))

    def text(self, text: str) -> str:
        """The text without secrets and without credentials in addresses."""
        if self._secrets is not None:
            text = self._secrets.sub(HIDDEN, text)
        if "://" in text:
            text = _IN_URL.sub(HIDDEN, text)
        if "earer" in text or "asic" in text or "EARER" in text or "ASIC" in text:
            text = _BEARER.sub(rf"\1 {HIDDEN}", text)
        return _ASSIGNED.sub(rf"\1\2{HIDDEN}", text)

    def values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The same table without secrets, deep down too: the values of keys that are never shown, and inside texts."""
        return {k: HIDDEN if hides(str(k)) and v not in (None, "") else self._inside(v) for k, v in values.items()}

    def _inside(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self.values(value)
        if isinstance(value, list | tuple):
            return [self._inside(one) for one in value]
        return self.text(value) if isinstance(value, str) else value


def _escaped(text: str) -> str:
    """As JSON has it that keeps letters as they are."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
