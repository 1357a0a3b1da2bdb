"""Values to options: pydantic judges, and every mistake is told with its place, what was found and what is expected.

Values from files are taken as they are (`"5"` is no integer, `true` is no number). Values that came as text, from the
environment or the command line, are strings where a string is asked, and read as TOML elsewhere.
"""

from __future__ import annotations

import copy
import json
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from scidaq.config.layers import Problem, Text, Tree, dotted
from scidaq.config.places import Path
from scidaq.config.words import child, expected, is_secret, known, near, value_words, walk

T = TypeVar("T")

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument")
_NAMED = re.compile(r"[A-Za-z_][\w\-]*(?:\.[\w:\-]+|\[\d+\])*: ")


def check(
    kind: type[T], values: dict[str, Any], path: Path, tree: Tree, problems: list[Problem], also: Sequence[str] = ()
) -> T | None:
    """`values`, which stand at `path` of the tree, as a `kind`; None, with problems noted, when they are not that.

    `also` are keys that the table may have beside those of `kind`, for hints.
    """
    broken = [p for p, v in walk(values) if isinstance(v, str) and not _is_unicode(v)]
    if broken:  # from the environment or an option; as JSON, nothing around it could be judged
        problems += [Problem(tree.origin(full), dotted(full), "is not UTF-8") for full in ((*path, *p) for p in broken)]
        return None
    options, errors = _judge(TypeAdapter(kind), values)
    told = {_real(values, e["loc"]) for e in errors}
    endless = [p for p, v in walk(values) if isinstance(v, float) and not math.isfinite(v) and p not in told]
    problems += [_wrong(tree, path, place, values, "a finite number") for place in endless]
    problems += _explain(kind, errors, values, path, tree, also)
    return None if errors or endless else options


def _judge(adapter: TypeAdapter[T], values: dict[str, Any]) -> tuple[T | None, list[ErrorDetails]]:
    """What pydantic says of the values; text that it does not take as a string is read as TOML, in place."""
    while True:
        try:
            return adapter.validate_json(json.dumps(values, default=str), strict=True), []
        except ValidationError as error:
            errors = error.errors(include_url=False)
        reread = [read_text(values, _real(values, e["loc"])) for e in errors]
        if not any(reread):
            return None, errors


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(values: dict[str, Any], path: Path) -> bool:
    """Read the text at a path as TOML; False when there is none or it is no TOML."""
    if not path or not isinstance(value := value_at(values, path), Text):
        return False
    try:
        read = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return False
    if list(read) != ["value"]:
        return False
    value_at(values, path[:-1])[path[-1]] = read["value"]
    return True


def value_at(values: Any, path: Path) -> Any:
    """What stands at a path of some values. Raises `LookupError` where nothing does."""
    for part in path:
        values = values[part]
    return values


def _real(values: Any, loc: Sequence[str | int]) -> Path:
    """The part of pydantic's location that is there; it puts the names of types between where a type has branches."""
    out: Path = ()
    for part in loc:
        inside = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        if part in inside:
            out, values = (*out, part), value_at(values, (part,))
    return out


def sound(kind: type[T], values: dict[str, Any]) -> tuple[T | None, list[Path]]:
    """As a `kind`, what remains of `values` without what is wrong, and the places of that; None when it is none."""
    if not all(_is_unicode(v) for _, v in walk(values) if isinstance(v, str)):
        return None, []
    values, left_out = copy.deepcopy(values), []
    wrong = {p for p, v in walk(values) if isinstance(v, float) and not math.isfinite(v)}
    while True:
        left_out += sorted(wrong, key=str)
        for place in wrong:
            if not isinstance(place[-1], str):
                return None, left_out  # without an element the others would have another place
            del value_at(values, place[:-1])[place[-1]]
        options, errors = _judge(TypeAdapter(kind), values)
        if options is not None:
            return options, left_out
        places = {_real(values, e["loc"]) for e in errors if e["type"] not in _MISSING}
        wrong = {p for p in places if p and not any(q[: len(p)] == p and q != p for q in places)}
        if not wrong:
            return None, left_out


