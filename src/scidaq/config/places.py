"""On which line of a TOML document does a key stand? `tomllib` reads values but does not say, so this finds the keys.

It is no parser: the document has been accepted by `tomllib` before, and only as much is understood as is needed to walk
over it: headers, dotted and quoted keys, arrays of tables, inline tables, arrays, strings.

Source: TOML v1.0.0, toml.io/en/v1.0.0.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]
"""Where a value is: keys of tables, and positions in arrays from 0."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""(?!")|\'\'\'.*?\'\'\'(?!')|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''',
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def locate(text: str) -> dict[Path, int]:
    """Line, from 1, of every table, key and element of an array in `text`, a valid TOML document.

    Of a table that is mentioned several times it is the first line.
    """
    return _Walk(text).lines


class _Walk:
    """One walk over a document, from its first character to its last."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self._counts: dict[Path, int] = {}
        """How many elements each array of tables has so far."""
        self.lines: dict[Path, int] = {}
        table: Path = ()
        while self._skip():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self) -> bool:
        """Go on to what is neither blank nor comment; False at the end."""
        self._at = self._match(_BLANK).end()
        return self._at < len(self._text)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"no valid TOML at character {self._at}")
        return found

    def _take(self, char: str) -> bool:
        """Whether `char` is next; then it is passed over."""
        self._skip()
        taken = self._text.startswith(char, self._at)
        self._at += len(char) if taken else 0
        return taken

    def _note(self, path: Path, at: int) -> None:
        """Remember where `path`, and each table around it that has no place yet, was seen."""
        line = bisect_right(self._starts, at)
        for depth in range(1, len(path) + 1):
            self.lines.setdefault(path[:depth], line)

    def _header(self) -> Path:
        start = self._at
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        *around, last = self._key()
        path: Path = ()
        for part in around:
            path = self._newest((*path, part))
        path = (*path, last)
        if many:
            self._note(path, start)
            self._counts[path] = self._counts.get(path, 0) + 1
        path = self._newest(path)
        self._note(path, start)
        self._take("]]" if many else "]")
        return path

    def _newest(self, path: Path) -> Path:
        """The last element, where `path` is an array of tables: that is what a header means by its name."""
        return (*path, self._counts[path] - 1) if path in self._counts else path

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip()
            found = self._match(_KEY)
            self._at = found.end()
            parts.append(next(iter(tomllib.loads(f"{found[0]} = 0"))))
            if not self._take("."):
                return parts

    def _pair(self, table: Path) -> None:
        start = self._at
        path = (*table, *self._key())
        self._note(path, start)
        self._take("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("{"):
            while not self._take("}"):
                self._pair(path)
                self._take(",")
        elif self._take("["):
            count = 0
            while not self._take("]"):
                self._note((*path, count), self._at)
                self._value((*path, count))
                self._take(",")
                count += 1
        elif self._text[self._at] in "\"'":
            self._at = self._match(_STRING).end()
        else:
            self._at = self._match(_SCALAR).end()
