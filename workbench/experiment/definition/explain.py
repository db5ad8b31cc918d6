"""Every resolved value of an experiment with the place it comes from, and every convention that its numbers rest on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.experiment.definition.overrides import value_text
from workbench.experiment.definition.schema import Experiment, RunSpec
from workbench.tracking.words import plural
from workbench.trainer.method import chosen_options
from workbench.trainer.registry import get_settings_class
from workbench.trainer.rollout_settings import RolloutSettings
from workbench.trainer.settings import BATCH_UNITS, TrainerSettings

DEFAULT = "default"
_SHOWN_ELSEWHERE = ("hyperparameters.seed", "hyperparameters.budget", "hyperparameters.evaluate_every")
_IDENTITY = ("experiment", "question", "arm", "variant", "seed", "point", "start_from", "sources", "track")

_EVERYWHERE = {
    "step": "one optimiser step; batches are global per step, over all processes and micro-batches",
    "log-probabilities": "natural logarithm, nats, float32 whatever the model's dtype",
    "metrics": "pooled as (sum, count) over micro-batches and processes, never means of means",
    "learning rate": "per step; warm-up is linear from zero",
    "weight decay": "decoupled (AdamW), on matrices only",
}
_CROSS_ENTROPY = {
    "loss": "cross-entropy summed over the tokens that count, divided once by their number over the whole step",
    "dropout": "the model's own, while training only",
}
_TRAINERS: dict[str, dict[str, str]] = {
    "sft": {**_CROSS_ENTROPY, "tokens that count": "those of the completion with its end; the prompt is masked (-100)"},
    "pretrain": {**_CROSS_ENTROPY, "tokens that count": "every token of the block but its first"},
    "dpo": {
        "loss": "pairwise loss summed over pairs, divided once by the number of pairs over the whole step",
        "log-probabilities of a completion": "summed over its tokens, end included; the prompt does not count",
        "h": "(policy - reference) of chosen minus (policy - reference) of rejected, nats",
        "reference": "the start, frozen, without dropout; its log-probabilities per token are computed once and shared",
        "first step": "h must be 0 where the run starts from its reference, else the run stops",
        "rewards/*": "beta (policy - reference), summed over tokens",
    },
}
_ONLINE = {
    "completions": "sampled by the policy as it is then, one seed a prompt and step; a prompt's share its prefill",
    "temperature": "divides the logits wherever sampled tokens are drawn or scored",
    "rewards": "judge the text without its end; weighted and summed; a built-in task's own check where none is named",
    "reference": "the start, frozen; kept only where beta > 0",
    "step": "one optimiser step; a rollout gives passes x minibatches of them, minibatches of whole prompts",
    "cost": "sampling, reference and critic are charged; learned from, a prompt counts with each of its completions",
}
_TRAINERS |= {
    "grpo": {
        **_ONLINE,
        "loss": "the policy loss, divided once by the units of the whole step; terms of KL and entropy likewise",
        "first update": "sampler and trainer must agree on the sampled tokens, else the run stops",
        "kl": "mean over the step's tokens of the estimator that hyperparameters.kl names, nats",
    },
    "ppo": {
        **_ONLINE,
        "loss": "-min(ratio A, clip(ratio) A), and value_coefficient 1/2 max of the plain and the clipped squared "
        "error, each the mean over the step's tokens",
        "advantages": "GAE over the critic's values; reward on the last token, -beta (policy - start) on every token",
        "objective/kl": "k1 against the start, summed over a completion, mean over completions: nats",
        "critic": "begins at value 0; it is not saved with the model",
    },
    "online_dpo": {
        **_ONLINE,
        "pairs": "a prompt's best and worst completion by reward; a prompt whose completions tie gives none",
        "h": _TRAINERS["dpo"]["h"],
        "loss": _TRAINERS["dpo"]["loss"],
        "rewards/*": "the rewards' values by name; the policy's implicit ones are rewards/chosen and rewards/rejected",
    },
}
_EVALUATION = {
    "eval/exact_match_*": "share of held-out prompts whose completion the verifier accepts; greedy and sampled apart",
    "eval/kl_start": "KL(policy || start) over the full vocabulary at each position of samples drawn at temperature 1, "
    "top_p 1, end included; summed over positions, mean over prompts: nats per sequence",
    "eval/pair_accuracy": "share of held-out pairs with h > 0; a tie counts one half",
    "eval/pair_margin": "mean h over held-out pairs, nats",
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
        run = next(run for run in experiment.runs if run.trainer == trainer)
        lines += [f"conventions of {trainer}", *_table([Row(*pair, "") for pair in conventions(run).items()]), ""]
    return "\n".join(lines)


def explain_trainer(name: str) -> str:
    """A trainer's settings with their defaults, and what its batches hold when it is used from Python."""
    settings_class = get_settings_class(name)
    about = (vars(settings_class).get("__doc__") or "a trainer whose settings have no docstring").strip()
    lines = [f"{name}: {about.partition(chr(10))[0]}", "", "settings"]
    lines += _table(
        [Row(key, field.default, field.description or "") for key, field in settings_class.model_fields.items()]
    )
    if settings_class.batch is not None:
        lines += ["", settings_class.batch.described]
    return "\n".join(lines)


def rows(run: RunSpec, experiment: Experiment | None = None) -> Iterator[Row]:
    """Every value of a run with its origin; with an experiment, swept values are given as all of them."""
    if run.start is not None:
        yield Row("start_from", run.start, _origin(run, "start_from", experiment))
    axes = dict(experiment.axes) if experiment is not None else {}
    yield Row("seeds", list(experiment.seeds) if experiment else run.seed, run.origins.get("sweep.seeds", DEFAULT))
    for path, value in _flat(_settings(run)):
        name = path.removeprefix("hyperparameters.")
        axis = next((axis for axis in (name, path) if axis in axes), None)
        yield Row(path, list(axes[axis]) if axis else value, _origin(run, path, experiment))
    yield Row("track", list(run.track), run.origins.get("track", DEFAULT))


def conventions(run: RunSpec) -> dict[str, str]:
    """What the run's numbers mean, in words."""
    settings = run.hyperparameters
    found = {"batch": batch_units(settings), **_EVERYWHERE, **_TRAINERS.get(run.trainer, {})}
    for _, name, table, option in chosen_options(settings):
        found |= {table.title: f"{name}: {option.described}", **option.conventions}
    if run.evaluate is not None:
        found |= _EVALUATION
    if run.budget is not None:
        found["budget"] = "counts collecting, reference and rollouts too; evaluation's seconds do not count"
    return found


def batch_units(settings: TrainerSettings) -> str:
    """The batch in its units, such as "128 pairs per step" or "8 prompts x 4 completions per step"."""
    unit = BATCH_UNITS[settings.data_form]
    micro = f", {plural(settings.micro_batch_rows, 'row')} at a time" if settings.micro_batch_rows else ""
    batch = plural(settings.batch_rows_per_step(), unit, "")
    if not isinstance(settings, RolloutSettings):
        return f"{batch} per step{micro}"
    updates = settings.updates_per_rollout
    per = "step" if updates == 1 else f"rollout, {updates} steps of it"
    return f"{batch} x {plural(settings.group_size, 'completion', '')} per {per}{micro}"


def _settings(run: RunSpec) -> dict[str, Any]:
    return {key: value for key, value in run.to_definition().items() if key not in _IDENTITY}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    elif path not in _SHOWN_ELSEWHERE and not path.startswith("hyperparameters.budget."):
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
