"""A plan as text: what would run and why, batches in their units, estimated time, memory and disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.data.settings import MixData, ReadData
from workbench.experiment.definition.explain import batch_units
from workbench.experiment.definition.schema import Experiment, RunSpec
from workbench.experiment.planning.cannot_run import exit_code, with_problems
from workbench.experiment.planning.duration import Durations
from workbench.experiment.planning.estimate import (
    Estimate,
    estimate,
    run_size,
    shared_bytes,
    start_config,
    start_folder,
    training_size,
)
from workbench.experiment.planning.lengths import CHARACTERS_PER_TOKEN
from workbench.experiment.planning.plan import DESCRIPTIONS, PlannedRun, plan_runs, recorded_precisions, waves
from workbench.experiment.planning.positions import positions_notes
from workbench.experiment.planning.space import as_text, free_bytes
from workbench.experiment.planning.speed import Speed, measured_speed
from workbench.experiment.running.provenance import current_commit
from workbench.experiment.running.reward_code import OPTION, reward_files
from workbench.models.chat_templates import template_text
from workbench.models.tokenizer import read_chat_template
from workbench.permissions import NOTHING, Permissions
from workbench.processor import num_cores
from workbench.tracking.durations import format_duration
from workbench.tracking.words import plural

if TYPE_CHECKING:
    from workbench.experiment.inspect_data import Inspector


@dataclass(frozen=True)
class Account:
    """What a command says of a plan. text: the whole. broken: the last line, where there are runs that cannot run."""

    text: str
    broken: str
    exit_code: int


def describe_plan(
    experiment: Experiment, runs: Path, *, jobs: int | None, fresh: bool, permissions: Permissions = NOTHING
) -> Account:
    """The plan of an experiment as it stands now."""
    specs = [spec for level in waves(experiment) for spec in level]
    remade = frozenset(run.key for run in experiment.runs) if fresh else frozenset()
    planned = plan_runs(specs, runs, recorded_precisions(specs, runs), fresh=remade, commit=current_commit(Path.cwd()))
    inspector = _inspector(specs, runs)
    planned = with_problems(planned, inspector)
    width = jobs or max(1, num_cores() // max(spec.threads for spec in experiment.runs))
    text = plan_text(experiment, planned, runs, width)
    lines = inspector.lines(experiment.runs) if inspector is not None else []
    if lines:
        text += "\n".join(["", "", "data", *(f"  {line}" for line in lines)])
    files = reward_files(specs)
    if files:
        needed = "" if permissions.reward_code else f"; to run it needs {OPTION}"
        text += f"\nown code as rewards: {', '.join(files)}{needed}"
    num_broken = sum(run.state == "broken" for run in planned)
    broken = f"{num_broken} of {plural(len(planned), 'run')} cannot run" if num_broken else ""
    return Account(text, broken, exit_code(planned))


def _inspector(specs: list[RunSpec], runs: Path) -> Inspector | None:
    """None where every run is of built-in tasks alone, which need no look."""
    of_files = any(
        isinstance(part.data, ReadData) or (part.evaluate and part.evaluate.path)
        for spec in specs
        for own in spec.by_set
        for part in own.parts
    )
    if not of_files:
        return None
    from workbench.experiment.inspect_data import Inspector

    return Inspector({spec.key: spec for spec in specs}, runs)


def plan_text(experiment: Experiment, planned: list[PlannedRun], runs: Path, jobs: int) -> str:
    """The whole account."""
    specs = {run.spec.key: run.spec for run in planned}
    speeds = run_speeds(specs, runs)
    estimates: dict[str, Estimate] = {}
    notes: dict[str, list[str]] = {}
    for run in planned:
        estimates[run.spec.key] = estimate(run.spec, specs, runs, speeds[run.spec.key])
        notes[run.spec.key] = list(source_notes(run.spec, specs, runs))
        notes[run.spec.key] += positions_notes(run.spec, start_config(run.spec, specs, runs))
        notes[run.spec.key] += [] if run.state == "broken" else template_notes(run.spec)
    todo = [run for run in planned if run.trains and run.state != "broken"]
    seconds = Durations(specs, runs, speeds).total(waves(experiment), {run.spec.key for run in todo}, estimates, jobs)
    lines = [f"{experiment.name}: {experiment.question}", "", "runs", *_runs(planned), *search_lines(experiment)]
    lines += ["", "work", *_work(planned, estimates, notes)]
    lines += data_lines(planned, estimates, specs, runs)
    lines += ["", *_scored(planned), *_totals(planned, todo, seconds, estimates, speeds, runs, jobs)]
    return "\n".join(lines)


def data_lines(
    planned: list[PlannedRun], estimates: dict[str, Estimate], specs: Mapping[str, RunSpec], runs: Path
) -> list[str]:
    """What the runs would warn of in their training data, each once."""
    found: dict[str, None] = {}
    for run in planned:
        if estimates[run.spec.key].data is not None and run.state != "broken":
            for part in run.spec.parts:
                data, folder = training_size(part, specs, runs), start_folder(run.spec, specs, runs)
                found |= dict.fromkeys(data.warnings(part, folder))
    return ["", "warnings", *(f"  {text}" for text in found)] if found else []


def source_notes(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> Iterator[str]:
    """The rows of each source of a mix, and its share of those that are drawn."""
    data = spec.data
    if not isinstance(data, MixData):
        return
    rows = [training_size(part, specs, runs).rows for part in spec.parts]
    known = [number for number in rows if number is not None]
    steps = [point.step for point in data.schedule or ()] or [0]
    shares = [data.shares(known, step) for step in steps] if len(known) == len(rows) else []
    for index, (name, number) in enumerate(zip(data.names, rows, strict=True)):
        told = f"{plural(number, spec.form.unit)}, " if number is not None else ""
        share = (
            " to ".join(text for text, _ in groupby(f"{found[index]:.3g}" for found in shares))
            or "a share not known yet"
        )
        yield f"source {name}: {told}{share} of those drawn"


def template_notes(spec: RunSpec) -> Iterator[str]:
    """Which chat template the model is given."""
    settings = spec.model
    if settings is None or settings.chat_template is None:
        return
    own = read_chat_template(Path(settings.path).expanduser()) if settings.path is not None else None
    replaced = own is not None and own != template_text(settings.chat_template)
    yield f"chat template {settings.chat_template}" + (", in place of the model's own" if replaced else "")


def run_speeds(specs: Mapping[str, RunSpec], runs: Path) -> dict[str, Speed]:
    """Each run's speed, found once for those that are alike."""
    known: dict[tuple[object, ...], Speed] = {}
    found: dict[str, Speed] = {}
    for key, spec in specs.items():
        size = run_size(spec, specs, runs)
        parameters = size.policy if size is not None else None
        kind = (spec.trainer, spec.threads, spec.hyperparameters.precision, parameters)
        if kind not in known:
            known[kind] = measured_speed(runs, spec, parameters)
        found[key] = known[kind]
    return found


