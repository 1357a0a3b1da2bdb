"""A short run of the long stories, for every holder of a key and for nobody."""

from __future__ import annotations

import pytest

from tests.web.fuzzing import HOLDERS, fuzz
from tests.web.live import Live, live_station


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):
    """A station of its own: the stories leave nothing as they found it."""
    with live_station(tmp_path_factory.mktemp("fuzz") / "data") as live:
        live.until_rows("wave/wave", 500)
        yield live


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("holder", HOLDERS, ids=lambda h: h or "nobody")
def test_no_answer_is_undocumented_or_a_fault(alone: Live, holder: str | None) -> None:
    counted = fuzz(alone, holder, requests=200)
    assert not [status for status in counted if status >= 500]
