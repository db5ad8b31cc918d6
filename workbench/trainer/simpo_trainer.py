"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734), and AlphaPO's shape of its reward."""

from __future__ import annotations

from typing import ClassVar

from workbench.objectives.reference_free import PairSums, alpha_reward, margin_loss
from workbench.trainer.reference_free import Preference, ReferenceFreeTrainer
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.simpo_settings import SimPOSettings


class SimPOTrainer(ReferenceFreeTrainer):
    """Mean log-probabilities of chosen and rejected completions, apart by a target margin."""

    settings_class: ClassVar[type[TrainerSettings]] = SimPOSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("ref_model", "reward_fn", "reward_model")
    _work = ReferenceFreeTrainer._work  # the loss makes no pass of its own

    def _prefer(self, pairs: PairSums) -> Preference:
        settings = self.settings
        chosen, rejected = (settings.beta * alpha_reward(means, settings.alpha) for means in pairs.means)
        return Preference(margin_loss(chosen - rejected, settings.gamma), chosen, rejected)
