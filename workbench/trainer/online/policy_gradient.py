"""What every trainer has in common that learns from each completion by its advantage: log-probabilities old and new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from workbench.errors import DivergenceError
from workbench.models.flops import Work
from workbench.objectives.policy_gradient import PER_TOKEN, Clip, Reduction, SampledTokens, Surrogate, clipped_tokens
from workbench.tracking.values import Max, Mean, Value
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, LossTerm, RowSums
from workbench.trainer.machine import distributed
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.lesson import Lesson
from workbench.trainer.online.metrics import GAP, KL, LARGEST_GAP
from workbench.trainer.online.minibatches import FRESH, cut_rollout
from workbench.trainer.online.online_trainer import OnlineTrainer
from workbench.trainer.online.rollout import Rollout
from workbench.trainer.online.scoring import predicting_states, rollout_entropies, rollout_logprobs

GAP_TOLERANCE = {"float32": 1e-3, "bf16": 1e-1, "fp16": 1e-1}
"""Nats per token between sampler and trainer that rounding alone may give while their weights are the same."""


class PolicyGradientTrainer(OnlineTrainer):
    """Abstract: a method gives `_learn`, whose rows are columns beside those of the completions, one a completion
    ("advantages", and "old_logprobs" where ratios are to others than the trainer's own). The loss is PPO's clipped one,
    mean over tokens, unless a method says otherwise: by `_surrogate` and `_reduction`, or by `_count_units` and
    `_compute_loss` of what `_forward` gives. Update batches have the keys of Rollout.row_batch, those columns, and
    units and tokens (B,): how much a row counts in the divisor of the loss, and in means over tokens.
    """

    @property
    def _reduction(self) -> Reduction:
        """How the tokens' losses are put together."""
        return PER_TOKEN

    @property
    def _entropy_bonus(self) -> float:
        """Weight of the mean entropy per token, added to the objective; 0 for a method without this setting."""
        return float(getattr(self.settings, "entropy_bonus", 0.0))

    # From a rollout to updates.

    def _cut(self, lesson: Lesson, attempt: Attempt) -> list[Batch]:
        rollout = lesson.rollout
        lengths = rollout.lengths * self._is_counted(rollout)
        rows = rollout.row_batch() | lesson.rows
        if rollout.sampler_logprobs is not None:
            rows.setdefault("sampler_logprobs", rollout.sampler_logprobs)
        rows["units"] = self._reduction.units(lengths, self.settings.max_new_tokens)
        rows["tokens"] = lengths.double()
        counted = lengths > 0
        learned = counted if lesson.learned is None else counted & lesson.learned
        updates = cut_rollout(
            rows, learned, counted, attempt.passes, attempt.minibatches, self._order(1), fresh=rollout.sampled_here
        )
        return self._with_units(updates) if attempt.everywhere else updates

    def _is_counted(self, rollout: Rollout) -> torch.Tensor:
        """(N,) completions that the loss counts: overlong: mask leaves those out that were cut."""
        return rollout.ended | (self.settings.overlong == "keep")

    def _with_units(self, updates: list[Batch]) -> list[Batch]:
        """The updates in which some process counts a completion; the first of them is as fresh as the rollout's was.
        DivergenceError where overlong: mask leaves none."""
        counts = distributed.gather_objects([float(update["tokens"].sum()) for update in updates])
        kept = [update for update, *found in zip(updates, *counts, strict=True) if any(found)]
        if not kept:
            raise self._all_cut()
        kept[0][FRESH] = updates[0][FRESH].max().expand(len(kept[0][FRESH])).clone()
        return kept

    def _over_all(
        self,
        advantages: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        rewards: torch.Tensor,
        rollout: Rollout,
        attempt: Attempt,
    ) -> torch.Tensor:
        """(N,) advantages(rewards, groups) over the whole step, at least float32."""
        dtype = torch.promote_types(next(self.policy.parameters()).dtype, torch.float32)
        return attempt.over_all(advantages, rewards, rollout.group_ids).to(self.device, dtype)

    def _with_old_logprobs(self, rollout: Rollout) -> Rollout:
        """The rollout with the log-probabilities of the policy that sampled, computed where they are not known."""
        if rollout.old_logprobs is not None:
            return rollout
        return replace(rollout, old_logprobs=self._logprobs_under(self.policy, rollout))

    def _old_for_ratios(self, rollout: Rollout, attempt: Attempt, *, always_own: bool = False) -> torch.Tensor | None:
        """(N, T) that ratios are taken to, fixed before the first update. None where the only update of a rollout can
        take its own: then the ratio is 1, and nothing need be computed.

        always_own: ratios are to the trainer's own log-probabilities, though the rollout brings a sampler's.
        """
        is_own = rollout.old_logprobs is None or always_own
        if attempt.num_updates == 1 and (rollout.sampled_here or is_own):
            return None
        return self._logprobs_under(self.policy, rollout) if is_own else rollout.old_logprobs

    def _token_kl(
        self,
        rollout: Rollout,
        estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        attempt: Attempt,
    ) -> torch.Tensor:
        """(N, T) of the KL to the reference, 0 at padding; its mean per token is recorded. The rollout has old and
        reference log-probabilities. estimate: of the KL at each token."""
        old, reference = rollout.old_logprobs, rollout.ref_logprobs
        assert old is not None, "the KL in the reward is of the policy that sampled"
        assert reference is not None, "the KL in the reward is to the reference"
        penalties = torch.where(rollout.completion_mask, estimate(old, reference), 0.0)
        sums = torch.stack((penalties.double().sum(), rollout.completion_mask.double().sum()))
        total, num_tokens = attempt.total(sums).tolist()
        attempt.metrics[KL] = total / num_tokens
        return penalties

    def _less_kl(
        self,
        rollout: Rollout,
        estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        attempt: Attempt,
    ) -> torch.Tensor:
        """(N,) rewards less beta times the KL to the reference, summed over each completion (see _token_kl)."""
        return rollout.rewards - self.settings.beta * self._token_kl(rollout, estimate, attempt).sum(1).double()

    # One update.

    def _work(self, batch: Batch) -> Work:
        work = super()._work(batch)
        return work.projected_again() if self._entropy_bonus else work

    def _forward(self, batch: Batch) -> Any:
        """Log-probabilities of the completions (B, T), and their entropies where a bonus is asked for."""
        states = predicting_states(self.model, batch)
        temperature = self.settings.temperature
        logprobs = rollout_logprobs(states, batch, temperature)
        return logprobs, rollout_entropies(states, batch, temperature) if self._entropy_bonus else None

    def _sampled_tokens(self, logprobs: torch.Tensor, batch: Batch) -> SampledTokens:
        """The tokens with their advantages; ratios are to old_logprobs, or 1 where there are none."""
        advantages = batch["advantages"]
        old = batch.get("old_logprobs", logprobs.detach())
        return SampledTokens(
            logprobs, old, advantages if advantages.ndim == 2 else advantages[:, None], batch["completion_mask"]
        )

    def _weights(self, batch: Batch) -> torch.Tensor:
        """(B, T) weight of each token in the sum that is divided by the units; 0 at padding."""
        mask = batch["completion_mask"]
        return torch.where(mask, self._reduction.weights(mask.sum(1))[:, None], 0.0)

    def _surrogate(self, tokens: SampledTokens, batch: Batch) -> Surrogate:
        """The loss of each token."""
        return clipped_tokens(tokens, Clip())

    def _kl_term(self, tokens: SampledTokens, batch: Batch) -> LossResult:
        """A KL to the reference as a term of the loss, and what is recorded of it; none unless a method has one."""
        return LossResult({})

    def _count_units(self, batch: Batch) -> dict[str, float]:
        units = {"policy": float(batch["units"].sum())}
        return units | ({"entropy": float(batch["tokens"].sum())} if self._entropy_bonus else {})

    def _compute_loss(self, outputs: Any, batch: Batch) -> LossResult:
        logprobs, entropies = outputs
        tokens = self._sampled_tokens(logprobs, batch)
        surrogate = self._surrogate(tokens, batch)
        losses, kl = surrogate.losses * self._weights(batch), self._kl_term(tokens, batch)
        clipped = {
            "clip_ratio/low_mean": surrogate.low_clipped,
            "clip_ratio/high_mean": surrogate.high_clipped,
            "clip_ratio/region_mean": surrogate.low_clipped | surrogate.high_clipped,
        }
        metrics = {name: mean_per_token(each, batch) for name, each in clipped.items()} | kl.metrics
        policy = LossTerm(losses.sum(), float(batch["units"].sum()))
        terms = {"policy": policy} | kl.terms | self._entropy_term(entropies, batch)
        rows = {"policy": RowSums(losses.sum(1), batch["units"])} | kl.rows | self._entropy_rows(entropies, batch)
        return LossResult(terms, metrics | self._gap_metrics(logprobs, batch), rows)

    def _entropy_term(self, entropies: torch.Tensor | None, batch: Batch) -> dict[str, LossTerm]:
        """The entropy bonus as a term of the loss, where it is asked for."""
        if entropies is None:
            return {}
        return {"entropy": LossTerm(-entropies.sum(), float(batch["tokens"].sum()), self._entropy_bonus)}

    def _entropy_rows(self, entropies: torch.Tensor | None, batch: Batch) -> dict[str, RowSums]:
        """What each row adds to that term."""
        return {} if entropies is None else {"entropy": RowSums(-entropies.sum(1), batch["tokens"])}

    def _gap_metrics(self, logprobs: torch.Tensor, batch: Batch) -> dict[str, Value]:
        """How far the trainer's log-probabilities (B, T) are from the sampler's, before any update of the rollout."""
        if "sampler_logprobs" not in batch or not bool(batch[FRESH].any()):
            return {}
        mask = batch["completion_mask"]
        gaps = torch.where(mask, (logprobs.detach() - batch["sampler_logprobs"]).abs(), 0.0)
        return {GAP: Mean(gaps.sum().double(), float(mask.sum())), LARGEST_GAP: Max(gaps.max())}

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        """Sampler and trainer must agree while their weights are the same."""
        gap, allowed = row.get(GAP, 0.0), GAP_TOLERANCE[self.precision.name]
        # What is not finite is told by the loss, and treated as non_finite says.
        if self.settings.samples_whole_distribution and gap > allowed:
            raise DivergenceError(
                f"step {self.step + 1}: sampler and trainer differ by {gap:.3g} nats a token (allowed {allowed:g}), "
                "though no update lies between them: the sampler holds other weights, another temperature or precision"
            )
        return super()._check_gradient(row)


def whitened(advantages: torch.Tensor, mask: torch.Tensor, attempt: Attempt) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over the real tokens of the processes that take part; exactly 0 at padding, and
    everywhere if they are all equal."""
    real = torch.where(mask, advantages, 0.0).double()
    extremes = attempt.gather([float(real[mask].min()), float(real[mask].max())] if bool(mask.any()) else [])
    if len({value for part in extremes for value in part}) < 2:
        return torch.zeros_like(advantages)
    count, total = attempt.total(torch.stack((mask.sum().double(), real.sum()))).tolist()
    centred = torch.where(mask, real - total / max(count, 1.0), 0.0)
    variance = attempt.total(centred.square().sum()).item() / max(count, 1.0)
    return (centred / (variance + 1e-8) ** 0.5).to(advantages.dtype)


def mean_per_token(values: torch.Tensor, batch: Batch) -> Mean:
    """The mean of values (B, T) over all tokens of the step, those of completions that were not computed among them."""
    summed = torch.where(batch["completion_mask"], values.double(), 0.0).sum()
    return Mean(summed, float(batch["tokens"].sum()))
