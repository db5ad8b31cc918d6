"""The objective of DPO and its pairwise relatives, wherever the pairs come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from workbench.errors import DataError, DefinitionError, DivergenceError
from workbench.models.adapters import has_adapter
from workbench.models.reference import FrozenReference
from workbench.objectives.f_divergence import DIVERGENCES
from workbench.objectives.preference import (
    PAIR_WEIGHTS,
    PREFERENCE_LOSSES,
    PairLogratios,
    Tuning,
    from_linearised,
    linearised,
)
from workbench.tracking.values import Max
from workbench.trainer.dpo_settings import PreferenceSettings
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, RowSums
from workbench.trainer.machine import distributed
from workbench.trainer.pairs import (
    PairLogprobs,
    completion_lengths,
    discounted_logratios,
    pair_logprobs,
    pair_logratios,
    pair_weights,
)

START_GAP = "start_gap"
START_TOLERANCE = {"float32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}
"""|h| per completion token that rounding alone may give while policy and reference are the same model."""
MEAN_REWARD, NUM_REWARDS = "mean_reward", "num_rewards"
"""Names in the method's state of the mean of all implicit rewards so far, and of their number."""


Scores = torch.Tensor | PairLogprobs
"""Sums of log-probabilities (2B,), chosen above rejected, or these with what is of each token."""


