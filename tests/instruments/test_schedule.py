from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scidaq.instruments.schedule import Schedule


def test_each_task_comes_at_its_period():
    schedule = Schedule([1.0, 0.25])
    schedule.start(0.0)
    done = []
    for step in range(17):
        while (task := schedule.due(step / 8)) is not None:
            done.append((step / 8, task))
    assert [when for when, task in done if task == 0] == [0.0, 1.0, 2.0]
    assert [when for when, task in done if task == 1] == [i / 4 for i in range(9)]
    assert schedule.missed == 0


def test_after_a_delay_there_is_no_burst_and_no_drift():
    schedule = Schedule([0.1])
    schedule.start(0.0)
    assert schedule.due(0.0) == 0
    assert schedule.due(1.05) == 0
    assert schedule.due(1.05) is None
    assert schedule.missed == 9
    assert abs(schedule.next_s() - 1.1) < 1e-9


@given(st.lists(st.floats(0.0, 3.0), max_size=50), st.floats(0.01, 1.0))
def test_every_period_is_done_or_missed(pauses, period):
    schedule = Schedule([period])
    schedule.start(0.0)
    now, done = 0.0, 0
    for pause in pauses:
        now += pause
        done += schedule.due(now) is not None
        assert schedule.next_s() > now
        assert abs((done + schedule.missed) - schedule.next_s() / period) < 1e-6
