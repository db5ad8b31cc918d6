"""Settings of REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat

from workbench.trainer.method import Method
from workbench.trainer.online.settings import SAMPLED, RolloutSettings


class RLOOSettings(RolloutSettings):
    """A completion is one action; it is compared with the mean of its prompt's other completions."""

    method: ClassVar[Method] = Method(
        name="RLOO",
        paper="Ahmadian et al. 2024, arXiv 2402.14740",
        formula="−min(r A, clip(r, 1 − clip_low, 1 + clip_high) A), r = π/π_old of the whole completion, "
        "A = its reward − mean of its prompt's other completions; mean over completions",
        learns_from="prompts, and a reward that can be computed",
        when="a reward or a reward model judges whole completions that are short, and a simple method without bias is "
        "wanted; the ratio of a long completion leaves the clip after few updates",
        samples=True,
        reference="the start, frozen",
        tied_by="beta",
        reward="checks or models of reward; A compares completions of one prompt",
        extras={
            "beta": "the reward less beta times the KL to the start, summed over the completion",
            "entropy_bonus": "less entropy_bonus times the entropy",
        },
        conventions={
            **SAMPLED,
            "loss": "the clipped surrogate of whole completions (Ahmadian et al. 2024, arXiv 2402.14740; the clip is "
            "that of PPO), summed over completions and divided once by their number over the whole step",
            "kl": "k1 against the start under the policy that sampled, mean over the step's tokens: nats",
        },
    )

    group_size: Annotated[int, Field(ge=2)] = 4
    """Completions sampled of each prompt and compared with one another."""
    clip_low: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The ratio of a completion counts down to 1 - clip_low."""
    clip_high: NonNegativeFloat = 0.2
    """The ratio of a completion counts up to 1 + clip_high."""
    beta: NonNegativeFloat = 0.05
    """Coefficient of the KL to the start, which is taken from each completion's reward; 0: none, and no reference."""
    whiten_advantages: bool = False
    """Standard deviation 1 over all completions of the step; their mean is 0 anyway."""
    entropy_bonus: NonNegativeFloat = 0.0
    """Weight of the mean entropy per token, added to the objective."""
