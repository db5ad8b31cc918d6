"""Every resolved value of an experiment with the place it comes from, and every convention that its numbers rest on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.experiment.definition.overrides import value_text
from workbench.experiment.definition.schema import NAMES_ONLY, Experiment, RunSpec, dump
from workbench.tracking.names import KL_START, MAJORITY_AT, PAIR_ACCURACY, PAIR_ACCURACY_OWN, PAIR_MARGIN, PASS_AT
from workbench.tracking.words import plural
from workbench.trainer import method
from workbench.trainer.online.settings import RolloutSettings
from workbench.trainer.registry import get_settings_class
from workbench.trainer.settings import TrainerSettings

DEFAULT = "default"

_EVERYWHERE = {
    "step": "one optimiser step; batches are global per step, over all processes and micro-batches",
    "log-probabilities": "natural logarithm, nats, float32 whatever the model's dtype",
    "metrics": "pooled as (sum, count) over micro-batches and processes, never means of means",
    "learning rate": "per step; warm-up is linear from zero",
    "weight decay": "decoupled (AdamW), on matrices only",
}
_EVALUATION = {
    "eval/exact_match_*": "share of held-out prompts whose completion the verifier accepts; greedy and sampled apart",
    f"{PASS_AT}*": "share of held-out prompts that one of k samples at least has right: 1 - C(n-c, k)/C(n, k) of n "
    "samples with c right, mean over prompts",
    f"{MAJORITY_AT}*": "share of held-out prompts whose most frequent answer of k samples is right, as the verifier "
    "reads answers; ties by share; mean over the n // k blocks of k samples, then over prompts",
    KL_START: "KL(policy || start) over the full vocabulary at each position of samples drawn at temperature 1, "
    "top_p 1, end included; summed over positions, mean over prompts: nats per sequence",
    PAIR_ACCURACY: "share of held-out pairs with h > 0, h against the start whatever the method; a tie counts one half",
    PAIR_ACCURACY_OWN: "the same by what the method itself prefers by, where that is not h: the policy's "
    "log-probability, or its mean a token",
    PAIR_MARGIN: "mean h over held-out pairs, nats",
}


@dataclass(frozen=True)
class Row:
    """One resolved value."""

    name: str
    value: Any
    origin: str
    """experiments/x.yaml:9, --set key=value, or default."""


def explain(experiment: Experiment) -> str:
    """The whole account as text: values by arm, the swept axes, the starts, the conventions."""
    lines = [f"{experiment.name}: {experiment.question}", f"{experiment.file}: {_count(experiment)}", ""]
    for arm in experiment.arms or (None,):
        run = next(run for run in experiment.runs if run.arm == arm)
        lines += [f"settings{f' of arm {arm}' if arm else ''}", *_table(list(rows(run, experiment))), ""]
    if experiment.ancestors:
        lines += ["made first, from their own definitions", *(f"  {key}" for key in experiment.ancestors), ""]
    for trainer in dict.fromkeys(run.trainer for run in experiment.runs):
        first, *others = {run.variant: run for run in experiment.runs if run.trainer == trainer}.values()
        shared = conventions(first)
        lines += [f"conventions of {trainer}", *_table([Row(*pair, "") for pair in shared.items()]), ""]
        for run in others:
            if own := [Row(*pair, "") for pair in conventions(run).items() if pair not in shared.items()]:
                lines += [f"conventions of {run.variant} that differ", *_table(own), ""]
    return "\n".join(lines)


def explain_trainer(name: str) -> str:
    """What a trainer is, its settings with their defaults and the functions that they choose from, and what its batches
    hold when it is used from Python."""
    settings_class = get_settings_class(name)
    lines = [f"{name}: {settings_class.about()}", "", "method", *_table(list(_method_rows(settings_class)))]
    fields = settings_class.model_fields.items()
    lines += ["", "settings", *_table([Row(key, field.default, field.description or "") for key, field in fields])]
    for setting, table in method.option_tables(settings_class).items():
        described = [Row(name, option.described, "") for name, option in table.all.items()]
        lines += ["", f"{setting}: {table.title}", *_table(described)]
    if settings_class.batch is not None:
        lines += ["", settings_class.batch.described]
    return "\n".join(lines)


def _method_rows(settings_class: type[TrainerSettings]) -> Iterator[Row]:
    """What a method says of itself."""
    told = settings_class.described()
    reference = f"{told.reference}; none where {told.tied_by} is 0" if told.tied_by else told.reference
    said = {
        "name": told.name,
        "paper": told.paper,
        "minimises": told.formula,
        **{f"with {name}": text for name, text in told.extras.items()},
        "learns from": told.learns_from,
        "samples as it trains": "yes" if told.samples else "no",
        "reference": reference,
        "reward": told.reward,
        "critic": told.critic,
        "use it when": told.when,
    }
    return (Row(what, text, "") for what, text in said.items() if text)


def rows(run: RunSpec, experiment: Experiment | None = None) -> Iterator[Row]:
    """Every value of a run with its origin; with an experiment, swept values are given as all of them."""
    if run.start is not None:
        yield Row("start_from", run.start, _origin(run, "start_from", experiment))
    if isinstance(run.teacher, str):
        yield Row("teacher", run.teacher, _origin(run, "teacher", experiment))
    axes = dict(experiment.axes) if experiment is not None else {}
    yield Row("seeds", list(experiment.seeds) if experiment else run.seed, run.origins.get("sweep.seeds", DEFAULT))
    if experiment is not None and experiment.search is not None:
        said = dump(experiment.search.settings)
        said.pop("space")  # each dimension stands at the setting that it is of
        for path, value in _flat(said, "sweep.search"):
            yield Row(path, value, run.origins.get(path, DEFAULT))
    for path, value in _flat(_settings(run)):
        name = path.removeprefix("hyperparameters.")
        axis = next((axis for axis in (name, path) if axis in axes), None)
        yield Row(path, list(axes[axis]) if axis else value, _origin(run, path, experiment))
    yield Row("track", list(run.track), run.origins.get("track", DEFAULT))


def conventions(run: RunSpec) -> dict[str, str]:
    """What the run's numbers mean, in words."""
    settings = run.hyperparameters
    found = {"batch": batch_units(settings), **_EVERYWHERE}
    found |= method.conventions(type(settings).described(), settings)
    if run.evaluate is not None:
        sets = [run.evaluate, *run.other_sets]
        several = {f"{PASS_AT}*": any(own.pass_at for own in sets)}
        several |= {f"{MAJORITY_AT}*": any(own.majority_at for own in sets)}
        measured = {name: text for name, text in _EVALUATION.items() if several.get(name, True)}
        found = measured | found if settings.scores_texts else found | measured
    if run.other_sets:
        found["held-out sets"] = (
            f"{run.set_name} decides, and bears the plain names eval/...; beside it, as eval/<set>/...: "
            f"{', '.join(str(each.name) for each in run.other_sets)}"
        )
    if run.budget is not None:
        found["budget"] = "counts collecting, reference and rollouts too; evaluation's seconds do not count"
    return found


