"""Makes rewards of settings, and what a fingerprint holds of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.config import file_sha256
from workbench.errors import DefinitionError, RewardError
from workbench.files import read_file
from workbench.permissions import NOTHING, Permissions
from workbench.rewards import (
    answer_problem,
    classifier,
    formats,
    get_verifier,
    length,
    own_code,
    pattern,
    verifier_version,
)
from workbench.rewards.countdown import is_countdown_prompt
from workbench.rewards.gym import gym_version
from workbench.rewards.keywords import keyword_function
from workbench.rewards.reward import Reward, RewardFunction, RewardSet, Sample, show
from workbench.rewards.settings import RewardSettings
from workbench.rewards.sort import is_sort_prompt
from workbench.rewards.workers import WorkerPool

OF_TASKS = ("sort", "countdown", "reasoning_gym")
"""Checks of the whole completion: one that was cut has no end, and is not right."""
_IS_PROMPT = {"sort": is_sort_prompt, "countdown": is_countdown_prompt}


def build_rewards(
    settings: Sequence[RewardSettings],
    *,
    task: str | None,
    device: str,
    columns: Collection[str] | None = (),
    permissions: Permissions = NOTHING,
) -> RewardSet:
    """The rewards named; where none is, the task's own check.

    task: the built-in task that the prompts are of. device: of a classifier. columns: of the data, which own code may
    take; None: they show with the samples. Raises DefinitionError where there is neither reward nor task, and for own
    code that is not permitted.
    """
    around = _Around(device, columns, permissions)
    return RewardSet([_build(entry, around) for entry in named_rewards(settings, task)])


@dataclass(frozen=True)
class _Around:
    """What the rewards of one run are built with."""

    device: str
    columns: Collection[str] | None
    permissions: Permissions


def named_rewards(settings: Sequence[RewardSettings], task: str | None) -> list[RewardSettings]:
    """The rewards that count for prompts of the task. Raises DefinitionError where none is named and there is no
    task."""
    if settings:
        return list(settings)
    if task is None:
        raise DefinitionError(
            "hyperparameters.rewards: found none, allowed one or more: the prompts are of no built-in task that "
            "brings its own; write for example rewards: [{reward: number}]"
        )
    return [RewardSettings.model_validate({"reward": task})]


def rewards_identity(settings: Sequence[RewardSettings], task: str | None) -> list[dict[str, Any]]:
    """What decides the rewards' values, for fingerprints: files and folders by their contents."""
    return [_identity(entry) for entry in named_rewards(settings, task)]


def reward_files(settings: Sequence[RewardSettings]) -> dict[str, str]:
    """SHA-256 of every file of own code, by its path as written."""
    return {entry.file: file_sha256(own_code.find_file(entry.file)) for entry in settings if entry.file is not None}


def verifier_function(name: str) -> RewardFunction:
    """A check by name as a reward. Raises RewardError for a prompt without the answer that it needs."""
    verify, whole = get_verifier(name), name in OF_TASKS

    def score(samples: Sequence[Sample]) -> list[float]:
        check_answers(name, samples)
        return [
            verify(sample.prompt, sample.completion, sample.answer) if sample.ended or not whole else 0.0
            for sample in samples
        ]

    return score


def check_answers(name: str, samples: Iterable[Sample]) -> None:
    """Raises RewardError for the first prompt that a check by name cannot judge, its answer or form being none for
    it."""
    for sample in samples:
        if (name, sample.prompt, sample.answer) not in _checked:
            _check_answer(name, sample)
            if len(_checked) < MAX_CHECKED:
                _checked.add((name, sample.prompt, sample.answer))


def check_rewarded(
    settings: Sequence[RewardSettings], task: str | None, asked: Iterable[tuple[str, str | None]]
) -> None:
    """RewardError, before training, for the first prompt that a check by name cannot judge. asked: (prompt, answer)."""
    names = [entry.reward for entry in named_rewards(settings, task) if entry.reward is not None]
    for prompt, answer in asked if names else ():
        for name in names:
            check_answers(name, [Sample(prompt, "", answer, 0, True, 0)])


