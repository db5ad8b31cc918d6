"""What every trainer that samples its own data is told: prompts a step, sampling, rewards, reuse."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from workbench.config import AtOnce, Free, NonNegativeInt, check_product
from workbench.data import forms
from workbench.generation.sampling import SamplingSettings
from workbench.rewards.settings import RewardSettings
from workbench.trainer.batch_format import PROMPTS, BatchFormat
from workbench.trainer.settings import TrainerSettings

SAMPLED = {
    "completions": "sampled by the policy as it is then, one seed a prompt and step; a prompt's share its prefill",
    "temperature": "divides the logits wherever sampled tokens are drawn or scored",
    "rewards": "judge the text without its end; weighted and summed; a built-in task's own check where none is named",
    "reference": "the start, frozen; kept only where beta > 0",
    "step": "one optimiser step; a rollout gives passes x minibatches of them, minibatches of whole prompts",
    "cost": "sampling, reference and critic are charged; learned from, a prompt counts with each of its completions",
}
"""The conventions of every method that samples its own data."""


class RolloutSettings(TrainerSettings):
    """Sample completions of prompts, score them, learn from them."""

    data_form = forms.PROMPTS
    batch: ClassVar[BatchFormat | None] = PROMPTS

    learning_rate: NonNegativeFloat = 1.0e-5
    """Peak learning rate; far below that of fine-tuning on given answers."""
    batch_prompts: AtOnce = 8
    """Prompts a rollout, over all processes; with one update a rollout also the prompts per optimiser step."""
    group_size: AtOnce = 8
    """Completions sampled of each prompt."""
    max_new_tokens: AtOnce = 64
    """Completions are cut here."""
    temperature: PositiveFloat = 1.0
    """Temperature of sampling; the logits are divided by it wherever sampled tokens are scored."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Below 1 truncates the sampled distribution, which is then not the one that is trained (see sampling/*)."""
    top_k: NonNegativeInt = 0
    """Above 0 truncates likewise."""
    rewards: tuple[RewardSettings, ...] = ()
    """What a completion earns, weighted and summed; none: the task's own verifier."""
    overlong: Literal["keep", "mask"] = "keep"
    """mask: completions that were cut are left out of the loss and of its divisor; shaping is a reward, `length`."""
    passes: AtOnce = 1
    """Times that each rollout is learned from."""
    minibatches: AtOnce = 1
    """Optimiser steps that a pass over a rollout is cut into, by prompts."""
    dead_signal_patience: NonNegativeInt = 50
    """Rollouts in a row without any signal after which the run stops; 0: never. Solved prompts do not count."""
    logged_prompts: Annotated[NonNegativeInt, Free] = 4
    """Prompts of each rollout whose completions are recorded in completions.jsonl."""

    @model_validator(mode="after")
    def _minibatches_have_prompts(self) -> RolloutSettings:
        if self.minibatches > self.batch_prompts:
            raise ValueError(
                f"minibatches {self.minibatches} are more than batch_prompts {self.batch_prompts}; allowed up to it"
            )
        return self

    def batch_rows_per_step(self) -> int:
        return self.batch_prompts

    @property
    def sampling(self) -> SamplingSettings:
        """How completions are drawn."""
        return SamplingSettings(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)

    @property
    def samples_whole_distribution(self) -> bool:
        """Whether sampling truncates nothing."""
        return self.top_p == 1.0 and self.top_k == 0

    @model_validator(mode="after")
    def _fits(self) -> RolloutSettings:
        factors = (self.batch_prompts, self.group_size, self.max_new_tokens)
        check_product("batch_prompts x group_size x max_new_tokens", factors, "tokens of a rollout")
        return self

    @property
    def learned_completions(self) -> int:
        """Completions of each prompt that updates learn from."""
        return self.group_size

    @property
    def updates_per_rollout(self) -> int:
        """Optimiser steps that one rollout gives."""
        return self.passes * self.minibatches
