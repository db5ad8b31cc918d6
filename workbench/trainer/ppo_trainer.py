"""Proximal policy optimisation with a critic (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from workbench.models.flops import ModelFlops, Work
from workbench.models.told import heard_by
from workbench.objectives.advantages import generalised_advantages
from workbench.objectives.kl import kl_k1
from workbench.objectives.policy_gradient import PER_TOKEN, Clip, SampledTokens, clipped_tokens, clipped_value_losses
from workbench.tracking.values import Mean, Value
from workbench.trainer import distributed
from workbench.trainer.actor_critic import ActorCritic
from workbench.trainer.attempt import Attempt
from workbench.trainer.batches import Batch
from workbench.trainer.costs import Costs
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.minibatches import PADDED, cut_rollout
from workbench.trainer.online import OnlineTrainer
from workbench.trainer.ppo_settings import LARGEST_KL_ERROR, PPOSettings
from workbench.trainer.precision import resolve_precision
from workbench.trainer.rollouts import Rollout
from workbench.trainer.scoring import response_entropies, response_logprobs
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.updates import Updates

APPROXIMATE_KL = "policy/approxkl_avg"


class PPOTrainer(OnlineTrainer):
    """Policy and critic learn together: see OnlineTrainer for the batches. The critic is not saved with the model."""

    settings_class: ClassVar[type[TrainerSettings]] = PPOSettings

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._clip = Clip(self.settings.clip, self.settings.clip)
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
        return float(self.updates.state.get("beta", self.settings.beta))

    def _make_update_batches(self, batch: Batch) -> Updates:
        attempt = Attempt()
        rollout, rows, divergence = self._judged(batch, attempt)
        per_completion = (rows["advantages"] * rollout.response_mask).sum(1) / rollout.lengths
        metrics, next_beta = self._objective(rollout, divergence)
        batches = self._with_units(self._cut(rollout, rows, self.settings.passes, self.settings.minibatches))
        return self._updates_of(batches, attempt, rollout, per_completion, metrics, state={"beta": next_beta})

    def _make_validation_batches(self, batch: Batch) -> list[Batch]:
        rollout, rows, _ = self._judged(batch, Attempt(everywhere=False))
        return self._cut(rollout, rows, 1, 1)

    def _judged(self, batch: Batch, attempt: Attempt) -> tuple[Rollout, Batch, torch.Tensor]:
        """The batch's rollout with the log-probabilities that ratio and KL penalty are taken to; its rows with
        advantages, returns and old values (N, T); and its KL to the reference (N, T)."""
        rollout = self._roll_out(batch, attempt)
        if rollout.old_logprobs is None:
            rollout = replace(rollout, old_logprobs=self._logprobs_under(self.policy, rollout, attempt))
        if self.settings.beta:
            rollout = self._reference_logprobs(rollout, attempt)
        return rollout, *self._with_advantages(rollout, attempt)

    def _with_advantages(self, rollout: Rollout, attempt: Attempt) -> tuple[Batch, torch.Tensor]:
        settings, mask = self.settings, rollout.response_mask
        old_logprobs = rollout.old_logprobs
        assert old_logprobs is not None, "_judged gives them"
        divergence = torch.zeros_like(old_logprobs)
        if rollout.ref_logprobs is not None:
            divergence = torch.where(mask, kl_k1(old_logprobs, rollout.ref_logprobs), 0.0)
        values = self._values(rollout, attempt)
        rewards = (-self._beta * divergence).to(values.dtype)
        last = rollout.lengths - 1
        # On the last real token, never on padding. A cut completion was scored as well: nothing follows it either.
        rewards[torch.arange(len(last), device=last.device), last] += rollout.rewards.to(values.dtype)
        advantages = generalised_advantages(rewards, values, mask, gamma=settings.gamma, lambda_=settings.gae_lambda)
        rows = rollout.row_batch() | {"old_logprobs": old_logprobs, "old_values": values}
        rows["returns"] = torch.where(mask, advantages + values, 0.0)  # of the raw advantages
        counted = mask & self._counted(rollout)[:, None]
        rows["advantages"] = _whitened(advantages, counted, attempt) if settings.whiten_advantages else advantages
        return rows, divergence

    def _counted(self, rollout: Rollout) -> torch.Tensor:
        """(N,) completions that the loss counts."""
        return rollout.ended | (self.settings.overlong == "keep")

    @torch.no_grad()
    def _values(self, rollout: Rollout, attempt: Attempt) -> torch.Tensor:
        """(N, T) of the critic as it is now, charged."""
        rows, trained = rollout.row_batch(), self.unwrapped_model
        assert isinstance(trained, ActorCritic)
        size = self.micro_batch_rows or len(rows["responses"])
        with heard_by(None), self.precision.autocast():
            parts = [
                trained.values({key: value[start : start + size] for key, value in rows.items()})
                for start in range(0, len(rows["responses"]), size)
            ]
        work = OnlineTrainer._work(self, rows).without_head()
        attempt.charge(Costs(scored_tokens=int(work.read), flops=(self._critic_flops or self.flops).forward(work)))
        return torch.cat(parts)

    def _objective(self, rollout: Rollout, divergence: torch.Tensor) -> tuple[dict[str, float], float]:
        """TRL's objective/*, over all processes; and the coefficient that the next rollout will use."""
        entropies = rollout.entropies if rollout.entropies is not None else torch.zeros_like(divergence)
        each = (divergence.sum(1), entropies.sum(1), rollout.rewards, torch.ones_like(rollout.rewards), rollout.ended)
        sums = torch.stack([values.double().sum() for values in each])
        kl, entropy, scores, count, ended = distributed.reduce_tensor(sums).tolist()
        kl, entropy, scores = kl / count, entropy / count, scores / count
        beta = next_beta = self._beta
        if self.settings.kl_target is not None:
            error = max(-LARGEST_KL_ERROR, min(LARGEST_KL_ERROR, kl / self.settings.kl_target - 1))
            next_beta = beta * (1 + error * count / self.settings.kl_horizon)
        metrics = {
            "objective/kl": kl,
            "objective/entropy": entropy,
            "objective/scores": scores,
            "objective/non_score_reward": -beta * kl,
            "objective/rlhf_reward": scores - beta * kl,
            "objective/kl_coefficient": beta,
            "val/num_eos_tokens": ended,
        }
        return metrics, next_beta

    def _cut(self, rollout: Rollout, rows: Batch, passes: int, minibatches: int) -> list[Batch]:
        counted = self._counted(rollout)
        lengths = (rollout.lengths * counted).double()
        rows = rows | {"units": lengths, "tokens": lengths}
        if rollout.sampler_logprobs is not None:
            rows["sampler_logprobs"] = rollout.sampler_logprobs
        order = np.random.default_rng([self.settings.seed, self.step, 1])
        padded = (*PADDED, "advantages", "returns", "old_values")
        return cut_rollout(rows, counted, counted, passes, minibatches, order, padded, fresh=rollout.sampled_here)

    # One update.

    def _count_units(self, batch: Batch) -> dict[str, float]:
        names = ["policy_avg", "value_avg", *(["entropy"] if self.settings.entropy_bonus else [])]
        return dict.fromkeys(names, float(batch["tokens"].sum()))

    def _work(self, batch: Batch) -> Work:
        work = super()._work(batch)
        return work.projected_again() if self.settings.entropy_bonus else work

    def _training_flops(self, work: Work) -> float:
        # A critic of its own, or the policy's states once more where its pass gives logits alone.
        critic = self._critic_flops or (self.flops if self.flops.projects_all else None)
        again = self.settings.gradient_checkpointing
        own = critic.training(work.without_head(), recomputed=again) if critic is not None else 0.0
        return super()._training_flops(work) + own

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and values (B, T), and entropies where a bonus is asked for."""
        states, values = self.model(batch)
        logprobs = response_logprobs(states, batch, self.settings.temperature)
        bonus = self.settings.entropy_bonus
        return logprobs, values, response_entropies(states, batch, self.settings.temperature) if bonus else None

    def _compute_loss(
        self, outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], batch: Batch
    ) -> LossResult:
        logprobs, values, entropies = outputs
        settings, mask = self.settings, batch["response_mask"]
        num_tokens = float(batch["tokens"].sum())
        tokens = SampledTokens(logprobs, batch["old_logprobs"], batch["advantages"], mask)
        surrogate = clipped_tokens(tokens, self._clip)
        value_losses, value_clipped = clipped_value_losses(
            values, batch["old_values"], batch["returns"], settings.value_clip
        )
        weights = torch.where(mask, PER_TOKEN.weights(mask.sum(1))[:, None], 0.0)
        terms = {
            "policy_avg": LossTerm((surrogate.losses * weights).sum(), num_tokens),
            "value_avg": LossTerm((value_losses * weights).sum(), num_tokens, settings.value_coefficient),
        }
        if entropies is not None:
            terms["entropy"] = LossTerm(-entropies.sum(), num_tokens, settings.entropy_bonus)
        log_ratio = tokens.log_ratio.detach()
        ratio = log_ratio.exp()

        def mean(per_token: torch.Tensor) -> Value:
            return Mean(torch.where(mask, per_token.double(), 0.0).sum(), num_tokens)

        metrics: dict[str, Value] = {
            APPROXIMATE_KL: mean(0.5 * log_ratio.square()),
            "policy/clipfrac_avg": mean(surrogate.low_clipped | surrogate.high_clipped),
            "val/clipfrac_avg": mean(value_clipped),
            "val/ratio": mean(ratio),
            "val/mean": mean(values.detach()),
        }
        return LossResult(terms, metrics | self._gap_metrics(logprobs, batch))

    def _is_enough(self, row: dict[str, float]) -> bool:
        limit = self.settings.kl_stop
        return limit is not None and row[APPROXIMATE_KL] > limit


def _whitened(advantages: torch.Tensor, mask: torch.Tensor, attempt: Attempt) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over the real tokens of the processes that take part; 0 at padding."""
    real = torch.where(mask, advantages, 0.0).double()
    count, total = attempt.total(torch.stack((mask.sum().double(), real.sum()))).tolist()
    centred = torch.where(mask, real - total / max(count, 1.0), 0.0)
    variance = attempt.total(centred.square().sum()).item() / max(count, 1.0)
    return (centred / (variance + 1e-8) ** 0.5).to(advantages.dtype)
