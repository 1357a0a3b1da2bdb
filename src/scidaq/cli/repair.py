"""`scidaq repair`: a damaged data directory is brought into order, or what that would take is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from scidaq.block import Epoch
from scidaq.clock import SystemClock
from scidaq.errors import Corrupt
from scidaq.store import Plan, Repaired, RepairStep, plan_repair, quarantined, repair, system_files

IN_ORDER, LOSS = 0, 1


def run_repair(data_dir: Path, *, rebuild_catalog: bool, dry_run: bool, as_json: bool) -> int:
    """Repair a data directory, or plan to; the exit code: 1 when something is lost, or with `dry_run` is to be done."""
    if dry_run:
        plan = plan_repair(data_dir, system_files(), rebuild_catalog)
        print(_as_json(data_dir, plan.steps, plan) if as_json else _plan_as_text(data_dir, plan))
        return LOSS if plan.steps else IN_ORDER
    done = repair(
        data_dir,
        system_files(),
        SystemClock(),
        rebuild_catalog,
        lambda step: None if as_json else print(_words(data_dir, step), flush=True),
    )
    print(_as_json(data_dir, done.steps, done) if as_json else _done_as_text(data_dir, done))
    return LOSS if done.loss else IN_ORDER


def _plan_as_text(data_dir: Path, plan: Plan) -> str:
    lines = [f"would {_words(data_dir, step)}" for step in plan.steps]
    lines += [f"note  {note}" for note in plan.notes]
    lines += [f"kept  quarantine/{one}" for one in quarantined(data_dir)]
    verdict = f"{len(plan.steps)} steps would be taken" if plan.steps else "all is in order"
    return "\n".join([*lines, f"{data_dir}: {verdict}; nothing was touched"])


def _done_as_text(data_dir: Path, done: Repaired) -> str:
    lines = [f"note  {note}" for note in done.notes]
    lines += [f"kept  {path.relative_to(data_dir)}" for path in done.quarantined]
    if not done.steps:
        verdict = "all is in order; nothing was done"
    else:
        lost = f"{done.lost_rows} rows are lost" if done.loss else "nothing is lost"
        verdict = f"in order again, {len(done.steps)} steps were taken, {lost}"
    return "\n".join([*lines, f"{data_dir}: {verdict}"])


def _words(data_dir: Path, step: RepairStep) -> str:
    return str(step).replace(f"{data_dir}/", "")


def _as_json(data_dir: Path, steps: Iterable[RepairStep], what: Plan | Repaired) -> str:
    content: dict[str, Any] = {
        "steps": [{"step": type(s).__name__, "words": _words(data_dir, s)} | _facts(data_dir, s) for s in steps],
        "notes": list(what.notes),
    }
    if isinstance(what, Repaired):
        content |= {"loss": what.loss, "lost_rows": what.lost_rows}
        content["quarantined"] = [path.relative_to(data_dir).as_posix() for path in what.quarantined]
    content["quarantine"] = [asdict(one) for one in quarantined(data_dir)]
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()


def _facts(data_dir: Path, step: RepairStep) -> dict[str, Any]:
    """The fields of a step, as far as a program can use them."""
    names = [name for name in step.__dataclass_fields__ if name not in ("station", "ledger")]
    return {name: _plain(data_dir, getattr(step, name)) for name in names}


def _plain(data_dir: Path, value: object) -> Any:
    if isinstance(value, Path):
        return value.relative_to(data_dir).as_posix()
    if isinstance(value, Epoch):
        return {"stream": value.stream, "epoch": value.number}
    if isinstance(value, Corrupt):
        return {"file": _plain(data_dir, value.path), "offset": value.offset, "reason": value.reason}
    if isinstance(value, tuple):
        return [_plain(data_dir, one) for one in value]
    return value.as_json() if hasattr(value, "as_json") else value
