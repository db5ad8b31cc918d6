"""Group relative policy optimisation and its relatives (Shao et al. 2024, arXiv 2402.03300)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from workbench.models.flops import Work
from workbench.objectives.advantages import ADVANTAGES, group_spread
from workbench.objectives.kl import KL_LOSSES, KL_PENALTIES
from workbench.objectives.policy_gradient import (
    CORRECTIONS,
    POLICY_LOSSES,
    Clip,
    SampledTokens,
    clipped_completions,
    clipped_sequences,
)
from workbench.tracking.values import Mean, Value
from workbench.trainer import distributed
from workbench.trainer.attempt import Attempt
from workbench.trainer.batches import Batch
from workbench.trainer.grpo_settings import GRPOSettings
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.minibatches import cut_rollout
from workbench.trainer.online import OnlineTrainer
from workbench.trainer.rollouts import Rollout, join_rollouts
from workbench.trainer.scoring import predicting_states, response_entropies, response_logprobs
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.updates import Updates

SUMMED = "summed"
"""In the rows of an update whose old log-probabilities are known as a sum a completion alone."""
SAID_OF_SUMS = (
    "old_logprobs are one sum a completion: the ratio is the whole completion's, clipped as one number and taken at "
    "each of its tokens; bring one a token (B, L) for ratios of tokens, or take loss: gspo for their geometric mean"
)


class GRPOTrainer(OnlineTrainer):
    """Completions of one prompt are compared with one another: see OnlineTrainer for the batches."""

    settings_class: ClassVar[type[TrainerSettings]] = GRPOSettings
    _met_sums = False

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        settings = self.settings
        self._advantage_fn = ADVANTAGES[settings.advantage]
        self._loss = POLICY_LOSSES[settings.loss]
        self._clip = Clip(settings.clip_low, settings.clip_high, settings.ratio_ceiling)
        self._kl_loss = KL_LOSSES[settings.kl] if settings.beta and settings.kl_in == "loss" else None
        self._kl_penalty = KL_PENALTIES[settings.kl] if settings.beta and settings.kl_in == "reward" else None
        self._correct = CORRECTIONS.get(settings.importance_correction)
        return super()._set_up_model(model)

    # From prompts to updates.

    def _make_update_batches(self, batch: Batch) -> Updates:
        attempt = Attempt()
        parts = self._sampled(batch, attempt)
        rollout, advantages, metrics = self._judged(self._with_signal(parts), attempt)
        if self.settings.dynamic_sampling:
            metrics["sampling/rounds"] = float(len(parts))
        batches = self._with_units(
            self._cut(rollout, advantages, attempt, self.settings.passes, self.settings.minibatches)
        )
        return self._updates_of(batches, attempt, rollout, advantages, metrics, sampled=join_rollouts(parts))

    def _make_validation_batches(self, batch: Batch) -> list[Batch]:
        attempt = Attempt(everywhere=False)
        rollout, advantages, _ = self._judged(self._roll_out(batch, attempt), attempt)
        return self._cut(rollout, advantages, attempt, 1, 1)

    def _sampled(self, batch: Batch, attempt: Attempt) -> list[Rollout]:
        """The batch's rollout; under dynamic sampling those of further batches too, until groups enough differ."""
        parts = [self._roll_out(batch, attempt)]
        found = len(_signal_prompts(parts[0]))
        # Every process takes as many batches as the neediest: they share one loader.
        while len(parts) <= self.settings.dynamic_sampling and distributed.any_process(found < len(parts[0].prompts)):
            parts.append(self._roll_out(self._next_batch(), attempt, len(parts)))
            found += len(_signal_prompts(parts[-1]))
        return parts

    def _with_signal(self, parts: list[Rollout]) -> Rollout:
        """As many groups as one batch has prompts, those without signal left out as far as others replace them."""
        if not self.settings.dynamic_sampling:
            return parts[0]
        wanted, kept = len(parts[0].prompts), [_signal_prompts(part) for part in parts]
        found = [part.of_prompts(prompts) for part, prompts in zip(parts, kept, strict=True) if prompts]
        if not found:
            return parts[0]  # nothing has a signal: learn nothing, and let the metrics say so
        # Each minibatch has a prompt, if need be one without signal.
        silent = [prompt for prompt in range(wanted) if prompt not in kept[0]]
        silent = silent[: max(0, self.settings.minibatches - sum(map(len, kept)))]
        found += [parts[0].of_prompts(silent)] if silent else []
        joined = join_rollouts(found)
        if len(joined.prompts) <= wanted:
            return joined
        # A batch's prompts are sorted by length: cut at its end, the surplus would be the long ones.
        order = np.random.default_rng([self.settings.seed, self.step, 2]).permutation(len(joined.prompts))
        return joined.of_prompts(sorted(order[:wanted].tolist()))

    def _judged(self, rollout: Rollout, attempt: Attempt) -> tuple[Rollout, torch.Tensor, dict[str, float]]:
        """With reference and KL penalty where they are asked for; advantages (N,) float32 over the whole step; and
        what is recorded of the penalty."""
        if self.settings.beta:
            rollout = self._reference_logprobs(rollout, attempt)
        rewards, metrics = rollout.rewards, {}
        if self._kl_penalty is not None:
            old = rollout.old_logprobs
            old = self._logprobs_under(self.policy, rollout, attempt) if old is None else old
            rollout = replace(rollout, old_logprobs=old)
            penalties = torch.where(rollout.response_mask, self._kl_penalty(old, rollout.ref_logprobs), 0.0)  # type: ignore[arg-type]
            rewards = rewards - self.settings.beta * penalties.sum(1).double()
            sums = torch.stack((penalties.double().sum(), rollout.response_mask.double().sum()))
            total, num_tokens = attempt.total(sums).tolist()
            metrics["kl"] = total / num_tokens
        found = attempt.gather((rewards.tolist(), rollout.groups.tolist()))
        everyone = torch.tensor([value for part, _ in found for value in part], dtype=torch.float64)
        groups = torch.tensor([value for _, part in found for value in part])
        start = sum(len(part) for part, _ in found[: attempt.place])
        advantages = self._advantage_fn(everyone, groups)[start : start + len(rewards)]
        return rollout, advantages.to(self.device, torch.promote_types(self._dtype, torch.float32)), metrics

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.policy.parameters()).dtype

    def _cut(
        self, rollout: Rollout, advantages: torch.Tensor, attempt: Attempt, passes: int, minibatches: int
    ) -> list[Batch]:
        settings = self.settings
        rows = rollout.row_batch() | {"advantages": advantages}
        if rollout.ref_logprobs is not None and self._kl_loss is not None:
            rows["ref_logprobs"] = rollout.ref_logprobs
        sampler = rollout.sampler_logprobs if rollout.sampled_here else rollout.old_logprobs
        if sampler is not None and (rollout.sampled_here or self._correct is not None):
            rows["sampler_logprobs"] = sampler
        old = self._old_logprobs(rollout, attempt, passes * minibatches)
        if old is not None:
            rows["old_logprobs"] = old
            if rollout.old_are_sums and old is rollout.old_logprobs:
                rows[SUMMED] = torch.ones_like(rollout.rewards)
        lengths = rollout.lengths * (rollout.ended | (settings.overlong == "keep"))
        rows["units"] = self._loss.reduction.units(lengths, settings.max_new_tokens)
        rows["tokens"] = lengths.double()
        counted = lengths > 0
        # A completion without advantage has no gradient unless a further term gives it one; it is not computed.
        learned = counted if self._kl_loss is not None or settings.entropy_bonus else counted & (advantages != 0)
        order = np.random.default_rng([settings.seed, self.step, 1])
        return cut_rollout(rows, learned, counted, passes, minibatches, order, fresh=rollout.sampled_here)

    def _old_logprobs(self, rollout: Rollout, attempt: Attempt, num_updates: int) -> torch.Tensor | None:
        """(N, T) that ratios are taken to, fixed before the first update. None where the only update of a rollout can
        take its own: then the ratio is 1, and nothing need be computed."""
        # A correction takes the ratio to the trainer's own log-probabilities, and the sampler's gap apart from it.
        is_own = rollout.old_logprobs is None or self._correct is not None
        if num_updates == 1 and (rollout.sampled_here or is_own):
            return None
        return self._logprobs_under(self.policy, rollout, attempt) if is_own else rollout.old_logprobs

    @property
    def _needs_ratios(self) -> str:
        settings = self.settings
        if settings.importance_correction.startswith("token"):
            return f"importance_correction: {settings.importance_correction}"
        if self._kl_penalty is not None and settings.kl != "k1":
            return f"kl: {settings.kl} in the reward"
        if self._correct is not None:
            return ""  # the correction takes the sum, and ratios are to the trainer's own log-probabilities
        named = settings.model_fields_set
        if "loss" in named and self._loss.surrogate is not clipped_sequences:
            return f"loss: {settings.loss}, asked for by name,"
        ratios_of_kl = self._kl_loss is not None and settings.kl == "k3_ratio" and "kl" in named
        return "kl: k3_ratio, asked for by name," if ratios_of_kl else ""

    @property
    def _compares_groups(self) -> bool:
        return self.settings.advantage != "reinforce_plus_plus"

    # One update.

    def _count_units(self, batch: Batch) -> dict[str, float]:
        units = {"policy": float(batch["units"].sum())}
        if self._kl_loss is not None:
            units["kl"] = units["policy"]
        if self.settings.entropy_bonus:
            units["entropy"] = float(batch["tokens"].sum())
        return units

    def _work(self, batch: Batch) -> Work:
        work = super()._work(batch)
        return work.projected_again() if self.settings.entropy_bonus else work

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities of the responses (B, T), and their entropies where a bonus is asked for."""
        states = predicting_states(self.model, batch)
        temperature = self.settings.temperature
        logprobs = response_logprobs(states, batch, temperature)
        return logprobs, response_entropies(states, batch, temperature) if self.settings.entropy_bonus else None

    def _compute_loss(self, outputs: tuple[torch.Tensor, torch.Tensor | None], batch: Batch) -> LossResult:
        logprobs, entropies = outputs
        mask, old = batch["response_mask"], batch.get("old_logprobs", logprobs.detach())
        tokens = SampledTokens(logprobs, old, batch["advantages"][:, None], mask)
        is_summed, surrogate_fn = SUMMED in batch, self._loss.surrogate
        if is_summed and surrogate_fn is not clipped_sequences:
            surrogate_fn, self._met_sums = clipped_completions, True
        surrogate = surrogate_fn(tokens, self._clip)
        losses = surrogate.losses
        if self._correct is not None and "sampler_logprobs" in batch:
            losses = losses * self._correct(old - batch["sampler_logprobs"], mask, self.settings.importance_cap)
        weights = torch.where(mask, self._loss.reduction.weights(mask.sum(1))[:, None], 0.0)
        units, num_tokens = float(batch["units"].sum()), float(batch["tokens"].sum())
        terms = {"policy": LossTerm((losses * weights).sum(), units)}
        metrics: dict[str, Value] = {
            "clip_ratio/low_mean": _per_token(surrogate.low_clipped, mask, num_tokens),
            "clip_ratio/high_mean": _per_token(surrogate.high_clipped, mask, num_tokens),
            "clip_ratio/region_mean": _per_token(surrogate.low_clipped | surrogate.high_clipped, mask, num_tokens),
        }
        if self._kl_loss is not None:
            ratio = (tokens.whole_log_ratio if is_summed else tokens.log_ratio).exp()
            divergence = self._kl_loss(logprobs, batch["ref_logprobs"], ratio)
            terms["kl"] = LossTerm((divergence * weights).sum(), units, self.settings.beta)
            metrics["kl"] = _per_token(divergence.detach(), mask, num_tokens)
        if entropies is not None:
            terms["entropy"] = LossTerm(-entropies.sum(), num_tokens, self.settings.entropy_bonus)
        return LossResult(terms, metrics | self._gap_metrics(logprobs, batch))

    def _watch(self, row: dict[str, Any]) -> Iterable[str]:
        yield from super()._watch(row)
        if self._met_sums and not any(SAID_OF_SUMS in warning for warning in self.warnings):
            yield SAID_OF_SUMS

    def _get_extra_config_info(self) -> dict[str, Any]:
        rewards = self.reward_set().rewards if self.reward_fn is not None else ()
        return {"rewards": ", ".join(f"{reward.weight:g} {reward.name}" for reward in rewards)} if rewards else {}


def _signal_prompts(rollout: Rollout) -> list[int]:
    """Prompts whose completions' rewards are not all equal."""
    _, equal = group_spread(rollout.rewards, rollout.prompt_of)
    return (~equal).nonzero().flatten().tolist()


def _per_token(values: torch.Tensor, mask: torch.Tensor, num_tokens: float) -> Mean:
    """The mean over all tokens, those of completions that were not computed among them."""
    return Mean(torch.where(mask, values.double(), 0.0).sum(), num_tokens)