def doubtful(problem: Problem, left_out: Path) -> bool:
    """Whether a problem may be one only because what stood at a place was left out: a table that held it, or a
    neighbour that names it."""
    held, holder = dotted(left_out), dotted(left_out[:-1])
    if f"{held}.".startswith((f"{problem.key}.", f"{problem.key}[")):
        return True
    near_it = problem.key.startswith((f"{holder}.", f"{holder}["))
    return near_it and re.search(rf"\b{re.escape(str(left_out[-1]))}\b", problem.message) is not None


# ---- explaining -----------------------------------------------------------------------------------------------------


def _explain(
    kind: type, errors: list[ErrorDetails], values: dict[str, Any], path: Path, tree: Tree, also: Sequence[str]
) -> Iterator[Problem]:
    """One problem for each place, in the order of the places."""
    where = {(_real(values, e["loc"]), e["type"] in _MISSING and e["loc"][-1]): e for e in errors}
    for (place, missing), error in where.items():
        # Where a type has branches, all of them complain: the one that went deepest understood what was meant.
        if not missing and any(p[: len(place)] == place and len(p) > len(place) for p, _ in where):
            continue
        annotation = annotation_at(kind, place)
        full = (*path, *place)
        if missing:
            words = expected(child(annotation, missing))
            message = f"{missing} is missing" + (f", expected {words}" if words else "")
            yield Problem(tree.origin(full), dotted(full), message)
        elif error["type"] in _UNKNOWN:
            names = [*known(annotation_at(kind, place[:-1])), *(also if len(place) == 1 else ())]
            yield Problem(tree.origin(full), dotted(full), f"unknown key{near(str(place[-1]), names)}")
        elif error["type"] in ("value_error", "assertion_error"):
            yield from refused(str(error.get("ctx", {}).get("error", error["msg"])), full, tree)
        else:
            words = expected(annotation) or _first_lower(error["msg"])
            yield _wrong(tree, path, place, values, words, secret=is_secret(annotation))


def annotation_at(kind: Any, path: Path) -> Any:
    """The type of what stands at a path of a value of this type; None where nothing is known of it."""
    for part in path:
        kind = child(kind, part)
    return kind


def _wrong(tree: Tree, path: Path, place: Path, values: dict[str, Any], words: str, *, secret: bool = False) -> Problem:
    full = (*path, *place)
    found = "something else" if secret else value_words(value_at(values, place))
    return Problem(tree.origin(full), dotted(full), f"found {found}, expected {words}")


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def refused(message: str, path: Path, tree: Tree) -> Iterator[Problem]:
    """What options say of themselves (`rate_hz: too low; streams.dc.unit: ...`): each part at what it names.

    An element of an array is named by its position, as in `streams[0]`, or by its `name`.
    """
    for part in re.split(f"; (?={_NAMED.pattern})", message):
        named = _NAMED.match(part)
        names = re.findall(r"[^.\[\]]+", named[0][:-2]) if named else []
        full, rest = path, names
        while rest and (inner := _named(tree.get(full), rest[0])) is not None:
            full, rest = (*full, inner), rest[1:]
        text = part[named.end() :] if named and len(rest) < len(names) else part
        prefix = ".".join(rest) + ": " if rest and len(rest) < len(names) else ""
        yield Problem(tree.origin(full), dotted(full), prefix + text)


def _named(value: Any, name: str) -> str | int | None:
    """The key, or position, of what is called `name` in a table or an array; None when there is none."""
    if isinstance(value, list):
        position = [i for i, one in enumerate(value) if isinstance(one, dict) and one.get("name") == name]
        return position[0] if position else int(name) if name.isdecimal() and int(name) < len(value) else None
    return name if isinstance(value, dict) and name in value else None