def _runs(planned: list[PlannedRun]) -> Iterator[str]:
    wide = max(len(run.spec.key) for run in planned)
    for run in planned:
        reason = f": {run.reason}" if run.reason else ""
        yield f"  {run.spec.key:{wide}}  {DESCRIPTIONS[run.state]}{reason}"


def search_lines(experiment: Experiment) -> Iterator[str]:
    """What a search will train that the runs above do not tell."""
    search = experiment.search
    if search is None:
        return
    settings, seeds = search.settings, plural(len(search.seeds), "seed")
    yield ""
    yield f"search ({settings.sampler})"
    for arm, space in search.spaces.items():
        begun, most = len(search.chosen.trials.get(arm, ())), search.num_trials(arm)
        more = f"; {most - begun} more by what these give" if begun < most and not search.chosen.complete else ""
        ranges = ", ".join(f"{name} {dimension.text}" for name, dimension in space.items()) or "nothing is searched"
        yield f"  {f'{arm}: ' if arm else ''}{ranges}; {plural(begun, 'trial')} of {seeds}{more}"
    if settings.budget is not None:
        limits = ", ".join(f"{value:g} {name}" for name, value in settings.budget if value is not None)
        yield f"  no trial is begun once {'an arm has' if len(search.spaces) > 1 else 'they have'} spent {limits}"
    if settings.confirm is None:
        yield "  nothing is confirmed, so that the report will claim nothing: confirm: {top: 2, seeds: 5}"
    elif not search.chosen.complete:
        runs = search.num_confirmed * len(search.fresh_seeds)
        best = f"the best {settings.confirm.top}{' of each arm' if len(search.spaces) > 1 else ''}"
        fresh = f"{search.fresh_seeds[0]} to {search.fresh_seeds[-1]}"
        yield f"  then {best} again on fresh seeds, {fresh}: {runs} runs more, which the estimate leaves out"


