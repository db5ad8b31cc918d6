"""Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417)."""

from __future__ import annotations

from typing import ClassVar

import torch

from workbench.objectives.reference_free import CPO_LOSSES, PairSums
from workbench.trainer.cpo_settings import CPOSettings
from workbench.trainer.reference_free import Preference, ReferenceFreeTrainer
from workbench.trainer.settings import TrainerSettings


class CPOTrainer(ReferenceFreeTrainer):
    """A pairwise loss on the policy's own log-probabilities, and the likelihood of the chosen completion."""

    settings_class: ClassVar[type[TrainerSettings]] = CPOSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("ref_model", "reward_fn", "reward_model")
    _work = ReferenceFreeTrainer._work  # the loss makes no pass of its own

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._loss = CPO_LOSSES[self.settings.loss]
        return super()._set_up_model(model)

    def _prefer(self, pairs: PairSums) -> Preference:
        beta = self.settings.beta
        return Preference(self._loss(pairs, beta), beta * pairs.chosen, beta * pairs.rejected)
