"""What methods on pairs without a reference have in common: a pairwise loss, and the likelihood of what was chosen."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch

from workbench.objectives.reference_free import PairSums
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, RowSums
from workbench.trainer.pair_training import PairTrainer
from workbench.trainer.pairs import SIDES, completion_lengths, pair_weights


@dataclass(frozen=True)
class Preference:
    """What a method makes of pairs, each (B,): its loss, the rewards of both sides, and metrics of its own."""

    losses: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


class ReferenceFreeTrainer(PairTrainer):
    """Abstract: a method gives `_prefer`; settings.nll_weight weighs the likelihood term, a mean per token."""

    @abc.abstractmethod
    def _prefer(self, pairs: PairSums) -> Preference:
        """The method's view of the pairs."""

    def _lengths(self, batch: Batch, side: str) -> torch.Tensor:
        """(B,) tokens of each completion of a side."""
        return completion_lengths(batch, side)

    def _count_units(self, batch: Batch) -> dict[str, float]:
        weights = pair_weights(batch)
        learned = completion_lengths(batch, "chosen") * weights
        return {"preference": float(weights.sum()), "nll": float(learned.sum())}

    def _compute_loss(self, outputs: torch.Tensor, batch: Batch) -> LossResult:
        """outputs: (2B,) log-probabilities of the completions, chosen above rejected; behind them (B,) of what is
        learned, where that is not the chosen completion alone."""
        weights = pair_weights(batch)
        chosen, rejected, *learned = outputs.split(len(weights))
        lengths = (self._lengths(batch, side).to(outputs.dtype) for side in SIDES)
        pairs = PairSums(chosen, rejected, *lengths)
        found = self._prefer(pairs)
        nll = RowSums(-(learned[0] if learned else chosen) * weights, completion_lengths(batch, "chosen") * weights)
        terms = RowSums.weighted({"preference": found.losses}, weights)
        if self.settings.nll_weight:
            terms["nll"] = nll
        margins = found.chosen - found.rejected
        means = {
            "rewards/chosen": found.chosen,
            "rewards/rejected": found.rejected,
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).double() + 0.5 * (margins == 0).double(),
            "logps/chosen": pairs.chosen,
            "logps/rejected": pairs.rejected,
            **found.metrics,
        }
        result = LossResult.of_rows(terms, RowSums.weighted(means, weights), {"nll": self.settings.nll_weight})
        return result.with_metrics({"nll_loss": nll.as_mean()})
