"""Direct preference optimisation and its pairwise relatives (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

from typing import ClassVar

import torch

from workbench.trainer.dpo_settings import DPOSettings
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult
from workbench.trainer.pair_training import PairTrainer
from workbench.trainer.preference import PreferenceObjective
from workbench.trainer.settings import TrainerSettings


class DPOTrainer(PairTrainer):
    """A pairwise loss on completions of one prompt, against a frozen reference.

    The reference, in this order: ref_chosen_logprobs and ref_rejected_logprobs (B, L) per token in the batch;
    ref_model; the adapter switched off; a frozen copy of the model as it was at the start.
    """

    settings_class: ClassVar[type[TrainerSettings]] = DPOSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("reward_fn", "reward_model")
    _work = PairTrainer._work  # the loss makes no pass of its own

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._objective = PreferenceObjective(self.settings)
        return super()._set_up_model(model)

    def _count_units(self, batch: Batch) -> dict[str, float]:
        return self._objective.units(batch)

    def _compute_loss(self, outputs: torch.Tensor, batch: Batch) -> LossResult:
        return self._objective.loss(outputs, batch, is_first_step=self.step == 0)

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        return self._objective.check_start(super()._check_gradient(row), self.precision.name)
