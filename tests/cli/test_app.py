"""The verbs as a user types them: what they print, where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import typer

from scidaq import __version__
from scidaq.catalog import FactsLog, NewRun, RunKeeper
from scidaq.cli import checking
from scidaq.cli.app import app, run
from scidaq.cli.reading import _as_json, _as_text
from scidaq.cli.times import moment_ns
from scidaq.clock import SystemClock
from scidaq.testing import FakeInstrument
from tests.cli.conftest import CONFIGURATION, environment, scidaq, started

Captured = pytest.CaptureFixture[str]


def test_version_and_help(capsys: Captured) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"scidaq {__version__}\n"
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    root: Any = typer.main.get_command(app)
    assert root.commands
    assert [name for name in root.commands if name not in said] == []


def test_help_imports_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; from scidaq.cli.app import run; run(['--help'])\n"
        "print(*(m for m in ('numpy', 'pyarrow', 'pydantic', 'sqlalchemy') if m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["raed"],
        ["read"],
        ["read", "a/b", "--format", "xml"],
        ["read", "a/b", "--last", "5", "--start", "-5s"],
        ["read", "a/b", "--last", "-5"],
        ["read", "a/b", "--last", "0"],
        ["read", "a/b", "--last", "many"],
        ["read", "a/b", "--last", "9" * 5000],
        ["read", "a/b", "--last", "9" * 5000 + "s"],
        ["read", "a/b", "--start", "yesterday"],
        ["read", "a/b", "--stop", "9" * 5000],
        ["read", "a/b", "--index", "5"],
        ["read", "a/b", "--index", "9" * 5000 + ":"],
        ["read", "a/b", "--index", "-1:5"],
        ["read", "a/b", "--epoch", "-1"],
        ["read", "a/b", "--last", "5", "--run", "night"],
        ["serve", "--for", "-1"],
        ["demo", "--for", "soon"],
    ],
)
def test_a_wrong_command_line_is_2(arguments: list[str], home: Path, capsys: Captured) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err


# ---- streams, read, verify


def test_streams(recorded: Path, capsys: Captured) -> None:
    assert run(["streams", "--data-dir", str(recorded), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["stream"] for one in found] == ["adc/wave", "slow/wave"]
    keys = ["stream", "epoch", "rows", "durable_rows", "gap_rows", "first_ns", "last_ns", "bytes"]
    assert all(list(one) == keys for one in found)
    assert all(one["rows"] == one["durable_rows"] > 0 for one in found)
    assert run(["streams", "--data-dir", str(recorded)]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0][:3] == ["stream", "epoch", "rows"]
    assert [row[0] for row in table[1:]] == ["adc/wave", "slow/wave"]


def test_read_in_every_format(recorded: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    read = ["read", "adc/wave", "--data-dir", str(recorded), "--last", "20"]
    assert run([*read, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfdbinary.readouterr().out.decode())))
    assert list(rows[0]) == ["time", "adc[ch0]", "adc[ch1]"]
    assert run([*read, "--format", "json"]) == 0
    objects = json.loads(capfdbinary.readouterr().out)
    assert run([*read, "--format", "arrow"]) == 0
    table = pa.ipc.open_stream(capfdbinary.readouterr().out).read_all()
    assert run(read) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert len(rows) == len(objects) == table.num_rows == len(lines) - 2 == 20
    assert [[float(r["adc[ch0]"]), float(r["adc[ch1]"])] for r in rows] == [o["adc"] for o in objects]
    assert table["adc"].to_pylist() == [o["adc"] for o in objects]
    assert [r["time"] for r in rows] == [o["time"] for o in objects] == [line.split()[0] for line in lines[2:]]


def test_read_a_range(recorded: Path, tmp_path: Path, capsys: Captured) -> None:
    data = Path(shutil.copytree(recorded, tmp_path / "data"))
    read = ["read", "slow/wave", "--data-dir", str(data), "--format", "json"]

    def times(*options: str) -> list[str]:
        assert run([*read, *options]) == 0
        return [row["time"] for row in json.loads(capsys.readouterr().out)]

    everything = times()
    assert times("--start", everything[2], "--stop", everything[5]) == everything[2:5]
    assert times("--start", str(moment_ns(everything[-3], 0))) == everything[-3:]
    assert times("--start", "-1d") == everything
    assert times("--stop", "-1d") == []
    assert times("--last", "3") == everything[-3:]
    assert len(times("--last", "100ms")) in (5, 6)
    assert times("--index", ":3") == times("--index", "0:3", "--epoch", "0") == everything[:3]
    assert times("--index", ":", "--epoch", "0") == times("--epoch", "0") == everything
    start, stop = (moment_ns(everything[i], 0) for i in (1, 4))
    with FactsLog.open(data / "facts") as facts:
        RunKeeper(facts, SystemClock()).add(NewRun("few", start, stop))
    assert times("--run", "few") == everything[1:4]


def test_read_raw_values_of_some_channels(recorded: Path, capsys: Captured) -> None:
    assert run(["read", "slow/wave", "--data-dir", str(recorded), "--format", "csv", "--raw", "--channels", "ch0"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["time", "ch0"]
    assert all(abs(int(code)) <= 32767 for _, code in rows[1:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["read", "adc/wav"], "scidaq: no stream 'adc/wav' (did you mean 'adc/wave'?)"),
        (["read", "adc/wave", "--channels", "nope"], "nope"),
    ],
)
def test_what_cannot_be_read_is_one_message(arguments: list[str], said: str, recorded: Path, capsys: Captured) -> None:
    assert run([*arguments, "--data-dir", str(recorded)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("verb", [["streams"], ["read", "a/b"], ["verify"]])
def test_where_there_is_no_data(verb: list[str], home: Path, capsys: Captured) -> None:
    assert run(verb) == 1
    assert capsys.readouterr().err == (
        "scidaq: scidaq-data is no data directory of scidaq: it does not exist; check --data-dir\n"
    )


def test_the_configuration_says_where_the_data_is(recorded: Path, home: Path, capsys: Captured) -> None:
    (home / "lab.toml").write_text(f"station.data_dir = {str(recorded)!r}")
    assert run(["streams", "--config", "lab.toml"]) == 0
    assert "adc/wave" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["table", "csv", "json", "arrow"])
def test_a_reader_that_has_had_enough(recorded: Path, form: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "scidaq", "read", "adc/wave", "--format", form, "--data-dir", str(recorded)]
    done = subprocess.run(command, env=environment(), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("verb", ["streams", "verify"])
def test_standard_output_is_closed(recorded: Path, verb: str) -> None:
    command = f"{sys.executable} -m scidaq {verb} --data-dir {recorded} >&-"
    done = subprocess.run(command, shell=True, env=environment(), stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_sum_that_does_not_balance_is_said_first() -> None:
    ledger = SimpleNamespace(delivered=9, recorded=5, gaps=2, duplicates=0, left_out=0, expired=0)
    cases = {(False, True): "NOT BALANCED", (False, False): "NOT BALANCED", (True, True): "bounded"}
    for (balanced, bounded), word in cases.items():
        balance = SimpleNamespace(stream="a/b", epoch=0, ledger=ledger, balanced=balanced, bounded=bounded)
        report: Any = SimpleNamespace(
            ok=False,
            segments=1,
            sealed=1,
            journals=0,
            facts=0,
            rows=5,
            bytes=9,
            balances=[balance],
            problems=[],
            notes=[],
            quarantine=[],
        )
        assert _as_text(Path("data"), report).startswith(f"{word}: a/b epoch 0: ")
        assert json.loads(_as_json(report))["balances"][0]["balanced"] is False


def test_verify(recorded: Path, capsys: Captured) -> None:
    assert run(["verify", "--data-dir", str(recorded)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("balanced: adc/wave epoch 0: ")
    assert said[-1].endswith("all is well")
    assert run(["verify", "--data-dir", str(recorded), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["problems"], report["sealed"]) == (True, [], 2)
    assert [b["stream"] for b in report["balances"]] == ["adc/wave", "slow/wave"]
    assert all(b["delivered"] == b["recorded"] + b["gaps"] for b in report["balances"])


def test_verify_finds_a_flipped_bit(recorded: Path, tmp_path: Path, capsys: Captured) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", recorded, copy], check=True)
    segment = next(copy.glob("streams/slow/wave/*.arrows"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 3] ^= 1
    segment.write_bytes(content)
    assert run(["verify", "--data-dir", str(copy)]) == 1
    assert capsys.readouterr().out.startswith("WRONG streams/slow/wave/")
    assert run(["verify", "--data-dir", str(copy), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"]


# ---- check


def test_check(home: Path, capsys: Captured) -> None:
    (home / "lab.toml").write_text(CONFIGURATION)
    assert run(["check", "--config", "lab.toml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok    configuration: lab.toml",
        "ok    data directory scidaq-data: will be made",
        "ok    instrument adc (waveform): scidaq, simulated digitizer, adc, 1",
        "ok    instrument slow (waveform): scidaq, simulated digitizer, slow, 1",
    ]
    assert not (home / "scidaq-data").exists()


def test_check_tells_what_is_wrong(home: Path, capsys: Captured) -> None:
    (home / "scidaq-data").mkdir()
    (home / "scidaq-data" / "thesis.tex").touch()
    (home / "lab.toml").write_text("""
        [instruments.dmm]
        driver = "scpi"
        address = "127.0.0.1:9"
        streams = [{ name = "dc", channels = [{ name = "v", query = "MEAS?" }] }]
        """)
    assert run(["check", "--config", "lab.toml"]) == 1
    directory, instrument = capsys.readouterr().out.splitlines()[1:]
    assert directory.startswith("WRONG data directory scidaq-data: ")
    assert "thesis.tex" in directory
    assert instrument.startswith("WRONG instrument dmm (scpi): ")
    assert run(["check", "--config", "lab.toml", "--offline"]) == 1
    assert capsys.readouterr().out.splitlines()[2] == "ok    instrument dmm (scpi): its options are right; not asked"


@pytest.mark.parametrize("hangs", ["close", "identity close"])
def test_check_waits_for_no_driver_that_hangs(hangs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "CLOSE_S", 0.01)
    clock, fake = SystemClock(), FakeInstrument(hang=dict.fromkeys(hangs.split(), 1))
    one: Any = SimpleNamespace(id="a", options=None, factory=lambda *_: fake.driver(clock))
    finding = checking._Asking(one, clock).answer("a", 0.05 if "identity" in hangs else 5.0, 0.05)
    fake.release.set()
    assert finding.fine == (hangs == "close")
    assert fake.calls[:2] == ["identity", "close"]


def test_every_mistake_of_the_configuration_is_told(home: Path, capsys: Captured) -> None:
    (home / "lab.toml").write_text("[storage]\nsync_interval_ms = 1\nsync = 2\n")
    for verb in ("check", "serve", "streams"):
        assert run([verb, "--config", "lab.toml"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.splitlines()[:2] == [
            "scidaq: the configuration has 2 mistakes:",
            "  lab.toml:2: storage.sync_interval_ms: found 1, expected an integer from 10 to 10000",
        ]


def test_debug_shows_the_traceback(home: Path) -> None:
    done = scidaq("--debug", "streams", cwd=home)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "Traceback" not in scidaq("streams", cwd=home).stderr


# ---- recording


def until(child: subprocess.Popen[str], words: str) -> None:
    """Read its log until it says so."""
    assert child.stderr
    for line in child.stderr:
        if words in line:
            return
    pytest.fail(f"it never said {words!r}")


def until_recorded(data_dir: Path) -> None:
    """Wait until some rows have reached the disk."""
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size > 10_000 for path in data_dir.glob("journal/*")):
        assert time.monotonic() < deadline, "nothing was recorded"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly_and_impatience_loses_nothing(number: int, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(CONFIGURATION)
    with started("serve", "--config", "lab.toml", cwd=tmp_path) as child:
        until_recorded(tmp_path / "scidaq-data")
        child.send_signal(number)
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    assert "stopping; what has arrived is made durable first" in err
    assert out.splitlines()[0] == "recording adc, slow into scidaq-data"
    report = json.loads(scidaq("verify", "--json", cwd=tmp_path).stdout)
    assert report["ok"]
    assert report["sealed"] == report["segments"] == 2
    assert report["rows"] > 0


def test_two_stations_do_not_share_a_directory(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(CONFIGURATION)
    with started("serve", "--config", "lab.toml", cwd=tmp_path) as child:
        until(child, "instrument acquiring")
        second = scidaq("serve", "--config", "lab.toml", cwd=tmp_path)
        asked = scidaq("check", "--config", "lab.toml", cwd=tmp_path)
        child.terminate()
        child.communicate(timeout=30)
    assert second.returncode == 1
    assert second.stdout == "", "it said that it records, and did not"
    assert "in use by another station" in second.stderr
    assert "Traceback" not in second.stderr
    assert asked.returncode == 0
    assert "data directory scidaq-data: in use by a running station" in asked.stdout
    assert "its options are right; a station is running, which talks to it" in asked.stdout


def test_serve_without_instruments_says_so(tmp_path: Path) -> None:
    done = scidaq("serve", "--for", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "recording nothing, since no instrument is configured, into scidaq-data"


@pytest.mark.slow
def test_the_demo_records_everything_and_tells(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "default.toml").write_text("this is not for the demo")
    done = scidaq("demo", "--for", "6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "recording into scidaq-demo; Ctrl-C ends it"
    assert any(" fast/wave acquiring" in line for line in said)
    assert said[-1] == "look at it: scidaq streams --data-dir scidaq-demo"
    found = json.loads(scidaq("streams", "--json", "--data-dir", "scidaq-demo", cwd=tmp_path).stdout)
    assert {one["stream"].partition("/")[0] for one in found} == {"dmm", "fast", "host", "scope", "slow"}
    rows, durable, gaps = (sum(one[key] for one in found) for key in ("rows", "durable_rows", "gap_rows"))
    assert rows == durable > 50_000
    assert f"scidaq-demo holds {rows} rows, {durable} durable, {gaps} in gaps, " in said[-2]
    assert scidaq("verify", "--data-dir", "scidaq-demo", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_the_live_table_on_a_terminal(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "scidaq", "demo", "--for", "2"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment() | {"TERM": "xterm"}, stdout=slave, stderr=slave, stdin=slave
    ) as child:
        os.close(slave)
        said = b""
        while True:
            try:
                said += os.read(master, 65536)
            except OSError:  # the other end is closed
                break
    os.close(master)
    assert child.returncode == 0, said
    text = said.decode()
    for words in ("durable rows", "fast/wave", "acquiring", "journal", "scidaq-demo holds"):
        assert words in text


# ---- SIGHUP


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
@pytest.mark.slow
def test_a_hang_up_has_the_configuration_read_again(tmp_path: Path) -> None:
    lab = tmp_path / "lab.toml"
    lab.write_text(CONFIGURATION)
    process = started("serve", "--config", "lab.toml", "--data-dir", "data", cwd=tmp_path)
    said: list[str] = []
    assert process.stderr is not None

    def wait_for(phrase: str) -> None:
        for line in process.stderr or ():
            said.append(line)
            if phrase in line:
                return
        raise AssertionError("".join(said))

    try:
        wait_for("instrument acquiring")
        lab.write_text("[storage]\nsync_interval_ms = 'no'\n[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        wait_for("unknown section")
        lab.write_text(
            CONFIGURATION.replace("sync_interval_ms = 50", "sync_interval_ms = 60").replace(".slow]", ".new]")
        )
        process.send_signal(signal.SIGHUP)
        wait_for("instruments were changed")
        wait_for("only after a restart")
        assert "storage.sync_interval_ms" in said[-1]
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    verified = scidaq("verify", "--data-dir", "data", cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout
    assert {line.split()[1] for line in verified.stdout.splitlines() if "epoch" in line} == {
        "adc/wave",
        "slow/wave",
        "new/wave",
    }