def _work(planned: list[PlannedRun], estimates: dict[str, Estimate], notes: dict[str, list[str]]) -> Iterator[str]:
    """One line for runs that share everything a line tells."""
    seen: dict[str, list[RunSpec]] = {}
    for run in planned:
        line = "; ".join([_work_line(run.spec, estimates[run.spec.key]), *notes[run.spec.key]])
        seen.setdefault(line, []).append(run.spec)
    for line, specs in seen.items():
        name = specs[0].key if len(specs) == 1 else f"{specs[0].experiment} ({plural(len(specs), 'run')}, each)"
        yield f"  {name}: {line}"


def _work_line(spec: RunSpec, found: Estimate) -> str:
    parts = [spec.trainer, batch_units(spec.hyperparameters)]
    if found.steps is not None:
        ended = found.budget_steps
        parts.append(
            plural(found.steps, "step") + (f", about {ended:,.0f} within the budget" if ended is not None else "")
        )
    if found.rows is not None and found.steps_per_epoch:
        steps = found.full_steps if found.budget_steps is None else found.budget_steps
        epochs = f", {plural(steps / found.steps_per_epoch, 'epoch', '.3g')}" if steps else ""
        rows = plural(found.rows, spec.form.unit)
        parts.append(f"{rows} = {plural(found.steps_per_epoch, 'step', '.4g')} an epoch{epochs}")
    if spec.hyperparameters.reference_moves:
        parts.append("the reference moves, so each step scores its pairs under it")
    if found.tokens_per_step:
        parts.append(f"about {found.tokens_per_step:,.0f} tokens a step{_how_counted(found)}")
    if found.flops:
        parts.append(f"{found.flops:.2g} FLOPs by its parameters, all of them at every token")
    if spec.other_sets:
        others = ", ".join(str(each.name) for each in spec.other_sets)
        parts.append(f"held-out set {spec.set_name} decides, beside it {others}")
    if found.memory_bytes:
        parts.append(f"about {as_text(found.memory_bytes)} of memory beside the libraries")
    return "; ".join(parts)


def _how_counted(found: Estimate) -> str:
    """What the number of tokens is taken from, where it is not all the rows."""
    if found.data is not None and found.data.by_characters:
        return f" (at {CHARACTERS_PER_TOKEN} characters a token: the tokenizer is not here)"
    if found.data is not None and found.data.sampled:
        return f" (by {plural(len(found.data.lengths), 'row')} of them)"
    return ""


def _scored(planned: list[PlannedRun]) -> Iterator[str]:
    again = [run.trained for run in planned if run.trained is not None and run.state == "scored"]
    if again:
        seconds = sum(trained.seconds for trained in again)
        yield f"{len(again)} of {len(planned)} runs to score again: about {format_duration(seconds)}"


def _totals(
    planned: list[PlannedRun],
    todo: list[PlannedRun],
    seconds: float | None,
    estimates: dict[str, Estimate],
    speeds: dict[str, Speed],
    runs: Path,
    jobs: int,
) -> Iterator[str]:
    if not todo:
        done = all(run.state in ("cached", "paused", "kept") for run in planned)
        yield "nothing to train: every run is finished" if done else "nothing to train"
        return
    yield f"{len(todo)} of {plural(len(estimates), 'run')} to train, {jobs} at a time"
    known = [estimates[run.spec.key] for run in todo]
    if seconds is not None:
        sources = "; ".join(dict.fromkeys(speeds[run.spec.key].source for run in todo))
        yield f"time: about {format_duration(seconds)}, evaluations and shared stages included, by {sources}"
    else:
        yield "time: not known before the data and the model are here"
    disk = [found.disk_bytes for found in known if found.disk_bytes is not None]
    if len(disk) == len(todo):
        free = free_bytes(runs)
        stored = shared_bytes((run.spec, estimates[run.spec.key]) for run in todo)
        told = f", at most {as_text(stored)} of it what a teacher says of the data" if stored else ""
        warning = "  <- more than there is" if sum(disk) + stored > free else ""
        yield f"disk: about {as_text(sum(disk) + stored)} of {as_text(free)} free{told}{warning}"
