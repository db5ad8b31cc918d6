"""Which run a `start_from` means: experiment, variant and seed, exactly one or an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from workbench.experiment.definition.schema import START, Experiment, RunSpec, StartFrom
from workbench.experiment.definition.source import Node, show
from workbench.experiment.definition.validate import Problems, suggest, validate


class Resolver:
    """Turns references to runs into their keys. load gives the experiment of a name, or None after reporting."""

    def __init__(self, load: Callable[[Node], Experiment | None], problems: Problems) -> None:
        self.load, self.problems = load, problems

    def start(self, node: Node, seed: int, *, scores: bool = False) -> str | None:
        """The key of the run that node means for a run of this seed; None after the problem was added. scores: it is to
        leave a reward model, and not a language model to begin with."""
        node = _as_key(node)
        reference = validate(StartFrom, node, self.problems)
        if reference is None:
            return None
        experiment = self.load(node.value["experiment"])
        if experiment is None:
            return None
        runs = [run for run in self._of_variant(experiment, reference, node) if self._fits(run, node, scores)]
        return self._of_seed(runs, experiment, reference, node, seed) if runs else None

    def _of_variant(self, experiment: Experiment, reference: StartFrom, node: Node) -> list[RunSpec]:
        variants = list(dict.fromkeys(run.variant for run in experiment.runs))
        if reference.variant is None and len(variants) > 1:
            seed = ", seed: match" if len({run.seed for run in experiment.runs}) > 1 else ""
            first = _written(node, f"experiment: {experiment.name}, variant: {quoted(variants[0])}{seed}")
            allowed = f"one of them, written as {first}; variants: {' | '.join(variants)}"
            self.problems.add(node, f"found {experiment.name}, which has {len(variants)} variants, allowed {allowed}")
            return []
        wanted = reference.variant or variants[0]
        runs = [run for run in experiment.runs if run.variant == wanted]
        if not runs:
            near = suggest(wanted, variants)
            self.problems.add(node.value["variant"], f"found {show(wanted)}, allowed {' | '.join(variants)}{near}")
        return runs

    def _fits(self, run: RunSpec, node: Node, scores: bool) -> bool:
        """Whether the run leaves what is asked of it; a problem where it does not."""
        if run.hyperparameters.scores_texts == scores:
            return True
        kinds = ("a language model", "a reward model")
        left, allowed = kinds[not scores], kinds[scores]
        more = "" if scores else "; a reward model is named in hyperparameters.rewards, as model_from"
        name = f"{run.experiment}, which leaves {left} (trainer {run.trainer})"
        self.problems.add(node, f"found {name}, allowed a run that leaves {allowed}{more}")
        return False

    def _of_seed(
        self, runs: list[RunSpec], experiment: Experiment, reference: StartFrom, node: Node, seed: int
    ) -> str | None:
        seeds = {run.seed: run for run in runs}
        shown = ", ".join(map(str, seeds))
        if reference.seed is None and len(seeds) > 1:
            variant = f"variant: {quoted(runs[0].variant)}, " if reference.variant is not None else ""
            written = _written(node, f"experiment: {experiment.name}, {variant}seed: match")
            allowed = f"one of them, written as {written}, or seed: one of {shown}"
            self.problems.add(node, f"found {experiment.name}, which has {len(seeds)} seeds, allowed {allowed}")
            return None
        wanted = seed if reference.seed == "match" else next(iter(seeds)) if reference.seed is None else reference.seed
        if wanted not in seeds:
            match = " to match this run's" if reference.seed == "match" else ""
            place = node.value.get("seed", node)
            self.problems.add(place, f"found seed {wanted}{match}, allowed the seeds of {experiment.name}: {shown}")
            return None
        return seeds[wanted].key


def _written(node: Node, run: str) -> str:
    """How the setting that a node stands for names a run."""
    name, listed, _ = node.field.rpartition(".")[2].partition("[")
    return f"{name}: [{{{run}}}]" if listed else f"{name}: {{{run}}}"


def quoted(text: str) -> str:
    """Writes a text as a value within braces."""
    return f'"{text}"' if "," in text else text


def _as_key(node: Node) -> Node:
    """A reference as a mapping; a run's key, experiment/variant/seed0, as what it names."""
    if isinstance(node.value, dict):
        return node
    parts = node.value.split("/") if isinstance(node.value, str) else []
    if len(parts) != 3 or not re.fullmatch("seed[0-9]{1,9}", parts[2]):
        return replace(node, value={"experiment": node})
    values = zip(("experiment", "variant", "seed"), (*parts[:2], int(parts[2].removeprefix("seed"))), strict=True)
    return replace(node, value={name: replace(node, value=value) for name, value in values})


def resolve_sources(tree: Node, seed: int, resolver: Resolver) -> tuple[str, ...]:
    """Keys of the runs that data.collect.from names as a list, or that of each source of a mix, in their order; "start"
    stays, models by path do not."""
    mix = tree.get("data.mix")
    data = [node for node in [tree.get("data"), *(mix.value if mix is not None else ())] if node is not None]
    given = [models for node in data if (models := node.get("collect.from")) is not None]
    sources: list[str] = []
    for node in (node for models in given if isinstance(models.value, list) for node in models.value):
        if node.value == START:
            sources.append(START)
        elif isinstance(node.value, str) or (isinstance(node.value, dict) and "experiment" in node.value):
            key = resolver.start(node, seed)
            sources += [key] if key is not None else []
    return tuple(sources)


def resolve_judges(tree: Node, seed: int, resolver: Resolver) -> tuple[str, ...]:
    """Keys of the runs whose reward models hyperparameters.rewards, and those of a mix's sources, name, in order."""
    mix = tree.get("data.mix")
    sources = mix.value if mix is not None and isinstance(mix.value, list) else []
    given = [tree.get("hyperparameters.rewards"), *(source.get("rewards") for source in sources)]
    listed = [
        entry for rewards in given if rewards is not None and isinstance(rewards.value, list) for entry in rewards.value
    ]
    named = (entry.value.get("model_from") for entry in listed if isinstance(entry.value, dict))
    keys = (resolver.start(node, seed, scores=True) for node in named if node is not None and node.value is not None)
    return tuple(key for key in keys if key is not None)
