"""The sections of one arm at one point of the grid, each made an instance of its own closed settings class."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.config import Settings
from workbench.data.settings import CollectData, DataSettings, MixData, ReadData, SourceData
from workbench.evaluation.settings import EvaluateSettings
from workbench.experiment.definition.measured import check_held_out, check_stopping
from workbench.experiment.definition.merge import KINDS
from workbench.experiment.definition.other_names import OURS
from workbench.experiment.definition.places import elsewhere, members
from workbench.experiment.definition.remedies import remedy
from workbench.experiment.definition.schema import WRITTEN_AS, Arm, StartFrom, hyperparameter_names, rewards_of
from workbench.experiment.definition.source import Node, describe, show
from workbench.experiment.definition.validate import (
    SCHEMA,
    Hint,
    Problems,
    SettingsType,
    suggest,
    unknown_key,
    validate,
)
from workbench.models.settings import LoraSettings, ModelSettings
from workbench.rewards.settings import RewardSettings
from workbench.trainer.registry import get_settings_class, trainer_names
from workbench.trainer.settings import Budget, TrainerSettings

NEEDS_REWARDS = "allowed one or more for prompts of no built-in task, such as [{reward: number}]"


@dataclass(frozen=True)
class Sections:
    """The checked settings of a variant; None where absent or broken."""

    trainer: str
    hyperparameters: TrainerSettings
    data: DataSettings
    model: ModelSettings | None
    start: Node | None
    teacher: Node | ModelSettings | None
    """A run to be resolved, or a model."""
    lora: LoraSettings | None
    held_out: tuple[EvaluateSettings, ...]
    """The held-out sets, the deciding one first."""
    threads: int


def settings_class(trainer: Node, problems: Problems) -> type[TrainerSettings] | None:
    """The closed settings class of the trainer named, or, after the problem was added, of the one that is meant."""
    names = trainer_names()
    if trainer.value not in names:
        near = difflib.get_close_matches(str(trainer.value), names, n=1)
        problems.add(
            trainer, f"found {describe(trainer)}, allowed {', '.join(names)}{suggest(str(trainer.value), names)}"
        )
        return get_settings_class(near[0]) if near else None
    return get_settings_class(trainer.value)


def unknown_hyperparameter(name: str, classes: list[type[TrainerSettings]]) -> str:
    """The problem of a hyperparameter that none of the classes has; it may be written elsewhere or be another's."""
    names = list(dict.fromkeys(field for cls in classes for field in hyperparameter_names(cls)))
    owners = [other for other in trainer_names() if name in hyperparameter_names(get_settings_class(other))]
    near = suggest(name, names)
    if name in WRITTEN_AS:
        near = f", did you mean {WRITTEN_AS[name]}?"
    elif owners:
        one, verb = ("trainer", "has") if len(owners) == 1 else ("one of the trainers", "have")
        others = f"{one} {', '.join(owners)}, which {verb} {name}?"
        near = f"{near.removesuffix('?')}, or {others}" if near else f", did you mean {others}"
    elif name in OURS:
        near = f", did you mean {OURS[name]}?"
    else:
        near = elsewhere(name, "hyperparameters") or near
    trainers = [trainer for trainer in trainer_names() if get_settings_class(trainer) in classes]
    return unknown_key(name, names, near, f"`workbench explain {trainers[0]}`" if trainers else SCHEMA)


def unknown_section(name: str, allowed: Iterable[str]) -> str:
    """The problem of a key of the whole definition that does not exist; it may stand deeper."""
    names = list(allowed)
    return unknown_key(name, names, elsewhere(name) or suggest(name, names))


def unknown_within(section: str, cls: type[Settings]) -> Hint:
    """Words the problem of a key that a section's settings do not have; it may stand elsewhere."""
    names = [field.alias or name for name, field in cls.model_fields.items()]
    return lambda name: unknown_key(name, names, elsewhere(name, section))


