"""Whatever the documentation allows, and what it does not, asked of a running server in long stories.

`python -m tests.web.fuzzing --requests 10000` is the long run, which tells its figures.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import checks

from tests.web.live import SCOPES, Live, live_station
from tests.web.test_api import DOCUMENT

HOLDERS: tuple[str | None, ...] = (None, *SCOPES)
"""Who asks: nobody, or who has one of the scopes."""
HELD_TO = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
)
SEED = 20261125
BATCH, STEPS = 10, 20
"""Stories told with one seed, and the longest of them."""


def fuzz(live: Live, holder: str | None, requests: int, number: int = SEED) -> Counter[int]:
    """At least so many requests; how often each status came. Raises what schemathesis finds wrong."""
    counted: Counter[int] = Counter()
    schema = schemathesis.openapi.from_dict(copy.deepcopy(DOCUMENT))  # which it changes
    headers = {} if holder is None else {"Authorization": f"Bearer {live.keys[holder]}"}

    class Story(schema.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": headers, "base_url": live.web.address, "timeout": 30}

        def validate_response(self, response: Any, case: Any, **more: Any) -> None:
            counted[response.status_code] += 1
            live.web.front.bans.succeeded("127.0.0.1")  # wrong keys are tried, and all come from one address
            case.validate_response(response, checks=list(HELD_TO))

    bounds = settings(
        max_examples=BATCH,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    while sum(counted.values()) < requests:
        # A station is never twice as it was, which hypothesis takes for a fault of the story: the next one is told.
        with contextlib.suppress(FlakyStrategyDefinition):
            run_state_machine_as_test(seed(number)(type("Again", (Story,), {})), settings=bounds)
        number += 1
    return counted


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=2000, help="of each holder of a key")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    total: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as name, live_station(Path(name) / "data") as live:
        live.until_rows("wave/wave", 500)
        for holder in HOLDERS:
            counted = fuzz(live, holder, given.requests, given.seed)
            total += counted
            words = ", ".join(f"{status}: {n}" for status, n in sorted(counted.items()))
            sys.stdout.write(f"{holder or 'no key'}: {sum(counted.values())} requests ({words})\n")
            sys.stdout.flush()
    sys.stdout.write(f"{sum(total.values())} requests, {sum(n for s, n in total.items() if s >= 500)} answers of 5xx\n")


if __name__ == "__main__":
    main()
