"""Rewards of prompts of several sources, each of which has its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import DefinitionError
from workbench.rewards.reward import Judged, Reward, RewardFunction, RewardSet, Sample, judge


class RewardsBySource(RewardSet):
    """Scores each sample by the rewards of its source. Rewards of one name are recorded as one, and must have one
    weight."""

    def __init__(self, sets: Sequence[RewardSet]) -> None:
        """sets: by the number of the source; sources may share one. Raises DefinitionError."""
        names = dict.fromkeys(reward.name for rewards in sets for reward in rewards.rewards)
        super().__init__([_of_all(name, sets) for name in names])
        self._maxima = {rewards.maximum for rewards in sets}

    @property
    def maximum(self) -> float | None:
        """The most that a total can be, where it is the same for all sources."""
        return next(iter(self._maxima)) if len(self._maxima) == 1 else None


def _of_all(name: str, sets: Sequence[RewardSet]) -> Reward:
    """The rewards of one name as one, which has no opinion of the samples of a source that has none of them."""
    own = {place: reward for place, of in enumerate(sets) for reward in of.rewards if reward.name == name}
    distinct = list({id(reward): reward for reward in own.values()}.values())
    if len({reward.weight for reward in distinct}) > 1:
        raise DefinitionError(f"rewards: {name} has another weight in another source, allowed one: give one a name")
    counted = [reward.take_costs for reward in distinct if reward.take_costs is not None]

    def take_costs() -> tuple[int, float]:
        found = [take() for take in counted]
        return sum(tokens for tokens, _ in found), sum(flops for _, flops in found)

    return Reward(
        name,
        _dispatched(name, own, distinct),
        distinct[0].weight,
        maximum=None,
        take_costs=take_costs if counted else None,
        uncounted=next((reward.uncounted for reward in distinct if reward.uncounted), ""),
    )


def _dispatched(name: str, own: dict[int, Reward], distinct: Sequence[Reward]) -> RewardFunction:
    """The function of all: each reward is called once, with the samples of the sources that it is of."""

    def score(samples: Sequence[Sample]) -> Judged:
        values: list[float | None] = [None] * len(samples)
        metrics: dict[str, list[float]] = {}
        extra: dict[str, list[Any]] = {}
        for reward in distinct:
            places = [i for i, sample in enumerate(samples) if own.get(sample.source) is reward]
            judged = judge(name, reward.function, [samples[place] for place in places])
            for logged, numbers in judged.metrics.items():
                metrics[logged] = metrics.get(logged, []) + numbers
            for index, place in enumerate(places):
                values[place] = judged.values[index]
                for column, found in judged.extra.items():
                    extra.setdefault(column, [None] * len(samples))[place] = found[index]
        return Judged(values, metrics, extra)

    return score
