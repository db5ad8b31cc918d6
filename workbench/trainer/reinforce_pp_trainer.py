"""REINFORCE++: returns of single tokens, normalised over the whole step (Hu 2025, arXiv 2501.03262)."""

from __future__ import annotations

from typing import ClassVar

import torch

from workbench.objectives.advantages import returns_to_go, token_rewards
from workbench.objectives.kl import kl_k1
from workbench.objectives.policy_gradient import Clip, SampledTokens, Surrogate, clipped_tokens
from workbench.trainer.loop.batches import Batch
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.lesson import Lesson
from workbench.trainer.online.policy_gradient import PolicyGradientTrainer, whitened
from workbench.trainer.online.rollout import Rollout
from workbench.trainer.reinforce_pp_settings import ReinforcePPSettings
from workbench.trainer.settings import TrainerSettings


class ReinforcePPTrainer(PolicyGradientTrainer):
    """A token's advantage is what its completion earns from there on: see OnlineTrainer for the batches."""

    settings_class: ClassVar[type[TrainerSettings]] = ReinforcePPSettings
    _work = PolicyGradientTrainer._work  # neither advantages nor loss make a pass of their own

    @property
    def _compares_groups(self) -> bool:
        return False

    def _learn(self, rollout: Rollout, attempt: Attempt) -> Lesson:
        settings, mask = self.settings, rollout.completion_mask
        rollout = self._with_old_logprobs(rollout)
        old = rollout.old_logprobs
        assert old is not None, "they were just computed where they were missing"
        penalties = torch.zeros_like(old)
        if settings.beta:
            rollout = self._reference_logprobs(rollout, attempt)
            penalties = settings.beta * self._token_kl(rollout, kl_k1, attempt)
        returns = returns_to_go(token_rewards(rollout.rewards, penalties, mask), mask, gamma=settings.gamma)
        advantages = whitened(returns, mask & self._is_counted(rollout)[:, None], attempt)
        return Lesson(rollout, advantages, {"advantages": advantages, "old_logprobs": old})

    def _surrogate(self, tokens: SampledTokens, batch: Batch) -> Surrogate:
        return clipped_tokens(tokens, Clip(self.settings.clip_low, self.settings.clip_high))
