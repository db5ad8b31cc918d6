"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740)."""

from __future__ import annotations

from typing import ClassVar

from workbench.objectives.advantages import normalised_rloo, rloo
from workbench.objectives.kl import kl_k1
from workbench.objectives.policy_gradient import (
    PER_SEQUENCE,
    Clip,
    Reduction,
    SampledTokens,
    Surrogate,
    clipped_completions,
)
from workbench.trainer.loop.batches import Batch
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.lesson import Lesson
from workbench.trainer.online.policy_gradient import PolicyGradientTrainer
from workbench.trainer.online.rollout import Rollout
from workbench.trainer.rloo_settings import RLOOSettings
from workbench.trainer.settings import TrainerSettings


class RLOOTrainer(PolicyGradientTrainer):
    """A completion has one advantage and one ratio: see OnlineTrainer for the batches."""

    settings_class: ClassVar[type[TrainerSettings]] = RLOOSettings
    _work = PolicyGradientTrainer._work  # neither advantages nor loss make a pass of their own

    @property
    def _reduction(self) -> Reduction:
        return PER_SEQUENCE

    @property
    def _needs_ratios(self) -> str:
        return ""  # it reads sums of log-probabilities alone

    def _learn(self, rollout: Rollout, attempt: Attempt) -> Lesson:
        settings, rewards = self.settings, rollout.rewards
        if settings.beta:
            rollout = self._with_old_logprobs(self._reference_logprobs(rollout, attempt))
            rewards = self._less_kl(rollout, kl_k1, attempt)
        advantages = self._over_all(normalised_rloo if settings.whiten_advantages else rloo, rewards, rollout, attempt)
        rows: Batch = {"advantages": advantages}
        if (old := self._old_for_ratios(rollout, attempt)) is not None:
            rows["old_logprobs"] = old
        return Lesson(rollout, advantages, rows, learned=None if settings.entropy_bonus else advantages != 0)

    def _surrogate(self, tokens: SampledTokens, batch: Batch) -> Surrogate:
        return clipped_completions(tokens, Clip(self.settings.clip_low, self.settings.clip_high))