def check_sections(tree: Node, problems: Problems, *, sound: bool) -> Sections | None:
    """The settings of one variant, or None when any is broken. sound: nothing was left out of the tree before."""
    before = len(problems.lines)
    trainer = _given(tree, "trainer")
    if trainer is None:
        _missing(tree, "trainer", f"a trainer: {', '.join(trainer_names())}", problems, sound)
    cls = settings_class(trainer, problems) if trainer is not None else None
    sound = sound and (trainer is None or trainer.value in trainer_names())
    data_node, model_node = _given(tree, "data"), _given(tree, "model")
    start, lora_node, evaluate_node = _given(tree, "start_from"), _given(tree, "lora"), _given(tree, "evaluate")
    data = _data(data_node, problems) if data_node else None
    if data_node is None:
        _missing_data(tree, cls, problems, sound)
    model = _section(ModelSettings, "model", model_node, problems)
    if model_node is None and start is None:
        _missing(tree, "model", "a model such as {preset: tiny}, or start_from: NAME", problems, sound)
    if start is not None and isinstance(start.value, dict):
        validate(StartFrom, start, problems)
    if model_node is not None and start is not None:
        problems.add(start, "found together with model, allowed one of them: a start brings its own model")
    if model is not None and model.add_tokens and lora_node is not None and model_node is not None:
        at = model_node.get("add_tokens") or model_node
        problems.add(at, "found together with lora, which would leave their rows untaught; allowed in a run without it")
    teacher = _teacher(tree, cls, problems, sound)
    arm = validate(Arm, _only(tree, "threads"), problems)
    lora = _section(LoraSettings, "lora", lora_node, problems)
    held_out = check_held_out(evaluate_node, data, cls, problems, unknown_within("evaluate", EvaluateSettings))
    hyperparameters = _hyperparameters(cls, tree, held_out, data, problems) if cls else None
    if hyperparameters is not None and hyperparameters.scores_texts:
        _check_scorer(lora_node, evaluate_node, str(trainer.value if trainer else ""), problems)
    if cls is not None and data is not None and data_node is not None:
        _check_fit(cls, str(trainer.value if trainer else ""), data_node, data, problems)
        if isinstance(data, MixData):
            _check_sources(cls, data, data_node, problems)
            stored = tree.get("hyperparameters.teacher_logprobs")
            if stored is not None and hyperparameters is not None and hyperparameters.stores_teacher:
                problems.add(stored, "found stored with a mix, allowed each_step")
    if hyperparameters is not None and hyperparameters.reference_moves and lora_node is not None:
        problems.add(
            lora_node,
            "found together with a reference that moves (sync_reference_every), which has no weights of its own where "
            "it is the policy with its adapter off; allowed one of them",
        )
    if hyperparameters is not None and data is not None:
        _check_rewards(hyperparameters, data, tree, problems)
    if (
        len(problems.lines) > before
        or cls is None
        or data is None
        or hyperparameters is None
        or trainer is None
        or arm is None
    ):
        return None
    return Sections(str(trainer.value), hyperparameters, data, model, start, teacher, lora, held_out, arm.threads)


def _section(cls: type[SettingsType], name: str, node: Node | None, problems: Problems) -> SettingsType | None:
    """A section's settings; None where it is absent or broken."""
    return validate(cls, node, problems, unknown_within(name, cls)) if node is not None else None


def _given(tree: Node, name: str) -> Node | None:
    node = tree.get(name)
    return node if node is not None and node.value is not None else None


def _teacher(
    tree: Node, cls: type[TrainerSettings] | None, problems: Problems, sound: bool
) -> Node | ModelSettings | None:
    """The model that is learned from, of a trainer that learns from one."""
    node = _given(tree, "teacher")
    if node is None:
        if cls is not None and cls.needs_teacher:
            _missing(
                tree,
                "teacher",
                "the model to learn from, such as {experiment: NAME} or {path: FOLDER}",
                problems,
                sound,
            )
        return None
    if cls is not None and not cls.needs_teacher:
        takers = [name for name in trainer_names() if get_settings_class(name).needs_teacher]
        problems.add(node, f"found a teacher for a trainer that learns from none, allowed for {', '.join(takers)}")
        return None
    if isinstance(node.value, dict) and "experiment" not in node.value:
        return _section(ModelSettings, "teacher", node, problems)
    if isinstance(node.value, dict):
        validate(StartFrom, node, problems)
    return node


def _only(tree: Node, name: str) -> Node:
    """The tree with this setting alone."""
    return replace(tree, value={key: item for key, item in tree.value.items() if key == name})


def _missing(tree: Node, name: str, allowed: str, problems: Problems, sound: bool) -> None:
    if sound:
        problems.add(tree, f"found nothing, allowed {allowed}", f"{tree.field}.{name}".lstrip("."))


