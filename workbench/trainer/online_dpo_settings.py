"""Settings of online direct preference optimisation."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from workbench.objectives.preference import PREFERENCE_LOSSES
from workbench.trainer.dpo_settings import PAIRWISE, DPOSettings, PreferenceSettings
from workbench.trainer.method import Method
from workbench.trainer.online.settings import SAMPLED, RolloutSettings


class OnlineDPOSettings(RolloutSettings, PreferenceSettings):
    """Sample, rank by reward, and take a DPO step on the best against the worst completion of each prompt."""

    method: ClassVar[Method] = replace(
        DPOSettings.method,
        name="online DPO",
        formula=f"{DPOSettings.method.formula}, on the best and worst of each group",
        learns_from="prompts, and a reward that ranks completions",
        paper="Guo et al. 2024, arXiv 2402.04792",
        when="a reward ranks completions well but its scale means little, and staying near the start matters",
        samples=True,
        reference="the start, frozen",
        reward="checks or models of reward, by order alone",
        conventions={
            **SAMPLED,
            **PAIRWISE,
            "pairs": "a prompt's best and worst completion by reward; a prompt whose completions tie gives none",
            "rewards/*": "the rewards' values by name; the policy's implicit ones are rewards/chosen and "
            "rewards/rejected",
        },
    )

    group_size: Annotated[int, Field(ge=2)] = 4
    """Completions sampled of each prompt, of which the best and the worst become a pair."""

    @model_validator(mode="after")
    def _losses_are_of_one_pair(self) -> OnlineDPOSettings:
        for name in PREFERENCE_LOSSES.chosen(self.loss):
            if PREFERENCE_LOSSES.all[name].over_step:
                raise ValueError(
                    f"{name} compares all pairs of a step before its update, and a rollout's pairs are learned from in "
                    "passes and minibatches, over which they change; allowed with trainer: dpo, or another loss"
                )
        return self

    @classmethod
    def num_texts(cls) -> int:
        return 2

    @property
    def learned_completions(self) -> int:
        return 2
