"""`scidaq repair` as a user types it: what it prints, its exit codes, and that a station starts on what it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scidaq.cli.app import run
from scidaq.store import Segment, system_files
from tests.cli.conftest import CONFIGURATION, scidaq

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def data_dir(recorded: Path, tmp_path: Path) -> Path:
    shutil.copytree(recorded, tmp_path / "data")
    return tmp_path / "data"


def damage(data_dir: Path) -> int:
    """Damage a batch in the middle of the fast stream; how many rows it had."""
    (path,) = (data_dir / "streams" / "adc").rglob("*.arrows")
    content = bytearray(path.read_bytes())
    batches = [m for m in Segment(memoryview(content), path).batches if m.rows]
    hurt = batches[len(batches) // 2]
    content[hurt.at + hurt.header + 3] ^= 1
    path.write_bytes(content)
    return hurt.rows


def test_what_is_in_order_is_said_to_be(data_dir: Path, capsys: Captured) -> None:
    export = data_dir / "exports" / ("0" * 32) / "run-1.arrow"  # no part of the store
    export.mkdir(parents=True)
    (export / "0-0-0.arrows").write_bytes(b"not ours")
    for options in ([], ["--dry-run"]):
        assert run(["repair", *options, "--data-dir", str(data_dir)]) == 0
        assert "all is in order" in capsys.readouterr().out
    assert run(["verify", "--data-dir", str(data_dir)]) == 0
    assert (export / "0-0-0.arrows").read_bytes() == b"not ours"


def test_a_plan_then_a_repair_then_a_station_that_starts(data_dir: Path, capsys: Captured) -> None:
    rows = damage(data_dir)
    before = {p: p.read_bytes() for p in data_dir.rglob("*") if p.is_file()}
    assert run(["repair", "--dry-run", "--data-dir", str(data_dir)]) == 1
    said = capsys.readouterr().out
    assert f"would note that {rows} rows of adc/wave epoch 0 are lost to damage" in said
    assert str(data_dir) not in said.splitlines()[0], "paths are shown from the data directory on"
    assert {p: p.read_bytes() for p in data_dir.rglob("*") if p.is_file()} == before
    assert run(["repair", "--data-dir", str(data_dir)]) == 1
    said = capsys.readouterr().out
    assert f"steps were taken, {rows} rows are lost" in said
    assert run(["repair", "--data-dir", str(data_dir)]) == 0
    capsys.readouterr()
    assert run(["verify", "--data-dir", str(data_dir)]) == 0
    said = capsys.readouterr().out
    assert f"{rows} rows were lost to damage, and are a gap" in said
    assert "kept  quarantine/streams.adc." in said
    (data_dir.parent / "lab.toml").write_text(CONFIGURATION)
    done = scidaq("serve", "--for", "0.5", "--config", data_dir.parent / "lab.toml", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    assert run(["verify", "--data-dir", str(data_dir)]) == 0
    assert f"{rows} rows were lost to damage" in capsys.readouterr().out


def test_programs_get_the_plan_and_what_was_done(data_dir: Path, capsys: Captured) -> None:
    rows = damage(data_dir)
    assert run(["repair", "--dry-run", "--json", "--data-dir", str(data_dir)]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert {s["step"] for s in plan["steps"]} >= {"Correct", "RebuildCatalog"}
    (correction,) = (s for s in plan["steps"] if s["step"] == "Correct")
    assert correction["epoch"] == {"stream": "adc/wave", "epoch": 0}
    assert correction["target"].startswith("streams/adc/wave/")
    assert run(["repair", "--json", "--data-dir", str(data_dir)]) == 1
    done = json.loads(capsys.readouterr().out)
    assert (done["loss"], done["lost_rows"]) == (True, rows)
    assert [s["words"] for s in done["steps"]] == [s["words"] for s in plan["steps"]]
    assert all((data_dir / name).exists() for name in done["quarantined"])
    assert {q["name"] for q in done["quarantine"]} >= {Path(n).name for n in done["quarantined"]}
    assert run(["verify", "--json", "--data-dir", str(data_dir)]) == 0
    assert json.loads(capsys.readouterr().out)["quarantine"] == done["quarantine"]


def test_a_catalog_is_made_anew(data_dir: Path, capsys: Captured) -> None:
    assert run(["repair", "--rebuild-catalog", "--data-dir", str(data_dir)]) == 0
    assert "make the catalog anew: that was asked for" in capsys.readouterr().out


def test_a_station_that_runs_is_not_disturbed(data_dir: Path, capsys: Captured) -> None:
    with system_files().lock(data_dir / "LOCK"):
        for options in ([], ["--dry-run"]):
            assert run(["repair", *options, "--data-dir", str(data_dir)]) == 2
            assert "in use by another station" in capsys.readouterr().err


def test_what_is_no_data_directory_is_left_alone(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "letters").mkdir()
    assert run(["repair", "--data-dir", str(tmp_path)]) == 2
    assert "is no data directory of scidaq" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["letters"]