def _missing_data(tree: Node, cls: type[TrainerSettings] | None, problems: Problems, sound: bool) -> None:
    dropped = tree.get("data")
    if cls is None or dropped is None or dropped.field != "trainer":
        _missing(tree, "data", "one of task, path, dataset, collect, mix", problems, sound)
    elif sound:
        example = cls.data_form.example_file
        trainer = tree.value["trainer"]
        data = f"data.path={example}" if trainer.is_override else f"data: {{path: {example}}}"
        problem = f"trainer {trainer.value} drops the file's data and hyperparameters; give them, e.g. {data}"
        problems.add(trainer, problem, f"{trainer.field.removesuffix('trainer')}data")


def _check_scorer(lora: Node | None, evaluate: Node | None, trainer: str, problems: Problems) -> None:
    """Nothing that only a language model can do is asked of a reward model."""
    sets = evaluate.value if evaluate is not None and isinstance(evaluate.value, list) else [evaluate]
    for own, name in itertools.product(sets, ("task", "path", "verifier")):
        asked = own.get(name) if own is not None else None
        if asked is not None and asked.value is not None:
            problem = f"found prompts to complete, and trainer {trainer} leaves a reward model, which completes none"
            problems.add(asked, f"{problem}; allowed pairs, split, or data.collect.held_out_pairs")
    save = lora.get("save") if lora is not None else None
    if save is not None and save.value == "adapter":
        problems.add(save, f"found adapter, and trainer {trainer} trains a score head besides; allowed merged")


def _hyperparameters(
    cls: type[TrainerSettings],
    tree: Node,
    held_out: tuple[EvaluateSettings, ...],
    data: DataSettings | None,
    problems: Problems,
) -> TrainerSettings | None:
    node = _given(tree, "hyperparameters") or Node({}, tree.where, "hyperparameters")
    kept: dict[str, Node] = {}
    for name, item in node.value.items():
        if name in WRITTEN_AS:
            problems.add(item, f"found it under hyperparameters, allowed as {WRITTEN_AS[name]}")
        else:
            kept[name] = item
    kept = _steps_or_epochs(kept, problems)
    budget = _given(tree, "budget")
    if budget is not None and _section(Budget, "budget", budget, problems) is not None:
        kept["budget"] = budget
    if held_out:
        kept["evaluate_every"] = Node(held_out[0].every, tree.where, "evaluate.every")
    settings = validate(cls, replace(node, value=kept), problems, lambda name: unknown_hyperparameter(name, [cls]))
    if settings is not None:
        check_stopping(settings, held_out, data, tree, problems)
    return settings


def _steps_or_epochs(given: dict[str, Node], problems: Problems) -> dict[str, Node]:
    """The hyperparameters without an `epochs: null` beside steps; a problem where both say a number, of which epochs
    would do nothing."""
    steps, epochs = given.get("steps"), given.get("epochs")
    if steps is None or epochs is None or steps.value is None:
        return given
    if epochs.value is None:
        return {name: item for name, item in given.items() if name != "epochs"}
    at, name, other = (steps, "steps", "epochs") if steps.is_override else (epochs, "epochs", "steps")
    remedy = f"{other}: null beside {name} takes {other} away"
    if at.is_override:
        remedy = f'SET="{other}=null {name}={show(at.plain())}"'
    both = steps.is_override and epochs.is_override
    field = at.field.partition("[")[0]
    problems.add(at, f"steps and epochs are both given: write one{'' if both else f'; {remedy}'}", field)
    return given


def _data(node: Node, problems: Problems) -> DataSettings | None:
    """The settings of the one kind of data that node names."""
    settings = _data_of(node, KINDS["data"], DataSettings, problems)
    return settings if isinstance(settings, DataSettings) else None


def _data_of(node: Node, kinds: Sequence[str], union: Any, problems: Problems) -> Any:
    """The settings of the one of those kinds that node names; None where any is broken."""
    if not isinstance(node.value, dict):
        problems.add(node, f"found {describe(node)}, allowed a mapping{remedy(node, ['a mapping'])}")
        return None
    given = [kind for kind in kinds if kind in node.value]
    if len(given) != 1:
        own = {field for cls in members(union) for field in cls.model_fields}
        others = [key for key in node.value if key not in own] if not given else []
        near = next((hint for key in others if (hint := suggest(key, kinds) or elsewhere(key))), "")
        found = " and ".join(given) or (", ".join(node.value) or describe(node))
        problems.add(node, f"found {found}, allowed one of {', '.join(kinds)}{near}")
        return None
    classes = [cls for cls in members(union) if given[0] in cls.model_fields]
    assert len(classes) == 1, f"one class of data has the field {given[0]}"
    mix = node.get("mix") if given == ["mix"] else None
    if mix is not None and isinstance(mix.value, list):
        sources = [_data_of(item, KINDS["data"][:-1], SourceData, problems) for item in mix.value]
        if None in sources:
            return None
    settings: Any = validate(classes[0], node, problems, unknown_within("data", classes[0]))
    return settings


