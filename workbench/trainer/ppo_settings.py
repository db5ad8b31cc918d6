"""Settings of proximal policy optimisation with a critic."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from workbench.config import AtOnce
from workbench.trainer.method import Method
from workbench.trainer.online.settings import SAMPLED, RolloutSettings
from workbench.trainer.settings import Fraction

LARGEST_KL_ERROR = 0.2
"""A rollout's relative error moves the adaptive coefficient up to here (Ziegler et al. 2019, arXiv 1909.08593)."""


class PPOSettings(RolloutSettings):
    """Each token's advantage by generalised advantage estimation over a critic's values."""

    method: ClassVar[Method] = Method(
        name="PPO",
        formula="−min(r A, clip(r, 1 − clip, 1 + clip) A), r = π/π_old a token, A from a learned critic; and the "
        "critic's squared error",
        learns_from="prompts, and a reward that can be computed",
        paper="Schulman et al. 2017, arXiv 1707.06347",
        when="one completion a prompt is all that can be sampled, or rewards come late in long completions; a critic "
        "must be trained and tuned besides",
        samples=True,
        reference="the start, frozen",
        tied_by="beta",
        reward="checks or models of reward; A is the reward less what the critic expected",
        critic="learned beside the policy; it is not saved with the model",
        extras={"beta": "the reward less beta times the KL to the start", "entropy_bonus": "entropy bonus"},
        conventions={
            **SAMPLED,
            "loss": "−min(r A, clip(r) A), and value_coefficient 1/2 max of the plain and the clipped squared error, "
            "each the mean over the step's tokens",
            "advantages": "GAE over the critic's values; reward on the last token, -beta (policy - start) on every "
            "token",
            "objective/kl": "k1 against the start, summed over a completion, mean over completions: nats",
            "critic": "begins at value 0; it is not saved with the model",
        },
    )

    batch_prompts: AtOnce = 64
    """Prompts a rollout, over all processes."""
    group_size: AtOnce = 1
    """Completions sampled of each prompt."""
    passes: AtOnce = 4
    """Times that each rollout is learned from (inner epochs)."""
    critic: Literal["head", "model"] = "model"
    """head: a value head on the policy's hidden states; model: a trunk of its own that begins as the policy."""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The ratio counts within [1 - clip, 1 + clip]."""
    value_clip: PositiveFloat = 0.2
    """A value may move by this much from the one at sampling before its loss stops falling."""
    value_coefficient: NonNegativeFloat = 0.5
    """Weight of the value loss."""
    gamma: Fraction = 1.0
    """Discount per token."""
    gae_lambda: Fraction = 0.95
    """Lambda of generalised advantage estimation: 0 trusts the critic, 1 the sampled return."""
    whiten_advantages: bool = True
    """Mean 0 and standard deviation 1 over all tokens of the step."""
    beta: NonNegativeFloat = 0.05
    """Coefficient of the KL penalty per token in the reward, against the start; 0: none, and no reference is kept."""
    kl_target: PositiveFloat | None = None
    """KL per completion, nats, that beta is moved towards (Ziegler et al. 2019); null: beta is fixed."""
    kl_horizon: PositiveFloat = 10_000.0
    """Completions over which beta is moved."""
    kl_stop: PositiveFloat | None = None
    """Approximate KL of an update, nats per token, beyond which the rest of a rollout's passes are left out."""
    entropy_bonus: NonNegativeFloat = 0.0
    """Weight of the mean entropy per token, added to the objective."""

    @property
    def trained_trunks(self) -> int:
        return 1 if self.critic == "model" else 0

    @model_validator(mode="after")
    def _adaptive_beta_can_adapt(self) -> PPOSettings:
        if self.kl_target is not None and not self.beta:
            raise ValueError("kl_target moves beta, and beta is 0; set beta above 0, or leave kl_target out")
        completions = self.batch_prompts * self.group_size
        if self.kl_target is not None and self.kl_horizon <= LARGEST_KL_ERROR * completions:
            raise ValueError(
                f"kl_horizon {self.kl_horizon:g} is too short for rollouts of {completions} completions: one could "
                "take beta to 0; set it to several rollouts"
            )
        return self
