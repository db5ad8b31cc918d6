"""Settings of REINFORCE++."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat

from workbench.config import AtOnce
from workbench.trainer.method import Method
from workbench.trainer.online.settings import SAMPLED, RolloutSettings
from workbench.trainer.settings import Fraction


class ReinforcePPSettings(RolloutSettings):
    """Each token's advantage is what follows it, normalised over all tokens of the step; no critic, and no groups."""

    method: ClassVar[Method] = Method(
        name="REINFORCE++",
        paper="Hu 2025, arXiv 2501.03262",
        formula="−min(r A, clip(r, 1 − clip_low, 1 + clip_high) A), r = π/π_old a token, A = the reward, normalised "
        "over all tokens of the step",
        learns_from="prompts, and a reward that can be computed",
        when="one completion a prompt is to be sampled, of many prompts a step, without the cost of a critic; prompts "
        "of very different difficulty are better compared within groups (GRPO, RLOO)",
        samples=True,
        reference="the start, frozen",
        tied_by="beta",
        reward="checks or models of reward; A compares all completions of the step",
        extras={
            "beta": "the reward less beta times the sum of log π_old/π_start over a token and those after it",
            "entropy_bonus": "less entropy_bonus times the entropy",
        },
        conventions={
            **SAMPLED,
            "loss": "the clipped surrogate (Hu 2025, arXiv 2501.03262, eq. 4-6), mean over the step's tokens; the "
            "paper's mean is over each completion's tokens, then over completions",
            "advantages": "mean 0 and standard deviation 1 over the rollout's tokens, over all processes",
            "kl": "k1 against the start under the policy that sampled, mean over the step's tokens: nats",
        },
    )

    batch_prompts: AtOnce = 64
    """Prompts a rollout, over all processes; advantages are normalised over their completions."""
    group_size: AtOnce = 1
    """Completions sampled of each prompt."""
    clip_low: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The ratio of a token counts down to 1 - clip_low."""
    clip_high: NonNegativeFloat = 0.2
    """The ratio of a token counts up to 1 + clip_high."""
    beta: NonNegativeFloat = 0.01
    """Coefficient of the KL penalty per token in the reward, against the start; 0: none, and no reference is kept."""
    gamma: Fraction = 1.0
    """Discount per token."""
    entropy_bonus: NonNegativeFloat = 0.0
    """Weight of the mean entropy per token, added to the objective."""
