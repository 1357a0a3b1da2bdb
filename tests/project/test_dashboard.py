"""What the dashboard is built from, and how."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools import dashboard


def test_the_lock_file_names_checksums_and_no_registry() -> None:
    text = (dashboard.UI / "package-lock.json").read_text()
    assert "http://" not in text
    assert '"resolved"' not in text
    packages = {name: one for name, one in json.loads(text)["packages"].items() if name}
    assert packages
    assert [name for name, one in packages.items() if not one.get("integrity", "").startswith("sha512-")] == []


def test_what_is_built_is_of_these_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ui = tmp_path / "ui"
    (ui / "src").mkdir(parents=True)
    (ui / "node_modules").mkdir()
    (ui / "src" / "main.ts").write_text("1")
    monkeypatch.setattr(dashboard, "UI", ui)
    monkeypatch.setattr(dashboard, "MADE_OF", tmp_path / ".made-of")
    assert not dashboard.is_current()
    (tmp_path / ".made-of").write_text(dashboard.fingerprint())
    assert dashboard.is_current()
    for other in ("node_modules/x.js", "src/main.test.ts"):
        (ui / other).write_text("2")
    assert dashboard.is_current()
    (ui / "src" / "main.ts").write_text("2")
    assert not dashboard.is_current()


@pytest.mark.parametrize(
    ("said", "will_do"),
    [("v20.18.3", False), ("v20.19.0", True), ("v21.7.0", False), ("v22.12.0", True), ("v24", False)],
)
def test_an_old_node_is_not_taken(tmp_path: Path, said: str, will_do: bool) -> None:
    node = tmp_path / "node"
    node.write_text(f"#!{sys.executable}\nprint({said!r})\n")
    node.chmod(0o755)
    assert dashboard._will_do(str(node)) is will_do


def test_what_fails_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise dashboard.CannotBuildError("npm could not fetch; is there a network?")

    monkeypatch.setattr(dashboard, "build", fails)
    monkeypatch.setattr(sys, "argv", ["dashboard.py"])
    assert dashboard.main() == 1
    monkeypatch.setattr(sys, "argv", ["dashboard.py", "--optional"])
    assert dashboard.main() == 0
    assert "plain page instead" in capsys.readouterr().err
