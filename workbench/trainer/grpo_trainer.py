"""Group relative policy optimisation and its relatives (Shao et al. 2024, arXiv 2402.03300)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from workbench.objectives.advantages import ADVANTAGES, group_spread
from workbench.objectives.kl import KL_LOSSES, KL_PENALTIES, kl_k3_sequence
from workbench.objectives.policy_gradient import (
    CORRECTIONS,
    POLICY_LOSSES,
    Clip,
    Reduction,
    SampledTokens,
    Surrogate,
    clipped_completions,
    clipped_sequences,
)
from workbench.trainer.grpo_settings import GRPOSettings
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, LossTerm, RowSums
from workbench.trainer.machine import distributed
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.lesson import Lesson
from workbench.trainer.online.metrics import KL, ROUNDS
from workbench.trainer.online.policy_gradient import PolicyGradientTrainer, mean_per_token
from workbench.trainer.online.rollout import Rollout, join_rollouts
from workbench.trainer.settings import TrainerSettings

SUMMED = "summed"
"""This column marks the rows of an update whose old log-probabilities are known only as a sum a completion."""
SAID_OF_SUMS = (
    "old_logprobs are one sum a completion: the ratio is the whole completion's, clipped as one number and taken at "
    "each of its tokens; bring one a token (B, L) for ratios of tokens, or take loss: gspo for their geometric mean"
)


@dataclass(frozen=True)
class GroupObjective:
    """The functions that the settings name."""

    advantage: Callable[..., torch.Tensor]
    surrogate: Callable[..., Any]
    clip: Clip
    kl_loss: Callable[..., torch.Tensor] | None
    """Estimates the KL of a term in the loss; None where there is none."""
    kl_penalty: Callable[..., torch.Tensor] | None
    """Estimates the KL that is taken from the rewards; None where there is none."""
    correct: Callable[..., torch.Tensor] | None
    """The weight of samples of another policy; None where they are taken as they are."""

    @classmethod
    def of(cls, settings: GRPOSettings) -> GroupObjective:
        """Looks up the functions that these settings name."""
        return cls(
            ADVANTAGES[settings.advantage],
            POLICY_LOSSES[settings.loss].surrogate,
            Clip(
                settings.clip_low,
                settings.clip_high,
                settings.ratio_ceiling,
                settings.sapo_temperature_pos,
                settings.sapo_temperature_neg,
            ),
            KL_LOSSES[settings.kl] if settings.beta and settings.kl_in == "loss" else None,
            KL_PENALTIES[settings.kl] if settings.beta and settings.kl_in == "reward" else None,
            CORRECTIONS.get(settings.importance_correction),
        )


class GRPOTrainer(PolicyGradientTrainer):
    """Completions of one prompt are compared with one another: see OnlineTrainer for the batches."""

    settings_class: ClassVar[type[TrainerSettings]] = GRPOSettings
    _work = PolicyGradientTrainer._work  # neither advantages nor loss make a pass of their own
    _met_sums = False

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._objective = GroupObjective.of(self.settings)
        return super()._set_up_model(model)

    @property
    def _reduction(self) -> Reduction:
        return POLICY_LOSSES[self.settings.loss].reduction

    # From prompts to updates.

    def _sampled(self, batch: Batch, attempt: Attempt) -> tuple[Rollout, Rollout]:
        """Samples further batches too where dynamic sampling is asked for, until enough groups have unequal rewards."""
        if not self.settings.dynamic_sampling:
            return super()._sampled(batch, attempt)
        parts = [self._roll_out(batch, attempt)]
        found = len(_signal_prompts(parts[0]))
        # Every process takes as many batches as the one that needs most: they share one loader.
        while len(parts) <= self.settings.dynamic_sampling and distributed.any_process(found < len(parts[0].prompts)):
            parts.append(self._roll_out(self._next_batch(), attempt, len(parts)))
            found += len(_signal_prompts(parts[-1]))
        attempt.metrics[ROUNDS] = float(len(parts))
        return self._with_signal(parts), join_rollouts(parts)

    def _with_signal(self, parts: list[Rollout]) -> Rollout:
        """Keeps as many groups as one batch has prompts; those without signal make room where others replace them."""
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
        order = self._order(2).permutation(len(joined.prompts))
        return joined.of_prompts(sorted(order[:wanted].tolist()))

    def _learn(self, rollout: Rollout, attempt: Attempt) -> Lesson:
        settings, rewards = self.settings, rollout.rewards
        if settings.beta:
            rollout = self._reference_logprobs(rollout, attempt)
        if self._objective.kl_penalty is not None:
            rollout = self._with_old_logprobs(rollout)
            rewards = self._less_kl(rollout, self._objective.kl_penalty, attempt)
        advantages = self._over_all(self._objective.advantage, rewards, rollout, attempt)
        rows: Batch = {"advantages": advantages}
        if rollout.ref_logprobs is not None and self._objective.kl_loss is not None:
            rows["ref_logprobs"] = rollout.ref_logprobs
        if rollout.old_logprobs is not None and not rollout.sampled_here and self._objective.correct is not None:
            rows["sampler_logprobs"] = rollout.old_logprobs
        # A correction takes the ratio to the trainer's own log-probabilities, and the sampler's gap apart from it.
        old = self._old_for_ratios(rollout, attempt, always_own=self._objective.correct is not None)
        if old is not None:
            rows["old_logprobs"] = old
            if rollout.old_are_sums and old is rollout.old_logprobs:
                rows[SUMMED] = torch.ones_like(rollout.rewards)
        # A completion without advantage has no gradient unless a further term gives it one; it is not computed.
        all_learned = self._objective.kl_loss is not None or settings.entropy_bonus
        return Lesson(rollout, advantages, rows, learned=None if all_learned else advantages != 0)

    @property
    def _needs_ratios(self) -> str:
        settings = self.settings
        if settings.importance_correction.startswith("token"):
            return f"importance_correction: {settings.importance_correction}"
        if self._objective.kl_penalty is not None and settings.kl != "k1":
            return f"kl: {settings.kl} in the reward"
        if self._objective.correct is not None:
            return ""  # the correction takes the sum, and ratios are to the trainer's own log-probabilities
        named = settings.model_fields_set
        if "loss" in named and self._objective.surrogate is not clipped_sequences:
            return f"loss: {settings.loss}, asked for by name,"
        ratios_of_kl = self._objective.kl_loss is not None and settings.kl == "k3_ratio" and "kl" in named
        return "kl: k3_ratio, asked for by name," if ratios_of_kl else ""

    @property
    def _compares_groups(self) -> bool:
        return self.settings.advantage != "reinforce_plus_plus"

    # One update.

    def _count_units(self, batch: Batch) -> dict[str, float]:
        units = super()._count_units(batch)
        return units | ({"kl": units["policy"]} if self._objective.kl_loss is not None else {})

    def _surrogate(self, tokens: SampledTokens, batch: Batch) -> Surrogate:
        surrogate_fn = self._objective.surrogate
        if SUMMED in batch and surrogate_fn is not clipped_sequences:
            surrogate_fn, self._met_sums = clipped_completions, True
        surrogate = surrogate_fn(tokens, self._objective.clip)
        if self._objective.correct is None or "sampler_logprobs" not in batch:
            return surrogate
        gaps = tokens.old_logprobs - batch["sampler_logprobs"]
        weights = self._objective.correct(gaps, tokens.mask, self.settings.importance_cap)
        return replace(surrogate, losses=surrogate.losses * weights)

    def _kl_term(self, tokens: SampledTokens, batch: Batch) -> LossResult:
        if self._objective.kl_loss is None:
            return LossResult({})
        of_tokens = tokens.whole_log_ratio if SUMMED in batch else tokens.log_ratio
        log_ratio = tokens.mean_log_ratio if self._objective.kl_loss is kl_k3_sequence else of_tokens
        divergence = self._objective.kl_loss(tokens.logprobs, batch["ref_logprobs"], log_ratio.exp())
        weighted, units = divergence * self._weights(batch), float(batch["units"].sum())
        return LossResult(
            {"kl": LossTerm(weighted.sum(), units, self.settings.beta)},
            {KL: mean_per_token(divergence.detach(), batch)},
            {"kl": RowSums(weighted.sum(1), batch["units"])},
        )

    def _watch(self, row: dict[str, Any]) -> Iterable[str]:
        yield from super()._watch(row)
        if self._met_sums and not any(SAID_OF_SUMS in warning for warning in self.warnings):
            yield SAID_OF_SUMS


def _signal_prompts(rollout: Rollout) -> list[int]:
    """Prompts whose completions' rewards are not all equal."""
    _, equal = group_spread(rollout.rewards, rollout.prompt_index)
    return (~equal).nonzero().flatten().tolist()
