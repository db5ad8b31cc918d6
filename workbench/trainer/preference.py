"""The objective of DPO and its pairwise relatives, wherever the pairs come from."""

from __future__ import annotations

import torch

from workbench.errors import DivergenceError
from workbench.objectives.preference import PREFERENCE_LOSSES
from workbench.tracking.values import Max, Mean, Value
from workbench.trainer.dpo_settings import PreferenceSettings
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.pairs import completion_lengths, pair_logratios, pair_weights

START_GAP = "start_gap"
START_TOLERANCE = {"float32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}
"""|h| per completion token that rounding alone may give while policy and reference are the same model."""


class PreferenceObjective:
    """A pairwise loss of policy against reference, and a likelihood term where the settings ask for one."""

    def __init__(self, settings: PreferenceSettings) -> None:
        self._settings = settings
        self._losses = PREFERENCE_LOSSES[settings.loss]

    def units(self, batch: Batch) -> dict[str, float]:
        """The units of each term: pairs, and tokens of chosen completions."""
        weights = pair_weights(batch)
        units = {"preference": float(weights.sum())}
        if self._settings.nll_weight:
            units["nll"] = float((completion_lengths(batch, "chosen") * weights).sum())
        return units

    def loss(self, sums: torch.Tensor, batch: Batch, *, is_first_step: bool) -> LossResult:
        """sums: (2B,) log-probabilities of the completions, chosen above rejected. At the first step of training the
        gap between policy and reference is measured too, for check_start."""
        settings, weights = self._settings, pair_weights(batch)
        pairs, units = pair_logratios(sums, batch), self.units(batch)
        chosen, rejected = sums.chunk(2)
        beta, count = settings.beta, units["preference"]
        losses = self._losses(pairs, beta, settings.label_smoothing)
        terms = {"preference": LossTerm((losses * weights).sum(), count)}
        if settings.nll_weight:
            terms["nll"] = LossTerm(-(chosen * weights).sum(), units["nll"], settings.nll_weight)
        h = pairs.h.detach()
        means = {
            "rewards/chosen": beta * pairs.chosen.detach(),
            "rewards/rejected": beta * pairs.rejected.detach(),
            "rewards/margins": beta * h,
            "rewards/accuracies": (h > 0).double() + 0.5 * (h == 0).double(),
            "logps/chosen": chosen.detach(),
            "logps/rejected": rejected.detach(),
        }
        metrics: dict[str, Value] = {
            name: Mean((value * weights).sum().double(), count) for name, value in means.items()
        }
        if is_first_step and settings.starts_from_reference and torch.is_grad_enabled():
            metrics[START_GAP] = Max((h.abs() / (pairs.chosen_lengths + pairs.rejected_lengths)).max())
        return LossResult(terms, metrics)

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