MAX_CHECKED = 100_000
_checked: set[tuple[str, str, str | None]] = set()
"""Prompts that were found to be in order, each of which is met again with every completion."""


def _check_answer(name: str, sample: Sample) -> None:
    """A prompt that no completion could be right for would be a 0 that nobody gave."""
    if name in _IS_PROMPT:  # which says what is right
        if _IS_PROMPT[name](sample.prompt):
            return
        problem = f"the prompt is none of task {name}"
    else:
        found = answer_problem(name, sample.answer)
        if found is None:
            return
        problem = f"the prompt {found}"
    raise RewardError(f"reward {name}: {problem}; mend its data, or take another reward; {show(sample)}")


def _build(settings: RewardSettings, around: _Around) -> Reward:
    function, maximum = _BUILDERS[settings.kind](settings, around)
    made = Reward(settings.label_in_metrics, function, settings.weight, maximum)
    if not isinstance(function, classifier.Classifier):
        return made
    return replace(made, take_costs=function.take_costs, uncounted=function.uncounted)


Built = tuple[RewardFunction, float | None]


def _verifier(settings: RewardSettings, _around: _Around) -> Built:
    assert settings.reward is not None
    return verifier_function(settings.reward), 1.0


def _format(settings: RewardSettings, _around: _Around) -> Built:
    form, graded = settings.format, settings.graded
    assert form is not None
    return lambda samples: formats.format_reward(form, graded=graded, samples=samples), 1.0


def _regex(settings: RewardSettings, _around: _Around) -> Built:
    assert settings.regex is not None
    compiled = pattern.compile_pattern(settings.regex)
    return functools.partial(pattern.pattern_reward, compiled, settings.match, settings.label_in_metrics), 1.0


def _length(settings: RewardSettings, _around: _Around) -> Built:
    assert settings.length is not None
    most = 1.0 if settings.length.target is not None else 0.0
    return functools.partial(length.length_reward, settings.length), most


def _classifier(settings: RewardSettings, around: _Around) -> Built:
    return classifier.Classifier(settings, around.device), None


def _own_code(settings: RewardSettings, around: _Around) -> Built:
    path, function, name = settings.file, settings.function, settings.label_in_metrics
    assert path is not None
    own_code.check_allowed(path, around.permissions)
    code = read_file(own_code.find_file(path))

    def load() -> RewardFunction:
        return keyword_function(own_code.load_function(path, function, code), name, around.columns)

    pool = WorkerPool(name, load, settings.workers, settings.timeout_seconds, one_at_a_time=settings.one_at_a_time)
    return pool, None


_BUILDERS: dict[str, Callable[[RewardSettings, _Around], Built]] = {
    "reward": _verifier,
    "format": _format,
    "regex": _regex,
    "length": _length,
    "model": _classifier,
    "file": _own_code,
}
_VERSIONS = {
    "format": formats.VERSION,
    "regex": pattern.VERSION,
    "length": length.VERSION,
    "model": classifier.VERSION,
    "model_from": classifier.VERSION,
    "file": own_code.VERSION,
}


def _identity(settings: RewardSettings) -> dict[str, Any]:
    kind = settings.kind
    fields = settings.decisive()
    fields["version"] = verifier_version(fields["reward"]) if kind == "reward" else _VERSIONS[kind]
    if settings.reward == "reasoning_gym":
        fields["package"] = gym_version()
    if settings.model is not None:
        fields["model"] = classifier.classifier_identity(settings.model, settings.label)
    if settings.file is not None:
        fields |= {"file": file_sha256(own_code.find_file(settings.file)), "function": settings.function}
        fields["one_at_a_time"] = settings.one_at_a_time
    return fields
