"""Proximal policy optimisation with a critic (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

from typing import ClassVar

import torch

from workbench.models.flops import ModelFlops, Work
from workbench.objectives.advantages import generalised_advantages, token_rewards
from workbench.objectives.kl import kl_k1
from workbench.objectives.policy_gradient import Clip, clipped_tokens, clipped_value_losses
from workbench.tracking.values import Value
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, LossTerm, RowSums
from workbench.trainer.machine.precision import resolve_precision
from workbench.trainer.online.actor_critic import ActorCritic
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.lesson import Lesson
from workbench.trainer.online.policy_gradient import PolicyGradientTrainer, mean_per_token, whitened
from workbench.trainer.online.rollout import Rollout
from workbench.trainer.online.scoring import rollout_entropies, rollout_logprobs, rollout_work
from workbench.trainer.ppo_settings import LARGEST_KL_ERROR, PPOSettings
from workbench.trainer.settings import TrainerSettings

APPROXIMATE_KL = "policy/approxkl_avg"
BETA = "beta"
"""This entry of the method's state is the coefficient of the KL in the next rollout's rewards."""


class PPOTrainer(PolicyGradientTrainer):
    """Policy and critic learn together: see OnlineTrainer for the batches. The critic is not saved with the model."""

    settings_class: ClassVar[type[TrainerSettings]] = PPOSettings
    _work = PolicyGradientTrainer._work  # the critic's passes are charged beside it: see _training_flops and _values

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        trained = ActorCritic(super()._set_up_model(model), self.settings.critic).eval()
        half = resolve_precision(self.settings.precision, self.device, model) != "float32"
        self._critic_flops = None if trained.trunk is None else ModelFlops.counted_of(trained.trunk, half=half)
        return trained

    def _policy_of(self, trained: torch.nn.Module) -> torch.nn.Module:
        assert isinstance(trained, ActorCritic)
        return trained.policy

    @property
    def _compares_groups(self) -> bool:
        return False

    # From prompts to updates.

    @property
    def _beta(self) -> float:
        """The KL penalty's coefficient for the next rollout."""
        return float(self.updates.state.get(BETA, self.settings.beta))

    def _learn(self, rollout: Rollout, attempt: Attempt) -> Lesson:
        rollout = self._with_old_logprobs(rollout)
        if self.settings.beta:
            rollout = self._reference_logprobs(rollout, attempt)
        rows, divergence = self._with_advantages(rollout, attempt)
        return Lesson(rollout, rows["advantages"], rows, state={BETA: self._next_beta(rollout, divergence, attempt)})

    def _with_advantages(self, rollout: Rollout, attempt: Attempt) -> tuple[Batch, torch.Tensor]:
        """Advantages, returns and old values (N, T) beside the old log-probabilities; and the KL to the reference."""
        settings, mask = self.settings, rollout.completion_mask
        old_logprobs = rollout.old_logprobs
        assert old_logprobs is not None, "_learn gives them"
        divergence = torch.zeros_like(old_logprobs)
        if rollout.ref_logprobs is not None:
            divergence = torch.where(mask, kl_k1(old_logprobs, rollout.ref_logprobs), 0.0)
        values = self._values(rollout)
        # A cut completion was scored as well: nothing follows its last token either.
        rewards = token_rewards(rollout.rewards, (self._beta * divergence).to(values.dtype), mask)
        advantages = generalised_advantages(rewards, values, mask, gamma=settings.gamma, lambda_=settings.gae_lambda)
        returns = torch.where(mask, advantages + values, 0.0)  # returns are those of the raw advantages
        counted = mask & self._is_counted(rollout)[:, None]
        if settings.whiten_advantages:
            advantages = whitened(advantages, counted, attempt)
        rows = {"old_logprobs": old_logprobs, "old_values": values, "returns": returns, "advantages": advantages}
        return rows, divergence

    def _values(self, rollout: Rollout) -> torch.Tensor:
        """(N, T) values of the critic as it is now."""
        trained = self.unwrapped_model
        assert isinstance(trained, ActorCritic)

        def work_of(_: torch.nn.Module, batch: Batch) -> Work:
            return rollout_work(self.policy, batch).without_head()

        flops = self._critic_flops or self.flops
        return self._scored(trained, rollout.row_batch(), lambda _, batch: trained.values(batch), work_of, flops)

    def _next_beta(self, rollout: Rollout, divergence: torch.Tensor, attempt: Attempt) -> float:
        """The coefficient that the next rollout will use; TRL's objective/* are recorded of this one."""
        entropies = rollout.entropies if rollout.entropies is not None else torch.zeros_like(divergence)
        each = (divergence.sum(1), entropies.sum(1), rollout.rewards, torch.ones_like(rollout.rewards), rollout.ended)
        sums = torch.stack([values.double().sum() for values in each])
        kl, entropy, scores, count, ended = attempt.total(sums).tolist()
        kl, entropy, scores, beta = kl / count, entropy / count, scores / count, self._beta
        attempt.metrics |= {
            "objective/kl": kl,
            "objective/entropy": entropy,
            "objective/scores": scores,
            "objective/non_score_reward": -beta * kl,
            "objective/rlhf_reward": scores - beta * kl,
            "objective/kl_coefficient": beta,
            "val/num_eos_tokens": ended,
        }
        if self.settings.kl_target is None:
            return beta
        error = max(-LARGEST_KL_ERROR, min(LARGEST_KL_ERROR, kl / self.settings.kl_target - 1))
        return beta * (1 + error * count / self.settings.kl_horizon)

    # One update.

    def _count_units(self, batch: Batch) -> dict[str, float]:
        names = ["policy_avg", "value_avg", *(["entropy"] if self.settings.entropy_bonus else [])]
        return dict.fromkeys(names, float(batch["tokens"].sum()))

    def _training_flops(self, work: Work) -> float:
        # What a critic of its own adds, or the policy's states once more where its pass gives logits alone.
        critic = self._critic_flops or (self.flops if self.flops.projects_all else None)
        again = self.settings.gradient_checkpointing
        own = critic.training(work.without_head(), recomputed=again) if critic is not None else 0.0
        return super()._training_flops(work) + own

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and values (B, T), and entropies where a bonus is asked for."""
        states, values = self.model(batch)
        logprobs = rollout_logprobs(states, batch, self.settings.temperature)
        entropies = rollout_entropies(states, batch, self.settings.temperature) if self._entropy_bonus else None
        return logprobs, values, entropies

    def _compute_loss(
        self, outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], batch: Batch
    ) -> LossResult:
        logprobs, values, entropies = outputs
        settings, weights, num_tokens = self.settings, self._weights(batch), float(batch["tokens"].sum())
        tokens = self._sampled_tokens(logprobs, batch)
        surrogate = clipped_tokens(tokens, Clip(settings.clip, settings.clip))
        value_losses, value_clipped = clipped_value_losses(
            values, batch["old_values"], batch["returns"], settings.value_clip
        )
        terms = {
            "policy_avg": LossTerm((surrogate.losses * weights).sum(), num_tokens),
            "value_avg": LossTerm((value_losses * weights).sum(), num_tokens, settings.value_coefficient),
        }
        terms |= self._entropy_term(entropies, batch)
        rows = {
            "policy_avg": RowSums((surrogate.losses * weights).sum(1), batch["tokens"]),
            "value_avg": RowSums((value_losses * weights).sum(1), batch["tokens"]),
            **self._entropy_rows(entropies, batch),
        }
        log_ratio = tokens.log_ratio.detach()
        means = {
            APPROXIMATE_KL: 0.5 * log_ratio.square(),
            "policy/clipfrac_avg": surrogate.low_clipped | surrogate.high_clipped,
            "val/clipfrac_avg": value_clipped,
            "val/ratio": log_ratio.exp(),
            "val/mean": values.detach(),
        }
        metrics: dict[str, Value] = {name: mean_per_token(each, batch) for name, each in means.items()}
        return LossResult(terms, metrics | self._gap_metrics(logprobs, batch), rows)

    def _is_enough(self, row: dict[str, float]) -> bool:
        limit = self.settings.kl_stop
        return limit is not None and row[APPROXIMATE_KL] > limit
