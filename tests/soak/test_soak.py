from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.soak.plot import PANELS, drawn
from tests.soak.watching import MEMORY_BYTES, Outcome, Sample, _judge, soak


def sample(t_s: float, memory_bytes: int = 100 << 20, descriptors: int = 20) -> Sample:
    return Sample(t_s, memory_bytes, descriptors, 30, 0.5, int(t_s * 10), 0, 0, 0, 0, 1)


def test_what_grows_is_told():
    flat = Outcome([sample(10 * t) for t in range(100)])
    _judge(flat)
    assert not flat.problems
    growing = Outcome([sample(10 * t, (100 << 20) + t * MEMORY_BYTES // 20, 20 + t) for t in range(100)])
    _judge(growing)
    assert [p.split()[0] for p in growing.problems] == ["memory", "descriptors"]


def test_a_moment_is_too_short_to_judge_by():
    outcome = Outcome([sample(t, t << 20) for t in range(100)])
    _judge(outcome)
    assert not outcome.problems


def test_the_picture_has_a_line_per_panel():
    picture = ElementTree.fromstring(drawn([sample(t) for t in range(1800)]))
    assert len(picture.findall("{*}polyline")) == len(PANELS)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_short_soak(tmp_path: Path):
    outcome = soak(20, tmp_path / "soak", lambda line: None)
    assert not outcome.problems
    assert outcome.rows > 100_000
    assert outcome.reads > 3
