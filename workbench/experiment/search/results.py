"""What a trial gave: the deciding measure of each of its runs, the mean over its seeds, and what they spent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.planning.plan import PlannedRun, plan_runs, recorded_precisions
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.search.settings import Pause
from workbench.tracking.names import DECIDING, HELD_OUT_LOSS
from workbench.tracking.reader import read_rows
from workbench.trainer.records.costs import Costs

_COSTS = {"cost/flops": "flops", "cost/trained_tokens": "trained_tokens", "time/seconds": "seconds"}


def ended_runs(specs: Iterable[RunSpec], runs: Path) -> tuple[set[str], set[str]]:
    """Keys of the runs that came as far as they are asked for now, and of those that failed on their way or cannot
    run. specs: those that they begin from among them."""
    asked = list(specs)
    planned = plan_runs(asked, runs, recorded_precisions(asked, runs))
    finished = {run.spec.key for run in planned if not run.must_run}
    return finished, {run.spec.key for run in planned if run.must_run and _has_failed(run, runs)}


def _has_failed(run: PlannedRun, runs: Path) -> bool:
    status = RunFolder(runs, run.spec.key).status()
    failed = status.get("state") == "failed" and status.get("fingerprint") == run.identity.fingerprint
    return run.state == "broken" or failed


def result_of(spec: RunSpec, runs: Path, pause: Pause | None) -> float:
    """What decides of a run, as a number of which more is better: at the pause, or of its end where there is none; NaN
    where it has no value."""
    folder = RunFolder(runs, spec.key)
    status, rows = folder.status(), read_rows(folder.path / "metrics.jsonl")
    if pause is not None:
        at = next((index for index, row in enumerate(rows) if pause(row)), len(rows))
        return deciding_value(rows[: at + 1], spec)
    last = status.get("best_step") if status.get("restored") else None
    rows = [row for row in rows if last is None or row.get("step", 0) <= last]
    return deciding_value(rows, spec)


def deciding_value(rows: Sequence[dict[str, Any]], spec: RunSpec) -> float:
    """The newest value of the first deciding measure that the rows have, as a number of which more is better."""
    measured: dict[str, Any] = next((row for row in reversed(rows) if any(name in row for name in DECIDING)), {})
    learns_rows = "batch_rows" in type(spec.hyperparameters).model_fields
    for name in DECIDING:
        value = measured.get(name)
        if value is not None and (name != HELD_OUT_LOSS or learns_rows):
            return -float(value) if name == HELD_OUT_LOSS else float(value)
    return math.nan


def spent_by(key: str, runs: Path) -> Costs:
    """What a run has spent itself, however far it came: its last row less its first."""
    rows = read_rows(runs / key / "metrics.jsonl")
    if not rows:
        return Costs()
    first, last = rows[0], rows[-1]
    own = {field: last.get(name, math.nan) - first.get(name, 0.0) for name, field in _COSTS.items()}
    return Costs.of(own)