class PreferenceObjective:
    """Pairwise losses of policy against reference, and a likelihood term where the settings ask for one."""

    def __init__(self, settings: PreferenceSettings) -> None:
        self._settings = settings
        weights = PREFERENCE_LOSSES.chosen(settings.loss)
        self._names = {name: name if len(weights) > 1 else "preference" for name in weights}
        """The term of each loss in the record."""
        self._weights = weights
        self._over_step = [name for name in weights if PREFERENCE_LOSSES.all[name].over_step]
        self._tuning = Tuning(settings.beta, settings.label_smoothing, settings.discopop_tau)
        self._divergence = DIVERGENCES.get(settings.divergence)
        self._pair_weight = PAIR_WEIGHTS.get(settings.pair_weighting)

    @property
    def is_over_step(self) -> bool:
        """Whether a loss compares all pairs of a step, so that these are measured before its first backward."""
        return bool(self._over_step)

    def refuse_fixed_reference(self, ref_model: torch.nn.Module | None, model: torch.nn.Module) -> None:
        """DefinitionError where the reference is to move and has no weights that can."""
        if self._settings.reference_moves and (ref_model is not None or has_adapter(model)):
            what = "another model (ref_model)" if ref_model is not None else "the policy with its adapter switched off"
            raise DefinitionError(
                f"sync_reference_every is {self._settings.sync_reference_every}, and the reference is {what}, which "
                "cannot be moved towards the policy; set it to 0, or train the whole model from its own start"
            )

    def move_reference(self, reference: FrozenReference, step: int) -> None:
        """Where it is due after this step, the reference moves towards the policy (TR-DPO, Gorbatovski et al. 2024,
        arXiv 2404.09656, eq. 3 and 4)."""
        every = self._settings.sync_reference_every
        if every and step % every == 0:
            reference.move(self._settings.sync_reference_weight)

    def scores(self, model: torch.nn.Module, batch: Batch, temperature: float = 1.0) -> Scores:
        """What the loss reads of a model: sums (2B,), and more where the settings ask for what is of tokens."""
        found = pair_logprobs(model, batch, temperature, aligned=self._pair_weight is not None)
        return found if self._pair_weight is not None or self._settings.length_discount else found.sums

    # What is known of the whole step before its first backward.

    def measure(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(B, 3) of each pair what a loss over the step reads: both log ratios, and the reference's margin."""
        if bool((pair_weights(batch) != 1).any()):
            raise DataError(f"{' and '.join(self._over_step)} cannot weigh pairs: leave pair_weights out, or all 1")
        pairs = self._pairs(self.scores(model, batch), batch)
        return torch.stack((pairs.chosen, pairs.rejected, pairs.ref_margins), 1).detach()

    def compared(
        self, measured: torch.Tensor, state: Mapping[str, Any], *, everywhere: bool
    ) -> tuple[Batch, dict[str, Any]]:
        """The batch's columns of those losses, and the method's state after the step. measured: (B, 3), of this
        process's pairs. everywhere: in a step, with those of all processes; else held-out pairs, which move no
        state."""
        mean, count = float(state.get(MEAN_REWARD, 0.0)), int(state.get(NUM_REWARDS, 0))

        def compare(found: torch.Tensor) -> torch.Tensor:
            chosen, rejected, ref_margins = found.unbind(1)
            total, new_mean = count, mean
            if everywhere:
                total += 2 * len(found)
                new_mean += float((self._tuning.beta * found[:, :2].double() - mean).sum()) / total
            lengths = torch.ones_like(chosen)
            pairs = PairLogratios(chosen, rejected, lengths, lengths, ref_margins, new_mean)
            columns = [linearised(PREFERENCE_LOSSES[name], pairs, self._tuning) for name in self._over_step]
            rest = found.new_tensor([new_mean, total], dtype=torch.float64).expand(len(found), 2)
            return torch.cat([*(column.double() for column in columns), rest], 1)

        found = distributed.over_all_rows(compare, measured.cpu(), everywhere=everywhere)
        *columns, rest = found.split(3, 1)
        named = {f"{name}_over_step": column for name, column in zip(self._over_step, columns, strict=True)}
        ours = {name: column.to(measured.device, measured.dtype) for name, column in named.items()}
        return ours, {MEAN_REWARD: rest[0, 0].item(), NUM_REWARDS: int(rest[0, 1])} if everywhere else {}

    # One micro-batch.

    def units(self, batch: Batch) -> dict[str, float]:
        """The units of each term: pairs, and tokens of chosen completions."""
        weights = pair_weights(batch)
        units = dict.fromkeys(self._names.values(), float(weights.sum()))
        if self._settings.nll_weight:
            units["nll"] = float((completion_lengths(batch, "chosen") * weights).sum())
        return units

    def loss(self, scores: Scores, batch: Batch, *, is_first_step: bool) -> LossResult:
        """scores: of the policy, as `scores` gives them. At the first step of training the gap between policy and
        reference is measured too, for check_start."""
        settings, weights = self._settings, pair_weights(batch)
        sums, beta = _sums(scores), settings.beta
        plain, (chosen, rejected) = pair_logratios(sums, batch), sums.chunk(2)
        terms = {name: RowSums(losses, weights) for name, losses in self._losses(scores, batch, weights).items()}
        if settings.nll_weight:
            terms["nll"] = RowSums(-chosen * weights, completion_lengths(batch, "chosen") * weights)
        h = plain.h.detach()
        means = {
            "rewards/chosen": beta * plain.chosen.detach(),
            "rewards/rejected": beta * plain.rejected.detach(),
            "rewards/margins": beta * h,
            "rewards/accuracies": (h > 0).double() + 0.5 * (h == 0).double(),
            "logps/chosen": chosen.detach(),
            "logps/rejected": rejected.detach(),
        }
        of_terms = {self._names[name]: weight for name, weight in self._weights.items()} | {"nll": settings.nll_weight}
        result = LossResult.of_rows(terms, RowSums.weighted(means, weights), of_terms)
        if is_first_step and settings.starts_from_reference and torch.is_grad_enabled():
            gap = (h.abs() / (plain.chosen_lengths + plain.rejected_lengths)).max()
            return result.with_metrics({START_GAP: Max(gap)})
        return result

    def _losses(self, scores: Scores, batch: Batch, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B,) what each pair adds to the term of each loss."""
        pairs = self._pairs(scores, batch)
        if self._pair_weight is not None:
            assert isinstance(scores, PairLogprobs), "`scores` gives those of tokens"
            assert scores.alignments is not None, "`scores` gives them"
            weights = weights * self._pair_weight(*scores.alignments.chunk(2))
        found = {}
        for name in self._weights:
            if name in self._over_step:
                losses = from_linearised(batch[f"{name}_over_step"], pairs)
            else:
                losses = PREFERENCE_LOSSES[name](pairs, self._tuning)
            found[self._names[name]] = losses * weights
        return found

    def _pairs(self, scores: Scores, batch: Batch) -> PairLogratios:
        """The pairs as the losses take them."""
        settings = self._settings
        if settings.length_discount:
            assert isinstance(scores, PairLogprobs), "`scores` gives those of tokens"
            pairs = discounted_logratios(scores, batch, settings.length_discount)
        else:
            pairs = pair_logratios(_sums(scores), batch)
        if self._divergence is None:
            return pairs
        chosen, rejected = (self._divergence(u, settings.divergence_alpha) for u in (pairs.chosen, pairs.rejected))
        return replace(pairs, chosen=chosen, rejected=rejected)

    def check_start(self, row: dict[str, float], precision: str) -> dict[str, float]:
        """The row without the gap. DivergenceError where it is larger than rounding: at the first step policy and
        reference are still the same model, so that h is 0."""
        gap, allowed = row.pop(START_GAP, 0.0), START_TOLERANCE[precision]
        if not gap <= allowed:
            raise DivergenceError(
                f"step 1: policy and reference differ by {gap:.3g} nats per completion token (allowed {allowed:g}), "
                "though the run starts from its reference: the reference log-probs are of another model, tokenizer or "
                "precision; set starts_from_reference: false only where the reference is meant to be another model"
            )
        return row


def _sums(scores: Scores) -> torch.Tensor:
    """(2B,) log-probabilities of the completions, chosen above rejected."""
    return scores.sums if isinstance(scores, PairLogprobs) else scores