def batch_units(settings: TrainerSettings) -> str:
    """The batch in its units, such as "128 pairs per step" or "8 prompts x 4 completions per step"."""
    micro = f", {plural(settings.micro_batch_rows, 'row')} at a time" if settings.micro_batch_rows else ""
    batch = plural(settings.batch_rows_per_step(), settings.data_form.unit, "")
    if not isinstance(settings, RolloutSettings):
        return f"{batch} per step{micro}"
    updates = settings.updates_per_rollout
    per = "step" if updates == 1 else f"rollout, {updates} steps of it"
    return f"{batch} x {plural(settings.group_size, 'completion', '')} per {per}{micro}"


def _settings(run: RunSpec) -> dict[str, Any]:
    """What a run's record says, its held-out sets by name where there are several, the deciding one first."""
    found = run.to_definition()
    others = found.pop("other_sets", {})
    if others:
        found["evaluate"] = {run.set_name: found["evaluate"]} | others
    named = ("start_from", "teacher") if isinstance(run.teacher, str) else ("start_from",)
    return {key: value for key, value in found.items() if key not in (*NAMES_ONLY, *named)}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _origin(run: RunSpec, path: str, experiment: Experiment | None) -> str:
    origin = run.origins.get(path, DEFAULT)
    inherited = experiment is not None and origin != DEFAULT and not origin.startswith(("--set", f"{experiment.file}:"))
    return f"{origin} (extends)" if inherited else origin


def _count(experiment: Experiment) -> str:
    variants = len({run.variant for run in experiment.runs})
    seeds = len(experiment.seeds)
    return f"{plural(len(experiment.runs), 'run')} = {plural(variants, 'variant')} x {plural(seeds, 'seed')}"


def _table(table: list[Row]) -> list[str]:
    """Rows in columns."""
    cells = [(row.name, value_text(row.value), row.origin) for row in table]
    wide, wider = (max((len(cell[column]) for cell in cells), default=0) for column in (0, 1))
    return [f"  {name:{wide}}  {value:{min(wider, 40)}}  {origin}".rstrip() for name, value, origin in cells]
