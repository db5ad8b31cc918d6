"""Reward models, which score texts: the better of a pair above the worse (Ouyang et al. 2022, arXiv 2203.02155)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from workbench.models.flops import Work
from workbench.models.outputs import hidden_size
from workbench.models.reward_model import RewardModel
from workbench.objectives.reward_model import bradley_terry, centring
from workbench.tracking.names import LENGTH_CORRELATION
from workbench.tracking.values import Max, Min
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, RowSums
from workbench.trainer.pair_training import PairTrainer
from workbench.trainer.pairs import pair_scores, pair_weights, scores_work
from workbench.trainer.reward_settings import STRONG, RewardSettings
from workbench.trainer.settings import TrainerSettings


class RewardTrainer(PairTrainer):
    """A score head on the language model's trunk learns with it; what is saved is a sequence classifier."""

    settings_class: ClassVar[type[TrainerSettings]] = RewardSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("reward_fn", "reward_model", "ref_model")

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        return RewardModel(super()._set_up_model(model), self.settings.seed).eval()

    def _policy_of(self, trained: torch.nn.Module) -> torch.nn.Module:
        assert isinstance(trained, RewardModel)
        return trained.trunk

    @property
    def result(self) -> torch.nn.Module:
        return self.unwrapped_model

    def _work(self, batch: Batch) -> Work:
        return scores_work(self.policy, batch)

    def _training_flops(self, work: Work) -> float:
        head = 6.0 * hidden_size(self.policy) * work.projected  # forward, and backward of inputs and weights
        return super()._training_flops(work.without_head()) + head

    def _watch(self, row: dict[str, Any]) -> Iterable[str]:
        yield from super()._watch(row)
        correlation = row.get(LENGTH_CORRELATION, 0.0)
        if abs(correlation) >= STRONG:
            preferred = "longer" if correlation > 0 else "shorter"
            yield (
                f"scores go with length: rank correlation {correlation:.2f} over held-out completions, so a policy may "
                f"earn them by {preferred} ones; balance the lengths of the pairs, or reward length against it"
            )

    def _count_units(self, batch: Batch) -> dict[str, float]:
        return dict.fromkeys(("preference", "centring"), float(pair_weights(batch).sum()))

    def _forward(self, batch: Batch) -> torch.Tensor:
        return pair_scores(self.model, batch)

    def _compute_loss(self, outputs: torch.Tensor, batch: Batch) -> LossResult:
        (chosen, rejected), weights = outputs.chunk(2), pair_weights(batch)
        losses = {"preference": bradley_terry(chosen, rejected, batch.get("margins", 0.0))}
        if coefficient := self.settings.center_rewards_coefficient:
            losses["centring"] = centring(chosen, rejected)
        scores, margins = outputs.detach(), (chosen - rejected).detach()
        means = {
            "accuracy": (margins.sign() + 1) / 2,
            "margin": margins,
            "mean_reward": (chosen + rejected).detach() / 2,
        }
        terms, metrics = (RowSums.weighted(values, weights) for values in (losses, means))
        found = LossResult.of_rows(terms, metrics, {"centring": coefficient})
        return found.with_metrics({"min_reward": Min(scores.min()), "max_reward": Max(scores.max())})
