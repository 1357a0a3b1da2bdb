"""What the doctor says of a machine: each judgement from given numbers, and the verb on real directories."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from scidaq.cli import doctor
from scidaq.cli.app import run
from scidaq.cli.doctor import Finding, Grade, advise, examine, ok, wrong
from scidaq.clock import SystemClock
from scidaq.errors import StationError
from tests.station.plans import tree
from tests.web.live import live_station

CLOCK = SystemClock()
OK_HEALTH = {"status": "healthy"}
OK, ADVICE, WRONG = Grade.OK, Grade.ADVICE, Grade.WRONG


def grades(findings: Iterable[Finding]) -> list[Grade]:
    return [one.grade for one in findings]


# ---- running checks -------------------------------------------------------------------------------------------------


def test_a_check_that_hangs_or_fails_hides_no_other() -> None:
    release = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("slow", "the first half")
        release.wait()

    def refuses() -> Iterator[Finding]:
        raise StationError("no such directory; make it")

    def fails() -> Iterator[Finding]:
        yield ok("buggy", "before")
        raise KeyError("oops")

    checks = {"slow": hangs, "fine": lambda: [ok("fine", "yes")], "refuses": refuses, "buggy": fails}
    found = list(examine(checks, CLOCK, 0.2))
    release.set()
    assert found == [
        advise("slow", "not found out within 0.2 s", "look at why it hangs: the disk, the network?"),
        ok("slow", "the first half"),
        ok("fine", "yes"),
        wrong("refuses", "no such directory; make it"),
        ok("buggy", "before"),
        advise("buggy", "not found out: KeyError: 'oops'"),
    ]


def test_a_line_says_what_to_do() -> None:
    assert str(wrong("disk", "is full", "make room")) == "WRONG  disk: is full; make room"
    assert str(ok("disk", "is quick")) == "ok     disk: is quick"
    assert doctor.as_json([ok("a", "b"), advise("c", "d", "e")]) == {
        "ok": True,
        "findings": [
            {"grade": "ok", "subject": "a", "message": "b", "advice": ""},
            {"grade": "advice", "subject": "c", "message": "d", "advice": "e"},
        ],
    }
    assert not doctor.as_json([wrong("a", "b")])["ok"]


# ---- judging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syncs", "grade"), [([0.002] * 9, OK), ([0.002, 0.5, 0.002], ADVICE), ([0.3] * 3, WRONG), ([1e-6] * 5, ADVICE)]
)
def test_syncs(syncs: list[float], grade: Grade) -> None:
    assert grades(doctor.judge_syncs(syncs, 200)) == [grade]


@pytest.mark.parametrize(
    ("free", "rate", "grade", "said"),
    [
        (1e9, 0, OK, "1.0 GB free"),
        (1e9, 1e6, ADVICE, "0.00868 days at the present 1.0 MB a second"),
        (1e12, 1e5, OK, "days at the present"),
        (1e8, 1e3, WRONG, "100.0 MB free"),
    ],
)
def test_space(free: float, rate: float, grade: Grade, said: str) -> None:
    (found,) = doctor.judge_space(free, rate, 250e6)
    assert found.grade is grade
    assert said in found.message


def test_the_rest_of_the_judgements() -> None:
    assert grades(doctor.judge_inodes(5, 1_000_000)) == [WRONG]
    assert grades(doctor.judge_inodes(500_000, 1_000_000)) == []
    assert grades(doctor.judge_last(True, 0, 0, running=False)) == [OK]
    assert grades(doctor.judge_last(False, 0, 0, running=True)) == [OK]
    assert grades(doctor.judge_last(False, 0, 2, running=False)) == [ADVICE, ADVICE]
    assert grades(doctor.judge_clock(synchronised=True, max_error_us=5)) == [OK]
    assert grades(doctor.judge_clock(synchronised=False, max_error_us=0)) == [ADVICE]
    assert grades(doctor.judge_limits(1024, -1)) == [ADVICE]
    assert grades(doctor.judge_limits(-1, 1 << 20)) == [OK, WRONG]
    assert grades(doctor.judge_memory(8 << 30, 1 << 30, of_cgroup=False)) == [OK]
    assert grades(doctor.judge_memory(1 << 30, 1 << 30, of_cgroup=True)) == [ADVICE]
    assert grades(doctor.judge_processor(4, {"performance"}, {"acpi-cpufreq"})) == [OK]
    assert grades(doctor.judge_processor(4, {"powersave"}, {"acpi-cpufreq"})) == [ADVICE]
    assert grades(doctor.judge_processor(4, {"powersave"}, {"intel_pstate"})) == [OK]
    assert grades(doctor.judge_processor(1, set(), set())) == [ADVICE]
    assert grades(doctor.judge_version("x", "2.9.1", "2.10")) == [WRONG]
    assert grades(doctor.judge_version("x", "2.10.0rc1", "2.10")) == []


def test_whose_the_directory_is(tmp_path: Path) -> None:
    mine = tmp_path.stat().st_uid
    assert grades(doctor.judge_owner(tmp_path, tmp_path.stat(), mine)) == []
    assert grades(doctor.judge_owner(tmp_path, tmp_path.stat(), mine + 1)) == [ADVICE]
    tmp_path.chmod(0o777)
    assert grades(doctor.judge_owner(tmp_path, tmp_path.stat(), mine)) == [WRONG]


def test_a_port_that_somebody_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor.port_in_use("127.0.0.1", port)
        owner = doctor.owner_of(port)
        assert owner is not None
        assert owner.process == os.getpid()
    assert not doctor.port_in_use("127.0.0.1", port)


def test_a_port_beside_a_station() -> None:
    station, other = doctor.Owner("scidaq", 7), doctor.Owner("nginx", 8)

    def judged(busy: bool, owner: doctor.Owner | None, running: bool, process: int | None) -> Grade:
        (found,) = doctor.judge_port("server.port", 8080, busy, owner, running, process)
        return found.grade

    assert judged(False, None, False, None) is OK
    assert judged(True, other, False, None) is WRONG
    assert judged(True, station, True, 7) is OK
    assert judged(True, other, True, 7) is WRONG
    assert judged(True, doctor.Owner("python", 9, (7, 1)), True, 7) is OK, "a helper of the station"
    assert judged(True, None, True, 7) is OK, "the system does not say whose it is"
    assert judged(False, None, True, 7) is ADVICE
    assert judged(False, None, True, None) is OK


def test_limits_of_a_control_group(tmp_path: Path) -> None:
    for text, limit in {"max\n": None, "1048576\n": 1 << 20}.items():
        (tmp_path / "memory.max").write_text(text)
        assert doctor.cgroup_limit(tmp_path / "memory.max") == limit
    assert doctor.cgroup_limit(tmp_path / "none") is None


# ---- the verb -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MEASURE_BYTES", 1 << 20)
    monkeypatch.setattr(doctor, "measure_syncs", lambda fd: [0.001])


@pytest.mark.usefixtures("quick")
def test_a_directory_is_looked_at_and_left_as_it_is(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(recorded)
    run(["doctor", "--data-dir", str(recorded), "--json"])
    found = json.loads(capsys.readouterr().out)
    subjects = {one["subject"] for one in found["findings"]}
    assert {"configuration", "data directory", "disk", "space", "recorded", "quarantine", "versions"} <= subjects
    assert not [one for one in found["findings"] if "not found out" in one["message"]]
    (ended,) = [one for one in found["findings"] if one["subject"] == "recorded"]
    assert ended["message"].startswith("the station was stopped cleanly")
    assert tree(recorded) == before


@pytest.mark.usefixtures("quick")
def test_what_is_wrong_is_told_and_is_1(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "data").mkdir()
    (home / "data" / "thesis.doc").touch()
    assert run(["doctor", "--data-dir", "data"]) == 1
    assert "WRONG  data directory: data holds things that scidaq did not make" in capsys.readouterr().out
    (home / "bad.toml").write_text("[a]\n[b]\n")
    assert run(["doctor", "--config", "bad.toml"]) == 1
    said = capsys.readouterr().out
    assert said.count("WRONG  configuration: bad.toml:") == 2
    assert "versions: scidaq" in said


@pytest.mark.usefixtures("quick")
def test_instruments_are_asked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "lab.toml").write_text(
        "[instruments.adc]\ndriver = 'waveform'\n[instruments.dmm]\ndriver = 'scpi'\naddress = '127.0.0.1:9'\n"
        "streams = [{ name = 'r', channels = [{ name = 'v', query = 'V?' }] }]\n"
    )
    assert run(["doctor", "--config", "lab.toml"]) == 1
    said = capsys.readouterr().out
    assert "ok     instrument adc (waveform): scidaq, simulated digitizer" in said
    assert "WRONG  instrument dmm (scpi): " in said
    run(["doctor", "--config", "lab.toml", "--offline"])
    assert "ok     instruments: 2, not asked" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_a_station_that_runs_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with live_station(tmp_path / "data") as live:
        live.until_rows("wave/wave", 100)
        live.until_rows("fake/fake", 1)
        port = live.web.address.rpartition(":")[2]
        monkeypatch.setenv("SCIDAQ_SERVER__PORT", port)
        capsys.readouterr()
        run(["doctor", "--data-dir", str(tmp_path / "data"), "--json"])
        found = json.loads("{" + capsys.readouterr().out.partition("{")[2])["findings"]
    said = {one["subject"]: one for one in found}
    assert f"process {os.getpid()}, since " in said["station"]["message"]
    assert "3 streams" in said["station"]["message"]
    assert said[f"port {port}"]["message"] == "the station has it (server.port)"
    assert said["instrument:wave"]["grade"] == "ok"
    assert not [one for one in found if "not found out" in one["message"]]


def test_health_of_a_station_becomes_advice() -> None:
    report = {"a": {"status": "unhealthy", "reason": "x", "since": "T"}, "b": {"status": "degraded"}, "c": OK_HEALTH}
    found = list(doctor.judge_health({"components": report}))
    assert grades(found) == [WRONG, ADVICE]
    assert str(found[0]) == "WRONG  a: is unhealthy: x, since T"
    streams = [{"rows": 5, "durable_rows": 4, "gap_rows": 1}]
    status = {"process": 1, "started_ns": 0, "ready": False, "why_not": "full", "version": "0.0.1"}
    assert grades(doctor.judge_station(status, {"recorder": {"streams": streams}})) == [WRONG, OK, ADVICE]
