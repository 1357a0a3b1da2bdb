"""Files that are taken in as a user types it: all of them, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from scidaq.cli.app import run
from scidaq.query import Reader


def test_what_is_in_the_way_is_told_before_anything_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def csv(name: str, start_s: int) -> str:
        (tmp_path / name).write_text("time,v\n" + "".join(f"{start_s + i},{i}\n" for i in range(5)))
        return str(tmp_path / name)

    where = ["--data-dir", str(tmp_path / "data")]
    old = [csv(f"{name}.csv", 1_700_000_000) for name in "abc"]
    newer = csv("newer.csv", 1_700_000_100)
    assert run(["import", newer, "--stream", "import/b", *where]) == 0
    assert run(["import", newer, "--stream", "import/c", *where]) == 0
    capsys.readouterr()
    assert run(["import", *old, *where]) == 1
    said = capsys.readouterr().err
    assert "row of import/b; c.csv begins" in said
    assert "Nothing was imported" in said
    assert run(["import", *old, *where, "--dry-run"]) == 1, "as it would be"
    assert "row of import/b; c.csv begins" in capsys.readouterr().err
    assert run(["import", newer, "--stream", "import/b", *where, "--dry-run"]) == 0
    assert "newer.csv: nothing to do, its 5 rows are in import/b already" in capsys.readouterr().out
    assert run(["import", newer, "--stream", "import/d", *where, "--dry-run"]) == 0
    assert "already" not in capsys.readouterr().out
    assert run(["import", newer, "--data-dir", str(tmp_path / "none"), "--dry-run"]) == 0
    assert not (tmp_path / "none").exists()
    assert Reader(tmp_path / "data").names() == ["import/b", "import/c"]
    assert run(["import", old[0], *where]) == 0
    assert run(["import", *old, "--stream", "old", *where]) == 0
    assert Reader(tmp_path / "data").names()[3:] == ["old/a", "old/b", "old/c"]
