"""What the package stands on is said once, with a reason, and locked with hashes."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import scidaq

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock", "tools/build.lock")

GROUPS = PROJECT["dependency-groups"]
ASKED = {
    "requirements.lock": PROJECT["project"]["dependencies"],
    "requirements-dev.lock": PROJECT["project"]["dependencies"] + GROUPS["dev"],
    "requirements-bench.lock": PROJECT["project"]["dependencies"] + GROUPS["bench"],
    "tools/build.lock": GROUPS["build"],
}
EXTRAS = PROJECT["project"]["optional-dependencies"]
EVERY = sorted({one for some in [*ASKED.values(), *EXTRAS.values()] for one in some})


def pins(lock: str) -> dict[str, list[str]]:
    """The pins of a lock file, as `name==version` and a marker where there is one, with hashes."""
    found: dict[str, list[str]] = {}
    hashes: list[str] = []
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        if pin := re.match(r"\S+==[^\\]+", line):
            hashes = found.setdefault(pin.group().strip(), [])
        elif digest := re.match(r"\s+--hash=sha256:([0-9a-f]{64})\b", line):
            hashes.append(digest.group(1))
        else:
            assert not line.strip() or line.lstrip().startswith("#"), f"{lock}: {line}"
    return found


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes(lock: str) -> None:
    assert pins(lock)
    assert [pin for pin, hashes in pins(lock).items() if not hashes] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_says_where_packages_come_from(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--\w*(index|links)\b)", text, re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS)
def test_what_is_asked_for_is_locked(lock: str) -> None:
    assert {name_of(one) for one in ASKED[lock]} <= {name_of(pin) for pin in pins(lock)}


def test_the_tests_have_every_extra() -> None:
    """Else nobody would have tried it."""
    assert {name_of(one) for some in EXTRAS.values() for one in some} <= {name_of(one) for one in GROUPS["dev"]}


def test_the_locks_agree() -> None:
    run, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert set(run) <= set(dev)
    names = {name_of(pin) for pin in dev}
    build = [pin for pin in pins("tools/build.lock") if name_of(pin) in names]
    assert set(build) <= set(dev)

    # Whom we compare with may need some of it on more systems: the version is what must be the same.
    bench = {pin.partition(" ;")[0] for pin in pins("requirements-bench.lock")}
    for other in (dev, pins("tools/build.lock")):
        names = {name_of(pin) for pin in other}
        assert {pin for pin in bench if name_of(pin) in names} <= {pin.partition(" ;")[0] for pin in other}


@pytest.mark.parametrize("requirement", EVERY)
def test_a_requirement_has_a_floor_and_a_reason(requirement: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+(\[[a-z,-]+\])?>=[0-9.]+(; .+)?", requirement)
    line = next(line for line in PYPROJECT.splitlines() if line.startswith(f'  "{requirement}"'))
    assert re.search(r'",? +# \w.{5,}', line), f"say what {requirement} is here for: {line}"


def test_the_version_has_one_source() -> None:
    assert "version" not in PROJECT["project"]
    assert version("scidaq") == scidaq.__version__


def test_the_drivers_are_registered() -> None:
    declared = PROJECT["project"]["entry-points"]["scidaq.drivers"]
    installed = {one.name: one.value for one in entry_points(group="scidaq.drivers")}
    assert declared.items() <= installed.items()
