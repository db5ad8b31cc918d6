"""Settings of group relative policy optimisation and its relatives."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from workbench.config import Added, NonNegativeInt
from workbench.objectives.advantages import ADVANTAGES
from workbench.objectives.kl import KL_ESTIMATORS, KL_PENALTIES
from workbench.objectives.policy_gradient import CORRECTIONS, POLICY_LOSSES
from workbench.trainer.method import Method
from workbench.trainer.online.settings import SAMPLED, RolloutSettings

GSPO_LARGEST_CLIP = 0.05
DYNAMIC_SAMPLING_VERSION = 2
"""It changes when another choice of groups is kept."""


class GRPOSettings(RolloutSettings):
    """Completions are compared within the group of one prompt; no critic."""

    method: ClassVar[Method] = Method(
        name="GRPO",
        formula="{loss}; A = {advantage}",
        learns_from="prompts, and a reward that can be computed",
        paper="Shao et al. 2024, arXiv 2402.03300",
        when="completions can be checked and prompts are neither solved nor hopeless: groups whose rewards are all "
        "alike teach nothing",
        samples=True,
        reference="the start, frozen",
        tied_by="beta",
        reward="checks or models of reward; A compares completions of one prompt",
        extras={
            "beta": "and beta times the KL to the start, {kl}",
            "entropy_bonus": "less entropy_bonus times the entropy",
        },
        conventions={
            **SAMPLED,
            "loss": "the policy loss, divided once by the units of the whole step; terms of KL and entropy likewise",
            "first update": "sampler and trainer must agree on the sampled tokens, else the run stops",
            "kl": "mean over the step's tokens of the estimator that hyperparameters.kl names, nats",
        },
    )

    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions sampled of each prompt and compared with one another."""
    advantage: Annotated[str, ADVANTAGES] = "group_std"
    """How rewards become advantages, by name (workbench/objectives/advantages.py has the formulas)."""
    loss: Annotated[str, POLICY_LOSSES] = "dapo"
    """Loss and its reduction, by name (workbench/objectives/policy_gradient.py has the formulas)."""
    clip_low: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The ratio counts down to 1 - clip_low; gspo takes about 3e-4."""
    clip_high: NonNegativeFloat = 0.2
    """The ratio counts up to 1 + clip_high; gspo takes about 4e-4."""
    ratio_ceiling: PositiveFloat = 5.0
    """cispo: the largest weight of a token."""
    sapo_temperature_pos: Annotated[PositiveFloat, Added] = 1.0
    """sapo: how fast the gradient of a token with a positive advantage fades as its ratio leaves 1."""
    sapo_temperature_neg: Annotated[PositiveFloat, Added] = 1.05
    """sapo: the same of tokens whose advantage is not positive."""
    beta: NonNegativeFloat = 0.0
    """Strength of the KL tie to the start; 0: none, and no reference is kept."""
    kl: Annotated[str, KL_ESTIMATORS] = "k3_ratio"
    """Estimator of that KL; in the loss k3_ratio and k2 have the reverse KL's gradient, k3 the forward one's. Under
    gspo k3_ratio takes ratios of tokens, k3_sequence that of the completion, as TRL does."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it acts; k1 in the reward alone: as a loss its expected gradient is zero."""
    entropy_bonus: NonNegativeFloat = 0.0
    """Weight of the mean entropy per token, added to the objective."""
    dynamic_sampling: NonNegativeInt = 0
    """Further batches of prompts that a rollout may sample to replace groups without signal; 0: none (DAPO)."""
    importance_correction: Annotated[str, CORRECTIONS] = "none"
    """Weights for the gap between sampler and trainer, by token or whole completion; beyond the cap cut or left out."""
    importance_cap: PositiveFloat = 2.0
    """The largest weight of that correction."""

    @model_validator(mode="after")
    def _fits_together(self) -> GRPOSettings:
        if self.loss in ("gspo", "luspo") and max(self.clip_low, self.clip_high) > GSPO_LARGEST_CLIP:
            raise ValueError(
                f"{self.loss} clips ratios of whole completions: set clip_low: 3.0e-4 and clip_high: 4.0e-4"
            )
        if self.beta and self.kl_in == "loss" and self.kl == "k1":
            raise ValueError("kl: k1 has no expected gradient as a loss; use k3_ratio or k2, or kl_in: reward")
        if self.beta and self.kl_in == "reward" and self.advantage == "group_std":
            raise ValueError(
                "kl_in: reward with advantage: group_std divides a group of equal rewards by the noise of its KL; "
                "use advantage: mean_only, rloo, batch_std or reinforce_plus_plus"
            )
        if self.beta and self.kl_in == "reward" and self.kl not in KL_PENALTIES:
            raise ValueError(f"kl: {self.kl} is a loss; with kl_in: reward use k1, k2 or k3")
        return self