def _sources(data: Node) -> list[Node]:
    """The sources of a mix; none of data that is one."""
    mix = data.get("mix")
    return list(mix.value) if mix is not None and isinstance(mix.value, list) else []


def _check_sources(cls: type[TrainerSettings], mix: MixData, data: Node, problems: Problems) -> None:
    """What one source may say alone, and no source among several; and what no trainer of this kind reads."""
    by = data.get("curriculum.column")
    if by is not None and mix.curriculum is not None and mix.curriculum.column is not None:
        made = [source.label for source in mix.mix if not isinstance(source, ReadData)]
        if made:
            found = f"found with a source without columns, {made[0]}"
            problems.add(by, f"{found}, allowed for files and data sets; without it the length decides")
    rates = data.get("curriculum.pass_rate")
    if rates is not None and rates.value is not None and not cls.data_form.is_sampled:
        online = [name for name in trainer_names() if get_settings_class(name).data_form.is_sampled]
        found = f"found for trainer {cls.described().name}, which samples nothing whose rate could be measured"
        problems.add(rates, f"{found}, allowed for {', '.join(online)}")
    for source, node in zip(mix.mix, _sources(data), strict=True):
        held_out = node.get("collect.held_out_pairs")
        if held_out is not None and held_out.value:
            problems.add(held_out, "found in a mix, allowed evaluate: {pairs: file}: the held-out pairs of all of it")
        if source.rewards and not cls.data_form.is_sampled:
            problems.add(node.get("rewards") or node, "found for a trainer that samples nothing, allowed none")


def _check_fit(
    cls: type[TrainerSettings], trainer: str, data: Node, settings: DataSettings, problems: Problems
) -> None:
    """Data that has rows of the trainer's form, as far as the definition can tell."""
    if isinstance(settings, MixData):
        for source, node in zip(settings.mix, _sources(data), strict=True):
            _check_fit(cls, trainer, node, source.data, problems)
    for kind, what in (("task", "rows of a task"), ("collect", "preference pairs")):
        if kind in data.value and kind not in cls.data_form.sources:
            problem = f"found {what} for trainer {trainer}, allowed {cls.data_form.sources_text}"
            problems.add(data.value[kind], problem)
            return
    pairs = cls.data_form.takes_pairs
    if isinstance(settings, CollectData) and pairs == bool(settings.collect.completions):
        found, allowed = ("completions", "pairs") if pairs else ("preference pairs", "completions, such as 4096")
        problems.add(data.value["collect"], f"found {found} for trainer {trainer}, allowed {allowed}")


def _check_rewards(settings: TrainerSettings, data: DataSettings, tree: Node, problems: Problems) -> None:
    """Names that differ; and one reward at least where the prompts' task brings none."""
    if not settings.data_form.is_sampled:
        return
    section = _given(tree, "hyperparameters") or Node({}, tree.where, "hyperparameters")
    node, rewards = section.get("rewards"), rewards_of(settings)
    if not rewards and isinstance(data, ReadData):
        field = "hyperparameters.rewards"
        problems.add(node or section, f"found none, {NEEDS_REWARDS}", field)
    if isinstance(data, MixData):
        for source, at in zip(data.mix, _sources(tree.value["data"]), strict=True):
            if isinstance(source, ReadData) and not source.rewards and not rewards:
                problems.add(at, f"found none, here and under hyperparameters, {NEEDS_REWARDS}", f"{at.field}.rewards")
            _check_named(source.rewards, at.get("rewards") or at, problems)
    _check_named(rewards, node or section, problems)


def _check_named(rewards: Sequence[RewardSettings], node: Node, problems: Problems) -> None:
    """Names that differ, and a weight at least."""
    names = [reward.label_in_metrics for reward in rewards]
    for index, name in enumerate(names):
        if name in names[:index]:
            at = node.value[index] if isinstance(node.value, list) else node
            problems.add(at, f"found another reward named {name}, allowed names that differ: give it a name")
    if rewards and not any(reward.weight for reward in rewards):
        problems.add(node, "found weight 0 for all, allowed one at least that counts")
