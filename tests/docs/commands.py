"""Runs the code blocks of a page as a newcomer would type them, one after the other, in an empty directory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KILLED = 128 + 9
# `make` would install packages: here it says which program it would start, and that one is started for two seconds.
MAKE = """#!/bin/sh
said=$(command -p make -C "$ROOT" --dry-run "$@") || exit 1
case "$said" in
  *'/scidaq" demo'*) exec scidaq demo --for 2 ;;
  *'-m pytest'*) exit 0 ;;
  *) echo "make $* starts neither the demo nor the tests" >&2; exit 1 ;;
esac
"""
# Until the simulated multimeter answers: on a busy machine that may take longer than a reader would wait.
WAIT = "for i in $(seq 200); do (: <>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.05; done"


@dataclass(frozen=True)
class Code:
    """A fenced block."""

    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.language}: {self.text.strip().splitlines()[0]}"


def blocks(page: Path) -> list[Code]:
    """All fenced blocks of a page."""
    return [Code(*found) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


class Newcomer:
    """An empty directory, the programs of this checkout, and a port of its own for the simulated multimeter."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = str(server.getsockname()[1])
        programs = directory / ".programs"
        programs.mkdir()
        (programs / "make").write_text(MAKE)
        (programs / "make").chmod(0o755)
        (directory / ".venv").symlink_to(sys.prefix)
        (directory / "examples").symlink_to(ROOT / "examples")
        path = os.pathsep.join([str(programs), str(Path(sys.prefix, "bin")), os.environ["PATH"]])
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SCIDAQ_")}
        inherited["SCIDAQ_SERVER__PORT"] = "0"  # several stations may run at once
        inherited["SCIDAQ_FLIGHT__ENABLED"] = "false"
        # Python says what it would keep for itself: a warning in what a newcomer sees is a fault.
        self._environment = inherited | {"PATH": path, "ROOT": str(ROOT), "PYTHONWARNINGS": "error", "COLUMNS": "160"}
        self._python = ""

    def do(self, code: Code) -> str:
        """Run a block, or write the file that it shows; what it printed. Raises `AssertionError` when it failed."""
        text = code.text.replace("5025", self._port)
        text = re.sub(r"--for \d+", "--for 2", text).replace("-s KILL 8", "-s KILL 4")
        text = re.sub(r"\bsleep 2$", WAIT.format(port=self._port), text, flags=re.MULTILINE)
        if code.language == "toml":
            (self.directory / "lab.toml").write_text(text)
            return ""
        if code.language == "python":
            self._python += text
            return self._run([sys.executable, "-c", self._python], 0)
        return self._run(["bash", "-ec", text], KILLED if "-s KILL" in text else 0)

    def write(self, name: str, text: str) -> None:
        """Put a file that a page shows into the directory."""
        (self.directory / name).write_text(text.replace("5025", self._port))

    def anew(self) -> None:
        """Python that comes now begins without what came before."""
        self._python = ""

    def _run(self, command: list[str], expected: int) -> str:
        # Into a file: a program left in the background would keep a pipe open.
        with (self.directory / ".said").open("w+") as said:
            process = subprocess.Popen(
                command, cwd=self.directory, env=self._environment, stdout=said, stderr=said, start_new_session=True
            )
            try:
                process.wait(60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            said.seek(0)
            text = said.read()
        # A signal is 128 + its number where bash says it, and negative where bash itself was replaced by the program.
        assert process.returncode in (expected, 128 - expected if expected else 0), text
        return text


def shape(text: str) -> Iterator[str]:
    """Each line without what changes from one time to the next: numbers, sizes, the width of columns."""
    for line in text.splitlines():
        line = re.sub(r"-?\d[\d,.:T-]*Z?(e-?\d+)?", "#", line)
        yield " ".join(re.sub(r"# [kMG]?B\b", "# B", line).split())
