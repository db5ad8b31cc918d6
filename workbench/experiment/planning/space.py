"""Whether what an experiment will write has room, asked before anything is made."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from workbench.errors import StorageError
from workbench.experiment.definition.schema import Experiment, RunSpec
from workbench.experiment.planning.estimate import Estimate, estimate, model_bytes, shared_bytes
from workbench.experiment.planning.plan import plan_runs, recorded_precisions, waves
from workbench.experiment.planning.speed import Speed, measured_speed
from workbench.tracking.words import plural

REPORT_BYTES = 3_000_000
"""Page, tables and figures of a report."""


def refuse_without_space(experiment: Experiment, runs: Path, fresh: bool) -> None:
    """Raises StorageError where less is free than the runs that must be trained will write, by the estimate."""
    specs = {spec.key: spec for level in waves(experiment) for spec in level}
    remade = frozenset(run.key for run in experiment.runs) if fresh else frozenset()
    planned = plan_runs(specs.values(), runs, recorded_precisions(specs.values(), runs), fresh=remade)
    todo = [run.spec for run in planned if run.trains]
    needed, free = needed_bytes(todo, specs, runs), free_bytes(runs)
    if needed > free:
        raise StorageError(
            f"{runs}: about {as_text(needed)} are needed for {plural(len(todo), 'run')}, {as_text(free)} are free; "
            "free some space, choose RUNS=folder, or ask for fewer runs or checkpoints (keep_checkpoints)"
        )


def needed_bytes(todo: Iterable[RunSpec], specs: Mapping[str, RunSpec], runs: Path) -> float:
    """What these runs will write beyond what is there of them: of a run that cannot be known yet, nothing."""
    needed, todo = 0.0, list(todo)
    estimates: list[tuple[RunSpec, Estimate]] = []
    speeds: dict[tuple[str, int], Speed] = {}
    for spec in todo:
        kind = (spec.trainer, spec.threads)
        if kind not in speeds:
            speeds[kind] = measured_speed(runs, spec)
        found = estimate(spec, specs, runs, speeds[kind])
        estimates.append((spec, found))
        needed += max(0.0, (found.disk_bytes or 0.0) - _written(runs / spec.key))
    models = {str(spec.model): spec for spec in todo if spec.model is not None}
    needed += shared_bytes(estimates)
    return needed + sum(model_bytes(spec, runs) for spec in models.values()) + (REPORT_BYTES if todo else 0)


def free_bytes(runs: Path) -> int:
    """Free bytes on the disk that the runs folder is on, or will be."""
    return shutil.disk_usage(next(path for path in (runs, *runs.resolve().parents) if path.exists())).free


def as_text(number: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
