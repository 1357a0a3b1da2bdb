"""What policy leaves out is counted, not lost; what belongs to a run is recorded."""

from __future__ import annotations

from pathlib import Path

from scidaq.block import Reason
from scidaq.catalog import NewRun
from scidaq.clock import SystemClock
from scidaq.station import Station
from scidaq.store import Policy
from tests.balance.rig import Rig
from tests.station.plans import plan, wait_for, waveform


def test_what_is_never_recorded_is_counted(tmp_path: Path) -> None:
    with Rig(tmp_path / "d", policy=Policy.NEVER) as rig:
        rig.send(0, 100)
        rig.send(120, 10)
        rig.send(120, 10)
        rig.settle()
    found = rig.read()
    assert found.source_rows == []
    assert (found.total("left_out"), found.total("gaps"), found.total("duplicates")) == (110, 20, 10)
    assert found.gap_list() == [(0, 0, 100, Reason.POLICY), (0, 100, 120, Reason.SOURCE), (0, 120, 130, Reason.POLICY)]


def test_several_runs_with_their_pre_trigger(tmp_path: Path) -> None:
    with Rig(tmp_path / "d", policy=Policy.RUNS, pre_trigger_s=0.01) as rig:
        at, wanted = 0, set()
        for _ in range(3):
            for _ in range(10):
                rig.send(at, 5)
                at += 5
            wanted |= set(range(at - 10, at + 30))
            rig.wait_for(lambda: rig.track.seq >= rig.ring._next - 1)
            rig.recorder.set_recording(True)
            rig.wait_for(lambda: rig.track.recording)
            for _ in range(6):
                rig.send(at, 5)
                at += 5
            rig.wait_for(lambda: rig.track.seq >= rig.ring._next - 1)
            rig.recorder.set_recording(False)
            rig.wait_for(lambda: not rig.track.recording)
    found = rig.read()
    assert wanted <= set(found.source_rows)
    assert len(found.source_rows) <= len(wanted) + 3 * 5
    assert found.total("recorded") + found.total("left_out") == at == found.total("delivered")


def test_a_stream_that_appears_during_a_run_is_recorded(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "d", policy=Policy.RUNS)
    rig.open(announce=False)
    rig.recorder.set_recording(True)
    rig.intake.begin(rig.spec)
    rig.send(0, 100)
    rig.settle()
    rig.close()
    assert rig.read().source_rows == list(range(100))


def test_a_run_that_begins_before_the_instrument_answers_has_its_rows(tmp_path: Path) -> None:
    clock = SystemClock()
    with Station(plan(tmp_path / "d", waveform("w", clock, Policy.RUNS)), clock) as station:
        station.runs.start(NewRun("at once"))
        wait_for(lambda: any(s.delivered > 100 for s in station.stats().recorder.streams))
        assert all(s.left_out == 0 and s.durable_rows > 0 for s in station.stats().recorder.streams)


def test_rows_left_out_before_a_kill_are_accounted_for_after_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "d", policy=Policy.NEVER).open()
    rig.send(0, 100)
    rig.settle()
    rig.kill()
    rig.open()
    rig.send(150, 50)
    rig.send(220, 50)
    rig.settle()
    rig.kill()
    rig.open().close()
    found = rig.read()
    assert found.source_rows == []
    assert found.total("delivered") == found.total("left_out") + found.total("gaps")
