"""What the held-out sets of a definition measure; and a problem where something is asked that they cannot measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from workbench.data.settings import CollectData, DatasetData, DataSettings, MixData, TaskData, TaskSettings
from workbench.evaluation.settings import EvaluateSettings
from workbench.experiment.definition.held_out_sets import SOURCES, held_out_sets
from workbench.experiment.definition.source import Node
from workbench.experiment.definition.validate import Hint, Problems, suggest
from workbench.tracking import names
from workbench.trainer.settings import TrainerSettings

OF_SAMPLES = ("majority_at", "pass_at", "samples")
"""Fields that ask for several completions of a prompt."""


def check_held_out(
    node: Node | None,
    data: DataSettings | None,
    cls: type[TrainerSettings] | None,
    problems: Problems,
    hint: Hint,
) -> tuple[EvaluateSettings, ...]:
    """The held-out sets, the deciding one first; none where nothing is held out, or one is broken. data, cls: None
    where they are broken. hint: words the problem of an unknown key."""
    if node is None:
        return ()
    names_none = isinstance(node.value, dict) and not any(name in node.value for name in SOURCES)
    if isinstance(data, MixData) and names_none and cls is not None and not cls.scores_texts:
        node = _of_sources(node, data, problems)
        if node is None:
            return ()
    found = held_out_sets(node, problems, hint)
    if not found or data is None:
        return found
    for item in node.value if isinstance(node.value, list) else [node]:
        split = item.get("split")
        if split is not None and split.value is not None:
            _check_split(split.value, data, split, problems)
        if cls is not None:
            _check_completed(item, cls, problems)
    for index, own in enumerate(found):
        collected = not index and isinstance(data, CollectData) and data.collect.held_out_pairs
        if own.names_nothing and not collected:
            problems.add(node, "evaluate needs one of task, path, pairs, split")
    return found


def _of_sources(node: Node, mix: MixData, problems: Problems) -> Node | None:
    """A list of the held-out parts that the sources of a mix have of their own, each under its source's name: prompts
    of a task. None after the problem was added, where a source has none."""
    sets = []
    for source in mix.mix:
        task: TaskSettings | None = source.data if isinstance(source.data, TaskData) else None
        if isinstance(source.data, CollectData):
            task = source.data.collect
        if task is None:
            problems.add(
                node,
                f"found nothing to measure source {source.label} on, which is of no task; allowed a list of sets, "
                f"such as [{{name: {source.label}, path: FILE}}]",
            )
            return None
        own: dict[str, Any] = {"name": source.label}
        own |= {name: value for name in TaskSettings.model_fields if (value := getattr(task, name)) is not None}
        sets.append(replace(node, value=node.value | {key: _made(node, value) for key, value in own.items()}))
    return replace(node, value=sets)


def _made(node: Node, value: Any) -> Node:
    """A value that stands in no file, in the place of a node."""
    return replace(
        node, value={key: _made(node, item) for key, item in value.items()} if isinstance(value, dict) else value
    )


def _check_split(split: str, data: DataSettings, node: Node, problems: Problems) -> None:
    if not isinstance(data, DatasetData):
        problems.add(node, "found without data.dataset, allowed with one: it is another split of that data set")
    elif split == data.split:
        problems.add(node, f"found {split}, the split that is trained on, allowed another one")


def _check_completed(item: Node, cls: type[TrainerSettings], problems: Problems) -> None:
    """Pairs are preferred and not completed: no answer of theirs is right or is voted for."""
    given = {name for name in SOURCES if (node := item.get(name)) is not None and node.value is not None}
    completed = given & {"task", "path"} or (given & {"split"} and not cls.data_form.has_pair_accuracy)
    asked = next(
        (node for name in OF_SAMPLES if (node := item.get(name)) is not None and node.value not in (1, [])), None
    )
    if asked is not None and not completed:
        problems.add(asked, "found without prompts that are completed, allowed with task or path")


def check_stopping(
    settings: TrainerSettings,
    held_out: tuple[EvaluateSettings, ...],
    data: DataSettings | None,
    tree: Node,
    problems: Problems,
) -> None:
    """A measure for early stopping to follow."""
    node = tree.get("hyperparameters") or tree
    stopping, section = settings.early_stopping, node.get("early_stopping") or node
    if stopping is None:
        return
    if not held_out:
        problems.add(section, "found without evaluate, allowed with a held-out evaluation")
        return
    collected = isinstance(data, CollectData) and bool(data.collect.held_out_pairs)
    preset, start = tree.get("model.preset"), tree.get("start_from")
    has_start = start is not None and start.value is not None
    has_start = has_start or preset is None or preset.value is None
    found = list(measures(settings, held_out[0], has_start=has_start, collected=collected))
    for own in held_out[1:]:
        found += [names.metric_of_set(metric, str(own.name)) for metric in measures(settings, own, has_start=has_start)]
    if stopping.metric not in found:
        near = suggest(stopping.metric, found)
        at = section.get("metric") or section
        problems.add(at, f"found {stopping.metric}, which no held-out set measures, allowed {', '.join(found)}{near}")


def measures(
    settings: TrainerSettings, evaluate: EvaluateSettings, *, has_start: bool, collected: bool = False
) -> Iterator[str]:
    """The metrics that a held-out set can have, under their plain names; a file's rows decide which of them it has.
    has_start: the run does not begin from a random model. collected: pairs that were collected with the training's own
    are held out too."""
    of_pairs = settings.data_form.has_pair_accuracy
    split_of_rows = evaluate.split is not None and not of_pairs
    if evaluate.task is not None or evaluate.path is not None or split_of_rows:
        yield names.EXACT_MATCH_GREEDY
        if evaluate.sampling is not None:
            yield names.EXACT_MATCH_SAMPLED
        yield from (f"{names.PASS_AT}{k}" for k in evaluate.pass_at)
        yield from (f"{names.MAJORITY_AT}{k}" for k in evaluate.majority_at)
        yield from (names.COMPLETION_TOKENS, names.ENDED, names.NUM_PROMPTS)
        if evaluate.kl and has_start:
            yield names.KL_START
        if settings.data_form.has_row_loss:
            yield names.HELD_OUT_LOSS
    if collected or evaluate.pairs is not None or (evaluate.split is not None and of_pairs):
        yield from (names.PAIR_ACCURACY, names.PAIR_MARGIN, names.NUM_PAIRS)
        if settings.scores_texts:
            yield from (names.SCORE_MEAN, names.SCORE_SD, names.LENGTH_CORRELATION)
        elif type(settings).described().score != "log_ratio":
            yield names.PAIR_ACCURACY_OWN
