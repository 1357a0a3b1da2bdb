"""Any sequence of what a source, an operator and a disk can do: the books balance, and no durable row is ever lost."""

from __future__ import annotations

import errno
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scidaq.block import RangeSet, StreamSpec
from scidaq.store import Policy, recorder
from tests.balance.rig import EPOCH_NS, OTHER, PERIOD_NS, PLAIN, Rig, rows_of


@pytest.fixture(autouse=True, scope="module")
def _soon() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "RETRY_S", 0.002)
        yield


ROWS = st.integers(1, 40)
BIG = st.sampled_from([5000, 9000])
"""These go straight to the segment."""
ACTS = st.one_of(
    st.tuples(st.just("send"), ROWS),
    st.tuples(st.just("send"), ROWS),
    st.tuples(st.just("send"), BIG),
    st.tuples(st.just("skip"), ROWS),
    st.tuples(st.just("repeat"), ROWS),
    st.tuples(st.just("conflict"), ROWS),
    st.tuples(st.just("late"), ROWS),
    st.tuples(st.just("settle"), st.just(0)),
    st.tuples(st.just("schema"), st.just(0)),
    st.tuples(st.just("reset"), st.just(0)),
    st.tuples(st.just("step"), st.integers(2, 5)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("kill"), st.integers(0, 12)),
    st.tuples(st.sampled_from(["refuse append", "refuse sync", "refuse create", "refuse rename"]), st.integers(1, 6)),
    st.tuples(st.just("run"), st.booleans().map(int)),
)


@dataclass
class Source:
    """What the test knows by itself: what was sent, and what was skipped, per life of the source's counter."""

    at: int = 0
    counter: int = 0
    sent: RangeSet = field(default_factory=RangeSet)
    repeated: int = 0
    """Since the beginning."""
    lives: list[tuple[RangeSet, int]] = field(default_factory=list)
    """(rows sent, where the numbering was) of the lives that are over."""
    epoch_from: int = 0
    """Where the present epoch begins: rows before it can no longer come late."""
    schema_is_other: bool = False
    offset_ns: int = 0

    @property
    def spec(self) -> StreamSpec:
        return StreamSpec("wave", OTHER if self.schema_is_other else PLAIN, f"counter-{self.counter}", True)


def act_on(rig: Rig, source: Source, act: str, n: int, refuse: dict[str, int]) -> None:
    """Do one thing."""

    def send(first: int, rows: int, wrong: int = 0) -> None:
        if not source.sent:
            source.epoch_from = first  # what was before the first row is unknown to everybody
        t0 = EPOCH_NS + first * PERIOD_NS + source.offset_ns
        rig.intake.accept(rows_of(source.spec.schema, first, rows, t0_ns=t0, wrong=wrong))
        source.repeated += sum(b - a for a, b in source.sent.within(first, first + rows))
        source.sent.add(first, first + rows)

    if act == "send":
        send(source.at, n)
        source.at += n
    elif act == "skip":
        source.at += n
    elif act in ("repeat", "conflict"):
        known = [r for r in source.sent if r[1] > source.epoch_from]
        if known:
            first, end = known[-1]
            first = max(first, source.epoch_from, end - n)
            send(first, end - first, 1 if act == "conflict" else 0)
    elif act == "late":
        holes = source.sent.missing(source.epoch_from, source.sent.end)
        if holes:
            first, end = holes[n % len(holes)]
            send(first, min(n, end - first))
    elif act == "settle":
        if rig.policy is Policy.ALWAYS:  # else what is held for a run is not
            rig.settle()
    elif act in ("schema", "reset", "step"):
        if act == "schema":
            source.schema_is_other = not source.schema_is_other
        elif act == "reset":
            source.lives.append((source.sent, source.at))
            source.sent, source.at, source.counter = RangeSet(), 0, source.counter + 1
        else:
            rig.clock.step(n)
            rig.clock.reanchor()
            source.offset_ns += n * 1_000_000_000
        source.epoch_from = source.at
        rig.spec = source.spec
        rig.intake.begin(rig.spec)
    elif act == "run":
        rig.recorder.set_recording(bool(n))
    elif act.startswith("refuse"):
        refuse[act.split()[1]] = n


def durable_below(rig: Rig) -> tuple[int, int] | None:
    mark = rig.marks()
    return (mark.epoch, mark.durable_rows) if mark is not None else None


@pytest.mark.parametrize("policy", [Policy.ALWAYS, Policy.RUNS])
@settings(max_examples=settings().max_examples, suppress_health_check=list(HealthCheck), deadline=None)
@given(acts=st.lists(ACTS, min_size=1, max_size=25))
def test_the_books_balance_after_any_sequence(policy: Policy, acts: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory(prefix="scidaq-") as directory:
        rig = Rig(Path(directory) / "d", policy=policy, pre_trigger_s=0.02)
        _play(rig, policy, acts)


def _play(rig: Rig, policy: Policy, acts: list[tuple[str, int]]) -> None:
    refuse: dict[str, int] = {}

    def before(verb: str, kind: str, n: int, path: Path) -> None:
        if kind in ("segment", "journal") and refuse.get(verb):
            refuse[verb] -= 1
            raise OSError(errno.EIO, "made up")

    source = Source()
    durable: dict[int, int] = {}
    killed = left_out_ever = False
    left_out_ever = policy is not Policy.ALWAYS
    rig.before = before
    rig.open()
    try:
        for act, n in acts:
            if act in ("restart", "kill"):
                refuse.clear()
                if act == "restart":
                    rig.close()
                else:
                    for _ in range(n):
                        rig.recorder._wake.set()
                        rig.wait_a_moment()
                    rig.kill()
                    killed = True
                if (said := durable_below(rig)) is not None:
                    durable[said[0]] = max(durable.get(said[0], 0), said[1])
                rig.read()  # a directory that nobody has recovered yet is in order too
                rig.open()
                if act == "kill":
                    source.epoch_from = source.at  # how much of the epoch has survived is not known here
            else:
                act_on(rig, source, act, n, refuse)
        refuse.clear()
        act_on(rig, source, "send", 3, refuse)
        rig.close()
    except BaseException:
        if rig.is_open:
            rig.kill()
        raise
    found = rig.read()
    for epoch, rows in durable.items():
        assert len(found.rows.get(epoch, [])) >= rows, "durable rows are lost"
    lives = [*source.lives, (source.sent, source.at)]
    sent = sum(s.total for s, _ in lives)
    assert found.total("recorded") + found.total("left_out") <= sent
    if not killed:
        assert found.total("recorded") + found.total("left_out") == sent
        assert found.total("duplicates") == source.repeated
        assert found.total("gaps") == sum(s.end - s.total - first_of(s) for s, _ in lives)
    if not killed and not left_out_ever:
        assert sorted(found.source_rows) == sorted(n for s, _ in lives for a, b in s for n in range(a, b))
    assert len(found.rows) == len(found.epochs) or left_out_ever or killed


def first_of(sent: RangeSet) -> int:
    """The first row of a life: what was skipped before it is unknown to everybody."""
    return next(iter(sent))[0] if sent else 0
