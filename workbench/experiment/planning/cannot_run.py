"""Which planned runs cannot run, told by the checks that the runs themselves make: of device, chat template, data and
start."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

from workbench.data.settings import TaskData, TaskSettings
from workbench.data.tasks import MAX_CHECKED_ROWS, make_rows
from workbench.errors import WorkbenchError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.inspect_data import Inspector
from workbench.experiment.planning.plan import PlannedRun
from workbench.models.give_template import template_problem


def with_problems(planned: Iterable[PlannedRun], inspector: Inspector | None) -> list[PlannedRun]:
    """The runs in their order, as broken where something would stop them, or one that they begin from. inspector: None
    where there is no file to read."""
    found: list[PlannedRun] = []
    broken: set[str] = set()
    for run in planned:
        problem = run.reason if run.state == "broken" else _problem(run, broken, inspector)
        if problem is not None:
            broken.add(run.spec.key)
        found.append(run if problem is None else replace(run, state="broken", reason=problem))
    return found


def exit_code(planned: Iterable[PlannedRun]) -> int:
    """The exit code of a command that tells what would happen: that of the runs that cannot run, and 0 where all
    can."""
    return WorkbenchError.exit_code if any(run.state == "broken" for run in planned) else 0


def _problem(run: PlannedRun, broken: set[str], inspector: Inspector | None) -> str | None:
    spec = run.spec
    before = next((key for key in spec.needs if key in broken), None)
    if before is not None:
        return f"{before}, which it begins from, cannot run"
    made = run.state in (
        "cached",
        "paused",
        "kept",
    )  # nothing is computed, but the fastest precision is looked for on the device
    if not made or spec.hyperparameters.precision == "fastest":
        problem = _device_problem(spec)
        if problem is not None:
            return problem
    if made:
        return None
    found = template_problem(spec.model) or next(filter(None, map(_task_problem, spec.parts)), None)
    return found or (inspector.problem(spec) if inspector is not None else None)


def _task_problem(spec: RunSpec) -> str | None:
    """Why a built-in task has not the rows that are asked for; of a generator, and of very many, the run tells."""
    data = spec.data
    if not isinstance(data, TaskData) or data.gym is not None or data.rows > MAX_CHECKED_ROWS:
        return None
    place = spec.origins.get("data.rows") or spec.origins.get("data.mix") or spec.origins.get("data") or spec.key
    fields = data.model_dump(include=set(TaskSettings.model_fields))
    told = _too_few(TaskSettings(**fields).model_dump_json(), data.rows, data.seed)
    return f"{place}: {told}" if told is not None else None


@functools.cache
def _too_few(settings: str, rows: int, seed: int) -> str | None:
    try:
        make_rows(TaskSettings.model_validate_json(settings), "train", rows, seed)
    except WorkbenchError as error:
        return str(error)
    return None


def _device_problem(spec: RunSpec) -> str | None:
    """Why the device that is asked for cannot be had; torch is loaded where a GPU is."""
    wanted = spec.hyperparameters.device
    if wanted in (None, "cpu"):
        return None
    from workbench.trainer.machine.device import training_device

    try:
        training_device(wanted, spec.hyperparameters.deterministic)
    except WorkbenchError as error:
        return str(error)
    return None
