"""What a type asks for, in words: for messages, for the reference page, and to find near matches of a name.

Options are stdlib dataclasses whose fields carry their limits as `annotated_types`.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path as FilePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt

from scidaq.config.places import Path
from scidaq.options import LIVE, Secret

_PLAIN = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    FilePath: "a path",
    Secret: "a secret",
}
_LONG = 60


@cache
def hints(kind: type) -> Mapping[str, Any]:
    """Annotation of each field of a dataclass."""
    found = get_type_hints(kind, include_extras=True)
    return {f.name: found[f.name] for f in fields(kind)}


@cache
def field_docs(kind: type) -> Mapping[str, str]:
    """The line under each field of a dataclass, as its source has it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    out = {}
    if isinstance(body, ast.ClassDef):
        for before, after in zip(body.body, body.body[1:], strict=False):
            match before, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    out[name] = inspect.cleandoc(doc)
    return out


def expected(annotation: Any) -> str:
    """What a value of this type is: `an integer from 1 to 10`; empty when there are no words for it."""
    base, limits = _split(annotation)
    if get_origin(base) in (Union, UnionType):
        return _or([words for member in get_args(base) if member is not NoneType and (words := expected(member))])
    if get_origin(base) is Literal:
        return _or([value_words(v) for v in get_args(base)])
    if isinstance(base, type) and issubclass(base, Enum):
        return _or([value_words(v.value) for v in base])
    if base in _PLAIN:
        return _PLAIN[base] + _range(limits)
    inner = element(annotation)
    if inner is not None:
        kind = "a table" if _is_table(base) else "an array"
        return f"{kind} of {each}" if (each := _plural(expected(inner))) else kind
    return "a table" if _is_table(base) else ""


def child(annotation: Any, part: str | int) -> Any:
    """The type of what is at `part` of a value of this type; None where it has no such part."""
    base, _ = _split(annotation)
    if get_origin(base) in (Union, UnionType):
        found = (child(member, part) for member in get_args(base))
        return next((f for f in found if f is not None), None)
    if is_dataclass(base) and isinstance(base, type):
        return hints(base).get(str(part))
    inner = element(annotation)
    return inner if inner is not None and _is_table(base) == isinstance(part, str) else None


def element(annotation: Any) -> Any:
    """The type of the elements of an array or the values of a table; None for any other type."""
    base, _ = _split(annotation)
    origin, args = get_origin(base), get_args(base)
    if not isinstance(origin, type) or not args:
        return None
    if issubclass(origin, Mapping):
        return args[1]
    return args[0] if issubclass(origin, Sequence | set | frozenset) else None


def known(annotation: Any) -> list[str]:
    """The keys that a table of this type may have; empty when it may have any."""
    kinds = tables_in(annotation)
    return [name for kind in kinds for name in (*hints(kind), *(f"{secret}_file" for secret in secret_fields(kind)))]


def tables_in(annotation: Any, deep: bool = False) -> list[type]:
    """The options, as classes, that a value of this type may be; with `deep`, that its elements may be too."""
    base, _ = _split(annotation)
    if get_origin(base) in (Union, UnionType):
        return [kind for member in get_args(base) for kind in tables_in(member, deep)]
    if is_dataclass(base) and isinstance(base, type):
        return [base]
    inner = element(annotation) if deep else None
    return [] if inner is None else tables_in(inner, deep)


def is_secret(annotation: Any) -> bool:
    """Whether a value of this type is a secret."""
    base, _ = _split(annotation)
    return base is Secret or (get_origin(base) in (Union, UnionType) and any(map(is_secret, get_args(base))))


@cache
def secret_fields(kind: type) -> tuple[str, ...]:
    """The options of a class that are secrets."""
    return tuple(name for name, annotation in hints(kind).items() if is_secret(annotation))


def is_live(annotation: Any) -> bool:
    """Whether a reload changes an option of this type without a restart."""
    return LIVE in _split(annotation)[1]


def near(name: str, names: Iterable[str], prefix: str = "") -> str:
    """`; did you mean x?` where one of `names` is near, else `; there are ...` where they are few."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, 1, 0.7)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    return f"; there are {', '.join(names)}" if 0 < len(names) <= 20 else ""


def value_words(value: Any) -> str:
    """A value as it would stand in a file, short enough for a message."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "an array"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, str | bool | int | float):
        return str(value)
    text = json.dumps(str(value) if isinstance(value, str) else value, ensure_ascii=False)
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def _split(annotation: Any) -> tuple[Any, list[Any]]:
    """A type without its annotations, and those."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    base, *extras = get_args(annotation)
    return base, [e for extra in extras for e in (extra if isinstance(extra, GroupedMetadata) else [extra])]


def _is_table(base: Any) -> bool:
    origin = get_origin(base) or base
    return isinstance(origin, type) and (is_dataclass(origin) or issubclass(origin, Mapping))


def _range(limits: Sequence[Any]) -> str:
    low = next((f"at least {_number(m.ge)}" for m in limits if isinstance(m, Ge)), "")
    low = low or next((f"above {_number(m.gt)}" for m in limits if isinstance(m, Gt)), "")
    high = next((f"at most {_number(m.le)}" for m in limits if isinstance(m, Le)), "")
    high = high or next((f"below {_number(m.lt)}" for m in limits if isinstance(m, Lt)), "")
    if low.startswith("at least") and high.startswith("at most"):
        return f" from {low.removeprefix('at least ')} to {high.removeprefix('at most ')}"
    both = " and ".join(part for part in (low, high) if part)
    return f" of {both}" if both.startswith("at") else f" {both}" if both else ""


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _plural(words: str) -> str:
    return re.sub(r"\ban? (array|integer|number|path|string|table)\b", r"\1s", words)


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value inside tables and arrays, with its path, the containers themselves included."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from walk(inner, (*path, i))
