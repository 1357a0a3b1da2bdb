"""Every key of a TOML document has its line."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scidaq.config.places import Path, locate

DOCUMENT = '''\
# a comment with [brackets] = "and" quotes
title = "a # is no comment, a \\" is no end"
dotted . key = 1
[server]   # [not.this]
port = 9000
'quoted "key"' = [ 1, 2,   # a comment ]
  [3, "]"],
  { a = 1, b.c = [ { d = 1979-05-27 07:32:00 } ] },
]
text = """
[not.a.table]
x = 1
"" two quotes, and a \\""" in it ""."""
raw = \'\'\'
y = 'C:\\'\'\'\'
"ke\\u0079" = inf
[[instruments.adc.faults]]
kind = "drop"
[[instruments.adc.faults]]
kind = "hang"
[instruments.adc.faults.extra]
deep = true
[[instruments.adc.faults.more]]
x = 1
[[instruments.adc.faults.more]]
x = 2
[instruments]
dmm = {}
[instruments.adc]
driver = "waveform"
'''


def paths(value: Any, path: Path = ()) -> set[Path]:
    """Every path of what tomllib has read."""
    out = {path} if path else set()
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        out |= paths(child, (*path, key))
    return out


def test_every_key_has_a_line() -> None:
    lines = locate(DOCUMENT)
    assert set(lines) == paths(tomllib.loads(DOCUMENT))
    text = DOCUMENT.splitlines()
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert path[-1][:2] in text[line - 1], (path, line)
    expected = {
        ("title",): 2,
        ("dotted", "key"): 3,
        ("server",): 4,
        ("server", "port"): 5,
        ("server", 'quoted "key"', 0): 6,
        ("server", 'quoted "key"', 2, 1): 7,
        ("server", 'quoted "key"', 3, "b", "c", 0, "d"): 8,
        ("server", "text"): 10,
        ("server", "raw"): 14,
        ("server", "key"): 16,
        ("instruments", "adc", "faults", 0): 17,
        ("instruments", "adc", "faults", 1, "kind"): 20,
        ("instruments", "adc", "faults", 1, "extra", "deep"): 22,
        ("instruments", "adc", "faults", 1, "more", 1, "x"): 26,
        ("instruments", "dmm"): 28,
        ("instruments", "adc"): 17,
        ("instruments", "adc", "driver"): 30,
    }
    assert {path: lines[path] for path in expected} == expected


def test_crlf_and_no_newline_at_the_end() -> None:
    assert locate("a = 1\r\n[b]\r\nc = '''x\r\ny'''\r\nd = 2") == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "d"): 5}
    assert locate("") == {}


PLAIN = st.characters(codec="utf-8", exclude_categories=["Cc"])
KEYS = st.text(PLAIN, min_size=1, max_size=5)
VALUES = st.recursive(
    st.integers(-(2**60), 2**60) | st.booleans() | st.text(PLAIN, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def inline(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(v) for v in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return quoted(value) if isinstance(value, str) else str(value)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_document(data: dict[str, Any]) -> None:
    text = "".join(f"{quoted(k)} = {inline(v)}\n" for k, v in data.items())
    assert tomllib.loads(text) == data
    lines = locate(text)
    assert set(lines) == paths(data)
    assert [lines[(key,)] for key in data] == list(range(1, len(data) + 1))
