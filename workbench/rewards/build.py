"""From settings to rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workbench.errors import DefinitionError, RewardError
from workbench.rewards import get_verifier
from workbench.rewards.reward import Reward, RewardFunction, RewardSet, Sample, show
from workbench.rewards.settings import RewardSettings

OF_TASKS = ("sort", "countdown")
"""Checks of the whole completion: one that was cut has no end, and is not right."""


def build_rewards(settings: Sequence[RewardSettings], *, task: str | None, device: str) -> RewardSet:
    """The rewards named; where none is, the task's own check.

    task: the built-in task that the prompts are of. device: of a classifier. DefinitionError where there is neither.
    """
    if not settings:
        if task is None:
            raise DefinitionError(
                "hyperparameters.rewards: found none, allowed one or more: the prompts are of no built-in task that "
                "brings its own; write for example rewards: [{reward: number}]"
            )
        settings = [RewardSettings.model_validate({"reward": task})]
    return RewardSet([_build(entry, device) for entry in settings])


def _build(settings: RewardSettings, device: str) -> Reward:
    function, maximum = _BUILDERS[settings.kind](settings, device)
    return Reward(settings.label_in_metrics, function, settings.weight, maximum)


def _verifier(settings: RewardSettings, _device: str) -> tuple[RewardFunction, float]:
    assert settings.reward is not None
    return verifier_function(settings.reward), 1.0


def verifier_function(name: str) -> RewardFunction:
    """A check by name as a reward. RewardError for a prompt without the answer that it needs."""
    verify, whole = get_verifier(name), name in OF_TASKS

    def score(samples: Sequence[Sample]) -> list[float]:
        for sample in samples:
            if sample.answer is None and not whole:
                raise RewardError(
                    f"reward {name}: the prompt has no answer to check against; give its data an answer, or take "
                    f"another reward; {show(sample)}"
                )
        return [
            verify(sample.prompt, sample.completion, sample.answer) if sample.ended or not whole else 0.0
            for sample in samples
        ]

    return score


_BUILDERS: dict[str, Callable[[RewardSettings, str], tuple[RewardFunction, float | None]]] = {"reward": _verifier}
